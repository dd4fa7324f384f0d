"""The timeline of whole batches: a slice each, and one queue for all GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched._util.limits import TIMELINE_EVENTS
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.engine.timeline.base import (
    ALWAYS,
    QUEUE,
    Counter,
    Slices,
    Timeline,
    bounded,
    changes,
)


def batch_timeline(
    requests: RequestTable,
    batches: BatchTable,
    *,
    window_s: tuple[float, float] = ALWAYS,
    most_events: int = TIMELINE_EVENTS,
    about: Mapping[str, Any] | None = None,
) -> Timeline:
    """A run of the batch level: a slice per batch, one queue for all GPUs.

    Parameters
    ----------
    window_s : (float, float)
        What overlaps it is kept; seconds since the first arrival.
    most_events : int
        Slices and samples at most; later ones are left out.
    about : mapping, optional
        What a file says of its making.

    Raises
    ------
    ValueError
        If the window is empty or `most_events` below 1.
    """
    n = len(batches)
    slices = Slices(
        gpu=batches.gpu,
        lane=np.zeros(n, np.int32),
        start_s=batches.start_s,
        end_s=batches.finish_s,
        kind=np.full(n, "batch"),
        row=np.arange(n, dtype=np.int32),
        details={"requests": batches.size, "tokens": batches.tokens, "bin": batches.bin},
    )
    served = requests.completed
    ups, downs = np.sort(requests.arrival_s[served]), np.sort(requests.start_s[served])
    counters = [_level(QUEUE, "waiting [requests]", ups, downs)]
    for gpu in np.unique(batches.gpu).tolist():
        mine = batches.gpu == gpu
        spans = batches.start_s[mine], batches.finish_s[mine]
        counters.append(_spans(gpu, "batch [requests]", *spans, batches.size[mine]))
        counters.append(_spans(gpu, "KV [tokens]", *spans, batches.tokens[mine]))
    return bounded(slices, counters, window_s, most_events, about or {})


def _level(gpu: int, name: str, ups_s: FloatArray, downs_s: FloatArray) -> Counter:
    """How many have come and not gone, where each that goes has come; both sorted."""
    at_s = np.unique(np.concatenate([ups_s, downs_s]))
    come, gone = (np.searchsorted(times, at_s, side="right") for times in (ups_s, downs_s))
    return changes(gpu, name, at_s, (come - gone).astype(np.int32))


def _spans(
    gpu: int, name: str, start_s: FloatArray, end_s: FloatArray, values: IntArray
) -> Counter:
    """A value over each of some spans that follow one another, 0 between them."""
    gap = np.append(start_s[1:] > end_s[:-1], True)
    at_s = np.concatenate([start_s, end_s[gap]])
    order = np.argsort(at_s, kind="stable")
    padded = np.concatenate([values, np.zeros(int(gap.sum()), values.dtype)])
    return changes(gpu, name, at_s[order], padded[order])
