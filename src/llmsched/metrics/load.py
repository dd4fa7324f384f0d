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

from llmsched._util.types import IntArray
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.workload.trace import Trace

if TYPE_CHECKING:
    from llmsched.latency.base import LatencyModel

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
    first_s, last_s = requests.arrival_s.min(), requests.arrival_s.max()
    span_s = last_s - first_s
    longest_s = (batches.finish_s - batches.start_s).max()
    drain_s = batches.finish_s.max() - last_s - longest_s
    busy_s = np.maximum(np.minimum(batches.finish_s, last_s) - batches.start_s, 0.0).sum()
    outgrown = drain_s > DRAIN_SHARE * span_s and busy_s >= BUSY_SHARE * n_gpus * span_s
    if offered_load >= 1 or outgrown:
        return "overloaded"
    wait_s = np.fmax.reduce(requests.start_s - requests.arrival_s)  # NaN where rejected
    return "backlogged" if wait_s - longest_s > WAIT_SHARE * span_s else "stable"


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
