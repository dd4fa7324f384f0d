"""A difference of two groups of runs in one metric, as it is, against its own noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmsched.metrics.intervals import Interval

COMPARED = ("throughput_rps", "goodput_rps", "sla_violation_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A scheduler against the baseline in one metric, replication by replication."""

    scheduler: str
    baseline: str
    metric: str
    interval: Interval  # of scheduler - baseline
    rounding: float = 0.0  # a difference up to this is that of the last digits of two sums

    @property
    def verdict(self) -> str:
        """Whether the difference is larger than the noise of the replications, in words."""
        interval = self.interval
        if math.isnan(interval.low):
            reason = "one replication" if interval.n == 1 else "no value"
            return f"{reason}: no interval"
        if max(interval.high - interval.low, abs(interval.mean)) <= self.rounding:
            return "equal"
        return f"{'larger than' if interval.significant else 'within'} the noise"
