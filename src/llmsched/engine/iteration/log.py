"""What a run reports: columns per request, and per replica what its steps add up to.

Nothing is kept per token. Token times are step ends, so the gaps between tokens are the gaps
between steps, each weighted with the requests that decoded in both; long runs of equal steps are
kept as their first shape and evaluated again where somebody asks for their gaps.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.types import FloatArray, IntArray
from llmsched.latency.steps.base import StepLatency

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
        "_kv_since_s",
        "admitted_s",
        "busy_s",
        "gaps",
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
        self.gaps = GapLog()
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

    def kv(self, now_s: float, used: int) -> None:
        """From now on that many blocks are used."""
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
        level = self.kv_blocks
        if level:
            self.kv_block_s += level * (start_s - self._kv_since_s)
        level += first
        self.kv_block_s += level * (wake_s - start_s) + block_s
        self._kv_since_s = wake_s
        self.kv_blocks = used = level - freed + later
        if level > self.kv_blocks_max or used > self.kv_blocks_max:
            self.kv_blocks_max = max(level, used)


class GapLog:
    """The gaps between tokens of one replica, as steps with decodes in order.

    A step's weight is how many of its requests also had a token at the end of the step before.
    """

    __slots__ = ("counts", "ends", "others", "run_bounds", "run_shapes", "weights")

    def __init__(self) -> None:
        self.ends = array("d", (0.0,))
        self.counts = array("i", (1,))  # steps in a row ...
        self.weights = array("i", (0,))  # ... of one weight
        self.others = array("d")  # gaps that are not those of neighbouring steps
        self.run_shapes = array("q")  # of long runs: decodes, their KV before, steps
        self.run_bounds = array("d")  # start, shortest and longest duration

    def tick(self, end_s: float, weight: int) -> None:
        """A step with decodes ended."""
        self.ends.append(end_s)
        self.counts.append(1)
        self.weights.append(weight)

    def ticks(self, ends_s: Sequence[float] | FloatArray, weight: int) -> None:
        """Several of them."""
        self.ends.extend(ends_s)
        self.counts.append(len(ends_s))
        self.weights.append(weight)

    def long_run(
        self,
        ends_s: Sequence[float] | FloatArray,
        steps: int,
        n_decodes: int,
        kv_tokens: int,
        bounds_s: tuple[float, float],
    ) -> None:
        """Many of them, equal but for the growing KV, that take no less and no more than so long.

        `kv_tokens` is that before the first. Kept are the ends of the first and of the last.
        """
        self.tick(ends_s[0], n_decodes)
        self.run_shapes.extend((n_decodes, kv_tokens + n_decodes, steps - 1))
        self.run_bounds.extend((ends_s[0], *bounds_s))
        self.tick(ends_s[steps - 1], 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenGaps:
    """Every gap between consecutive tokens of a request, kept small until it is asked for.

    A gap counts once for each request that waited it out.
    """

    logs: tuple[GapLog, ...]
    step_latency: StepLatency
    overhead_s: float
    per_request_s: float

    def expand(self) -> tuple[FloatArray, IntArray]:
        """The gaps [s], and how often each occurred; shape (m,) each, in no order."""
        single_s, counts = self._single()
        shapes, bounds = self._runs()
        return self._with_runs(single_s, counts, shapes, bounds)

    def quantiles(self, quantiles: Sequence[float]) -> FloatArray:
        """Quantiles of all gaps, numpy's linear ones [s]; NaN where there is no gap.

        Only runs that may hold the gap of a wanted rank are evaluated again.
        """
        single_s, counts = self._single()
        order = np.argsort(single_s)
        single_s, counts = single_s[order], counts[order]
        shapes, bounds = self._runs()
        total = int(counts.sum()) + int((shapes[:, 0] * shapes[:, 2]).sum())
        if not total:
            return np.full(len(quantiles), np.nan)
        place = np.asarray(quantiles, np.float64) * (total - 1)
        below = np.floor(place).astype(np.int64)
        ranks = np.unique([below, np.minimum(below + 1, total - 1)])
        gap_of = dict(
            zip(ranks, self._ranked(ranks, single_s, counts, shapes, bounds), strict=True)
        )
        low = np.array([gap_of[rank] for rank in below])
        high = np.array([gap_of[min(rank + 1, total - 1)] for rank in below])
        share = place - below
        # as numpy interpolates, from the nearer end
        wanted: FloatArray = np.where(
            share >= 0.5, high - (high - low) * (1 - share), low + (high - low) * share
        )
        return wanted

    def _ranked(
        self,
        ranks: NDArray[np.int64],
        single_s: FloatArray,
        counts: IntArray,
        shapes: NDArray[np.int64],
        bounds: FloatArray,
    ) -> list[float]:
        """The gaps of the given ranks, from 0, all in ascending order [s]."""
        in_run = shapes[:, 0] * shapes[:, 2]
        # A gap of a rank is no shorter than if all gaps of a run were its shortest, and so on.
        least = _at_ranks(np.r_[single_s, bounds[:, 1]], np.r_[counts, in_run], ranks)
        most = _at_ranks(np.r_[single_s, bounds[:, 2]], np.r_[counts, in_run], ranks)
        gaps: list[float] = []
        for rank, low, high in zip(ranks, least, most, strict=True):
            near = (bounds[:, 2] >= low) & (bounds[:, 1] <= high)
            begin, end = np.searchsorted(single_s, low), np.searchsorted(single_s, high, "right")
            before = int(counts[:begin].sum()) + int(in_run[bounds[:, 2] < low].sum())
            some = self._with_runs(
                single_s[begin:end], counts[begin:end], shapes[near], bounds[near]
            )
            gaps.append(float(_at_ranks(*some, np.array([rank - before]))[0]))
        return gaps

    def _single(self) -> tuple[FloatArray, IntArray]:
        """Gaps outside long runs, and how often each occurred."""
        gaps_s, counts = [], []
        for log in self.logs:
            weights = np.repeat(
                np.frombuffer(log.weights, np.int32), np.frombuffer(log.counts, np.int32)
            )
            kept = weights > 0
            gaps_s += [np.diff(np.frombuffer(log.ends), prepend=0.0)[kept]]
            gaps_s += [np.frombuffer(log.others)]
            counts += [weights[kept], np.ones(len(log.others), np.int32)]
        return np.concatenate(gaps_s), np.concatenate(counts)

    def _runs(self) -> tuple[NDArray[np.int64], FloatArray]:
        """Long runs: (decodes, KV before, steps) and (start, shortest, longest gap [s]) of each."""
        shapes = np.concatenate([np.frombuffer(log.run_shapes, np.int64) for log in self.logs])
        bounds = np.concatenate([np.frombuffer(log.run_bounds) for log in self.logs])
        shapes, bounds = shapes.reshape(-1, 3), bounds.reshape(-1, 3).copy()
        # A gap is a difference of sums, hence off its duration by their last bits.
        slack = 4 * np.spacing(bounds[:, 0] + shapes[:, 2] * bounds[:, 2])
        bounds[:, 1] -= slack
        bounds[:, 2] += slack
        return shapes, bounds

    def _with_runs(
        self,
        gaps_s: FloatArray,
        counts: IntArray,
        shapes: NDArray[np.int64],
        bounds: FloatArray,
    ) -> tuple[FloatArray, IntArray]:
        """The gaps given and those of some runs, evaluated as in the run: by sums of durations."""
        more_s, more = [gaps_s], [counts]
        for (n, kv_tokens, steps), start_s in zip(shapes.tolist(), bounds[:, 0], strict=True):
            ends = np.empty(steps + 1)
            ends[0] = start_s
            ends[1:] = self.step_latency.decode_run_s(n, kv_tokens, steps)
            ends[1:] += self.overhead_s
            ends[1:] += self.per_request_s * n
            more_s.append(np.diff(ends.cumsum()))
            more.append(np.full(steps, n, np.int32))
        return np.concatenate(more_s), np.concatenate(more)


def _at_ranks(values: FloatArray, counts: IntArray, ranks: NDArray[np.int64]) -> FloatArray:
    """`np.sort(np.repeat(values, counts))[ranks]`, without repeating."""
    order = np.argsort(values)
    upto = np.cumsum(counts[order], dtype=np.int64)
    found: FloatArray = values[order][np.searchsorted(upto, ranks, side="right")]
    return found


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
