"""One run of many, as a task for any process: a scenario in, the row of a result table out."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmsched._util.streams import Streams
from llmsched.simulation.beliefs import BinnedPrediction, predict_bins, scheduler_binning
from llmsched.simulation.keys import (
    content_key,
    hardware_content,
    part_content,
    source_sha256,
    trace_sha256,
    workload_content,
)
from llmsched.simulation.run import BatchRun, Run
from llmsched.simulation.scenario import Scenario
from llmsched.simulation.simulate import serve
from llmsched.simulation.sweep.cache import (
    Prepared,
    cached_prediction,
    cached_trace,
    recorded_warnings,
)
from llmsched.workload.prepare import at_scale
from llmsched.workload.resample import resampled
from llmsched.workload.trace import Trace, TraceError
from llmsched.workload.workload import DEFAULT_REQUESTS, Workload

N_QUANTILES = 201  # of latency: every half per cent, both ends included
ON_DISK = 20_000  # requests from which on a workload is worth a file that processes share


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTask:
    """One run to do, for a process that may be on another machine."""

    key: str
    scenario: Scenario  # with absolute paths
    cache: Path | None  # where processes share large workloads
    source_sha256: str | None  # of the trace file, where the sweep was started
    keep_failure: bool = True  # what goes wrong is the run's outcome; else it is raised


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a task: the columns of a finished run, or why it failed."""

    key: str
    columns: Mapping[str, Any] | None
    error: str | None
    details: str | None  # the traceback
    wall_s: float


def execute(task: RunTask) -> Outcome:
    """Do one run; what goes wrong in it is its outcome, if that is asked for, and others go on.

    Raises
    ------
    OSError, MemoryError
        A fault of the machine is none of the run: it ends the sweep and is never recorded.
    """
    started_s = time.perf_counter()
    columns: Mapping[str, Any] | None = None
    error = details = None
    try:
        columns = row_of(task)
    except (OSError, MemoryError):
        raise
    except Exception as problem:  # recorded with the run: the other runs still count
        if not task.keep_failure:
            raise
        error = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
        details = traceback.format_exc()
    wall_s = time.perf_counter() - started_s
    return Outcome(key=task.key, columns=columns, error=error, details=details, wall_s=wall_s)


def row_of(task: RunTask) -> dict[str, Any]:
    """The figures of one run, with what tells it apart."""
    scenario = task.scenario
    trace, lengths_sha256 = _trace(task)
    prediction = _prediction(task, trace, lengths_sha256)
    with recorded_warnings() as notes:
        run = serve(scenario, trace.value, prediction=prediction.value)
    return {
        **run.to_dict(),
        "latency_quantiles_s": _latency_quantiles_s(run),
        "batch_size_counts": (
            np.bincount(run.batches.size).tolist() if isinstance(run, BatchRun) else None
        ),
        "notes": list(dict.fromkeys([*trace.notes, *prediction.notes, *notes])),
        "trace_sha256": trace.sha256,
    }


def about_requests(scenario: Scenario) -> float:
    """About how many requests a run has: its own number, or a guess from the file's size."""
    workload = scenario.workload
    if not isinstance(workload, Workload):
        return len(workload)
    if workload.requests is not None:
        return workload.requests
    if workload.synthetic:
        return DEFAULT_REQUESTS
    return Path(workload.source).stat().st_size / 40  # bytes of a request in a typical CSV


def _shared(task: RunTask) -> Path | None:
    return task.cache if about_requests(task.scenario) >= ON_DISK else None


def _trace(task: RunTask) -> tuple[Prepared[Trace], str]:
    """The requests, kept once for all rates: scaling divides the arrival times, and is done here.

    The checksum is that of the requests and the factor together. The other one that comes back is
    of what predictions are made of, the same at every rate.
    """
    scenario, workload = task.scenario, task.scenario.workload
    if not isinstance(workload, Workload):
        whole = trace_sha256(workload)
        return Prepared(value=scenario.requests(), sha256=whole, notes=()), whole
    kept = _in_real_time(task, workload)
    factor = scenario.rate_factor(kept.value)
    said = replace(at_scale(kept.value, factor), recipe=asdict(workload))
    if factor == 1:
        return replace(kept, value=said), kept.sha256
    sha256 = content_key({"requests": kept.sha256, "factor": factor})
    scaled = Prepared(value=said, sha256=sha256, notes=kept.notes)
    in_order = not kept.value.closed  # sessions that begin faster may change the order of turns
    return scaled, kept.sha256 if in_order else scaled.sha256


def _in_real_time(task: RunTask, workload: Workload) -> Prepared[Trace]:
    seed, recorded = task.scenario.seed, workload.in_real_time

    def load() -> Trace:
        here = source_sha256(workload)
        if here != task.source_sha256:
            raise TraceError(
                f"{workload.source}: must be the file that the sweep was started with, got "
                "another content on this machine; copy it there"
            )
        return replace(task.scenario, workload=recorded).requests(seed)

    plain = not workload.jitter_s and workload.concurrency is None
    if workload.resample and plain:  # the file is read once for all seeds
        whole = replace(recorded, resample=None)
        kept = _in_real_time(replace(task, scenario=replace(task.scenario, workload=whole)), whole)
        moved = resampled(kept.value, Streams.of_seed(seed).resampling)
        return Prepared(value=moved, sha256=trace_sha256(moved), notes=kept.notes)
    content = {
        "workload": workload_content(recorded),
        "seed": seed if workload.random else None,
    }
    return cached_trace(_shared(task), content_key(content), load)


def _prediction(
    task: RunTask, trace: Prepared[Trace], lengths_sha256: str
) -> Prepared[BinnedPrediction]:
    """What the scheduler believes, kept once for all rates and GPU counts."""
    scenario = task.scenario
    policy, predictor = scenario.policy(), scenario.predictor_object()
    binning = scheduler_binning(policy, scenario.binning)
    by_service = None
    if binning.by == "service":
        fitted = replace(scenario.hardware, draw=None)
        by_service = hardware_content(scenario.to_dict()["hardware"], fitted)
    content = {
        "trace": lengths_sha256,
        "predictor": predictor.name
        if isinstance(scenario.predictor, str)
        else part_content(scenario.predictor),
        "seed": scenario.seed if predictor.random else None,
        "binned": policy.binned,
        "binning": {name: getattr(binning, name) for name in binning.__slots__},
        "latency": by_service,
    }
    latency = scenario.hardware.resolved().latency
    return cached_prediction(
        _shared(task),
        content_key(content),
        lambda: predict_bins(
            trace.value, policy, predictor, scenario.binning, latency, scenario.seed
        ),
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
