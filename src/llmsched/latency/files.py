"""Latency models in JSON files: form, parameters, covariance, range and source.

    {"llmsched_latency_model": 1, "form": "step", "name": ..., "kind": ..., "source": ...,
     "parameters": {...}, "measured": {"size": [1, 32], ...} or null,
     "covariance": {"parameters": [...], "matrix": [[...]], "degrees_of_freedom": 27} or null}

Numbers come back as the same floats. What a file must not lack, and what it must not have more, is
said in one line.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from llmsched._util.files import check_output, whole_file
from llmsched.latency.base import CalibrationError, LatencyModel, MeasuredRange, Shape
from llmsched.latency.formulas import (
    FourTermModel,
    PerTokenModel,
    PromptOutputModel,
    SaturatingModel,
)
from llmsched.latency.interpolation import InterpolationModel
from llmsched.latency.step import StepModel
from llmsched.latency.uncertainty import Uncertainty

MARK, VERSION = "llmsched_latency_model", 1
MODELS: dict[str, type[Any]] = {
    "reference": SaturatingModel,
    "four-term": FourTermModel,
    "prompt-output": PromptOutputModel,
    "step": StepModel,
    "interpolation": InterpolationModel,
    "per-token": PerTokenModel,
}
_ABOUT = ("name", "source", "kind", "measured", "uncertainty")
_PLAUSIBLE_S = (1e-9, 1e12)  # of the shortest batch and of a very large one
_KEYS = {MARK, "form", "name", "kind", "source", "parameters", "measured", "covariance"}


def save_model(model: LatencyModel, path: str | os.PathLike[str]) -> None:
    """Write a model to a JSON file, whole or not at all.

    Raises
    ------
    CalibrationError
        If the model is of no form that files can hold (a user's own class).
    ValueError
        If the file cannot be put there.
    OutputError
        If writing fails.
    """
    text = json.dumps(model_to_dict(model), indent=2, ensure_ascii=False, allow_nan=False)
    check_output(path, "a model file")
    with whole_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def load_model(path: str | os.PathLike[str]) -> LatencyModel:
    """The model that `save_model` wrote.

    Raises
    ------
    CalibrationError
        In one line: the file, what it must hold and what was found.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:  # not UTF-8, or not JSON
        raise CalibrationError(f"{path}: must be a JSON file, got: {error}") from None
    except RecursionError:
        raise CalibrationError(f"{path}: must be a JSON file, got one nested too deep") from None
    try:
        with np.errstate(all="ignore"):  # what overflows is refused below
            model = _model(content)
            _check_times(model)
        return model
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{path}: {error}") from None


def model_to_dict(model: LatencyModel) -> dict[str, Any]:
    """What `save_model` writes, as a dict of JSON types."""
    form = next((form for form, type_ in MODELS.items() if type(model) is type_), None)
    if form is None:
        raise CalibrationError(
            f"a model file must hold one of {', '.join(MODELS)}, got {model.name!r} of class "
            f"{type(model).__name__}"
        )
    measured = model.measured
    uncertainty = None if form == "interpolation" else model.uncertainty  # it holds its own errors
    return {
        MARK: VERSION,
        "form": form,
        "name": model.name,
        "kind": model.kind,
        "source": model.source,
        "parameters": {name: getattr(model, name) for name in parameter_names(MODELS[form])},
        "measured": None if measured is None else {a: list(b) for a, b in measured.axes()},
        "covariance": None if uncertainty is None else _covariance_dict(uncertainty),
    }


def parameter_names(model_type: type[Any]) -> tuple[str, ...]:
    """The fields of a model class that are its parameters."""
    return tuple(
        field.name for field in fields(model_type) if field.init and field.name not in _ABOUT
    )


def _covariance_dict(uncertainty: Uncertainty) -> dict[str, Any]:
    return {
        "parameters": list(uncertainty.parameter_names),
        "matrix": [list(row) for row in uncertainty.covariance],
        "degrees_of_freedom": uncertainty.degrees_of_freedom,
    }


def _model(content: Any) -> LatencyModel:
    if not isinstance(content, dict) or content.get(MARK) != VERSION:
        found = content.get(MARK, "none") if isinstance(content, dict) else "no object"
        raise ValueError(f"must be a latency model ({MARK}: {VERSION}), got {found}")
    _check_keys("a latency model", content, _KEYS)
    form = content["form"]
    if form not in MODELS:
        raise ValueError(f"form must be one of {', '.join(MODELS)}, got {form!r}")
    names = parameter_names(MODELS[form])
    parameters = content["parameters"]
    _check_keys(f"parameters of form {form}", parameters, set(names))
    if content["kind"] not in ("formula", "measurement"):
        raise ValueError(f"kind must be formula or measurement, got {content['kind']!r}")
    about: dict[str, Any] = {key: content[key] for key in ("name", "source", "kind")}
    if not all(isinstance(text, str) for text in about.values()):
        raise ValueError("name and source must be texts")
    about["measured"] = _measured(content["measured"])
    if content["covariance"] is not None:
        about["uncertainty"] = _uncertainty(content["covariance"], names)
    model: LatencyModel = MODELS[form](**{n: _value(n, parameters[n]) for n in names}, **about)
    return model


def _check_times(model: LatencyModel) -> None:
    """Fail if the coefficients, each fine by itself, give times that no machine takes."""
    least_s, most_s = _PLAUSIBLE_S
    for b, tokens in ((1, 1), (128, 50_000)):
        time_s = model.service_s(Shape(b, 2 * tokens, tokens, tokens))
        if not least_s <= time_s <= most_s:
            raise ValueError(
                f"a batch of {b} with {tokens} prompt and {tokens} output tokens each must take "
                f"from {least_s:g} to {most_s:g} s, got {time_s:g} s; check the parameters"
            )


def _check_keys(what: str, found: Any, expected: set[str]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what} must be an object, got {found!r}"[:200])
    if set(found) != expected:
        missing, more = sorted(expected - set(found)), sorted(set(found) - expected)
        parts = (f"without {', '.join(missing)}" * bool(missing), f"with {more}" * bool(more))
        raise ValueError(
            f"{what} must hold {', '.join(sorted(expected))}; got it "
            + " and ".join(part for part in parts if part)
        )


def _value(name: str, value: Any) -> Any:
    """A number, or the lists of the interpolation as tuples."""
    if isinstance(value, list):
        return tuple(_value(name, item) for item in value)
    if value is None and name == "standard_errors_s":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"parameter {name} must be a number, got {value!r}")
    return float(value)


def _measured(found: Any) -> MeasuredRange | None:
    if found is None:
        return None
    axes = {field.name for field in fields(MeasuredRange)}
    if not isinstance(found, dict) or "size" not in found or not set(found) <= axes:
        raise ValueError(f"measured must hold size and only {', '.join(sorted(axes))}")
    for axis, bounds in found.items():
        numbers = isinstance(bounds, list) and all(type(bound) is int for bound in bounds)
        if not numbers or len(bounds) != 2 or bounds[0] > bounds[1]:
            raise ValueError(f"measured {axis} must be [smallest, largest], got {bounds!r}")
    return MeasuredRange(**{axis: tuple(bounds) for axis, bounds in found.items()})


def _uncertainty(found: Any, names: tuple[str, ...]) -> Uncertainty:
    _check_keys("covariance", found, {"parameters", "matrix", "degrees_of_freedom"})
    if not set(found["parameters"]) <= set(names):
        raise ValueError(f"covariance must be of {', '.join(names)}, got {found['parameters']}")
    freedom = found["degrees_of_freedom"]
    if freedom is not None and type(freedom) is not int:
        raise ValueError(f"degrees_of_freedom must be a whole number or null, got {freedom!r}")
    return Uncertainty(
        parameter_names=tuple(found["parameters"]),
        covariance=tuple(tuple(map(float, row)) for row in found["matrix"]),
        degrees_of_freedom=freedom,
    )
