"""What is random, and which seeds that takes: common random numbers, and nothing run twice.

A replication is a scenario with another root seed. Schedulers, rates and GPU counts share the
seeds, so that their differences are paired. Where no seed changes anything, one run stands for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmsched.simulation.scenario import Scenario


def check_replications(replications: int) -> None:
    """Fail unless so many replications can be asked for.

    Raises
    ------
    ValueError
        If there is none.
    """
    if isinstance(replications, bool) or replications < 1:
        raise ValueError(f"replications must be >= 1, got {replications}")


def seeds_of(scenario: Scenario, replications: int) -> tuple[int, ...]:
    """The root seeds of the replications: `seed`, `seed` + 1, ..."""
    check_replications(replications)
    return tuple(range(scenario.seed, scenario.seed + replications))


def replicated(scenario: Scenario, replications: int) -> tuple[Scenario, ...]:
    """The scenario with every seed it takes: a single one where nothing is random."""
    seeds = seeds_of(scenario, replications)
    return tuple(replace(scenario, seed=seed) for seed in (seeds if scenario.random else seeds[:1]))


def check_distinct(schedulers: Sequence[str]) -> None:
    """Fail unless schedulers are given, each once.

    Raises
    ------
    ValueError
        With those that were given.
    """
    if not schedulers or len(set(map(str, schedulers))) != len(schedulers):
        given = ", ".join(map(str, schedulers)) or "none"
        raise ValueError(f"schedulers must be distinct names, got {given}")
