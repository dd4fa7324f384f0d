"""Latency models by name: built in, measured, a user's, in a model file, or fitted to a grid.

The models themselves are in `latency_models` and are given out again here; fitting is in
`latency_fit`, imported only when a grid file is asked for.
"""

from __future__ import annotations

import csv
import difflib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np

from llmsched._util.files import data_folder, identity
from llmsched._util.plugins import CALL_ERRORS, PluginError, is_ours, said
from llmsched._util.registry import Registry
from llmsched.latency.base import (
    AXIS_LABELS,
    BatchShape,
    CalibrationError,
    CalibrationWarning,
    ExtrapolationWarning,
    Kind,
    LatencyModel,
    MeasuredRange,
    Shape,
    service_times_s,
)
from llmsched.latency.formulas import (
    DrawnModel,
    FourTermModel,
    PerTokenModel,
    PromptOutputModel,
    SaturatingModel,
)
from llmsched.latency.interpolation import InterpolationModel
from llmsched.latency.step import StepModel
from llmsched.latency.uncertainty import Uncertainty

__all__ = [
    "BatchShape",
    "CalibrationError",
    "CalibrationWarning",
    "DrawnModel",
    "FourTermModel",
    "InterpolationModel",
    "Kind",
    "LatencyModel",
    "MeasuredRange",
    "PerTokenModel",
    "PromptOutputModel",
    "SaturatingModel",
    "Shape",
    "StepModel",
    "Uncertainty",
    "latency_names",
    "load_latency",
    "service_times_s",
    "warn_outside",
]

ENTRY_POINT_GROUP = "llmsched.latency_models"
MEASURED_SETS = "measured_sets.csv"
MEASURED_COVARIANCES = "measured_sets_covariance.csv"
EXTRAPOLATED = "their service times are extrapolated"  # how the note on such batches ends

_FORMULAS: dict[str, Callable[[], LatencyModel]] = {
    "drawn": DrawnModel,
    "reference": lambda: SaturatingModel(
        alpha_s=0.015,
        beta_s_per_token=0.0003,
        gamma=0.4,
        name="reference",
        source="reference formula of the origin of this project, not calibrated on a GPU",
    ),
    "reference-revised": lambda: SaturatingModel(
        alpha_s=0.05965,
        beta_s_per_token=0.00574,
        gamma=0.316,
        name="reference-revised",
        source="later revision of the reference formula, not calibrated on a GPU",
    ),
    "multi-bin-paper": lambda: PerTokenModel(
        output_token_s=0.0366,
        name="multi-bin-paper",
        source="Guldogan et al., arXiv:2412.04504, figure 5 (Phi-3.5-mini, A100-80G)",
    ),
}


def measured_names() -> list[str]:
    """The names of the measured sets."""
    return list(_measured_rows())


def latency_names() -> list[str]:
    """Every name that `load_latency` knows: formulas first, then measured sets, then users'."""
    return list(_models())


def is_latency_name(text: str) -> bool:
    """Whether a text is one of `latency_names`, which then wins over a file of that name."""
    return text in _models()


def load_latency(name_or_path: str | Path) -> LatencyModel:
    """The latency model of that name or model file, or the one that fits that grid file best.

    Parameters
    ----------
    name_or_path : str or Path
        A name of `latency_names`; `physics:GPU:MODEL[:tpN][:PRECISION]`; the path of a model file
        (.json, see `latency_files`); or that
        of a grid CSV, of which the form that predicts held-out cells best is taken
        (`latency_fit.fit_grid`); `FILE#reference`, `FILE#four-term`, `FILE#step` and
        `FILE#interpolation` ask for a form.

    Raises
    ------
    ValueError
        If it is neither a known name nor a file, or a user's model cannot be loaded.
    CalibrationError
        If the grid file is damaged or cannot identify the parameters.

    Examples
    --------
    >>> load_latency("reference").describe()  # doctest: +ELLIPSIS
    'reference (formula): T = 15 ms + 0.3 ms·L·(1 + 0.4·(b-1)/b); reference formula of the ...'
    >>> load_latency("h100-llama-3-8b-vllm").kind
    'measurement'
    """
    name = str(name_or_path)
    if name in _models():
        return _made(name)
    if name.startswith("physics:"):
        from llmsched.latency.physics.step import step_model
        from llmsched.latency.steps.batches import BatchOfSteps

        return BatchOfSteps(step_model(name))
    path, form = _split_form(name)
    if path.is_file():
        return _from_file(path, form)
    if _looks_like_path(name):
        found = "a folder" if path.is_dir() else "no such file"
        raise ValueError(
            f"latency must be a known name, a model file or a grid CSV file, got {name!r}, which "
            f"is {found}"
        )
    known = latency_names()
    near = [text for text in known if name.lower() in text]
    near = near or difflib.get_close_matches(name.lower(), known)
    hint = f"did you mean {', '.join(near[:5])}? " if near else ""
    raise ValueError(
        f"latency must be a known name, a model file or a grid CSV file, got {name!r}; {hint}"
        "`llmsched list latency` has all"
    )


@cache
def _models() -> Registry[Callable[[], LatencyModel]]:
    """Models by name, each a callable without arguments; packages add theirs by entry points."""
    measured = {name: partial(_measured_model, name) for name in _measured_rows()}
    return Registry("latency model", ENTRY_POINT_GROUP, {**_FORMULAS, **measured})


def _made(name: str) -> LatencyModel:
    maker = _models().named(name)
    try:
        model = maker()
    except CALL_ERRORS as error:
        if is_ours(maker):
            raise
        label = _models().label(name)
        raise PluginError(f"{label} must be made without a failure, got {said(error)}") from error
    if not callable(getattr(model, "service_s", None)):
        label = _models().label(name)
        raise PluginError(f"{label} must make an object with service_s, got {model!r}")
    return model


def _split_form(name: str) -> tuple[Path, str | None]:
    """The path and the form of `FILE#form`; a file whose own name has a `#` is taken whole."""
    path, mark, form = name.rpartition("#")
    if not mark or Path(name).is_file():
        return Path(name), None
    return Path(path), form


def _looks_like_path(name: str) -> bool:
    """Whether a text is meant as a file, with or without `#form`."""
    path, _, _ = name.rpartition("#")
    suffixes = {Path(text).suffix.lower() for text in (name, path)}
    return "/" in name or os.sep in name or bool(suffixes & {".csv", ".json"})


def _from_file(path: Path, form: str | None) -> LatencyModel:
    """The model in a model file, or the one fitted to a grid file; a fit is kept."""
    return _read_or_fitted(path.resolve(), form, identity(path))


@lru_cache(maxsize=8)
def _read_or_fitted(path: Path, form: str | None, _changed: tuple[int, ...]) -> LatencyModel:
    if path.suffix.lower() != ".json":
        from llmsched.latency.fit.best import load_grid_model

        return load_grid_model(path, form="best" if form is None else form)
    from llmsched.latency.files import load_model

    if form is not None:
        raise CalibrationError(
            f"a model file holds one form, got {path}#{form}; leave out #{form}, or fit the grid "
            "anew with `llmsched calibrate fit`"
        )
    return load_model(path)


@cache
def _measured_rows() -> dict[str, dict[str, str]]:
    """The shipped table of measured sets, by name."""
    return _rows_by_name(MEASURED_SETS)


@cache
def _covariance_rows() -> dict[str, dict[str, str]]:
    """The shipped covariances of the measured sets, by name."""
    return _rows_by_name(MEASURED_COVARIANCES)


def _rows_by_name(table: str) -> dict[str, dict[str, str]]:
    with (data_folder("calibration") / table).open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@cache  # its covariance takes milliseconds, and every run asks for it
def _measured_model(name: str) -> PromptOutputModel:
    row = _measured_rows()[name]
    tokens = (int(row["tokens_min"]), int(row["tokens_max"]))
    quality = (
        f"{row['cells']} cells, R² {float(row['r_squared']):.4f}, relative error median "
        f"{float(row['median_relative_error']):.1%}, worst {float(row['max_relative_error']):.1%}"
    )
    return PromptOutputModel(
        a0_s=float(row["a0_s"]),
        a1_s=float(row["a1_s"]),
        a2_s=float(row["a2_s"]),
        a3_s=float(row["a3_s"]),
        prefill_share=float(row["prefill_share"]),
        name=row["name"],
        source=f"{quality}; {row['source']} ({row['licence']})",
        measured=MeasuredRange(
            size=(int(row["batch_min"]), int(row["batch_max"])),
            max_prompt_tokens=tokens,
            max_output_tokens=tokens,
        ),
        uncertainty=_measured_uncertainty(_covariance_rows()[row["name"]]),
    )


def _measured_uncertainty(row: dict[str, str]) -> Uncertainty:
    """The covariance of a measured set from its upper triangle."""
    names = ("a0_s", "a1_s", "a2_s", "a3_s", "prefill_share")
    matrix = np.zeros((5, 5))
    for (i, first), (j, second) in combinations_with_replacement(enumerate(names), 2):
        matrix[i, j] = matrix[j, i] = float(row[f"{first}*{second}"])
    return Uncertainty.of(names, matrix, degrees_of_freedom=int(row["degrees_of_freedom"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """How much of a run lies beyond the measured range of its latency model, and how far."""

    share: float  # of batches, beyond the range on any axis; 0 where nothing was measured
    times: float  # the largest value over the largest measured one, on any axis; 1 within them
    axis: str | None  # where that is: a field of `Shape`

    @property
    def words(self) -> str:
        """How far, in words."""
        if self.axis is None:
            return "below the smallest measured"
        return f"up to {self.times:.2g} times the largest measured {AXIS_LABELS[self.axis]}"


def extrapolation(model: LatencyModel, shapes: Shape) -> Extrapolation:
    """How many batches lie outside the measured range of a model, and how far above it."""
    mask = np.atleast_1d(model.outside(shapes))
    if model.measured is None or not mask.any():
        return Extrapolation(share=0.0, times=1.0, axis=None)
    times = {
        axis: float(np.max(getattr(shapes, axis))) / high
        for axis, (_, high) in model.measured.axes()
    }
    axis = max(times, key=times.__getitem__)
    beyond = times[axis] > 1
    return Extrapolation(
        share=float(mask.mean()),
        times=times[axis] if beyond else 1.0,
        axis=axis if beyond else None,
    )


def warn_outside(model: LatencyModel, shapes: Shape, *, stacklevel: int = 2) -> int:
    """Number of batches beyond the model's measured range; warns once when there are any.

    Warns
    -----
    ExtrapolationWarning
        With the count, the share, the range and, per axis, how many lie below and above it.
    """
    mask = np.atleast_1d(model.outside(shapes))
    n_outside = int(np.count_nonzero(mask))
    if not n_outside or model.measured is None:
        return n_outside
    parts = []
    for axis, (low, high) in model.measured.axes():
        values = np.atleast_1d(np.asarray(getattr(shapes, axis)))
        below, above = int(np.count_nonzero(values < low)), int(np.count_nonzero(values > high))
        if below or above:
            parts.append(f"{AXIS_LABELS[axis]}: {below} below, {above} above")
    warnings.warn(
        f"{n_outside} of {mask.size} batches ({n_outside / mask.size:.1%}) lie outside the range "
        f"where latency model {model.name!r} was measured ({model.measured}): {'; '.join(parts)}; "
        + EXTRAPOLATED,
        ExtrapolationWarning,
        stacklevel=stacklevel,
    )
    return n_outside
