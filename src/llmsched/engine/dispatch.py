"""Arrivals go through a router to a replica, and stay there.

At one instant all arrivals come first, in trace order, each seeing the replicas as they were before
anything else of that instant; then the replicas act.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from simpy.events import ProcessGenerator

from llmsched.engine.clock import URGENT, Clock
from llmsched.engine.iteration.gpu import Gpu
from llmsched.engine.iteration.requests import ServedRequests
from llmsched.schedulers_iteration.routing import ReplicasSeen, Router
from llmsched.trace import IntArray


class Dispatcher:
    """Sends every request to the replica that its router names."""

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
        clock, arrival, gpus = self._clock, self._requests.arrival, self._gpus
        row, n = 0, self._requests.n
        while row < n:
            yield clock.at(arrival[row], URGENT)
            while row < n and arrival[row] <= clock.now:
                self._route(row)
                row += 1
            horizon_s = arrival[row] if row < n else math.inf
            for gpu in gpus:
                gpu.horizon_s = horizon_s

    def _route(self, request: int) -> None:
        chosen = self._chosen(request, self._seen(request))
        if self._requests.accepted[request]:
            self.replica[request] = chosen
            self._gpus[chosen].deliver(request)

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
        if not self._router.sees_replicas:
            return ReplicasSeen((), (), (), ())
        now_s = self._clock.now
        cores = [gpu.core for gpu in self._gpus]
        cached = [0] * len(cores)
        if self._router.sees_prefixes:
            cached = [core.cached_tokens(request) for core in cores]
        outstanding, used_blocks, predicted = zip(*[c.seen(now_s) for c in cores], strict=True)
        return ReplicasSeen(outstanding, used_blocks, predicted, cached)
