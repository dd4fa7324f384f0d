"""What a comparison found: per scheduler and replication, and each against the baseline.

`comparison` does the runs. Every figure has its interval over replications and, where latency
parameters were drawn, one that includes calibration error as well (`calibration_intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched._util.types import FloatArray
from llmsched.latency.base import LatencyModel
from llmsched.metrics.intervals import Interval, mean_interval, paired_difference
from llmsched.metrics.shown import ShownComparison
from llmsched.simulation.uncertainty import (
    Summary,
    calibrated_interval,
    reached_confidence,
    values_over_draws,
)

if TYPE_CHECKING:
    import pandas as pd

COMPARED = ("throughput_rps", "goodput_rps", "sla_violation_rate")
PER_REPLICATION = ("seed", "load_label", "bin_edges", "per_bin")  # has no mean: each one's own


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerResult:
    """One scheduler over all replications; the runs' tables are not kept."""

    scheduler: str
    summaries: tuple[dict[str, Any], ...]  # `Run.to_dict` of each replication
    random: bool  # False where every replication is the same by construction
    drawn: tuple[tuple[Summary, ...], ...] = ()  # of each replication, of each draw of the latency

    def samples(self, metric: str) -> list[float]:
        """The metric in each replication; NaN where it has no value."""
        values = (summary[metric] for summary in self.summaries)
        return [math.nan if value is None else float(value) for value in values]

    def interval(self, metric: str) -> Interval:
        """Mean of the metric over replications, with its confidence interval."""
        return mean_interval(self.samples(metric))

    def drawn_samples(self, metric: str) -> FloatArray:
        """The metric under each draw of the latency, shape (n_draws, n_replications)."""
        return np.column_stack([values_over_draws(draws, metric) for draws in self.drawn])

    def calibrated(self, metric: str) -> Interval | None:
        """The mean with an interval that includes calibration error; None without draws."""
        if not self.drawn:
            return None
        samples = self.drawn_samples(metric)
        mean = self.interval(metric).mean
        return calibrated_interval(mean, samples if self.random else samples[:, 0])

    @property
    def load_label(self) -> str:
        """The label that most replications got; the worse one on ties."""
        labels = [summary["load_label"] for summary in self.summaries]
        return max(("overloaded", "backlogged", "stable"), key=labels.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A scheduler against the baseline in one metric, replication by replication."""

    scheduler: str
    baseline: str
    metric: str
    interval: Interval  # of scheduler - baseline
    rounding: float = 0.0  # a difference up to this is that of the last digits of two sums
    calibrated: Interval | None = None  # the same with calibration error, where it was asked for

    @property
    def verdict(self) -> str:
        """Whether the difference is larger than the noise of the replications, in words."""
        return self._verdict(self.interval, "the noise")

    @property
    def calibrated_verdict(self) -> str | None:
        """Whether it is larger than noise and calibration error together; None if not asked for."""
        if self.calibrated is None:
            return None
        return self._verdict(self.calibrated, "noise and calibration error")

    def _verdict(self, interval: Interval, what: str) -> str:
        if math.isnan(interval.low):
            reason = "one replication" if interval.n == 1 else "no value"
            return f"{reason}: no interval"
        if max(interval.high - interval.low, abs(interval.mean)) <= self.rounding:
            return "equal"
        return f"{'larger than' if interval.significant else 'within'} {what}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(ShownComparison):
    """All schedulers of a comparison, and what they were compared on."""

    results: tuple[SchedulerResult, ...]
    seeds: tuple[int, ...]
    n_gpus: float
    latency: LatencyModel
    baseline: str
    n_draws: int = 0  # of the latency's parameters

    def differences(self) -> list[Difference]:
        """Every scheduler against the baseline: throughput, goodput and violations."""
        by_name = {result.scheduler: result for result in self.results}
        if self.baseline not in by_name:
            return []
        base = by_name[self.baseline]
        return [
            Difference(
                scheduler=result.scheduler,
                baseline=self.baseline,
                metric=metric,
                interval=paired_difference(result.samples(metric), base.samples(metric)),
                rounding=1e-9 * abs(base.interval(metric).mean),
                calibrated=_calibrated_difference(result, base, metric),
            )
            for result in self.results
            if result.scheduler != self.baseline
            for metric in COMPARED
        ]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as one JSON object."""
        return {
            "gpus": _finite(self.n_gpus),
            "seeds": list(self.seeds),
            "confidence": 0.95,
            "latency_model": self.latency.name,
            "latency_kind": self.latency.kind,
            "latency_description": self.latency.describe(),
            **self._draws_dict(),
            "schedulers": [_result_dict(result) for result in self.results],
            "differences": [
                {
                    "scheduler": difference.scheduler,
                    "against": difference.baseline,
                    "metric": difference.metric,
                    **difference.interval.to_dict(),
                    "verdict": difference.verdict,
                    **calibrated_dict(difference),
                }
                for difference in self.differences()
            ],
        }

    def _draws_dict(self) -> dict[str, Any]:
        if not self.n_draws:
            return {}
        reached = reached_confidence(self.n_draws)
        return {"latency_uncertainty": {"draws": self.n_draws, "confidence": reached}}

    def to_frame(self) -> pd.DataFrame:
        """One row per scheduler and metric: mean, low, high; with draws `calibrated_low`, ..."""
        import pandas as pd

        rows = []
        for result in self.results:
            for metric in _numeric_metrics(result):
                interval = result.interval(metric)
                row = {
                    "scheduler": result.scheduler,
                    "metric": metric,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                }
                if (calibrated := result.calibrated(metric)) is not None:
                    row["calibrated_low"] = calibrated.low
                    row["calibrated_high"] = calibrated.high
                rows.append(row)
        return pd.DataFrame(rows)


def _calibrated_difference(
    result: SchedulerResult, base: SchedulerResult, metric: str
) -> Interval | None:
    """The paired difference under each draw, with its interval; None without draws."""
    if not (result.drawn and base.drawn):
        return None
    fitted = paired_difference(result.samples(metric), base.samples(metric)).mean
    samples = result.drawn_samples(metric) - base.drawn_samples(metric)
    return calibrated_interval(fitted, samples if result.random or base.random else samples[:, 0])


def _numeric_metrics(result: SchedulerResult) -> list[str]:
    """Keys of the summary whose values are numbers that vary with the run."""
    settings = {"sla_s", "gpus", "seed", "bins"}
    first = result.summaries[0]
    return [
        key
        for key, value in first.items()
        if key not in settings and (value is None or isinstance(value, int | float))
    ]


def _result_dict(result: SchedulerResult) -> dict[str, Any]:
    numeric = _numeric_metrics(result)
    intervals = {metric: result.interval(metric) for metric in numeric}
    apart = {*numeric, *PER_REPLICATION}
    distinct = result.summaries if result.random else result.summaries[:1]
    return {
        **{key: value for key, value in result.summaries[0].items() if key not in apart},
        **{metric: _finite(interval.mean) for metric, interval in intervals.items()},
        "load_label": result.load_label,
        "random": result.random,
        "intervals": {metric: interval.to_dict() for metric, interval in intervals.items()},
        **_calibrated_dicts(result, numeric),
        "replications": [{key: summary[key] for key in PER_REPLICATION} for summary in distinct],
    }


def _calibrated_dicts(result: SchedulerResult, metrics: Sequence[str]) -> dict[str, Any]:
    found = {metric: result.calibrated(metric) for metric in metrics}
    intervals = {metric: one.to_dict() for metric, one in found.items() if one is not None}
    return {"intervals_with_calibration": intervals} if intervals else {}


def calibrated_dict(difference: Difference) -> dict[str, Any]:
    """A difference with calibration error, for JSON; nothing where it was not asked for."""
    if difference.calibrated is None:
        return {}
    found = {**difference.calibrated.to_dict(), "verdict": difference.calibrated_verdict}
    return {"with_calibration": found}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
