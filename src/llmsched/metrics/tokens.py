"""What a run of the iteration level says: latencies per token and request, KV, steps.

Latencies are of completed requests. A gap between tokens counts once per request that waited it
out, preemptions included. The span is from the first arrival to the last finish.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray
from llmsched.engine.iteration.run import IterationRun
from llmsched.engine.step_records import ServedTable
from llmsched.metrics.run import _plain
from llmsched.workload.slo import Slo

_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
QUANTILES = (0.5, 0.9, 0.95, 0.99)
NO_SLO = Slo(latency_s=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMetrics:
    """The figures of merit of one run; the names are the keys of the JSON output.

    `metrics.registry` has their units and definitions.
    """

    requests: int
    completed: int
    rejected: int
    gpus: int  # or groups of GPUs that hold the model together: replicas
    bins: int
    sla_s: float  # infinite (null in JSON) where no latency is asked for
    makespan_s: float
    throughput_rps: float
    throughput_tps: float
    output_tps: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p90_s: float
    latency_p95_s: float
    latency_p99_s: float
    latency_max_s: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    tpot_mean_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    tpot_p95_s: float
    tpot_p99_s: float
    itl_mean_s: float
    itl_p50_s: float
    itl_p90_s: float
    itl_p95_s: float
    itl_p99_s: float
    queueing_mean_s: float
    queueing_p50_s: float
    queueing_p90_s: float
    queueing_p95_s: float
    queueing_p99_s: float
    sla_violation_rate: float
    goodput_rps: float
    served_per_busy_s: float
    gpu_utilization: float
    batch_size_mean: float
    running_mean: float
    running_max: int
    waiting_mean: float
    waiting_max: int
    kv_share_mean: float
    kv_share_max: float
    preemptions_per_request: float
    recomputed_tokens: int
    prefix_hit_share: float
    steps: int
    tokens_per_step: float
    per_bin: tuple[()] = field(default=(), init=False)

    def to_dict(self) -> dict[str, Any]:
        """The metrics as plain values for JSON: NaN and infinities become None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def token_metrics(run: IterationRun, slo: Slo = NO_SLO, *, n_bins: int = 1) -> TokenMetrics:
    """The figures of a run, judged by the objectives that are set.

    Figures of a run in which nobody was served are NaN where they would divide by zero.
    """
    table, replicas = run.requests, run.replicas
    served = table.completed
    latencies = _latencies(table)
    n, completed, n_replicas = len(table), int(served.sum()), len(replicas)
    last_s = max(float(table.arrival_s.max()), float(table.finish_s[served].max(initial=0.0)))
    makespan_s = last_s - float(table.arrival_s.min()) if n else math.nan
    within = int(_within(latencies, slo).sum())
    blocks = run.settings.usable_blocks
    finish_s, arrival_s = table.finish_s[served], table.arrival_s[served]
    admitted_s, waiting_ended_s = replicas.admitted_s.sum(), replicas.waiting_ended_s.sum()
    running_s, busy_s = finish_s.sum() - waiting_ended_s - admitted_s, replicas.busy_s.sum()
    n_output = int(table.output_tokens[served].sum(dtype=np.int64))
    n_prompt = int(table.prompt_tokens[served].sum(dtype=np.int64))
    tpot_s = latencies["tpot"]
    durations = {
        **_spread("latency", latencies["latency"]),
        **_spread("ttft", latencies["ttft"]),
        **_spread("tpot", tpot_s[~np.isnan(tpot_s)]),
        **_spread("queueing", table.scheduled_s[served] - arrival_s),
        **_itl(run),
    }
    return TokenMetrics(
        requests=n,
        completed=completed,
        rejected=n - completed,
        gpus=n_replicas,
        bins=n_bins,
        sla_s=math.inf if slo.latency_s is None else slo.latency_s,
        makespan_s=makespan_s,
        throughput_rps=_ratio(completed, makespan_s),
        throughput_tps=_ratio(n_prompt + n_output, makespan_s),
        output_tps=_ratio(n_output, makespan_s),
        latency_max_s=float(latencies["latency"].max(initial=-math.inf)) if completed else math.nan,
        **durations,
        sla_violation_rate=_ratio(n - within, n),
        goodput_rps=_ratio(within, makespan_s),
        served_per_busy_s=_ratio(completed, busy_s),
        gpu_utilization=_ratio(busy_s, makespan_s * n_replicas),
        batch_size_mean=_ratio(running_s, busy_s),
        running_mean=_ratio(running_s, makespan_s),
        running_max=int(replicas.running_max.max()),
        waiting_mean=_ratio(admitted_s - arrival_s.sum() + waiting_ended_s, makespan_s),
        waiting_max=int(replicas.waiting_max.max()),
        kv_share_mean=_ratio(replicas.kv_block_s.sum(), makespan_s * blocks * n_replicas),
        kv_share_max=_ratio(int(replicas.kv_blocks_max.max()), blocks),
        preemptions_per_request=_ratio(int(table.preemptions.sum()), completed),
        recomputed_tokens=int(table.recomputed_tokens.sum()),
        prefix_hit_share=_ratio(int(table.cached_tokens.sum()), n_prompt),
        steps=int(replicas.steps.sum()),
        tokens_per_step=_ratio(int(replicas.tokens.sum()), int(replicas.steps.sum())),
    )


def _spread(name: str, values: FloatArray) -> dict[str, float]:
    """Mean and percentiles, linear, under their names [s]; NaN of no values."""
    if not len(values):
        return _named(name, [math.nan] * len(_STATISTICS))
    return _named(name, [float(values.mean()), *np.quantile(values, QUANTILES).tolist()])


def _named(name: str, values: Sequence[float]) -> dict[str, float]:
    return {
        f"{name}_{statistic}_s": value for statistic, value in zip(_STATISTICS, values, strict=True)
    }


def _itl(run: IterationRun) -> dict[str, float]:
    """Over all gaps: their sum is the time from first to last token, over requests."""
    served = run.requests.completed
    seconds = (run.requests.finish_s - run.requests.first_token_s)[served].sum()
    gaps = int(run.requests.output_tokens[served].sum(dtype=np.int64)) - int(served.sum())
    return _named("itl", [_ratio(seconds, gaps), *run.gaps.quantiles(QUANTILES).tolist()])


def _latencies(table: ServedTable) -> Mapping[str, FloatArray]:
    """TTFT, TPOT (NaN for outputs of one token) and latency of completed requests [s]."""
    served = table.completed
    arrival_s, first_s = table.arrival_s[served], table.first_token_s[served]
    finish_s, gaps = table.finish_s[served], table.output_tokens[served] - 1.0
    gaps[gaps == 0] = np.nan
    return {
        "ttft": first_s - arrival_s,
        "tpot": (finish_s - first_s) / gaps,
        "latency": finish_s - arrival_s,
    }


def _within(latencies: Mapping[str, FloatArray], slo: Slo) -> NDArray[np.bool_]:
    """Which completed requests meet all that is asked; one token meets any TPOT."""
    within = np.ones(len(latencies["ttft"]), np.bool_)
    for name, most_s in (("ttft", slo.ttft_s), ("tpot", slo.tpot_s), ("latency", slo.latency_s)):
        if most_s is not None:
            within &= ~(latencies[name] > most_s)
    return within


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else math.nan
