"""Arrivals go through a router to a replica, and stay there.

At one instant all arrivals come first, in trace order, each seeing the replicas as they were before
anything else of that instant; then the replicas act. What an answer of that very instant brings
comes behind that: an idle replica serves it at once, a busy one takes it in at its next instant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from simpy.events import ProcessGenerator

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.clock import URGENT, Clock
from llmsched.engine.feed import Feed
from llmsched.schedulers.iteration.routing import ReplicasSeen, Router
from llmsched.workload.demand import Demand


class Replica(Protocol):
    """What requests are sent to."""

    def deliver(self, request: int, *, behind: bool = False) -> None:
        """A request arrives now; `behind`: after all else of this instant."""
        ...

    def nothing_before(self, next_s: float, *, comes: bool) -> None:
        """Nothing arrives before that instant; `comes`: something then arrives here."""
        ...

    def outstanding(self, now_s: float, request: int) -> int:
        """Requests accepted and not finished, before anything of this instant but arrivals."""
        ...

    def used_blocks(self, now_s: float, request: int) -> int:
        """KV blocks held, before anything of this instant."""
        ...

    def predicted_tokens(self, now_s: float, request: int) -> int:
        """Prompts and predicted outputs of the outstanding requests."""
        ...

    def cached_tokens(self, now_s: float, request: int) -> int:
        """Tokens of the prompt of `request` that the prefix cache would find."""
        ...


class Dispatcher:
    """Sends every request to the replica that its router names.

    Attributes
    ----------
    replica : ndarray of shape (n,)
        Where each request went; -1 for rejected ones.
    """

    def __init__(
        self,
        clock: Clock,
        arrival_s: memoryview[Any],
        accepted: NDArray[np.bool_],
        router: Router,
        replicas: Sequence[Replica],
    ) -> None:
        self._clock = clock
        self._arrival_s = arrival_s
        self._accepted = accepted
        self._router = router
        self._replicas = replicas
        columns = [field.name for field in fields(ReplicasSeen)]
        if unknown := [column for column in router.sees if column not in columns]:
            raise ValueError(
                f"a router must see some of {', '.join(columns)}, got {unknown[0]!r}; mend its sees"
            )
        self.replica: IntArray = np.full(len(accepted), -1, np.int32)
        self._answered: Callable[[Iterable[int]], None]

    def life(self) -> ProcessGenerator:
        """The life of the arrival stream: sleep until the next arrival, route it, repeat."""
        arrival_s, clock, n = self._arrival_s, self._clock, len(self._accepted)
        arrive = self._arrive if self._router.sees else self._route_in_advance()
        row = 0
        while row < n:
            now_s = arrival_s[row]
            yield clock.at(now_s, URGENT)
            while row < n and arrival_s[row] <= now_s:
                arrive(row)
                row += 1

    def _arrive(self, request: int) -> None:
        """Route a request that arrives now, by what its router sees now."""
        chosen = self._chosen(request, self._seen(request, self._clock.now))
        if self._accepted[request]:
            self.replica[request] = chosen
            self._replicas[chosen].deliver(request)
        later = request + 1
        next_s = self._arrival_s[later] if later < len(self._accepted) else math.inf
        for replica in self._replicas:
            replica.nothing_before(next_s, comes=False)

    def serve_demand(self, demand: Demand) -> Callable[[Iterable[int]], None]:
        """Take arrivals from answers, not from the trace; gives what must be told of answers."""
        feed = Feed(self._clock, demand, self._come)
        self._answered = feed.answered
        feed.begin()
        return feed.answered

    def _come(self, requests: list[int], behind: bool) -> None:
        """Route requests that come now; a refusal is an answer."""
        now_s = self._clock.now
        seen_at_s = math.nextafter(now_s, math.inf) if behind else now_s
        rejected = []
        for request in requests:
            self._arrival_s[request] = now_s
            chosen = self._chosen(request, self._seen(request, seen_at_s))
            if self._accepted[request]:
                self.replica[request] = chosen
                self._replicas[chosen].deliver(request, behind=behind)
            else:
                rejected.append(request)
        self._answered(rejected)

    def _route_in_advance(self) -> Callable[[int], None]:
        """Route all requests, for a router that sees nothing; how one then arrives."""
        replicas, n = self._replicas, len(self._accepted)
        chosen = [self._chosen(request, ReplicasSeen()) for request in range(n)]
        self.replica[:] = np.where(self._accepted, chosen, -1)
        where, next_s = self.replica.data, self._next_of_replica().data

        def arrive(request: int) -> None:
            if where[request] >= 0:
                replica = replicas[where[request]]
                replica.nothing_before(next_s[request], comes=True)
                replica.deliver(request)

        return arrive

    def _next_of_replica(self) -> FloatArray:
        """When the next request arrives at the same replica [s], shape (n,); infinity for none."""
        order = np.argsort(self.replica, kind="stable")
        same = self.replica[order[1:]] == self.replica[order[:-1]]
        arrival_s = np.asarray(self._arrival_s)
        next_s = np.full(len(order), math.inf)
        next_s[order[:-1]] = np.where(same, arrival_s[order[1:]], math.inf)
        return next_s

    def _chosen(self, request: int, replicas: ReplicasSeen) -> int:
        chosen = self._router.route(request, replicas)
        if isinstance(chosen, bool) or not isinstance(chosen, int | np.integer):
            raise ValueError(
                f"a router must give the index of a replica, got {chosen!r} for request {request}"
            )
        if not 0 <= chosen < len(self._replicas):
            raise ValueError(
                f"a router must give an index in [0, {len(self._replicas)}), got {chosen} "
                f"for request {request}"
            )
        return int(chosen)

    def _seen(self, request: int, now_s: float) -> ReplicasSeen:
        columns = {
            column: [getattr(replica, column)(now_s, request) for replica in self._replicas]
            for column in self._router.sees
        }
        return ReplicasSeen(**columns)
