"""Offered load and the label that goes with it: was the system, at these settings, up to the work?

The offered load ρ is the work offered at the scheduler's best batch over the GPU time there is.
It bounds what any order of service could do with such batches: a real run forms smaller ones
while its queues are short, so ρ < 1 does not promise a stable run; the label looks at the run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.workload.trace import Trace

if TYPE_CHECKING:
    from llmsched.engine.iteration.settings import IterationSettings
    from llmsched.engine.step_records import ReplicaTable, ServedTable
    from llmsched.latency.base import LatencyModel
    from llmsched.latency.steps.base import StepLatency

LoadLabel = Literal["stable", "backlogged", "overloaded"]

DRAIN_SHARE = 0.1  # of the arrival span: a longer drain means that the backlog outgrew the run
BUSY_SHARE = 0.95  # of the GPU time while requests arrive: less busy, the GPUs were up to the work
WAIT_SHARE = 0.02  # of the arrival span: a longer wait means that a backlog built up
MEMORY_SHARE = 0.9  # of the KV capacity: what the dynamic batcher's buffer rule leaves to batches

LABEL_RULE = (
    "overloaded: ρ >= 1 (infinite when all arrive at once), or nothing was served, or the GPUs "
    f"were busy for {BUSY_SHARE:.0%} of the arrival span and then drained for another "
    f"{DRAIN_SHARE:.0%} of it; backlogged: otherwise, if a request waited for over "
    f"{WAIT_SHARE:.0%} of the arrival span; stable: the rest. The time of the longest batch comes "
    "on top of both. Rejected requests bring no work to ρ"
)


def memory_best_batch(
    trace: Trace, bins: IntArray, *, n_bins: int, kv_capacity_tokens: float, batch_max: int
) -> IntArray:
    """The largest batch that memory lets a dynamic batcher aim at, per bin [requests], (n_bins,).

    min(batch_max, floor(0.9 * capacity / mean prompt + output tokens of the bin)), at least 1.
    """
    count = np.bincount(bins, minlength=n_bins)
    tokens = np.bincount(bins, weights=trace.total_tokens, minlength=n_bins)
    by_memory = np.full(n_bins, float(batch_max))
    np.divide(MEMORY_SHARE * kv_capacity_tokens * count, tokens, out=by_memory, where=tokens > 0)
    best: IntArray = np.clip(np.floor(by_memory), 1, batch_max).astype(np.int32)
    return best


def offered_load(
    trace: Trace,
    bins: IntArray,
    *,
    n_bins: int,
    best_batch: int | IntArray,
    latency: LatencyModel,
    n_gpus: float,
    offered: Trace | None = None,
) -> float:
    """The mean work of a request times the arrival rate over the GPUs, ρ.

    The work is the service time of every bin's requests cut, in order of arrival, into batches
    of the best size (the last one of a bin is what is left).  The arrival rate is (n - 1) over
    the time from the first to the last arrival.  Infinite when all arrive at one instant.

    Parameters
    ----------
    trace : Trace
        The requests that the engine serves.
    bins : ndarray of shape (n,)
        The bin of each request, in [0, n_bins).
    best_batch : int or ndarray of shape (n_bins,)
        The batch that the scheduler forms when enough requests wait [requests].
    offered : Trace, optional
        All that arrive, where the engine rejects some: these bring no work, but time goes on.

    Raises
    ------
    ValueError
        If a best batch is below 1.
    """
    sizes = np.broadcast_to(np.asarray(best_batch, dtype=np.int32), n_bins)
    if sizes.min() < 1:
        raise ValueError(f"best_batch must be >= 1 in every bin, got {int(sizes.min())}")
    if not len(trace):
        return 0.0
    work_s = _work_s(trace, bins, sizes, latency)
    everyone = trace if offered is None else offered
    return work_s / len(everyone) * everyone.arrival_rate_per_s / n_gpus


def load_label(
    offered_load: float, requests: RequestTable, batches: BatchTable, *, n_gpus: float
) -> LoadLabel:
    """The run's label, by `LABEL_RULE`.

    A drain is the time from the last arrival to the last finish.  Both it and a wait may last as
    long as the longest batch without a backlog: a lone last request needs that much, too.  A run
    that served nothing is overloaded.

    Notes
    -----
    In `multi_bin_only` the queueing time holds the wait for a batch to fill, so a run at a low
    rate may be labelled backlogged; that is what its requests see.
    """
    if not len(batches):
        return "overloaded" if len(requests) else "stable"
    longest_s = (batches.finish_s - batches.start_s).max()
    last_s = requests.arrival_s.max()
    busy_s = np.maximum(np.minimum(batches.finish_s, last_s) - batches.start_s, 0.0).sum()
    return _label(
        offered_load,
        requests.arrival_s,
        wait_s=np.fmax.reduce(requests.start_s - requests.arrival_s) - longest_s,  # NaN if rejected
        drain_s=batches.finish_s.max() - last_s - longest_s,
        busy_s=busy_s / n_gpus,
    )


def _label(
    offered_load: float, arrival_s: FloatArray, *, wait_s: float, drain_s: float, busy_s: float
) -> LoadLabel:
    span_s = arrival_s.max() - arrival_s.min()
    outgrown = drain_s > DRAIN_SHARE * span_s and busy_s >= BUSY_SHARE * span_s
    if offered_load >= 1 or outgrown:
        return "overloaded"
    return "backlogged" if wait_s > WAIT_SHARE * span_s else "stable"


def step_load(
    table: ServedTable, settings: IterationSettings, step: StepLatency, n_replicas: int
) -> float:
    """ρ of continuous batching: mean work of a request times the arrival rate, over the replicas.

    The work is that at the largest batch that memory and `max_running` allow: with P prompt and O
    output tokens on average, b requests that hold K tokens each, a request takes s = max(O/b, P /
    (step_tokens - b)) steps' worth of time, each with O/s decodes and P/s prompt tokens.
    K is the mean over decode steps, E[O·P + O²/2] / E[O].
    """
    served = table.completed
    n, n_served = len(table), int(served.sum())
    if not n_served:
        return 0.0
    prompt = table.prompt_tokens[served].astype(np.float64)
    output = table.output_tokens[served].astype(np.float64)
    held = float((output * (prompt + output / 2)).sum() / output.sum())
    usable = settings.usable_blocks * settings.block_tokens
    batch = max(1.0, min(settings.max_running, usable / held, settings.step_tokens - 1.0))
    p, o = float(prompt.mean()), float(output.mean())
    steps = max(o / batch, p / max(1.0, settings.step_tokens - batch))
    decodes, chunk = round(o / steps), math.ceil(p / steps)
    time_s = step.step_s([(chunk, 0)], decodes, round(decodes * held)) + settings.overhead_s
    work_s = steps * (time_s + settings.per_request_s * (decodes + 1))
    span_s = float(table.arrival_s.max() - table.arrival_s.min())
    if span_s <= 0:
        return math.inf
    return n_served / n * work_s * (n - 1) / span_s / n_replicas


def step_load_label(offered_load: float, table: ServedTable, replicas: ReplicaTable) -> LoadLabel:
    """The label of a run of the iteration level, by `LABEL_RULE`, a request's stay for a batch."""
    served = table.completed
    if not served.any():
        return "overloaded" if len(table) else "stable"
    last_s = table.arrival_s.max()
    longest_s = (table.finish_s - table.scheduled_s)[served].max()
    ends_s = np.full(len(replicas), last_s)
    np.maximum.at(ends_s, table.replica[served], table.finish_s[served])
    return _label(
        offered_load,
        table.arrival_s,
        wait_s=(table.scheduled_s - table.arrival_s)[served].max() - longest_s,
        drain_s=ends_s.max() - last_s - longest_s,
        busy_s=float((replicas.busy_s - (ends_s - last_s)).mean()),  # none rests while it drains
    )


def _work_s(trace: Trace, bins: IntArray, sizes: IntArray, latency: LatencyModel) -> float:
    """Service time of all batches when every bin is cut into batches of its size [s]."""
    from llmsched.latency.base import Shape

    # at most 64 bins: one byte each makes the stable sort a radix sort
    by_bin = np.argsort(bins.astype(np.uint8), kind="stable")
    count = np.bincount(bins, minlength=len(sizes))
    bin_first = np.cumsum(count) - count
    first = np.concatenate(
        [
            np.arange(start, start + n, size)
            for start, n, size in zip(bin_first, count, sizes, strict=True)
        ]
    )

    def largest(tokens: IntArray) -> NDArray[np.int64]:  # as Python's: a model may square it
        return np.maximum.reduceat(tokens[by_bin], first).astype(np.int64)

    shapes = Shape(
        size=np.diff(first, append=len(trace)),
        max_total_tokens=largest(trace.total_tokens),
        max_prompt_tokens=largest(trace.prompt_tokens),
        max_output_tokens=largest(trace.output_tokens),
        max_service_s=math.nan
        if trace.service_s is None
        else np.maximum.reduceat(trace.service_s[by_bin], first),
    )
    return float(np.sum(latency.service_s(shapes)))
