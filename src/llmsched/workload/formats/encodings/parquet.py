"""Parquet files: no lines, so errors name the row, from 1."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from llmsched.workload.formats.encodings.cells import KINDS, CellError, ids, parsed, shown
from llmsched.workload.formats.encodings.columns import (
    ColumnBuilder,
    UncleanError,
    buffer_of,
    first_bad,
)
from llmsched.workload.formats.encodings.files import Place, TraceFile
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.trace import Labels

NAME = "parquet"
MAGIC = b"PAR1"
_MOST_UNPACKED_BYTES = 1 << 30  # a Parquet file inside gzip or zstd must be unpacked as a whole
_ROWS_PER_BLOCK = 131_072


def names_of(file: TraceFile) -> list[str]:
    """The column names, in the order of the file; of nested ones with dots."""
    with _opened(file) as parquet_file:
        names: list[str] = []
        for field in parquet_file.schema_arrow:
            inner = [f"{field.name}.{one.name}" for one in _fields(field.type)]
            names += [field.name, *inner]
        return names


def read(file: TraceFile, columns: ColumnBuilder, found: Mapping[str, str]) -> None:
    """Fill the columns from the names found for their roles.

    Raises
    ------
    TraceError
        For the first cell that cannot be right.
    """
    row = 1
    wanted = list(dict.fromkeys(name.partition(".")[0] for name in found.values()))
    with _opened(file) as parquet_file:
        types = {role: _at(parquet_file.schema_arrow, name).type for role, name in found.items()}
        columns.kind = _time_kind(types.get("time"))
        for role, name in found.items():
            _check_type(file, role, name, types[role])
        for block in parquet_file.iter_batches(_ROWS_PER_BLOCK, columns=wanted, use_threads=False):
            arrays = {
                role: _typed(file, columns, role, name, _array(block, name), row)
                for role, name in found.items()
            }
            try:
                if columns.add(arrays):
                    return
            except UncleanError as error:
                raise file.error("must be a name in every row", row=row) from error
            row += block.num_rows


def locate(file: TraceFile, row: int) -> Place:
    """Where a row, from 0, stands."""
    del file
    return {"row": row + 1}


@contextmanager
def _opened(file: TraceFile) -> Iterator[Any]:
    """The file as pyarrow's ParquetFile; what goes wrong in it is a `TraceError`."""
    import pyarrow as pa
    from pyarrow import parquet

    with file.path.open("rb") as raw:
        source: Any = raw
        if file.compression:
            try:
                with file.open() as stream:
                    unpacked = stream.read(_MOST_UNPACKED_BYTES + 1)
            except OSError as error:
                raise file.damaged(error) from error
            if len(unpacked) > _MOST_UNPACKED_BYTES:
                raise file.error("a packed parquet file must be at most 1 GiB; unpack it first")
            source = io.BytesIO(unpacked)
        try:
            with parquet.ParquetFile(source) as parquet_file:
                yield parquet_file
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            message = f"must be a complete parquet file ({reason}); get the file again"
            raise file.error(message) from error


def _fields(kind: Any) -> Sequence[Any]:
    from pyarrow import types

    return list(kind) if types.is_struct(kind) else []


def _at(schema: Any, name: str) -> Any:
    """The field of a name that may be nested."""
    if name in schema.names:
        return schema.field(name)
    outer, _, inner = name.partition(".")
    return next(one for one in schema.field(outer).type if one.name == inner)


def _array(block: Any, name: str) -> Any:
    if name in block.schema.names:
        return block.column(name)
    outer, _, inner = name.partition(".")
    column = block.column(outer)
    position = [one.name for one in column.type].index(inner)
    return column.flatten()[position]


def _time_kind(kind: Any) -> Any:
    from pyarrow import types

    if kind is None:
        return "decimal"
    if types.is_timestamp(kind) or types.is_date(kind) or _is_text(kind):
        return "date"
    return "ticks" if types.is_integer(kind) else "decimal"


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(value) or types.is_large_string(value))


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind))


def _check_type(file: TraceFile, role: str, name: str, kind: Any) -> None:
    from pyarrow import types

    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    date = types.is_timestamp(kind) or types.is_date(kind) or _is_text(kind)
    match KINDS[role]:
        case "label" if not _is_text(kind):
            raise file.error(f"must hold texts, got {kind}", column=name)
        case "id" if not (_is_text(kind) or types.is_integer(kind)):
            raise file.error(f"must hold texts or whole numbers, got {kind}", column=name)
        case "time" if not (number or date):
            raise file.error(f"must hold numbers or dates, got {kind}", column=name)
        case "ids" if not (_is_list(kind) and types.is_integer(kind.value_type)):
            raise file.error(f"must hold lists of whole numbers, got {kind}", column=name)
        case "tokens" | "whole" | "rank" | "seconds" if not number:
            raise file.error(f"must hold numbers, got {kind}", column=name)


def _typed(
    file: TraceFile, columns: ColumnBuilder, role: str, name: str, array: Any, row: int
) -> Any:
    """A column of a batch, whose first row in the file is `row`, as the builder takes it."""
    import pyarrow as pa

    if array.null_count and role not in columns.optional:
        index = array.is_null().to_pylist().index(True)
        raise file.error("must have a value, got an empty cell", row=row + index, column=name)
    if role in columns.names:
        text = pa.dictionary(pa.int32(), pa.string())
        return array if array.type == text else array.cast(pa.string()).dictionary_encode()
    if KINDS[role] == "ids":
        return _lists(file, name, array, row)
    if KINDS[role] == "time" and columns.kind == "date":
        return _stamps(file, name, array, row)
    if KINDS[role] == "time" and columns.kind == "ticks":
        return array.cast(pa.int64())
    floats = array.cast(pa.float64(), safe=False)
    values = buffer_of(floats.fill_null(math.nan) if array.null_count else floats, np.float64)
    bad = first_bad(role, values, missing=role in columns.optional)
    if bad is not None:
        try:
            parsed(role, float(values[bad]), columns.kind)
        except CellError as error:
            message = f"must be {error}, got {shown(array[bad].as_py())}"
            raise file.error(message, row=row + bad, column=name) from error
    return floats


def _lists(file: TraceFile, name: str, array: Any, row: int) -> Any:
    """Lists of whole numbers, each 0 or more."""
    import pyarrow as pa
    from pyarrow import compute

    flat = array.flatten()
    if flat.null_count or (compute.min(flat).as_py() or 0) < 0:
        for index, found in enumerate(array.to_pylist()):
            try:
                ids([] if found is None else found)
            except CellError as error:
                message = f"must be {error}, got {shown(found)}"
                raise file.error(message, row=row + index, column=name) from error
    return array.cast(pa.list_(pa.int64()))


def _stamps(file: TraceFile, name: str, array: Any, row: int) -> Any:
    """Dates as nanoseconds since 1970."""
    import pyarrow as pa

    if not _is_text(array.type):
        try:
            return array.cast(pa.timestamp("ns")).cast(pa.int64())
        except pa.ArrowInvalid as error:
            message = "must be dates in the years 1678 to 2261"
            raise file.error(message, row=row, column=name) from error
    stamps = []
    for index, text in enumerate(array.to_pylist()):
        try:
            stamps.append(parsed("time", text, "date"))
        except CellError as error:
            message = f"must be {error}, got {shown(text)}"
            raise file.error(message, row=row + index, column=name) from error
    return pa.array(stamps, pa.int64())


def write(out: BinaryIO, columns: Mapping[str, Any]) -> None:
    """Write columns by name, every value exactly.

    `Labels` are written as dictionaries of text, `PrefixIds` as lists.
    """
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {}
    for name, values in columns.items():
        if isinstance(values, Labels):
            names = pa.array(values.names, pa.string())
            codes = pa.array(values.codes.astype(np.int32))
            arrays[name] = pa.DictionaryArray.from_arrays(codes, names)
        elif isinstance(values, PrefixIds):
            offsets = pa.array(values.offsets)
            arrays[name] = pa.LargeListArray.from_arrays(offsets, pa.array(values.ids))
        else:
            arrays[name] = pa.array(values)
    parquet.write_table(pa.table(arrays), out, row_group_size=_ROWS_PER_BLOCK)
