"""One run at the iteration level: a trace in, tables out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmsched.engine.clock import Clock
from llmsched.engine.dispatch import Dispatcher
from llmsched.engine.iteration.core import Core
from llmsched.engine.iteration.gpu import Gpu
from llmsched.engine.iteration.kv_blocks import CachedBlocks, CountedBlocks, KvBlocks, PrefixChains
from llmsched.engine.iteration.log import ReplicaLog, RequestLog
from llmsched.engine.iteration.requests import ServedRequests
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.engine.iteration.step_latency import StepLatency
from llmsched.engine.iteration.tables import ServedTable
from llmsched.schedulers_iteration.base import IterationScheduler, KnownRequests
from llmsched.schedulers_iteration.orders import Fcfs
from llmsched.schedulers_iteration.routing import RoundRobinRouter, RouterFactory
from llmsched.trace import IntArray, Trace

FCFS = IterationScheduler(Fcfs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IterationRun:
    """What a run gives."""

    requests: ServedTable
    replicas: tuple[ReplicaLog, ...]


def run_iteration_engine(
    trace: Trace,
    settings: IterationSettings,
    step_latency: StepLatency,
    *,
    scheduler: IterationScheduler = FCFS,
    n_replicas: int = 1,
    router: RouterFactory = RoundRobinRouter,
    predicted_tokens: IntArray | None = None,
    bins: IntArray | None = None,
    leaps: bool = True,
) -> IterationRun:
    """Serve a trace on simulated replicas, step by step, until nothing is left."""
    if n_replicas < 1:
        raise ValueError(f"n_replicas must be >= 1, got {n_replicas}")
    requests = ServedRequests(trace, settings, predicted_tokens)
    known = KnownRequests.of(
        arrival_s=trace.arrival_s,
        prompt_tokens=trace.prompt_tokens,
        predicted_tokens=requests.predicted_tokens,
        priority=trace.priority,
        bins=bins,
    )
    chains = None
    if settings.prefix_caching and trace.prefix_ids is not None:
        chains = PrefixChains(trace.prefix_ids, requests.prompt, settings.block_tokens)
    times = RequestLog(len(trace))
    clock = Clock(-math.inf)
    gpus = []
    for _ in range(n_replicas):
        core = Core(
            requests,
            settings,
            step_latency,
            scheduler.order(known),
            None if scheduler.limit is None else scheduler.limit(),
            _blocks(settings, chains),
            times,
            leaps=leaps,
        )
        gpus.append(Gpu(clock, core))
    dispatcher = Dispatcher(clock, requests, router(known, n_replicas), gpus)
    lives = [gpu.life() for gpu in gpus]
    for life in lives:
        clock.process(life)
    clock.process(dispatcher.life())
    clock.run()
    for life in lives:
        life.close()
    return IterationRun(
        requests=_table(trace, requests, times, dispatcher.replica),
        replicas=tuple(gpu.core.log for gpu in gpus),
    )


def _blocks(settings: IterationSettings, chains: PrefixChains | None) -> KvBlocks:
    if settings.prefix_caching:
        return CachedBlocks(settings.usable_blocks, settings.block_tokens, chains)
    return CountedBlocks(settings.usable_blocks)


def _table(
    trace: Trace, requests: ServedRequests, times: RequestLog, replica: IntArray
) -> ServedTable:
    columns = {
        name: np.asarray(getattr(times, name))
        for name in ("queued_s", "scheduled_s", "first_token_s", "finish_s")
    }
    return ServedTable(
        arrival_s=trace.arrival_s,
        prompt_tokens=trace.prompt_tokens,
        output_tokens=requests.output_tokens,
        predicted_tokens=requests.predicted_tokens,
        preemptions=np.asarray(times.preemptions),
        recomputed_tokens=np.asarray(times.recomputed_tokens),
        cached_tokens=np.asarray(times.cached_tokens),
        replica=replica,
        **columns,
    )
