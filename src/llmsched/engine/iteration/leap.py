"""A run of decode-only steps that follow from one decision, taken at once.

The same requests decode step after step until one of them gets its last token, blocks run out, or
an arrival could be admitted. The first two are known in advance and bound the run; an arrival cuts
it at the first instant at or after it. So a leap is a plan: nothing changes before it is committed,
as far as it got. Ends are summed one after the other, hence equal those of single steps.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.engine.iteration.log import StepRecorder
from llmsched.engine.iteration.requests import Active
from llmsched.schedulers.iteration.base import ProcessedStep

if TYPE_CHECKING:
    from llmsched.engine.iteration.core import Core

Evaluated = tuple[list[float] | FloatArray, list[float] | FloatArray]
INFINITY = math.inf
LONG = 16  # steps from which on one vector is faster than a loop


class Leap:
    """Steps decided in advance.

    Parameters
    ----------
    start_s : float
        When the first of them was decided.
    ends : list or ndarray of float
        Ends of the steps.
    durations : list or ndarray of float
        Their durations.
    first_s : float, optional
        End of the step in flight before them; None where each starts as it is decided.
    can_be_cut : bool
        Whether an arrival could be admitted.

    Attributes
    ----------
    steps : int
        How many will be taken; a cut makes it fewer.
    wake_s : float
        When to act next: where the decision after the last of them is due.
    """

    __slots__ = ("_durations", "_ends", "_first_s", "_start_s", "can_be_cut", "steps", "wake_s")

    def __init__(
        self,
        start_s: float,
        ends: list[float] | FloatArray,
        durations: list[float] | FloatArray,
        first_s: float | None,
        *,
        can_be_cut: bool,
    ) -> None:
        self.can_be_cut = can_be_cut
        self._start_s = start_s
        self._ends = ends
        self._durations = durations
        self._first_s = first_s
        self.steps = steps = len(ends)
        self.wake_s = float(ends[steps - 1] if first_s is None else ends[steps - 2])

    def _instant_s(self, step: int) -> float:
        """When the decision after a step is due, from 0: at the end of the oldest in flight."""
        if self._first_s is None:
            return float(self._ends[step])
        return float(self._ends[step - 1]) if step else self._first_s

    def steps_decided(self, now_s: float) -> int:
        """How many are decided before anything that happens now."""
        if self._first_s is None:
            return bisect_left(self._ends, now_s, 0, self.steps - 1) + 1
        if self._first_s >= now_s:
            return 1
        return min(bisect_left(self._ends, now_s, 0, self.steps - 1) + 2, self.steps)

    def cut(self, arrival_s: float) -> None:
        """Go no further than the first instant at or after an arrival."""
        self.steps = self.steps_decided(arrival_s)
        self.wake_s = self._instant_s(self.steps - 1)

    def blocks_taken(self, core: Core, now_s: float) -> int:
        """Blocks that its steps have taken before anything that happens now."""
        return sum(core.decodes.blocks_of_ticks(0, self.steps_decided(now_s)))

    def ended_by(self, core: Core, now_s: float) -> list[Active]:
        """Who has left since it began: the step before it may give last tokens."""
        if self._first_s is None or self._first_s >= now_s:
            return []
        return core.in_flight[0][1]

    def commit(self, core: Core) -> None:
        """Take the steps: the replica is where single steps would have brought it."""
        steps, ends, durations, log = self.steps, self._ends, self._durations, core.log
        in_flight, decodes = core.in_flight, core.decodes
        n = decodes.n
        if core.recorder is not None:
            self._record(core, core.recorder)
        if core.inbox:
            self._take_in(core)
        if core.n_waiting > log.waiting_max:
            log.waiting_max = core.n_waiting
        self._take_blocks(core)
        begin_s = core.end_s if core.end_s > self._start_s else self._start_s
        end_s = float(ends[steps - 1])
        if steps < LONG:
            log.gaps.ticks(ends[:steps], n)
        else:
            shortest_s, longest_s = np.minimum.reduce(durations), np.maximum.reduce(durations)
            log.gaps.long_run(ends, steps, n, decodes.kv_tokens, (shortest_s, longest_s))
        log.n_steps += steps
        log.n_tokens += steps * n
        log.busy_s += end_s - begin_s
        core.end_s = core.tick_end_s = end_s
        core.overlapped = self._first_s is not None
        if in_flight and steps > 1:
            old = in_flight.popleft()
            if old[1] or core.limit is not None:
                core.process(old)
            in_flight.append((float(ends[steps - 2]), [], float(durations[steps - 2]), n, 0))
        if core.limit is not None:
            self._tell_limit(core, n)
        ended = decodes.advance(steps)
        for active in ended:
            core.times.finish_s[active.request] = end_s
        in_flight.append((end_s, ended, float(durations[steps - 1]), n, 0))

    def _take_in(self, core: Core) -> None:
        """Take in what came before its last instant; it could not have been admitted."""
        inbox, noticed = core.inbox, core.requests.noticed
        while inbox:
            decided = self.steps_decided(noticed[inbox[0]])
            if decided == self.steps:
                break
            core.take_in(inbox.popleft(), self._instant_s(decided - 1))

    def _take_blocks(self, core: Core) -> None:
        """Take the blocks of all steps, each counted from its own decision on."""
        steps, wake_s, first_s = self.steps, self.wake_s, self._first_s
        first, later, block_s = core.decodes.blocks_needed(), 0, 0.0
        if steps <= core.block_tokens:
            instants = self._ends if first_s is None else [first_s, *self._ends[: steps - 2]]
            counts = core.decodes.blocks_of_ticks(1, steps)
            for count, instant_s in zip(counts, instants, strict=False):
                later += count
                block_s += count * (wake_s - instant_s)
        else:
            for step, count in core.decodes.blocks_in_cycles(1, steps):
                later += count
                block_s += count * (wake_s - self._instant_s(step - 1))
        freed = 0
        if first_s is not None and steps > 1:
            for active in core.in_flight[0][1]:
                freed += active.blocks_at_end(core.block_tokens)
            block_s -= freed * (wake_s - first_s)
        core.log.kv_leapt(self._start_s, wake_s, first, later, freed, block_s)
        if first or later:
            core.blocks.take(first + later)

    def _record(self, core: Core, recorder: StepRecorder) -> None:
        """Write down every step, with the counts of its decision."""
        decodes, noticed = core.decodes, core.requests.noticed
        blocks = decodes.blocks_of_ticks(0, self.steps)
        used = core.usable_blocks - core.blocks.free
        running, start_s = len(core.running), max(core.end_s, self._start_s)
        for step, end_s in enumerate(self._ends[: self.steps]):
            used += blocks[step]
            if step == 1 and self._first_s is not None:
                left = core.in_flight[0][1]
                running -= len(left)
                used -= sum(active.blocks_at_end(core.block_tokens) for active in left)
            decided_s = self._instant_s(step - 1) if step else self._start_s
            waiting = core.n_waiting + sum(noticed[r] <= decided_s for r in core.inbox)
            kv_tokens = decodes.kv_tokens + step * decodes.n
            end_s = float(end_s)
            recorder.add((start_s, end_s, 0, decodes.n, kv_tokens, running, waiting, used))
            start_s = end_s

    def _tell_limit(self, core: Core, n: int) -> None:
        """Let the limit learn from the steps that ended on the way, and ask it as often."""
        limit = core.limit
        assert limit is not None
        processed = self.steps - 1
        if self._first_s is not None and processed:  # the step before these, told already
            limit.limit(len(core.running))
            processed -= 1
        for duration_s in self._durations[:processed]:
            limit.observe(ProcessedStep(float(duration_s), n, 0))
            limit.limit(len(core.running))


def leap_from(core: Core, now_s: float, most: int) -> Leap | None:
    """A leap, if the next decisions are like this one: decodes only, and nobody is admitted.

    `most` requests may run. Nothing arrives that could be admitted, unless the leap can be cut.
    """
    n, in_flight = core.decodes.n, core.in_flight
    if not n or len(in_flight) != core.depth - 1 or n > core.step_tokens:
        return None
    somebody_leaves = bool(in_flight and in_flight[0][1])
    if somebody_leaves and core.answered is not None:
        return None  # who waits for that answer has to be told in time
    has_room = len(core.running) < most and (n < core.step_tokens or core.prefill_first)
    full = not has_room and core.limit is None and not somebody_leaves
    if core.n_waiting:
        if not full and (somebody_leaves or not core.refused):
            return None
        can_be_cut = not full and not core.order.fifo
    else:
        if somebody_leaves and not core.blocks.are_private:
            return None
        can_be_cut = not full
    return plan_leap(core, now_s, can_be_cut=can_be_cut)


def plan_leap(core: Core, now_s: float, *, can_be_cut: bool) -> Leap | None:
    """The run of equal steps that begins with this decision; None for a single step.

    Where the next arrival is known, the leap ends in time for it.
    """
    decodes = core.decodes
    steps = decodes.ticks_to_next_end()
    if core.blocks.free < decodes.n * (steps // core.block_tokens + 1):
        steps = decodes.ticks_within(core.blocks.free, steps)
    if steps < 2:
        return None
    first_s = core.in_flight[0][0] if core.in_flight else None
    stop_s = core.next_arrival_s if can_be_cut else math.inf
    if first_s is not None and first_s >= stop_s:
        return None
    begin_s = now_s if now_s > core.end_s else core.end_s
    if steps >= LONG and stop_s < math.inf:
        steps = min(steps, _steps_until(core, stop_s - begin_s))
    if steps < LONG:
        ends, durations = _one_by_one(core, begin_s, stop_s, steps)
    else:
        ends, durations = _at_once(core, begin_s, steps)
    known = stop_s < math.inf
    leap = Leap(now_s, ends, durations, first_s, can_be_cut=can_be_cut and not known)
    if known and steps >= LONG:
        leap.cut(stop_s)
    return leap


def _steps_until(core: Core, seconds: float) -> int:
    """About how many steps begin in that time: enough, unless steps become shorter."""
    n, kv_tokens = core.decodes.n, core.decodes.kv_tokens
    duration_s = core.step_latency.step_s((), n, kv_tokens)
    return int(min(seconds / duration_s, 1e9)) + 2 if duration_s > 0 else LONG


def _one_by_one(core: Core, end_s: float, stop_s: float, steps: int) -> Evaluated:
    """Ends and durations of a few steps [s], no further than a stop needs."""
    n, kv_tokens = core.decodes.n, core.decodes.kv_tokens
    step_s, overhead_s = core.step_latency.step_s, core.overhead_s
    per_step_s = core.per_request_s * n
    one_more = bool(core.in_flight)  # the decision after a step is due at the end before its own
    ends: list[float] = []
    durations: list[float] = []
    for _ in range(steps):
        if end_s >= stop_s:
            if not one_more:
                break
            one_more = False
        before_s = end_s
        duration_s = (step_s((), n, kv_tokens) + overhead_s) + per_step_s
        end_s += duration_s
        if not before_s <= end_s < INFINITY:
            raise not_a_time(duration_s, 0, n, kv_tokens)
        kv_tokens += n
        ends.append(end_s)
        durations.append(duration_s)
    return ends, durations


def _at_once(core: Core, begin_s: float, steps: int) -> Evaluated:
    """Ends and durations of many steps [s], equal to those of single steps to the last bit."""
    n, kv_tokens = core.decodes.n, core.decodes.kv_tokens
    run = np.empty(steps + 1)
    run[0] = begin_s
    durations = run[1:]
    durations[:] = core.step_latency.decode_run_s(n, kv_tokens, steps)
    durations += core.overhead_s
    durations += core.per_request_s * n
    ends = run.cumsum()[1:]
    if not (np.minimum.reduce(durations) >= 0.0 and ends[-1] < math.inf):
        worst = int(np.argmax(~(durations >= 0.0) | ~np.isfinite(ends)))
        raise not_a_time(durations[worst], 0, n, kv_tokens + worst * n)
    return ends, durations


def not_a_time(duration_s: float, n_prefills: int, n_decodes: int, decode_kv: int) -> ValueError:
    """The error of a step-time model that gave something that is not a duration."""
    return ValueError(
        f"the step-time model must give a finite time >= 0 s, got {duration_s} for "
        f"{n_prefills} prefills and {n_decodes} decodes with {decode_kv} tokens of KV"
    )
