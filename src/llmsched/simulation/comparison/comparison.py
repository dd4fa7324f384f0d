"""Several schedulers on equal GPUs and the same requests, replicated where something is random."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from llmsched._util.limits import MATTERS
from llmsched._util.notes import Notes
from llmsched.latency.registry import EXTRAPOLATED
from llmsched.schedulers.names import canonical
from llmsched.simulation.comparison.results import COMPARED, Comparison, SchedulerResult
from llmsched.simulation.replications import check_distinct, replicated, resamples, seeds_of
from llmsched.simulation.scenario import Parts, Scenario, as_scenario
from llmsched.simulation.sweep.runner import Row, Runner, RunRecord, runner
from llmsched.simulation.uncertainty import check_draws, under_draws
from llmsched.simulation.workers import Backend
from llmsched.workload.trace import Trace
from llmsched.workload.workload import Workload

__all__ = [
    "BASELINE",
    "COMPARED",
    "DEFAULT_SCHEDULERS",
    "REPLICATIONS",
    "Comparison",
    "SchedulerResult",
    "compare",
]

DEFAULT_SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic")
BASELINE = "static_fifo"
REPLICATIONS = 10


def compare(
    scenario: Scenario | Workload | Trace | str = "burstgpt-like",
    schedulers: Sequence[str] = DEFAULT_SCHEDULERS,
    *,
    replications: int = REPLICATIONS,
    baseline: str | None = None,
    resample: bool | None = None,
    matters: float = MATTERS,
    latency_draws: int = 0,
    out: Path | None = None,
    jobs: int | None = None,
    backend: Backend = "local",
    address: str | None = None,
    on_done: Callable[[RunRecord], None] | None = None,
    **parts: Unpack[Parts],
) -> Comparison:
    """Run schedulers on equal GPUs and the same requests, seeds `seed`, `seed` + 1, ...

    Each replication draws the workload (where it is synthetic, or a resampled trace) and the
    predictor's noise anew, and all schedulers share both: differences are paired. A scheduler that
    nothing random touches is run once.

    Parameters
    ----------
    scenario : Scenario, Workload, Trace or str
        What is run; its scheduler is left aside.
    schedulers : sequence
        Names, or schedulers of your own: functions or objects, each of a name of its own.
    replications : int
        Independent replications, at least 1; intervals need 2.
    baseline : str, optional
        The scheduler that the others are compared with; by default `static_fifo` where it is one of
        `schedulers`, else the first of them.
    resample : bool, optional
        Whether replications are resamples of the trace; by default of a trace file, not of a
        `Trace`.
    matters : float
        The smallest difference that matters: 0.02 is 2 % of rates and times, 2 points of shares.
    latency_draws : int
        Run everything under so many draws of the latency's parameters too, for intervals that
        include calibration error; 95 % take 39.
    out : Path, optional
        Folder of the runs: those it has are not done again.
    jobs, backend, address
        Where the runs are done, as in `sweep`; no number depends on it.
    on_done : callable, optional
        Sees every finished run.
    **parts
        Parts in place of the scenario's, as in `simulate`.

    Raises
    ------
    ValueError
        If an argument is out of range or names nothing known.

    Warns
    -----
    UserWarning
        What the runs had to say, each kind once.
    """
    base = as_scenario(scenario, **parts)
    check_distinct(schedulers)
    if not 0 <= matters < 1:
        raise ValueError(f"matters must be in [0, 1), got {matters:g}; 0.02 is 2 %")
    seeds = seeds_of(base, replications)
    chosen = _named(base, schedulers)
    against = _baseline(baseline, list(chosen))
    check_draws(base.resolved_hardware(), latency_draws)
    resampled = resamples(base, resample)
    each = _replications(chosen, replications, resample=resampled)
    with runner(
        out,
        jobs=jobs,
        backend=backend,
        address=address,
        keep_failures=False,
        on_done=on_done,
    ) as runs:
        rows = _rows(runs, each, latency_draws, seed=base.seed)
    for note in _notes(row for by_seed in rows.values() for row, *_ in by_seed):
        warnings.warn(note, stacklevel=2)
    return Comparison(
        results=tuple(
            _result(
                name, by_seed, seeds, random=resampled or each[name][0].random, resampled=resampled
            )
            for name, by_seed in rows.items()
        ),
        seeds=seeds,
        n_gpus=base.hardware.n_gpus,
        hardware=base.resolved_hardware(),
        workload=base.workload if isinstance(base.workload, Workload) else None,
        baseline=against,
        resampled=resampled,
        matters=matters,
        n_draws=latency_draws,
    )


def _named(base: Scenario, schedulers: Sequence[Any]) -> dict[str, Scenario]:
    """Each scheduler under the name that results call it by; what is wrong ends here."""
    scenarios = [replace(base, scheduler=one) for one in schedulers]
    for scenario in scenarios:
        scenario.check()
    check_distinct([scenario.scheduler_name for scenario in scenarios])
    return {scenario.scheduler_name: scenario for scenario in scenarios}


def _baseline(wanted: str | None, names: list[str]) -> str:
    """The scheduler that the others are compared with."""
    if wanted is None:
        return BASELINE if BASELINE in names else names[0]
    if canonical(wanted) not in names:
        raise ValueError(f"baseline must be one of {', '.join(names)}; got {wanted!r}")
    return canonical(wanted)


def _replications(
    chosen: dict[str, Scenario], replications: int, *, resample: bool
) -> dict[str, tuple[Scenario, ...]]:
    """Each scheduler with every seed it takes, all on the same requests."""
    first = next(iter(chosen.values()))
    if resample and not isinstance(first.workload, Workload):
        stretches = replicated(first, replications, resample=True)  # once, so that all share them
        return {
            name: tuple(replace(one, scheduler=scenario.scheduler) for one in stretches)
            for name, scenario in chosen.items()
        }
    return {
        name: replicated(scenario, replications, resample=resample)
        for name, scenario in chosen.items()
    }


def _rows(
    runs: Runner, each: dict[str, tuple[Scenario, ...]], n_draws: int, *, seed: int
) -> dict[str, list[list[Row]]]:
    """Of every scheduler and replication: the row as fitted, then those of the draws.

    The runs go replication by replication, so that what schedulers share is made once.
    """
    most = max(map(len, each.values()))
    order = [
        (name, one)
        for number in range(most)
        for name, scenarios in each.items()
        for scenario in scenarios[number : number + 1]
        for one in (scenario, *under_draws(scenario, n_draws, seed=seed))
    ]
    found: dict[str, list[list[Row]]] = {name: [] for name in each}
    for (name, _), row in zip(order, runs.rows([one for _, one in order]), strict=True):
        if not found[name] or len(found[name][-1]) == 1 + n_draws:
            found[name].append([])
        found[name][-1].append(row)
    return found


def _result(
    name: str, by_seed: list[list[Row]], seeds: Sequence[int], *, random: bool, resampled: bool
) -> SchedulerResult:
    """One scheduler over all replications; where nothing is random, one run stands for all."""
    copies = by_seed if len(by_seed) == len(seeds) else by_seed * len(seeds)
    return SchedulerResult(
        scheduler=name,
        summaries=tuple(
            {**row, "seed": seed} for seed, (row, *_) in zip(seeds, copies, strict=True)
        ),
        random=random,
        drawn=tuple(tuple(drawn) for _, *drawn in copies if drawn),
        resampled=resampled,
    )


def _notes(rows: Iterable[Row]) -> list[str]:
    """What the runs said, the first of each kind; rows have their extrapolation as figures."""
    said = (note for row in rows for note in row["notes"] if not note.endswith(EXTRAPOLATED))
    return Notes().extend(said)
