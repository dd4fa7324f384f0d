"""The Mooncake trace format: one JSON object a line, times in milliseconds."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from llmsched.workload.formats.clocks import NumberClock
from llmsched.workload.formats.columns import (
    CellError,
    ColumnBuilder,
    PrefixBuilder,
    UncleanError,
    buffer_of,
    instant,
    shown,
    to_trace,
    tokens,
)
from llmsched.workload.formats.files import Place, TraceFile
from llmsched.workload.trace import Trace, TraceError

_KEYS = {"time": "timestamp", "prompt": "input_length", "output": "output_length"}
_PREFIX = "hash_ids"
_TOKENS_PER_ID = (512, 16)  # Mooncake's own; Qwen-Bailian's
_CLOCK = NumberClock(per_s=1000.0, whole=True, step="whole milliseconds")
_BLOCK_BYTES = 4_194_304  # a line must fit; one with 128k tokens has 250 hashes, about 2 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLinesFormat:
    """JSON lines with `timestamp` [ms], `input_length` and `output_length`; other keys are skipped.

    `hash_ids`, where a line has them, are prefix ids: one per 512 tokens of the prompt, or per 16
    in a file where some prompt has more than that. Fewer are those of the first pieces.
    """

    name: str = "mooncake"
    clock: NumberClock = _CLOCK
    model: str | None = None
    log_type: str | None = None

    @property
    def summary(self) -> str:
        """What a file must have, for messages and help."""
        return f"JSON lines with keys {', '.join(_KEYS.values())}"

    def recognises(self, head: bytes) -> bool:
        """Whether the first line is an object with one of the keys."""
        first = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
        return first.startswith(b"{") and any(
            f'"{key}"'.encode() in first for key in _KEYS.values()
        )

    def read(self, file: TraceFile) -> Trace:
        """The trace in a file; `TraceError` for the first thing in it that cannot be right."""
        import pyarrow as pa

        try:
            columns = _read_blocks(file)
        except (UncleanError, pa.ArrowException, OSError):
            columns = _read_lines(file)

        def locate(row: int) -> Place:
            return {"line": next(islice(_lines(file), row, None))[0]}

        return to_trace(columns, self.clock.seconds, file, locate, column=_KEYS["time"])

    def write(self, trace: Trace, out: BinaryIO) -> None:
        """Write a trace, its times in whole milliseconds."""
        stamps = self.clock.from_seconds(trace.arrival_s)
        for start in range(0, len(trace), 65_536):
            rows = slice(start, start + 65_536)
            values = (stamps[rows], trace.prompt_tokens[rows], trace.output_tokens[rows])
            prefixes = _written_prefixes(trace, rows)
            lines = [
                f'{{"timestamp": {t}, "input_length": {p}, "output_length": {o}{ids}}}\n'
                for t, p, o, ids in zip(*(c.tolist() for c in values), prefixes, strict=True)
            ]
            out.write("".join(lines).encode())


def _written_prefixes(trace: Trace, rows: slice) -> list[str]:
    """The key with the prefix ids of each row, where the trace has them."""
    prefix_ids = trace.prefix_ids
    numbers = range(len(trace))[rows]
    if prefix_ids is None:
        return [""] * len(numbers)
    if prefix_ids.tokens_per_id not in _TOKENS_PER_ID:
        raise TraceError(
            f"mooncake holds prefix ids of {' or '.join(map(str, _TOKENS_PER_ID))} tokens, got "
            f"ids of {prefix_ids.tokens_per_id}; write csv, or leave them out"
        )
    return [f', "{_PREFIX}": {prefix_ids.row(number).tolist()}' for number in numbers]


def _read_blocks(file: TraceFile) -> ColumnBuilder:
    """The fast pass; any exception means that the exact pass must look."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    with file.arrow_stream() as stream:
        table = arrow_json.read_json(
            stream,
            arrow_json.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            arrow_json.ParseOptions(
                explicit_schema=pa.schema(
                    [
                        *((key, pa.float64()) for key in _KEYS.values()),
                        (_PREFIX, pa.list_(pa.int64())),
                    ]
                ),
                unexpected_field_behavior="ignore",
            ),
            memory_pool=pa.system_memory_pool(),
        )
    columns = ColumnBuilder(prefixes=PrefixBuilder(_TOKENS_PER_ID))
    if any(table.column(key).null_count for key in _KEYS.values()):
        raise UncleanError
    for block in table.to_batches():
        columns.add(*(buffer_of(block.column(key), np.float64) for key in _KEYS.values()))
        rows = block.column(_PREFIX)
        ids = rows.flatten()
        if ids.null_count:
            raise UncleanError
        lengths = np.diff(buffer_of(rows.offsets, np.int32))  # 0 where a line has none
        assert columns.prefixes is not None
        columns.prefixes.add(buffer_of(ids, np.int64), lengths)
    return columns


def _read_lines(file: TraceFile) -> ColumnBuilder:
    """The exact pass: the first bad line raises the `TraceError` that names it."""
    values: dict[str, array[Any]] = {"time": array("d"), "prompt": array("i"), "output": array("i")}
    ids, lengths = array("q"), array("i")
    for line, text in _lines(file):
        request = _parsed(file, line, text)
        for role, key in _KEYS.items():
            if key not in request:
                given = shown(", ".join(map(str, request)))
                raise file.error(f"must have the key {key!r}, got {given}", line=line)
            try:
                values[role].append(_value(role, request[key]))
            except CellError as error:
                given = shown(request[key]) if request[key] is not None else "null"
                raise file.error(f"must be {error}, got {given}", line=line, column=key) from error
        row = _prefix_ids(file, line, request.get(_PREFIX))
        ids.extend(row)
        lengths.append(len(row))
    columns = ColumnBuilder(prefixes=PrefixBuilder(_TOKENS_PER_ID))
    columns.add_exact(values)
    assert columns.prefixes is not None
    columns.prefixes.add(np.array(ids, np.int64), np.array(lengths, np.int32))
    return columns


def _prefix_ids(file: TraceFile, line: int, value: object) -> list[int]:
    """The ids of one line; none where it has no list."""
    if value is None:
        return []
    if isinstance(value, list) and all(type(i) is int and 0 <= i < 2**63 for i in value):
        return value
    message = f"must be a list of whole numbers >= 0, got {shown(value)}"
    raise file.error(message, line=line, column=_PREFIX)


def _lines(file: TraceFile) -> Iterator[tuple[int, str]]:
    return ((line, text) for line, text in file.lines() if text.strip())


def _parsed(file: TraceFile, line: int, text: str) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except ValueError as error:
        given = f"got {shown(text.strip())}"
        raise file.error(f"must be one JSON object ({error}), {given}", line=line) from error
    except RecursionError as error:
        raise file.error("must be one flat JSON object, got deep nesting", line=line) from error
    if not isinstance(request, dict):
        raise file.error(f"must be one JSON object, got {shown(request)}", line=line)
    return request


def _value(role: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CellError("a number")
    try:
        return instant(float(value)) if role == "time" else tokens(float(value))
    except OverflowError as error:
        raise CellError("a number that a float64 can hold") from error
