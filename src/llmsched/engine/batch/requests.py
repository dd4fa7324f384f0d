"""A queue of requests, each of which a policy sees and may pick from anywhere."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, ClassVar

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.batch.batch import PickedBatch
from llmsched.engine.batch.queues import Queue
from llmsched.engine.columns import Accepted, Columns
from llmsched.schedulers.base import NOBODY, REQUEST_COLUMNS, Arrivals, Selection, view_setter
from llmsched.schedulers.scheduler import Scheduler
from llmsched.workload.trace import Trace

_set_arrived = view_setter("arrived")


class WaitingRequests(Queue):
    """Requests by order of arrival, for policies that see "requests" and plan any set of them.

    Parameters
    ----------
    predicted_tokens : ndarray of shape (n,)
        Predicted output tokens of every request of the trace.
    alone_s : ndarray of shape (n,)
        Predicted service time of each of them alone [s].
    """

    plans: ClassVar[str] = "a Head, a Selection, a Later or None"

    def __init__(
        self,
        trace: Trace,
        accepted: Accepted,
        n_bins: int,
        scheduler: Scheduler,
        predicted_tokens: IntArray,
        alone_s: FloatArray,
    ) -> None:
        super().__init__(scheduler, accepted.arrival_s.data, accepted.bin_of.data, n_bins)
        self._trace = trace
        self._rows = accepted.rows
        self._columns = Columns(trace, accepted.rows)
        self._shown = np.empty(len(accepted), REQUEST_COLUMNS)
        for name, column in (
            ("request", accepted.rows),
            ("arrival_s", accepted.arrival_s[:-1]),
            ("prompt_tokens", self._columns.prompt),
            ("predicted_tokens", predicted_tokens[accepted.rows]),
            ("alone_s", alone_s[accepted.rows]),
            ("bin", accepted.bin_of),
        ):
            self._shown[name] = column
        self._position: memoryview[Any] | None = None  # of each row; None: the row itself
        if not accepted.everyone:
            position = np.full(len(trace), -1, dtype=np.int32)
            position[accepted.rows] = np.arange(len(accepted), dtype=np.int32)
            self._position = position.data
        self._taken = bytearray(len(accepted))  # by position
        self._n_shown = 0
        self._given_back: list[int] = []  # planned, but beyond the memory
        self._order = array("i")  # positions in the order of service
        by_bin, first_of_bin = accepted.by_bin(n_bins)
        self._of_bin = [part.data for part in np.split(by_bin, first_of_bin[1:-1])]
        self._head = [0] * n_bins  # of `_of_bin`: all before it are taken

    def take(self, now_s: float) -> PickedBatch | None:
        """The planned requests, or as many of them, from the first on, as fit."""
        self._show_arrived()
        plan = self._plan(now_s)
        if plan is None:
            return None
        note = None
        if isinstance(plan, Selection):
            members, note = self._picked(plan), plan.note
        else:
            members = self._first_of(*self._head_of(plan))
        if self._bounded:
            members = self._that_fit(members)
        bin_of, first = self._bin_of, len(self._order)
        for position in members:
            self._taken[position] = 1
            self.waiting[bin_of[position]] -= 1
        self.n_waiting -= len(members)
        self._order.extend(members)
        return PickedBatch(self._columns, bin_of[members[0]], first, members, note, now_s)

    def _show_arrived(self) -> None:
        back, first, end = self._given_back, self._n_shown, self._n_admitted
        if not back and first == end:
            _set_arrived(self._view, NOBODY)
            return
        rows = self._shown[first:end].copy()
        if back:
            rows = np.concatenate((self._shown[back], rows))
            back.clear()
        self._n_shown = end
        _set_arrived(self._view, Arrivals(rows))

    def _picked(self, plan: Selection) -> list[int]:
        """Positions of the planned requests, each waiting and planned once."""
        rows = plan.requests
        if isinstance(rows, np.ndarray):
            rows = rows.tolist()
        members = [self._position_of(row) for row in self._listed(rows)]
        seen = set(members)
        if not members:
            self._refuse("at least one request, or None", "none")
        if len(seen) < len(members):
            twice = next(p for p in members if members.count(p) > 1)
            self._refuse("each request once", f"request {self._rows[twice]} twice")
        return members

    def _listed(self, rows: Any) -> Iterable[Any]:
        if not isinstance(rows, Sequence):
            self._refuse("a sequence of requests", f"{rows!r}")
        return rows

    def _position_of(self, row: Any) -> int:
        """Position of a request that waits."""
        try:
            position = index(row)
            if self._position is not None:
                position = self._position[position] if position >= 0 else -1
            waits = 0 <= position < self._n_admitted and not self._taken[position]
        except (TypeError, IndexError):
            waits = False
        if not waits:
            self._refuse("requests that wait", f"{row!r}, which does not")
        return position

    def _first_of(self, bin_index: int, size: int) -> list[int]:
        """Positions of the first `size` requests that wait in a bin."""
        taken, positions, at = self._taken, self._of_bin[bin_index], self._head[bin_index]
        while taken[positions[at]]:
            at += 1
        self._head[bin_index] = at
        members: list[int] = []
        while len(members) < size:
            if not taken[positions[at]]:
                members.append(positions[at])
            at += 1
        return members

    def _that_fit(self, members: list[int]) -> list[int]:
        total, tokens = self._columns.total_view, 0
        for count, position in enumerate(members):
            tokens += total[position]
            if tokens > self._capacity:
                self._given_back += members[count:]
                return members[:count]
        return members

    def served(self) -> Columns:
        """In the order of service."""
        return Columns(self._trace, self._rows[np.frombuffer(self._order, dtype=np.int32)])
