"""The command line: parse, call the library, print. Commands load only when they are used."""

from __future__ import annotations

import importlib

import click

from llmsched.cli.errors import OneLineGroup
from llmsched.cli.values import COMMANDS, SCHEDULER_HELP


class _LazyGroup(OneLineGroup):
    """Commands by name: ours, and one per registered scheduler, users' own included."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names: schedulers first."""
        return [*map(_command, SCHEDULER_HELP), *_users_schedulers(), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, underscores read as dashes; None where there is none."""
        name = _command(cmd_name)
        if name in COMMANDS:
            module, attribute, _ = COMMANDS[name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        ours = {_command(scheduler): scheduler for scheduler in SCHEDULER_HELP}
        users = {} if name in ours else _users_schedulers()
        if name not in ours and name not in users:
            return None
        from llmsched.cli.commands.run import scheduler_command

        return scheduler_command(ours[name] if name in ours else users[name][0])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Schedulers and other commands, each with its short help."""
        ours = [(_command(name), text) for name, text in SCHEDULER_HELP.items()]
        users = [(name, f"Of {package}.") for name, (_, package) in _users_schedulers().items()]
        with formatter.section("Schedulers"):
            formatter.write_dl([*ours, *users])
        with formatter.section("Other commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def _command(scheduler: str) -> str:
    """The command that runs a scheduler."""
    return scheduler.replace("_", "-")


def _users_schedulers() -> dict[str, tuple[str, str]]:
    """Command -> scheduler and package, of those whose command is not one of ours."""
    from llmsched._util.registry import installed, package_of

    taken = {*map(_command, SCHEDULER_HELP), *COMMANDS}
    groups = ("llmsched.schedulers", "llmsched.iteration_schedulers")
    return {
        _command(point.name): (point.name, package_of(point))
        for group in groups
        for point in installed(group)
        if _command(point.name) not in taken
    }


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample: llmsched plan --trace log.csv --latency a100-llama-3-8b-vllm --sla 20",
)
@click.version_option(package_name="llmsched")
def main() -> None:
    """Which batching scheduler, with how many GPUs, meets my latency SLA on my traffic?

    Replays a trace, or a synthetic workload, on simulated GPUs and compares batching schedulers
    for LLM inference on equal terms.
    """
