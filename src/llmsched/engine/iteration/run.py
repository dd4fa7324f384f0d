"""One run at the iteration level: a trace in, tables out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.clock import Clock
from llmsched.engine.dispatch import Dispatcher
from llmsched.engine.iteration.core import Core
from llmsched.engine.iteration.gpu import Gpu
from llmsched.engine.iteration.kv_blocks import CachedBlocks, CountedBlocks, KvBlocks
from llmsched.engine.iteration.log import ReplicaLog, RequestLog, StepRecorder, TokenGaps
from llmsched.engine.iteration.requests import ServedRequests
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.engine.step_records import ReplicaTable, ServedTable, SpellTable, StepTable
from llmsched.latency.steps.base import StepLatency
from llmsched.schedulers.iteration.base import IterationScheduler, KnownRequests
from llmsched.schedulers.iteration.orders import Fcfs
from llmsched.schedulers.iteration.routing import RoundRobinRouter, RouterFactory
from llmsched.workload.demand import demand_of
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.prefixes.prefix_tree import PrefixTree
from llmsched.workload.trace import Trace

FCFS = IterationScheduler(Fcfs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IterationRun:
    """What a run gives; `steps` and `spells` only where steps were asked for."""

    settings: IterationSettings
    requests: ServedTable
    replicas: ReplicaTable
    gaps: TokenGaps
    steps: StepTable | None = None
    spells: SpellTable | None = None


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
    most_steps: int = 0,
    steps_window_s: tuple[float, float] = (-math.inf, math.inf),
    leaps: bool = True,
    progress: Callable[[int], None] | None = None,
) -> IterationRun:
    """Serve a trace on simulated replicas, step by step, until nothing is left.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival, with prefix ids and priorities where it has them; where they
        wait for answers, the run makes their arrivals.
    settings : IterationSettings
        How each replica batches, and its KV memory.
    step_latency : StepLatency
        Time of a step [s].
    scheduler : IterationScheduler
        Who is admitted next, and how many may run; first come first served unless given.
    n_replicas : int
        Replicas, each one SimPy process.
    router : callable
        Makes the router from what is known of the requests and the number of replicas.
    predicted_tokens : ndarray of shape (n,), optional
        Predicted output tokens, all that policies see; the true ones when not given.
    bins : ndarray of shape (n,), optional
        Bin by predicted length of every request; all in bin 0 when not given.
    most_steps : int
        Rows of the step table to keep per replica; 0 for no table.
    steps_window_s : (float, float)
        Only steps that run inside of it are kept.
    leaps : bool
        Whether runs of equal steps are taken at once; the results are the same.
    progress : callable, optional
        Called now and then with the number of requests finished.

    Raises
    ------
    ValueError
        If `n_replicas` is below 1, a prompt is empty, prefix ids do not stand for whole blocks, a
        policy or router answers what it cannot, or a step time is not one.

    Examples
    --------
    >>> from llmsched.workload.trace import Trace
    >>> class Flat:
    ...     def step_s(self, prefills, n_decodes, decode_kv): return 0.02
    ...     def decode_run_s(self, n_decodes, decode_kv, steps): return np.full(steps, 0.02)
    >>> trace = Trace(arrival_s=np.zeros(2), prompt_tokens=np.array([100, 50], np.int32),
    ...               output_tokens=np.array([3, 2], np.int32))
    >>> run = run_iteration_engine(trace, IterationSettings(kv_tokens=1600), Flat())
    >>> run.requests.finish_s.round(3).tolist()
    [0.06, 0.04]
    """
    if n_replicas < 1:
        raise ValueError(f"n_replicas must be >= 1, got {n_replicas}")
    for name, column in (("predicted_tokens", predicted_tokens), ("bins", bins)):
        if column is not None and len(column) != len(trace):
            raise ValueError(f"{name} must have {len(trace)} entries, got {len(column)}")
    requests = ServedRequests(trace, settings, predicted_tokens)
    known = KnownRequests.of(
        arrival_s=np.asarray(requests.arrival),
        prompt_tokens=trace.prompt_tokens,
        predicted_tokens=requests.predicted_tokens,
        priority=trace.priority,
        bins=bins,
    )
    tree = None
    if settings.prefix_caching and trace.prefix_ids is not None:
        _check_whole_blocks(trace.prefix_ids, settings)
        tree = PrefixTree(trace.prefix_ids)
    times = RequestLog(len(trace), progress)
    clock = Clock(-math.inf)  # replicas are there before the first request
    gpus = []
    for _ in range(n_replicas):
        core = Core(
            requests,
            settings,
            step_latency,
            scheduler.order(known),
            None if scheduler.limit is None else scheduler.limit(),
            _blocks(settings, trace, tree),
            times,
            recorder=StepRecorder(most_steps, steps_window_s) if most_steps else None,
            leaps=leaps,
        )
        gpus.append(Gpu(clock, core))
    dispatcher = Dispatcher(
        clock, requests.arrival, requests.accepted, router(known, n_replicas), gpus
    )
    lives = [gpu.life() for gpu in gpus]
    for life in lives:
        clock.process(life)
    if trace.closed:
        answered = dispatcher.serve_demand(demand_of(trace))
        for gpu in gpus:
            gpu.core.answered = answered
    else:
        clock.process(dispatcher.life())
    clock.run()
    for life in lives:  # they wait for ever, in reference cycles: let go of the columns now
        life.close()
    cores = [gpu.core for gpu in gpus]
    recorders = [core.recorder for core in cores if core.recorder is not None]
    return IterationRun(
        settings=settings,
        requests=_served(trace, requests, times, dispatcher.replica),
        replicas=_replicas([core.log for core in cores]),
        gaps=TokenGaps(
            logs=tuple(core.log.gaps for core in cores),
            step_latency=step_latency,
            overhead_s=settings.overhead_s,
            per_request_s=settings.per_request_s,
        ),
        steps=_steps(recorders),
        spells=_spells(recorders, np.asarray(times.finish_s)),
    )


def _check_whole_blocks(prefix_ids: PrefixIds, settings: IterationSettings) -> None:
    if prefix_ids.tokens_per_id % settings.block_tokens:
        raise ValueError(
            f"block_tokens must divide the {prefix_ids.tokens_per_id} tokens that a prefix id "
            f"stands for, got {settings.block_tokens}; choose another or turn prefix caching off"
        )


def _blocks(settings: IterationSettings, trace: Trace, tree: PrefixTree | None) -> KvBlocks:
    if not settings.prefix_caching:
        return CountedBlocks(settings.usable_blocks)
    if tree is None or trace.prefix_ids is None:
        return CachedBlocks(settings.usable_blocks, settings.block_tokens)
    per_id = trace.prefix_ids.tokens_per_id // settings.block_tokens
    return CachedBlocks(settings.usable_blocks, settings.block_tokens, tree, per_id)


def _served(
    trace: Trace, requests: ServedRequests, times: RequestLog, replica: IntArray
) -> ServedTable:
    return ServedTable(
        arrival_s=np.asarray(requests.arrival),
        prompt_tokens=trace.prompt_tokens,
        output_tokens=requests.output_tokens,
        predicted_tokens=requests.predicted_tokens,
        queued_s=np.asarray(times.queued_s),
        scheduled_s=np.asarray(times.scheduled_s),
        first_token_s=np.asarray(times.first_token_s),
        finish_s=np.asarray(times.finish_s),
        preemptions=np.asarray(times.preemptions),
        recomputed_tokens=np.asarray(times.recomputed_tokens),
        cached_tokens=np.asarray(times.cached_tokens),
        replica=replica,
    )


def _replicas(logs: Sequence[ReplicaLog]) -> ReplicaTable:
    return ReplicaTable(
        steps=np.array([log.n_steps for log in logs]),
        tokens=np.array([log.n_tokens for log in logs]),
        busy_s=np.array([log.busy_s for log in logs]),
        kv_block_s=np.array([log.kv_block_s for log in logs]),
        kv_blocks_max=np.array([log.kv_blocks_max for log in logs], np.int32),
        running_max=np.array([log.running_max for log in logs], np.int32),
        waiting_max=np.array([log.waiting_max for log in logs], np.int32),
        admitted_s=np.array([log.admitted_s for log in logs]),
        waiting_ended_s=np.array([log.waiting_ended_s for log in logs]),
    )


def _steps(recorders: Sequence[StepRecorder]) -> StepTable | None:
    if not recorders:
        return None
    rows = [row for recorder in recorders for row in recorder.rows]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 8
    counts = {i: np.array(columns[i], np.int32) for i in (2, 3, 5, 6, 7)}
    return StepTable(
        start_s=np.array(columns[0], np.float64),
        end_s=np.array(columns[1], np.float64),
        prefill_tokens=counts[2],
        decodes=counts[3],
        kv_tokens=np.array(columns[4], np.int64),
        running=counts[5],
        waiting=counts[6],
        used_blocks=counts[7],
        replica=np.repeat(
            np.arange(len(recorders), dtype=np.int32), [len(r.rows) for r in recorders]
        ),
        left_out=sum(recorder.left_out for recorder in recorders),
    )


def _spells(recorders: Sequence[StepRecorder], finish_s: FloatArray) -> SpellTable | None:
    """The k-th admission of a request lasts to its k-th preemption, or to its end."""
    if not recorders:
        return None
    request, start_s = _by_request([row for one in recorders for row in one.admissions])
    victim, stopped_s = _by_request([row for one in recorders for row in one.preemptions])
    nth = np.arange(len(request)) - np.searchsorted(request, request)
    at = np.searchsorted(victim, request) + nth
    preempted = at < np.searchsorted(victim, request, side="right")
    end_s = finish_s[request]
    end_s[preempted] = stopped_s[at[preempted]]
    return SpellTable(request=request, start_s=start_s, end_s=end_s)


def _by_request(rows: Sequence[tuple[int, float]]) -> tuple[IntArray, FloatArray]:
    """Requests and instants as columns, in order of both."""
    requests, instants = zip(*rows, strict=True) if rows else ((), ())
    request, at_s = np.array(requests, np.int32), np.array(instants, np.float64)
    order = np.lexsort((at_s, request))
    return request[order], at_s[order]
