"""Step-time models by name or file: what `--step-time` takes, and the files of the two-regime form.

    {"form": "two-regime",
     "decode": {"c0_s": 0.0169, "cb_s": 3.97e-05, "ckv_s": 1.65e-07},
     "mixed": {"c0_s": 0.0198, "cp_s": 8.5e-05, "n0_tokens": 106, "cb_s": 2.2e-05,
               "ckv_s": 2.7e-07, "cpair_s": 4.4e-09}}

and, where known, "name", "source", "kind", and "errors" of a fit, for either regime. Numbers come
back as the same floats. What a file lacks, and what it has too much, is said in one line.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from llmsched._util.files import check_output, whole_file
from llmsched.latency.base import CalibrationError
from llmsched.latency.files import MARK, load_model
from llmsched.latency.steps.base import StepLatency
from llmsched.latency.steps.two_regime import (
    DecodeTerms,
    MixedTerms,
    RegimeErrors,
    TwoRegime,
    steps_of,
)

FORM = "two-regime"

_REGIMES: dict[str, type[Any]] = {"decode": DecodeTerms, "mixed": MixedTerms}
_ABOUT = ("name", "source", "kind", "errors")
_MAX_BYTES = 2**20
_PLAUSIBLE_S = (1e-9, 1e6)  # of the smallest step and of a very large one


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
