"""Measured and simulated times side by side, and how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.calibration.benchmarks.runs import EngineSeries, LatencySummary
from llmsched.engine.step_records import StepTable
from llmsched.studies.validation.replay import Times

STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureErrors:
    """One kind of time, measured and simulated [s]; None where the run does not say."""

    measured: Mapping[str, float | None]
    simulated: Mapping[str, float]
    per_request_error: float | None = None  # mean |error| of a request over the measured mean

    @property
    def relative_error(self) -> Mapping[str, float | None]:
        """Simulated over measured, less one."""
        return {
            name: self.simulated[name] / measured - 1 if measured else None
            for name, measured in self.measured.items()
        }

    @property
    def mean_error(self) -> float:
        """Of the means; NaN where no mean was measured."""
        error = self.relative_error["mean"]
        return math.nan if error is None else error

    @property
    def typical_error(self) -> float:
        """Of the means; of the medians where no mean was measured."""
        error = self.relative_error["p50"]
        return self.mean_error if self.measured["mean"] or error is None else error

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "measured": dict(self.measured),
            "simulated": dict(self.simulated),
            "relative_error": dict(self.relative_error),
            "per_request_error": self.per_request_error,
        }


Errors = Mapping[str, FigureErrors]


def request_errors(measured: Times, simulated: Times, rows: slice = slice(None)) -> Errors:
    """The errors of every kind of time that was measured, over some of the requests."""
    found = {}
    for name, column in measured.items():
        real, ours = column[rows], simulated[name][rows]
        known = ~(np.isnan(real) | np.isnan(ours))
        real, ours = real[known], ours[known]
        if len(real):
            found[name] = FigureErrors(
                measured=statistics(real),
                simulated=statistics(ours),
                per_request_error=float(np.abs(ours - real).mean() / real.mean()),
            )
    return found


def summary_errors(measured: Mapping[str, LatencySummary], simulated: Times) -> Errors:
    """The errors against summaries, of which not every statistic is known."""
    found = {}
    for name, summary in measured.items():
        said = {one: getattr(summary, f"{one}_s") for one in STATISTICS}
        if any(value is not None for value in said.values()):
            column = simulated[name]
            ours = statistics(column[~np.isnan(column)])
            found[name] = FigureErrors(measured=said, simulated=ours)
    return found


def statistics(values: FloatArray) -> dict[str, float]:
    """Mean, median, 90th and 99th percentile."""
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    return {"mean": float(values.mean()), "p50": p50, "p90": p90, "p99": p99}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesError:
    """A counter of the engine over time: how far the simulated one is off, on average."""

    mean_absolute_error: float
    measured_mean: float
    measured_max: float

    def to_dict(self) -> dict[str, float]:
        """As one JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


def series_errors(
    measured: EngineSeries, steps: StepTable, usable_blocks: int
) -> dict[str, SeriesError]:
    """Requests running and waiting and the share of KV memory in use, at the logged instants.

    Instants before the first request and after the last simulated step are left out.
    """
    at = np.searchsorted(steps.start_s, measured.t_s, side="right") - 1
    inside = (at >= 0) & (measured.t_s <= steps.end_s[-1])
    simulated: dict[str, Any] = {
        "running": steps.running,
        "waiting": steps.waiting,
        "kv_share": steps.used_blocks / usable_blocks,
    }
    found = {}
    for name, column in simulated.items():
        logged = getattr(measured, name)
        if logged is None or not inside.any():
            continue
        real, ours = logged[inside], column[at[inside]]
        found[name] = SeriesError(
            mean_absolute_error=float(np.abs(ours - real).mean()),
            measured_mean=float(real.mean()),
            measured_max=float(real.max()),
        )
    return found
