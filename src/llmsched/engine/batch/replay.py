"""The arrival process: demand-driven, it wakes only for arrivals that a GPU waits for."""

from __future__ import annotations

import math

from simpy.events import ProcessGenerator

from llmsched.engine.batch.bins import BinStore
from llmsched.engine.clock import URGENT, Clock


def replay(clock: Clock, bins: BinStore) -> ProcessGenerator:
    """The life of the arrival stream: sleep until a GPU waits, wake at the next arrival.

    An arrival comes before everything else at its instant, hence the urgent priority.
    """
    while bins.queue.next_s < math.inf:
        if not (bins.get_queue or bins.a_gpu_waits()):
            bins.someone_waits = event = clock.event()
            yield event
            continue
        yield clock.at(bins.queue.next_s, URGENT)
        bins.arrive(clock.now)
