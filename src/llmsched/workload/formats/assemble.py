"""From the columns of a file, in its own order and unit, to a `Trace`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.types import FloatArray, IntArray
from llmsched.workload.formats.cells import MAX_TOKENS
from llmsched.workload.formats.clocks import (
    PER_S,
    UNIT_NAMES,
    Unit,
    ask_unit,
    choose_unit,
    fractions,
    since_first_s,
)
from llmsched.workload.formats.columns import ColumnBuilder
from llmsched.workload.formats.files import Place, TraceFile
from llmsched.workload.formats.layout import Layout
from llmsched.workload.sessions import Turns, earliest_s, in_order, levels, whole_prompts
from llmsched.workload.trace import LONGEST_S, Labels, Trace

_LONG_RUN = 10  # rows; shorter sorted runs are disorder, not a second recording
_NEAR_START = 0.1  # share of what was seen so far

Locate = Callable[[int], Place]


def to_trace(
    layout: Layout,
    columns: ColumnBuilder,
    names: Mapping[str, str],
    file: TraceFile,
    locate: Locate,
    *,
    encoding: str,
    asked: Unit | None,
) -> Trace:
    """The trace of a file's columns: sorted by time, stably, from the first arrival on.

    Parameters
    ----------
    layout : Layout
        What the columns mean.
    columns : ColumnBuilder
        As read; emptied on the way.
    names : mapping from role to name
        Of the columns in this file.
    file, locate
        For errors: the file, and from a row (from 0) to the `line` or `row` to be named.
    encoding : str
        What the file is written in, for `Trace.read_as`.
    asked : Unit, optional
        The unit of its times, where the user says it.

    Raises
    ------
    TraceError
        If there is no request, the unit cannot be known, or the times cannot be right.
    """
    if not len(columns):
        raise file.error("must hold at least one request, got only a header", line=1)
    if layout.adjust is not None:
        layout.adjust(columns, file)
    time = columns.take("time") if "time" in columns.blocks else None
    unit = _unit(layout, time, columns, names, file, asked)
    follow = _follow(columns, unit)
    if time is not None and not (follow and follow.closes(time)):
        order, notes = _order(time, file, locate, grouped="session" in names)
        arrival_s, timed = since_first_s(_ordered(time, order), PER_S[unit]), True
    else:
        follow = follow or _Follow(np.full(len(columns), -1, np.int32), np.full(len(columns), 0.0))
        arrival_s, order, timed = _session_arrivals(time, follow, unit, names, file, locate)
        notes = ()
    if arrival_s[-1] > LONGEST_S:
        stray = _stray_row(time) if time is not None else 0
        message = f"time must lie within {LONGEST_S:g} s of the others, the file spans"
        message += f" {arrival_s[-1]:g} s; mend this row or the unit"
        raise file.error(message, **locate(stray), column=names.get("time", ""))
    if columns.stopped:
        notes += (f"only the first {len(arrival_s)} rows were read: enough, and in order of time",)
    del time
    prompt, output = columns.take("prompt"), columns.take("output")
    if follow is not None and layout.deltas:
        prompt = _whole(prompt, output, follow, columns, file, locate)
    service_s = columns.take("service_s") if "service_s" in columns.blocks else None
    labels = {role: columns.labels(role) for role in ("model", "log_type")}
    return Trace(
        arrival_s=arrival_s,
        prompt_tokens=_ordered(prompt, order),
        output_tokens=_ordered(output, order),
        model=_ordered_labels(labels["model"], order),
        log_type=_ordered_labels(labels["log_type"], order),
        service_s=_ordered(service_s, order),
        turns=None if follow is None else follow.turns(order, timed=timed),
        name=file.name,
        notes=notes,
        read_as=f"{layout.name} ({encoding}, {_times(columns, unit, timed=timed)})",
    )


def _unit(
    layout: Layout,
    time: NDArray[Any] | None,
    columns: ColumnBuilder,
    names: Mapping[str, str],
    file: TraceFile,
    asked: Unit | None,
) -> Unit:
    """The unit of the file's times; that of the layout where it has none."""
    given = time[~np.isnan(time)] if time is not None and time.dtype.kind == "f" else time
    if given is None or not len(given):
        return asked or layout.unit or "s"
    column, kind = names["time"], columns.kind
    unit = choose_unit(
        given, kind=kind, column=column, declared=layout.unit, asked=asked, file=file
    )
    if layout.whole_times and asked is None and kind != "date" and fractions(given):
        raise ask_unit(given, column, file)
    return unit


def _times(columns: ColumnBuilder, unit: Unit, *, timed: bool) -> str:
    if not timed:
        return "no times"
    return "dates" if columns.kind == "date" else f"times in {UNIT_NAMES[unit]}"


# --- sessions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Follow:
    """Who follows whom, as `Turns` say it but in the order of the file."""

    after: IntArray
    think_s: FloatArray

    def closes(self, time: NDArray[Any]) -> bool:
        """Whether an arrival is not recorded: it waits for an answer, or has no time."""
        waits = (self.after >= 0) & np.isfinite(self.think_s)
        return bool(waits.any()) or (time.dtype.kind == "f" and bool(np.isnan(time).any()))

    def turns(self, order: NDArray[np.intp] | None, *, timed: bool) -> Turns:
        """The same in the order of the trace."""
        rows = np.arange(len(self.after)) if order is None else order
        after, think_s = in_order(self.after, self.think_s, rows)
        return Turns(after=after, think_s=think_s, timed=timed)


def _follow(columns: ColumnBuilder, unit: Unit) -> _Follow | None:
    """Who follows whom; None where the file does not say."""
    roles = set(columns.blocks)
    if "after" in roles:  # our own
        after = columns.take("after")
        none = np.full(len(after), np.nan)
        return _Follow(after, columns.take("think_s") if "think_s" in roles else none)
    if "parent" in roles and "id" in roles:
        after = _after_parent(columns.take("id"), columns.take("parent"))
    elif "session" in roles:
        turn = columns.take("turn") if "turn" in roles else None
        after = _after_in_session(columns.take("session"), turn)
    else:
        return None
    delay = columns.take("delay") if "delay" in roles else np.full(len(after), np.nan)
    return _Follow(after, np.where(after >= 0, delay / PER_S[unit], np.nan))


def _after_in_session(session: IntArray, turn: NDArray[Any] | None) -> IntArray:
    """The row before in the same session, by turn or in the order of the file; -1 for the first."""
    order = np.argsort(session, kind="stable") if turn is None else np.lexsort((turn, session))
    after = np.full(len(session), -1, np.int32)
    same = (session[order[1:]] == session[order[:-1]]) & (session[order[1:]] >= 0)
    after[order[1:][same]] = order[:-1][same]
    return after


def _after_parent(ids: IntArray, parent: IntArray) -> IntArray:
    """The earlier row that has the parent's id, -1 where there is none."""
    after = np.full(len(ids), -1, np.int32)
    row_of: dict[int, int] = {}
    for row, (own, of) in enumerate(zip(ids.tolist(), parent.tolist(), strict=True)):
        after[row] = row_of.get(of, -1)
        row_of[own] = row
    return after


def _session_arrivals(
    time: NDArray[Any] | None,
    follow: _Follow,
    unit: Unit,
    names: Mapping[str, str],
    file: TraceFile,
    locate: Locate,
) -> tuple[FloatArray, NDArray[np.intp] | None, bool]:
    """Arrivals in order of time, that order, and whether there are any.

    What follows an answer comes at the earliest its pause after the request before, and at once
    where no pause is given.
    """
    after, think_s = follow.after, follow.think_s
    bad = np.flatnonzero(after >= np.arange(len(after)))
    if len(bad) and "after" in names:
        message = f"must be the row of an earlier request, from 0, got {after[bad[0]]}"
        raise file.error(message, **locate(int(bad[0])), column=names["after"])
    own = np.full(len(after), np.nan) if time is None else time.astype(np.float64)
    think_s[np.isnan(own) & np.isnan(think_s) & (after >= 0)] = 0.0
    first = after < 0
    untimed = np.flatnonzero(first & np.isnan(own))
    if len(untimed) == np.count_nonzero(first):
        return np.zeros(len(after)), None, False
    if len(untimed):
        message = "must be there in the first turn of every session, or in none"
        raise file.error(message, **locate(int(untimed[0])), column=names["time"])
    arrival_s = earliest_s((own - np.nanmin(own)) / PER_S[unit], after, think_s)
    # a turn comes after the one it follows, also where both could come at one instant
    turn = np.zeros(len(after), np.int32)
    for depth, rows in enumerate(levels(after)):
        turn[rows] = depth
    backward = bool((after >= np.arange(len(after))).any())
    keys = (turn, arrival_s) if backward else (arrival_s,)
    order = np.lexsort(keys)
    return arrival_s[order], order, True


def _whole(
    prompt: IntArray,
    output: IntArray,
    follow: _Follow,
    columns: ColumnBuilder,
    file: TraceFile,
    locate: Locate,
) -> IntArray:
    """The whole prompts of sessions whose rows give only what is new in them."""
    after = follow.after.copy()
    if "context" in columns.blocks:  # rows that say that they hold the whole conversation
        whole_code = columns.names["context"].names.get("message_array_with_responses", -2)
        after[columns.take("context") == whole_code] = -1
    whole = whole_prompts(prompt, output, after)
    if whole.max(initial=0) > MAX_TOKENS:
        row = int(np.argmax(whole))
        message = f"a prompt must be at most {MAX_TOKENS} tokens, got {whole[row]} with its history"
        raise file.error(message, **locate(row))
    return whole.astype(np.int32)


# --- order in time -----------------------------------------------------------------------------


def _order(
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


def _stray_row(time: NDArray[Any]) -> int:
    """The row whose time lies furthest from the median, shape (n,) in."""
    distance = np.abs(time.astype(np.float64) - float(np.nanmedian(time)))
    return int(np.nanargmax(distance))


def _ordered(values: Any, order: NDArray[np.intp] | None) -> Any:
    return values if order is None or values is None else values[order]


def _ordered_labels(labels: Labels | None, order: NDArray[np.intp] | None) -> Labels | None:
    return labels if labels is None or order is None else labels[order]
