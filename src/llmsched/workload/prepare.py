"""From a trace as read to the trace to run: choosing requests, scaling time, and describing both.

Nothing is left out in silence: every rule that drops requests is counted in `Trace.left_out`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import given_up
from llmsched._util.limits import LONGEST_JITTER_S, RPS_SCALES
from llmsched.workload.sessions import earliest_s
from llmsched.workload.trace import Labels, Trace, TraceError


def prepare(
    trace: Trace,
    *,
    requests: int | None = None,
    window_s: tuple[float, float] | None = None,
    model: str | None = None,
    log_type: str | None = None,
    failures: Literal["drop", "keep"] = "drop",
    rps_scale: float = 1.0,
    jitter_s: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Trace:
    """The requests of a trace that a run replays, at the times at which it replays them.

    The rules apply in this order: time window; model; log type; failures; first N; jitter; start
    at 0; scale. So `requests` counts what the filters left, and the window and the jitter are in
    the real time of the file.

    Parameters
    ----------
    trace
        As read.
    requests
        Keep the first so many.
    window_s
        Keep arrivals in [start, end), seconds after the first arrival of `trace` [s].
    model, log_type
        Keep requests with this label.
    failures
        What to do with requests without any output token: a failed request has none.
    rps_scale
        Divide the times by this, so that requests come so many times as fast; by default 1, in
        real time. Within `RPS_SCALES`. Where turns wait for answers, sessions begin so many times
        as fast: the pauses of people stay what they are.
    jitter_s
        Move each arrival later by a uniform random part of this [s], and sort again, stably: 1.0
        undoes the rounding of whole-second stamps. At most `LONGEST_JITTER_S`.
    rng
        The source of the jitter.

    Returns
    -------
    Trace
        Arrivals from 0 on, (t − t₀) / rps_scale. `left_out` gains one entry per rule that dropped
        requests.

    Warns
    -----
    UserWarning
        If fewer than `requests` are there.

    Raises
    ------
    TraceError
        If a label is not in the trace, or a rule leaves nothing.
    ValueError
        If an option is out of its range.
    """
    _check(requests, window_s, failures, rps_scale, jitter_s, rng)
    if jitter_s and trace.closed:
        raise ValueError(
            f"jitter needs recorded arrivals, but requests of trace {trace.name!r} wait for "
            "answers; leave it out"
        )
    if not len(trace):
        raise TraceError(f"trace {trace.name!r} must have at least one request, got none")
    if window_s is not None:
        start, end = window_s
        inside = np.searchsorted(trace.arrival_s - trace.arrival_s[0], window_s, side="left")
        trace = _keep(trace, slice(*inside.tolist()), f"outside the window {start:g} to {end:g} s")
    if model is not None:
        trace = _keep(trace, _mask(trace, "model", model), f"model other than {model}")
    if log_type is not None:
        trace = _keep(trace, _mask(trace, "log_type", log_type), f"log type other than {log_type}")
    if failures == "drop":
        trace = _keep(trace, trace.output_tokens > 0, "failed: no output tokens")
    if requests is not None:
        if len(trace) < requests:
            warnings.warn(
                f"asked for {requests} requests, but trace {trace.name!r} has only {len(trace)} "
                "after the other rules; all of them are used",
                stacklevel=2,
            )
        trace = _keep(trace, slice(requests), f"after the first {requests}")
    if jitter_s and rng is not None:
        trace = _jittered(trace, jitter_s, rng)
    return at_scale(trace, rps_scale)


def at_scale(trace: Trace, rps_scale: float) -> Trace:
    """The requests so many times as fast, from time 0 on.

    Where turns wait for answers, sessions begin so many times as fast and pauses stay as they are,
    so turns may come in another order.
    """
    first_s, turns = trace.arrival_s[0], trace.turns
    if first_s == 0 and rps_scale == 1:
        return trace
    if turns is not None and (turns.users is not None or not turns.timed):
        return trace  # there are no arrivals to scale
    arrival_s = given_up((trace.arrival_s - first_s) / rps_scale)
    if turns is None or not turns.closed:
        return replace(trace, arrival_s=arrival_s)
    arrival_s = earliest_s(arrival_s, turns.after, turns.think_s)
    order = np.argsort(arrival_s, kind="stable")
    moved = replace(trace, arrival_s=np.zeros(len(trace))).take(order)
    return replace(moved, arrival_s=given_up(arrival_s[order]))


def _check(
    requests: int | None,
    window_s: tuple[float, float] | None,
    failures: str,
    rps_scale: float,
    jitter_s: float,
    rng: np.random.Generator | None,
) -> None:
    if requests is not None and requests < 1:
        raise ValueError(f"requests must be >= 1, got {requests}; leave it out for all")
    if window_s is not None and not 0 <= window_s[0] < window_s[1]:
        given = f"{window_s[0]:g}:{window_s[1]:g}"
        raise ValueError(f"window must be START:END with 0 <= START < END seconds, got {given}")
    if failures not in ("drop", "keep"):
        raise ValueError(f"failures must be 'drop' or 'keep', got {failures!r}")
    least, most = RPS_SCALES
    if not least <= rps_scale <= most:
        given = f"{rps_scale:g}; 1 is real time"
        raise ValueError(f"RPS scale must be from {least:g} to {most:g}, got {given}")
    if not 0 <= jitter_s <= LONGEST_JITTER_S:
        raise ValueError(f"jitter must be from 0 to {LONGEST_JITTER_S:g} s, got {jitter_s:g}")
    if jitter_s and rng is None:
        raise ValueError(f"jitter of {jitter_s:g} s must have a random generator; pass rng")


def _keep(trace: Trace, rows: slice | NDArray[np.bool_], rule: str) -> Trace:
    """The chosen rows, the others counted under `rule`."""
    kept = trace.take(rows)
    dropped = len(trace) - len(kept)
    if not len(kept):
        raise TraceError(
            f"trace {trace.name!r} must keep at least one request, but the rule "
            f"'{rule}' leaves out all {dropped} that were left; relax it"
        )
    if not dropped:
        return trace
    return replace(kept, left_out=(*trace.left_out, (rule, dropped)))


def _mask(trace: Trace, column: str, name: str) -> NDArray[np.bool_]:
    labels: Labels | None = getattr(trace, column)
    spoken = column.replace("_", " ")
    if labels is None:
        message = f"trace {trace.name!r} must have a {spoken} column to choose {name!r} by"
        raise TraceError(f"{message}; leave the choice out")
    if name not in labels.names:
        names = ", ".join(map(repr, labels.names))
        raise TraceError(f"{spoken} must be one in trace {trace.name!r}: {names}; got {name!r}")
    return labels.mask(name)


def _jittered(trace: Trace, jitter_s: float, rng: np.random.Generator) -> Trace:
    arrival_s = trace.arrival_s + rng.uniform(0.0, jitter_s, len(trace))
    order = np.argsort(arrival_s, kind="stable")
    # the columns first, by the new order; then the times, which are not sorted before that
    moved = replace(trace, arrival_s=np.zeros(len(trace))).take(order)
    return replace(moved, arrival_s=given_up(arrival_s[order]))
