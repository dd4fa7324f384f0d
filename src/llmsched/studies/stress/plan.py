"""The stress plan: request volumes, GPU counts, held loads and numbers of bins, in three steps.

A plan is data; each step turns it into runs of a sweep, so that steps started one by one add up
in one folder, a killed one resumes, and a second start does nothing. What the runs say is in
`stress_tables`, how they look in `stress_figures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from llmsched._util.limits import MAX_BINS
from llmsched.prediction.binning import Binning
from llmsched.simulation.presets import preset
from llmsched.simulation.scenario import Scenario
from llmsched.workload.workload import Workload

SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_adaptive")
SCALED = "multi_bin_dynamic"  # the scheduler of steps 2, 2b and 3
MOST_REQUESTS, MOST_GPUS = 1_000_000_000, 1_000_000
N_COMPARED = 3  # step 1 compares on so many of the plan's GPU counts, the smallest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the three steps run, as values only.

    Parameters
    ----------
    base : Scenario
        What the runs share; its requests are set by the volumes, its GPUs and bins by the steps.
    volumes : tuple of int
        Requests of step 1's runs; the other steps run the largest.
    gpu_counts : tuple of int
        GPUs of steps 2 and 2b.
    compared_gpu_counts : tuple of int, optional
        GPUs on which step 1 compares all schedulers; by default the three smallest of
        `gpu_counts`.
    loads : tuple of float
        Offered loads ρ that step 2b holds while the GPUs grow.
    bins : tuple of int
        Numbers of bins (K) of step 3; the other steps have those of `base`.
    best_gpu_count : int, optional
        GPUs of step 3; by default what step 2 chose.
    target_violations : float
        Step 2 looks for the fewest GPUs whose violation rate stays within this share.
    replications : int
        Seeds `seed`, `seed` + 1, ..., common to all runs; what nothing random touches runs once.

    Raises
    ------
    ValueError
        If a list is empty, unordered or out of range.
    """

    base: Scenario = field(default_factory=lambda: preset("plan"))
    volumes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    gpu_counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 100)
    compared_gpu_counts: tuple[int, ...] | None = None
    loads: tuple[float, ...] = (0.7, 0.9, 1.0)
    bins: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    best_gpu_count: int | None = None
    target_violations: float = 0.05
    replications: int = 4

    def __post_init__(self) -> None:
        for name in ("volumes", "gpu_counts", "loads", "bins"):
            _check_increasing(name, getattr(self, name))
        if self.volumes[-1] > MOST_REQUESTS:
            raise ValueError(
                f"volumes must be at most {MOST_REQUESTS:,} requests, got {self.volumes[-1]:,}"
            )
        for count in (*self.gpu_counts, *(self.compared_gpu_counts or ()), self.best_gpu_count):
            if count is not None and count > MOST_GPUS:
                raise ValueError(f"GPU counts must be at most {MOST_GPUS:,}, got {count:,}")
        if self.compared_gpu_counts is not None:
            _check_increasing("compared_gpu_counts", self.compared_gpu_counts)
        if self.workload.requests is not None:
            raise ValueError(
                f"requests of the workload are set by volumes, got {self.workload.requests}; "
                "leave them out"
            )
        if self.workload.concurrency is not None:
            raise ValueError(
                "a stress plan sends requests at given rates, got a closed loop of "
                f"{self.workload.concurrency} users; leave concurrency out"
            )
        if self.bins[-1] > MAX_BINS:
            raise ValueError(f"bins must be in [1, {MAX_BINS}], got {self.bins[-1]}")
        if self.best_gpu_count is not None and self.best_gpu_count < 1:
            raise ValueError(f"best_gpu_count must be >= 1, got {self.best_gpu_count}")
        if not 0 < self.target_violations < 1:
            raise ValueError(
                f"target_violations must be a share in (0, 1), got {self.target_violations:g}"
            )
        if self.replications < 1:
            raise ValueError(f"replications must be >= 1, got {self.replications}")

    @property
    def workload(self) -> Workload:
        """Where the requests come from and how fast."""
        return self.base.recipe()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The root seeds of the replications."""
        return tuple(range(self.base.seed, self.base.seed + self.replications))

    @property
    def step1_gpu_counts(self) -> tuple[int, ...]:
        """GPUs on which step 1 compares the schedulers."""
        return self.compared_gpu_counts or self.gpu_counts[:N_COMPARED]

    def random(self, scheduler: str) -> bool:
        """Whether another seed gives this scheduler another run."""
        return replace(self.base, scheduler=scheduler).random

    def seeds_of(self, scheduler: str) -> tuple[int, ...]:
        """The seeds that this scheduler runs with: one where nothing is random."""
        return self.seeds if self.random(scheduler) else self.seeds[:1]


def _check_increasing(name: str, values: tuple[float, ...]) -> None:
    """Fail unless the values are positive and increase."""
    given = ", ".join(f"{value:g}" for value in values) or "none"
    ordered = all(low < high for low, high in pairwise(values))
    if not values or not ordered or values[0] <= 0 or not math.isfinite(values[-1]):
        raise ValueError(f"{name} must be increasing numbers > 0, got {given}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One run of a step, and the load that it is to hold (NaN but in step 2b)."""

    config: Scenario
    random: bool  # whether other seeds of it differ
    target_load: float = math.nan


def step1(plan: Plan) -> list[Asked]:
    """Request scaling: every volume and scheduler, all on equal GPUs."""
    return [
        asked_run(plan, scheduler, n_gpus, seed, requests=requests)
        for requests in plan.volumes
        for n_gpus in plan.step1_gpu_counts
        for scheduler in SCHEDULERS
        for seed in plan.seeds_of(scheduler)
    ]


def step2(plan: Plan) -> list[Asked]:
    """GPU scaling: the largest volume on every GPU count."""
    return [
        asked_run(plan, SCALED, n_gpus, seed)
        for n_gpus in plan.gpu_counts
        for seed in plan.seeds_of(SCALED)
    ]


def step2b(plan: Plan, work: Mapping[int, float]) -> list[Asked]:
    """GPU scaling at held loads: the arrival rate grows with the GPUs.

    Parameters
    ----------
    work : mapping of int to float
        By seed, ρ on one GPU at the plan's rate; ρ is in proportion to rate over GPUs, exactly.

    Raises
    ------
    ValueError
        If a load cannot be set by the rate, as where all requests arrive at one instant.
    """
    return [
        asked_run(
            plan, SCALED, n_gpus, seed, target_load=load, rps_scale=_rate(plan, load, n_gpus, rho)
        )
        for load in plan.loads
        for n_gpus in plan.gpu_counts
        for seed, rho in work.items()
    ]


def _rate(plan: Plan, load: float, n_gpus: int, rho: float) -> float:
    """The rate factor for this load, rounded up: the run's load is never below what was asked."""
    if not (math.isfinite(rho) and rho > 0):
        raise ValueError(
            f"step 2b must have requests whose load the arrival rate sets, got load {rho:g} on "
            "one GPU; do they all arrive at one instant?"
        )
    exact = (plan.workload.rps_scale or 1.0) * load * n_gpus / rho
    digits = 6 - math.ceil(math.log10(exact))
    return math.ceil(exact * 10.0**digits) / 10.0**digits


def step3(plan: Plan, n_gpus: int) -> list[Asked]:
    """K sensitivity: the largest volume with every number of bins."""
    return [
        asked_run(plan, SCALED, n_gpus, seed, n_bins=n_bins)
        for n_bins in plan.bins
        for seed in plan.seeds_of(SCALED)
    ]


def asked_run(
    plan: Plan,
    scheduler: str,
    n_gpus: int,
    seed: int,
    *,
    requests: int | None = None,
    rps_scale: float | None = None,
    n_bins: int | None = None,
    target_load: float = math.nan,
) -> Asked:
    """One run of this plan; what is left out is the plan's: the largest volume, its rate and K."""
    workload = replace(
        plan.workload,
        requests=plan.volumes[-1] if requests is None else requests,
        rps_scale=plan.workload.rps_scale if rps_scale is None else rps_scale,
    )
    config = replace(
        plan.base.on(n_gpus),
        workload=workload,
        scheduler=scheduler,
        binning=plan.base.binning if n_bins is None else Binning(n_bins=n_bins),
        seed=seed,
    )
    return Asked(config=config, random=plan.random(scheduler), target_load=target_load)
