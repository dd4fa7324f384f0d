"""What every latency model is: the shape of a batch that it sees, its range, and its verbs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.latency.uncertainty import Uncertainty

Kind = Literal["formula", "measurement", "physics"]


class CalibrationError(ValueError):
    """A latency grid or model that cannot be used, with what was expected of it."""


class CalibrationWarning(UserWarning):
    """A latency model used beyond its measurements, or a grid that is not a measurement."""


class ExtrapolationWarning(CalibrationWarning):
    """Batches beyond the measured range of a latency model."""


class BatchShape(Protocol):
    """What a latency model may see of a batch: scalars, or arrays with one entry per batch."""

    @property
    def size(self) -> int: ...
    @property
    def max_total_tokens(self) -> int: ...
    @property
    def max_prompt_tokens(self) -> int: ...
    @property
    def max_output_tokens(self) -> int: ...
    @property
    def max_service_s(self) -> float:
        """Longest drawn service time of one member [s], where the workload has them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """The shape of one batch, or of many: every field an int or an array of one common shape."""

    size: Any  # requests in the batch, b
    max_total_tokens: Any  # largest prompt + output of one member, L
    max_prompt_tokens: Any
    max_output_tokens: Any
    max_service_s: Any = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRange:
    """The smallest and largest value measured on each axis; None where an axis does not count."""

    size: tuple[int, int]
    max_total_tokens: tuple[int, int] | None = None
    max_prompt_tokens: tuple[int, int] | None = None
    max_output_tokens: tuple[int, int] | None = None

    def axes(self) -> list[tuple[str, tuple[int, int]]]:
        """The axes that count, as (name of the `Shape` field, (smallest, largest))."""
        named = [(axis, getattr(self, axis)) for axis in self.__slots__]
        return [(axis, bounds) for axis, bounds in named if bounds is not None]

    def outside(self, shapes: BatchShape) -> NDArray[np.bool_]:
        """Which shapes leave the range on any axis."""
        mask = np.zeros(np.shape(shapes.size), dtype=np.bool_)
        for axis, (low, high) in self.axes():
            values = np.asarray(getattr(shapes, axis))
            mask = mask | (values < low) | (values > high)
        return mask

    def __str__(self) -> str:
        return ", ".join(f"{AXIS_LABELS[axis]} {low}-{high}" for axis, (low, high) in self.axes())


AXIS_LABELS = {
    "size": "batch size",
    "max_total_tokens": "prompt + output tokens",
    "max_prompt_tokens": "prompt tokens",
    "max_output_tokens": "output tokens",
}


class LatencyModel(Protocol):
    """Time one batch holds its GPU; subclass it to inherit `outside`, `describe` and `draw`.

    `service_s` is called once per batch with Python scalars, and elementwise with arrays
    (see `Shape`), so it is plain arithmetic without branches.
    """

    __slots__ = ()

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def source(self) -> str: ...
    @property
    def measured(self) -> MeasuredRange | None:
        """Where the model was measured; None for a formula."""
        return None

    @property
    def uncertainty(self) -> Uncertainty | None:
        """The calibration errors of its parameters; None where they are not known."""
        return None

    def service_s(self, batch: BatchShape) -> float:
        """Time from the start of the batch to the end of its longest member [s]."""
        ...

    def equation(self) -> str:
        """The model with its numbers, in one line."""
        ...

    def outside(self, shapes: BatchShape) -> NDArray[np.bool_]:
        """Which shapes lie beyond the measured range; none for a formula."""
        if self.measured is None:
            return np.zeros(np.shape(shapes.size), dtype=np.bool_)
        return self.measured.outside(shapes)

    def describe(self) -> str:
        """Name, kind, equation, measured range, what is known of errors and source, in one line."""
        where = f"; measured at {self.measured}" if self.measured else ""
        errors = "; calibration errors known" if self.uncertainty else ""
        return f"{self.name} ({self.kind}): {self.equation()}{where}{errors}; {self.source}"

    def draw(self, rng: np.random.Generator) -> LatencyModel:
        """The same model with parameters drawn from its calibration errors.

        Raises
        ------
        CalibrationError
            If the model has none, as every formula.
        """
        raise no_calibration_errors(self)


def no_calibration_errors(model: LatencyModel) -> CalibrationError:
    """The error of a model that cannot be drawn from."""
    return CalibrationError(
        f"latency model {model.name!r} ({model.kind}) must have calibration errors to draw from, "
        "got none; take a measured set, a grid file, or a model file fitted to one"
    )


DRAWN = "; one draw of its calibration errors"  # what the source of a drawn model says


class FittedModel(LatencyModel, Protocol):
    """A dataclass whose parameters are fields, drawn in coordinates where it is linear."""

    __slots__ = ()

    def draw(self, rng: np.random.Generator) -> Self:
        """The same model with parameters drawn from its calibration errors.

        See `Uncertainty.draw` for the law and the bounds.

        Raises
        ------
        CalibrationError
            If the model has no calibration errors.
        """
        if self.uncertainty is None:
            raise no_calibration_errors(self)
        values = self._drawn(self.uncertainty, rng)
        fields: dict[str, Any] = {**values, "uncertainty": None, "source": self.source + DRAWN}
        return replace(self, **fields)  # type: ignore[type-var]  # every fitted model is one

    def _drawn(self, uncertainty: Uncertainty, rng: np.random.Generator) -> Mapping[str, float]:
        """The drawn parameters by name."""
        names = uncertainty.parameter_names
        centre = np.array([getattr(self, name) for name in names])
        return dict(zip(names, uncertainty.draw(centre, rng).tolist(), strict=True))


def check_coefficients(name: str, *coefficients: float) -> None:
    """Fail unless every coefficient is a finite number >= 0."""
    if not all(math.isfinite(value) and value >= 0 for value in coefficients):
        raise ValueError(f"coefficients of {name!r} must be finite and >= 0, got {coefficients}")


def service_times_s(model: LatencyModel, shapes: Shape) -> NDArray[np.float64]:
    """Service time of each shape [s], as an array of the shapes' common shape."""
    return np.asarray(model.service_s(shapes), dtype=np.float64)


def alone_s(model: LatencyModel, prompt_tokens: IntArray, output_tokens: IntArray) -> FloatArray:
    """Service time of each request when it is served alone [s], shape (n,)."""
    # 64 bits, as in Python's integers: a model may square a length
    prompt, output = prompt_tokens.astype(np.int64), output_tokens.astype(np.int64)
    return service_times_s(model, Shape(1, prompt + output, prompt, output))
