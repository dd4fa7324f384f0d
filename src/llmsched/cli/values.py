"""What the commands share: errors in one line, warnings as notes, progress on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable

import click

REPLICATIONS = click.IntRange(1, 10_000)
SEED = click.IntRange(0, 2**32 - 1)
BATCH_SIZE = click.IntRange(1, 1_000_000)
# command -> (module, attribute, short help); the help is here so that --help imports nothing more
COMMANDS = {
    "calibrate": (
        "llmsched.cli.commands.calibrate.group",
        "calibrate",
        "Measure a GPU, fit a latency model.",
    ),
    "capacity": (
        "llmsched.cli.commands.capacity",
        "capacity",
        "Find the load, or the GPUs, within an SLA.",
    ),
    "compare": (
        "llmsched.cli.commands.compare",
        "compare",
        "Compare schedulers on the same requests.",
    ),
    "doctor": (
        "llmsched.cli.commands.doctor",
        "doctor",
        "Say whether this installation is in order.",
    ),
    "list": ("llmsched.cli.commands.list", "list_", "Print the names that an option takes."),
    "paper": ("llmsched.cli.commands.paper", "paper", "Redo the figures of a published paper."),
    "plan": ("llmsched.cli.commands.capacity", "plan", "Say how many GPUs your traffic takes."),
    "stress": ("llmsched.cli.commands.stress", "stress", "Run the three-step stress plan."),
    "trace": (
        "llmsched.cli.commands.trace",
        "trace",
        "Look at trace files, convert them, get real ones.",
    ),
    "validate": (
        "llmsched.cli.commands.validate",
        "validate_",
        "Check the simulator against your server.",
    ),
}
SCHEDULER_HELP = {
    "static_fifo": "One queue, fixed batches.",
    "dynamic_no_bins": "One queue, batch = min(memory limit, SLA controller).",
    "multi_bin_dynamic": "Bins by predicted length, each with its own batcher.",
    "multi_bin_only": "The multi-bin paper: bins, batches of exactly B.",
    "multi_bin_adaptive": "Bins by service time; ages and learned costs decide.",
    "deadline_window": "Batches of alike requests by what they gain per GPU second.",
    "continuous_static": "Continuous batching as vLLM does it: first come, first served.",
    "continuous_dynamic": "How many run follows memory and --tpot-slo.",
    "continuous_multi_bin": "Bins by predicted length take turns to be admitted.",
    "continuous_sjf": "Shortest predicted output first, with ageing.",
    "continuous_priority": "Smallest priority number first.",
}


def positive(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A finite number above 0."""
    return _checked(context, option, value, lambda number: number > 0, "> 0")


def not_negative(
    context: click.Context, option: click.Parameter, value: float | None
) -> float | None:
    """A finite number, 0 or more."""
    return _checked(context, option, value, lambda number: number >= 0, ">= 0")


def _checked(
    context: click.Context,
    option: click.Parameter,
    value: float | None,
    holds: Callable[[float], bool],
    rule: str,
) -> float | None:
    if value is None or (math.isfinite(value) and holds(value)):
        return value
    message = f"must be a finite number {rule}, got {value:g}"
    raise click.BadParameter(message, ctx=context, param=option)


def gpu_count(context: click.Context, option: click.Parameter, text: str) -> float:
    """A whole number of GPUs, or infinitely many."""
    if text == "inf":
        return math.inf
    if not text.isdecimal() or int(text) < 1:
        message = f"must be a whole number >= 1 or inf, got {text!r}"
        raise click.BadParameter(message, ctx=context, param=option)
    return int(text)
