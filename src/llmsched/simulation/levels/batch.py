"""One run of the batch level: whole batches, from start to finish."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from llmsched._util.arrays import IntArray
from llmsched._util.options import plain_values
from llmsched._util.version import __version__
from llmsched.engine.batch.run import run_engine
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.latency.base import Shape
from llmsched.latency.registry import extrapolation, warn_outside
from llmsched.metrics.load import load_label
from llmsched.metrics.run import metrics
from llmsched.schedulers.scheduler import Scheduler
from llmsched.simulation.beliefs import BinnedPrediction, scheduler_binning
from llmsched.simulation.hardware import ResolvedHardware
from llmsched.simulation.held_load import policy_load
from llmsched.simulation.run import BatchRun
from llmsched.simulation.scenario import Scenario
from llmsched.workload.trace import Trace


def serve_batches(
    scenario: Scenario,
    trace: Trace,
    policy: Scheduler,
    prediction: BinnedPrediction,
    *,
    progress: Callable[[int], None] | None = None,
) -> BatchRun:
    """One run of the batch level, on batches that take the true latency."""
    hardware = scenario.resolved_hardware()
    model = hardware.true_latency
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
    shapes = _shapes(batches)
    if hardware.draw is None:  # once is enough
        warn_outside(model, shapes, stacklevel=5)
    came, came_in = _as_it_came(trace, requests, bins)
    rho = policy_load(came, came_in, n_bins, policy, model, hardware.n_gpus)
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
            kv_capacity_tokens=scenario.settings.capacity_tokens or hardware.capacity_tokens,
        ),
        edges=prediction.edges,
        offered_load=rho,
        load_label=load_label(rho, requests, batches, n_gpus=hardware.n_gpus),
        arrival_rate_rps=came.arrival_rate_per_s,
        extrapolation=extrapolation(model, shapes),
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
        "rate": scenario.rate_words(trace),
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


def _as_it_came(trace: Trace, requests: RequestTable, bins: IntArray) -> tuple[Trace, IntArray]:
    """The requests in the order and at the instants in which the run made them arrive."""
    if not trace.closed:
        return trace, bins
    order = np.argsort(requests.arrival_s, kind="stable")
    return trace.arrived(requests.arrival_s), bins[order]
