"""Orders of waiting: first come first served, by a key, and bins in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from llmsched.schedulers.bin_choice import BinChoice, RoundRobin
from llmsched.schedulers.iteration.base import KnownRequests


class Fcfs:
    """First come, first served, as in vLLM; who was preempted goes to the head.

    The last of the running requests is preempted first.
    """

    __slots__ = ("_queue", "add", "put_back")
    fifo = evicts_last = True

    def __init__(self, known: KnownRequests | None = None) -> None:
        self._queue: deque[int] = deque()
        self.add = self._queue.append
        self.put_back = self._queue.appendleft

    def head(self, n_admitted: int) -> int | None:
        return self._queue[0] if self._queue else None

    def remove(self, request: int) -> None:
        if self._queue[0] == request:
            self._queue.popleft()
        else:
            self._queue.remove(request)

    def victim(self, running: Sequence[int]) -> int:
        return running[-1]


class Ranked:
    """Smallest key first, ties in order of arrival; the largest of the running is preempted first.

    Parameters
    ----------
    known : KnownRequests
    key : callable
        The rank of a request, given the columns and its row: a number or a tuple of numbers.
    """

    __slots__ = ("_heap", "_key", "_known")
    fifo = evicts_last = False

    def __init__(self, known: KnownRequests, key: Callable[[KnownRequests, int], Any]) -> None:
        self._known = known
        self._key = key
        self._heap: list[tuple[Any, float, int]] = []

    def rank(self, request: int) -> tuple[Any, float, int]:
        """What is compared."""
        return self._key(self._known, request), self._known.arrival_s[request], request

    def add(self, request: int) -> None:
        heappush(self._heap, self.rank(request))

    put_back = add

    def head(self, n_admitted: int) -> int | None:
        return self._heap[0][2] if self._heap else None

    def remove(self, request: int) -> None:
        if self._heap[0][2] == request:
            heappop(self._heap)
        else:
            self._heap.remove(self.rank(request))
            heapify(self._heap)

    def victim(self, running: Sequence[int]) -> int:
        return max(running, key=self.rank)


def by_priority(known: KnownRequests) -> Ranked:
    """Smallest priority number first, as in vLLM's priority policy."""
    return Ranked(known, _priority)


def _priority(known: KnownRequests, request: int) -> int:
    priority: int = known.priority[request]
    return priority


class BinsInTurn:
    """One FIFO queue per bin of predicted length; who is admitted together comes from one bin.

    A decision admits from one bin only, the first non-empty one at or after a pointer that moves
    on once something was admitted (`RoundRobin`, or another `BinChoice`). So the requests that
    start together are of like length and end about together, as in multi-bin batching, and no bin
    starves. Preempted requests go to the head of their own bin.
    """

    __slots__ = ("_bin_of", "_bins", "_choice", "_current", "_served", "_waiting")
    fifo = False
    evicts_last = True

    def __init__(self, known: KnownRequests, n_bins: int, choice: BinChoice | None = None) -> None:
        highest = int(np.max(np.asarray(known.bin), initial=0))
        if highest >= n_bins:
            raise ValueError(f"bins must be in [0, {n_bins}), got bin {highest}; give n_bins more")
        self._bin_of = known.bin
        self._bins: list[deque[int]] = [deque() for _ in range(n_bins)]
        self._waiting = [0] * n_bins
        self._choice = choice or RoundRobin()
        self._current: int | None = None
        self._served = False  # whether the current bin gave somebody away

    def add(self, request: int) -> None:
        bin_index = self._bin_of[request]
        self._bins[bin_index].append(request)
        self._waiting[bin_index] += 1

    def put_back(self, request: int) -> None:
        bin_index = self._bin_of[request]
        self._bins[bin_index].appendleft(request)
        self._waiting[bin_index] += 1

    def head(self, n_admitted: int) -> int | None:
        current = self._current
        if not n_admitted and (self._served or current is None or not self._waiting[current]):
            current = self._current = self._choice.choose(self._waiting)
            self._served = False
        if current is None or not self._waiting[current]:
            return None
        return self._bins[current][0]

    def remove(self, request: int) -> None:
        bin_index = self._bin_of[request]
        self._bins[bin_index].remove(request)
        self._waiting[bin_index] -= 1
        self._served |= bin_index == self._current

    def victim(self, running: Sequence[int]) -> int:
        return running[-1]
