"""Which bin a free GPU serves next, from how many requests wait in each, and since when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class BinChoice(Protocol):
    """Answers one question: which bin does the next batch come from?"""

    def choose(self, waiting: Sequence[int]) -> int | None:
        """The index of the chosen bin, or None when every bin is empty."""


@dataclass(slots=True)
class Waits:
    """How long the oldest request of each bin has waited.

    Every scheduler has one, and the engine keeps it up to date; a policy that decides by age
    holds it. Ages are not part of `choose`, since most choices need counts only, at every pull.
    """

    now_s: float = 0.0
    _heads: list[int] = field(default_factory=list)
    _arrivals: Callable[[], memoryview[Any]] | None = None
    _arrival_s: memoryview[Any] | None = None

    def follow(self, heads: list[int], arrivals: Callable[[], memoryview[Any]]) -> None:
        """Watch these positions, which the engine moves as it serves.

        Parameters
        ----------
        heads : list of int
            Position of the oldest request of each bin.
        arrivals : callable
            Gives the arrival of every position [s]; called when a wait is first asked for.
        """
        self._heads, self._arrivals, self._arrival_s = heads, arrivals, None

    def oldest_s(self, bin_index: int) -> float:
        """How long the oldest request of a bin that is not empty has waited [s]."""
        if self._arrival_s is None:
            assert self._arrivals is not None, "the engine has not begun"
            self._arrival_s = self._arrivals()
        arrival_s: float = self._arrival_s[self._heads[bin_index]]
        return self.now_s - arrival_s


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
