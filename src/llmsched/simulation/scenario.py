"""One scenario: everything that the numbers of one run follow from.

The only way a run is described, from Python, the command line, configuration files, sweeps and
studies. Its key is made of content, the same on every machine and Python: files enter by name and
checksum, not by path, and numbers by value, so that `4` and `4.0` GPUs are one run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from llmsched._util.options import (
    check_option,
    check_options,
    field_types,
    known_keys,
    option,
    options_of,
    plain_values,
)
from llmsched.engine.admission import Admission
from llmsched.prediction.binning import Binning
from llmsched.schedulers.settings import Settings
from llmsched.simulation.hardware import Hardware
from llmsched.workload.slo import Slo
from llmsched.workload.workload import Workload

if TYPE_CHECKING:
    from llmsched.hardware import GpuSpec, ModelSpec
    from llmsched.latency.base import LatencyModel
    from llmsched.prediction.predictors import Predictor
    from llmsched.schedulers.base import Scheduler
    from llmsched.schedulers.registry import SchedulerFactory
    from llmsched.workload.trace import Trace

SECTIONS: dict[str, type] = {
    "workload": Workload,
    "hardware": Hardware,
    "slo": Slo,
    "settings": Settings,
    "binning": Binning,
}
_KEY_VERSION = 3  # of what enters a key; another number gives every run another key


class Parts(TypedDict, total=False):
    """What may be said of a scenario by keyword, in any function that takes one."""

    n_gpus: float
    latency: LatencyModel | str
    gpu: GpuSpec | str
    llm: ModelSpec | str
    predictor: Predictor | str
    binning: Binning | int | str
    settings: Settings
    slo: Slo | float
    admission: Admission
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that the numbers of one run follow from.

    Parameters
    ----------
    workload : Workload or Trace
        Which requests come, and how fast.
    scheduler : str, function or Scheduler
        A registered name, a function from `Settings` to a `Scheduler`, or the latter.
    settings : Settings
        What the scheduler is told beside what follows from `slo` and `hardware`.
    hardware : Hardware
        GPUs, the model on them, and how long work takes there.
    predictor : str or Predictor
        What the scheduler believes of output lengths.
    binning : Binning
        How a scheduler with bins splits the requests.
    slo : Slo
        What the senders expect.
    admission : {"together", "one-by-one"}
        What a waiting GPU sees of arrivals at one instant.
    seed : int
        Root seed of the synthetic workload, the jitter and the predictor's noise.

    Raises
    ------
    ValueError
        If a value is out of range or two contradict each other; `check` looks names up as well.

    Examples
    --------
    >>> scenario = Scenario(workload=Workload(source="poisson"), scheduler="static_fifo")
    >>> scenario.on(8).hardware.n_gpus, scenario.random
    (8, True)
    """

    workload: Workload | Trace = field(default_factory=Workload)
    scheduler: str | SchedulerFactory | Scheduler = "multi_bin_dynamic"
    settings: Settings = field(default_factory=Settings)
    hardware: Hardware = field(default_factory=Hardware)
    predictor: str | Predictor = option(
        "noisy",
        "Of output lengths: oracle, noisy[:SIGMA], bin-error:P, confusion:bert, prompt-power-law.",
        metavar="SPEC",
        parse=str,
    )
    binning: Binning = field(default_factory=Binning)
    slo: Slo = field(default_factory=Slo)
    admission: Admission = option(
        "together",
        "What a waiting GPU sees of arrivals at one instant.",
        choices=get_args(Admission),
    )
    seed: int = option(
        0,
        "Of the synthetic workload, the jitter and the predictor's noise.",
        metavar="N",
        least=0,
        most=2**63 - 1,
    )

    def __post_init__(self) -> None:
        check_options(self)
        told_s = self.settings.sla_s
        if told_s is None:
            return
        if self.slo.latency_s not in (Slo().latency_s, told_s):
            raise ValueError(
                f"settings.sla_s must be left out or equal slo.latency_s = {self.slo.latency_s:g}, "
                f"got {told_s:g}"
            )
        object.__setattr__(self, "slo", replace(self.slo, latency_s=told_s))
        object.__setattr__(self, "settings", replace(self.settings, sla_s=None))

    @property
    def scheduler_name(self) -> str:
        """What results call the scheduler."""
        if isinstance(self.scheduler, str):
            return self.scheduler
        return getattr(self.scheduler, "__name__", type(self.scheduler).__name__)

    @property
    def sla_s(self) -> float:
        """Longest latency that is not a violation [s]; infinite where none is set."""
        return math.inf if self.slo.latency_s is None else self.slo.latency_s

    @property
    def random(self) -> bool:
        """Whether another seed gives another run."""
        if isinstance(self.workload, Workload) and self.workload.random:
            return True
        return self.policy().binned and self.predictor_object().random

    def policy(self) -> Scheduler:
        """The scheduler's policy objects, fresh for one run."""
        from llmsched.schedulers.registry import make_scheduler

        hardware = self.hardware.resolved()
        told = self.settings.resolved(
            sla_s=self.sla_s if math.isfinite(self.sla_s) else 1e9,
            capacity_tokens=self.settings.capacity_tokens or hardware.capacity_tokens,
            latency=hardware.latency,
        )
        return make_scheduler(self.scheduler, told)

    def predictor_object(self) -> Predictor:
        """The predictor that its text stands for."""
        from llmsched.prediction.predictors import predictor_from_spec

        if isinstance(self.predictor, str):
            return predictor_from_spec(self.predictor)
        return self.predictor

    def requests(self, seed: int | None = None) -> Trace:
        """The requests that a run with this seed replays, by default with its own.

        Raises
        ------
        TraceError
            If they cannot be read, or there are none.
        """
        from llmsched.workload.prepare import at_scale
        from llmsched.workload.trace import TraceError

        trace = self.workload
        if isinstance(trace, Workload):
            trace = trace.load(self.seed if seed is None else seed)
            if self.workload.held_load is not None:
                trace = at_scale(trace, self.rate_factor(trace))
        if not len(trace):
            raise TraceError(f"trace {trace.name!r} must hold at least one request, got none")
        return trace

    def on(self, n_gpus: float) -> Self:
        """The same on so many GPUs."""
        return replace(self, hardware=replace(self.hardware, n_gpus=n_gpus))

    def rate_factor(self, recorded: Trace) -> float:
        """What the arrival rate of the requests, as the source has them, is multiplied by."""
        from llmsched.simulation.held_load import load_as_it_comes

        workload = self.recipe()
        if workload.held_load is not None:
            return workload.held_load / load_as_it_comes(recorded, self.hardware)
        if workload.rate_per_s is not None:
            return workload.rate_per_s / recorded.arrival_rate_per_s
        return workload.rps_scale or 1.0

    def at_rate(self, factor: float) -> Self:
        """The same with its arrival rate multiplied by this."""
        if isinstance(self.workload, Workload):
            return replace(self, workload=self.workload.at_rate(factor))
        moved = replace(self.workload, arrival_s=self.workload.arrival_s / factor)
        return replace(self, workload=moved)

    def check(self) -> None:
        """Fail unless the run can be started: before the first run of many, not after it.

        Raises
        ------
        ValueError
            If a name is not known, or parts contradict each other.
        """
        self.policy()
        self.predictor_object()

    def key(self) -> str:
        """The run's content key, 64 hexadecimal digits.

        Objects enter by the checksum of their content: a trace by its columns, others by what
        `pickle` makes of them.

        Raises
        ------
        ValueError
            If a file cannot be read, or an object cannot be sent to another process.
        """
        values = self.to_dict()
        named = {**values["hardware"], "draw": self.hardware.draw}
        named["latency"] = latency_content(self.hardware.latency)
        for name in ("gpu", "llm"):
            named[name] = part_content(getattr(self.hardware, name))
        predictor = self.predictor
        content = {
            "version": _KEY_VERSION,
            **values,
            "scheduler": part_content(self.scheduler),
            "workload": workload_content(self.workload),
            "hardware": {name: value for name, value in named.items() if value is not None},
            "predictor": self.predictor_object().name
            if isinstance(predictor, str)
            else part_content(predictor),
        }
        return content_key(content)

    def to_dict(self) -> dict[str, Any]:
        """The scenario as plain values, one mapping per section, without what is None.

        Objects stand there by their names.
        """
        found: dict[str, Any] = {"scheduler": _named(self.scheduler)}
        found |= {**plain_values(self), "predictor": _named(self.predictor)}
        workload = self.workload
        if isinstance(workload, Workload):
            found["workload"] = plain_values(workload)
        else:
            found["workload"] = {"source": workload.name, "requests": len(workload)}
        found["hardware"] = {
            name: getattr(value, "name", value)
            for name, value in plain_values(self.hardware).items()
        }
        found["slo"] = plain_values(self.slo)
        found["settings"] = plain_values(self.settings)
        if self.settings.capacity_tokens is not None:
            found["settings"]["capacity_tokens"] = self.settings.capacity_tokens
        found["binning"] = _binning_values(self.binning)
        return found

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Scenario:
        """The scenario of such a mapping; what is missing has its default.

        Raises
        ------
        ValueError
            If a key is not known or a value is out of range, with the place.
        """
        own = options_of(cls)
        known_keys("", given, ["scheduler", *own, *SECTIONS])
        parts: dict[str, Any] = {name: given[name] for name in (*own, "scheduler") if name in given}
        for name, kind in SECTIONS.items():
            parts[name] = _section(name, kind, given.get(name, {}))
        if not isinstance(parts.get("scheduler", ""), str):
            raise ValueError(f"scheduler must be a name, got {parts['scheduler']!r}")
        return cls(**parts)

    def with_absolute_paths(self) -> Scenario:
        """The same run (and key) for a process with another working folder."""
        workload, hardware = self.workload, self.hardware
        if isinstance(workload, Workload) and (
            not workload.synthetic or workload.source.endswith(".toml")
        ):
            workload = replace(workload, source=str(Path(workload.source).resolve()))
        grid = _grid_file(hardware.latency)
        if grid is not None:
            path, form = grid
            latency = f"{path.resolve()}#{form}" if form else str(path.resolve())
            hardware = replace(hardware, latency=latency)
        return replace(self, workload=workload, hardware=hardware)

    def recipe(self) -> Workload:
        """The workload, to be read anew.

        Raises
        ------
        ValueError
            If the scenario holds a trace instead.
        """
        if not isinstance(self.workload, Workload):
            raise ValueError(
                f"workload must be a Workload to be stored, got the trace {self.workload.name!r}; "
                "write the trace to a file and name that"
            )
        return self.workload


def as_scenario(
    what: Scenario | Workload | Trace | str, scheduler: Any = None, **parts: Unpack[Parts]
) -> Scenario:
    """A scenario from what a function was given: one, or a workload, and what is said beside it."""
    given: dict[str, Any] = dict(parts)
    unknown = given.keys() - Parts.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"{', '.join(sorted(unknown))} must be one of {', '.join(Parts.__annotations__)}"
        )
    if isinstance(what, str):
        what = Workload(source=what)
    scenario = what if isinstance(what, Scenario) else Scenario(workload=what)
    changed: dict[str, Any] = {}
    hardware = {
        name: given.pop(name) for name in ("n_gpus", "latency", "gpu", "llm") if name in given
    }
    if hardware:
        changed["hardware"] = replace(scenario.hardware, **hardware)
    if "binning" in given:
        changed["binning"] = as_binning(given.pop("binning"))
    if "slo" in given:
        slo = given.pop("slo")
        changed["slo"] = slo if isinstance(slo, Slo) else Slo(latency_s=slo)
    if scheduler is not None:
        changed["scheduler"] = scheduler
    changed |= {name: value for name, value in given.items() if value is not None}
    return replace(scenario, **changed) if changed else scenario


def as_binning(binning: Binning | int | str) -> Binning:
    """The binning itself, so many bins of equal mass, or what `Binning.parse` makes of a text."""
    if isinstance(binning, int):
        return Binning(n_bins=binning)
    return Binning.parse(binning) if isinstance(binning, str) else binning


def _named(value: Any) -> str:
    """The name that stands for a part; of an object, its own."""
    if isinstance(value, str):
        return value
    return str(getattr(value, "name", getattr(value, "__name__", type(value).__name__)))


def _binning_values(binning: Binning) -> dict[str, Any]:
    values: dict[str, Any] = {"n_bins": binning.n_bins} if binning.edges is None else {}
    return values | {
        name: value
        for name, value in (("by", binning.by), ("edges", binning.spec))
        if value is not None
    }


def _section(name: str, kind: type, given: Any) -> Any:
    """One section of a configuration as its dataclass."""
    if not isinstance(given, Mapping):
        raise ValueError(f"[{name}] must be a table, got {given!r}")
    known = [*options_of(kind), *(("capacity_tokens",) if kind is Settings else ())]
    known_keys(name, given, known)
    values = {key: _value(kind, key, value) for key, value in given.items()}
    if kind is Binning:
        edges = values.get("edges")
        if isinstance(edges, tuple):
            edges = ",".join(f"{edge:.15g}" for edge in edges)
        return Binning.parse(edges, n_bins=values.get("n_bins"), by=values.get("by"))
    return kind(**values)


def _value(kind: type, key: str, value: Any) -> Any:
    """A plain value of a file as the field takes it."""
    if key not in options_of(kind):
        return value
    what = options_of(kind)[key]
    if isinstance(value, list):
        return tuple(value)
    if what.parse is not None and isinstance(value, str):
        return what.parse(value)
    if kind is not Binning:
        check_option(key, value, what, *field_types(kind)[key])
    return value


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
    """Of the columns that a run depends on, the same on every machine."""
    return arrays_sha256(trace.columns())


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Of the arrays' names, types and little-endian values, the same on every machine."""
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
    from joblib.externals import cloudpickle

    try:
        content = cloudpickle.dumps(part)
    except Exception as error:  # whatever its own hooks raise
        raise ValueError(
            f"{_named(part)} must be a name, or an object that can be pickled, got one that "
            f"cannot ({type(error).__name__}: {error})"
        ) from error
    return {"object": _named(part), "sha256": hashlib.sha256(content).hexdigest()}


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

    from llmsched.workload.profiles import load_profile

    profile = load_profile(source)
    return {"kind": profile.kind, **asdict(profile)}


def latency_content(latency: str | LatencyModel) -> Any:
    """The latency model's name or content, or the name, form and checksum of its grid file."""
    if not isinstance(latency, str):
        return part_content(latency)
    grid = _grid_file(latency)
    if grid is None:
        return latency
    path, form = grid
    return {"grid": path.name, "form": form, "sha256": file_sha256(path)}


def _grid_file(latency: str | LatencyModel) -> tuple[Path, str] | None:
    """The path and the form (empty for the best) of a grid file; None for another model."""
    if not isinstance(latency, str):
        return None
    from llmsched.latency.registry import latency_names

    path, mark, form = latency.rpartition("#")
    if Path(latency).is_file():
        found = Path(latency), ""
    elif mark and Path(path).is_file():
        found = Path(path), form
    else:
        return None
    return None if latency in latency_names() else found  # as `load_latency`: names first


def file_sha256(path: str | Path) -> str:
    """Checksum of a file's bytes, read anew only when the file is another or has changed."""
    status = Path(path).stat()
    changed = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _file_sha256(str(Path(path).resolve()), changed)


@lru_cache(maxsize=256)
def _file_sha256(path: str, _changed: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
