"""Command-line options built from the fields of a scenario, and the scenario built from them.

A field says its help, unit, bounds and default once (`llmsched._util.options`). What the user
gives on the command line goes over the configuration file, that over the preset, and that over
the defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from llmsched._util.options import Option, check_option, defaults_of, field_types, options_of
from llmsched.simulation.presets import PRESETS
from llmsched.simulation.scenario import SECTIONS, Scenario
from llmsched.workload.workload import RATE_FIELDS

if TYPE_CHECKING:
    from llmsched.simulation.scenario import Scenario as ScenarioType

_SUFFIXES = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?)([kmg]?)", re.IGNORECASE)


def parse_number(text: str) -> float:
    """A number as people write it: `10000`, `1e4`, `10k`, `0.5`.

    Raises
    ------
    ValueError
        If it is none.
    """
    if text.strip().lower() in ("nan", "inf", "-inf", "infinity"):
        return float(text)  # a number that no field takes: the bounds say so
    found = _NUMBER.fullmatch(text.strip()) if text.isascii() and len(text) <= 40 else None
    if found is None:
        raise ValueError(f"must be a number such as 10000, 1e4 or 10k, got {text[:40]!r}")
    return float(found[1]) * _SUFFIXES[found[2].lower()]


class FieldType(click.ParamType[Any]):
    """The values of a field, read from a text and held to its bounds."""

    def __init__(self, name: str, what: Option, kind: type) -> None:
        self.name = name
        self._field, self._what, self._kind = name, what, kind

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """The unit, or the choices."""
        if self._what.choices is not None:
            return f"[{'|'.join(self._what.choices)}]"
        return self._what.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, or a usage error that says what it must be."""
        if not isinstance(value, str):
            return value
        try:
            return read_value(self._field, value, self._what, self._kind)
        except ValueError as error:
            self.fail(str(error).removeprefix(f"{self._field} "), param, ctx)


def read_value(name: str, text: str, what: Option, kind: type) -> Any:
    """The value of a field that a text stands for.

    Raises
    ------
    ValueError
        If it cannot be one.
    """
    value: Any = text
    if what.parse is not None:
        value = what.parse(text)
    elif kind in (int, float):
        number = parse_number(text)
        value = int(number) if kind is int and number.is_integer() else number
    if what.choices is not None:
        value = value.replace("_", "-") if value.replace("_", "-") in what.choices else value
    if not (what.parse is not None and isinstance(value, tuple)):
        check_option(name, value, what, kind if kind is not str else str, optional=False)
    return value


def field_option(path: str, *, preset: str | None = None) -> click.Option:
    """The option of one field, such as `hardware.n_gpus` or `seed`, its default the preset's."""
    section, _, name = path.rpartition(".")
    kind = SECTIONS[section] if section else Scenario
    what = options_of(kind)[name]
    plain = field_types(kind)[name][0]
    flag = what.flag or name.replace("_", "-")
    spellings = [f"--{one}" for one in (flag, *what.also)]
    default, default_text = defaults_of(kind)[name], what.default_text
    said = PRESETS[preset] if preset is not None else {}
    said = said.get(section, {}) if section else said
    if name in said:
        default, default_text = said[name], None
    if plain is bool:
        both = [f"{one}/--no-{one.removeprefix('--')}" for one in spellings]
        return click.Option(
            [*both, parameter_name(path)],
            default=default,
            show_default=default_text or default is not None,
            help=what.help,
        )
    return click.Option(
        [*spellings, parameter_name(path)],
        type=FieldType(name, what, plain),
        help=what.help,
        show_default=default_text or default is not None,
        default=default,
    )


def parameter_name(path: str) -> str:
    """What click calls the option of a field."""
    return path.replace(".", "__")


def field_path(parameter: str) -> str | None:
    """The field that an option of a command stands for; None for an option of another kind."""
    section, _, name = parameter.rpartition("__")
    kind = SECTIONS.get(section) if section else Scenario
    return parameter.replace("__", ".") if kind and name in options_of(kind) else None


def given_parameter(name: str, ctx: click.Context | None = None) -> bool:
    """Whether the user gave this option of the running command."""
    context = ctx or click.get_current_context()
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def given_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the user gave on the command line, as a nested mapping."""
    found: dict[str, Any] = {}
    for parameter, value in values.items():
        path = field_path(parameter)
        if path is None or not given_parameter(parameter):
            continue
        section, _, name = path.rpartition(".")
        place = found.setdefault(section, {}) if section else found
        place[name] = value
    return found


def merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Nested mappings as one; the later ones win, key by key.

    What says how fast requests come, or who waits to send them, goes over any other word on that.
    """
    whole: dict[str, Any] = {}
    for part in parts:
        if {*part.get("workload", {})} & {*RATE_FIELDS, "concurrency"}:
            said = whole.get("workload", {})
            whole["workload"] = {k: v for k, v in said.items() if k not in RATE_FIELDS}
        for key, value in part.items():
            if isinstance(value, Mapping) and isinstance(whole.get(key), Mapping):
                whole[key] = {**whole[key], **value}
            else:
                whole[key] = dict(value) if isinstance(value, Mapping) else value
    return whole


def scenario_of(layers: Iterable[Mapping[str, Any]]) -> ScenarioType:
    """The scenario of some layers of values, the later over the earlier."""
    return Scenario.from_dict(merged(layers))


def finite_or_none(value: float) -> float | None:
    """A number for JSON: null where it is infinite or undefined."""
    return value if math.isfinite(value) else None
