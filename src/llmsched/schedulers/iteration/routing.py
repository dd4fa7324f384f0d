"""Routers: which replica serves a request, decided on its arrival and for good.

A user's own is a class with `route`, made afresh for every run from what is known of the requests
and the number of replicas:

    class FewestTokens:
        sees_replicas, sees_prefixes = True, False

        def __init__(self, known, n_replicas):
            pass

        def route(self, request, replicas):
            return lowest(replicas.predicted_tokens)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmsched.schedulers.iteration.base import KnownRequests


@dataclass(frozen=True, slots=True)
class ReplicasSeen:
    """The replicas as a router sees them, one entry per replica in each column."""

    outstanding: Sequence[int]  # requests accepted and not finished
    used_blocks: Sequence[int]  # KV blocks held
    predicted_tokens: Sequence[int]  # prompt + predicted output of the outstanding requests
    cached_tokens: Sequence[
        int
    ]  # of this prompt, in the replica's prefix cache; zeros unless asked


class Router(Protocol):
    """Answers one question: which replica serves this request?"""

    sees_replicas: bool
    """Whether it looks at the replicas; if not, it gets empty columns, and a run is faster."""
    sees_prefixes: bool
    """Whether it looks at `cached_tokens`, which cost a look-up per replica."""

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        """The index of the replica; asked once per request, in trace order, rejected ones too."""
        ...


RouterFactory = Callable[[KnownRequests, int], Router]


def lowest(values: Sequence[int]) -> int:
    """The index of the smallest value, the first of several."""
    return values.index(min(values))


class RoundRobinRouter:
    """The k-th request goes to replica k modulo their number."""

    sees_replicas = sees_prefixes = False

    def __init__(self, known: KnownRequests, n_replicas: int) -> None:
        self._n = n_replicas
        self._next = 0

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        chosen = self._next
        self._next = (chosen + 1) % self._n
        return chosen


class _Stateless:
    sees_replicas = True
    sees_prefixes = False

    def __init__(self, known: KnownRequests, n_replicas: int) -> None:
        pass


class LeastOutstanding(_Stateless):
    """Fewest requests accepted and not finished; the lowest index on ties."""

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        return lowest(replicas.outstanding)


class LeastKv(_Stateless):
    """Fewest KV blocks held; on ties fewest outstanding requests, then the lowest index."""

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        return _lowest_pair(replicas.used_blocks, replicas.outstanding)


class LeastPredictedWork(_Stateless):
    """Fewest tokens of outstanding requests, prompt + predicted output; lowest index on ties."""

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        return lowest(replicas.predicted_tokens)


class PrefixAffine(_Stateless):
    """The replica that has most of the prompt cached, unless it is far busier than the others.

    Far busier is more than `imbalance` outstanding requests above the least busy one: then, and
    on ties, the least busy replica serves.
    """

    sees_prefixes = True
    imbalance = 32

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        most = min(replicas.outstanding) + self.imbalance
        misses = [
            -cached if n <= most else 1
            for cached, n in zip(replicas.cached_tokens, replicas.outstanding, strict=True)
        ]
        return _lowest_pair(misses, replicas.outstanding)


def _lowest_pair(values: Sequence[int], ties: Sequence[int]) -> int:
    return min(range(len(values)), key=lambda i: (values[i], ties[i]))


ROUTERS: dict[str, RouterFactory] = {
    "round-robin": RoundRobinRouter,
    "least-outstanding": LeastOutstanding,
    "least-kv": LeastKv,
    "predicted-work": LeastPredictedWork,
    "prefix-affine": PrefixAffine,
}
