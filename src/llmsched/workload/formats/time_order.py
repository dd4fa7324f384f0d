"""The order of a file in time, and clocks that start again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray
from llmsched.workload.formats.encodings.files import Locate, TraceFile
from llmsched.workload.trace import LONGEST_S

_LONG_RUN = 10  # rows; shorter sorted runs are disorder, not a second recording
_NEAR_START = 0.1  # share of what was seen so far


def time_order(
    time: NDArray[Any], file: TraceFile, locate: Locate, *, grouped: bool
) -> tuple[NDArray[np.intp] | None, tuple[str, ...]]:
    """The order of time, stable, and a note; None where the file is in it.

    In a file `grouped` by sessions the clock starts again with each one.
    """
    if not (time[1:] < time[:-1]).any():
        return None, ()
    if not grouped:
        _refuse_restart(time, file, locate)
    late = int((time < np.maximum.accumulate(time)).sum())
    note = f"{late} of {len(time)} rows were out of order and were sorted by time"
    return np.argsort(time, kind="stable"), () if grouped else (note,)


def _refuse_restart(time: NDArray[Any], file: TraceFile, locate: Locate) -> None:
    restart = clock_restart(time)
    if restart is None:
        return
    if restart > 1 and time[restart - 2] <= time[restart]:  # without one row, nothing goes back
        message = "time must not leap ahead of the next row, which goes on from the one before"
        raise file.error(f"{message}; mend this one", **locate(restart - 1))
    message = "time must not start again, got a time near the first one of the rows above"
    advice = "two recordings in one file? split them, or put them on one clock and sort"
    raise file.error(f"{message} ({advice})", **locate(restart))


def clock_restart(time: NDArray[Any]) -> int | None:
    """The first row where the clock starts again, shape (n,) in; none if sorting explains it all.

    A clock starts again where a step back ends a sorted run of at least 10 rows, begins another
    of at least 10, and lies no further from the first time than a tenth of the span so far. Late
    rows, shuffled rows and merged shards do not look like that; a second recording appended does.
    """
    starts = np.flatnonzero(np.diff(time) < 0) + 1
    bounds = np.concatenate(([0], starts, [len(time)]))
    long_run = np.diff(bounds) >= _LONG_RUN
    rows = starts[long_run[:-1] & long_run[1:]]
    first = np.minimum.accumulate(time)[rows - 1]
    last = np.maximum.accumulate(time)[rows - 1]
    again = rows[np.abs(time[rows] - first) <= _NEAR_START * (last - first)]
    return int(again[0]) if len(again) else None


def check_span(
    arrival_s: FloatArray,
    time: NDArray[Any] | None,
    names: Mapping[str, str],
    file: TraceFile,
    locate: Locate,
) -> None:
    """`TraceError` if the sorted arrivals span more than a simulation can; it names a stray row."""
    if arrival_s[-1] > LONGEST_S:
        stray = _stray_row(time) if time is not None else 0
        message = f"time must lie within {LONGEST_S:g} s of the others, the file spans"
        message += f" {arrival_s[-1]:g} s; mend this row or the unit"
        raise file.error(message, **locate(stray), column=names.get("time", ""))


def _stray_row(time: NDArray[Any]) -> int:
    """The row whose time lies furthest from the median, shape (n,) in."""
    distance = np.abs(time.astype(np.float64) - float(np.nanmedian(time)))
    return int(np.nanargmax(distance))
