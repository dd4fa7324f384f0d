"""The parametric forms of a latency model, each with its least squares.

L the grid's `max_seq_len` (longest prompt + output) and b its batch size:

- `reference`: T = α + β·L·(1 + γ·(b − 1)/b), linear in (α, β, β·γ); γ is at most 100, which a
  grid without small batches would otherwise exceed by far;
- `four-term`: T = a0 + a1·L + a2·b·L + a3·b·L²;
- `step`: one prefill and output − 1 decode steps (`latency_step`), from their own times where the
  grid has them, else from the whole batches if these tell the terms apart.

All are non-negative in their unknowns, so the weighted least squares are solved by
`scipy.optimize.nnls` without a starting point (`latency_step_fit` for `step`). The bounds matter:
left free, a0 of most real grids comes out negative, and short batches then take a negative time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import CalibrationError, MeasuredRange
from llmsched.latency.fit.estimate import MAX_CONDITION, Problem, Solution, whole_batches
from llmsched.latency.fit.grid import LatencyGrid
from llmsched.latency.fit.step_form import step_problem
from llmsched.latency.formulas import (
    MAX_GAMMA,
    SATURATING_PARAMETERS,
    FourTermModel,
    SaturatingModel,
)
from llmsched.latency.step import STEP_PARAMETERS, StepModel

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form: its parameters, its least squares on a grid, and the model they make."""

    name: str
    parameter_names: tuple[str, ...]
    problem: Callable[[LatencyGrid], Problem]
    model: Callable[..., Any]
    measured: Callable[[LatencyGrid], MeasuredRange]


def nonnegative_least_squares(design: FloatArray, observed: FloatArray) -> FloatArray:
    """The x >= 0 that minimises |design·x − observed|, with the columns scaled to unit length.

    Raises
    ------
    CalibrationError
        If the columns are nearly dependent, so that x is not identified.
    """
    from scipy.optimize import nnls

    scale = np.linalg.norm(design, axis=0)
    if np.any(scale == 0) or np.linalg.cond(design / scale) > MAX_CONDITION:
        raise CalibrationError("must identify every parameter, got a singular Jacobian")
    scaled, _ = nnls(design / scale, observed)
    return np.asarray(scaled / scale, dtype=np.float64)


def reference_design(b: FloatArray, tokens: FloatArray) -> FloatArray:
    """Columns of α, β and β·γ, shape (n, 3)."""
    return np.column_stack([np.ones_like(b), tokens, tokens * (b - 1) / b])


def four_term_design(b: FloatArray, tokens: FloatArray) -> FloatArray:
    """Columns of a0, a1, a2 and a3, shape (n, 4)."""
    return np.column_stack([np.ones_like(b), tokens, b * tokens, b * tokens * tokens])


def _reference_problem(grid: LatencyGrid) -> Problem:
    design = reference_design(*_axes(grid))
    ones, tokens, saturating = design.T
    # 0 <= γ <= most is what the non-negative mixtures of γ = 0 and γ = most are
    mixed = np.column_stack([ones, tokens, tokens + MAX_GAMMA * saturating])

    def solve(observed: FloatArray, deviation: FloatArray) -> Solution:
        linear = nonnegative_least_squares(mixed / deviation[:, None], observed / deviation)
        alpha_s, none_s, most_s = linear
        beta_s = none_s + most_s
        if beta_s == 0:
            raise CalibrationError(
                "must show a latency that grows with max_seq_len to identify gamma"
            )
        gamma = MAX_GAMMA * most_s / beta_s
        return Solution(
            parameters=np.array([alpha_s, beta_s, gamma]),
            free=np.array([alpha_s > 0, True, none_s > 0 and most_s > 0]),
            fitted=mixed @ linear,
            jacobian=np.column_stack([ones, tokens + gamma * saturating, beta_s * saturating]),
        )

    return whole_batches(grid, solve)


def _four_term_problem(grid: LatencyGrid) -> Problem:
    design = four_term_design(*_axes(grid))

    def solve(observed: FloatArray, deviation: FloatArray) -> Solution:
        linear = nonnegative_least_squares(design / deviation[:, None], observed / deviation)
        return Solution(parameters=linear, free=linear > 0, fitted=design @ linear, jacobian=design)

    return whole_batches(grid, solve)


def _axes(grid: LatencyGrid) -> tuple[FloatArray, FloatArray]:
    return grid.batch_size.astype(np.float64), grid.max_seq_len.astype(np.float64)


FORMS = {
    "reference": Form(
        name="reference",
        parameter_names=SATURATING_PARAMETERS,
        problem=_reference_problem,
        model=SaturatingModel,
        measured=lambda grid: grid.measured,
    ),
    "four-term": Form(
        name="four-term",
        parameter_names=("a0_s", "a1_s", "a2_s", "a3_s"),
        problem=_four_term_problem,
        model=FourTermModel,
        measured=lambda grid: grid.measured,
    ),
    "step": Form(
        name="step",
        parameter_names=STEP_PARAMETERS,
        problem=step_problem,
        model=StepModel,
        measured=lambda grid: grid.measured_steps,
    ),
}
