"""Step time of one forward pass: what a GPU reads, computes and sends, over its data-sheet rates.

Each part of a step takes the larger of its memory time and its compute time, and a share of the
smaller one that is not hidden; parts follow one another. Efficiencies and overheads are the
constants of `physics.constants`, fitted to measured servers; how well, `calibration/PHYSICS.md`
says. A batch that runs to its end is the sum of its steps.

Left out: CUDA-graph padding, pipeline parallelism, speculative decoding, several nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched.hardware import ShapeError, gpu_named, model_named
from llmsched.latency.base import Kind
from llmsched.latency.physics.constants import Constants, Fitted, fitted
from llmsched.latency.physics.work import BYTES_PER_WEIGHT, Deployment, Work
from llmsched.latency.steps.base import StepLatency

FloatArray = NDArray[np.float64]


def roof(memory_s: Any, compute_s: Any, unhidden: Any) -> Any:
    """The larger of two times plus the unhidden share of the smaller one; scalars or arrays."""
    return 0.5 * (1 + unhidden) * (memory_s + compute_s) + 0.5 * (1 - unhidden) * abs(
        memory_s - compute_s
    )


def step_seconds(work: Work, c: Constants) -> Any:
    """Time of a step [s]: the device's parts in turn, the host's work beside or after them."""
    return roof(device_seconds(work, c), host_seconds(work.entries, c), c.host_adds)


def host_seconds(entries: Any, c: Constants) -> Any:
    """The host's work on a step [s]."""
    return c.step_s + entries * c.request_s


def device_seconds(work: Work, c: Constants) -> Any:
    """The device's parts over their efficiencies, one after the other [s]."""
    cache = cache_efficiency(work.grouped, c)
    return (
        dense_seconds(work, c)
        + roof(work.kv_read / cache, work.kv_math / c.attention, c.unhidden)
        * (1 + (c.mixed_kv - 1) * work.mixed)
        + roof(work.chunk_read / cache, work.chunk_math / c.attention, c.unhidden)
    )


def cache_efficiency(grouped: Any, c: Constants) -> Any:
    """Share of the memory bandwidth at which keys and values are read."""
    return c.stream * c.cache * (1 + (c.grouped - 1) * grouped)


def dense_seconds(work: Work, c: Constants) -> Any:
    """The device's step without its attention [s]."""
    return (
        roof(
            work.projection_read / (c.stream * c.projection),
            work.projection_math / (c.gemm * c.projection_gemm),
            c.unhidden,
        )
        + roof(
            work.mlp_read / (c.stream * c.quantised),
            work.mlp_math / (c.gemm * c.quantised_gemm),
            c.unhidden,
        )
        + roof(
            work.expert_read / (c.stream * c.quantised * c.experts),
            work.expert_math / (c.gemm * c.quantised_gemm * c.expert_gemm),
            c.unhidden,
        )
        + roof(work.head_read / c.stream, work.head_math / c.gemm, c.unhidden)
        + work.activation_read / c.stream
        + work.send / c.link
        + work.sends * c.reduce_s
        + work.kernels * c.kernel_s
        + work.expert_layers * c.expert_layer_s
    )


class _Decode(NamedTuple):
    """Decode-only steps of n requests: max(floor, base + slope·kv + local·min(kv, window·n))."""

    base_s: float
    slope_s: float
    local_s: float
    window_tokens: int
    floor_s: float


@dataclass(slots=True, eq=False)
class PhysicsStep(StepLatency):
    """The step time of a deployment under given constants.

    Examples
    --------
    >>> h100 = step_model("physics:h100-sxm:llama-3.1-8b")
    >>> short, long = h100.step_s((), 8, 4_000), h100.step_s((), 8, 400_000)
    >>> 0.004 < short < 0.012 < long  # about 7 ms; the cache is read as well
    True
    """

    deployment: Deployment
    constants: Constants
    spread: Fitted | None = None  # where draws come from
    factor: float = 1.0  # on every step: a drawn deviation of this deployment
    kind: Kind = "physics"
    _decodes: dict[int, _Decode] = field(default_factory=dict, init=False, repr=False)

    @property
    def name(self) -> str:
        """The spec that gives this model."""
        return self.deployment.name

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        """Duration of one step [s].

        Parameters
        ----------
        prefills : sequence of (chunk, kv_before)
            Prompt tokens computed in this step and those computed before, per request [tokens].
        n_decodes : int
            Entries of one token with something computed before.
        decode_kv : int
            Their kv_before, summed [tokens].
        """
        if not prefills:
            decode = self._decodes.get(n_decodes) or self._decode(n_decodes)
            seconds = decode.base_s + decode.slope_s * decode_kv
            if decode.local_s:
                seconds += decode.local_s * min(decode_kv, decode.window_tokens)
            return seconds if seconds > decode.floor_s else decode.floor_s
        work = self.deployment.work(prefills, n_decodes, decode_kv)
        return self.factor * float(step_seconds(work, self.constants))

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
        """Durations of consecutive decode-only steps of one set of requests [s], shape (steps,)."""
        decode = self._decodes.get(n_decodes) or self._decode(n_decodes)
        kv = decode_kv + n_decodes * np.arange(steps, dtype=np.float64)
        seconds = decode.base_s + decode.slope_s * kv
        if decode.local_s:
            seconds += decode.local_s * np.minimum(kv, decode.window_tokens)
        return np.maximum(seconds, decode.floor_s)

    def _decode(self, n_decodes: int) -> _Decode:
        deployment, c, model = self.deployment, self.constants, self.deployment.model
        rates = deployment.gpu.bandwidth_bytes_per_s, deployment.gpu.rate("bf16")
        grouped = int(model.heads > model.kv_heads)
        per_token = roof(  # in all layers, had none a window
            deployment.kv_bytes(1e9, 1.0) / rates[0] / cache_efficiency(grouped, c),
            deployment.kv_flops(1e9, 1.0) / rates[1] / c.attention,
            c.unhidden,
        )
        local = model.window_layers / model.layers
        dense_s = dense_seconds(deployment.work((), n_decodes, 0), c)
        host_s = host_seconds(n_decodes, c)
        decode = _Decode(
            base_s=float(self.factor * (dense_s + c.host_adds * host_s)),
            slope_s=float(self.factor * per_token * (1 - local)),
            local_s=float(self.factor * per_token * local),
            window_tokens=model.window * n_decodes,
            floor_s=float(self.factor * (1 - c.host_adds) * host_s),
        )
        self._decodes[n_decodes] = decode
        return decode

    def draw(self, rng: np.random.Generator) -> PhysicsStep:
        """The same deployment under constants, and a deviation of its own, drawn from the spread.

        Raises
        ------
        ShapeError
            If the constants were given by hand, so that no spread is known.
        """
        if self.spread is None:
            raise ShapeError(f"{self.name} must have fitted constants to draw from, got given ones")
        constants, factor = self.spread.draw(self.deployment.place, rng)
        return replace(self, constants=constants, factor=factor)

    def describe(self) -> str:
        """GPU, model, constants and their spread, in one line."""
        deployment, c = self.deployment, self.constants
        grouped = int(deployment.model.heads > deployment.model.kv_heads)
        within = f"; within a factor of {self.spread.factor_95:.2f} (95 %)" if self.spread else ""
        return (
            f"{self.name} (physics): {deployment.gpu.name} by its data sheet, weights at "
            f"{c.stream:.0%} and cache at {cache_efficiency(grouped, c):.0%} of its bandwidth, "
            f"matrix products at {c.gemm:.0%} of its {deployment.precision} rate; "
            f"{1e6 * c.kernel_s:.1f} µs a kernel, {1e3 * c.step_s:.2f} ms a step on the host"
            f"{within}; {deployment.gpu.source}"
        )


def step_model(spec: str) -> PhysicsStep:
    """The model that `physics:GPU:MODEL[:tpN][:epN][:PRECISION][:ENGINE]` names.

    Parts after the model may stand in any order. GPU and MODEL may be TOML files of one's own.

    Raises
    ------
    ShapeError
        If the spec has another form, or names an unknown GPU, model, precision or engine.

    Examples
    --------
    >>> step_model("physics:h100:meta-llama/Llama-3.3-70B-Instruct:fp8:tp4").name
    'physics:h100-sxm:llama-3.1-70b:tp4:fp8'
    """
    head, *parts = spec.split(":")
    if head != "physics" or len(parts) < 2 or not all(parts):
        raise ShapeError(
            "a physics spec must be physics:GPU:MODEL[:tpN][:epN][:PRECISION][:ENGINE], "
            f"got {spec!r}"
        )
    constants = fitted()
    options: dict[str, Any] = {}
    for part in parts[2:]:
        key, value = _option(part, constants)
        if key in options:
            raise ShapeError(f"{spec!r} must say {key} once, got it again in {part!r}")
        options[key] = value
    gpu, model = gpu_named(parts[0]), model_named(parts[1])
    options.setdefault("precision", model.precision)
    deployment = Deployment(gpu=gpu, model=model, **options)
    return fitted_step(deployment, constants)


def fitted_step(deployment: Deployment, constants: Fitted | None = None) -> PhysicsStep:
    """A deployment under the fitted constants."""
    known = constants or fitted()
    best, factor = known.best(deployment.place)
    return PhysicsStep(deployment, best, spread=known, factor=factor)


def _option(part: str, constants: Fitted) -> tuple[str, Any]:
    if part in BYTES_PER_WEIGHT:
        return "precision", part
    if part in constants.engines:
        return "engine", part
    if part == "dp-attention":
        return "dp_attention", True
    if part[:2] in ("tp", "ep") and part[2:].isdecimal():
        return part[:2], int(part[2:])
    raise ShapeError(
        "a part after the model must be tpN, epN, dp-attention, a precision "
        f"({', '.join(BYTES_PER_WEIGHT)}) or an engine ({', '.join(constants.engines)}), "
        f"got {part!r}"
    )
