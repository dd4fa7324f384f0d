"""Closed loops: so many users, each of whom sends a request, waits for the answer and thinks.

That is what benchmark tools do (`vllm bench serve --max-concurrency 16` is a `ClosedLoop` of 16
without pauses): the arrivals follow from the answers, so a slower server is asked less often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llmsched._util.limits import LONGEST_THINK_S, MOST_USERS, THINK_TIMES
from llmsched._util.options import check_options, option
from llmsched.workload.sessions import Turns
from llmsched.workload.trace import Trace


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

    concurrency: int = option(
        1,
        "Users.",
        least=1,
        most=MOST_USERS,
        hint="leave it out to send requests when the workload says",
    )
    think_time_s: float = option(0.0, "Mean pause.", least=0, most=LONGEST_THINK_S)
    think_time: Literal["exponential", "constant"] = option(
        "exponential", "Law of the pause.", choices=THINK_TIMES
    )

    def __post_init__(self) -> None:
        check_options(self)

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
        turns = Turns(after=after, think_s=think_s, users=int(self.concurrency))
        return replace(trace, arrival_s=np.zeros(n), turns=turns)
