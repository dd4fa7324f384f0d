"""A JSON object or a row of a table, looked at field by field.

A field that is missing or no number is an error that names the file, the place in it and the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from llmsched.calibration.benchmarks.runs import LatencySummary
from llmsched.latency.base import CalibrationError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """A JSON object or the row of a table, and where it stands."""

    place: str
    fields: Mapping[str, Any]
    is_text: bool = False  # a table's values are text

    def get(self, name: str) -> Any:
        """What lies at a.b.c; None where there is nothing, or an empty cell."""
        if self.is_text:
            return self.fields.get(name) or None
        value: Any = self.fields
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def has(self, *names: str) -> bool:
        """Whether there is something at each of these names."""
        return all(self.get(name) is not None for name in names)

    def number(self, name: str, *, unit_s: float = 1.0) -> float:
        """The finite number at a name, times its unit."""
        return unit_s * self._number(name, self.get(name))

    def optional(self, name: str, *, unit_s: float = 1.0) -> float | None:
        """The same; None where there is nothing."""
        return None if self.get(name) is None else self.number(name, unit_s=unit_s)

    def count(self, name: str) -> int:
        """The whole number >= 0 at a name, small enough for a float to hold it."""
        value = self.number(name)
        if not 0 <= value <= 2**53 or value != int(value):
            self.fail(f"field {name} must be a count, got {value:g}")
        return int(value)

    def optional_count(self, name: str) -> int | None:
        """The same; None where there is nothing."""
        return None if self.get(name) is None else self.count(name)

    def summary(
        self,
        pattern: str,
        statistics: tuple[str, str, str, str] = ("mean", "median", "p90", "p99"),
        *,
        unit_s: float = 1.0,
        needs_mean: bool = True,
    ) -> LatencySummary:
        """Mean, median, p90 and p99 of a time, at the pattern with these in place of `{}`."""
        mean, p50, p90, p99 = (pattern.format(statistic) for statistic in statistics)
        read_mean = self.number if needs_mean else self.optional
        return LatencySummary(
            mean_s=read_mean(mean, unit_s=unit_s),
            p50_s=self.optional(p50, unit_s=unit_s),
            p90_s=self.optional(p90, unit_s=unit_s),
            p99_s=self.optional(p99, unit_s=unit_s),
        )

    def text(self, *names: str) -> str | None:
        """The first text or number at one of these names, as text."""
        found = (self.get(name) for name in names)
        return next((str(value) for value in found if isinstance(value, str | int | float)), None)

    def flag(self, name: str) -> bool | None:
        """True or false, also written out; None where there is nothing."""
        value = self.get(name)
        known = {"true": True, "false": False, "none": None}
        if str(value).lower() not in known:
            self.fail(f"field {name} must be true or false, got {shown(value)}")
        return known[str(value).lower()]

    def items(self, name: str) -> list[Any]:
        """The list at a name, not empty."""
        value = self.get(name)
        if not isinstance(value, list) or not value:
            self.fail(f"field {name} must be a list of one or more, got {shown(value)}")
        return value

    def records(self, name: str) -> Iterator[Record]:
        """The objects of the list at a name."""
        for number, item in enumerate(self.items(name), start=1):
            yield record(item, f"{self.place} ({name} {number})")

    def within(self, value: Any, name: str) -> Record:
        """Another object of the same place."""
        return record(value, f"{self.place} ({name})" if name else self.place)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """The numbers of the list at a name, shape (n,)."""
        return np.array([self._number(name, item) for item in self.items(name)])

    def ragged(self, name: str) -> tuple[NDArray[np.float64], ...]:
        """The numbers of the lists in the list at a name."""
        rows = []
        for item in self.items(name):
            if not isinstance(item, list):
                self.fail(f"field {name} must be a list of lists, got {shown(item)}")
            rows.append(np.array([self._number(name, value) for value in item], dtype=np.float64))
        return tuple(rows)

    def whole(self, name: str, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The values of that name as counts from 0 on."""
        bad = values[(values < 0) | (values != np.floor(values)) | (values >= 2**31)]
        if len(bad):
            self.fail(f"field {name} must hold counts, got {bad[0]:g}")
        return values.astype(np.int64)

    def _number(self, name: str, value: Any) -> float:
        if self.is_text and isinstance(value, str):
            value = _parsed(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                if math.isfinite(value):
                    return float(value)
            except OverflowError:  # an int beyond float64
                pass
        return self.fail(f"field {name} must be a number, got {shown(value)}")

    def fail(self, message: str) -> NoReturn:
        """Raise the one-line error for this place."""
        raise CalibrationError(f"{self.place}: {message}")


def record(value: Any, place: str) -> Record:
    """A JSON value as a record, which it must be."""
    if not isinstance(value, dict):
        raise CalibrationError(f"{place}: must be a JSON object, got {shown(value)}")
    return Record(place=place, fields=value)


def shown(value: Any) -> str:
    """A value as an error message shows it: on one line, not too long."""
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 70 digits"
    text = repr(value) if not isinstance(value, list | dict) else f"a JSON {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _parsed(cell: str) -> float | str:
    """A cell as a number if it is one; Python also reads 1_000 and Arabic digits."""
    try:
        return float(cell) if cell.isascii() and "_" not in cell else cell
    except ValueError:
        return cell
