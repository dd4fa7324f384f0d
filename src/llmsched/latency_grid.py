"""A measured latency grid: mean batch time per (batch size, length), read from CSV and checked.

`max_seq_len` is the longest prompt + output of the batch, in tokens. Every cell is refused or kept
as it is; nothing is repaired.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsched.latency_models import CalibrationError, MeasuredRange

HEADER = ("batch_size", "max_seq_len", "mean_latency_sec", "std_latency_sec", "num_trials")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyGrid:
    """One row per cell of the grid.

    Raises
    ------
    CalibrationError
        If the columns differ in length, a value is out of its bounds, or a cell comes twice.
    """

    batch_size: NDArray[np.int64]  # (n,) >= 1
    max_seq_len: NDArray[np.int64]  # (n,) longest prompt + output [tokens], >= 1
    mean_latency_s: NDArray[np.float64]  # (n,) > 0
    std_latency_s: NDArray[np.float64]  # (n,) over the trials, >= 0; NaN where not given
    n_trials: NDArray[np.int64]  # (n,) >= 1
    name: str = "grid"
    source: str = "in memory"

    def __post_init__(self) -> None:
        columns = [getattr(self, column) for column in self.__slots__[:5]]
        if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
            raise CalibrationError(
                f"columns of grid {self.name!r} must be one-dimensional and of one length, "
                f"got shapes {[column.shape for column in columns]}"
            )
        latency = self.mean_latency_s
        for cell in np.flatnonzero(~(np.isfinite(latency) & (latency > 0))):
            raise CalibrationError(
                f"mean_latency_s of grid {self.name!r} must be finite and > 0, "
                f"got {latency[cell]} in cell {cell}; measure it again"
            )
        for column in (self.batch_size, self.max_seq_len, self.n_trials):
            if column.size and column.min() < 1:
                raise CalibrationError(
                    f"batch_size, max_seq_len and n_trials of grid {self.name!r} must be >= 1, "
                    f"got {column.min()}"
                )
        if np.any(self.std_latency_s < 0) or np.any(np.isinf(self.std_latency_s)):
            raise CalibrationError(f"std_latency_s of grid {self.name!r} must be finite and >= 0")
        cells = list(zip(self.batch_size.tolist(), self.max_seq_len.tolist(), strict=True))
        if len(set(cells)) != len(cells):
            twice = next(cell for cell in cells if cells.count(cell) > 1)
            raise CalibrationError(
                f"cells of grid {self.name!r} must differ, got batch_size {twice[0]} with "
                f"max_seq_len {twice[1]} more than once; merge them into one mean"
            )

    def __len__(self) -> int:
        return len(self.batch_size)

    @property
    def measured(self) -> MeasuredRange:
        """The range of batch sizes and of prompt + output tokens."""
        b, tokens = self.batch_size, self.max_seq_len
        return MeasuredRange(
            size=(int(b.min()), int(b.max())),
            max_total_tokens=(int(tokens.min()), int(tokens.max())),
        )


def read_grid(path: str | Path) -> LatencyGrid:
    """The grid in a CSV file with the columns of `HEADER`, in any order.

    Raises
    ------
    CalibrationError
        In one line: the file, the line, the column, what was expected and what was found.
    """
    path = Path(path)
    raw = path.read_bytes()
    rows = _rows(path, raw)
    _, header = next(rows, (1, []))
    if sorted(header) != sorted(HEADER):
        shown = ",".join(header)[:200] or "nothing"
        raise CalibrationError(f"{path}:1: header must be {','.join(HEADER)}, got {shown}")
    columns: dict[str, list[float]] = {column: [] for column in HEADER}
    seen: dict[tuple[float, float], int] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise CalibrationError(
                f"{path}:{line}: a row must have {len(header)} cells, got {len(row)}"
            )
        cells = dict(zip(header, row, strict=True))
        for column in HEADER:
            columns[column].append(_value(cells[column], f"{path}:{line}", column))
        key = (columns["batch_size"][-1], columns["max_seq_len"][-1])
        if key in seen:
            raise CalibrationError(
                f"{path}:{line}: batch_size and max_seq_len must not repeat, got {key[0]:.0f} and "
                f"{key[1]:.0f} of line {seen[key]} again; merge them into one mean"
            )
        seen[key] = line
    if not seen:
        raise CalibrationError(f"{path}: a grid must have rows below its header, got none")
    return LatencyGrid(
        batch_size=np.array(columns["batch_size"], dtype=np.int64),
        max_seq_len=np.array(columns["max_seq_len"], dtype=np.int64),
        mean_latency_s=np.array(columns["mean_latency_sec"]),
        std_latency_s=np.array(columns["std_latency_sec"]),
        n_trials=np.array(columns["num_trials"], dtype=np.int64),
        name=path.name,
        source=f"{path} (sha256 {hashlib.sha256(raw).hexdigest()[:12]})",
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


_MOST = 1_000_000_000  # of a count, and of seconds


def _count(value: float) -> bool:
    return 1 <= value <= _MOST and value == int(value)


_A_COUNT = f"a whole number >= 1 and <= {_MOST}"
_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "batch_size": (_A_COUNT, _count),
    "max_seq_len": (_A_COUNT, _count),
    "mean_latency_sec": (
        "a number of seconds from 1e-09 to 1e+09",
        lambda value: 1e-9 <= value <= _MOST,
    ),
    "std_latency_sec": (
        "a number of seconds from 0 to 1e+09, or empty",
        lambda value: 0 <= value <= _MOST,
    ),
    "num_trials": (_A_COUNT, _count),
}


def _value(text: str, place: str, column: str) -> float:
    """The number in a cell; NaN for an empty standard deviation."""
    if column == "std_latency_sec" and not text:
        return math.nan
    expected, holds = _RULES[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not holds(value):
        raise CalibrationError(f"{place}: column {column} must be {expected}, got {text!r}")
    return value
