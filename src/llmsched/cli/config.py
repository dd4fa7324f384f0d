"""`--config FILE`, `--preset NAME`, `--show-config`: a run described once, run anywhere."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched._util.options import known_keys
from llmsched.cli.errors import InputError
from llmsched.cli.fields import field_path, given_fields, given_parameter, scenario_of
from llmsched.cli.values import COMMANDS
from llmsched.simulation.presets import PRESETS
from llmsched.simulation.scenario import SECTIONS, Scenario
from llmsched.workload.workload import RATE_FIELDS

if TYPE_CHECKING:
    from llmsched.simulation.scenario import Scenario as ScenarioType

MOST_BYTES = 1 << 20
_LAYERS = "llmsched.layers"  # where a command's context keeps what files and presets say


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the three options to a command."""
    for one in reversed(
        (
            click.option(
                "--config",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=_read,
                help="TOML file, as --show-config prints it; the command line wins.",
            ),
            click.option(
                "--preset",
                type=click.Choice(list(PRESETS)),
                is_eager=True,
                expose_value=False,
                callback=_take_preset,
                help="Settings by one word: plan = the reference formula, SLA 1 s, 200 times the "
                "recorded rate, 4 GPUs of 12 GB, 4 bins.",
            ),
            click.option(
                "--show-config",
                is_flag=True,
                help="Print the TOML that gives this run again, and stop.",
            ),
        )
    ):
        command = one(command)
    return command


def the_scenario(
    values: Mapping[str, Any], *, preset: str | None = None, **fixed: Any
) -> ScenarioType:
    """The scenario that the running command was given.

    Parameters
    ----------
    values : mapping
        The command's parsed options.
    preset : str, optional
        Where the command starts from unless `--preset` says otherwise.
    **fixed
        What the command itself decides, such as its scheduler.
    """
    context = click.get_current_context()
    layers = context.meta.get(_LAYERS, {})
    command_line = given_fields(values)
    if values.get("real_timestamps"):
        if {*command_line.get("workload", {})} & {*RATE_FIELDS}:
            raise click.UsageError(
                "give one of --rps-scale, --load, --rate and --real-timestamps, not several"
            )
        command_line.setdefault("workload", {})["rps_scale"] = 1.0
    _check_controller(command_line)
    start = layers.get("preset", {} if preset is None else PRESETS[preset])
    return scenario_of([start, layers.get("file", {}), command_line, fixed])


def show_config(values: Mapping[str, Any], scenario: ScenarioType) -> bool:
    """Print the run as TOML if that was asked for, and say whether it was."""
    if not values.get("show_config"):
        return False
    import tomli_w

    content = scenario.to_dict()
    context = click.get_current_context()
    own = {
        spelled: context.params[name]
        for spelled, name in _own_options(context).items()
        if given_parameter(name) or name in (context.default_map or {})
    }
    command = context.command.name or "command"
    if own:
        content[command] = {name: _plain(value) for name, value in own.items()}
    click.echo(f"# llmsched {command} --config FILE\n{tomli_w.dumps(content)}", nl=False)
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _own_options(context: click.Context) -> dict[str, str]:
    """The command's options that are no part of the scenario: as spelled -> as click calls it."""
    left_out = {"show_config", "config", "preset", "real_timestamps", "quiet"}
    return {
        parameter.opts[0].lstrip("-").replace("-", "_"): parameter.name or ""
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and parameter.name not in left_out
        and field_path(parameter.name or "") is None
    }


def _take_preset(context: click.Context, _option: click.Parameter, name: str | None) -> None:
    if name is not None:
        context.meta.setdefault(_LAYERS, {})["preset"] = PRESETS[name]


def _read(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Keep what the file says of the scenario; its table for this command becomes defaults."""
    if path is None:
        return
    content = read_toml(path)
    command = context.command.name or ""
    names = _own_options(context)
    own = content.pop(command, {})
    for other in [key for key, value in content.items() if _of_another_command(key, value)]:
        content.pop(other)
    try:
        known_keys("", content, ["scheduler", *_scenario_keys()])
        if not isinstance(own, dict):
            raise ValueError(f"[{command}] must be a table, got {own!r}")
        own = {key.replace("-", "_"): value for key, value in own.items()}
        known_keys(command, own, names)
        Scenario.from_dict(content)  # so that a fault is the file's, whatever is given beside it
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    context.meta.setdefault(_LAYERS, {})["file"] = content
    defaults = {names[key]: value for key, value in own.items()}
    context.default_map = {**(context.default_map or {}), **defaults}


def _scenario_keys() -> list[str]:
    from llmsched._util.options import options_of

    return [*options_of(Scenario), *SECTIONS]


def _of_another_command(key: str, value: Any) -> bool:
    """Whether a table is that of another command, which this one leaves alone."""
    return isinstance(value, dict) and key not in SECTIONS and key in COMMANDS


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises
    ------
    InputError
        If it cannot be read, is too large, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise InputError(f"{path}: must have at most {MOST_BYTES} bytes; name another file")
        return tomllib.loads(text.decode("utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: must be a TOML file ({reason})") from error


def _check_controller(command_line: Mapping[str, Any]) -> None:
    settings = command_line.get("settings", {})
    if settings.get("controller") == "none" and "batch_min" in settings:
        raise click.UsageError(
            "--batch-min bounds a controller; with --controller none, leave it out"
        )
