"""Fit a latency model to a measured grid: coefficients >= 0, with their errors and refusals.

Two forms, L the grid's `max_seq_len` (longest prompt + output) and b its batch size:

- `reference`: T = α + β·L·(1 + γ·(b − 1)/b), linear in (α, β, β·γ);
- `four-term`: T = a0 + a1·L + a2·b·L + a3·b·L².

Both are linear in non-negative unknowns, so the weighted least squares have one solution, found
by `scipy.optimize.nnls` without a starting point. The bounds matter: left free, a0 of most real
grids comes out negative, and short batches then take a negative time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsched.latency_grid import LatencyGrid, read_grid
from llmsched.latency_models import (
    CalibrationError,
    CalibrationWarning,
    FourTermModel,
    Kind,
    LatencyModel,
    SaturatingModel,
)

FloatArray = NDArray[np.float64]

MODEL_ERROR = 0.01  # a few terms are never nearer to a GPU than this; see `_weights`
EXACT = 1e-4  # relative residual below which a grid is a formula's output: no clock repeats so well
MAX_CONDITION = 1e6  # of the column-scaled design: beyond it, unknowns cannot be told apart


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyFit:
    """One form fitted to one grid, with how well it fits and how sure its parameters are."""

    form: str
    parameter_names: tuple[str, ...]
    parameters: FloatArray  # (p,) in SI units
    covariance: FloatArray  # (p, p); NaN for a parameter on its bound, where it is not defined
    r_squared: float
    median_relative_error: float
    max_relative_error: float
    weighting: str
    model: LatencyModel

    @property
    def standard_errors(self) -> FloatArray:
        """Standard error of each parameter, shape (p,); NaN on a bound."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def at_bound(self) -> tuple[str, ...]:
        """The parameters that the bound 0 holds."""
        return tuple(
            name
            for name, variance in zip(self.parameter_names, np.diag(self.covariance), strict=True)
            if np.isnan(variance)
        )


def fit_grid(grid: LatencyGrid, *, form: str = "best") -> LatencyFit:
    """The fit of a grid in the form asked for, by default the form that fits it better.

    Parameters
    ----------
    grid : LatencyGrid
        Measured means; weighted by their standard errors where every cell has them, else by
        their size, so that relative errors count alike.
    form : {"best", "reference", "four-term"}
        "best" takes the smaller median relative error (the reference form on a tie), or the form
        that the grid can identify when it is only one.

    Raises
    ------
    ValueError
        If `form` is none of these.
    CalibrationError
        If the grid cannot identify the parameters, or the fit is no better than a constant.

    Warns
    -----
    CalibrationWarning
        If the residuals vanish or every std is the same share of its mean (a formula's output,
        not a measurement).
    """
    if form == "best":
        fit = _best(grid)
    elif form in FORMS:
        fit = _fit(grid, FORMS[form], chosen="asked for")
    else:
        raise ValueError(f"form must be one of best, {', '.join(FORMS)}; got {form!r}")
    if not fit.r_squared > 0:
        raise CalibrationError(
            f"grid {grid.name!r} (form {fit.form}) must be fitted better than by its mean, R² > 0, "
            f"got R² {fit.r_squared:.2f}; check its columns, or measure it again"
        )
    for doubt in _doubts(grid, fit):
        warnings.warn(f"grid {grid.name!r}: {doubt}", CalibrationWarning, stacklevel=2)
    return fit


def load_grid_model(path: str | Path, *, form: str = "best") -> LatencyModel:
    """The model fitted to a grid file (see `fit_grid`)."""
    return fit_grid(read_grid(path), form=form).model


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """A form: its linear unknowns, its own parameters, and the model they make."""

    name: str
    parameter_names: tuple[str, ...]
    design: Callable[[FloatArray, FloatArray], FloatArray]  # (b, L) -> (n, p)
    to_parameters: Callable[[FloatArray], FloatArray]  # linear unknowns -> parameters
    jacobian: Callable[[FloatArray, FloatArray], FloatArray]  # (design, parameters) -> (n, p)
    model: Callable[..., LatencyModel]


def _reference_design(b: FloatArray, tokens: FloatArray) -> FloatArray:
    return np.column_stack([np.ones_like(b), tokens, tokens * (b - 1) / b])


def _reference_parameters(linear: FloatArray) -> FloatArray:
    alpha_s, beta_s, beta_gamma_s = linear
    if beta_s == 0:
        raise CalibrationError("must show a latency that grows with max_seq_len to identify gamma")
    return np.array([alpha_s, beta_s, beta_gamma_s / beta_s])


def _reference_jacobian(design: FloatArray, parameters: FloatArray) -> FloatArray:
    ones, tokens, saturating = design.T
    _, beta_s, gamma = parameters
    return np.column_stack([ones, tokens + gamma * saturating, beta_s * saturating])


def _four_term_design(b: FloatArray, tokens: FloatArray) -> FloatArray:
    return np.column_stack([np.ones_like(b), tokens, b * tokens, b * tokens * tokens])


FORMS = {
    "reference": _Form(
        name="reference",
        parameter_names=("alpha_s", "beta_s_per_token", "gamma"),
        design=_reference_design,
        to_parameters=_reference_parameters,
        jacobian=_reference_jacobian,
        model=SaturatingModel,
    ),
    "four-term": _Form(
        name="four-term",
        parameter_names=("a0_s", "a1_s", "a2_s", "a3_s"),
        design=_four_term_design,
        to_parameters=lambda linear: linear,
        jacobian=lambda design, _: design,
        model=FourTermModel,
    ),
}


def _best(grid: LatencyGrid) -> LatencyFit:
    """The form with the smaller median relative error, of those the grid can identify."""
    fits: list[LatencyFit] = []
    refusals: list[CalibrationError] = []
    for form in FORMS.values():
        try:
            fits.append(_fit(grid, form, chosen="chosen for the smaller median relative error"))
        except CalibrationError as error:
            refusals.append(error)
    if not fits:
        raise refusals[0]
    if refusals:
        return _fit(grid, FORMS[fits[0].form], chosen="the only form this grid can identify")
    return min(fits, key=lambda fit: fit.median_relative_error)


def _fit(grid: LatencyGrid, form: _Form, *, chosen: str) -> LatencyFit:
    b, tokens = grid.batch_size.astype(np.float64), grid.max_seq_len.astype(np.float64)
    _check_identifiable(grid, form)
    sigma, weighting = _weights(grid)
    design = form.design(b, tokens)
    observed = grid.mean_latency_s
    try:
        linear = nonnegative_least_squares(design / sigma[:, None], observed / sigma)
        parameters = form.to_parameters(linear)
    except CalibrationError as error:
        raise CalibrationError(f"grid {grid.name!r} (form {form.name}) {error}") from None
    residuals = design @ linear - observed
    relative = np.abs(residuals) / observed
    chi_squared = float(np.sum((residuals / sigma) ** 2)) / (len(grid) - len(parameters))
    # Known standard errors are not shrunk by a lucky fit; unknown ones are read off the residuals.
    variance = chi_squared if weighting == "size" else max(1.0, chi_squared)
    r_squared = 1 - float(np.sum(residuals**2) / np.sum((observed - observed.mean()) ** 2))
    median, worst = float(np.median(relative)), float(relative.max())
    kind: Kind = "formula" if worst < EXACT else "measurement"
    return LatencyFit(
        form=form.name,
        parameter_names=form.parameter_names,
        parameters=parameters,
        covariance=variance
        * _inverse_information(form.jacobian(design, parameters) / sigma[:, None], linear > 0),
        r_squared=r_squared,
        median_relative_error=median,
        max_relative_error=worst,
        weighting=weighting,
        model=form.model(
            **dict(zip(form.parameter_names, parameters.tolist(), strict=True)),
            name=grid.name,
            kind=kind,
            measured=grid.measured,
            source=(
                f"form {form.name} ({chosen}), {len(grid)} cells, R² {r_squared:.4f}, "
                f"relative error median {median:.1%}, worst {worst:.1%}; {grid.source}"
            ),
        ),
    )


def _check_identifiable(grid: LatencyGrid, form: _Form) -> None:
    subject = f"grid {grid.name!r} (form {form.name})"
    for column, values in (("batch_size", grid.batch_size), ("max_seq_len", grid.max_seq_len)):
        if len(np.unique(values)) < 2:
            raise CalibrationError(
                f"{subject} must hold at least 2 values of {column}, got only {values[:1].tolist()}"
                "; their effects cannot be told apart"
            )
    needed = len(form.parameter_names) + 1
    if len(grid) < needed:
        raise CalibrationError(
            f"{subject} must have at least {needed} cells for its {needed - 1} parameters and "
            f"an error estimate, got {len(grid)}; measure more"
        )
    if np.ptp(grid.mean_latency_s) == 0:
        raise CalibrationError(f"{subject} must hold latencies that vary, got one value only")


def _weights(grid: LatencyGrid) -> tuple[FloatArray, str]:
    """Standard deviation taken for each cell [s], and what it was taken from.

    Where every cell has a std over at least two trials: the standard error of its mean, together
    with `MODEL_ERROR` of the mean, without which one quiet cell would decide the fit. Elsewhere
    the mean itself, up to a factor: relative errors count alike.
    """
    latency, std = grid.mean_latency_s, grid.std_latency_s
    if np.all(std > 0) and np.all(grid.n_trials >= 2):
        return np.hypot(std / np.sqrt(grid.n_trials), MODEL_ERROR * latency), "trials"
    return latency, "size"


def _inverse_information(jacobian: FloatArray, free: NDArray[np.bool_]) -> FloatArray:
    """(JᵀJ)⁻¹ over the free parameters, NaN in the rows and columns of the others."""
    covariance = np.full((len(free), len(free)), np.nan)
    kept = jacobian[:, free]
    scale = np.linalg.norm(kept, axis=0)
    inverse = np.linalg.inv((kept / scale).T @ (kept / scale)) / np.outer(scale, scale)
    covariance[np.ix_(free, free)] = inverse
    return covariance


def _doubts(grid: LatencyGrid, fit: LatencyFit) -> list[str]:
    """What speaks against taking this grid for a measurement."""
    doubts = []
    if fit.max_relative_error < EXACT:
        doubts.append(
            f"residual {fit.max_relative_error:.1%} in every cell: this is a formula's output, "
            "not a measurement"
        )
    shares = grid.std_latency_s / grid.mean_latency_s
    if len(grid) > 2 and shares.min() > 0 and np.ptp(shares) < EXACT * shares.max():
        doubts.append(
            f"std is {shares[0]:.1%} of the mean in every cell: this is not a spread of trials"
        )
    return doubts
