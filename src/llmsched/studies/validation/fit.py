"""One constant fitted to a run's first requests: a cost per step, or a factor on every step.

The loss is the sum of the squared errors of first and last tokens in seconds: one constant cannot
mend TTFT and TPOT both, and seconds say which matters. It is a rough function (one preemption more
or less changes a hundred requests), so it is looked at on a grid, and again between the best
point's neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.latency.steps.base import Scaled
from llmsched.studies.validation.replay import Replay, Times

What = Literal["overhead", "scale", "all"]
FEWEST = 10  # requests
LONGEST_OVERHEAD_S = 0.05
FACTORS = (1 / 3, 3.0)
_GRID, _ROUNDS = 8, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlan:
    """What is fitted, on how many of the first requests; the others judge.

    Raises
    ------
    ValueError
        If the requests are too few.

    Examples
    --------
    >>> FitPlan.parse("scale:100")
    FitPlan(what='scale', first=100)
    """

    what: What
    first: int

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ValueError(f"a fit must have at least 1 request or stage, got {self.first}")

    @staticmethod
    def parse(text: str) -> FitPlan:
        """The plan of `WHAT:N`."""
        what, _, first = text.partition(":")
        if what not in get_args(What) or not (first.isdecimal() and 0 < len(first) < 8):
            raise ValueError(
                f"fit must be {'|'.join(get_args(What))}:N, N being the first requests (or stages) "
                f"to fit on, got {text[:40]!r}"
            )
        return FitPlan(what=what, first=int(first))  # type: ignore[arg-type]  # checked above

    def check(self, n: int) -> None:
        """Fail unless enough requests are there to fit and to judge."""
        if self.first < FEWEST or n - self.first < FEWEST:
            raise ValueError(
                f"a fit must leave {FEWEST} requests or more on either side, got {self.first} to "
                f"fit and {n - self.first} to judge"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What was fitted, on which requests, and what came out."""

    what: What
    requests: tuple[int, int]  # from the first to before the second
    values: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)  # 95 %
    held_out_error: Mapping[str, float] = field(default_factory=dict)  # cross-validated
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "what": self.what,
            "requests": list(self.requests),
            "values": dict(self.values),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "held_out_error": dict(self.held_out_error),
        }

    def describe(self) -> str:
        """In words."""
        if self.what == "overhead":
            return f"{1e3 * self.values['overhead_s']:.3g} ms more a step"
        if self.what == "scale":
            return f"every step × {self.values['factor']:.4g}"
        return f"{len(self.values)} constants of the two-regime form"


def fit_one(replay: Replay, measured: Times, plan: FitPlan) -> tuple[Replay, Fitted]:
    """The replay with its overhead or its factor fitted to the first requests."""
    rows = slice(0, plan.first)

    def loss(value: float) -> float:
        simulated = changed(value).times()
        seconds = [
            simulated[name][rows] - measured[name][rows]
            for name in ("ttft_s", "e2e_s")
            if name in measured
        ]
        return float(np.square(np.concatenate(seconds)).sum())

    if plan.what == "overhead":
        before_s = replay.settings.overhead_s

        def changed(value: float) -> Replay:
            return replay.set(overhead_s=before_s + value)

        best = _least(loss, np.linspace(0, LONGEST_OVERHEAD_S, 3 * _GRID))
        values = {"overhead_s": best}
    else:

        def changed(value: float) -> Replay:
            return replace(replay, step=Scaled(replay.step, value))

        best = _least(loss, np.geomspace(*FACTORS, 2 * _GRID))
        values = {"factor": best}
    notes: tuple[str, ...] = ()
    if best in (0.0, *FACTORS):
        notes = (
            f"the fit ends at its bound, {best:.3g}: one constant does not mend this; look at "
            "--kv-tokens, caching and the step time itself",
        )
    fitted = Fitted(what=plan.what, requests=(0, plan.first), values=values, notes=notes)
    return changed(best), fitted


def _least(loss: Callable[[float], float], grid: FloatArray) -> float:
    """Where the loss is least: on the grid, then on finer ones around the best point."""
    found = {value: loss(value) for value in grid.tolist()}
    for _ in range(_ROUNDS):
        best = int(np.argmin([found[value] for value in grid.tolist()]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        grid = np.unique([grid[best], *np.linspace(low, high, _GRID + 1)])
        found |= {value: loss(value) for value in grid.tolist() if value not in found}
    least: float = min(found, key=lambda value: found[value])
    return least
