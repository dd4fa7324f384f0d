"""A measured latency grid: mean batch time per (batch size, length), read from CSV and checked.

`max_seq_len` is the longest prompt + output of the batch, in tokens. A file may also say how long
the prefill and one decode step took, how much memory was in use, and which cells ran out of it.
Every cell is refused or kept as it is; nothing is repaired.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import CalibrationError, CalibrationWarning, MeasuredRange, Shape
from llmsched.latency.fit.grid_columns import COUNTS, HEADER, FailedCell, read_columns

__all__ = ["HEADER", "FailedCell", "LatencyGrid", "read_grid"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyGrid:
    """One row per measured cell of the grid; the cells that ran out of memory are kept aside.

    Raises
    ------
    CalibrationError
        If the columns differ in length, a value is out of its bounds, or a cell comes twice.
    """

    batch_size: IntArray  # (n,) >= 1
    max_seq_len: IntArray  # (n,) longest prompt + output [tokens], >= 1
    mean_latency_s: FloatArray  # (n,) > 0
    std_latency_s: FloatArray  # (n,) over the trials, >= 0; NaN where not given
    n_trials: IntArray  # (n,) >= 1
    name: str = "grid"
    source: str = "in memory"
    prompt_tokens: IntArray | None = None  # (n,) >= 0, with output_tokens
    output_tokens: IntArray | None = None  # (n,) >= 1
    prefill_s: FloatArray | None = None  # (n,) > 0, with decode_step_s
    prefill_std_s: FloatArray | None = None  # (n,) over the trials; NaN where not given
    decode_step_s: FloatArray | None = None  # (n,) mean of the o - 1 steps; NaN where o = 1
    decode_step_std_s: FloatArray | None = None  # (n,) over the trials; NaN where not given
    peak_memory_bytes: FloatArray | None = None  # (n,) NaN where not given
    failed: tuple[FailedCell, ...] = ()

    def __post_init__(self) -> None:
        _check_shapes(self)
        for column in ("mean_latency_s", "prefill_s"):
            values = getattr(self, column)
            bad = () if values is None else np.flatnonzero(~(np.isfinite(values) & (values > 0)))
            for cell in bad:
                raise CalibrationError(
                    f"{column} of grid {self.name!r} must be finite and > 0, "
                    f"got {values[cell]} in cell {cell}; measure it again"
                )
        for counts in (self.batch_size, self.max_seq_len, self.n_trials):
            if counts.size and counts.min() < 1:
                raise CalibrationError(
                    f"batch_size, max_seq_len and n_trials of grid {self.name!r} must be >= 1, "
                    f"got {counts.min()}"
                )
        if np.any(self.std_latency_s < 0) or np.any(np.isinf(self.std_latency_s)):
            raise CalibrationError(f"std_latency_s of grid {self.name!r} must be finite and >= 0")
        _check_steps(self)
        _check_cells_differ(self)

    def __len__(self) -> int:
        return len(self.batch_size)

    @property
    def measured(self) -> MeasuredRange:
        """The range of batch sizes and of prompt + output tokens."""
        return MeasuredRange(
            size=_range(self.batch_size), max_total_tokens=_range(self.max_seq_len)
        )

    @property
    def measured_steps(self) -> MeasuredRange:
        """The range of batch sizes, of prompts and of outputs, where they are known apart."""
        if self.prompt_tokens is None or self.output_tokens is None:
            return self.measured
        return MeasuredRange(
            size=_range(self.batch_size),
            max_prompt_tokens=_range(self.prompt_tokens),
            max_output_tokens=_range(self.output_tokens),
        )

    def shapes(self) -> Shape:
        """The batches of the cells; without their prompts and outputs where these are unknown."""
        if self.prompt_tokens is None or self.output_tokens is None:
            return Shape(self.batch_size, self.max_seq_len, 0, 0)
        return Shape(self.batch_size, self.max_seq_len, self.prompt_tokens, self.output_tokens)

    def where(self, keep: NDArray[np.bool_]) -> LatencyGrid:
        """The cells of a mask, shape (n,), as a grid of its own."""
        columns = {
            column: values[keep]
            for column in self.__slots__
            if isinstance(values := getattr(self, column), np.ndarray)
        }
        return LatencyGrid(**columns, name=self.name, source=self.source, failed=self.failed)


def _range(values: IntArray) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _check_shapes(grid: LatencyGrid) -> None:
    columns = [getattr(grid, column) for column in grid.__slots__]
    shapes = [column.shape for column in columns if isinstance(column, np.ndarray)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        raise CalibrationError(
            f"columns of grid {grid.name!r} must be one-dimensional and of one length, "
            f"got shapes {shapes}"
        )


def _check_steps(grid: LatencyGrid) -> None:
    """Prompts and outputs come together and add up; prefill and decode steps need them."""
    prompt, output = grid.prompt_tokens, grid.output_tokens
    if (prompt is None) != (output is None):
        raise CalibrationError(
            f"grid {grid.name!r} must have prompt_tokens and output_tokens or neither"
        )
    timed = (grid.prefill_s, grid.prefill_std_s, grid.decode_step_s, grid.decode_step_std_s)
    if any(column is None for column in timed) != all(column is None for column in timed):
        raise CalibrationError(
            f"grid {grid.name!r} must have mean and std of prefill and decode step, or none of them"
        )
    if prompt is None or output is None:
        if grid.prefill_s is not None:
            raise CalibrationError(
                f"grid {grid.name!r} must have prompt_tokens and output_tokens beside its prefill"
            )
        return
    if np.any(prompt < 0) or np.any(output < 1) or np.any(prompt + output != grid.max_seq_len):
        raise CalibrationError(
            f"prompt_tokens >= 0 and output_tokens >= 1 of grid {grid.name!r} must add up to "
            "max_seq_len in every cell"
        )
    decode_s = grid.decode_step_s
    if decode_s is not None and not np.all((decode_s > 0) | (output == 1)):
        raise CalibrationError(
            f"decode_step_s of grid {grid.name!r} must be > 0 wherever output_tokens > 1"
        )


def _check_cells_differ(grid: LatencyGrid) -> None:
    prompt = grid.prompt_tokens if grid.prompt_tokens is not None else np.zeros(len(grid))
    cells = list(zip(grid.batch_size.tolist(), grid.max_seq_len.tolist(), prompt, strict=True))
    if len(set(cells)) != len(cells):
        twice = next(cell for cell in cells if cells.count(cell) > 1)
        raise CalibrationError(
            f"cells of grid {grid.name!r} must differ, got batch_size {twice[0]} with "
            f"max_seq_len {twice[1]} more than once; merge them into one mean"
        )


_FIELDS = {
    "mean_latency_sec": "mean_latency_s",
    "std_latency_sec": "std_latency_s",
    "num_trials": "n_trials",
    "prefill_mean_sec": "prefill_s",
    "prefill_std_sec": "prefill_std_s",
    "decode_step_mean_sec": "decode_step_s",
    "decode_step_std_sec": "decode_step_std_s",
}


def read_grid(path: str | Path) -> LatencyGrid:
    """The grid in a CSV file with the columns of `HEADER` and of any optional groups, in any order.

    Raises
    ------
    CalibrationError
        In one line: the file, the line, the column, what was expected and what was found.

    Warns
    -----
    CalibrationWarning
        If cells ran out of memory when they were measured.
    """
    path = Path(path)
    raw = path.read_bytes()
    columns, failed = read_columns(path, raw)
    fields: dict[str, Any] = {
        _FIELDS.get(column, column): np.array(
            values, dtype=np.int64 if column in COUNTS else np.float64
        )
        for column, values in columns.items()
    }
    if failed:
        shown = ", ".join(map(str, failed[:8])) + ", ..." * (len(failed) > 8)
        warnings.warn(
            f"grid {path.name!r}: {len(failed)} of {len(failed) + len(fields['batch_size'])} cells "
            f"ran out of memory and are left out ({shown}); such batches are simulated all the "
            "same, unless the memory limit of the simulated GPU keeps them out",
            CalibrationWarning,
            stacklevel=2,
        )
    return LatencyGrid(
        **fields,
        name=path.name,
        source=f"{path} (sha256 {hashlib.sha256(raw).hexdigest()[:12]})",
        failed=failed,
    )
