"""From the columns of a file, in its own order and unit, to a `Trace`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import given_up
from llmsched.workload.formats.chains import Chain, chain_arrivals, chain_of, whole_of_deltas
from llmsched.workload.formats.clocks import (
    PER_S,
    UNIT_NAMES,
    Unit,
    ask_unit,
    choose_unit,
    fractions,
    since_first_s,
)
from llmsched.workload.formats.encodings.columns import ColumnBuilder
from llmsched.workload.formats.encodings.files import Locate, TraceFile
from llmsched.workload.formats.layout import Layout
from llmsched.workload.formats.prefixes import prefix_ids_of
from llmsched.workload.formats.time_order import check_span, time_order
from llmsched.workload.trace import Labels, Trace

_NUMBERS = ("service_s", "priority")  # columns of a `Trace` that are as they stand


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
    chain = chain_of(columns, unit)
    if time is not None and not (chain and chain.closes(time)):
        order, notes = time_order(time, file, locate, grouped="session" in names)
        arrival_s, timed = since_first_s(_ordered(time, order), PER_S[unit]), True
    else:
        chain = chain or Chain(np.full(len(columns), -1, np.int32), np.full(len(columns), 0.0))
        arrival_s, order, timed = chain_arrivals(time, chain, unit, names, file, locate)
        notes = ()
    check_span(arrival_s, time, names, file, locate)
    if columns.stopped:
        notes += (f"only the first {len(arrival_s)} rows were read: enough, and in order of time",)
    del time
    prompt, output = columns.take("prompt"), columns.take("output")
    if chain is not None and layout.deltas:
        prompt = whole_of_deltas(prompt, output, chain, columns, file, locate)
    prefix_ids = None
    if "prefix_ids" in columns.blocks:
        if layout.deltas and chain is not None and (chain.after >= 0).any():
            notes += ("prefix ids are left out: in sessions they tell only of what is new",)
        else:
            prefix_ids, told = prefix_ids_of(layout, columns, prompt, names, file, locate)
            notes += told
    more: dict[str, Any] = {
        role: _ordered(columns.take(role), order) for role in _NUMBERS if role in columns.blocks
    }
    labels = {role: columns.labels(role) for role in ("model", "log_type")}
    return Trace(
        arrival_s=given_up(arrival_s),
        prompt_tokens=_ordered(prompt, order),
        output_tokens=_ordered(output, order),
        model=_ordered_labels(labels["model"], order),
        log_type=_ordered_labels(labels["log_type"], order),
        prefix_ids=prefix_ids if order is None or prefix_ids is None else prefix_ids.take(order),
        **more,
        turns=None if chain is None else chain.turns(order, timed=timed),
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


def _ordered(values: NDArray[Any], order: NDArray[np.intp] | None) -> NDArray[Any]:
    return given_up(values if order is None else values[order])


def _ordered_labels(labels: Labels | None, order: NDArray[np.intp] | None) -> Labels | None:
    return labels if labels is None or order is None else labels[order]
