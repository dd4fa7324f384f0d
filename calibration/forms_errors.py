"""The errors of forms on grids, and the cells of the tables that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NEAR = ("between", "largest", "shortest")  # what is held out in the tables per configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class FormErrors:
    """One form on one grid: relative errors, modelled/measured − 1."""

    r_squared: float
    errors: FloatArray  # of every cell, in sample
    largest_ratio: float  # modelled/measured of the largest batch of the longest requests
    held_out: dict[str, list[float]] = field(default_factory=dict)  # by where the cells lie
    refused: dict[str, int] = field(default_factory=dict)  # folds that identify no parameters

    def held_out_errors(self, places: Sequence[str]) -> FloatArray:
        """Sizes of the errors held out at these places."""
        return np.abs([error for place in places for error in self.held_out.get(place, [])])

    def held_out_median(self, places: Sequence[str]) -> float:
        """Their median."""
        return float(np.median(self.held_out_errors(places)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration; a form is None where the grid cannot identify it."""

    name: str
    gpu: str
    cells: int
    kept: bool
    growth: float  # T(64)/T(16)
    forms: dict[str, FormErrors | None]
    step: FormErrors | None


class StepErrors(NamedTuple):
    """Relative errors of prefills, decode steps and whole batches."""

    prefill: FloatArray
    decode: FloatArray
    whole: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """The step form where prefill and decode were timed apart, and forms in L on whole batches."""

    name: str
    cells: int
    in_sample: StepErrors | None
    held_out: StepErrors | None
    lone_prefill: dict[int, float]  # error of a prompt of so many tokens at b = 1
    whole: dict[str, FormErrors | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineErrors:
    """A law of the decode step on one configuration."""

    gpu: str
    errors: FloatArray
    held_out: FloatArray


def worst(one: FormErrors) -> float:
    """The largest error in sample."""
    return float(np.abs(one.errors).max())


def median(values: Sequence[float] | FloatArray) -> float:
    """Their median, as a float."""
    return float(np.median(values))


def held(found: Sequence[FormErrors], place: str) -> float:
    """Median over the configurations of the median error held out there."""
    return median([one.held_out_median([place]) for one in found])


def middle(one: FormErrors) -> float:
    """The median error in sample."""
    return float(np.median(np.abs(one.errors)))


def left_out(found: Sequence[FormErrors]) -> str:
    """Median / worst error held out, each the median over the configurations."""
    pairs = [(one.held_out_median(NEAR), float(one.held_out_errors(NEAR).max())) for one in found]
    return pair(np.median(pairs, axis=0))


def both(errors: FloatArray) -> str:
    """Median / worst of these errors."""
    return pair((float(np.median(np.abs(errors))), float(np.abs(errors).max())))


def pair(values: Sequence[float] | FloatArray) -> str:
    """Two shares, as a table shows them."""
    first, second = values
    return f"{percent(first)} / {percent(second)}"


def percent(share: float) -> str:
    """Two digits at least; one before and one after the point below 10 %."""
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table, its first row the head."""
    head, *body = table
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)])


def forms_of(rows: Sequence[Row], form: str) -> list[FormErrors]:
    """What one form made of the configurations that identify it."""
    return [found for one in rows if (found := one.forms[form]) is not None]
