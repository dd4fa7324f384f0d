"""A batch in service: what the latency model sees of it, and what a policy may, afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmsched.engine.columns import Columns
from llmsched.schedulers.base import FinishedBatch


class Batch:
    """`size` requests that are served together: those at the positions from `first` on."""

    __slots__ = ("bin", "columns", "first", "size", "start_s")

    def __init__(
        self, columns: Columns, bin_index: int, first: int, size: int, start_s: float
    ) -> None:
        self.columns = columns
        self.bin = bin_index
        self.first = first
        self.size = size
        self.start_s = start_s

    @property
    def max_total_tokens(self) -> int:
        """Largest prompt + output of one member."""
        total, first = self.columns.total_view, self.first
        largest: int = total[first] if self.size == 1 else max(total[first : first + self.size])
        return largest

    @property
    def max_prompt_tokens(self) -> int:
        """Largest prompt of one member."""
        largest: int = self._largest(self.columns.prompt_view)
        return largest

    @property
    def max_output_tokens(self) -> int:
        """Largest output of one member."""
        largest: int = self._largest(self.columns.output_view)
        return largest

    @property
    def max_service_s(self) -> float:
        """Longest drawn service time of one member [s]."""
        largest: float = self._largest(self.columns.drawn_view)
        return largest

    def _largest(self, column: memoryview[Any]) -> Any:
        if self.size == 1:
            return column[self.first]
        return max(column[self.first : self.first + self.size])

    def finished(self) -> FinishedBatch:
        """What a policy may learn of it: a copy of its own members' lengths, and nothing else."""
        columns, first, size = self.columns, self.first, self.size
        if size == 1:
            alone = (columns.prompt_view[first], columns.output_view[first])
            return FinishedBatch(self.bin, 1, columns.total_view[first], alone)
        end, before = first + size, columns.tokens_before_view
        lengths = columns.lengths_view[first + first : end + end].tobytes()
        return FinishedBatch(self.bin, size, before[end] - before[first], lengths)


class PickedBatch(Batch):
    """Requests picked from anywhere: `members` are their positions, `first` counts those before."""

    __slots__ = ("members", "note")

    def __init__(
        self,
        columns: Columns,
        bin_index: int,
        first: int,
        members: Sequence[int],
        note: Any,
        start_s: float,
    ) -> None:
        super().__init__(columns, bin_index, first, len(members), start_s)
        self.members = members
        self.note = note

    @property
    def max_total_tokens(self) -> int:
        """Largest prompt + output of one member."""
        largest: int = self._largest(self.columns.total_view)
        return largest

    def _largest(self, column: memoryview[Any]) -> Any:
        return max([column[position] for position in self.members])

    def finished(self) -> FinishedBatch:
        """As of any batch, with the note of its plan."""
        columns, members = self.columns, self.members
        tokens = sum([columns.total_view[position] for position in members])
        lengths = columns.lengths[members].tobytes()
        return FinishedBatch(self.bin, self.size, tokens, lengths, self.note)
