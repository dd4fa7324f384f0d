"""A function as a latency model: for a notebook, where a class would be too much."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmsched.latency.base import BatchShape, Kind, LatencyModel, Shape

SCALAR, ARRAY = Shape(2, 300, 200, 100, 1.0), Shape(*np.full((5, 3), 100))


@dataclass(frozen=True)
class FunctionLatency(LatencyModel):
    """What a function of the batch's shape says, in seconds.

    Parameters
    ----------
    function : callable
        Maps a `BatchShape` to seconds > 0, with numbers and with arrays alike.
    name : str, optional
        In tables and notes; by default that of the function.

    Raises
    ------
    ValueError
        If it fails, or does not give one time for each batch.

    Examples
    --------
    >>> model = FunctionLatency(lambda batch: 0.02 + 0.01 * batch.max_output_tokens)
    >>> model.service_s(Shape(8, 300, 200, 100))
    1.02
    """

    function: Callable[[BatchShape], Any]
    name: str = ""
    kind: Kind = "formula"
    source: str = "a function of the user's"

    def __post_init__(self) -> None:
        named = getattr(self.function, "__name__", "function").replace("<lambda>", "lambda")
        object.__setattr__(self, "name", self.name or named)
        for shape in (SCALAR, ARRAY):
            self._try(shape)

    def service_s(self, batch: BatchShape) -> float:
        """What the function says [s]."""
        seconds: float = self.function(batch) + 0.0 * batch.size  # a constant is one time each
        return seconds

    def equation(self) -> str:
        """That it is a function."""
        return f"T = {self.name}(batch)"

    def _try(self, shape: Shape) -> None:
        what = "numbers" if shape is SCALAR else "arrays, one entry a batch"
        rule = f"latency {self.name} must give seconds > 0 for {what}"
        try:
            found = np.asarray(self.function(shape), dtype=np.float64)
        except Exception as error:
            hint = "; write numpy.maximum for max and numpy.where for if"
            raise ValueError(f"{rule}, got {type(error).__name__}: {error}{hint}") from error
        if found.shape not in ((), np.shape(shape.size)) or not (found > 0).all():
            raise ValueError(f"{rule}, got {found.tolist()!r}")


def as_latency(value: Any) -> LatencyModel:
    """The model itself, or the one that a function is.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if callable(getattr(value, "service_s", None)) and not inspect.isclass(value):
        model: LatencyModel = value
        return model
    if callable(value) and not inspect.isclass(value):
        return FunctionLatency(value)
    raise TypeError(
        f"latency must be a name, a file, a LatencyModel or a function of the batch, got {value!r}"
    )
