"""Parquet files with our own columns."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from llmsched.workload.formats.clocks import NumberClock
from llmsched.workload.formats.columns import (
    CellError,
    ColumnBuilder,
    LabelBuilder,
    buffer_of,
    first_bad_time,
    first_bad_tokens,
    instant,
    shown,
    to_trace,
    tokens,
)
from llmsched.workload.formats.files import TraceFile
from llmsched.workload.trace import Trace

_CLOCK = NumberClock()
_MAGIC = b"PAR1"
_NAMES = {
    "time": ("arrival_s",),
    "prompt": ("prompt_tokens", "input_tokens"),
    "output": ("output_tokens",),
    "model": ("model",),
    "log_type": ("log_type",),
}
_NUMBERS = ("time", "prompt", "output")
_LABELS = ("model", "log_type")
_ROWS_PER_BLOCK = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetFormat:
    """Parquet with `arrival_s` [s], `prompt_tokens` or `input_tokens`, and `output_tokens`.

    A parquet file has no lines: errors name the row, from 1.
    """

    name: str = "parquet"
    clock: NumberClock = _CLOCK
    model: str | None = "model"
    log_type: str | None = "log_type"

    @property
    def summary(self) -> str:
        """What a file must have, for messages and help."""
        return "Parquet with columns arrival_s, prompt_tokens or input_tokens, output_tokens"

    def recognises(self, head: bytes) -> bool:
        """Whether the file begins as parquet files do."""
        return head.startswith(_MAGIC)

    def read(self, file: TraceFile) -> Trace:
        """The trace in a file; `TraceError` for the first thing in it that cannot be right."""
        import pyarrow as pa

        if not self.recognises(file.head()):
            raise file.error("must be a parquet file, which begins with PAR1")
        try:
            columns = _read_columns(file)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            message = f"must be a complete parquet file ({reason}); get the file again"
            raise file.error(message) from error
        return to_trace(
            columns, self.clock.seconds, file, lambda row: {"row": row + 1}, column="arrival_s"
        )

    def write(self, trace: Trace, out: BinaryIO) -> None:
        """Write a trace, every column exactly."""
        import pyarrow as pa
        from pyarrow import parquet

        columns = {
            "arrival_s": pa.array(trace.arrival_s),
            "prompt_tokens": pa.array(trace.prompt_tokens),
            "output_tokens": pa.array(trace.output_tokens),
        }
        for role in _LABELS:
            labels = getattr(trace, role)
            if labels is not None:
                codes = pa.array(labels.codes.astype(np.int32))
                names = pa.array(labels.names, pa.string())
                columns[role] = pa.DictionaryArray.from_arrays(codes, names)
        parquet.write_table(pa.table(columns), out, row_group_size=_ROWS_PER_BLOCK)


def _read_columns(file: TraceFile) -> ColumnBuilder:
    import pyarrow as pa
    from pyarrow import parquet

    source: Any = str(file.path)
    if file.compression:
        try:
            with file.open() as stream:
                source = io.BytesIO(stream.read())
        except OSError as error:
            raise file.damaged(error) from error
    with parquet.ParquetFile(source) as parquet_file:
        names = _columns_of(file, parquet_file.schema_arrow)
        text = pa.dictionary(pa.int32(), pa.string())
        columns = ColumnBuilder(labels={r: LabelBuilder() for r in names if r in _LABELS})
        row = 1
        wanted = list(names.values())
        for block in parquet_file.iter_batches(_ROWS_PER_BLOCK, columns=wanted, use_threads=False):
            for name in names.values():
                _no_nulls(file, block.column(name), name, row)
            numbers = [_numbers(file, block.column(names[r]), r, names[r], row) for r in _NUMBERS]
            columns.add(*numbers)
            for role, builder in columns.labels.items():
                column = block.column(names[role])
                builder.add(column if column.type == text else column.cast(text))
            row += block.num_rows
    return columns


def _columns_of(file: TraceFile, schema: Any) -> dict[str, str]:
    """The column of each role, its type checked."""
    from pyarrow import types

    names = {}
    for role, accepted in _NAMES.items():
        name = next((name for name in accepted if name in schema.names), "")
        if not name and role in _NUMBERS:
            lacking, given = " or ".join(accepted), shown(", ".join(schema.names))
            raise file.error(f"must have the column {lacking!r}, got {given}")
        if not name:
            continue
        kind = schema.field(name).type
        if role in _NUMBERS and not (types.is_integer(kind) or types.is_floating(kind)):
            raise file.error(f"must hold numbers, got {kind}", column=name)
        value = kind.value_type if types.is_dictionary(kind) else kind
        if role in _LABELS and not (types.is_string(value) or types.is_large_string(value)):
            raise file.error(f"must hold texts, got {kind}", column=name)
        names[role] = name
    return names


def _no_nulls(file: TraceFile, column: Any, name: str, row: int) -> None:
    if column.null_count:
        index = column.is_null().to_pylist().index(True)
        raise file.error("must have a value, got an empty cell", row=row + index, column=name)


def _numbers(file: TraceFile, column: Any, role: str, name: str, row: int) -> NDArray[np.float64]:
    """A column of a batch whose first row in the file is `row`."""
    import pyarrow as pa

    values = buffer_of(column.cast(pa.float64(), safe=False), np.float64)
    bad = first_bad_time(values) if role == "time" else first_bad_tokens(values)
    if bad is not None:
        try:
            instant(values[bad]) if role == "time" else tokens(values[bad])
        except CellError as error:
            message = f"must be {error}, got {column[bad].as_py()!r}"
            raise file.error(message, row=row + bad, column=name) from error
    return values
