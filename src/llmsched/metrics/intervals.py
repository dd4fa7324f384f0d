"""Confidence intervals over replications, and paired differences under common random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmsched._util.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over replications with its confidence interval; NaN ends where there is none."""

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    @property
    def half_width(self) -> float:
        """Half the length of the interval, in the unit of the mean; NaN where there is none."""
        return (self.high - self.low) / 2

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero: for a difference, that it exceeds the noise.

        False where there is no interval: one replication shows no noise to exceed.
        """
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float | None]:
        """Mean and ends for JSON; what is infinite or undefined is null."""
        ends = {"mean": self.mean, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in ends.items()}


def mean_interval(samples: Sequence[float] | FloatArray, *, confidence: float = 0.95) -> Interval:
    """The mean of independent replications and its Student-t confidence interval.

    Replications that all agree, as where nothing is random, give an interval of width zero.
    One replication gives none, nor do samples with a NaN or an infinity among them.

    Raises
    ------
    ValueError
        If there is no sample, or the confidence is not in (0, 1).

    Examples
    --------
    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> f"{interval.mean:.1f} [{interval.low:.3f}, {interval.high:.3f}]"
    '2.0 [-0.484, 4.484]'
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence:g}; 0.95 is usual")
    values = np.asarray(samples, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least 1 sample, got 0")
    if n == 1:
        return Interval(
            mean=float(values[0]), low=math.nan, high=math.nan, n=1, confidence=confidence
        )
    if (values == values[0]).all():  # not by the formula: rounding would give it a width
        value = float(values[0])
        return Interval(mean=value, low=value, high=value, n=n, confidence=confidence)
    if not np.isfinite(values).all():
        return Interval(mean=math.nan, low=math.nan, high=math.nan, n=n, confidence=confidence)
    from scipy.special import stdtrit

    mean = float(values.mean())
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * values.std(ddof=1) / math.sqrt(n))
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n, confidence=confidence)


def paired_difference(
    a: Sequence[float] | FloatArray, b: Sequence[float] | FloatArray, *, confidence: float = 0.95
) -> Interval:
    """The mean of a - b over replications that share their random numbers, with its interval.

    Pairing takes the noise that both share out of the difference; `significant` then says
    whether what is left exceeds its own noise.

    Raises
    ------
    ValueError
        If the two differ in length or hold no sample.
    """
    if len(a) != len(b):
        raise ValueError(f"paired samples must be of one length, got {len(a)} and {len(b)}")
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and has no interval
        return mean_interval(first - second, confidence=confidence)
