"""What a run's key is made of: names stay names, files enter by name and checksum.

A key is the same on every machine and Python: numbers enter by value, so that `4` and `4.0` GPUs
are one run, and paths do not matter. Objects enter by the checksum of their content.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsched._util.files import identity
from llmsched._util.options import plain_values
from llmsched.workload.workload import Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmsched.simulation.hardware import Hardware
    from llmsched.workload.trace import Trace


def content_key(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class _Canonical(dict[str, Any]):
    """Values that are canonical already: a profile has hundreds, and a sweep asks for it a lot."""


def _canonical(value: Any) -> Any:
    """Whole floats as integers, so that equal configurations give equal text; infinities by name.

    Other floats need nothing: Python writes the shortest text that reads back the same.
    """
    if isinstance(value, _Canonical):
        return value
    if isinstance(value, Mapping):
        return {str(name): _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    return value


def workload_content(workload: Workload | Trace) -> dict[str, Any]:
    """The fields of a workload, its source replaced by what the source holds."""
    if not isinstance(workload, Workload):
        return {"trace": workload.name, "sha256": trace_sha256(workload)}
    values = plain_values(workload)
    if not workload.resample:
        values.pop("resample", None)
    return {**values, "source": _source_content(workload)}


def source_sha256(workload: Workload | Trace) -> str | None:
    """Checksum of the trace file; None for what has its content in the key itself."""
    if not isinstance(workload, Workload) or workload.synthetic:
        return None
    return file_sha256(workload.source)


def trace_sha256(trace: Trace) -> str:
    """Of all that a run depends on, the same on every machine."""
    content: dict[str, Any] = {"columns": arrays_sha256(trace.columns())}
    if trace.prefix_ids is not None:
        content["tokens_per_id"] = trace.prefix_ids.tokens_per_id
    if trace.turns is not None:
        content |= {"users": trace.turns.users, "timed": trace.turns.timed}
    return content_key(content)


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Of the arrays' names, types and little-endian values, the same on every machine."""
    import numpy as np

    digest = hashlib.sha256()
    for name, array in arrays.items():
        little = array.dtype.newbyteorder("<")
        digest.update(f"{name}:{little.str}:{len(array)};".encode())
        digest.update(np.ascontiguousarray(array, dtype=little).data)
    return digest.hexdigest()


def part_content(part: Any) -> Any:
    """A name, or the name of an object and the checksum of what `pickle` makes of it.

    Raises
    ------
    ValueError
        If it cannot be pickled.
    """
    if part is None or isinstance(part, str):
        return part
    from joblib.externals.loky.cloudpickle_wrapper import dumps

    name = str(getattr(part, "name", getattr(part, "__name__", type(part).__name__)))
    try:
        content: bytes = dumps(part)
    except Exception as error:  # whatever its own hooks raise
        raise ValueError(
            f"{name} must be a name, or an object that can be pickled, got one that cannot "
            f"({type(error).__name__}: {error})"
        ) from error
    return {"object": name, "sha256": hashlib.sha256(content).hexdigest()}


def _source_content(workload: Workload) -> dict[str, Any]:
    from llmsched.workload.trace import TraceError

    if workload.synthetic:
        if not workload.source.endswith(".toml"):
            return {"profile": _profile_content(workload.source, "")}
        return {"profile": _profile_content(workload.source, file_sha256(workload.source))}
    if not Path(workload.source).is_file():
        workload.loader()  # says what is wrong with the name
        raise TraceError(f"{workload.source}: must be a file")
    return {"file": Path(workload.source).name, "sha256": file_sha256(workload.source)}


@lru_cache(maxsize=64)
def _profile_content(source: str, _sha256: str) -> dict[str, Any]:
    from dataclasses import asdict

    from llmsched.workload.synthetic.profiles import load_profile

    profile = load_profile(source)
    return _Canonical(_canonical({"kind": profile.kind, **asdict(profile)}))


def hardware_content(values: Mapping[str, Any], hardware: Hardware) -> dict[str, Any]:
    """The plain values of the hardware, files by name and checksum, objects by content."""
    found = {}
    for name, value in values.items():
        given = getattr(hardware, name)
        plain = given is None or isinstance(given, str | float | int)
        found[name] = named_content(value) if isinstance(value, str) else value
        found[name] = found[name] if plain else part_content(given)
    return found if hardware.draw is None else {**found, "draw": list(hardware.draw)}


def named_content(text: str) -> Any:
    """A name as it is; of a text that names files, their names and checksums."""
    files = named_files(text)
    if not files:
        return text
    bare = text
    for path in files:
        bare = bare.replace(str(path.parent) + "/", "")
    return {"name": bare, "sha256": [file_sha256(path) for path in files]}


def absolute(text: str) -> str:
    """The same text for a process with another working folder."""
    from llmsched.latency.steps.layer_tables import is_layer_prefix

    if text.startswith("physics:"):
        return ":".join(str(Path(p).resolve()) if Path(p).is_file() else p for p in text.split(":"))
    return str(Path(text).resolve()) if named_files(text) or is_layer_prefix(text) else text


def named_files(text: str) -> list[Path]:
    """The files that a latency, a step time, a GPU or a model is read from; none for a name."""
    from llmsched.latency.registry import is_latency_name
    from llmsched.latency.step_times import is_step_time_name
    from llmsched.latency.steps.layer_tables import layer_files

    if is_latency_name(text) or is_step_time_name(text):  # as `load_latency`: names first
        return []
    if text.startswith("physics:"):
        return [Path(part) for part in text.split(":") if Path(part).is_file()]
    for path in (Path(text), Path(text.rpartition("#")[0] or text)):
        if path.is_file():
            return [path]
    return layer_files(text)


def file_sha256(path: str | Path) -> str:
    """Checksum of a file's bytes, read anew only when the file is another or has changed."""
    return _file_sha256(str(Path(path).resolve()), identity(path))


@lru_cache(maxsize=256)
def _file_sha256(path: str, _changed: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
