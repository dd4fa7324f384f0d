"""What one step asks of one GPU: bytes to read and send, arithmetic, kernels.

A deployment gives the loads of a step in seconds at data-sheet rates, before any efficiency.
Weights are read once a step, of a mixture of experts only those that at least one token chose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmsched.hardware import GpuSpec, ModelSpec, ShapeError
from llmsched.latency.physics.constants import Place

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
    grouped: Any  # 1 where a group of heads shares keys and values, else 0
    mixed: Any  # 1 where one-token entries with grouped heads share the step with chunks, else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model on so many GPUs: `tp` share every matrix, `ep` of them the experts."""

    gpu: GpuSpec
    model: ModelSpec
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
            model=self.model.twin or self.model.name,
            engine=self.engine,
            precision=self.precision,
        )

    def work(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: float) -> Work:
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
        shared = model.moe_layers * model.shared_experts * model.expert_parameters
        plain = ((model.layers - model.moe_layers) * model.mlp_parameters + shared) / tp
        read, routed = self._experts(tokens)
        grouped = int(model.heads > model.kv_heads)
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
            grouped=grouped,
            # beside a chunk, the heads of a group no longer share one read of the cache
            mixed=grouped if prefills and n_decodes else 0,
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
        active = model.active_experts + model.shared_experts
        inner = (
            model.layers - model.moe_layers
        ) * model.intermediate + model.moe_layers * active * model.expert_intermediate
        routed = model.moe_layers * model.active_experts / self.ep
        hidden = model.hidden * (PASSES_HIDDEN * model.layers + PASSES_ROUTED * routed)
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
    return experts * (1 - float((1 - active / experts) ** tokens))


def window_pairs(chunk: int, kv: int, window: int) -> float:
    """Σ over a chunk's queries of the tokens they see, at most `window` each.

    Examples
    --------
    >>> window_pairs(4, 1, 3)  # 2 + 3 + 3 + 3
    11.0
    """
    rising = min(chunk, max(0, window - kv))
    return rising * kv + rising * (rising + 1) / 2 + float((chunk - rising) * window)
