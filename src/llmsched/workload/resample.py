"""Another stretch of traffic like a trace: its blocks of time, drawn with replacement.

A trace is one draw of its traffic.  What another draw would have given is estimated by the moving
block bootstrap in its circular form: the time of the trace is cut into blocks of one length, each
filled with the requests of a block that begins anywhere in the trace, its end joined to its start.
Inside a block everything stays as it was: gaps, lengths, bursts, and how they go together.

References
----------
.. [1] Kuensch, "The jackknife and the bootstrap for general stationary observations", 1989.
.. [2] Politis, Romano, "A circular block-resampling procedure for stationary data", 1992.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmsched.workload.trace import Trace, TraceError

BLOCKS = 20  # per trace: few enough to hold its bursts whole, enough to differ


def resampled(trace: Trace, rng: np.random.Generator, *, blocks: int = BLOCKS) -> Trace:
    """A trace of the same length in time, made of blocks of this one.

    Parameters
    ----------
    trace : Trace
        Requests at two instants at least.
    rng : numpy.random.Generator
        Of where the blocks begin.
    blocks : int
        How many, all equally long.

    Raises
    ------
    TraceError
        If all requests arrive at one instant, or no block drawn holds one.
    """
    if trace.turns is not None and trace.turns.users is None and not trace.turns.timed:
        raise TraceError(
            f"trace {trace.name!r} must have arrival times to be resampled; name their column "
            "(--columns arrival=NAME), or let users send its requests as they are "
            "(--no-resample-trace --concurrency N)"
        )
    if trace.closed:
        raise TraceError(
            f"trace {trace.name!r} must have recorded arrivals to be resampled, but requests wait "
            "for answers; take it as it is (--no-resample-trace)"
        )
    if not trace.span_s > 0:
        raise TraceError(
            f"trace {trace.name!r} must have requests at two instants at least to be resampled, "
            f"got {len(trace)} within {trace.span_s:g} s; take it as it is (--no-resample-trace)"
        )
    first_s = trace.arrival_s[0]
    # one mean gap closes the circle from the last arrival to the first
    circle_s = trace.span_s * len(trace) / (len(trace) - 1)
    length_s = circle_s / blocks
    twice = np.concatenate([trace.arrival_s - first_s, trace.arrival_s - first_s + circle_s])
    begin_s = rng.uniform(0.0, circle_s, blocks)
    first = np.searchsorted(twice, begin_s, side="left")
    end = np.searchsorted(twice, begin_s + length_s, side="left")
    count = end - first
    if not count.sum():
        raise TraceError(
            f"trace {trace.name!r} must have requests in most blocks of {length_s:g} s to be "
            "resampled, got none; take it as it is (--no-resample-trace)"
        )
    block = np.repeat(np.arange(blocks), count)
    within = np.arange(len(block)) - np.repeat(np.cumsum(count) - count, count)
    rows = first[block] + within
    arrival_s = block * length_s + (twice[rows] - begin_s[block])
    moved = replace(trace, arrival_s=np.zeros(len(trace))).take(rows % len(trace))
    return replace(moved, arrival_s=np.maximum.accumulate(arrival_s))
