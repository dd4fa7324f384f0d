"""Many runs: a list of configurations in, one table out, over cores or a Ray cluster, resumable.

Each finished run is written at once under the key of its content, so sweeps into one folder add
up, a killed one goes on where it was, and a second start of the same one does nothing. The
numbers do not depend on where, or on how many cores, a run is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args

from llmsched.simulation.scenario import Parts, Scenario, as_scenario, source_sha256
from llmsched.simulation.sweep.store import (
    RunStore,
    config_columns,
    frame_of,
    latency_quantiles_frame,
    per_bin_frame,
)
from llmsched.simulation.sweep.workers import Backend, Outcome, Task, run_local, run_ray
from llmsched.workload.workload import DEFAULT_REQUESTS, Workload

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


def RunConfig(*, workload: Workload, scheduler: str, **parts: Unpack[Parts]) -> Scenario:  # noqa: N802
    """A `Scenario`, as sweeps once called it."""
    return as_scenario(workload, scheduler, **parts)


TIMING_COLUMNS = ("wall_s",)  # what differs between two computations of the same run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run that has just finished or failed, and how far the sweep has come with it."""

    key: str
    config: Scenario
    status: str  # done or failed
    error: str | None
    wall_s: float
    row: dict[str, Any]  # the columns of the result table
    n_done: int  # runs of this call so far, this one and failed ones included
    n_total: int  # runs of this call: those that were finished before are not among them
    work_done: float  # share of the requests of this call's runs, for the remaining time


def sweep(
    configs: Sequence[Scenario],
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
    configs : sequence of Scenario
        The runs; one that comes twice is done once.
    out : Path
        Folder of the results, made if need be: `runs/`, `failed/`, and `cache/`, which holds
        what runs share and may be deleted.
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
        Sees every run of this call as soon as its file is written.

    Returns
    -------
    DataFrame
        The rows of `load_results` that belong to `configs`, in their order.

    Raises
    ------
    ValueError
        If a configuration names something unknown, or an argument is out of range.

    Warns
    -----
    UserWarning
        If a run file is damaged and its run done again, or results of another version are kept.
    """
    _check(backend, jobs, address)
    by_key = _by_key(configs)
    out = Path(out).resolve()
    store = RunStore(out)
    store.remove_leftovers()
    todo = _todo(store, by_key, retry_failed=retry_failed)
    tasks = [
        Task(
            key=key,
            config=by_key[key].with_absolute_paths(),
            cache=out / "cache",
            source_sha256=source_sha256(by_key[key].recipe()),
        )
        for key in sorted(todo, key=lambda key: -_work(by_key[key]))  # the longest runs first
    ]
    if tasks:
        outcomes = (
            run_local(tasks, jobs=jobs)
            if backend == "local"
            else run_ray(tasks, jobs=jobs, address=address)
        )
        for record in _kept(store, outcomes, by_key, [task.key for task in tasks]):
            if on_done is not None:
                on_done(record)
    return _frame(store, list(by_key))


def pending(
    configs: Sequence[Scenario], out: Path, *, retry_failed: bool = False
) -> list[Scenario]:
    """The runs that `sweep` would do now, each once."""
    by_key = _by_key(configs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `sweep` says it
        todo = _todo(RunStore(Path(out)), by_key, retry_failed=retry_failed)
    return [by_key[key] for key in todo]


def load_results(out: Path) -> pd.DataFrame:
    """Every run that a folder has, one row each, sorted by key.

    Columns: `key`; the configuration (`scheduler`, `n_gpus`, `workload_source`, `settings_sla_s`,
    `binning_n_bins`, ...); the figures of merit of `Run.to_dict`; `per_bin` (a list, see
    `per_bin_frame`); `latency_quantiles_s` (201 values, every half per cent);
    `batch_size_counts` (batches by size, from 0); `notes` (the run's warnings); `trace_sha256`
    (of the requests replayed); `version`; `wall_s` [s]; `status` (done or failed); `error`.
    A failed run has its configuration and its error, and no figures.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.

    Warns
    -----
    UserWarning
        If a run file is damaged: it is left out until a sweep does its run again.
    """
    if not Path(out).is_dir():
        raise FileNotFoundError(f"{out}: must be the folder of a sweep; there is none")
    store = RunStore(Path(out))
    return _frame(store, store.keys())


def _check(backend: str, jobs: int | None, address: str | None) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}; got {backend!r}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}; leave it out for one per core")
    if address is not None and backend != "ray":
        raise ValueError(f"an address needs backend 'ray', got {backend!r}; leave it out")


def _by_key(configs: Sequence[Scenario]) -> dict[str, Scenario]:
    for config in configs:
        config.check()
    by_key: dict[str, Scenario] = {}
    for config in configs:
        by_key.setdefault(config.key(), config)
    return by_key


def _todo(store: RunStore, by_key: dict[str, Scenario], *, retry_failed: bool) -> list[str]:
    """Keys of the runs to do, in the order given."""
    todo, damaged, versions = [], [], set()
    for key in by_key:
        stored = store.read(key)
        if stored is None:
            todo.append(key)
        elif stored.table is None:
            damaged.append(key)
            todo.append(key)
        elif stored.status == "failed" and retry_failed:
            todo.append(key)
        else:
            versions.update(stored.table.column("version").to_pylist())
    if damaged:
        warnings.warn(
            f"{len(damaged)} run files are damaged and their runs are done again: "
            + ", ".join(key[:12] for key in damaged),
            stacklevel=3,
        )
    if versions - {_version()}:
        warnings.warn(
            f"some runs kept are of version {', '.join(sorted(versions - {_version()}))}, this is "
            f"{_version()}; use another folder, or delete runs/, to do them again",
            stacklevel=3,
        )
    return todo


def _work(config: Scenario) -> float:
    """About how long a run takes, in requests: its own, or a guess from the file's size."""
    workload = config.recipe()
    if workload.requests is not None:
        return workload.requests
    if workload.synthetic:
        return DEFAULT_REQUESTS
    return Path(workload.source).stat().st_size / 40  # bytes of a request in a typical CSV


def _kept(
    store: RunStore, outcomes: Iterator[Outcome], by_key: dict[str, Scenario], keys: list[str]
) -> Iterator[RunRecord]:
    """Write each outcome as it comes."""
    work = {key: _work(by_key[key]) for key in keys}
    work_done = 0.0
    for n_done, outcome in enumerate(outcomes, start=1):
        config = by_key[outcome.key]
        row = _row(outcome, config)
        if outcome.error is None:
            store.write(outcome.key, row)
        else:
            store.write_failed(outcome.key, row | {"traceback": outcome.details})
        work_done += work[outcome.key]
        yield RunRecord(
            key=outcome.key,
            config=config,
            status=row["status"],
            error=outcome.error,
            wall_s=outcome.wall_s,
            row=row,
            n_done=n_done,
            n_total=len(keys),
            work_done=work_done / sum(work.values()),
        )


def _row(outcome: Outcome, config: Scenario) -> dict[str, Any]:
    return {
        **config_columns(config.to_dict()),
        **(outcome.columns or {}),
        "key": outcome.key,
        "version": _version(),
        "wall_s": outcome.wall_s,
        "status": "done" if outcome.error is None else "failed",
        "error": outcome.error,
    }


def _version() -> str:
    from importlib.metadata import version

    return version("llmsched")


def _frame(store: RunStore, keys: list[str]) -> pd.DataFrame:
    tables, damaged = [], []
    for key in keys:
        stored = store.read(key)
        if stored is not None and stored.table is not None:
            tables.append(stored.table)
        else:
            damaged.append(key)
    if damaged:
        warnings.warn(
            f"{len(damaged)} run files are damaged and left out: "
            f"{', '.join(key[:12] for key in damaged)}; start the sweep again to redo them",
            stacklevel=3,
        )
    return frame_of(tables)
