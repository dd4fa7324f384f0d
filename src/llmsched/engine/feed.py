"""Arrivals that depend on answers, as events of an engine's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from simpy.events import Event, EventPriority

from llmsched.engine.clock import Clock
from llmsched.workload.demand import Coming, Demand

FIRST = EventPriority(-1)  # before everything else of an instant
AFTER_ANSWERS = EventPriority(2)  # behind everything else of it


class Feed:
    """Brings requests to an engine, each at its instant.

    Arrivals come before everything else of their instant. One that an answer of this very instant
    brings (a user who does not think) comes behind all answers of the instant, so that it is seen
    by whoever asks for work after them: as in the limit of ever shorter pauses.

    Parameters
    ----------
    clock : Clock
    demand : Demand
        When requests come.
    deliver : callable
        Takes the rows of the requests that arrive now, together, and whether they come behind
        all else of this instant.
    """

    def __init__(
        self, clock: Clock, demand: Demand, deliver: Callable[[list[int], bool], None]
    ) -> None:
        self._clock = clock
        self._demand = demand
        self._deliver = deliver
        self._coming: list[Coming] = []
        self._behind: list[int] = []  # rows that come behind all else of this instant
        self._first = demand.first()
        self._next = next(self._first, None)  # of those that come by themselves

    def begin(self) -> None:
        """Expect what comes by itself: one event at a time, however many there are."""
        if self._next is not None:
            self._wake(self._next[0], FIRST, self._arrive)

    def answered(self, requests: Iterable[int]) -> None:
        """Expect what comes because these have been answered now."""
        now_s = self._clock.now
        for request in requests:
            for coming in self._demand.answered(request, now_s):
                if coming[0] > now_s:
                    heappush(self._coming, coming)
                    self._wake(coming[0], FIRST, self._arrive)
                else:
                    self._behind.append(coming[1])
                    self._wake(now_s, AFTER_ANSWERS, self._arrive_behind)

    def _wake(
        self, instant_s: float, priority: EventPriority, arrive: Callable[[Event], None]
    ) -> None:
        event = self._clock.at(instant_s, priority)
        assert event.callbacks is not None
        event.callbacks.append(arrive)

    def _arrive(self, event: Event) -> None:
        """Deliver everything of this instant, in order of rows."""
        del event
        now_s = self._clock.now
        arrived: list[int] = []
        if self._next is not None and self._next[0] <= now_s:
            while self._next is not None and self._next[0] <= now_s:
                arrived.append(self._next[1])
                self._next = next(self._first, None)
            self.begin()
        while self._coming and self._coming[0][0] <= now_s:
            arrived.append(heappop(self._coming)[1])
        if arrived:  # else another event of this instant has brought them
            self._deliver(sorted(arrived), False)

    def _arrive_behind(self, event: Event) -> None:
        """Deliver what answers of this instant bring at once, in order of rows."""
        del event
        arrived, self._behind = self._behind, []
        if arrived:
            self._deliver(sorted(arrived), True)
