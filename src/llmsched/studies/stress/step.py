"""One step of the stress plan and its result: what every step has, whichever runs it is of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from llmsched._util.text import count_text
from llmsched.studies.stress import figures
from llmsched.studies.stress.figures import Figure
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.tables import (
    VIOLATIONS,
    Group,
    batch_size_table,
    cautions,
    differences,
    groups,
    latency_table,
    per_bin_table,
    summary_table,
    with_scaling,
)

if TYPE_CHECKING:
    import pandas as pd

    from llmsched.simulation.scenario import Scenario

Pair = tuple[Group, Group]  # the first is set against the second


class PlannedRun(NamedTuple):
    """One run of a step, and the load that it is to hold (NaN but in step 2b)."""

    scenario: Scenario
    target_load: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepResult:
    """What one step ran and what came out of it.

    `runs` has the columns of `load_results` but how long each took, and `requests_asked`,
    `n_bins`, `target_load` (NaN but in step 2b) and `random` (whether other seeds differ).
    `summary` is as from `summary_table`, `differences` as from `differences`.
    """

    step: Step
    plan: Plan
    runs: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame

    @classmethod
    def of(cls, step: Step, runs: pd.DataFrame, plan: Plan) -> StepResult:
        """Everything that follows from the runs of a step; the plan gives target and SLA alone."""
        if step.scales:
            runs = with_scaling(runs)
        pairs = step.pairs([group for group, _ in groups(runs)])
        return cls(
            step=step,
            plan=plan,
            runs=runs,
            summary=summary_table(runs),
            differences=differences(runs, pairs, against=step.against or step.axis),
        )

    @property
    def done(self) -> pd.DataFrame:
        """The runs that finished."""
        return self.runs[self.runs["status"] == "done"]

    @property
    def n_failed(self) -> int:
        """How many did not."""
        return len(self.runs) - len(self.done)

    @property
    def rates(self) -> pd.DataFrame:
        """The violations of every point, a row each."""
        return self.summary[self.summary["metric"] == VIOLATIONS]

    @property
    def verdict(self) -> tuple[str, ...]:
        """What the step found, in at most two lines."""
        if self.summary.empty:
            return ("No run finished, so there is nothing to say.",)
        return tuple(self.step.verdict(self))

    @property
    def cautions(self) -> list[str]:
        """What to know before trusting it."""
        return cautions(self.runs)

    @property
    def figures(self) -> dict[str, Figure]:
        """Its figures by name; none where not a single request was served."""
        if not (self.done["completed"] > 0).any():
            return {}
        drawn = self.step.figures(self)
        return {f"{self.step.name}_{name}": figure for name, figure in drawn.items()}


class Step(ABC):
    """One step of the plan."""

    name: ClassVar[str]
    title: ClassVar[str]
    axis: ClassVar[str]  # of `tables.GROUP`: what its points run along
    curves: ClassVar[str | None] = None  # what its curves differ in
    panels: ClassVar[str | None] = None
    against: ClassVar[str | None] = None  # what the two of a pair differ in, if not the axis
    scales: ClassVar[bool] = False  # whether its rates are set against linear growth
    takes: ClassVar[tuple[str, ...]] = ()  # options that move it and not every step
    sets: ClassVar[dict[str, Any]] = {}  # what its runs do not take from the plan

    @abstractmethod
    def runs(self, plan: Plan, before: Mapping[str, pd.DataFrame]) -> list[PlannedRun]:
        """Its runs; `before` has those of the steps before it, by name.

        Raises
        ------
        ValueError
            If it needs a step that is not there.
        """

    def notes(self, plan: Plan, before: Mapping[str, pd.DataFrame]) -> list[str]:
        """What to say of how its runs were chosen."""
        return []

    def pairs(self, found: Sequence[Group]) -> list[Pair]:
        """What is set against what: each point against the one before it on its curve."""
        return [
            (after, before)
            for before, after in pairwise(found)
            if self.curves is None or after[self.curves] == before[self.curves]
        ]

    @abstractmethod
    def verdict(self, found: StepResult) -> list[str]:
        """What it found, in at most two lines."""

    @abstractmethod
    def figures(self, found: StepResult) -> dict[str, Figure]:
        """Its figures, the main one first."""

    @property
    def short(self) -> str:
        """Its title up to the colon."""
        return self.title.partition(":")[0]

    def settings_key(self, plan: Plan) -> str:
        """A key that all runs of this step share, whatever volume, GPUs, seed or scheduler."""
        return plan.run(1, 0, requests=1, **self.sets).key()

    def _curves(self, found: StepResult, metrics: Sequence[str], **options: Any) -> Figure:
        """Metrics along the axis, a curve for each of what the step compares."""
        draw = partial(
            figures.curves,
            found.summary,
            metrics,
            x=self.axis,
            colour=self.curves,
            panels=self.panels,
            **options,
        )
        return Figure(f"{figures.titles(metrics)}. {figures.about_points(found.runs)}", draw)

    def _shares(self, found: StepResult, runs: pd.DataFrame, *, batches: bool = False) -> Figure:
        """The distribution of latencies, or of batch sizes."""
        colour = self.curves or self.axis
        seeds = count_text(runs["seed"].nunique(), "replication")
        if batches:
            caption = f"Batch sizes, pooled over {seeds}."
            table, title, line = batch_size_table(runs), "Batch size [requests]", None
        else:
            sla_s = found.plan.base.sla_s
            caption = f"Latencies of completed requests, mean of {seeds}; dashed: SLA, {sla_s:g} s."
            table, title, line = latency_table(runs), "Latency [s]", sla_s
        draw = partial(
            figures.distributions, table, title, colour=colour, panels=self.panels, line=line
        )
        return Figure(caption, draw)

    def _bins(self, runs: pd.DataFrame, metrics: Sequence[str], **options: Any) -> Figure:
        """What became of each bin."""
        caption = f"Bin by bin: {figures.titles(metrics)}. {figures.about_points(runs)}"
        return Figure(caption, lambda: figures.bins(per_bin_table(runs), metrics, **options))
