"""A batch in service: what the latency model sees of it, and what a policy may, afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmsched.engine.columns import Columns
from llmsched.schedulers.base import FinishedBatch


class Batch:
    """`size` requests that are served together: those at the positions from `first` on."""

    __slots__ = ("bin", "columns", "first", "size")

    def __init__(self, columns: Columns, bin_index: int, first: int, size: int) -> None:
        self.columns = columns
        self.bin = bin_index
        self.first = first
        self.size = size

    @property
    def max_total_tokens(self) -> int:
        """Largest prompt + output of one member."""
        largest: int = self._largest(self.columns.total_view)
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
        """What a policy may learn of it: copies of its own members' lengths, and nothing else."""
        columns, first = self.columns, self.first
        prompts: Sequence[int]
        outputs: Sequence[int]
        if self.size == 1:
            prompts, outputs = (columns.prompt_view[first],), (columns.output_view[first],)
        else:
            members = slice(first, first + self.size)
            prompts = columns.prompt_view[members].tolist()
            outputs = columns.output_view[members].tolist()
        return FinishedBatch(self.bin, None, prompts, outputs)


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
    ) -> None:
        super().__init__(columns, bin_index, first, len(members))
        self.members = members
        self.note = note

    def _largest(self, column: memoryview[Any]) -> Any:
        return max([column[position] for position in self.members])

    def finished(self) -> FinishedBatch:
        """As of any batch, with the note of its plan."""
        prompts = [self.columns.prompt_view[position] for position in self.members]
        outputs = [self.columns.output_view[position] for position in self.members]
        return FinishedBatch(self.bin, self.note, prompts, outputs)
