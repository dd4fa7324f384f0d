"""What a capacity search found, per replication, and how sure it is; `capacity` does the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llmsched.metrics.intervals import Interval, mean_interval, paired_difference
from llmsched.simulation.comparison.results import Difference
from llmsched.simulation.uncertainty import calibrated_interval

if TYPE_CHECKING:
    import pandas as pd

Search = Literal["rate", "gpus"]
TargetMetric = Literal["sla_violation_rate", "latency_p95_s", "latency_p99_s"]

CONFIDENCE = 0.95
UNITS = {"rate": "requests/s", "gpus": "GPUs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What must hold: the metric of a run is at most this.

    Violations are a share of all requests, rejected ones included. Latencies are percentiles [s];
    a rejected request never finishes and counts as infinitely late.
    """

    metric: TargetMetric = "sla_violation_rate"
    at_most: float = 0.01

    def __post_init__(self) -> None:
        if self.metric not in get_args(TargetMetric):
            known = ", ".join(get_args(TargetMetric))
            raise ValueError(f"metric must be one of {known}; got {self.metric!r}")
        if self.metric == "sla_violation_rate" and not 0 <= self.at_most < 1:
            raise ValueError(f"target violation rate must be in [0, 1), got {self.at_most:g}")
        if not (math.isfinite(self.at_most) and self.at_most >= 0):
            raise ValueError(f"target latency must be finite and >= 0 s, got {self.at_most:g}")

    def __str__(self) -> str:
        if self.metric == "sla_violation_rate":
            return f"violations <= {100 * self.at_most:g} %"
        return f"{self.metric[8:11].upper()} latency <= {self.at_most:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The target's metric at one rate or GPU count that every replication was run at."""

    value: float  # requests/s, or GPUs
    offered_load: float  # ρ, mean over replications
    metric: Interval  # over replications


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The capacity of one scheduler, per replication, and how sure it is."""

    scheduler: str
    search: Search
    target: Target
    n_gpus: float  # of the rate search; NaN where GPUs were searched for
    seeds: tuple[int, ...]
    per_replication: tuple[float, ...]  # rate 0 or infinitely many GPUs: the target is out of reach
    hardest_passing: tuple[float, ...]  # differs where passing is not monotone
    assured: float | None  # upper limit of the metric within the target; None where there is none
    curve: tuple[CurvePoint, ...]  # by value
    load_at_one: float  # ρ at 1 request/s, or on 1 GPU, mean over replications
    tolerance: float
    random: bool  # False where every replication is the same by construction
    n_runs: int
    trace_name: str
    n_requests: int
    sla_s: float
    latency: str
    predictor: str
    drawn: tuple[tuple[float, ...], ...] = ()  # of each replication, under each latency draw

    @property
    def interval(self) -> Interval:
        """The mean capacity over replications, with its 95 % Student-t interval."""
        return mean_interval(self.per_replication, confidence=CONFIDENCE)

    @property
    def n_draws(self) -> int:
        """Draws of the latency's parameters that were searched as well."""
        return len(self.drawn[0]) if self.drawn else 0

    @property
    def calibrated(self) -> Interval | None:
        """The mean capacity with an interval that includes calibration error; None without draws.

        Without ends where the target is out of reach, or unbounded, under some draw only.
        """
        if not self.n_draws:
            return None
        samples = np.array(self.drawn).T
        return calibrated_interval(
            self.interval.mean, samples if self.random else samples[:, 0], confidence=CONFIDENCE
        )

    @property
    def offered_load(self) -> float:
        """ρ at the mean capacity."""
        mean = self.interval.mean
        return self.load_at_one * mean if self.search == "rate" else self.load_at_one / mean

    @property
    def monotone(self) -> bool:
        """Whether no tested value passes beyond the capacity of its replication."""
        return self.per_replication == self.hardest_passing

    @property
    def unreachable(self) -> int:
        """Replications in which nothing tested meets the target."""
        return self.per_replication.count(0.0 if self.search == "rate" else math.inf)

    @property
    def unbounded(self) -> int:
        """Replications in which the target holds however fast the requests come."""
        return self.per_replication.count(math.inf) if self.search == "rate" else 0

    def statement(self) -> str:
        """What the search found and how sure it is, in a sentence or two."""
        interval, unit = self.interval, UNITS[self.search]
        if math.isnan(interval.mean):
            found = "no mean capacity: out of reach or unbounded in some replications only"
        elif interval.mean == math.inf:
            found = "no bound found" if self.search == "rate" else "out of reach"
        else:
            found = f"capacity {interval.mean:.4g} {unit}"
        if not self.random:
            found += self._with_calibration()
            what = "sampling interval" if self.n_draws else "interval"
            return f"{found}; nothing here is random, so it has no {what}."
        if interval.n == 1:
            return f"{found} in one replication, so without interval; 2 or more give one."
        if not math.isnan(interval.low):
            found += f", 95 % interval of the mean [{interval.low:.4g}, {interval.high:.4g}]"
        found += f" ({interval.n} replications){self._with_calibration()}"
        if self.assured is None:
            return f"{found}."
        what = "the mean " + self.target.metric.removesuffix("_s").replace("_", " ")
        limit = f"the upper 95 % confidence limit of {what} (one-sided, at that value alone)"
        if self.assured == math.inf and self.search == "rate":
            return f"{found}. At every tested rate {limit} is within the target."
        if self.assured in (0.0, math.inf):
            return f"{found}. At no tested value is {limit} within the target."
        return f"{found}. At {self.assured:.4g} {unit} {limit} is within the target."

    def _with_calibration(self) -> str:
        calibrated = self.calibrated
        if calibrated is None or math.isnan(calibrated.low):
            return ""
        return (
            f", with calibration error {100 * calibrated.confidence:.3g} % "
            f"[{calibrated.low:.4g}, {calibrated.high:.4g}] ({self.n_draws} draws of the latency)"
        )

    def messages(self) -> tuple[str, ...]:
        """What a reader must know beside the figure: out of reach, unbounded, not monotone."""
        n, notes = len(self.per_replication), []
        if self.unreachable:
            even = "at any tested rate" if self.search == "rate" else "on any number of GPUs"
            notes.append(
                f"{self.scheduler}: {self.target} is out of reach {even} in {self.unreachable} of "
                f"{n} replications; relax the target, or change the settings (requests with equal "
                "stamps come together at any rate; jitter parts them)"
            )
        if self.unbounded:
            notes.append(
                f"{self.scheduler}: {self.target} holds in {self.unbounded} of {n} replications "
                f"even when all {self.n_requests} requests come nearly at once; take more requests"
            )
        if not self.monotone:
            seeds, pairs = zip(*self._beyond(), strict=True)
            notes.append(
                f"{self.scheduler}: not monotone for seeds {', '.join(map(str, seeds))}: "
                f"{', '.join(pairs)} {UNITS[self.search]} passes too, beyond a value that fails"
            )
        beyond = sum(not math.isfinite(value) for draws in self.drawn for value in draws)
        if beyond:
            notes.append(
                f"{self.scheduler}: no finite capacity in {beyond} of {n * self.n_draws} searches "
                "under drawn latency parameters, so no interval with calibration error"
            )
        return tuple(notes)

    def _beyond(self) -> list[tuple[int, str]]:
        found = zip(self.seeds, self.per_replication, self.hardest_passing, strict=True)
        return [(seed, f"{hard:.4g}") for seed, value, hard in found if value != hard]

    def to_dict(self) -> dict[str, Any]:
        """The capacity as one JSON object; what is infinite or undefined is null."""
        return {
            "scheduler": self.scheduler,
            "capacity": _finite(self.interval.mean),
            "low": _finite(self.interval.low),
            "high": _finite(self.interval.high),
            "offered_load": _finite(self.offered_load),
            "assured": None if self.assured is None else _finite(self.assured),
            "random": self.random,
            "monotone": self.monotone,
            "unreachable": self.unreachable,
            "unbounded": self.unbounded,
            "per_replication": [_finite(value) for value in self.per_replication],
            "hardest_passing": [_finite(value) for value in self.hardest_passing],
            **self._calibrated_dict(),
            "runs": self.n_runs,
            "statement": self.statement(),
            "messages": list(self.messages()),
            "curve": [
                {
                    "value": _finite(point.value),
                    "offered_load": _finite(point.offered_load),
                    "mean": _finite(point.metric.mean),
                    "low": _finite(point.metric.low),
                    "high": _finite(point.metric.high),
                }
                for point in self.curve
            ],
        }

    def _calibrated_dict(self) -> dict[str, Any]:
        calibrated = self.calibrated
        if calibrated is None:
            return {}
        found = {
            "draws": self.n_draws,
            "confidence": calibrated.confidence,
            **calibrated.to_dict(),
            "per_replication": [[_finite(value) for value in draws] for draws in self.drawn],
        }
        return {"latency_uncertainty": found}

    def to_frame(self) -> pd.DataFrame:
        """One row per point of the curve: scheduler, value, offered_load, mean, low, high."""
        import pandas as pd

        rows = [
            (self.scheduler, p.value, p.offered_load, p.metric.mean, p.metric.low, p.metric.high)
            for p in self.curve
        ]
        names = ["scheduler", "value", "offered_load", "mean", "low", "high"]
        return pd.DataFrame(rows, columns=names)


def differences(found: Sequence[Capacity]) -> list[Difference]:
    """Every capacity against the first, replication by replication on the same requests."""
    first, *others = found
    return [
        Difference(
            scheduler=other.scheduler,
            baseline=first.scheduler,
            metric="capacity [requests/s]" if other.search == "rate" else "GPUs",
            interval=paired_difference(other.per_replication, first.per_replication),
            calibrated=_calibrated_difference(other, first),
        )
        for other in others
    ]


def _calibrated_difference(other: Capacity, first: Capacity) -> Interval | None:
    """The same with calibration error, draw by draw; None without draws."""
    if not (other.n_draws and first.n_draws):
        return None
    fitted = paired_difference(other.per_replication, first.per_replication).mean
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and has no interval
        samples = np.array(other.drawn).T - np.array(first.drawn).T
    either = other.random or first.random
    return calibrated_interval(fitted, samples if either else samples[:, 0])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
