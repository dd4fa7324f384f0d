"""The hardware of a run: GPUs, the model on them, and how long work takes there.

The three belong together. A measured latency set was taken on one GPU with one model and brings
both; asking for others beside it is an error, not a note.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmsched._util.options import check_kind, check_options, check_verb, option
from llmsched.hardware import (
    DEFAULT_GPU,
    DEFAULT_MODEL,
    GPUS,
    MODELS,
    GpuSpec,
    ModelSpec,
    gpu_named,
    kv_capacity_tokens,
    model_named,
)

if TYPE_CHECKING:
    from numpy.random import Generator

    from llmsched.latency.base import LatencyModel
    from llmsched.latency.steps.base import StepLatency

DEFAULT_LATENCY = "h100-llama-3-8b-vllm"
# the GPU that the first part of a measured set's name stands for
MEASURED_GPUS = {
    "a100": "a100-80gb",
    "h100": "h100-sxm",
    "gh200": "gh200-96gb",
    "rtx-4090": "rtx-4090-24gb",
    "rtx-pro-6000": "rtx-pro-6000-96gb",
}


def parse_gpu_count(text: str) -> float:
    """A whole number of GPUs, or infinitely many."""
    if text == "inf":
        return math.inf
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ValueError(f"must be a whole number >= 1 or inf, got {text[:40]!r}")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """GPUs, the model they serve, and how long a batch or a step takes on one.

    Parameters
    ----------
    n_gpus : int, or infinity
        Identical GPUs, or replicas: with tensor parallelism, groups of that many.
    latency : str, LatencyModel or callable, optional
        How long a batch takes: a name, a model file, a grid file, a model, or a function of the
        batch's shape; by default the sum of its steps if a step time is given, else the reference
        formula.
    step_time : str or StepLatency, optional
        How long a step of continuous batching takes: what `step_time_from_spec` takes, or a
        model; by default the steps that the latency is made of.
    tp : int, optional
        GPUs that hold the model together; by default as many as the latency was taken on, or 1.
    gpu : str or GpuSpec, optional
        A preset, or gigabytes; by default that of the latency, or 12 GB.
    llm : str or ModelSpec, optional
        A preset; by default the model of the latency, or qwen3-1.7b.
    draw : (int, int), optional
        Seed and number of a draw of the latency's parameters from its calibration errors: batches
        take the drawn times, while the scheduler goes on believing in the fitted ones.

    Raises
    ------
    ValueError
        If a name is not known, or latency, GPU and model contradict each other.

    Examples
    --------
    >>> found = Hardware(latency="a100-llama-3-8b-vllm").resolved()
    >>> found.gpu.name, found.llm.name, round(found.capacity_tokens)
    ('a100-80gb', 'llama-3-8b', 487823)
    """

    n_gpus: float = option(
        4,
        "Identical GPUs, or groups of GPUs that hold the model together.",
        flag="gpus",
        also=("replicas",),
        metavar="N|inf",
        least=1,
        most=math.inf,
        whole=True,
        parse=parse_gpu_count,
    )
    latency: str | LatencyModel | None = option(
        None,
        "Batch latency: a name, a model file or a grid CSV.",
        metavar="NAME|FILE",
        parse=str,
        default_text=f"{DEFAULT_LATENCY}, or the sum of the steps of --step-time",
    )
    step_time: str | StepLatency | None = option(
        None,
        "Step time: a name, a JSON file, physics:GPU:MODEL, or the prefix of layer tables.",
        metavar="NAME|FILE",
        parse=str,
        default_text="the steps that the latency is made of",
    )
    tp: int | None = option(
        None,
        "GPUs that hold the model together (tensor parallel).",
        metavar="N",
        least=1,
        default_text="as in the latency, or 1",
    )
    gpu: str | GpuSpec | None = option(
        None,
        "GPU, as far as its memory goes: a preset, or gigabytes.",
        also=("gpu-memory",),
        metavar="NAME|GB",
        parse=str,
        default_text="that of the latency, or 12 GB",
    )
    llm: str | ModelSpec | None = option(
        None,
        "Model served, as far as memory goes: its weights and KV bytes per token.",
        metavar="NAME",
        parse=str,
        default_text="that of the latency, or qwen3-1.7b",
    )

    draw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_options(self)
        if not (self.latency is None or isinstance(self.latency, str)):
            from llmsched.latency.functions import as_latency

            object.__setattr__(self, "latency", as_latency(self.latency))
        if self.step_time is not None:
            hint = "`llmsched list step-times` has names"
            check_verb("step_time", self.step_time, "step_s", hint)
        hint = "a name, a file or a number of gigabytes will do"
        check_kind("gpu", self.gpu, (str, GpuSpec, int, float, type(None)), hint)
        check_kind("llm", self.llm, (str, ModelSpec, type(None)), "a name or a file will do")

    def resolved(self, *, max_running: int = 256) -> ResolvedHardware:
        """The objects that the names stand for, checked against each other.

        Parameters
        ----------
        max_running : int
            Most requests of a step: of layer tables, the CUDA graphs follow from it.
        """
        from llmsched.latency.registry import load_latency
        from llmsched.latency.step_times import shipped_names, step_time_from_spec
        from llmsched.latency.steps.batches import BatchOfSteps

        gpu = None if self.gpu is None else gpu_of(self.gpu)
        llm = None if self.llm is None else llm_of(self.llm)
        step = self._step(llm, max_running)
        latency = self.latency
        if latency is None:
            latency = DEFAULT_LATENCY if step is None else BatchOfSteps(step)
        if isinstance(latency, str):
            shipped = latency in shipped_names()
            of_steps = BatchOfSteps(step_time_from_spec(latency)) if shipped else None
            latency = of_steps or load_latency(latency)
        tp = self.tp
        for name in dict.fromkeys([latency.name, *([] if step is None else [step.name])]):
            measured = measured_on(name)
            if measured is not None:
                _agree(name, measured, gpu, llm, tp)
                gpu, llm = gpu or measured.gpu, measured.llm
                tp = tp or measured.gpus_per_model
        return ResolvedHardware(
            n_gpus=self.n_gpus,
            latency=latency,
            step_time=step,
            gpu=gpu or DEFAULT_GPU,
            llm=llm or MODELS[DEFAULT_MODEL],
            gpus_per_model=tp or 1,
            draw=self.draw,
        )

    def _step(self, llm: ModelSpec | None, max_running: int) -> StepLatency | None:
        if self.step_time is None or not isinstance(self.step_time, str):
            return self.step_time
        from llmsched.latency.step_times import step_time_from_spec
        from llmsched.latency.steps.layer_tables import is_layer_prefix

        if not is_layer_prefix(self.step_time):
            return step_time_from_spec(self.step_time)
        return step_time_from_spec(
            self.step_time, llm=llm, tp=self.tp or 1, max_running=max_running
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedHardware:
    """Hardware as objects: what a run needs."""

    n_gpus: float
    latency: LatencyModel  # what a scheduler may believe in
    gpu: GpuSpec
    llm: ModelSpec
    step_time: StepLatency | None = None  # None for the steps of the latency
    gpus_per_model: int = 1
    draw: tuple[int, int] | None = None  # of the latency's parameters: seed and number

    @property
    def true_latency(self) -> LatencyModel:
        """What batches take: the draw, where there is one."""
        return self.latency if self.draw is None else drawn_latency(self.latency, *self.draw)

    @property
    def uncertain(self) -> LatencyModel:
        """What has the calibration errors: the latency, or the steps that were given."""
        from llmsched.latency.steps.batches import BatchOfSteps

        return self.latency if self.step_time is None else BatchOfSteps(self.step_time)

    def true_steps(self) -> StepLatency:
        """What steps take: the draw, where there is one."""
        from llmsched.latency.steps.two_regime import steps_of

        if self.draw is None:
            return self.steps()
        return steps_of(drawn_latency(self.uncertain, *self.draw))

    @property
    def capacity_tokens(self) -> float:
        """Tokens whose keys and values fit beside the weights, η."""
        return self.kv_tokens(1.0)

    def kv_tokens(self, memory_share: float) -> float:
        """The same where only this share of the memory may be used."""
        return kv_capacity_tokens(
            self.gpu, self.llm, n_gpus=self.gpus_per_model, memory_share=memory_share
        )

    def steps(self) -> StepLatency:
        """How long a step takes: as given, or as the latency has it.

        Raises
        ------
        CalibrationError
            If the latency knows whole batches only.
        """
        from llmsched.latency.steps.two_regime import steps_of

        return steps_of(self.latency) if self.step_time is None else self.step_time

    def describe(self) -> str:
        """The GPUs and the model in a few words."""
        groups = f" x {self.gpus_per_model}" if self.gpus_per_model > 1 else ""
        return f"{self.n_gpus:g}{groups} {self.gpu.name}, {self.llm.name}"


def drawn_latency(latency: LatencyModel, seed: int, number: int) -> LatencyModel:
    """The model with parameters of the draw of this number, from 0, out of the root seed's stream.

    Raises
    ------
    CalibrationError
        If the model has no calibration errors, as every formula.
    """
    from llmsched._util.streams import Streams

    made, rng = _draws.setdefault(
        (repr(latency), seed), ([], Streams.of_seed(seed).calibration)
    )  # each takes milliseconds, and every run of a comparison wants the same
    while len(made) <= number:
        made.append(latency.draw(rng))
    return made[number]


_draws: dict[tuple[str, int], tuple[list[LatencyModel], Generator]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredOn:
    """What a latency is of: one GPU, or several that hold a model together."""

    gpu: GpuSpec
    llm: ModelSpec
    gpus_per_model: int


def measured_on(latency: str) -> MeasuredOn | None:
    """The GPU and the model that a latency is of; None where it says nothing of them.

    Measured sets are named `<gpu>-<model>[-<framework>][-tpN]`; physics names both.
    """
    from llmsched.latency.registry import measured_names
    from llmsched.latency.step_times import shipped_names

    if latency.startswith("physics:"):
        from llmsched.latency.physics.step import step_model

        deployment = step_model(latency).deployment
        served = replace(deployment.model, precision=deployment.precision)  # of its weights
        return MeasuredOn(gpu=deployment.gpu, llm=served, gpus_per_model=deployment.tp)
    if latency not in measured_names() and latency not in shipped_names():
        return None
    card = max((name for name in MEASURED_GPUS if latency.startswith(f"{name}-")), key=len)
    rest = f"{latency.removeprefix(f'{card}-')}-"
    llm = max((name for name in MODELS if rest.startswith(f"{name}-")), key=len)
    parallel = re.search(r"-tp(\d+)$", latency)
    return MeasuredOn(
        gpu=GPUS[MEASURED_GPUS[card]],
        llm=MODELS[llm],
        gpus_per_model=int(parallel[1]) if parallel else 1,
    )


def gpu_of(gpu: str | GpuSpec) -> GpuSpec:
    """A GPU: itself, a preset or a TOML file by name, or so many gigabytes.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(gpu, GpuSpec):
        return gpu
    try:
        memory_bytes = float(gpu) * 1e9
    except ValueError:
        return gpu_named(gpu)
    return GpuSpec(name=f"{gpu} GB", memory_bytes=memory_bytes)


def llm_of(llm: str | ModelSpec) -> ModelSpec:
    """A model: itself, or a preset or a TOML file by name.

    Raises
    ------
    ValueError
        If there is none.
    """
    return llm if isinstance(llm, ModelSpec) else model_named(llm)


def _agree(
    latency: str,
    measured: MeasuredOn,
    gpu: GpuSpec | None,
    llm: ModelSpec | None,
    tp: int | None,
) -> None:
    """Fail where a GPU, a model or a number of GPUs was asked for that the set was not taken on.

    The same card with another memory, or a memory in gigabytes, is no contradiction.
    """
    if llm is not None and replace(llm, precision=measured.llm.precision) != measured.llm:
        raise ValueError(
            f"llm must be {measured.llm.name} with latency {latency}, which is of that model; "
            f"got {llm.name}: leave it out, or take another latency"
        )
    card = measured.gpu.name.partition("-")[0]
    if gpu is not None and gpu.name in GPUS and gpu.name.partition("-")[0] != card:
        raise ValueError(
            f"gpu must be {measured.gpu.name} with latency {latency}, which is of that GPU; "
            f"got {gpu.name}: leave it out, or take another latency"
        )
    if tp is not None and tp != measured.gpus_per_model:
        raise ValueError(
            f"tp must be {measured.gpus_per_model} with latency {latency}, got {tp}: leave it out, "
            "or take another latency"
        )
