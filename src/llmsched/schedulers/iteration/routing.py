"""Routers: which replica serves a request, decided on its arrival and for good.

A user's own is a class with `route`, made afresh for every run from what is known of the requests
and the number of replicas:

    class FewestTokens:
        sees = ("predicted_tokens",)

        def __init__(self, known, n_replicas):
            pass

        def route(self, request, replicas):
            return lowest(replicas.predicted_tokens)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmsched._util.registry import Registry
from llmsched.schedulers.iteration.base import KnownRequests


@dataclass(frozen=True, slots=True)
class ReplicasSeen:
    """The replicas as a router sees them: an entry each, in the columns that it asks for."""

    outstanding: Sequence[int] = ()  # requests accepted and not finished
    used_blocks: Sequence[int] = ()  # KV blocks held
    predicted_tokens: Sequence[int] = ()  # prompt + predicted output of the outstanding requests
    cached_tokens: Sequence[int] = ()  # of this prompt, in the replica's prefix cache


class Router(Protocol):
    """Answers one question: which replica serves this request?"""

    sees: Sequence[str]
    """The columns of `ReplicasSeen` that it looks at; with none, a run is faster."""

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        """The index of the replica; asked once per request, in trace order, rejected ones too."""
        ...


RouterFactory = Callable[[KnownRequests, int], Router]  # usually the class itself


def uses_predictions(factory: RouterFactory) -> bool:
    """Whether its routers look at predicted lengths; if it does not say, they may."""
    return "predicted_tokens" in getattr(factory, "sees", ("predicted_tokens",))


def lowest(values: Sequence[int]) -> int:
    """The index of the smallest value, the first of several."""
    return values.index(min(values))


class RoundRobinRouter:
    """The k-th request goes to replica k modulo their number."""

    sees: Sequence[str] = ()

    def __init__(self, known: KnownRequests, n_replicas: int) -> None:
        self._n = n_replicas
        self._next = 0

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        chosen = self._next
        self._next = (chosen + 1) % self._n
        return chosen


class _Stateless:
    def __init__(self, known: KnownRequests, n_replicas: int) -> None:
        pass


class LeastOutstanding(_Stateless):
    """Fewest requests accepted and not finished; the lowest index on ties."""

    sees: Sequence[str] = ("outstanding",)

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        return lowest(replicas.outstanding)


class LeastKv(_Stateless):
    """Fewest KV blocks held; on ties fewest outstanding requests, then the lowest index."""

    sees: Sequence[str] = ("used_blocks", "outstanding")

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        return _lowest_pair(replicas.used_blocks, replicas.outstanding)


class LeastPredictedWork(_Stateless):
    """Fewest tokens of outstanding requests, prompt + predicted output; lowest index on ties."""

    sees: Sequence[str] = ("predicted_tokens",)

    def route(self, request: int, replicas: ReplicasSeen) -> int:
        return lowest(replicas.predicted_tokens)


class PrefixAffine(_Stateless):
    """The replica that has most of the prompt cached, unless it is far busier than the others.

    Far busier is more than `imbalance` outstanding requests above the least busy one: then, and
    on ties, the least busy replica serves.
    """

    sees: Sequence[str] = ("cached_tokens", "outstanding")
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


ROUTERS: Registry[RouterFactory] = Registry(
    "router",
    "llmsched.routers",
    {
        "round-robin": RoundRobinRouter,
        "least-outstanding": LeastOutstanding,
        "least-kv": LeastKv,
        "predicted-work": LeastPredictedWork,
        "prefix-affine": PrefixAffine,
    },
)
