"""Arrivals go through a router to a replica, and stay there.

At one instant all arrivals come first, in trace order, each seeing the replicas as they were before
anything else of that instant; then the replicas act.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from simpy.events import ProcessGenerator

from llmsched.engine.clock import URGENT, Clock
from llmsched.engine.iteration.gpu import Gpu
from llmsched.engine.iteration.requests import ServedRequests
from llmsched.schedulers_iteration.routing import ReplicasSeen, Router
from llmsched.trace import FloatArray, IntArray

_NOTHING_SEEN = ReplicasSeen((), (), (), ())


class Dispatcher:
    """Sends every request to the replica that its router names.

    Attributes
    ----------
    replica : ndarray of shape (n,)
        Where each request went; -1 for rejected ones.
    """

    def __init__(
        self, clock: Clock, requests: ServedRequests, router: Router, gpus: Sequence[Gpu]
    ) -> None:
        self._clock = clock
        self._requests = requests
        self._router = router
        self._gpus = gpus
        self.replica: IntArray = np.full(requests.n, -1, np.int32)

    def life(self) -> ProcessGenerator:
        """The life of the arrival stream: sleep until the next arrival, route it, repeat."""
        requests, clock = self._requests, self._clock
        arrive = self._arrive if self._router.sees_replicas else self._route_in_advance()
        row = 0
        while row < requests.n:
            now_s = requests.arrival[row]
            yield clock.at(now_s, URGENT)
            while row < requests.n and requests.arrival[row] <= now_s:
                arrive(row)
                row += 1

    def _arrive(self, request: int) -> None:
        """Route a request that arrives now, by what its router sees now."""
        chosen = self._chosen(request, self._seen(request))
        if self._requests.accepted[request]:
            self.replica[request] = chosen
            self._gpus[chosen].deliver(request)
        arrival, later = self._requests.arrival, request + 1
        horizon_s = arrival[later] if later < self._requests.n else math.inf
        for gpu in self._gpus:
            gpu.horizon_s = horizon_s

    def _route_in_advance(self) -> Callable[[int], None]:
        """Route all requests, for a router that sees nothing; how one then arrives."""
        requests, gpus = self._requests, self._gpus
        chosen = [self._chosen(request, _NOTHING_SEEN) for request in range(requests.n)]
        self.replica[:] = np.where(requests.accepted, chosen, -1)
        replica, next_s = self.replica.data, self._next_of_replica().data

        def arrive(request: int) -> None:
            where = replica[request]
            if where >= 0:
                gpu = gpus[where]
                gpu.horizon_s = gpu.core.next_arrival_s = next_s[request]
                gpu.deliver(request)

        return arrive

    def _next_of_replica(self) -> FloatArray:
        """When the next request arrives at the same replica [s], shape (n,); infinity for none."""
        order = np.argsort(self.replica, kind="stable")
        same = self.replica[order[1:]] == self.replica[order[:-1]]
        arrival_s = np.asarray(self._requests.arrival)
        next_s = np.full(self._requests.n, math.inf)
        next_s[order[:-1]] = np.where(same, arrival_s[order[1:]], math.inf)
        return next_s

    def _chosen(self, request: int, replicas: ReplicasSeen) -> int:
        chosen = self._router.route(request, replicas)
        if isinstance(chosen, bool) or not isinstance(chosen, int | np.integer):
            raise ValueError(
                f"a router must give the index of a replica, got {chosen!r} for request {request}"
            )
        if not 0 <= chosen < len(self._gpus):
            raise ValueError(
                f"a router must give an index in [0, {len(self._gpus)}), got {chosen} "
                f"for request {request}"
            )
        return int(chosen)

    def _seen(self, request: int) -> ReplicasSeen:
        now_s = self._clock.now
        cores = [gpu.core for gpu in self._gpus]
        cached = [0] * len(cores)
        if self._router.sees_prefixes:
            cached = [core.cached_tokens(request) for core in cores]
        outstanding, used_blocks, predicted = zip(*[c.seen(now_s) for c in cores], strict=True)
        return ReplicasSeen(outstanding, used_blocks, predicted, cached)
