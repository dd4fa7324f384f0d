"""GPUs and models: data sheets, shapes, presets, and how many tokens of KV cache fit.

The presets are data (`calibration/gpus.toml`, `calibration/models.toml`); a file of the same form
with one table describes a GPU or a model of one's own. Marketing sizes are decimal: 80 GB = 80e9
bytes.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from llmsched._util.files import data_folder

T = TypeVar("T")
Precision = Literal["fp16", "bf16", "fp8", "fp4"]
PRECISIONS = ("fp16", "bf16", "fp8", "fp4")
BYTES_PER_WEIGHT: Mapping[str, float] = {"fp16": 2, "bf16": 2, "fp8": 1, "fp4": 0.5}
SIZES = (
    *("parameters", "layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"),
)
LINKS = ("nvlink", "infinity-fabric", "pcie")
MOST_BYTES = 1 << 20  # of a file that describes a GPU or a model


class ShapeError(ValueError):
    """A GPU or a model that is not known or not whole, with what was expected of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """A GPU as its data sheet describes it; rates are dense, with 32-bit accumulation.

    Only the memory is needed to serve batches under a given latency; the rest is for `physics:`.
    """

    name: str
    memory_bytes: float
    chip: str = ""  # architecture, e.g. hopper
    flops_per_s: Mapping[str, float] = field(default_factory=dict)  # by precision
    bandwidth_bytes_per_s: float = math.nan
    link: str = ""  # nvlink, infinity-fabric or pcie
    link_bytes_per_s: float = math.nan  # what one GPU can send
    source: str = ""

    def __post_init__(self) -> None:
        _check_positive(f"memory_bytes of GPU {self.name!r}", self.memory_bytes)
        for column in ("bandwidth_bytes_per_s", "link_bytes_per_s"):
            if not math.isnan(getattr(self, column)):
                _check_positive(f"{column} of GPU {self.name!r}", getattr(self, column))
        for precision, rate in self.flops_per_s.items():
            _check_positive(f"{precision} rate of GPU {self.name!r}", rate)
        if self.link and self.link not in LINKS:
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
        known = ", ".join(sorted(self.flops_per_s)) or "none"
        raise ShapeError(f"GPU {self.name!r} must have a {precision} rate, got {known}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a decoder: dense or a mixture of experts, grouped or latent (MLA) attention.

    Examples
    --------
    >>> llama = model_named("llama-3.1-8b")
    >>> llama.kv_bytes_per_token  # 32 layers × 8 heads × 128 × 2 (K, V) × 2 bytes
    131072
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
    twin: str = ""  # another model of this very shape, whose measurements are its own

    def __post_init__(self) -> None:
        for column in SIZES:
            _check_positive(f"{column} of model {self.name!r}", getattr(self, column))
        if self.precision not in PRECISIONS:
            raise ShapeError(
                f"precision of model {self.name!r} must be one of {', '.join(PRECISIONS)}, "
                f"got {self.precision!r}"
            )
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
    def weight_bytes(self) -> float:
        """Memory the weights take, in the precision of the checkpoint [bytes]."""
        return self.parameters * BYTES_PER_WEIGHT[self.precision]

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one token's keys and values over all layers, 16 bits a number [bytes]."""
        return 2 * self.kv_numbers_per_token

    @property
    def kv_numbers_per_token(self) -> int:
        """Cached numbers of one token over all layers."""
        if self.kv_rank:
            return self.layers * (self.kv_rank + self.rope_dim)
        return self.layers * 2 * self.kv_heads * self.head_dim

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


def kv_capacity_tokens(
    gpu: GpuSpec, model: ModelSpec, *, n_gpus: int = 1, memory_share: float = 1.0
) -> float:
    """Tokens η whose keys and values fit beside the model's weights.

    Parameters
    ----------
    n_gpus : int
        GPUs that hold one copy of the model together.
    memory_share : float
        Share of their memory that may be used at all.

    Raises
    ------
    ValueError
        If the weights leave no room for a single token.

    Examples
    --------
    >>> round(kv_capacity_tokens(GPUS["default-12gb"], MODELS["qwen3-1.7b"]), 1)
    69231.3
    """
    memory_bytes = memory_share * (n_gpus * gpu.memory_bytes)
    capacity = (memory_bytes - model.weight_bytes) / model.kv_bytes_per_token
    if capacity < 1:
        many = f"{n_gpus} GPUs" if n_gpus > 1 else "GPU"
        share = "" if memory_share == 1 else f", {memory_share:g} of the memory"
        raise ValueError(
            f"model {model.name!r} must fit {many} {gpu.name!r} with room for a token, got "
            f"{model.weight_bytes / 1e9:.2f} GB of weights in {memory_bytes / 1e9:.2f} GB{share}; "
            "take a larger GPU or a smaller model"
        )
    return capacity


class _Presets(Mapping[str, T], Generic[T]):
    """Named presets of a TOML file, read when the first is asked for; aliases are names, too."""

    def __init__(self, file: str, what: str, listed: str, build: Any, *more: T) -> None:
        self._file, self._what, self._listed = file, what, listed
        self._build, self._more = build, more

    @property
    def _all(self) -> dict[str, T]:
        return _read_presets(self._file, self._build) | {
            one.name: one  # type: ignore[attr-defined]
            for one in self._more
        }

    def __getitem__(self, name: str) -> T:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def names(self) -> list[str]:
        """The presets' own names, without aliases."""
        return list(dict.fromkeys(one.name for one in self.values()))  # type: ignore[attr-defined]

    def named(self, name: str) -> T:
        """The preset of that name, in any case; `ShapeError` where there is none."""
        found = self.get(name.lower())
        if found is None:
            near = ", ".join(get_close_matches(name.lower(), self, n=3, cutoff=0.3))
            raise ShapeError(
                f"{self._what} must be a known name or a TOML file, got {name!r}; "
                f"near it: {near or 'none'}; `llmsched list {self._listed}` has all"
            )
        return found


@cache
def _read_presets(file: str, build: Any) -> dict[str, Any]:
    tables = tomllib.loads((data_folder("calibration") / file).read_text(encoding="utf-8"))
    return {
        name: one
        for key, table in tables.items()
        for one in [build(key, table)]
        for name in (key, *table.get("aliases", []))
    }


def gpu_named(name: str) -> GpuSpec:
    """The GPU of that name or alias, or the one that a TOML file describes.

    Raises
    ------
    ShapeError
        If it is neither, or the file lacks a figure.
    """
    own = _own_file(name, "GPU")
    return _gpu(*own) if own else GPUS.named(name)


def model_named(name: str) -> ModelSpec:
    """The model of that name or alias (a publisher before `/` is ignored), or a TOML file's.

    Raises
    ------
    ShapeError
        If it is neither, or the file lacks a figure.
    """
    own = _own_file(name, "model")
    return _model(*own) if own else MODELS.named(name.rsplit("/", 1)[-1])


def _own_file(name: str, what: str) -> tuple[str, dict[str, Any]] | None:
    if not name.endswith(".toml"):
        return None
    try:
        with Path(name).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ShapeError(f"{what} file must have at most {MOST_BYTES} bytes, got {name!r}")
        tables = tomllib.loads(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        if isinstance(error, ShapeError):
            raise
        raise ShapeError(
            f"{what} file must be a readable TOML file, got {name!r}: {error}"
        ) from error
    if len(tables) != 1 or not all(isinstance(table, dict) for table in tables.values()):
        raise ShapeError(
            f"{what} file {name!r} must hold one table, [NAME], got {', '.join(tables) or 'none'}"
        )
    return next(iter(tables.items()))


def _gpu(name: str, table: Mapping[str, Any]) -> GpuSpec:
    needed = ("tflops", "bandwidth_gb_s", "memory_gb", "link", "link_gb_s", "source")
    _check_keys(f"GPU {name!r}", table, (*needed, "chip", "aliases"), needed)
    rates = table["tflops"]
    if not isinstance(rates, dict) or not rates or not set(rates) <= set(PRECISIONS):
        raise ShapeError(
            f"tflops of GPU {name!r} must be a table of {', '.join(PRECISIONS)}, got {rates!r}"
        )

    def giga(column: str) -> float:
        return _number(f"{column} of GPU {name!r}", table[column]) * 1e9

    return GpuSpec(
        name=name,
        chip=str(table.get("chip", name)),
        flops_per_s={key: _number(f"{key} of GPU {name!r}", rates[key]) * 1e12 for key in rates},
        bandwidth_bytes_per_s=giga("bandwidth_gb_s"),
        memory_bytes=giga("memory_gb"),
        link=table["link"],
        link_bytes_per_s=giga("link_gb_s"),
        source=str(table["source"]),
    )


def _model(name: str, table: Mapping[str, Any]) -> ModelSpec:
    columns = [column for column in fields(ModelSpec) if column.name != "name"]
    needed = [column.name for column in columns if column.default is MISSING]
    _check_keys(f"model {name!r}", table, [column.name for column in columns] + ["aliases"], needed)
    values = {key: value for key, value in table.items() if key != "aliases"}
    for key, value in values.items():
        if key in ("precision", "twin"):
            continue
        if key in ("gated", "tied"):
            if not isinstance(value, bool):
                raise ShapeError(f"{key} of model {name!r} must be true or false, got {value!r}")
            continue
        number = _number(f"{key} of model {name!r}", value)
        if number < 0 or (key != "parameters" and not isinstance(value, int)):
            raise ShapeError(f"{key} of model {name!r} must be a whole number >= 0, got {value!r}")
    return ModelSpec(name=name, **values)


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


DEFAULT_GPU = GpuSpec(name="default-12gb", memory_bytes=12e9)
DEFAULT_MODEL = "qwen3-1.7b"
GPUS: _Presets[GpuSpec] = _Presets("gpus.toml", "gpu", "gpus", _gpu, DEFAULT_GPU)
MODELS: _Presets[ModelSpec] = _Presets("models.toml", "llm", "models", _model)
