"""Latency models: how long a GPU needs for one batch, as a function of the batch's shape.

Four forms (DESIGN §9, §12), every one a frozen object with a name, a kind and a source:

- `SaturatingModel`, T = α + β·L·(1 + γ·(b − 1)/b), the reference formula of the project's origin;
- `PerTokenModel`, a fixed time per token of the longest output (the multi-bin paper);
- `FourTermModel`, T = a0 + a1·L + a2·b·L + a3·b·L², for grids that know only the total length L;
- `PromptOutputModel`, the same four terms with prompt and output taken apart, for measured GPUs.

`latency` finds them by name or fits them to a grid file. A batch runs until its longest member
ends; time spent waiting and continuous batching are not modelled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["formula", "measurement"]


class CalibrationError(ValueError):
    """A latency grid or model that cannot be used, with what was expected of it."""


class CalibrationWarning(UserWarning):
    """A latency model used beyond its measurements, or a grid that is not a measurement."""


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
    """Time one batch holds its GPU; subclass it to inherit `outside` and `describe`.

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
        """Name, kind, equation, measured range and source, in one line."""
        where = f"; measured at {self.measured}" if self.measured else ""
        return f"{self.name} ({self.kind}): {self.equation()}{where}; {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturatingModel(LatencyModel):
    """T = α + β·L·(1 + γ·(b − 1)/b), L the longest prompt + output, b the batch size.

    Evaluated left to right in double precision, so that independent implementations agree bit by
    bit. It saturates in b: batches of 16 and 64 cost nearly the same, which no GPU we know of
    does (`calibration/README.md`).

    Examples
    --------
    >>> model = SaturatingModel(alpha_s=0.015, beta_s_per_token=0.0003, gamma=0.4,
    ...                         name="reference", source="issue")
    >>> round(model.service_s(Shape(4, 100, 60, 40)), 12)  # 0.015 + 0.03·(1 + 0.4·3/4)
    0.054
    """

    alpha_s: float
    beta_s_per_token: float
    gamma: float
    name: str
    source: str
    kind: Kind = "formula"
    measured: MeasuredRange | None = None

    def __post_init__(self) -> None:
        _check_coefficients(self.name, self.alpha_s, self.beta_s_per_token, self.gamma)

    def service_s(self, batch: BatchShape) -> float:
        b = batch.size
        tokens = batch.max_total_tokens
        return self.alpha_s + self.beta_s_per_token * tokens * (1 + self.gamma * (b - 1) / b)

    def equation(self) -> str:
        alpha_ms, beta_ms = 1e3 * self.alpha_s, 1e3 * self.beta_s_per_token
        return f"T = {alpha_ms:.4g} ms + {beta_ms:.4g} ms·L·(1 + {self.gamma:.4g}·(b-1)/b)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PerTokenModel(LatencyModel):
    """T = s·o, o the longest output of the batch; prompt and batch size cost nothing."""

    output_token_s: float
    name: str
    source: str
    kind: Kind = "formula"
    measured: MeasuredRange | None = None

    def __post_init__(self) -> None:
        _check_coefficients(self.name, self.output_token_s)

    def service_s(self, batch: BatchShape) -> float:
        return self.output_token_s * batch.max_output_tokens

    def equation(self) -> str:
        return f"T = {1e3 * self.output_token_s:.4g} ms·(longest output)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnModel(LatencyModel):
    """T = the longest drawn service time of the batch: the abstract models of queueing theory.

    The workload brings one time per request (`Trace.service_s`); tokens and batch size cost
    nothing. Guldogan et al., arXiv:2412.04504, section 3.
    """

    name: str = "drawn"
    source: str = "each request's own service time, drawn with the workload"
    kind: Kind = "formula"

    def service_s(self, batch: BatchShape) -> float:
        return batch.max_service_s

    def equation(self) -> str:
        return "T = max of the members' drawn service times"


@dataclass(frozen=True, slots=True, kw_only=True)
class FourTermModel(LatencyModel):
    """T = a0 + a1·L + a2·b·L + a3·b·L², L the longest prompt + output, b the batch size."""

    a0_s: float
    a1_s: float  # per token
    a2_s: float  # per token and request
    a3_s: float  # per token² and request
    name: str
    source: str
    kind: Kind = "measurement"
    measured: MeasuredRange | None = None

    def __post_init__(self) -> None:
        _check_coefficients(self.name, self.a0_s, self.a1_s, self.a2_s, self.a3_s)

    def service_s(self, batch: BatchShape) -> float:
        tokens = batch.max_total_tokens
        per_request_s = (self.a2_s + self.a3_s * tokens) * tokens
        return self.a0_s + self.a1_s * tokens + batch.size * per_request_s

    def equation(self) -> str:
        return (
            f"T = {1e3 * self.a0_s:.4g} ms + {1e3 * self.a1_s:.4g} ms·L "
            f"+ {1e6 * self.a2_s:.4g} µs·b·L + {1e9 * self.a3_s:.4g} ns·b·L²"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOutputModel(LatencyModel):
    """The four terms with the longest prompt p and the longest output o taken apart.

    T = a0 + a1·max(o, 1) + a2·b·(w·p + (1 − w)·o) + a3·b·(p + o/2)·o/1.5

    Notes
    -----
    A batch of b requests is one prefill pass and o − 1 decode steps (the prefill gives the first
    token):

    - every pass reads the weights once, c_w: o passes, and one even where o = 0: a1 = c_w;
    - the prefill computes b·p tokens at c_p each, a decode step b tokens at c_d each, so b·o of
      them: b·(c_p·p + c_d·o), that is a2 = c_p + c_d and w = c_p/a2, the prefill share;
    - the step that makes token t reads keys and values of p + t tokens per request at c_kv each;
      summed over t = 0..o it is b·c_kv·(p·o + o²/2).

    With p = o = L the last is 1.5·c_kv·b·L², hence a3 = 1.5·c_kv, and the whole is
    a0 + a1·L + a2·b·L + a3·b·L²: the form fitted to grids taken with prompt = output, which come
    out of it on their diagonal. The diagonal says nothing about w; a time to first token does
    (o = 1). Attention inside the prefill, quadratic in p, is left out (9 % of the time of a prefill
    of 8k tokens for Llama-2-70B on four H100, by the splitwise measurements).
    All b members are taken to be as long as the longest, so a mixed batch is an upper bound.

    Examples
    --------
    >>> model = PromptOutputModel(a0_s=0.5, a1_s=0.01, a2_s=0.001, a3_s=1.5e-6, prefill_share=0.25,
    ...                           name="hand", source="made up")
    >>> round(model.service_s(Shape(2, 300, 200, 100)), 12)  # 0.5 + 1.0 + 2·0.125 + 2·0.025
    1.8
    """

    a0_s: float
    a1_s: float  # per token
    a2_s: float  # per token and request
    a3_s: float  # per token² and request
    prefill_share: float  # w in [0, 1]
    name: str
    source: str
    kind: Kind = "measurement"
    measured: MeasuredRange | None = None

    def __post_init__(self) -> None:
        _check_coefficients(self.name, self.a0_s, self.a1_s, self.a2_s, self.a3_s)
        if not 0 <= self.prefill_share <= 1:
            raise ValueError(f"prefill_share must be in [0, 1], got {self.prefill_share}")

    def service_s(self, batch: BatchShape) -> float:
        p = batch.max_prompt_tokens
        o = batch.max_output_tokens
        w = self.prefill_share
        # (o < 1) counts as 1 and works on arrays too; (p + 0.5·o) is a float before it is
        # multiplied, so that int32 columns cannot overflow.
        return (
            self.a0_s
            + self.a1_s * (o + (o < 1))
            + batch.size * (self.a2_s * (w * p + (1 - w) * o) + self.a3_s * (p + 0.5 * o) * o / 1.5)
        )

    def equation(self) -> str:
        w = self.prefill_share
        return (
            f"T = {1e3 * self.a0_s:.4g} ms + {1e3 * self.a1_s:.4g} ms·o "
            f"+ {1e6 * self.a2_s:.4g} µs·b·({w:.3g}·p + {1 - w:.3g}·o) "
            f"+ {1e9 * self.a3_s:.4g} ns·b·(p·o + o²/2)/1.5"
        )


def _check_coefficients(name: str, *coefficients: float) -> None:
    if not all(math.isfinite(value) and value >= 0 for value in coefficients):
        raise ValueError(f"coefficients of {name!r} must be finite and >= 0, got {coefficients}")


def service_times_s(model: LatencyModel, shapes: Shape) -> NDArray[np.float64]:
    """Service time of each shape [s], as an array of the shapes' common shape."""
    return np.asarray(model.service_s(shapes), dtype=np.float64)
