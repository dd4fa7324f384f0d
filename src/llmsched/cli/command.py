"""What every command has: options in groups, counts as people write them, `--quiet`, JSON."""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any

import click

SCHEMA = 1  # of all JSON; another number where a key goes, or means something else
# by what a parameter is called, or by the section that its field stands in
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Workload": ("workload", "real_timestamps"),
    "Hardware": ("hardware",),
    "Scheduler": (
        *("schedulers", "settings", "binning", "predictor", "router", "admission"),
        *("baseline", "search"),
    ),
    "Continuous batching": ("serving",),
    "Targets": ("slo", "target_violations", "target_p95", "target_p99"),
    "Statistics": ("seed", "replications", "n_draws", "tolerance", "matters", "resample"),
    "Output": (
        *("as_json", "requests_out", "batches_out", "steps_out", "most_steps", "figure", "curve"),
        *("out", "verbose", "quiet", "help"),
    ),
}
OTHER = "Other options"


class Count(click.ParamType[int]):
    """A whole number as people write it, such as 10000, 1e4 or 10k, within click's bounds."""

    name = "integer range"

    def __init__(self, bounds: click.ParamType[Any]) -> None:
        self._bounds = bounds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number, or a usage error that says what it must be."""
        if isinstance(value, str):
            from llmsched.cli.fields import parse_number  # help of the whole needs no scenario

            try:
                number = parse_number(value)
            except ValueError as error:
                self.fail(f"{error}", param, ctx)
            if number != number or number in (float("inf"), -float("inf")) or number % 1:
                self.fail(f"must be a whole number, got {value!r}", param, ctx)
            value = int(number)
        found: int = self._bounds.convert(value, param, ctx)
        return found

    def __getattr__(self, name: str) -> Any:
        """Bounds and their description, which click's help shows."""
        if name.startswith("__") or name == "_bounds":
            raise AttributeError(name)
        return getattr(self._bounds, name)


class EveryCommand(click.Command):
    """A command of ours."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        for one in self.params:
            if isinstance(one.type, click.IntRange) or one.type is click.INT:
                one.type = Count(one.type)
        if not isinstance(self, click.Group):
            self.params.append(
                click.Option(
                    ["--quiet"],
                    is_flag=True,
                    expose_value=False,
                    callback=_be_quiet,
                    help="No notes and no progress: the result and errors only.",
                )
            )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, unheard but for its result where that was asked for."""
        if not ctx.meta.get(_QUIET):
            return super().invoke(ctx)
        with redirect_stderr(io.StringIO()):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options in groups, where a command has those of a scenario."""
        if isinstance(self, click.Group) or not _of_scenario(self.params):
            super().format_options(ctx, formatter)
            return
        grouped: dict[str, list[tuple[str, str]]] = {name: [] for name in (*GROUPS, OTHER)}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None:
                grouped[group_of(one.name or "")].append(record)
        for name, records in grouped.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


_QUIET = "llmsched.quiet"


def _of_scenario(parameters: Sequence[click.Parameter]) -> bool:
    """Whether any of them stands for a field of a scenario."""
    from llmsched.cli.fields import field_path

    return any(field_path(one.name or "") for one in parameters)


def _be_quiet(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.meta[_QUIET] = True


def group_of(parameter: str) -> str:
    """The group that an option is listed in."""
    section = parameter.partition("__")[0]
    return next((name for name, known in GROUPS.items() if section in known), OTHER)


def near_names(name: str, known: list[str]) -> str:
    """What may have been meant, as the end of an error."""
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=3)
    if not near:
        return "; --help lists them all"
    return f". Did you mean {' or '.join(map(repr, near))}?"


def print_json(content: Mapping[str, Any]) -> None:
    """Print one object of strict JSON, with the version of its form."""
    whole = {"schema": SCHEMA, **content}
    click.echo(json.dumps(whole, indent=2, allow_nan=False))
