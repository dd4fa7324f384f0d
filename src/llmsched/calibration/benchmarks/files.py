"""Result files as values: JSON, one or many in a row, or a table; bounded, and errors in a line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmsched.calibration.benchmarks.records import Record, record, shown
from llmsched.calibration.benchmarks.runs import Run
from llmsched.latency.base import CalibrationError

MAX_BYTES = 128 << 20  # of a file, unpacked; JSON takes up to 25 times as much memory
_GZIP = b"\x1f\x8b"
_SPACE = re.compile(r"\s*")
_SEPARATORS = ",;\t"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResultFile:
    """One file: the JSON values in it, or the rows of a table."""

    path: Path
    values: tuple[Any, ...] = ()
    rows: tuple[Record, ...] = ()
    columns: tuple[str, ...] = ()  # of a table
    concurrency: int | None = None  # what the user says of it, where it does not say itself
    output_tokens: float | None = None  # likewise, of each request

    def place(self, number: int) -> str:
        """Where the value of this number, from 1, stands."""
        return str(self.path) if len(self.values) == 1 else f"{self.path} (result {number})"

    def records(self) -> Iterator[Record]:
        """The JSON values, each of which must be an object; a lone list counts as its items."""
        for number, value in enumerate(self.objects, start=1):
            yield record(value, self.place(number) if len(self.objects) > 1 else str(self.path))

    @property
    def objects(self) -> tuple[Any, ...]:
        """The JSON values, those of a lone list one by one."""
        if len(self.values) == 1 and isinstance(self.values[0], list):
            return tuple(self.values[0])
        return self.values

    def has_fields(self, *names: str) -> bool:
        """Whether the first JSON object, or the table, has all these fields."""
        if self.columns:
            return set(self.columns).issuperset(names)
        first = next(iter(self.objects), None)
        return isinstance(first, dict) and record(first, "").has(*names)

    def error(self, message: str) -> CalibrationError:
        """The one-line error for this file."""
        return CalibrationError(f"{self.path}: {message}")

    def looks(self) -> str:
        """The first few fields, for messages."""
        if self.columns:
            return ", ".join(self.columns[:5])
        if not self.objects:
            return "an empty JSON list"
        first = self.objects[0]
        if isinstance(first, dict):
            return ", ".join(sorted(first)[:5]) or "an empty JSON object"
        return f"a JSON {type(first).__name__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One tool's files: how they are known, and how they are read."""

    name: str
    title: str
    holds: Callable[[ResultFile], bool]  # whether a file looks like one of them
    read: Callable[[ResultFile], Iterator[Run]]
    wanted: str  # the fields that it is known by, for messages
    counts_text: bool = False  # its outputs may be text tokenised again: the user may say better


def read_file(path: Path) -> ResultFile:
    """The values of a file: JSON if it begins like that, else a table with a header.

    Raises
    ------
    CalibrationError
        If it is neither, too large, nested too deep, or has a key twice.
    OSError
        If it cannot be read.
    """
    try:
        text = unpacked(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CalibrationError(f"{path}: must be JSON or a CSV table, got no text") from None
    if text.lstrip()[:1] in ("{", "["):
        return ResultFile(path=path, values=tuple(_json_values(path, text)))
    return _table(path, text)


def read_beside(path: Path, name: str) -> ResultFile | None:
    """The file of that name in the folder of `X_requests.*`, as `X_` and it; None without one."""
    stem, found, _ = path.name.rpartition("requests.")
    for suffix in ("", ".gz"):
        other = path.with_name(f"{stem}{name}{suffix}")
        if found and other.is_file():
            return read_file(other)
    return None


def check_size(path: Path) -> None:
    """Fail if it is no regular file, or larger than the limit before any unpacking."""
    if not path.is_file():
        raise CalibrationError(f"{path}: must be a regular file; save the stream to a file first")
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(path)


def unpacked(path: Path) -> bytes:
    """The bytes of a file, through gzip where it is packed, within the limit."""
    check_size(path)
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        try:
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            content = stream.read(MAX_BYTES + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CalibrationError(f"{path}: must be whole gzip data, got {error}") from None
    if len(content) > MAX_BYTES:
        raise _too_large(path)
    return content


def _too_large(path: Path) -> CalibrationError:
    return CalibrationError(
        f"{path}: must be at most {MAX_BYTES >> 20} MiB unpacked, got more; save the summary "
        "only, or fewer requests"
    )


def _json_values(path: Path, text: str) -> Iterator[Any]:
    """One value, or several in a row, as JSON lines and vLLM's --append-result have them."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    start = _after_space(text, 0)
    try:
        while start < len(text):
            value, end = decoder.raw_decode(text, start)
            yield value
            start = _after_space(text, end)
    except json.JSONDecodeError as error:
        raise CalibrationError(
            f"{path}: must be JSON, got {error.msg} in line {error.lineno}"
        ) from None
    except _TwiceError as error:
        raise CalibrationError(
            f"{path}: a key must stand once in its object, got {error}"
        ) from None
    except ValueError:
        raise CalibrationError(f"{path}: must be JSON, got a number that is too long") from None
    except RecursionError:
        raise CalibrationError(f"{path}: must be JSON, got one nested too deep") from None


def _after_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


class _TwiceError(Exception):
    """A key stands twice in one object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(shown(next(key for key in found if keys.count(key) > 1)))
    return found


def _table(path: Path, text: str) -> ResultFile:
    header = text.lstrip().partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        raise CalibrationError(f"{path}: must be a CSV table, got {error}") from None
    if not lines or len(lines[0][1]) < 2:
        raise CalibrationError(
            f"{path}: must be JSON or a CSV table with a header, got {shown(header.strip())}"
        )
    columns = tuple(name.strip() for name in lines[0][1])
    if len(set(columns)) < len(columns):
        raise CalibrationError(f"{path}: columns must have different names, got {header.strip()}")
    if len(lines) < 2:
        raise CalibrationError(f"{path}: must have a row or more below its header, got none")
    return ResultFile(path=path, columns=columns, rows=tuple(_rows(path, columns, lines[1:])))


def _rows(
    path: Path, columns: tuple[str, ...], lines: Iterable[tuple[int, list[str]]]
) -> Iterator[Record]:
    for number, cells in lines:
        place = f"{path} (line {number})"
        if len(cells) != len(columns):
            raise CalibrationError(f"{place}: must have {len(columns)} cells, got {len(cells)}")
        fields = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
        yield Record(place=place, fields=fields, is_text=True)
