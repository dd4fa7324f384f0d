"""The forms of a latency model side by side, judged on cells that they were not fitted to.

Each batch size of the grid is left out in turn, the form is fitted to the others and asked for the
cells left out; then each length likewise. So the errors are those of interpolating between, and of
extrapolating one step beyond, what was measured. In-sample errors would always praise the form
with the most parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import CalibrationError
from llmsched.latency.fit.form_fit import (
    EXACT,
    FORM_NAMES,
    INTERPOLATION,
    LatencyFit,
    fit_form,
    with_kind,
)
from llmsched.latency.fit.grid import LatencyGrid

FloatArray = NDArray[np.float64]

LEAST_VALUES = 3  # of batch sizes and of lengths: two must remain when one is left out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Relative errors of one form on the cells left out, each predicted minus measured."""

    rows: FloatArray  # (n,) every cell once, while its batch size was left out
    columns: FloatArray  # (n,) every cell once, while its length was left out

    @property
    def median(self) -> float:
        """Median size of the relative error, rows and columns together."""
        return float(np.median(np.abs(np.concatenate([self.rows, self.columns]))))

    @property
    def worst(self) -> float:
        """Largest relative error, rows and columns together."""
        return float(np.max(np.abs(np.concatenate([self.rows, self.columns]))))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FormResult:
    """What became of one form on one grid; what is None is said why in `refusal`."""

    form: str
    fit: LatencyFit | None
    held_out: HeldOut | None
    refusal: str = ""

    @property
    def n_parameters(self) -> int:
        """How many numbers were fitted; 0 where none were."""
        return 0 if self.fit is None else len(self.fit.parameters)

    @property
    def aic(self) -> float:
        """Akaike's criterion for the logarithm of the time of a whole batch; smaller is better.

        n·ln(mean squared log error) + 2·(parameters + 1 for the variance); the same data for all
        forms, so their values compare. NaN for the interpolation, which leaves no residuals, and
        where the form was refused.
        """
        if self.fit is None or self.form == INTERPOLATION:
            return float("nan")
        error = np.log(self.fit.fitted_s() / self.fit.grid.mean_latency_s)
        return float(len(error) * np.log(np.mean(np.square(error))) + 2 * (self.n_parameters + 1))

    def to_dict(self) -> dict[str, Any]:
        """One row of the table of forms, in JSON types; None where there is no value."""
        fit, held = self.fit, self.held_out
        return {
            "form": self.form,
            "parameters": self.n_parameters or None,
            "r_squared": None if fit is None else fit.r_squared,
            "median_relative_error": None if fit is None else fit.median_relative_error,
            "max_relative_error": None if fit is None else fit.max_relative_error,
            "aic": None if np.isnan(self.aic) else self.aic,
            "held_out_median_relative_error": None if held is None else held.median,
            "held_out_max_relative_error": None if held is None else held.worst,
            "held_out_batch_sizes_median": None if held is None else _median(held.rows),
            "held_out_batch_sizes_max": None if held is None else _worst(held.rows),
            "held_out_lengths_median": None if held is None else _median(held.columns),
            "held_out_lengths_max": None if held is None else _worst(held.columns),
            "refusal": self.refusal or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FormComparison:
    """Every form on one grid, and the one to take."""

    grid: LatencyGrid
    results: tuple[FormResult, ...]  # in the order of FORM_NAMES
    best: LatencyFit  # its model says how it was chosen
    rule: str  # how, in words

    @property
    def best_parametric(self) -> LatencyFit | None:
        """The parametric form that the same rule would take; None where all are refused."""
        parametric = [result for result in self.results if result.form != INTERPOLATION]
        fitted = [result for result in parametric if result.fit is not None]
        return _best(fitted).fit if fitted else None

    def named(self, form: str) -> FormResult:
        """The result of one form."""
        return next(result for result in self.results if result.form == form)


def compare_forms(grid: LatencyGrid, *, forms: Sequence[str] = FORM_NAMES) -> FormComparison:
    """Fit every form, hold out rows and columns, and choose.

    Chosen is the smallest median relative error on the cells held out, over rows and columns;
    among equals (errors no further apart than `EXACT`, which is rounding, not prediction) the form
    with fewer parameters. Where no form can be cross-validated (fewer than
    three batch sizes or lengths, or too few cells) it is the parametric form with the smallest
    median relative error in sample.

    Raises
    ------
    CalibrationError
        If the grid can identify none of the forms.
    """
    results = tuple(_result(grid, form) for form in forms)
    fitted = [result for result in results if result.fit is not None]
    if not fitted:
        raise CalibrationError(results[0].refusal)
    best = _best(fitted)
    rule = _rule(best, fitted)
    taken = with_kind(fit_form(grid, best.form, chosen=rule))
    return FormComparison(grid=grid, results=results, best=taken, rule=rule)


def _best(fitted: Sequence[FormResult]) -> FormResult:
    """By what was held out; where nothing was, by the sample, which the interpolation repeats."""
    if validated := [result for result in fitted if result.held_out is not None]:
        least = min(map(_held_out_median, validated))
        equals = [one for one in validated if _held_out_median(one) <= least + EXACT]
        return min(equals, key=lambda one: (one.n_parameters, _held_out_median(one)))
    return min(_parametric(fitted), key=_by_sample)


def _rule(best: FormResult, fitted: Sequence[FormResult]) -> str:
    """How the best was chosen, in words."""
    if best.held_out is not None:
        return (
            f"chosen by cross-validation, median relative error {best.held_out.median:.1%} on "
            "batch sizes and lengths held out"
        )
    if len(_parametric(fitted)) == 1:
        return "the only parametric form this grid can identify"
    return (
        "chosen for the smaller median relative error, the grid being too small for "
        "cross-validation"
    )


def _parametric(fitted: Sequence[FormResult]) -> Sequence[FormResult]:
    """Those of a parametric form, if there are any."""
    return [result for result in fitted if result.form != INTERPOLATION] or fitted


def held_out_errors(grid: LatencyGrid, form: str) -> HeldOut:
    """Relative errors of a form on each batch size and each length, left out of the fit in turn.

    Raises
    ------
    CalibrationError
        If the grid has fewer than three batch sizes or lengths, or what remains of it cannot
        identify the form.
    """
    for column, values in (("batch_size", grid.batch_size), ("max_seq_len", grid.max_seq_len)):
        if len(np.unique(values)) < LEAST_VALUES:
            raise CalibrationError(
                f"grid {grid.name!r} must hold at least {LEAST_VALUES} values of {column} to leave "
                f"one out, got {np.unique(values).tolist()}"
            )
    return HeldOut(
        rows=_left_out_in_turn(grid, form, grid.batch_size),
        columns=_left_out_in_turn(grid, form, grid.max_seq_len),
    )


def _left_out_in_turn(grid: LatencyGrid, form: str, axis: NDArray[np.int64]) -> FloatArray:
    errors = np.empty(len(grid))
    for value in np.unique(axis):
        out = axis == value
        model = fit_form(grid.where(~out), form, chosen="cross-validation").model
        asked = grid.where(out)
        errors[out] = np.asarray(model.service_s(asked.shapes())) / asked.mean_latency_s - 1
    return errors


def _result(grid: LatencyGrid, form: str) -> FormResult:
    try:
        fit = fit_form(grid, form, chosen="compared")
    except CalibrationError as error:
        return FormResult(form=form, fit=None, held_out=None, refusal=str(error))
    result = FormResult(form=form, fit=fit, held_out=None)
    try:
        return replace(result, held_out=held_out_errors(grid, form))
    except CalibrationError as error:
        return replace(result, refusal=f"not cross-validated: {error}")


def _held_out_median(result: FormResult) -> float:
    assert result.held_out is not None
    return result.held_out.median


def _by_sample(result: FormResult) -> tuple[float, int]:
    assert result.fit is not None
    return result.fit.median_relative_error, result.n_parameters


def _median(errors: FloatArray) -> float:
    return float(np.median(np.abs(errors)))


def _worst(errors: FloatArray) -> float:
    return float(np.max(np.abs(errors)))
