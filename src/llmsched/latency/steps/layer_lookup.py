"""Fast linear interpolation in layer tables: plain lists and floats, one number at a time.

A simulation looks up a million steps one after the other, for which numpy's scalars take several
times as long. Below the first grid point a value is that of the first; beyond the last, the last
interval goes on. Either is counted, by axis.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.latency.steps.base import kv_ahead
from llmsched.latency.steps.layer_tables import Grid

Rows = list[list[float]]


class Axis:
    """The values on one axis of a grid, and where a number lies between them."""

    __slots__ = ("_inner", "_name", "_width", "knots", "outside")

    def __init__(self, name: str, values: Sequence[int]) -> None:
        self._name = name
        self.knots = [float(value) for value in values]
        self._inner = self.knots[1:-1]
        self._width = [high - low for low, high in pairwise(self.knots)]
        self.outside: Counter[str] = Counter()

    def interval(self, x: float) -> tuple[int, float]:
        """The interval of `x` and how far into it: from 0, and above 1 beyond the last value."""
        i = bisect_right(self._inner, x)
        return i, max((x - self.knots[i]) / self._width[i], 0.0)

    def counted(self, x: float) -> tuple[int, float]:
        """The same, and counted if it lies outside."""
        i = bisect_right(self._inner, x)
        weight = (x - self.knots[i]) / self._width[i]
        if 0.0 <= weight <= 1.0:
            return i, weight
        self.count(x)
        return self.interval(x)

    def count(self, x: float, times: int = 1) -> None:
        """Count a number, so many times, if it lies outside."""
        if x < self.knots[0]:
            self.outside[f"{self._name} below {self.knots[0]:.0f}"] += times
        elif x > self.knots[-1]:
            self.outside[f"{self._name} above {self.knots[-1]:.0f}"] += times


class Curve:
    """Times against a whole number, looked up in a list."""

    __slots__ = ("_first", "_last", "_slope", "_times_s", "_top", "axis")

    def __init__(
        self,
        grid: Grid,
        times_s: FloatArray,
        *,
        padded: Sequence[int] = (),
        chord: float = 0.0,
    ) -> None:
        """A curve through a grid's points.

        `padded` are sizes up to which a number is rounded up first, as far as they go. Beyond the
        last value the line goes on that ends the curve: its last interval or, if that is longer,
        its last part of length `chord` times the last value, where points are close and noisy.
        """
        values = grid.axes[0]
        self.axis = Axis(grid.names[0], values)
        self._first, self._last = values[0], values[-1]
        self._top = max(self._last, *padded, 0)
        i = min(bisect_right(values, (1 - chord) * self._last), len(values) - 1) - 1
        self._slope = float((times_s[-1] - times_s[i]) / (self._last - values[i]))
        x = np.arange(self._top + 1)
        if padded:
            sizes = np.array(padded)
            up = sizes[np.minimum(np.searchsorted(sizes, x), len(sizes) - 1)]
            x = np.maximum(x, up * (x <= sizes[-1]))
        beyond_s = self._slope * np.maximum(x - self._last, 0)
        self._times_s: list[float] = (np.interp(x, values, times_s) + beyond_s).tolist()

    def at(self, x: int) -> float:
        """Time of `x` [s]."""
        if x <= self._top:
            return self._times_s[x]
        return self._times_s[-1] + self._slope * (x - self._top)

    def counted(self, x: int) -> float:
        """The same, and counted if `x` lies outside."""
        if not self._first <= x <= self._last:
            self.axis.count(x)
        return self.at(x)


class Plane:
    """Times against two numbers."""

    __slots__ = ("axes", "rows")

    def __init__(self, grid: Grid, scale: float) -> None:
        self.axes = [Axis(*pair) for pair in zip(grid.names, grid.axes, strict=True)]
        self.rows: Rows = (scale * grid.times_us).tolist()

    def at(self, x: float, y: float) -> float:
        """Time at a point [s]."""
        i, wx = self.axes[0].counted(x)
        j, wy = self.axes[1].counted(y)
        return _bilinear(self.rows, i, wx, j, wy)


class Block:
    """Times against four numbers: chunk, kv before it, decodes, their mean kv."""

    __slots__ = ("_planes", "axes")

    def __init__(self, grid: Grid, scale: float) -> None:
        self.axes = [Axis(*pair) for pair in zip(grid.names, grid.axes, strict=True)]
        # the two axes with the kv innermost: [chunk][decodes][kv before][kv]
        self._planes: list[list[Rows]] = np.moveaxis(scale * grid.times_us, 2, 1).tolist()

    def at(self, chunk: float, before: float, n: float, kv: float) -> float:
        """Time at a point [s]."""
        chunks, befores, decodes, kvs = self.axes
        i, wi = chunks.counted(chunk)
        j, wj = decodes.counted(n)
        k, wk = befores.counted(before)
        v, wv = kvs.counted(kv)
        planes = self._planes[i]
        low = _bilinear(planes[j], k, wk, v, wv)
        low += (_bilinear(planes[j + 1], k, wk, v, wv) - low) * wj
        planes = self._planes[i + 1]
        high = _bilinear(planes[j], k, wk, v, wv)
        high += (_bilinear(planes[j + 1], k, wk, v, wv) - high) * wj
        return low + (high - low) * wi


class Pieces:
    """Times of n decodes alone against the sum of their kv: straight pieces, found by `inner`."""

    __slots__ = (
        "_counts",
        "_kvs",
        "_n",
        "inner",
        "least",
        "most",
        "slope_s",
        "start",
        "start_s",
    )

    def __init__(self, plane: Plane, n: int, *, added: Sequence[Curve]) -> None:
        """`added`: what n decodes take beside attention."""
        decodes, kvs = plane.axes
        self._n, self._kvs = n, kvs
        self._counts = [decodes, *(curve.axis for curve in added)]
        added_s = sum(curve.at(n) for curve in added)
        i, weight = decodes.interval(n)
        low, high = plane.rows[i : i + 2]
        times_s = [a + (b - a) * weight + added_s for a, b in zip(low, high, strict=True)]
        knots = [n * int(knot) for knot in kvs.knots]
        slopes = [
            (b - a) / (y - x)
            for (a, b), (x, y) in zip(pairwise(times_s), pairwise(knots), strict=True)
        ]
        # the first piece, below the first knot, is flat
        self.start, self.start_s = [knots[0], *knots[:-1]], [times_s[0], *times_s[:-1]]
        self.slope_s = [0.0, *slopes]
        self.inner = knots[:-1]
        if any(axis.knots[-1] < n for axis in self._counts) or n < decodes.knots[0]:
            self.least, self.most = math.inf, -math.inf  # every step is outside
        else:
            self.least, self.most = knots[0], knots[-1]

    def run_s(self, decode_kv: int, steps: int) -> FloatArray:
        """Times of some steps from `decode_kv` on, with the operations of one step [s]."""
        kv = kv_ahead(self._n, decode_kv, steps)
        last_kv = decode_kv + self._n * (steps - 1)
        if decode_kv < self.least or last_kv > self.most:
            self.count(kv)
        first, last = bisect_right(self.inner, decode_kv), bisect_right(self.inner, last_kv)
        if first == last:
            return self.start_s[first] + self.slope_s[first] * (kv - self.start[first])
        times_s, begin = np.empty(steps), 0
        for piece in range(first, last + 1):
            # the first step at or beyond the next knot, which is a whole number
            end = steps if piece == last else -((decode_kv - self.inner[piece]) // self._n)
            part = kv[begin:end] - self.start[piece]
            times_s[begin:end] = self.start_s[piece] + self.slope_s[piece] * part
            begin = end
        return times_s

    def count(self, kv: FloatArray) -> None:
        """Count the steps that lie outside."""
        for axis in self._counts:
            axis.count(self._n, len(kv))
        mean_kv, knots = kv / self._n, self._kvs.knots
        for outside in (mean_kv[mean_kv < knots[0]], mean_kv[mean_kv > knots[-1]]):
            if outside.size:
                self._kvs.count(outside[0], outside.size)


def _bilinear(rows: Rows, i: int, wi: float, j: int, wj: float) -> float:
    """Between four neighbours: along the second axis, then along the first."""
    row = rows[i]
    low = row[j]
    low += (row[j + 1] - low) * wj
    row = rows[i + 1]
    high = row[j]
    high += (row[j + 1] - high) * wj
    return low + (high - low) * wi
