"""The columns of a grid CSV: which there may be, what a cell may say, and reading them.

The base columns are always there; each optional group is there whole or not at all:

- prompt and output tokens, which add up to `max_seq_len`, with the time of the prefill and of one
  decode step, (whole batch - prefill)/(output - 1);
- the peak memory;
- a status, `ok` or `out-of-memory`, after which whatever was to be measured is empty.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmsched.latency.base import CalibrationError

HEADER = ("batch_size", "max_seq_len", "mean_latency_sec", "std_latency_sec", "num_trials")
STEP_COLUMNS = (
    "prompt_tokens",
    "output_tokens",
    "prefill_mean_sec",
    "prefill_std_sec",
    "decode_step_mean_sec",
    "decode_step_std_sec",
)
MEMORY_COLUMNS = ("peak_memory_bytes",)
STATUS_COLUMNS = ("status",)
OPTIONAL_GROUPS = (STEP_COLUMNS, MEMORY_COLUMNS, STATUS_COLUMNS)  # each whole or not at all
MEASURED, OUT_OF_MEMORY = "ok", "out-of-memory"  # what `status` may say


MOST_CELLS = 600  # each line is held out of each form in turn: half a minute for as many


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCell:
    """A cell that could not be measured: its batch did not fit the memory."""

    batch_size: int
    max_seq_len: int

    def __str__(self) -> str:
        return f"batch {self.batch_size} × {self.max_seq_len} tokens"


Columns = dict[str, list[float]]
_WHERE = ("batch_size", "max_seq_len", "prompt_tokens", "output_tokens")


def read_columns(path: Path, raw: bytes) -> tuple[Columns, tuple[FailedCell, ...]]:
    """The columns of the measured rows, and the cells that ran out of memory.

    Raises
    ------
    CalibrationError
        In one line: the file, the line, the column, what was expected and what was found.
    """
    rows = _rows(path, raw)
    _, header = next(rows, (1, []))
    _check_header(path, header)
    columns: Columns = {column: [] for column in header if column not in STATUS_COLUMNS}
    failed: list[FailedCell] = []
    seen: dict[tuple[float, ...], int] = {}
    for line, row in rows:
        place = f"{path}:{line}"
        if len(row) != len(header):
            raise CalibrationError(f"{place}: a row must have {len(header)} cells, got {len(row)}")
        cells = dict(zip(header, row, strict=True))
        status = cells.pop("status", MEASURED)
        read = _measured_row if status == MEASURED else _failed_row
        values = read(cells, place, status)
        key = tuple(values[name] for name in _WHERE if name in values)
        if key in seen:
            raise CalibrationError(
                f"{place}: batch_size and max_seq_len must not repeat, got {key[0]:.0f} and "
                f"{key[1]:.0f} of line {seen[key]} again; merge them into one mean"
            )
        seen[key] = line
        if status == MEASURED:
            for column in columns:
                columns[column].append(values[column])
        else:
            failed.append(FailedCell(batch_size=int(key[0]), max_seq_len=int(key[1])))
    if len(columns["batch_size"]) > MOST_CELLS:
        raise CalibrationError(
            f"{path}: a grid must have at most {MOST_CELLS} cells, got "
            f"{len(columns['batch_size'])}; leave out some batch sizes or lengths"
        )
    if not columns["batch_size"]:
        found = f"only {len(failed)} that ran out of memory" if failed else "none"
        raise CalibrationError(f"{path}: a grid must have rows below its header, got {found}")
    return columns, tuple(failed)


def _check_header(path: Path, header: list[str]) -> None:
    """Fail unless it holds the base columns and, of every optional group, all or nothing."""
    expected = set(HEADER).union(*(group for group in OPTIONAL_GROUPS if set(group) & set(header)))
    if set(header) == expected and len(header) == len(expected):
        return
    shown = ",".join(header)[:300] or "nothing"
    optional = "; ".join(",".join(group) for group in OPTIONAL_GROUPS)
    raise CalibrationError(
        f"{path}:1: header must be {','.join(HEADER)}, with any of these groups whole: {optional}; "
        f"got {shown}"
    )


def _rows(path: Path, raw: bytes) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, stripped, each with its line number in the file."""
    try:
        reader = csv.reader(raw.decode("utf-8-sig").splitlines())
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: must be UTF-8 text, byte {error.start} is not") from None
    except csv.Error as error:
        raise CalibrationError(f"{path}: must be a CSV file, got: {error}") from None


def _measured_row(cells: dict[str, str], place: str, _status: str) -> dict[str, float]:
    values = {column: _value(text, place, column) for column, text in cells.items()}
    if "output_tokens" in values:
        total = values["prompt_tokens"] + values["output_tokens"]
        if total != values["max_seq_len"]:
            raise CalibrationError(
                f"{place}: max_seq_len must be prompt_tokens + output_tokens = {total:.0f}, "
                f"got {cells['max_seq_len']!r}"
            )
        if math.isnan(values["decode_step_mean_sec"]) and values["output_tokens"] > 1:
            raise CalibrationError(
                f"{place}: column decode_step_mean_sec must be a number of seconds where "
                "output_tokens > 1, got ''"
            )
    return values


def _failed_row(cells: dict[str, str], place: str, status: str) -> dict[str, float]:
    """Where the cell is; everything that was to be measured must be empty."""
    if status != OUT_OF_MEMORY:
        raise CalibrationError(
            f"{place}: column status must be {MEASURED} or {OUT_OF_MEMORY}, got {status!r}"
        )
    for column, text in cells.items():
        if text and column not in _WHERE and (column, text) != ("num_trials", "0"):
            raise CalibrationError(
                f"{place}: column {column} must be empty where status is {status}, got {text!r}"
            )
    return {column: _value(cells[column], place, column) for column in _WHERE if column in cells}


_MOST = 1_000_000_000  # of a count, and of seconds
_Rule = tuple[str, Callable[[float], bool]]


def _count(value: float) -> bool:
    return 1 <= value <= _MOST and value == int(value)


def _whole(value: float) -> bool:
    return value >= 0 and value == int(value)


def _time(value: float) -> bool:
    return 1e-9 <= value <= _MOST


def _spread(value: float) -> bool:
    return 0 <= value <= _MOST


_A_COUNT: _Rule = (f"a whole number >= 1 and <= {_MOST}", _count)
_A_TIME: _Rule = ("a number of seconds from 1e-09 to 1e+09", _time)
_A_SPREAD: _Rule = ("a number of seconds from 0 to 1e+09, or empty", _spread)
_RULES: dict[str, _Rule] = {
    "batch_size": _A_COUNT,
    "max_seq_len": _A_COUNT,
    "mean_latency_sec": _A_TIME,
    "std_latency_sec": _A_SPREAD,
    "num_trials": _A_COUNT,
    "prompt_tokens": _A_COUNT,
    "output_tokens": _A_COUNT,
    "prefill_mean_sec": _A_TIME,
    "prefill_std_sec": _A_SPREAD,
    "decode_step_mean_sec": _A_TIME,
    "decode_step_std_sec": _A_SPREAD,
    "peak_memory_bytes": ("a whole number of bytes, or empty", _whole),
}
_MAY_BE_EMPTY = {
    "std_latency_sec",
    "prefill_std_sec",
    "decode_step_mean_sec",  # where output_tokens = 1
    "decode_step_std_sec",
    "peak_memory_bytes",
}
COUNTS = {"batch_size", "max_seq_len", "num_trials", "prompt_tokens", "output_tokens"}


def _value(text: str, place: str, column: str) -> float:
    """The number in a cell; NaN for one that may be empty and is."""
    if not text and column in _MAY_BE_EMPTY:
        return math.nan
    expected, holds = _RULES[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not holds(value):
        raise CalibrationError(f"{place}: column {column} must be {expected}, got {text!r}")
    return value
