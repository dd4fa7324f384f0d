"""The runs behind a capacity search, one task per scheduler and replication, in any process.

A task depends on nothing but itself and the scenario, so the number of processes cannot change a
result; a value that a task already knows is never run again.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal

import numpy as np

from llmsched.latency.base import LatencyModel
from llmsched.simulation.beliefs import BinnedPrediction, predict_bins
from llmsched.simulation.capacity.search import next_gpus, next_rate
from llmsched.simulation.scenario import Scenario
from llmsched.simulation.simulate import Run, serve
from llmsched.simulation.workers import pool
from llmsched.workload.trace import Trace
from llmsched.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """Everything that the runs of a search share."""

    scenario: Scenario  # with a trace for a workload where all replications have the same requests
    first: Trace  # the requests of the first replication
    metric: str
    at_most: float
    tolerance: float
    search: Literal["rate", "gpus"]
    draws: tuple[LatencyModel, ...] = ()  # of the latency, which is what schedulers believe in

    def of(self, scheduler: str, seed: int | None = None) -> Scenario:
        """The scenario of one replication of a scheduler."""
        chosen = self.scenario.seed if seed is None else seed
        return replace(self.scenario, scheduler=scheduler, seed=chosen)

    def trace(self, seed: int) -> Trace:
        """The requests of a replication, at the rate of the workload."""
        workload = self.scenario.workload
        if seed == self.scenario.seed or not isinstance(workload, Workload):
            return self.first
        return workload.load(seed) if workload.random else self.first


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


def run_task(task: Task, plan: SearchPlan) -> _Done:
    """All tests of the replication, known ones first, and the warnings of the new runs."""
    trace = plan.trace(task.seed)
    points = dict(task.known)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for value in task.values:
            if value not in points:
                points[value] = _test(value, task, trace, plan)
        while task.search and (more := _next(points, task, trace, plan)) is not None:
            points[more] = _test(more, task, trace, plan)
    return points, [(one.category, str(one.message)) for one in caught]


def _next(
    points: Mapping[float, Point], task: Task, trace: Trace, plan: SearchPlan
) -> float | None:
    """The value to test next: the workload's own rate (or 1 GPU) first, it tells the load."""
    by_rate = plan.search == "rate"
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
    passes = {value: point.metric <= plan.at_most for value, point in points.items()}
    if by_rate:
        return next_rate(passes, start=start, tolerance=plan.tolerance)
    return next_gpus(passes, start=int(start), n_requests=len(trace))


def _test(value: float, task: Task, trace: Trace, plan: SearchPlan) -> Point:
    """One run at this arrival rate [requests/s], or on so many GPUs."""
    scenario = plan.of(task.scheduler, task.seed)
    if plan.search == "rate":
        trace = at_rate(trace, value)
    else:
        scenario = scenario.on(int(value) if value < math.inf else value)
    if task.draw is None:
        run = serve(scenario, trace)
    else:
        run = serve(
            scenario, trace, latency=plan.draws[task.draw], prediction=_believed(scenario, trace)
        )
    return Point(_metric(run, plan.metric), run.offered_load)


def _believed(scenario: Scenario, trace: Trace) -> BinnedPrediction:
    """Bins as of the fitted latency: a scheduler does not know the draw."""
    return predict_bins(
        trace,
        scenario.policy(),
        scenario.predictor_object(),
        scenario.binning,
        scenario.hardware.resolved().latency,
        scenario.seed,
    )


def at_rate(trace: Trace, rate_per_s: float) -> Trace:
    """The same requests from time 0 on, so scaled that requests / span is this [requests/s]."""
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
    """The pool that works on tasks.

    Warnings come back with the results and are given once per kind, whatever numbers they hold.
    """

    def __init__(
        self, plan: SearchPlan, jobs: int, on_progress: Callable[[float], None] | None = None
    ) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._progress = 0.0
        self._warned: dict[tuple[type[Warning], str], list[str]] = {}
        self._stack = ExitStack()
        self._pool = self._stack.enter_context(pool(jobs=jobs))

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if kind is None:
            self._warn()

    def done(self, tasks: list[Task], *, until: float) -> list[dict[float, Point]]:
        """The tests of each task, in order; `until` is the share of all work done with them."""
        results: dict[int, _Done] = {}
        step = (until - self._progress) / max(len(tasks), 1)
        for number, done in self._pool.results(_run, [(task, self._plan) for task in tasks]):
            results[number] = done
            self._progress += step
            if self._on_progress is not None:
                self._on_progress(self._progress)
        found = []
        for _, (points, warned) in sorted(results.items()):
            found.append(points)
            for category, text in warned:
                self._warned.setdefault((category, re.sub(r"[\d.,]+", "#", text)), []).append(text)
        return found

    def _warn(self) -> None:
        for (category, _), texts in self._warned.items():
            more = f" (one of {len(texts)} runs that say so)" if len(texts) > 1 else ""
            warnings.warn(texts[0] + more, category, stacklevel=4)


def _run(asked: tuple[Task, SearchPlan]) -> _Done:
    return run_task(*asked)
