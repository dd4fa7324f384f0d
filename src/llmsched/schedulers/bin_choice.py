"""Which bin a free GPU serves next, from how many requests wait in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class BinChoice(Protocol):
    """Answers one question: which bin does the next batch come from?"""

    def choose(self, waiting: Sequence[int]) -> int | None:
        """The index of the chosen bin, or None when every bin is empty."""


@dataclass(slots=True)
class RoundRobin:
    """Serve the first non-empty bin at or after the pointer, then move the pointer past it.

    One pointer is shared by all GPUs.
    """

    pointer: int = 0

    def choose(self, waiting: Sequence[int]) -> int | None:
        """The next non-empty bin in turn."""
        pointer, n_bins = self.pointer, len(waiting)
        for step in range(pointer, pointer + n_bins):
            bin_index = step if step < n_bins else step - n_bins
            if waiting[bin_index]:
                self.pointer = bin_index + 1 if bin_index + 1 < n_bins else 0
                return bin_index
        return None


@dataclass(slots=True)
class LongestQueue:
    """Serve the bin with the most waiting requests, the lowest index on ties."""

    def choose(self, waiting: Sequence[int]) -> int | None:
        """The fullest bin."""
        most = max(waiting)
        return waiting.index(most) if most else None
