"""What waits where: FIFO bins as index ranges over columns, and the next batch cut from them.

Requests are never objects here. They are sorted once by bin (stably, so that each bin stays in
order of arrival); a bin is then a range of positions and a batch a range at its head. Nothing
here knows SimPy: instants are arguments.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any, Protocol

import numpy as np

from llmsched.engine.columns import Columns
from llmsched.schedulers.base import FullBatches, Scheduler
from llmsched.schedulers.bin_choice import BinChoice


class Batch:
    """Requests of one bin that are served together: `size` positions from `first` on."""

    __slots__ = ("bin", "columns", "first", "size")

    def __init__(self, columns: Columns, bin_index: int, first: int, size: int) -> None:
        self.columns = columns
        self.bin = bin_index
        self.first = first
        self.size = size

    @property
    def max_total_tokens(self) -> int:
        """Largest prompt + output of one member."""
        largest: int = self._largest(self.columns.total_view)
        return largest

    @property
    def max_prompt_tokens(self) -> int:
        """Largest prompt of one member."""
        largest: int = self._largest(self.columns.prompt_view)
        return largest

    @property
    def max_output_tokens(self) -> int:
        """Largest output of one member."""
        largest: int = self._largest(self.columns.output_view)
        return largest

    @property
    def max_service_s(self) -> float:
        """Longest drawn service time of one member [s]."""
        if self.columns.service_view is None:
            raise ValueError(
                "the latency model needs a workload with drawn service times; "
                "take another --latency, or a workload that has them"
            )
        largest: float = self._largest(self.columns.service_view)
        return largest

    def _largest(self, column: memoryview[Any]) -> Any:
        if self.size == 1:
            return column[self.first]
        return max(column[self.first : self.first + self.size])

    @property
    def mean_tokens(self) -> float:
        """Mean prompt + output tokens per request."""
        before = self.columns.tokens_before_view
        tokens: int = before[self.first + self.size] - before[self.first]
        return tokens / self.size

    @property
    def mean_squared_tokens(self) -> float:
        """Mean of the squared prompt + output tokens per request."""
        before = self.columns.squares_before
        squares: float = before[self.first + self.size] - before[self.first]
        return squares / self.size


class Queue(Protocol):
    """What the GPUs pull from."""

    next_s: float  # when something next comes in: infinity when nothing will

    def admit(self, now_s: float) -> None:
        """Let in everything that came in up to `now_s`."""

    def admit_one(self) -> None:
        """Let in the next single arrival."""

    def take(self) -> Batch | None:
        """Cut the next batch from what has been let in, or None."""


class WaitingBins:
    """Bins of waiting requests; a batch is cut when a GPU asks for one.

    A batch is the longest FIFO prefix of the chosen bin that its batcher and the KV memory allow.
    """

    def __init__(self, columns: Columns, n_bins: int, scheduler: Scheduler) -> None:
        self.batchers = [scheduler.batcher() for _ in range(n_bins)]
        self.waiting = [0] * n_bins
        self.next_s = float(columns.arrival_s[0])
        self._columns = columns
        self._choice: BinChoice = scheduler.choice
        self._head: list[int] = columns.first_of_bin[:-1].tolist()
        self._waits = scheduler.waits
        self._waits.follow(self._head, columns.arrival_by_position)
        self._bounded = math.isfinite(scheduler.capacity_tokens)
        self._capacity = math.floor(scheduler.capacity_tokens) if self._bounded else 0
        self._tokens_before = columns.tokens_before_view
        self._arrival_s = columns.arrival_s.data
        self._bin_of = columns.bin_of.data
        self._n_admitted = 0
        self._n_taken = 0

    def admit(self, now_s: float) -> None:
        """Let in everything that arrived up to `now_s`."""
        self._waits.now_s = now_s
        if self.next_s > now_s:
            return
        arrival_s, bin_of, waiting = self._arrival_s, self._bin_of, self.waiting
        index = self._n_admitted
        while arrival_s[index] <= now_s:
            waiting[bin_of[index]] += 1
            index += 1
        self._n_admitted = index
        self.next_s = arrival_s[index]

    def admit_one(self) -> None:
        """Let in the next single arrival."""
        self._waits.now_s = self.next_s
        self.waiting[self._bin_of[self._n_admitted]] += 1
        self._n_admitted += 1
        self.next_s = self._arrival_s[self._n_admitted]

    def take(self) -> Batch | None:
        """Cut a batch from the head of the chosen bin, or None when every bin is empty."""
        if self._n_taken == self._n_admitted:
            return None
        chosen = self._choice.choose(self.waiting)
        if chosen is None:
            return None
        first = self._head[chosen]
        size = self.waiting[chosen]
        # A lone request always goes: its batcher allows at least 1, and it fits or was rejected.
        # Not asking saves 10 % of a run on many idle GPUs, where nearly every batch is alone.
        if size > 1:
            size = self._allowed(chosen, first, size)
        if size < 1 or chosen < 0:
            raise ValueError(
                "a scheduler must choose a bin where requests wait, and its batcher allow at "
                f"least 1; got bin {chosen} with {self.waiting[chosen]} waiting, and {size} allowed"
            )
        self._head[chosen] = first + size
        self.waiting[chosen] -= size
        self._n_taken += size
        return Batch(self._columns, chosen, first, size)

    def _allowed(self, bin_index: int, first: int, waiting: int) -> int:
        """Requests in the longest prefix that the batcher and the KV memory allow."""
        size = min(self.batchers[bin_index].limit(), waiting)
        if self._bounded:
            before = self._tokens_before
            most = before[first] + self._capacity
            if before[first + size] > most:
                return bisect_right(before, most, first + 1, first + size + 1) - 1 - first
        return size


class FormedBatches:
    """Batches formed by the arrivals themselves, whatever the GPUs do: the multi-bin paper.

    Since forming does not depend on the GPUs, all batches and their instants are known from the
    trace; they are served first formed, first served.
    """

    def __init__(self, columns: Columns, n_bins: int, scheduler: Scheduler) -> None:
        assert scheduler.release is not None
        self.batchers = [scheduler.batcher() for _ in range(n_bins)]
        self._columns = columns
        formed = sorted(
            batch
            for bin_index in range(n_bins)
            for batch in _formed_in_bin(columns, bin_index, scheduler.release)
        )
        self._formed = formed
        self._instants = [batch[0] for batch in formed]
        self._n_admitted = 0
        self._n_taken = 0
        self.next_s = self._instants[0] if formed else math.inf

    def admit(self, now_s: float) -> None:
        """Let in every batch that was formed up to `now_s`."""
        if self.next_s <= now_s:
            self._n_admitted = bisect_right(self._instants, now_s, self._n_admitted)
            self._set_next()

    def admit_one(self) -> None:
        """Let in the next batch to be formed."""
        self._n_admitted += 1
        self._set_next()

    def _set_next(self) -> None:
        formed = self._n_admitted < len(self._instants)
        self.next_s = self._instants[self._n_admitted] if formed else math.inf

    def take(self) -> Batch | None:
        """The batch that was formed first among those not yet served, or None."""
        if self._n_taken == self._n_admitted:
            return None
        _, _, _, bin_index, first, size = self._formed[self._n_taken]
        self._n_taken += 1
        return Batch(self._columns, bin_index, first, size)


_BY_ARRIVAL, _BY_CLOCK = 0, 1  # at one instant arrivals complete batches before timers release any


def _formed_in_bin(
    columns: Columns, bin_index: int, release: FullBatches
) -> list[tuple[float, int, int, int, int, int]]:
    """Batches of one bin as (instant, cause, rank at that instant, bin, first, size)."""
    start, end = columns.first_of_bin[bin_index : bin_index + 2].tolist()
    # The rank in order of arrival of every request of this bin, and its instant.
    ranks = np.searchsorted(columns.accepted, columns.request[start:end])
    arrival_s = columns.arrival_s[ranks]
    wait_s = math.inf if release.max_forming_wait_s is None else release.max_forming_wait_s
    formed: list[tuple[float, int, int, int, int, int]] = []
    head, n = 0, end - start
    while head < n:
        full = head + release.batch_size - 1
        timer_s = min(float(arrival_s[head]) + wait_s, columns.last_arrival_s)
        if full < n and arrival_s[full] <= timer_s:
            last = full + 1
            key = (float(arrival_s[full]), _BY_ARRIVAL, int(ranks[full]))
        else:
            last = int(np.searchsorted(arrival_s, timer_s, side="right"))
            key = (timer_s, _BY_CLOCK, bin_index)
        formed.append((*key, bin_index, start + head, last - head))
        head = last
    return formed
