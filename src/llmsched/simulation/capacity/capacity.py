"""Capacity: the highest arrival rate, or the fewest GPUs, that meets a target, found by search.

Definition.  The capacity is the arrival rate at which the mean of the target's metric over
replications meets the target: the root of a curve.  Every replication is run at the same rates.
One replication alone brackets the root from offered load 1 on; then all of them close in on it,
and are run at rates around it, which may contradict the bracket; then the search goes on from all
tests.  Where rates pass beyond one that fails, the root before that one counts.  Of GPUs it is the
fewest such that the mean is within the target on them and on every larger number tested.

First comes the floor: the latency of each request alone on an idle GPU.  A target below it is out
of reach, and nothing is run.  A latency target sets the SLA that schedulers are told.

Random numbers are common to all rates, GPU counts and schedulers: a replication has one set of
requests and one predictor's noise, and a rate only divides the arrival times.  The trace is finite,
so this is the capacity for so many requests: the longer an overload lasts, the more are late.

Two statements of confidence come out: the interval of the root (`root`), and the hardest tested
value at which the upper confidence limit of the mean metric itself is within the target.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack, get_args

import numpy as np

from llmsched._util.notes import Notes
from llmsched.latency.registry import EXTRAPOLATED
from llmsched.simulation.capacity.floor import floor_of
from llmsched.simulation.capacity.results import Capacity, differences
from llmsched.simulation.capacity.root import Root, next_rate_for_root, root_of
from llmsched.simulation.capacity.search import capacity_of, next_gpus, next_rate
from llmsched.simulation.capacity.target import Search, Target
from llmsched.simulation.capacity.tested import Replication, Tested
from llmsched.simulation.held_load import load_as_it_comes
from llmsched.simulation.replications import check_distinct, replicated, resamples, seeds_of
from llmsched.simulation.scenario import Parts, Scenario, as_scenario
from llmsched.simulation.sweep.runner import Runner, RunRecord, runner
from llmsched.simulation.uncertainty import check_draws
from llmsched.simulation.workers import Backend
from llmsched.workload.trace import Trace, TraceError
from llmsched.workload.workload import Workload

__all__ = ["Capacity", "Search", "Target", "capacities", "capacity", "differences"]

LEAST_TOLERANCE = 1e-6  # below it the search takes steps that no replication can tell apart
CHECKED = (0.75, 0.9, 1.1, 1.25)  # of the root, in every replication
REPLICATIONS = 10
COARSE = 0.2  # tolerance of the replication that brackets for all
MOST_CONTRADICTIONS = 3  # times that tests around the root may send the search back


def capacity(
    scenario: Scenario | Workload | Trace | str,
    scheduler: str | None = None,
    *,
    target: Target | None = None,
    search: Search = "rate",
    replications: int = REPLICATIONS,
    tolerance: float = 0.02,
    resample: bool | None = None,
    jobs: int | None = None,
    **parts: Unpack[Parts],
) -> Capacity:
    """The capacity of one scheduler; the parameters are those of `capacities`.

    Examples
    --------
    >>> from llmsched import Workload
    >>> workload = Workload(source="poisson", requests=200)
    >>> target = Target(metric="latency_p99_s", at_most=20.0)
    >>> found = capacity(workload, "static_fifo", target=target, replications=2, jobs=1)
    >>> found.reachable, 1 < found.value < 50
    (True, True)
    """
    base = as_scenario(scenario, scheduler, **parts)
    (found,) = capacities(
        base,
        (str(base.scheduler),),
        target=target,
        search=search,
        replications=replications,
        tolerance=tolerance,
        resample=resample,
        jobs=jobs,
    )
    return found


def capacities(
    scenario: Scenario | Workload | Trace | str,
    schedulers: Sequence[str],
    *,
    target: Target | None = None,
    search: Search = "rate",
    replications: int = REPLICATIONS,
    tolerance: float = 0.02,
    resample: bool | None = None,
    latency_draws: int = 0,
    out: Path | None = None,
    jobs: int | None = None,
    backend: Backend = "local",
    address: str | None = None,
    on_done: Callable[[RunRecord], None] | None = None,
    **parts: Unpack[Parts],
) -> tuple[Capacity, ...]:
    """The capacity of several schedulers on the same requests.

    Parameters
    ----------
    scenario : Scenario, Workload, Trace or str
        What is run. For rates only the requests' order, lengths and relative times matter; for
        GPUs they come at the given rate, or at that which gives the held load on its GPUs.
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
        The search for a rate ends when the failing one is at most so much above the passing one.
    resample : bool, optional
        Whether replications are resamples of the trace; by default of a trace file.
    latency_draws : int
        Search under so many draws of the latency's parameters too, for intervals that include
        calibration error; rates only.
    out : Path, optional
        Folder of the runs: those it has are not done again.
    jobs, backend, address
        Where the runs are done, as in `sweep`; no number depends on it.
    on_done : callable, optional
        Sees every finished run.
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
    if target.percentile is not None:
        base = replace(base, slo=replace(base.slo, latency_s=target.at_most))
    _check(schedulers, base, search, tolerance, latency_draws)
    seeds = seeds_of(base, replications)
    resampled = resamples(base, resample)
    with runner(
        out, jobs=jobs, backend=backend, address=address, keep_failures=False, on_done=on_done
    ) as runs:
        found = tuple(
            _found(
                replace(base, scheduler=name),
                target,
                search,
                seeds,
                tolerance,
                resampled,
                latency_draws,
                runs,
            )
            for name in schedulers
        )
        for note in _notes(runs):
            warnings.warn(note, stacklevel=2)
    return found


def _found(
    scenario: Scenario,
    target: Target,
    search: Search,
    seeds: tuple[int, ...],
    tolerance: float,
    resampled: bool,
    n_draws: int,
    runs: Runner,
) -> Capacity:
    """The capacity of one scheduler."""
    each = replicated(scenario, len(seeds), resample=resampled)
    traces = [_checked(one.requests(), resampled=resampled) for one in each]
    floors = [floor_of(one, trace, target) for one, trace in zip(each, traces, strict=True)]
    tested = Tested(
        replications=[
            Replication(scenario=one, own_rate_per_s=trace.arrival_rate_per_s)
            for one, trace in zip(each, traces, strict=True)
        ],
        target=target,
        search=search,
        runs=runs,
    )
    floor, random = floors[0], len(each) > 1 or scenario.random or resampled
    nothing = 0.0 if search == "rate" else math.inf
    root, assured = Root(rate=nothing, deviations=np.full(len(each), math.nan)), None
    drawn: tuple[Root, ...] = ()
    if np.mean([one.metric for one in floors]) <= target.at_most:
        if search == "rate":
            root, assured = _rate(tested, traces[0], tolerance, resampled=resampled)
            drawn = _under_draws(tested, root, n_draws, tolerance)
        else:
            root, assured = _gpus(tested, traces[0], resampled=resampled)
    first = scenario.resolved_hardware()
    return Capacity(
        scheduler=scenario.scheduler_name,
        search=search,
        target=target,
        n_gpus=scenario.hardware.n_gpus if search == "rate" else math.nan,
        seeds=seeds,
        root=root,
        assured=assured if len(each) > 1 else None,
        floor=floor,
        curve=tested.points(resampled=resampled),
        tolerance=tolerance,
        random=random,
        resampled=resampled,
        n_runs=sum(map(len, tested.rows.values())),
        trace_name=traces[0].name,
        n_requests=len(traces[0]),
        counts=tuple(map(len, traces)),
        rates_per_s=tuple(trace.arrival_rate_per_s for trace in traces),
        rate_words=scenario.rate_words(traces[0]),
        sla_s=scenario.sla_s,
        more_limits=_more_limits(scenario),
        latency=first.latency.describe(),
        hardware=first.describe(),
        predictor=scenario.predictor_object().name,
        drawn=drawn,
    )


def _rate(
    tested: Tested, trace: Trace, tolerance: float, *, resampled: bool
) -> tuple[Root, float | None]:
    """The root, and the hardest tested rate that is assured."""
    first = tested.replications[0]
    one = first.own_rate_per_s / load_as_it_comes(trace, first.scenario.resolved_hardware())
    alone = Tested(replications=[first], target=tested.target, search="rate", runs=tested.runs)
    _close_in(alone, one, max(COARSE, tolerance))
    start = root_of(alone.tests, alone.curve).rate
    start = start if 0 < start < math.inf else one
    for _ in range(MOST_CONTRADICTIONS):
        _close_in(tested, start, tolerance)
        root = root_of(tested.tests, tested.curve)
        around = root.rate if 0 < root.rate < math.inf else one
        for share in CHECKED:
            tested.test(around * share)
        if root_of(tested.tests, tested.curve).rate == root.rate:
            break
    root = root_of(tested.tests, tested.curve)
    if len(tested.replications) < 2 or not 0 < root.rate < math.inf:
        return root, None
    lower = min(tested.rows, key=lambda rate: abs(math.log(rate / root.rate)))
    while True:
        passes = tested.upper(resampled=resampled)
        more = next_rate(passes, start=lower, tolerance=tolerance)
        if more is None:
            return root, capacity_of(passes, harder_upwards=True)
        tested.test(more)


def _close_in(tested: Tested, start: float, tolerance: float) -> None:
    """Test rates until the root is known to the tolerance."""
    tested.test(start)
    while (
        more := next_rate_for_root(tested.tests, tested.curve, start=start, tolerance=tolerance)
    ) is not None:
        tested.test(more)


def _under_draws(tested: Tested, root: Root, n_draws: int, tolerance: float) -> tuple[Root, ...]:
    """The root under each draw of the latency's parameters, from the fitted one on."""
    if not 0 < root.rate < math.inf:
        return ()
    found = []
    seed = tested.replications[0].scenario.seed
    for number in range(n_draws):
        drawn = [
            replace(
                one,
                scenario=replace(
                    one.scenario,
                    hardware=replace(one.scenario.hardware, draw=(seed, number)),
                ),
            )
            for one in tested.replications
        ]
        under = Tested(replications=drawn, target=tested.target, search="rate", runs=tested.runs)
        _close_in(under, root.rate, tolerance)
        centre = root_of(under.tests, under.curve).rate
        if 0 < centre < math.inf:
            for share in (0.9, 1.1):  # for the slope
                under.test(centre * share)
        found.append(root_of(under.tests, under.curve))
    return tuple(found)


def _gpus(tested: Tested, trace: Trace, *, resampled: bool) -> tuple[Root, float | None]:
    """The fewest GPUs, and the fewest that are assured."""
    scenario = tested.replications[0].scenario
    load = load_as_it_comes(trace, scenario.on(1).resolved_hardware())
    start = min(max(1, math.ceil(load)), len(trace))
    n = len(tested.replications)

    def search(passes: Callable[[], dict[float, bool]]) -> float:
        while (more := next_gpus(passes(), start=start, n_requests=len(trace))) is not None:
            if math.isinf(more) and scenario.level == "iteration":
                more = float(len(trace))  # as good: no two requests meet
                if more in tested.rows:
                    break
            tested.test(more)
        return capacity_of(passes(), harder_upwards=False)

    fewest = search(lambda: tested.curve.passes(tested.tests) if tested.rows else {})
    root = Root(rate=fewest, deviations=np.full(n, math.nan))
    if math.isinf(fewest):
        return root, None
    for count in sorted({fewest - 1, *(round(fewest * share) for share in CHECKED)}):
        if count >= 1:
            tested.test(float(count))
    fewest = search(lambda: tested.curve.passes(tested.tests))
    root = replace(root, rate=fewest)
    if n < 2 or math.isinf(fewest):
        return root, None
    return root, search(lambda: tested.upper(resampled=resampled))


def _more_limits(scenario: Scenario) -> str:
    """What a request must meet beside its latency, where tokens come one by one."""
    slo = scenario.slo
    limits = {"first token": slo.ttft_s, "a token": slo.tpot_s}
    return "".join(
        f", {what} within {most:g} s"
        for what, most in limits.items()
        if most is not None and scenario.level == "iteration"
    )


def _notes(runs: Runner) -> list[str]:
    """What the runs said, the first of each kind."""
    said = (note for row in runs.done for note in row["notes"])
    return Notes().extend(note for note in said if not note.endswith(EXTRAPOLATED))


def _checked(trace: Trace, *, resampled: bool) -> Trace:
    if trace.closed:
        raise TraceError(
            f"capacity needs arrivals at a given rate, but those of trace {trace.name!r} wait for "
            "answers; leave the closed loop out, or compare runs at several concurrencies"
        )
    if len(trace) < 2 or trace.span_s <= 0:
        got = f"got {len(trace)} within {trace.span_s:g} s"
        raise TraceError(
            f"trace {trace.name!r} must have requests at two instants at least to have an arrival "
            f"rate, {got}{' in a resample; take it as it is (--no-resample-trace)' * resampled}"
        )
    return trace


def _check(
    schedulers: Sequence[str], scenario: Scenario, search: str, tolerance: float, n_draws: int
) -> None:
    check_distinct(schedulers)
    for name in schedulers:
        replace(scenario, scheduler=name).check()  # a wrong name ends here, not after a run
    if search not in get_args(Search):
        raise ValueError(f"search must be one of {', '.join(get_args(Search))}; got {search!r}")
    n_gpus = scenario.hardware.n_gpus
    if search == "rate" and not math.isfinite(n_gpus):
        raise ValueError(f"n_gpus must be finite and >= 1 to have a capacity, got {n_gpus:g}")
    if not LEAST_TOLERANCE <= tolerance < 1:
        raise ValueError(
            f"tolerance must be in [{LEAST_TOLERANCE:g}, 1), got {tolerance:g}; 0.02 is 2 %"
        )
    check_draws(scenario.resolved_hardware(), n_draws)
    if n_draws and search == "gpus":
        raise ValueError(
            f"draws of the latency need search 'rate', got {n_draws} with 'gpus'; GPUs are whole "
            "numbers, and whether they suffice is said per replication"
        )
