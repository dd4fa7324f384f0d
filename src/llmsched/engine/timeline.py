"""What each GPU did and when, as slices and counters; a file for Perfetto or chrome://tracing.

A slice is a batch, or a running request's prefill or decoding; those of one lane never overlap. A
counter is a step function: how many requests wait and run, and how much KV memory is used. Long
runs are bounded by a window and by a number of events; what is left out is counted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.files import whole_file
from llmsched._util.types import FloatArray, IntArray
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.engine.step_records import ServedTable, SpellTable, StepTable

if TYPE_CHECKING:
    import pandas as pd

MOST_EVENTS = 200_000
ALWAYS = (-math.inf, math.inf)
QUEUE = -1  # in place of a GPU: what waits for any of them


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slices:
    """Something that took a GPU or a lane of it for a while, one column each."""

    gpu: IntArray
    lane: IntArray
    start_s: FloatArray
    end_s: FloatArray
    kind: NDArray[np.str_]  # "batch"; or "prefill", "decode" and "resumed"
    row: IntArray  # of the batch or the request in its table
    details: Mapping[str, NDArray[Any]]  # more columns

    def __len__(self) -> int:
        return len(self.start_s)

    def take(self, rows: NDArray[Any]) -> Slices:
        """The given rows."""
        columns = {name: getattr(self, name)[rows] for name in self.__slots__ if name != "details"}
        return Slices(**columns, details={name: v[rows] for name, v in self.details.items()})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counter:
    """A figure of a GPU, or of the queue of all, that holds from each instant to the next."""

    gpu: int
    name: str
    at_s: FloatArray
    value: FloatArray | IntArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """A run over time.

    Examples
    --------
    >>> from llmsched import Workload, simulate
    >>> run = simulate(Workload(requests=100), "static_fifo", n_gpus=2)
    >>> sorted({counter.name for counter in run.timeline().counters})
    ['KV [tokens]', 'batch [requests]', 'waiting [requests]']
    """

    slices: Slices
    counters: Sequence[Counter]
    about: Mapping[str, Any]  # what the file says of its making
    window_s: tuple[float, float] = ALWAYS  # what is kept; slices are cut to it
    left_out: int = 0  # slices and samples behind it, beyond the most that were asked for

    def slices_frame(self) -> pd.DataFrame:
        """One row per slice, cut to the window."""
        import pandas as pd

        slices = self.slices
        columns = {name: getattr(slices, name) for name in slices.__slots__ if name != "details"}
        return pd.DataFrame({**slices.details, **columns})

    def counters_frame(self) -> pd.DataFrame:
        """One row per sample: gpu (-1 for the queue of all), name, at_s, value."""
        import pandas as pd

        frames = [
            pd.DataFrame({"gpu": c.gpu, "name": c.name, "at_s": c.at_s, "value": c.value})
            for c in self.counters
        ]
        return pd.concat(frames, ignore_index=True)

    def events(self) -> Iterator[dict[str, Any]]:
        """Trace events as in Chrome's Trace Event Format; times in microseconds."""
        gpus = sorted({*np.unique(self.slices.gpu).tolist(), *(c.gpu for c in self.counters)})
        for gpu in gpus:
            about = {"ph": "M", "pid": gpu + 1, "tid": 0}
            name = "queue" if gpu == QUEUE else f"GPU {gpu}"
            yield {**about, "name": "process_name", "args": {"name": name}}
            yield {**about, "name": "process_sort_index", "args": {"sort_index": gpu + 1}}
        slices = self.slices
        start_ns, end_ns = (np.rint(s * 1e9) for s in (slices.start_s, slices.end_s))
        for i, kind in enumerate(slices.kind.tolist()):
            row = int(slices.row[i])
            yield {
                "ph": "X",
                "name": f"{kind} {row}",
                "cat": kind,
                "pid": int(slices.gpu[i]) + 1,
                "tid": int(slices.lane[i]),
                "ts": start_ns[i] / 1e3,
                "dur": (end_ns[i] - start_ns[i]) / 1e3,
                "args": {name: column[i].item() for name, column in slices.details.items()},
            }
        for counter in self.counters:
            about = {"ph": "C", "name": counter.name, "pid": counter.gpu + 1, "tid": 0}
            at_us = np.rint(counter.at_s * 1e9) / 1e3
            for at, value in zip(at_us.tolist(), counter.value.tolist(), strict=True):
                yield {**about, "ts": at, "args": {"value": value}}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the trace events as JSON, for https://ui.perfetto.dev or chrome://tracing.

        Raises
        ------
        OutputError
            If writing fails, an `OSError`.
        """
        about = {**self.about, "left_out": self.left_out}
        with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
            other = json.dumps(about, allow_nan=False)
            file.write(f'{{"displayTimeUnit": "ms", "otherData": {other}, "traceEvents": [')
            for i, event in enumerate(self.events()):
                file.write(f"{',' if i else ''}\n{json.dumps(event, allow_nan=False)}")
            file.write("\n]}\n")


def batch_timeline(
    requests: RequestTable,
    batches: BatchTable,
    *,
    window_s: tuple[float, float] = ALWAYS,
    most_events: int = MOST_EVENTS,
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
    return _bounded(slices, counters, window_s, most_events, about or {})


def step_timeline(
    requests: ServedTable,
    spells: SpellTable,
    steps: StepTable,
    *,
    usable_blocks: int,
    window_s: tuple[float, float] = ALWAYS,
    most_events: int = MOST_EVENTS,
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
        return _bounded(slices, counters, window_s, most_events, about or {})
    found = _bounded(slices, counters, (begin_s, known_until_s), most_events, about or {})
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
            counters.append(_changes(replica, name, at_s[order], padded[order]))
    return counters


def _level(gpu: int, name: str, ups_s: FloatArray, downs_s: FloatArray) -> Counter:
    """How many have come and not gone, where each that goes has come; both sorted."""
    at_s = np.unique(np.concatenate([ups_s, downs_s]))
    come, gone = (np.searchsorted(times, at_s, side="right") for times in (ups_s, downs_s))
    return _changes(gpu, name, at_s, (come - gone).astype(np.int32))


def _spans(
    gpu: int, name: str, start_s: FloatArray, end_s: FloatArray, values: IntArray
) -> Counter:
    """A value over each of some spans that follow one another, 0 between them."""
    gap = np.append(start_s[1:] > end_s[:-1], True)
    at_s = np.concatenate([start_s, end_s[gap]])
    order = np.argsort(at_s, kind="stable")
    padded = np.concatenate([values, np.zeros(int(gap.sum()), values.dtype)])
    return _changes(gpu, name, at_s[order], padded[order])


def _changes(gpu: int, name: str, at_s: FloatArray, value: Any) -> Counter:
    """A counter without samples that repeat the one before."""
    new = np.ones(len(value), np.bool_)
    new[1:] = value[1:] != value[:-1]
    return Counter(gpu=gpu, name=name, at_s=at_s[new], value=value[new])


def _bounded(
    slices: Slices,
    counters: Sequence[Counter],
    window_s: tuple[float, float],
    most_events: int,
    about: Mapping[str, Any],
) -> Timeline:
    """What overlaps the window, up to the instant where there would be too many events."""
    begin_s, end_s = window_s
    if not begin_s < end_s:
        raise ValueError(f"window_s must begin before it ends, got {begin_s:g} to {end_s:g}")
    if most_events < 1:
        raise ValueError(f"most_events must be >= 1, got {most_events}")
    slices = slices.take(np.flatnonzero((slices.end_s > begin_s) & (slices.start_s < end_s)))
    counters = [_within(counter, begin_s, end_s) for counter in counters]
    instants = np.concatenate([slices.start_s, *(counter.at_s for counter in counters)])
    left_out = 0
    if len(instants) > most_events:
        end_s = float(np.partition(instants, most_events)[most_events])
        left_out = int((instants >= end_s).sum())
        slices = slices.take(np.flatnonzero(slices.start_s < end_s))
        counters = [_within(counter, -math.inf, end_s) for counter in counters]
    whole = {"start_s": slices.start_s, "end_s": slices.end_s}
    return Timeline(
        slices=replace(
            slices,
            start_s=np.maximum(slices.start_s, begin_s),
            end_s=np.minimum(slices.end_s, end_s),
            details={**slices.details, **whole},
        ),
        counters=[counter for counter in counters if len(counter.at_s)],
        about=about,
        window_s=(begin_s, end_s),
        left_out=left_out,
    )


def _within(counter: Counter, begin_s: float, end_s: float) -> Counter:
    """The samples inside a window, the one that holds at its beginning moved there."""
    at_s, value = counter.at_s, counter.value
    first, last = (int(np.searchsorted(at_s, edge)) for edge in (begin_s, end_s))
    kept = at_s[max(first - 1, 0) : last].copy()
    if first and len(kept):
        kept[0] = max(kept[0], begin_s)
    value = value[max(first - 1, 0) : last]
    return Counter(gpu=counter.gpu, name=counter.name, at_s=kept, value=value)
