"""Windows of a sorted queue: which are looked at, their sums and maxima, and the best of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray

Indices = NDArray[np.intp]
_EQUAL = 1 - 1e-12  # scores that differ less differ by the rounding of their sums


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Which windows of a queue of n are looked at: sizes down, positions across."""

    size: Indices  # (sizes, 1)
    start: Indices  # (sizes, positions)
    end: Indices
    anchor: Indices  # (sizes, 1): index of the anchor of each size
    n_levels: int  # of 1, 2, 4, ... requests, up to the largest size
    first: Indices  # (sizes, positions): the first 2^level of each window, in a table of levels
    last: Indices  # and the last 2^level

    @classmethod
    def of(cls, n: int, sizes: Indices, anchors: Indices, positions: int) -> Places:
        """Those of a queue of n, evenly spread; the last one ends where the queue does."""
        size = sizes[sizes <= n][:, np.newaxis]
        start = np.minimum(np.arange(0, n, -(-n // positions)), n - size)
        level = np.array([int(one).bit_length() - 1 for one in size[:, 0]])[:, np.newaxis]
        end, row = start + size, n * level
        anchor, n_levels = np.searchsorted(anchors, size), int(level[-1, 0]) + 1
        return cls(size, start, end, anchor, n_levels, row + start, row + end - 2**level)


@dataclass(slots=True, eq=False)
class Windows:
    """Windows that were looked at together, and what each was worth then."""

    places: Places
    model_s: FloatArray  # their batch times, uncorrected
    score: FloatArray

    def take_best(self) -> tuple[int, int, int, float] | None:
        """Size index, start, end and model's time [s] of the best one; those it meets are gone.

        Of equals the smaller, then the earlier in the order.
        """
        score = self.score
        best = int((score >= score.flat[score.argmax()] * _EQUAL).argmax())
        row, column = divmod(best, score.shape[1])
        if score[row, column] < 0:
            return None
        start, end = int(self.places.start[row, column]), int(self.places.end[row, column])
        self.forget(start, end)
        return row, start, end, float(self.model_s[row, column])

    def forget(self, start: int, end: int) -> None:
        """Look no more at windows that meet these positions."""
        self.score[(self.places.start < end) & (self.places.end > start)] = -1.0


def largest_of(lengths: FloatArray, places: Places) -> FloatArray:
    """The largest of each row in each window, shape (rows, sizes, positions).

    From those of all windows of 1, 2, 4, ... requests: two of these cover any window.
    """
    n = lengths.shape[1]
    table = np.empty((len(lengths), places.n_levels, n))
    table[:, 0] = lengths
    for k in range(places.n_levels - 1):
        half = 2**k
        end = n - 2 * half + 1
        np.maximum(table[:, k, :end], table[:, k, half : half + end], out=table[:, k + 1, :end])
    flat = table.reshape(len(lengths), -1)
    largest: FloatArray = flat.take(places.first, axis=1)
    return np.maximum(largest, flat.take(places.last, axis=1), out=largest)


def sums_of(values: FloatArray, row: Indices | int, places: Places) -> FloatArray:
    """Sums over the windows, of this row of the values for each size, shape (sizes, positions)."""
    before = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=before[:, 1:])
    at = row * before.shape[1]
    sums: FloatArray = before.take(at + places.end) - before.take(at + places.start)
    return sums
