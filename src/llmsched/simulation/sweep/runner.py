"""Runs that are done once: by content key, over a pool, kept in a folder where there is one.

Comparisons, capacity searches, sweeps and studies all ask a `Runner` for rows; it does the runs
that nobody did before, and remembers the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmsched._util.version import __version__
from llmsched.simulation.keys import source_sha256
from llmsched.simulation.scenario import Scenario
from llmsched.simulation.sweep.runs import Outcome, RunTask, about_requests, execute
from llmsched.simulation.sweep.store import RunStore, config_columns
from llmsched.simulation.workers import Backend, Pool, R, T, check_pool, pool

Row = dict[str, Any]
WORTH_PROCESSES = 600_000  # requests of all runs, about three seconds of work


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run that has just finished or failed, and how far the work has come with it."""

    key: str
    config: Scenario
    status: str  # done or failed
    error: str | None
    wall_s: float
    row: Row  # the columns of the result table
    n_done: int  # runs of this call so far, this one and failed ones included
    n_total: int  # runs of this call: those that were finished before are not among them
    work_done: float  # share of the requests of this call's runs, for the remaining time


@dataclass(slots=True)
class Runner:
    """Does the runs that are not there yet."""

    pool: Pool
    store: RunStore | None = None
    cache: Path | None = None
    retry_failed: bool = False
    keep_failures: bool = True
    on_done: Callable[[RunRecord], None] | None = None
    _rows: dict[str, Row] = field(default_factory=dict)

    def rows(
        self, scenarios: Sequence[Scenario], by_key: Mapping[str, Scenario] | None = None
    ) -> list[Row]:
        """The row of each scenario, in the order given; a failed run's has its `error`.

        `by_key` is what `keyed` gives of them, where it is known already.

        Raises
        ------
        ValueError
            If a scenario names something unknown.
        """
        by_key = keyed(scenarios) if by_key is None else by_key
        todo = [key for key in by_key if not self._there(key)]
        tasks = [
            RunTask(
                key=key,
                scenario=by_key[key].with_absolute_paths(),
                cache=self.cache,
                source_sha256=source_sha256(by_key[key].workload),
                keep_failure=self.keep_failures,
            )
            for key in sorted(todo, key=lambda key: -about_requests(by_key[key]))  # longest first
        ]
        for record in self._done(tasks, by_key):
            if self.on_done is not None:
                self.on_done(record)
        keys = {id(scenario): key for key, scenario in by_key.items()}
        return [self._rows[keys.get(id(one)) or one.key()] for one in scenarios]

    @property
    def done(self) -> list[Row]:
        """The rows that were asked for so far."""
        return list(self._rows.values())

    def _there(self, key: str) -> bool:
        if key not in self._rows and self.store is not None and key in self.store.rows:
            self._rows[key] = self.store.rows[key]
        found = self._rows.get(key)
        again = self.retry_failed or not self.keep_failures
        return found is not None and not (again and found["status"] == "failed")

    def _done(self, tasks: list[RunTask], by_key: Mapping[str, Scenario]) -> Iterator[RunRecord]:
        """Keep each outcome as it comes."""
        work = [about_requests(by_key[task.key]) for task in tasks]
        work_done = 0.0
        results = self.pool.results(execute, tasks) if tasks else ()
        for n_done, (number, outcome) in enumerate(results, start=1):
            scenario = by_key[outcome.key]
            row = _row(outcome, scenario)
            self._rows[outcome.key] = row
            if self.store is not None:
                self.store.keep(outcome.key, row | {"traceback": outcome.details})
            work_done += work[number]
            yield RunRecord(
                key=outcome.key,
                config=scenario,
                status=row["status"],
                error=outcome.error,
                wall_s=outcome.wall_s,
                row=row,
                n_done=n_done,
                n_total=len(tasks),
                work_done=work_done / (sum(work) or 1),
            )


@contextmanager
def runner(
    out: Path | None = None,
    *,
    jobs: int | None = None,
    backend: Backend = "local",
    address: str | None = None,
    most: int | None = None,
    retry_failed: bool = False,
    keep_failures: bool = True,
    on_done: Callable[[RunRecord], None] | None = None,
) -> Iterator[Runner]:
    """A runner for the work inside.

    Parameters
    ----------
    out : Path, optional
        Folder of the runs: those it has are not done again, new ones are kept there at once. It
        belongs to this runner meanwhile.
    jobs, backend, address, most
        As in `pool`; without `jobs`, small work is done in this process.
    retry_failed : bool
        Do failed runs again; by default they stay failed.
    keep_failures : bool
        Whether a run that fails has a row with its error; if not, the error ends the work.
    on_done : callable, optional
        Sees every run as soon as it is kept.

    Raises
    ------
    ValueError
        If an argument is out of range.
    FolderInUseError
        If another process works in the folder.
    """
    check_pool(jobs=jobs, backend=backend, address=address)
    with ExitStack() as stack:
        store = None if out is None else stack.enter_context(RunStore.opened(out))
        late = _LatePool(stack, jobs=jobs, backend=backend, address=address, most=most)
        yield Runner(
            pool=late,
            store=store,
            cache=None if out is None else out / "cache",
            retry_failed=retry_failed,
            keep_failures=keep_failures,
            on_done=on_done,
        )


class _LatePool:
    """A pool that starts when there is enough to do: processes take a second or two to start."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self._stack, self._options = stack, options
        self._pool: Pool | None = None
        self._requests = 0.0

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        runs = (task for task in tasks if isinstance(task, RunTask))
        self._requests += sum(about_requests(task.scenario) for task in runs)
        if self._pool is None:
            free = self._options["backend"] == "local" and self._options["jobs"] is None
            if free and self._requests < WORTH_PROCESSES:
                with pool(jobs=1) as here:
                    return here.results(work, tasks)
            self._pool = self._stack.enter_context(pool(**self._options))
        return self._pool.results(work, tasks)


def keyed(scenarios: Sequence[Scenario]) -> dict[str, Scenario]:
    """Scenarios by key, each once, all checked before the first run."""
    checked: set[str] = set()
    by_key: dict[str, Scenario] = {}
    for scenario in scenarios:
        if not isinstance(scenario, Scenario):
            raise ValueError(f"scenarios must be of llmsched.Scenario, got {scenario!r}")
        parts = (scenario.scheduler_name, scenario.hardware, scenario.settings, scenario.binning)
        if (mark := repr((*parts, scenario.predictor))) not in checked:
            scenario.check()
            checked.add(mark)
        by_key.setdefault(scenario.key(), scenario)
    return by_key


def say_what_was_kept(store: RunStore, keys: Sequence[str], *, stacklevel: int = 3) -> None:
    """Warn of lines that were damaged, and of runs of another version.

    Warns
    -----
    UserWarning
        With the counts.
    """
    if store.damaged:
        warnings.warn(
            f"{store.damaged} kept runs are damaged and left out; a sweep does them again",
            stacklevel=stacklevel,
        )
    versions = {str(store.rows[key].get("version")) for key in keys if key in store.rows}
    if others := versions - {__version__}:
        warnings.warn(
            f"some runs kept are of version {', '.join(sorted(others))}, this is {__version__}; "
            "use another folder to do them again",
            stacklevel=stacklevel,
        )


def _row(outcome: Outcome, scenario: Scenario) -> Row:
    return {
        **config_columns(scenario.to_dict()),
        **(outcome.columns or {}),
        "key": outcome.key,
        "version": __version__,
        "wall_s": outcome.wall_s,
        "status": "done" if outcome.error is None else "failed",
        "error": outcome.error,
    }
