"""The GPU process, iteration level: it sleeps until its oldest step ends or a request comes."""

from __future__ import annotations

import math

from simpy.events import Event, ProcessGenerator

from llmsched.engine.clock import Clock
from llmsched.engine.iteration.core import Core
from llmsched.engine.iteration.requests import Active


class Gpu:
    """One replica: a GPU, or a group of them that runs every step together.

    Parameters
    ----------
    clock : Clock
    core : Core
        Its state and decisions.
    """

    def __init__(self, clock: Clock, core: Core) -> None:
        self.core = core
        self._horizon_s = -math.inf  # nothing arrives before
        self._clock = clock
        self._alarm: Event = clock.event()

    def life(self) -> ProcessGenerator:
        """Sleep until there is something to do, act, repeat."""
        core, clock = self.core, self._clock
        while True:
            idle = core.next_s == math.inf
            self._alarm = clock.event() if idle else clock.at(core.next_s)
            yield self._alarm
            core.act(clock.now, self._horizon_s)

    def nothing_before(self, next_s: float, *, comes: bool) -> None:
        """Nothing arrives before that instant; `comes`: something then arrives here."""
        self._horizon_s = next_s
        if comes:
            self.core.next_arrival_s = next_s

    def deliver(self, request: int, *, behind: bool = False) -> None:
        """A request arrives now: an idle GPU wakes, one on a leap may have to act earlier.

        What comes behind all else of this instant is taken in later, but by an idle GPU at once.
        """
        core, noticed_s = self.core, self._clock.now
        if behind and core.next_s < math.inf:
            noticed_s = math.nextafter(noticed_s, math.inf)
        if core.answered is not None:
            core.requests.noticed[request] = noticed_s
        core.inbox.append(request)
        core.n_outstanding += 1
        core.predicted_tokens += core.requests.predicted_work[request]
        if core.next_s == math.inf:
            if not self._alarm.triggered:
                self._alarm.succeed()
        elif core.leap is not None and core.leap.can_be_cut:
            before_s = core.next_s
            core.leap.cut(noticed_s)
            core.next_s = core.leap.wake_s
            if core.next_s < before_s:
                self._alarm = self._clock.bring_forward(self._alarm, core.next_s)

    def outstanding(self, now_s: float, request: int) -> int:
        """Requests accepted and not finished, before anything of this instant but arrivals."""
        return self.core.n_outstanding - len(self._ended(now_s))

    def used_blocks(self, now_s: float, request: int) -> int:
        """KV blocks held, before anything of this instant."""
        core = self.core
        used = core.usable_blocks - core.blocks.free
        if core.leap is not None:
            used += core.leap.blocks_taken(core, now_s)
        return used - sum(active.blocks_at_end(core.block_tokens) for active in self._ended(now_s))

    def predicted_tokens(self, now_s: float, request: int) -> int:
        """Prompts and predicted outputs of the outstanding requests."""
        core = self.core
        work, left = core.requests.predicted_work, self._ended(now_s)
        return core.predicted_tokens - sum(int(work[active.request]) for active in left)

    def cached_tokens(self, now_s: float, request: int) -> int:
        """Tokens of the prompt of `request` that the prefix cache would find."""
        core, requests = self.core, self.core.requests
        newcomer = Active(request, requests.prompt[request], requests.total[request])
        return core.blocks.find(newcomer).n_blocks * core.block_tokens

    def _ended(self, now_s: float) -> list[Active]:
        """Who has left in the course of a leap, which is committed at its end."""
        leap = self.core.leap
        return [] if leap is None else leap.ended_by(self.core, now_s)
