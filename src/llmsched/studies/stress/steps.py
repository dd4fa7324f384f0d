"""The steps of the stress plan: which runs, what is set against what, which figures, what verdict.

A step sees the runs of those before it: step 2b takes the load of one GPU from step 2, and step 3
the GPU count.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llmsched._util.text import count_text, interval_text, share_text
from llmsched.studies.stress.figures import Figure
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.step import Pair, PlannedRun, Step, StepResult
from llmsched.studies.stress.tables import (
    CLEAR,
    VIOLATIONS,
    Group,
    fewest_gpus,
    knee,
    rows_of,
    summary_table,
)

if TYPE_CHECKING:
    import pandas as pd

RATES = ("throughput_rps", "goodput_rps")
LATENCY = ("latency_mean_s", "latency_p99_s")
TOKENS = ("ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s")
STARVATION = (VIOLATIONS, "wait_max_s", "latency_p99_s", "gpu_time_share")
COMPOSITION = (
    *("output_variance_mean", "output_range_mean"),
    *("output_max_over_mean", "batch_size_mean"),
)


class RequestScaling(Step):
    """Every volume and scheduler, all on equal GPUs."""

    name = "step1"
    title = "Step 1: request scaling, all schedulers on equal GPUs"
    axis, curves, panels, against = "requests", "scheduler", "n_gpus", "scheduler"
    takes = ("gpu_counts", "settings__batch_size")
    RIVALS = (  # the first is set against the second
        ("dynamic_no_bins", "static_fifo"),
        ("multi_bin_dynamic", "static_fifo"),
        ("multi_bin_adaptive", "static_fifo"),
        ("multi_bin_dynamic", "dynamic_no_bins"),
        ("multi_bin_adaptive", "multi_bin_dynamic"),
        ("continuous_dynamic", "continuous_static"),
        ("continuous_multi_bin", "continuous_static"),
        ("continuous_sjf", "continuous_static"),
    )

    def runs(self, plan: Plan, before: Mapping[str, pd.DataFrame]) -> list[PlannedRun]:
        """Volumes × GPU counts × schedulers × seeds."""
        return [
            PlannedRun(plan.run(n_gpus, seed, scheduler=scheduler, requests=requests))
            for requests in plan.volumes
            for n_gpus in plan.step1_gpu_counts
            for scheduler in plan.schedulers
            for seed in plan.seeds_of(scheduler)
        ]

    def pairs(self, found: Sequence[Group]) -> list[Pair]:
        """Schedulers that share volume and GPUs."""
        by_place: dict[tuple[float, float], dict[str, Group]] = {}
        for group in found:
            place = by_place.setdefault((group["requests"], group["n_gpus"]), {})
            place[group["scheduler"]] = group
        return [
            (place[first], place[second])
            for place in by_place.values()
            for first, second in self.RIVALS
            if first in place and second in place
        ]

    def verdict(self, found: StepResult) -> list[str]:
        """Who violates least on equal GPUs at the largest volume, and how much of it is clear."""
        largest = found.summary["requests"].max()
        rates = found.rates[found.rates["requests"] == largest]
        best: dict[str, list[Any]] = {}
        for _, place in rates.groupby("n_gpus"):
            row = min(rows_of(place), key=lambda row: row.mean)
            best.setdefault(row.scheduler, []).append(row)
        first = "; ".join(
            f"{scheduler} on {_gpus([row.n_gpus for row in rows])}, "
            + ", ".join(share_text(row.mean, row.low, row.high) for row in rows)
            for scheduler, rows in best.items()
        )
        pairs = found.differences[found.differences["metric"] == VIOLATIONS]
        pairs = pairs[pairs["requests"] == largest]
        clear = int((pairs["verdict"] == CLEAR).sum())
        return [
            f"Fewest late or rejected of {largest:,} requests: {first}.",
            f"{clear} of {len(pairs)} differences between schedulers there are {CLEAR}; "
            f"{_n_overloaded(rates)}.",
        ]

    def figures(self, found: StepResult) -> dict[str, Figure]:
        """Metrics against volume, and distributions and bins at the largest."""
        runs = found.runs
        largest = runs[runs["requests_asked"] == runs["requests_asked"].max()]
        most = largest[largest["n_gpus"] == largest["n_gpus"].max()]
        by_bin = {"x": "bin", "colour": "scheduler"}
        drawn = {
            "violations": self._curves(found, [VIOLATIONS]),
            "latency": self._curves(found, LATENCY, log_y=True),
            "rates": self._curves(found, RATES),
            "latencies": self._shares(found, largest),
        }
        if found.plan.engine == "iteration":
            return drawn | {"tokens": self._curves(found, TOKENS, log_y=True)}
        return drawn | {
            "bins": self._bins(most, STARVATION, **by_bin),
            "composition": self._bins(most, COMPOSITION, **by_bin),
            "batch_sizes": self._shares(found, largest, batches=True),
        }


class GpuScaling(Step):
    """The largest volume on every GPU count, at the given rate."""

    name, title = "step2", "Step 2: GPU scaling at a fixed arrival rate"
    axis, scales = "n_gpus", True
    takes = ("gpu_counts", "loads", "target_violations")

    def runs(self, plan: Plan, before: Mapping[str, pd.DataFrame]) -> list[PlannedRun]:
        """GPU counts × seeds."""
        return [
            PlannedRun(plan.run(n_gpus, seed))
            for n_gpus in plan.gpu_counts
            for seed in plan.seeds_of()
        ]

    def verdict(self, found: StepResult) -> list[str]:
        """The fewest GPUs that meet the target, and the knee."""
        target = found.plan.target_violations
        best = fewest_gpus(found.summary, target)
        asked = f"at most {share_text(target)} late"
        rates = {row.n_gpus: row for row in rows_of(found.rates)}
        if best is not None:
            row, what = rates[best], f"{count_text(best, 'GPU')}: the fewest with {asked}"
        else:
            row = min(rates.values(), key=lambda row: row.mean)
            on = count_text(row.n_gpus, "GPU")
            what = f"No GPU count has {asked}, interval and all; lowest on {on}"
        knees = ", ".join(
            f"{_knee(found.done, metric)} by {metric.removesuffix('_rps')}" for metric in RATES
        )
        return [
            f"{what}, {share_text(row.mean, row.low, row.high)}.",
            f"Knee (speedup × efficiency highest): {knees}.",
        ]

    def figures(self, found: StepResult) -> dict[str, Figure]:
        """Metrics, distributions and bins against GPUs."""
        target = found.plan.target_violations
        drawn = {
            "violations": self._curves(found, [VIOLATIONS], line=target, loads=True),
            "latency": self._curves(found, LATENCY, log_y=True),
            "rates": self._curves(found, RATES, log_y=True, linear=True),
            "efficiency": self._curves(
                found, ["throughput_efficiency", "goodput_efficiency"], log_y=True, line=1.0
            ),
            "latencies": self._shares(found, found.runs),
        }
        if found.plan.engine == "iteration":
            return drawn | {"tokens": self._curves(found, TOKENS, log_y=True)}
        return drawn | {
            "bins": self._bins(
                found.runs, ("latency_p99_s", "wait_max_s"), x="n_gpus", colour="bin", log_y=True
            ),
            "batch_sizes": self._shares(found, found.runs, batches=True),
        }


class HeldLoads(Step):
    """The same GPU counts with the arrival rate set so that ρ stays."""

    name, title = "step2b", "Step 2b: GPU scaling at held loads"
    axis, curves = "n_gpus", "target_load"
    sets: ClassVar[dict[str, Any]] = {"rps_scale": 1.0}

    def runs(self, plan: Plan, before: Mapping[str, pd.DataFrame]) -> list[PlannedRun]:
        """Loads × GPU counts × seeds; none where no rate sets a load."""
        work = one_gpu_loads(before["step2"])
        return [
            PlannedRun(plan.run(n, seed, rps_scale=held_rate(plan, load, n, rho)), load)
            for load in plan.loads
            for n in plan.gpu_counts
            for seed, rho in work.items()
        ]

    def verdict(self, found: StepResult) -> list[str]:
        """From how many GPUs on each load meets the target, and how many points are overloaded."""
        target = found.plan.target_violations
        loads: dict[str, list[float]] = {}
        for load, place in found.rates.groupby("target_load"):
            best = fewest_gpus(place, target)
            where = "on no GPU count" if best is None else f"from {count_text(best, 'GPU')} on"
            loads.setdefault(where, []).append(float(str(load)))
        parts = (f"{where} at ρ {_listed(at)}" for where, at in loads.items())
        return [
            f"At most {share_text(target)} late: {'; '.join(parts)}.",
            f"{_n_overloaded(found.rates)}: ρ counts on the largest batch, smaller ones cost more.",
        ]

    def figures(self, found: StepResult) -> dict[str, Figure]:
        """Violations and latency against GPUs, a curve per load."""
        target = found.plan.target_violations
        return {
            "violations": self._curves(found, [VIOLATIONS], line=target),
            "latency": self._curves(found, LATENCY, log_y=True),
        }


class BinNumbers(Step):
    """The largest volume with every number of bins, on the GPU count of step 2."""

    name, title = "step3", "Step 3: number of bins"
    axis = "n_bins"
    sets: ClassVar[dict[str, Any]] = {"n_bins": 1}
    takes = ("bins", "best_gpu_count", "target_violations")

    def runs(self, plan: Plan, before: Mapping[str, pd.DataFrame]) -> list[PlannedRun]:
        """Numbers of bins × seeds."""
        n_gpus, _ = choose_gpus(plan, before.get("step2"))
        return [
            PlannedRun(plan.run(n_gpus, seed, n_bins=n_bins))
            for n_bins in plan.bins
            for seed in plan.seeds_of()
        ]

    def notes(self, plan: Plan, before: Mapping[str, pd.DataFrame]) -> list[str]:
        """Which GPU count, and why."""
        return [f"Run on {choose_gpus(plan, before.get('step2'))[1]}."]

    def pairs(self, found: Sequence[Group]) -> list[Pair]:
        """Each number of bins against the next smaller one, and against the smallest."""
        return [*super().pairs(found), *((group, found[0]) for group in found[2:])]

    def verdict(self, found: StepResult) -> list[str]:
        """The number of bins with the fewest violations, and whether it differs from the first."""
        rows = rows_of(found.rates)
        best = min(rows, key=lambda row: row.mean)
        lines = [
            f"Fewest late or rejected with {count_text(best.n_bins, 'bin')}: "
            f"{share_text(best.mean, best.low, best.high)}."
        ]
        pairs = found.differences[found.differences["metric"] == VIOLATIONS]
        first = count_text(rows[0].n_bins, "bin")
        pairs = pairs[(pairs["against"] == first) & (pairs["n_bins"] == best.n_bins)]
        for pair in rows_of(pairs):
            ends = (100 * end for end in (pair.mean, pair.low, pair.high))
            points = interval_text(*ends, sign=True)
            lines.append(f"Against {first} that is {points} points, {pair.verdict}.")
        return lines

    def figures(self, found: StepResult) -> dict[str, Figure]:
        """Metrics against the number of bins, and what became of each bin."""
        by_place = {"x": "place", "colour": "n_bins"}
        drawn = {"bins": self._curves(found, [VIOLATIONS, "goodput_rps", *LATENCY])}
        if found.plan.engine == "iteration":
            drawn["tokens"] = self._curves(found, TOKENS, log_y=True)
        else:
            drawn["composition"] = self._bins(found.runs, COMPOSITION, **by_place)
            drawn["starvation"] = self._bins(found.runs, STARVATION, **by_place)
        return drawn | {"latencies": self._shares(found, found.runs)}


STEPS: tuple[Step, ...] = (RequestScaling(), GpuScaling(), HeldLoads(), BinNumbers())


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


def held_rate(plan: Plan, load: float, n_gpus: int, one_gpu_load: float) -> float:
    """The rate factor for this load, rounded up: the run's load is never below what was asked.

    ρ is in proportion to rate over GPUs, exactly.
    """
    exact = (plan.workload.rps_scale or 1.0) * load * n_gpus / one_gpu_load
    digits = 6 - math.ceil(math.log10(exact))
    return math.ceil(exact * 10.0**digits) / 10.0**digits


def choose_gpus(plan: Plan, runs: pd.DataFrame | None) -> tuple[int, str]:
    """The GPU count of step 3, and why: asked for, or what step 2 found.

    Raises
    ------
    ValueError
        If there is neither.
    """
    if plan.best_gpu_count is not None:
        return plan.best_gpu_count, f"{count_text(plan.best_gpu_count, 'GPU')}: as asked for"
    if runs is None or not (runs["status"] == "done").any():
        raise ValueError(
            "step 3 must have a GPU count, and step 2 is not in the folder with these settings; "
            "run step2 into it first, or give --best-gpu-count"
        )
    target = f"at most {share_text(plan.target_violations)} late"
    best = fewest_gpus(summary_table(runs), plan.target_violations)
    if best is not None:
        return int(best), f"{count_text(best, 'GPU')}: the fewest of step 2 with {target}"
    most = int(runs["n_gpus"].max())
    return most, f"{count_text(most, 'GPU')}: no count of step 2 has {target}, so the largest"


def _knee(done: pd.DataFrame, metric: str) -> str:
    """The knee of the mean curve in words, or that the replications do not agree on one."""
    curve = done.groupby("n_gpus")[metric].mean()
    at = knee(curve.index.to_numpy(), curve.to_numpy())
    own = [
        knee(one["n_gpus"].to_numpy(np.float64), one[metric].to_numpy(np.float64))
        for _, one in done.groupby("seed")
    ]
    if own.count(at) <= len(own) / 2:
        return f"{_gpus(sorted(set(own)), 'or')} (replications disagree)"
    ends = {max(curve.index): " (the largest count)", min(curve.index): " (the smallest count)"}
    return f"{count_text(at, 'GPU')}{ends.get(at, '')}"


def _gpus(counts: Sequence[float], word: str = "and") -> str:
    """`1 GPU`, `1, 2 and 4 GPUs`."""
    return f"{_listed(counts, word)} GPU{'' if list(counts) == [1] else 's'}"


def _listed(values: Iterable[float], word: str = "and") -> str:
    """`1, 2 and 4`."""
    *most, last = (f"{value:g}" for value in values)
    return f"{', '.join(most)} {word} {last}" if most else last


def _n_overloaded(rates: pd.DataFrame) -> str:
    """`9 of 12 points are overloaded`."""
    n = int((rates["load_label"] == "overloaded").sum())
    return f"{n} of {len(rates)} points are overloaded"
