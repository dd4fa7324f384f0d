"""The options that the commands share, in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmsched._util.limits import MATTERS
from llmsched._util.options import Option, options_of
from llmsched.cli.config import config_options
from llmsched.cli.fields import (
    FieldType,
    field_option,
    given_parameter,
    parameter_name,
    parse_number,
)
from llmsched.cli.values import REPLICATIONS
from llmsched.engine.iteration.settings import IterationSettings

if TYPE_CHECKING:
    from llmsched.simulation.scenario import Scenario

F = TypeVar("F", bound=Callable[..., Any])

WORKLOAD = tuple(
    f"workload.{name}"
    for name in (
        *("source", "requests", "rps_scale", "offered_load", "rate_per_s", "failures"),
        *("window_s", "model", "log_type", "jitter_s", "trace_format", "time_unit", "columns"),
    )
)
CLOSED_LOOP = tuple(f"workload.{name}" for name in ("concurrency", "think_time_s", "think_time"))
RESAMPLE = ("workload.resample",)
SERVING = (
    *("hardware.n_gpus", "slo.latency_s", "hardware.gpu", "hardware.llm", "hardware.tp"),
    *("predictor", "seed"),
)
BATCHES = ("hardware.latency", "admission")
FIXED = ("settings.batch_size",)
MEMORY = ("settings.memory", "settings.batch_max")
DYNAMIC = ("settings.controller", "settings.batch_min", "settings.batch_target_s", *MEMORY)
BINS = ("binning.n_bins", "binning.by", "binning.edges")
BIN_CHOICE = ("settings.bin_choice",)
FORMING = ("settings.max_forming_wait_s",)
CONTINUOUS = (
    *("hardware.step_time", "slo.ttft_s", "slo.tpot_s", "router"),
    *(f"serving.{name}" for name in options_of(IterationSettings)),
)
AGEING = ("settings.ageing_tokens_per_s",)
BATCH_SETTINGS = (*BATCHES, *FIXED, *DYNAMIC, *BINS, *BIN_CHOICE, *FORMING)
ALL_SETTINGS = tuple(dict.fromkeys((*BATCH_SETTINGS, *CONTINUOUS, *AGEING)))
# what a scheduler of ours takes beside workload and serving; full batches, which multi_bin_only
# waits for, would never come from users who wait for answers
TAKES: Mapping[str, Sequence[str]] = {
    "static_fifo": (*CLOSED_LOOP, *BATCHES, *FIXED),
    "dynamic_no_bins": (*CLOSED_LOOP, *BATCHES, *DYNAMIC),
    "multi_bin_dynamic": (*CLOSED_LOOP, *BATCHES, *DYNAMIC, *BINS, *BIN_CHOICE),
    "multi_bin_only": (*BATCHES, *FIXED, *BINS, *FORMING),
    "multi_bin_adaptive": (*CLOSED_LOOP, *BATCHES, *MEMORY, *BINS),
    "deadline_window": (*CLOSED_LOOP, *BATCHES, "settings.batch_max"),
    "continuous_static": (*CLOSED_LOOP, *CONTINUOUS),
    "continuous_dynamic": (*CLOSED_LOOP, *CONTINUOUS),
    "continuous_multi_bin": (*CLOSED_LOOP, *CONTINUOUS, *BINS, *BIN_CHOICE),
    "continuous_sjf": (*CLOSED_LOOP, *CONTINUOUS, *AGEING),
    "continuous_priority": (*CLOSED_LOOP, *CONTINUOUS),
}


def taken_by(scheduler: str) -> Sequence[str]:
    """What a scheduler takes beside workload and serving; a user's own takes all of its level."""
    if scheduler in TAKES:
        return TAKES[scheduler]
    from llmsched.schedulers.iteration.registry import ITERATION_SCHEDULERS

    if scheduler in ITERATION_SCHEDULERS:
        return (*CLOSED_LOOP, *CONTINUOUS, *BINS, *BIN_CHOICE, *AGEING)
    return (*CLOSED_LOOP, *BATCH_SETTINGS)


REAL_TIMESTAMPS = click.option(
    "--real-timestamps", is_flag=True, help="Keep the arrival rate as it is: --rps-scale 1."
)


def scenario_options(*paths: str, preset: str | None = None) -> Callable[[F], F]:
    """A decorator that adds the options of these fields, and those of configuration files.

    With a preset, the defaults are what it says.
    """

    def decorate(command: F) -> F:
        own = list(getattr(command, "__click_params__", []))
        fields: list[click.Parameter] = []
        for path in paths:
            fields.append(field_option(path, preset=preset))
            if path == "workload.rps_scale":
                fields.append(_built(REAL_TIMESTAMPS))
        # click reads the list backwards: what stands last comes first in the help
        command.__click_params__ = [*own, *reversed(fields)]  # type: ignore[attr-defined]
        return config_options(command)  # type: ignore[return-value]

    return decorate


def field_options(*paths: str) -> Callable[[F], F]:
    """A decorator that adds the options of these fields alone."""

    def decorate(command: F) -> F:
        own = list(getattr(command, "__click_params__", []))
        fields = [field_option(path) for path in paths]
        command.__click_params__ = [*own, *reversed(fields)]  # type: ignore[attr-defined]
        return command

    return decorate


def _built(decorator: Any) -> click.Parameter:
    """The option that a decorator of click's adds."""

    def nothing() -> None:
        """Carry the option."""

    decorator(nothing)
    option: click.Parameter = nothing.__click_params__[0]  # type: ignore[attr-defined]
    return option


def with_options(*groups: Sequence[Any]) -> Callable[[F], F]:
    """A decorator that adds groups of click's own options, in this order in the help."""

    def decorate(command: F) -> F:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


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


def parse_share(text: str) -> float:
    """A share: `2%` or `0.02`."""
    if text.endswith("%"):
        return parse_number(text[:-1].strip()) / 100
    return parse_number(text)


VERBOSE = click.option("--verbose", is_flag=True, help="Print every figure, and what words mean.")
RUNS: Sequence[Any] = (
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="FOLDER",
        help="Keep the runs there; those it has are not done again.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="one per core",
        help="Runs at a time; the result does not depend on it.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where the runs are done: this machine, or a Ray cluster.",
    ),
    click.option("--address", metavar="HOST:PORT", help="Of a running Ray cluster."),
)
MATTERS_OPTION = click.option(
    "--matters",
    type=FieldType(
        "matters", Option(help="", metavar="SHARE", least=0, most=0.99, parse=parse_share), float
    ),
    default=MATTERS,
    show_default="2%",
    help="Smallest difference that matters: of rates and times, and in points of shares.",
)


def where_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Where the runs are done and kept, as the library takes it."""
    if values["address"] is not None and values["backend"] != "ray":
        raise click.UsageError("--address is that of a Ray cluster; give --backend ray as well")
    return {name: values[name] for name in ("out", "jobs", "backend", "address")}


def take_draws(n_draws: int | None, scenario: Scenario) -> int:
    """How many draws of the latency were asked for, checked, with a note where they are few."""
    if n_draws is None:
        return 0
    from llmsched.simulation.uncertainty import FULL_DRAWS, check_draws, reached_confidence

    check_draws(scenario.resolved_hardware(), n_draws)
    if n_draws < FULL_DRAWS:
        reached = 100 * reached_confidence(n_draws)
        click.echo(
            f"Note: intervals over {n_draws} draws of the latency's parameters hold "
            f"{reached:.3g} %, not 95 %; take {FULL_DRAWS} or more",
            err=True,
        )
    return n_draws


def chosen_schedulers(text: str) -> list[str]:
    """The schedulers to compare, each known and given once, and every option of use to one."""
    from llmsched.schedulers.names import canonical, check_scheduler

    schedulers = [canonical(name) for name in text.split(",")]
    if "" in schedulers:
        raise click.UsageError(f"--schedulers must be names between commas, got {text!r}")
    for name in schedulers:
        check_scheduler(name)
        if schedulers.count(name) > 1:
            raise click.UsageError(f"--schedulers must name each one once, got {name} twice")
    if set(schedulers) <= TAKES.keys():  # an installed package's scheduler may take any option
        _refuse_idle_options(schedulers)
    return schedulers


def _refuse_idle_options(schedulers: Sequence[str]) -> None:
    """Fail if an option was given that none of the schedulers takes."""
    binned = [name for name, taken in TAKES.items() if set(BINS) <= set(taken)]
    takers = {
        path: [name for name, taken in TAKES.items() if path in taken] for path in ALL_SETTINGS
    } | {"predictor": binned}
    for parameter in click.get_current_context().command.params:
        taking = next(
            (names for path, names in takers.items() if parameter_name(path) == parameter.name), []
        )
        if taking and given_parameter(parameter.name or "") and not set(taking) & set(schedulers):
            raise click.UsageError(
                f"{parameter.opts[0]} does nothing for {', '.join(schedulers)}; leave it out, or "
                f"compare one of {', '.join(taking)}"
            )
