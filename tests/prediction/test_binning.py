"""Edges and bins against hand-worked cases, the definition itself, and its tied corner."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from llmsched.prediction.binning import Binning
from llmsched.prediction.edges import assign_bins, equal_mass_edges
from llmsched.workload.trace import Trace


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_equal_mass_edges__are_the_linear_quantiles():
    # given six lengths, sorted 10 20 30 40 50 60, their i/4 quantiles lie at 1.25, 2.5 and 3.75
    edges = equal_mass_edges(ints(60, 10, 50, 20, 40, 30), 4)
    # then they are interpolated between neighbours
    assert edges.tolist() == [22.5, 35.0, 47.5]


def test_assign_bins__counts_the_edges_at_or_below_the_value():
    bins = assign_bins(ints(0, 63, 64, 255, 256, 5000), np.array([64.0, 256.0, 1024.0]))
    assert bins.tolist() == [0, 0, 1, 1, 2, 3]
    assert bins.dtype == np.int32


def test_equal_mass_edges__one_bin_has_none():
    assert equal_mass_edges(ints(), 1).tolist() == []
    assert assign_bins(ints(5, 7), np.empty(0)).tolist() == [0, 0]


def test_equal_mass_edges__of_tied_lengths_merge_with_a_warning():
    # given six of eight lengths tied: the quantiles are 3, 3 and 3 + 0.25 * 7
    lengths = ints(3, 3, 3, 3, 3, 3, 10, 20)
    # when four bins are asked for
    with pytest.warns(UserWarning, match="4 equal-mass bins asked for, 2 hold requests"):
        edges = equal_mass_edges(lengths, 4)
    # then the equal edges are one, it stays though bin 0 is empty, and ties share a bin
    assert edges.tolist() == [3.0, 4.75]
    assert assign_bins(lengths, edges).tolist() == [1, 1, 1, 1, 1, 1, 2, 2]


def test_equal_mass_edges__of_one_length_hold_everything_in_one_bin():
    with pytest.warns(UserWarning, match="1 hold requests"):
        edges = equal_mass_edges(ints(7, 7, 7), 4)
    assert assign_bins(ints(7, 7, 7), edges).tolist() == [1, 1, 1]
    # and a shorter request belongs below them, not in the last bin
    assert assign_bins(ints(6), edges).tolist() == [0]


@given(
    values=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    n_bins=st.integers(2, 64),
    data=st.data(),
)
@settings(deadline=None)
def test_bins__follow_the_definition_whatever_the_ties(values, n_bins, data):
    lengths = np.array(values, dtype=np.int32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        edges = equal_mass_edges(lengths, n_bins)
    # then the edges are the distinct quantiles, in order
    wanted = sorted({float(np.quantile(lengths, i / n_bins)) for i in range(1, n_bins)})
    assert edges.tolist() == wanted
    # and each bin is a count of edges, so longer requests never lie in a lower bin
    bins = assign_bins(lengths, edges).tolist()
    assert bins == [sum(edge <= value for edge in wanted) for value in values]
    # and there is a warning exactly when bins are missing
    assert bool(caught) == (len(set(bins)) < n_bins)
    # and the order of the requests does not matter
    shuffled = np.array(data.draw(st.permutations(values)), dtype=np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert equal_mass_edges(shuffled, n_bins).tolist() == wanted


@given(n=st.integers(64, 300), n_bins=st.integers(1, 64))
@settings(deadline=None)
def test_equal_mass_bins__of_distinct_lengths_differ_by_two_requests_at_most(n, n_bins):
    lengths = np.random.default_rng(n).permutation(np.arange(1, n + 1)).astype(np.int32)
    counts = np.bincount(assign_bins(lengths, equal_mass_edges(lengths, n_bins)))
    assert len(counts) == n_bins
    # one in exact arithmetic; an edge that should fall on a length may miss it by a rounding
    assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize("n_bins", [0, 65, -1])
def test_equal_mass_edges__refuse_a_bin_count_out_of_range(n_bins):
    with pytest.raises(ValueError, match=rf"n_bins must be in \[1, 64\], got {n_bins}"):
        equal_mass_edges(ints(1, 2), n_bins)
    with pytest.raises(ValueError, match=f"got {n_bins}; use 1"):
        Binning(n_bins=n_bins)


def test_equal_mass_edges__refuse_no_values_and_nan():
    with pytest.raises(ValueError, match="at least 1 request, got 0"):
        equal_mass_edges(ints(), 4)
    with pytest.raises(ValueError, match="got NaN"):
        equal_mass_edges(np.array([1.0, np.nan]), 2)


def test_binning__parses_both_forms():
    assert Binning.parse("equal-mass") == Binning(n_bins=4, rule="equal-mass")
    asked = Binning(n_bins=8, by="total", rule="equal-mass")
    assert Binning.parse("equal-mass", n_bins=8, by="total") == asked
    fixed = Binning.parse("64,256,1024")
    assert (fixed.n_bins, fixed.edges) == (4, (64.0, 256.0, 1024.0))
    assert Binning.parse("100").n_bins == 2
    assert fixed.edges_of(ints(1)).tolist() == [64.0, 256.0, 1024.0]


def test_binning__parses_optimal_edges_with_and_without_their_batch():
    assert Binning.parse("optimal") == Binning(n_bins=4, rule="optimal")
    asked = Binning.parse(" optimal:16 ", n_bins=8, by="total")
    assert asked == Binning(n_bins=8, by="total", rule="optimal", batch_size=16)


def test_binning__finds_optimal_edges_for_the_batch_it_knows():
    # given 1, 5, 5, 5 and 8: pairs want the edge at 5, batches of 8 at 8 (test_optimal_edges)
    lengths, optimal = ints(8, 1, 5, 5, 5), Binning(n_bins=2, rule="optimal")
    with pytest.raises(ValueError, match="must know the batch size, got none"):
        optimal.edges_of(lengths)
    assert optimal.for_batches_of(2).edges_of(lengths).tolist() == [5.0]
    assert optimal.for_batches_of(8).edges_of(lengths).tolist() == [8.0]
    # and a batch size that was asked for stays, as do edges that know no batch
    assert optimal.for_batches_of(2).for_batches_of(8).batch_size == 2
    for binning in (Binning(n_bins=2), Binning(edges=(10.0, 20.0))):
        assert binning.for_batches_of(8) == binning


def test_binning__refuses_fields_that_contradict_each_other():
    with pytest.raises(
        ValueError, match="rule must be one of equal-mass, optimal, rolling; got 'best'"
    ):
        Binning(rule="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be fixed as well, got 2 edges"):
        Binning(edges=(10.0, 20.0), rule="optimal")
    with pytest.raises(ValueError, match=r"batch_size must be left out unless .* got 8"):
        Binning(batch_size=8)
    with pytest.raises(ValueError, match="batch_size of optimal edges must be >= 1, got 0"):
        Binning(rule="optimal", batch_size=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("equal", "got 'equal'"),
        ("optimal:", "optimal:B must have a whole number .* got ''"),
        ("optimal:8.5", "optimal:B must have a whole number .* got '8.5'"),
        ("optimal:0", "batch_size of optimal edges must be >= 1, got 0"),
        ("optimal,64", "got 'optimal,64'"),
        ("64,,256", "got '64,,256'"),
        ("256,64", "strictly increasing, got 256,64"),
        ("64,64", "strictly increasing, got 64,64"),
        ("0,64", "must be positive"),
        ("64,inf", "finite"),
        ("nan", "finite"),
        (",".join(map(str, range(1, 65))), "number 1 to 63, got 64"),
    ],
)
def test_binning__refuses_edges_that_are_none(spec, message):
    with pytest.raises(ValueError, match=message):
        Binning.parse(spec)


def test_binning__refuses_a_bin_count_that_contradicts_its_edges():
    with pytest.raises(ValueError, match=r"n_bins must be 3 .* got 8"):
        Binning(n_bins=8, edges=(10.0, 20.0))
    with pytest.raises(ValueError, match=r"n_bins must be 3 .* got 4"):
        Binning.parse("10,20", n_bins=4)
    with pytest.raises(ValueError, match="by must be one of output, total, service; got 'prompt'"):
        Binning(by="prompt")  # type: ignore[arg-type]


class SquareLaw:
    """T = L² + 10 * output: overflows 32 bits for the longest prompt below."""

    def service_s(self, batch) -> float:
        return batch.max_total_tokens * batch.max_total_tokens + 10.0 * batch.max_output_tokens


def test_binning__bins_by_what_it_is_told():
    trace = Trace(
        arrival_s=np.zeros(2), prompt_tokens=ints(50_000, 3), output_tokens=ints(999, 999)
    )
    predicted = ints(1, 7)
    values = {
        by: Binning(by=by).values(trace, predicted, SquareLaw()) for by in ("output", "total")
    }
    assert values["output"].tolist() == [1, 7]
    assert values["total"].tolist() == [50_001, 10]
    # 50,001² + 10 and 10² + 70: the prediction counts, never the truth
    service_s = Binning(by="service").values(trace, predicted, SquareLaw())
    assert service_s.tolist() == [2_500_100_011.0, 170.0]
