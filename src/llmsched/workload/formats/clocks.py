"""The clocks of trace files: how a format writes an instant, and what that means in seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llmsched._util.types import FloatArray
from llmsched.workload.formats.columns import CellError, instant

_DAY_S = 86_400
_NS = 1_000_000_000
_STAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:(Z)|([+-])(\d\d):?(\d\d))?"
)


class Clock(Protocol):
    """How the time column of a format is read and written."""

    @property
    def step(self) -> str:
        """What it can hold, for a warning."""

    @property
    def step_s(self) -> float:
        """Between two neighbouring times that it can hold [s]; 0 where doubles decide."""

    @property
    def code(self) -> Literal["d", "q"]:
        """The `array` type code of its file times."""

    def parse(self, text: str) -> float:
        """A cell in the file's unit, or `CellError`."""

    def arrow_type(self, first: str) -> Any:
        """The pyarrow type of a column that begins with the cell `first`."""

    def seconds(self, time: NDArray[Any]) -> FloatArray:
        """Seconds since the first of the sorted file times, shape (n,)."""

    def from_seconds(self, arrival_s: FloatArray) -> NDArray[Any]:
        """The nearest file times that the clock can hold, shape (n,)."""

    def texts(self, time: NDArray[Any]) -> list[Any]:
        """File times as cells, numbers left to `repr`."""


@dataclass(frozen=True, slots=True)
class NumberClock:
    """A plain number: seconds (`per_s` 1) or, say, milliseconds (1000).

    `whole` rounds to whole units when writing; `tidy` writes whole numbers without `.0`.
    """

    per_s: float = 1.0
    whole: bool = False
    tidy: bool = False
    step: str = "float64 seconds"
    code: Literal["d", "q"] = "d"

    @property
    def step_s(self) -> float:
        return 1 / self.per_s if self.whole else 0.0

    def parse(self, text: str) -> float:
        return instant(number(text))

    def arrow_type(self, first: str) -> Any:
        import pyarrow as pa

        return pa.float64()

    def seconds(self, time: NDArray[Any]) -> FloatArray:
        since: FloatArray = time - time[0]
        return since if self.per_s == 1 else since / self.per_s

    def from_seconds(self, arrival_s: FloatArray) -> NDArray[Any]:
        return np.rint(arrival_s * self.per_s).astype(np.int64) if self.whole else arrival_s

    def texts(self, time: NDArray[Any]) -> list[Any]:
        if self.tidy:
            return [int(t) if t.is_integer() else t for t in time.tolist()]
        return list(time.tolist())


@dataclass(frozen=True, slots=True)
class StampClock:
    """Date and time, read to the nanosecond, written in steps of 100 ns from 1970-01-01 on.

    A stamp without an offset from UTC is taken as UTC.
    """

    step: str = "steps of 100 ns"
    step_s: float = 1e-7
    code: Literal["d", "q"] = "q"

    def parse(self, text: str) -> float:
        return stamp_ns(text)

    def arrow_type(self, first: str) -> Any:
        import pyarrow as pa

        zoned = re.search(r"(Z|[+-]\d\d:?\d\d)\s*$", first[10:]) is not None
        return pa.timestamp("ns", "UTC" if zoned else None)

    def seconds(self, time: NDArray[Any]) -> FloatArray:
        # the years 1678 to 2261 are up to 2**64 ns apart: more than int64 holds, not uint64
        since: FloatArray = (time - time[0]).view(np.uint64) / _NS
        return since

    def from_seconds(self, arrival_s: FloatArray) -> NDArray[Any]:
        return np.rint(arrival_s * 1e7).astype(np.int64) * 100

    def texts(self, time: NDArray[Any]) -> list[Any]:
        whole, rest = np.divmod(time, _NS)
        days = np.datetime_as_string(whole.astype("datetime64[s]"))
        return [
            f"{day.replace('T', ' ')}.{ticks:07d}"
            for day, ticks in zip(days.tolist(), (rest // 100).tolist(), strict=True)
        ]


def number(text: str) -> float:
    """A cell as a number, or `CellError`."""
    try:
        if "_" not in text:  # Python reads 1_000, a trace file does not mean it
            return float(text)
    except ValueError:
        pass
    raise CellError("a number")


def stamp_ns(text: str) -> int:
    """A date and time as nanoseconds since 1970-01-01 UTC, or `CellError`."""
    match = _STAMP.fullmatch(text.strip())
    if match is None:
        raise CellError("a date and time like 2023-11-16 18:15:46.6805900")
    year, month, day, hour, minute, second = map(int, match.group(1, 2, 3, 4, 5, 6))
    try:
        days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError as error:
        raise CellError(f"a date of the calendar ({error})") from error
    if hour > 23 or minute > 59 or second > 59 or not 1678 <= year <= 2261:
        raise CellError("a time of day up to 23:59:59 in the years 1678 to 2261")
    offset_s = 0
    if match[9]:
        offset_s = int(match[9] + "1") * (int(match[10]) * 3600 + int(match[11]) * 60)
    seconds = days * _DAY_S + hour * 3600 + minute * 60 + second - offset_s
    return seconds * _NS + int((match[7] or "").ljust(9, "0"))
