"""Where a yes turns into a no: the next value to test, from the tests so far, and nothing else.

Two axes: arrival rates, which get harder upwards, and GPU counts, which get harder downwards.
The answer is always the hardest tested value such that it *and every easier tested value* pass.
Passing need not be monotone (bursts, batching), so the rule is about what was tested; a harder
value that passes as well is found by `hardest_passing`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

Passes = Mapping[float, bool]  # tested value -> whether it stays within the target

MOST_DOUBLINGS = 10  # of a rate that keeps passing, and halvings of one that keeps failing


def edge(passes: Passes, *, harder_upwards: bool) -> tuple[float | None, float | None]:
    """The hardest value that passes with all easier ones, and the easiest that fails.

    None where there is no such value. Of GPU counts, infinity is the easiest.

    Examples
    --------
    >>> edge({1.0: True, 2.0: True, 4.0: False, 8.0: True}, harder_upwards=True)
    (2.0, 4.0)
    """
    best = None
    for value in sorted(passes, reverse=not harder_upwards):
        if not passes[value]:
            return best, value
        best = value
    return best, None


def hardest_passing(passes: Passes, *, harder_upwards: bool) -> float | None:
    """The hardest tested value that passes, whatever the easier ones do."""
    passing = [value for value, passed in passes.items() if passed]
    if not passing:
        return None
    return max(passing) if harder_upwards else min(passing)


def capacity_of(passes: Passes, *, harder_upwards: bool) -> float:
    """The hardest value that passes with all easier ones: 0 or infinity where there is none.

    A rate is 0 where the easiest one fails and infinite where none fails; a number of GPUs is
    infinite where no number passes.
    """
    best, failing = edge(passes, harder_upwards=harder_upwards)
    if harder_upwards and failing is None:
        return math.inf
    if best is None:
        return 0.0 if harder_upwards else math.inf
    return best


def next_rate(passes: Passes, *, start: float, tolerance: float) -> float | None:
    """The arrival rate to test next: the start, doublings or halvings, then bisection.

    Bisection is by the geometric mean and ends when the failing rate is at most 1 + tolerance
    times the passing one. Doublings end at `start` · 2^10, halvings at `start` / 2^10.

    Parameters
    ----------
    passes : mapping
        Tests so far, by arrival rate [requests/s].
    start : float
        Where to begin, such as the rate of offered load 1 [requests/s].
    """
    if start not in passes:
        return start
    best, failing = edge(passes, harder_upwards=True)
    if failing is None:
        highest = max(passes)
        return 2 * highest if highest < start * 2**MOST_DOUBLINGS else None
    if best is None:
        return failing / 2 if failing > start / 2**MOST_DOUBLINGS else None
    return math.sqrt(best * failing) if failing > best * (1 + tolerance) else None


def next_gpus(passes: Passes, *, start: int, n_requests: int) -> float | None:
    """The number of GPUs to test next: the start, infinitely many, doublings, then bisection.

    Infinitely many GPUs say at once whether the target can be met at all; so many as there are
    requests are no worse.
    """
    if start not in passes:
        return float(start)
    best, failing = edge(passes, harder_upwards=False)
    if failing is None:
        assert best is not None
        return float(best // 2) if best > 1 else None
    if best is None:
        return None if math.inf in passes else math.inf
    if best == math.inf:
        return float(min(2 * failing, n_requests)) if failing < n_requests else None
    return (best + failing) // 2 if best - failing > 1 else None
