"""What a run reports: columns per request, and per replica what its steps add up to.

Nothing is kept per token. Token times are step ends, so the gaps between tokens are the gaps
between steps, each weighted with the requests that decoded in both; long runs of equal steps are
kept as their first shape and evaluated again where somebody asks for their gaps.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.latency.steps.base import StepLatency

EVERY = 4096  # requests between two calls of `progress`
PART = 1 << 16  # runs of equal weight whose gaps are looked at together

Gaps = tuple[FloatArray, IntArray]  # gaps [s], and how often each occurred

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
        return self._with_runs(list(self._single()), *self._runs())

    def quantiles(self, quantiles: Sequence[float]) -> FloatArray:
        """Quantiles of all gaps, numpy's linear ones [s]; NaN where there is no gap.

        All gaps are counted by their leading bits first; looked at are only those, and evaluated
        again only runs, that may hold the gap of a wanted rank.
        """
        shapes, bounds = self._runs()
        counted = [_counted(gaps_s, counts) for gaps_s, counts in self._single()]
        keys, counts = (np.concatenate(columns) for columns in zip(*counted, strict=True))
        total = int(counts.sum()) + int((shapes[:, 0] * shapes[:, 2]).sum())
        if not total:
            return np.full(len(quantiles), np.nan)
        place = np.asarray(quantiles, np.float64) * (total - 1)
        below = np.floor(place).astype(np.int64)
        ranks = np.unique([below, np.minimum(below + 1, total - 1)])
        gap_of = dict(zip(ranks, self._ranked(ranks, keys, counts, shapes, bounds), strict=True))
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
        keys: NDArray[np.int64],
        counts: NDArray[np.int64],
        shapes: NDArray[np.int64],
        bounds: FloatArray,
    ) -> list[float]:
        """The gaps of the given ranks, from 0, all in ascending order [s]."""
        in_run = shapes[:, 0] * shapes[:, 2]
        shortest, longest = _leading_bits(bounds[:, 1]), _leading_bits(bounds[:, 2])
        # A gap of a rank is no shorter than if all gaps of a run were its shortest, and so on.
        least = _at_ranks(np.r_[keys, shortest], np.r_[counts, in_run], ranks)
        most = _at_ranks(np.r_[keys, longest], np.r_[counts, in_run], ranks)
        brackets = list(dict.fromkeys(zip(least.tolist(), most.tolist(), strict=True)))
        near: dict[tuple[int, int], list[Gaps]] = {bracket: [] for bracket in brackets}
        for gaps_s, times in self._single():
            bits = _leading_bits(gaps_s)
            for low, high in brackets:
                kept = (bits >= low) & (bits <= high)
                near[low, high].append((gaps_s[kept], times[kept]))
        gaps: list[float] = []
        for rank, low, high in zip(ranks, least.tolist(), most.tolist(), strict=True):
            runs = (longest >= low) & (shortest <= high)
            before = int(counts[keys < low].sum()) + int(in_run[longest < low].sum())
            some = self._with_runs(near[low, high], shapes[runs], bounds[runs])
            gaps.append(float(_at_ranks(*some, np.array([rank - before]))[0]))
        return gaps

    def _single(self) -> Iterator[Gaps]:
        """Gaps outside long runs, and how often each occurred, in parts."""
        for log in self.logs:
            ends, first = np.frombuffer(log.ends), 0
            counts, weights = (np.frombuffer(a, np.int32) for a in (log.counts, log.weights))
            for start in range(0, len(counts), PART):
                part = slice(start, start + PART)
                times = np.repeat(weights[part], counts[part])
                before_s = ends[first - 1 : first] if first else [0.0]
                gaps_s = np.diff(ends[first : first + len(times)], prepend=before_s)
                first += len(times)
                yield gaps_s[times > 0], times[times > 0]
            yield np.frombuffer(log.others), np.ones(len(log.others), np.int32)

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
        self, single: Sequence[Gaps], shapes: NDArray[np.int64], bounds: FloatArray
    ) -> Gaps:
        """The gaps given and those of some runs, evaluated as in the run: by sums of durations."""
        more_s, more = map(list, zip(*single, strict=True))
        for (n, kv_tokens, steps), start_s in zip(shapes.tolist(), bounds[:, 0], strict=True):
            ends = np.empty(steps + 1)
            ends[0] = start_s
            ends[1:] = self.step_latency.decode_run_s(n, kv_tokens, steps)
            ends[1:] += self.overhead_s
            ends[1:] += self.per_request_s * n
            more_s.append(np.diff(ends.cumsum()))
            more.append(np.full(steps, n, np.int32))
        return np.concatenate(more_s), np.concatenate(more)


def _leading_bits(seconds: FloatArray) -> NDArray[np.int64]:
    """Whole numbers in the order of the times, equal for times within a thousandth of each other.

    The bits of floats >= 0 are ordered as the floats are.
    """
    bits: NDArray[np.int64] = np.ascontiguousarray(seconds).view(np.int64) >> 42
    return bits


def _counted(gaps_s: FloatArray, counts: IntArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often there are gaps of each sort of leading bits."""
    if not len(gaps_s):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    bits = _leading_bits(gaps_s)
    least = int(bits.min())
    found = np.bincount(bits - least, weights=counts)
    keys = np.flatnonzero(found)
    return keys + least, found[keys].astype(np.int64)


def _at_ranks(values: NDArray[Any], counts: IntArray, ranks: NDArray[np.int64]) -> NDArray[Any]:
    """`np.sort(np.repeat(values, counts))[ranks]`, without repeating."""
    order = np.argsort(values)
    upto = np.cumsum(counts[order], dtype=np.int64)
    found: NDArray[Any] = values[order][np.searchsorted(upto, ranks, side="right")]
    return found


class StepRecorder:
    """Every step of a replica as a row, as long as there is room; all admissions and preemptions.

    Parameters
    ----------
    most : int
        Rows to keep; later steps are counted only.
    window_s : (float, float)
        Steps that run outside of it are neither kept nor counted.
    """

    def __init__(self, most: int, window_s: tuple[float, float] = (-math.inf, math.inf)) -> None:
        self.most = most
        self.begin_s, self.stop_s = window_s
        self.left_out = 0
        self.rows: list[StepRow] = []
        self.admissions: list[tuple[int, float]] = []  # request, instant
        self.preemptions: list[tuple[int, float]] = []

    def add(self, row: StepRow) -> None:
        """Keep a step."""
        if row[1] <= self.begin_s or row[0] >= self.stop_s:
            return
        if len(self.rows) < self.most:
            self.rows.append(row)
        else:
            self.left_out += 1
