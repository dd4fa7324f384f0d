"""Latency models: how long a GPU needs for one batch, as a function of the batch's shape.

Every form (DESIGN §9, §12) is a frozen object with a name, a kind and a source:

- `SaturatingModel`, T = α + β·L·(1 + γ·(b − 1)/b), the reference formula of the project's origin;
- `PerTokenModel`, a fixed time per token of the longest output (the multi-bin paper);
- `FourTermModel`, T = a0 + a1·L + a2·b·L + a3·b·L², for grids that know only the total length L;
- `PromptOutputModel`, the same four terms with prompt and output taken apart, for measured GPUs.

`StepModel` and `InterpolationModel` have modules of their own. `latency` finds models by name, in
a model file, or fits them to a grid file. A batch runs until its longest member
ends; time spent waiting and continuous batching are not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmsched.latency.base import (
    AXIS_LABELS,
    BatchShape,
    CalibrationError,
    CalibrationWarning,
    FittedModel,
    Kind,
    LatencyModel,
    MeasuredRange,
    Shape,
    check_coefficients,
    service_times_s,
)
from llmsched.latency.uncertainty import Uncertainty

__all__ = [
    "AXIS_LABELS",
    "BatchShape",
    "CalibrationError",
    "CalibrationWarning",
    "DrawnModel",
    "FourTermModel",
    "Kind",
    "LatencyModel",
    "MeasuredRange",
    "PerTokenModel",
    "PromptOutputModel",
    "SaturatingModel",
    "Shape",
    "service_times_s",
]

SATURATING_PARAMETERS = ("alpha_s", "beta_s_per_token", "gamma")
MAX_GAMMA = 100.0  # of a fit: beyond it β cannot be told from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturatingModel(FittedModel):
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
    uncertainty: Uncertainty | None = None

    def __post_init__(self) -> None:
        check_coefficients(self.name, self.alpha_s, self.beta_s_per_token, self.gamma)

    def service_s(self, batch: BatchShape) -> float:
        b = batch.size
        tokens = batch.max_total_tokens
        return self.alpha_s + self.beta_s_per_token * tokens * (1 + self.gamma * (b - 1) / b)

    def equation(self) -> str:
        alpha_ms, beta_ms = 1e3 * self.alpha_s, 1e3 * self.beta_s_per_token
        return f"T = {alpha_ms:.4g} ms + {beta_ms:.4g} ms·L·(1 + {self.gamma:.4g}·(b-1)/b)"

    def _drawn(self, uncertainty: Uncertainty, rng: np.random.Generator) -> Mapping[str, float]:
        """Drawn as (α, β, β·γ), in which the form is linear, γ being their ratio."""
        names = uncertainty.parameter_names
        if names != SATURATING_PARAMETERS:
            return super()._drawn(uncertainty, rng)
        jacobian = np.eye(3)
        jacobian[2, 1:] = self.gamma, self.beta_s_per_token  # d(β·γ) = γ dβ + β dγ
        linear = Uncertainty.of(
            names,
            jacobian @ uncertainty.matrix @ jacobian.T,
            degrees_of_freedom=uncertainty.degrees_of_freedom,
        )
        centre = np.array([self.alpha_s, self.beta_s_per_token, self.beta_s_per_token * self.gamma])
        alpha_s, beta_s, beta_gamma_s = linear.draw(centre, rng).tolist()
        beta_s = max(beta_s, beta_gamma_s / MAX_GAMMA)  # as a fit does
        gamma = beta_gamma_s / beta_s if beta_s else 0.0
        return {"alpha_s": alpha_s, "beta_s_per_token": beta_s, "gamma": gamma}


@dataclass(frozen=True, slots=True, kw_only=True)
class PerTokenModel(LatencyModel):
    """T = s·o, o the longest output of the batch; prompt and batch size cost nothing."""

    output_token_s: float
    name: str
    source: str
    kind: Kind = "formula"
    measured: MeasuredRange | None = None

    def __post_init__(self) -> None:
        check_coefficients(self.name, self.output_token_s)

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
class FourTermModel(FittedModel):
    """T = a0 + a1·L + a2·b·L + a3·b·L², L the longest prompt + output, b the batch size."""

    a0_s: float
    a1_s: float  # per token
    a2_s: float  # per token and request
    a3_s: float  # per token² and request
    name: str
    source: str
    kind: Kind = "measurement"
    measured: MeasuredRange | None = None
    uncertainty: Uncertainty | None = None

    def __post_init__(self) -> None:
        check_coefficients(self.name, self.a0_s, self.a1_s, self.a2_s, self.a3_s)

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
class PromptOutputModel(FittedModel):
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
    uncertainty: Uncertainty | None = None

    def __post_init__(self) -> None:
        check_coefficients(self.name, self.a0_s, self.a1_s, self.a2_s, self.a3_s)
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

    def _drawn(self, uncertainty: Uncertainty, rng: np.random.Generator) -> Mapping[str, float]:
        names = uncertainty.parameter_names
        centre = np.array([getattr(self, name) for name in names])
        upper = np.array([1.0 if name == "prefill_share" else math.inf for name in names])
        drawn = uncertainty.draw(centre, rng, upper=upper)
        return dict(zip(names, drawn.tolist(), strict=True))
