"""One run in the paper's setting: lengths drawn about its means, one replica, one policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.latency.base import Kind
from llmsched.latency.steps.base import StepLatency
from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.schedulers.iteration.base import IterationScheduler
from llmsched.schedulers.iteration.limits import DynamicLimit
from llmsched.schedulers.iteration.orders import Fcfs
from llmsched.schedulers.memory_limit import LinearLimit
from llmsched.simulation.run import ContinuousRun
from llmsched.simulation.simulate import simulate
from llmsched.theory.service_laws import parse
from llmsched.workload.slo import Slo
from llmsched.workload.trace import Trace

FOLDER = "experiments/dynamic/settings"
Policy = Literal["static", "dynamic", "dynamic-linear"]
FIXED = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine(StepLatency):
    """A step of n decodes and c prefill tokens takes c0 + cb·n + cp·c.

    Figure 3 prints c0 = 30 ms and cb = 0.22 ms; what a prefill token costs it does not say.
    """

    c0_s: float = 0.030
    cb_s: float = 0.22e-3
    cp_s: float = 0.0

    @property
    def name(self) -> str:
        return "step line"

    @property
    def kind(self) -> Kind:
        return "formula"

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        chunks = sum(chunk for chunk, _ in prefills)
        return self.c0_s + self.cb_s * n_decodes + self.cp_s * chunks

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
        return np.full(steps, self.step_s((), n_decodes, decode_kv))

    def scaled(self, factor: float) -> StepLine:
        """The same, all times multiplied."""
        return StepLine(c0_s=factor * self.c0_s, cb_s=factor * self.cb_s, cp_s=factor * self.cp_s)

    def describe(self) -> str:
        return (
            f"{1e3 * self.c0_s:.4g} ms + {1e3 * self.cb_s:.4g} ms per decode "
            f"+ {1e3 * self.cp_s:.4g} ms per prefill token"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One situation: requests, a step time, and a policy."""

    prompt_tokens: float  # mean
    output_tokens: float  # mean
    n_requests: int
    law: str  # "fixed", "exponential", or the standard deviation of a log-normal's logarithm
    step: StepLine
    policy: Policy
    batch_max: int  # most requests at once: vLLM's max_num_seqs, or B_max
    kv_tokens: int  # eta
    rate_per_s: float = np.inf  # of Poisson arrivals; inf: all at time 0
    tpot_sla_s: float | None = None  # D_SLA


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run gave."""

    output_tps: float
    tpot_s: float  # mean over requests of their mean time per output token
    ttft_s: float
    running: float  # mean while busy
    preemptions: float  # per request
    kept_up: float  # share of requests finished when the last one arrives


def run_case(case: Case, entropy: Sequence[int]) -> Outcome:
    """One run; the entropy fixes lengths and arrivals, whatever policy, rate or step time."""
    run = simulate(
        _trace(case, entropy),
        _scheduler(case),
        n_gpus=1,
        step_time=case.step,
        serving=IterationSettings(
            kv_tokens=case.kv_tokens, max_running=case.batch_max, depth=1, prefix_caching=False
        ),
        slo=Slo(latency_s=None, tpot_s=case.tpot_sla_s),
        predictor="oracle",
    )
    assert isinstance(run, ContinuousRun)  # as its scheduler is of the iteration level
    finish_s, arrival_s = run.requests.finish_s, run.requests.arrival_s
    figures = run.metrics
    return Outcome(
        output_tps=figures.output_tps,
        tpot_s=figures.tpot_mean_s,
        ttft_s=figures.ttft_mean_s,
        running=figures.batch_size_mean,
        preemptions=figures.preemptions_per_request,
        kept_up=float((finish_s <= arrival_s[-1]).mean()),
    )


def replicated(case: Case, entropies: Sequence[tuple[int, ...]]) -> list[Outcome]:
    """The case under each of these draws."""
    return [run_case(case, entropy) for entropy in entropies]


def interval(outcomes: Sequence[Outcome], quantity: str) -> Interval:
    """Mean of a quantity over replications, with its 95 % interval."""
    return mean_interval([getattr(outcome, quantity) for outcome in outcomes])


def gain(dynamic: Sequence[Outcome], static: Sequence[Outcome]) -> Interval:
    """Relative gain in output tokens per second, paired by replication."""
    pairs = zip(dynamic, static, strict=True)
    return mean_interval([one.output_tps / other.output_tps - 1 for one, other in pairs])


def draws(seed: int, stream: int, replications: int) -> list[tuple[int, ...]]:
    """The entropy of each replication."""
    return [(seed, stream, replication) for replication in range(replications)]


def lengths(law: str, mean: float, n: int, rng: np.random.Generator) -> IntArray:
    """Token counts of this law and mean, at least 1, shape (n,).

    Raises
    ------
    ValueError
        If it names no law.
    """
    if law == FIXED:
        return np.full(n, round(mean), dtype=np.int32)
    text = f"exponential:{mean}" if law == "exponential" else f"lognormal:{mean},{law}"
    drawn = parse(text).sample_s(rng, n)
    return np.maximum(1, np.rint(drawn)).astype(np.int32)


def _trace(case: Case, entropy: Sequence[int]) -> Trace:
    n, law = case.n_requests, case.law
    arrivals, prompts, outputs = np.random.default_rng(list(entropy)).spawn(3)
    gaps = np.concatenate(([0.0], np.cumsum(arrivals.standard_exponential(n - 1))))
    return Trace(
        arrival_s=gaps / case.rate_per_s,
        prompt_tokens=lengths(law, case.prompt_tokens, n, prompts),
        output_tokens=lengths(law, case.output_tokens, n, outputs),
    )


def _scheduler(case: Case) -> str | IterationScheduler:
    if case.policy == "dynamic-linear":
        limit = partial(_linear_limit, case.kv_tokens, case.batch_max)
        return IterationScheduler(Fcfs, limit, uses_predictions=False)
    return f"continuous_{case.policy}"


def _linear_limit(kv_tokens: int, batch_max: int) -> DynamicLimit:
    return DynamicLimit(LinearLimit(kv_tokens), batch_max)


def with_scale(case: Case, factor: float) -> Case:
    """The case with all step times multiplied."""
    return replace(case, step=case.step.scaled(factor))
