"""Bin edges of least expected batch maximum, for the lengths at hand and a batch size.

Equal-mass bins are optimal for uniform lengths only (Guldogan et al., arXiv:2412.04504, Lemma 4.1);
real lengths are skewed, and a few long requests set the pace of a bin that they share. Here the
edges are chosen for the empirical law of the values, by dynamic programming on a grid of quantiles.
Left out: errors of the predictor, the time that a bin takes to fill, and any other order of service.
"""

from __future__ import annotations

import warnings
from typing import cast

import numpy as np
from numpy.typing import NDArray

from llmsched.binning import assign_bins, check_n_bins, equal_mass_edges
from llmsched.trace import FloatArray, IntArray

DEFAULT_GRID = 512
MOST_ATOMS = 4096  # distinct values up to which the law is kept as it is

Positions = NDArray[np.intp]  # cuts as numbers of distinct values below them


def optimal_edges(
    values: FloatArray | IntArray, n_bins: int, *, batch_size: int, grid: int = DEFAULT_GRID
) -> FloatArray:
    """Edges of K bins that minimise the expected batch maximum, in the unit of the values.

    Parameters
    ----------
    values : ndarray of shape (n,)
        What is binned, one value per request.
    n_bins : int
        Bins asked for (K), in [1, 64].
    batch_size : int
        Requests per batch (B); with 1 every choice costs the same, and the edges are equal-mass.
    grid : int
        About how many edges are candidates; all of them where there are fewer distinct values.

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
        If fewer bins hold a request than were asked for: fewer distinct values than bins.

    Notes
    -----
    The objective is M = sum over bins of p_i * E_i, with p_i the share of requests in bin i and
    E_i = E[max of B independent draws from bin i]. It is the throughput in saturation turned
    round: at a rate of λ requests per second bin i forms p_i * λ / B batches per second, each
    holding the server for E_i on average where a batch takes the maximum of its members, so one
    request costs M / B of server time and the throughput is at most B / M. A service time that is
    increasing and affine in the maximum, as 0.0366 s per token, has the same optimum.

    A bin of m values x_1 <= ... <= x_m has E = sum of x_j * ((j/m)^B - ((j-1)/m)^B), exact for the
    empirical law. For all bins that open at a cut it is built up value by value, each step a
    weighted mean of the last E and the new value, so large B cannot underflow. Splitting a bin
    never raises M (u^B is convex), so all K bins are used. For uniform values
    M = const + (B/(B+1) - 1/2) * (range) * sum of p_i², and equal masses are optimal.

    Candidates are every distinct value, up to `grid` of them; beyond, 3/4 of `grid` quantiles in
    equal steps, 1/4 in steps that shrink towards the maximum, where the tail's edges lie, and
    the equal-mass edges. So the result is no worse than equal mass, as far as the law is
    exact: with more than 4096 distinct values, runs of neighbours stand for their mean.

    References
    ----------
    .. [1] Guldogan et al., "Multi-Bin Batching", arXiv:2412.04504, §4 and Appendix A.

    Examples
    --------
    The long one is worth a bin of its own; equal masses would pair it with the 12:

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
        raise ValueError("values to bin must be finite, got NaN or infinity; check the predictions")
    if batch_size == 1:
        return equal_mass_edges(values, n_bins)
    distinct, count = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    below = np.concatenate([[0], np.cumsum(count)])
    cuts = _candidate_cuts(distinct, count, n_bins, grid)
    if len(cuts) < n_bins:
        warnings.warn(
            f"{n_bins} optimal bins asked for, {len(cuts) + 1 - 1} hold requests: {len(values)} "
            f"values are {len(distinct)} distinct ones; ask for fewer bins",
            stacklevel=2,
        )
    return distinct[cuts]
