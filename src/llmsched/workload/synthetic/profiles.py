"""Workload profiles: what a synthetic workload is made of, as frozen values read from TOML.

A profile is one file in `workloads/` (or any path). Everything a generator needs is in the file:
there are no hidden defaults, an unknown key is an error, and so is a missing one. The drawing
itself is in `synthetic`.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from llmsched._util.files import data_folder, identity
from llmsched.workload.synthetic.burstgpt_like import BurstGptLike
from llmsched.workload.synthetic.profile_checks import require_bounds
from llmsched.workload.synthetic.profile_kinds import GammaBursts, OnOff, Poisson, Sessions
from llmsched.workload.trace import TraceError

_MOST_BYTES = 1 << 20

T = TypeVar("T")
Profile = Poisson | GammaBursts | OnOff | Sessions | BurstGptLike
_KINDS: dict[str, type[Profile]] = {
    kind.kind: kind for kind in (Poisson, GammaBursts, OnOff, Sessions, BurstGptLike)
}


@cache
def profile_names() -> tuple[str, ...]:
    """The names of the profiles that come with the package, sorted."""
    return tuple(sorted(path.stem for path in data_folder("workloads").glob("*.toml")))


def load_profile(name_or_path: str | Path) -> Profile:
    """The profile of that name, or the one in that TOML file.

    Parameters
    ----------
    name_or_path : str or Path
        A name from `profile_names`, or a path that ends in `.toml`.

    Raises
    ------
    TraceError
        If the name is unknown, or the file is missing, is not TOML, or holds an unknown,
        missing, ill-typed or impossible value. The message names the file and the key.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = profile_names()
        if str(name_or_path) not in known:
            raise TraceError(
                f"workload must be one of {', '.join(known)} or a .toml file, got "
                f"{str(name_or_path)!r}"
            )
        path = data_folder("workloads") / f"{name_or_path}.toml"
    try:
        changed = identity(path)
    except OSError:
        changed = ()  # reading it says why
    return _read(path, changed)


@lru_cache(maxsize=16)  # a sweep asks for the same one with every seed
def _read(path: Path, _changed: tuple[int, ...]) -> Profile:
    table = _toml(path)
    try:
        kind = table.pop("kind", None)
        if not isinstance(kind, str) or kind not in _KINDS:
            raise TraceError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
        return _build(_KINDS[kind], {"name": path.stem, **table}, where="")
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def _toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dictionaries, within bounds."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise TraceError(f"{path}: a workload profile must be at most 1 MiB long")
        return tomllib.loads(text.decode())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise TraceError(f"{path}: a workload profile must be readable, {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise TraceError(f"{path}: a workload profile must be TOML, {error}") from None
    except RecursionError:
        raise TraceError(f"{path}: a workload profile must not be so deeply nested") from None
    except TraceError:
        raise
    except ValueError:  # Python's own limit on the digits of a number
        raise TraceError(f"{path}: numbers of a workload profile must fit a float64") from None


def _build(cls: type[T], table: dict[str, Any], where: str) -> T:
    """A `cls` from a TOML table; `where` is the dotted key of the table, for messages."""
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            raise TraceError(f"{where}{key} is unknown; known here: {', '.join(names)}")
    for key in names:
        if key not in table:
            raise TraceError(f"{where}{key} must be given")
    values = {key: _value(hints[key], table[key], f"{where}{key}") for key in names}
    try:
        return cls(**values)
    except TraceError as error:
        raise TraceError(f"{where}{error}") from None


def _value(hint: Any, value: Any, key: str) -> Any:
    """`value` as the type that `hint` asks for."""
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise TraceError(f"{key} must be a table, got {value!r}")
        return _build(hint, value, where=f"{key}.")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise TraceError(f"{key} must be a list, got {value!r}")
        item = get_args(hint)[0]
        return tuple(_value(item, each, f"{key}[{i}]") for i, each in enumerate(value))
    if isinstance(value, int | float) and abs(value) != math.inf:
        require_bounds(key, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        word = {float: "a finite number", int: "a whole number", str: "text"}[hint]
        raise TraceError(f"{key} must be {word}, got {value!r}")
    return value
