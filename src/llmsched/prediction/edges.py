"""Edges between bins: equal masses, rolling windows, and which bin a value falls in."""

from __future__ import annotations

import warnings

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched._util.limits import MAX_BINS

# Rolling edges: the quantiles of the last so many arrivals, found anew every so many; before that,
# after 16 arrivals and whenever their number has doubled.
ROLLING_WINDOW = 2048
ROLLING_EVERY = 512
ROLLING_FIRST = 16


def equal_mass_edges(values: FloatArray | IntArray, n_bins: int) -> FloatArray:
    """The i/K quantiles of the values, i = 1..K-1, in the unit of the values; equal ones merge.

    Parameters
    ----------
    values : ndarray of shape (n,)
        What is binned, one value per request.
    n_bins : int
        Bins asked for (K), in [1, 64].

    Returns
    -------
    ndarray of shape (at most n_bins - 1,)
        Strictly increasing edges.  An edge at the minimum stays, so that a bin's number is
        always the number of edges <= value; bin 0 is then empty.

    Raises
    ------
    ValueError
        If `n_bins` is out of range, or there is no value, or one is NaN.

    Warns
    -----
    UserWarning
        If fewer bins hold a request than were asked for, as with many tied lengths.
    """
    check_n_bins(n_bins)
    if n_bins == 1:
        return np.empty(0)
    if not len(values):
        raise ValueError(f"equal-mass edges of {n_bins} bins need at least 1 request, got 0")
    edges = np.unique(np.quantile(values, np.arange(1, n_bins) / n_bins))
    if np.isnan(edges).any():
        raise ValueError("values to bin must be numbers, got NaN; check the predicted lengths")
    filled = np.count_nonzero(np.bincount(assign_bins(values, edges)))
    if filled < n_bins:
        warnings.warn(
            f"{n_bins} equal-mass bins asked for, {filled} hold requests: the quantiles of "
            f"{len(values)} values give {len(edges)} distinct edges; ask for fewer bins or give "
            "fixed edges",
            stacklevel=2,
        )
    return edges


def assign_bins(values: FloatArray | IntArray, edges: FloatArray) -> IntArray:
    """The bin of each value: the number of edges <= it, shape (n,)."""
    return np.searchsorted(edges, values, side="right").astype(np.int32)


def rolling_bins(
    values: FloatArray | IntArray,
    n_bins: int,
    *,
    window: int = ROLLING_WINDOW,
    every: int = ROLLING_EVERY,
) -> tuple[IntArray, FloatArray]:
    """Equal-mass bins whose edges follow the traffic: no request is binned by later ones.

    The edges are the i/K quantiles of the last `window` values. They are found anew after 16
    values, after 32, 64, ... up to `every`, and then after every `every`; the first 16 values all
    go to bin 0. Equal edges do not merge: the bin between them is empty for a while.

    Parameters
    ----------
    values : ndarray of shape (n,)
        What is binned, in order of arrival.
    n_bins : int
        Bins (K), in [1, 64].

    Returns
    -------
    bins : ndarray of shape (n,)
    edges : ndarray of shape (n_bins - 1,)
        The last ones; none where at most 16 values came.
    """
    check_n_bins(n_bins)
    bins = np.zeros(len(values), dtype=np.int32)
    edges = np.empty(0)
    if n_bins == 1:
        return bins, edges
    first = ROLLING_FIRST
    while first < len(values):
        end = first + min(first, every)
        recent = values[max(0, first - window) : first]
        edges = np.quantile(recent, np.arange(1, n_bins) / n_bins)
        bins[first:end] = assign_bins(values[first:end], edges)
        first = end
    return bins, edges


def check_n_bins(n_bins: int) -> None:
    """Fail unless this many bins can be asked for."""
    if not 1 <= n_bins <= MAX_BINS:
        raise ValueError(
            f"n_bins must be in [1, {MAX_BINS}], got {n_bins}; use 1 for a single FIFO queue"
        )
