"""One run: a trace in, the tables of requests and batches out."""

from __future__ import annotations

import math
from collections.abc import Callable

from simpy.events import ProcessGenerator

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.admission import Admission
from llmsched.engine.batch.bins import BinStore, Pull
from llmsched.engine.batch.closed_loop import Arriving, ArrivingBins, ArrivingRequests, Loop
from llmsched.engine.batch.gpu import gpu
from llmsched.engine.batch.log import BatchLog
from llmsched.engine.batch.queues import FormedBatches, Queue, WaitingBins
from llmsched.engine.batch.replay import replay
from llmsched.engine.batch.requests import WaitingRequests
from llmsched.engine.clock import Clock
from llmsched.engine.columns import Accepted
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.latency.base import LatencyModel, alone_s
from llmsched.schedulers.scheduler import Scheduler
from llmsched.workload.demand import demand_of
from llmsched.workload.trace import Trace


def run_engine(
    trace: Trace,
    bins: IntArray,
    n_bins: int,
    scheduler: Scheduler,
    *,
    n_gpus: float,
    latency: LatencyModel,
    admission: Admission = "together",
    predicted_tokens: IntArray | None = None,
    predicted_alone_s: FloatArray | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[RequestTable, BatchTable]:
    """Serve a trace on simulated GPUs, batch by batch, until nothing is left.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival; where they wait for answers, the run makes their arrivals.
    bins : ndarray of shape (n,)
        Bin of every request, in [0, n_bins).
    n_bins : int
        Number of bins.
    scheduler : Scheduler
        Fresh policy objects; they are used up by the run.
    n_gpus : int, or infinity
        GPUs, each one SimPy process; with infinitely many no batch ever waits for one.
    latency : LatencyModel
        Service time of a batch [s].
    admission : {"together", "one-by-one"}
        Whether a waiting GPU sees all arrivals of an instant at once, or each alone.
    predicted_tokens : ndarray of shape (n,), optional
        Predicted output tokens, for the table and for a scheduler that sees requests; the true
        ones when not given.
    predicted_alone_s : ndarray of shape (n,), optional
        Predicted service time of each request alone [s]; by default what `latency` says of the
        predicted tokens.
    progress : callable, optional
        Called now and then with the number of requests whose service has begun.

    Raises
    ------
    ValueError
        If `n_gpus` is below 1 or not whole, the admission is unknown, or the scheduler forms its
        batches from arrivals that depend on answers.
    """
    if not n_gpus >= 1 or (n_gpus != math.inf and n_gpus != int(n_gpus)):
        raise ValueError(f"n_gpus must be a whole number >= 1 or infinity, got {n_gpus}")
    if admission not in ("together", "one-by-one"):
        raise ValueError(f"admission must be 'together' or 'one-by-one', got {admission!r}")
    if trace.closed and scheduler.release is not None:
        raise ValueError(
            "a scheduler that forms full batches as requests arrive would wait for ever where "
            "arrivals wait for answers; take another one, or recorded arrivals"
        )
    demand = demand_of(trace)
    predicted = trace.output_tokens if predicted_tokens is None else predicted_tokens
    if scheduler.sees == "requests" and predicted_alone_s is None:
        predicted_alone_s = alone_s(latency, trace.prompt_tokens, predicted)
    accepted = (Arriving if trace.closed else Accepted)(trace, bins, scheduler.capacity_tokens)
    queue = _queue(trace, accepted, n_bins, scheduler, predicted, predicted_alone_s)
    clock = Clock(-math.inf)  # GPUs wait already when the first request arrives, at 0
    log = BatchLog(progress)
    lives: list[ProcessGenerator] = []
    policy = queue.policy  # not the queue itself, which a closure would keep alive

    def live(pull: Pull) -> None:
        lives.append(gpu(clock, pull.gpu_id, store, latency, policy, log, pull, answered))
        clock.process(lives[-1])

    store = BinStore(clock, queue, n_gpus, hire=live, one_by_one=admission == "one-by-one")
    answered, arrived_s = None, trace.arrival_s
    if isinstance(queue, ArrivingBins | ArrivingRequests):
        assert isinstance(accepted, Arriving)
        loop = Loop(clock, demand, accepted, queue, store)
        answered, arrived_s = loop.answered, loop.arrived_s
    else:
        clock.process(replay(clock, store))
    clock.run()
    # GPUs wait for ever, in reference cycles: let go of the columns now, not at a collection.
    for life in lives:
        life.close()
    del store.queue
    if queue.n_waiting:
        raise ValueError(
            f"{scheduler.label} must serve every request it takes, got {queue.n_waiting} left "
            "waiting; it must not go on planning nothing"
        )
    return log.tables(trace, arrived_s, bins, predicted, queue.served())


def _queue(
    trace: Trace,
    accepted: Accepted,
    n_bins: int,
    scheduler: Scheduler,
    predicted_tokens: IntArray,
    predicted_alone_s: FloatArray | None,
) -> Queue:
    """Where requests wait, as the scheduler sees them."""
    if scheduler.release is not None:
        return FormedBatches(trace, accepted, n_bins, scheduler, scheduler.release)
    if predicted_alone_s is not None and scheduler.sees == "requests":
        predictions = predicted_tokens, predicted_alone_s
        if isinstance(accepted, Arriving):
            return ArrivingRequests(trace, accepted, n_bins, scheduler, *predictions)
        return WaitingRequests(trace, accepted, n_bins, scheduler, *predictions)
    if isinstance(accepted, Arriving):
        return ArrivingBins(trace, accepted, n_bins, scheduler)
    return WaitingBins(trace, accepted, n_bins, scheduler)
