"""The columns of a trace file as arrays, collected block by block in the order of the file.

Whole blocks are checked fast; whatever that check does not like is looked at again cell by cell
(`cells`), so that an error names the line and the column.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmsched.workload.formats.encodings.cells import (
    KINDS,
    MAX_TIME,
    MAX_TOKENS,
    CellError,
    TimeKind,
    ids,
    parsed,
)
from llmsched.workload.trace import Labels

MAX_NAMES = 32_767  # what an int16 code can tell apart
_CODES = {
    "tokens": "i",
    "whole": "i",
    "rank": "i",
    "seconds": "d",
    "label": "h",
    "id": "i",
    "ids": "q",
}
LENGTHS = "lengths"  # how many ids each row has: a column beside that of all ids
_SLACK = 131_072  # rows read beyond those asked for, to see whether the file is in order

Number = TypeVar("Number", np.float64, np.int64, np.int32)


class UncleanError(Exception):
    """A block holds something that the exact reader must look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enough:
    """When reading may stop: so many requests that the filters would keep, all in order of time."""

    requests: int
    failures: bool = True  # whether requests without output count
    labels: Mapping[str, str] = field(default_factory=dict)  # role -> the only name that counts


@dataclass(slots=True)
class NameCodes:
    """Texts as codes, the names in order of first appearance."""

    ids: bool = False  # of things, however many, a missing one -1; else of few kinds of things
    empty: bool = False  # whether a name may be empty
    names: dict[str, int] = field(default_factory=dict)

    def code(self, name: str) -> int:
        """The code of a name, or `CellError`."""
        if not name and self.ids:
            return -1
        code = self.names.setdefault(name, len(self.names))
        if not (self.ids or ((name or self.empty) and code < MAX_NAMES)):
            raise CellError(f"a name, at most {MAX_NAMES} different ones in a file")
        return code

    def codes(self, column: Any) -> NDArray[np.int32]:
        """The codes of a dictionary-encoded pyarrow array."""
        if (column.null_count or column.dictionary.null_count) and not (self.ids or self.empty):
            raise UncleanError
        try:
            known = [self.code(name or "") for name in column.dictionary.to_pylist()]
            missing = self.code("") if column.null_count else -1
        except CellError as error:
            raise UncleanError from error
        indices = column.indices.fill_null(len(known)) if column.null_count else column.indices
        codes = np.array([*known, missing], np.int32)
        return codes[buffer_of(indices, np.int32)]


@dataclass(slots=True)
class ColumnBuilder:
    """The columns of a file by role.

    Parameters
    ----------
    roles
        What is collected, keys of `KINDS`.
    optional
        Roles that a row may leave empty: NaN, or the code -1.
    enough
        When to stop; by default at the end.
    """

    roles: Collection[str]
    optional: Collection[str] = ()
    enough: Enough | None = None
    blocks: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    names: dict[str, NameCodes] = field(default_factory=dict)
    kind: TimeKind = "decimal"
    stopped: bool = False  # before the end, because there was enough
    _kept: int = 0
    _latest: float = -math.inf
    _in_order: bool = True

    def __post_init__(self) -> None:
        self.blocks = {role: [] for role in self.roles}
        if any(KINDS[role] == "ids" for role in self.roles):
            self.blocks[LENGTHS] = []
        for role in self.roles:
            if KINDS[role] == "id":
                self.names[role] = NameCodes(ids=True)
            elif KINDS[role] == "label":
                self.names[role] = NameCodes(empty=role in self.optional)
        if "parent" in self.names and "id" in self.names:
            self.names["parent"] = self.names["id"]  # a parent is found among the ids

    def __len__(self) -> int:
        return sum(map(len, self.blocks["prompt"]))

    def add(self, block: Mapping[str, Any]) -> bool:
        """Append pyarrow arrays by role; whether that is enough.

        Raises
        ------
        UncleanError
            If one of the values is not allowed.
        """
        values: dict[str, NDArray[Any]] = {}
        for role in self.roles:
            if KINDS[role] == "ids":
                values[role], values[LENGTHS] = _ragged(block[role])
            else:
                values[role] = self._checked(role, block[role])
        for role, column in values.items():
            self.blocks[role].append(column)
        return self._is_enough(values)

    def add_exact(self, values: Mapping[str, array[Any]]) -> bool:
        """Append `arrays` that `put` has filled; whether that is enough."""
        block = {role: np.array(column) for role, column in values.items()}
        for role, column in block.items():
            self.blocks[role].append(column)
        return self._is_enough(block)

    def put(self, values: Mapping[str, array[Any]], role: str, value: object) -> None:
        """Append one value to `arrays`, or `CellError`."""
        if KINDS[role] == "ids":
            found = [] if value is None else ids(value)
            values[role].extend(found)
            values[LENGTHS].append(len(found))
        else:
            values[role].append(self._cell(role, value))

    def _cell(self, role: str, value: object) -> float:
        if role in self.optional and (value is None or value == ""):
            return self.names[role].code("") if role in self.names else math.nan
        found = parsed(role, value, self.kind)
        return self.names[role].code(found) if role in self.names else found

    def arrays(self) -> dict[str, array[Any]]:
        """Empty arrays for `put`, by role."""
        times = "d" if self.kind == "decimal" else "q"
        codes = {role: _CODES.get(KINDS[role], times) for role in self.roles}
        for role in self.optional:
            if role in codes and codes[role] in "iq" and KINDS[role] not in ("id", "label", "ids"):
                codes[role] = "d"  # with NaN for missing ones
        if LENGTHS in self.blocks:
            codes[LENGTHS] = "i"
        return {role: array(code) for role, code in codes.items()}

    def take(self, role: str) -> NDArray[Any]:
        """A whole column, which is let go of here."""
        blocks = self.blocks.pop(role)
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def labels(self, role: str) -> Labels | None:
        """A column of names, if the file has it and not all are empty."""
        names = tuple(self.names[role].names) if role in self.blocks else ()
        if not any(names):
            return None
        return Labels(codes=self.take(role).astype(np.int16), names=names)

    def _checked(self, role: str, column: Any) -> NDArray[Any]:
        if role in self.names:
            codes = self.names[role].codes(column)
            return codes.astype(np.int16) if KINDS[role] == "label" else codes
        values: NDArray[Any]
        if column.null_count:
            if role not in self.optional:
                raise UncleanError
            values = buffer_of(column.fill_null(math.nan), np.float64)
        elif KINDS[role] == "time" and self.kind != "decimal":
            values = buffer_of(column, np.int64)
        else:
            values = buffer_of(column, np.float64)
        bad = first_bad(role, values, missing=role in self.optional)
        if bad is not None:
            raise UncleanError
        whole = KINDS[role] in ("tokens", "whole", "rank") and role not in self.optional
        # a copy: a view would keep the whole block alive
        return values.astype(np.int32) if whole else np.array(values)

    def _is_enough(self, block: Mapping[str, NDArray[Any]]) -> bool:
        if self.enough is None:
            return False
        time = block["time"]
        if len(time):
            self._in_order &= bool(time[0] >= self._latest and (time[1:] >= time[:-1]).all())
            self._latest = time[-1]
        keep = np.ones(len(time), np.bool_)
        if not self.enough.failures:
            keep &= block["output"] > 0
        for role, name in self.enough.labels.items():
            if role in block:
                keep &= block[role] == self.names[role].names.get(name, -2)
        self._kept += int(np.count_nonzero(keep))
        beyond = self._kept >= self.enough.requests and len(self) >= self.enough.requests + _SLACK
        self.stopped = beyond and self._in_order
        return self.stopped


def first_bad(role: str, values: NDArray[Any], *, missing: bool = False) -> int | None:
    """Index of the first value that `cells` refuses for this role."""
    match KINDS[role]:
        case "time":
            # integers are ticks and all allowed
            good = np.abs(values) <= MAX_TIME if values.dtype.kind == "f" else None
        case "tokens":
            good = (values >= 0) & (values <= MAX_TOKENS) & (values == np.floor(values))
        case "whole":
            good = (values >= -1) & (values < 2**31) & (values == np.floor(values))
        case "rank":
            good = (np.abs(values) < 2**31) & (values == np.floor(values))
        case _:
            good = (values >= 0) & (values <= MAX_TIME)
    if good is None:
        return None
    if missing:
        good |= np.isnan(values)
    return None if good.all() else int(np.argmin(good))


def _ragged(column: Any) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """All ids of a pyarrow column of lists, and how many each row has; copies, as above.

    Raises
    ------
    UncleanError
        If an id is missing or negative.
    """
    from pyarrow import compute

    flat = column.flatten()
    if flat.null_count:
        raise UncleanError
    found = np.array(buffer_of(flat, np.int64))
    if found.min(initial=0) < 0:
        raise UncleanError
    lengths = compute.fill_null(compute.list_value_length(column), 0)
    return found, np.array(buffer_of(lengths, np.int32))


def buffer_of(column: Any, dtype: type[Number]) -> NDArray[Number]:
    """A pyarrow array without nulls as numpy, shape (n,), not copied.

    pyarrow's own `to_numpy` loads pandas: 0.2 s and 55 MB on first use, for nothing.
    """
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype)[column.offset : column.offset + len(column)]
