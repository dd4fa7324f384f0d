"""Closed loops: so many users, each of whom sends a request, waits for the answer and thinks.

That is what benchmark tools do (`vllm bench serve --max-concurrency 16` is a `ClosedLoop` of 16
without pauses): the arrivals follow from the answers, so a slower server is asked less often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llmsched.workload.sessions import Turns
from llmsched.workload.trace import Trace

MOST_USERS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """Users who take the requests of a workload one after the other, each after the last answer.

    Parameters
    ----------
    concurrency : int
        Users, so the most requests that are ever in the system; from 1 to 1,000,000.
    think_time_s : float
        Mean pause between an answer and the user's next request, and before the first [s].
    think_time : {"exponential", "constant"}
        Law of the pause.

    Notes
    -----
    Requests are taken in the order of the source. In sessions a user stays with one to its end;
    pauses that the source records count, others are drawn.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    concurrency: int
    think_time_s: float = 0.0
    think_time: Literal["exponential", "constant"] = "exponential"

    def __post_init__(self) -> None:
        whole = isinstance(self.concurrency, int) and not isinstance(self.concurrency, bool)
        if not (whole and 1 <= self.concurrency <= MOST_USERS):
            raise ValueError(
                f"concurrency must be a whole number from 1 to {MOST_USERS}, got "
                f"{self.concurrency}; leave it out to send requests when the workload says"
            )
        if not 0 <= self.think_time_s <= 1e6:
            raise ValueError(f"think time must be from 0 to 1e6 s, got {self.think_time_s}")
        if self.think_time not in ("exponential", "constant"):
            raise ValueError(
                f"think time must be 'exponential' or 'constant', got {self.think_time!r}"
            )

    @property
    def random(self) -> bool:
        """Whether another seed gives other pauses."""
        return self.think_time_s > 0 and self.think_time == "exponential"

    def over(self, trace: Trace, rng: np.random.Generator) -> Trace:
        """The requests of a trace, sent by these users.

        Parameters
        ----------
        trace : Trace
            Its arrivals do not count; its sessions do.
        rng : numpy.random.Generator
            Of the pauses: one for each request, whichever user sends it, so that policies are
            compared on the same pauses.
        """
        n = len(trace)
        think_s = np.full(n, self.think_time_s)
        if self.random:
            think_s *= rng.standard_exponential(n)
        after = np.full(n, -1, np.int32)
        if trace.turns is not None:
            after = trace.turns.after
            think_s = np.where(trace.turns.waiting, trace.turns.think_s, think_s)
        turns = Turns(after=after, think_s=think_s, users=self.concurrency)
        return replace(trace, arrival_s=np.zeros(n), turns=turns)
