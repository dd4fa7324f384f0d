"""One run of the batch level: whole batches, from start to finish."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from llmsched._util.options import plain_values
from llmsched._util.types import IntArray
from llmsched._util.version import __version__
from llmsched.engine.batch.run import run_engine
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.latency.base import LatencyModel, Shape
from llmsched.latency.registry import warn_outside
from llmsched.metrics.load import load_label, memory_best_batch, offered_load
from llmsched.metrics.run import metrics
from llmsched.schedulers.scheduler import Scheduler
from llmsched.simulation.beliefs import BinnedPrediction, scheduler_binning
from llmsched.simulation.hardware import ResolvedHardware
from llmsched.simulation.run import BatchRun
from llmsched.simulation.scenario import Scenario
from llmsched.workload.trace import Trace


def serve_batches(
    scenario: Scenario,
    trace: Trace,
    policy: Scheduler,
    prediction: BinnedPrediction,
    *,
    model: LatencyModel,
    progress: Callable[[int], None] | None = None,
) -> BatchRun:
    """One run of the batch level, on batches that take what `model` says."""
    hardware = scenario.resolved_hardware()
    if policy.release is not None and scenario.admission != "together":
        warnings.warn(
            f"admission makes no difference to {scenario.scheduler_name}: arrivals form its "
            "batches, whatever a GPU sees",
            stacklevel=4,
        )
    bins, n_bins = prediction.bins, len(prediction.edges) + 1
    requests, batches = run_engine(
        trace,
        bins,
        n_bins,
        policy,
        n_gpus=hardware.n_gpus,
        latency=model,
        admission=scenario.admission,
        predicted_tokens=prediction.tokens,
        predicted_alone_s=prediction.alone_s,
        progress=progress,
    )
    warn_outside(model, _shapes(batches), stacklevel=5)
    rho = _offered_load(trace, requests, bins, n_bins, policy, model, hardware.n_gpus)
    return BatchRun(
        scheduler=scenario.scheduler_name,
        trace_name=trace.name,
        seed=scenario.seed,
        requests=requests,
        batches=batches,
        metrics=metrics(
            requests,
            batches,
            n_gpus=hardware.n_gpus,
            sla_s=scenario.sla_s,
            n_bins=n_bins,
            kv_bytes_per_token=hardware.llm.kv_bytes_per_token,
        ),
        edges=prediction.edges,
        offered_load=rho,
        load_label=load_label(rho, requests, batches),
        latency=model,
        predictor=scenario.predictor_object().name,
        config=_config(scenario, trace, policy, hardware),
    )


def _config(
    scenario: Scenario, trace: Trace, policy: Scheduler, hardware: ResolvedHardware
) -> dict[str, Any]:
    """What a result must say of its making, beside the names that it carries anyway."""
    binning = scheduler_binning(policy, scenario.binning)
    return {
        "version": __version__,
        "admission": scenario.admission,
        **plain_values(scenario.settings),
        "slo": plain_values(scenario.slo),
        "binning": asdict(binning) if policy.binned else None,
        "gpu": hardware.gpu.name,
        "llm": hardware.llm.name,
        "capacity_tokens": scenario.settings.capacity_tokens or hardware.capacity_tokens,
        "workload": trace.recipe,
        "left_out": [list(rule) for rule in trace.left_out],
    }


def _shapes(batches: BatchTable) -> Shape:
    return Shape(
        size=batches.size,
        max_total_tokens=batches.max_total_tokens,
        max_prompt_tokens=batches.max_prompt_tokens,
        max_output_tokens=batches.max_output_tokens,
    )


def _offered_load(
    trace: Trace,
    requests: RequestTable,
    bins: IntArray,
    n_bins: int,
    policy: Scheduler,
    latency: LatencyModel,
    n_gpus: float,
) -> float:
    """ρ of the requests that the engine accepts, at the scheduler's largest batch."""
    best: int | IntArray = policy.batch_max
    if trace.closed:
        order = np.argsort(requests.arrival_s, kind="stable")
        trace, bins = trace.arrived(requests.arrival_s), bins[order]
    fits = trace.total_tokens <= policy.capacity_tokens
    if not fits.all():
        trace, bins = trace.take(fits), bins[fits]
    if math.isfinite(policy.capacity_tokens):
        best = memory_best_batch(
            trace,
            bins,
            n_bins=n_bins,
            kv_capacity_tokens=policy.capacity_tokens,
            batch_max=policy.batch_max,
        )
    return offered_load(trace, bins, n_bins=n_bins, best_batch=best, latency=latency, n_gpus=n_gpus)
