"""All figures of the paper by number, run together over all cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llmsched.studies.multibin.bert import Accuracy, AccuracySettings, Bert, BertSettings
from llmsched.studies.multibin.bin_errors import BinErrors, BinErrorSettings
from llmsched.studies.multibin.example import Example, ExampleSettings
from llmsched.studies.multibin.gsm8k import (
    Gsm8kSettings,
    Offline,
    OfflineSettings,
    Thresholds,
)
from llmsched.studies.multibin.results import Figure, FigureResult
from llmsched.studies.multibin.runs import load_settings, run_studies
from llmsched.studies.multibin.saturation import Saturation

FIGURES: Mapping[str, Callable[[bool], Figure]] = {
    "1b": lambda _quick: Example(load_settings(ExampleSettings, "figure_1b")),
    "3": lambda quick: Saturation.load(
        "3", "Throughput against the arrival rate, uniform service times", quick=quick
    ),
    "4": lambda quick: Saturation.load(
        "4", "Mean latency against the arrival rate, uniform service times", quick=quick
    ),
    "6": lambda quick: Thresholds(load_settings(Gsm8kSettings, "figure_6", quick=quick)),
    "7": lambda quick: Offline(
        load_settings(OfflineSettings, "figure_7", quick=quick),
        load_settings(Gsm8kSettings, "figure_6", quick=quick),
    ),
    "8": lambda quick: BinErrors(load_settings(BinErrorSettings, "figure_8", quick=quick)),
    "9": lambda quick: Saturation.load(
        "9", "Throughput and latency, exponential service times", quick=quick
    ),
    "11": lambda quick: Bert(load_settings(BertSettings, "figure_11", quick=quick)),
    "table-1": lambda _quick: Accuracy(load_settings(AccuracySettings, "table_1")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """The figures that were redone, and with what."""

    figures: tuple[FigureResult, ...]
    seed: int
    quick: bool


def reproduce(
    numbers: Sequence[str] = tuple(FIGURES),
    *,
    quick: bool = False,
    seed: int = 0,
    n_jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Reproduction:
    """Redo figures of the paper.

    Parameters
    ----------
    numbers : sequence of str
        Keys of `FIGURES`.
    quick : bool
        Smaller sizes, in seconds; the paper's own otherwise, in minutes.
    seed : int
        Root seed; the numbers depend on it and on nothing else, `n_jobs` included.
    n_jobs : int
        Processes that share the runs.
    progress : callable, optional
        Called with (runs done, runs in all).

    Raises
    ------
    ValueError
        If a number names no figure, or the seed or `n_jobs` is out of range.
    """
    unknown = [number for number in numbers if number not in FIGURES]
    if unknown or not numbers:
        raise ValueError(
            f"figure must be one of {', '.join(FIGURES)}; got {', '.join(unknown) or 'none'}"
        )
    figures = [FIGURES[number](quick) for number in numbers]
    studies = [study for figure in figures if (study := figure.study) is not None]
    outcomes = iter(run_studies(studies, seed=seed, n_jobs=n_jobs, progress=progress))
    return Reproduction(
        figures=tuple(
            figure.result(None if figure.study is None else next(outcomes)) for figure in figures
        ),
        seed=seed,
        quick=quick,
    )
