"""Many runs: scenarios in, one table out, over cores or a Ray cluster, resumable.

Each finished run is kept at once under the key of its content, so sweeps into one folder add up, a
killed one goes on where it was, and a second start of the same one does nothing. The numbers do not
depend on where, or on how many cores, a run is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from llmsched.simulation.scenario import Parts, Scenario, as_scenario
from llmsched.simulation.sweep.runner import RunRecord, keyed, runner, say_what_was_kept
from llmsched.simulation.sweep.store import (
    RunStore,
    frame_of,
    latency_quantiles_frame,
    per_bin_frame,
)
from llmsched.simulation.workers import Backend
from llmsched.workload.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TIMING_COLUMNS",
    "RunConfig",
    "RunRecord",
    "latency_quantiles_frame",
    "load_results",
    "pending",
    "per_bin_frame",
    "sweep",
]

TIMING_COLUMNS = ("wall_s",)  # what differs between two computations of the same run


def RunConfig(*, workload: Workload, scheduler: str, **parts: Unpack[Parts]) -> Scenario:  # noqa: N802
    """A `Scenario`, as sweeps once called it."""
    return as_scenario(workload, scheduler, **parts)


def sweep(
    scenarios: Sequence[Scenario],
    out: Path,
    *,
    backend: Backend = "local",
    jobs: int | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    on_done: Callable[[RunRecord], None] | None = None,
) -> pd.DataFrame:
    """Do every run that `out` does not have yet.

    Parameters
    ----------
    scenarios : sequence of Scenario
        The runs; one that comes twice is done once.
    out : Path
        Folder of the results, made if need be: `runs.jsonl`, and `cache/`, which holds what large
        runs share and may be deleted.
    backend : {"local", "ray"}
        The cores of this machine, or a Ray cluster.
    jobs : int, optional
        Runs at a time, and CPUs of a local Ray; by default one per core. Each needs the memory
        of its own run.
    address : str, optional
        Of a running Ray cluster; by default a local one is started and stopped. `out` and the
        trace files must have the same paths on its machines.
    retry_failed : bool
        Do failed runs again; by default they stay failed.
    on_done : callable, optional
        Sees every run of this call as soon as it is kept.

    Returns
    -------
    DataFrame
        The rows of `load_results` that belong to the scenarios, in their order.

    Raises
    ------
    ValueError
        If a scenario names something unknown, or an argument is out of range.
    OSError
        If the machine fails, as when its disk is full, or another sweep works in the folder.

    Warns
    -----
    UserWarning
        If a kept run is damaged and done again, or results of another version are kept.
    """
    by_key = keyed(scenarios)
    with runner(
        Path(out).resolve(),
        backend=backend,
        jobs=jobs,
        address=address,
        most=len(by_key),
        retry_failed=retry_failed,
        on_done=on_done,
    ) as runs:
        assert runs.store is not None
        say_what_was_kept(runs.store, list(by_key))
        return frame_of(runs.rows(list(by_key.values()), by_key))


def pending(
    scenarios: Sequence[Scenario], out: Path, *, retry_failed: bool = False
) -> list[Scenario]:
    """The runs that `sweep` would do now, each once."""
    rows = RunStore.read(Path(out)).rows
    return [
        scenario
        for key, scenario in keyed(scenarios).items()
        if key not in rows or (retry_failed and rows[key]["status"] == "failed")
    ]


def load_results(out: Path) -> pd.DataFrame:
    """Every run that a folder has, one row each, sorted by key.

    Columns: `key`; the scenario (`scheduler`, `n_gpus`, `workload_source`, `slo_latency_s`,
    `binning_n_bins`, ...); the figures of merit of `Run.to_dict`; `per_bin` (a list, see
    `per_bin_frame`); `latency_quantiles_s` (201 values, every half per cent);
    `batch_size_counts` (batches by size, from 0); `notes` (the run's warnings); `trace_sha256`
    (of the requests replayed); `version`; `wall_s` [s]; `status` (done or failed); `error`.
    A failed run has its scenario and its error, and no figures.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.

    Warns
    -----
    UserWarning
        If a kept run is damaged: it is left out until a sweep does it again.
    """
    if not Path(out).is_dir():
        raise FileNotFoundError(f"{out}: must be the folder of a sweep; there is none")
    store = RunStore.read(Path(out))
    if store.damaged:
        warnings.warn(
            f"{store.damaged} kept runs are damaged and left out; a sweep does them again",
            stacklevel=2,
        )
    return frame_of([store.rows[key] for key in sorted(store.rows)])
