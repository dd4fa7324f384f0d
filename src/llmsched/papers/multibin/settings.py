"""Settings of the paper's figures, one TOML file each, in `experiments/multibin/settings`.

A file's top-level keys are the paper's own sizes; its table `[quick]` replaces some of them by
smaller ones that take seconds.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

from llmsched._data import data_folder

T = TypeVar("T")

FOLDER = "experiments/multibin/settings"


def load_settings(kind: type[T], name: str, *, quick: bool = False) -> T:
    """The settings in `name`.toml, as the frozen dataclass `kind`.

    Raises
    ------
    ValueError
        If the file has not exactly the fields of `kind`.
    """
    with open(data_folder(FOLDER) / f"{name}.toml", "rb") as file:
        values = tomllib.load(file)
    smaller = values.pop("quick", {})
    if quick:
        values |= smaller
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    odd = sorted((fields ^ values.keys()) | (smaller.keys() - fields))
    if odd:
        raise ValueError(
            f"{name}.toml must have exactly the fields of {kind.__name__}, got {', '.join(odd)} "
            "missing, unknown or only under [quick]"
        )
    return kind(**{key: _frozen(value) for key, value in values.items()})


def by_bins(values: Mapping[str, float]) -> dict[int, float]:
    """A TOML table `k = value`, whose keys are texts, by number of bins."""
    return {int(n_bins): float(value) for n_bins, value in values.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value
