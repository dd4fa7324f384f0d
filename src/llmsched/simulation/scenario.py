"""One scenario: everything that the numbers of one run follow from.

The only way a run is described, from Python, the command line, configuration files, sweeps and
studies. Its key is made of content, the same on every machine and Python: files enter by name and
checksum, not by path, and numbers by value, so that `4` and `4.0` GPUs are one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack, get_args

from llmsched._util.options import (
    check_kind,
    check_option,
    check_options,
    check_verb,
    field_types,
    known_keys,
    option,
    options_of,
    plain_values,
)
from llmsched._util.plugins import name_of
from llmsched.engine.admission import Admission
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.prediction.binning import Binning
from llmsched.schedulers.settings import Settings
from llmsched.simulation.hardware import DEFAULT_LATENCY, Hardware, ResolvedHardware
from llmsched.simulation.keys import (
    absolute,
    content_key,
    hardware_content,
    part_content,
    workload_content,
)
from llmsched.workload.slo import Slo
from llmsched.workload.workload import Workload

if TYPE_CHECKING:
    from llmsched.hardware import GpuSpec, ModelSpec
    from llmsched.latency.base import BatchShape, LatencyModel
    from llmsched.latency.steps.base import StepLatency
    from llmsched.prediction.predictors import Predictor
    from llmsched.schedulers.iteration.base import IterationScheduler
    from llmsched.schedulers.iteration.routing import RouterFactory
    from llmsched.schedulers.registry import SchedulerSpec
    from llmsched.schedulers.scheduler import Scheduler
    from llmsched.workload.trace import Trace

SECTIONS: dict[str, type] = {
    "workload": Workload,
    "hardware": Hardware,
    "serving": IterationSettings,
    "slo": Slo,
    "settings": Settings,
    "binning": Binning,
}
_KEY_VERSION = 3  # of what enters a key; another number gives every run another key


class Parts(TypedDict, total=False):
    """What may be said of a scenario by keyword, in any function that takes one."""

    n_gpus: float
    latency: LatencyModel | Callable[[BatchShape], Any] | str
    step_time: StepLatency | str
    tp: int
    gpu: GpuSpec | str
    llm: ModelSpec | str
    predictor: Predictor | str
    binning: Binning | int | str
    settings: Settings
    serving: IterationSettings
    router: RouterFactory | str
    slo: Slo | float
    admission: Admission
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that the numbers of one run follow from.

    Parameters
    ----------
    workload : Workload, Trace or str
        Which requests come, and how fast; a text names a profile or a file.
    scheduler : str, callable, Scheduler or BatchPolicy
        A registered name, or what else `make_scheduler` takes: a function of the settings, a
        policy, a scheduler.
    settings : Settings
        What the scheduler is told beside what follows from `slo` and `hardware`.
    hardware : Hardware
        GPUs, the model on them, and how long work takes there.
    predictor : str or Predictor
        What the scheduler believes of output lengths.
    binning : Binning
        How a scheduler with bins splits the requests.
    serving : IterationSettings
        How a replica serves, with vLLM's defaults; for the continuous schedulers.
    router : str or callable
        Which replica serves a request: a name, or what makes a `Router`; for the continuous ones.
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
    scheduler: SchedulerSpec | IterationScheduler = "multi_bin_dynamic"
    settings: Settings = field(default_factory=Settings)
    hardware: Hardware = field(default_factory=Hardware)
    predictor: str | Predictor = option(
        "noisy",
        "Of output lengths: oracle, noisy[:SIGMA], bin-error:P, confusion:bert, prompt-power-law.",
        metavar="SPEC",
        parse=str,
    )
    binning: Binning = field(default_factory=Binning)
    serving: IterationSettings = field(default_factory=IterationSettings)
    router: str | RouterFactory = option(
        "round-robin",
        "Which replica serves a request: round-robin, least-outstanding, least-kv, "
        "predicted-work, prefix-affine.",
        metavar="NAME",
        parse=str,
    )
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
        self._check_kinds()
        check_options(self)
        if isinstance(self.scheduler, str) and "-" in self.scheduler:
            from llmsched.schedulers.names import canonical

            object.__setattr__(self, "scheduler", canonical(self.scheduler))
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

    def _check_kinds(self) -> None:
        if isinstance(self.workload, str):
            object.__setattr__(self, "workload", Workload(source=self.workload))
        elif not isinstance(self.workload, Workload):
            from llmsched.workload.trace import Trace

            hint = "give one of them, or the name of a profile or a file"
            check_kind("workload", self.workload, (Workload, Trace), hint)
        for name, kind in SECTIONS.items():
            if name != "workload":
                hint = f"write {kind.__name__}(...)"
                check_kind(name, getattr(self, name), (kind,), hint)
        check_verb("predictor", self.predictor, "predict", "`llmsched list predictors` has names")
        check_verb("router", self.router, "__call__", "`llmsched list routers` has names")

    @property
    def scheduler_name(self) -> str:
        """What results call the scheduler."""
        from llmsched.schedulers.registry import scheduler_name

        if self.level == "iteration" and not isinstance(self.scheduler, str):
            return name_of(self.scheduler.order).rpartition(".")[2]  # type: ignore[union-attr]
        return scheduler_name(self.scheduler)  # type: ignore[arg-type]  # as `level` says

    @property
    def level(self) -> Literal["batch", "iteration"]:
        """Whether whole batches are served, or requests join and leave at every step."""
        if isinstance(self.scheduler, str):
            from llmsched.schedulers.iteration.registry import ITERATION_SCHEDULERS

            return "iteration" if self.scheduler in ITERATION_SCHEDULERS else "batch"
        from llmsched.schedulers.iteration.base import IterationScheduler

        return "iteration" if isinstance(self.scheduler, IterationScheduler) else "batch"

    @property
    def sla_s(self) -> float:
        """Longest latency [s]; infinite where none is set.

        Batches answer all at once, so that their first token comes with the last.
        """
        limits = (self.slo.latency_s, self.slo.ttft_s if self.level == "batch" else None)
        return min((one for one in limits if one is not None), default=math.inf)

    @property
    def random(self) -> bool:
        """Whether another seed gives another run."""
        if isinstance(self.workload, Workload) and self.workload.random:
            return True
        return self.uses_predictions and self.predictor_object().random

    @property
    def uses_predictions(self) -> bool:
        """Whether predicted lengths decide anything."""
        if self.level == "batch":
            return self.policy().uses_predictions
        from llmsched.schedulers.iteration.routing import uses_predictions

        return self.policy().uses_predictions or uses_predictions(self.router_factory())

    def resolved_hardware(self) -> ResolvedHardware:
        """The objects that the hardware's names stand for."""
        return self.hardware.resolved(max_running=self.serving.max_running)

    def policy(self) -> Scheduler | IterationScheduler:
        """The scheduler's policy objects, fresh for one run."""
        if self.level == "iteration":
            return self._iteration_scheduler()
        from llmsched.schedulers.names import check_scheduler
        from llmsched.schedulers.registry import make_scheduler

        if isinstance(self.scheduler, str):
            check_scheduler(self.scheduler)
        hardware = self.resolved_hardware()
        told = self.settings.resolved(
            sla_s=self.sla_s if math.isfinite(self.sla_s) else 1e9,
            capacity_tokens=self.settings.capacity_tokens or hardware.capacity_tokens,
            latency=hardware.latency,
        )
        return make_scheduler(self.scheduler, told)  # type: ignore[arg-type]  # as `level` says

    def _iteration_scheduler(self) -> IterationScheduler:
        from llmsched.schedulers.iteration.base import IterationScheduler
        from llmsched.schedulers.iteration.registry import ITERATION_SCHEDULERS, IterationOptions

        if isinstance(self.scheduler, IterationScheduler):
            return self.scheduler
        usable = self.replica().usable_blocks * self.serving.block_tokens
        options = IterationOptions(
            capacity_tokens=usable,
            max_running=self.serving.max_running,
            tpot_sla_s=self.slo.tpot_s,
            n_bins=self.binning.n_bins,
            bin_choice=self.settings.bin_choice,
            ageing_tokens_per_s=self.settings.ageing_tokens_per_s,
        )
        assert isinstance(self.scheduler, str)  # as `level` says
        return ITERATION_SCHEDULERS.named(self.scheduler)(options)

    def replica(self) -> IterationSettings:
        """How a replica serves, its KV memory known.

        Raises
        ------
        ValueError
            If the weights leave no room for a block, or the replicas are not a whole number.
        """
        hardware = self.resolved_hardware()
        if not math.isfinite(hardware.n_gpus):
            raise ValueError(
                f"n_gpus must be finite with {self.scheduler_name}, whose requests wait for KV "
                f"memory, got {hardware.n_gpus}"
            )
        if self.serving.kv_tokens is not None:
            return self.serving
        return self.serving.resolved(hardware.kv_tokens(self.serving.memory_share))

    @property
    def router_name(self) -> str:
        """What results call the router."""
        return _named(self.router)

    def router_factory(self) -> RouterFactory:
        """What makes the router of a run."""
        from llmsched.schedulers.iteration.routing import ROUTERS

        if isinstance(self.router, str):
            return ROUTERS.named(self.router.replace("_", "-"))
        return self.router

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
            held = trace.held_load is not None
            trace = trace.load(self.seed if seed is None else seed)
            if held:
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
        wanted = workload.held_load
        if wanted is None or (recorded.closed and workload.offered_load is None):
            return workload.rate_factor(recorded)
        if recorded.closed:
            raise ValueError(
                f"offered_load needs recorded arrivals, but requests of trace {recorded.name!r} "
                "wait for answers; say how fast sessions begin (--rps-scale) instead"
            )
        return wanted / load_as_it_comes(recorded, self.resolved_hardware())

    def rate_words(self, trace: Trace) -> str:
        """How the arrival rate of its requests came about."""
        if not isinstance(self.workload, Workload):
            return "as given"
        return self.workload.rate_words(closed=trace.closed)

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
        if self.level == "iteration":
            self.replica()
            self.router_factory()
            self.resolved_hardware().steps()

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
        predictor = self.predictor
        return content_key(
            {
                "version": _KEY_VERSION,
                **values,
                "scheduler": part_content(self.scheduler),
                "workload": workload_content(self.workload),
                "hardware": hardware_content(values["hardware"], self.hardware),
                "predictor": self.predictor_object().name
                if isinstance(predictor, str)
                else part_content(predictor),
                **({"router": part_content(self.router)} if "router" in values else {}),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The scenario as plain values, one mapping per section, without what is None.

        Objects stand there by their names.
        """
        found: dict[str, Any] = {"scheduler": _named(self.scheduler)}
        found |= plain_values(self)
        found |= {"predictor": _named(self.predictor), "router": _named(self.router)}
        workload = self.workload
        if isinstance(workload, Workload):
            found["workload"] = plain_values(workload)
        else:
            found["workload"] = {"source": workload.name, "requests": len(workload)}
        found["hardware"] = {
            name: getattr(value, "name", value)
            for name, value in plain_values(self.hardware).items()
        }
        if self.hardware.latency is None and self.hardware.step_time is None:
            found["hardware"]["latency"] = DEFAULT_LATENCY
        defaults = Scenario()
        if self.level == "iteration" or self.serving != defaults.serving:
            found["serving"] = plain_values(self.serving)
        if self.level == "batch" and self.router == defaults.router:
            del found["router"]
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
        workload = self.workload
        if isinstance(workload, Workload) and (
            not workload.synthetic or workload.source.endswith(".toml")
        ):
            workload = replace(workload, source=str(Path(workload.source).resolve()))
        files = ("latency", "step_time", "gpu", "llm")
        values = {name: getattr(self.hardware, name) for name in files}
        moved: dict[str, Any] = {
            name: absolute(text) for name, text in values.items() if isinstance(text, str)
        }
        return replace(self, workload=workload, hardware=replace(self.hardware, **moved))

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
    hardware = {name: given.pop(name) for name in options_of(Hardware) if name in given}
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
    if isinstance(binning, str):
        return Binning.parse(binning)
    hint = "or a whole number of bins, or a text such as '100,500'"
    check_kind("binning", binning, (Binning,), hint)
    return binning


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
