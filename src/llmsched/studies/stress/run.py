"""Run the steps of a stress plan into a folder, and read back what the folder has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

from llmsched._util.files import whole_file
from llmsched._util.text import cell
from llmsched.simulation.sweep.store import owned
from llmsched.simulation.sweep.sweep import TIMING_COLUMNS, RunRecord, sweep
from llmsched.simulation.workers import Backend
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.step import PlannedRun, Step, StepResult
from llmsched.studies.stress.steps import STEPS, choose_gpus
from llmsched.studies.stress.tables import per_bin_table

if TYPE_CHECKING:
    import pandas as pd

LIST_COLUMNS = (
    *("per_bin", "latency_quantiles_s", "batch_size_counts", "notes", "bin_edges"),
    *("binning_edges", "workload_window_s"),
)


class SweepOptions(TypedDict, total=False):
    """How the runs are computed; none of it changes a number. As in `sweep`."""

    backend: Backend
    jobs: int | None
    address: str | None
    retry_failed: bool
    on_done: Callable[[RunRecord], None] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StressResult:
    """The steps that a folder holds, in order, and what they were made with."""

    plan: Plan
    steps: tuple[StepResult, ...]
    command: str  # the line that made the last of them
    versions: Mapping[str, str]  # of llmsched, Python and the libraries that the numbers depend on


def run_steps(
    plan: Plan,
    steps: Sequence[str],
    out: Path,
    *,
    command: str = "",
    **options: Unpack[SweepOptions],
) -> StressResult:
    """Do the runs of these steps that the folder does not have, and write their tables.

    Parameters
    ----------
    plan : Plan
        Volumes beyond the rows of a trace file are replaced by all its rows, with a note.
    steps : sequence of str
        Of "step1", "step2" and "step3"; step 2b comes with step 2.
    out : Path
        Folder of the runs (see `sweep`) and of the tables.
    command : str
        The line that asks for it, kept with the tables.
    **options
        Of `sweep`: `backend`, `jobs`, `address`, `retry_failed`, `on_done`.

    Returns
    -------
    StressResult
        These steps, and those that the folder has from earlier calls with the same workload and
        settings.

    Raises
    ------
    ValueError
        If the plan names something unknown, or step 3 has no GPU count: neither
        `best_gpu_count` nor step 2, in this call or in the folder.
    """
    out = Path(out)
    for scheduler in plan.schedulers:  # what is wrong ends here, not in every run
        replace(plan.base, scheduler=scheduler).check()
    plan, notes = available(plan)
    before: dict[str, pd.DataFrame] = {}
    if "step3" in steps and "step2" not in steps and plan.best_gpu_count is None:
        found = _step2_before(plan, out)
        choose_gpus(plan, found)  # or fail before the first run
        before = {} if found is None else {"step2": found}
    with owned(out, ".plan.lock"):  # nobody else's tables come between
        for step in STEPS:
            if step.name.removesuffix("b") not in steps or not (planned := step.runs(plan, before)):
                continue
            table = _sweep_step(planned, out, options)
            said = [*notes, *step.notes(plan, before)]
            _write_runs(step, table, out, {"notes": said, "settings_key": step.settings_key(plan)})
            before[step.name] = table
        return read_steps(plan, out, command=command)


def available(plan: Plan) -> tuple[Plan, list[str]]:
    """The plan with volumes that its workload has, and a sentence for what was left out."""
    workload = plan.workload
    if workload.synthetic and workload.window_s is None:
        return plan, []
    n_rows = len(workload.load(plan.base.seed))
    absent = [volume for volume in plan.volumes if volume > n_rows]
    if not absent:
        return plan, []
    kept = [volume for volume in plan.volumes if volume < n_rows]
    note = (
        f"{Path(workload.source).name} has {n_rows} requests in all: volume"
        f"{'s' if len(absent) > 1 else ''} {', '.join(map(str, absent))} left out, and all of it "
        "is run instead"
    )
    return replace(plan, volumes=(*kept, n_rows)), [note]


def _sweep_step(planned: Sequence[PlannedRun], out: Path, options: SweepOptions) -> pd.DataFrame:
    """The runs of a step in its order, with what was asked of each."""
    scenarios = [run.scenario for run in planned]
    runs = sweep(scenarios, out, **options).reset_index(drop=True)
    assert len(runs) == len(planned), "a step must ask for each run once"
    of_scheduler = {str(one.scheduler): one for one in scenarios}
    binned = {name: one.policy().binned for name, one in of_scheduler.items()}
    random = {name: one.random for name, one in of_scheduler.items()}
    return runs.assign(
        requests_asked=runs["workload_requests"],
        n_bins=np.where(runs["scheduler"].map(binned), runs["binning_n_bins"], 1),
        target_load=[run.target_load for run in planned],
        random=runs["scheduler"].map(random),
    )


def _step2_before(plan: Plan, out: Path) -> pd.DataFrame | None:
    """Step 2 as the folder has it, if it was run with this plan's requests and settings."""
    (step2,) = (step for step in STEPS if step.name == "step2")
    runs = read_runs(step2, plan, out)
    if runs is None or set(runs["workload_requests"]) != {plan.volumes[-1]}:
        return None
    return runs if set(plan.seeds_of()) == set(runs["seed"]) else None


def read_steps(plan: Plan, out: Path, *, command: str = "") -> StressResult:
    """The steps that a folder has with this plan's workload and settings; writes their tables."""
    steps: list[StepResult] = []
    for step in STEPS:
        runs = read_runs(step, plan, out)
        if runs is None:
            continue
        found = StepResult.of(step, runs, plan)
        _write_csv(found.summary, out / f"{step.name}_summary.csv")
        _write_csv(per_bin_table(found.runs), out / f"{step.name}_per_bin.csv")
        _write_csv(found.differences, out / f"{step.name}_differences.csv")
        steps.append(found)
    return StressResult(plan=plan, steps=tuple(steps), command=command, versions=_versions())


def read_runs(step: Step, plan: Plan, out: Path) -> pd.DataFrame | None:
    """The runs of a step in the folder; None where there are none of this plan's settings."""
    import pandas as pd

    path = out / f"{step.name}.parquet"
    if not path.is_file():
        return None
    try:
        runs = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        message = f"{path}: must be the runs of a step; remove it and run {step.name} again"
        raise ValueError(message) from error
    if runs.attrs.get("settings_key") == step.settings_key(plan):
        return runs
    warnings.warn(
        f"{path} has another workload or other settings and is left out; use a folder for each",
        stacklevel=3,
    )
    return None


def _versions() -> dict[str, str]:
    """Of Python, and of the packages that numbers or figures depend on."""
    import platform
    from importlib.metadata import version

    names = ("llmsched", "numpy", "scipy", "simpy", "pandas", "pyarrow", "plotnine")
    return {"Python": platform.python_version(), **{name: version(name) for name in names}}


def _write_runs(
    step: Step, timed: pd.DataFrame, out: Path, said: Mapping[str, str | list[str]]
) -> None:
    """Write the runs of a step, with what was said of them."""
    _say_replaced(out / f"{step.name}.parquet", set(timed["key"]))
    runs = timed.drop(columns=list(TIMING_COLUMNS))
    runs.attrs.update(said)
    with whole_file(out / f"{step.name}.parquet") as partial:
        runs.to_parquet(partial, engine="pyarrow", index=False)
    flat = runs.drop(columns=[column for column in LIST_COLUMNS if column in runs])
    _write_csv(flat, out / f"{step.name}.csv")


def _say_replaced(path: Path, keys: set[str]) -> None:
    """Warn if a table that is about to be replaced has runs that the new one has not."""
    import pandas as pd

    if not path.is_file():
        return
    try:
        before = set(pd.read_parquet(path, engine="pyarrow", columns=["key"])["key"])
    except (OSError, ValueError, KeyError):  # damaged: it is about to be made again
        return
    if lost := len(before - keys):
        warnings.warn(
            f"{path} had {lost} runs of other settings, which are in its tables and the report no "
            "more; they stay in runs/, and the plan that asked for them brings them back; use a "
            "folder for each plan",
            stacklevel=3,
        )


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    texts = table.select_dtypes(["object", "string", "category"])
    safe = table.assign(**{str(name): texts[name].map(cell) for name in texts})
    with whole_file(path) as partial:
        safe.to_csv(partial, index=False, lineterminator="\n")
