"""The rate at which a mean meets its target: the root, and what each replication moves it by.

Tests are the metric of every replication at some rates.  Their mean is brought to a scale on which
it is nearly straight in the logarithm of the rate: shares to their logit, latencies to their
logarithm.  The root lies between the hardest rate that passes, with all easier ones, and the next.

Its error.  At the root the mean is known to the noise of the replications; the slope of the curve
turns that into rates.  Each replication's share of the noise is its jackknife pseudo-value: what
the mean on the scale becomes without it.  So the logarithm of the root has one deviation per
replication, and intervals, pairs of schedulers and draws of the latency all start from these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.simulation.capacity.search import capacity_of, edge

Tests = Mapping[float, FloatArray]  # rate -> the metric in each replication, shape (n,)
WIDE = 0.05  # of the rate: tests at least so far on either side give the slope


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """On which scale the mean of a metric is compared with its target."""

    at_most: float
    least: float | None = None  # half a request as a share of all; None for latencies

    def height(self, mean: float | FloatArray) -> FloatArray:
        """The mean on its scale."""
        x = np.asarray(mean, dtype=np.float64)
        if self.least is not None:
            x = np.clip(x, self.least, 1 - self.least)
        with np.errstate(divide="ignore"):
            against = 0.0 if self.least is None else np.log1p(-x)
            found: FloatArray = np.log(x) - against
        return found

    def passes(self, tests: Tests) -> dict[float, bool]:
        """Rate -> whether the mean stays within the target."""
        return {rate: bool(found.mean() <= self.at_most) for rate, found in tests.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root and the deviations of its logarithm, one per replication, that sum to 0."""

    rate: float  # 0 where none meets the target, infinite where none fails
    deviations: FloatArray  # NaN where the root is known too badly to have an error
    effective_n: float = math.nan  # Kish's: the metric at the root comes from so many replications

    @property
    def logarithms(self) -> FloatArray:
        """Pseudo-values of the logarithm of the root, shape (n,)."""
        centre = math.log(self.rate) if self.rate > 0 else -math.inf
        return self.deviations + centre

    def interval(self, *, confidence: float, resampled: bool = False) -> Interval:
        """Of the logarithm of the root.

        Where violations are rare they come in few of the replications.  The deviations are skewed
        then, and their variance is known from these few: degrees of freedom are at most as many.
        """
        if resampled:
            return mean_interval(self.logarithms, confidence=confidence, resampled=True)
        dof = min(len(self.deviations) - 1, self.effective_n)
        return mean_interval(self.logarithms, confidence=confidence, skewed=True, dof=dof)


def crossing(tests: Tests, curve: Curve) -> float:
    """The rate at which the mean meets the target; 0 or infinity where there is none."""
    passes = curve.passes(tests)
    best, failing = edge(passes, harder_upwards=True)
    if best is None or failing is None:
        return capacity_of(passes, harder_upwards=True)
    return math.exp(_between(tests, curve, best, failing))


def _between(tests: Tests, curve: Curve, best: float, failing: float) -> float:
    """The logarithm of the root between two tests, on a straight line."""
    low, high = (float(curve.height(tests[rate].mean())) for rate in (best, failing))
    wanted = float(curve.height(curve.at_most))
    share = (wanted - low) / (high - low) if math.isfinite(high - low) and high > low else 0.5
    share = min(max(share, 0.0), 1.0)
    return math.log(best) + share * (math.log(failing) - math.log(best))


def root_of(tests: Tests, curve: Curve) -> Root:
    """The root with the deviations of its logarithm."""
    n = len(next(iter(tests.values())))
    unknown = np.full(n, math.nan)
    rate = crossing(tests, curve)
    if not 0 < rate < math.inf or n < 2 or curve.at_most == 0:
        return Root(rate=rate, deviations=unknown)
    slope = _slope(tests, curve, rate)
    best, failing = edge(curve.passes(tests), harder_upwards=True)
    assert best is not None  # there is a root
    assert failing is not None
    share = math.log(rate / best) / math.log(failing / best)
    found = (1 - share) * tests[best] + share * tests[failing]
    if not (slope > 0 and np.isfinite(found).all() and found.any()):
        return Root(rate=rate, deviations=unknown)
    without = (found.sum() - found) / (n - 1)
    pulls = (n - 1) * (curve.height(found.mean()) - curve.height(without))
    return Root(
        rate=rate,
        deviations=-(pulls - pulls.mean()) / slope,
        effective_n=float(found.sum() ** 2 / (found**2).sum()),
    )


def _slope(tests: Tests, curve: Curve, rate: float) -> float:
    """Of the mean on its scale over the logarithm of the rate, around a rate; NaN if unknown."""
    below = [one for one in tests if one <= rate * (1 - WIDE)]
    above = [one for one in tests if one >= rate * (1 + WIDE)]
    if not below or not above:
        return math.nan
    low, high = max(below), min(above)
    heights = [float(curve.height(tests[one].mean())) for one in (low, high)]
    return (heights[1] - heights[0]) / math.log(high / low)


def next_rate_for_root(
    tests: Tests, curve: Curve, *, start: float, tolerance: float
) -> float | None:
    """The rate to test next on the way to the root; None when it is known to the tolerance.

    The start, doublings or halvings until there are a passing and a failing rate; then beside the
    root of the line between them, on the side that shortens what is left.
    """
    from llmsched.simulation.capacity.search import next_rate

    passes = curve.passes(tests)
    best, failing = edge(passes, harder_upwards=True)
    if best is None or failing is None or start not in passes:
        return next_rate(passes, start=start, tolerance=tolerance)
    if failing <= best * (1 + tolerance):
        return None
    low, high = math.log(best), math.log(failing)
    middle = _between(tests, curve, best, failing)
    aside = 0.45 * math.log1p(tolerance)
    middle += -aside if middle - low > high - middle else aside
    margin = 0.1 * (high - low)
    return math.exp(min(max(middle, low + margin), high - margin))
