"""A real run served again: its own arrivals and lengths, the simulator's times."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from llmsched._util.arrays import FloatArray
from llmsched.calibration.benchmarks.runs import RequestLog, per_later_token
from llmsched.engine.iteration.run import IterationRun, run_iteration_engine
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.latency.steps.base import StepLatency
from llmsched.latency.steps.two_regime import DecodeTerms, MixedTerms, TwoRegime
from llmsched.simulation.scenario import Scenario
from llmsched.workload.shared_prefixes import with_shared_prefixes
from llmsched.workload.trace import Trace

FIGURES = ("ttft_s", "tpot_s", "e2e_s", "queueing_s")
Times = Mapping[str, FloatArray]  # figure -> (n,) [s], of those that are known


def log_trace(log: RequestLog, shared_prefixes: str | os.PathLike[str] | None = None) -> Trace:
    """The requests of a log, with what their prompts share where a CSV says so.

    Raises
    ------
    TraceError
        If that CSV does not fit the log.
    """
    trace = Trace(
        arrival_s=log.arrival_s,
        prompt_tokens=log.prompt_tokens.astype("int32"),
        output_tokens=log.output_tokens.astype("int32"),
        name=log.source,
    )
    return trace if shared_prefixes is None else with_shared_prefixes(trace, shared_prefixes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """What is served, by a server with which settings and step times.

    Raises
    ------
    ValueError
        From `run`, if a request does not fit the KV memory.
    """

    trace: Trace
    settings: IterationSettings
    step: StepLatency

    @classmethod
    def of(cls, trace: Trace, scenario: Scenario) -> Self:
        """The server of a scenario: its serving settings and its step times."""
        return cls(
            trace=trace, settings=scenario.replica(), step=scenario.resolved_hardware().steps()
        )

    def set(self, **settings: Any) -> Self:
        """The same with other serving settings."""
        return replace(self, settings=replace(self.settings, **settings))

    def run(self, *, most_steps: int = 0) -> IterationRun:
        """Serve it."""
        found = run_iteration_engine(self.trace, self.settings, self.step, most_steps=most_steps)
        rejected = int((~found.requests.completed).sum())
        if rejected:
            raise ValueError(
                f"kv_tokens must hold every request of the run, got {self.settings.kv_tokens} and "
                f"{rejected} requests that do not fit; give those of the server (--kv-tokens)"
            )
        return found

    def times(self) -> Times:
        """Serve it, and the times of each request."""
        return simulated_times(self.run())


def unknown_steps(trace: Trace, settings: IterationSettings) -> Replay:
    """A replay whose step times are yet to be fitted: a second each, for now."""
    second = TwoRegime(
        decode=DecodeTerms(c0_s=1.0, cb_s=0.0, ckv_s=0.0),
        mixed=MixedTerms(c0_s=1.0, cp_s=0.0, n0_tokens=0.0, cb_s=0.0, ckv_s=0.0, cpair_s=0.0),
        name="a second a step",
    )
    return Replay(trace=trace, settings=settings, step=second)


def simulated_times(run: IterationRun) -> Times:
    """The times of each simulated request."""
    table = run.requests
    decode_s = table.finish_s - table.first_token_s
    return {
        "ttft_s": table.first_token_s - table.arrival_s,
        "tpot_s": per_later_token(decode_s, table.output_tokens.astype("int64")),
        "e2e_s": table.finish_s - table.arrival_s,
        "queueing_s": table.scheduled_s - table.arrival_s,
    }


def measured_times(log: RequestLog) -> Times:
    """The times of each logged request, as far as they are logged.

    Raises
    ------
    ValueError
        If neither first tokens nor ends are logged.
    """
    logged = {name: getattr(log, name) for name in FIGURES}
    found = {name: column for name, column in logged.items() if column is not None}
    if not found.keys() & {"ttft_s", "e2e_s"}:
        raise ValueError(
            f"{log.source}: requests must have first tokens or ends to be compared with, got none"
        )
    return found
