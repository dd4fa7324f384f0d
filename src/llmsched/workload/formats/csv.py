"""Comma-separated trace formats: one description each, one reader and one writer for all.

The reader goes through pyarrow in blocks and takes only the columns it needs. Whatever that pass
does not like is looked at again line by line, so that an error names the line and the column.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from llmsched.workload.formats.clocks import Clock, number
from llmsched.workload.formats.columns import (
    CellError,
    ColumnBuilder,
    LabelBuilder,
    UncleanError,
    buffer_of,
    shown,
    to_trace,
    tokens,
)
from llmsched.workload.formats.files import Place, TraceFile
from llmsched.workload.trace import Trace

_BLOCK_BYTES = 262_144  # measured: as fast as any size, and the least memory
_ROWS_PER_WRITE = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFormat:
    """A CSV trace format: which columns it has and how its clock is written.

    Columns may stand in any order, beside others. The first name of a column is the one written;
    `model` and `log_type` may be missing from a file.
    """

    name: str
    time: str
    prompt: tuple[str, ...]
    output: str
    clock: Clock
    model: str | None = None
    log_type: str | None = None
    total: str | None = None  # written, never read
    order: Sequence[str] = field(default=())  # of the roles, when writing

    @property
    def summary(self) -> str:
        """What a file must have, for messages and help."""
        return f"CSV with columns {self.time}, {' or '.join(self.prompt)}, {self.output}"

    def recognises(self, head: bytes) -> bool:
        """Whether the first line names all required columns."""
        return not self.missing(header_of(head))

    def missing(self, header: Sequence[str]) -> list[str]:
        """The required columns that a header lacks."""
        required = ((self.time,), self.prompt, (self.output,))
        return [" or ".join(names) for names in required if not set(names) & set(header)]

    def read(self, file: TraceFile) -> Trace:
        """The trace in a file; `TraceError` for the first thing in it that cannot be right."""
        import pyarrow as pa

        roles = self._roles(file)
        try:
            columns = self._read_blocks(file, roles)
        except (UncleanError, pa.ArrowException, OSError):
            columns = self._read_lines(file, roles)

        def locate(row: int) -> Place:
            return {"line": next(islice(_records(file), row + 1, None))[0]}

        return to_trace(columns, self.clock.seconds, file, locate, column=self.time)

    def _roles(self, file: TraceFile) -> dict[str, int]:
        """The position of each column of interest in this file."""
        header = header_of(file.head())
        if lacking := self.missing(header):
            message = f"must name the column {lacking[0]!r} of the {self.name} format"
            raise file.error(f"{message}, got {shown(', '.join(header))}", line=1)
        names = {
            "time": self.time,
            "prompt": next(name for name in self.prompt if name in header),
            "output": self.output,
            "model": self.model,
            "log_type": self.log_type,
        }
        roles = {}
        for role, name in names.items():
            if name in header:
                if header.count(name) > 1:
                    raise file.error("must stand once in the header", line=1, column=name)
                roles[role] = header.index(name)
        return roles

    def _read_blocks(self, file: TraceFile, roles: dict[str, int]) -> ColumnBuilder:
        """The fast pass; any exception means that the exact pass must look."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        header = header_of(file.head())
        first = next((record for _, record in _records(file, skip=1)), [])
        if len(first) != len(header):
            raise UncleanError
        names = [str(position) for position in range(len(header))]
        text = pa.dictionary(pa.int32(), pa.string())
        types = {"time": self.clock.arrow_type(first[roles["time"]]), "model": text}
        types |= {"log_type": text, "prompt": pa.float64(), "output": pa.float64()}
        columns = ColumnBuilder(labels={r: LabelBuilder() for r in roles if types[r] is text})
        with file.arrow_stream() as stream:
            blocks = arrow_csv.open_csv(
                stream,
                arrow_csv.ReadOptions(
                    block_size=_BLOCK_BYTES, use_threads=False, column_names=names, skip_rows=1
                ),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=[str(position) for position in roles.values()],
                    column_types={str(position): types[role] for role, position in roles.items()},
                ),
                memory_pool=pa.system_memory_pool(),
            )
            for block in blocks:
                _add_block(columns, dict(zip(roles, block.columns, strict=True)), self.clock)
        return columns

    def _read_lines(self, file: TraceFile, roles: dict[str, int]) -> ColumnBuilder:
        """The exact pass: the first bad cell raises the `TraceError` that names it."""
        columns = ColumnBuilder(labels={r: LabelBuilder() for r in roles if r in _LABELS})
        values: dict[str, array[Any]] = {role: array("i") for role in roles}
        values["time"] = array(self.clock.code)
        header: list[str] = []
        for line, record in _records(file):
            if not header:
                header = [name.strip() for name in record]
                continue
            if len(record) != len(header):
                message = f"must have {len(header)} fields like the header, got {len(record)}"
                raise file.error(message, line=line)
            for role, position in roles.items():
                text = record[position]
                try:
                    values[role].append(self._value(role, text, columns))
                except CellError as error:
                    given = shown(text) if text.strip() else "an empty cell"
                    message = f"must be {error}, got {given}"
                    raise file.error(message, line=line, column=header[position]) from error
        columns.add_exact(values)
        return columns

    def _value(self, role: str, text: str, columns: ColumnBuilder) -> float:
        if role == "time":
            return self.clock.parse(text)
        return tokens(number(text)) if role in _COUNTS else columns.labels[role].code(text)

    def write(self, trace: Trace, out: BinaryIO) -> None:
        """Write a trace, its times as the clock holds them."""
        stamps = self.clock.from_seconds(trace.arrival_s)
        names = {"time": self.time, "prompt": self.prompt[0], "output": self.output}
        names |= {"total": self.total} if self.total else {}
        for role in _LABELS:
            if getattr(self, role) and getattr(trace, role) is not None:
                names[role] = getattr(self, role)
        roles = [role for role in self.order or names if role in names]
        text = io.TextIOWrapper(out, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([names[role] for role in roles])
        for start in range(0, len(trace), _ROWS_PER_WRITE):
            rows = slice(start, start + _ROWS_PER_WRITE)
            columns = _cells(trace, rows) | {"time": self.clock.texts(stamps[rows])}
            writer.writerows(zip(*(columns[role] for role in roles), strict=True))
        text.flush()
        text.detach()


_LABELS = ("model", "log_type")
_COUNTS = ("prompt", "output")


def header_of(head: bytes) -> list[str]:
    """The column names in the first line of a file; empty if that is no CSV text."""
    try:
        first = head.split(b"\n", 1)[0].decode("utf-8-sig")
        return [name.strip() for name in next(csv.reader([first]), [])]
    except (UnicodeDecodeError, csv.Error):
        return []


def _records(file: TraceFile, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line it begins on."""
    reader = csv.reader((line for _, line in file.lines()), strict=True)
    begins = 1
    try:
        for record in reader:
            if record and begins > skip:
                yield begins, record
            begins = reader.line_num + 1
    except csv.Error as error:
        raise file.error(f"must be comma-separated values ({error})", line=begins) from error


def _add_block(columns: ColumnBuilder, block: dict[str, Any], clock: Clock) -> None:
    """Append a pyarrow record batch, its columns by role."""
    if any(block[role].null_count for role in ("time", *_COUNTS)):
        raise UncleanError
    time = block["time"]
    instants = buffer_of(time, np.float64) if clock.code == "d" else buffer_of(time, np.int64)
    columns.add(instants, *(buffer_of(block[role], np.float64) for role in _COUNTS))
    for role, builder in columns.labels.items():
        builder.add(block[role])


def _cells(trace: Trace, rows: slice) -> dict[str, list[Any]]:
    cells: dict[str, list[Any]] = {
        "prompt": trace.prompt_tokens[rows].tolist(),
        "output": trace.output_tokens[rows].tolist(),
        "total": trace.total_tokens[rows].tolist(),
    }
    for role in _LABELS:
        labels = getattr(trace, role)
        if labels is not None:
            cells[role] = [labels.names[code] for code in labels.codes[rows].tolist()]
    return cells
