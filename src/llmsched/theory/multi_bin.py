"""Closed forms of the Multi-Bin Batching paper, for uniform and exponential service times.

The model of Guldogan et al. [1]_: requests arrive as a Poisson process, go to one of k bins by
their service time, and are served in batches of exactly B from one bin; a batch takes the largest
of its members' times.  `makespans` has the exact values for any law, which the bounds here bound.
Left out: waits of a single server, for which there is no formula.

.. [1] Guldogan, Kunde, Lee, Pedarsani, "Multi-Bin Batching for Increasing LLM Inference
   Throughput", arXiv:2412.04504.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched._util.arrays import FloatArray
from llmsched.theory.distributions import ServiceLaw, check_batch_size, harmonic_number

_ROUND_OFF = 1e-12


def equal_mass_edges_s(law: ServiceLaw, n_bins: int) -> FloatArray:
    """Edges between bins of equal probability: the i/k quantiles [s], shape (n_bins - 1,).

    Lemma 4.1 for a uniform law, low + (i/k)(high - low), where they are also the best edges; for
    any other law they are the paper's practical choice.

    Raises
    ------
    ValueError
        If `n_bins` is below 1.
    """
    check_at_least("n_bins", n_bins, 1)
    return law.quantile_s(np.arange(1, n_bins) / n_bins)


def uniform_makespan_s(
    n_bins: ArrayLike, batch_size: ArrayLike, *, low_s: float, high_s: float
) -> FloatArray:
    """Mean time one batch takes, E[t_service,k], for U(low, high) and equal-mass bins [s].

    m + (1/k)(B/(B+1) high + 1/(B+1) low - m) with m = (low + high)/2, as in Theorem 4.2.

    Parameters
    ----------
    n_bins, batch_size : int or array_like of int
        Bins (k) and requests per batch (B), each >= 1; they broadcast.
    low_s, high_s : float
        Ends of the law [s].

    Raises
    ------
    ValueError
        If a count is below 1, or not 0 <= low < high.

    Notes
    -----
    Eqs. (8), (10) and (11) of [1]_ print the weights B/(B+1) and 1/(B+1) swapped; Eq. (4) and the
    form above have them right: more requests move the maximum towards `high_s`.
    """
    check_at_least("n_bins", n_bins, 1)
    check_at_least("batch_size", batch_size, 1)
    mean_s = (low_s + high_s) / 2
    return np.asarray(mean_s + _uniform_excess_s(batch_size, low_s, high_s) / np.asarray(n_bins))


def uniform_throughput_per_s(
    n_bins: ArrayLike, batch_size: ArrayLike, *, low_s: float, high_s: float
) -> FloatArray:
    """Requests per second of one saturated server, B / E[t_service,k]: Theorem 4.2.

    Parameters and errors are those of `uniform_makespan_s`; it grows with k towards
    `throughput_limit_per_s`.
    """
    makespan_s = uniform_makespan_s(n_bins, batch_size, low_s=low_s, high_s=high_s)
    return np.asarray(batch_size) / makespan_s


def throughput_limit_per_s(batch_size: ArrayLike, *, mean_s: float) -> FloatArray:
    """c_max = B/E[l], the throughput of infinitely many bins, whatever the law: Remark 4.3.

    Raises
    ------
    ValueError
        If `batch_size` is below 1 or the mean service time is not above 0.
    """
    check_at_least("batch_size", batch_size, 1)
    if not mean_s > 0:
        raise ValueError(f"mean_s must be > 0, got {mean_s:g}")
    return np.asarray(np.asarray(batch_size, dtype=np.float64) / mean_s)


def bins_needed(
    shortfall_per_s: ArrayLike, batch_size: ArrayLike, *, low_s: float, high_s: float
) -> NDArray[np.int64]:
    """Fewest bins whose throughput is within `shortfall_per_s` of c_max: Theorem 4.3.

    The smallest whole k >= (c_max - eps)(B/(B+1) high + 1/(B+1) low - m)/(eps m), at least 1.

    Parameters
    ----------
    shortfall_per_s : float or array_like
        What may be missing (eps) [requests/s], in (0, c_max].
    batch_size : int or array_like of int
        Requests per batch (B), >= 1.
    low_s, high_s : float
        Ends of the uniform law [s].

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_at_least("batch_size", batch_size, 1)
    mean_s = (low_s + high_s) / 2
    excess_s = _uniform_excess_s(batch_size, low_s, high_s)
    limit_per_s = throughput_limit_per_s(batch_size, mean_s=mean_s)
    shortfall = np.asarray(shortfall_per_s, dtype=np.float64)
    if not ((shortfall > 0) & (shortfall <= limit_per_s)).all():
        raise ValueError(
            f"shortfall_per_s must be in (0, c_max], got {shortfall.min():g}..{shortfall.max():g} "
            f"with c_max = {limit_per_s.min():g}"
        )
    bound = (limit_per_s - shortfall) * excess_s / (shortfall * mean_s)
    # a bound that is a whole number must not become the next one by a rounding error
    return np.maximum(np.ceil(bound * (1 - _ROUND_OFF)), 1).astype(np.int64)


def uniform_latency_s(
    n_bins: ArrayLike,
    batch_size: ArrayLike,
    *,
    low_s: float,
    high_s: float,
    arrival_rate_per_s: ArrayLike,
) -> FloatArray:
    """Mean latency with infinitely many servers, E[t_service,k] + (B-1)k/(2 lambda): Lemma 5.1 [s].

    Parameters and errors are those of `uniform_makespan_s` and `formation_wait_s`.
    """
    wait_s = formation_wait_s(
        batch_size,
        arrival_rate_per_s=arrival_rate_per_s,
        bin_probability=1 / np.asarray(n_bins, dtype=np.float64),
    )
    return uniform_makespan_s(n_bins, batch_size, low_s=low_s, high_s=high_s) + wait_s


def exponential_edges_s(n_bins: int, batch_size: int, *, mean_s: float) -> FloatArray:
    """Edges that minimise the paper's bound for exponential times [s], shape (n_bins - 1,).

    l_i = (1/mu) * sum over j = 1..i of log L_{k-j}, with L_1 = H_B (a harmonic number) and
    L_m = 1 + log L_{m-1}: Appendix A.4.  For B = 1 all are 0, since then no bin is needed.

    Raises
    ------
    ValueError
        If a count is below 1 or the mean is not above 0.
    """
    check_at_least("n_bins", n_bins, 1)
    check_batch_size(batch_size)
    if not mean_s > 0:
        raise ValueError(f"mean_s must be > 0, got {mean_s:g}")
    level = harmonic_number(batch_size)
    steps = []  # log L_1, log L_2, ...: the widths of the bins, from the last to the first
    for _ in range(n_bins - 1):
        steps.append(math.log(level))
        level = 1 + math.log(level)
    return mean_s * np.cumsum(steps[::-1])


def exponential_makespan_bound_s(edges_s: ArrayLike, batch_size: int, *, mean_s: float) -> float:
    """The paper's upper bound on E[t_service,k] for exponential times: Appendix A.4 [s].

    A batch of any bin but the last is taken to last as long as the bin's upper edge:
    sum over i < k of Pr(bin i) l_i + Pr(bin k)(l_{k-1} + H_B/mu).
    `makespans.mean_makespan_s` is exact.

    Parameters
    ----------
    edges_s : array_like of shape (n_bins - 1,)
        Edges between the bins, not decreasing [s]; at `exponential_edges_s` the bound is L_k/mu.
    batch_size : int
        Requests per batch (B), >= 1.
    mean_s : float
        Mean service time (1/mu) [s].

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_batch_size(batch_size)
    if not mean_s > 0:
        raise ValueError(f"mean_s must be > 0, got {mean_s:g}")
    edges = check_edges(edges_s)
    above = np.exp(-np.concatenate(([0.0], edges)) / mean_s)
    last_s = (edges[-1] if len(edges) else 0.0) + mean_s * harmonic_number(batch_size)
    return float(np.sum(-np.diff(above) * edges) + above[-1] * last_s)


def formation_wait_s(
    batch_size: ArrayLike, *, arrival_rate_per_s: ArrayLike, bin_probability: ArrayLike = 1.0
) -> FloatArray:
    """Mean wait of one bin's requests until their batch is full, (B-1)/(2 lambda p) [s].

    Parameters
    ----------
    batch_size : int or array_like of int
        Requests per batch (B), >= 1.
    arrival_rate_per_s : float or array_like
        Rate of all arrivals (lambda); inf for a wait of 0.
    bin_probability : float or array_like
        Share of the requests that go to the bin (p), in (0, 1].

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Averaged over the requests, with weights p, unequal bins wait as long as equal ones:
    (B-1)k/(2 lambda) for k bins, as in Lemma 5.1.  Unequal bins only share it out unequally.
    """
    check_at_least("batch_size", batch_size, 1)
    rate = np.asarray(arrival_rate_per_s, dtype=np.float64)
    share = np.asarray(bin_probability, dtype=np.float64)
    if not (rate > 0).all():
        raise ValueError(f"arrival_rate_per_s must be > 0, got {rate.min():g}")
    if not ((share > 0) & (share <= 1)).all():
        raise ValueError(f"bin_probability must be in (0, 1], got {share.min():g}..{share.max():g}")
    return np.asarray((np.asarray(batch_size) - 1) / (2 * rate * share))


def check_edges(edges_s: ArrayLike) -> FloatArray:
    """Edges between bins as an array, if they are such [s].

    Raises
    ------
    ValueError
        Unless they are one row of finite times >= 0 that do not decrease.
    """
    edges = np.asarray(edges_s, dtype=np.float64)
    if (
        edges.ndim != 1
        or not ((edges >= 0) & (edges < math.inf)).all()
        or (np.diff(edges) < 0).any()
    ):
        raise ValueError(
            "edges_s must be one row of finite, not decreasing times >= 0 [s], got "
            f"{edges.tolist()}"
        )
    return edges


def check_at_least(name: str, values: ArrayLike, minimum: int) -> None:
    """Refuse counts below a minimum.

    Raises
    ------
    ValueError
        If one is.
    """
    if not (np.asarray(values) >= minimum).all():
        raise ValueError(f"{name} must be >= {minimum}, got {np.min(np.asarray(values))}")


def _uniform_excess_s(batch_size: ArrayLike, low_s: float, high_s: float) -> FloatArray:
    """How much longer than the mean one unbinned batch takes [s]."""
    if not 0 <= low_s < high_s < math.inf:
        raise ValueError(f"uniform needs 0 <= low < high < inf [s], got {low_s:g} and {high_s:g}")
    b = np.asarray(batch_size, dtype=np.float64)
    return np.asarray(b / (b + 1) * high_s + 1 / (b + 1) * low_s - (low_s + high_s) / 2)
