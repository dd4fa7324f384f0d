"""What waits where, and the next batch cut from it as the policy plans.

Requests are never objects here. They are sorted once by bin (stably, so that each bin stays in
order of arrival); a bin is then a range of positions, and a batch a range at its head. Nothing here
knows SimPy: instants are arguments.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from operator import index
from typing import Any, ClassVar, NoReturn

import numpy as np

from llmsched._util.arrays import IntArray
from llmsched._util.plugins import CALL_ERRORS, PluginError, name_of, raise_failure
from llmsched.engine.batch.batch import Batch
from llmsched.engine.columns import Accepted, Columns
from llmsched.schedulers.base import Head, Later, WaitingView, view_setter
from llmsched.schedulers.scheduler import FullBatches, Scheduler
from llmsched.workload.trace import Trace

_set_counts = view_setter("counts")
_set_oldest = view_setter("oldest_arrival_s")


class Queue:
    """Letting in what arrives, and asking the policy: what all kinds of queues have in common.

    Parameters
    ----------
    scheduler : Scheduler
    arrival_s : memoryview
        When things come in [s], non-decreasing, and infinity after the last.
    bin_of : memoryview
        The bin of each.
    """

    plans: ClassVar[str] = "a Head, a Later or None"  # that a policy may make here

    def __init__(
        self, scheduler: Scheduler, arrival_s: memoryview[Any], bin_of: memoryview[Any], n_bins: int
    ) -> None:
        self.policy = scheduler.batch_policy()
        self.waiting = [0] * n_bins
        self.next_s: float = arrival_s[0]  # when something next comes in
        self.later_s = math.inf  # when the policy wants to be asked again, if before that
        self._next_batch = self.policy.next_batch
        self._view = WaitingView()
        self._arrival_s = arrival_s
        self._bin_of = bin_of
        self._bounded = math.isfinite(scheduler.capacity_tokens)
        self._capacity = math.floor(scheduler.capacity_tokens) if self._bounded else 0
        self.n_waiting = 0
        self._n_admitted = 0

    def admit(self, now_s: float) -> None:
        """Let in everything that came in up to `now_s`."""
        if self.next_s > now_s:
            return
        arrival_s, bin_of, waiting = self._arrival_s, self._bin_of, self.waiting
        position = self._n_admitted
        while arrival_s[position] <= now_s:
            waiting[bin_of[position]] += 1
            position += 1
        self.n_waiting += position - self._n_admitted
        self._n_admitted = position
        self.next_s = arrival_s[position]

    def admit_one(self) -> None:
        """Let in the next single arrival."""
        self.waiting[self._bin_of[self._n_admitted]] += 1
        self.n_waiting += 1
        self._n_admitted += 1
        self.next_s = self._arrival_s[self._n_admitted]

    def take(self, now_s: float) -> Batch | None:
        """The next batch out of what waits, at least one request, or None."""
        raise NotImplementedError

    def served(self) -> Columns:
        """The requests as columns in which every batch is a range, from its `first` on."""
        raise NotImplementedError

    def _plan(self, now_s: float) -> Any:
        """What the policy plans; None where it waits."""
        _set_counts(self._view, tuple(self.waiting))
        try:
            plan = self._next_batch(self._view, now_s)
        except CALL_ERRORS as error:
            raise_failure(self.policy, "next_batch", error)
        return None if self._holds_back(plan, now_s) else plan

    def _holds_back(self, plan: Any, now_s: float) -> bool:
        """Whether the policy plans nothing now; `later_s` is then when it wants to be asked."""
        if isinstance(plan, Later):
            at_s = plan.at_s
            if not (isinstance(at_s, int | float) and now_s < at_s):
                self._refuse(f"something later than now, {now_s!r} s", repr(plan))
            self.later_s = at_s
        return plan is None or isinstance(plan, Later)

    def _head_of(self, plan: Any) -> tuple[int, int]:
        """Bin and size of a plan that must be the head of a bin, and no more than waits there."""
        if not (hasattr(plan, "bin") and hasattr(plan, "size")):
            self._refuse(self.plans, repr(plan))
        try:
            bin_index, size = index(plan.bin), index(plan.size)  # numpy's integers, too
            right = bin_index >= 0 and 1 <= size <= self.waiting[bin_index]
        except (TypeError, IndexError):
            right = False
        if not right:
            self._refuse("the head of a bin, of at most as many as wait there", repr(plan))
        return bin_index, size

    def _refuse(self, rule: str, given: str) -> NoReturn:
        counts = ", ".join(map(str, self.waiting))
        raise PluginError(
            f"{name_of(self.policy)}.next_batch must plan {rule}, got {given}; {counts} wait"
        )


class WaitingBins(Queue):
    """Bins of waiting requests, for policies that plan the head of one: "counts" and "ages"."""

    def __init__(self, trace: Trace, accepted: Accepted, n_bins: int, scheduler: Scheduler) -> None:
        super().__init__(scheduler, accepted.arrival_s.data, accepted.bin_of.data, n_bins)
        by_bin, first_of_bin = accepted.by_bin(n_bins)
        self._columns = Columns(trace, accepted.rows[by_bin])
        self._tokens_before = self._columns.tokens_before_view
        self._head: list[int] = first_of_bin[:-1].tolist()
        aged = scheduler.sees == "ages"
        self._arrival_by_position = accepted.arrival_s[by_bin].data if aged else None

    def take(self, now_s: float) -> Batch | None:
        """Cut a batch from the head of the planned bin: the longest beginning that fits."""
        if self._arrival_by_position is not None:
            self._show_ages(self._arrival_by_position)
        waiting = self.waiting
        _set_counts(self._view, tuple(waiting))
        plan: Any
        try:
            plan = self._next_batch(self._view, now_s)
        except CALL_ERRORS as error:
            raise_failure(self.policy, "next_batch", error)
        if plan.__class__ is not Head and self._holds_back(plan, now_s):
            return None
        try:
            bin_index, size = plan.bin, plan.size
            if not (size.__class__ is int and 0 < size <= waiting[bin_index] and bin_index >= 0):
                bin_index, size = self._head_of(plan)
        except (AttributeError, TypeError, IndexError):
            bin_index, size = self._head_of(plan)
        first = self._head[bin_index]
        if size > 1 and self._bounded:
            before = self._tokens_before
            most = before[first] + self._capacity
            if before[first + size] > most:
                size = bisect_right(before, most, first + 1, first + size + 1) - 1 - first
        self._head[bin_index] = first + size
        waiting[bin_index] -= size
        self.n_waiting -= size
        return Batch(self._columns, bin_index, first, size, now_s)

    def _show_ages(self, arrival_s: memoryview[Any]) -> None:
        heads = zip(self._head, self.waiting, strict=True)
        oldest_s = [arrival_s[head] if count else math.inf for head, count in heads]
        _set_oldest(self._view, tuple(oldest_s))

    def served(self) -> Columns:
        """As sorted by bin: batches are cut from there."""
        return self._columns


class FormedBatches(Queue):
    """Batches formed by the arrivals themselves, whatever the GPUs do: the multi-bin paper.

    Since forming does not depend on the GPUs, all batches and their instants are known from the
    trace; they come in as they form, into one bin.
    """

    def __init__(
        self,
        trace: Trace,
        accepted: Accepted,
        n_bins: int,
        scheduler: Scheduler,
        release: FullBatches,
    ) -> None:
        by_bin, first_of_bin = accepted.by_bin(n_bins)
        formed = sorted(
            batch
            for bin_index, (start, end) in enumerate(pairwise(first_of_bin.tolist()))
            for batch in _formed_in_bin(accepted, by_bin[start:end], bin_index, start, release)
        )
        instants = np.array([*(batch[0] for batch in formed), math.inf])
        super().__init__(scheduler, instants.data, np.zeros(len(formed), np.int8).data, 1)
        self._formed = formed
        self._columns = Columns(trace, accepted.rows[by_bin])

    def take(self, now_s: float) -> Batch | None:
        """The batch that was formed first among those not yet served, or None."""
        plan = self._plan(now_s)
        if plan is None:
            return None
        if plan.__class__ is not Head or plan.bin != 0 or plan.size != 1:
            self._refuse("one formed batch, Head(0, 1)", repr(plan))
        _, _, _, bin_index, first, size = self._formed[self._n_admitted - self.n_waiting]
        self.n_waiting -= 1
        self.waiting[0] -= 1
        return Batch(self._columns, bin_index, first, size, now_s)

    def served(self) -> Columns:
        """As sorted by bin: batches are cut from there."""
        return self._columns


_BY_ARRIVAL, _BY_CLOCK = 0, 1  # at one instant arrivals complete batches before timers release any


def _formed_in_bin(
    accepted: Accepted, ranks: IntArray, bin_index: int, start: int, release: FullBatches
) -> list[tuple[float, int, int, int, int, int]]:
    """Batches of one bin as (instant, cause, rank at that instant, bin, first, size).

    `ranks` are those of its requests in order of arrival, `start` is the first one's position.
    """
    arrival_s = accepted.arrival_s[ranks]
    n, batch_size, wait_s = len(ranks), release.batch_size, release.max_forming_wait_s
    formed: list[tuple[float, int, int, int, int, int]] = []
    if wait_s is None:  # every `batch_size` requests: no need to go from one to the next
        ends = np.arange(batch_size - 1, n, batch_size)
        firsts = range(start, start + n, batch_size)
        formed = [
            (instant_s, _BY_ARRIVAL, rank, bin_index, first, batch_size)
            for instant_s, rank, first in zip(
                arrival_s[ends].tolist(), ranks[ends].tolist(), firsts, strict=False
            )
        ]
        rest = n % batch_size
        if rest:
            flush = (accepted.last_arrival_s, _BY_CLOCK, bin_index)
            formed.append((*flush, bin_index, start + n - rest, rest))
        return formed
    head = 0
    while head < n:
        full = head + batch_size - 1
        timer_s = min(float(arrival_s[head]) + wait_s, accepted.last_arrival_s)
        if full < n and arrival_s[full] <= timer_s:
            last = full + 1
            key = (float(arrival_s[full]), _BY_ARRIVAL, int(ranks[full]))
        else:
            last = int(np.searchsorted(arrival_s, timer_s, side="right"))
            key = (timer_s, _BY_CLOCK, bin_index)
        formed.append((*key, bin_index, start + head, last - head))
        head = last
    return formed
