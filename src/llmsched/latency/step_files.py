"""Step-time models by name or file: what `--step-time` takes, and the files of the two-regime form.

    {"form": "two-regime",
     "decode": {"c0_s": 0.0169, "cb_s": 3.97e-05, "ckv_s": 1.65e-07},
     "mixed": {"c0_s": 0.0198, "cp_s": 8.5e-05, "n0_tokens": 106, "cb_s": 2.2e-05,
               "ckv_s": 2.7e-07, "cpair_s": 4.4e-09}}

and, where known, "name", "source", "kind", and "errors" of a fit, for either regime. Numbers come
back as the same floats. What a file lacks, and what it has too much, is said in one line.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from llmsched._util.files import check_output, whole_file
from llmsched._util.resources import data_folder
from llmsched.latency.base import CalibrationError
from llmsched.latency.files import MARK, load_model
from llmsched.latency.layer_tables import is_layer_prefix, read_layers
from llmsched.latency.layers import AllReduce, LayerTables
from llmsched.latency.registry import latency_names, load_latency
from llmsched.latency.step_base import StepLatency
from llmsched.latency.two_regime import (
    DecodeTerms,
    MixedTerms,
    RegimeErrors,
    TwoRegime,
    has_steps,
    steps_of,
)

FORM = "two-regime"
SHIPPED = "step_times"  # a folder beside the measured sets

# `SCHEME:rest` to a model of `rest`; physics goes here.
SCHEMES: dict[str, Callable[[str], StepLatency]] = {}

_REGIMES: dict[str, type[Any]] = {"decode": DecodeTerms, "mixed": MixedTerms}
_ABOUT = ("name", "source", "kind", "errors")
_MAX_BYTES = 2**20
_PLAUSIBLE_S = (1e-9, 1e6)  # of the smallest step and of a very large one


class LayerCount(Protocol):
    """What layer tables need to know of a model."""

    @property
    def name(self) -> str: ...
    @property
    def n_layers(self) -> int: ...


def step_time_names() -> list[str]:
    """Every name that `step_time_from_spec` knows: shipped fits, then batch models with steps."""
    return [*_shipped(), *(name for name in latency_names() if has_steps(load_latency(name)))]


def step_time_from_spec(
    text: str,
    *,
    llm: LayerCount | None = None,
    tp: int = 1,
    tables_tp: int | None = None,
    all_reduce: AllReduce | None = None,
    max_running: int = 256,
) -> StepLatency:
    """The step-time model that a text names.

    Parameters
    ----------
    text : str
        A name of `step_time_names`; a JSON file of the two-regime form or of a batch model with
        steps (see `files`); a grid CSV with `#step` (see `load_latency`); the prefix of layer
        tables, or their folder (see `layer_tables`); `physics:...`.
    llm : LayerCount, optional
        Whose layers the tables stand for; must be given with layer tables.
    tp, tables_tp, all_reduce, max_running : optional
        See `LayerTables`; for layer tables only. `tables_tp` is N where the prefix ends in `_tpN`
        or the folder is called `tpN`, else 1.

    Raises
    ------
    ValueError
        If it is none of these, or layer tables lack what they need.
    CalibrationError
        If a file is damaged, or a batch model has no steps.

    Examples
    --------
    >>> model = step_time_from_spec("rtx-4090-llama-3.1-8b")
    >>> round(1e3 * model.step_s((), 32, 32 * 500), 1)  # ms
    20.8
    """
    if is_layer_prefix(text):
        if llm is None:
            raise ValueError(
                f"layer tables must come with the model they stand for, got {text!r} alone; "
                "name it (--llm), for its number of layers"
            )
        tables_tp = _tables_tp(text) if tables_tp is None else tables_tp
        return LayerTables(
            read_layers(text),
            llm.n_layers,
            tp=tp,
            tables_tp=tables_tp,
            all_reduce=all_reduce,
            max_running=max_running,
        )
    if tp != 1:
        raise ValueError(f"tp must be 1 with anything but layer tables, got {tp} for {text!r}")
    return _without_layers(text)


def _without_layers(text: str) -> StepLatency:
    scheme, colon, rest = text.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](rest)
    if text in _shipped():
        return load_step_time(_shipped()[text])
    path = Path(text)
    if path.suffix.lower() == ".json" and path.is_file():
        return load_step_time(path)
    if text in latency_names() or Path(text.partition("#")[0]).suffix.lower() == ".csv":
        return steps_of(load_latency(text))
    if path.suffix.lower() == ".json":
        found = "a folder" if path.is_dir() else "no such file"
        raise ValueError(f"a step-time file must be there to be read, got {text!r}, {found}")
    known = step_time_names()
    near = [name for name in known if text.lower() in name]
    near = near or difflib.get_close_matches(text.lower(), known)
    hint = f"did you mean {', '.join(near[:5])}? " if near else ""
    raise ValueError(
        "step time must be a known name, a JSON file, or the prefix of layer tables "
        f"(PREFIX_dense.csv and so on), got {text!r}; {hint}known names: {', '.join(known)}"
    )


def _tables_tp(prefix: str) -> int:
    """N of a prefix that ends in `tpN`, as the profiler names them; else 1."""
    _, found, digits = Path(prefix).name.rpartition("tp")
    return int(digits) if found and digits.isdecimal() and int(digits) > 0 else 1


@cache
def _shipped() -> dict[str, Path]:
    folder = data_folder("calibration") / SHIPPED
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def load_step_time(path: str | os.PathLike[str]) -> StepLatency:
    """The model of a JSON file, of the two-regime form or a batch model with steps.

    Raises
    ------
    CalibrationError
        In one line: the file, what it must hold and what was found.
    """
    path = Path(path)
    try:
        content = _json(path)
        if isinstance(content, dict) and MARK in content:
            return steps_of(load_model(path))
        return _two_regime(content, path.stem)
    except RecursionError:
        raise CalibrationError(f"{path}: must be a JSON file, got one nested too deep") from None
    except CalibrationError:
        raise
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: {error}") from None


def save_two_regime(model: TwoRegime, path: str | os.PathLike[str]) -> None:
    """Write a model to a JSON file, whole or not at all.

    Raises
    ------
    ValueError
        If the file cannot be put there.
    OutputError
        If writing fails.
    """
    content: dict[str, Any] = {"form": FORM}
    content |= {key: getattr(model, key) for key in ("name", "kind", "source")}
    content |= {regime: asdict(getattr(model, regime)) for regime in _REGIMES}
    if model.decode_errors and model.mixed_errors:
        content["errors"] = {
            "decode": asdict(model.decode_errors),
            "mixed": asdict(model.mixed_errors),
        }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    check_output(path, "a step-time file")
    with whole_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def _json(path: Path) -> Any:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"must be at most {_MAX_BYTES >> 20} MiB, got {size / 2**20:.1f} MiB")
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_object, parse_constant=_no_constant)
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"must be a JSON file, got: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"{', '.join(twice)[:80]} twice in one object")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text}, which is no number of JSON")


def _two_regime(content: Any, name: str) -> TwoRegime:
    if not isinstance(content, dict) or content.get("form") != FORM:
        found = content.get("form") if isinstance(content, dict) else "no object"
        raise ValueError(f"must hold form {FORM!r}, got {found!r}"[:200])
    _check_keys("a two-regime model", content, {"form", *_REGIMES}, optional=set(_ABOUT))
    about = {"name": name, "source": "coefficients as given", "kind": "formula"}
    about |= {key: content[key] for key in about.keys() & content.keys()}
    for key, text in about.items():
        if not isinstance(text, str) or not text.isprintable():
            raise ValueError(f"{key} must be a text of one line, got {text!r}"[:200])
    if about["kind"] not in ("formula", "measurement"):
        raise ValueError(f"kind must be formula or measurement, got {about['kind']!r}"[:200])
    terms = {r: _numbers(r, content[r], type_) for r, type_ in _REGIMES.items()}
    errors: dict[str, Any] = {}
    if "errors" in content:
        _check_keys("errors", content["errors"], set(_REGIMES))
        for regime, found in content["errors"].items():
            errors[f"{regime}_errors"] = _numbers(f"errors of {regime}", found, RegimeErrors)
    model = TwoRegime(**terms, **about, **errors)  # type: ignore[arg-type]  # checked above
    _check_times(model)
    return model


def _check_keys(
    what: str, found: Any, needed: set[str], *, optional: frozenset[str] | set[str] = frozenset()
) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what} must be an object, got {found!r}"[:200])
    missing, more = sorted(needed - found.keys()), sorted(found.keys() - needed - optional)
    if missing or more:
        parts = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {more}"] * bool(more)
        raise ValueError(
            f"{what} must hold {', '.join(sorted(needed))}; got it {' and '.join(parts)}"[:300]
        )


def _numbers(what: str, found: Any, type_: type[Any]) -> Any:
    """An object of non-negative finite numbers as a dataclass with these fields."""
    names = {field.name for field in fields(type_)}
    _check_keys(what, found, names)
    values = {}
    for name in sorted(names):
        value = found[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} of {what} must be a number, got {value!r}"[:200])
        if not 0 <= value < 1e300:
            raise ValueError(f"{name} of {what} must be finite and >= 0, got {value!r}"[:200])
        values[name] = value if name == "steps" else float(value)
    return type_(**values)


def _check_times(model: TwoRegime) -> None:
    """Fail if the coefficients, each fine by itself, give times that no machine takes."""
    least_s, most_s = _PLAUSIBLE_S
    for prefills, n, kv in (((), 1, 1), ([(1, 0)], 0, 0), ([(8192, 10**5)], 1024, 10**8)):
        time_s = model.step_s(prefills, n, kv)
        if not least_s <= time_s <= most_s:
            raise ValueError(
                f"a step of {sum(c for c, _ in prefills)} prefill tokens and {n} decodes must take "
                f"from {least_s:g} to {most_s:g} s, got {time_s:g} s; check the coefficients"
            )
