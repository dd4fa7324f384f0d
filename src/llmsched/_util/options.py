"""A field of a configuration said once: its default, unit, bounds and help.

A dataclass declares a field with `option(...)`; `check_options` holds its values to that, the
command line builds its option from it, and configuration files are read by it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What holds for a field, and what the command line calls it."""

    help: str
    flag: str | None = None  # on the command line, where it is not the field's name
    also: tuple[str, ...] = ()  # other spellings of the flag
    metavar: str | None = None
    least: float | None = None
    above: float | None = None  # a bound that is itself out of range
    most: float | None = None
    below: float | None = None  # a bound that is itself out of range
    choices: tuple[str, ...] | None = None
    parse: Callable[[str], Any] | None = None  # of a text; ValueError says what it must be
    default_text: str | None = None  # the default in words
    whole: bool = False  # a float that must be a whole number, or infinite
    hint: str = ""  # what to do instead, at the end of an error

    def rule(self) -> str:
        """The bounds in words."""
        bounded = self.most is not None and math.isfinite(self.most)
        if self.least is not None and bounded:
            return f"from {_bound(self.least)} to {_bound(self.most)}"
        lower = f"> {self.above:g}" if self.above is not None else f">= {self.least:g}"
        if self.most == math.inf:
            lower += ", or inf"
        if self.below is not None:
            lower += f" and < {self.below:g}"
        return f"{lower} and <= {_bound(self.most)}" if bounded else lower


def _bound(value: float | None) -> str:
    assert value is not None
    return str(value) if isinstance(value, int) else f"{value:g}"


def option(default: Any, about: str, **rules: Any) -> Any:
    """A dataclass field that is an option, too; `rules` are fields of `Option`."""
    return field(default=default, metadata={"option": Option(help=about, **rules)})


def options_of(kind: type) -> dict[str, Option]:
    """The fields of a dataclass that are options, by name."""
    return {f.name: f.metadata["option"] for f in fields(kind) if "option" in f.metadata}


@cache
def field_types(kind: Any) -> dict[str, tuple[type, bool]]:
    """The plain type of every option (int, float, bool or str), and whether None is allowed.

    Read off the annotations as texts, so that a module need not import what it only names.
    """
    plain = {"int": int, "float": float, "bool": bool}
    found = {}
    for one in fields(kind):
        parts = [part.strip() for part in str(one.type).split("|")]
        found[one.name] = (plain.get(parts[0], str), "None" in parts)
    return found


def check_options(instance: Any) -> None:
    """Fail unless every option of a dataclass holds what its field says.

    Raises
    ------
    ValueError
        With what must hold and what was given.
    """
    kind = type(instance)
    for name, what in options_of(kind).items():
        check_option(name, getattr(instance, name), what, *field_types(kind)[name])  # type: ignore[arg-type]


def check_option(name: str, value: Any, what: Option, kind: type, optional: bool) -> None:
    """Fail unless a value may stand in a field; see `check_options`."""
    if value is None and optional:
        return
    if what.choices is not None and value not in what.choices:
        raise ValueError(f"{name} must be one of {', '.join(what.choices)}; got {value!r}")
    if kind in (int, float):
        _check_number(name, value, what, integer=kind is int)
    elif kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    elif kind is str and not (what.choices or what.parse or isinstance(value, str)):
        raise ValueError(f"{name} must be a text, got {value!r}")


def _check_number(name: str, value: Any, what: Option, *, integer: bool) -> None:
    number, whole = math.nan, integer or what.whole
    if isinstance(value, Integral if integer else Real) and not isinstance(value, bool):
        number = float(value)
    kind = "a whole number" if whole else "a finite number"
    if whole and math.isfinite(number) and number != int(number):
        number = math.nan
    held = (
        (what.least is None or number >= what.least)
        and (what.above is None or number > what.above)
        and (what.most is None or number <= what.most)
        and (what.below is None or number < what.below)
        and (math.isfinite(number) or (number == math.inf and what.most == math.inf))
    )
    if not held:
        unit = " seconds" if what.metavar == "SECONDS" else ""
        given = f"{value:g}" if _as_figures(value, integer) else repr(value)
        hint = f"; {what.hint}" if what.hint else ""
        raise ValueError(f"{name} must be {kind} {what.rule()}{unit}, got {given}{hint}")


def _as_figures(value: Any, integer: bool) -> bool:
    """Whether a value reads better as `1e+300`."""
    if isinstance(value, float):
        return not integer
    return isinstance(value, int) and 1e19 < abs(value) < 1e308


def check_kind(name: str, value: Any, kinds: tuple[type, ...], instead: str) -> None:
    """Fail unless a value is of one of some classes.

    Raises
    ------
    TypeError
        With what it must be, what was given, and what to write instead.
    """
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise TypeError(f"{name} must be a {names}, got {value!r:.80}; {instead}")


def check_verb(name: str, value: Any, verb: str, instead: str) -> None:
    """Fail unless a value is a name, or an object with this method.

    Raises
    ------
    TypeError
        With what it must be, what was given, and what to write instead.
    """
    if not (isinstance(value, str) or callable(getattr(value, verb, None))):
        what = "callable" if verb == "__call__" else f"an object with {verb}"
        raise TypeError(f"{name} must be a name or {what}, got {value!r:.80}; {instead}")


def plain_values(instance: Any, *, skip: Iterable[str] = ()) -> dict[str, Any]:
    """The options of a dataclass as plain values, without those that are None."""
    left_out = set(skip)
    return {
        name: value
        for name in options_of(type(instance))
        if name not in left_out and (value := getattr(instance, name)) is not None
    }


def known_keys(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Fail if a mapping has a key that is not known, and say which one may be meant.

    Raises
    ------
    ValueError
        With the key, the place and the keys there are.
    """
    names = list(known)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            place = f" in [{where}]" if where else ""
            raise ValueError(
                f"{key!r}{place} must be one of {', '.join(names)}; {hint}".strip("; ").strip()
            )


def defaults_of(kind: type) -> dict[str, Any]:
    """The default of every option."""
    return {one.name: one.default for one in fields(kind) if "option" in one.metadata}
