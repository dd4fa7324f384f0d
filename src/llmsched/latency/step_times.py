"""Step-time models by name: what `--step-time` takes.

A shipped fit, a JSON file (`steps.files`), the prefix of layer tables (`steps.layers`), a batch
latency that has steps, or `physics:GPU:MODEL`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from llmsched._util.files import data_folder
from llmsched.hardware import ModelSpec
from llmsched.latency.registry import latency_names, load_latency
from llmsched.latency.steps.base import StepLatency
from llmsched.latency.steps.files import load_step_time
from llmsched.latency.steps.layer_tables import is_layer_prefix, read_layers
from llmsched.latency.steps.layers import AllReduce, LayerTables
from llmsched.latency.steps.two_regime import has_steps, steps_of

SHIPPED = "step_times"  # a folder beside the measured sets


def _physics(rest: str) -> StepLatency:
    from llmsched.latency.physics.step import step_model

    return step_model(f"physics:{rest}")


SCHEMES: dict[str, Callable[[str], StepLatency]] = {"physics": _physics}  # `SCHEME:rest`


def step_time_names() -> list[str]:
    """Every name that `step_time_from_spec` knows: shipped fits, then batch models with steps."""
    return [*_shipped(), *(name for name in latency_names() if has_steps(load_latency(name)))]


def is_step_time_name(text: str) -> bool:
    """Whether a text is one of the shipped fits of steps."""
    return text in _shipped()


def step_time_from_spec(
    text: str,
    *,
    llm: ModelSpec | None = None,
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
    llm : ModelSpec, optional
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
            llm.layers,
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
        f"(PREFIX_dense.csv and so on), got {text!r}; {hint}`llmsched list step-times` has all"
    )


def _tables_tp(prefix: str) -> int:
    """N of a prefix that ends in `tpN`, as the profiler names them; else 1."""
    _, found, digits = Path(prefix).name.rpartition("tp")
    return int(digits) if found and digits.isdecimal() and int(digits) > 0 else 1


def shipped_names() -> list[str]:
    """The names of the shipped fits."""
    return list(_shipped())


@cache
def _shipped() -> dict[str, Path]:
    folder = data_folder("calibration") / SHIPPED
    return {path.stem: path for path in sorted(folder.glob("*.json"))}
