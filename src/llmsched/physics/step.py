"""Step time of one forward pass: what a GPU reads, computes and sends, over its data-sheet rates.

Each part of a step takes the larger of its memory time and its compute time, and a share of the
smaller one that is not hidden; parts follow one another. Weights are read once a step, of a mixture
of experts only those that at least one token chose. Efficiencies and overheads are the constants of
`physics.constants`, fitted to measured servers. `calibration/PHYSICS.md` says how well.

Left out: CUDA-graph padding, pipeline parallelism, speculative decoding, several nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched.physics.constants import Constants, Fitted, Place, fitted
from llmsched.physics.shapes import GpuSheet, ModelShape, ShapeError, gpu_named, model_named

FloatArray = NDArray[np.float64]

BYTES_PER_WEIGHT = {"fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}  # fp4: and its scales
BYTES_PER_NUMBER = 2  # of activations and of cached keys and values
KERNELS_PER_LAYER = 9  # two norms, qkv, rope, attention, o, gate and up, activation, down
KERNELS_MLA = 2  # further products into and out of the latent space
KERNELS_QUANTISED = 2  # of activations, where no other kernel does it
PASSES_HIDDEN = 5  # reads and writes of (tokens, hidden) by norms, residuals and rope
PASSES_INTERMEDIATE = 3  # the same of (tokens, intermediate) by the activation
PASSES_ROUTED = 6  # the same of (tokens × active experts, hidden): gather, quantise, weigh, sum
CHUNK_TILE = 256  # queries that one pass over the cache serves; fewer cost as many


class Work(NamedTuple):
    """One step on one GPU, in seconds at data-sheet rates, and in counts; scalars or arrays."""

    projection_read: Any  # of weights
    projection_math: Any
    mlp_read: Any
    mlp_math: Any
    expert_read: Any
    expert_math: Any
    head_read: Any
    head_math: Any
    kv_read: Any  # attention of one-token entries
    kv_math: Any
    chunk_read: Any  # attention of prefill chunks
    chunk_math: Any
    activation_read: Any
    send: Any
    sends: Any  # all-reduces
    kernels: Any
    expert_layers: Any
    entries: Any
    mixed: Any  # 1 where chunks and one-token entries share the step, else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model on so many GPUs: `tp` share every matrix, `ep` of them the experts."""

    gpu: GpuSheet
    model: ModelShape
    tp: int = 1
    ep: int = 1
    precision: str = "bf16"
    dp_attention: bool = False  # each GPU attends for its own requests, with whole matrices
    engine: str = "vllm"

    def __post_init__(self) -> None:
        if self.precision not in BYTES_PER_WEIGHT:
            known = ", ".join(BYTES_PER_WEIGHT)
            raise ShapeError(f"precision must be one of {known}, got {self.precision!r}")
        self.gpu.rate(self.precision)
        heads = self.model.heads
        if not 1 <= self.tp <= heads or heads % self.tp:
            raise ShapeError(
                f"tp must divide the {heads} heads of {self.model.name}, got {self.tp}"
            )
        if self.ep < 1 or self.tp % self.ep or (self.ep > 1 and not self.model.experts):
            raise ShapeError(
                f"ep must divide tp = {self.tp} and needs a mixture of experts, got {self.ep}"
            )

    @property
    def name(self) -> str:
        """The spec that gives it."""
        parts = ["physics", self.gpu.name, self.model.name]
        parts += [f"tp{self.tp}"] if self.tp > 1 else []
        parts += [f"ep{self.ep}"] if self.ep > 1 else []
        parts += ["dp-attention"] if self.dp_attention else []
        parts += [self.precision] if self.precision != self.model.precision else []
        return ":".join(parts + ([self.engine] if self.engine != "vllm" else []))

    @property
    def place(self) -> Place:
        """What its constants depend on."""
        return Place(
            gpu=self.gpu.name,
            chip=self.gpu.chip,
            model=self.model.name,
            engine=self.engine,
            precision=self.precision,
        )

    def work(
        self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: float
    ) -> Work:
        """What one step asks of each GPU; arguments as in `PhysicsStep.step_s`."""
        model, gpu, tp = self.model, self.gpu, self.tp
        tokens = n_decodes + sum(chunk for chunk, _ in prefills)
        entries = n_decodes + len(prefills)
        bandwidth = gpu.bandwidth_bytes_per_s
        # fp4 checkpoints keep the attention projections in 16 bits
        projection = "bf16" if self.precision == "fp4" else self.precision
        rate_16, rate = gpu.rate("bf16"), gpu.rate(self.precision)
        own = tokens / tp if self.dp_attention else tokens  # tokens whose attention this GPU does
        projected = model.layers * model.attention_parameters / (1 if self.dp_attention else tp)
        plain = (model.layers - model.moe_layers) * model.mlp_parameters
        plain += model.moe_layers * model.shared_experts * model.expert_parameters
        plain /= tp
        read, routed = self._experts(tokens)
        head = model.head_parameters / tp
        return Work(
            projection_read=projected * BYTES_PER_WEIGHT[projection] / bandwidth,
            projection_math=2 * projected * own / gpu.rate(projection),
            mlp_read=plain * BYTES_PER_WEIGHT[self.precision] / bandwidth,
            mlp_math=2 * plain * tokens / rate,
            expert_read=read * BYTES_PER_WEIGHT[self.precision] / bandwidth,
            expert_math=2 * routed / rate,
            head_read=head * BYTES_PER_NUMBER / bandwidth,
            head_math=2 * head * entries / rate_16,
            kv_read=self.kv_bytes(n_decodes, decode_kv) / bandwidth,
            kv_math=self.kv_flops(n_decodes, decode_kv) / rate_16,
            chunk_read=sum(self.kv_bytes(1, kv) for _, kv in prefills) / bandwidth,
            chunk_math=sum(self.chunk_flops(chunk, kv) for chunk, kv in prefills) / rate_16,
            activation_read=self._activations(tokens) / bandwidth,
            send=self._sent(tokens) / gpu.link_bytes_per_s,
            sends=2 * model.layers if tp > 1 else 0,
            kernels=model.layers
            * (
                KERNELS_PER_LAYER
                + (KERNELS_MLA if model.kv_rank else 0)
                + (KERNELS_QUANTISED if self.precision in ("fp8", "fp4") else 0)
            ),
            expert_layers=model.moe_layers,
            entries=entries,
            mixed=1 if prefills and n_decodes else 0,
        )

    def _experts(self, tokens: float) -> tuple[float, float]:
        """Expert weights that the busiest GPU reads, and (weights × tokens) that it multiplies."""
        model = self.model
        if not model.moe_layers or not tokens:
            return 0.0, 0.0
        shard = model.moe_layers * model.expert_parameters / (self.tp / self.ep)
        chosen = distinct_experts(model.experts, model.active_experts, tokens)
        routed = tokens * model.active_experts / self.ep
        if self.ep == 1:
            return chosen * shard, routed * shard
        # the busiest of ep GPUs, by the normal law of the largest of ep draws
        z = math.sqrt(2 * math.log(self.ep))
        mean = chosen / self.ep
        spread = math.sqrt(max(0.0, mean * (1 - chosen / model.experts)))
        busiest = min(model.experts / self.ep, mean + z * spread)
        return busiest * shard, (routed + z * math.sqrt(routed)) * shard

    def kv_bytes(self, n_requests: float, kv: float) -> float:
        """Keys and values that one GPU reads for requests with so many tokens in all [bytes]."""
        model = self.model
        if self.dp_attention:
            share = 1 / self.tp
        elif model.kv_rank:
            share = 1.0  # every GPU holds the latent vectors for its own heads
        else:
            share = max(1 / self.tp, 1 / model.kv_heads)
        seen = self._seen(n_requests, kv)
        return share * BYTES_PER_NUMBER * model.kv_numbers_per_token / model.layers * seen

    def kv_flops(self, n_requests: float, kv: float) -> float:
        """Arithmetic of one-token attention on one GPU [FLOP]."""
        model = self.model
        key = model.kv_rank + model.rope_dim if model.kv_rank else model.head_dim
        value = model.kv_rank or model.head_dim
        return 2 * model.heads / self.tp * (key + value) * self._seen(n_requests, kv)

    def _seen(self, n_requests: float, kv: float) -> float:
        """Σ over layers of the tokens that attention looks at."""
        model = self.model
        local = min(kv, model.window * n_requests) if model.window_layers else 0.0
        return (model.layers - model.window_layers) * kv + model.window_layers * local

    def chunk_flops(self, chunk: int, kv: int) -> float:
        """Arithmetic of the attention of a prefill chunk after `kv` tokens, on one GPU [FLOP]."""
        model = self.model
        pairs = max(chunk, CHUNK_TILE) * kv + chunk * (chunk + 1) / 2
        local = window_pairs(chunk, kv, model.window) if model.window_layers else 0.0
        seen = (model.layers - model.window_layers) * pairs + model.window_layers * local
        return 2 * model.heads / self.tp * (2 * model.head_dim + model.rope_dim) * seen

    def _activations(self, tokens: float) -> float:
        model = self.model
        inner = (model.layers - model.moe_layers) * model.intermediate
        active = model.active_experts + model.shared_experts
        inner += model.moe_layers * active * model.expert_intermediate
        hidden = PASSES_HIDDEN * model.layers * model.hidden
        hidden += PASSES_ROUTED * model.moe_layers * model.active_experts * model.hidden / self.ep
        return BYTES_PER_NUMBER * tokens * (hidden + PASSES_INTERMEDIATE * inner / self.tp)

    def _sent(self, tokens: float) -> float:
        """Two all-reduces a layer, each sending 2(tp − 1)/tp of the hidden states [bytes]."""
        hidden = tokens * self.model.hidden * BYTES_PER_NUMBER
        return 2 * self.model.layers * 2 * (self.tp - 1) / self.tp * hidden


def distinct_experts(experts: int, active: int, tokens: float) -> float:
    """Expected number of experts that at least one token chose, choices being uniform.

    Examples
    --------
    >>> distinct_experts(8, 2, 1)
    2.0
    >>> distinct_experts(8, 2, 2)  # 8·(1 − (6/8)²)
    3.5
    """
    return experts * (1 - (1 - active / experts) ** tokens)


def window_pairs(chunk: int, kv: int, window: int) -> float:
    """Σ over a chunk's queries of the tokens they see, at most `window` each.

    Examples
    --------
    >>> window_pairs(4, 1, 3)  # 2 + 3 + 3 + 3
    11.0
    """
    rising = min(chunk, max(0, window - kv))
    return rising * kv + rising * (rising + 1) / 2 + float((chunk - rising) * window)


def roof(memory_s: Any, compute_s: Any, unhidden: Any) -> Any:
    """The larger of two times plus the unhidden share of the smaller one; scalars or arrays."""
    return (
        0.5 * (1 + unhidden) * (memory_s + compute_s)
        + 0.5 * (1 - unhidden) * abs(memory_s - compute_s)
    )


def step_seconds(work: Work, c: Constants) -> Any:
    """Time of a step [s]: the device's parts one after the other, and the host's beside or after."""
    return roof(device_seconds(work, c), host_seconds(work.entries, c), c.host_adds)


def host_seconds(entries: Any, c: Constants) -> Any:
    """The host's work on a step [s]."""
    return c.step_s + entries * c.request_s


def device_seconds(work: Work, c: Constants) -> Any:
    """The device's parts over their efficiencies, one after the other [s]."""
    return (
        dense_seconds(work, c)
        + roof(work.kv_read / (c.stream * c.cache), work.kv_math / c.attention, c.unhidden)
        * (1 + (c.mixed_kv - 1) * work.mixed)
        + roof(work.chunk_read / (c.stream * c.cache), work.chunk_math / c.attention, c.unhidden)
    )


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
class PhysicsStep:
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
    kind: Literal["physics"] = "physics"
    _decodes: dict[int, _Decode] = field(default_factory=dict, init=False, repr=False)

    @property
    def name(self) -> str:
        """The spec that gives this model."""
        return self.deployment.name

    def step_s(
        self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int
    ) -> float:
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
        per_token = roof(  # in all layers, had none a window
            deployment.kv_bytes(1e9, 1.0) / rates[0] / (c.stream * c.cache),
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
        deployment = self.deployment
        c = self.constants
        error = f"; within a factor of {self.spread.factor_95:.2f} (95 %)" if self.spread else ""
        return (
            f"{self.name} (physics): {deployment.gpu.name} by its data sheet, weights at "
            f"{c.stream:.0%} and cache at {c.stream * c.cache:.0%} of its bandwidth, matrix products at "
            f"{c.gemm:.0%} of its {deployment.precision} rate; {1e6 * c.kernel_s:.1f} µs a kernel, "
            f"{1e3 * c.step_s:.2f} ms a step{error}; {deployment.gpu.source}"
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
            f"a physics spec must be physics:GPU:MODEL[:tpN][:epN][:PRECISION][:ENGINE], got {spec!r}"
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
        f"a part after the model must be tpN, epN, dp-attention, a precision "
        f"({', '.join(BYTES_PER_WEIGHT)}) or an engine ({', '.join(constants.engines)}), got {part!r}"
    )
