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
from typing import Any, get_args

from llmsched.engine.admission import Admission
from llmsched.latency.base import LatencyModel
from llmsched.latency.registry import load_latency
from llmsched.prediction.binning import Binning
from llmsched.prediction.predictors import Predictor, predictor_from_spec
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.settings import Settings
from llmsched.simulation.capacity.results import Capacity, CurvePoint, Search, Target, differences
from llmsched.simulation.capacity.runs import Point, Scenario, Task, Workers
from llmsched.simulation.capacity.search import next_gpus, next_rate
from llmsched.simulation.capacity.summary import assured_passes, capacity_found, summarised
from llmsched.workload.trace import Trace, TraceError
from llmsched.workload.workload import Workload

__all__ = ["Capacity", "CurvePoint", "Search", "Target", "capacities", "capacity", "differences"]

CHECKED = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)  # of the mean capacity, in every replication


def capacity(
    workload: Trace | Workload | str, scheduler: str = "multi_bin_dynamic", **options: Any
) -> Capacity:
    """The capacity of one scheduler; the options are those of `capacities`.

    Examples
    --------
    >>> from llmsched.workload import Workload
    >>> workload = Workload(source="poisson", requests=200)
    >>> target = Target(metric="latency_p99_s", at_most=2.0)
    >>> found = capacity(workload, "static_fifo", target=target, replications=1, jobs=1)
    >>> 1 < found.interval.mean < 50, found.unreachable
    (True, 0)
    """
    return capacities(workload, (scheduler,), **options)[0]


def capacities(
    workload: Trace | Workload | str,
    schedulers: Sequence[str],
    *,
    target: Target | None = None,
    search: Search = "rate",
    n_gpus: int = 4,
    latency: LatencyModel | str = "reference",
    predictor: Predictor | str = "noisy",
    binning: Binning | int | str = 4,
    settings: Settings | None = None,
    admission: Admission = "together",
    seed: int = 0,
    replications: int = 5,
    tolerance: float = 0.02,
    jobs: int | None = None,
    latency_draws: Sequence[LatencyModel] = (),
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Capacity, ...]:
    """The capacity of several schedulers on the same requests, found by bracketing and bisection.

    Parameters
    ----------
    workload : Trace, Workload or str
        The requests. For rates only their order, lengths and relative times matter (the given
        rate is one of those tested); for GPUs they come at the given rate.
    schedulers : sequence of str
        Names of `llmsched.schedulers.registry.SCHEDULERS`.
    target : Target, optional
        By default at most 1 % violations of `settings.sla_s`.
    search : {"rate", "gpus"}
        Whether to look for the highest arrival rate or for the fewest GPUs.
    n_gpus : int
        GPUs of the rate search.
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

    The other parameters are those of `simulate`.

    Returns
    -------
    tuple of Capacity
        In the order of `schedulers`.

    Raises
    ------
    ValueError
        If an argument is out of range or names nothing known.
    TraceError
        If the workload cannot be read, or all its requests arrive at one instant.
    """
    settings, target = (settings or Settings()).resolved(), target or Target()
    _check(schedulers, settings, search, n_gpus, replications, tolerance, jobs)
    if isinstance(workload, str):
        workload = Workload(source=workload)
    scenario = Scenario(
        requests=workload if isinstance(workload, Workload) and workload.random else None,
        first=_checked_trace(workload.load(seed) if isinstance(workload, Workload) else workload),
        first_seed=seed,
        metric=target.metric,
        at_most=target.at_most,
        tolerance=tolerance,
        search=search,
        n_gpus=n_gpus,
        latency=load_latency(latency) if isinstance(latency, str) else latency,
        predictor=predictor_from_spec(predictor) if isinstance(predictor, str) else predictor,
        binning=binning,
        settings=settings,
        admission=admission,
        draws=tuple(latency_draws),
    )
    seeds = tuple(range(seed, seed + replications))
    tests: _Tests = {
        name: {one: {} for one in (seeds if scenario.random(name) else seeds[:1])}
        for name in schedulers
    }
    processes = jobs or os.cpu_count() or 1
    most = sum(map(len, tests.values())) * max(1, len(latency_draws))
    with Workers(scenario, min(processes, most), on_progress) as workers:
        _search(tests, workers, scenario)
        drawn = _search_draws(tests, workers, scenario)
    return tuple(
        summarised(name, tests[name], drawn[name], scenario, target, seeds) for name in schedulers
    )


_Tests = dict[str, dict[int, dict[float, Point]]]  # scheduler -> seed -> tested value -> what came
_Drawn = dict[str, list[list[dict[float, Point]]]]  # scheduler -> replication -> draw -> the same


def _search(tests: _Tests, workers: Workers, scenario: Scenario) -> None:
    """Fill in the tests: each replication's search, then common values, then the assured one."""
    every = [(name, seed) for name, by_seed in tests.items() for seed in by_seed]
    all_done = 1 / (1 + len(scenario.draws))
    _run([(*one, ()) for one in every], tests, workers, until=0.6 * all_done)
    checked = {name: _checked_values(by_seed, scenario) for name, by_seed in tests.items()}
    _run([(*one, checked[one[0]]) for one in every], tests, workers, until=0.9 * all_done)
    while wanted := {
        name: value
        for name, by_seed in tests.items()
        if (value := _next_common(by_seed, scenario)) is not None
    }:
        more = [(name, seed, (wanted[name],)) for name, seed in every if name in wanted]
        _run(more, tests, workers, until=all_done, search=False)


def _search_draws(tests: _Tests, workers: Workers, scenario: Scenario) -> _Drawn:
    """A search per draw in every replication, from the capacity at the fitted parameters on."""
    tasks = []
    for name, by_seed in tests.items():
        for seed, points in by_seed.items():
            start = capacity_found(points, scenario)
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
                for draw in range(len(scenario.draws))
            ]
    found = iter(workers.done(tasks, until=1.0))
    return {
        name: [[next(found) for _ in scenario.draws] for _ in by_seed]
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


def _centre(by_seed: dict[int, dict[float, Point]], scenario: Scenario) -> float | None:
    """The mean of the capacities that are neither out of reach nor unbounded."""
    found = [
        value for p in by_seed.values() if 0 < (value := capacity_found(p, scenario)) < math.inf
    ]
    return sum(found) / len(found) if found else None


def _checked_values(
    by_seed: dict[int, dict[float, Point]], scenario: Scenario
) -> tuple[float, ...]:
    """Values around the mean capacity: what every replication is run at."""
    centre = _centre(by_seed, scenario)
    if centre is None and scenario.search == "gpus":
        return ()
    if centre is None:  # out of reach or unbounded: around the given rate, for the curve
        centre = len(scenario.first) / scenario.first.span_s
    if scenario.search == "rate":
        return tuple(centre * share for share in CHECKED)
    whole = {math.floor(centre), math.ceil(centre), *(round(centre * share) for share in CHECKED)}
    return tuple(float(n) for n in sorted(whole) if n >= 1)


def _next_common(by_seed: dict[int, dict[float, Point]], scenario: Scenario) -> float | None:
    """The value to run in all replications next, on the way to the assured one."""
    if len(by_seed) < 2 or _centre(by_seed, scenario) is None:
        return None
    passes = assured_passes(by_seed, scenario)
    middle = sorted(passes)[len(passes) // 2]
    if scenario.search == "rate":
        return next_rate(passes, start=middle, tolerance=scenario.tolerance)
    return next_gpus(passes, start=int(middle), n_requests=len(scenario.first))


def _checked_trace(trace: Trace) -> Trace:
    if len(trace) < 2 or trace.span_s <= 0:
        raise TraceError(
            f"trace {trace.name!r} must have requests at two instants at least to have an arrival "
            f"rate, got {len(trace)} within {trace.span_s:g} s"
        )
    return trace


def _check(
    schedulers: Sequence[str],
    settings: Settings,
    search: str,
    n_gpus: float,
    replications: int,
    tolerance: float,
    jobs: int | None,
) -> None:
    if not schedulers or len(set(schedulers)) != len(schedulers):
        given = ", ".join(schedulers) or "none"
        raise ValueError(f"schedulers must be distinct names, got {given}")
    for name in schedulers:
        make_scheduler(name, settings)  # a wrong name ends here, not after the first run
    if search not in get_args(Search):
        raise ValueError(f"search must be one of {', '.join(get_args(Search))}; got {search!r}")
    if not (n_gpus >= 1 and math.isfinite(n_gpus)):
        raise ValueError(f"n_gpus must be finite and >= 1 to have a capacity, got {n_gpus:g}")
    if replications < 1:
        raise ValueError(f"replications must be >= 1, got {replications}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be in (0, 1), got {tolerance:g}; 0.02 is 2 %")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}")
