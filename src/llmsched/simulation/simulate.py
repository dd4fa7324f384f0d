"""One simulation: predict lengths, bin the requests, serve them on GPUs, measure what came out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Unpack

from llmsched._util.options import plain_values
from llmsched._util.types import FloatArray
from llmsched._util.version import __version__
from llmsched.engine.batch.run import run_engine
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.latency.base import LatencyModel, Shape
from llmsched.latency.registry import Extrapolation, extrapolation, warn_outside
from llmsched.metrics.load import LoadLabel, load_label
from llmsched.metrics.run import Metrics, metrics
from llmsched.schedulers.base import Scheduler
from llmsched.schedulers.registry import SchedulerFactory
from llmsched.simulation.beliefs import BinnedPrediction, predict_bins, scheduler_binning
from llmsched.simulation.hardware import ResolvedHardware
from llmsched.simulation.held_load import policy_load
from llmsched.simulation.scenario import Parts, Scenario, as_scenario
from llmsched.workload.trace import Trace
from llmsched.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What one simulation was, and what came out of it."""

    scheduler: str
    trace_name: str
    seed: int
    requests: RequestTable
    batches: BatchTable
    metrics: Metrics
    edges: FloatArray  # bin edges, in the unit of what was binned
    offered_load: float  # ρ
    load_label: LoadLabel
    arrival_rate_rps: float  # (n - 1) / (last - first arrival); infinite where all come at once
    extrapolation: Extrapolation  # beyond the measured range of the latency model
    latency: LatencyModel
    predictor: str
    config: Mapping[str, Any]  # settings, bins, workload: what it takes to run it again

    def to_dict(self) -> dict[str, Any]:
        """The run as one JSON object: figures of merit, load, and what produced them."""
        return {
            "scheduler": self.scheduler,
            **self.metrics.to_dict(),
            "offered_load": _finite(self.offered_load),
            "load_label": self.load_label,
            "arrival_rate_rps": _finite(self.arrival_rate_rps),
            "extrapolated_share": self.extrapolation.share,
            "extrapolated_times": self.extrapolation.times,
            "extrapolated_axis": self.extrapolation.axis,
            "bin_edges": self.edges.tolist(),
            "latency_model": self.latency.name,
            "latency_kind": self.latency.kind,
            "latency_description": self.latency.describe(),
            "predictor": self.predictor,
            "trace": self.trace_name,
            "seed": self.seed,
            "config": dict(self.config),
        }


def simulate(
    scenario: Scenario | Workload | Trace | str,
    scheduler: str | SchedulerFactory | Scheduler | None = None,
    *,
    prediction: BinnedPrediction | None = None,
    progress: Callable[[int], None] | None = None,
    **parts: Unpack[Parts],
) -> Run:
    """Serve a workload with one scheduler and measure it.

    Parameters
    ----------
    scenario : Scenario, Workload, Trace or str
        What is run; of a workload, or the name of one, the rest is as `Scenario` has it.
    scheduler : str, function or Scheduler, optional
        In place of the scenario's: a registered name, or your own.
    prediction : BinnedPrediction, optional
        What `predict_bins` gave for this scenario, so that many runs can share it; by default it
        is made here.
    progress : callable, optional
        Called now and then with the number of requests whose service has begun.
    **parts
        Parts in place of the scenario's: `n_gpus`, `latency`, `gpu`, `llm`, `predictor`,
        `binning`, `settings`, `slo`, `admission`, `seed`.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If a part is out of range, names nothing known, or contradicts another.
    TraceError
        If the workload cannot be read or is empty.

    Examples
    --------
    >>> from llmsched import Workload, simulate
    >>> run = simulate(Workload(requests=500), "static_fifo", n_gpus=2)
    >>> run.metrics.completed
    500
    """
    whole = as_scenario(scenario, scheduler, **parts)
    return serve(whole, whole.requests(), prediction=prediction, progress=progress)


def serve(
    scenario: Scenario,
    trace: Trace,
    *,
    prediction: BinnedPrediction | None = None,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """One run on requests that are there already.

    Parameters
    ----------
    scenario : Scenario
        How they are served; its workload is not read.
    trace : Trace
        The requests.

    The other parameters are those of `simulate`.
    """
    hardware, policy = scenario.hardware.resolved(), scenario.policy()
    predictor = scenario.predictor_object()
    if policy.release is not None and scenario.admission != "together":
        warnings.warn(
            f"admission makes no difference to {scenario.scheduler_name}: arrivals form its "
            "batches, whatever a GPU sees",
            stacklevel=3,
        )
    if prediction is None:
        prediction = predict_bins(
            trace, policy, predictor, scenario.binning, hardware.latency, scenario.seed
        )
    model = hardware.true_latency
    capacity_tokens = scenario.settings.capacity_tokens or hardware.capacity_tokens
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
        progress=progress,
    )
    shapes = _shapes(batches)
    if hardware.drawn is None:  # once is enough
        warn_outside(model, shapes, stacklevel=4)
    rho = policy_load(trace, bins, n_bins, policy, model, hardware.n_gpus)
    return Run(
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
            kv_capacity_tokens=capacity_tokens,
        ),
        edges=prediction.edges,
        offered_load=rho,
        load_label=load_label(rho, requests, batches, n_gpus=hardware.n_gpus),
        arrival_rate_rps=trace.arrival_rate_per_s,
        extrapolation=extrapolation(model, shapes),
        latency=model,
        predictor=predictor.name,
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
