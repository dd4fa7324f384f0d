"""The hardware of a run: GPUs, the model on them, and how long work takes there.

The three belong together. A measured latency set was taken on one GPU with one model and brings
both; asking for others beside it is an error, not a note.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmsched._util.options import check_options, option
from llmsched._util.streams import Streams
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

DEFAULT_LATENCY = "h100-llama-3-8b-vllm"
# the GPU that the first part of a measured set's name stands for
MEASURED_GPUS = {"a100": "a100-80gb", "h100": "h100-sxm", "gh200": "gh200-96gb"}


def parse_gpu_count(text: str) -> float:
    """A whole number of GPUs, or infinitely many."""
    if text == "inf":
        return math.inf
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ValueError(f"must be a whole number >= 1 or inf, got {text[:40]!r}")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """GPUs, the model they serve, and how long a batch takes on one.

    Parameters
    ----------
    n_gpus : int, or infinity
        Identical GPUs; of a set measured with tensor parallelism, groups of that many.
    latency : str or LatencyModel
        How long a batch takes: a name, a model file, a grid file, or a model.
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
        "Identical GPUs, each serving one batch at a time.",
        flag="gpus",
        metavar="N|inf",
        least=1,
        most=math.inf,
        whole=True,
        parse=parse_gpu_count,
    )
    latency: str | LatencyModel = option(
        DEFAULT_LATENCY,
        "Batch latency: a name, a model file or a grid CSV.",
        metavar="NAME|FILE",
        parse=str,
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

    def resolved(self) -> ResolvedHardware:
        """The objects that the names stand for, checked against each other."""
        from llmsched.latency.registry import load_latency

        latency = load_latency(self.latency) if isinstance(self.latency, str) else self.latency
        measured = measured_on(latency.name)
        gpu = None if self.gpu is None else gpu_of(self.gpu)
        llm = None if self.llm is None else llm_of(self.llm)
        if measured is not None:
            _agree(latency.name, measured, gpu, llm)
            gpu, llm = gpu or measured.gpu, llm or measured.llm
        return ResolvedHardware(
            n_gpus=self.n_gpus,
            latency=latency,
            gpu=gpu or DEFAULT_GPU,
            llm=llm or MODELS[DEFAULT_MODEL],
            gpus_per_model=1 if measured is None else measured.gpus_per_model,
            drawn=None if self.draw is None else drawn_latency(latency, *self.draw),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedHardware:
    """Hardware as objects: what a run needs."""

    n_gpus: float
    latency: LatencyModel  # what a scheduler may believe in
    gpu: GpuSpec
    llm: ModelSpec
    gpus_per_model: int = 1
    drawn: LatencyModel | None = None

    @property
    def true_latency(self) -> LatencyModel:
        """What batches take: the draw, where there is one."""
        return self.latency if self.drawn is None else self.drawn

    @property
    def capacity_tokens(self) -> float:
        """Tokens whose keys and values fit beside the weights, η."""
        return kv_capacity_tokens(self.gpu, self.llm, n_gpus=self.gpus_per_model)

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

    Measured sets are named `<gpu>-<model>-<framework>[-tpN]`; physics names both.
    """
    from llmsched.latency.registry import measured_names

    if latency.startswith("physics:"):
        from llmsched.latency.physics.step import step_model

        deployment = step_model(latency).deployment
        return MeasuredOn(gpu=deployment.gpu, llm=deployment.model, gpus_per_model=deployment.tp)
    if latency not in measured_names():
        return None
    card, _, rest = latency.partition("-")
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


def _agree(latency: str, measured: MeasuredOn, gpu: GpuSpec | None, llm: ModelSpec | None) -> None:
    """Fail where a GPU or a model was asked for that the set was not taken on.

    The same card with another memory, or a memory in gigabytes, is no contradiction.
    """
    if llm is not None and llm != measured.llm:
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
