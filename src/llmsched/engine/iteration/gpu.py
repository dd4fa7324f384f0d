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

    def deliver(self, request: int) -> None:
        """A request arrives now: an idle GPU wakes, one on a leap may have to act earlier."""
        core = self.core
        core.inbox.append(request)
        core.n_outstanding += 1
        core.predicted_tokens += core.requests.predicted_work[request]
        if core.next_s == math.inf:
            if not self._alarm.triggered:
                self._alarm.succeed()
        elif core.leap is not None and core.leap.can_be_cut:
            before_s = core.next_s
            core.leap.cut(self._clock.now)
            core.next_s = core.leap.wake_s
            if core.next_s < before_s:
                self._alarm = self._clock.bring_forward(self._alarm, core.next_s)

    def seen(self, now_s: float) -> tuple[int, int, int]:
        """Outstanding requests, used blocks, predicted tokens; before anything of this instant."""
        core = self.core
        outstanding, predicted = core.n_outstanding, core.predicted_tokens
        used = core.usable_blocks - core.blocks.free
        if core.leap is not None:
            used += core.leap.blocks_taken(core, now_s)
            for active in core.leap.ended_by(core, now_s):
                outstanding -= 1
                predicted -= core.requests.predicted_work[active.request]
                used -= active.blocks_at_end(core.block_tokens)
        return outstanding, used, predicted

    def cached_tokens(self, request: int) -> int:
        """Tokens of a prompt that this replica's prefix cache would find now."""
        core, requests = self.core, self.core.requests
        newcomer = Active(request, requests.prompt[request], requests.total[request])
        return core.blocks.find(newcomer).n_blocks * core.block_tokens
