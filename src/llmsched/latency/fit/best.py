"""Fit a latency model to a measured grid: parameters with their errors, and refusals.

`latency_forms` has the parametric forms, `latency_estimate` what their errors mean, and
`latency_validation` compares the forms on cells that they were not fitted to.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from llmsched.latency.base import CalibrationError, CalibrationWarning, LatencyModel
from llmsched.latency.fit.form_fit import (
    EXACT,
    FORM_NAMES,
    INTERPOLATION,
    LatencyFit,
    exact_forms,
    fit_form,
    with_kind,
)
from llmsched.latency.fit.grid import LatencyGrid, read_grid

__all__ = [
    "EXACT",
    "FORM_NAMES",
    "INTERPOLATION",
    "LatencyFit",
    "checked",
    "doubts",
    "fit_form",
    "fit_grid",
    "load_grid_model",
]


def fit_grid(grid: LatencyGrid, *, form: str = "best") -> LatencyFit:
    """The fit of a grid in the form asked for, by default the form that predicts it best.

    Parameters
    ----------
    grid : LatencyGrid
        Measured means; weighted by what their trials say where every cell has a spread, else by
        their size, so that relative errors count alike (`latency_estimate`).
    form : {"best", "reference", "four-term", "step", "interpolation"}
        "best" takes the smallest median relative error on batch sizes and lengths that were held
        out of the fit (`latency_validation.compare_forms`).

    Raises
    ------
    ValueError
        If `form` is none of these.
    CalibrationError
        If the grid cannot identify the parameters, or the fit is no better than a constant.

    Warns
    -----
    CalibrationWarning
        If a parametric form meets every cell, or every std is the same share of its mean (a
        formula's output, not a measurement).
    """
    if form == "best":
        from llmsched.latency.fit.validation import compare_forms

        fit = compare_forms(grid).best
    else:
        fit = fit_form(grid, form, chosen="asked for")
    return checked(fit, stacklevel=3)


def load_grid_model(path: str | Path, *, form: str = "best") -> LatencyModel:
    """The model fitted to a grid file (see `fit_grid`)."""
    return fit_grid(read_grid(path), form=form).model


def checked(fit: LatencyFit, *, stacklevel: int = 2) -> LatencyFit:
    """The same fit, if it is better than a constant; its doubts are said aloud.

    Its model is called a formula if any parametric form meets every cell of the grid.

    Raises
    ------
    CalibrationError
        If it is not.

    Warns
    -----
    CalibrationWarning
        For every one of `doubts`.
    """
    if not fit.r_squared > 0:
        raise CalibrationError(
            f"grid {fit.grid.name!r} (form {fit.form}) must be fitted better than by its mean, "
            f"R² > 0, got R² {fit.r_squared:.2f}; check its columns, or measure it again"
        )
    for doubt in doubts(fit):
        message = f"grid {fit.grid.name!r}: {doubt}"
        warnings.warn(message, CalibrationWarning, stacklevel=stacklevel)
    return with_kind(fit)


def doubts(fit: LatencyFit) -> list[str]:
    """What speaks against taking the grid of a fit for a measurement."""
    grid, said = fit.grid, []
    if fit.form != INTERPOLATION and fit.max_relative_error < EXACT:
        said.append(
            f"residual {fit.max_relative_error:.1%} in every cell: this is a formula's output, "
            "not a measurement"
        )
    elif exact := exact_forms(grid):
        said.append(
            f"form {exact[0]} leaves a residual of {0:.1%} in every cell: this is a formula's "
            "output, not a measurement"
        )
    shares = grid.std_latency_s / grid.mean_latency_s
    if len(grid) > 2 and shares.min() > 0 and np.ptp(shares) < EXACT * shares.max():
        said.append(
            f"std is {shares[0]:.1%} of the mean in every cell: this is not a spread of trials"
        )
    return said
