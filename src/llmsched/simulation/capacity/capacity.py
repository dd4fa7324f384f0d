"""Capacity: the highest arrival rate, or the fewest GPUs, that meets a target, found by search.

Definition.  In one replication the capacity is the highest tested arrival rate such that it and
every lower tested rate stay within the target (for GPUs: the fewest tested, such that they and
every larger tested number do).  The search brackets from offered load 1 and bisects; then rates
around the mean capacity are run in every replication, which may contradict the bracket, and then
the search goes on from all tests.  A harder value that passes as well is reported, not hidden.

Random numbers are common to all rates, GPU counts and schedulers: a replication has one set of
requests and one predictor's noise, and a rate only divides the arrival times.  The rate is
requests / span of the scaled trace.  The trace is finite, so this is the capacity for so many
requests: the longer an overload lasts, the more of them are late.

Two statements of confidence come out (`Capacity.statement`): a Student-t interval of the mean
capacity over replications, and the hardest value at which the upper confidence limit of the mean
metric itself stays within the target.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Unpack, get_args

from llmsched.latency.base import LatencyModel
from llmsched.simulation.capacity.results import Capacity, CurvePoint, Search, Target, differences
from llmsched.simulation.capacity.runs import Point, SearchPlan, Task, Workers
from llmsched.simulation.capacity.search import next_gpus, next_rate
from llmsched.simulation.capacity.summary import assured_passes, capacity_found, summarised
from llmsched.simulation.scenario import Parts, Scenario, as_scenario
from llmsched.workload.trace import Trace, TraceError
from llmsched.workload.workload import Workload

__all__ = ["Capacity", "CurvePoint", "Search", "Target", "capacities", "capacity", "differences"]

LEAST_TOLERANCE = 1e-6  # below it bisection takes steps that no replication can tell apart
CHECKED = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)  # of the mean capacity, in every replication


def capacity(
    scenario: Scenario | Workload | Trace | str,
    scheduler: str | None = None,
    *,
    target: Target | None = None,
    search: Search = "rate",
    replications: int = 5,
    tolerance: float = 0.02,
    jobs: int | None = None,
    latency_draws: Sequence[LatencyModel] = (),
    on_progress: Callable[[float], None] | None = None,
    **parts: Unpack[Parts],
) -> Capacity:
    """The capacity of one scheduler; the parameters are those of `capacities`.

    Examples
    --------
    >>> from llmsched import Workload
    >>> workload = Workload(source="poisson", requests=200)
    >>> target = Target(metric="latency_p99_s", at_most=2.0)
    >>> found = capacity(workload, "static_fifo", target=target, replications=1, jobs=1)
    >>> 1 < found.interval.mean < 50, found.unreachable
    (True, 0)
    """
    base = as_scenario(scenario, scheduler, **parts)
    (found,) = capacities(
        base,
        (str(base.scheduler),),
        target=target,
        search=search,
        replications=replications,
        tolerance=tolerance,
        jobs=jobs,
        latency_draws=latency_draws,
        on_progress=on_progress,
    )
    return found


def capacities(
    scenario: Scenario | Workload | Trace | str,
    schedulers: Sequence[str],
    *,
    target: Target | None = None,
    search: Search = "rate",
    replications: int = 5,
    tolerance: float = 0.02,
    jobs: int | None = None,
    latency_draws: Sequence[LatencyModel] = (),
    on_progress: Callable[[float], None] | None = None,
    **parts: Unpack[Parts],
) -> tuple[Capacity, ...]:
    """The capacity of several schedulers on the same requests, found by bracketing and bisection.

    Parameters
    ----------
    scenario : Scenario, Workload, Trace or str
        What is run. For rates only the requests' order, lengths and relative times matter (the
        given rate is one of those tested); for GPUs they come at the given rate.
    schedulers : sequence of str
        Names of `llmsched.schedulers.SCHEDULERS`.
    target : Target, optional
        By default at most 1 % violations of the scenario's `slo.latency_s`.
    search : {"rate", "gpus"}
        Whether to look for the highest arrival rate or for the fewest GPUs.
    replications : int
        Independent replications, with seeds `seed`, `seed` + 1, ...; intervals need 2. A scheduler
        that nothing random touches is searched once.
    tolerance : float
        Bisection of rates ends when the failing one is at most so much above the passing one.
    jobs : int, optional
        Processes, by default one per core; the result does not depend on it. They are spawned, so
        a script needs the usual `if __name__ == "__main__":` unless `jobs` is 1.
    latency_draws : sequence of LatencyModel
        What `draw_latencies` gives for this latency: every replication is searched under each of
        them as well, from its fitted capacity on, for intervals that include calibration error.
    on_progress : callable, optional
        Told the share of the planned searches that is done, now and then.
    **parts
        Parts in place of the scenario's, as in `simulate`.

    Returns
    -------
    tuple of Capacity
        In the order of `schedulers`.

    Raises
    ------
    ValueError
        If an argument is out of range or names nothing known.
    TraceError
        If the workload cannot be read, all its requests arrive at one instant, or some wait for
        answers.
    """
    base, target = as_scenario(scenario, **parts), target or Target()
    _check(schedulers, base, search, replications, tolerance, jobs)
    plan = SearchPlan(
        scenario=base,
        first=_checked_trace(base.requests()),
        metric=target.metric,
        at_most=target.at_most,
        tolerance=tolerance,
        search=search,
        draws=tuple(latency_draws),
    )
    seeds = tuple(range(base.seed, base.seed + replications))
    tests: _Tests = {
        name: {one: {} for one in (seeds if plan.of(name).random else seeds[:1])}
        for name in schedulers
    }
    processes = jobs or os.cpu_count() or 1
    most = sum(map(len, tests.values())) * max(1, len(latency_draws))
    with Workers(plan, min(processes, most), on_progress) as workers:
        _search(tests, workers, plan)
        drawn = _search_draws(tests, workers, plan)
    return tuple(
        summarised(name, tests[name], drawn[name], plan, target, seeds) for name in schedulers
    )


_Tests = dict[str, dict[int, dict[float, Point]]]  # scheduler -> seed -> tested value -> what came
_Drawn = dict[str, list[list[dict[float, Point]]]]  # scheduler -> replication -> draw -> the same


def _search(tests: _Tests, workers: Workers, plan: SearchPlan) -> None:
    """Fill in the tests: each replication's search, then common values, then the assured one."""
    every = [(name, seed) for name, by_seed in tests.items() for seed in by_seed]
    all_done = 1 / (1 + len(plan.draws))
    _run([(*one, ()) for one in every], tests, workers, until=0.6 * all_done)
    checked = {name: _checked_values(by_seed, plan) for name, by_seed in tests.items()}
    _run([(*one, checked[one[0]]) for one in every], tests, workers, until=0.9 * all_done)
    while wanted := {
        name: value
        for name, by_seed in tests.items()
        if (value := _next_common(by_seed, plan)) is not None
    }:
        more = [(name, seed, (wanted[name],)) for name, seed in every if name in wanted]
        _run(more, tests, workers, until=all_done, search=False)


def _search_draws(tests: _Tests, workers: Workers, plan: SearchPlan) -> _Drawn:
    """A search per draw in every replication, from the capacity at the fitted parameters on."""
    tasks = []
    for name, by_seed in tests.items():
        for seed, points in by_seed.items():
            start = capacity_found(points, plan)
            tasks += [
                Task(
                    scheduler=name,
                    seed=seed,
                    known={},
                    values=(),
                    search=True,
                    draw=draw,
                    start=start if 0 < start < math.inf else None,
                )
                for draw in range(len(plan.draws))
            ]
    found = iter(workers.done(tasks, until=1.0))
    return {
        name: [[next(found) for _ in plan.draws] for _ in by_seed]
        for name, by_seed in tests.items()
    }


def _run(
    wanted: Sequence[tuple[str, int, tuple[float, ...]]],
    tests: _Tests,
    workers: Workers,
    *,
    until: float,
    search: bool = True,
) -> None:
    tasks = [
        Task(scheduler=name, seed=seed, known=tests[name][seed], values=values, search=search)
        for name, seed, values in wanted
    ]
    for (name, seed, _), points in zip(wanted, workers.done(tasks, until=until), strict=True):
        tests[name][seed] = points


def _centre(by_seed: dict[int, dict[float, Point]], plan: SearchPlan) -> float | None:
    """The mean of the capacities that are neither out of reach nor unbounded."""
    found = [value for p in by_seed.values() if 0 < (value := capacity_found(p, plan)) < math.inf]
    return sum(found) / len(found) if found else None


def _checked_values(by_seed: dict[int, dict[float, Point]], plan: SearchPlan) -> tuple[float, ...]:
    """Values around the mean capacity: what every replication is run at."""
    centre = _centre(by_seed, plan)
    if centre is None and plan.search == "gpus":
        return ()
    if centre is None:  # out of reach or unbounded: around the given rate, for the curve
        centre = len(plan.first) / plan.first.span_s
    if plan.search == "rate":
        return tuple(centre * share for share in CHECKED)
    whole = {math.floor(centre), math.ceil(centre), *(round(centre * share) for share in CHECKED)}
    return tuple(float(n) for n in sorted(whole) if n >= 1)


def _next_common(by_seed: dict[int, dict[float, Point]], plan: SearchPlan) -> float | None:
    """The value to run in all replications next, on the way to the assured one."""
    if len(by_seed) < 2 or _centre(by_seed, plan) is None:
        return None
    passes = assured_passes(by_seed, plan)
    middle = sorted(passes)[len(passes) // 2]
    if plan.search == "rate":
        return next_rate(passes, start=middle, tolerance=plan.tolerance)
    return next_gpus(passes, start=int(middle), n_requests=len(plan.first))


def _checked_trace(trace: Trace) -> Trace:
    if trace.closed:
        raise TraceError(
            f"capacity needs arrivals at a given rate, but those of trace {trace.name!r} wait for "
            "answers; leave the closed loop out, or compare runs at several concurrencies"
        )
    if len(trace) < 2 or trace.span_s <= 0:
        raise TraceError(
            f"trace {trace.name!r} must have requests at two instants at least to have an arrival "
            f"rate, got {len(trace)} within {trace.span_s:g} s"
        )
    return trace


def _check(
    schedulers: Sequence[str],
    scenario: Scenario,
    search: str,
    replications: int,
    tolerance: float,
    jobs: int | None,
) -> None:
    if not schedulers or len(set(schedulers)) != len(schedulers):
        given = ", ".join(schedulers) or "none"
        raise ValueError(f"schedulers must be distinct names, got {given}")
    for name in schedulers:
        replace(scenario, scheduler=name).check()  # a wrong name ends here, not after a run
    if search not in get_args(Search):
        raise ValueError(f"search must be one of {', '.join(get_args(Search))}; got {search!r}")
    n_gpus = scenario.hardware.n_gpus
    if search == "rate" and not math.isfinite(n_gpus):
        raise ValueError(f"n_gpus must be finite and >= 1 to have a capacity, got {n_gpus:g}")
    if replications < 1:
        raise ValueError(f"replications must be >= 1, got {replications}")
    if not LEAST_TOLERANCE <= tolerance < 1:
        raise ValueError(
            f"tolerance must be in [{LEAST_TOLERANCE:g}, 1), got {tolerance:g}; 0.02 is 2 %"
        )
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}")
