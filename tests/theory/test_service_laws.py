"""The laws of drawn service times: moments, quantiles, mean maxima, and the workloads they make."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from llmsched.prediction.edges import equal_mass_edges
from llmsched.theory.distributions import Empirical, Exponential, Lognormal, Uniform
from llmsched.theory.service_laws import drawn_trace, parse

VALUES_S = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
CONTINUOUS = [
    (Uniform(1.0, 20.0), stats.uniform(1.0, 19.0)),
    (Exponential(10.0), stats.expon(scale=10.0)),
    (Lognormal(10.0, 0.8), stats.lognorm(0.8, scale=10.0 * math.exp(-0.32))),
]
LAWS = [law for law, _ in CONTINUOUS] + [Empirical(VALUES_S)]
by_name = pytest.mark.parametrize("law", LAWS, ids=str)
against_scipy = pytest.mark.parametrize(
    ("law", "scipy_law"), CONTINUOUS, ids=[str(law) for law, _ in CONTINUOUS]
)


@against_scipy
def test_law__moments_cdf_and_quantiles_are_scipys(law, scipy_law):
    times_s = np.array([-1.0, 0.0, 0.5, 1.0, 3.0, 10.5, 20.0, 200.0])
    levels = np.array([0.0, 0.01, 0.5, 0.9, 0.999, 1.0])
    assert law.mean_s == pytest.approx(scipy_law.mean(), rel=1e-13)
    assert law.variance_s2 == pytest.approx(scipy_law.var(), rel=1e-12)
    assert law.second_moment_s2 == pytest.approx(scipy_law.var() + scipy_law.mean() ** 2, rel=1e-12)
    np.testing.assert_allclose(law.cdf(times_s), scipy_law.cdf(times_s), rtol=1e-12)
    np.testing.assert_allclose(law.quantile_s(levels), scipy_law.ppf(levels), rtol=1e-12)


def test_empirical__every_value_weighs_the_same():
    law = Empirical(VALUES_S)  # sorted: 1 1 2 3 4 5 6 9
    assert law.mean_s == 31 / 8
    assert law.second_moment_s2 == pytest.approx(173 / 8)
    np.testing.assert_array_equal(law.cdf([0.5, 1.0, 4.5, 9.0]), [0, 2 / 8, 5 / 8, 1])
    np.testing.assert_array_equal(law.below([1.0, 4.0, 9.0, 9.1]), [0, 4 / 8, 7 / 8, 1])


def test_empirical__its_quantiles_are_the_edges_of_equal_mass_bins():
    levels = np.arange(1, 5) / 5
    np.testing.assert_array_equal(
        Empirical(VALUES_S).quantile_s(levels), equal_mass_edges(VALUES_S, 5)
    )


@by_name
def test_law__samples_follow_the_distribution_function(law):
    sample = law.sample_s(np.random.default_rng(1), 20_000)
    if isinstance(law, Empirical):  # 6 degrees of freedom; one false alarm in 10^4
        found = np.unique(sample, return_counts=True)[1]
        assert stats.chisquare(found, 20_000 * np.array([2, 1, 1, 1, 1, 1, 1]) / 8).pvalue > 1e-4
    else:
        assert stats.kstest(sample, law.cdf).pvalue > 1e-4


@by_name
def test_law__a_longer_sample_begins_with_the_shorter_one(law):
    short, longer = (law.sample_s(np.random.default_rng(3), n) for n in (50, 80))
    np.testing.assert_array_equal(longer[:50], short)


@by_name
@pytest.mark.parametrize("batch_size", [1, 2, 8, 128])
def test_mean_maximum__is_the_integral_of_one_minus_f_to_the_b(law, batch_size):
    # given the whole law, a middle bin, and the last bin
    for low_s, high_s in ((0.0, math.inf), (2.5, 6.0), (5.0, math.inf)):
        below, above = float(law.below(low_s)), float(law.below(high_s))

        def tail(time_s, below=below, above=above):
            return 1 - ((float(law.below(time_s)) - below) / (above - below)) ** batch_size

        # when integrated from the edge, in pieces, until less than 1e-12 is left
        end_s = high_s if high_s < math.inf else float(law.quantile_s(1 - 1e-14))
        cuts = np.unique(np.clip([*np.geomspace(max(low_s, 0.01), end_s, 60), *VALUES_S],
                                 low_s, end_s))  # fmt: skip
        pieces = zip([low_s, *cuts[:-1]], cuts, strict=True)
        total = low_s + sum(
            integrate.quad(tail, *piece, epsabs=1e-11)[0] for piece in pieces if piece[0] < piece[1]
        )
        # then they agree; what is cut off is B * E[X; X > quantile 1 - 1e-14] < 1e-10
        found = law.mean_maximum_s(batch_size, low_s=low_s, high_s=high_s)
        assert found == pytest.approx(total, rel=1e-9)


@by_name
def test_mean_maximum__of_one_is_the_mean_inside_the_bin(law):
    # law of total expectation over three bins
    edges_s = (0.0, 2.5, 6.0, math.inf)
    total = sum(
        float(law.below(high_s) - law.below(low_s))
        * law.mean_maximum_s(1, low_s=low_s, high_s=high_s)
        for low_s, high_s in itertools.pairwise(edges_s)
    )
    assert total == pytest.approx(law.mean_s, rel=1e-12)


def test_mean_maximum__hand_worked():
    assert Uniform(1.0, 20.0).mean_maximum_s(128) == pytest.approx((1 + 128 * 20) / 129)
    assert Exponential(2.0).mean_maximum_s(3) == pytest.approx(2 * (1 + 1 / 2 + 1 / 3))
    # of {1, 3}: both draws 1 in a quarter of the cases, else 3
    assert Empirical([1.0, 3.0]).mean_maximum_s(2) == 0.25 * 1 + 0.75 * 3
    # a bin holds its lower edge and not its upper one: {1, 1, 2} and {4, 5}
    law = Empirical(VALUES_S)
    assert law.mean_maximum_s(2, high_s=3.0) == pytest.approx(4 / 9 * 1 + 5 / 9 * 2)
    assert law.mean_maximum_s(2, low_s=4.0, high_s=6.0) == pytest.approx(0.25 * 4 + 0.75 * 5)


@pytest.mark.parametrize("batch_size", [1, 8, 128, 1024])
@pytest.mark.parametrize("width", [1e-6, 1.0, 5.0, 9.0, 15.0, 35.0, 40.0, 800.0])
def test_mean_maximum__of_an_exponential_bin_keeps_its_digits_at_any_width(batch_size, width):
    # given a bin of that many means, by Gauss-Legendre: 40 points on each of 100 pieces
    x, weight = np.polynomial.legendre.leggauss(40)
    piece = width / 100
    time_s = piece * (np.arange(100)[:, np.newaxis] + (x + 1) / 2)
    level = np.expm1(-time_s) / np.expm1(-width)
    expected = piece / 2 * np.sum(weight * -np.expm1(batch_size * np.log(level)))
    found = Exponential(1.0).mean_maximum_s(batch_size, high_s=width)
    # 4,000 roundings of terms up to the width, and one of a level near 1, in means
    assert abs(found - expected) < 1e-12 * width + 2.3e-16


@pytest.mark.parametrize("sigma", [0.1, 1.0, 4.0])
def test_mean_maximum__of_a_lognormal_is_exact_at_every_sigma(sigma):
    assert Lognormal(10.0, sigma).mean_maximum_s(1) == pytest.approx(10.0, rel=1e-12)
    # the larger of two: E = mean * 2 * Phi(sigma / sqrt 2)
    expected = 20.0 * stats.norm.cdf(sigma / math.sqrt(2))
    assert Lognormal(10.0, sigma).mean_maximum_s(2) == pytest.approx(expected, rel=1e-12)


@by_name
def test_mean_maximum__grows_with_the_batch_and_stays_in_the_bin(law):
    maxima = [law.mean_maximum_s(b, low_s=2.5, high_s=6.0) for b in (1, 2, 4, 8, 100)]
    assert (np.diff(maxima) > 0).all()
    assert maxima[0] > 2.5
    assert maxima[-1] < 6.0


def test_mean_maximum__needs_a_request_and_a_bin_that_holds_one():
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        Uniform(1.0, 20.0).mean_maximum_s(0)
    with pytest.raises(ValueError, match=r"got \[20, 30\) s of uniform:1,20"):
        Uniform(1.0, 20.0).mean_maximum_s(2, low_s=20.0, high_s=30.0)
    with pytest.raises(ValueError, match="leave the empty bin out"):
        Empirical([1.0, 3.0]).mean_maximum_s(2, low_s=1.5, high_s=3.0)


@pytest.mark.parametrize("spec", ["uniform:1,20", "exponential:10", "lognormal:10,0.5"])
def test_parse__is_undone_by_str(spec):
    assert str(parse(spec)) == spec


def test_parse__gives_the_law_that_was_asked_for():
    assert parse("uniform:1,20") == Uniform(1.0, 20.0)
    assert parse(" exponential:2.5 ") == Exponential(2.5)
    assert parse("lognormal:10,0.5") == Lognormal(10.0, 0.5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gamma:1,2", "must be one of uniform:LOW,HIGH, exponential:MEAN, lognormal:MEAN,SIGMA"),
        ("uniform:1", "must read uniform:LOW,HIGH, got 'uniform:1'"),
        ("exponential", "must read exponential:MEAN, got 'exponential'"),
        ("lognormal:ten,1", "must read lognormal:MEAN,SIGMA"),
        ("uniform:20,1", "low < high < inf .* got 20 and 1"),
        ("uniform:-1,1", "0 <= low"),
        ("exponential:0", "0 < mean < inf .* got 0"),
        ("exponential:nan", "got nan"),
        ("lognormal:10,0", "0 < sigma <= 4 .* got 0"),
        ("lognormal:inf,1", "0 < mean < inf .* got inf"),
    ],
)
def test_parse__says_what_is_wrong(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, -1.0], [math.nan], [math.inf]])
def test_empirical__refuses_what_is_no_service_time(values):
    with pytest.raises(ValueError, match="empirical"):
        Empirical(values)


def test_quantile__refuses_a_level_outside_0_to_1():
    with pytest.raises(ValueError, match=r"levels must be in \[0, 1\], got 0.5..1.5"):
        Uniform(1.0, 20.0).quantile_s([0.5, 1.5])


def test_drawn_trace__arrivals_are_poisson_from_0():
    trace = drawn_trace(
        Exponential(10.0), 20_001, arrival_rate_per_s=4.0, rng=np.random.default_rng(5)
    )
    assert trace.arrival_s[0] == 0.0
    gaps = np.diff(trace.arrival_s)
    assert stats.kstest(gaps, stats.expon(scale=1 / 4).cdf).pvalue > 1e-4
    # independent gaps: lag-1 correlation within 4 standard errors, 1/sqrt(n)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / math.sqrt(20_000)


def test_drawn_trace__service_times_follow_the_law_and_there_are_no_tokens():
    trace = drawn_trace(
        Uniform(1.0, 20.0), 20_000, arrival_rate_per_s=4.0, rng=np.random.default_rng(6)
    )
    assert stats.kstest(trace.service_s, Uniform(1.0, 20.0).cdf).pvalue > 1e-4
    assert len(trace) == 20_000
    assert not trace.total_tokens.any()
    assert trace.name == "uniform:1,20"
    # independent of the gap before: within 4 standard errors
    gaps = np.diff(trace.arrival_s)
    assert abs(np.corrcoef(gaps, trace.service_s[1:])[0, 1]) < 4 / math.sqrt(20_000)


def test_drawn_trace__another_rate_keeps_the_random_numbers():
    slow, fast, at_once = (
        drawn_trace(Exponential(10.0), 100, arrival_rate_per_s=rate, rng=np.random.default_rng(7))
        for rate in (1.0, 4.0, math.inf)
    )
    np.testing.assert_array_equal(fast.service_s, slow.service_s)
    np.testing.assert_array_equal(at_once.service_s, slow.service_s)
    np.testing.assert_array_equal(fast.arrival_s, slow.arrival_s / 4)
    assert not at_once.arrival_s.any()


def test_drawn_trace__a_longer_one_begins_with_the_shorter_one():
    short, longer = (
        drawn_trace(Lognormal(10.0, 1.0), n, arrival_rate_per_s=1.0, rng=np.random.default_rng(8))
        for n in (50, 80)
    )
    np.testing.assert_array_equal(longer.arrival_s[:50], short.arrival_s)
    np.testing.assert_array_equal(longer.service_s[:50], short.service_s)


@pytest.mark.parametrize(
    ("n_requests", "rate", "message"),
    [(0, 1.0, "got 0"), (1, 0.0, "must be > 0, got 0"), (1, math.nan, "got nan")],
)
def test_drawn_trace__says_what_is_wrong(n_requests, rate, message):
    with pytest.raises(ValueError, match=message):
        drawn_trace(
            Uniform(1.0, 2.0), n_requests, arrival_rate_per_s=rate, rng=np.random.default_rng(0)
        )
