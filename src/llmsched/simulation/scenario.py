"""One run of a sweep as data: everything its numbers follow from, and a key made of its content.

The key is the same on every machine and Python: files enter by name and checksum, not by path,
and numbers by value, so that `4` and `4.0` GPUs are one run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmsched.engine.admission import Admission
from llmsched.hardware import DEFAULT_MODEL, MODELS
from llmsched.latency.registry import latency_names, load_latency
from llmsched.prediction.binning import Binning
from llmsched.prediction.predictors import predictor_from_spec
from llmsched.schedulers.registry import SCHEDULERS
from llmsched.schedulers.settings import Settings
from llmsched.workload.trace import TraceError
from llmsched.workload.workload import Workload

_KEY_VERSION = 1  # of what enters a key; another number gives every run another key


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run: a workload, a scheduler on some GPUs, and everything else that decides its numbers.

    The fields are the arguments of `llmsched.simulate`, as names and values only.
    """

    workload: Workload
    scheduler: str
    n_gpus: float = 4
    settings: Settings = field(default_factory=Settings)
    binning: Binning = field(default_factory=Binning)
    latency: str = "reference"
    predictor: str = "noisy"
    admission: Admission = "together"
    seed: int = 0
    llm: str = DEFAULT_MODEL.name

    def key(self) -> str:
        """The run's content key, 64 hexadecimal digits.

        Raises
        ------
        ValueError
            If the predictor is not known, or a trace, profile or grid file cannot be read.
        """
        return content_key(
            {
                "version": _KEY_VERSION,
                **self.to_dict(),
                "workload": workload_content(self.workload),
                "latency": latency_content(self.latency),
                "predictor": predictor_from_spec(self.predictor).name,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, those of `workload`, `settings` and `binning` nested."""
        values = asdict(replace(self, settings=replace(self.settings, latency=None)))
        return {**values, "settings": self.settings.to_dict()}

    def check(self) -> None:
        """Fail unless the run can be started: before the first run of a sweep, not after it.

        What `key` looks up anyway is left to it.

        Raises
        ------
        ValueError
            If a name is not known, or the GPUs or the seed are out of range.
        """
        SCHEDULERS.named(self.scheduler)
        if _grid_file(self.latency) is None:
            _check_latency(self.latency)
        if self.llm not in MODELS:
            raise ValueError(f"llm must be one of {', '.join(MODELS)}; got {self.llm!r}")
        if not self.n_gpus >= 1 or (self.n_gpus != math.inf and self.n_gpus != int(self.n_gpus)):
            raise ValueError(f"n_gpus must be a whole number >= 1 or inf, got {self.n_gpus}")
        if not 0 <= self.seed < 2**63:  # it is a column of 64-bit integers
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")

    def with_absolute_paths(self) -> RunConfig:
        """The same run (and key) for a process with another working folder."""
        workload, latency = self.workload, self.latency
        if not workload.synthetic or workload.source.endswith(".toml"):
            workload = replace(workload, source=str(Path(workload.source).resolve()))
        grid = _grid_file(latency)
        if grid is not None:
            path, form = grid
            latency = f"{path.resolve()}#{form}" if form else str(path.resolve())
        return replace(self, workload=workload, latency=latency)


def content_key(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _canonical(value: Any) -> Any:
    """Whole floats as integers, so that equal configurations give equal text; infinities by name.

    Other floats need nothing: Python writes the shortest text that reads back the same.
    """
    if isinstance(value, Mapping):
        return {str(name): _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    return value


def workload_content(workload: Workload) -> dict[str, Any]:
    """The fields of a workload, its source replaced by what the source holds."""
    return {**asdict(workload), "source": _source_content(workload)}


def source_sha256(workload: Workload) -> str | None:
    """Checksum of the trace file; None for a profile, whose content is in the key itself."""
    return None if workload.synthetic else file_sha256(workload.source)


def _source_content(workload: Workload) -> dict[str, Any]:
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
    from llmsched.workload.profiles import load_profile

    profile = load_profile(source)
    return {"kind": profile.kind, **asdict(profile)}


def latency_content(latency: str) -> Any:
    """The latency model's name, or the name, form and checksum of its grid file."""
    grid = _grid_file(latency)
    if grid is None:
        return latency
    path, form = grid
    return {"grid": path.name, "form": form, "sha256": file_sha256(path)}


def _grid_file(latency: str) -> tuple[Path, str] | None:
    """The path and the form (empty for the best) of a grid file; None for a model by name."""
    path, mark, form = latency.rpartition("#")
    if Path(latency).is_file():
        found = Path(latency), ""
    elif mark and Path(path).is_file():
        found = Path(path), form
    else:
        return None
    return None if latency in latency_names() else found  # as `load_latency`: names first


@lru_cache(maxsize=64)
def _check_latency(name: str) -> None:
    load_latency(name)  # raises, with the names that are near


def file_sha256(path: str | Path) -> str:
    """Checksum of a file's bytes, read anew only when its size or time of change moves."""
    status = Path(path).stat()
    return _file_sha256(str(Path(path).resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_sha256(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
