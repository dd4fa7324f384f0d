"""Layouts in files: text, JSON lines or Parquet in, a trace out, and back.

What a column means is a layout's business, how it is written an encoding's (the modules `csv`,
`jsonlines` and `parquet`); any layout may stand in any encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, BinaryIO, Literal

import numpy as np

from llmsched.workload.formats.assemble import to_trace
from llmsched.workload.formats.clocks import Unit
from llmsched.workload.formats.encodings import csv, jsonlines, parquet
from llmsched.workload.formats.encodings.columns import ColumnBuilder, Enough
from llmsched.workload.formats.encodings.files import MAX_LINE_BYTES, Place, TraceFile
from llmsched.workload.formats.layout import Layout
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.trace import Labels, Trace

_ROWS_PER_WRITE = 65_536

Encoding = Literal["csv", "jsonl", "parquet"]
_SPOKEN: dict[Encoding, str] = {"csv": "CSV", "jsonl": "JSON lines", "parquet": "Parquet"}


def encoding_of(head: bytes) -> Encoding:
    """What a file that begins with these bytes is written in."""
    if head.startswith(parquet.MAGIC):
        return "parquet"
    return "jsonl" if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") else "csv"


def header_place(file: TraceFile) -> Place:
    """Where the names of the columns stand: line 1, or nowhere in Parquet."""
    return {} if encoding_of(file.head()) == "parquet" else {"line": 1}


def column_names(file: TraceFile) -> list[str]:
    """The names of the columns, or the keys of the first objects.

    Raises
    ------
    TraceError
        If the file has no first line of a sensible length, is binary, or is one JSON array.
    """
    head = file.head()
    encoding = encoding_of(head)
    if encoding == "parquet":
        return parquet.names_of(file)
    first = head.split(b"\n", 1)[0]
    if len(first) > MAX_LINE_BYTES:
        raise file.too_long(1)
    try:
        first.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise file.error("must be UTF-8 text or parquet, got binary data", line=1) from error
    if encoding == "csv":
        return csv.names_in(head)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        message = "must be one JSON object a line, got an array; make lines of it: jq -c '.[]'"
        raise file.error(message, line=1)
    return jsonlines.names_in(head)


def read_table(
    layout: Layout, file: TraceFile, *, asked: Unit | None = None, enough: Enough | None = None
) -> Trace:
    """The trace in a file of this layout.

    Parameters
    ----------
    layout : Layout
        What its columns mean.
    file : TraceFile
        In any encoding.
    asked : Unit, optional
        The unit of its times, where the user says it.
    enough : Enough, optional
        When to stop reading, where the file is in order of time.

    Raises
    ------
    TraceError
        For the first thing in it that cannot be right.
    """
    names = column_names(file)
    encoding = encoding_of(file.head())
    found = layout.find(names, file, header_place(file))
    # where sessions follow one another, the first rows may not be the first in time
    in_order = "time" in found and not {"session", "after"} & set(found)
    columns = ColumnBuilder(found, layout.optional, enough if in_order else None)
    module = {"csv": csv, "jsonl": jsonlines, "parquet": parquet}[encoding]
    if layout.expand is None:
        module.read(file, columns, found)
    elif encoding == "jsonl":
        jsonlines.read(file, columns, found, layout.expand)
    else:
        raise file.error(f"{layout.name} must be JSON lines, got {_SPOKEN[encoding]}")
    locate = partial(module.locate, file)
    return to_trace(layout, columns, found, file, locate, encoding=_SPOKEN[encoding], asked=asked)


def write_table(layout: Layout, trace: Trace, out: BinaryIO) -> None:
    """Write a trace in a layout that can be written."""
    assert layout.clock is not None
    stamps = layout.clock.from_seconds(trace.arrival_s)
    if layout.written == "parquet":
        parquet.write(out, {layout.columns[r][0]: v for r, v in _arrays(layout, trace).items()})
        return
    module = {"csv": csv, "jsonl": jsonlines}[layout.written]
    for start in range(0, len(trace), _ROWS_PER_WRITE):
        rows = slice(start, start + _ROWS_PER_WRITE)
        cells: dict[str, Sequence[Any]] = {"time": layout.clock.texts(stamps[rows])}
        for role, values in _arrays(layout, trace).items():
            if role != "time":
                cells[role] = _cells(values, rows, layout.written)
        named = {layout.columns[role][0]: column for role, column in cells.items()}
        for name, value in layout.constants.items():
            named.setdefault(name, _constant(value, trace, rows))
        first = [layout.columns[key][0] if key in layout.columns else key for key in layout.order]
        order = [name for name in dict.fromkeys((*first, *named)) if name in named]
        module.write(out, {name: named[name] for name in order}, header=start == 0)


def lost(layout: Layout, trace: Trace) -> list[str]:
    """The columns of a trace that a layout has no place for."""
    without = {"tokens_per_id", *layout.columns}  # that one goes with the ids
    return [role for role in _optional(trace) if role not in without]


def _arrays(layout: Layout, trace: Trace) -> dict[str, Any]:
    """The columns of a trace by role, as far as the layout has them."""
    columns = {
        "time": trace.arrival_s,
        "prompt": trace.prompt_tokens,
        "output": trace.output_tokens,
        **_optional(trace),
    }
    return {role: column for role, column in columns.items() if role in layout.columns}


def _optional(trace: Trace) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "model": trace.model,
        "log_type": trace.log_type,
        "service_s": trace.service_s,
        "priority": trace.priority,
        "prefix_ids": trace.prefix_ids,
    }
    if trace.prefix_ids is not None:
        columns["tokens_per_id"] = np.full(len(trace), trace.prefix_ids.tokens_per_id)
    if trace.turns is not None:
        columns |= {"after": trace.turns.after, "think_s": trace.turns.think_s}
    return {role: column for role, column in columns.items() if column is not None}


def _cells(values: Any, rows: slice, encoding: Encoding) -> list[Any]:
    if isinstance(values, Labels):
        return [values.names[code] for code in values.codes[rows].tolist()]
    if isinstance(values, PrefixIds):
        lists = [values.row(row).tolist() for row in range(*rows.indices(len(values)))]
        return [" ".join(map(str, ids)) for ids in lists] if encoding == "csv" else lists
    column = values[rows]
    if column.dtype.kind == "f" and np.isnan(column).any():
        return [None if value != value else value for value in column.tolist()]
    return list(column.tolist())


def _constant(value: object, trace: Trace, rows: slice) -> list[Any]:
    first, end, _ = rows.indices(len(trace))
    if value == "row":
        return list(range(first, end))
    return trace.total_tokens[rows].tolist() if value == "total" else [value] * (end - first)
