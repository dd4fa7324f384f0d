"""What a scheduler of the iteration level decides, and all that it may know.

Running requests always go on: that is the engine's rule, and it costs O(1) a step. A scheduler
answers the two questions that are left. *Who is admitted next?* is a `WaitingOrder`, a queue.
*How many may run?* is a `RunningLimit`, asked at every decision and told every processed step.
One replica has one of each. Neither sees a clock, SimPy or a true output length: an order gets the
`KnownRequests`, columns of what is known on arrival, and names a request by its row in them.

A user's own order is a sort key, `Ranked(known, key)`, or a class with the verbs below:

    class LongestPromptFirst:
        fifo = evicts_last = False

        def __init__(self, known):
            self.known, self.waiting = known, []

        def add(self, request):
            self.waiting.append(request)

        put_back = add

        def head(self, n_admitted):
            return max(self.waiting, key=lambda r: self.known.prompt_tokens[r], default=None)

        def remove(self, request):
            self.waiting.remove(request)

        def victim(self, running):
            return running[-1]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class KnownRequests:
    """What a scheduler knows of every request on arrival, one column each, in trace order.

    Reading an entry is as fast as from a list; writing one fails. Where answers bring requests,
    `arrival_s` is NaN before they arrive.
    """

    arrival_s: memoryview  # (n,) float64
    prompt_tokens: memoryview  # (n,) int32
    predicted_tokens: memoryview  # (n,) int32, predicted output
    priority: memoryview  # (n,) int32, smaller is more urgent
    bin: memoryview  # (n,) int32, bin by predicted length

    @staticmethod
    def of(
        *,
        arrival_s: FloatArray,
        prompt_tokens: IntArray,
        predicted_tokens: IntArray,
        priority: IntArray | None = None,
        bins: IntArray | None = None,
    ) -> KnownRequests:
        """The columns as read-only views; priority and bin 0 where they are not given."""
        n = len(arrival_s)
        columns = (
            np.asarray(arrival_s, np.float64),
            *(
                np.zeros(n, np.int32) if column is None else np.asarray(column, np.int32)
                for column in (prompt_tokens, predicted_tokens, priority, bins)
            ),
        )
        return KnownRequests(*(np.ascontiguousarray(c).data.toreadonly() for c in columns))

    def __len__(self) -> int:
        return len(self.arrival_s)


class WaitingOrder(Protocol):
    """Who is admitted next: a queue of waiting requests, each named by its row.

    `head` may change only when a request is added, put back or removed, or from one decision to
    the next after an admission. The engine leaps over steps on the strength of that.
    """

    fifo: bool
    """Whether an arrival never becomes the head while another waits."""
    evicts_last: bool
    """Whether the victim is always the last admitted; then it is not asked for."""

    def add(self, request: int) -> None:
        """A request arrived."""
        ...

    def put_back(self, request: int) -> None:
        """A running request was preempted and waits again."""
        ...

    def head(self, n_admitted: int) -> int | None:
        """Who is next, after that many were admitted in this decision; None for nobody now."""
        ...

    def remove(self, request: int) -> None:
        """The head was admitted; or, rarely, a preempted request ended while it waited."""
        ...

    def victim(self, running: Sequence[int]) -> int:
        """Who is preempted for want of KV blocks; `running` is in order of admission."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessedStep:
    """What a limit learns of a step: its duration [s] and what it held."""

    duration_s: float
    n_decodes: int  # entries of one token on top of KV that was there
    n_prefills: int  # all other entries


class RunningLimit(Protocol):
    """How many requests may run; it stops admission and evicts nobody."""

    def limit(self, n_decodes: int) -> int:
        """The most that may run now; `n_decodes` of those running have their prompt computed."""
        ...

    def finished(self, prompt_tokens: int, output_tokens: int) -> None:
        """A request ended with that many tokens; told before the step that ended it."""
        ...

    def observe(self, step: ProcessedStep) -> None:
        """A step was processed."""
        ...


@dataclass(frozen=True, slots=True)
class IterationScheduler:
    """A scheduler of the iteration level: one order and one limit per replica, made afresh.

    Parameters
    ----------
    order : callable
        Makes the queue of a replica from what is known of the requests.
    limit : callable, optional
        Makes the limit of a replica; None for `max_running` alone.
    binned : bool
        Whether requests are put into bins by predicted length.
    uses_predictions : bool
        Whether it looks at predicted lengths; if not, their noise makes no replication.
    """

    order: Callable[[KnownRequests], WaitingOrder]
    limit: Callable[[], RunningLimit] | None = None
    binned: bool = False
    uses_predictions: bool = True
