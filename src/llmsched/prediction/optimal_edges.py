"""Bin edges of least expected batch maximum, for the lengths at hand and a batch size.

Equal-mass bins are optimal for uniform lengths only (Guldogan et al., arXiv:2412.04504, Lemma 4.1);
real lengths are skewed, and a few long requests set the pace of the bin they fall into. Here the
edges are chosen for the empirical law of the values, by dynamic programming on a grid of quantiles.
Left out: errors of the predictor, and the time that a bin of few requests takes to fill.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.prediction.edges import assign_bins, check_n_bins, equal_mass_edges

DEFAULT_GRID = 512
MOST_ATOMS = 4096  # distinct values up to which the law is kept as it is

Positions = NDArray[np.intp]


def optimal_edges(
    values: FloatArray | IntArray, n_bins: int, *, batch_size: int, grid: int = DEFAULT_GRID
) -> FloatArray:
    """The edges that minimise `expected_batch_max`, in the unit of the values.

    Parameters
    ----------
    values : ndarray of shape (n,)
        What is binned, one value per request.
    n_bins : int
        Bins asked for (K), in [1, 64].
    batch_size : int
        Requests per batch (B); with 1 every choice costs the same, and the edges are equal-mass.
    grid : int
        About how many edges are candidates, at least `n_bins`; with fewer distinct values all of
        them are.

    Returns
    -------
    ndarray of shape (at most n_bins - 1,)
        Strictly increasing edges, each the least value of the bin that it opens.

    Raises
    ------
    ValueError
        If an argument is out of range, or there is no value, or one is not finite.

    Warns
    -----
    UserWarning
        If fewer bins hold a request than were asked for, as with many tied lengths.

    Notes
    -----
    The objective is M = Σ p_i·E_i over the bins, p_i the share of requests in bin i and E_i the
    mean maximum of B independent draws from it. It is the throughput in saturation: of λ requests
    per second bin i makes p_i·λ/B batches per second, and each holds a server for E_i where a batch
    takes the maximum of its members; so a request costs M/B of server time, and one server
    completes at most B/M requests per second. A service time that grows linearly with the
    maximum, as at 0.0366 s per token, has the same optimum.

    Splitting a bin never raises M, as u^B is convex, so all K bins are used. For values uniform
    over a width W, M = const + (B/(B + 1) - 1/2)·W·Σ p_i²: there, and in general only there,
    equal masses are optimal.

    Candidates are all distinct values where there are at most `grid`. Otherwise they are `grid`
    quantiles, three in four at equal steps and one in four at steps that shrink geometrically
    towards the maximum, where a long tail wants its edges; the equal-mass edges, so that the
    result is not worse than those; and K - 1 of the distinct values at equal steps, so that ties
    leave enough. With more than 4096 distinct values, runs of neighbours stand for their mean.

    References
    ----------
    .. [1] Guldogan et al., "Multi-Bin Batching", arXiv:2412.04504, §4 and Appendix A.

    Examples
    --------
    The long one gets a bin of its own; equal masses would put it with the 12:

    >>> optimal_edges(np.array([10.0, 11.0, 12.0, 100.0]), 2, batch_size=8).tolist()
    [100.0]
    """
    check_n_bins(n_bins)
    _check_batch_size(batch_size)
    if grid < n_bins:
        raise ValueError(f"grid must be >= n_bins, got {grid} for {n_bins} bins; 512 is usual")
    if n_bins == 1:
        return np.empty(0)
    if not len(values):
        raise ValueError(f"optimal edges of {n_bins} bins need at least 1 request, got 0")
    if not np.isfinite(values).all():
        raise ValueError("values to bin must be finite, got NaN or infinity")
    if batch_size == 1:
        return equal_mass_edges(values, n_bins)
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    first = np.flatnonzero(np.diff(ordered, prepend=-np.inf) > 0)  # of each distinct value
    if len(first) < n_bins:
        warnings.warn(
            f"{n_bins} optimal bins asked for, {len(first)} hold requests: {len(values)} values, "
            f"{len(first)} distinct; ask for fewer bins",
            stacklevel=2,
        )
    cuts = _candidates(ordered, first, n_bins, grid)
    atoms = np.union1d(cuts, _atom_cuts(ordered, first))
    costs = _bin_costs(ordered, atoms, cuts, batch_size)
    opens = _cheapest(costs, min(n_bins, len(cuts) - 1))
    return ordered[cuts[opens]]


def expected_batch_max(
    values: FloatArray | IntArray, edges: FloatArray, *, batch_size: int
) -> float:
    """Mean maximum of a batch of B requests of one bin, bins weighted by their requests.

    In the unit of the values. A bin of m values x_1 ≤ … ≤ x_m has the mean maximum
    Σ x_j·((j/m)^B - ((j - 1)/m)^B) over B independent draws: exact for the empirical law.

    Parameters
    ----------
    values : ndarray of shape (n,)
        What is binned, one value per request.
    edges : ndarray of shape (n_bins - 1,)
        Increasing edges; a bin is the number of edges <= value.
    batch_size : int
        Requests per batch (B).

    Raises
    ------
    ValueError
        If there is no value, or `batch_size` is below 1.

    Examples
    --------
    Two draws from {1, 3}: 1 with probability 1/4, else 3.

    >>> expected_batch_max(np.array([1.0, 3.0]), np.empty(0), batch_size=2)
    2.5
    """
    _check_batch_size(batch_size)
    if not len(values):
        raise ValueError("an expected maximum needs at least 1 value, got 0")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    bins = assign_bins(ordered, edges)
    count = np.bincount(bins)
    before = np.arange(len(ordered)) - (np.cumsum(count) - count)[bins]  # in its bin
    held = count[bins]
    weights = ((before + 1) / held) ** batch_size - (before / held) ** batch_size
    return float(np.sum(held * weights * ordered) / len(ordered))


def _candidates(ordered: FloatArray, first: Positions, n_bins: int, grid: int) -> Positions:
    """Where a bin may open or end, as numbers of values below: 0, the candidate edges, n."""
    n, n_distinct = len(ordered), len(first)
    if n_distinct - 1 <= grid:
        return np.append(first, n)
    steps = grid - grid // 4
    levels = np.concatenate(
        [
            np.arange(1, steps) / steps,
            1 - np.geomspace(1 / n, 1 / steps, grid // 4),
            np.arange(1, n_bins) / n_bins,
        ]
    )
    spread = first[np.arange(n_bins) * n_distinct // n_bins]
    return np.unique(np.concatenate([spread, _cuts_at(ordered, levels), [0, n]]))


def _atom_cuts(ordered: FloatArray, first: Positions) -> Positions:
    """Where the values are cut into runs that stand for their mean; ties are never parted."""
    if len(first) <= MOST_ATOMS:
        return first
    return _cuts_at(ordered, np.arange(MOST_ATOMS) / MOST_ATOMS)


def _cuts_at(ordered: FloatArray, levels: FloatArray) -> Positions:
    """The numbers of values below the quantiles of these levels."""
    return np.searchsorted(ordered, np.quantile(ordered, levels), side="left")


def _bin_costs(
    ordered: FloatArray, atoms: Positions, cuts: Positions, batch_size: int
) -> FloatArray:
    """p·E of the bin between any two cuts, (cuts, cuts); infinite where it would hold nothing.

    One pass over the atoms, all opening cuts at once: an atom x raises the requests of an open
    bin from m to m', and E' = r·E + (1 - r)·x with r = (m/m')^B. Every step is a weighted mean,
    so that nothing cancels or underflows, whatever B.
    """
    n = len(ordered)
    begins, ends = atoms[atoms < n], np.append(atoms[(atoms > 0) & (atoms < n)], n)
    means = np.add.reduceat(ordered, begins) / (ends - begins)
    costs = np.full((len(cuts), len(cuts)), np.inf)
    expected = np.zeros(len(cuts))
    n_open = 0  # cuts before the atom
    for begin, end, mean in zip(begins, ends, means, strict=True):
        n_open += int(cuts[n_open] == begin)
        held = end - cuts[:n_open]
        ratio = ((begin - cuts[:n_open]) / held) ** batch_size
        expected[:n_open] = mean + ratio * (expected[:n_open] - mean)
        if cuts[n_open] == end:
            costs[:n_open, n_open] = held / n * expected[:n_open]
    return costs


def _cheapest(costs: FloatArray, n_bins: int) -> Positions:
    """The cuts that open the second bin, the third, ... where K bins cost least in all."""
    n_cuts = len(costs)
    best = costs[0]  # of the values below each cut, in as many bins as there were rounds
    openings = []
    for _ in range(n_bins - 1):
        totals = best[:, np.newaxis] + costs
        last = totals.argmin(axis=0)
        best = totals[last, np.arange(n_cuts)]
        openings.append(last)
    chosen = [n_cuts - 1]
    for last in reversed(openings):
        chosen.append(int(last[chosen[-1]]))
    return np.array(chosen[:0:-1], dtype=np.intp)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}; use 1 for no batching")
