"""The Multi-Bin paper's closed forms, and the exact makespans, against independent numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from llmsched.theory.any_law import LEVELS, implied_span, makespan_weights
from llmsched.theory.distributions import Empirical, Exponential, Lognormal, Uniform
from llmsched.theory.makespans import (
    bin_makespans,
    infinite_server_latency_s,
    mean_makespan_s,
    saturated_throughput_per_s,
)
from llmsched.theory.multi_bin import (
    bins_needed,
    equal_mass_edges_s,
    exponential_edges_s,
    exponential_makespan_bound_s,
    formation_wait_s,
    throughput_limit_per_s,
    uniform_latency_s,
    uniform_makespan_s,
    uniform_throughput_per_s,
)

PAPER = {"low_s": 1.0, "high_s": 20.0}  # figure 3, with B = 128
LAWS = [Uniform(1.0, 20.0), Exponential(10.0), Lognormal(10.0, 0.8)]
N_BATCHES = 20_000


def neighbour_errors(n_bins, probability):
    """Figure 8: each neighbour with that probability, rows the true bin."""
    mistaken = probability * (np.eye(n_bins, k=1) + np.eye(n_bins, k=-1))
    return mistaken + np.diag(1 - mistaken.sum(axis=1))


def batch_times_s(law, batch_size, edges_s, confusion, rng):
    """Makespans of Monte Carlo batches in the order they fill, one bin after the other."""
    service_s = law.sample_s(rng, N_BATCHES * batch_size)
    true_bin = np.searchsorted(edges_s, service_s, side="right")
    levels = np.cumsum(confusion, axis=1)
    predicted = (rng.random(len(service_s))[:, np.newaxis] > levels[true_bin, :-1]).sum(axis=1)
    for index in range(len(confusion)):
        members = service_s[predicted == index]
        full = len(members) // batch_size
        yield members[: full * batch_size].reshape(full, batch_size).max(axis=1)


# ---- uniform: Lemma 4.1, Theorems 4.2 and 4.3, Remark 4.3, Lemma 5.1


def test_equal_mass_edges__of_a_uniform_law_are_lemma_4_1():
    np.testing.assert_allclose(equal_mass_edges_s(Uniform(1.0, 20.0), 4), [5.75, 10.5, 15.25])
    assert equal_mass_edges_s(Uniform(1.0, 20.0), 1).shape == (0,)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_equal_mass_edges__give_bins_of_equal_mass(law):
    np.testing.assert_allclose(law.cdf(equal_mass_edges_s(law, 5)), np.arange(1, 5) / 5)


def test_equal_mass_edges__are_the_best_of_a_uniform_law():
    # Lemma 4.1 by brute force: no pair of edges on a grid beats the thirds
    grid_s = np.linspace(1.0, 20.0, 58)  # holds both thirds
    law = Uniform(1.0, 20.0)
    best = min(
        itertools.combinations(grid_s[1:-1], 2),
        key=lambda edges_s: mean_makespan_s(law, 4, edges_s=edges_s),
    )
    np.testing.assert_allclose(best, equal_mass_edges_s(law, 3))


def test_uniform_makespan__hand_worked_figure_3():
    # k = 1: the largest of 128, (1 + 128 * 20) / 129; k = 2: halfway between that and the mean
    assert float(uniform_makespan_s(1, 128, **PAPER)) == pytest.approx(2561 / 129)
    assert float(uniform_makespan_s(2, 128, **PAPER)) == pytest.approx((2561 / 129 + 10.5) / 2)
    # figure 3's plateaus, k = 1..5: 128/(10.5 + 9.35271/k)
    plateaus = uniform_throughput_per_s([1, 2, 3, 4, 5], 128, **PAPER)
    np.testing.assert_allclose(plateaus, [6.4475, 8.4342, 9.3996, 9.9703, 10.3472], atol=6e-5)


def test_uniform_makespan__is_the_mean_of_the_bins_closed_forms():
    for n_bins in (1, 2, 3, 8, 32):
        edges_s = np.linspace(1.0, 20.0, n_bins + 1)
        expected = np.mean((edges_s[:-1] + 128 * edges_s[1:]) / 129)
        assert float(uniform_makespan_s(n_bins, 128, **PAPER)) == pytest.approx(expected)


def test_uniform_makespan__of_one_request_is_the_mean_with_any_bins():
    np.testing.assert_allclose(uniform_makespan_s([1, 2, 32], 1, **PAPER), 10.5)


def test_uniform_makespan__broadcasts_bins_and_batch_sizes():
    table = uniform_makespan_s(np.array([[1], [2], [4]]), np.array([1, 8]), **PAPER)
    assert table.shape == (3, 2)
    assert table[2, 1] == float(uniform_makespan_s(4, 8, **PAPER))


def test_uniform_throughput__grows_with_the_bins_to_c_max():
    throughput = uniform_throughput_per_s(2 ** np.arange(30), 128, **PAPER)
    limit = float(throughput_limit_per_s(128, mean_s=10.5))
    assert limit == 128 / 10.5
    assert (np.diff(throughput) > 0).all()
    assert throughput[-1] == pytest.approx(limit, rel=2**-29)  # what is missing is < c_max/k
    assert throughput[-1] < limit


@pytest.mark.parametrize("shortfall", [0.05, 0.5, 1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("batch_size", [2, 8, 128])
def test_bins_needed__is_the_first_number_of_bins_that_is_enough(shortfall, batch_size):
    target = batch_size / 10.5 * (1 - shortfall / 12.2)
    shortfall = batch_size / 10.5 - target
    enough = uniform_throughput_per_s(np.arange(1, 400), batch_size, **PAPER) >= target
    assert bins_needed(shortfall, batch_size, **PAPER) == 1 + np.argmax(enough)


@pytest.mark.parametrize("n_bins", [1, 2, 3, 5, 7, 16, 100])
def test_bins_needed__of_what_k_bins_miss_is_k_itself(n_bins):
    # the bound is a whole number here, and rounding must not add a bin
    missed = 128 / 10.5 - uniform_throughput_per_s(n_bins, 128, **PAPER)
    assert bins_needed(missed, 128, **PAPER) == n_bins


def test_bins_needed__is_one_where_batching_costs_nothing():
    np.testing.assert_array_equal(bins_needed([0.001, 0.01], 1, **PAPER), [1, 1])


def test_formation_wait__is_that_of_a_poisson_stream():
    # given Poisson(2) arrivals to two bins of probability 1/4 and 3/4, batches of 8
    rng = np.random.default_rng(11)
    share = np.array([0.25, 0.75])
    waits = [
        at_s.reshape(-1, 8)[:, -1:] - at_s.reshape(-1, 8)
        for at_s in (np.cumsum(rng.exponential(1 / (2.0 * p), 8 * N_BATCHES)) for p in share)
    ]
    expected = formation_wait_s(8, arrival_rate_per_s=2.0, bin_probability=share)
    for wait, value in zip(waits, expected, strict=True):
        per_batch = wait.mean(axis=1)
        assert abs(per_batch.mean() - value) < 4 * per_batch.std() / math.sqrt(N_BATCHES)
    # over requests unequal bins wait as long as equal ones
    assert share @ expected == pytest.approx((8 - 1) * 2 / (2 * 2.0))


def test_uniform_latency__is_lemma_5_1_hand_worked():
    # B = 3, k = 2, U(1, 3), lambda = 0.5: bins [1, 2) and [2, 3]; makespans 1.75 and 2.75 s;
    # (B - 1)k/(2 lambda) = 4 s
    found = uniform_latency_s(2, 3, low_s=1.0, high_s=3.0, arrival_rate_per_s=0.5)
    assert float(found) == pytest.approx(2.25 + 4.0)
    # no wait when all come at once; vectorised over the rate
    rates = np.array([0.5, 1.0, math.inf])
    found = uniform_latency_s(2, 3, low_s=1.0, high_s=3.0, arrival_rate_per_s=rates)
    np.testing.assert_allclose(found, [6.25, 4.25, 2.25])


# ---- exponential: Appendix A.4


def test_exponential_edges__hand_worked():
    # B = 2: L = 3/2, 1 + log 3/2, ...; two bins: log 3/2; three bins: log L_2, log L_2 + log L_1
    level = 1 + math.log(1.5)
    np.testing.assert_allclose(exponential_edges_s(2, 2, mean_s=10.0), [10 * math.log(1.5)])
    np.testing.assert_allclose(
        exponential_edges_s(3, 2, mean_s=10.0),
        [10 * math.log(level), 10 * (math.log(level) + math.log(1.5))],
    )
    assert exponential_edges_s(1, 2, mean_s=10.0).shape == (0,)
    assert not exponential_edges_s(4, 1, mean_s=10.0).any()


@pytest.mark.parametrize("n_bins", [2, 3, 5])
@pytest.mark.parametrize("batch_size", [2, 8, 128])
def test_exponential_edges__minimise_the_bound(n_bins, batch_size):
    def bound(widths_s):
        return exponential_makespan_bound_s(np.cumsum(np.abs(widths_s)), batch_size, mean_s=1.0)

    edges_s = exponential_edges_s(n_bins, batch_size, mean_s=1.0)
    start = np.full(n_bins - 1, 0.5)
    search = optimize.minimize(bound, start, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(np.cumsum(np.abs(search.x)), edges_s, atol=1e-5)
    # and the least value is L_k
    level = sum(1 / j for j in range(1, batch_size + 1))
    for _ in range(n_bins - 1):
        level = 1 + math.log(level)
    least = exponential_makespan_bound_s(edges_s, batch_size, mean_s=1.0)
    assert least == pytest.approx(level, rel=1e-13)


def test_exponential_bound__hand_worked():
    # one edge at 2 means, B = 2: (1 - e^-2) * 2 + e^-2 * (2 + 3/2), times the mean
    expected = 10 * (2 * (1 - math.exp(-2)) + 3.5 * math.exp(-2))
    assert exponential_makespan_bound_s([20.0], 2, mean_s=10.0) == pytest.approx(expected)
    assert exponential_makespan_bound_s([], 2, mean_s=10.0) == pytest.approx(15.0)


@pytest.mark.parametrize("batch_size", [1, 2, 8, 128])
def test_exponential_bound__is_above_the_exact_makespan(batch_size):
    law = Exponential(10.0)
    for n_bins in (2, 4, 16):
        for edges_s in (
            exponential_edges_s(n_bins, batch_size, mean_s=10.0),
            equal_mass_edges_s(law, n_bins),
        ):
            bound = exponential_makespan_bound_s(edges_s, batch_size, mean_s=10.0)
            exact = mean_makespan_s(law, batch_size, edges_s=edges_s)
            assert exact <= bound * (1 + 1e-12)
    # with no bins it is the exact value
    exact = mean_makespan_s(law, batch_size)
    assert exponential_makespan_bound_s([], batch_size, mean_s=10.0) == pytest.approx(exact)


# ---- any law, any edges, any predictions


def test_makespan__of_a_uniform_law_is_theorem_4_2():
    for n_bins, batch_size in itertools.product((1, 2, 5, 32), (1, 8, 128)):
        law = Uniform(**PAPER)
        edges_s = equal_mass_edges_s(law, n_bins)
        expected = float(uniform_makespan_s(n_bins, batch_size, **PAPER))
        assert mean_makespan_s(law, batch_size, edges_s=edges_s) == pytest.approx(expected)
        per_s = saturated_throughput_per_s(law, batch_size, edges_s=edges_s, n_gpus=8)
        assert per_s == pytest.approx(8 * batch_size / expected)


def test_makespan__hand_worked_empirical_law():
    # given 1, 1, 2 | 4, 5 s and batches of 2
    law = Empirical([5.0, 1.0, 4.0, 2.0, 1.0])
    bins = bin_makespans(law, 2, edges_s=[3.0])
    np.testing.assert_allclose(bins.probability, [0.6, 0.4])
    np.testing.assert_allclose(bins.makespan_s, [4 / 9 + 2 * 5 / 9, 4 / 4 + 5 * 3 / 4])
    assert bins.mean_s == pytest.approx(0.6 * 14 / 9 + 0.4 * 4.75)


def test_makespan__of_an_empirical_law_by_listing_every_batch():
    # given eight values with ties, an edge on a value, batches of 3, mistaken bins
    values_s = np.array([1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0])
    confusion = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.0, 0.25, 0.75]])
    edges_s = [2.0, 5.0]
    true_bin = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    total = 0.0
    for column in confusion.T:
        weight = column[true_bin] / 8
        chance = weight / weight.sum()
        for batch in itertools.product(range(8), repeat=3):
            members = list(batch)
            total += weight.sum() * chance[members].prod() * values_s[members].max()
    found = mean_makespan_s(Empirical(values_s), 3, edges_s=edges_s, confusion=confusion)
    assert found == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("error", [0.0, 0.2])
def test_makespan__is_that_of_monte_carlo_batches(law, error):
    # given unequal bins, batches of 8, true bins taken for their neighbours
    edges_s, confusion = np.array([4.0, 7.0, 15.0]), neighbour_errors(4, error)
    rng = np.random.default_rng(17)
    bins = bin_makespans(law, 8, edges_s=edges_s, confusion=confusion)
    drawn = batch_times_s(law, 8, edges_s, confusion, rng)
    for times_s, expected in zip(drawn, bins.makespan_s, strict=True):
        # then every bin lies within 4 standard errors: 24 comparisons, 1 false alarm in 600
        assert abs(times_s.mean() - expected) < 4 * times_s.std() / math.sqrt(len(times_s))
    predicted = np.diff([0.0, *law.cdf(edges_s), 1.0]) @ confusion
    np.testing.assert_allclose(bins.probability, predicted)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_makespan__does_not_depend_on_edges_when_predictions_know_nothing(law):
    edges_s, blind = equal_mass_edges_s(law, 4), np.full((4, 4), 0.25)
    found = bin_makespans(law, 16, edges_s=edges_s, confusion=blind)
    np.testing.assert_allclose(found.makespan_s, law.mean_maximum_s(16), rtol=1e-11)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_makespan__falls_with_bins_towards_the_mean(law):
    found = [
        mean_makespan_s(law, 32, edges_s=equal_mass_edges_s(law, k)) for k in (1, 2, 4, 8, 64, 512)
    ]
    assert (np.diff(found) < 0).all()
    assert 0 < found[-1] - law.mean_s < 0.02 * (found[0] - law.mean_s)
    assert mean_makespan_s(law, 1, edges_s=equal_mass_edges_s(law, 4)) == pytest.approx(law.mean_s)


def test_makespan__counts_in_a_confusion_matrix_are_scaled_by_row():
    law, edges_s = Exponential(10.0), [7.0]
    counts, rates = [[30, 10], [1, 4]], [[0.75, 0.25], [0.2, 0.8]]
    found = mean_makespan_s(law, 8, edges_s=edges_s, confusion=counts)
    assert found == mean_makespan_s(law, 8, edges_s=edges_s, confusion=rates)


def test_makespan__bins_without_requests_are_left_out():
    bins = bin_makespans(Uniform(1.0, 3.0), 2, edges_s=[0.5, 2.0, 2.0, 9.0])
    np.testing.assert_allclose(bins.probability, [0.5, 0.5])
    np.testing.assert_allclose(bins.makespan_s, [5 / 3, 8 / 3])


def test_saturated_throughput__under_the_errors_of_figure_8():
    # read off the figure, coarse: k = 2, 4, 8 near p_e = 0.5 give 6.6, 7.9 and 8.9 requests/s, and
    # no bins 6.6; two bins at p_e = 0.5 know nothing
    law = Uniform(**PAPER)
    found = [
        saturated_throughput_per_s(
            law, 128, edges_s=equal_mass_edges_s(law, k), confusion=neighbour_errors(k, 0.5)
        )
        for k in (2, 4, 8)
    ]
    assert found[0] == pytest.approx(float(uniform_throughput_per_s(1, 128, **PAPER)))
    np.testing.assert_allclose(found, [6.6, 7.9, 8.9], rtol=0.05)


# --- what holds for every law -----------------------------------------------------------------

MISSES = ((9.0, 1.0), (3.0, 5.0))


def test_makespan_weights__hand_worked_at_the_median():
    # half of the requests are above the median: 3/4 of the pairs, 1/2 of those of one bin each;
    # and where the predicted bin says nothing, 3/4 again
    at = len(LEVELS) // 2
    assert makespan_weights(2)[at] == pytest.approx(3 / 4)
    assert makespan_weights(2, 2)[at] == pytest.approx(1 / 2)
    assert makespan_weights(2, 2, confusion=np.ones((2, 2)))[at] == pytest.approx(3 / 4)


@pytest.mark.parametrize("law", [Uniform(1.0, 3.0), Exponential(2.0), Lognormal(2.0, 1.0)])
def test_implied_span__holds_what_a_law_has_given_its_other_makespans(law):
    edges_s = equal_mass_edges_s(law, 2)
    binned_s = mean_makespan_s(law, 4, edges_s=edges_s)
    missed_s = mean_makespan_s(law, 4, edges_s=edges_s, confusion=MISSES)
    known = [(makespan_weights(4), mean_makespan_s(law, 4)), (makespan_weights(4, 2), binned_s)]
    missed = implied_span(makespan_weights(4, 2, confusion=MISSES), known)
    assert missed.low < missed_s < missed.high
    assert missed.high / missed.low < 1.1  # and says something
    mean = implied_span(makespan_weights(1), known)
    assert mean.low < law.mean_s < mean.high


def test_implied_span__refuses_makespans_that_no_law_has():
    with pytest.raises(ValueError, match="no law of service times gives 2, 1"):
        implied_span(makespan_weights(1), [(makespan_weights(1), 2.0), (makespan_weights(2), 1.0)])


def test_infinite_server_latency__of_a_uniform_law_is_lemma_5_1():
    law, rates = Uniform(**PAPER), np.array([4.0, 8.0, 12.0])
    for n_bins in (1, 2, 3):
        found = infinite_server_latency_s(
            law, 128, arrival_rate_per_s=rates, edges_s=equal_mass_edges_s(law, n_bins)
        )
        expected = uniform_latency_s(n_bins, 128, **PAPER, arrival_rate_per_s=rates)
        np.testing.assert_allclose(found, expected)


def test_infinite_server_latency__hand_worked_unequal_bins():
    # given 1, 1, 2 | 4, 5 s, batches of 2, 0.5 requests/s: makespans as above; a request waits
    # 1/(2 * 0.5 * p) s in a bin of probability p, and so 2 s on average
    law = Empirical([5.0, 1.0, 4.0, 2.0, 1.0])
    found = infinite_server_latency_s(law, 2, arrival_rate_per_s=0.5, edges_s=[3.0])
    assert float(found) == pytest.approx(0.6 * 14 / 9 + 0.4 * 4.75 + 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equal_mass_edges_s(LAWS[0], 0), "n_bins must be >= 1, got 0"),
        (lambda: uniform_makespan_s([1, 0], 8, **PAPER), "n_bins must be >= 1, got 0"),
        (lambda: uniform_makespan_s(1, 0, **PAPER), "batch_size must be >= 1, got 0"),
        (lambda: uniform_makespan_s(1, 8, low_s=3.0, high_s=3.0), "low < high < inf .* 3 and 3"),
        (lambda: throughput_limit_per_s(8, mean_s=0.0), "mean_s must be > 0, got 0"),
        (lambda: bins_needed(0.0, 8, **PAPER), r"in \(0, c_max\], got 0"),
        (lambda: bins_needed(1.0, 8, **PAPER), "got 1..1 with c_max = 0.761905"),
        (lambda: formation_wait_s(8, arrival_rate_per_s=0.0), "arrival_rate_per_s must be > 0"),
        (
            lambda: formation_wait_s(8, arrival_rate_per_s=1.0, bin_probability=[0.5, 1.5]),
            r"bin_probability must be in \(0, 1\], got 0.5..1.5",
        ),
        (lambda: exponential_edges_s(0, 8, mean_s=1.0), "n_bins must be >= 1, got 0"),
        (lambda: exponential_edges_s(2, 0, mean_s=1.0), "batch_size must be >= 1, got 0"),
        (lambda: exponential_edges_s(2, 8, mean_s=-1.0), "mean_s must be > 0, got -1"),
        (lambda: exponential_makespan_bound_s([2.0, 1.0], 8, mean_s=1.0), "not decreasing"),
        (lambda: exponential_makespan_bound_s([1.0], 8, mean_s=0.0), "mean_s must be > 0"),
        (lambda: mean_makespan_s(LAWS[0], 0), "batch_size must be >= 1, got 0"),
        (lambda: mean_makespan_s(LAWS[0], 8, edges_s=[math.nan]), r"got \[nan\]"),
        (lambda: mean_makespan_s(LAWS[0], 8, edges_s=[5.0], confusion=[[1.0]]), "must be 2 x 2"),
        (
            lambda: mean_makespan_s(LAWS[0], 8, edges_s=[5.0], confusion=[[1, 0], [0, 0]]),
            "some in every row",
        ),
        (
            lambda: mean_makespan_s(LAWS[0], 8, edges_s=[5.0], confusion=[[1, -1], [0, 1]]),
            "finite weights >= 0",
        ),
        (lambda: saturated_throughput_per_s(LAWS[0], 8, n_gpus=0), "n_gpus must be >= 1, got 0"),
    ],
)
def test_theory__says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
