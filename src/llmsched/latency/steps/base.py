"""What every step-time model is: the work of one forward pass in, seconds out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.latency.base import CalibrationError, Kind

_AHEAD = np.arange(4096, dtype=np.float64)


class StepLatency(Protocol):
    """How long one forward pass takes, without the overheads that the engine adds.

    A step has prefills, each `(chunk, kv_before)`: tokens computed now, and tokens whose keys and
    values are there already; and `n_decodes` requests with one token each and kv_before > 0, whose
    kv_before sum to `decode_kv`. Its entries are both together: `lm_head` and the sampler run for
    each of them.
    """

    __slots__ = ()

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        """Time of one step [s]."""
        ...

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
        """Times of steps in a row in which the same requests decode, shape (steps,) [s].

        The j-th equals `step_s((), n_decodes, decode_kv + j * n_decodes)` to the last bit.
        """
        ...

    def describe(self) -> str:
        """Name, kind, equation or grid, and source, in one line."""
        ...

    def outside(self) -> Mapping[str, int]:
        """Steps asked for beyond what was measured, counted by how; none for a formula."""
        return {}

    def draw(self, rng: np.random.Generator) -> StepLatency:
        """The same model with parameters drawn from their errors.

        Raises
        ------
        CalibrationError
            If these are not known.
        """
        raise CalibrationError(
            f"step time {self.name!r} must have known errors for latency uncertainty, got none; "
            "take a measured set, or physics:GPU:MODEL"
        )


@dataclass(frozen=True, slots=True)
class Scaled(StepLatency):
    """Another model's times, all multiplied by one factor."""

    model: StepLatency
    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor must be finite and > 0, got {self.factor}")

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def kind(self) -> Kind:
        return self.model.kind

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        return self.factor * self.model.step_s(prefills, n_decodes, decode_kv)

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
        return self.factor * self.model.decode_run_s(n_decodes, decode_kv, steps)

    def describe(self) -> str:
        return f"{self.model.describe()}; all times × {self.factor:.6g}"

    def outside(self) -> Mapping[str, int]:
        return self.model.outside()


def kv_ahead(n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
    """`decode_kv` at each of some decode steps in a row, shape (steps,), exact below 2^53."""
    ahead = _AHEAD[:steps] if steps <= len(_AHEAD) else np.arange(steps, dtype=np.float64)
    return decode_kv + n_decodes * ahead
