"""One run of the iteration level: requests join and leave at every step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from llmsched._util.options import plain_values
from llmsched._util.version import __version__
from llmsched.engine.iteration.run import IterationRun, run_iteration_engine
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.latency.base import CalibrationWarning
from llmsched.latency.steps.base import StepLatency
from llmsched.metrics.load import step_load, step_load_label
from llmsched.metrics.tokens import token_metrics
from llmsched.schedulers.iteration.base import IterationScheduler
from llmsched.simulation.beliefs import BinnedPrediction, scheduler_binning
from llmsched.simulation.run import ContinuousRun
from llmsched.simulation.scenario import Scenario
from llmsched.workload.trace import Trace


def serve_steps(
    scenario: Scenario,
    trace: Trace,
    policy: IterationScheduler,
    prediction: BinnedPrediction,
    *,
    most_steps: int = 0,
    steps_window_s: tuple[float, float] = (-math.inf, math.inf),
    progress: Callable[[int], None] | None = None,
) -> ContinuousRun:
    """One run of the iteration level.

    Parameters
    ----------
    most_steps : int
        Rows of the step table to keep, over all replicas.
    steps_window_s : (float, float)
        Only steps that run inside of it are kept [s].

    The other parameters are those of `simulate`.
    """
    replica, n_replicas = scenario.replica(), int(scenario.hardware.n_gpus)
    hardware = scenario.resolved_hardware()
    step = hardware.true_steps()
    beyond = dict(step.outside())
    n_bins = len(prediction.edges) + 1
    found = run_iteration_engine(
        trace,
        replica,
        step,
        scheduler=policy,
        n_replicas=n_replicas,
        router=scenario.router_factory(),
        predicted_tokens=prediction.tokens,
        bins=prediction.bins,
        most_steps=-(-most_steps // n_replicas),
        steps_window_s=steps_window_s,
        progress=progress,
    )
    figures = token_metrics(found, scenario.slo, n_bins=n_bins)
    if hardware.draw is None:  # once is enough
        _warn_outside(step, beyond, figures.steps)
    rho = step_load(found.requests, replica, step, n_replicas)
    return ContinuousRun(
        scheduler=scenario.scheduler_name,
        trace_name=trace.name,
        seed=scenario.seed,
        requests=found.requests,
        replicas=found.replicas,
        steps=found.steps,
        spells=found.spells,
        metrics=figures,
        edges=prediction.edges,
        offered_load=rho,
        load_label=step_load_label(rho, found.requests, found.replicas),
        arrival_rate_rps=found.requests.arrival_rate_per_s,
        latency=step,
        predictor=scenario.predictor_object().name,
        config=_config(scenario, trace, policy, replica, found),
    )


def _config(
    scenario: Scenario,
    trace: Trace,
    policy: IterationScheduler,
    replica: IterationSettings,
    found: IterationRun,
) -> dict[str, Any]:
    """What a result must say of its making, beside the names that it carries anyway."""
    hardware = scenario.resolved_hardware()
    binning = scheduler_binning(policy, scenario.binning)
    return {
        "version": __version__,
        **plain_values(replica),
        "usable_blocks": found.settings.usable_blocks,
        "router": scenario.router_name,
        "rate": scenario.rate_words(trace),
        "slo": plain_values(scenario.slo),
        "binning": asdict(binning) if policy.binned else None,
        "gpu": hardware.gpu.name,
        "llm": hardware.llm.name,
        "gpus_per_model": hardware.gpus_per_model,
        "workload": trace.recipe,
        "left_out": [list(rule) for rule in trace.left_out],
    }


def _warn_outside(step: StepLatency, before: Mapping[str, int], n_steps: int) -> None:
    """Say in one line which steps of this run lie beyond what was measured."""
    counts = {how: n - before.get(how, 0) for how, n in step.outside().items()}
    counts = {how: n for how, n in counts.items() if n}
    if counts:
        parts = ", ".join(f"{n} with {how}" for how, n in counts.items())
        warnings.warn(
            f"some of {n_steps} steps lie beyond what step time {step.name!r} was measured at: "
            f"{parts}; their times are extrapolated",
            CalibrationWarning,
            stacklevel=5,
        )
