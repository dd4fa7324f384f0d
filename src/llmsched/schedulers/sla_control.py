"""SLA controllers: the largest batch that keeps the measured service time near its SLA.

`PaperController` is Algorithm 2 of Pang et al., arXiv:2503.05248; `WindowController` is a
gentler rule that moves a window around the recent mean batch. Both are fed every finished batch
and know neither the clock nor the queue. The number of running decodes (N^d of the paper) has no
meaning for whole batches and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from llmsched.schedulers.memory_limit import NEWEST_WEIGHT, PAST_WEIGHT


class SlaController(Protocol):
    """Answers one question: how many requests may the next batch hold?"""

    def limit(self) -> int:
        """The largest batch that the SLA allows now [requests]."""

    def observe(self, service_s: float, batch_size: int) -> None:
        """Learn from a finished batch."""


@dataclass(slots=True)
class NoController:
    """No SLA feedback: always the largest batch allowed."""

    batch_max: int = 128

    def limit(self) -> int:
        """The largest batch allowed [requests]."""
        return self.batch_max

    def observe(self, service_s: float, batch_size: int) -> None:
        """Nothing to learn."""
        del service_s, batch_size


def _clamped(value: int, least: int, most: int) -> int:
    return least if value < least else most if value > most else value


@dataclass(slots=True)
class _IntervalController:
    """What both rules share: an interval [low, high] and the recent means that move it."""

    sla_s: float
    batch_min: int = 1
    batch_max: int = 128
    tolerance_share: float = 0.1
    low: int = field(init=False)
    high: int = field(init=False)
    _mean_service_s: float = field(init=False, default=math.nan, repr=False)
    _mean_batch: float = field(init=False, default=math.nan, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sla_s) and self.sla_s > 0):
            raise ValueError(f"sla_s must be finite and > 0 seconds, got {self.sla_s}")
        if not 1 <= self.batch_min <= self.batch_max:
            raise ValueError(
                "batch sizes must satisfy 1 <= batch_min <= batch_max, "
                f"got {self.batch_min} and {self.batch_max}"
            )
        self.low, self.high = self.batch_min, self.batch_max

    def limit(self) -> int:
        """The middle of the interval [requests]."""
        return _clamped((self.low + self.high) // 2, self.batch_min, self.batch_max)

    def observe(self, service_s: float, batch_size: int) -> None:
        """Average the finished batch in, then move the interval."""
        if self._mean_service_s != self._mean_service_s:  # NaN: the first batch initialises
            self._mean_service_s, self._mean_batch = service_s, float(batch_size)
        else:
            self._mean_service_s = NEWEST_WEIGHT * service_s + PAST_WEIGHT * self._mean_service_s
            self._mean_batch = NEWEST_WEIGHT * batch_size + PAST_WEIGHT * self._mean_batch
        self.move(self._mean_service_s, int(self._mean_batch))

    def move(self, mean_service_s: float, mean_batch: int) -> None:
        """Move the interval, given recent means [s], [requests]."""
        tolerance_s = self.tolerance_share * self.sla_s
        if mean_service_s > self.sla_s + tolerance_s:
            self._too_slow(mean_batch)
        elif mean_service_s < self.sla_s - tolerance_s:
            self._too_fast(mean_batch)
        else:
            self._on_target(mean_batch)

    def _too_slow(self, mean_batch: int) -> None:
        raise NotImplementedError

    def _too_fast(self, mean_batch: int) -> None:
        raise NotImplementedError

    def _on_target(self, mean_batch: int) -> None:
        raise NotImplementedError


@dataclass(slots=True)
class PaperController(_IntervalController):
    """Algorithm 2 of Pang et al.: a noisy binary search for the batch that just meets the SLA.

    Parameters
    ----------
    sla_s : float
        D_SLA, the service time to stay near [s].
    batch_min, batch_max : int
        B_min and B_max [requests].
    alpha, delta : int
        Width the interval is narrowed to, and the step it drifts by (α, δ) [requests].
    tolerance_share : float
        ε_D as a share of the SLA.

    Notes
    -----
    The paper feeds the decode latency; a batch server feeds whole-batch service times. The paper
    lets the interval leave [B_min, B_max] or turn over; here low and high are clamped after each
    update. The mean batch size is floored before use.

    Examples
    --------
    >>> controller = PaperController(sla_s=1.0)
    >>> controller.limit()
    64
    >>> controller.observe(service_s=2.0, batch_size=64)  # too slow: high = max(64, 1 + 16)
    >>> (controller.low, controller.high, controller.limit())
    (1, 64, 32)
    """

    alpha: int = 16
    delta: int = 4

    def _too_slow(self, mean_batch: int) -> None:
        low = self.low
        self._set(max(low - self.delta, self.batch_min), max(mean_batch, low + self.alpha))

    def _too_fast(self, mean_batch: int) -> None:
        high = self.high
        self._set(min(mean_batch, high - self.alpha), min(high + self.delta, self.batch_max))

    def _on_target(self, mean_batch: int) -> None:
        half = self.alpha // 2
        self._set(max(mean_batch - half, self.batch_min), min(mean_batch + half, self.batch_max))

    def _set(self, low: int, high: int) -> None:
        self.low = low = _clamped(low, self.batch_min, self.batch_max)
        self.high = _clamped(high, low, self.batch_max)


@dataclass(slots=True)
class WindowController(_IntervalController):
    """A window around the recent mean batch: it shrinks to 80 % when slow, grows by 20 % when fast.

    Parameters
    ----------
    sla_s : float
        Service time to stay near [s].
    batch_min, batch_max : int
        Bounds of every limit [requests].
    tolerance_share : float
        How far the mean may be off before it counts as slow or fast, as a share of the SLA.
    """

    def _too_slow(self, mean_batch: int) -> None:
        self._set(max(self.low, int(0.8 * mean_batch)), min(self.high, mean_batch))

    def _too_fast(self, mean_batch: int) -> None:
        grown = min(self.high + max(1, int(0.2 * mean_batch)), self.batch_max)
        self._set(max(self.low, mean_batch), grown)

    def _on_target(self, mean_batch: int) -> None:
        margin = int(0.1 * (self.high - self.low))
        self._set(mean_batch - margin, mean_batch + margin)

    def _set(self, low: int, high: int) -> None:
        self.high = _clamped(high, self.batch_min, self.batch_max)
        self.low = min(_clamped(low, self.batch_min, self.batch_max), self.high)
