"""The command line: parse, call the library, print. Commands load only when they are used."""

from __future__ import annotations

import importlib

import click

from llmsched.cli.common import OneLineErrors

# command -> (module, attribute, short help); the help is here so that --help imports nothing more
COMMANDS = {
    "compare": ("llmsched.cli.compare", "compare", "Compare schedulers on the same requests."),
    "trace": ("llmsched.cli.trace", "trace", "Look at trace files, convert them, get real ones."),
}
SCHEDULER_HELP = {
    "static_fifo": "One queue, fixed batches.",
    "dynamic_no_bins": "One queue, batch = min(memory limit, SLA controller).",
    "multi_bin_dynamic": "Bins by predicted length, each with its own batcher.",
    "multi_bin_only": "The multi-bin paper: bins, batches of exactly B.",
}


class _LazyGroup(OneLineErrors, click.Group):
    """Commands by name: ours, and one per registered scheduler, users' own included."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*(name.replace("_", "-") for name in _scheduler_names()), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        scheduler = cmd_name.replace("-", "_")
        if scheduler in SCHEDULER_HELP or scheduler in _user_schedulers():
            from llmsched.cli.scheduler import scheduler_command

            return scheduler_command(scheduler)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        ours = [(name.replace("_", "-"), text) for name, text in SCHEDULER_HELP.items()]
        users = [
            (name.replace("_", "-"), "Of an installed package.") for name in _user_schedulers()
        ]
        with formatter.section("Schedulers"):
            formatter.write_dl([*ours, *users])
        with formatter.section("Other commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def _scheduler_names() -> list[str]:
    return [*SCHEDULER_HELP, *_user_schedulers()]


def _user_schedulers() -> list[str]:
    from importlib.metadata import entry_points

    points = entry_points(group="llmsched.schedulers")
    return [point.name for point in points if point.name not in SCHEDULER_HELP]


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: llmsched compare --requests 10000 --gpus 4 --rps-scale 200 --sla 1.0",
)
@click.version_option(package_name="llmsched")
def main() -> None:
    """Which batching scheduler, with how many GPUs, meets my latency SLA on my traffic?

    Replays a trace, or a synthetic workload, on simulated GPUs and compares batching schedulers
    for LLM inference on equal terms.
    """
