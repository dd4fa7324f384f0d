"""What one cell of a trace file may hold: exact, with what was expected where it does not."""

from __future__ import annotations

import math
import re
from datetime import date
from typing import Any, Literal

MAX_TOKENS = 1_000_000_000  # prompt + output still fit int32
MAX_TIME = 9.2e18  # in the file's unit, from its own zero; the span has the limit of `Trace`
_DAY_S = 86_400
_NS = 1_000_000_000
_STAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?"
    r"\s?(?:(Z|UTC)|([+-])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
)

TimeKind = Literal["date", "ticks", "decimal"]  # a date, whole numbers beyond float64, a number
Kind = Literal["time", "tokens", "whole", "rank", "seconds", "label", "id", "ids"]
KINDS: dict[str, Kind] = {
    "time": "time",
    "sent": "time",
    "prompt": "tokens",
    "output": "tokens",
    "prefix": "tokens",
    "server_prompt": "tokens",
    "tokens_per_id": "tokens",
    "turn": "whole",
    "after": "whole",
    "priority": "rank",
    "delay": "seconds",  # in the unit of the file's times
    "think_s": "seconds",
    "service_s": "seconds",
    "model": "label",
    "log_type": "label",
    "status": "label",
    "context": "label",
    "session": "id",
    "group": "id",
    "id": "id",
    "parent": "id",
    "prefix_ids": "ids",
}


class CellError(Exception):
    """One value is not what it must be; the text says what that is."""


def number(text: str) -> float:
    """A cell as a number, or `CellError`."""
    try:
        # Python reads 1_000 and Arabic digits; a trace file does not mean them
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise CellError("a number")


def tokens(value: float) -> int:
    """A token count, or `CellError`."""
    if not (math.isfinite(value) and value == math.floor(value) and 0 <= value <= MAX_TOKENS):
        raise CellError(f"a whole number of tokens from 0 to {MAX_TOKENS}")
    return int(value)


def whole(value: float) -> int:
    """A turn or the row of a request, -1 for none; or `CellError`."""
    if not (math.isfinite(value) and value == math.floor(value) and -1 <= value < 2**31):
        raise CellError("a whole number from -1 on")
    return int(value)


def rank(value: float) -> int:
    """A priority, or `CellError`."""
    if not (abs(value) < 2**31 and value == math.floor(value)):
        raise CellError("a whole number of 32 bits")
    return int(value)


def ids(value: object) -> list[int]:
    """The ids of a prompt's pieces, a list or a text with spaces between; or `CellError`."""
    found = value
    if isinstance(value, str):
        parts = value.split()
        plain = all(part.isascii() and part.isdecimal() and len(part) <= 19 for part in parts)
        found = [int(part) for part in parts] if plain else None
    if not (isinstance(found, list) and all(type(i) is int and 0 <= i < 2**63 for i in found)):
        raise CellError("a list of whole numbers >= 0")
    return found


def seconds(value: float) -> float:
    """A duration, or `CellError`."""
    if not 0 <= value <= MAX_TIME:
        raise CellError(f"a duration from 0 to {MAX_TIME:g}")
    return value


def instant(value: float) -> float:
    """A number that can be a time, or `CellError`."""
    if not abs(value) <= MAX_TIME:  # also for NaN
        raise CellError(f"a finite time within ±{MAX_TIME:g}")
    return value


def time_kind(first: object) -> TimeKind:
    """How a time column is to be read, from its first cell."""
    if isinstance(first, str):
        if first.strip()[4:5] == "-":
            return "date"
        digits = first.strip().lstrip("+-")
        return "ticks" if digits.isdecimal() and len(digits) > 15 else "decimal"
    big = isinstance(first, int) and abs(first) > 10**15
    return "ticks" if big else "decimal"


def takes_text(role: str, kind: TimeKind) -> bool:
    """Whether a JSON value of this role may be a text."""
    return KINDS[role] in ("label", "id", "ids") or (KINDS[role] == "time" and kind == "date")


def is_zoned(stamp: str) -> bool:
    """Whether a date says how far it is from UTC."""
    return re.search(r"(Z|UTC|[+-]\d\d(:?\d\d)?)\s*$", stamp[10:]) is not None


def parsed(role: str, value: object, kind: TimeKind) -> Any:
    """A cell of a text file or a value of a JSON object as what its role asks for.

    Parameters
    ----------
    role : str
        A key of `KINDS`; labels and ids come back as text.
    value : str, int, float, bool, list or None
        An empty text and None are missing: NaN, for roles that may be.
    kind : TimeKind
        How times are written in this file.

    Raises
    ------
    CellError
        Saying what the value must be.
    """
    match KINDS[role]:
        case "label" | "id":
            return value if isinstance(value, str) else _text(value)
        case "time":
            return _time(value, kind)
        case "tokens":
            return tokens(_number(value))
        case "whole":
            return whole(_number(value))
        case "rank":
            return rank(_number(value))
        case "ids":
            return ids(value)
        case "seconds":
            return seconds(_number(value))


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CellError("a name")
    return str(value)


def _number(value: object) -> float:
    if isinstance(value, str):
        return number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CellError("a number")
    try:
        return float(value)
    except OverflowError as error:
        raise CellError("a number that a float64 can hold") from error


def _time(value: object, kind: TimeKind) -> float:
    if kind == "date":
        if isinstance(value, str):
            return stamp_ns(value)
        raise CellError("a date and time, as in the first row")
    if kind == "decimal":
        return instant(_number(value))
    text = value.strip() if isinstance(value, str) else str(value)
    if not re.fullmatch(r"[+-]?\d{1,19}", text, re.ASCII) or not abs(int(text)) < 2**63:
        raise CellError("a whole number of 64 bits, as in the first row")
    return int(text)


def stamp_ns(text: str) -> int:
    """A date and time as nanoseconds since 1970-01-01 UTC, or `CellError`."""
    match = _STAMP.fullmatch(text.strip())
    if match is None:
        raise CellError("a date and time like 2023-11-16 18:15:46.6805900")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.group(*range(1, 7)))
    try:
        days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError as error:
        raise CellError(f"a date of the calendar ({error})") from error
    if hour > 23 or minute > 59 or second > 59 or not 1678 <= year <= 2261:
        raise CellError("a time of day up to 23:59:59 in the years 1678 to 2261")
    offset_s = 0
    if match[9]:
        offset_s = int(match[9] + "1") * (int(match[10]) * 3600 + int(match[11] or 0) * 60)
    seconds = days * _DAY_S + hour * 3600 + minute * 60 + second - offset_s
    return seconds * _NS + int((match[7] or "").ljust(9, "0"))


def shown(value: object) -> str:
    """A value as an error message shows it: quoted, on one line, not too long."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 70 digits"  # Python will not print the longest
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
