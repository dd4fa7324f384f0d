"""What a run reports: columns per request, and per replica what its steps add up to.

Nothing is kept per token. Token times are step ends, so the gaps between tokens are the gaps
between steps, each weighted with the requests that decoded in both; long runs of equal steps are
kept as their first shape and evaluated again when the gaps are asked for.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmsched._util.types import FloatArray, IntArray
from llmsched.latency.step_base import StepLatency

EVERY = 4096  # requests between two calls of `progress`

StepRow = tuple[float, float, int, int, int, int, int, int]
"""Start, end [s], prefill tokens, decodes, their KV tokens, running, waiting, used blocks."""


class RequestLog:
    """When each request was taken in, scheduled and served; NaN for what never happened."""

    def __init__(self, n: int, progress: Callable[[int], None] | None = None) -> None:
        self._progress = progress
        self._n_finished = 0
        self.queued_s: memoryview[Any] = np.full(n, np.nan).data
        self.scheduled_s: memoryview[Any] = np.full(n, np.nan).data
        self.first_token_s: memoryview[Any] = np.full(n, np.nan).data
        self.finish_s: memoryview[Any] = np.full(n, np.nan).data
        self.preemptions: memoryview[Any] = np.zeros(n, np.int32).data
        self.recomputed_tokens: memoryview[Any] = np.zeros(n, np.int64).data
        self.cached_tokens: memoryview[Any] = np.zeros(n, np.int32).data

    def count_finished(self, n: int) -> None:
        """Some requests finished; say so now and then."""
        before = self._n_finished
        self._n_finished = before + n
        if self._progress is not None and self._n_finished // EVERY > before // EVERY:
            self._progress(self._n_finished)


class ReplicaLog:
    """What the steps of one replica add up to."""

    __slots__ = (
        "_counts",
        "_ends",
        "_gaps",
        "_kv_since_s",
        "_long",
        "_long_start_s",
        "_weights",
        "admitted_s",
        "busy_s",
        "kv_block_s",
        "kv_blocks",
        "kv_blocks_max",
        "n_steps",
        "n_tokens",
        "running_max",
        "waiting_ended_s",
        "waiting_max",
    )

    def __init__(self) -> None:
        self.n_steps = 0
        self.n_tokens = 0
        self.busy_s = 0.0
        self.kv_blocks = 0  # used now
        self.kv_blocks_max = 0
        self.kv_block_s = 0.0  # integral of used blocks over time
        self._kv_since_s = -math.inf
        self.admitted_s = 0.0  # instants of all admissions, less those of all preemptions
        self.waiting_ended_s = 0.0  # instants when preempted requests got their last token
        self.running_max = 0
        self.waiting_max = 0
        # Steps with decodes, in order: ends, and weights as runs of equal ones.
        self._ends = array("d", (0.0,))
        self._counts = array("i", (1,))
        self._weights = array("i", (0,))
        # Long runs: where in `_ends` they begin, decodes, their KV before, steps.
        self._long = array("q")
        self._long_start_s = array("d")
        self._gaps = array("d")  # gaps that are not those of neighbouring steps

    def kv(self, now_s: float, used: int) -> None:
        """From now on that many blocks are used."""
        if used != self.kv_blocks:
            level = self.kv_blocks
            if level:
                self.kv_block_s += level * (now_s - self._kv_since_s)
            self._kv_since_s = now_s
            self.kv_blocks = used
            if used > self.kv_blocks_max:
                self.kv_blocks_max = used

    def kv_leapt(
        self, start_s: float, wake_s: float, first: int, later: int, freed: int, block_s: float
    ) -> None:
        """What a leap took and freed: `first` blocks at once, the rest for `block_s` in all."""
        level = self.kv_blocks + first
        self.kv_block_s += (
            self.kv_blocks * (start_s - self._kv_since_s if self.kv_blocks else 0.0)
            + level * (wake_s - start_s)
            + block_s
        )
        self._kv_since_s = wake_s
        self.kv_blocks = level - freed + later
        self.kv_blocks_max = max(self.kv_blocks_max, level, self.kv_blocks)

    def tick(self, end_s: float, weight: int) -> None:
        """A step with decodes ended; so many requests also had a token at the end before."""
        self._ends.append(end_s)
        self._counts.append(1)
        self._weights.append(weight)

    def ticks(self, ends_s: Sequence[float] | FloatArray, weight: int) -> None:
        """Several of them, with one weight."""
        self._ends.extend(ends_s)
        self._counts.append(len(ends_s))
        self._weights.append(weight)

    def long_run(
        self, start_s: float, end_s: float, n_decodes: int, kv_tokens: int, steps: int
    ) -> None:
        """Many of them: decode-only steps with a fixed set, from `start_s` to `end_s`."""
        self._long_start_s.append(start_s)
        self._long.extend((len(self._ends) - 1, n_decodes, kv_tokens, steps))
        self.tick(end_s, 0)

    def gap(self, seconds: float) -> None:
        """One more gap between two tokens of a request."""
        self._gaps.append(seconds)

    def token_gaps(
        self, step_latency: StepLatency, overhead_s: float, per_request_s: float
    ) -> tuple[FloatArray, IntArray]:
        """Gaps between consecutive tokens of a request [s], and how often each occurred."""
        ends = np.frombuffer(self._ends)
        weights = np.repeat(
            np.frombuffer(self._weights, np.int32), np.frombuffer(self._counts, np.int32)
        )
        kept = weights > 0
        gaps = [np.frombuffer(self._gaps), np.diff(ends, prepend=0.0)[kept]]
        counts = [np.ones(len(self._gaps), np.int32), weights[kept]]
        for row in range(0, len(self._long), 4):
            before, n, kv_tokens, steps = self._long[row : row + 4]
            durations = step_latency.decode_run_s(n, kv_tokens, steps)
            run = np.empty(steps + 1)
            run[0] = self._long_start_s[row // 4]
            run[1:] = (durations + overhead_s) + per_request_s * n
            run = np.cumsum(run)
            run[0] = ends[before]  # before the first of them prompts may have been computed alone
            gaps.append(np.diff(run))
            counts.append(np.full(steps, n))
        return np.concatenate(gaps), np.concatenate(counts)


class StepRecorder:
    """Every step of a replica as a row, as long as there is room.

    Parameters
    ----------
    most : int
        Rows to keep; later steps are counted only.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.left_out = 0
        self.rows: list[StepRow] = []

    def add(self, row: StepRow) -> None:
        """Keep a step."""
        if len(self.rows) < self.most:
            self.rows.append(row)
        else:
            self.left_out += 1
