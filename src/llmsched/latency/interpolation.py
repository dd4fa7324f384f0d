"""The measured grid itself as a latency model: bilinear between its cells, never falling.

It has as many parameters as the grid has cells, so it follows whatever the GPU does, and says
nothing of its own outside: there it goes on with the slopes of the outermost cells.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import (
    DRAWN,
    BatchShape,
    Kind,
    LatencyModel,
    MeasuredRange,
    no_calibration_errors,
)
from llmsched.latency.uncertainty import Uncertainty

FloatArray = NDArray[np.float64]
Table = tuple[tuple[float, ...], ...]

FAR = 2e9  # requests, tokens: where the outermost slopes are laid out to, beyond any grid
SETTLED = 1e-13  # relative change of an alternating projection that has converged
ITERATIONS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpolationModel(LatencyModel):
    """T(b, L) between the cells of a grid, L the longest prompt + output, b the batch size.

    Notes
    -----
    Bilinear in b and L, which keeps a grid that never falls from falling in between. Outside,
    the slopes of the outermost cells go on, but never below 0 s towards b = 0 and L = 0, and
    never so that a larger batch or length takes less time: slopes are raised where it would.
    A prompt token is taken to cost what an output token does on the grid, so a grid with equal
    prompts and outputs says little about traffic with long prompts and short outputs.

    Examples
    --------
    >>> from llmsched.latency import Shape
    >>> model = InterpolationModel(batch_sizes=(1, 4), lengths=(100, 200),
    ...                            times_s=((1.0, 2.0), (2.0, 4.0)), name="hand", source="made up")
    >>> model.service_s(Shape(2, 150, 0, 0))  # a third of the way from 1.5 to 3 s
    2.0
    >>> model.service_s(Shape(4, 300, 0, 0)), model.service_s(Shape(1, 10, 0, 0))
    (6.0, 0.1)
    """

    batch_sizes: tuple[float, ...]  # increasing
    lengths: tuple[float, ...]  # increasing [tokens]
    times_s: Table  # (batch sizes, lengths), not falling along either
    standard_errors_s: Table | None = None  # of the cells' means, independent of each other
    name: str
    source: str
    kind: Kind = "measurement"
    measured: MeasuredRange | None = None
    _cells: tuple[tuple[tuple[float, ...], ...], ...] = field(init=False, repr=False, compare=False)
    _table: FloatArray = field(init=False, repr=False, compare=False)
    _b: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _tokens: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        times = _checked_times(self)
        _check_errors(self)
        tokens, wide = _with_ends(np.array(self.lengths), times.T, FAR)
        b, table = _with_ends(np.array(self.batch_sizes), wide.T, FAR)
        cells = _cells(b, tokens, table)
        set_ = object.__setattr__  # frozen: these follow from the fields above
        set_(self, "_b", tuple(b[:-1].tolist()))
        set_(self, "_tokens", tuple(tokens[:-1].tolist()))
        set_(self, "_table", cells)
        set_(self, "_cells", tuple(tuple(map(tuple, row)) for row in cells.tolist()))

    @property
    def uncertainty(self) -> Uncertainty | None:
        """The standard errors of the cells as a diagonal covariance."""
        if self.standard_errors_s is None:
            return None
        names = [f"T({b:g}, {tokens:g})" for b in self.batch_sizes for tokens in self.lengths]
        return Uncertainty.of(names, np.diag(np.square(np.ravel(self.standard_errors_s))))

    def service_s(self, batch: BatchShape) -> float:
        b, tokens = batch.size, batch.max_total_tokens
        if isinstance(b, np.ndarray) or isinstance(tokens, np.ndarray):
            i: Any = np.searchsorted(self._b, b, side="right") - 1
            j: Any = np.searchsorted(self._tokens, tokens, side="right") - 1
            b0: Any = np.array(self._b)[i]
            tokens0: Any = np.array(self._tokens)[j]
            corner, per_request, per_token, both = np.moveaxis(self._table[i, j], -1, 0)
        else:  # once per batch in the hot loop
            i, j = bisect_right(self._b, b) - 1, bisect_right(self._tokens, tokens) - 1
            b0, tokens0 = self._b[i], self._tokens[j]
            corner, per_request, per_token, both = self._cells[i][j]
        db, dl = b - b0, tokens - tokens0
        seconds: float = corner + per_request * db + (per_token + both * db) * dl
        return seconds

    def equation(self) -> str:
        b, tokens = self.batch_sizes, self.lengths
        return (
            f"T = the grid of {len(b)} batch sizes × {len(tokens)} lengths, bilinear in between "
            f"(T({b[0]:g}, {tokens[0]:g}) = {1e3 * self.times_s[0][0]:.4g} ms, "
            f"T({b[-1]:g}, {tokens[-1]:g}) = {1e3 * self.times_s[-1][-1]:.4g} ms)"
        )

    def draw(self, rng: np.random.Generator) -> InterpolationModel:
        """Every cell drawn around its mean, independently, and the grid made monotone again.

        Raises
        ------
        CalibrationError
            If the standard errors of the cells are not known.
        """
        if self.standard_errors_s is None:
            raise no_calibration_errors(self)
        errors = np.array(self.standard_errors_s)
        drawn = np.array(self.times_s) + errors * rng.standard_normal(errors.shape)
        times = monotone(np.maximum(drawn, 0), 1 / np.square(errors))
        return replace(
            self,
            times_s=to_table(times),
            standard_errors_s=None,
            source=self.source + DRAWN,
        )


def to_table(values: FloatArray) -> Table:
    """A two-dimensional array as tuples."""
    return tuple(map(tuple, values.tolist()))


def monotone(times_s: FloatArray, weights: FloatArray) -> FloatArray:
    """The nearest table that falls along neither axis, in weighted squares, shape as given.

    Dykstra's alternating projections (rows, columns) onto the monotone tables; a table that falls
    nowhere comes back as it is.
    """
    from scipy.optimize import isotonic_regression

    def along_rows(table: FloatArray, weight: FloatArray) -> FloatArray:
        fitted = [isotonic_regression(y, weights=w).x for y, w in zip(table, weight, strict=True)]
        return np.asarray(fitted, dtype=np.float64)

    if np.all(np.diff(times_s, axis=0) >= 0) and np.all(np.diff(times_s, axis=1) >= 0):
        return times_s
    found, row_rest, column_rest = times_s, np.zeros_like(times_s), np.zeros_like(times_s)
    for _ in range(ITERATIONS):
        before = found
        rows = along_rows(found + row_rest, weights)
        row_rest = found + row_rest - rows
        found = along_rows((rows + column_rest).T, weights.T).T
        column_rest = rows + column_rest - found
        moved = np.maximum(np.abs(found - before), np.abs(found - rows))
        if np.max(moved) <= SETTLED * np.max(np.abs(found)):
            break
    # what is left is rounding
    return np.asarray(np.maximum.accumulate(np.maximum.accumulate(found, axis=0), axis=1))


def _checked_times(model: InterpolationModel) -> FloatArray:
    for what, axis in (("batch_sizes", model.batch_sizes), ("lengths", model.lengths)):
        if len(axis) < 2 or not np.all(np.diff(axis) > 0) or not 1 <= axis[0] <= axis[-1] < FAR:
            raise ValueError(
                f"{what} of {model.name!r} must be 2 or more, increasing, from 1 to below {FAR:g}, "
                f"got {list(axis)[:8]}"
            )
    times = np.array(model.times_s, dtype=np.float64)
    if times.shape != (len(model.batch_sizes), len(model.lengths)):
        raise ValueError(
            f"times_s of {model.name!r} must be one row per batch size and one column per length, "
            f"got shape {times.shape}"
        )
    falls = np.any(np.diff(times, axis=0) < 0) or np.any(np.diff(times, axis=1) < 0)
    if not np.isfinite(times).all() or np.any(times < 0) or falls:
        raise ValueError(
            f"times_s of {model.name!r} must be finite, >= 0 and never fall with b or L"
        )
    return times


def _check_errors(model: InterpolationModel) -> None:
    if model.standard_errors_s is None:
        return
    errors = np.array(model.standard_errors_s, dtype=np.float64)
    if errors.shape != np.shape(model.times_s) or not (np.isfinite(errors) & (errors > 0)).all():
        raise ValueError(
            f"standard_errors_s of {model.name!r} must be finite and > 0, one per cell"
        )


def _with_ends(nodes: FloatArray, values: FloatArray, far: float) -> tuple[FloatArray, FloatArray]:
    """Nodes at 0 and far out on the outermost slopes, shapes (n + 2,) and (n + 2, m).

    Both new rows are kept from falling along the other axis.
    """
    first = (values[1] - values[0]) / (nodes[1] - nodes[0])
    last = (values[-1] - values[-2]) / (nodes[-1] - nodes[-2])
    at_zero = np.maximum.accumulate(np.maximum(values[0] - nodes[0] * first, 0))
    at_far = np.maximum.accumulate(values[-1] + (far - nodes[-1]) * last)
    return np.concatenate(([0.0], nodes, [far])), np.vstack((at_zero, values, at_far))


def _cells(b: FloatArray, tokens: FloatArray, table: FloatArray) -> FloatArray:
    """Value at the lower corner, slopes and mixed slope of each cell, shape (n, m, 4)."""
    db, dl = np.diff(b)[:, np.newaxis], np.diff(tokens)
    per_request = np.diff(table, axis=0)[:, :-1] / db
    per_token = np.diff(table, axis=1)[:-1] / dl
    both = np.diff(np.diff(table, axis=0), axis=1) / (db * dl)
    return np.stack((table[:-1, :-1], per_request, per_token, both), axis=-1)
