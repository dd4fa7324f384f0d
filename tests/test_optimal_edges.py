"""Optimal edges against brute force, hand-worked cases and the one law where equal mass is best."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from llmsched import Binning, Settings, Trace
from llmsched.prediction.edges import assign_bins, equal_mass_edges
from llmsched.prediction.optimal_edges import MOST_ATOMS, expected_batch_max, optimal_edges
from plan_world import plan_simulate as simulate

small_samples = st.lists(st.integers(0, 30), min_size=1, max_size=9)


def by_enumeration(values, edges, batch_size: int) -> float:
    """Σ share·E[max], each E the mean over all batches that the bin's values can make."""
    bins: dict[int, list[float]] = {}
    for value in values:
        bins.setdefault(sum(edge <= value for edge in edges), []).append(value)
    total = 0.0
    for members in bins.values():
        batches = list(itertools.product(members, repeat=batch_size))
        total += len(members) / len(values) * math.fsum(map(max, batches)) / len(batches)
    return total


def least_by_enumeration(values, n_bins: int, batch_size: int) -> float:
    """The least of `by_enumeration` over every choice of edges."""
    openings = sorted(set(values))[1:]
    n_edges = min(n_bins - 1, len(openings))
    return min(
        by_enumeration(values, edges, batch_size)
        for edges in itertools.combinations(openings, n_edges)
    )


def quiet_optimal_edges(values, n_bins: int, batch_size: int, **options: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optimal_edges(np.array(values), n_bins, batch_size=batch_size, **options)


def test_optimal_edges__of_four_values_by_hand():
    # given lengths 1, 2, 3 and 10 in two bins and batches of 2, the three choices cost
    #   {1} {2 3 10}: 1/4·1 + 3/4·(2·1 + 3·3 + 10·5)/9 = 0.25 + 3/4·61/9 = 5.333
    #   {1 2} {3 10}: 1/2·(1·1 + 2·3)/4 + 1/2·(3·1 + 10·3)/4 = 0.875 + 4.125 = 5
    #   {1 2 3} {10}: 3/4·(1·1 + 2·3 + 3·5)/9 + 1/4·10 = 1.8333 + 2.5 = 4.333
    lengths = np.array([10, 1, 3, 2], dtype=np.int32)
    costs = [
        expected_batch_max(lengths, np.array([edge]), batch_size=2) for edge in (2.0, 3.0, 10.0)
    ]
    assert costs == pytest.approx([16 / 3, 5, 13 / 3], rel=1e-14)
    # then the third is chosen, and the edge is the least length of the bin it opens
    assert optimal_edges(lengths, 2, batch_size=2).tolist() == [10.0]


def test_optimal_edges__move_with_the_batch_size():
    # given 1, 5, 5, 5 and 8 in two bins: pairs cost
    #   {1} {5 5 5 8}: 1/5 + 4/5·(5·9/16 + 8·7/16) = 5.25; {1 5 5 5} {8}: 4/5·4.75 + 8/5 = 5.4
    # while of batches of 8 nearly every one holds the bin's longest: 6.36 and 5.60
    lengths = np.array([1.0, 5.0, 5.0, 5.0, 8.0])
    assert expected_batch_max(lengths, np.array([5.0]), batch_size=2) == pytest.approx(5.25)
    assert expected_batch_max(lengths, np.array([8.0]), batch_size=2) == pytest.approx(5.4)
    # then pairs share the upper bin, and larger batches leave the long one alone
    assert optimal_edges(lengths, 2, batch_size=2).tolist() == [5.0]
    assert optimal_edges(lengths, 2, batch_size=8).tolist() == [8.0]


@given(values=small_samples, data=st.data())
@settings(deadline=None, max_examples=60)
def test_expected_batch_max__is_the_mean_over_all_batches(values, data):
    edges = sorted(data.draw(st.sets(st.integers(0, 30), max_size=4)))
    batch_size = data.draw(st.integers(1, 3))
    ours = expected_batch_max(np.array(values), np.array(edges, float), batch_size=batch_size)
    assert ours == pytest.approx(by_enumeration(values, edges, batch_size), rel=1e-12, abs=1e-12)


@given(values=small_samples, n_bins=st.integers(2, 5), batch_size=st.integers(2, 3))
@settings(deadline=None, max_examples=80)
def test_optimal_edges__are_as_good_as_the_best_of_all_choices(values, n_bins, batch_size):
    edges = quiet_optimal_edges(values, n_bins, batch_size)
    # then no choice of edges has a smaller mean maximum, counted batch by batch
    least = least_by_enumeration(values, n_bins, batch_size)
    assert by_enumeration(values, edges, batch_size) == pytest.approx(least, rel=1e-12, abs=1e-12)
    # and they are strictly increasing, and open a bin each
    held = np.bincount(assign_bins(np.array(values), edges))
    assert len(held) == min(n_bins, len(set(values)))
    assert held.all()


@pytest.mark.parametrize("n_bins", [2, 4, 5, 8])
@pytest.mark.parametrize("batch_size", [2, 8, 128])
def test_optimal_edges__of_uniform_values_are_equal_mass(n_bins, batch_size):
    # given 5,000 values at equal steps, more than the grid holds, on a grid that holds i/K
    values = np.linspace(1.0, 20.0, 5_000)
    edges = optimal_edges(values, n_bins, batch_size=batch_size)
    # then the edges are those of equal mass to within one step of the grid, 3/4 of 512 of them
    step = 19.0 / 384
    np.testing.assert_allclose(edges, equal_mass_edges(values, n_bins), atol=step)


def test_optimal_edges__of_uniform_values_are_equal_mass_exactly_where_every_value_is_a_candidate():
    values = np.arange(240.0)
    edges = optimal_edges(values, 6, batch_size=4)
    assert edges.tolist() == [40.0, 80.0, 120.0, 160.0, 200.0]


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(20, 3_000),
    n_bins=st.integers(2, 16),
    batch_size=st.sampled_from([2, 8, 128]),
    sigma=st.sampled_from([0.1, 1.0, 2.0]),
    whole=st.booleans(),
    grid=st.sampled_from([16, 512]),
)
@settings(deadline=None, max_examples=60)
def test_optimal_edges__are_never_worse_than_equal_mass(
    seed, n, n_bins, batch_size, sigma, whole, grid
):
    values = np.random.default_rng(seed).lognormal(4.0, sigma, n)
    values = np.rint(values) if whole else values
    ours = quiet_optimal_edges(values, n_bins, batch_size, grid=grid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        equal_mass = equal_mass_edges(values, n_bins)
    cost = expected_batch_max(values, ours, batch_size=batch_size)
    limit = expected_batch_max(values, equal_mass, batch_size=batch_size)
    assert cost <= limit * (1 + 1e-12)


def test_optimal_edges__of_a_long_tail_are_much_better_than_equal_mass():
    # given exponential values at their mid-quantiles: in two bins with edge t and large batches
    # the lower one costs at most t and the upper one t + H_B, the bound of the paper's App. A.4:
    # (1 - q)·t + q·(t + H_B) with q = exp(-t), least at t = log H_B
    values = -np.log1p(-(np.arange(4_000) + 0.5) / 4_000)
    harmonic = sum(1 / j for j in range(1, 129))
    bound = math.log(harmonic) + 1
    # then the optimum of the exact objective lies below that of the bound
    edges = optimal_edges(values, 2, batch_size=128)
    cost = expected_batch_max(values, edges, batch_size=128)
    assert cost < bound
    # and equal mass (log 2 and log 2 + H_B at an half each) above it
    median = equal_mass_edges(values, 2)
    assert expected_batch_max(values, median, batch_size=128) > 1.15 * bound


@pytest.mark.parametrize("n_bins", [3, 5, 7])
def test_optimal_edges__on_a_coarse_grid_are_no_worse_than_equal_mass_of_tied_lengths(n_bins):
    # given half of the requests tied in thirties: i/K of the requests is neither on a grid of 16
    # nor i/K of the distinct lengths
    lengths = np.concatenate([np.repeat(np.arange(100.0), 30), np.linspace(100.01, 200, 3_000)])
    ours = optimal_edges(lengths, n_bins, batch_size=8, grid=16)
    cost, limit = (
        expected_batch_max(lengths, edges, batch_size=8)
        for edges in (ours, equal_mass_edges(lengths, n_bins))
    )
    assert cost <= limit * (1 + 1e-12)


def test_optimal_edges__at_a_tied_length_open_its_bin():
    # given 400 lengths below 1, 300 times 50, and 300 lengths just above; the median is 50
    lengths = np.concatenate(
        [np.linspace(0.0, 1.0, 400), np.full(300, 50.0), np.linspace(50.1, 51.0, 300)]
    )
    # when little but the median is a candidate, then the 50 go up with the long ones
    assert optimal_edges(lengths, 2, batch_size=8, grid=2).tolist() == [50.0]


def test_optimal_edges__see_a_tail_rarer_than_a_step_of_the_grid():
    # given 3 of 100,000 requests a thousand times as long as the others
    lengths = np.concatenate([np.linspace(1.0, 2.0, 99_997), [1_000.0, 1_001.0, 1_002.0]])
    # then they get the second bin: among the others they would slow down 24 batches in 100,000
    # requests by 1,000, more than any edge between 1 and 2 is worth
    edges = optimal_edges(lengths, 2, batch_size=8)
    assert edges.tolist() == [1_000.0]


@pytest.mark.parametrize("values", ["few", "many"])
def test_optimal_edges__scale_and_shift_with_the_values(values):
    rng = np.random.default_rng(5)
    lengths = np.rint(rng.lognormal(5.0, 1.0, 300 if values == "few" else 20_000))
    edges = optimal_edges(lengths, 6, batch_size=8)
    # powers of two and whole shifts are exact, so ties break alike
    assert optimal_edges(0.25 * lengths, 6, batch_size=8).tolist() == (0.25 * edges).tolist()
    np.testing.assert_array_equal(optimal_edges(lengths + 1024, 6, batch_size=8), edges + 1024)
    # and the order of the requests does not matter
    assert optimal_edges(rng.permutation(lengths), 6, batch_size=8).tolist() == edges.tolist()


def test_optimal_edges__beyond_the_kept_law_cost_what_a_finer_one_finds():
    # given more distinct values than are kept apart, of a heavy tail
    values = np.random.default_rng(3).lognormal(0.0, 1.0, 10 * MOST_ATOMS)
    for batch_size in (2, 8):
        cost, finer = (
            expected_batch_max(
                values,
                optimal_edges(values, 6, batch_size=batch_size, grid=grid),
                batch_size=batch_size,
            )
            for grid in (512, 2048)
        )
        # then the optimum is flat: an edge off by δ costs the order of δ², and δ is about 1/384
        # of the mass, next to masses of the order of 1/6: (6/384)² = 0.02 %
        assert cost == pytest.approx(finer, rel=2.5e-4)


def test_optimal_edges__of_huge_batches_do_not_underflow():
    # given ratios (m/m')^B that underflow: every batch holds the bin's longest
    values = np.arange(1.0, 1_001.0)
    edges = optimal_edges(values, 4, batch_size=10**6)
    # then a bin of m values with the longest x costs m·x: for equal steps equal masses again
    assert edges.tolist() == [251.0, 501.0, 751.0]


@pytest.mark.parametrize("values", [[], [5.0], [3.0, 1.0]])
def test_optimal_edges__of_one_bin_are_none(values):
    assert optimal_edges(np.array(values), 1, batch_size=8).tolist() == []


def test_optimal_edges__of_batches_of_one_are_equal_mass():
    values = np.random.default_rng(1).exponential(1.0, 100)
    edges = optimal_edges(values, 4, batch_size=1)
    assert edges.tolist() == equal_mass_edges(values, 4).tolist()


def test_optimal_edges__of_fewer_lengths_than_bins_warn_and_give_each_its_bin():
    lengths = np.array([7, 3, 3, 3, 9, 7], dtype=np.int32)
    with pytest.warns(UserWarning, match="8 optimal bins asked for, 3 hold requests"):
        edges = optimal_edges(lengths, 8, batch_size=4)
    assert edges.tolist() == [7.0, 9.0]
    # and of a single length there are no edges at all
    with pytest.warns(UserWarning, match="1 hold requests"):
        assert optimal_edges(lengths[1:4], 2, batch_size=4).tolist() == []


def test_optimal_edges__of_heavy_ties_still_fill_every_bin():
    # given 99.9 % of the requests at one length above 1,000 others, where all quantiles merge
    lengths = np.concatenate([np.arange(1.0, 1_001.0), np.full(10**6, 5_000.0)])
    edges = optimal_edges(lengths, 8, batch_size=8)
    assert np.count_nonzero(np.bincount(assign_bins(lengths, edges))) == 8


@pytest.mark.parametrize(
    ("values", "n_bins", "options", "message"),
    [
        ([1.0, 2.0], 0, {}, r"n_bins must be in \[1, 64\], got 0"),
        ([1.0, 2.0], 65, {}, "got 65"),
        ([1.0, 2.0], 2, {"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ([1.0, 2.0], 4, {"grid": 3}, "grid must be >= n_bins, got 3 for 4 bins"),
        ([], 2, {}, "need at least 1 request, got 0"),
        ([1.0, math.nan], 2, {}, "must be finite"),
        ([1.0, math.inf], 2, {}, "must be finite"),
    ],
)
def test_optimal_edges__refuse_what_has_no_answer(values, n_bins, options, message):
    with pytest.raises(ValueError, match=message):
        optimal_edges(np.array(values), n_bins, **{"batch_size": 8, **options})


def test_expected_batch_max__refuses_no_values_and_no_batch():
    with pytest.raises(ValueError, match="at least 1 value, got 0"):
        expected_batch_max(np.empty(0), np.empty(0), batch_size=8)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        expected_batch_max(np.ones(3), np.empty(0), batch_size=0)


def saturated(lengths: np.ndarray) -> Trace:
    """Everything there at time 0, without prompts."""
    return Trace(
        arrival_s=np.zeros(len(lengths)),
        prompt_tokens=np.zeros(len(lengths), dtype=np.int32),
        output_tokens=lengths.astype(np.int32),
    )


def test_expected_batch_max__is_the_server_time_that_the_engine_measures():
    # given requests drawn from a skewed law, and bins at the optimal edges of that law
    rng = np.random.default_rng(11)
    law = np.rint(rng.lognormal(5.0, 0.8, 400))
    edges = optimal_edges(law, 3, batch_size=4)
    share = np.bincount(assign_bins(law, edges)) / len(law)
    # when 20 replications each report the mean time of their full batches, bin by bin
    means = []
    for _ in range(20):
        run = simulate(
            saturated(rng.choice(law, 10_000)),
            "multi_bin_only",
            n_gpus=1,
            latency="multi-bin-paper",
            predictor="oracle",
            binning=Binning(n_bins=3, edges=tuple(edges)),
            settings=Settings(batch_size=4),
        )
        full = run.batches.size == 4
        service_s = (run.batches.finish_s - run.batches.start_s)[full]
        by_bin = [service_s[run.batches.bin[full] == i].mean() for i in range(3)]
        means.append(float(share @ by_bin))
    # then 0.0366 s per token times the objective lies within 4 standard errors
    expected = 0.0366 * expected_batch_max(law, edges, batch_size=4)
    error = np.std(means, ddof=1) / math.sqrt(len(means))
    assert abs(np.mean(means) - expected) < 4 * error
    # and the error is small enough to tell batches of 4 from batches of 3 or 5
    for other in (3, 5):
        wrong = 0.0366 * expected_batch_max(law, edges, batch_size=other)
        assert abs(np.mean(means) - wrong) > 8 * error


@pytest.mark.parametrize(
    ("scheduler", "spec", "batch_size"),
    [
        ("multi_bin_only", "optimal", 40),  # the size of its batches
        ("multi_bin_dynamic", "optimal", 16),  # not the 128 that it may form
        ("multi_bin_dynamic", "optimal:3", 3),
        ("multi_bin_only", "optimal:3", 3),
    ],
)
def test_simulate__asks_for_the_edges_of_its_own_batches(scheduler, spec, batch_size):
    lengths = np.rint(np.random.default_rng(2).lognormal(5.0, 1.0, 500))
    run = simulate(
        saturated(lengths),
        scheduler,
        predictor="oracle",
        binning=Binning.parse(spec, n_bins=3),
        settings=Settings(batch_size=40),
    )
    assert run.edges.tolist() == optimal_edges(lengths, 3, batch_size=batch_size).tolist()
    # and another batch size would have given others
    for other in {3, 16, 40} - {batch_size}:
        assert run.edges.tolist() != optimal_edges(lengths, 3, batch_size=other).tolist()


def test_simulate__never_makes_edges_for_batches_larger_than_a_dynamic_batcher_may_form():
    lengths = np.rint(np.random.default_rng(2).lognormal(5.0, 1.0, 500))
    run = simulate(
        saturated(lengths),
        "multi_bin_dynamic",
        predictor="oracle",
        binning=Binning.parse("optimal", n_bins=3),
        settings=Settings(batch_max=2),
    )
    assert run.edges.tolist() == optimal_edges(lengths, 3, batch_size=2).tolist()


def test_simulate__with_optimal_edges_finishes_a_saturated_skewed_load_sooner():
    lengths = np.rint(np.random.default_rng(8).lognormal(5.0, 1.2, 8_000))
    makespan_s = {
        spec: simulate(
            saturated(lengths),
            "multi_bin_only",
            n_gpus=1,
            latency="multi-bin-paper",
            predictor="oracle",
            binning=Binning.parse(spec, n_bins=4),
        ).metrics.makespan_s
        for spec in ("equal-mass", "optimal")
    }
    # the objective promises a third more throughput here (1.32 of a million such lengths)
    assert makespan_s["equal-mass"] > 1.2 * makespan_s["optimal"]


def test_predictors_of_a_bin__take_optimal_edges():
    # given bins mistaken for their neighbours, the bins being those of the true lengths
    lengths = np.rint(np.random.default_rng(2).lognormal(5.0, 1.0, 500))
    run = simulate(
        saturated(lengths),
        "multi_bin_only",
        predictor="bin-error:0.2",
        binning=Binning.parse("optimal", n_bins=3),
    )
    assert run.edges.tolist() == optimal_edges(lengths, 3, batch_size=8).tolist()
    true_bin = assign_bins(lengths, run.edges)
    assert 0 < np.mean(run.requests.bin != true_bin) < 0.5
