"""`llmsched calibrate`: measure a model, fit a latency model, look at one, import benchmarks."""

from __future__ import annotations

import importlib

import click

from llmsched.cli.errors import OneLineErrors

# command -> (module, attribute, short help); a command loads only when it is used
COMMANDS = {
    "measure": (
        "llmsched.cli.commands.calibrate.measure",
        "measure",
        "Time a real model over a grid.",
    ),
    "fit": (
        "llmsched.cli.commands.calibrate.fit",
        "fit",
        "Fit every form to a grid and choose one.",
    ),
    "show": ("llmsched.cli.commands.calibrate.fit", "show", "Say what a latency model is."),
    "import": (
        "llmsched.cli.commands.calibrate.imports",
        "import_",
        "Take over a benchmark's results.",
    ),
}


class _Group(OneLineErrors, click.Group):
    """The steps of a calibration, in their order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their short help, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=_Group)
def calibrate() -> None:
    """Measure how long batches take on your GPU, and fit a latency model with error bars."""
