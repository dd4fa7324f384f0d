"""Aggregated runs, row by row: stages at a rate and closed loops against the simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmsched.calibration.benchmarks.runs import ClosedLoopPoint, OpenLoopStage
from llmsched.latency.steps.base import Scaled
from llmsched.simulation.scenario import Scenario
from llmsched.studies.validation.errors import Errors, summary_errors
from llmsched.studies.validation.fit import FitPlan
from llmsched.studies.validation.loads import closed_requests, stage_requests
from llmsched.studies.validation.replay import Replay, Times
from llmsched.studies.validation.server import check_memory

Stage = OpenLoopStage | ClosedLoopPoint
ScenarioOf = Callable[[Stage], Scenario]
KEPT_UP = 0.95  # share of the rate asked for that a server must reach to keep up
FIT_REQUESTS = 1500  # of a stage, while it is fitted to
FACTORS = (0.4, 2.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFit:
    """A factor on every step, and a delay in front of the engine, of one run's server."""

    factor: float
    delay_s: float
    stages: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"factor": self.factor, "delay_s": self.delay_s, "stages": list(self.stages)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageErrors:
    """One stage, measured and simulated."""

    run: str
    stage: int
    load: str
    source: str
    load_value: float  # rate [requests/s], or clients
    overloaded: bool
    fitted_on: bool
    step_time: str
    errors: Errors

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "run": self.run,
            "stage": self.stage,
            "load": self.load,
            "source": self.source,
            "overloaded": self.overloaded,
            "fitted_on": self.fitted_on,
            "step_time": self.step_time,
            **{name: one.to_dict() for name, one in self.errors.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagesValidation:
    """All stages of some runs."""

    stages: tuple[StageErrors, ...]
    fitted: Mapping[str, StageFit]  # by run

    @property
    def judged(self) -> tuple[StageErrors, ...]:
        """Those whose server kept up; of a fit, those of fitted runs that nothing was fitted on."""
        return tuple(
            one
            for one in self.stages
            if not (one.overloaded or one.fitted_on) and (not self.fitted or one.run in self.fitted)
        )

    def spread(self, figure: str) -> tuple[float, float] | None:
        """Median and largest absolute error of the means (or medians) over the judged stages."""
        found = [
            abs(one.errors[figure].typical_error) for one in self.judged if figure in one.errors
        ]
        found = [error for error in found if not np.isnan(error)]
        return (float(np.median(found)), max(found)) if found else None

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "stages": [one.to_dict() for one in self.stages],
            "fitted": {run: one.to_dict() for run, one in self.fitted.items()} or None,
        }


def validate_stages(
    stages: Sequence[Stage],
    scenario_of: ScenarioOf,
    *,
    fit: FitPlan | None = None,
    progress: Callable[[int], None] | None = None,
) -> StagesValidation:
    """Simulate stages row by row.

    Parameters
    ----------
    stages : sequence of OpenLoopStage or ClosedLoopPoint
    scenario_of : callable
        How the simulated server of a stage is set.
    fit : FitPlan, optional
        A factor on every step, fitted for each run to its first stages; with it a delay in front
        of the engine, which is what the mean TTFT then lacks.
    progress : callable, optional
        Called with the number of stages done.

    Raises
    ------
    ValueError
        If something else than a scale is to be fitted, a run has no stage left to judge, or a
        stage does not say its load.
    """
    replays = [_replay(stage, scenario_of(stage)) for stage in stages]
    fits = _fits(stages, replays, fit) if fit is not None else {}
    found = []
    for number, (stage, replay) in enumerate(zip(stages, replays, strict=True), start=1):
        run = _run_name(stage)
        times = _times(replay, fits.get(run))
        measured = {"ttft_s": stage.ttft, "tpot_s": stage.tpot, "e2e_s": stage.e2e}
        found.append(
            StageErrors(
                run=run,
                stage=_number(stage),
                load=stage.load.words,
                source=stage.source,
                load_value=float(stage.load.concurrency or stage.load.rate_per_s or np.nan),
                overloaded=is_overloaded(stage),
                fitted_on=run in fits and _number(stage) in fits[run].stages,
                step_time=replay.step.name,
                errors=summary_errors(measured, times),
            )
        )
        if progress is not None:
            progress(number)
    return StagesValidation(stages=tuple(found), fitted=fits)


def is_overloaded(stage: Stage) -> bool:
    """Whether requests failed, or fewer completed in a second than were sent."""
    rate_per_s, reached = stage.load.rate_per_s, stage.throughput_per_s
    slow = rate_per_s is not None and reached is not None and reached < KEPT_UP * rate_per_s
    return stage.failed > 0 or slow


def _run_name(stage: Stage) -> str:
    if isinstance(stage, OpenLoopStage):
        return stage.run or stage.source
    server = stage.server
    said = (server.device, server.engine, server.precision, server.tp and f"tp{server.tp}")
    shape = f"{stage.prompt_tokens:.0f}+{stage.output_tokens:.0f}"
    return " ".join([*(str(one) for one in said if one), shape, stage.date]).strip()


def _number(stage: Stage) -> int:
    return stage.stage if isinstance(stage, OpenLoopStage) else 0


def _replay(stage: Stage, scenario: Scenario) -> Replay:
    check_memory(scenario)
    if isinstance(stage, OpenLoopStage):
        return Replay.of(stage_requests(stage, seed=scenario.seed), scenario)
    return Replay.of(closed_requests(stage, seed=scenario.seed), scenario)


def _times(replay: Replay, fit: StageFit | None) -> Times:
    if fit is not None:
        replay = replace(replay, step=Scaled(replay.step, fit.factor))
    times = dict(replay.times())
    if fit is not None:
        # a delay in front of the engine moves all arrivals there, and so all of its instants
        for name in ("ttft_s", "e2e_s"):
            times[name] = times[name] + fit.delay_s
    return times


def _fits(stages: Sequence[Stage], replays: Sequence[Replay], plan: FitPlan) -> dict[str, StageFit]:
    if plan.what != "scale":
        raise ValueError(f"stages must be fitted by scale:N, N stages of each run, got {plan.what}")
    found = {}
    for run in dict.fromkeys(map(_run_name, stages)):
        own = [pair for pair in zip(stages, replays, strict=True) if _run_name(pair[0]) == run]
        own.sort(key=lambda pair: _number(pair[0]))
        if len(own) > plan.first:
            found[run] = _fit(own[: plan.first])
    if not found:
        raise ValueError(
            f"a run must have more than {plan.first} stages to fit {plan.first} and judge one, "
            f"got {len(stages)} stages of {len({_run_name(one) for one in stages})} runs"
        )
    return found


def _fit(pairs: Sequence[tuple[Stage, Replay]]) -> StageFit:
    """The factor that gives the mean decode time, and the delay that the mean TTFT then lacks."""
    from scipy.optimize import minimize_scalar

    short = [
        (stage, replace(replay, trace=replay.trace.take(slice(0, FIT_REQUESTS))))
        for stage, replay in pairs
    ]

    def times(replay: Replay, factor: float) -> tuple[float, float]:
        found = _times(replace(replay, step=Scaled(replay.step, factor)), None)
        return float(np.mean(found["ttft_s"])), float(np.mean(found["e2e_s"]))

    def loss(log: float) -> float:
        missed = 0.0
        for stage, replay in short:
            ttft_s, e2e_s = times(replay, float(np.exp(log)))
            missed += np.log((e2e_s - ttft_s) / (_mean(stage, "e2e") - _mean(stage, "ttft"))) ** 2
        return missed

    best = minimize_scalar(loss, bounds=np.log(FACTORS).tolist(), options={"xatol": 1e-3})
    factor = float(np.exp(best.x))
    lacking = [_mean(stage, "ttft") - times(replay, factor)[0] for stage, replay in short]
    return StageFit(
        factor=factor,
        delay_s=max(0.0, float(np.mean(lacking))),
        stages=tuple(_number(stage) for stage, _ in pairs),
    )


def _mean(stage: Stage, name: str) -> float:
    mean_s: float | None = getattr(stage, name).mean_s
    if mean_s is None:
        raise ValueError(f"{stage.source}: a stage to fit to must have its mean {name}, got none")
    return mean_s
