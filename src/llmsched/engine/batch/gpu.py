"""The GPU process, batch level: a batch holds its GPU until its longest member ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simpy.events import ProcessGenerator

from llmsched.engine.batch.bins import BinStore, Pull
from llmsched.engine.batch.log import BatchLog
from llmsched.engine.batch.queues import Batch
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
    answered: Callable[[Batch], None] | None = None,
) -> ProcessGenerator:
    """One GPU's life: pull a batch, serve it for T(b, L), report back, repeat.

    `pull` is its first one, made when the GPU was there and nothing had arrived. `answered` is told
    of every batch that is done, where arrivals depend on answers.
    """
    while True:
        batch = yield pull  # asleep while every bin is empty
        service_s = latency.service_s(batch)
        finish_s = log.record(batch, gpu_id, clock.now, service_s)
        yield clock.at(finish_s)
        batchers[batch.bin].observe(batch, service_s)
        if answered is not None:
            answered(batch)
        pull = bins.pull(gpu_id)
