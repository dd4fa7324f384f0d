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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched._util.files import whole_file

if TYPE_CHECKING:
    import pandas as pd

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
    >>> run = simulate(Workload(requests=100), "static_fifo", n_gpus=2, latency="reference")
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


def changes(gpu: int, name: str, at_s: FloatArray, value: Any) -> Counter:
    """A counter without samples that repeat the one before."""
    new = np.ones(len(value), np.bool_)
    new[1:] = value[1:] != value[:-1]
    return Counter(gpu=gpu, name=name, at_s=at_s[new], value=value[new])


def bounded(
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
