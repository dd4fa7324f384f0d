"""The clocks of trace files: which unit a time column is in, and how a format writes an instant.

A unit is never guessed in silence. It follows from the format, from the name of the column
(`arrival_time_ns`), from dates, or from numbers that can only be Unix time; otherwise the error
asks for it and says what each reading would mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray
from llmsched.workload.formats.encodings.cells import TimeKind
from llmsched.workload.formats.encodings.files import TraceFile

Unit = Literal["s", "ms", "us", "ns"]
UNITS: tuple[Unit, ...] = get_args(Unit)
PER_S: dict[Unit, int] = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
UNIT_NAMES: dict[Unit, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
_UNIX_S = (9.8e8, 4.2e9)  # the years 2001 to 2103: the bands of the four units lie far apart
_YEAR_S = 31_557_600
_NAMED: dict[str, Unit] = {
    **dict.fromkeys(("s", "sec", "secs", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "millis", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "usec", "micros", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nanos", "nanoseconds"), "ns"),
}


def unit_of_name(name: str) -> Unit | None:
    """The unit that a column's name ends in, such as `arrival_time_ns`, if it does."""
    return split_name(name)[1]


def split_name(name: str) -> tuple[str, Unit | None]:
    """A column's name without case, punctuation and unit, and the unit."""
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    parts = [part for part in re.split(r"[_\W]+", words) if part]
    unit = _NAMED.get(parts[-1]) if len(parts) > 1 else None
    return "".join(parts[:-1] if unit else parts), unit


def unix_unit(time: NDArray[Any]) -> Unit | None:
    """The unit in which all times are Unix times of this century; there is at most one."""
    low, high = float(time.min()), float(time.max())
    for unit in UNITS:
        first, last = (bound * PER_S[unit] for bound in _UNIX_S)
        if first <= low and high <= last:
            return unit
    return None


def choose_unit(
    time: NDArray[Any],
    *,
    kind: TimeKind,
    column: str,
    declared: Unit | None,
    asked: Unit | None,
    file: TraceFile,
) -> Unit:
    """The unit of a time column.

    Parameters
    ----------
    time : ndarray of shape (n,)
        As it stands in the file, without missing ones.
    kind : TimeKind
        Dates are nanoseconds already.
    column : str
        Its name.
    declared : Unit or None
        What the format says.
    asked : Unit or None
        What the user says; it overrules the format.

    Raises
    ------
    TraceError
        If it cannot be known, or the user asks for one where there are dates.
    """
    if kind == "date":
        if asked is not None:
            message = f"must hold numbers for the time unit {asked!r}, got dates; leave it out"
            raise file.error(message, column=column)
        return "ns"
    if asked is not None:
        return asked
    named = unit_of_name(column)
    if named is not None:
        return named
    unix = unix_unit(time)
    if declared is None:
        if unix is not None or float(time.max()) == float(time.min()):
            return unix or "s"
        raise _ask(time, column, _plausible(time), file)
    if unix in (None, declared):
        return declared
    assert unix is not None
    if float(time.max()) / PER_S[declared] > _UNIX_S[1]:  # past the year 2103
        return unix
    raise _ask(time, column, [declared, unix], file)


def fractions(time: NDArray[Any]) -> bool:
    """Whether any time is not a whole number."""
    return time.dtype.kind == "f" and bool((time != np.floor(time)).any())


def ask_unit(time: NDArray[Any], column: str, file: TraceFile) -> Exception:
    """The error that asks for the unit of times that could be seconds or milliseconds."""
    return _ask(time, column, ["s", "ms"], file)


def _plausible(time: NDArray[Any]) -> list[Unit]:
    span = float(time.max()) - float(time.min())
    if fractions(time) or span / PER_S["ms"] < _YEAR_S:
        return ["s", "ms"]
    return [unit for unit in UNITS if 0.001 <= span / PER_S[unit] < 30 * _YEAR_S] or ["ms", "us"]


def _ask(time: NDArray[Any], column: str, units: list[Unit], file: TraceFile) -> Exception:
    low, high = float(time.min()), float(time.max())
    readings = [f"in {UNIT_NAMES[unit]} they span {_span(high - low, unit)}" for unit in units]
    options = " or ".join(f"--time-unit {unit}" for unit in units)
    return file.error(
        f"the unit of these times cannot be known, got {low:.12g} to {high:.12g}: "
        f"{', '.join(readings)}; say which with {options}",
        column=column,
    )


def _span(span: float, unit: Unit) -> str:
    since_s = span / PER_S[unit]
    for name, length_s in (("days", 86_400), ("h", 3600), ("min", 60)):
        if since_s >= 2 * length_s:
            return f"{since_s:.6g} s ({since_s / length_s:.3g} {name})"
    return f"{since_s:.6g} s"


def since_first_s(time: NDArray[Any], per_s: int) -> FloatArray:
    """Seconds since the first of the sorted file times, shape (n,)."""
    if time.dtype.kind == "i":
        # times of 64 bits are up to 2**64 ticks apart: more than int64 holds, not uint64
        return np.asarray((time - time[0]).view(np.uint64) / per_s)
    since: FloatArray = time - time[0]
    return since if per_s == 1 else since / per_s


class Clock(Protocol):
    """How a format writes its times."""

    @property
    def step(self) -> str:
        """What it can hold, for a warning."""

    @property
    def step_s(self) -> float:
        """Between two neighbouring times that it can hold [s]; 0 where doubles decide."""

    def from_seconds(self, arrival_s: FloatArray) -> NDArray[Any]:
        """The nearest file times that the clock can hold, shape (n,)."""

    def seconds(self, time: NDArray[Any]) -> FloatArray:
        """Seconds since the first of these file times, as reading them again gives, shape (n,)."""

    def texts(self, time: NDArray[Any]) -> list[Any]:
        """File times as cells, numbers left to `repr`."""


@dataclass(frozen=True, slots=True)
class NumberClock:
    """Numbers of a unit; `whole` rounds to whole ones, `tidy` writes whole ones without `.0`."""

    unit: Unit = "s"
    whole: bool = False
    tidy: bool = False

    @property
    def step(self) -> str:
        return f"{'whole' if self.whole else 'float64'} {UNIT_NAMES[self.unit]}"

    @property
    def step_s(self) -> float:
        return 1 / PER_S[self.unit] if self.whole else 0.0

    def from_seconds(self, arrival_s: FloatArray) -> NDArray[Any]:
        time = arrival_s * PER_S[self.unit] if self.unit != "s" else arrival_s
        return np.rint(time).astype(np.int64) if self.whole else time

    def seconds(self, time: NDArray[Any]) -> FloatArray:
        return since_first_s(time, PER_S[self.unit])

    def texts(self, time: NDArray[Any]) -> list[Any]:
        if self.tidy:
            return [int(t) if t.is_integer() else t for t in time.tolist()]
        return list(time.tolist())


@dataclass(frozen=True, slots=True)
class StampClock:
    """Dates, written in steps of 100 ns from 1970-01-01 on, without an offset from UTC."""

    step: str = "steps of 100 ns"
    step_s: float = 1e-7

    def from_seconds(self, arrival_s: FloatArray) -> NDArray[Any]:
        return np.rint(arrival_s * 1e7).astype(np.int64) * 100

    def seconds(self, time: NDArray[Any]) -> FloatArray:
        return since_first_s(time, PER_S["ns"])

    def texts(self, time: NDArray[Any]) -> list[Any]:
        whole, rest = np.divmod(time, PER_S["ns"])
        days = np.datetime_as_string(whole.astype("datetime64[s]"))
        return [
            f"{day.replace('T', ' ')}.{ticks:07d}"
            for day, ticks in zip(days.tolist(), (rest // 100).tolist(), strict=True)
        ]
