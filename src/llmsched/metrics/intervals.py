"""Confidence intervals over replications, and paired differences under common random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmsched._util.arrays import FloatArray


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


def mean_interval(
    samples: Sequence[float] | FloatArray,
    *,
    confidence: float = 0.95,
    resampled: bool = False,
    skewed: bool = False,
    dof: float | None = None,
) -> Interval:
    """The mean of independent replications and its Student-t confidence interval.

    Replications that all agree, as where nothing is random, give an interval of width zero.
    One replication gives none, nor do samples with a NaN or an infinity among them.

    Parameters
    ----------
    samples : sequence of shape (n,)
        One value per replication.
    confidence : float
        In (0, 1).
    resampled : bool
        Whether the samples are resamples of one set of data.  Their standard deviation s is then
        itself the standard error of what the data say, however many there are, and the half width
        is t s sqrt(1 + 1/n): the mean of n resamples is known to s / sqrt(n) only.
    skewed : bool
        Whether the interval allows for the skewness of the samples [1]_: it then reaches farther
        on the side of the long tail.  Not with `resampled`, nor of fewer than 3 samples.
    dof : float, optional
        Degrees of freedom of Student's t; n - 1 by default.

    Raises
    ------
    ValueError
        If there is no sample, or the confidence is not in (0, 1).

    References
    ----------
    .. [1] Hall, "On the removal of skewness by transformation", J. R. Stat. Soc. B 54, 1992.

    Examples
    --------
    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> f"{interval.mean:.1f} [{interval.low:.3f}, {interval.high:.3f}]"
    '2.0 [-0.484, 4.484]'
    >>> interval = mean_interval([1.0, 2.0, 6.0], skewed=True)
    >>> f"{interval.mean:.1f} [{interval.low:.2f}, {interval.high:.2f}]"
    '3.0 [-0.55, 16.06]'
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
    t = float(stdtrit(n - 1 if dof is None else dof, (1 + confidence) / 2))
    error = _standard_error(values, resampled)
    pull = _pull(values) if skewed and not resampled else 0.0
    low, high = (mean - _without_skewness(end, pull) * error for end in (t, -t))
    return Interval(mean=mean, low=low, high=high, n=n, confidence=confidence)


def _standard_error(values: FloatArray, resampled: bool) -> float:
    n = len(values)
    return float(values.std(ddof=1)) * math.sqrt((n + 1) / n if resampled else 1 / n)


def _pull(values: FloatArray) -> float:
    """Skewness / (3 sqrt(n)) of the samples, the estimate for small n; 0 of fewer than 3."""
    n = len(values)
    if n < 3:
        return 0.0
    centred = values - values.mean()
    skewness = (centred**3).mean() / (centred**2).mean() ** 1.5
    return float(skewness) * math.sqrt(n * (n - 1)) / (n - 2) / (3 * math.sqrt(n))


def _skewed(t: float, pull: float) -> float:
    """Hall's transform g of a t statistic, on which Student's quantiles hold."""
    return t + pull * (t**2 + 0.5) + pull**2 * t**3 / 3


def _without_skewness(g: float, pull: float) -> float:
    """The t statistic that has this transform."""
    third = g - pull / 2
    root = math.cbrt(1 + 3 * pull * third)
    return 3 * third / (root**2 + root + 1)  # (root - 1) / pull, and exact where pull is 0


def p_value_of_zero(
    samples: Sequence[float] | FloatArray, *, resampled: bool = False, skewed: bool = False
) -> float:
    """Two-sided p-value of Student's t-test that the mean is 0; NaN where there is no interval.

    It is below 1 - c just where `mean_interval` at confidence c leaves out 0.

    Examples
    --------
    >>> round(p_value_of_zero([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    values = np.asarray(samples, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    if (values == values[0]).all():
        return 1.0 if values[0] == 0 else 0.0
    from scipy.special import stdtr

    t = float(values.mean()) / _standard_error(values, resampled)
    if skewed and not resampled:
        t = _skewed(t, _pull(values))
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: the chance of any false verdict stays below the level.

    Those that are NaN stay so and do not count.

    References
    ----------
    .. [1] Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[i] = largest
    return corrected


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
