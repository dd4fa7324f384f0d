"""One simulation: predict lengths, bin the requests, serve them on GPUs, measure what came out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack

from llmsched.schedulers.scheduler import Scheduler
from llmsched.simulation.beliefs import BinnedPrediction, predict_bins
from llmsched.simulation.levels.batch import serve_batches
from llmsched.simulation.run import BatchRun, ContinuousRun, Run
from llmsched.simulation.scenario import Parts, Scenario, as_scenario
from llmsched.workload.trace import Trace
from llmsched.workload.workload import Workload

if TYPE_CHECKING:
    from llmsched.schedulers.iteration.base import IterationScheduler
    from llmsched.schedulers.registry import SchedulerSpec

__all__ = ["BatchRun", "ContinuousRun", "Run", "serve", "simulate"]


def simulate(
    scenario: Scenario | Workload | Trace | str,
    scheduler: SchedulerSpec | IterationScheduler | None = None,
    *,
    prediction: BinnedPrediction | None = None,
    most_steps: int = 0,
    steps_window_s: tuple[float, float] = (-math.inf, math.inf),
    progress: Callable[[int], None] | None = None,
    **parts: Unpack[Parts],
) -> Run:
    """Serve a workload with one scheduler and measure it.

    Parameters
    ----------
    scenario : Scenario, Workload, Trace or str
        What is run; of a workload, or the name of one, the rest is as `Scenario` has it.
    scheduler : str, callable, Scheduler, BatchPolicy or IterationScheduler, optional
        In place of the scenario's: a registered name, or your own.
    prediction : BinnedPrediction, optional
        What `predict_bins` gave for this scenario, so that many runs can share it; by default it
        is made here.
    most_steps : int
        Steps to keep in `Run.steps`, at the iteration level; 0 for none.
    steps_window_s : (float, float)
        Only steps that run inside of it are kept [s].
    progress : callable, optional
        Called now and then with the number of requests whose service has begun, or that are
        finished.
    **parts
        Parts in place of the scenario's: `n_gpus`, `latency`, `step_time`, `gpu`, `llm`,
        `predictor`, `binning`, `settings`, `serving`, `router`, `slo`, `admission`, `seed`.

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
    >>> run = simulate(Workload(requests=500), "static_fifo", n_gpus=2, latency="reference")
    >>> run.metrics.completed
    500
    """
    whole = as_scenario(scenario, scheduler, **parts)
    return serve(
        whole,
        whole.requests(),
        prediction=prediction,
        most_steps=most_steps,
        steps_window_s=steps_window_s,
        progress=progress,
    )


def serve(
    scenario: Scenario,
    trace: Trace,
    *,
    prediction: BinnedPrediction | None = None,
    most_steps: int = 0,
    steps_window_s: tuple[float, float] = (-math.inf, math.inf),
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
    hardware = scenario.resolved_hardware()
    policy, predictor = scenario.policy(), scenario.predictor_object()
    if prediction is None:
        prediction = predict_bins(
            trace, policy, predictor, scenario.binning, hardware.latency, scenario.seed
        )
    if isinstance(policy, Scheduler):
        return serve_batches(scenario, trace, policy, prediction, progress=progress)
    from llmsched.simulation.levels.iteration import serve_steps

    return serve_steps(
        scenario,
        trace,
        policy,
        prediction,
        most_steps=most_steps,
        steps_window_s=steps_window_s,
        progress=progress,
    )
