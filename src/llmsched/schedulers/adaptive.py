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
    _mean_size: float = 0.0
    _mean_s: float = 0.0
    _variance: float = 0.0
    _covariance: float = 0.0
    _slope: float = 0.0

    def observe(self, size: int, service_s: float) -> None:
        """Learn from a finished batch."""
        self.n_batches += 1
        weight = max(LEAST_WEIGHT, 1 / self.n_batches)
        off_size, off_s = size - self._mean_size, service_s - self._mean_s
        self._mean_size += weight * off_size
        self._mean_s += weight * off_s
        self._variance = (1 - weight) * (self._variance + weight * off_size * off_size)
        self._covariance = (1 - weight) * (self._covariance + weight * off_size * off_s)
        slope = self._covariance / self._variance if self._variance > 0 else 0.0
        self._slope = min(max(slope, 0.0), self._mean_s / self._mean_size)

    def service_s(self, size: int) -> float:
        """Expected service time of a batch of this size [s]; 0 before the first batch."""
        return self._mean_s + self._slope * (size - self._mean_size)


@dataclass(slots=True)
class LearnedBin:
    """One bin's memory limit and service line, which plan its next batch."""

    memory: MemoryLimit
    batch_max: int = 128
    line: ServiceLine = field(default_factory=ServiceLine)
    most: int = field(init=False)  # requests that memory and `batch_max` allow now

    def __post_init__(self) -> None:
        self.most = min(self.memory.limit(), self.batch_max)

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Learn what the batch held and what it cost."""
        self.memory.observe(batch)
        self.most = min(self.memory.limit(), self.batch_max)
        self.line.observe(batch.size, service_s)

    def plan(self, waiting: int, oldest_wait_s: float, sla_s: float) -> int:
        """How many requests the next batch should hold.

        All that wait and memory allows, unless a smaller batch lets the oldest meet the SLA: then
        the largest that does. Once the oldest waited for more than a quarter of the SLA the queue
        is the trouble, and smaller batches would only lengthen it.
        """
        size = max(1, min(waiting, self.most))
        left_s = sla_s - oldest_wait_s
        if oldest_wait_s > KEEPS_UP_SHARE * sla_s or self.line.service_s(size) <= left_s:
            return size
        if self.line.service_s(1) > left_s:
            return size  # late in any case
        fits = 1
        while fits < size:  # the line never falls: bisection
            middle = (fits + size + 1) // 2
            if self.line.service_s(middle) <= left_s:
                fits = middle
            else:
                size = middle - 1
        return fits


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
            self.bins = [LearnedBin(self.memory(), self.batch_max) for _ in waiting.counts]
        best, chosen, planned = -1.0, None, 1
        for index, count in enumerate(waiting.counts):
            if not count:
                continue
            wait_s = now_s - waiting.oldest_arrival_s[index]
            size = self.bins[index].plan(count, wait_s, self.sla_s)
            score = self._score(self.bins[index].line, size, wait_s)
            if score > best:
                best, chosen, planned = score, index, size
        return None if chosen is None else Head(chosen, planned)

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Tell the bin."""
        self.bins[batch.bin].observe(batch, service_s)

    def _score(self, line: ServiceLine, size: int, wait_s: float) -> float:
        service_s = line.service_s(size)
        if not service_s > 0:
            return math.inf  # costs nothing, or nobody knows yet: find out
        score = size * (wait_s + service_s) / service_s
        return HOPELESS_WEIGHT * score if line.service_s(1) > self.sla_s else score
