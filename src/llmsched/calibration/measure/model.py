"""A causal language model to be timed: from a folder, the hub, or a configuration alone.

How long a forward pass takes does not depend on the values of the weights, so a configuration with
random weights stands for the model that it describes, without a download.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmsched._util.files import data_folder
from llmsched.calibration.measure.torch_library import libraries, local_first, one_line, quiet
from llmsched.latency.base import CalibrationError

Device = Literal["cpu", "cuda"]
DType = Literal["float32", "bfloat16", "float16"]
_NEW_DTYPE_ARGUMENT = (4, 56)  # transformers from here on call it `dtype`
_SEED = 0  # of random weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What to load and where to put it.

    Raises
    ------
    CalibrationError
        If not exactly one of `pretrained` and `random_weights` is given, or `n_threads` is below 1,
        above the CPUs that this process may use, or meant for a GPU.
    """

    pretrained: str | None = None  # a folder, or the name of a model on the hub
    random_weights: str | None = None  # a configuration: shipped name, config.json or its folder
    device: Device = "cpu"
    dtype: DType = "float32"
    n_threads: int | None = None  # of a CPU, from then on in this process; None: torch's choice

    def __post_init__(self) -> None:
        if self.n_threads is not None and (self.n_threads < 1 or self.device != "cpu"):
            raise CalibrationError(
                f"threads must be >= 1 and are a CPU's, got {self.n_threads} on {self.device}"
            )
        if self.n_threads is not None and self.n_threads > usable_cpus():
            raise CalibrationError(
                f"threads must be at most the {usable_cpus()} CPUs that this process may use, got "
                f"{self.n_threads}"
            )
        if (self.pretrained is None) == (self.random_weights is None):
            raise CalibrationError(
                "exactly one model must be given: a folder or hub name (--model), or a "
                "configuration whose weights are made up (--random-weights)"
            )


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimedModel:
    """A model, ready to run: a callable with the forward pass of a causal LM of transformers."""

    forward: Callable[..., Any]  # (input_ids, past_key_values, use_cache, ...) -> logits and cache
    vocab_size: int
    max_tokens: int | None = None  # longest prompt + output, where the model has a limit
    device: Device = "cpu"
    dtype: DType = "float32"
    forward_options: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # for the provenance


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package: name -> JSON file."""
    return {path.stem: path for path in sorted(data_folder("calibration").glob("configs/*.json"))}


def config_file(text: str) -> Path:
    """The file that a `--random-weights` value means.

    Raises
    ------
    CalibrationError
        If there is no such file, folder with a `config.json`, or shipped name.
    """
    path = Path(text)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return path
    shipped = shipped_configs()
    if text not in shipped:
        raise CalibrationError(
            f"a configuration must be a config.json, a folder with one or one of "
            f"{', '.join(shipped)}; got {text!r}"
        )
    return shipped[text]


def load_timed_model(source: ModelSource, *, longest_tokens: int = 2) -> TimedModel:
    """The model, in inference mode, on its device, after one small forward pass.

    Parameters
    ----------
    source : ModelSource
        What to load and where to put it.
    longest_tokens : int
        Longest prompt + output that will be asked of it [tokens]; checked before the weights load.

    Raises
    ------
    CalibrationError
        If a library or the device is missing, the dtype is not supported there, the model cannot
        be loaded, it has no KV cache, or `longest_tokens` is beyond its positions.
    """
    torch, transformers = libraries()
    _check_device(torch, source)
    if source.n_threads is not None:
        torch.set_num_threads(source.n_threads)
    with quiet(transformers), one_line(_title(source)):
        config = _config(transformers, source)
        text_config = config.get_text_config()
        max_tokens = getattr(text_config, "max_position_embeddings", None)
        check_length(max_tokens, longest_tokens)
        model = _weights(torch, transformers, source, config)
        model = model.eval().to(source.device)
        options = _last_logits_only(model)
        _check_forward(torch, model, source, options)
    return TimedModel(
        forward=model,
        vocab_size=int(text_config.vocab_size),
        max_tokens=max_tokens,
        device=source.device,
        dtype=source.dtype,
        forward_options=options,
        facts=_facts(model, config, source),
    )


def _check_device(torch: Any, source: ModelSource) -> None:
    """Fail now if the device is not there or cannot compute in this dtype."""
    if source.device == "cuda" and not torch.cuda.is_available():
        raise CalibrationError(
            f"device cuda must be available to torch, and torch {torch.__version__} finds none; "
            "install a CUDA build and a driver, or use --device cpu"
        )
    dtype = getattr(torch, source.dtype)
    try:
        square = torch.ones(1, 1, 2, 2, dtype=dtype, device=source.device)
        torch.nn.functional.scaled_dot_product_attention(square, square @ square, square)
        supported = source.device == "cpu" or source.dtype != "bfloat16"
        supported = supported or torch.cuda.is_bf16_supported()
    except (RuntimeError, NotImplementedError):
        supported = False
    if not supported:
        raise CalibrationError(
            f"dtype must be one that {source.device} computes in, got {source.dtype}; "
            "use --dtype float32"
        )


def _title(source: ModelSource) -> str:
    if source.random_weights is not None:
        return f"configuration {source.random_weights!r}"
    return f"model {source.pretrained!r}"


def _config(transformers: Any, source: ModelSource) -> Any:
    """The configuration, of a kind that has a causal LM."""
    if source.random_weights is not None:
        config = _config_from_file(transformers, config_file(source.random_weights))
    else:
        config = local_first(
            source.pretrained or "",
            lambda local: transformers.AutoConfig.from_pretrained(
                source.pretrained, local_files_only=local, trust_remote_code=False
            ),
        )
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CalibrationError(
            f"{_title(source)} must be of a causal language model, got model_type "
            f"{config.model_type!r}"
        )
    return config


def _config_from_file(transformers: Any, path: Path) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CalibrationError(f"{path}: must be JSON, got: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise CalibrationError(
            f"{path}: must be a model's configuration with a model_type, such as qwen3; got none"
        )
    model_type = values.pop("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        raise CalibrationError(
            f"{path}: model_type must be one that transformers {transformers.__version__} knows, "
            f"got {model_type!r}"
        )
    return transformers.AutoConfig.for_model(model_type, **values)


def check_length(max_tokens: int | None, longest_tokens: int) -> None:
    """Fail if prompt + output [tokens] go beyond what the model has positions for.

    Raises
    ------
    CalibrationError
        If they do; None is no limit.
    """
    if max_tokens is not None and longest_tokens > max_tokens:
        raise CalibrationError(
            f"the grid does not fit: prompt + output must be <= {max_tokens} tokens for this "
            f"model (max_position_embeddings), got {longest_tokens}; leave out the longer lengths"
        )


def _weights(torch: Any, transformers: Any, source: ModelSource, config: Any) -> Any:
    """The model itself, with its own weights or with random ones, in the dtype asked for."""
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    name = "dtype" if version >= _NEW_DTYPE_ARGUMENT else "torch_dtype"
    dtype: Any = {name: getattr(torch, source.dtype)}
    auto = transformers.AutoModelForCausalLM
    if source.random_weights is None:
        return local_first(
            source.pretrained or "",
            lambda local: auto.from_pretrained(
                source.pretrained, local_files_only=local, trust_remote_code=False, **dtype
            ),
        )
    # made on the device itself: filling 1.7 billion weights takes a CPU half a minute
    with torch.random.fork_rng(), torch.device(source.device):
        torch.manual_seed(_SEED)
        return auto.from_config(config, trust_remote_code=False, **dtype)


def _last_logits_only(model: Any) -> dict[str, int]:
    """The option that spares the logits of the prompt, as serving engines do, where it is known."""
    import inspect

    known = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if known else {}


def _check_forward(torch: Any, model: Any, source: ModelSource, options: dict[str, int]) -> None:
    """One token after two: fails for what is no decoder with a KV cache."""
    with torch.inference_mode():
        ids = torch.zeros(1, 2, dtype=torch.long, device=source.device)
        result = model(input_ids=ids, use_cache=True, **options)
        cache = getattr(result, "past_key_values", None)
        if cache is None:
            raise CalibrationError(
                f"{_title(source)} must be of a causal language model with a KV cache, got a "
                f"{type(model).__name__} that returns none"
            )
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True, **options)


def _facts(model: Any, config: Any, source: ModelSource) -> dict[str, Any]:
    """What identifies the model, without paths of this machine."""
    values = json.loads(config.to_json_string(use_diff=False))
    values = {key: value for key, value in values.items() if key not in _NOT_OF_THE_MODEL}
    canonical = json.dumps(values, sort_keys=True).encode()
    random = source.random_weights is not None
    if random:
        path = config_file(source.random_weights or "")
        name = path.parent.resolve().name if path.name == "config.json" else path.stem
    else:
        path = Path(source.pretrained or "")
        name = path.resolve().name if path.exists() else str(source.pretrained)
    return {
        "name": name,
        "architecture": type(model).__name__,
        "weights": "random" if random else "pretrained",
        "revision": getattr(config, "_commit_hash", None),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "attention": getattr(config, "_attn_implementation", None),
        "config_sha256": hashlib.sha256(canonical).hexdigest(),
        "config": values,
    }


_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
