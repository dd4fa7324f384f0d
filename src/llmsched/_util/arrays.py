"""Array types that every room uses, and arrays that nobody can write to any more."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]
Array = TypeVar("Array", bound=NDArray[Any])


def read_only(values: Array) -> Array:
    """These values for good: as they are if nobody can write to their memory, else a copy."""
    return values if _is_settled(values) else given_up(values.copy())


def given_up(values: Array) -> Array:
    """An array of one's own making, read-only from now on; nothing is copied."""
    values.setflags(write=False)
    return values


def _is_settled(values: Any) -> bool:
    """Whether neither the array nor anything that it is a view of can be written to."""
    while isinstance(values, np.ndarray):
        if values.flags.writeable:
            return False
        values = values.base
    if values is None:
        return True
    try:
        return memoryview(values).readonly
    except TypeError:  # its owner does not say
        return False
