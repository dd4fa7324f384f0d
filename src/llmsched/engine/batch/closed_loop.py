"""Arrivals that depend on answers, at the batch level: columns that fill as requests arrive."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llmsched._util.types import FloatArray, IntArray
from llmsched.engine.batch.bins import BinStore
from llmsched.engine.batch.queues import Batch
from llmsched.engine.clock import Clock
from llmsched.engine.columns import Columns
from llmsched.engine.feed import Feed
from llmsched.workload.demand import Demand
from llmsched.workload.trace import Trace


class ArrivingColumns(Columns):
    """The requests that take part, each put at the end of its bin when it arrives.

    How many a bin will hold is known from the beginning, and so is where it begins; in which order
    they come is not.
    """

    def __init__(self, trace: Trace, bins: IntArray, n_bins: int, capacity_tokens: float) -> None:
        super().__init__(trace, bins, n_bins, capacity_tokens)
        n = len(self)
        self._trace, self._bin_by_row = trace, bins
        self.bin_of = np.empty(n, np.int32)  # in order of arrival, as below
        self._takes_part = np.zeros(len(trace), np.bool_)
        self._takes_part[self.accepted] = True
        self._next = self.first_of_bin[:-1].tolist()  # the next free position of each bin
        self._n_arrived = 0
        self._arrived_s = np.full(len(trace), math.nan)
        self._position_s = np.full(n, math.inf)
        self._squares = np.zeros(n + 1)
        self.arrival_s = np.full(n + 1, math.inf)

    def arrive(self, rows: list[int], now_s: float) -> list[int]:
        """Put requests at the ends of their bins; those that are too large come back."""
        rejected = []
        for row in rows:
            self._arrived_s[row] = now_s
            if self._takes_part[row]:
                self._put(row, now_s)
            else:
                rejected.append(row)
        return rejected

    def _put(self, row: int, now_s: float) -> None:
        bin_index = int(self._bin_by_row[row])
        position, order = self._next[bin_index], self._n_arrived
        self._next[bin_index] += 1
        self._n_arrived += 1
        self.arrival_s[order], self.bin_of[order] = now_s, bin_index
        self._position_s[position] = now_s
        self.request[position] = row
        self.prompt[position] = self._trace.prompt_tokens[row]
        self.output[position] = self._trace.output_tokens[row]
        total = int(self.prompt[position]) + int(self.output[position])
        self.total[position] = total
        self.tokens_before[position + 1] = self.tokens_before[position] + total
        self._squares[position + 1] = self._squares[position] + float(total) ** 2
        if self.service_view is not None and self._trace.service_s is not None:
            self.service_view[position] = self._trace.service_s[row]

    def arrived_s(self, trace: Trace) -> FloatArray:
        """When each request arrived, rejected ones included, shape (n,) [s]."""
        del trace
        return self._arrived_s

    @property
    def squares_before(self) -> memoryview[Any]:
        """Running sum of squared token counts, within each bin."""
        return self._squares.data

    def arrival_by_position(self) -> memoryview[Any]:
        """Arrival of each position [s], infinite before it."""
        return self._position_s.data


class Loop:
    """What closes the loop: answers go to the demand, and what they bring to the bins."""

    def __init__(
        self,
        clock: Clock,
        demand: Demand,
        columns: ArrivingColumns,
        bins: BinStore,
        *,
        one_by_one: bool,
    ) -> None:
        self._clock, self._columns, self._bins = clock, columns, bins
        self._one_by_one = one_by_one
        self._feed = Feed(clock, demand, self._deliver)
        self._feed.begin()

    def answered(self, batch: Batch) -> None:
        """All requests of a batch have their answers."""
        first, end = batch.first, batch.first + batch.size
        self._feed.answered(self._columns.request[first:end].tolist())

    def _deliver(self, rows: list[int]) -> None:
        now_s = self._clock.now
        rejected = self._columns.arrive(rows, now_s)
        if len(rejected) < len(rows):
            self._bins.queue.next_s = min(self._bins.queue.next_s, now_s)
            self._bins.arrive(now_s, one_by_one=self._one_by_one)
        self._feed.answered(rejected)  # a refusal is an answer
