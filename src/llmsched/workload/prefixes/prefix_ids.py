"""Which prompts begin alike: ids of prompt pieces, the same id for the same tokens.

A prefix cache finds a piece of a prompt again when its id and all ids before it are the same.
Rows are ragged, one per request, so they are kept flat.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import given_up, read_only


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixIds:
    """Ids of the pieces that each prompt begins with, in order.

    Raises
    ------
    ValueError
        If the offsets do not cut `ids` into rows, an id is negative or `tokens_per_id` below 1.

    Examples
    --------
    >>> prefixes = PrefixIds.of([[7, 8, 9], [7, 5]], tokens_per_id=512)
    >>> prefixes.row(1).tolist()
    [7, 5]
    """

    ids: NDArray[Any]  # (total,) int32 or int64, row after row
    offsets: NDArray[np.int64]  # (n + 1,) where each row begins in `ids`, and the end
    tokens_per_id: int

    def __post_init__(self) -> None:
        if self.tokens_per_id < 1:
            raise ValueError(f"tokens_per_id must be >= 1, got {self.tokens_per_id}")
        offsets = self.offsets
        if not len(offsets) or offsets[0] or offsets[-1] != len(self.ids):
            raise ValueError(f"offsets must go from 0 to the {len(self.ids)} ids")
        if (np.diff(offsets) < 0).any():
            raise ValueError("offsets must not decrease")
        if len(self.ids) and int(self.ids.min()) < 0:
            raise ValueError(f"prefix ids must be >= 0, got {int(self.ids.min())}")
        object.__setattr__(self, "ids", read_only(self.ids))
        object.__setattr__(self, "offsets", read_only(offsets))

    @staticmethod
    def of(rows: Iterable[Sequence[int]], *, tokens_per_id: int) -> PrefixIds:
        """The ids given row by row, in 4 bytes each where they fit."""
        listed = list(rows)
        flat = np.fromiter((i for row in listed for i in row), np.int64)
        return PrefixIds.from_lengths(
            flat, np.fromiter(map(len, listed), np.int64), tokens_per_id=tokens_per_id
        )

    @staticmethod
    def from_lengths(
        ids: NDArray[np.int64], lengths: NDArray[np.int64], *, tokens_per_id: int
    ) -> PrefixIds:
        """Flat ids and the length of each row, shape (n,)."""
        if len(ids) and int(ids.max()) < 2**31:
            ids = given_up(ids.astype(np.int32))
        offsets = given_up(np.concatenate(([0], np.cumsum(lengths))))
        return PrefixIds(ids=ids, offsets=offsets, tokens_per_id=tokens_per_id)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ids of each row, shape (n,)."""
        return np.diff(self.offsets)

    def row(self, request: int) -> NDArray[Any]:
        """The ids of one request."""
        return self.ids[self.offsets[request] : self.offsets[request + 1]]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> PrefixIds:
        """The given rows: a slice, a mask, or indices."""
        starts, lengths = self.offsets[:-1][rows], self.lengths[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        # position in the old ids of each new one: its row's start, and its place in the row
        where = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return PrefixIds(ids=self.ids[where], offsets=offsets, tokens_per_id=self.tokens_per_id)
