"""The tests of one scheduler: every replication at the same rates, or on as many GPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.metrics.intervals import mean_interval
from llmsched.simulation.capacity.results import CONFIDENCE, CurvePoint
from llmsched.simulation.capacity.root import Curve
from llmsched.simulation.capacity.target import Search, Target
from llmsched.simulation.scenario import Scenario
from llmsched.simulation.sweep.runner import Row, Runner
from llmsched.workload.prepare import at_scale
from llmsched.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """One replication, and the rate at which its requests come by themselves."""

    scenario: Scenario
    own_rate_per_s: float


@dataclass(slots=True, kw_only=True)
class Tested:
    """What was tested of a scheduler so far."""

    replications: Sequence[Replication]
    target: Target
    search: Search
    runs: Runner
    rows: dict[float, list[Row]] = field(default_factory=dict)  # value -> one row per replication

    def test(self, value: float) -> None:
        """Run every replication at this rate, or on so many GPUs."""
        if value not in self.rows:
            wanted = [scenario_at(one, value, self.search) for one in self.replications]
            self.rows[value] = self.runs.rows(wanted)

    @property
    def tests(self) -> dict[float, FloatArray]:
        """Value -> the metric in each replication."""
        return {
            value: np.array([self.target.of(row) for row in rows])
            for value, rows in self.rows.items()
        }

    @property
    def curve(self) -> Curve:
        """How the mean is compared with the target; of the rows there are."""
        least = None
        if self.target.percentile is None:
            rows = next(iter(self.rows.values()))
            least = 0.5 / max(1, sum(row["requests"] for row in rows))
        return Curve(at_most=self.target.at_most, least=least)

    def upper(self, *, resampled: bool) -> dict[float, bool]:
        """Value -> whether the upper limit of the mean metric is within the target."""
        limit = 2 * CONFIDENCE - 1  # two-sided: its upper end is the one-sided limit
        return {
            value: mean_interval(found, confidence=limit, resampled=resampled).high
            <= self.target.at_most
            for value, found in self.tests.items()
        }

    def points(self, *, resampled: bool) -> tuple[CurvePoint, ...]:
        """The curve, by value."""
        return tuple(
            CurvePoint(
                value=value,
                offered_load=_mean([row["offered_load"] for row in self.rows[value]]),
                metric=mean_interval(found, confidence=CONFIDENCE, resampled=resampled),
                met=int((found <= self.target.at_most).sum()),
            )
            for value, found in sorted(self.tests.items())
        )


def scenario_at(one: Replication, value: float, search: Search) -> Scenario:
    """A replication at an arrival rate [requests/s], or at its own one on so many GPUs."""
    scenario = one.scenario
    if search == "gpus":
        scenario = scenario.on(int(value) if math.isfinite(value) else value)
        return _at_rate(scenario, one.own_rate_per_s, one.own_rate_per_s)
    return _at_rate(scenario, value, one.own_rate_per_s)


def _at_rate(scenario: Scenario, rate_per_s: float, own_rate_per_s: float) -> Scenario:
    workload = scenario.workload
    if isinstance(workload, Workload):
        said: dict[str, Any] = {"rps_scale": None, "offered_load": None, "rate_per_s": rate_per_s}
        return replace(scenario, workload=replace(workload, **said))
    if rate_per_s == own_rate_per_s:
        return scenario
    return replace(scenario, workload=at_scale(workload, rate_per_s / own_rate_per_s))


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([math.inf if value is None else value for value in values]))
