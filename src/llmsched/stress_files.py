"""The tables of a stress plan's folder: writing them, and reading the runs of earlier steps.

Files per step: `step1.parquet` (the runs), `step1.csv` (the same without the columns that hold
lists), `step1_summary.csv`, `step1_per_bin.csv` and `step1_differences.csv`. They are the same
bytes however often, and wherever, the runs are done; how long each took is in `runs/` alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmsched._whole_files import whole_file
from llmsched.stress import Plan, asked_run
from llmsched.sweep import TIMING_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

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
