"""SLA controllers: the largest batch that keeps the measured service time near its SLA.

`PaperController` is Algorithm 2 of Pang et al., arXiv:2503.05248; `WindowController` is a
gentler rule that moves a window around the recent mean batch. Both are fed every finished batch
and know neither the clock nor the queue. The number of running decodes (N^d of the paper) has no
meaning for whole batches and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

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
    _low_wins: ClassVar[bool] = True  # where low and high have turned over

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
        return (self.low + self.high) // 2

    def observe(self, service_s: float, batch_size: int) -> None:
        """Average the finished batch in, then move the interval."""
        mean_s = self._mean_service_s
        if mean_s != mean_s:  # NaN: the first batch initialises
            mean_s, mean_batch = service_s, float(batch_size)
        else:
            mean_s = NEWEST_WEIGHT * service_s + PAST_WEIGHT * mean_s
            mean_batch = NEWEST_WEIGHT * batch_size + PAST_WEIGHT * self._mean_batch
        self._mean_service_s, self._mean_batch = mean_s, mean_batch
        self.move(mean_s, int(mean_batch))

    def move(self, mean_service_s: float, mean_batch: int) -> None:
        """Move the interval, given recent means [s], [requests]."""
        tolerance_s = self.tolerance_share * self.sla_s
        if mean_service_s > self.sla_s + tolerance_s:
            low, high = self._too_slow(mean_batch)
        elif mean_service_s < self.sla_s - tolerance_s:
            low, high = self._too_fast(mean_batch)
        else:
            low, high = self._on_target(mean_batch)
        least, most = self.batch_min, self.batch_max
        low = least if low < least else most if low > most else low
        high = least if high < least else most if high > most else high
        if low > high:
            low, high = (low, low) if self._low_wins else (high, high)
        self.low, self.high = low, high

    def _too_slow(self, mean_batch: int) -> tuple[int, int]:
        """The next (low, high), before both are brought into the bounds."""
        raise NotImplementedError

    def _too_fast(self, mean_batch: int) -> tuple[int, int]:
        raise NotImplementedError

    def _on_target(self, mean_batch: int) -> tuple[int, int]:
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

    def _too_slow(self, mean_batch: int) -> tuple[int, int]:
        widened = self.low + self.alpha
        return self.low - self.delta, mean_batch if mean_batch > widened else widened

    def _too_fast(self, mean_batch: int) -> tuple[int, int]:
        widened = self.high - self.alpha
        return mean_batch if mean_batch < widened else widened, self.high + self.delta

    def _on_target(self, mean_batch: int) -> tuple[int, int]:
        half = self.alpha // 2
        return mean_batch - half, mean_batch + half


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

    _low_wins: ClassVar[bool] = False

    def _too_slow(self, mean_batch: int) -> tuple[int, int]:
        return max(self.low, int(0.8 * mean_batch)), min(self.high, mean_batch)

    def _too_fast(self, mean_batch: int) -> tuple[int, int]:
        grown = min(self.high + max(1, int(0.2 * mean_batch)), self.batch_max)
        return max(self.low, mean_batch), grown

    def _on_target(self, mean_batch: int) -> tuple[int, int]:
        margin = int(0.1 * (self.high - self.low))
        return mean_batch - margin, mean_batch + margin
