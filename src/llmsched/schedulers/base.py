"""The contract of the batch level: a view of what waits goes in, a plan comes out.

A policy answers one question, which requests a free GPU serves next, and learns from the batches
that finish. It schedules no events and counts nothing; the engine does both, and checks every
plan. All that it is handed is a copy: no true length of a request that is not finished, no request
that has not arrived, and nothing that the run would read back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import IntArray

# What the engine keeps up to date for a policy; each tells what the one before tells, and costs
# more. "counts": how many wait in each bin; "ages": since when; "requests": every one of them.
Sees = Literal["counts", "ages", "requests"]


class RequestView(NamedTuple):
    """What may be known of a request before it is served."""

    request: int  # its row in the trace, by which a plan names it
    arrival_s: float
    prompt_tokens: int
    predicted_tokens: int  # output tokens
    alone_s: float  # predicted service time, served alone [s]
    bin: int


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Requests in order of arrival: iterate for one `RequestView` each, or take a whole column."""

    rows: NDArray[np.void]  # (n,) of `REQUEST_COLUMNS`

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RequestView]:
        return map(RequestView._make, self.rows.tolist())

    def column(self, name: str) -> NDArray[Any]:
        """One field of `RequestView` of all of them, shape (n,)."""
        return self.rows[name]


REQUEST_COLUMNS = np.dtype(
    [
        ("request", np.int32),
        ("arrival_s", np.float64),
        ("prompt_tokens", np.int32),
        ("predicted_tokens", np.int32),
        ("alone_s", np.float64),
        ("bin", np.int32),
    ]
)
NOBODY = Arrivals(np.empty(0, REQUEST_COLUMNS))


@dataclass(frozen=True, slots=True, eq=False)
class WaitingView:
    """What waits when a GPU asks; a scheduler's `sees` says how much of it is kept up to date."""

    counts: tuple[int, ...] = ()  # requests that wait in each bin
    oldest_arrival_s: tuple[float, ...] = ()  # of each bin, infinity if empty; needs "ages"
    # Needs "requests": those that came since the policy was last asked, and those that it planned
    # and the engine did not take, as they did not fit the memory.
    arrived: Arrivals = NOBODY


def view_setter(name: str) -> Callable[[WaitingView, Any], None]:
    """What writes one field of a view, for the engine: those who are handed one cannot."""
    setter: Callable[[WaitingView, Any], None] = getattr(WaitingView, name).__set__
    return setter


@dataclass(slots=True)  # frozen would take three times as long to make, at every batch
class Head:
    """The first `size` requests of one bin, in order of arrival: the fast way to say it."""

    bin: int
    size: int


@dataclass(frozen=True, slots=True)
class Selection:
    """These waiting requests, by their row in the trace, wherever they wait; needs "requests".

    `note` comes back with the finished batch.
    """

    requests: Sequence[int] | IntArray
    note: Any = None


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing now: ask again at this instant [s], or when something arrives before it."""

    at_s: float


BatchPlan: TypeAlias = Head | Selection | Later


class FinishedBatch:
    """What a policy may learn of a batch once it is finished: its size, means and maxima.

    Parameters
    ----------
    bin_index : int
        Bin of its first request.
    size : int
        Requests in the batch.
    tokens : int
        Prompt + output tokens of all of them.
    lengths : bytes, or tuple of int
        Prompt and output of each in turn, 32 bits each: a copy that leads nowhere else.
    note
        That of the `Selection` it was planned as.
    """

    __slots__ = ("_lengths", "_tokens", "bin", "note", "size")

    def __init__(
        self,
        bin_index: int,
        size: int,
        tokens: int,
        lengths: bytes | tuple[int, ...],
        note: Any = None,
    ) -> None:
        self.bin = bin_index
        self.size = size
        self._tokens = tokens
        self._lengths = lengths
        self.note = note

    @property
    def mean_tokens(self) -> float:
        """Mean prompt + output tokens per request."""
        return self._tokens / self.size

    @property
    def mean_squared_tokens(self) -> float:
        """Mean of the squared prompt + output tokens per request."""
        return sum(total * total for total in self._totals()) / self.size

    @property
    def max_total_tokens(self) -> int:
        """Largest prompt + output of one member."""
        return max(self._totals())

    @property
    def max_prompt_tokens(self) -> int:
        """Largest prompt of one member."""
        return max(self._numbers()[::2])

    @property
    def max_output_tokens(self) -> int:
        """Largest output of one member."""
        return max(self._numbers()[1::2])

    def _numbers(self) -> Sequence[int]:
        lengths = self._lengths
        return lengths if isinstance(lengths, tuple) else memoryview(lengths).cast("i")

    def _totals(self) -> list[int]:
        numbers = self._numbers()
        return [p + o for p, o in zip(numbers[::2], numbers[1::2], strict=True)]


class BatchPolicy(Protocol):
    """Which requests a free GPU serves next.

    It is asked whenever a GPU is free and something waits: when a batch has finished, and at every
    arrival that finds a GPU idle.
    """

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan | None:
        """The next batch, or None to wait for the next arrival.

        The engine cuts a plan to the longest beginning that fits the KV memory by true lengths,
        which no policy knows; the rest goes on waiting.
        """
        ...

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Learn from a finished batch, before its GPU asks for the next."""
        ...
