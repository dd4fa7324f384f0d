"""Bootstrap of a fit: the grid measured again on paper, and fitted again, many times.

Where the trials' errors are known, every observation is redrawn around the fitted time with the
error it was weighted by (parametric). Elsewhere the ratios observed/fitted are shuffled: centred in
the logarithm, widened for the parameters that were fitted, and drawn with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import CalibrationError
from llmsched.latency.fit.estimate import Estimate, estimate
from llmsched.latency.fit.form_fit import LatencyFit
from llmsched.latency.fit.forms import FORMS

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bootstrap:
    """Parameters of repeated fits."""

    form: str
    parameter_names: tuple[str, ...]
    parameters: FloatArray  # (n, p), of the fits that were possible
    refused: int  # redrawn grids that could not identify the parameters
    how: str  # what was redrawn

    def intervals(self, level: float = 0.95) -> FloatArray:
        """Percentile interval of each parameter, shape (p, 2)."""
        tails = [(1 - level) / 2, (1 + level) / 2]
        return np.asarray(np.quantile(self.parameters, tails, axis=0).T)

    @property
    def standard_errors(self) -> FloatArray:
        """Standard deviation of each parameter over the fits, shape (p,)."""
        return np.asarray(np.std(self.parameters, axis=0, ddof=1))


def bootstrap(fit: LatencyFit, n: int, rng: np.random.Generator) -> Bootstrap:
    """The parameters of `n` redrawn grids.

    Parameters
    ----------
    fit : LatencyFit
        Of a parametric form; an interpolation has no residuals to redraw.
    n : int
        How many, >= 2; for 95 % intervals take 1000.
    rng : Generator
        The only source of randomness.

    Raises
    ------
    ValueError
        If `n` is below 2.
    CalibrationError
        If the fit is an interpolation, or most redrawn grids cannot identify the parameters.
    """
    if n < 2:
        raise ValueError(f"a bootstrap must have at least 2 fits, got {n}")
    found = fit.estimate
    if found is None:
        raise CalibrationError(
            f"a bootstrap must have a parametric form, got {fit.form}, whose cells carry the "
            "errors of their trials; leave it out"
        )
    problem = FORMS[fit.form].problem(fit.grid)
    log_ratio = _log_ratios(problem.observed, found)
    rows, refused = [], 0
    for _ in range(n):
        noise = _noise(found, log_ratio, rng)
        try:
            again = estimate(problem.solve, found.solution.fitted * noise, problem.trials)
        except CalibrationError:
            refused += 1  # counted, and told by the caller
            continue
        rows.append(again.solution.parameters)
    if len(rows) < 2 or refused > n / 2:
        raise CalibrationError(
            f"grid {fit.grid.name!r} (form {fit.form}) must identify its parameters in redrawn "
            f"grids too, got {refused} of {n} that do not; measure more cells"
        )
    return Bootstrap(
        form=fit.form,
        parameter_names=fit.parameter_names,
        parameters=np.array(rows),
        refused=refused,
        how="errors of the trials" if found.weighting == "trials" else "residuals",
    )


def _log_ratios(observed: FloatArray, found: Estimate) -> FloatArray:
    """ln(observed/fitted), centred, and as wide as the noise before parameters were fitted."""
    log = np.log(observed / found.solution.fitted)
    wider = np.sqrt(len(log) / (len(log) - len(found.solution.parameters)))
    return np.asarray((log - log.mean()) * wider)


def _noise(found: Estimate, log_ratio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Factors of mean 1, or nearly, shape (m,): log-normal, so that no time is negative."""
    if found.weighting == "size":
        return np.asarray(np.exp(rng.choice(log_ratio, len(log_ratio))))
    variance = np.log1p(np.square(found.relative_error))
    normal = rng.standard_normal(len(variance))
    return np.asarray(np.exp(np.sqrt(variance) * normal - variance / 2))
