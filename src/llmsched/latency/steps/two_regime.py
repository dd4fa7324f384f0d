"""Step times in closed form: the two-regime form, and the steps of a batch-level model.

A step without a prefill and one with a prefill follow different laws: attention over the decodes'
keys and values costs about 1.6 times as much once a prefill is in the step, so one set of constants
for both is 10 % off in one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmsched._util.arrays import FloatArray
from llmsched.latency.base import CalibrationError, Kind, LatencyModel, check_coefficients
from llmsched.latency.formulas import PerTokenModel, PromptOutputModel
from llmsched.latency.step import StepModel
from llmsched.latency.steps.base import StepLatency, kv_ahead
from llmsched.latency.steps.batches import BatchOfSteps


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTerms:
    """A step of n decodes whose context sums to kv takes c0 + cb·n + ckv·kv."""

    c0_s: float
    cb_s: float  # per decode
    ckv_s: float  # per token of context


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedTerms:
    """A step with c prefill tokens takes c0 + cp·max(0, c + n − n0) + cb·n + ckv·kv + cpair·pairs.

    Pairs of a query and a key: chunk·(kv_before + chunk/2), summed over its prefills.
    """

    c0_s: float
    cp_s: float  # per token beyond n0
    n0_tokens: float
    cb_s: float  # per decode, beside its token
    ckv_s: float  # per token of the decodes' context
    cpair_s: float  # per pair


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeErrors:
    """How far a form is from the times that it was fitted to: relative errors, absolute values."""

    steps: int
    mean: float
    median: float
    max: float

    def __str__(self) -> str:
        return (
            f"{self.mean:.1%} on average, {self.median:.1%} in the median, {self.max:.0%} at worst "
            f"over {self.steps} steps"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoRegime(StepLatency):
    """Decode-only steps and steps with a prefill, each linear with constants of its own.

    Sums are evaluated left to right in double precision, as the two classes of terms print them,
    so that independent implementations agree bit by bit.

    Raises
    ------
    ValueError
        If a coefficient is negative or not finite.

    Examples
    --------
    >>> model = TwoRegime(
    ...     decode=DecodeTerms(c0_s=0.016, cb_s=1e-4, ckv_s=1e-6),
    ...     mixed=MixedTerms(c0_s=0.02, cp_s=1e-4, n0_tokens=96, cb_s=0, ckv_s=2e-6, cpair_s=1e-8),
    ...     name="hand",
    ... )
    >>> round(model.step_s((), 4, 1000), 12)  # 16 + 0.4 + 1 ms
    0.0174
    >>> round(model.step_s([(100, 50)], 4, 1000), 12)  # 20 + 0.8 + 2 + 0.1 ms
    0.0229
    """

    decode: DecodeTerms
    mixed: MixedTerms
    name: str
    source: str = "coefficients as given"
    kind: Kind = "formula"
    decode_errors: RegimeErrors | None = None  # against what it was fitted to
    mixed_errors: RegimeErrors | None = None

    def __post_init__(self) -> None:
        for terms in (self.decode, self.mixed):
            check_coefficients(self.name, *(getattr(terms, name) for name in terms.__slots__))

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        if not prefills:
            decode = self.decode
            return decode.c0_s + decode.cb_s * n_decodes + decode.ckv_s * decode_kv
        chunks, pairs = 0, 0.0
        for chunk, kv_before in prefills:
            chunks += chunk
            pairs += chunk * (kv_before + chunk / 2)
        mixed = self.mixed
        beyond = chunks + n_decodes - mixed.n0_tokens
        return (
            mixed.c0_s
            + mixed.cp_s * (beyond if beyond > 0 else 0)
            + mixed.cb_s * n_decodes
            + mixed.ckv_s * decode_kv
            + mixed.cpair_s * pairs
        )

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
        decode = self.decode
        kv = kv_ahead(n_decodes, decode_kv, steps)
        return decode.c0_s + decode.cb_s * n_decodes + decode.ckv_s * kv

    def scaled(self, factor: float) -> TwoRegime:
        """The same with all times multiplied by one factor."""
        decode = {name: factor * getattr(self.decode, name) for name in ("c0_s", "cb_s", "ckv_s")}
        times = ("c0_s", "cp_s", "cb_s", "ckv_s", "cpair_s")
        mixed = {name: factor * getattr(self.mixed, name) for name in times}
        source = f"{self.source}; all times × {factor:.6g}"
        return replace(
            self,
            decode=replace(self.decode, **decode),
            mixed=replace(self.mixed, **mixed),
            source=source,
            decode_errors=None,
            mixed_errors=None,
        )

    def with_errors(self, *, decode: RegimeErrors, mixed: RegimeErrors) -> TwoRegime:
        """The same with the errors of its fit."""
        return replace(self, decode_errors=decode, mixed_errors=mixed)

    def describe(self) -> str:
        d, m = self.decode, self.mixed
        errors = ""
        if self.decode_errors and self.mixed_errors:
            errors = f"; off by {self.decode_errors}; with a prefill {self.mixed_errors}"
        return (
            f"{self.name} ({self.kind}): decodes {1e3 * d.c0_s:.4g} ms + {1e6 * d.cb_s:.4g} µs·n "
            f"+ {1e9 * d.ckv_s:.4g} ns·kv; with a prefill {1e3 * m.c0_s:.4g} ms "
            f"+ {1e6 * m.cp_s:.4g} µs·max(0, c + n - {m.n0_tokens:.4g}) + {1e6 * m.cb_s:.4g} µs·n "
            f"+ {1e9 * m.ckv_s:.4g} ns·kv + {1e9 * m.cpair_s:.4g} ns·pairs{errors}; {self.source}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSteps(StepLatency):
    """The steps of a batch-level model whose prefill and decode steps can be told apart.

    Without a prefill c0 + cb·n + ckv·kv; with one
    c0 + cp·max(0, c − n0) + ce·prefills + ckv·kv_before of the prefills + cb·n + ckv·kv.

    Notes
    -----
    A batch of equal requests, prefilled in one step and then decoded together, takes as long as
    the batch model says. The batch model is measured on whole batches, so steps that mix prefills
    with decodes are an assumption: that their parts add up.
    """

    c0_s: float
    cp_s: float  # per prefill token beyond n0
    n0_tokens: float
    ce_s: float  # per prefill
    cb_s: float  # per decode
    ckv_s: float  # per token of context of the decodes
    ckv_prefill_s: float  # per token of context of the prefills
    of: LatencyModel

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def kind(self) -> Kind:
        return self.of.kind

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        if not prefills:
            return self.c0_s + self.cb_s * n_decodes + self.ckv_s * decode_kv
        chunks = before = 0
        for chunk, kv_before in prefills:
            chunks += chunk
            before += kv_before
        return (
            self.c0_s
            + self.cp_s * max(0, chunks - self.n0_tokens)
            + self.ce_s * len(prefills)
            + self.ckv_prefill_s * before
            + self.cb_s * n_decodes
            + self.ckv_s * decode_kv
        )

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
        kv = kv_ahead(n_decodes, decode_kv, steps)
        return self.c0_s + self.cb_s * n_decodes + self.ckv_s * kv

    def describe(self) -> str:
        return (
            f"{self.of.describe()}; taken step by step, prefills and decodes of one step added up"
        )


def steps_of(model: LatencyModel) -> StepLatency:
    """A batch-level latency model as a step-time model.

    Raises
    ------
    CalibrationError
        If its prefill and decode steps cannot be told apart.
    """
    if isinstance(model, BatchOfSteps):
        return model.step
    if type(model) not in _STEPS:
        raise CalibrationError(
            f"a step-time model must tell prefill and decode steps apart, got latency model "
            f"{model.name!r}, which knows whole batches only; take a measured set, a model of form "
            "step (`GRID.csv#step`), or a two-regime file"
        )
    return _STEPS[type(model)](model)


def has_steps(model: LatencyModel) -> bool:
    """Whether `steps_of` takes it."""
    try:
        steps_of(model)
    except CalibrationError:
        return False
    return True


def _steps_of_step_model(model: StepModel) -> BatchSteps:
    """The t-th decode step reads p + t tokens a request, one more than are there before it."""
    return BatchSteps(
        c0_s=model.c0_s,
        cp_s=model.cp_s,
        n0_tokens=model.n0_tokens,
        ce_s=model.cb_s,
        cb_s=model.cb_s + model.ckv_s,
        ckv_s=model.ckv_s,
        ckv_prefill_s=model.ckv_s,
        of=model,
    )


def _steps_of_prompt_output(model: PromptOutputModel) -> BatchSteps:
    """What T grows by from one output token to the next, and T of the first.

    T(o) − T(o-1) = a1 + b·(a2·(1 − w) + a3/1.5·(p + o − 1/2)), p + o − 2 tokens being there before.
    """
    if model.a0_s > 0:
        raise CalibrationError(
            f"a step-time model must have no cost per batch, got latency model {model.name!r} with "
            f"a0 = {1e3 * model.a0_s:.4g} ms; continuous batching has no batch to charge it to"
        )
    prompt_s, output_s = model.a2_s * model.prefill_share, model.a2_s * (1 - model.prefill_share)
    kv_s = model.a3_s / 1.5
    return BatchSteps(
        c0_s=model.a1_s,
        cp_s=prompt_s + kv_s,
        n0_tokens=0.0,
        ce_s=output_s + kv_s / 2,
        cb_s=output_s + 1.5 * kv_s,
        ckv_s=kv_s,
        ckv_prefill_s=0.0,
        of=model,
    )


def _steps_of_per_token(model: PerTokenModel) -> BatchSteps:
    """Every step gives one token and takes as long as any other."""
    return BatchSteps(
        c0_s=model.output_token_s,
        cp_s=0.0,
        n0_tokens=0.0,
        ce_s=0.0,
        cb_s=0.0,
        ckv_s=0.0,
        ckv_prefill_s=0.0,
        of=model,
    )


_STEPS: dict[type[Any], Callable[[Any], BatchSteps]] = {
    StepModel: _steps_of_step_model,
    PromptOutputModel: _steps_of_prompt_output,
    PerTokenModel: _steps_of_per_token,
}
