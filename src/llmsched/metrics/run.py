"""Figures of merit of one run, from its tables of requests and batches.

Populations.  Every request of the trace counts in `requests`, in the violation rate and in the
goodput; latencies, queueing and service times are of the completed ones, each followed to its
end; a rejected request is a violation and has no latency.  The span is from the first arrival to
the later of last finish and last arrival, rejected ones included.  Everything is pooled over the
run (sum / count), never a mean of windows.  What has no value, such as the mean latency when every
request was rejected, is NaN here and null in `to_dict`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmsched.engine.records import BatchTable, RequestTable
from llmsched.metrics.bins import (
    BinMetrics,
    _max,
    _mean,
    _padding_waste,
    _per_bin,
    _percentiles,
    _rate,
    _ratio,
    _served,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The figures of merit of one run; the names are the keys of the JSON output."""

    requests: int
    completed: int
    rejected: int
    gpus: float  # infinity (null in JSON) where no batch ever waits for one
    bins: int
    sla_s: float
    makespan_s: float  # the span: first arrival to the later of last finish and last arrival
    throughput_rps: float  # completed requests / span
    throughput_tps: float  # their prompt + output tokens / span
    output_tps: float  # their output tokens / span
    latency_mean_s: float  # finish - arrival
    latency_p50_s: float
    latency_p90_s: float
    latency_p95_s: float
    latency_p99_s: float
    latency_max_s: float
    queueing_mean_s: float  # start - arrival
    service_mean_s: float  # of a request: its batch's, finish - start
    sla_violation_rate: float  # share of all requests later than the SLA, or rejected
    goodput_rps: float  # requests within the SLA / span
    served_per_busy_s: float  # completed requests / GPU time spent on them [requests/s]
    gpu_utilization: float  # busy time / (GPUs * span)
    batches: int
    batch_size_mean: float
    batch_size_sd: float  # population standard deviation
    batch_size_max: int
    padding_waste: float  # 1 - tokens / (batch size * longest member), both summed over batches
    seconds_per_output_token: float  # GPU time spent on batches / output tokens generated
    kv_tokens_mean: float  # KV cache held at the end of a batch: its prompt + output tokens
    kv_tokens_max: int
    kv_bytes_mean: float  # NaN where the bytes per token are not known
    kv_bytes_max: float
    beyond_memory_share: float  # of batches, whose tokens exceed the KV memory; NaN if unknown
    per_bin: tuple[BinMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """The metrics as plain values for JSON: NaN and infinities become None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def metrics(
    requests: RequestTable,
    batches: BatchTable,
    *,
    n_gpus: float,
    sla_s: float,
    n_bins: int,
    kv_bytes_per_token: float | None = None,
    kv_capacity_tokens: float | None = None,
) -> Metrics:
    """The figures of merit of one run.

    Parameters
    ----------
    requests, batches : RequestTable, BatchTable
        What happened in the run.
    n_gpus : int, or infinity
        GPUs that the run had, idle ones included.
    sla_s : float
        Longest latency that is not a violation [s].
    n_bins : int
        Bins of the scheduler; every bin of the tables lies in [0, n_bins).
    kv_bytes_per_token : float, optional
        KV cache per token [bytes], for the memory in bytes.
    kv_capacity_tokens : float, optional
        Tokens that the KV memory of one GPU holds.

    Raises
    ------
    ValueError
        If a count or the SLA is not positive, or a request's bin is out of range.
    """
    _check(requests, n_gpus=n_gpus, sla_s=sla_s, n_bins=n_bins)
    requests = requests.by_arrival()
    served = _served(requests)
    n_requests, n_completed = len(requests), len(served)
    makespan_s = span_s(requests)
    service_s = batches.finish_s - batches.start_s
    busy_s = float(service_s.sum())
    n_tokens = int(batches.tokens.sum())
    n_output_tokens = int(served.output_tokens.sum(dtype=np.int64))
    per_bin = _per_bin(requests, served, batches, makespan_s, sla_s=sla_s, n_bins=n_bins)
    latency_s = served.finish_s - served.arrival_s
    n_good = int(np.count_nonzero(latency_s <= sla_s))
    latency_mean_s, latency_max_s = _mean(latency_s), _max(latency_s)
    p50, p90, p95, p99 = _percentiles(latency_s, (50, 90, 95, 99))  # last: it reorders them
    kv_bytes = math.nan if kv_bytes_per_token is None else kv_bytes_per_token
    return Metrics(
        requests=n_requests,
        completed=n_completed,
        rejected=n_requests - n_completed,
        gpus=n_gpus,
        bins=n_bins,
        sla_s=sla_s,
        makespan_s=makespan_s,
        throughput_rps=_rate(n_completed, makespan_s),
        throughput_tps=_rate(n_tokens, makespan_s),
        output_tps=_rate(n_output_tokens, makespan_s),
        latency_mean_s=latency_mean_s,
        latency_p50_s=p50,
        latency_p90_s=p90,
        latency_p95_s=p95,
        latency_p99_s=p99,
        latency_max_s=latency_max_s,
        queueing_mean_s=_mean(served.start_s - served.arrival_s),
        service_mean_s=_ratio(float((service_s * batches.size).sum()), n_completed),
        sla_violation_rate=_ratio(n_requests - n_good, n_requests),
        goodput_rps=_rate(n_good, makespan_s),
        served_per_busy_s=_ratio(n_completed, busy_s),
        gpu_utilization=math.nan if n_gpus == math.inf else _rate(busy_s, n_gpus * makespan_s),
        batches=len(batches),
        batch_size_mean=_mean(batches.size),
        batch_size_sd=float(batches.size.std()) if len(batches) else math.nan,
        batch_size_max=int(batches.size.max(initial=0)),
        padding_waste=_padding_waste(batches),
        seconds_per_output_token=_ratio(busy_s, n_output_tokens),
        kv_tokens_mean=_mean(batches.tokens),
        kv_tokens_max=int(batches.tokens.max(initial=0)),
        kv_bytes_mean=_mean(batches.tokens) * kv_bytes,
        kv_bytes_max=int(batches.tokens.max(initial=0)) * kv_bytes,
        beyond_memory_share=_beyond_memory(batches, kv_capacity_tokens),
        per_bin=per_bin,
    )


def span_s(requests: RequestTable) -> float:
    """How long a run lasted: to the later of last finish and last arrival [s]; NaN if empty.

    Requests that are rejected after the last finish count: nobody was served, yet it went on.
    """
    if not len(requests):
        return math.nan
    last_s = np.fmax.reduce([requests.arrival_s.max(), np.fmax.reduce(requests.finish_s)])
    return float(last_s - requests.arrival_s.min())


def _beyond_memory(batches: BatchTable, kv_capacity_tokens: float | None) -> float:
    if kv_capacity_tokens is None:
        return math.nan
    return _ratio(int(np.count_nonzero(batches.tokens > kv_capacity_tokens)), len(batches))


def _check(requests: RequestTable, *, n_gpus: float, sla_s: float, n_bins: int) -> None:
    if n_gpus < 1:
        raise ValueError(f"n_gpus must be >= 1, got {n_gpus}")
    if not sla_s > 0:
        raise ValueError(f"sla_s must be positive, got {sla_s:g}; use inf for no SLA")
    lowest, highest = requests.bin.min(initial=0), requests.bin.max(initial=0)
    if lowest < 0 or highest >= n_bins:
        raise ValueError(
            f"n_bins must be above every request's bin, got n_bins={n_bins} and bins "
            f"{lowest}..{highest}"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
