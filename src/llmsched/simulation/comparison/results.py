"""What a comparison found: per scheduler and replication, and each against the baseline.

`comparison` does the runs. A figure is its typical value over replications (`metrics.scales`) with
its interval and, where latency parameters were drawn, one that includes calibration error as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.latency.base import LatencyModel
from llmsched.metrics.differences import Difference, corrected, difference, told
from llmsched.metrics.intervals import Interval
from llmsched.metrics.registry import METRICS
from llmsched.metrics.scales import from_scale, half_a_request, on_scale, scale_of, typical
from llmsched.metrics.shown import ShownComparison
from llmsched.simulation.hardware import ResolvedHardware
from llmsched.simulation.uncertainty import (
    Summary,
    calibrated_interval,
    reached_confidence,
    values_over_draws,
)
from llmsched.workload.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

# what schedulers are compared in, where their runs have it
COMPARED = (
    *("sla_violation_rate", "latency_mean_s", "latency_p95_s", "latency_p99_s"),
    *("ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s", "itl_p99_s"),
    *("throughput_rps", "served_per_busy_s", "goodput_rps"),
)
PER_REPLICATION = ("seed", "load_label", "bin_edges", "per_bin")  # has no mean: each one's own
# what a row has beside its figures, and its settings, which are no figures either
NO_FIGURE = (
    *("sla_s", "gpus", "seed", "bins", "wall_s", "n_gpus", "extrapolated_times"),
    *("latency_quantiles_s", "batch_size_counts", "notes", "trace_sha256", "key", "version"),
    *("status", "error", "traceback"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerResult:
    """One scheduler over all replications; the runs' tables are not kept."""

    scheduler: str
    summaries: tuple[dict[str, Any], ...]  # the row of each replication, `Run.to_dict` and more
    random: bool  # False where every replication is the same by construction
    drawn: tuple[tuple[Summary, ...], ...] = ()  # of each replication, of each draw of the latency
    resampled: bool = False  # whether replications are resamples of one trace

    def samples(self, metric: str) -> list[float]:
        """The metric in each replication; NaN where it has no value."""
        values = (summary[metric] for summary in self.summaries)
        return [math.nan if value is None else float(value) for value in values]

    def least(self, metric: str) -> list[float]:
        """What a 0 counts as in each replication: half a request."""
        return [
            half_a_request(metric, requests=one["requests"], span_s=one["makespan_s"])
            for one in self.summaries
        ]

    def interval(self, metric: str) -> Interval:
        """The typical value of the metric over replications, with its confidence interval."""
        return typical(
            self.samples(metric), metric, least=self.least(metric), resampled=self.resampled
        )

    def drawn_on_scale(self, metric: str, *, least: Sequence[float] | None = None) -> FloatArray:
        """The metric under each draw on its scale, shape (n_draws, n_replications)."""
        floors = self.least(metric) if least is None else least
        columns = [
            on_scale(values_over_draws(draws, metric), scale_of(metric), least=floor)
            for draws, floor in zip(self.drawn, floors, strict=True)
        ]
        return np.column_stack(columns)

    def calibrated(self, metric: str) -> Interval | None:
        """The same with an interval that includes calibration error; None without draws."""
        if not self.drawn:
            return None
        scale, samples = scale_of(metric), self.drawn_on_scale(metric)
        found = calibrated_interval(
            0.0, samples if self.random else samples[:, 0], resampled=self.resampled
        )
        return replace(
            found,
            mean=self.interval(metric).mean,
            low=from_scale(found.low, scale),
            high=from_scale(found.high, scale),
        )

    @property
    def load_label(self) -> str:
        """The label that most replications got; the worse one on ties."""
        labels = [summary["load_label"] for summary in self.summaries]
        return max(("overloaded", "backlogged", "stable"), key=labels.count)

    @property
    def keeps_up(self) -> bool:
        """Whether its GPUs were up to the work in most replications."""
        return self.load_label != "overloaded"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(ShownComparison):
    """All schedulers of a comparison, and what they were compared on."""

    results: tuple[SchedulerResult, ...]
    seeds: tuple[int, ...]
    n_gpus: float
    hardware: ResolvedHardware
    workload: Workload | None  # None where a trace was given
    baseline: str
    resampled: bool  # whether replications are resamples of one trace
    matters: float  # the smallest difference that does
    n_draws: int = 0  # of the latency's parameters

    @property
    def latency(self) -> LatencyModel:
        """What batches take, as fitted."""
        return self.hardware.latency

    @property
    def rate(self) -> str:
        """How the arrival rate came about."""
        return str(self.results[0].summaries[0]["config"]["rate"])

    def result(self, scheduler: str) -> SchedulerResult | None:
        """The results of a scheduler; None where it did not run."""
        return next((one for one in self.results if one.scheduler == scheduler), None)

    def differences(self) -> list[Difference]:
        """Every scheduler against the baseline, the verdicts corrected for their number.

        Where both keep up, throughput is the arrival rate but for the drain: what they serve in a
        busy second is compared instead.
        """
        base = self.result(self.baseline)
        if base is None:
            return []
        return corrected(
            [
                self._difference(result, base, metric)
                for result in self.results
                if result is not base
                for metric in compared(result, base)
            ]
        )

    def _difference(
        self, result: SchedulerResult, base: SchedulerResult, metric: str
    ) -> Difference:
        random = result.random or base.random
        found = difference(
            result.samples(metric),
            base.samples(metric),
            metric=metric,
            scheduler=result.scheduler,
            baseline=base.scheduler,
            least=base.least(metric),
            random=random,
            resampled=self.resampled,
            matters=self.matters,
        )
        if not (result.drawn and base.drawn):
            return found
        least, scale = base.least(metric), scale_of(metric)
        ours, theirs = (one.drawn_on_scale(metric, least=least) for one in (result, base))
        samples = ours - theirs
        change = calibrated_interval(
            0.0, samples if random else samples[:, 0], resampled=self.resampled
        )
        level = float(on_scale(base.samples(metric), scale, least=least).mean())
        calibrated = told(change, scale, level)
        return replace(found, calibrated=replace(calibrated, mean=found.interval.mean))

    def to_dict(self) -> dict[str, Any]:
        """The comparison as one JSON object."""
        return {
            "gpus": _finite(self.n_gpus),
            "seeds": list(self.seeds),
            "confidence": 0.95,
            "resampled": self.resampled,
            "matters": self.matters,
            "rate": self.rate,
            "latency_model": self.latency.name,
            "latency_kind": self.latency.kind,
            "latency_description": self.latency.describe(),
            **self._draws_dict(),
            "schedulers": [_result_dict(result) for result in self.results],
            "differences": [one.to_dict() for one in self.differences()],
        }

    def _draws_dict(self) -> dict[str, Any]:
        if not self.n_draws:
            return {}
        reached = reached_confidence(self.n_draws)
        return {"latency_uncertainty": {"draws": self.n_draws, "confidence": reached}}

    def to_frame(self) -> pd.DataFrame:
        """One row per scheduler and metric: typical, low, high; with draws `calibrated_low`, ..."""
        import pandas as pd

        rows = []
        for result in self.results:
            for metric in figures_of(result):
                interval = result.interval(metric)
                row = {
                    "scheduler": result.scheduler,
                    "metric": metric,
                    "typical": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                }
                if (calibrated := result.calibrated(metric)) is not None:
                    row["calibrated_low"] = calibrated.low
                    row["calibrated_high"] = calibrated.high
                rows.append(row)
        return pd.DataFrame(rows)


def compared(result: SchedulerResult, base: SchedulerResult) -> list[str]:
    """The metrics that two schedulers are compared in."""
    left_out = "throughput_rps" if result.keeps_up and base.keeps_up else "served_per_busy_s"
    there = result.summaries[0].keys() & base.summaries[0].keys()
    return [metric for metric in COMPARED if metric in there and metric != left_out]


def figures_of(result: SchedulerResult) -> list[str]:
    """The figures of merit that the rows have, in their order."""
    first = result.summaries[0]
    return [
        name
        for name, value in first.items()
        if name not in NO_FIGURE
        and (name in METRICS or name in _UNREGISTERED)
        and (value is None or isinstance(value, int | float))
    ]


_UNREGISTERED = (
    *("batch_size_sd", "batch_size_max", "seconds_per_output_token", "kv_tokens_mean"),
    *("kv_tokens_max", "kv_bytes_mean", "kv_bytes_max"),
)


def _result_dict(result: SchedulerResult) -> dict[str, Any]:
    first, figures = result.summaries[0], figures_of(result)
    intervals = {metric: result.interval(metric) for metric in figures}
    distinct = result.summaries if result.random else result.summaries[:1]
    said = ("scheduler", "gpus", "bins", "sla_s", "predictor", "trace", "config")
    return {
        **{name: first[name] for name in said if name in first},
        **{metric: _finite(interval.mean) for metric, interval in intervals.items()},
        "load_label": result.load_label,
        "random": result.random,
        "intervals": {
            metric: {
                "typical": _finite(interval.mean),
                "low": _finite(interval.low),
                "high": _finite(interval.high),
                "mean": _finite(_mean(result.samples(metric))),
            }
            for metric, interval in intervals.items()
        },
        **_calibrated_dicts(result, figures),
        "replications": [
            {key: summary[key] for key in (*PER_REPLICATION, *figures)} for summary in distinct
        ],
    }


def _mean(samples: Sequence[float]) -> float:
    return math.fsum(samples) / len(samples) if np.isfinite(samples).all() else math.nan


def _calibrated_dicts(result: SchedulerResult, metrics: Sequence[str]) -> dict[str, Any]:
    found = {metric: result.calibrated(metric) for metric in metrics}
    intervals = {metric: one.to_dict() for metric, one in found.items() if one is not None}
    return {"intervals_with_calibration": intervals} if intervals else {}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
