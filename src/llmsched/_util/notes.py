"""Notes of many runs: those that differ in their numbers only are one, with a count.

Every run under a measured latency model says how many of its batches were extrapolated; a
hundred runs would say it a hundred times, each with other numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(slots=True)
class NoteCount:
    """The first of some notes that differ in numbers only, and how often each wording came."""

    text: str
    times: int = 0  # all of them, the first included
    others: int = 0  # of these, with other numbers than the first


class Notes:
    """Notes as they come, kept by what they say apart from its numbers."""

    def __init__(self) -> None:
        self._kept: dict[str, NoteCount] = {}

    def add(self, text: str) -> bool:
        """Whether this is the first note of its kind."""
        kind = _NUMBER.sub("#", text)
        first = kind not in self._kept
        kept = self._kept.setdefault(kind, NoteCount(text))
        kept.times += 1
        kept.others += text != kept.text
        return first

    def extend(self, notes: Iterable[str]) -> list[str]:
        """Add several; those that are the first of their kind come back."""
        return [note for note in notes if self.add(note)]

    def counts(self) -> list[NoteCount]:
        """Every kind, in the order of its first note."""
        return list(self._kept.values())

    def repeated(self) -> list[str]:
        """A line for each kind that came again with other numbers, for those who saw the first."""
        return [
            f"{note.others} more like this one, with other numbers: {note.text[:60]}..."
            for note in self.counts()
            if note.others
        ]
