"""Which figures a stress step has, their captions, and the tables that each is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from llmsched.studies.stress import bin_figures, figures
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.step_results import StepFigure
from llmsched.studies.stress.tables import batch_size_table, latency_table, per_bin_table

if TYPE_CHECKING:
    import pandas as pd

Gallery = dict[str, StepFigure]
COMPOSITION = (
    *("output_variance_mean", "output_range_mean"),
    *("output_max_over_mean", "batch_size_mean"),
)
STARVATION = ("sla_violation_rate", "wait_max_s", "latency_p99_s", "gpu_time_share")
SHAPES = "Shapes: load label; dot stable, triangle backlogged, cross overloaded."
LOAD_NOTE = "ρ is at the scheduler's largest batch; smaller ones cost more per request."


def step_figures(name: str, runs: pd.DataFrame, summary: pd.DataFrame, plan: Plan) -> Gallery:
    """The figures of a step by name; none where no run finished or served a single request."""
    served = runs.loc[runs["status"] == "done", "completed"]
    return _GALLERIES[name](runs, summary, plan) if (served > 0).any() else {}


def _step1(runs: pd.DataFrame, summary: pd.DataFrame, plan: Plan) -> Gallery:
    largest = runs[runs["requests_asked"] == runs["requests_asked"].max()]
    most = largest[largest["n_gpus"] == largest["n_gpus"].max()]
    volume, where = f"{largest['requests_asked'].iloc[0]} requests", _gpus(most)
    loads = _loads(summary)
    return {
        "step1_violations": StepFigure(
            f"Violations against volume, all schedulers on equal GPUs. {_means(runs)} {SHAPES} "
            f"{loads}",
            partial(figures.violations_against_volume, summary),
        ),
        "step1_latency": StepFigure(
            f"Latency against volume. {_means(runs)} {SHAPES} In overload it grows with the run.",
            partial(figures.latency_against_volume, summary),
        ),
        "step1_rates": StepFigure(
            f"Throughput and goodput against volume. {_means(runs)} {SHAPES}",
            partial(figures.goodput_against_volume, summary),
        ),
        "step1_latencies": StepFigure(
            f"Latency distributions of completed requests, {volume}, quantiles averaged over "
            f"{_replications(runs)}; dashed: the SLA, {plan.base.sla_s:g} s.",
            lambda: bin_figures.latency_distributions(
                latency_table(largest),
                colour="scheduler",
                sla_s=plan.base.sla_s,
                panels="n_gpus",
            ),
        ),
        "step1_bins": StepFigure(
            f"Each bin's violations, longest wait, P99 latency and GPU time, {volume} on {where}; "
            f"'all' is the one queue of the schedulers without bins. {_means(runs)}",
            lambda: bin_figures.bins_by_scheduler(per_bin_table(most), STARVATION),
        ),
        "step1_composition": StepFigure(
            f"What batches are made of, {volume} on {where}: means over a bin's batches. "
            f"{_means(runs)}",
            lambda: bin_figures.bins_by_scheduler(per_bin_table(most), COMPOSITION),
        ),
        "step1_batch_sizes": StepFigure(
            f"Batch sizes, {volume}, pooled over {_replications(runs)}.",
            lambda: bin_figures.batch_sizes(
                batch_size_table(largest), colour="scheduler", panels="n_gpus"
            ),
        ),
    }


def _step2(runs: pd.DataFrame, summary: pd.DataFrame, plan: Plan) -> Gallery:
    fewest = f"{summary['n_gpus'].min():.0f}"
    return {
        "step2_violations": StepFigure(
            f"Violations against GPUs, with the offered load; dashed: the target of "
            f"{plan.target_violations:.3g}. {_means(runs)} {SHAPES} {LOAD_NOTE}",
            partial(figures.violations_against_gpus, summary, target=plan.target_violations),
        ),
        "step2_latency": StepFigure(
            f"Latency against GPUs. {_means(runs)} {SHAPES}",
            partial(figures.latency_against_gpus, summary),
        ),
        "step2_rates": StepFigure(
            f"Throughput and goodput against GPUs; dashed: linear growth from {fewest}. "
            f"{_means(runs)} {SHAPES}",
            partial(figures.rates_against_gpus, summary),
        ),
        "step2_efficiency": StepFigure(
            f"Scaling efficiency: the rate over linear growth from {fewest}, which is 1. It "
            f"exceeds 1 where the fewest GPUs are overloaded. {_means(runs)} {SHAPES}",
            partial(figures.efficiency_against_gpus, summary),
        ),
        "step2_latencies": StepFigure(
            f"Latency distributions of completed requests, quantiles averaged over "
            f"{_replications(runs)}; dashed: the SLA, {plan.base.sla_s:g} s.",
            lambda: bin_figures.latency_distributions(
                latency_table(runs), colour="n_gpus", sla_s=plan.base.sla_s
            ),
        ),
        "step2_bins": StepFigure(
            f"Each bin's P99 latency and longest wait against GPUs. {_means(runs)}",
            lambda: bin_figures.bins_by_gpus(per_bin_table(runs), ("latency_p99_s", "wait_max_s")),
        ),
        "step2_batch_sizes": StepFigure(
            f"Batch sizes, pooled over {_replications(runs)}.",
            lambda: bin_figures.batch_sizes(batch_size_table(runs), colour="n_gpus"),
        ),
    }


def _step2b(runs: pd.DataFrame, summary: pd.DataFrame, plan: Plan) -> Gallery:
    return {
        "step2b_violations": StepFigure(
            f"Violations against GPUs at held loads; dashed: the target of "
            f"{plan.target_violations:.3g}. {_means(runs)} {SHAPES} {LOAD_NOTE}",
            partial(figures.held_loads_violations, summary, target=plan.target_violations),
        ),
        "step2b_latency": StepFigure(
            f"Latency against GPUs at held loads. {_means(runs)} {SHAPES} {LOAD_NOTE}",
            partial(figures.held_loads_latency, summary),
        ),
    }


def _step3(runs: pd.DataFrame, summary: pd.DataFrame, plan: Plan) -> Gallery:
    where = f"{summary['requests'].iloc[0]} requests on {_gpus(runs)}"
    return {
        "step3_bins": StepFigure(
            f"Violations, goodput and latency against the number of bins, {where}. {_means(runs)} "
            f"{SHAPES} {_loads(summary)}",
            partial(figures.bins_sensitivity, summary),
        ),
        "step3_composition": StepFigure(
            f"What batches are made of, bin by bin, {where}: means over a bin's batches. "
            f"{_means(runs)}",
            lambda: bin_figures.bins_by_number(per_bin_table(runs), COMPOSITION),
        ),
        "step3_starvation": StepFigure(
            f"Each bin's violations, longest wait, P99 latency and GPU time, {where}. "
            f"{_means(runs)}",
            lambda: bin_figures.bins_by_number(per_bin_table(runs), STARVATION),
        ),
        "step3_latencies": StepFigure(
            f"Latency distributions of completed requests, {where}, quantiles averaged over "
            f"{_replications(runs)}; dashed: the SLA, {plan.base.sla_s:g} s.",
            lambda: bin_figures.latency_distributions(
                latency_table(runs), colour="n_bins", sla_s=plan.base.sla_s
            ),
        ),
    }


_GALLERIES: Mapping[str, Callable[[pd.DataFrame, pd.DataFrame, Plan], Gallery]] = {
    "step1": _step1,
    "step2": _step2,
    "step2b": _step2b,
    "step3": _step3,
}


def _means(runs: pd.DataFrame) -> str:
    """What points and bars are."""
    n = runs["seed"].nunique()
    if n == 1:
        return "Points: one replication, so no interval."
    return f"Points: means over {n} replications; bars: 95 % intervals, cut at what can be drawn."


def _replications(runs: pd.DataFrame) -> str:
    n = runs["seed"].nunique()
    return f"{n} replication{'' if n == 1 else 's'}"


def _gpus(runs: pd.DataFrame) -> str:
    n = runs["n_gpus"].iloc[0]
    return f"{n:.0f} GPU{'' if n == 1 else 's'}"


def _loads(summary: pd.DataFrame) -> str:
    """The offered loads at the largest volume: from the fewest GPUs to the most, per scheduler."""
    largest = summary[summary["requests"] == summary["requests"].max()]
    ranges = [
        f"{scheduler} {place['offered_load'].max():.2g} to {place['offered_load'].min():.2g}"
        for scheduler, place in largest.groupby("scheduler", sort=False)
    ]
    return f"Offered loads ρ at the largest volume: {', '.join(ranges)}."
