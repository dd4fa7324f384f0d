"""One form fitted to one grid: its parameters, their covariance, and how well it fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import CalibrationError, LatencyModel
from llmsched.latency.fit.estimate import Estimate, estimate, trials_of
from llmsched.latency.fit.forms import FORMS, Form
from llmsched.latency.fit.grid import LatencyGrid
from llmsched.latency.interpolation import InterpolationModel, monotone, to_table
from llmsched.latency.uncertainty import Uncertainty

FloatArray = NDArray[np.float64]

INTERPOLATION = "interpolation"
FORM_NAMES = (*FORMS, INTERPOLATION)
ROUNDING = 1e-12
EXACT = 1e-4  # relative residual below which a grid is a formula's output: no clock repeats so well


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyFit:
    """One form fitted to one grid, with how well it fits and how sure its parameters are."""

    form: str
    parameter_names: tuple[str, ...]
    parameters: FloatArray  # (p,) in SI units
    covariance: FloatArray  # (p, p); NaN for a parameter on its bound, where it is not defined
    degrees_of_freedom: int  # of what the covariance was read off: Student's t with so many
    model_error: float  # relative; what the residuals show beyond the trials, or in all
    r_squared: float  # of the whole batches, as the two errors below
    median_relative_error: float
    max_relative_error: float
    weighting: str
    model: LatencyModel
    grid: LatencyGrid
    estimate: Estimate | None  # None for the interpolation, which has no residuals

    @property
    def standard_errors(self) -> FloatArray:
        """Standard error of each parameter, shape (p,); NaN on a bound."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def at_bound(self) -> tuple[str, ...]:
        """The parameters that a bound holds: 0, or the largest γ."""
        if self.estimate is None:
            return ()
        pairs = zip(self.parameter_names, self.estimate.solution.free, strict=True)
        return tuple(name for name, free in pairs if not free)

    def intervals(self, level: float = 0.95) -> FloatArray:
        """Confidence interval of each parameter, shape (p, 2); NaN on a bound.

        Student's t around the estimate, cut at the bound 0.
        """
        from scipy.stats import t

        reach = t.ppf((1 + level) / 2, self.degrees_of_freedom) * self.standard_errors
        low = np.maximum(self.parameters - reach, 0)
        return np.column_stack([low, self.parameters + reach])

    def fitted_s(self) -> FloatArray:
        """What the model says for the cells of its grid [s], shape (n,)."""
        return np.asarray(self.model.service_s(self.grid.shapes()), dtype=np.float64)


def fit_form(grid: LatencyGrid, form: str, *, chosen: str) -> LatencyFit:
    """The fit of a grid in one form, however bad; `chosen` says in its source why this form.

    Raises
    ------
    ValueError
        If there is no such form.
    CalibrationError
        If the grid cannot identify its parameters.
    """
    if form not in FORM_NAMES:
        raise ValueError(f"form must be one of best, {', '.join(FORM_NAMES)}; got {form!r}")
    try:
        _check_axes(grid)
        if form == INTERPOLATION:
            return _interpolated(grid, chosen)
        _check_cells(grid, FORMS[form])
        problem = FORMS[form].problem(grid)
        found = estimate(problem.solve, problem.observed, problem.trials)
        return _parametric(grid, FORMS[form], found, chosen)
    except ValueError as error:  # of the grid, or of the model that would come out
        raise CalibrationError(f"grid {grid.name!r} (form {form}) {error}") from None


def exact_forms(grid: LatencyGrid) -> tuple[str, ...]:
    """The parametric forms that meet every cell within `EXACT`: the grid is their output."""
    found = []
    for form in FORMS:
        try:
            fit = fit_form(grid, form, chosen="compared")
        except CalibrationError:
            continue  # a form that the grid cannot identify did not make it
        if fit.max_relative_error < EXACT:
            found.append(form)
    return tuple(found)


def with_kind(fit: LatencyFit) -> LatencyFit:
    """The same fit; where a form made its grid its model is a formula, without errors to draw."""
    if fit.model.kind == "formula" or not exact_forms(fit.grid):
        return fit
    return replace(fit, model=_as_formula(fit.model))


def _as_formula(model: Any) -> LatencyModel:
    errors = "standard_errors_s" if isinstance(model, InterpolationModel) else "uncertainty"
    formula: LatencyModel = replace(model, kind="formula", **{errors: None})
    return formula


def _parametric(grid: LatencyGrid, form: Form, found: Estimate, chosen: str) -> LatencyFit:
    parameters, names = found.solution.parameters, form.parameter_names
    model = form.model(
        **dict(zip(names, parameters.tolist(), strict=True)),
        name=grid.name,
        kind="measurement",
        measured=form.measured(grid),
        source="",
    )
    errors = _errors(model, grid)
    formula = errors["max_relative_error"] < EXACT
    return LatencyFit(
        form=form.name,
        parameter_names=names,
        parameters=parameters,
        covariance=_covariance(found, found.solution.free),
        degrees_of_freedom=found.degrees_of_freedom,
        model_error=found.model_error,
        weighting=found.weighting,
        grid=grid,
        estimate=found,
        model=replace(
            model,
            kind="formula" if formula else "measurement",
            uncertainty=None if formula else _uncertainty(form, found),
            source=_source(form.name, chosen, grid, errors),
        ),
        **errors,
    )


def _interpolated(grid: LatencyGrid, chosen: str) -> LatencyFit:
    """The grid itself, made monotone in the least squares of relative errors where it is not."""
    b, tokens = np.unique(grid.batch_size), np.unique(grid.max_seq_len)
    _check_rectangle(grid, b, tokens)
    place = np.searchsorted(b, grid.batch_size), np.searchsorted(tokens, grid.max_seq_len)
    trials = trials_of(grid.mean_latency_s, grid.std_latency_s, grid.n_trials)
    measured_s, errors_s = np.empty((2, len(b), len(tokens)))
    measured_s[place] = grid.mean_latency_s
    errors_s[place] = np.nan if trials is None else trials.relative_error * grid.mean_latency_s
    times_s = monotone(measured_s, 1 / np.square(measured_s))
    moved = np.abs(times_s / measured_s - 1)
    if np.any(moved > ROUNDING):
        chosen += (
            f", {np.count_nonzero(moved > ROUNDING)} cells moved by up to {moved.max():.1%} so "
            "that more requests or tokens never take less time"
        )
    model = InterpolationModel(
        batch_sizes=tuple(b.astype(np.float64).tolist()),
        lengths=tuple(tokens.astype(np.float64).tolist()),
        times_s=to_table(times_s),
        standard_errors_s=None if trials is None else to_table(errors_s),
        name=grid.name,
        measured=grid.measured,
        source="",
    )
    errors = _errors(model, grid)
    return LatencyFit(
        form=INTERPOLATION,
        parameter_names=tuple(f"T({i}, {j})" for i in b for j in tokens),
        parameters=times_s.ravel(),
        covariance=np.diag(np.square(errors_s.ravel())),
        degrees_of_freedom=0 if trials is None else trials.degrees_of_freedom,
        model_error=0.0,
        weighting="size" if trials is None else "trials",
        grid=grid,
        estimate=None,
        model=replace(model, source=_source(INTERPOLATION, chosen, grid, errors)),
        **errors,
    )


def _errors(model: LatencyModel, grid: LatencyGrid) -> dict[str, Any]:
    """How far the model is from the whole batches of the grid."""
    observed = grid.mean_latency_s
    fitted = np.asarray(model.service_s(grid.shapes()))
    relative = np.abs(fitted / observed - 1)
    residual = float(np.sum((fitted - observed) ** 2))
    return {
        "r_squared": 1 - residual / float(np.sum((observed - observed.mean()) ** 2)),
        "median_relative_error": float(np.median(relative)),
        "max_relative_error": float(relative.max()),
    }


def _source(form: str, chosen: str, grid: LatencyGrid, errors: dict[str, Any]) -> str:
    return (
        f"form {form} ({chosen}), {len(grid)} cells, R² {errors['r_squared']:.4f}, relative error "
        f"median {errors['median_relative_error']:.1%}, worst {errors['max_relative_error']:.1%}; "
        f"{grid.source}"
    )


def _check_axes(grid: LatencyGrid) -> None:
    for column, values in (("batch_size", grid.batch_size), ("max_seq_len", grid.max_seq_len)):
        if len(np.unique(values)) < 2:
            raise CalibrationError(
                f"must hold at least 2 values of {column}, got only {values[:1].tolist()}"
                "; their effects cannot be told apart"
            )
    if np.ptp(grid.mean_latency_s) == 0:
        raise CalibrationError("must hold latencies that vary, got one value only")


def _check_cells(grid: LatencyGrid, form: Form) -> None:
    needed = len(form.parameter_names) + 1
    if len(grid) < needed:
        raise CalibrationError(
            f"must have at least {needed} cells for its {needed - 1} parameters and "
            f"an error estimate, got {len(grid)}; measure more"
        )


def _check_rectangle(grid: LatencyGrid, b: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
    there = list(zip(grid.batch_size.tolist(), grid.max_seq_len.tolist(), strict=True))
    cells = set(there)
    missing = [(i, j) for i in b.tolist() for j in tokens.tolist() if (i, j) not in cells]
    if missing:
        shown = ", ".join(f"batch {i} × {j} tokens" for i, j in missing[:5])
        raise CalibrationError(
            f"must have every batch size at every length, got {len(missing)} cells missing "
            f"({shown}{', ...' * (len(missing) > 5)}); take another form, or leave those rows or "
            "columns out"
        )
    if len(cells) != len(there):
        raise CalibrationError("must have each batch size and max_seq_len once, got several splits")


def _covariance(found: Estimate, free: NDArray[np.bool_]) -> FloatArray:
    """(JᵀWJ)⁻¹ over the free parameters, NaN in the rows and columns of the others."""
    covariance = np.full((len(free), len(free)), np.nan)
    covariance[np.ix_(free, free)] = _inverse_information(found, free)
    return covariance


def _inverse_information(found: Estimate, kept: NDArray[np.bool_]) -> FloatArray:
    jacobian = (found.solution.jacobian / found.deviation[:, None])[:, kept]
    scale = np.linalg.norm(jacobian, axis=0)
    scaled = jacobian / scale
    return np.asarray(np.linalg.inv(scaled.T @ scaled) / np.outer(scale, scale))


def _uncertainty(form: Form, found: Estimate) -> Uncertainty:
    """The errors to draw from: all parameters, those on their bound included (`Uncertainty`)."""
    moved = np.any(found.solution.jacobian != 0, axis=0)
    names = [name for name, used in zip(form.parameter_names, moved, strict=True) if used]
    matrix = _inverse_information(found, moved)
    return Uncertainty.of(names, matrix, degrees_of_freedom=found.degrees_of_freedom)
