"""Demand: what comes by itself, and what each answer brings; for any engine.

An engine asks for `first` once and tells `answered` of every request that it is done with, served
or rejected. It gets (instant, row) pairs back; the instants are exact and never in the past.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from llmsched._util.arrays import IntArray
from llmsched.workload.sessions import levels
from llmsched.workload.trace import Trace, TraceError

Coming = tuple[float, int]  # instant [s], row of the trace


class Demand(Protocol):
    """When requests come, where that may depend on answers."""

    def first(self) -> Iterator[Coming]:
        """What comes whatever is answered, in order of time."""

    def answered(self, request: int, now_s: float) -> list[Coming]:
        """What comes because this request has been answered at `now_s`, or been rejected."""


class Recorded:
    """Requests that come when the trace says: an open loop."""

    def __init__(self, trace: Trace) -> None:
        self._arrival_s = trace.arrival_s

    def first(self) -> Iterator[Coming]:
        """All of them."""
        return zip(self._arrival_s.tolist(), range(len(self._arrival_s)), strict=True)

    def answered(self, request: int, now_s: float) -> list[Coming]:
        """Nothing."""
        del request, now_s
        return []


class Conversations:
    """Sessions that begin at recorded instants; later turns wait for the answers before."""

    def __init__(self, trace: Trace) -> None:
        assert trace.turns is not None
        waiting = trace.turns.waiting
        self._first = np.flatnonzero(~waiting)
        self._arrival_s = trace.arrival_s[self._first]
        self._think_s = trace.turns.think_s.tolist()
        self._followers = _followers(np.where(waiting, trace.turns.after, -1))

    def first(self) -> Iterator[Coming]:
        """The requests that wait for no answer."""
        return zip(self._arrival_s.tolist(), self._first.tolist(), strict=True)

    def answered(self, request: int, now_s: float) -> list[Coming]:
        """The turns that follow, each after its pause."""
        return [(now_s + self._think_s[row], row) for row in self._followers.get(request, ())]


class Users:
    """So many users, each of whom begins the next session after the last answer of the one before.

    Every user thinks before each request, the first one included.
    """

    def __init__(self, trace: Trace) -> None:
        assert trace.turns is not None
        assert trace.turns.users is not None
        after = trace.turns.after
        session = np.arange(len(after))
        for rows in levels(after):
            later = rows[after[rows] >= 0]
            session[later] = session[after[later]]
        self._users = trace.turns.users
        self._think_s = trace.turns.think_s.tolist()
        self._followers = _followers(after)
        self._session = session.tolist()
        self._left = np.bincount(session, minlength=len(after)).tolist()  # turns not yet answered
        self._next = iter(np.flatnonzero(after < 0).tolist())

    def first(self) -> Iterator[Coming]:
        """The first request of every user, by instant."""
        begun = list(itertools.islice(self._next, self._users))
        return iter(sorted((self._think_s[row], row) for row in begun))

    def answered(self, request: int, now_s: float) -> list[Coming]:
        """The turns that follow; or the next session, if this was the last answer of its own."""
        rows = list(self._followers.get(request, ()))
        session = self._session[request]
        self._left[session] -= 1
        if not self._left[session]:
            rows += [row for row in (next(self._next, None),) if row is not None]
        return [(now_s + self._think_s[row], row) for row in rows]


def demand_of(trace: Trace) -> Demand:
    """The demand that a trace describes; for one run.

    Raises
    ------
    TraceError
        If the trace has neither arrival times nor users.
    """
    turns = trace.turns
    if turns is None or not turns.closed:
        return Recorded(trace)
    if turns.users is not None:
        return Users(trace)
    if not turns.timed:
        raise TraceError(
            f"trace {trace.name!r} must have arrival times (--columns arrival=NAME), or users who "
            "send its requests one after the other: a closed loop (--concurrency N)"
        )
    return Conversations(trace)


def _followers(after: IntArray) -> dict[int, list[int]]:
    """The rows that follow each one, in order."""
    followers: dict[int, list[int]] = {}
    rows = np.flatnonzero(after >= 0)
    for row, before in zip(rows.tolist(), after[rows].tolist(), strict=True):
        followers.setdefault(before, []).append(row)
    return followers
