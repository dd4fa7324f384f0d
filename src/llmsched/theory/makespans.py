"""Exact mean makespans of batches from bins, for any law of service times, edges and predictions.

What the closed forms of `theory` say for uniform laws and bound for exponential ones: a batch of
exactly B requests that one bin was predicted for takes the largest of their times.  From it follow
the saturated throughput and the latency with infinitely many servers, as in Guldogan et al.,
arXiv:2412.04504.  Left out: the part-full batches at the end of a trace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from llmsched._util.arrays import FloatArray
from llmsched.theory.distributions import ServiceLaw, check_batch_size
from llmsched.theory.multi_bin import check_at_least, check_edges, formation_wait_s


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
    edges = np.concatenate(([0.0], check_edges(edges_s), [math.inf]))
    mass = np.diff(np.concatenate(([0.0], law.below(edges[1:-1]), [1.0])))
    joint = mass[:, np.newaxis] * confusion_matrix(confusion, len(mass))

    @cache
    def mean_maximum_s(true_bin: int, n: int) -> float:
        return law.mean_maximum_s(n, low_s=edges[true_bin], high_s=edges[true_bin + 1])

    def makespan_s(share: FloatArray) -> float:
        total = 0.0
        for true_bin in np.flatnonzero(share):
            weights = _members(batch_size, share[true_bin], share[:true_bin].sum())
            for n in np.flatnonzero(weights) + 1:
                total += weights[n - 1] * mean_maximum_s(int(true_bin), int(n))
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
    check_at_least("n_gpus", n_gpus, 1)
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


def _members(batch_size: int, share: float, below: float) -> FloatArray:
    """Chance of exactly n = 1..B members in a bin and all the others below it, shape (B,)."""
    if below == 0:
        return np.append(np.zeros(batch_size - 1), share**batch_size)
    from scipy.special import gammaln

    n = np.arange(1, batch_size + 1)
    log_ways = gammaln(batch_size + 1) - gammaln(n + 1) - gammaln(batch_size - n + 1)
    return np.asarray(np.exp(log_ways + n * math.log(share) + (batch_size - n) * math.log(below)))


def confusion_matrix(confusion: ArrayLike | None, n_bins: int) -> FloatArray:
    """Probability of each predicted bin given the true one, shape (n_bins, n_bins).

    Raises
    ------
    ValueError
        If it has another shape, or a weight below 0, or a row without any.
    """
    if confusion is None:
        return np.eye(n_bins)
    matrix = np.asarray(confusion, dtype=np.float64)
    if matrix.shape != (n_bins, n_bins):
        raise ValueError(
            f"confusion must be {n_bins} x {n_bins} for {n_bins - 1} edges, got {matrix.shape}"
        )
    if not (np.isfinite(matrix).all() and (matrix >= 0).all() and (matrix.sum(axis=1) > 0).all()):
        raise ValueError("confusion must hold finite weights >= 0, and some in every row")
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))
