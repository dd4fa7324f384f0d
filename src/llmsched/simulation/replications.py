"""What is random, and which seeds that takes: common random numbers, and nothing run twice.

A replication is a scenario with another root seed. Schedulers, rates and GPU counts share the
seeds, so that their differences are paired. Where no seed changes anything, one run stands for all.

A trace file is one draw of its traffic.  Its replications are resamples of it (`workload.resample`)
unless that is asked otherwise: intervals then speak of traffic like it, not of the predictor's
noise alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmsched._util.streams import Streams
from llmsched.simulation.scenario import Scenario
from llmsched.workload.resample import resampled
from llmsched.workload.workload import Workload


def check_replications(replications: int) -> None:
    """Fail unless so many replications can be asked for.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not isinstance(replications, int) or isinstance(replications, bool) or replications < 1:
        raise ValueError(f"replications must be a whole number >= 1, got {replications}")


def seeds_of(scenario: Scenario, replications: int) -> tuple[int, ...]:
    """The root seeds of the replications: `seed`, `seed` + 1, ..."""
    check_replications(replications)
    return tuple(range(scenario.seed, scenario.seed + replications))


def resamples(scenario: Scenario, wanted: bool | None) -> bool:
    """Whether the replications of a scenario are resamples of one trace.

    Parameters
    ----------
    wanted : bool, optional
        What is asked for; None leaves it to the workload, and that to its source: a trace file is
        resampled, a `Trace` is taken as it is.
    """
    workload = scenario.workload
    if not isinstance(workload, Workload):
        return bool(wanted)
    asked = workload.resample if wanted is None else wanted
    return not workload.synthetic if asked is None else asked


def replicated(
    scenario: Scenario, replications: int, *, resample: bool = False
) -> tuple[Scenario, ...]:
    """The scenario with every seed it takes: a single one where nothing is random.

    Parameters
    ----------
    resample : bool
        Whether every seed stands for a resample of the scenario's trace.
    """
    seeds = seeds_of(scenario, replications)
    workload = scenario.workload
    if isinstance(workload, Workload):
        scenario = replace(scenario, workload=replace(workload, resample=resample or None))
    elif resample:
        stretches = [resampled(workload, Streams.of_seed(seed).resampling) for seed in seeds]
        return tuple(
            replace(scenario, seed=seed, workload=stretch)
            for seed, stretch in zip(seeds, stretches, strict=True)
        )
    return tuple(replace(scenario, seed=seed) for seed in (seeds if scenario.random else seeds[:1]))


def check_distinct(schedulers: Sequence[str]) -> None:
    """Fail unless schedulers are given, each once.

    Raises
    ------
    ValueError
        With those that were given.
    """
    if isinstance(schedulers, str):
        raise ValueError(f"schedulers must be a list of names, got {schedulers!r}; put it in [ ]")
    if not schedulers or len(set(map(str, schedulers))) != len(schedulers):
        given = ", ".join(map(str, schedulers)) or "none"
        raise ValueError(f"schedulers must be distinct names, got {given}")
