"""`validate`: one run of a real server against the simulator."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmsched.calibration.benchmarks.runs import RequestLog
from llmsched.simulation.scenario import Scenario
from llmsched.studies.validation.errors import (
    Errors,
    SeriesError,
    request_errors,
    series_errors,
)
from llmsched.studies.validation.fit import FitPlan, Fitted, fit_one
from llmsched.studies.validation.fit_all import fit_constants
from llmsched.studies.validation.replay import (
    Replay,
    Times,
    log_trace,
    measured_times,
    simulated_times,
    unknown_steps,
)
from llmsched.studies.validation.server import check_memory

MATTERS = 0.01  # of a mean, by which an assumption must move it
SERIES_STEPS = 1_000_000  # that the counters are read from
KV_CHANGE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """What the means become when something that was assumed is not so."""

    name: str
    errors: Mapping[str, float]  # of the means
    moved: float  # the farthest that a mean moved, in shares of the measured one

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "name": self.name,
            "mean_errors": dict(self.errors),
            "moved": self.moved,
            "matters": self.moved >= MATTERS,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """A run of a real server against the simulator."""

    source: str
    requests: int
    judged: tuple[int, int]  # rows, from the first to before the second
    errors: Errors
    unfitted: Errors | None  # with the step time as given, where something was fitted
    fitted: Fitted | None
    series: Mapping[str, SeriesError]
    assumptions: tuple[Assumption, ...]
    replay: Replay
    measured: Times
    simulated: Times
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            **{name: one.to_dict() for name, one in self.errors.items()},
            "requests": self.requests,
            "judged": list(self.judged),
            "fitted": None if self.fitted is None else self.fitted.to_dict(),
            "unfitted": self.unfitted and {k: one.to_dict() for k, one in self.unfitted.items()},
            "series": {name: one.to_dict() for name, one in self.series.items()},
            "assumptions": [one.to_dict() for one in self.assumptions],
            "step_time": self.replay.step.describe(),
            "kv_tokens": self.replay.settings.kv_tokens,
            "run": self.source,
            "notes": list(self.notes),
        }


def validate(
    log: RequestLog,
    scenario: Scenario,
    *,
    shared_prefixes: str | os.PathLike[str] | None = None,
    fit: FitPlan | None = None,
) -> Validation:
    """Replay a run's own arrivals and lengths, and say how far the simulator is off.

    Parameters
    ----------
    log : RequestLog
        The requests of a real server.
    scenario : Scenario
        How the simulated one is set: serving settings, and hardware with a step time (which a fit
        of all constants does not need).
    shared_prefixes : path, optional
        CSV of what prompts share (see `with_shared_prefixes`).
    fit : FitPlan, optional
        What is fitted on the first requests; the others judge.

    Raises
    ------
    ValueError
        If the server's KV memory or step time is not known, the log has no times, or the requests
        are too few to fit and to judge.
    """
    measured = measured_times(log)
    if fit is not None:
        fit.check(len(log.arrival_s))
    as_given = _as_given(scenario, fit)
    check_memory(scenario)
    trace = log_trace(log, shared_prefixes)
    replay = Replay.of(trace, scenario) if as_given else unknown_steps(trace, scenario.replica())
    rows, fitted, unfitted = slice(None), None, None
    if fit is not None:
        rows = slice(fit.first, None)
        if as_given:
            unfitted = request_errors(measured, replay.times(), rows)
        replay, fitted = (
            fit_constants(replay, measured, fit.first, seed=scenario.seed)
            if fit.what == "all"
            else fit_one(replay, measured, fit)
        )
    logged = log.series is not None
    run = replay.run(most_steps=SERIES_STEPS if logged else 0)
    simulated = simulated_times(run)
    errors = request_errors(measured, simulated, rows)
    series = {}
    if log.series is not None and run.steps is not None and not run.steps.left_out:
        series = series_errors(log.series, run.steps, replay.settings.usable_blocks)
    return Validation(
        source=log.source,
        requests=len(trace),
        judged=(rows.start or 0, len(trace)),
        errors=errors,
        unfitted=unfitted,
        fitted=fitted,
        series=series,
        assumptions=assumptions(replay, measured, errors, rows),
        replay=replay,
        measured=measured,
        simulated=simulated,
        notes=(*log.notes, *_failed(log), *(fitted.notes if fitted else ())),
    )


def _as_given(scenario: Scenario, fit: FitPlan | None) -> bool:
    """Whether there is a step time to begin with."""
    if scenario.hardware.step_time is not None:
        scenario.resolved_hardware()  # a wrong name ends here
        return True
    if fit is None or fit.what != "all":
        raise ValueError(
            "a step time must be given, got none; name one (--step-time), or fit all constants "
            "(--fit all:N)"
        )
    return False


def _failed(log: RequestLog) -> tuple[str, ...]:
    if not log.failed:
        return ()
    return (
        f"{log.failed} requests failed and are not simulated: the server had more to do than is "
        "replayed",
    )


def assumptions(
    replay: Replay, measured: Times, errors: Errors, rows: slice
) -> tuple[Assumption, ...]:
    """The means with the KV memory 5 % smaller and larger, and with caching the other way."""
    kv_tokens = replay.settings.kv_tokens or 0
    caching = replay.settings.prefix_caching
    changed = {
        f"KV memory {sign}5 %": replay.set(kv_tokens=round(kv_tokens * factor))
        for sign, factor in (("-", 1 - KV_CHANGE), ("+", 1 + KV_CHANGE))
    }
    changed[f"prefix caching {'off' if caching else 'on'}"] = replay.set(prefix_caching=not caching)
    if replay.trace.prefix_ids is not None and caching:
        alone = replace(replay.trace, prefix_ids=None)
        changed["prompts share nothing"] = replace(replay, trace=alone)
    found = []
    for name, other in changed.items():
        means = {
            one: each.mean_error
            for one, each in request_errors(measured, other.times(), rows).items()
        }
        moved = max(abs(means[one] - errors[one].mean_error) for one in means)
        found.append(Assumption(name=name, errors=means, moved=moved))
    return tuple(found)
