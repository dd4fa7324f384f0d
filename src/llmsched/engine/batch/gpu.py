"""The GPU process, batch level: a batch holds its GPU until its longest member ends."""

from __future__ import annotations

from collections.abc import Callable

from simpy.events import ProcessGenerator

from llmsched._util.plugins import CALL_ERRORS, raise_failure
from llmsched.engine.batch.batch import Batch
from llmsched.engine.batch.bins import BinStore, Pull
from llmsched.engine.batch.log import BatchLog
from llmsched.engine.clock import Clock
from llmsched.latency.base import LatencyModel
from llmsched.schedulers.base import BatchPolicy


def gpu(
    clock: Clock,
    gpu_id: int,
    bins: BinStore,
    latency: LatencyModel,
    policy: BatchPolicy,
    log: BatchLog,
    pull: Pull,
    answered: Callable[[Batch], None] | None = None,
) -> ProcessGenerator:
    """One GPU's life: take a batch, serve it for T(b, L), report back, repeat.

    `pull` is its first one, made when the GPU was there and nothing had arrived. `answered` is told
    of every batch that is done, where arrivals depend on answers.
    """
    batch = yield pull  # asleep until something can be served
    while True:
        try:
            service_s = latency.service_s(batch)
        except CALL_ERRORS as error:
            raise_failure(latency, "service_s", error)
        finish_s = log.record(batch, gpu_id, service_s)
        yield clock.at(finish_s)
        try:
            policy.observe(batch.finished(), service_s)
        except CALL_ERRORS as error:
            raise_failure(policy, "observe", error)
        if answered is not None:
            answered(batch)
        batch = bins.next_batch(finish_s) or (yield pull.again())
