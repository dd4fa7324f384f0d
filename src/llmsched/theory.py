"""Closed forms of the Multi-Bin Batching paper, and the exact values that its bounds bound.

The model of Guldogan et al. [1]_: requests arrive as a Poisson process, go to one of k bins by
their service time, and are served in batches of exactly B from one bin; a batch takes the largest
of its members' times.  First the paper's own formulas, for uniform and exponential times, then the
same quantities for any law of `distributions`, any edges, and predictions that miss the bin.
What fails to fill a batch at the end of a trace is left out; single-server waits have no formula.

.. [1] Guldogan, Kunde, Lee, Pedarsani, "Multi-Bin Batching for Increasing LLM Inference
   Throughput", arXiv:2412.04504.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched.distributions import ServiceLaw, check_batch_size, harmonic_number
from llmsched.trace import FloatArray

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
    _check_at_least("n_bins", n_bins, 1)
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
    _check_at_least("n_bins", n_bins, 1)
    _check_at_least("batch_size", batch_size, 1)
    mean_s = (low_s + high_s) / 2
    return mean_s + _uniform_excess_s(batch_size, low_s, high_s) / np.asarray(n_bins)


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
    _check_at_least("batch_size", batch_size, 1)
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
    _check_at_least("batch_size", batch_size, 1)
    mean_s = (low_s + high_s) / 2
    excess_s = _uniform_excess_s(batch_size, low_s, high_s)
    limit_per_s = throughput_limit_per_s(batch_size, mean_s=mean_s)
    shortfall = np.asarray(shortfall_per_s, dtype=np.float64)
    if not ((shortfall > 0) & (shortfall <= limit_per_s)).all():
        raise ValueError(
            f"shortfall_per_s must be in (0, c_max = {limit_per_s.min():g}], got {shortfall.min():g}"
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
    _check_at_least("n_bins", n_bins, 1)
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
    sum over i < k of Pr(bin i) l_i + Pr(bin k)(l_{k-1} + H_B/mu).  `mean_makespan_s` is exact.

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
    edges = _edges(edges_s)
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
    _check_at_least("batch_size", batch_size, 1)
    rate = np.asarray(arrival_rate_per_s, dtype=np.float64)
    share = np.asarray(bin_probability, dtype=np.float64)
    if not (rate > 0).all():
        raise ValueError(f"arrival_rate_per_s must be > 0, got {rate.min():g}")
    if not ((share > 0) & (share <= 1)).all():
        raise ValueError(f"bin_probability must be in (0, 1], got {share.min():g}..{share.max():g}")
    return (np.asarray(batch_size) - 1) / (2 * rate * share)


@dataclass(frozen=True, slots=True, eq=False)
class BinMakespans:
    """One entry per bin that receives requests, in the order of the bins."""

    probability: FloatArray  # (n_bins,) share of the requests, and so of the batches
    makespan_s: FloatArray  # (n_bins,) mean time a batch of the bin takes [s]

    @property
    def mean_s(self) -> float:
        """Mean time a batch takes, over all batches [s]."""
        return float(self.probability @ self.makespan_s)


def bin_makespans(
    law: ServiceLaw,
    batch_size: int,
    *,
    edges_s: ArrayLike = (),
    confusion: ArrayLike | None = None,
) -> BinMakespans:
    """Exact mean batch makespan of every bin, for any law, edges and bin predictions.

    Parameters
    ----------
    law : ServiceLaw
        Of one request's service time.
    batch_size : int
        Requests per batch (B), >= 1.
    edges_s : array_like of shape (n_bins - 1,)
        Edges between the bins, not decreasing [s]; bin i holds edge_i <= l < edge_{i+1}.
    confusion : array_like of shape (n_bins, n_bins), optional
        Rows: true bin, columns: predicted bin; counts or probabilities, each row is scaled to
        sum to 1.  By default every request goes to its own bin.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Of B members, those of the highest true bin present decide.  With shares w_i of true bins in
    one predicted bin and c_i the share below bin i, the mean largest time is the sum over i and
    n = 1..B of C(B, n) w_i^n c_i^(B-n) M_i(n), M_i(n) the mean largest of n requests of bin i.
    """
    check_batch_size(batch_size)
    edges = np.concatenate(([0.0], _edges(edges_s), [math.inf]))
    mass = np.diff(np.concatenate(([0.0], law.below(edges[1:-1]), [1.0])))
    joint = mass[:, np.newaxis] * _confusion(confusion, len(mass))

    @cache
    def mean_maximum_s(true_bin: int, n: int) -> float:
        return law.mean_maximum_s(n, low_s=edges[true_bin], high_s=edges[true_bin + 1])

    def makespan_s(share: FloatArray) -> float:
        total = 0.0
        for true_bin in np.flatnonzero(share):
            weights = _members(batch_size, share[true_bin], share[:true_bin].sum())
            total += sum(weights[n - 1] * mean_maximum_s(int(true_bin), int(n))
                         for n in np.flatnonzero(weights) + 1)  # fmt: skip
        return total

    probability = joint.sum(axis=0)
    used = probability > 0
    makespans = [makespan_s(column / column.sum()) for column in joint.T[used]]
    return BinMakespans(probability=probability[used], makespan_s=np.array(makespans))


def mean_makespan_s(
    law: ServiceLaw,
    batch_size: int,
    *,
    edges_s: ArrayLike = (),
    confusion: ArrayLike | None = None,
) -> float:
    """Exact mean time one batch takes, E[t_service,k], over all bins [s]; see `bin_makespans`."""
    return bin_makespans(law, batch_size, edges_s=edges_s, confusion=confusion).mean_s


def saturated_throughput_per_s(
    law: ServiceLaw,
    batch_size: int,
    *,
    edges_s: ArrayLike = (),
    confusion: ArrayLike | None = None,
    n_gpus: int = 1,
) -> float:
    """Requests per second of always busy GPUs, n_gpus * B / E[t_service,k]; see `bin_makespans`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    _check_at_least("n_gpus", n_gpus, 1)
    makespan_s = mean_makespan_s(law, batch_size, edges_s=edges_s, confusion=confusion)
    return n_gpus * batch_size / makespan_s


def infinite_server_latency_s(
    law: ServiceLaw,
    batch_size: int,
    *,
    arrival_rate_per_s: ArrayLike,
    edges_s: ArrayLike = (),
    confusion: ArrayLike | None = None,
) -> FloatArray:
    """Mean latency with infinitely many servers: Lemma 5.1 for any law, edges and predictions [s].

    Parameters and errors are those of `bin_makespans` and `formation_wait_s`; vectorised over the
    arrival rate.
    """
    bins = bin_makespans(law, batch_size, edges_s=edges_s, confusion=confusion)
    wait_s = formation_wait_s(batch_size, arrival_rate_per_s=arrival_rate_per_s)
    return bins.mean_s + len(bins.probability) * wait_s


def _uniform_excess_s(batch_size: ArrayLike, low_s: float, high_s: float) -> FloatArray:
    """How much longer than the mean one unbinned batch takes [s]."""
    if not 0 <= low_s < high_s < math.inf:
        raise ValueError(f"uniform needs 0 <= low < high < inf [s], got {low_s:g} and {high_s:g}")
    b = np.asarray(batch_size, dtype=np.float64)
    return np.asarray(b / (b + 1) * high_s + 1 / (b + 1) * low_s - (low_s + high_s) / 2)


def _members(batch_size: int, share: float, below: float) -> FloatArray:
    """Chance of exactly n = 1..B members in a bin and all the others below it, shape (B,)."""
    if below == 0:
        return np.append(np.zeros(batch_size - 1), share**batch_size)
    from scipy.special import gammaln

    n = np.arange(1, batch_size + 1)
    log_ways = gammaln(batch_size + 1) - gammaln(n + 1) - gammaln(batch_size - n + 1)
    return np.exp(log_ways + n * math.log(share) + (batch_size - n) * math.log(below))


def _edges(edges_s: ArrayLike) -> FloatArray:
    edges = np.asarray(edges_s, dtype=np.float64)
    if (
        edges.ndim != 1
        or not ((edges >= 0) & (edges < math.inf)).all()
        or (np.diff(edges) < 0).any()
    ):
        raise ValueError(
            f"edges_s must be one row of finite, not decreasing times >= 0 [s], got {edges.tolist()}"
        )
    return edges


def _confusion(confusion: ArrayLike | None, n_bins: int) -> FloatArray:
    """Probability of each predicted bin given the true one, shape (n_bins, n_bins)."""
    if confusion is None:
        return np.eye(n_bins)
    matrix = np.asarray(confusion, dtype=np.float64)
    if matrix.shape != (n_bins, n_bins):
        raise ValueError(
            f"confusion must be {n_bins} x {n_bins} for {n_bins - 1} edges, got {matrix.shape}"
        )
    if not (np.isfinite(matrix).all() and (matrix >= 0).all() and (matrix.sum(axis=1) > 0).all()):
        raise ValueError("confusion must hold finite weights >= 0, and some in every row")
    return matrix / matrix.sum(axis=1, keepdims=True)


def _check_at_least(name: str, values: ArrayLike, minimum: int) -> None:
    if not (np.asarray(values) >= minimum).all():
        raise ValueError(f"{name} must be >= {minimum}, got {np.min(np.asarray(values))}")
