"""One simulation: predict lengths, bin the requests, serve them on GPUs, measure what came out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmsched._util.types import FloatArray, IntArray
from llmsched.engine.admission import Admission
from llmsched.engine.batch.run import run_engine
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.hardware import DEFAULT_MODEL, ModelSpec
from llmsched.latency.base import LatencyModel, Shape
from llmsched.latency.registry import load_latency, warn_outside
from llmsched.metrics.load import LoadLabel, load_label, memory_best_batch, offered_load
from llmsched.metrics.run import Metrics, metrics
from llmsched.prediction.binning import Binning
from llmsched.prediction.predictors import Predictor, predictor_from_spec
from llmsched.schedulers.base import Scheduler
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.settings import Settings
from llmsched.simulation.beliefs import (
    BinnedPrediction,
    as_binning,
    predict_bins,
    scheduler_binning,
)
from llmsched.workload.trace import Trace, TraceError
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
    latency: LatencyModel
    predictor: str
    config: Mapping[str, Any]  # settings, bins, workload: what it takes to run it again

    def to_dict(self) -> dict[str, Any]:
        """The run as one JSON object: figures of merit, load, and what produced them."""
        rho = self.offered_load
        return {
            "scheduler": self.scheduler,
            **self.metrics.to_dict(),
            "offered_load": rho if math.isfinite(rho) else None,
            "load_label": self.load_label,
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
    trace: Trace | Workload | str,
    scheduler: str = "multi_bin_dynamic",
    *,
    n_gpus: float = 4,
    latency: LatencyModel | str = "reference",
    predictor: Predictor | str = "noisy",
    binning: Binning | int | str = 4,
    settings: Settings | None = None,
    admission: Admission = "together",
    seed: int = 0,
    llm: ModelSpec = DEFAULT_MODEL,
    prediction: BinnedPrediction | None = None,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Serve a workload with one scheduler and measure it.

    Parameters
    ----------
    trace : Trace, Workload or str
        The requests; a text is a trace file or a profile, at the default rate scaling.
    scheduler : str
        A name of `llmsched.schedulers.registry.SCHEDULERS`.
    n_gpus : int, or infinity
        Identical GPUs.
    latency : LatencyModel or str
        Service time of a batch: a model, a name, or a grid file.
    predictor : Predictor or str
        What the scheduler believes about output lengths.
    binning : Binning, int or str
        Bins of the schedulers that have them; an int asks for so many of equal mass, a text is
        what `Binning.parse` takes.
    settings : Settings, optional
        SLA, batch sizes, controller and memory rule.
    admission : {"together", "one-by-one"}
        What a waiting GPU sees of arrivals at one instant.
    seed : int
        Root seed of the workload and of the predictor's noise.
    llm : ModelSpec
        Model that is served; its KV bytes per token turn tokens into bytes.
    prediction : BinnedPrediction, optional
        What `predict_bins` gave for this trace, scheduler, predictor, binning and seed, so that
        many runs can share it; by default it is made here.
    progress : callable, optional
        Called now and then with the number of requests whose service has begun.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If an argument is out of range or names nothing known.
    TraceError
        If the workload cannot be read or is empty.

    Examples
    --------
    >>> from llmsched import Workload, simulate
    >>> run = simulate(Workload(requests=500), "static_fifo", n_gpus=2)
    >>> run.metrics.completed
    500
    """
    settings = settings or Settings()
    trace = _loaded(trace, seed)
    model = load_latency(latency) if isinstance(latency, str) else latency
    believer = predictor_from_spec(predictor) if isinstance(predictor, str) else predictor
    policy = make_scheduler(scheduler, settings)
    binning = as_binning(binning)
    if policy.release is not None and admission != "together":
        warnings.warn(
            f"admission makes no difference to {scheduler}: arrivals form its batches, whatever a "
            "GPU sees",
            stacklevel=2,
        )
    if prediction is None:
        prediction = predict_bins(trace, policy, believer, binning, model, seed)
    bins, n_bins = prediction.bins, len(prediction.edges) + 1
    requests, batches = run_engine(
        trace,
        bins,
        n_bins,
        policy,
        n_gpus=n_gpus,
        latency=model,
        admission=admission,
        predicted_tokens=prediction.tokens,
        progress=progress,
    )
    warn_outside(model, _shapes(batches), stacklevel=3)
    rho = _offered_load(trace, requests, bins, n_bins, policy, model, n_gpus)
    return Run(
        scheduler=scheduler,
        trace_name=trace.name,
        seed=seed,
        requests=requests,
        batches=batches,
        metrics=metrics(
            requests,
            batches,
            n_gpus=n_gpus,
            sla_s=settings.sla_s,
            n_bins=n_bins,
            kv_bytes_per_token=llm.kv_bytes_per_token,
        ),
        edges=prediction.edges,
        offered_load=rho,
        load_label=load_label(rho, requests, batches),
        latency=model,
        predictor=believer.name,
        config=_config(trace, settings, policy, scheduler_binning(policy, binning), admission, llm),
    )


def _config(
    trace: Trace,
    settings: Settings,
    policy: Scheduler,
    binning: Binning,
    admission: Admission,
    llm: ModelSpec,
) -> dict[str, Any]:
    """What a result must say of its making, beside the names that it carries anyway."""
    from llmsched._util.version import __version__

    return {
        "version": __version__,
        "admission": admission,
        **asdict(settings),
        "binning": asdict(binning) if policy.binned else None,
        "llm": llm.name,
        "workload": trace.recipe,
        "left_out": [list(rule) for rule in trace.left_out],
    }


def _loaded(trace: Trace | Workload | str, seed: int) -> Trace:
    if isinstance(trace, str):
        trace = Workload(source=trace)
    if isinstance(trace, Workload):
        trace = trace.load(seed)
    if not len(trace):
        raise TraceError(f"trace {trace.name!r} must hold at least one request, got none")
    return trace


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
