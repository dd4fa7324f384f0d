"""What published makespans say about another one, whatever the law of service times.

A batch takes the largest of its members' times, so its mean time is the integral of w(u) dq(u): q
is the law's quantile function, w(u) the chance that a member is above level u.  Means of different
batches from one law are thus linear in the steps dq >= 0, and what some leave to another is a
linear program.  A cap of the lengths, a fixed cost per batch (a step at level 0) and a service time
that is any increasing function of the length need no model of their own: they are laws too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from llmsched._util.arrays import FloatArray
from llmsched.theory.distributions import check_batch_size
from llmsched.theory.makespans import confusion_matrix

LEVELS = np.arange(1600) / 1600  # where a law may step; the edges of 2, 4, ..., 64 bins among them


@dataclass(frozen=True, slots=True)
class Span:
    """The smallest and the largest value that some law gives, in the unit of the known ones."""

    low: float
    high: float


def makespan_weights(
    batch_size: int, n_bins: int = 1, *, confusion: ArrayLike | None = None
) -> FloatArray:
    """Chance that a batch has a member above each of `LEVELS`, over all batches, shape (levels,).

    Parameters
    ----------
    batch_size : int
        Requests per batch (B), >= 1; a batch of one has the mean service time.
    n_bins : int
        Bins of equal mass (k); ties at an edge are shared out.
    confusion : array_like of shape (n_bins, n_bins), optional
        Rows: true bin, columns: predicted bin, as for `makespans.bin_makespans`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_batch_size(batch_size)
    joint = confusion_matrix(confusion, n_bins) / n_bins
    below = np.clip(LEVELS[:, np.newaxis] * n_bins - np.arange(n_bins), 0, 1)  # in each true bin
    predicted = joint.sum(axis=0)
    used = predicted > 0
    all_below = (below @ joint[:, used] / predicted[used]) ** batch_size
    return np.asarray((1 - all_below) @ predicted[used])


def implied_span(
    sought: FloatArray,
    known: Sequence[tuple[FloatArray, float]],
    *,
    longest: float = math.inf,
) -> Span:
    """The values that a mean makespan can have, given others from the same law.

    Parameters
    ----------
    sought : ndarray of shape (levels,)
        Its `makespan_weights`.
    known : sequence of (ndarray, float)
        Weights of other makespans and their values, in any one unit of time.
    longest : float
        No service time is above it.

    Raises
    ------
    ValueError
        If no law has the known makespans.

    Examples
    --------
    Batches of two take 3 s on average, a request alone 2 s and never more than 4 s.  Only a law of
    0 and 4 s in equal parts does that, and two bins tell them apart: 0 or 4 s a batch.

    >>> alone, unbinned, binned = (makespan_weights(*sizes) for sizes in ((1,), (2,), (2, 2)))
    >>> span = implied_span(binned, [(alone, 2.0), (unbinned, 3.0)], longest=4.0)
    >>> round(span.low, 6), round(span.high, 6)
    (2.0, 2.0)
    """
    from scipy.optimize import linprog

    ends = []
    for sign in (1, -1):
        found = linprog(
            sign * sought,
            A_ub=None if math.isinf(longest) else [np.ones_like(LEVELS)],
            b_ub=None if math.isinf(longest) else [longest],
            A_eq=[weights for weights, _ in known],
            b_eq=[value for _, value in known],
        )
        if not found.success or found.fun is None:
            values = ", ".join(f"{value:g}" for _, value in known)
            raise ValueError(f"no law of service times gives {values}: {found.message}")
        ends.append(sign * float(found.fun))
    return Span(*ends)
