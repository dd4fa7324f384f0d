"""Where the runs of a sweep are computed: this process, the cores of this machine, a Ray cluster.

A backend maps `execute` over tasks and gives the outcomes as they finish; the numbers do not
depend on it. Whoever calls it writes the results, so a cluster needs no shared disk for them.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import dataclass, replace
from itertools import islice
from logging import ERROR
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmsched.simulation.beliefs import predict_bins, scheduler_binning
from llmsched.simulation.scenario import (
    Scenario,
    content_key,
    latency_content,
    source_sha256,
    workload_content,
)
from llmsched.simulation.simulate import Run, serve
from llmsched.simulation.sweep.cache import (
    Prepared,
    cached_prediction,
    cached_trace,
    recorded_warnings,
)
from llmsched.workload.prepare import at_scale
from llmsched.workload.trace import Trace, TraceError

Backend = Literal["local", "ray"]
N_QUANTILES = 201  # of latency: every half per cent, both ends included


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run to do, for a process that may be on another machine."""

    key: str
    config: Scenario  # with absolute paths
    cache: Path
    source_sha256: str | None  # of the trace file, where the sweep was started


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a task: the columns of a finished run, or why it failed."""

    key: str
    columns: Mapping[str, Any] | None
    error: str | None
    details: str | None  # the traceback
    wall_s: float


def execute(task: Task) -> Outcome:
    """Do one run; whatever goes wrong in it is its outcome, and the sweep goes on."""
    started_s = time.perf_counter()
    columns: Mapping[str, Any] | None = None
    error = details = None
    try:
        columns = _columns(task)
    except Exception as problem:  # recorded with the run: the other runs still count
        error = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
        details = traceback.format_exc()
    wall_s = time.perf_counter() - started_s
    return Outcome(key=task.key, columns=columns, error=error, details=details, wall_s=wall_s)


def _columns(task: Task) -> dict[str, Any]:
    scenario = task.config
    trace = _trace(task)
    policy, predictor = scenario.policy(), scenario.predictor_object()
    hardware = scenario.hardware.resolved()
    binning = scheduler_binning(policy, scenario.binning)
    by_service = None
    if binning.by == "service":
        by_service = latency_content(str(scenario.hardware.latency))
    prediction = cached_prediction(
        task.cache,
        content_key(
            {
                "trace": trace.sha256,
                "predictor": predictor.name,
                "seed": scenario.seed if predictor.random else None,
                "binned": policy.binned,
                "binning": {name: getattr(binning, name) for name in binning.__slots__},
                "latency": by_service,
            }
        ),
        lambda: predict_bins(
            trace.value, policy, predictor, scenario.binning, hardware.latency, scenario.seed
        ),
    )
    with recorded_warnings() as notes:
        run = serve(scenario, trace.value, prediction=prediction.value)
    return {
        **run.to_dict(),
        "latency_quantiles_s": _latency_quantiles_s(run),
        "batch_size_counts": np.bincount(run.batches.size).tolist(),
        "notes": list(dict.fromkeys([*trace.notes, *prediction.notes, *notes])),
        "trace_sha256": trace.sha256,
    }


def _trace(task: Task) -> Prepared[Trace]:
    """The requests, kept once for all rates: scaling divides the arrival times, and is done here.

    The checksum is that of the requests and the rate together.
    """
    workload, seed = task.config.recipe(), task.config.seed
    in_real_time = replace(workload, rps_scale=1.0)

    def load() -> Trace:
        here = source_sha256(workload)
        if here != task.source_sha256:
            raise TraceError(
                f"{workload.source}: must be the file that the sweep was started with, got "
                "another content on this machine; copy it there"
            )
        trace = in_real_time.load(seed)
        if not len(trace):
            raise TraceError(f"trace {trace.name!r} must hold at least one request, got none")
        return trace

    content = {
        "workload": workload_content(in_real_time),
        "seed": seed if workload.random else None,
    }
    kept = cached_trace(task.cache, content_key(content), load)
    if workload.rps_scale == 1:
        return kept
    return Prepared(
        value=at_scale(kept.value, workload.rps_scale),
        sha256=content_key({"requests": kept.sha256, "rps_scale": workload.rps_scale}),
        notes=kept.notes,
    )


def _latency_quantiles_s(run: Run) -> list[float]:
    """Latency at the quantiles 0, 0.005, ..., 1 of the completed requests; empty if none."""
    served = run.requests.completed
    latency_s = run.requests.finish_s[served] - run.requests.arrival_s[served]
    if not len(latency_s):
        return []
    levels = np.linspace(0.0, 1.0, N_QUANTILES)
    values: list[float] = np.quantile(latency_s, levels, overwrite_input=True).tolist()
    return values


def run_local(tasks: Sequence[Task], *, jobs: int | None = None) -> Iterator[Outcome]:
    """Over the cores of this machine; one job runs in this very process."""
    import joblib

    n_jobs = min(joblib.cpu_count() if jobs is None else jobs, len(tasks))
    if n_jobs <= 1:
        yield from map(execute, tasks)
        return
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # an executor of its own, not joblib's shared one: its workers' memory goes when it is done
    executor = ProcessPoolExecutor(
        max_workers=n_jobs, timeout=300, initializer=_end_with_parent, initargs=(os.getpid(),)
    )
    try:
        yield from _in_flight(executor, tasks, n_jobs + 1)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"{n_jobs} worker processes must live until the sweep is done, but one was killed, "
            "most often for want of memory; finished runs are kept: go on with fewer jobs"
        ) from error
    finally:
        executor.shutdown(wait=True, kill_workers=True)


def _in_flight(executor: Executor, tasks: Sequence[Task], most: int) -> Iterator[Outcome]:
    """The outcomes as they come, with so many tasks handed over at a time.

    Loky's own thread fails on tasks that still queue when Ctrl-C ends it.
    """
    waiting = iter(tasks)
    running = {executor.submit(execute, task) for task in islice(waiting, most)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {executor.submit(execute, task) for task in islice(waiting, len(done))}
        for future in done:
            yield future.result()


def _end_with_parent(parent: int) -> None:
    """Let a worker end soon after a sweep that was killed: loky's would wait on, memory and all.

    Ctrl-C reaches every process of a terminal; the parent ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if sys.platform != "win32":  # there an orphan keeps its parent's number; it ends when idle
        threading.Thread(target=watch, daemon=True).start()


def run_ray(
    tasks: Sequence[Task], *, jobs: int | None = None, address: str | None = None
) -> Iterator[Outcome]:
    """Over a Ray cluster, or a local one that is started here and stopped when done."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("backend 'ray' must have Ray; pip install 'llmsched[ray]'") from error
    started = not ray.is_initialized()
    if started and address is None:
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=ERROR)
    elif started:
        _check_reachable(str(address))
        ray.init(address=address, log_to_driver=False, logging_level=ERROR)
    try:
        remote = ray.remote(num_cpus=1, max_retries=0)(execute)
        running = {remote.remote(task): task for task in tasks}
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:  # the worker itself died
                yield Outcome(
                    key=task.key, columns=None, error=f"{error}", details=None, wall_s=math.nan
                )
    finally:
        if started:
            ray.shutdown()


_REACH_S = 5.0  # a cluster that does not take a connection within this is not there


def _check_reachable(address: str) -> None:
    """Fail where nothing listens at HOST:PORT: Ray itself would try again for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # such as `auto`: Ray knows where to look, or says so at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"address must be that of a running Ray cluster, got {address!r}, where nothing "
            f"answers ({error}); start one with `ray start --head`, or leave the address out"
        ) from None
