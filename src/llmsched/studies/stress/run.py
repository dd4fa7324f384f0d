"""Run the steps of a stress plan into a folder, and read back what the folder has."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmsched.simulation.sweep.sweep import RunRecord, sweep
from llmsched.simulation.workers import Backend
from llmsched.studies.stress.findings import gpus
from llmsched.studies.stress.plan import SCALED, Asked, Plan, step1, step2, step2b, step3
from llmsched.studies.stress.step_results import StepResult, StressResult

if TYPE_CHECKING:
    import pandas as pd
from llmsched._util.files import whole_file
from llmsched.simulation.sweep.sweep import TIMING_COLUMNS
from llmsched.studies.stress.plan import asked_run

STEPS = ("step1", "step2", "step3")  # what can be asked for; step2b belongs to step2
ALL_STEPS = ("step1", "step2", "step2b", "step3")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """How the runs are computed; none of it changes a number. As `sweep`."""

    backend: Backend = "local"
    jobs: int | None = None
    address: str | None = None
    retry_failed: bool = False
    on_done: Callable[[RunRecord], None] | None = None


def run_steps(
    plan: Plan,
    steps: Sequence[str],
    out: Path,
    *,
    command: str,
    options: SweepOptions | None = None,
) -> StressResult:
    """Do the runs of these steps that the folder does not have, and write their tables.

    Parameters
    ----------
    plan : Plan
        Volumes beyond the rows of a trace file are replaced by all its rows, with a note.
    steps : sequence of str
        Of `STEPS`; step 2b comes with step 2.
    out : Path
        Folder of the runs (see `sweep`) and of the tables.
    command : str
        The line that asks for it, kept with the tables.

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
    options = options or SweepOptions()
    out = Path(out)
    plan.base.check()  # what is wrong with it ends here, not in every run
    plan, notes = available(plan)
    choice = None
    if "step3" in steps and "step2" not in steps:
        choice = choose_gpus(plan, _step2_before(plan, out))
    first = {name: make(plan) for name, make in _INDEPENDENT.items() if name in steps}
    tables = _sweep_steps(first, out, options)
    write_runs(tables, out, command, notes)
    second: dict[str, list[Asked]] = {}
    if "step2" in tables and (work := one_gpu_loads(tables["step2"])):
        second["step2b"] = step2b(plan, work)
    if "step3" in steps:
        choice = choice or choose_gpus(plan, tables["step2"])
        second["step3"] = step3(plan, choice[0])
    tables = _sweep_steps(second, out, options)
    write_runs(tables, out, command, notes, [] if choice is None else [choice[1]])
    return read_steps(plan, out, command=command)


_INDEPENDENT: Mapping[str, Callable[[Plan], list[Asked]]] = {"step1": step1, "step2": step2}


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
    plural = "s" if len(absent) > 1 else ""
    note = (
        f"{Path(workload.source).name} has {n_rows} requests in all: "
        f"volume{plural} {', '.join(map(str, absent))} left out, and all of it is run instead"
    )
    return replace(plan, volumes=(*kept, n_rows)), [note]


def _sweep_steps(
    asked: Mapping[str, list[Asked]], out: Path, options: SweepOptions
) -> dict[str, pd.DataFrame]:
    """One sweep over several steps: the runs of each."""
    if not asked:
        return {}
    results = sweep(
        [one.config for runs in asked.values() for one in runs],
        out,
        backend=options.backend,
        jobs=options.jobs,
        address=options.address,
        retry_failed=options.retry_failed,
        on_done=options.on_done,
    ).set_index("key", drop=False)
    return {name: _with_asked(results, runs) for name, runs in asked.items()}


def _with_asked(results: pd.DataFrame, asked: Sequence[Asked]) -> pd.DataFrame:
    """The rows of a step in its order, with what was asked of each."""
    keys = [one.config.key() for one in asked]
    assert len(set(keys)) == len(keys), "a step must ask for each run once"
    runs = results.loc[keys].reset_index(drop=True)
    binned = [one.config.policy().binned for one in asked]
    return runs.assign(
        requests_asked=runs["workload_requests"],
        n_bins=np.where(binned, runs["binning_n_bins"], 1),
        target_load=[one.target_load for one in asked],
        random=[one.random for one in asked],
    )


def one_gpu_loads(runs: pd.DataFrame) -> dict[int, float]:
    """By seed, ρ on one GPU, from the runs of step 2; empty where the rate sets no load.

    Warns
    -----
    UserWarning
        If there is none, and so no step 2b.
    """
    done = runs[runs["status"] == "done"]
    load = (done["offered_load"].astype(float) * done["n_gpus"]).groupby(done["seed"]).first()
    loads = {int(seed): rho for seed, rho in zip(load.index, load.tolist(), strict=True)}
    finite = {seed: rho for seed, rho in loads.items() if math.isfinite(rho) and rho > 0}
    if not finite:
        warnings.warn(
            "step 2b is left out: no run of step 2 has a finite load above 0, as where all "
            "requests arrive at one instant or every run failed",
            stacklevel=3,
        )
    return finite


def choose_gpus(plan: Plan, runs: pd.DataFrame | None) -> tuple[int, str]:
    """The GPU count of step 3, and why: asked for, or what step 2 found.

    Raises
    ------
    ValueError
        If there is neither.
    """
    from llmsched.studies.stress.tables import fewest_gpus, summary_table

    if plan.best_gpu_count is not None:
        return plan.best_gpu_count, f"{gpus(plan.best_gpu_count)}: as asked for."
    if runs is None or not (runs["status"] == "done").any():
        raise ValueError(
            "step 3 must have a GPU count, and step 2 is not in the folder with these settings; "
            "run step2 into it first, or give --best-gpu-count"
        )
    target = f"violations within {100 * plan.target_violations:g} %"
    best = fewest_gpus(summary_table(runs), plan.target_violations)
    if best is not None:
        return int(best), f"{gpus(best)}: the fewest of step 2 with {target}."
    most = int(runs["n_gpus"].max())
    return most, f"{gpus(most)}: no count of step 2 has {target}, so the largest."


def _step2_before(plan: Plan, out: Path) -> pd.DataFrame | None:
    """Step 2 as the folder has it, if it was run with this plan's workload and settings."""
    runs = read_runs(plan, out, "step2")
    if runs is None or set(runs["workload_requests"]) != {plan.volumes[-1]}:
        return None
    return runs if set(plan.seeds_of(SCALED)) == set(runs["seed"]) else None


def read_steps(plan: Plan, out: Path, *, command: str) -> StressResult:
    """The steps that a folder has with this plan's workload and settings; writes their tables."""
    from llmsched.studies.stress.results import step_result
    from llmsched.studies.stress.tables import per_bin_table

    steps: list[StepResult] = []
    for name in ALL_STEPS:
        runs = read_runs(plan, out, name)
        if runs is None:
            continue
        step = step_result(name, runs, plan)
        write_csv(step.summary, out / f"{name}_summary.csv")
        write_csv(per_bin_table(step.runs), out / f"{name}_per_bin.csv")
        write_csv(step.differences, out / f"{name}_differences.csv")
        steps.append(step)
    return StressResult(plan=plan, steps=tuple(steps), command=command, versions=_versions())


def _versions() -> dict[str, str]:
    """Of Python, and of the packages that numbers or figures depend on."""
    import platform
    from importlib.metadata import version

    names = ("llmsched", "numpy", "scipy", "simpy", "pandas", "pyarrow", "plotnine")
    return {"Python": platform.python_version(), **{name: version(name) for name in names}}


LIST_COLUMNS = (
    *("per_bin", "latency_quantiles_s", "batch_size_counts", "notes", "bin_edges"),
    *("binning_edges", "workload_window_s"),
)


def write_runs(
    tables: Mapping[str, pd.DataFrame],
    out: Path,
    command: str,
    notes: Sequence[str],
    reasons: Sequence[str] = (),
) -> None:
    """Write the runs of each step, with what was said of them; the reasons are those of step 3."""
    for name, timed in tables.items():
        _say_replaced(out / f"{name}.parquet", set(timed["key"]))
        runs = timed.drop(columns=list(TIMING_COLUMNS))
        said = [*notes, *reasons] if name == "step3" else [*notes]
        runs.attrs = {"command": command, "notes": said}
        with whole_file(out / f"{name}.parquet") as partial:
            runs.to_parquet(partial, engine="pyarrow", index=False)
        flat = runs.drop(columns=[column for column in LIST_COLUMNS if column in runs])
        write_csv(flat, out / f"{name}.csv")


def _say_replaced(path: Path, keys: set[str]) -> None:
    """Warn if a table that is about to be replaced has runs that the new one has not."""
    import pandas as pd

    if not path.is_file():
        return
    before = set(pd.read_parquet(path, engine="pyarrow", columns=["key"])["key"])
    if lost := len(before - keys):
        warnings.warn(
            f"{path} had {lost} runs of other settings, which are in its tables and the report no "
            "more; they stay in runs/, and the plan that asked for them brings them back; use a "
            "folder for each plan",
            stacklevel=3,
        )


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    with whole_file(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")


def read_runs(plan: Plan, out: Path, name: str) -> pd.DataFrame | None:
    """The runs of a step in the folder; None where there are none of this plan's settings."""
    import pandas as pd

    path = out / f"{name}.parquet"
    if not path.is_file():
        return None
    runs = pd.read_parquet(path, engine="pyarrow")
    if _of_plan(plan, runs, name):
        return runs
    warnings.warn(
        f"{path} has another workload or other settings and is left out; use a folder for each",
        stacklevel=3,
    )
    return None


def _of_plan(plan: Plan, runs: pd.DataFrame, name: str) -> bool:
    """Whether each run is one of this plan's workload and settings: its key says so."""
    columns = ["key", "scheduler", "n_gpus", "seed", "workload_requests", "workload_rps_scale"]
    for key, scheduler, n_gpus, seed, requests, rps_scale, n_bins in zip(
        *(runs[column] for column in [*columns, "binning_n_bins"]), strict=True
    ):
        run = asked_run(
            plan,
            scheduler,
            n_gpus,
            seed,
            requests=requests,
            rps_scale=rps_scale if name == "step2b" else None,
            n_bins=n_bins,
        )
        if run.config.key() != key:
            return False
    return True
