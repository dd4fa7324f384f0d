"""The timeline of iterations: running requests in lanes, counters from every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched._util.limits import TIMELINE_EVENTS
from llmsched.engine.step_records import ServedTable, SpellTable, StepTable
from llmsched.engine.timeline.base import (
    ALWAYS,
    Counter,
    Slices,
    Timeline,
    bounded,
    changes,
)


def step_timeline(
    requests: ServedTable,
    spells: SpellTable,
    steps: StepTable,
    *,
    usable_blocks: int,
    window_s: tuple[float, float] = ALWAYS,
    most_events: int = TIMELINE_EVENTS,
    about: Mapping[str, Any] | None = None,
) -> Timeline:
    """A run of the iteration level: running requests in lanes, counters from the steps.

    A request is *prefill* to its first token, then *decode*; *resumed* is what it computes again
    and decodes after a preemption.

    The other parameters are those of `batch_timeline`.
    """
    slices = _request_slices(requests, spells)
    counters = _step_counters(steps, usable_blocks)
    begin_s, end_s = window_s
    known_until_s = _known_until_s(steps)
    if known_until_s >= end_s:
        return bounded(slices, counters, window_s, most_events, about or {})
    found = bounded(slices, counters, (begin_s, known_until_s), most_events, about or {})
    later = int(((slices.start_s >= known_until_s) & (slices.start_s < end_s)).sum())
    return replace(
        found,
        left_out=found.left_out + steps.left_out + later,
        window_s=(begin_s, min(found.window_s[1], known_until_s)),
    )


def _request_slices(requests: ServedTable, spells: SpellTable) -> Slices:
    """Up to two slices per spell, parted by the first token."""
    order = np.argsort(spells.start_s, kind="stable")
    row, start_s, end_s = spells.request[order], spells.start_s[order], spells.end_s[order]
    gpu = requests.replica[row]
    lane = _lanes(gpu, start_s, end_s)
    first_s = requests.first_token_s[row]
    turn_s = np.where(start_s < first_s, np.minimum(first_s, end_s), start_s)
    later = np.where(start_s < first_s, "decode", "resumed")
    details = {
        name: np.tile(getattr(requests, name)[row], 2)
        for name in ("prompt_tokens", "output_tokens", "cached_tokens", "preemptions")
    }
    slices = Slices(
        gpu=np.tile(gpu, 2),
        lane=np.tile(lane, 2),
        start_s=np.concatenate([start_s, turn_s]),
        end_s=np.concatenate([turn_s, end_s]),
        kind=np.concatenate([np.full(len(row), "prefill"), later]),
        row=np.tile(row, 2),
        details=details,
    )
    return slices.take(np.flatnonzero(slices.end_s > slices.start_s))


def _known_until_s(steps: StepTable) -> float:
    """Up to when every replica's steps are in the table [s]."""
    if not steps.left_out:
        return math.inf
    last = np.append(np.flatnonzero(np.diff(steps.replica)), len(steps) - 1)
    return float(steps.end_s[last].min())


def _lanes(gpu: IntArray, start_s: FloatArray, end_s: FloatArray) -> IntArray:
    """The lowest lane of its GPU that is free, for each spell in order of start."""
    free: dict[int, list[int]] = {}
    busy: dict[int, list[tuple[float, int]]] = {}  # (end, lane)
    lanes = np.zeros(len(gpu), np.int32)
    for i, (one, start, end) in enumerate(
        zip(gpu.tolist(), start_s.tolist(), end_s.tolist(), strict=True)
    ):
        mine_free, mine_busy = free.setdefault(one, []), busy.setdefault(one, [])
        while mine_busy and mine_busy[0][0] <= start:
            heappush(mine_free, heappop(mine_busy)[1])
        lanes[i] = lane = heappop(mine_free) if mine_free else len(mine_busy)
        heappush(mine_busy, (end, lane))
    return lanes


def _step_counters(steps: StepTable, usable_blocks: int) -> list[Counter]:
    """Four counters per replica, as each step's decision left them; 0 while nothing runs."""
    counters = []
    for replica in np.unique(steps.replica).tolist():
        mine = steps.replica == replica
        start_s, end_s = steps.start_s[mine], steps.end_s[mine]
        idle = np.append(start_s[1:] > end_s[:-1], not steps.left_out)
        at_s = np.concatenate([start_s, end_s[idle]])
        order = np.argsort(at_s, kind="stable")
        for name, values in (
            ("waiting [requests]", steps.waiting[mine]),
            ("running [requests]", steps.running[mine]),
            ("step [tokens]", steps.prefill_tokens[mine] + steps.decodes[mine]),
            ("KV used [%]", 100 * steps.used_blocks[mine] / usable_blocks),
        ):
            padded = np.concatenate([values, np.zeros(int(idle.sum()), values.dtype)])
            counters.append(changes(replica, name, at_s[order], padded[order]))
    return counters
