"""The runs behind a capacity search, one task per scheduler and replication, in any process.

A task depends on nothing but itself and the scenario, so the number of processes cannot change a
result; a value that a task already knows is never run again.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal

import numpy as np

from llmsched.engine.admission import Admission
from llmsched.latency.base import LatencyModel
from llmsched.prediction.binning import Binning
from llmsched.prediction.predictors import Predictor
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.settings import Settings
from llmsched.simulation.beliefs import BinnedPrediction, as_binning, predict_bins
from llmsched.simulation.capacity.search import next_gpus, next_rate
from llmsched.simulation.simulate import Run, simulate
from llmsched.workload.trace import Trace
from llmsched.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that the runs of a search share."""

    requests: Workload | None  # to be drawn anew in each replication; None: `first` in all
    first: Trace
    first_seed: int
    metric: str
    at_most: float
    tolerance: float
    search: Literal["rate", "gpus"]
    n_gpus: int
    latency: LatencyModel
    predictor: Predictor
    binning: Binning | int | str
    settings: Settings
    admission: Admission
    draws: tuple[LatencyModel, ...] = ()  # of the latency, which is what schedulers believe in

    def random(self, scheduler: str) -> bool:
        """Whether another seed gives another run."""
        binned = make_scheduler(scheduler, self.settings).binned
        return self.requests is not None or (binned and self.predictor.random)

    def trace(self, seed: int) -> Trace:
        """The requests of a replication, at the rate of the workload."""
        if self.requests is None or seed == self.first_seed:
            return self.first
        return self.requests.load(seed)


@dataclass(frozen=True, slots=True)
class Point:
    """What one run gave."""

    metric: float  # NaN never: without a completed request a latency is infinite
    offered_load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One replication of one scheduler: run these values, then search on, if asked to."""

    scheduler: str
    seed: int
    known: Mapping[float, Point]
    values: tuple[float, ...]
    search: bool
    draw: int | None = None  # under this draw of the latency; None: as fitted
    start: float | None = None  # begin to search here instead of at offered load 1


_Warned = tuple[type[Warning], str]
_Done = tuple[dict[float, Point], list[_Warned]]


def run_task(task: Task, scenario: Scenario) -> _Done:
    """All tests of the replication, known ones first, and the warnings of the new runs."""
    trace = scenario.trace(task.seed)
    points = dict(task.known)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for value in task.values:
            if value not in points:
                points[value] = _test(value, task, trace, scenario)
        while task.search and (more := _next(points, task, trace, scenario)) is not None:
            points[more] = _test(more, task, trace, scenario)
    return points, [(one.category, str(one.message)) for one in caught]


def _next(
    points: Mapping[float, Point], task: Task, trace: Trace, scenario: Scenario
) -> float | None:
    """The value to test next: the workload's own rate (or 1 GPU) first, it tells the load."""
    by_rate = scenario.search == "rate"
    start = task.start
    if start is None:
        own = len(trace) / trace.span_s if by_rate else 1.0
        if own not in points:
            return own
        load = points[own].offered_load
        if by_rate:
            start = own / load if 0 < load < math.inf else own
        else:
            start = min(max(1, math.ceil(load)), len(trace))
    passes = {value: point.metric <= scenario.at_most for value, point in points.items()}
    if by_rate:
        return next_rate(passes, start=start, tolerance=scenario.tolerance)
    return next_gpus(passes, start=int(start), n_requests=len(trace))


def _test(value: float, task: Task, trace: Trace, scenario: Scenario) -> Point:
    """One run at this arrival rate [requests/s], or on so many GPUs."""
    n_gpus: float = scenario.n_gpus
    if scenario.search == "rate":
        trace = at_rate(trace, value)
    else:
        n_gpus = int(value) if value < math.inf else value
    latency = scenario.latency if task.draw is None else scenario.draws[task.draw]
    run = simulate(
        trace,
        task.scheduler,
        n_gpus=n_gpus,
        latency=latency,
        predictor=scenario.predictor,
        binning=scenario.binning,
        settings=scenario.settings,
        admission=scenario.admission,
        seed=task.seed,
        prediction=None if task.draw is None else _believed(task, trace, scenario),
    )
    return Point(_metric(run, scenario.metric), run.offered_load)


def _believed(task: Task, trace: Trace, scenario: Scenario) -> BinnedPrediction:
    """Bins as of the fitted latency: a scheduler does not know the draw."""
    policy = make_scheduler(task.scheduler, scenario.settings)
    binning = as_binning(scenario.binning)
    return predict_bins(trace, policy, scenario.predictor, binning, scenario.latency, task.seed)


def at_rate(trace: Trace, rate_per_s: float) -> Trace:
    """The same requests from time 0 on, so scaled that requests / span is this [requests/s]."""
    if trace.closed:
        raise ValueError(
            f"capacity needs arrivals at a given rate, but those of trace {trace.name!r} wait for "
            "answers; leave the closed loop out, or compare runs at several concurrencies"
        )
    own = len(trace) / trace.span_s
    return replace(trace, arrival_s=(trace.arrival_s - trace.arrival_s[0]) * (own / rate_per_s))


def _metric(run: Run, metric: str) -> float:
    if metric == "sla_violation_rate" or not run.metrics.rejected:
        return float(getattr(run.metrics, metric))
    latency_s = np.full(len(run.requests), math.inf)  # a rejected request never finishes
    done = run.requests.completed
    latency_s[done] = run.requests.finish_s[done] - run.requests.arrival_s[done]
    percent = {"latency_p95_s": 95, "latency_p99_s": 99}[metric]
    return float(np.percentile(latency_s, percent, method="higher"))  # never between inf and inf


class Workers:
    """Processes that work on tasks; with one job there are none, and the work is done here.

    Spawned everywhere: forking a process that has threads, as a progress bar has, may deadlock.
    Warnings come back with the results and are given once per kind, whatever numbers they hold.
    """

    def __init__(
        self, scenario: Scenario, jobs: int, on_progress: Callable[[float], None] | None = None
    ) -> None:
        self._scenario = scenario
        self._on_progress = on_progress
        self._progress = 0.0
        self._warned: dict[tuple[type[Warning], str], list[str]] = {}
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            self._pool = ProcessPoolExecutor(
                jobs,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(scenario,),
            )

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if kind is None:
            self._warn()

    def done(self, tasks: list[Task], *, until: float) -> list[dict[float, Point]]:
        """The tests of each task, in order; `until` is the share of all work done with them."""
        results: Iterable[_Done]
        if self._pool is None:
            results = (run_task(task, self._scenario) for task in tasks)
        else:
            results = self._pool.map(_run_here, tasks)
        found, step = [], (until - self._progress) / max(len(tasks), 1)
        for points, warned in results:
            found.append(points)
            for category, text in warned:
                self._warned.setdefault((category, re.sub(r"[\d.,]+", "#", text)), []).append(text)
            self._progress += step
            if self._on_progress is not None:
                self._on_progress(self._progress)
        return found

    def _warn(self) -> None:
        for (category, _), texts in self._warned.items():
            more = f" (one of {len(texts)} runs that say so)" if len(texts) > 1 else ""
            warnings.warn(texts[0] + more, category, stacklevel=4)


_here: list[Scenario] = []  # in a spawned process: what its tasks share, sent once


def _begin(scenario: Scenario) -> None:
    _here[:] = [scenario]


def _run_here(task: Task) -> _Done:
    return run_task(task, _here[0])
