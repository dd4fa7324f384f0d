"""A step of the stress plan from its runs alone: tables, sentences, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llmsched.studies.stress.findings import STATEMENTS, Findings, common_statements
from llmsched.studies.stress.gallery import step_figures
from llmsched.studies.stress.noise import COMPARED
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.step_results import StepResult
from llmsched.studies.stress.tables import differences, groups, summary_table, with_scaling

if TYPE_CHECKING:
    import pandas as pd


Group = dict[str, Any]
TITLES = {
    "step1": "Step 1: request scaling, all schedulers on equal GPUs",
    "step2": "Step 2: GPU scaling at a fixed arrival rate",
    "step2b": "Step 2b: GPU scaling at held loads",
    "step3": "Step 3: number of bins",
}
# what is compared with what at equal GPUs: the first with the second
RIVALS = (
    ("dynamic_no_bins", "static_fifo"),
    ("multi_bin_dynamic", "static_fifo"),
    ("multi_bin_adaptive", "static_fifo"),
    ("multi_bin_dynamic", "dynamic_no_bins"),
    ("multi_bin_adaptive", "multi_bin_dynamic"),
)
DIFFERENCE_METRICS = (*COMPARED, "latency_mean_s", "latency_p99_s")


def step_result(name: str, runs: pd.DataFrame, plan: Plan) -> StepResult:
    """Everything that follows from the runs of a step; the plan gives the target alone."""
    if name == "step2":
        runs = with_scaling(runs)
    summary = summary_table(runs)
    found = [group for group, _ in groups(runs)]
    table = differences(runs, PAIRS[name](found), names=AGAINST[name], metrics=DIFFERENCE_METRICS)
    findings = Findings(
        runs=runs, summary=summary, differences=table, target=plan.target_violations
    )
    statements = (
        *runs.attrs.get("notes", ()),
        *STATEMENTS[name](findings),
        *common_statements(findings),
    )
    return StepResult(
        name=name,
        title=TITLES[name],
        runs=runs,
        summary=summary,
        differences=table,
        statements=statements,
        figures=step_figures(name, runs, summary, plan),
    )


def _rivals(found: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Pairs of schedulers that share volume and GPUs."""
    by_place: dict[tuple[float, float], dict[str, Group]] = {}
    for group in found:
        place = by_place.setdefault((group["requests"], group["n_gpus"]), {})
        place[group["scheduler"]] = group
    return [
        (place[first], place[second])
        for place in by_place.values()
        for first, second in RIVALS
        if first in place and second in place
    ]


def _one_after_another(found: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each GPU count against the next smaller one."""
    return [(after, before) for before, after in pairwise(found)]


def _at_each_load(found: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each GPU count against the next smaller one, at the same held load."""
    pairs = _one_after_another(found)
    return [pair for pair in pairs if pair[0]["target_load"] == pair[1]["target_load"]]


def _and_the_first(found: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each number of bins against the next smaller one, and against the smallest."""
    return [*_one_after_another(found), *((group, found[0]) for group in found[2:])]


PAIRS: Mapping[str, Callable[[Sequence[Group]], list[tuple[Group, Group]]]] = {
    "step1": _rivals,
    "step2": _one_after_another,
    "step2b": _at_each_load,
    "step3": _and_the_first,
}
AGAINST = {
    "step1": ("scheduler",),
    "step2": ("n_gpus",),
    "step2b": ("n_gpus",),
    "step3": ("n_bins",),
}
