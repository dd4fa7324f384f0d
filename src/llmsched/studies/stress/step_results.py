"""What a step of the stress plan gives: figures, tables and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

    from llmsched.studies.stress.plan import Plan


class StepFigure(NamedTuple):
    """A figure of a step: what it shows and of what its bars are, and how to draw it."""

    caption: str
    draw: Callable[[], ggplot]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepResult:
    """What one step ran and what came out of it.

    `runs` has the columns of `load_results` but how long each took, and `requests_asked`,
    `n_bins`, `target_load` (NaN but in step 2b) and `random` (whether other seeds differ).
    `summary` is tidy, a row per group of replications and metric: `scheduler`, `n_gpus`,
    `requests`, `n_bins`, `target_load`, `metric`, `mean`, `low`, `high`, `n` (replications done),
    `offered_load`, `load_label`, `n_label` (how many have it). `differences` are paired,
    replication by replication: `what`, `against`, `metric`, `mean`, `low`, `high`, `verdict`.
    """

    name: str  # step1, step2, step2b or step3
    title: str
    runs: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame
    statements: tuple[str, ...]  # plain sentences with the numbers
    figures: Mapping[str, StepFigure]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StressResult:
    """The steps that a folder holds, in order, and what they were made with."""

    plan: Plan
    steps: tuple[StepResult, ...]
    command: str  # the line that made the last of them
    versions: Mapping[str, str]  # of llmsched, Python and the libraries that the numbers depend on
