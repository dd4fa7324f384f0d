"""GPUs and models as far as memory goes: what fits, and how many tokens of KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """A GPU as far as its memory goes."""

    name: str
    memory_bytes: float

    def __post_init__(self) -> None:
        if not 0 < self.memory_bytes < math.inf:
            raise ValueError(f"memory_bytes must be finite and > 0, got {self.memory_bytes}")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The published shape of a model; bytes per weight and per cached number for 16 bits.

    Examples
    --------
    >>> MODELS["qwen3-1.7b"].kv_bytes_per_token  # 28 layers × 8 heads × 128 × 2 (K, V) × 2 bytes
    114688
    """

    name: str
    parameters: float
    n_layers: int
    n_kv_heads: int
    head_dim: int
    bytes_per_weight: float = 2
    bytes_per_kv: int = 2

    def __post_init__(self) -> None:
        for column in self.__slots__[1:]:
            if not 0 < getattr(self, column) < math.inf:
                raise ValueError(
                    f"{column} of model {self.name!r} must be finite and > 0, "
                    f"got {getattr(self, column)}"
                )

    @property
    def weight_bytes(self) -> float:
        """Memory the weights take [bytes]."""
        return self.parameters * self.bytes_per_weight

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one token's keys and values over all layers [bytes]."""
        return self.n_layers * self.n_kv_heads * self.head_dim * 2 * self.bytes_per_kv


def kv_capacity_tokens(gpu: GpuSpec, model: ModelSpec) -> float:
    """Tokens η whose keys and values fit beside the model's weights.

    Raises
    ------
    ValueError
        If the weights leave no room for a single token.

    Examples
    --------
    >>> round(kv_capacity_tokens(GPUS["default-12gb"], MODELS["qwen3-1.7b"]), 1)
    69231.3
    """
    capacity = (gpu.memory_bytes - model.weight_bytes) / model.kv_bytes_per_token
    if capacity < 1:
        raise ValueError(
            f"model {model.name!r} must fit GPU {gpu.name!r} with room for a token, got "
            f"{model.weight_bytes / 1e9:.2f} GB of weights in {gpu.memory_bytes / 1e9:.2f} GB; "
            "take a larger GPU or a smaller model"
        )
    return capacity


# Marketing sizes are decimal here (80 GB = 80e9 bytes), as for the default card of DESIGN §7.
GPUS = {
    gpu.name: gpu
    for gpu in (
        GpuSpec("default-12gb", 12e9),
        GpuSpec("t4-16gb", 16e9),
        GpuSpec("v100-32gb", 32e9),
        GpuSpec("rtx-3090-24gb", 24e9),
        GpuSpec("rtx-4090-24gb", 24e9),
        GpuSpec("l4-24gb", 24e9),
        GpuSpec("a10-24gb", 24e9),
        GpuSpec("l40s-48gb", 48e9),
        GpuSpec("a100-40gb", 40e9),
        GpuSpec("a100-80gb", 80e9),
        GpuSpec("h100-80gb", 80e9),
        GpuSpec("h200-141gb", 141e9),
        GpuSpec("gh200-96gb", 96e9),
    )
}


# Parameters as stored in the published checkpoints (Qwen3-0.6B and 1.7B store their tied embedding
# twice); layers, KV heads and head size as in each `config.json`.
MODELS = {
    model.name: model
    for model in (
        ModelSpec("qwen3-0.6b", 0.752e9, n_layers=28, n_kv_heads=8, head_dim=128),
        ModelSpec("qwen3-1.7b", 2.03e9, n_layers=28, n_kv_heads=8, head_dim=128),
        ModelSpec("qwen3-4b", 4.02e9, n_layers=36, n_kv_heads=8, head_dim=128),
        ModelSpec("qwen3-8b", 8.19e9, n_layers=36, n_kv_heads=8, head_dim=128),
        ModelSpec("qwen3-14b", 14.8e9, n_layers=40, n_kv_heads=8, head_dim=128),
        ModelSpec("qwen3-32b", 32.8e9, n_layers=64, n_kv_heads=8, head_dim=128),
        ModelSpec("llama-2-7b", 6.74e9, n_layers=32, n_kv_heads=32, head_dim=128),
        ModelSpec("llama-2-70b", 69.0e9, n_layers=80, n_kv_heads=8, head_dim=128),
        ModelSpec("llama-3-8b", 8.03e9, n_layers=32, n_kv_heads=8, head_dim=128),
        ModelSpec("llama-3-70b", 70.6e9, n_layers=80, n_kv_heads=8, head_dim=128),
        ModelSpec("llama-3.1-8b", 8.03e9, n_layers=32, n_kv_heads=8, head_dim=128),
        ModelSpec("llama-3.1-70b", 70.6e9, n_layers=80, n_kv_heads=8, head_dim=128),
        ModelSpec("llama-3.2-1b", 1.24e9, n_layers=16, n_kv_heads=8, head_dim=64),
        ModelSpec("mistral-7b", 7.24e9, n_layers=32, n_kv_heads=8, head_dim=128),
        ModelSpec("mixtral-8x7b", 46.7e9, n_layers=32, n_kv_heads=8, head_dim=128),
        ModelSpec("qwen1.5-7b", 7.72e9, n_layers=32, n_kv_heads=32, head_dim=128),
        ModelSpec("qwen2-7b", 7.62e9, n_layers=28, n_kv_heads=4, head_dim=128),
        ModelSpec("qwen2-72b", 72.7e9, n_layers=80, n_kv_heads=8, head_dim=128),
        # its KV heads differ by layer; 2 is the mean that follows from its published parameters
        ModelSpec("decilm-7b", 7.04e9, n_layers=32, n_kv_heads=2, head_dim=128),
        ModelSpec("phi-3.5-mini", 3.82e9, n_layers=32, n_kv_heads=32, head_dim=96),
    )
}


DEFAULT_GPU = GPUS["default-12gb"]
DEFAULT_MODEL = MODELS["qwen3-1.7b"]
