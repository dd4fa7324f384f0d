"""Delimited text: columns separated by commas, semicolons or tabs, with or without quotes.

The reader goes through pyarrow in blocks and takes only the columns it needs. Whatever that pass
does not like is looked at again line by line, so that an error names the line and the column.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from llmsched.workload.formats.encodings.cells import KINDS, CellError, is_zoned, shown, time_kind
from llmsched.workload.formats.encodings.columns import ColumnBuilder, UncleanError, buffer_of
from llmsched.workload.formats.encodings.files import Place, TraceFile

NAME = "csv"
SEPARATORS = (",", ";", "\t")
_BLOCK_BYTES = 262_144  # measured: as fast as any size, and the least memory
_ROWS_PER_BLOCK = 65_536


def names_in(head: bytes) -> list[str]:
    """The column names in the first line of a file; empty if that is no CSV text."""
    return _header(head, separator(head))


def separator(head: bytes) -> str:
    """What separates the columns: that which makes the most of the first line."""
    return max(SEPARATORS, key=lambda one: len(_header(head, one)))


def _header(head: bytes, delimiter: str) -> list[str]:
    try:
        first = head.split(b"\n", 1)[0].decode("utf-8-sig")
        return [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    except (UnicodeDecodeError, csv.Error):
        return []


def read(file: TraceFile, columns: ColumnBuilder, found: Mapping[str, str]) -> None:
    """Fill the columns from the names found for their roles.

    Raises
    ------
    TraceError
        For the first cell that cannot be right.
    """
    import pyarrow as pa

    try:
        _read_blocks(file, columns, found)
    except (UncleanError, pa.ArrowException, OSError):
        fresh = ColumnBuilder(columns.roles, columns.optional, columns.enough)
        columns.blocks, columns.names = fresh.blocks, fresh.names
        _read_lines(file, columns, found)


def locate(file: TraceFile, row: int) -> Place:
    """Where a row, from 0, begins."""
    return {"line": next(islice(_records(file), row + 1, None))[0]}


def _read_blocks(file: TraceFile, columns: ColumnBuilder, found: Mapping[str, str]) -> None:
    """The fast pass; any exception means that the exact pass must look."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    head = file.head()
    header = names_in(head)
    first = next((record for _, record in _records(file, skip=1)), [])
    if len(first) != len(header):
        raise UncleanError
    place = {role: header.index(name) for role, name in found.items()}
    stamp = first[place["time"]] if "time" in place else ""
    columns.kind = time_kind(stamp)
    text = pa.dictionary(pa.int32(), pa.string())
    kinds = {"label": text, "id": text, "ids": pa.string(), "time": _time_type(columns, stamp)}
    types = {role: kinds.get(KINDS[role], pa.float64()) for role in found}
    with file.arrow_stream() as stream:
        blocks = arrow_csv.open_csv(
            stream,
            arrow_csv.ReadOptions(
                block_size=_BLOCK_BYTES,
                use_threads=False,
                column_names=[str(position) for position in range(len(header))],
                skip_rows=1,
            ),
            arrow_csv.ParseOptions(delimiter=separator(head)),
            arrow_csv.ConvertOptions(
                include_columns=[str(position) for position in place.values()],
                column_types={str(place[role]): types[role] for role in found},
                null_values=[""],
            ),
            memory_pool=pa.system_memory_pool(),
        )
        for block in blocks:
            arrays = dict(zip(found, block.columns, strict=True))
            if columns.add({r: _lists(a) if KINDS[r] == "ids" else a for r, a in arrays.items()}):
                break


def _lists(texts: Any) -> Any:
    """Texts with spaces between whole numbers as lists of these."""
    import pyarrow as pa
    from pyarrow import compute

    texts = compute.fill_null(texts, "")
    parts = compute.split_pattern(texts, " ")
    flat = parts.flatten()
    flat = flat.filter(compute.not_equal(flat, "")).cast(pa.int64())
    lengths = compute.if_else(compute.equal(texts, ""), 0, compute.list_value_length(parts))
    offsets = np.concatenate(([0], np.cumsum(buffer_of(lengths.cast(pa.int32()), np.int32))))
    if offsets[-1] != len(flat):
        raise UncleanError
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def _time_type(columns: ColumnBuilder, first: str) -> Any:
    import pyarrow as pa

    if columns.kind == "date":
        return pa.timestamp("ns", "UTC" if is_zoned(first) else None)
    return pa.int64() if columns.kind == "ticks" else pa.float64()


def _read_lines(file: TraceFile, columns: ColumnBuilder, found: Mapping[str, str]) -> None:
    """The exact pass: the first bad cell raises the `TraceError` that names it."""
    records = _records(file)
    _, header = next(records)
    header = [name.strip() for name in header]
    place = {role: header.index(name) for role, name in found.items()}
    values = None
    for line, record in records:
        if len(record) != len(header):
            message = f"must have {len(header)} fields like the header, got {len(record)}"
            raise file.error(message, line=line)
        if values is None:
            columns.kind = time_kind(record[place["time"]] if "time" in place else "")
            values = columns.arrays()
        for role, position in place.items():
            cell = record[position]
            try:
                columns.put(values, role, cell)
            except CellError as error:
                given = shown(cell) if cell.strip() else "an empty cell"
                message = f"must be {error}, got {given}"
                raise file.error(message, line=line, column=header[position]) from error
        if len(values["prompt"]) == _ROWS_PER_BLOCK:
            if columns.add_exact(values):
                return
            values = columns.arrays()
    if values is not None:
        columns.add_exact(values)


def _records(file: TraceFile, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line it begins on."""
    lines = (line for _, line in file.lines())
    reader = csv.reader(lines, strict=True, delimiter=separator(file.head()))
    begins = 1
    try:
        for record in reader:
            if record and begins > skip:
                yield begins, record
            begins = reader.line_num + 1
    except csv.Error as error:
        raise file.error(f"must be separated values ({error})", line=begins) from error


def write(out: BinaryIO, columns: Mapping[str, Sequence[Any]], *, header: bool) -> None:
    """Write columns by name, all of one length, or more rows of them; None is an empty cell."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    text.flush()
    text.detach()
