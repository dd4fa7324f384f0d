"""KV-cache capacity of a GPU, and how many requests fit in it on average (Algorithm 1).

The capacity η is what the weights leave of the GPU's memory, in tokens. Algorithm 1 of Pang et al.
turns it into a batch limit from the mean (and spread) of tokens per request. A limit comes from
averages alone: whether one batch truly fits is the engine's check, on the true lengths. Paging,
fragmentation, activations and a framework's own reserve are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

NEWEST_WEIGHT = 0.2  # of a finished batch in the running averages; the past keeps the other 0.8
PAST_WEIGHT = 0.8
# Thousands of kept failures, 0 tokens each, average down to 0; this keeps the division defined.
_LEAST_MEAN = 1e-300


class Finished(Protocol):
    """What memory limits learn from: a finished batch, or a request alone."""

    @property
    def mean_tokens(self) -> float:
        """Prompt + output tokens, mean over requests."""
        ...

    @property
    def mean_squared_tokens(self) -> float:
        """Their squares, mean over requests."""
        ...


class MemoryLimit(Protocol):
    """How many requests the memory allows in one batch, learned from finished batches."""

    def limit(self) -> int:
        """The batch limit b_mem now, at least 1."""
        ...

    def observe(self, batch: Finished) -> None:
        """Average a finished batch in."""
        ...


@dataclass(slots=True)
class BufferLimit:
    """b_mem = max(1, ⌊0.9·η/µ⌋): Algorithm 1 with a tenth of the memory as its safety buffer.

    Notes
    -----
    The paper's eq. 14 takes the buffer L0 = η − (θ·σ_S + µ_S), recomputed now and then; the fixed
    tenth is the origin's simplification.

    Examples
    --------
    >>> memory = BufferLimit(10_000)
    >>> memory.limit()  # 9,000 / 500
    18
    >>> from types import SimpleNamespace as Batch
    >>> memory.observe(Batch(mean_tokens=1_000.0))  # µ = 0.2·1,000 + 0.8·500 = 600
    >>> memory.limit()
    15

    References
    ----------
    .. [1] Pang, Li, Wang, "Memory-aware and SLA-constrained Dynamic Batching", arXiv:2503.05248,
       Algorithm 1 and Eq. (14).
    """

    capacity_tokens: float  # η
    mean_tokens: float = 500.0  # µ, before any batch has finished

    def __post_init__(self) -> None:
        _check_start(self.capacity_tokens, self.mean_tokens)

    def limit(self) -> int:
        mean = self.mean_tokens
        most = int(0.9 * self.capacity_tokens / (mean if mean > _LEAST_MEAN else _LEAST_MEAN))
        return most if most > 1 else 1

    def observe(self, batch: Finished) -> None:
        self.mean_tokens = NEWEST_WEIGHT * batch.mean_tokens + PAST_WEIGHT * self.mean_tokens


@dataclass(slots=True)
class CltLimit:
    """The largest b whose tokens exceed η with probability ε_M at most, by the normal law.

    b_mem = max(1, ⌊((√(σ²θ² + 4µη) − σθ)/(2µ))²⌋), θ = Φ⁻¹(1 − ε_M), σ² = max(0, m2 − µ²) with
    m2 the average of squared tokens per request. Bit for bit: s = √max(0, m2 − µ·µ)·θ,
    r = (√(s·s + 4·µ·η) − s)/(2·µ), ⌊r·r⌋.

    Notes
    -----
    The paper recomputes only while both prefill and decode requests are there, and never goes
    below the requests in decode; batches here start empty, so it is recomputed after every one.

    Examples
    --------
    >>> memory = CltLimit(10_000)
    >>> memory.limit()  # no spread yet: η/µ
    20
    >>> from types import SimpleNamespace as Batch
    >>> spread = Batch(mean_tokens=500.0, mean_squared_tokens=2 * 500.0**2)
    >>> memory.observe(spread)  # σ² = 0.2·500²: the spread costs four places
    >>> memory.limit()
    16

    References
    ----------
    .. [1] Pang, Li, Wang, arXiv:2503.05248, Algorithm 1 and Eq. (12).
    """

    capacity_tokens: float  # η
    epsilon: float = 0.05  # ε_M
    mean_tokens: float = 500.0  # µ, before any batch has finished
    mean_squared_tokens: float | None = None  # m2; None starts at µ², no spread
    _theta: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_start(self.capacity_tokens, self.mean_tokens)
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must be in (0, 1), got {self.epsilon}; 0.05 is usual")
        self._theta = NormalDist().inv_cdf(1 - self.epsilon)
        if self.mean_squared_tokens is None:
            self.mean_squared_tokens = self.mean_tokens**2

    def limit(self) -> int:
        return max(1, math.floor(self._exact()))

    def _exact(self) -> float:
        mean, squared = max(self.mean_tokens, _LEAST_MEAN), self.mean_squared_tokens
        assert squared is not None  # set in __post_init__
        spread = math.sqrt(max(0.0, squared - mean * mean)) * self._theta
        root = (math.sqrt(spread * spread + 4 * mean * self.capacity_tokens) - spread) / (2 * mean)
        return root * root

    def observe(self, batch: Finished) -> None:
        past = self.mean_squared_tokens
        assert past is not None  # set in __post_init__
        self.mean_tokens = NEWEST_WEIGHT * batch.mean_tokens + PAST_WEIGHT * self.mean_tokens
        self.mean_squared_tokens = NEWEST_WEIGHT * batch.mean_squared_tokens + PAST_WEIGHT * past


@dataclass(slots=True)
class LinearLimit(CltLimit):
    """b_mem = max(1, ⌊(η − L0)/µ⌋): eq. 14, its safety buffer L0 recomputed now and then.

    L0 = θ·σ·√b at the b of eq. (12), so that both rules agree whenever it is recomputed.

    Notes
    -----
    The paper prints L0 = η − (θ·σ_S + µ_S). At the b where the memory just suffices that is 0, and
    b then grows by θ·σ·√b/µ at every turn; the buffer here is what eq. (12) keeps free.

    Examples
    --------
    >>> LinearLimit(10_000, mean_squared_tokens=1.2 * 500.0**2).limit(), CltLimit(
    ...     10_000, mean_squared_tokens=1.2 * 500.0**2
    ... ).limit()
    (16, 16)

    References
    ----------
    .. [1] Pang, Li, Wang, arXiv:2503.05248, Algorithm 1 and Eq. (14).
    """

    every: int = 50  # finished requests or batches between two buffers
    _buffer_tokens: float | None = field(init=False, default=None, repr=False)
    _since: int = field(init=False, default=0, repr=False)

    def limit(self) -> int:
        mean = max(self.mean_tokens, _LEAST_MEAN)
        if self._buffer_tokens is None or self._since >= self.every:
            self._buffer_tokens, self._since = self.capacity_tokens - mean * self._exact(), 0
        return max(1, math.floor((self.capacity_tokens - self._buffer_tokens) / mean))

    def observe(self, batch: Finished) -> None:
        CltLimit.observe(self, batch)
        self._since += 1


def _check_start(capacity_tokens: float, mean_tokens: float) -> None:
    for name, value in (("capacity_tokens", capacity_tokens), ("mean_tokens", mean_tokens)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and > 0, got {value}")
