"""`--latency-uncertainty`: draws of the latency's parameters, for the commands that take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from llmsched.latency.base import LatencyModel
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from llmsched.cli.values import (
    BATCH_SIZE,
    REPLICATIONS,
    REQUEST_COUNT,
    SEED,
    gpu_count,
    jitter,
    not_negative,
    positive,
    rate_factor,
    window,
)

if TYPE_CHECKING:
    from llmsched.hardware import ModelSpec
    from llmsched.prediction.binning import Binning
    from llmsched.schedulers.settings import Settings
    from llmsched.workload.workload import Workload


UNCERTAINTY: Sequence[Any] = (
    click.option(
        "--latency-uncertainty",
        "n_draws",
        type=click.IntRange(2, 1000),
        metavar="N",
        show_default="off",
        help="Run everything under N draws of the latency's parameters too, for intervals that "
        "include calibration error; 95 % take 39 draws.",
    ),
)


def take_draws(values: dict[str, Any], latency: LatencyModel) -> tuple[LatencyModel, ...]:
    """Take the draws of the latency out of the parsed values; none if not asked for."""
    from llmsched.simulation.uncertainty import FULL_DRAWS, draw_latencies, reached_confidence

    n_draws = values.pop("n_draws")
    if n_draws is None:
        return ()
    draws = draw_latencies(latency, n_draws, seed=values["seed"])
    if n_draws < FULL_DRAWS:
        reached = 100 * reached_confidence(n_draws)
        click.echo(
            f"Note: intervals over {n_draws} draws of the latency's parameters hold "
            f"{reached:.3g} %, not 95 %; take {FULL_DRAWS} or more",
            err=True,
        )
    return draws


# the benchmark's names of models whose published shape is that of one in `memory.MODELS`
SAME_SHAPE = {"llama-3-8b": "llama-3.1-8b", "llama-3-70b": "llama-3.1-70b"}


def note_memory_mismatch(latency: str, llm: str, gpu_memory: str) -> None:
    """Say on stderr which options would match a measured set `<gpu>-<model>-<framework>`."""
    options = matching_options(latency, llm, gpu_memory)
    if options:
        click.echo(
            f"Note: {latency} was measured with other memory than --llm {llm} --gpu-memory "
            f"{gpu_memory}; {' '.join(options)} would match it",
            err=True,
        )


def matching_options(latency: str, llm: str, gpu_memory: str) -> list[str]:
    """The options that the name of a measured set implies and that are not in use.

    Nothing is guessed: a name that is no measured set, a GPU or model that has no preset, a memory
    given in gigabytes, and several GPUs per model (`-tpN`) imply nothing.

    Examples
    --------
    >>> matching_options("h100-llama-3-8b-vllm", "qwen3-1.7b", "default-12gb")
    ['--llm llama-3.1-8b', '--gpu-memory h100-80gb']
    >>> matching_options("h100-llama-3-8b-vllm", "llama-3.1-8b", "80")
    []
    """
    from llmsched.hardware import GPUS, MODELS
    from llmsched.latency.registry import latency_names

    card, _, rest = latency.partition("-")
    cards = [name for name in GPUS if name.startswith(f"{card}-")]
    if latency not in latency_names() or not cards:
        return []
    known = {**{name: name for name in MODELS}, **SAME_SHAPE}
    implied = next((known[name] for name in known if rest.startswith(f"{name}-")), llm)
    options = [] if implied == llm else [f"--llm {implied}"]
    if gpu_memory in GPUS and gpu_memory not in cards and not re.search(r"-tp\d+$", latency):
        options.append(f"--gpu-memory {cards[-1]}")
    return options


F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]


WORKLOAD: Sequence[Any] = (
    click.option(
        "--trace",
        "source",
        default="burstgpt-like",
        show_default=True,
        metavar="FILE|PROFILE",
        help="Trace file, or synthetic profile: burstgpt-like, poisson, gamma-bursts, on-off.",
    ),
    click.option(
        "--requests",
        type=REQUEST_COUNT,
        metavar="N",
        show_default="all of a file, 10000 of a profile",
        help="First N requests.",
    ),
    click.option(
        "--rps-scale",
        type=float,
        default=200.0,
        show_default=True,
        callback=rate_factor,
        metavar="FACTOR",
        help="Multiply the arrival rate.",
    ),
    click.option("--real-timestamps", is_flag=True, help="Keep the arrival rate as it is."),
    click.option(
        "--failures",
        type=click.Choice(["drop", "keep"]),
        default="drop",
        show_default=True,
        help="What to do with requests without output.",
    ),
    click.option(
        "--window",
        "window_s",
        callback=window,
        metavar="START:END",
        help="Only this part of the trace, in real seconds since its first request.",
    ),
    click.option("--model", metavar="NAME", help="Only requests to this model."),
    click.option("--log-type", metavar="NAME", help="Only requests of this log type."),
    click.option(
        "--jitter",
        "jitter_s",
        type=float,
        default=0.0,
        show_default=True,
        callback=jitter,
        metavar="SECONDS",
        help="Add U(0, SECONDS) to every stamp, before scaling: 1 undoes whole-second stamps.",
    ),
    click.option(
        "--trace-format", metavar="NAME", help="Format of the file, instead of recognising it."
    ),
)


SERVING: Sequence[Any] = (
    click.option(
        "--gpus",
        callback=gpu_count,
        default="4",
        show_default=True,
        metavar="N|inf",
        help="Identical GPUs, each serving one batch at a time.",
    ),
    click.option(
        "--sla",
        "sla_s",
        type=float,
        default=1.0,
        show_default=True,
        callback=positive,
        metavar="SECONDS",
        help="Latency target of a request.",
    ),
    click.option(
        "--latency",
        default="reference",
        show_default=True,
        metavar="NAME|FILE",
        help="Batch latency model: a name, or a measured grid CSV.",
    ),
    click.option(
        "--predictor",
        default="noisy",
        show_default=True,
        metavar="SPEC",
        help="Of output lengths: oracle, noisy[:SIGMA], bin-error:P, confusion:bert, "
        "prompt-power-law.",
    ),
    click.option(
        "--admission",
        type=click.Choice(["together", "one-by-one"]),
        default="together",
        show_default=True,
        help="What a waiting GPU sees of arrivals at one instant.",
    ),
    click.option(
        "--llm",
        default="qwen3-1.7b",
        show_default=True,
        metavar="NAME",
        help="Model served, as far as memory goes: its weights and KV bytes per token.",
    ),
    click.option(
        "--seed",
        type=SEED,
        default=0,
        show_default=True,
        metavar="N",
        help="Of the synthetic workload, the jitter and the predictor's noise.",
    ),
)


def replications_option(default: int) -> Any:
    """`--seeds N`, for the commands that replicate what is random."""
    return click.option(
        "--seeds",
        "replications",
        type=REPLICATIONS,
        default=default,
        show_default=True,
        metavar="N",
        help="Replications, with seeds --seed, --seed + 1, ...; intervals need 2.",
    )


FIXED: Sequence[Any] = (
    click.option(
        "--batch-size",
        type=BATCH_SIZE,
        default=8,
        show_default=True,
        metavar="N",
        help="Requests per fixed batch.",
    ),
)


CONTROLLER: Sequence[Any] = (
    click.option(
        "--controller",
        type=click.Choice(["paper", "window", "none"]),
        default="paper",
        show_default=True,
        help="How the SLA limits dynamic batches.",
    ),
    click.option(
        "--batch-min",
        type=BATCH_SIZE,
        default=1,
        show_default=True,
        metavar="N",
        help="Least that the controller may ask for.",
    ),
)


MEMORY: Sequence[Any] = (
    click.option(
        "--memory",
        type=click.Choice(["buffer", "clt"]),
        default="buffer",
        show_default=True,
        help="How the memory limits dynamic batches.",
    ),
    click.option(
        "--batch-max",
        type=BATCH_SIZE,
        default=128,
        show_default=True,
        metavar="N",
        help="Most requests per dynamic batch.",
    ),
    click.option(
        "--gpu-memory",
        default="default-12gb",
        show_default=True,
        metavar="NAME|GB",
        help="Memory of one GPU: a preset or gigabytes (1e9 bytes).",
    ),
)


DYNAMIC = (*CONTROLLER, *MEMORY)


BINS: Sequence[Any] = (
    click.option(
        "--bins",
        "n_bins",
        type=click.IntRange(1, 64),
        default=4,
        show_default=True,
        metavar="K",
        help="Number of bins.",
    ),
    click.option(
        "--bin-by",
        type=click.Choice(["output", "total", "service"]),
        show_default="output; service for multi-bin-adaptive",
        help="What is binned: predicted output, prompt + output, or service time alone.",
    ),
    click.option(
        "--bin-edges",
        show_default="equal-mass; rolling for multi-bin-adaptive",
        metavar="equal-mass|rolling|optimal[:B]|A,B,...",
        help="Where the second bin, the third, ... begin; rolling: equal mass of recent arrivals; "
        "optimal: where the longest of a batch of B is shortest on average (B by default the "
        "fixed batch size, or 16).",
    ),
)


BIN_CHOICE: Sequence[Any] = (
    click.option(
        "--bin-choice",
        type=click.Choice(["round-robin", "longest-queue"]),
        default="round-robin",
        show_default=True,
        help="Which bin a free GPU serves.",
    ),
)


FORMING: Sequence[Any] = (
    click.option(
        "--max-forming-wait",
        "max_forming_wait_s",
        type=float,
        callback=not_negative,
        metavar="SECONDS",
        show_default="never",
        help="Release a part-full batch after this wait.",
    ),
)


def with_options(*groups: Sequence[Any]) -> Callable[[F], F]:
    """A decorator that adds groups of options, in this order in the help."""

    def decorate(command: F) -> F:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


def given(name: str) -> bool:
    """Whether the user gave this option of the running command."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def take_workload(values: dict[str, Any]) -> Workload:
    """Take the workload options out of the parsed values."""
    from llmsched.workload.workload import Workload

    rps_scale, real = values.pop("rps_scale"), values.pop("real_timestamps")
    if real and given("rps_scale"):
        raise click.UsageError("give either --rps-scale or --real-timestamps, not both")
    names = (
        *("source", "requests", "failures", "window_s", "model", "log_type", "jitter_s"),
        "trace_format",
    )
    return Workload(
        rps_scale=1.0 if real else rps_scale, **{name: values.pop(name) for name in names}
    )


def take_llm(values: dict[str, Any]) -> ModelSpec:
    """Take the served model out of the parsed values."""
    from llmsched.hardware import MODELS

    name = values.pop("llm")
    if name not in MODELS:
        raise click.BadParameter(
            f"must be one of {', '.join(MODELS)}; got {name!r}", param_hint="'--llm'"
        )
    return MODELS[name]


def take_settings(values: dict[str, Any], llm: ModelSpec) -> Settings:
    """Take the scheduler's settings out of the parsed values, as far as they are there."""
    from llmsched.hardware import kv_capacity_tokens
    from llmsched.schedulers.settings import Settings

    names = {
        *("sla_s", "batch_size", "batch_min", "batch_max", "controller", "memory"),
        *("bin_choice", "max_forming_wait_s"),
    }
    chosen = {name: values.pop(name) for name in names & values.keys()}
    if chosen.get("controller") == "none" and given("batch_min"):
        raise click.UsageError(
            "--batch-min bounds a controller; with --controller none, leave it out"
        )
    if "gpu_memory" in values:
        gpu_memory = values.pop("gpu_memory")
        chosen["capacity_tokens"] = kv_capacity_tokens(_gpu(gpu_memory), llm)
        note_memory_mismatch(values.get("latency", ""), llm.name, gpu_memory)
    return Settings(**chosen)


def _gpu(text: str) -> Any:
    from llmsched.hardware import GPUS, GpuSpec

    if text in GPUS:
        return GPUS[text]
    try:
        return GpuSpec(f"{text} GB", float(text) * 1e9)
    except ValueError:
        raise click.BadParameter(
            f"must be gigabytes > 0 or one of {', '.join(GPUS)}; got {text!r}",
            param_hint="'--gpu-memory'",
        ) from None


def take_binning(values: dict[str, Any]) -> Binning:
    """Take the bins out of the parsed values; one bin where the scheduler has none."""
    from llmsched.prediction.binning import Binning

    if "n_bins" not in values:
        return Binning(n_bins=1)
    n_bins = values.pop("n_bins")  # beside fixed edges, only if it was asked for
    return Binning.parse(
        values.pop("bin_edges"),
        n_bins=n_bins if given("n_bins") else None,
        by=values.pop("bin_by"),
    )
