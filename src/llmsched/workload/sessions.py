"""Sessions: requests that follow an answer, so that their arrivals are made by the run.

A `Turns` column beside the others says which request follows which, and after how long a pause.
It is read from traces that record pauses, drawn by session profiles, and given users by a
`ClosedLoop`. Engines serve it through `demand`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray, given_up, read_only

Rows = NDArray[np.intp] | NDArray[np.bool_] | slice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turns:
    """Which request follows which answer, and after how long a pause; read-only.

    Parameters
    ----------
    after : ndarray of shape (n,)
        Row of the request whose answer this one follows; -1 for the first of its session.
    think_s : ndarray of shape (n,)
        Pause between that answer and this request [s]. NaN where the trace has recorded when it
        came: it arrives then, whatever the answer does. Of a first request it is the pause of the
        user who sends it, and counts only where there are `users`.
    users : int, optional
        So many users send the sessions, each the next one of the list after the last answer of
        the one before; arrivals in the trace do not count then. None where sessions begin at
        `arrival_s`.
    timed : bool
        Whether the first requests have arrivals; without, there must be users.

    Raises
    ------
    ValueError
        If a column is not of the length of the other, a request follows itself or a later one, or
        a pause is negative.
    """

    after: IntArray
    think_s: FloatArray
    users: int | None = None
    timed: bool = True

    def __post_init__(self) -> None:
        n = len(self.after)
        if len(self.think_s) != n:
            raise ValueError(
                f"after and think_s must be of one length, got {n} and {len(self.think_s)}"
            )
        if n and self.after.min() < -1:
            raise ValueError(f"after must be a row, or -1 for none; got {self.after.min()}")
        if (self.think_s < 0).any() or np.isinf(self.think_s).any():
            raise ValueError("think_s must be >= 0 and finite, or NaN for a recorded arrival")
        late = np.flatnonzero(self.after >= np.arange(n))
        if len(late):
            raise ValueError(
                f"a request must follow an earlier one, got row {late[0]} after row "
                f"{self.after[late[0]]}; put the turns of a session in order"
            )
        if self.users is not None and not self.users >= 1:
            raise ValueError(f"users must be >= 1, got {self.users}")
        for column in ("after", "think_s"):
            object.__setattr__(self, column, read_only(getattr(self, column)))

    def __len__(self) -> int:
        return len(self.after)

    @property
    def waiting(self) -> NDArray[np.bool_]:
        """Which requests wait for an answer before they come, shape (n,)."""
        return (self.after >= 0) & np.isfinite(self.think_s)

    @property
    def closed(self) -> bool:
        """Whether any arrival depends on an answer, or there are none without users."""
        return self.users is not None or not self.timed or bool(self.waiting.any())

    def take(self, rows: Rows) -> Turns:
        """The given rows; who follows a request that is left out follows the one before it.

        The pauses then add up: the one left out took no time. A recorded turn that comes before
        the one it follows, in the new order, is a first one.
        """
        kept = np.arange(len(self))[rows]
        after, think_s = in_order(self.after, self.think_s, kept)
        return replace(self, after=given_up(after), think_s=given_up(think_s))


def in_order(
    after: IntArray, think_s: FloatArray, rows: NDArray[np.intp]
) -> tuple[IntArray, FloatArray]:
    """The columns of `Turns` for the given rows in this order; see `Turns.take`."""
    new_row = np.full(len(after), -1, np.int32)
    new_row[rows] = np.arange(len(rows))
    before, pause_s = after[rows], think_s[rows]
    while len(gone := np.flatnonzero((before >= 0) & (new_row[before] < 0))):
        pause_s[gone] += think_s[before[gone]]
        before[gone] = after[before[gone]]
    before = np.where(before >= 0, new_row[before], np.int32(-1)).astype(np.int32)
    before[np.isnan(pause_s) & (before >= np.arange(len(before)))] = -1
    return before, pause_s


def levels(after: IntArray) -> Iterator[NDArray[np.intp]]:
    """The rows of first turns, then of second ones, and so on; every row once.

    Parameters
    ----------
    after : ndarray of shape (n,)
        Row that each one follows, an earlier one; -1 for none.
    """
    depth = np.zeros(len(after), np.int32)
    rows, before = np.flatnonzero(after >= 0), after[after >= 0]
    while len(rows):
        depth[rows] += 1
        going_on = after[before] >= 0
        rows, before = rows[going_on], after[before[going_on]]
    by_depth = np.argsort(depth, kind="stable")
    bounds = np.searchsorted(depth[by_depth], np.arange(depth.max(initial=-1) + 2))
    for first, end in itertools.pairwise(bounds.tolist()):
        yield by_depth[first:end]


def earliest_s(arrival_s: FloatArray, after: IntArray, think_s: FloatArray) -> FloatArray:
    """When each request could come if every answer took no time, shape (n,) [s].

    Recorded arrivals stay; what follows an answer comes its pause after the request before.
    """
    earliest = arrival_s.copy()
    for rows in levels(after):
        rows = rows[(after[rows] >= 0) & np.isfinite(think_s[rows])]
        earliest[rows] = earliest[after[rows]] + think_s[rows]
    return earliest


def whole_prompts(prompt: IntArray, output: IntArray, after: IntArray) -> NDArray[np.int64]:
    """Prompts of sessions that give only what is new in each turn, shape (n,) [tokens].

    A turn's prompt is the prompt and the answer of the turn before, and what is new.
    """
    whole = prompt.astype(np.int64)
    for rows in levels(after):
        rows = rows[after[rows] >= 0]
        whole[rows] += whole[after[rows]] + output[after[rows]]
    return whole
