"""The grid of a measurement: which cells are asked for, and what the trials of each one say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsched.calibration.measure.timing import BatchTime
from llmsched.latency.base import CalibrationError

FloatArray = NDArray[np.float64]
LEAST_TRIALS = 2  # fewer have no spread
UNEVEN = 1.5  # a slowest trial this many times the median is pointed out


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """A batch of equal requests."""

    batch_size: int
    prompt_tokens: int
    output_tokens: int

    @property
    def max_seq_len(self) -> int:
        """Prompt + output of each request [tokens]."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurePlan:
    """What to measure: every batch size with every length, each cell so many times.

    Parameters
    ----------
    batch_sizes : tuple of int
        Requests per batch; each >= 1.
    seq_lens : tuple of int
        Prompt + output of each request [tokens].
    prompt_share : float
        Share of the prompt in it, in (0, 1); the prompt is rounded to whole tokens.
    n_trials : int
        Timed trials per cell; >= 2.
    n_warmup : int
        Trials per cell, before all others, that are not kept; >= 0.
    seed : int
        Of the order of the cells and of the prompts; >= 0.

    Raises
    ------
    CalibrationError
        If a value is out of its bounds, or a length leaves no prompt or fewer than two output
        tokens: the second one is the first decode step.
    """

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    seq_lens: tuple[int, ...] = (128, 256, 512)
    prompt_share: float = 0.5
    n_trials: int = 5
    n_warmup: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("batch_sizes", self.batch_sizes), ("seq_lens", self.seq_lens)):
            if not values or min(values) < 1 or len(set(values)) != len(values):
                shown = ",".join(map(str, values)) or "none"
                raise CalibrationError(f"{name} must be different and >= 1, got {shown}")
        for name, count, least in (
            ("n_trials", self.n_trials, LEAST_TRIALS),
            ("n_warmup", self.n_warmup, 0),
            ("seed", self.seed, 0),
        ):
            if count < least:
                raise CalibrationError(f"{name} must be >= {least}, got {count}")
        if not (math.isfinite(self.prompt_share) and 0 < self.prompt_share < 1):
            raise CalibrationError(
                f"prompt_share must be above 0 and below 1, got {self.prompt_share:g}"
            )
        for cell in self.cells():
            if cell.prompt_tokens < 1 or cell.output_tokens < 2:
                raise CalibrationError(
                    "seq_lens must leave a prompt of >= 1 and an output of >= 2 tokens, got "
                    f"{cell.max_seq_len} with prompt_share {self.prompt_share:g}, so "
                    f"{cell.prompt_tokens} and {cell.output_tokens}; the second token takes the "
                    "first decode step"
                )

    def cells(self) -> tuple[Cell, ...]:
        """Every cell, by batch size and then by length."""
        return tuple(
            Cell(batch_size=size, prompt_tokens=prompt, output_tokens=tokens - prompt)
            for size in sorted(self.batch_sizes)
            for tokens in sorted(self.seq_lens)
            for prompt in (round(tokens * self.prompt_share),)
        )

    @property
    def longest_tokens(self) -> int:
        """Longest prompt + output [tokens]."""
        return max(self.seq_lens)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """The trials of one cell; none is left out of any figure."""

    cell: Cell
    trials: tuple[BatchTime, ...]
    out_of_memory: bool = False

    @property
    def whole_s(self) -> FloatArray:
        """Time of the whole batch in each trial [s]."""
        return np.array([trial.whole_s for trial in self.trials])

    @property
    def prefill_s(self) -> FloatArray:
        """Time of the prompts' forward pass in each trial [s]."""
        return np.array([trial.prefill_s for trial in self.trials])

    @property
    def decode_step_s(self) -> FloatArray:
        """Mean time of the decode steps of each trial [s]."""
        return (self.whole_s - self.prefill_s) / (self.cell.output_tokens - 1)

    @property
    def peak_memory_bytes(self) -> int | None:
        """Most memory that the device's tensors took in any trial; None where not known."""
        peaks = [t.peak_memory_bytes for t in self.trials if t.peak_memory_bytes is not None]
        return max(peaks, default=None)

    @property
    def slowest_over_median(self) -> float:
        """Slowest trial as a multiple of the median one."""
        return float(self.whole_s.max() / np.median(self.whole_s))
