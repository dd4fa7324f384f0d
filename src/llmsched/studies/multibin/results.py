"""What a reproduced figure says: its table, and each published value against ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from llmsched.metrics.intervals import Interval
from llmsched.studies.multibin.runs import Results, Study

if TYPE_CHECKING:
    import pandas as pd

Source = Literal["published", "read off", "theory"]

MOST_STANDARD_ERRORS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One value of the paper, or of its theory, against ours.

    Parameters
    ----------
    what : str
        The quantity and its unit.
    expected : float
    source : {"published", "read off", "theory"}
        Whether `expected` is printed in the paper, read off a plot, or computed from its theory.
    ours : Interval
        Simulated, with its interval; or computed, with none (`computed`).
    tolerance : float
        Largest relative error that still reproduces the value.
    failing : str
        The verdict beyond the tolerance, with the reason.
    in_standard_errors : bool
        Also ask that the error is at most 4 standard errors.
    """

    what: str
    expected: float
    source: Source
    ours: Interval
    tolerance: float
    failing: str = "not reproduced"
    in_standard_errors: bool = False

    @property
    def error(self) -> float:
        """Relative error of ours."""
        return self.ours.mean / self.expected - 1

    @property
    def standard_errors(self) -> float:
        """Distance between ours and the expected value, in standard errors of ours."""
        return abs(self.ours.mean - self.expected) / standard_error(self.ours)

    @property
    def holds(self) -> bool:
        """Whether the value is reproduced."""
        if self.in_standard_errors and not self.standard_errors <= MOST_STANDARD_ERRORS:
            return False
        return abs(self.error) <= self.tolerance

    @property
    def verdict(self) -> str:
        """`reproduced`, or why not."""
        return "reproduced" if self.holds else self.failing


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureResult:
    """One figure (or table) of the paper, redone."""

    number: str
    title: str
    setting: str  # in words: law, sizes; seeds are not repeated here
    table: pd.DataFrame  # tidy: what the figure draws
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    caption: str = ""
    provided: str = ""  # what `reproduced` rests on, where not on printed values alone

    @property
    def verdict(self) -> str:
        """The figure's verdict: the first one that is not `reproduced`, if any."""
        failed = [check.verdict for check in self.checks if not check.holds]
        if failed:
            return failed[0]
        return f"reproduced: {self.provided}" if self.provided else "reproduced"


class Figure(Protocol):
    """One figure or table of the paper: what to run, and what to make of it."""

    @property
    def study(self) -> Study | None:
        """The runs it needs; None where a computation is enough."""
        ...

    def result(self, results: Results | None) -> FigureResult:
        """Its table and checks, from the outcomes of its study."""
        ...


def ends(interval: Interval) -> dict[str, float]:
    """The columns of an interval in a figure's table."""
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def ratio(gain: Interval) -> Interval:
    """1 plus a relative gain."""
    return replace(gain, mean=1 + gain.mean, low=1 + gain.low, high=1 + gain.high)


def standard_error(interval: Interval) -> float:
    """Standard error of the mean behind a Student-t interval."""
    from scipy.special import stdtrit

    return interval.half_width / float(stdtrit(interval.n - 1, (1 + interval.confidence) / 2))


def computed(value: float) -> Interval:
    """A value without noise, in the form of an interval of no replication."""
    return Interval(mean=value, low=math.nan, high=math.nan, n=1)
