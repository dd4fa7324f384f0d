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

from llmsched.engine.iteration.requests import Active
from llmsched.schedulers_iteration.base import ProcessedStep

if TYPE_CHECKING:
    from llmsched.engine.iteration.core import Core

LONG = 16  # steps from which on one vector is faster than a loop


class Leap:
    """Steps decided in advance.

    Parameters
    ----------
    start_s : float
        When the first of them was decided.
    instants : list of float
        When each next one is decided: the end of the oldest step that is then in flight.
    ends, durations : list of float
        Of the steps.
    can_be_cut : bool
        Whether an arrival could be admitted.

    Attributes
    ----------
    steps : int
        How many will be taken; a cut makes it fewer.
    wake_s : float
        When to act next: where the decision after the last of them is due.
    """

    __slots__ = ("_durations", "_ends", "_instants", "_start_s", "can_be_cut", "steps", "wake_s")

    def __init__(
        self,
        start_s: float,
        instants: list[float],
        ends: list[float],
        durations: list[float],
        *,
        can_be_cut: bool,
    ) -> None:
        self.steps = len(ends)
        self.wake_s = instants[self.steps - 1]
        self.can_be_cut = can_be_cut
        self._start_s = start_s
        self._instants = instants
        self._ends = ends
        self._durations = durations

    def cut(self, arrival_s: float) -> None:
        """Go no further than the first instant at or after an arrival."""
        self.steps = self.steps_decided(arrival_s)
        self.wake_s = self._instants[self.steps - 1]

    def steps_decided(self, now_s: float) -> int:
        """How many are decided before anything that happens now."""
        return bisect_left(self._instants, now_s, 0, self.steps - 1) + 1

    def blocks_taken(self, core: Core, now_s: float) -> int:
        """Blocks that its steps have taken before anything that happens now."""
        return sum(count for _, count in core.decodes.boundaries(self.steps_decided(now_s)))

    def ended_by(self, core: Core, now_s: float) -> list[Active]:
        """Who has left since it began: the step before it may give last tokens."""
        return core.in_flight[0][1] if core.in_flight and self._instants[0] < now_s else []

    def commit(self, core: Core) -> None:
        """Take the steps: the replica is where single steps would have brought it."""
        steps, log, decodes = self.steps, core.log, core.decodes
        ends, durations, n = self._ends, self._durations, decodes.n
        self._take_in(core)
        self._take_blocks(core)
        begin_s, end_s = max(self._start_s, core.end_s), ends[steps - 1]
        if steps < LONG:
            log.ticks(ends[:steps], n)
        else:
            log.long_run(begin_s, end_s, n, decodes.kv_tokens, steps)
        log.n_steps += steps
        log.n_tokens += steps * n
        log.busy_s += end_s - begin_s
        core.end_s = core.tick_end_s = end_s
        core.overlapped = core.depth > 1
        self._process(core, n)
        ended = decodes.advance(steps)
        for active in ended:
            core.times.finish_s[active.request] = end_s
        if core.depth > 1 and steps > 1:
            core.in_flight.append((ends[steps - 2], [], durations[steps - 2], n, 0))
        core.in_flight.append((end_s, ended, durations[steps - 1], n, 0))

    def _take_in(self, core: Core) -> None:
        """Take in what came meanwhile and could not have been admitted."""
        inbox, arrival, instants = core.inbox, core.requests.arrival, self._instants
        while inbox and arrival[inbox[0]] < self.wake_s:
            request = inbox.popleft()
            core.take_in(request, instants[self.steps_decided(arrival[request]) - 1])

    def _take_blocks(self, core: Core) -> None:
        """Take the blocks of all steps, each counted from its own decision on."""
        start_s, instants, wake_s, log = self._start_s, self._instants, self.wake_s, core.log
        first, later, block_s = 0, 0, 0.0
        for j, count in core.decodes.boundaries(self.steps):
            if j:
                later += count
                block_s += count * (wake_s - instants[j - 1])
            else:
                first = count
        if first:
            log.kv(start_s, log.kv_blocks + first)
        if self.steps > 1 and core.in_flight and core.in_flight[0][1]:
            block = core.block_tokens
            freed = sum(active.blocks_at_end(block) for active in core.in_flight[0][1])
            log.kv(instants[0], log.kv_blocks - freed)
        if later:
            log.kv(wake_s, log.kv_blocks + later)
            log.kv_block_s += block_s
        if first or later:
            core.blocks.take(first + later)

    def _process(self, core: Core, n: int) -> None:
        """Process the steps that ended on the way, and ask the limit as often."""
        limit, n_processed = core.limit, self.steps - 1
        if core.in_flight and n_processed:
            core.process(core.in_flight.popleft())
            n_processed -= 1
            if limit is not None:
                limit.limit(len(core.running))
        if limit is not None:
            for duration_s in self._durations[:n_processed]:
                limit.observe(ProcessedStep(duration_s, n, 0))
                limit.limit(len(core.running))


def plan_leap(core: Core, now_s: float, *, can_be_cut: bool) -> Leap | None:
    """The run of equal steps that begins with this decision; None for a single step."""
    decodes = core.decodes
    n, kv_tokens = decodes.n, decodes.kv_tokens
    steps = decodes.ticks_to_next_end()
    if core.blocks.free < n * (steps // core.block_tokens + 1):
        steps = decodes.ticks_within(core.blocks.free, steps)
    if steps < 2:
        return None
    overhead_s, per_entry_s = core.settings.overhead_s, core.settings.per_request_s * n
    begin_s = max(now_s, core.end_s)
    if steps < LONG:
        step_s = core.step_latency.step_s
        ends: list[float] = []
        durations: list[float] = []
        end_s = begin_s
        for _ in range(steps):
            duration_s = (step_s((), n, kv_tokens) + overhead_s) + per_entry_s
            end_s += duration_s
            kv_tokens += n
            ends.append(end_s)
            durations.append(duration_s)
    else:
        run = np.empty(steps + 1)
        run[0] = begin_s
        run[1:] = (core.step_latency.decode_run_s(n, kv_tokens, steps) + overhead_s) + per_entry_s
        durations = run[1:].tolist()
        ends = np.cumsum(run)[1:].tolist()
    if not (min(durations) >= 0.0 and ends[-1] < math.inf):
        raise ValueError(
            "the step-time model must give finite times >= 0 s, got "
            f"{min(durations)} to {max(durations)} for {steps} steps of {n} decodes"
        )
    instants = [core.in_flight[0][0], *ends] if core.in_flight else ends
    return Leap(now_s, instants, ends, durations, can_be_cut=can_be_cut)
