"""Least squares of relative errors, each weighted by the error taken for its observation.

Minimised is Σ (ln(y/f)/e)² over the observed times y and the fitted times f, so that twice too slow
counts as much as twice too fast. Each step is a linear problem, weighted with 1/(e·f)². What e is:

- `trials`: where every cell has a spread over at least two trials, e² = c²/n + τ²: c the
  coefficient of variation of its n trials, and τ one model error for all, read off the residuals
  (below). So a quiet cell does not decide a fit that is itself a few per cent off, and where
  the form describes the grid within its noise, τ is 0;
- `size`: elsewhere one e for all, read off the residuals, so that relative errors count alike.

Two traps are avoided, and each costs coverage (`tests/latency/test_latency_coverage.py`):

- weights from the observed time, 1/y², favour the cells that came out low: at 5 % noise every time
  is then fitted 0.5 % too low, half a standard error. Of the logarithm it is 0.1 %;
- ten trials know their spread only to a quarter, and weights 1/c² favour the cells whose spread
  came out low: standard errors are then a quarter too small. The c² are therefore drawn
  together, as far as the cells agree, by the empirical Bayes rule of Smyth [1]_.

τ is the one at which the weighted squared residuals equal their degrees of freedom (Paule and
Mandel [2]_), 0 where they are below already: known errors are not shrunk by a lucky fit.

References
----------
.. [1] G. K. Smyth, Linear models and empirical Bayes methods for assessing differential expression
   in microarray experiments, Stat. Appl. Genet. Mol. Biol. 3, 2004.
.. [2] R. C. Paule and J. Mandel, Consensus values and weighting factors, J. Res. NBS 87, 1982.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import CalibrationError
from llmsched.latency.fit.grid import LatencyGrid

FloatArray = NDArray[np.float64]
Weighting = Literal["trials", "size"]

MAX_CONDITION = 1e6  # of a column-scaled design: beyond it, unknowns cannot be told apart
ITERATIONS = 200
SETTLED = 1e-8  # relative change of the fitted times
ROUNDING = 1e-15  # no relative error is smaller, be the grid ever so exact
LEAST = 0.1  # of the observed time: a fitted one below it counts as that


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """The parameters that weighted least squares gave, the times they mean, and their slopes."""

    parameters: FloatArray  # (p,)
    free: NDArray[np.bool_]  # (p,) inside its bounds
    fitted: FloatArray  # (m,) [s]
    jacobian: FloatArray  # (m, p)


Solver = Callable[[FloatArray, FloatArray], Solution]  # (observed, standard deviation) -> solution


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trials:
    """What repeated measurement says of each observation."""

    relative_error: FloatArray  # (m,) c/√n of the mean
    degrees_of_freedom: int  # of all the spreads together


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """What a form is fitted to, how sure that is, and how to solve it for given weights."""

    observed: FloatArray  # (m,) [s]
    trials: Trials | None
    solve: Solver


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """A solution with the relative errors that it was weighted by."""

    solution: Solution
    relative_error: FloatArray  # (m,) of each observation
    deviation: FloatArray  # (m,) the same in seconds
    model_error: float  # τ with weights from the trials, the one e with weights by size
    degrees_of_freedom: int  # of what the errors were read off
    weighting: Weighting


def estimate(solve: Solver, observed: FloatArray, trials: Trials | None) -> Estimate:
    """Solve, linearise anew around what was fitted, until it settles.

    Raises
    ------
    CalibrationError
        If the solver does, or the fit does not settle.
    """
    size, squared_error = observed, np.ones_like(observed)
    if trials is not None:
        squared_error = np.square(trials.relative_error)
    for iteration in range(ITERATIONS):
        target = size * (1 + np.log(observed / size))  # ln f around `size`, to first order
        solution = solve(target, size * np.sqrt(squared_error))
        freedom = len(observed) - len(solution.parameters)
        new_size = np.maximum(solution.fitted, LEAST * observed)
        squares = np.square(np.log(observed / new_size))
        new_error = squared_error
        if trials is not None:
            known = np.square(trials.relative_error)
            new_error = known + model_variance(squares, known, freedom)
        if np.allclose(new_size, size, rtol=SETTLED, atol=0) and np.allclose(
            new_error, squared_error, rtol=SETTLED, atol=0
        ):
            break
        if iteration >= 20:  # two active sets can alternate: meet half-way
            new_size = np.sqrt(new_size * size)
        size, squared_error = new_size, new_error
    else:
        raise CalibrationError("must have a fit that settles, got none; measure more cells")
    if trials is None:
        squared_error = np.full(len(observed), float(np.sum(squares)) / freedom)
        return _estimate(solution, new_size, squared_error, squared_error[0], freedom, "size")
    model_error = float(np.min(squared_error - np.square(trials.relative_error)))
    read_off = freedom if model_error > 0 else trials.degrees_of_freedom
    return _estimate(solution, new_size, squared_error, model_error, read_off, "trials")


def _estimate(
    solution: Solution,
    size: FloatArray,
    squared_error: FloatArray,
    model_variance: float,
    freedom: int,
    weighting: Weighting,
) -> Estimate:
    relative_error = np.maximum(np.sqrt(squared_error), ROUNDING)
    return Estimate(
        solution=solution,
        relative_error=relative_error,
        deviation=relative_error * size,
        model_error=float(np.sqrt(model_variance)),
        degrees_of_freedom=freedom,
        weighting=weighting,
    )


def model_variance(squares: FloatArray, known: FloatArray, freedom: int) -> float:
    """The τ² >= 0 at which Σ squares/(known + τ²) is `freedom`; 0 where it is below at once."""
    from scipy.optimize import brentq

    if float(np.sum(squares / known)) <= freedom:
        return 0.0
    most = float(np.sum(squares)) / freedom
    return float(brentq(lambda tau2: np.sum(squares / (known + tau2)) - freedom, 0, most))


def trials_of(mean: FloatArray, std: FloatArray, n_trials: NDArray[np.int64]) -> Trials | None:
    """The relative errors of means over trials; None unless every cell has a spread of its own."""
    if not (np.all(std > 0) and np.all(n_trials >= 2)):
        return None
    freedom = (n_trials - 1).astype(np.float64)
    variance = _drawn_together(np.square(std / mean), freedom)
    return Trials(
        relative_error=np.sqrt(variance / n_trials), degrees_of_freedom=int(freedom.sum())
    )


def whole_batches(grid: LatencyGrid, solve: Solver) -> Problem:
    """The problem of a form that is fitted to the whole batches of a grid."""
    return Problem(
        observed=grid.mean_latency_s,
        trials=trials_of(grid.mean_latency_s, grid.std_latency_s, grid.n_trials),
        solve=solve,
    )


def _drawn_together(variance: FloatArray, freedom: FloatArray) -> FloatArray:
    """Sample variances moved towards their common value as far as they agree (Smyth, 6.2)."""
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    if len(variance) < 2:
        return variance
    log = np.log(variance) - digamma(freedom / 2) + np.log(freedom / 2)
    excess = float(np.var(log, ddof=1) - np.mean(polygamma(1, freedom / 2)))
    if excess <= polygamma(1, 1e6):  # no more scatter than equal variances have
        return np.full_like(variance, np.average(variance, weights=freedom))
    least, most = 1e-3, 1e6
    if excess >= polygamma(1, least):
        return variance
    half = float(brentq(lambda x: polygamma(1, x) - excess, least, most))
    common = float(np.exp(np.mean(log) + digamma(half) - np.log(half)))
    return np.asarray((2 * half * common + freedom * variance) / (2 * half + freedom))
