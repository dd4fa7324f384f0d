"""What must hold of the runs: a metric is at most so much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Search = Literal["rate", "gpus"]
UNITS = {"rate": "requests/s", "gpus": "GPUs"}
TargetMetric = Literal["sla_violation_rate", "latency_p95_s", "latency_p99_s"]
_PERCENTILES = {"latency_p95_s": 95.0, "latency_p99_s": 99.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What must hold: the mean of the metric over replications is at most this.

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

    @property
    def percentile(self) -> float | None:
        """Of the latency; None for violations."""
        return _PERCENTILES.get(self.metric)

    def of(self, row: Mapping[str, Any]) -> float:
        """The metric of a run from its row; infinite where too few requests finish.

        With rejected requests a percentile of all is a higher one of the completed, between the
        half per cents that a row has.
        """
        if self.percentile is None or not row["rejected"]:
            value = row[self.metric]
            return math.inf if value is None else float(value)
        quantiles = row["latency_quantiles_s"]
        level = self.percentile / 100 * row["requests"] / max(row["completed"], 1)
        if not quantiles or level > 1:
            return math.inf
        place = level * (len(quantiles) - 1)
        below = min(int(place), len(quantiles) - 2)
        share = place - below
        return float((1 - share) * quantiles[below] + share * quantiles[below + 1])

    def __str__(self) -> str:
        if self.metric == "sla_violation_rate":
            return f"violations <= {100 * self.at_most:g} %"
        return f"{self.metric[8:11].upper()} latency <= {self.at_most:g} s"

    def in_words(self, sla_s: float, more_limits: str = "") -> str:
        """How a person says it, such as `95 % within 20 s`."""
        if self.percentile is None:
            return f"{100 * (1 - self.at_most):g} % within {sla_s:g} s{more_limits}"
        return f"{self.percentile:g} % within {self.at_most:g} s"
