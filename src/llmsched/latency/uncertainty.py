"""Calibration errors: the covariance of a latency model's parameters, and draws from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """How sure a model's parameters are; those not named here are taken as they are.

    Raises
    ------
    ValueError
        If the covariance is not a finite, symmetric, positive definite matrix of that size.
    """

    parameter_names: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]  # (p, p), of the parameters in SI units
    degrees_of_freedom: int | None = None  # of the residuals it was read off; None where known

    def __post_init__(self) -> None:
        p = len(self.parameter_names)
        if p == 0 or len(self.covariance) != p or any(len(row) != p for row in self.covariance):
            shape = [len(row) for row in self.covariance]
            raise ValueError(f"a covariance must be {p} x {p} for its parameters, got rows {shape}")
        matrix = self.matrix
        scale = np.sqrt(np.where(np.diag(matrix) > 0, np.diag(matrix), math.nan))
        correlation = matrix / np.outer(scale, scale)
        if not np.isfinite(correlation).all() or not np.allclose(correlation, correlation.T):
            raise ValueError("a covariance must be finite and symmetric, with variances > 0")
        if not np.linalg.eigvalsh(correlation)[0] > 0:
            raise ValueError("a covariance must be positive definite: its parameters hang together")
        if self.degrees_of_freedom is not None and self.degrees_of_freedom < 1:
            raise ValueError(f"degrees_of_freedom must be >= 1, got {self.degrees_of_freedom}")

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        matrix: FloatArray,
        *,
        degrees_of_freedom: int | None = None,
    ) -> Uncertainty:
        """The same from an array of shape (p, p)."""
        symmetric = (matrix + matrix.T) / 2
        return cls(
            parameter_names=tuple(names),
            covariance=tuple(tuple(row) for row in symmetric.tolist()),
            degrees_of_freedom=degrees_of_freedom,
        )

    @property
    def matrix(self) -> FloatArray:
        """The covariance as an array, shape (p, p)."""
        return np.array(self.covariance, dtype=np.float64)

    @property
    def standard_errors(self) -> FloatArray:
        """Standard error of each parameter, shape (p,)."""
        return np.sqrt(np.diag(self.matrix))

    def draw(
        self,
        centre: FloatArray,
        rng: np.random.Generator,
        *,
        upper: FloatArray | float = math.inf,
    ) -> FloatArray:
        """One draw of the parameters around `centre`, each in [0, upper], shape (p,).

        As if the grid were measured and fitted once more: a multivariate normal (Student's t
        where the variance itself was read off residuals) and, if that leaves the bounds, the
        point within them that is nearest in the metric of the covariance. For a model linear in
        its parameters this is exactly what bounded least squares make of data drawn around the
        fitted model, a parametric bootstrap; a parameter on its bound leaves it in about half of
        the draws.
        """
        scale = self.standard_errors
        factor = np.linalg.cholesky(self.matrix / np.outer(scale, scale))
        normal = rng.standard_normal(len(scale))
        if self.degrees_of_freedom is not None:
            normal *= math.sqrt(self.degrees_of_freedom / rng.chisquare(self.degrees_of_freedom))
        free = centre / scale + factor @ normal
        highest: FloatArray = np.asarray(np.divide(upper, scale), dtype=np.float64)
        if np.any(free < 0) or np.any(free > highest):
            free = _nearest_within(free, np.asarray(factor, dtype=np.float64), highest)
        return np.asarray(free * scale, dtype=np.float64)


def _nearest_within(free: FloatArray, factor: FloatArray, highest: FloatArray) -> FloatArray:
    """The x in [0, highest] with the smallest |factor⁻¹·(x − free)|, shape (p,)."""
    from scipy.optimize import lsq_linear

    whitening = np.linalg.inv(factor)
    found = lsq_linear(whitening, whitening @ free, bounds=(0, highest), method="bvls")
    return np.asarray(np.clip(found.x, 0, highest), dtype=np.float64)
