"""What a capacity search found, and how sure it is; `capacity` does the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched._util.limits import MATTERS
from llmsched.metrics.differences import Difference, corrected, difference
from llmsched.metrics.intervals import Interval
from llmsched.metrics.shown import ShownCapacity
from llmsched.simulation.capacity.floor import Floor
from llmsched.simulation.capacity.root import Root
from llmsched.simulation.capacity.statements import messages, statement
from llmsched.simulation.capacity.target import Search, Target
from llmsched.simulation.uncertainty import mixture_interval

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The target's metric at one rate or GPU count, which every replication was run at."""

    value: float  # requests/s, or GPUs
    offered_load: float  # ρ, mean over replications
    metric: Interval  # the mean over replications
    met: int  # in so many of them


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Capacity(ShownCapacity):
    """The capacity of one scheduler, and how sure it is."""

    scheduler: str
    search: Search
    target: Target
    n_gpus: float  # of the rate search; NaN where GPUs were searched for
    seeds: tuple[int, ...]
    root: Root  # of the rate; the number of GPUs, infinite where none is enough
    assured: float | None  # upper limit of the mean within the target; None where there is none
    floor: Floor
    curve: tuple[CurvePoint, ...]  # by value; empty where the target is below the floor
    tolerance: float
    random: bool  # False where every replication is the same by construction
    resampled: bool  # whether replications are resamples of one trace
    n_runs: int
    trace_name: str
    n_requests: int
    counts: tuple[int, ...]  # of requests, in each replication
    rates_per_s: tuple[float, ...]  # of each replication as it comes
    rate_words: str  # how these came about
    sla_s: float
    more_limits: str  # what else a request must meet, as `, first token within 0.5 s`
    latency: str
    hardware: str
    predictor: str
    drawn: tuple[Root, ...] = ()  # under each draw of the latency

    @property
    def value(self) -> float:
        """The capacity: requests/s, or GPUs; 0 or infinity where it is out of reach."""
        return self.root.rate

    @property
    def reachable(self) -> bool:
        """Whether any rate, or any number of GPUs, meets the target."""
        return self.value > 0 if self.search == "rate" else math.isfinite(self.value)

    @property
    def unbounded(self) -> bool:
        """Whether the target holds however fast the requests come."""
        return self.search == "rate" and math.isinf(self.value)

    @property
    def interval(self) -> Interval:
        """The capacity with its 95 % interval; no ends for GPUs, or where there is no root."""
        n, value = len(self.seeds), self.value
        none = Interval(mean=value, low=math.nan, high=math.nan, n=n, confidence=CONFIDENCE)
        if self.search == "gpus" or not self.random or not 0 < value < math.inf:
            return none
        found = self.root.interval(confidence=CONFIDENCE, resampled=self.resampled)
        return replace(none, low=math.exp(found.low), high=math.exp(found.high))

    @property
    def n_draws(self) -> int:
        """Draws of the latency's parameters that were searched as well."""
        return len(self.drawn)

    @property
    def calibrated(self) -> Interval | None:
        """The same with an interval that includes calibration error; None without draws.

        Without ends where there is no root under some draw, and for GPUs.
        """
        if not self.n_draws or self.search == "gpus":
            return None
        logs = [np.atleast_1d(root.logarithms) for root in self.drawn]
        found = mixture_interval(
            np.array([math.log(root.rate) if root.rate > 0 else math.nan for root in self.drawn]),
            np.array([_error(one, self.resampled) if self.random else 0.0 for one in logs]),
            len(self.seeds) - 1,
        )
        ends = replace(found, mean=self.value)
        return replace(ends, low=math.exp(found.low), high=math.exp(found.high))

    @property
    def offered_load(self) -> float:
        """ρ at the capacity; NaN where there is none."""
        near = [one for one in self.curve if 0 < one.value < math.inf]
        if not near or not 0 < self.value < math.inf:
            return math.nan
        one = min(near, key=lambda point: abs(math.log(point.value / self.value)))
        return one.offered_load * (self.value / one.value)  # of GPUs the answer itself was tested

    def point(self, value: float) -> CurvePoint | None:
        """What was tested at this value; None where nothing was."""
        return next((one for one in self.curve if one.value == value), None)

    def to_dict(self) -> dict[str, Any]:
        """The capacity as one JSON object; what is infinite or undefined is null."""
        calibrated = self.calibrated
        more: dict[str, Any] = {}
        if calibrated is not None:
            more["latency_uncertainty"] = {
                "draws": self.n_draws,
                "confidence": calibrated.confidence,
                **calibrated.to_dict(),
                "per_draw": [_finite(root.rate) for root in self.drawn],
            }
        return {
            "scheduler": self.scheduler,
            "capacity": _finite(self.value),
            "low": _finite(self.interval.low),
            "high": _finite(self.interval.high),
            "offered_load": _finite(self.offered_load),
            "assured": None if self.assured is None else _finite(self.assured),
            "random": self.random,
            "reachable": self.reachable,
            "unbounded": self.unbounded,
            "floor": self.floor.to_dict(),
            **more,
            "runs": self.n_runs,
            "statement": statement(self),
            "messages": list(messages(self)),
            "curve": [
                {
                    "value": _finite(point.value),
                    "offered_load": _finite(point.offered_load),
                    "mean": _finite(point.metric.mean),
                    "low": _finite(point.metric.low),
                    "high": _finite(point.metric.high),
                    "met": point.met,
                }
                for point in self.curve
            ],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per point of the curve: scheduler, value, offered_load, mean, low, high."""
        import pandas as pd

        rows = [
            (self.scheduler, p.value, p.offered_load, p.metric.mean, p.metric.low, p.metric.high)
            for p in self.curve
        ]
        names = ["scheduler", "value", "offered_load", "mean", "low", "high"]
        return pd.DataFrame(rows, columns=names)


def differences(found: Sequence[Capacity], *, matters: float = MATTERS) -> list[Difference]:
    """Every capacity against the first, as typical ratios, corrected for their number.

    None for GPUs, which are whole numbers, nor for capacities that one of the two does not have.
    """
    first, *others = found
    lines = []
    for other in others:
        both = (first, other)
        if first.search == "gpus" or not all(0 < one.value < math.inf for one in both):
            continue
        ours, theirs = (_known(one) for one in (other, first))
        lines.append(
            difference(
                np.exp(ours),
                np.exp(theirs),
                metric="capacity_rps",
                scheduler=other.scheduler,
                baseline=first.scheduler,
                random=first.random or other.random,
                resampled=first.resampled,
                matters=matters,
            )
        )
    return corrected(lines)


def _known(one: Capacity) -> Any:
    """Pseudo-values of the logarithm; the root itself where nothing is random."""
    logs = one.root.logarithms
    return logs if one.random else np.full(len(one.seeds), math.log(one.value))


def _error(logarithms: Any, resampled: bool) -> float:
    n = len(logarithms)
    if n < 2:
        return math.nan
    return float(logarithms.std(ddof=1)) * math.sqrt((n + 1) / n if resampled else 1 / n)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
