"""Arrivals that depend on answers, at the batch level: queues that fill as requests arrive.

How many requests each bin will hold is known from the beginning, and so is where it begins among
the columns; in which order they come is not. So these queues begin with everybody in the order of
the trace, and each request is written to its place when it arrives.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.batch.batch import Batch, PickedBatch
from llmsched.engine.batch.bins import BinStore
from llmsched.engine.batch.queues import WaitingBins
from llmsched.engine.batch.requests import WaitingRequests
from llmsched.engine.clock import Clock
from llmsched.engine.columns import Accepted
from llmsched.engine.feed import Feed
from llmsched.schedulers.scheduler import Scheduler
from llmsched.workload.demand import Demand
from llmsched.workload.trace import Trace


class Arriving(Accepted):
    """The requests that take part, each put behind the others when it arrives."""

    def __init__(self, trace: Trace, bins: IntArray, capacity_tokens: float) -> None:
        super().__init__(trace, bins, capacity_tokens)
        self.takes_part = np.zeros(len(trace), np.bool_)
        self.takes_part[self.rows] = True
        self.bin_of = self.bin_of.copy()
        self.bin_of_row = bins
        self.arrival_s[:] = math.inf
        self.n_arrived = 0

    def arrive(self, row: int, now_s: float) -> tuple[int, int]:
        """Its place in the order of arrival, and its bin."""
        order, bin_index = self.n_arrived, int(self.bin_of_row[row])
        self.n_arrived += 1
        self.rows[order], self.arrival_s[order], self.bin_of[order] = row, now_s, bin_index
        return order, bin_index


class ArrivingBins(WaitingBins):
    """Bins whose requests are put at their ends as they arrive."""

    def __init__(self, trace: Trace, accepted: Arriving, n_bins: int, scheduler: Scheduler) -> None:
        super().__init__(trace, accepted, n_bins, scheduler)
        self._end = list(self._head)  # the next free position of each bin
        self._ages: Any = self._arrival_by_position

    def put(self, row: int, order: int, bin_index: int, now_s: float) -> None:
        """A request arrives: it goes to the end of its bin."""
        del order
        position = self._end[bin_index]
        self._end[bin_index] += 1
        self._columns.put(position, row)
        if self._ages is not None:
            self._ages[position] = now_s


class ArrivingRequests(WaitingRequests):
    """Requests that each get a position when they arrive."""

    def __init__(
        self,
        trace: Trace,
        accepted: Arriving,
        n_bins: int,
        scheduler: Scheduler,
        predicted_tokens: IntArray,
        alone_s: FloatArray,
    ) -> None:
        super().__init__(trace, accepted, n_bins, scheduler, predicted_tokens, alone_s)
        self._predicted_tokens, self._alone_s = predicted_tokens, alone_s
        self._position = np.full(len(trace), -1, np.int32).data
        self._end = [0] * n_bins  # of `_of_bin`

    def put(self, row: int, order: int, bin_index: int, now_s: float) -> None:
        """A request arrives: it gets the next position."""
        assert self._position is not None
        self._position[row] = order
        self._of_bin[bin_index][self._end[bin_index]] = order
        self._end[bin_index] += 1
        self._columns.put(order, row)
        prompt_tokens = self._columns.prompt[order]
        predictions = self._predicted_tokens[row], self._alone_s[row]
        self._shown[order] = (row, now_s, prompt_tokens, *predictions, bin_index)


class Loop:
    """What closes the loop: answers go to the demand, and what they bring to the queue.

    Parameters
    ----------
    demand : Demand
        When requests come.
    accepted, queue
        Where they go.
    bins : BinStore
        Whose GPUs may wait for them.
    """

    def __init__(
        self,
        clock: Clock,
        demand: Demand,
        accepted: Arriving,
        queue: ArrivingBins | ArrivingRequests,
        bins: BinStore,
    ) -> None:
        self.arrived_s: FloatArray = np.full(len(accepted.takes_part), math.nan)  # of every row
        self._clock, self._accepted, self._queue, self._bins = clock, accepted, queue, bins
        self._feed = Feed(clock, demand, self._deliver)
        self._feed.begin()

    def answered(self, batch: Batch) -> None:
        """All requests of a batch have their answers."""
        members = range(batch.first, batch.first + batch.size)
        positions = batch.members if isinstance(batch, PickedBatch) else members
        request = batch.columns.request
        self._feed.answered(int(request[position]) for position in positions)

    def _deliver(self, rows: list[int], behind: bool) -> None:
        del behind  # whoever asks for work after them sees them
        now_s, queue = self._clock.now, self._queue
        rejected = []
        for row in rows:
            self.arrived_s[row] = now_s
            if self._accepted.takes_part[row]:
                queue.put(row, *self._accepted.arrive(row, now_s), now_s)
            else:
                rejected.append(row)
        if len(rejected) < len(rows):
            queue.next_s = min(queue.next_s, now_s)
            self._bins.arrive(now_s)
        self._feed.answered(rejected)  # a refusal is an answer
