"""Distributions of one request's service time: uniform, exponential, lognormal, empirical.

A law gives the time a request would take alone.  A batch of such requests takes the largest of its
members' times; each law knows the mean of that, inside a bin too (`mean_maximum_s`), in closed
form or to round-off.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from llmsched._util.arrays import FloatArray


class ServiceLaw(ABC):
    """The distribution of one request's service time when served alone [s]."""

    __slots__ = ()

    @property
    @abstractmethod
    def mean_s(self) -> float:
        """Mean service time [s]."""

    @property
    @abstractmethod
    def variance_s2(self) -> float:
        """Variance of the service time [s^2]."""

    @property
    def second_moment_s2(self) -> float:
        """Mean square of the service time [s^2]."""
        return self.variance_s2 + self.mean_s**2

    @abstractmethod
    def cdf(self, time_s: ArrayLike) -> FloatArray:
        """Probability that a request takes at most `time_s`, in its shape."""

    def below(self, time_s: ArrayLike) -> FloatArray:
        """Probability that a request takes less than `time_s`: the mass under a bin's edge."""
        return self.cdf(time_s)

    def quantile_s(self, level: ArrayLike) -> FloatArray:
        """The service time at each level of the distribution function [s].

        Raises
        ------
        ValueError
            If a level is outside [0, 1].
        """
        levels = np.asarray(level, dtype=np.float64)
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"levels must be in [0, 1], got {levels.min():g}..{levels.max():g}")
        with np.errstate(divide="ignore"):  # level 1 of an unbounded law is inf
            return self._quantile_s(levels)

    @abstractmethod
    def sample_s(self, rng: np.random.Generator, n: int) -> FloatArray:
        """Independent service times [s], shape (n,); a longer draw begins with the shorter one."""

    def mean_maximum_s(
        self, batch_size: int, *, low_s: float = 0.0, high_s: float = math.inf
    ) -> float:
        """Mean of the largest of `batch_size` draws, each given low_s <= draw < high_s [s].

        Parameters
        ----------
        batch_size : int
            Draws (B); must be >= 1.
        low_s, high_s : float
            The bin: its lower edge belongs to it, its upper edge does not [s].

        Raises
        ------
        ValueError
            If `batch_size` is below 1, or no request falls into the bin.

        Notes
        -----
        The integral of 1 - F(t)^B over t >= 0, with F the distribution function inside the bin;
        each law says how it is computed.
        """
        check_batch_size(batch_size)
        inside = self.below(high_s) - self.below(low_s)
        if not inside > 0:
            raise ValueError(
                f"a bin must hold part of the law, got [{low_s:g}, {high_s:g}) s of {self}; "
                "leave the empty bin out"
            )
        return self._mean_maximum_s(batch_size, low_s, high_s)

    @abstractmethod
    def _quantile_s(self, level: FloatArray) -> FloatArray: ...

    @abstractmethod
    def _mean_maximum_s(self, batch_size: int, low_s: float, high_s: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Uniform(ServiceLaw):
    """Uniform on [low_s, high_s], the law of the paper's closed forms.

    Raises
    ------
    ValueError
        Unless 0 <= low_s < high_s < inf.
    """

    low_s: float
    high_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.low_s < self.high_s < math.inf:
            raise ValueError(
                f"uniform needs 0 <= low < high < inf [s], got {self.low_s:g} and {self.high_s:g}"
            )

    def __str__(self) -> str:
        return f"uniform:{self.low_s:g},{self.high_s:g}"

    @property
    def mean_s(self) -> float:
        return (self.low_s + self.high_s) / 2

    @property
    def variance_s2(self) -> float:
        return (self.high_s - self.low_s) ** 2 / 12

    def cdf(self, time_s: ArrayLike) -> FloatArray:
        share = (np.asarray(time_s, dtype=np.float64) - self.low_s) / (self.high_s - self.low_s)
        return np.clip(share, 0.0, 1.0)

    def sample_s(self, rng: np.random.Generator, n: int) -> FloatArray:
        return self.low_s + (self.high_s - self.low_s) * rng.random(n)

    def _quantile_s(self, level: FloatArray) -> FloatArray:
        return self.low_s + (self.high_s - self.low_s) * level

    def _mean_maximum_s(self, batch_size: int, low_s: float, high_s: float) -> float:
        low_s, high_s = max(low_s, self.low_s), min(high_s, self.high_s)
        return (low_s + batch_size * high_s) / (batch_size + 1)  # closed form


@dataclass(frozen=True, slots=True)
class Exponential(ServiceLaw):
    """Exponential of mean 1/mu.

    Raises
    ------
    ValueError
        Unless 0 < mean_s < inf.
    """

    mean_s: float = field()  # else the property of the base would be its default

    def __post_init__(self) -> None:
        _check_mean("exponential", self.mean_s)

    def __str__(self) -> str:
        return f"exponential:{self.mean_s:g}"

    @property
    def variance_s2(self) -> float:
        return self.mean_s**2

    def cdf(self, time_s: ArrayLike) -> FloatArray:
        elapsed_s = np.maximum(np.asarray(time_s, dtype=np.float64), 0.0)
        return -np.expm1(-elapsed_s / self.mean_s)

    def sample_s(self, rng: np.random.Generator, n: int) -> FloatArray:
        return self.mean_s * rng.standard_exponential(n)

    def _quantile_s(self, level: FloatArray) -> FloatArray:
        return -self.mean_s * np.log1p(-level)

    def _mean_maximum_s(self, batch_size: int, low_s: float, high_s: float) -> float:
        """The last bin in closed form, low + H_B/mu; any other by `_levels_of_maximum`."""
        low_s = max(low_s, 0.0)
        if math.isinf(high_s):
            return low_s + self.mean_s * harmonic_number(batch_size)
        width = (high_s - low_s) / self.mean_s
        above, weight = _levels_of_maximum(batch_size, 1.0, math.exp(-width))
        return low_s - self.mean_s * float(weight @ np.log(above))


@dataclass(frozen=True, slots=True)
class Lognormal(ServiceLaw):
    """Lognormal with the given mean; `sigma` is the standard deviation of the logarithm.

    Raises
    ------
    ValueError
        Unless 0 < mean_s < inf and 0 < sigma <= 4.
    """

    mean_s: float = field()  # else the property of the base would be its default
    sigma: float

    def __post_init__(self) -> None:
        _check_mean("lognormal", self.mean_s)
        if not 0 < self.sigma <= 4:
            raise ValueError(
                f"lognormal needs 0 < sigma <= 4 (a log standard deviation), got {self.sigma:g}"
            )

    def __str__(self) -> str:
        return f"lognormal:{self.mean_s:g},{self.sigma:g}"

    @property
    def variance_s2(self) -> float:
        return self.mean_s**2 * math.expm1(self.sigma**2)

    @property
    def log_mean(self) -> float:
        """Mean of the logarithm of the service time in seconds."""
        return math.log(self.mean_s) - self.sigma**2 / 2

    def cdf(self, time_s: ArrayLike) -> FloatArray:
        from scipy.special import ndtr

        return np.asarray(ndtr(self._z(time_s)), dtype=np.float64)

    def sample_s(self, rng: np.random.Generator, n: int) -> FloatArray:
        return np.exp(self.log_mean + self.sigma * rng.standard_normal(n))

    def _quantile_s(self, level: FloatArray) -> FloatArray:
        from scipy.special import ndtri

        return np.exp(self.log_mean + self.sigma * np.asarray(ndtri(level)))

    def _mean_maximum_s(self, batch_size: int, low_s: float, high_s: float) -> float:
        """By `_levels_of_maximum`."""
        from scipy.special import ndtr, ndtri

        above_low, above_high = (float(ndtr(-self._z(edge))) for edge in (low_s, high_s))
        above, weight = _levels_of_maximum(batch_size, above_low, above_high)
        return float(weight @ np.exp(self.log_mean - self.sigma * np.asarray(ndtri(above))))

    def _z(self, time_s: ArrayLike) -> FloatArray:
        """Standard score of the logarithm; -inf at 0 and before."""
        with np.errstate(divide="ignore"):
            log_s = np.log(np.maximum(np.asarray(time_s, dtype=np.float64), 0.0))
        return (log_s - self.log_mean) / self.sigma


@dataclass(frozen=True, slots=True, eq=False)
class Empirical(ServiceLaw):
    """Each of the given service times with equal probability, ties included.

    Parameters
    ----------
    values_s : array_like of shape (n,)
        Service times [s], in any order; kept sorted.

    Raises
    ------
    ValueError
        If there is no value, or one is negative or not finite.

    Notes
    -----
    `quantile_s` is numpy's linear one, so that equal-mass edges are those of `binning`; it can
    fall between two values, where the distribution function has no step.
    """

    values_s: FloatArray

    def __post_init__(self) -> None:
        values = np.sort(np.asarray(self.values_s, dtype=np.float64))
        if values.ndim != 1 or not len(values):
            raise ValueError(
                f"empirical needs one row of at least 1 value, got shape {values.shape}"
            )
        if not (values[0] >= 0 and np.isfinite(values).all()):
            raise ValueError("empirical service times must be >= 0 and finite [s]; clean them")
        values.setflags(write=False)
        object.__setattr__(self, "values_s", values)

    def __str__(self) -> str:
        return f"empirical ({len(self.values_s)} values)"

    @property
    def mean_s(self) -> float:
        return float(self.values_s.mean())

    @property
    def variance_s2(self) -> float:
        return float(self.values_s.var())

    def cdf(self, time_s: ArrayLike) -> FloatArray:
        rank = np.searchsorted(self.values_s, np.asarray(time_s, dtype=np.float64), side="right")
        return np.asarray(rank / len(self.values_s), dtype=np.float64)

    def below(self, time_s: ArrayLike) -> FloatArray:
        rank = np.searchsorted(self.values_s, np.asarray(time_s, dtype=np.float64), side="left")
        return np.asarray(rank / len(self.values_s), dtype=np.float64)

    def sample_s(self, rng: np.random.Generator, n: int) -> FloatArray:
        return self.values_s[rng.integers(len(self.values_s), size=n)]

    def _quantile_s(self, level: FloatArray) -> FloatArray:
        return np.asarray(np.quantile(self.values_s, level), dtype=np.float64)

    def _mean_maximum_s(self, batch_size: int, low_s: float, high_s: float) -> float:
        """The sum over order statistics, draws with replacement: x_n - sum of gap_r * (r/n)^B."""
        first, end = np.searchsorted(self.values_s, (low_s, high_s))
        inside = self.values_s[first:end]
        level = np.arange(1, len(inside)) / len(inside)
        return float(inside[-1] - np.sum(np.diff(inside) * level**batch_size))


def harmonic_number(n: int) -> float:
    """H_n = 1 + 1/2 + ... + 1/n: the mean largest of n exponentials of mean 1."""
    return math.fsum(1 / j for j in range(1, n + 1))


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch of no request.

    Raises
    ------
    ValueError
        If `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}; use 1 for no batching")


def _levels_of_maximum(
    batch_size: int, above_low: float, above_high: float
) -> tuple[FloatArray, FloatArray]:
    """Levels of the largest of B draws from a bin, counted from above, and weights that sum to 1.

    The largest is the bin's quantile at level e^(-s/B), s ~ Exp(1).  With s = e^y, its mean is an
    integral over the whole line of something smooth that falls off at both ends, where the
    trapezoidal rule is exact to round-off.  Counted from above, the tail keeps its digits.

    Parameters
    ----------
    batch_size : int
        Draws (B).
    above_low, above_high : float
        Mass of the law above either edge of the bin.
    """
    step = 1 / 16
    y = np.arange(-160.0, 5.0, step)
    above = above_high + (above_low - above_high) * -np.expm1(-np.exp(y) / batch_size)
    return above, step * np.exp(y - np.exp(y))


def _check_mean(name: str, mean_s: float) -> None:
    if not 0 < mean_s < math.inf:
        raise ValueError(f"{name} needs 0 < mean < inf [s], got {mean_s:g}")
