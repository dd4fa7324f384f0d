"""What a run of the iteration level says: latencies per token and request, KV, steps.

Latencies are of completed requests. A gap between tokens counts once per request that waited it
out, preemptions included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsched._util.types import FloatArray
from llmsched.engine.iteration.run import IterationRun
from llmsched.engine.step_records import ServedTable

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Spread:
    """A latency over its population [s]; NaN where that is empty. Percentiles are linear."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @staticmethod
    def of(values: FloatArray) -> Spread:
        """Of values of shape (n,)."""
        if not len(values):
            return Spread(*[math.nan] * 5)
        return Spread(float(values.mean()), *np.quantile(values, QUANTILES).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a sender expects [s]; None where nothing is."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {name} must be finite and > 0 seconds, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMetrics:
    """The figures of one run.

    Attributes
    ----------
    ttft_s, tpot_s, itl_s, e2e_s, queueing_s : Spread
        Arrival to first token; mean gap after the first token, of outputs of two tokens or more;
        every gap; arrival to last token; arrival to the first decision with the request.
    requests, completed, rejected : int
    makespan_s : float
        First arrival to last finish [s].
    throughput_per_s, output_tokens_per_s : float
        Completed requests and their output tokens per second of makespan.
    goodput_per_s : float
        Completed requests within all limits that are set, per second of makespan.
    attainment : float
        The same over all requests, rejected ones included.
    preemptions_per_request : float
        Of the completed ones.
    recomputed_tokens : int
        Computed again after preemptions.
    prefix_hit_share : float
        Prompt tokens of completed requests that were found in the cache at first admission.
    kv_mean, kv_max : float
        Used share of the KV blocks: time-weighted over the makespan, and the most of a replica.
    running_mean, waiting_mean : float
        Requests that run, and that wait from arrival on, over all replicas, time-weighted.
    running_max, waiting_max : int
        The most on one replica, just after a decision.
    steps : int
    tokens_per_step : float
    busy_share : float
        Share of the makespan in which a replica computes, mean over replicas.
    """

    ttft_s: Spread
    tpot_s: Spread
    itl_s: Spread
    e2e_s: Spread
    queueing_s: Spread
    requests: int
    completed: int
    rejected: int
    makespan_s: float
    throughput_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float
    attainment: float
    preemptions_per_request: float
    recomputed_tokens: int
    prefix_hit_share: float
    kv_mean: float
    kv_max: float
    running_mean: float
    running_max: int
    waiting_mean: float
    waiting_max: int
    steps: int
    tokens_per_step: float
    busy_share: float


def token_metrics(run: IterationRun, limits: Limits | None = None) -> TokenMetrics:
    """The figures of a run, judged by the limits that are set.

    Figures of a run in which nobody was served are NaN where they would divide by zero.
    """
    table, replicas = run.requests, run.replicas
    served = table.completed
    latencies = _latencies(table)
    n, completed = len(table), int(served.sum())
    makespan_s = float(table.finish_s[served].max() - table.arrival_s[0]) if completed else math.nan
    within = int(_within(latencies, limits or Limits()).sum())
    blocks = run.settings.usable_blocks
    finish_s, arrival_s = table.finish_s[served], table.arrival_s[served]
    admitted_s, waiting_ended_s = replicas.admitted_s.sum(), replicas.waiting_ended_s.sum()
    return TokenMetrics(
        ttft_s=Spread.of(latencies["ttft"]),
        tpot_s=Spread.of(latencies["tpot"][~np.isnan(latencies["tpot"])]),
        itl_s=_itl(run),
        e2e_s=Spread.of(latencies["e2e"]),
        queueing_s=Spread.of(table.scheduled_s[served] - arrival_s),
        requests=n,
        completed=completed,
        rejected=n - completed,
        makespan_s=makespan_s,
        throughput_per_s=_ratio(completed, makespan_s),
        output_tokens_per_s=_ratio(int(table.output_tokens[served].sum()), makespan_s),
        goodput_per_s=_ratio(within, makespan_s),
        attainment=_ratio(within, n),
        preemptions_per_request=_ratio(int(table.preemptions.sum()), completed),
        recomputed_tokens=int(table.recomputed_tokens.sum()),
        prefix_hit_share=_ratio(
            int(table.cached_tokens.sum()), int(table.prompt_tokens[served].sum(dtype=np.int64))
        ),
        kv_mean=_ratio(replicas.kv_block_s.sum(), makespan_s * blocks * len(replicas)),
        kv_max=_ratio(int(replicas.kv_blocks_max.max()), blocks),
        running_mean=_ratio(finish_s.sum() - waiting_ended_s - admitted_s, makespan_s),
        running_max=int(replicas.running_max.max()),
        waiting_mean=_ratio(admitted_s - arrival_s.sum() + waiting_ended_s, makespan_s),
        waiting_max=int(replicas.waiting_max.max()),
        steps=int(replicas.steps.sum()),
        tokens_per_step=_ratio(int(replicas.tokens.sum()), int(replicas.steps.sum())),
        busy_share=_ratio(replicas.busy_s.sum(), makespan_s * len(replicas)),
    )


def _itl(run: IterationRun) -> Spread:
    """Over all gaps: their sum is the time from first to last token, over requests."""
    served = run.requests.completed
    seconds = (run.requests.finish_s - run.requests.first_token_s)[served].sum()
    gaps = int(run.requests.output_tokens[served].sum(dtype=np.int64)) - int(served.sum())
    return Spread(_ratio(seconds, gaps), *run.gaps.quantiles(QUANTILES).tolist())


def _latencies(table: ServedTable) -> dict[str, FloatArray]:
    """TTFT, TPOT (NaN for outputs of one token) and E2E of completed requests [s]."""
    served = table.completed
    arrival_s, first_s = table.arrival_s[served], table.first_token_s[served]
    finish_s, gaps = table.finish_s[served], table.output_tokens[served] - 1.0
    gaps[gaps == 0] = np.nan
    return {
        "ttft": first_s - arrival_s,
        "tpot": (finish_s - first_s) / gaps,
        "e2e": finish_s - arrival_s,
    }


def _within(latencies: dict[str, FloatArray], limits: Limits) -> NDArray[np.bool_]:
    """Which completed requests meet all limits that are set; one token meets any TPOT."""
    within = np.ones(len(latencies["ttft"]), np.bool_)
    for name, most_s in (
        ("ttft", limits.ttft_s),
        ("tpot", limits.tpot_s),
        ("e2e", limits.e2e_s),
    ):
        if most_s is not None:
            within &= ~(latencies[name] > most_s)
    return within


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else math.nan
