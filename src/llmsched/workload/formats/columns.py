"""From the columns of a file, in its own order and clock, to a `Trace`.

What a cell may hold is said once here: as a check of whole blocks (fast) and of one value (exact,
with what was expected), and what may be done about rows that are out of order.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmsched._util.types import IntArray
from llmsched.workload.formats.files import Place, TraceFile
from llmsched.workload.prefix_ids import PrefixIds
from llmsched.workload.trace import LONGEST_S, Labels, Trace

MAX_TOKENS = 1_000_000_000  # prompt + output still fit int32
MAX_TIME = 1e15  # in the file's unit, from its own zero; the span has the limit of `Trace`
MAX_NAMES = 32_767  # what an int16 code can tell apart
_LONG_RUN = 10  # rows; shorter sorted runs are disorder, not a second recording
_NEAR_START = 0.1  # share of what was seen so far


Number = TypeVar("Number", np.float64, np.int64, np.int32)


class UncleanError(Exception):
    """A block holds something that the exact reader must look at."""


class CellError(Exception):
    """One value is not what it must be; the text says what that is."""


def tokens(value: float) -> int:
    """A token count, or `CellError`."""
    if not (math.isfinite(value) and value == math.floor(value) and 0 <= value <= MAX_TOKENS):
        raise CellError(f"a whole number of tokens from 0 to {MAX_TOKENS}")
    return int(value)


def instant(value: float) -> float:
    """A number that can be a time, or `CellError`."""
    if not abs(value) <= MAX_TIME:  # also for NaN
        raise CellError(f"a finite time within ±{MAX_TIME:g}")
    return value


def shown(value: object) -> str:
    """A value as an error message shows it: quoted, on one line, not too long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(slots=True)
class LabelBuilder:
    """Texts as codes, the names in order of first appearance."""

    names: dict[str, int] = field(default_factory=dict)
    blocks: list[NDArray[np.int16]] = field(default_factory=list)

    def code(self, name: str) -> int:
        """The code of a name, or `CellError`."""
        code = self.names.setdefault(name, len(self.names))
        if not name or code >= MAX_NAMES:
            raise CellError(f"a name, at most {MAX_NAMES} different ones in a file")
        return code

    def add(self, column: Any) -> None:
        """Append a dictionary-encoded pyarrow array."""
        if column.null_count or column.dictionary.null_count:
            raise UncleanError
        try:
            codes = [self.code(str(name)) for name in column.dictionary.to_pylist()]
        except CellError as error:
            raise UncleanError from error
        self.blocks.append(np.array(codes, np.int16)[buffer_of(column.indices, np.int32)])

    def labels(self) -> Labels:
        """The labels of all blocks."""
        return Labels(codes=np.concatenate(self.blocks), names=tuple(self.names))


@dataclass(slots=True)
class PrefixBuilder:
    """Prefix ids of the requests, collected in file order."""

    tokens_per_id: Sequence[int]  # what an id may stand for in this format, the usual first
    ids: list[NDArray[np.int64]] = field(default_factory=list)
    lengths: list[NDArray[np.int32]] = field(default_factory=list)

    def add(self, ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> None:
        """Append rows: flat ids, and how many each request has; `UncleanError` for a bad id."""
        if len(ids) and ids.min() < 0:
            raise UncleanError
        self.ids.append(np.array(ids))  # a copy: a view would keep the whole block alive
        self.lengths.append(np.array(lengths))

    def prefix_ids(
        self, prompt: IntArray, file: TraceFile, locate: Callable[[int], Place]
    ) -> PrefixIds | None:
        """The ids of all rows; None where no request has any.

        An id stands for the first of `tokens_per_id` with which no prompt of shape (n,) has more
        ids than pieces.
        """
        ids, lengths = _drain(self.ids), _drain(self.lengths)
        if not len(ids):
            return None
        for tokens in self.tokens_per_id:
            if (lengths <= -(-prompt // tokens)).all():
                return PrefixIds.from_lengths(ids, lengths, tokens_per_id=tokens)
        row = int(np.argmax(lengths > -(-prompt // tokens)))
        most = f"at most an id per {tokens} prompt tokens, {-(-int(prompt[row]) // tokens)} here"
        raise file.error(
            f"hash_ids must have {most}, got {int(lengths[row])}", **locate(row), column="hash_ids"
        )


@dataclass(slots=True)
class ColumnBuilder:
    """The columns of a file, collected block by block in file order."""

    time: list[NDArray[Any]] = field(default_factory=list)
    prompt: list[IntArray] = field(default_factory=list)
    output: list[IntArray] = field(default_factory=list)
    labels: dict[str, LabelBuilder] = field(default_factory=dict)
    prefixes: PrefixBuilder | None = None

    def add(self, time: NDArray[Any], prompt: NDArray[Any], output: NDArray[Any]) -> None:
        """Append a block of numbers, each of shape (n,); `UncleanError` if one is not allowed."""
        if first_bad_time(time) is not None:
            raise UncleanError
        for counts in (prompt, output):
            if first_bad_tokens(counts) is not None:
                raise UncleanError
        self.time.append(np.array(time))  # copies: a view would keep the whole block alive
        self.prompt.append(prompt.astype(np.int32))
        self.output.append(output.astype(np.int32))

    def add_exact(self, values: Mapping[str, array[Any]]) -> None:
        """Append columns by role, each value of which `tokens`, `instant` or `code` gave."""
        self.time.append(np.array(values["time"]))
        self.prompt.append(np.array(values["prompt"], np.int32))
        self.output.append(np.array(values["output"], np.int32))
        for role, builder in self.labels.items():
            builder.blocks.append(np.array(values[role], np.int16))

    def __len__(self) -> int:
        return sum(map(len, self.time))


def first_bad_time(values: NDArray[Any]) -> int | None:
    """Index of the first value that `instant` refuses; integers are ticks and all allowed."""
    if values.dtype.kind == "i":
        return None
    return _first(~(np.abs(values) <= MAX_TIME))


def first_bad_tokens(values: NDArray[Any]) -> int | None:
    """Index of the first value that `tokens` refuses."""
    return _first(~((values >= 0) & (values <= MAX_TOKENS) & (values == np.floor(values))))


def _first(bad: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(bad)) if bad.any() else None


def buffer_of(column: Any, dtype: type[Number]) -> NDArray[Number]:
    """A pyarrow array without nulls as numpy, shape (n,), not copied.

    pyarrow's own `to_numpy` loads pandas: 0.2 s and 55 MB on first use, for nothing.
    """
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype)[column.offset : column.offset + len(column)]


def to_trace(
    columns: ColumnBuilder,
    seconds: Callable[[NDArray[Any]], NDArray[np.float64]],
    file: TraceFile,
    locate: Callable[[int], Place],
    *,
    column: str,
) -> Trace:
    """The trace of a file's columns: sorted by time, stably, from the first arrival on.

    `seconds` turns the file's times into seconds since the first of them, `locate` turns a row
    (from 0) into the `line` or `row` that an error names, and `column` is that of the times. The
    columns are emptied on the way.
    """
    if not len(columns):
        raise file.error("must hold at least one request, got only a header", line=1)
    time = _drain(columns.time)
    order: NDArray[np.intp] | None = None
    notes: tuple[str, ...] = ()
    if (time[1:] < time[:-1]).any():
        _refuse_restart(time, file, locate)
        late = int((time < np.maximum.accumulate(time)).sum())
        notes = (f"{late} of {len(time)} rows were out of order and were sorted by time",)
        order = np.argsort(time, kind="stable")
    arrival_s = seconds(_ordered(time, order))
    if arrival_s[-1] > LONGEST_S:
        stray = _stray_row(time)
        message = f"time must lie within {LONGEST_S:g} s of the others, the file spans"
        message += f" {arrival_s[-1]:g} s; mend this row or the unit"
        raise file.error(message, **locate(stray), column=column)
    del time
    labels = {name: builder.labels() for name, builder in columns.labels.items()}
    prompt = _drain(columns.prompt)
    builder = columns.prefixes
    prefixes = None if builder is None else builder.prefix_ids(prompt, file, locate)
    if builder is not None and prefixes is not None:
        if prefixes.tokens_per_id != builder.tokens_per_id[0]:
            notes = (*notes, f"prefix ids were taken to stand for {prefixes.tokens_per_id} tokens")
        prefixes = prefixes if order is None else prefixes.take(order)
    return Trace(
        arrival_s=arrival_s,
        prompt_tokens=_ordered(prompt, order),
        output_tokens=_ordered(_drain(columns.output), order),
        model=_ordered_labels(labels.get("model"), order),
        log_type=_ordered_labels(labels.get("log_type"), order),
        prefix_ids=prefixes,
        name=file.path.name,
        notes=notes,
    )


def _refuse_restart(time: NDArray[Any], file: TraceFile, locate: Callable[[int], Place]) -> None:
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
    distance = np.abs(time.astype(np.float64) - float(np.median(time)))
    return int(np.argmax(distance))


def _drain(blocks: list[Any]) -> Any:
    joined = np.concatenate(blocks) if len(blocks) != 1 else blocks[0]
    blocks.clear()
    return joined


def _ordered(values: Any, order: NDArray[np.intp] | None) -> Any:
    return values if order is None else values[order]


def _ordered_labels(labels: Labels | None, order: NDArray[np.intp] | None) -> Labels | None:
    return labels if labels is None or order is None else labels[order]
