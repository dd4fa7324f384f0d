"""What the tests of a capacity search amount to: capacities, the assured one, the curve."""

from __future__ import annotations

import math
from collections.abc import Mapping

from llmsched.metrics.intervals import mean_interval
from llmsched.simulation.capacity.results import CONFIDENCE, Capacity, CurvePoint, Target
from llmsched.simulation.capacity.runs import Point, SearchPlan
from llmsched.simulation.capacity.search import Passes, capacity_of, hardest_passing


def summarised(
    name: str,
    by_seed: dict[int, dict[float, Point]],
    drawn: list[list[dict[float, Point]]],
    plan: SearchPlan,
    target: Target,
    seeds: tuple[int, ...],
) -> Capacity:
    """What the tests of one scheduler amount to."""
    copies = len(seeds) // len(by_seed)  # nothing random: one search stands for all
    found = [capacity_found(points, plan) for points in by_seed.values()] * copies
    hardest = [_hardest(points, plan) for points in by_seed.values()] * copies
    random = plan.of(name).random
    assured: float | None = None if random else found[0]
    if random and len(by_seed) > 1 and common_values(by_seed):
        passes = assured_passes(by_seed, plan)
        assured = capacity_of(passes, harder_upwards=plan.search == "rate")
    at_one = [_load_at_one(points, plan) for points in by_seed.values()]
    return Capacity(
        scheduler=name,
        search=plan.search,
        target=target,
        n_gpus=plan.scenario.hardware.n_gpus if plan.search == "rate" else math.nan,
        seeds=seeds,
        per_replication=tuple(found),
        hardest_passing=tuple(hardest),
        assured=assured,
        curve=_curve(by_seed),
        load_at_one=sum(at_one) / len(at_one),
        tolerance=plan.tolerance,
        random=random,
        drawn=tuple(tuple(capacity_found(p, plan) for p in draws) for draws in drawn) * copies,
        n_runs=sum(map(len, by_seed.values())) + sum(len(p) for draws in drawn for p in draws),
        trace_name=plan.first.name,
        n_requests=len(plan.first),
        sla_s=plan.scenario.sla_s,
        latency=plan.scenario.hardware.resolved().latency.describe(),
        predictor=plan.scenario.predictor_object().name,
    )


def _curve(by_seed: dict[int, dict[float, Point]]) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(
            value=value,
            offered_load=sum(p[value].offered_load for p in by_seed.values()) / len(by_seed),
            metric=mean_interval(samples, confidence=CONFIDENCE),
        )
        for value, samples in common_values(by_seed).items()
    )


def _load_at_one(points: dict[float, Point], plan: SearchPlan) -> float:
    """ρ at 1 request/s, or on 1 GPU: it is proportional to the rate, inversely to the GPUs."""
    value, point = next(iter(points.items()))
    return point.offered_load / value if plan.search == "rate" else point.offered_load * value


def assured_passes(by_seed: dict[int, dict[float, Point]], plan: SearchPlan) -> dict[float, bool]:
    """Value -> whether the upper limit of the mean metric is within the target."""
    limit = 2 * CONFIDENCE - 1  # two-sided: its upper end is the one-sided limit
    return {
        value: mean_interval(samples, confidence=limit).high <= plan.at_most
        for value, samples in common_values(by_seed).items()
    }


def common_values(by_seed: dict[int, dict[float, Point]]) -> dict[float, list[float]]:
    """The metric in each replication, at the values at which all replications were run."""
    first, *others = by_seed.values()
    shared = set(first).intersection(*others)
    return {value: [p[value].metric for p in by_seed.values()] for value in sorted(shared)}


def _passes(points: Mapping[float, Point], plan: SearchPlan) -> Passes:
    return {value: point.metric <= plan.at_most for value, point in points.items()}


def capacity_found(points: Mapping[float, Point], plan: SearchPlan) -> float:
    """The capacity of one replication, from its tests."""
    return capacity_of(_passes(points, plan), harder_upwards=plan.search == "rate")


def _hardest(points: dict[float, Point], plan: SearchPlan) -> float:
    upwards = plan.search == "rate"
    passes = _passes(points, plan)
    if upwards and all(passes.values()):
        return math.inf
    hardest = hardest_passing(passes, harder_upwards=upwards)
    if hardest is None:
        return 0.0 if upwards else math.inf
    return hardest
