"""A batch as its steps: one prefill, then one decode step per further output token.

The form of a step is the one that continuous-batching simulators use: a floor c0 (the weights are
read once per step), prompt tokens that cost nothing until n0 of them fill the GPU's arithmetic and
cp each beyond it, a share cb per request, and ckv per token of keys and values read.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmsched.latency.base import BatchShape, FittedModel, Kind, MeasuredRange, check_coefficients
from llmsched.latency.uncertainty import Uncertainty

STEP_PARAMETERS = ("c0_s", "cp_s", "n0_tokens", "cb_s", "ckv_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel(FittedModel):
    """One step takes max(c0, c0 + cp·(n − n0)) + cb·b + ckv·kv; a batch is the sum of its steps.

    n is the step's prompt tokens, b its requests and kv the context tokens whose keys and values
    it reads.

    Notes
    -----
    A batch of b requests, all taken to be as long as the longest prompt p and output o, is one
    prefill step (n = b·p, kv = 0), which gives the first token, and o − 1 decode steps (n = 0),
    of which the t-th reads b·(p + t) tokens. Their sum is closed:

        T = max(c0, c0 + cp·(b·p − n0)) + cb·b + (o − 1)·(c0 + cb·b) + ckv·b·(o − 1)·(p + o/2)

    Attention inside the prefill, quadratic in p, is left out.

    Examples
    --------
    >>> model = StepModel(c0_s=0.01, cp_s=1e-4, n0_tokens=100, cb_s=1e-3, ckv_s=1e-6,
    ...                   name="hand", source="made up")
    >>> round(model.prefill_s(2, 200), 12)  # 0.01 + 0.03 + 0.002
    0.042
    >>> round(model.decode_step_s(2, 201), 12)  # 0.01 + 0.002 + 402e-6
    0.012402
    """

    c0_s: float
    cp_s: float  # per prompt token beyond n0
    n0_tokens: float
    cb_s: float  # per request and step
    ckv_s: float  # per KV token read
    name: str
    source: str
    kind: Kind = "measurement"
    measured: MeasuredRange | None = None
    uncertainty: Uncertainty | None = None

    def __post_init__(self) -> None:
        check_coefficients(self.name, self.c0_s, self.cp_s, self.n0_tokens, self.cb_s, self.ckv_s)

    def prefill_s(self, batch_size: int, prompt_tokens: int) -> float:
        """Time of the prefill, which gives the first token, of b prompts of p tokens each [s]."""
        # 1.0 first, so that int32 columns cannot overflow; (x > 0) works on arrays too
        excess = batch_size * (1.0 * prompt_tokens) - self.n0_tokens
        return self.c0_s + self.cp_s * (excess * (excess > 0)) + self.cb_s * batch_size

    def decode_step_s(self, batch_size: int, context_tokens: int) -> float:
        """Time of one decode step of b requests with that many tokens of context each [s]."""
        return (
            self.c0_s + self.cb_s * batch_size + self.ckv_s * (batch_size * (1.0 * context_tokens))
        )

    def service_s(self, batch: BatchShape) -> float:
        b, p, o = batch.size, batch.max_prompt_tokens, batch.max_output_tokens
        steps = o - 1 + (o < 1)  # none where o = 0
        decode_s = steps * (self.c0_s + self.cb_s * b)
        return self.prefill_s(b, p) + decode_s + self.ckv_s * (b * (steps * (p + 0.5 * o)))

    def equation(self) -> str:
        return (
            f"T = prefill + (o-1) decode steps; a step = {1e3 * self.c0_s:.4g} ms "
            f"+ {1e6 * self.cp_s:.4g} µs·max(0, n - {self.n0_tokens:.4g}) "
            f"+ {1e6 * self.cb_s:.4g} µs·b + {1e9 * self.ckv_s:.4g} ns·kv"
        )
