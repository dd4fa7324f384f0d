"""Figures of merit per bin: waiting, latency, backlog, and what its batches are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.records import BatchTable, RequestTable


@dataclass(frozen=True, slots=True, kw_only=True)
class BinMetrics:
    """One bin of a run; batch composition is in output tokens, averaged over the bin's batches."""

    bin: int
    requests: int  # offered
    request_share: float  # of all requests offered
    rejected: int
    batches: int
    batch_size_mean: float
    output_variance_mean: float  # of each batch's (population) variance [tokens^2]
    output_range_mean: float  # of each batch's largest - smallest [tokens]
    output_max_over_mean: float  # of each batch's largest / mean; 1 for a batch of zeros
    latency_mean_s: float
    latency_p99_s: float
    sla_violation_rate: float  # share of the bin's requests, rejected ones included
    wait_max_s: float
    gpu_time_share: float  # of all GPU time spent on batches
    backlog_mean: float  # requests waiting, averaged over the span (Little's law)
    backlog_peak: int  # most requests left waiting once an instant's pulls are done


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    """The columns of the completed requests, in trace order."""

    arrival_s: FloatArray
    output_tokens: IntArray
    bin: IntArray
    start_s: FloatArray
    finish_s: FloatArray
    batch: IntArray

    def __len__(self) -> int:
        return len(self.arrival_s)


def _served(requests: RequestTable) -> _Served:
    columns = [getattr(requests, name) for name in _Served.__slots__]
    completed = requests.completed
    return _Served(*(columns if completed.all() else [column[completed] for column in columns]))


def _per_bin(
    requests: RequestTable,
    served: _Served,
    batches: BatchTable,
    makespan_s: float,
    *,
    sla_s: float,
    n_bins: int,
) -> tuple[BinMetrics, ...]:
    offered = np.bincount(requests.bin, minlength=n_bins)
    completed = np.bincount(served.bin, minlength=n_bins)
    n_batches = np.bincount(batches.bin, minlength=n_bins)
    busy_s = np.bincount(batches.bin, batches.finish_s - batches.start_s, minlength=n_bins)
    composition = [
        np.bincount(batches.bin, figure, minlength=n_bins)
        for figure in _composition(served, batches)
    ]
    rows = []
    for k, members in enumerate(_members(served.bin, completed)):
        arrival_s, start_s = served.arrival_s[members], served.start_s[members]
        latency_s = served.finish_s[members] - arrival_s
        wait_s = start_s - arrival_s
        n_good = int(np.count_nonzero(latency_s <= sla_s))
        variance, spread, peak = (_ratio(float(sums[k]), int(n_batches[k])) for sums in composition)
        rows.append(
            BinMetrics(
                bin=k,
                requests=int(offered[k]),
                request_share=_ratio(int(offered[k]), len(requests)),
                rejected=int(offered[k] - completed[k]),
                batches=int(n_batches[k]),
                batch_size_mean=_ratio(int(completed[k]), int(n_batches[k])),
                output_variance_mean=variance,
                output_range_mean=spread,
                output_max_over_mean=peak,
                latency_mean_s=_mean(latency_s),
                sla_violation_rate=_ratio(int(offered[k]) - n_good, int(offered[k])),
                wait_max_s=_max(wait_s),
                gpu_time_share=_ratio(float(busy_s[k]), float(busy_s.sum())),
                backlog_mean=_rate(float(wait_s.sum()), makespan_s),
                backlog_peak=_peak_backlog(arrival_s, start_s),
                latency_p99_s=_percentiles(latency_s, (99,))[0],
            )
        )
    return tuple(rows)


def _members(bins: IntArray, count: NDArray[np.intp]) -> list[NDArray[np.intp] | slice]:
    """Which of the served requests each bin holds, in trace order; one sort for all bins."""
    if len(count) == 1:
        return [slice(None)]
    # at most 64 bins: one byte each makes the stable sort a radix sort
    order = np.argsort(bins.astype(np.uint8), kind="stable")
    return list(np.split(order, np.cumsum(count)[:-1]))


def _composition(served: _Served, batches: BatchTable) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Variance, range and max/mean of the output tokens in each batch."""
    batch = served.batch.astype(np.intp)  # once, or every use below converts it again
    output = served.output_tokens.astype(np.float64)
    total = np.bincount(batch, output, minlength=len(batches))
    output *= output
    squares = np.bincount(batch, output, minlength=len(batches))
    smallest = batches.max_output_tokens.copy()
    np.minimum.at(smallest, batch, served.output_tokens)
    size, largest = batches.size.astype(np.float64), batches.max_output_tokens
    # sums of whole numbers are exact, so a batch of equal lengths has variance 0, not 1e-13
    variance = (size * squares - total * total) / (size * size)
    over_mean = np.divide(largest * size, total, out=np.ones(len(batches)), where=total > 0)
    return variance, (largest - smallest).astype(np.float64), over_mean


def _peak_backlog(arrival_s: FloatArray, start_s: FloatArray) -> int:
    """Most requests waiting at once: arrivals so far less starts so far, after each arrival.

    A request that starts at the instant it arrives never waits.
    """
    if (start_s[1:] < start_s[:-1]).any():  # served in another order than that of arrival
        start_s = np.sort(start_s)
    waiting = np.searchsorted(start_s, arrival_s, side="right")
    np.subtract(np.arange(1, len(waiting) + 1), waiting, out=waiting)
    return int(waiting.max(initial=0))


def _padding_waste(batches: BatchTable) -> float:
    """The share of all (batch size x longest member) rectangles that holds no token, in [0, 1)."""
    if not len(batches):
        return math.nan
    slots = np.multiply(batches.size, batches.max_total_tokens, dtype=np.int64).sum()
    return 1.0 - int(batches.tokens.sum()) / int(slots) if slots else 0.0


def _percentiles(values: FloatArray, percents: tuple[int, ...]) -> list[float]:
    """Percentiles by linear interpolation; reorders `values` instead of copying them."""
    if not len(values):
        return [math.nan] * len(percents)
    return [float(p) for p in np.percentile(values, percents, overwrite_input=True)]


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _max(values: FloatArray) -> float:
    return float(values.max()) if len(values) else math.nan


def _ratio(part: float, whole: float) -> float:
    """part / whole; NaN where the whole is empty."""
    return part / whole if whole else math.nan


def _rate(amount: float, time_s: float) -> float:
    """amount / time; nothing is 0 over any time, even where nothing finished to define it."""
    if amount == 0:
        return 0.0
    return amount / time_s if time_s else math.inf
