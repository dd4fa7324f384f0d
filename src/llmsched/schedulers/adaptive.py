"""`multi_bin_adaptive`: which bin, and how many of it, from ages and learned service times.

docs/multi_bin_adaptive.md says what it does, and when it loses. It learns what a batch of each bin
costs from the batches that finished, and sees how many requests wait in each bin and since when.
It knows neither the latency model nor any true length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from llmsched.schedulers.base import BatchPlan, FinishedBatch, Head, WaitingView
from llmsched.schedulers.memory_limit import MemoryLimit

LEAST_WEIGHT = 0.1  # of the newest batch in a bin's service line; 1/n for the first ten
KEEPS_UP_SHARE = 0.25  # of the SLA: while the oldest waited no longer, smaller batches can help
HOPELESS_WEIGHT = 0.1  # of a bin whose requests miss the SLA even when served alone and at once


@dataclass(slots=True)
class ServiceLine:
    """What a batch costs as a function of its size: T = T̄ + slope·(b − b̄), from recent batches.

    An exponentially weighted least-squares line. The slope stays in [0, T̄/b̄]: a larger batch
    never costs less, nor more per request.
    """

    n_batches: int = 0
    mean_size: float = 0.0
    mean_s: float = 0.0
    slope_s: float = 0.0  # per request
    _variance: float = 0.0
    _covariance: float = 0.0

    def observe(self, size: int, service_s: float) -> None:
        """Learn from a finished batch."""
        self.n_batches += 1
        weight = max(LEAST_WEIGHT, 1 / self.n_batches)
        off_size, off_s = size - self.mean_size, service_s - self.mean_s
        self.mean_size += weight * off_size
        self.mean_s += weight * off_s
        self._variance = (1 - weight) * (self._variance + weight * off_size * off_size)
        self._covariance = (1 - weight) * (self._covariance + weight * off_size * off_s)
        slope_s = self._covariance / self._variance if self._variance > 0 else 0.0
        self.slope_s = min(max(slope_s, 0.0), self.mean_s / self.mean_size)

    def service_s(self, size: int) -> float:
        """Expected service time of a batch of this size [s]; 0 before the first batch."""
        return self.mean_s + self.slope_s * (size - self.mean_size)


@dataclass(slots=True)
class LearnedBin:
    """One bin's memory limit and service line, which plan its next batch."""

    memory: MemoryLimit
    sla_s: float
    batch_max: int = 128
    line: ServiceLine = field(default_factory=ServiceLine)
    most: int = field(init=False)  # requests that memory and `batch_max` allow now
    alone_s: float = field(init=False, default=0.0)  # expected service time of one request

    def __post_init__(self) -> None:
        self.most = max(1, min(self.memory.limit(), self.batch_max))

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Learn what the batch held and what it cost."""
        self.memory.observe(batch)
        self.line.observe(batch.size, service_s)
        self.most = max(1, min(self.memory.limit(), self.batch_max))
        self.alone_s = self.line.service_s(1)

    def plan(self, waiting: int, oldest_wait_s: float) -> tuple[int, float]:
        """How many requests the next batch should hold, and what it is expected to cost [s].

        All that wait and memory allows, unless a smaller batch lets the oldest meet the SLA: then
        the largest that does. Once the oldest waited for more than a quarter of the SLA the queue
        is the trouble, and smaller batches would only lengthen it.
        """
        size, line = min(waiting, self.most), self.line
        service_s = line.mean_s + line.slope_s * (size - line.mean_size)
        left_s = self.sla_s - oldest_wait_s
        if oldest_wait_s > KEEPS_UP_SHARE * self.sla_s or service_s <= left_s:
            return size, service_s
        if self.alone_s > left_s:
            return size, service_s  # late in any case
        fits = 1
        while fits < size:  # the line never falls: bisection
            middle = (fits + size + 1) // 2
            if line.service_s(middle) <= left_s:
                fits = middle
            else:
                size = middle - 1
        return fits, line.service_s(fits)


@dataclass(slots=True)
class AdaptivePolicy:
    """Serve the bin with the most requests times response ratio: b·(wait + T)/T.

    b is the planned batch, T what it is expected to cost, and the wait that of the bin's oldest
    request. With nothing waiting long it is the most requests per GPU second, b/T up to a
    constant; the wait lets no bin starve. A bin whose requests miss the SLA even alone counts a
    tenth: it fills larger batches meanwhile, and waits longer.

    Parameters
    ----------
    sla_s : float
        Latency target of a request [s].
    memory : callable
        Makes the memory limit of one bin.
    batch_max : int
        The largest batch [requests].

    Notes
    -----
    (wait + T)/T is the response ratio of Brinch Hansen's highest-response-ratio-next, here of a
    batch; weighing it by the batch makes it a MaxWeight rule on the age of the oldest.
    """

    sla_s: float
    memory: Callable[[], MemoryLimit]
    batch_max: int = 128
    bins: list[LearnedBin] = field(default_factory=list)

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan | None:
        """The bin of the highest score, the lowest index on ties, and how many of it."""
        if not self.bins:
            self.bins = [
                LearnedBin(self.memory(), self.sla_s, self.batch_max) for _ in waiting.counts
            ]
        best, chosen, planned = -1.0, None, 1
        ages = zip(waiting.counts, waiting.oldest_arrival_s, strict=True)
        for index, (count, arrival_s) in enumerate(ages):
            if not count:
                continue
            one, wait_s = self.bins[index], now_s - arrival_s
            size, service_s = one.plan(count, wait_s)
            if service_s > 0:
                score = size * (wait_s + service_s) / service_s
                if one.alone_s > self.sla_s:
                    score *= HOPELESS_WEIGHT
            else:
                score = math.inf  # costs nothing, or nobody knows yet: find out
            if score > best:
                best, chosen, planned = score, index, size
        return None if chosen is None else Head(chosen, planned)

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Tell the bin."""
        self.bins[batch.bin].observe(batch, service_s)
