"""The conclusions of the stress plan: claims of direction, and findings that are counts or places.

Each takes the runs of the steps and gives one number per seed; `measured_rules` says what they say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd

from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.tables import knee, with_scaling

Steps = Mapping[
    str, pd.DataFrame
]  # runs of each step, as `llmsched.studies.stress.step_results.StepResult` has them
BySeed = dict[int, float]

STATIC, DYNAMIC, MULTI = "static_fifo", "dynamic_no_bins", "multi_bin_dynamic"
ADAPTIVE = "multi_bin_adaptive"
LATE = "sla_violation_rate"
EFFICIENCY_AT = (2, 4, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One conclusion of direction: `values` has the claimed sign where it is true."""

    step: str
    words: str
    sign: int  # of the difference claimed: -1 or +1
    values: Callable[[Steps], BySeed]  # percentage points, or per cent


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One conclusion that is a count or a place: infinity where there is none."""

    step: str
    words: str
    values: Callable[[Steps], BySeed]


def claim_interval(claim: Claim, steps: Steps) -> Interval:
    """The claim's difference over replications; NaN without any that both sides finished."""
    values = list(claim.values(steps).values())
    if not values:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, n=0)
    return mean_interval(values)


def claims(plan: Plan) -> list[Claim]:
    """The plan's conclusions of direction, in the order of its steps."""
    return [*_of_step1(plan), *_of_step2(plan), *_of_step2b(plan), *_of_step3(plan)]


def findings(plan: Plan) -> list[Finding]:
    """The plan's conclusions that are counts or places."""
    target = plan.target_violations
    return [
        *(
            Finding(
                step="step1",
                words=f"bin with the longest P99 latency (0: shortest outputs), {_gpus(n)}",
                values=partial(_starving_bin, n_gpus=n),
            )
            for n in plan.step1_gpu_counts
        ),
        Finding(
            step="step2",
            words=f"fewest GPUs with at most {100 * target:g} % late",
            values=partial(_fewest, target=target),
        ),
        *(
            Finding(
                step="step2",
                words=f"knee of {name}, GPUs",
                values=partial(_knee, metric=f"{name}_rps"),
            )
            for name in ("throughput", "goodput")
        ),
        *(
            Finding(
                step="step2b",
                words=f"GPU counts, of {len(plan.gpu_counts)}, overloaded at held ρ {load:g}",
                values=partial(_n_overloaded, load=load),
            )
            for load in plan.loads
        ),
        Finding(step="step3", words="K with the fewest violations", values=_best_bins),
    ]


def _of_step1(plan: Plan) -> list[Claim]:
    rivals = ((DYNAMIC, STATIC), (MULTI, DYNAMIC), (ADAPTIVE, MULTI))
    return [
        *(
            Claim(
                step="step1",
                words=f"{first} has fewer violations than {second}, {_gpus(n)}",
                sign=-1,
                values=partial(_late_less, first=first, second=second, n_gpus=n),
            )
            for first, second in rivals
            for n in plan.step1_gpu_counts
        ),
        *(
            Claim(
                step="step1",
                words=f"{MULTI} has more throughput than {STATIC}, {_gpus(n)} (in % of it)",
                sign=1,
                values=partial(_throughput_gain, n_gpus=n),
            )
            for n in plan.step1_gpu_counts
        ),
    ]


def _of_step2(plan: Plan) -> list[Claim]:
    few, most = plan.gpu_counts[0], plan.gpu_counts[-1]
    return [
        *(
            Claim(
                step="step2",
                words=f"violations fall from {few} to {more} GPUs",
                sign=-1,
                values=partial(_late_with_gpus, fewer=few, more=more),
            )
            for few, more in pairwise(plan.gpu_counts)
        ),
        *(
            Claim(
                step="step2",
                words=f"throughput of {_gpus(n)} is less than linear (efficiency less 100 %)",
                sign=-1,
                values=partial(_inefficiency, n_gpus=n),
            )
            for n in plan.gpu_counts
            if n > few and n in (*EFFICIENCY_AT, most)
        ),
    ]


def _of_step2b(plan: Plan) -> list[Claim]:
    few, most = plan.gpu_counts[0], plan.gpu_counts[-1]
    falls = [
        Claim(
            step="step2b",
            words=f"at held ρ {load:g}, violations fall from {few} to {most} GPUs",
            sign=-1,
            values=partial(_late_with_gpus, fewer=few, more=most, load=load),
        )
        for load in plan.loads
    ]
    half = [
        Claim(
            step="step2b",
            words=f"at held ρ {load:g}, over half are late (mean of the GPU counts less 50 %)",
            sign=1,
            values=partial(_late_above_half, load=load),
        )
        for load in plan.loads
    ]
    return [*falls, *half]


def _of_step3(plan: Plan) -> list[Claim]:
    least, middle, most = plan.bins[0], plan.base.binning.n_bins, plan.bins[-1]
    return [
        Claim(
            step="step3",
            words=f"violations fall from K = {few} to K = {more}",
            sign=-1,
            values=partial(_late_with_bins, fewer=few, more=more),
        )
        for few, more in dict.fromkeys([(least, middle), (middle, most), (least, most)])
        if few < more
    ]


def _gpus(n: int) -> str:
    return f"{n} GPU{'s' * (n > 1)}"


def by_seed(runs: pd.DataFrame, metric: str, **where: float | str) -> BySeed:
    """A metric of the finished runs with these values; what is not random counts for each seed."""
    chosen = runs["status"] == "done"
    for column, value in where.items():
        chosen &= runs[column] == value
    found = runs[chosen]
    values = dict(zip(found["seed"].astype(int), found[metric].astype(float), strict=True))
    if len(found) == 1 and not found["random"].iloc[0]:
        only = next(iter(values.values()))
        return dict.fromkeys(runs["seed"].astype(int).unique().tolist(), only)
    return values


def less(first: BySeed, second: BySeed, *, scale: float = 100.0) -> BySeed:
    """First less second, over the seeds that both have, in points."""
    return {seed: scale * (first[seed] - second[seed]) for seed in first if seed in second}


def largest(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the largest volume."""
    at_largest: pd.DataFrame = runs[runs["requests_asked"] == runs["requests_asked"].max()]
    return at_largest


def _late_less(steps: Steps, *, first: str, second: str, n_gpus: int) -> BySeed:
    runs = largest(steps["step1"])
    rates = (by_seed(runs, LATE, scheduler=name, n_gpus=n_gpus) for name in (first, second))
    return less(*rates)


def _throughput_gain(steps: Steps, *, n_gpus: int) -> BySeed:
    runs = largest(steps["step1"])
    multi, static = (
        by_seed(runs, "throughput_rps", scheduler=name, n_gpus=n_gpus) for name in (MULTI, STATIC)
    )
    return {seed: 100 * (multi[seed] / static[seed] - 1) for seed in multi if seed in static}


def _starving_bin(steps: Steps, *, n_gpus: int) -> BySeed:
    runs = largest(steps["step1"])
    chosen = runs[(runs["scheduler"] == MULTI) & (runs["n_gpus"] == n_gpus)]
    return {
        int(seed): float(np.nanargmax([one_bin["latency_p99_s"] for one_bin in per_bin]))
        for seed, per_bin, status in zip(
            chosen["seed"], chosen["per_bin"], chosen["status"], strict=True
        )
        if status == "done"
    }


def _late_with_gpus(steps: Steps, *, fewer: int, more: int, load: float | None = None) -> BySeed:
    runs = steps["step2"] if load is None else _at_load(steps, load)
    return less(by_seed(runs, LATE, n_gpus=more), by_seed(runs, LATE, n_gpus=fewer))


def _at_load(steps: Steps, load: float) -> pd.DataFrame:
    runs = steps["step2b"]
    at_load: pd.DataFrame = runs[runs["target_load"] == load]
    return at_load


def _inefficiency(steps: Steps, *, n_gpus: int) -> BySeed:
    found = by_seed(with_scaling(steps["step2"]), "throughput_efficiency", n_gpus=n_gpus)
    return {seed: 100 * (efficiency - 1) for seed, efficiency in found.items()}


def _late_above_half(steps: Steps, *, load: float) -> BySeed:
    runs = _at_load(steps, load)
    rates = runs[runs["status"] == "done"].groupby("seed")[LATE].mean()
    return {int(str(seed)): 100 * (float(rate) - 0.5) for seed, rate in rates.items()}


def _late_with_bins(steps: Steps, *, fewer: int, more: int) -> BySeed:
    runs = steps["step3"]
    return less(by_seed(runs, LATE, n_bins=more), by_seed(runs, LATE, n_bins=fewer))


def _each_seed(runs: pd.DataFrame, find: Callable[[pd.DataFrame], float]) -> BySeed:
    done = runs[runs["status"] == "done"]
    return {int(str(seed)): float(find(one)) for seed, one in done.groupby("seed")}


def _fewest(steps: Steps, *, target: float) -> BySeed:
    return _each_seed(
        steps["step2"],
        lambda one: (
            one.loc[one[LATE] <= target, "n_gpus"].min()
            if (one[LATE] <= target).any()
            else math.inf
        ),
    )


def _knee(steps: Steps, *, metric: str) -> BySeed:
    return _each_seed(
        steps["step2"], lambda one: knee(one["n_gpus"].to_numpy(float), one[metric].to_numpy(float))
    )


def _n_overloaded(steps: Steps, *, load: float) -> BySeed:
    return _each_seed(
        _at_load(steps, load), lambda one: float((one["load_label"] == "overloaded").sum())
    )


def _best_bins(steps: Steps) -> BySeed:
    return _each_seed(steps["step3"], lambda one: one["n_bins"].iloc[int(one[LATE].argmin())])
