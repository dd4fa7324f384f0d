"""Intervals against tabulated t quantiles, their coverage, and what pairing buys."""

import math

import numpy as np
import pytest

from llmsched.metrics.intervals import holm, mean_interval, p_value_of_zero, paired_difference


def test_interval__of_two_and_three_samples_has_the_tabulated_half_widths():
    # given t quantiles 12.7062 (1 degree of freedom) and 4.30265 (2), as printed in tables
    two, three = mean_interval([0.0, 2.0]), mean_interval([1.0, 2.0, 3.0])
    # then the half-widths are t times the standard errors 1 and 1/sqrt(3)
    assert (two.mean, two.n) == (1.0, 2)
    assert two.half_width == pytest.approx(12.7062, rel=5e-6)
    assert three.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=5e-6)
    assert three.low == pytest.approx(2 - 4.30265 / math.sqrt(3), rel=5e-6)
    # and t of 0.95 instead of 0.975 for 90 %: 2.91999
    narrower = mean_interval([1.0, 2.0, 3.0], confidence=0.9)
    assert narrower.half_width == pytest.approx(2.91999 / math.sqrt(3), rel=5e-6)
    # resamples of one set of data: the standard error is their own deviation 1, and more
    resampled = mean_interval([1.0, 2.0, 3.0], resampled=True)
    assert resampled.half_width == pytest.approx(4.30265 * math.sqrt(4 / 3), rel=5e-6)


def test_p_value__is_that_of_the_tabulated_quantiles():
    # given samples whose mean is 4.30265, then 2.91999 standard errors from 0
    deviations = np.array([-1.0, 0.0, 1.0])
    for t, p in ((4.30265, 0.05), (-2.91999, 0.1)):
        assert p_value_of_zero(deviations + t / math.sqrt(3)) == pytest.approx(p, rel=1e-4)
        moved = deviations + t * math.sqrt(4 / 3)
        assert p_value_of_zero(moved, resampled=True) == pytest.approx(p, rel=1e-4)


def test_holm__takes_them_in_order_and_counts_only_what_has_a_value():
    # given three p-values: 3 * 0.01, then 2 * 0.03, then 0.04, which may not fall below the last
    assert holm([0.04, math.nan, 0.01, 0.03]) == pytest.approx(
        [0.06, math.nan, 0.03, 0.06], nan_ok=True
    )
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_interval__covers_the_mean_as_often_as_it_says():
    # given 2000 experiments of 5 normal samples around 0
    samples = np.random.default_rng(8).standard_normal((2000, 5))
    covered = np.mean([not mean_interval(row).significant for row in samples])
    # then the share that covers 0 is 0.95 within 4 standard errors
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_interval__of_replications_that_agree_has_no_width():
    # given 0.1, whose mean over 3 is not 0.1 in floating point
    interval = mean_interval([0.1] * 3)
    assert (interval.mean, interval.low, interval.high) == (0.1, 0.1, 0.1)
    assert mean_interval([math.inf] * 2).high == math.inf


@pytest.mark.parametrize("samples", [[5.0], [1.0, math.nan], [1.0, math.inf]])
def test_interval__is_absent_where_it_has_no_meaning(samples):
    interval = mean_interval(samples)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.significant
    assert interval.n == len(samples)


def test_difference__is_significant_when_its_interval_leaves_out_zero():
    # given a common noise far larger than the difference of 1
    noise = np.random.default_rng(2).normal(0, 100, size=10)
    small = np.linspace(-0.1, 0.1, 10)
    difference = paired_difference(noise + 1 + small, noise)
    # then pairing takes it out
    assert difference.mean == pytest.approx(1.0)
    assert difference.significant
    assert paired_difference(noise, noise + 1 + small).significant
    # and unpaired noise of that size hides it
    other = np.random.default_rng(3).normal(0, 100, size=10)
    assert not paired_difference(noise + 1, other).significant


def test_difference__of_deterministic_runs_is_exact():
    assert paired_difference([2.5, 2.5], [2.0, 2.0]).significant
    assert not paired_difference([2.5, 2.5], [2.5, 2.5]).significant
    assert math.isnan(paired_difference([math.inf, 1.0], [math.inf, 2.0]).mean)


def test_intervals__refuse_what_has_none():
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 95"):
        mean_interval([1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match="of one length, got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
