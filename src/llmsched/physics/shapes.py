"""What a GPU's data sheet and a model's config.json say: rates, sizes, and the presets.

The presets are data (`calibration/gpus.toml`, `calibration/models.toml`); a file of the same form
with one table describes a GPU or a model of one's own.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from llmsched._data import data_folder

Precision = Literal["fp16", "bf16", "fp8", "fp4"]
SIZES = (
    *("parameters", "layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"),
)
LINKS = ("nvlink", "infinity-fabric", "pcie")


class ShapeError(ValueError):
    """A GPU or a model that is not known or not whole, with what was expected of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSheet:
    """A GPU as its data sheet describes it; rates are dense, with 32-bit accumulation."""

    name: str
    chip: str  # architecture, e.g. hopper
    flops_per_s: Mapping[str, float]  # by precision
    bandwidth_bytes_per_s: float
    memory_bytes: float
    link: str  # nvlink, infinity-fabric or pcie
    link_bytes_per_s: float  # what one GPU can send
    source: str

    def __post_init__(self) -> None:
        for column in ("bandwidth_bytes_per_s", "memory_bytes", "link_bytes_per_s"):
            _check_positive(f"{column} of GPU {self.name!r}", getattr(self, column))
        for precision, rate in self.flops_per_s.items():
            _check_positive(f"{precision} rate of GPU {self.name!r}", rate)
        if self.link not in LINKS:
            raise ShapeError(
                f"link of GPU {self.name!r} must be one of {', '.join(LINKS)}, got {self.link!r}"
            )

    def rate(self, precision: str) -> float:
        """Dense tensor-core rate [FLOP/s]; 16-bit formats stand for each other.

        Raises
        ------
        ShapeError
            If the tensor cores lack the precision.
        """
        twins = {"bf16": ("bf16", "fp16"), "fp16": ("fp16", "bf16")}
        for twin in twins.get(precision, (precision,)):
            if twin in self.flops_per_s:
                return self.flops_per_s[twin]
        known = ", ".join(sorted(self.flops_per_s))
        raise ShapeError(f"GPU {self.name!r} must have a {precision} rate, got {known}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The shape of a decoder: dense or a mixture of experts, grouped or latent (MLA) attention.

    Examples
    --------
    >>> llama = model_named("llama-3.1-8b")
    >>> llama.kv_numbers_per_token  # 32 layers × 8 heads × 128 × 2 (K, V)
    65536
    >>> round(llama.computed_parameters / 1e9, 2)
    8.03
    """

    name: str
    parameters: float  # as the checkpoint stores them
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    gated: bool = True  # three MLP matrices, not two
    tied: bool = False  # lm_head is the embedding
    experts: int = 0  # routed, in each MoE layer; 0 for a dense model
    active_experts: int = 0
    shared_experts: int = 0
    expert_intermediate: int = 0
    dense_layers: int = 0  # layers of a mixture of experts with an ordinary MLP
    window: int = 0  # tokens that a layer with a sliding window sees
    window_layers: int = 0
    q_rank: int = 0  # MLA
    kv_rank: int = 0  # MLA
    rope_dim: int = 0  # MLA
    precision: str = "bf16"  # of the published checkpoint

    def __post_init__(self) -> None:
        for column in SIZES:
            _check_positive(f"{column} of model {self.name!r}", getattr(self, column))
        if self.experts and not (
            0 < self.active_experts <= self.experts and self.expert_intermediate > 0
        ):
            raise ShapeError(
                f"active_experts of model {self.name!r} must be in [1, {self.experts}] with an "
                f"expert_intermediate, got {self.active_experts} and {self.expert_intermediate}"
            )
        for column in ("dense_layers", "window_layers"):
            if not 0 <= getattr(self, column) <= self.layers:
                raise ShapeError(
                    f"{column} of model {self.name!r} must be in [0, {self.layers}], "
                    f"got {getattr(self, column)}"
                )
        if bool(self.window) != bool(self.window_layers):
            raise ShapeError(f"model {self.name!r} must give window and window_layers together")

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's attention projections."""
        query = self.heads * (self.head_dim + self.rope_dim)
        out = self.heads * self.head_dim * self.hidden
        if not self.kv_rank:
            return self.hidden * (query + 2 * self.kv_heads * self.head_dim) + out
        into = self.hidden * query
        if self.q_rank:
            into = self.hidden * self.q_rank + self.q_rank * query
        latent = self.hidden * (self.kv_rank + self.rope_dim)
        return into + latent + self.kv_rank * self.heads * 2 * self.head_dim + out

    @property
    def mlp_parameters(self) -> int:
        """Weights of one ordinary MLP."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        return (3 if self.gated else 2) * self.hidden * self.expert_intermediate

    @property
    def head_parameters(self) -> int:
        """Weights of lm_head."""
        return self.vocab * self.hidden

    @property
    def computed_parameters(self) -> int:
        """All weights, from the shape (norms, biases and routers left out)."""
        moe = self.moe_layers * (self.experts + self.shared_experts) * self.expert_parameters
        dense = (self.layers - self.moe_layers) * self.mlp_parameters
        outside = self.head_parameters * (1 if self.tied else 2)
        return self.layers * self.attention_parameters + dense + moe + outside

    @property
    def kv_numbers_per_token(self) -> int:
        """Cached numbers of one token over all layers."""
        if self.kv_rank:
            return self.layers * (self.kv_rank + self.rope_dim)
        return self.layers * 2 * self.kv_heads * self.head_dim


def gpu_named(name: str) -> GpuSheet:
    """The GPU of that name or alias, or the one that a TOML file describes.

    Raises
    ------
    ShapeError
        If it is neither, or the file lacks a figure.
    """
    own = _own_file(name, "GPU")
    return _gpu(*own) if own else _named(name, _gpus(), "GPU")


def model_named(name: str) -> ModelShape:
    """The model of that name or alias (a publisher before `/` is ignored), or a TOML file's.

    Raises
    ------
    ShapeError
        If it is neither, or the file lacks a figure.
    """
    own = _own_file(name, "model")
    return _model(*own) if own else _named(name.rsplit("/", 1)[-1], _models(), "model")


def gpu_names() -> list[str]:
    """Names of the GPU presets, without aliases."""
    return sorted({gpu.name for gpu in _gpus().values()})


def model_names() -> list[str]:
    """Names of the model presets, without aliases."""
    return sorted({model.name for model in _models().values()})


@cache
def _gpus() -> dict[str, GpuSheet]:
    return _presets("gpus.toml", _gpu)


@cache
def _models() -> dict[str, ModelShape]:
    return _presets("models.toml", _model)


def _presets(file: str, build: Any) -> dict[str, Any]:
    tables = tomllib.loads((data_folder("calibration") / file).read_text(encoding="utf-8"))
    return {
        name: build(key, table)
        for key, table in tables.items()
        for name in (key, *table.get("aliases", []))
    }


def _named(name: str, presets: Mapping[str, Any], what: str) -> Any:
    try:
        return presets[name.lower()]
    except KeyError:
        near = ", ".join(get_close_matches(name.lower(), presets, n=3, cutoff=0.3))
        raise ShapeError(
            f"{what} must be a known name or a TOML file, got {name!r}; near it: {near or 'none'}"
        ) from None


def _own_file(name: str, what: str) -> tuple[str, dict[str, Any]] | None:
    if not name.endswith(".toml"):
        return None
    try:
        text = Path(name).read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ShapeError(
            f"{what} file must be a readable TOML file, got {name!r}: {error}"
        ) from error
    if len(tables) != 1 or not all(isinstance(table, dict) for table in tables.values()):
        raise ShapeError(
            f"{what} file {name!r} must hold one table, [NAME], got {', '.join(tables) or 'none'}"
        )
    return next(iter(tables.items()))


def _gpu(name: str, table: Mapping[str, Any]) -> GpuSheet:
    needed = ("tflops", "bandwidth_gb_s", "memory_gb", "link", "link_gb_s", "source")
    _check_keys(f"GPU {name!r}", table, (*needed, "chip", "aliases"), needed)
    rates = table["tflops"]
    if not isinstance(rates, dict) or not rates or not set(rates) <= {"bf16", "fp16", "fp8", "fp4"}:
        raise ShapeError(
            f"tflops of GPU {name!r} must be a table of bf16, fp16, fp8, fp4, got {rates!r}"
        )
    return GpuSheet(
        name=name,
        chip=str(table.get("chip", name)),
        flops_per_s={key: _number(f"{key} of GPU {name!r}", rates[key]) * 1e12 for key in rates},
        bandwidth_bytes_per_s=_number(f"bandwidth_gb_s of GPU {name!r}", table["bandwidth_gb_s"])
        * 1e9,
        memory_bytes=_number(f"memory_gb of GPU {name!r}", table["memory_gb"]) * 1e9,
        link=table["link"],
        link_bytes_per_s=_number(f"link_gb_s of GPU {name!r}", table["link_gb_s"]) * 1e9,
        source=str(table["source"]),
    )


def _model(name: str, table: Mapping[str, Any]) -> ModelShape:
    columns = [column for column in fields(ModelShape) if column.name != "name"]
    needed = [column.name for column in columns if column.default is MISSING]
    _check_keys(f"model {name!r}", table, [column.name for column in columns] + ["aliases"], needed)
    values = {key: value for key, value in table.items() if key != "aliases"}
    for key, value in values.items():
        if key == "precision":
            continue
        flag = key in ("gated", "tied")
        if isinstance(value, bool) != flag:
            raise ShapeError(
                f"{key} of model {name!r} must be {'true or false' if flag else 'a number'}"
            )
        if not flag:
            whole = key != "parameters"
            if not isinstance(value, int if whole else (int, float)) or value < 0:
                kind = "a whole number >= 0" if whole else "a number"
                raise ShapeError(f"{key} of model {name!r} must be {kind}, got {value!r}")
    return ModelShape(name=name, **values)


def _check_keys(what: str, table: Mapping[str, Any], known: Any, needed: Any) -> None:
    unknown = sorted(set(table) - set(known))
    missing = [key for key in needed if key not in table]
    if unknown or missing:
        raise ShapeError(
            f"{what} must have {', '.join(needed)}; missing: {', '.join(missing) or 'none'}, "
            f"unknown: {', '.join(unknown) or 'none'}"
        )


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ShapeError(f"{what} must be a number, got {value!r}")
    return float(value)


def _check_positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ShapeError(f"{what} must be finite and > 0, got {value}")
