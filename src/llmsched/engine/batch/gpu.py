"""The GPU process, batch level: a batch holds its GPU until its longest member ends."""

from __future__ import annotations

from collections.abc import Sequence

from simpy.events import ProcessGenerator

from llmsched.engine.batch.bins import BinStore, Pull
from llmsched.engine.batch.log import BatchLog
from llmsched.engine.clock import Clock
from llmsched.latency.base import LatencyModel
from llmsched.schedulers.batch_size import Batcher


def gpu(
    clock: Clock,
    gpu_id: int,
    bins: BinStore,
    latency: LatencyModel,
    batchers: Sequence[Batcher],
    log: BatchLog,
    pull: Pull,
) -> ProcessGenerator:
    """One GPU's life: pull a batch, serve it for T(b, L), report back, repeat.

    `pull` is its first one, made when the GPU was there and nothing had arrived.
    """
    while True:
        batch = yield pull  # asleep while every bin is empty
        service_s = latency.service_s(batch)
        finish_s = log.record(batch, gpu_id, clock.now, service_s)
        yield clock.at(finish_s)
        batchers[batch.bin].observe(batch, service_s)
        pull = bins.pull(gpu_id)
