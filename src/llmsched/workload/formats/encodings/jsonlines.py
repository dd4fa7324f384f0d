"""JSON lines: one object a line; a name with dots stands for a nested one."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO

from llmsched.workload.formats.encodings.cells import (
    KINDS,
    CellError,
    is_zoned,
    shown,
    takes_text,
    time_kind,
)
from llmsched.workload.formats.encodings.columns import ColumnBuilder, UncleanError
from llmsched.workload.formats.encodings.files import MAX_LINE_BYTES, Place, TraceFile

NAME = "jsonl"
_BLOCK_BYTES = 4 * MAX_LINE_BYTES
_ROWS_PER_BLOCK = 65_536
_LOOK_AT = 20  # objects at the beginning, whose keys are the names of the columns


def names_in(head: bytes) -> list[str]:
    """The keys of the first objects, nested ones with dots; empty if that is no JSON."""
    names: dict[str, None] = {}
    lines = head.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    for line in [line for line in lines if line.strip()][:_LOOK_AT]:
        try:
            first = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(first, dict):
            break
        for key, value in first.items():
            nested = value if isinstance(value, dict) else {}
            names |= dict.fromkeys([key, *(f"{key}.{inner}" for inner in nested)])
    return list(names)


def read(
    file: TraceFile,
    columns: ColumnBuilder,
    found: Mapping[str, str],
    expand: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None,
) -> None:
    """Fill the columns from the keys found for their roles.

    `expand` makes the rows of an object, where one object holds several requests.

    Raises
    ------
    TraceError
        For the first line that cannot be right.
    """
    import pyarrow as pa

    if expand is not None:
        _read_lines(file, columns, found, expand)
        return
    try:
        _read_blocks(file, columns, found)
    except (UncleanError, pa.ArrowException, OSError):
        fresh = ColumnBuilder(columns.roles, columns.optional, columns.enough)
        columns.blocks, columns.names = fresh.blocks, fresh.names
        _read_lines(file, columns, found, lambda request: [request])


def locate(file: TraceFile, row: int) -> Place:
    """Where a row, from 0, stands."""
    return {"line": next(islice(_lines(file), row, None))[0]}


def _read_blocks(file: TraceFile, columns: ColumnBuilder, found: Mapping[str, str]) -> None:
    """The fast pass; any exception means that the exact pass must look."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    first = parsed_line(file, *next(_lines(file)))
    columns.kind = time_kind(_at(first, found["time"]) if "time" in found else 0)
    options = arrow_json.ParseOptions(
        explicit_schema=_schema(first, columns, found), unexpected_field_behavior="ignore"
    )
    read_options = arrow_json.ReadOptions(use_threads=False, block_size=2 * _BLOCK_BYTES)
    for block in _blocks(file):
        table = arrow_json.read_json(
            BytesIO(block), read_options, options, memory_pool=pa.system_memory_pool()
        )
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        if table.num_rows != lines and table.num_rows != _n_not_blank(block):
            raise UncleanError  # two objects on a line
        for batch in table.to_batches():
            arrays = {role: _column(batch, name) for role, name in found.items()}
            arrays = {role: _typed(columns, role, array) for role, array in arrays.items()}
            if columns.add(arrays):
                return


def _blocks(file: TraceFile) -> Iterator[bytes]:
    """The file in pieces of whole lines, each line within the limit."""
    with file.open() as stream:
        rest = stream.read(_BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
        while rest:
            more = stream.read(_BLOCK_BYTES)
            end = rest.rfind(b"\n") + 1 if more else len(rest)
            if not end or _has_a_long_line(rest):
                raise UncleanError
            yield rest[:end]
            rest = rest[end:] + more


def _n_not_blank(block: bytes) -> int:
    return sum(1 for line in block.splitlines() if line.strip())


def _has_a_long_line(block: bytes) -> bool:
    """Whether a line may be beyond the limit: one is if it fills half the limit from a half on."""
    half = MAX_LINE_BYTES // 2
    starts = range(0, len(block) - half + 1, half)
    return any(block.find(b"\n", start, start + half) < 0 for start in starts)


def _schema(first: Any, columns: ColumnBuilder, found: Mapping[str, str]) -> Any:
    """What pyarrow is to read: numbers but for names and dates, by the first object."""
    import pyarrow as pa

    fields: dict[str, Any] = {}
    for role, name in found.items():
        kind, value = KINDS[role], _at(first, name)
        if kind == "ids":
            given = pa.list_(pa.int64())
        elif kind in ("label", "id"):
            given = pa.int64() if isinstance(value, int) else pa.string()
        elif kind == "time" and columns.kind != "decimal":
            given = pa.string() if columns.kind == "date" else pa.int64()
        else:
            given = pa.float64()
        outer, _, inner = name.partition(".")
        if inner and outer in first:
            fields.setdefault(outer, []).append(pa.field(inner, given))
        else:
            fields[name] = given
    return pa.schema(
        [(key, pa.struct(of) if isinstance(of, list) else of) for key, of in fields.items()]
    )


def _column(batch: Any, name: str) -> Any:
    if name in batch.schema.names:
        return batch.column(name)
    outer, _, inner = name.partition(".")
    column = batch.column(outer)
    flat = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    return flat[inner]


def _typed(columns: ColumnBuilder, role: str, array: Any) -> Any:
    """Names as dictionaries of text, dates as nanoseconds."""
    import pyarrow as pa
    from pyarrow import compute

    if role in columns.names:
        return compute.dictionary_encode(array.cast(pa.string()))
    if KINDS[role] == "time" and columns.kind == "date":
        first = str(array[0].as_py() or "")
        return array.cast(pa.timestamp("ns", "UTC" if is_zoned(first) else None))
    return array


def _at(request: Mapping[str, Any], name: str) -> Any:
    """The value of a name that may be nested; None where it is not there."""
    if name in request:
        return request[name]
    outer, _, inner = name.partition(".")
    nested = request.get(outer)
    return nested.get(inner) if isinstance(nested, Mapping) else None


def _read_lines(
    file: TraceFile,
    columns: ColumnBuilder,
    found: Mapping[str, str],
    expand: Callable[[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    """The exact pass: the first bad line raises the `TraceError` that names it."""
    values = None
    n = 0
    for line, text in _lines(file):
        try:
            requests = expand(parsed_line(file, line, text))
        except CellError as error:
            raise file.error(f"must be {error}", line=line) from error
        for request in requests:
            if values is None:
                columns.kind = time_kind(_at(request, found["time"]) if "time" in found else 0)
                values = columns.arrays()
            for role, name in found.items():
                _put(values, file, line, columns, role, name, request)
            n += 1
            if n % _ROWS_PER_BLOCK == 0:
                if columns.add_exact(values):
                    return
                values = columns.arrays()
    if values is not None:
        columns.add_exact(values)


def _put(
    values: Mapping[str, array[Any]],
    file: TraceFile,
    line: int,
    columns: ColumnBuilder,
    role: str,
    name: str,
    request: Mapping[str, Any],
) -> None:
    value = _at(request, name)
    if value is None and role not in columns.optional and name not in request:
        given = shown(", ".join(map(str, request)))
        raise file.error(f"must have the key {name!r}, got {given}", line=line)
    try:
        if isinstance(value, str) and not takes_text(role, columns.kind):
            raise CellError("a number")
        columns.put(values, role, value)
    except CellError as error:
        given = shown(value) if value is not None else "null"
        raise file.error(f"must be {error}, got {given}", line=line, column=name) from error


def _lines(file: TraceFile) -> Iterator[tuple[int, str]]:
    return ((line, text) for line, text in file.lines() if text.strip())


def parsed_line(file: TraceFile, line: int, text: str) -> dict[str, Any]:
    """The object on a line; `TraceError` if there is anything else, or a key twice."""
    try:
        request = json.loads(text, object_pairs_hook=_unique)
    except _TwiceError as error:
        raise file.error("must stand once in its object", line=line, column=str(error)) from error
    except ValueError as error:
        reason = "its number is too long" if "limit" in str(error) else str(error)
        given = f"got {shown(text.strip())}"
        raise file.error(f"must be one JSON object ({reason}), {given}", line=line) from error
    except RecursionError as error:
        raise file.error("must be one flat JSON object, got deep nesting", line=line) from error
    if not isinstance(request, dict):
        raise file.error(f"must be one JSON object, got {shown(request)}", line=line)
    return request


class _TwiceError(Exception):
    """A key stands twice in one object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _TwiceError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return found


def write(out: BinaryIO, columns: Mapping[str, Sequence[Any]], *, header: bool) -> None:
    """Write columns by name, all of one length; None is null, and there is no header."""
    del header
    pattern = "{" + ", ".join(f"{json.dumps(name)}: %s" for name in columns) + "}\n"
    encoded = [
        values if all(type(value) in (int, float) for value in values) else map(json.dumps, values)
        for values in columns.values()
    ]
    out.write("".join([pattern % row for row in zip(*encoded, strict=True)]).encode())
