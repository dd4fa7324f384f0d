"""The stress plan: its runs, what follows from them, resuming, and the same bytes anywhere."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from conftest import plan_scenario, plan_simulate as simulate
from llmsched.cli.main import main
from llmsched.prediction.binning import Binning
from llmsched.simulation.scenario import Scenario, as_scenario
from llmsched.simulation.sweep.sweep import load_results, sweep
from llmsched.studies.stress.findings import (
    Findings,
    common_statements,
    load_text,
    step1_statements,
    step2_statements,
    step2b_statements,
    step3_statements,
)
from llmsched.studies.stress.plan import SCHEDULERS, Plan, step1, step2, step2b, step3
from llmsched.studies.stress.results import AGAINST, PAIRS
from llmsched.studies.stress.run import (
    SweepOptions,
    available,
    choose_gpus,
    one_gpu_loads,
    read_runs,
    run_steps,
)
from llmsched.studies.stress.tables import (
    PER_BIN_METRICS,
    batch_size_table,
    differences,
    fewest_gpus,
    groups,
    knee,
    latency_table,
    per_bin_table,
    summary_table,
    with_scaling,
)
from llmsched.workload.slo import Slo
from llmsched.workload.workload import Workload

DATA = Path(__file__).parents[2] / "shared" / "data"
ONE_JOB = SweepOptions(jobs=1)
TINY = Plan(
    volumes=(60, 120),
    gpu_counts=(1, 2),
    bins=(1, 3),
    loads=(0.9,),
    replications=2,
    base=plan_scenario(binning=Binning(n_bins=2)),
)
ALL = ("step1", "step2", "step3")

# a tiny run has its bins merged now and then, which is the runs' affair
pytestmark = pytest.mark.filterwarnings("ignore:.*equal-mass bins asked for.*:UserWarning")


def write_trace(path: Path, n: int = 80, *, gap_s: float = 1.0) -> Path:
    """A request every `gap_s` seconds, of unequal lengths."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(20, 900, (n, 2))
    rows = [f"{i * gap_s},{p},{o}" for i, (p, o) in enumerate(lengths)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    return path


def tables(out: Path) -> dict[str, bytes]:
    """Every table of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("step*"))}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A tiny plan, run in one process: its folder and its result."""
    out = tmp_path_factory.mktemp("stress")
    return out, run_steps(TINY, ALL, out, command="test", options=ONE_JOB)


# The plan


def test_plan__has_the_runs_that_the_stress_plan_asks_for_and_equal_gpus_beside():
    plan = Plan()
    asked = {
        (run.config.workload.requests, run.config.scheduler, run.config.hardware.n_gpus)
        for run in step1(plan)
    }
    for volume in (1_000, 10_000, 100_000, 1_000_000):
        for scheduler in ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic"):
            assert {(volume, scheduler, n) for n in (1, 2, 4)} <= asked
    assert len(asked) == 4 * 3 * len(SCHEDULERS)
    assert [run.config.hardware.n_gpus for run in step2(replace(plan, replications=1))] == [
        *(1, 2, 4, 8, 16, 32, 64, 100)
    ]
    scaled = [*step2(plan), *step3(plan, 100), *step2b(plan, {0: 2.0})]
    assert {run.config.workload.requests for run in scaled} == {1_000_000}
    bins = [run.config.binning.n_bins for run in step3(replace(plan, replications=1), 100)]
    assert bins == [1, 2, 4, 8, 16, 32]
    settings = {run.config.sla_s for run in step1(plan)}
    scales = {run.config.workload.rps_scale for run in step1(plan)}
    assert (settings, scales, plan.base.binning.n_bins) == ({1.0}, {200.0}, 4)


def test_plan__replicates_only_what_is_random(tmp_path):
    file = Workload(source=str(write_trace(tmp_path / "t.csv")))
    plan = Plan(base=plan_scenario(workload=file), volumes=(50,), replications=3)
    seeds = {name: plan.seeds_of(name) for name in SCHEDULERS}
    assert seeds["static_fifo"] == seeds["dynamic_no_bins"] == (0,)
    assert seeds["multi_bin_dynamic"] == (0, 1, 2)  # the predictor's noise
    assert replace(plan, base=replace(plan.base, predictor="oracle")).seeds_of(
        "multi_bin_dynamic"
    ) == (0,)
    jittered = replace(plan.base, workload=replace(file, jitter_s=1.0))
    assert replace(plan, base=jittered).seeds_of("static_fifo") == (0, 1, 2)
    assert Plan(base=plan_scenario(seed=5), replications=2).seeds_of("static_fifo") == (5, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volumes": ()}, "volumes must be increasing numbers > 0, got none"),
        ({"volumes": (10, 10)}, "got 10, 10"),
        ({"gpu_counts": (2, 1)}, "gpu_counts must be increasing"),
        ({"gpu_counts": (0, 1)}, "got 0, 1"),
        ({"loads": (math.nan,)}, "got nan"),
        ({"loads": (0.5, math.inf)}, "got 0.5, inf"),
        ({"bins": (1, 65)}, r"bins must be in \[1, 64\], got 65"),
        ({"best_gpu_count": 0}, "best_gpu_count must be >= 1, got 0"),
        ({"target_violations": 1.0}, "got 1"),
        ({"replications": 0}, "replications must be >= 1, got 0"),
        ({"base": plan_scenario(workload=Workload(requests=5))}, "set by volumes, got 5"),
    ],
)
def test_plan__refuses_what_cannot_be_run(change, message):
    with pytest.raises(ValueError, match=message):
        Plan(**change)


def test_step1__compares_on_the_three_smallest_gpu_counts_unless_told():
    assert Plan(gpu_counts=(2, 3, 5, 7)).step1_gpu_counts == (2, 3, 5)
    assert Plan(compared_gpu_counts=(7,)).step1_gpu_counts == (7,)


def test_step2b__rate_is_in_proportion_to_load_and_gpus_rounded_up():
    # given ρ = 2 and 3 on one GPU, at 200 times the rate, of two replications
    plan = Plan(gpu_counts=(1, 4), loads=(0.5, 0.7), replications=2)
    runs = step2b(plan, {0: 2.0, 1: 3.0})
    # then the rate is 200 * load * GPUs / ρ, to 6 digits, never below
    rates = {
        (
            run.target_load,
            run.config.hardware.n_gpus,
            run.config.seed,
        ): run.config.workload.rps_scale
        for run in runs
    }
    assert len(rates) == len(runs) == 8
    assert rates[0.5, 1, 0] == 50.0
    assert rates[0.5, 4, 0] == 200.0
    assert rates[0.5, 1, 1] == 33.3334
    assert rates[0.7, 4, 1] == 186.667


# Tables, by hand


def runs_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Runs with the columns that the tables need; what a row leaves out is as below."""
    usual = {
        "status": "done",
        "error": None,
        "random": True,
        "scheduler": "multi_bin_dynamic",
        "n_gpus": 1.0,
        "requests_asked": 10,
        "n_bins": 4,
        "target_load": math.nan,
        "offered_load": 0.5,
        "load_label": "stable",
        "sla_violation_rate": 0.1,
        "goodput_rps": 9.0,
        "throughput_rps": 10.0,
    }
    frame = pd.DataFrame([usual | row for row in rows])
    for metric in set(METRIC_COLUMNS) - set(frame):
        frame[metric] = 1.0
    return frame


METRIC_COLUMNS = (
    *("throughput_tps", "output_tps", "latency_mean_s", "latency_p50_s", "latency_p95_s"),
    *("latency_p99_s", "latency_max_s", "queueing_mean_s", "service_mean_s", "gpu_utilization"),
    *("batch_size_mean", "padding_waste", "rejected", "makespan_s"),
)


def test_summary__has_student_intervals_and_the_usual_label_and_mean_load():
    rates, labels = (0.1, 0.2, 0.3), ("stable", "overloaded", "stable")
    runs = runs_of(
        [
            {"seed": seed, "sla_violation_rate": rate, "load_label": label, "offered_load": rate}
            for seed, (rate, label) in enumerate(zip(rates, labels, strict=True))
        ]
    )
    summary = summary_table(runs).set_index("metric")
    row = summary.loc["sla_violation_rate"]
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom, standard deviation 0.1
    assert [row["mean"], row["low"], row["high"]] == pytest.approx(
        [0.2, 0.2 - half, 0.2 + half], rel=1e-6
    )
    assert (row["n"], row["load_label"], row["n_label"]) == (3, "stable", 2)
    assert load_text(row) == "ρ 0.2, stable 2 of 3"
    assert row["offered_load"] == pytest.approx(0.2)
    # and labels that tie count as the worse
    summary = summary_table(runs[:2])
    assert set(summary["load_label"]) == {"overloaded"}
    # and one that all have stands alone, also where all arrive at once
    alone = summary_table(runs[:1].assign(offered_load=math.nan)).iloc[0]
    assert load_text(alone) == "ρ infinite, stable"


def test_summary__leaves_failed_runs_out_of_means_and_one_run_without_interval():
    runs = runs_of(
        [
            {"seed": 0, "goodput_rps": 5.0},
            {"seed": 1, "status": "failed", "goodput_rps": math.nan},
            {"seed": 0, "n_gpus": 2.0, "status": "failed"},
            {"seed": 0, "n_gpus": 4.0, "random": False, "goodput_rps": 7.0},
        ]
    )
    rows = summary_table(runs).query("metric == 'goodput_rps'").set_index("n_gpus")
    assert list(rows.index) == [1.0, 4.0]
    assert rows.loc[1.0, "mean"] == 5.0
    assert math.isnan(rows.loc[1.0, "low"])
    assert rows.loc[4.0, ["mean", "low", "high"]].tolist() == [7.0, 7.0, 7.0]


def test_differences__are_paired_by_seed():
    # given goodputs that vary between seeds far more than between the two
    runs = runs_of(
        [
            {"seed": seed, "n_gpus": n_gpus, "goodput_rps": 100.0 * seed + gain}
            for n_gpus, gains in ((1.0, (0, 0, 0)), (2.0, (1, 2, 3)))
            for seed, gain in enumerate(gains)
        ]
    )
    one, two = (group for group, _ in groups(runs))
    table = differences(runs, [(two, one)], names=["n_gpus"], metrics=["goodput_rps"])
    (row,) = table.to_dict("records")
    half = 4.302653 * 1.0 / math.sqrt(3)
    assert [row["mean"], row["low"], row["high"]] == pytest.approx([2, 2 - half, 2 + half], 1e-6)
    assert (row["what"], row["against"], row["n"]) == ("2 GPUs", "1 GPU", 3)
    assert row["verdict"] == "within the noise"
    # and over the seeds that both have
    runs.loc[runs["n_gpus"].eq(2.0) & runs["seed"].eq(0), "status"] = "failed"
    (row,) = differences(runs, [(two, one)], names=["n_gpus"], metrics=["goodput_rps"]).to_dict(
        "records"
    )
    assert (row["mean"], row["n"]) == (2.5, 2)


def test_differences__are_paired_by_seed_not_by_rank():
    # given goodputs that more GPUs turn around: 3, 1 and -1 more, seed by seed
    runs = runs_of(
        [
            {"seed": seed, "n_gpus": n_gpus, "goodput_rps": rate}
            for n_gpus, rates in ((1.0, (1.0, 2.0, 3.0)), (2.0, (4.0, 3.0, 2.0)))
            for seed, rate in enumerate(rates)
        ]
    )
    one, two = (group for group, _ in groups(runs))
    table = differences(runs, [(two, one)], names=["n_gpus"], metrics=["goodput_rps"])
    # then the interval is that of 3, 1 and -1; smallest with smallest, all would differ by 1
    half = 4.302653 * 2.0 / math.sqrt(3)
    assert table[["mean", "low", "high"]].values.tolist() == [
        pytest.approx([1, 1 - half, 1 + half], rel=1e-6)
    ]


def test_differences__of_what_is_not_random_hold_for_every_seed():
    runs = runs_of(
        [
            {"seed": 0, "scheduler": "static_fifo", "random": False, "goodput_rps": 1.0},
            {"seed": 0, "scheduler": "dynamic_no_bins", "random": False, "goodput_rps": 4.0},
            {"seed": 0, "goodput_rps": 2.0},
            {"seed": 1, "goodput_rps": 4.0},
        ]
    )
    static, dynamic, binned = (group for group, _ in groups(runs))
    pairs = [(binned, static), (static, binned), (dynamic, static)]
    table = differences(runs, pairs, names=["scheduler"], metrics=["goodput_rps"])
    assert table["mean"].tolist() == [2.0, -2.0, 3.0]
    assert table["n"].tolist() == [2, 2, 1]
    assert table["verdict"].tolist()[2] == "larger than the noise"
    assert table["low"].tolist()[2] == 3.0


def test_scaling__is_relative_to_the_fewest_gpus_of_the_same_seed():
    rates = {(0, 2): 10.0, (0, 4): 18.0, (1, 2): 20.0, (1, 4): 10.0}
    runs = runs_of(
        [
            {"seed": seed, "n_gpus": float(n), "throughput_rps": rate, "goodput_rps": 0.0}
            for (seed, n), rate in rates.items()
        ]
    )
    scaled = with_scaling(runs)
    assert scaled["throughput_speedup"].tolist() == [1.0, 1.8, 1.0, 0.5]
    assert scaled["throughput_efficiency"].tolist() == [1.0, 0.9, 1.0, 0.25]
    assert scaled["goodput_efficiency"].isna().all()  # nothing is relative to a goodput of 0


def test_knee__is_where_speedup_times_efficiency_is_highest():
    # by hand: rate² / GPUs is 100, 200, 324, 200
    assert knee([1, 2, 4, 8], [10.0, 20.0, 36.0, 40.0]) == 4
    assert knee([8, 4, 2, 1], [40.0, 36.0, 20.0, 10.0]) == 4  # in any order
    assert knee([1, 4], [10.0, 20.0]) == 1  # 100 and 100: the smaller
    assert knee([1, 2, 4], [1.0, 2.0, 4.0]) == 4  # linear: no knee within
    with pytest.raises(ValueError, match="no NaN"):
        knee([1, 2], [1.0, math.nan])


def test_fewest_gpus__takes_the_end_of_the_interval_and_the_mean_without_one():
    def summary(rows):
        columns = ["n_gpus", "mean", "low", "high"]
        return pd.DataFrame(rows, columns=columns).assign(metric="sla_violation_rate")

    rows = [(8.0, 0.01, 0.01, 0.01), (2.0, 0.04, 0.02, 0.06), (4.0, 0.03, 0.02, 0.05)]
    assert fewest_gpus(summary(rows), 0.05) == 4
    assert fewest_gpus(summary(rows), 0.005) is None
    assert fewest_gpus(summary([(2.0, 0.04, math.nan, math.nan)]), 0.05) == 2


def test_pairs__of_held_loads_are_within_a_load_and_of_bins_go_back_to_the_first():
    def group(**values):
        return {"n_gpus": 1, "n_bins": 4, "target_load": math.nan, **values}

    held = [group(n_gpus=n, target_load=load) for load in (0.7, 0.9) for n in (1, 2, 4)]
    assert PAIRS["step2b"](held) == [
        (held[1], held[0]),
        (held[2], held[1]),
        (held[4], held[3]),
        (held[5], held[4]),
    ]
    static, dynamic, binned, adaptive = (group(scheduler=name, requests=9) for name in SCHEDULERS)
    elsewhere = group(scheduler="static_fifo", requests=9, n_gpus=2)
    assert PAIRS["step1"]([static, dynamic, binned, adaptive, elsewhere]) == [
        (dynamic, static),
        (binned, static),
        (adaptive, static),
        (binned, dynamic),
        (adaptive, binned),
    ]
    scaled = [group(n_gpus=n) for n in (1, 2, 4)]
    assert PAIRS["step2"](scaled) == [(scaled[1], scaled[0]), (scaled[2], scaled[1])]
    bins = [group(n_bins=n) for n in (1, 2, 4)]
    assert PAIRS["step3"](bins) == [(bins[1], bins[0]), (bins[2], bins[1]), (bins[2], bins[0])]


def test_batch_sizes__are_pooled_over_the_runs_of_a_group():
    # given 3 batches of 1 and one of 2 under one seed, and one of 1 under the other
    runs = runs_of(
        [
            {"seed": 0, "batch_size_counts": [0, 3, 1]},
            {"seed": 1, "batch_size_counts": [0, 1]},
        ]
    )
    table = batch_size_table(runs)
    assert table["batch_size"].tolist() == [1, 2]
    assert table["share"].tolist() == [0.8, 0.2]


def test_one_gpu_loads__are_those_of_one_gpu_wherever_the_plan_begins():
    # given ρ = 1.2 and 1.6 on one GPU, and runs on 2 and 4, one of which failed
    runs = runs_of(
        [
            {"seed": 0, "n_gpus": 2.0, "offered_load": 0.6},
            {"seed": 1, "n_gpus": 2.0, "status": "failed", "offered_load": math.nan},
            {"seed": 0, "n_gpus": 4.0, "offered_load": 0.3},
            {"seed": 1, "n_gpus": 4.0, "offered_load": 0.4},
        ]
    )
    assert one_gpu_loads(runs) == {0: pytest.approx(1.2), 1: pytest.approx(1.6)}


# Sentences, by hand


def findings(rows: list[dict[str, Any]], name: str = "step1") -> Findings:
    """What the runs of these rows amount to; nothing is random, so that no interval is in them."""
    usual = {"random": False, "seed": 0, "notes": None, "requests": 10, "rejected": 0}
    runs = runs_of([usual | row for row in rows])
    found = [group for group, _ in groups(runs)]
    table = differences(
        runs, PAIRS[name](found), names=AGAINST[name], metrics=["sla_violation_rate"]
    )
    return Findings(runs=runs, summary=summary_table(runs), differences=table, target=0.05)


def bins_of(*given: dict[str, float]) -> list[dict[str, float]]:
    """Bins of a run; what is not given is 1."""
    return [
        {"bin": index, **dict.fromkeys(PER_BIN_METRICS, 1.0), **one}
        for index, one in enumerate(given)
    ]


def test_statements__of_step_1_tell_what_the_gpus_do_from_what_the_bins_do():
    # given 90 % on one GPU and 30 % on four for static_fifo, 10 % on four with bins
    fifo = {"scheduler": "static_fifo", "n_bins": 1, "per_bin": bins_of({})}
    binned = {"n_gpus": 4.0, "per_bin": bins_of({}, {})}
    found = findings(
        [
            {**fifo, "key": "a", "sla_violation_rate": 0.9},
            {**fifo, "key": "b", "n_gpus": 4.0, "sla_violation_rate": 0.3},
            {**binned, "key": "c", "sla_violation_rate": 0.1},
            # and 50 % everywhere at a smaller volume
            {**fifo, "key": "d", "requests_asked": 5, "sla_violation_rate": 0.5},
            {**fifo, "key": "e", "requests_asked": 5, "n_gpus": 4.0, "sla_violation_rate": 0.5},
            {**binned, "key": "f", "requests_asked": 5, "sla_violation_rate": 0.5},
        ]
    )
    assert step1_statements(found)[0] == (
        "On 1 GPU, 10 requests, late or rejected: static_fifo 90 %, ρ 0.5, stable."
    )
    assert (
        "static_fifo on 1 GPU against multi_bin_dynamic on 4 GPUs is 90 % against 10 % "
        "violations; of these 80 points, 60 points are due to the GPUs, as static_fifo on 4 GPUs "
        "has 30 %." in step1_statements(found)
    )


def test_statements__of_step_1_name_the_bin_that_waits_longest():
    rows = bins_of(
        {"latency_p99_s": 5.0, "wait_max_s": 4.0, "gpu_time_share": 0.2, "request_share": 0.5},
        {"latency_p99_s": 60.0, "wait_max_s": 50.0, "gpu_time_share": 0.5, "request_share": 0.1},
        {"latency_p99_s": 7.0, "wait_max_s": 6.0, "gpu_time_share": 0.3, "request_share": 0.4},
    )
    statements = step1_statements(findings([{"key": "a", "per_bin": rows}]))
    assert statements[-1] == (
        "multi_bin_dynamic on 1 GPU: bin 1 of 3 waits longest, up to 50 s; its 99th percentile of "
        "latency is 60 s beside 5 to 7 s, and it has 50 % of the GPU time for 10 % of the requests."
    )


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        # rate² / GPUs is 100, 200, 121; then largest at either end
        ((10.0, 20.0, 22.0), "on 2 GPUs, the knee"),
        ((10.0, 20.0, 40.0), "on 4 GPUs, the largest count: no knee within the range"),
        ((10.0, 11.0, 12.0), "on 1 GPU, the smallest count: the knee is there or below"),
    ],
)
def test_statements__of_step_2_say_where_the_knee_is(rates, text):
    found = findings(
        [
            {"n_gpus": n_gpus, "throughput_rps": rate}
            for n_gpus, rate in zip((1.0, 2.0, 4.0), rates, strict=True)
        ],
        "step2",
    )
    (sentence,) = [one for one in step2_statements(found) if one.startswith("By throughput")]
    assert sentence.endswith(f"is highest {text} (1 of 1 replications agree).")


def test_statements__of_step_2_name_no_knee_where_replications_disagree():
    # given knees on 1, 2 and 4 GPUs: rate^2 / GPUs is highest there
    rates = {0: (10.0, 11.0, 12.0), 1: (10.0, 19.0, 20.0), 2: (10.0, 19.0, 37.0)}
    found = findings(
        [
            {"n_gpus": n_gpus, "throughput_rps": rate, "seed": seed, "random": True}
            for seed, curve in rates.items()
            for n_gpus, rate in zip((1.0, 2.0, 4.0), curve, strict=True)
        ],
        "step2",
    )
    (sentence,) = [one for one in step2_statements(found) if one.startswith("By throughput")]
    assert sentence == (
        "By throughput, no knee can be named: speedup times efficiency is highest on 1, 2, 4 GPUs "
        "in the replications, and on 2 for their mean rates."
    )


def test_statements__say_that_requests_were_rejected():
    found = findings([{"n_bins": 1, "rejected": 4}, {"n_bins": 2, "rejected": 1}], "step3")
    assert any(
        one.startswith("In the worst run 40 % of the requests are too large")
        for one in common_statements(found)
    )


def test_statements__of_step_2b_bound_the_loads_of_all_runs():
    # given loads of 0.5 to be held, and one run at 0.6
    found = findings(
        [
            {"n_gpus": n_gpus, "target_load": 0.5, "offered_load": load}
            for n_gpus, load in ((1.0, 0.5), (2.0, 0.6), (4.0, 0.5))
        ],
        "step2b",
    )
    assert step2b_statements(found)[0].startswith(
        "Offered loads are within 0.2 of the target, as a share of it, in all 3 runs;"
    )


def test_statements__of_step_3_name_the_lowest_rate_and_its_difference():
    # given 30, 10 and 20 % with 1, 2 and 4 bins, of which ties leave 3
    found = findings(
        [
            {"n_bins": n_bins, "bins": left, "sla_violation_rate": rate}
            for n_bins, left, rate in ((1, 1, 0.3), (2, 2, 0.1), (4, 3, 0.2))
        ],
        "step3",
    )
    _, best, *others = step3_statements(found)
    assert best == "The lowest rate is at 2 bins: 10 %."
    assert others == [
        "2 bins less 1 bin: -20 points violations, larger than the noise.",
        "4 bins less 1 bin: -10 points violations, larger than the noise.",
        "Of 4 bins asked for, tied lengths leave 3 to 3.",
    ]


def test_statements__count_what_exceeds_the_noise_and_name_the_rest():
    # given that 4 bins violate as much as 2
    rates = ((1, 0.3), (2, 0.1), (4, 0.1))
    found = findings(
        [{"n_bins": n_bins, "sla_violation_rate": rate} for n_bins, rate in rates], "step3"
    )
    assert common_statements(found) == [
        "2 of 3 differences in violations are larger than the noise; not so: 4 bins against 2 bins."
    ]


# Running it


def test_run__holds_the_loads_that_step_2b_asks_for(done):
    _, result = done
    (held,) = [step for step in result.steps if step.name == "step2b"]
    ratio = held.runs["offered_load"] / held.runs["target_load"]
    # never below but for rounding in the last digits of ρ, and 6 digits of the rate above
    assert ratio.min() > 1 - 1e-12
    assert ratio.max() < 1 + 1.1e-5
    assert len(held.runs) == 2 * 2
    assert "of the target, as a share of it, in all 4 runs" in held.statements[0]


def test_run__at_another_rate_is_the_one_that_simulate_gives(tmp_path):
    # the requests are kept once and scaled per run: to the last bit what a load at that rate gives
    configs = [
        plan_scenario(
            workload=Workload(requests=200, rps_scale=scale),
            scheduler="multi_bin_dynamic",
            n_gpus=2,
            seed=1,
        )
        for scale in (1.0, 33.3334, 200.0)
    ]
    results = sweep(configs, tmp_path, jobs=1)
    for config, row in zip(configs, results.to_dict("records"), strict=True):
        run = simulate(config.workload, config.scheduler, n_gpus=2, seed=1)
        assert row["latency_mean_s"] == run.metrics.latency_mean_s
        assert row["makespan_s"] == run.metrics.makespan_s
        assert row["offered_load"] == run.offered_load
    assert results["trace_sha256"].nunique() == 3


def test_run__has_all_steps_with_tables_statements_and_figures(done):
    out, result = done
    assert [step.name for step in result.steps] == ["step1", "step2", "step2b", "step3"]
    n_runs = {step.name: len(step.runs) for step in result.steps}
    assert n_runs == {"step1": 2 * 2 * 4 * 2, "step2": 4, "step2b": 4, "step3": 4}
    for step in result.steps:
        assert set(step.runs["status"]) == {"done"}
        assert {"requests_asked", "n_bins", "target_load"} <= set(step.runs)
        assert step.statements
        assert step.figures
        assert len(step.differences)
        assert step.differences["verdict"].notna().all()
        assert set(step.summary["n"]) == {2}
        assert step.summary["load_label"].isin(["stable", "backlogged", "overloaded"]).all()
        for suffix in (".csv", "_summary.csv", "_differences.csv", "_per_bin.csv"):
            assert (out / f"{step.name}{suffix}").stat().st_size > 100
    # what is compared is compared on equal GPUs and volumes, everyone against static_fifo
    first = result.steps[0]
    binned = {name: set(rows["n_bins"]) for name, rows in first.runs.groupby("scheduler")}
    assert binned == {name: {2 if "bin_" in name else 1} for name in SCHEDULERS}
    against = first.differences.query("against == 'static_fifo' and metric == 'goodput_rps'")
    assert len(against) == 2 * 2 * 3
    assert result.steps[3].statements[0].startswith("2 GPUs: ")


def test_run__summary_equals_the_runs_it_is_of(done):
    _, result = done
    step = result.steps[1]
    row = step.summary.query("metric == 'goodput_rps' and n_gpus == 2").iloc[0]
    own = step.runs.query("n_gpus == 2")["goodput_rps"]
    assert row["mean"] == pytest.approx(own.mean(), rel=1e-15)
    per_bin = per_bin_table(step.runs)
    shares = per_bin.query("metric == 'request_share' and n_gpus == 2")["mean"]
    assert shares.sum() == pytest.approx(1.0)
    latencies = latency_table(step.runs).query("n_gpus == 2")
    assert latencies["latency_s"].is_monotonic_increasing
    longest = step.runs.query("n_gpus == 2")["latency_max_s"].mean()
    assert latencies["latency_s"].iloc[-1] == pytest.approx(longest)


def test_run__has_the_same_bytes_on_two_processes(done, tmp_path):
    run_steps(TINY, ALL, tmp_path, command="test", options=SweepOptions(jobs=2))
    assert tables(tmp_path) == tables(done[0])


def test_run__of_one_step_after_another_has_the_same_bytes_and_does_nothing_twice(done, tmp_path):
    for step in ALL:
        result = run_steps(TINY, [step], tmp_path, command="test", options=ONE_JOB)
    assert [step.name for step in result.steps] == ["step1", "step2", "step2b", "step3"]
    assert tables(tmp_path) == tables(done[0])
    runs: list[Any] = []
    again = SweepOptions(jobs=1, on_done=runs.append)
    run_steps(TINY, ALL, tmp_path, command="test", options=again)
    assert runs == []
    assert tables(tmp_path) == tables(done[0])


@pytest.mark.filterwarnings("ignore:.*step2b.parquet has another workload:UserWarning")
def test_run__leaves_steps_of_other_settings_out_and_says_so(tmp_path):
    run_steps(TINY, ["step2"], tmp_path, command="test", options=ONE_JOB)
    other = replace(TINY, base=replace(TINY.base, slo=Slo(latency_s=0.5)))
    with pytest.warns(UserWarning, match="step2.parquet has another workload or other settings"):
        result = run_steps(other, ["step1"], tmp_path, command="test", options=ONE_JOB)
    assert [step.name for step in result.steps] == ["step1"]
    assert result.steps[0].runs["slo_latency_s"].unique() == [0.5]
    # nor is step 3 chosen by them
    with (
        pytest.warns(UserWarning, match="step2.parquet"),
        pytest.raises(ValueError, match="run step2 into it first, or give --best-gpu-count"),
    ):
        run_steps(other, ["step3"], tmp_path, command="test", options=ONE_JOB)


def test_runs__of_another_arrival_rate_are_left_out(done):
    workload = replace(TINY.workload, rps_scale=100.0)
    slower = replace(TINY, base=replace(TINY.base, workload=workload))
    for name in ("step1", "step2", "step3"):
        with pytest.warns(UserWarning, match=f"{name}.parquet has another workload"):
            assert read_runs(slower, done[0], name) is None
    # but for step 2b, whose loads set its rates: those runs are the same ones
    assert read_runs(slower, done[0], "step2b") is not None


@pytest.mark.parametrize("change", [{"volumes": (60,)}, {"base": replace(TINY.base, seed=7)}])
def test_step3__is_not_chosen_by_a_step_2_of_other_requests(change, tmp_path):
    plan = replace(TINY, gpu_counts=(1,), **change)
    run_steps(plan, ["step2"], tmp_path, command="test", options=ONE_JOB)
    with pytest.raises(ValueError, match="run step2 into it first"):
        run_steps(TINY, ["step3"], tmp_path, command="test", options=ONE_JOB)


def test_run__says_which_runs_failed_and_does_them_again_when_asked(tmp_path, monkeypatch):
    from llmsched.simulation.sweep import runs as sweep_backends

    serve = sweep_backends.serve

    def breaking(scenario: Scenario, *args: Any, **options: Any) -> Any:
        if scenario.hardware.n_gpus == 2 and scenario.seed == 1:
            raise RuntimeError("out of luck")
        return serve(scenario, *args, **options)

    monkeypatch.setattr(sweep_backends, "serve", breaking)
    result = run_steps(TINY, ["step2"], tmp_path, command="test", options=ONE_JOB)
    scaling, held = result.steps
    (failed,) = [one for one in scaling.statements if "FAILED" in one]
    assert failed.startswith("1 of 4 runs FAILED and are in no mean: multi_bin_dynamic, 2 GPUs")
    assert "RuntimeError: out of luck" in failed
    assert scaling.summary.query("n_gpus == 2")["n"].unique() == [1]
    assert "1 of 4 runs FAILED" in " ".join(held.statements)
    # when luck is back, only a sweep that is asked to does them again
    monkeypatch.setattr(sweep_backends, "serve", serve)
    result = run_steps(TINY, ["step2"], tmp_path, command="test", options=ONE_JOB)
    assert (result.steps[0].runs["status"] == "failed").sum() == 1
    retry = SweepOptions(jobs=1, retry_failed=True)
    result = run_steps(TINY, ["step2"], tmp_path, command="test", options=retry)
    assert set(result.steps[0].runs["status"]) == {"done"}


def test_run__where_all_fails_has_no_figures_and_no_means(tmp_path, monkeypatch):
    from llmsched.simulation.sweep import runs as sweep_backends

    def broken(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(sweep_backends, "serve", broken)
    with pytest.warns(UserWarning, match="step 2b is left out"):
        result = run_steps(TINY, ["step1", "step2"], tmp_path, command="test", options=ONE_JOB)
    assert [step.name for step in result.steps] == ["step1", "step2"]
    for step in result.steps:
        assert not len(step.summary)
        assert not step.figures
        assert "FAILED" in step.statements[-1]


def test_run__of_requests_at_one_instant_has_no_step_2b(tmp_path):
    workload = Workload(source=str(write_trace(tmp_path / "t.csv", gap_s=0.0)))
    plan = replace(TINY, base=replace(TINY.base, workload=workload), volumes=(80,))
    with pytest.warns(UserWarning, match="step 2b is left out: no run of step 2 has a finite load"):
        result = run_steps(plan, ["step2"], tmp_path / "out", command="test", options=ONE_JOB)
    assert [step.name for step in result.steps] == ["step2"]


def test_volumes__beyond_the_rows_of_a_file_become_all_its_rows(tmp_path):
    workload = Workload(source=str(write_trace(tmp_path / "t.csv", n=80)))
    plan, notes = available(Plan(base=plan_scenario(workload=workload), volumes=(40, 100, 1000)))
    assert plan.volumes == (40, 80)
    assert notes == [
        "t.csv has 80 requests in all: volumes 100, 1000 left out, and all of it is run instead"
    ]
    # the whole file is not run twice where it is asked for as well
    assert available(replace(plan, volumes=(80, 100)))[0].volumes == (80,)
    assert available(replace(plan, volumes=(40, 80))) == (replace(plan, volumes=(40, 80)), [])
    plan = replace(TINY, base=replace(TINY.base, workload=workload), volumes=(100,))
    result = run_steps(plan, ["step1"], tmp_path / "out", command="test", options=ONE_JOB)
    assert "t.csv has 80 requests in all" in result.steps[0].statements[0]
    assert set(result.steps[0].runs["requests"]) == {80}


def test_choice__is_what_step_2_found_or_what_was_asked_for(done):
    out, result = done
    runs = result.steps[1].runs
    rate = runs.groupby("n_gpus")["sla_violation_rate"].max()
    assert choose_gpus(replace(TINY, best_gpu_count=7), None) == (7, "7 GPUs: as asked for.")
    never = choose_gpus(replace(TINY, target_violations=1e-6), runs)
    assert never == (
        2,
        "2 GPUs: no count of step 2 has violations within 0.0001 %, so the largest.",
    )
    one_seed = runs[runs["seed"] == 0]  # no interval, so the mean decides
    assert rate[1.0] < 0.999
    assert choose_gpus(replace(TINY, target_violations=0.999), one_seed)[0] == 1
    with pytest.raises(ValueError, match="step 3 must have a GPU count"):
        choose_gpus(TINY, None)
    assert one_gpu_loads(runs) == {
        seed: pytest.approx(rho)
        for seed, rho in runs.query("n_gpus == 1").set_index("seed")["offered_load"].items()
    }
    assert read_runs(TINY, out, "step2") is not None


def test_choice__is_the_largest_count_where_none_meets_the_target():
    # given 30 % of violations on 1 GPU and 20 % on 2, the target being 5 %
    rates = ((1.0, 0.3), (2.0, 0.2))
    runs = runs_of([{"seed": 0, "n_gpus": n, "sla_violation_rate": rate} for n, rate in rates])
    assert choose_gpus(TINY, runs) == (
        2,
        "2 GPUs: no count of step 2 has violations within 5 %, so the largest.",
    )
    assert choose_gpus(replace(TINY, target_violations=0.3), runs)[0] == 1


def test_run__under_a_measured_latency_set_says_where_it_was_not_measured(tmp_path):
    base = as_scenario(TINY.base, latency="h100-llama-3-8b-vllm")
    plan = replace(TINY, base=base, volumes=(120,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run_steps(plan, ["step2"], tmp_path, command="test", options=ONE_JOB)
    assert set(result.steps[0].runs["latency_kind"]) == {"measurement"}
    notes = [one for one in result.steps[0].statements if one.startswith("Note of ")]
    assert any("measured" in note for note in notes), result.steps[0].statements


# The command


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["stress", *arguments])


TINY_OPTIONS = ("--volumes", "60,120", "--seeds", "2", "--jobs", "1", "--tables-only")


def test_command__runs_a_step_and_keeps_the_line_that_made_it(tmp_path):
    options = ("--gpu-counts", "1,2", "--sla", "0.5", "--real-timestamps", *TINY_OPTIONS)
    result = invoke("step1", *options, "--out", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["command"] == (
        "llmsched stress step1 --volumes 60,120 --gpu-counts 1,2 --seeds 2 --real-timestamps "
        "--sla 0.5"
    )
    assert shown["steps"][0]["runs"] == 2 * 2 * 4 * 2
    assert {row["n_gpus"] for row in shown["steps"][0]["summary"]} == {1.0, 2.0}
    results = load_results(tmp_path)
    assert set(results["workload_rps_scale"]) == {1.0}
    assert set(results["slo_latency_s"]) == {0.5}


def test_command__of_step_3_alone_asks_for_step_2_or_a_gpu_count(tmp_path):
    options = ("--bins", "1,2", "--out", str(tmp_path), *TINY_OPTIONS)
    result = invoke("step3", *options)
    assert result.exit_code == 2
    assert "run step2 into it first, or give --best-gpu-count" in result.stderr
    assert list(tmp_path.iterdir()) == []
    result = invoke("step3", *options, "--best-gpu-count", "3")
    assert result.exit_code == 0, result.output
    assert "3 GPUs: as asked for." in result.stdout


@pytest.mark.parametrize(
    ("step", "option"),
    [
        ("step1", "--bins 1,2"),
        ("step1", "--loads 0.5"),
        ("step1", "--best-gpu-count 2"),
        ("step1", "--target-violations 0.1"),
        ("step2", "--batch-size 4"),
        ("step3", "--gpu-counts 1,2"),
    ],
)
def test_command__refuses_an_option_that_the_step_does_not_take(step, option, tmp_path):
    result = invoke(step, *option.split(), "--out", str(tmp_path / "out"), *TINY_OPTIONS)
    assert result.exit_code == 2
    assert f"{option.split()[0]} does nothing in {step}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_command__has_the_defaults_of_the_library():
    command = main.get_command(click.Context(main), "stress")
    assert command is not None
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}
    plan = Plan()
    assert options["replications"].default == plan.replications
    assert options["target_violations"].default == plan.target_violations
    shown = {name: options[name].show_default for name in ("volumes", "loads", "bins")}
    assert shown == {
        name: ",".join(f"{value:.15g}" for value in getattr(plan, name)) for name in shown
    }
    gpu_counts, compared = (
        ",".join(map(str, counts)) for counts in (plan.gpu_counts, plan.step1_gpu_counts)
    )
    assert options["gpu_counts"].show_default == f"{gpu_counts}; {compared} for step1"


def test_command__keeps_its_input(tmp_path):
    trace = write_trace(tmp_path / "step1.csv")
    before = trace.read_bytes()
    result = invoke("step1", "--trace", str(trace), "--out", str(tmp_path), *TINY_OPTIONS)
    assert result.exit_code == 2
    assert "would replace the trace" in result.stderr
    assert trace.read_bytes() == before


# Killed

KILLED = (
    *("all", "--volumes", "200,3000", "--gpu-counts", "1,2,4", "--bins", "1,4", "--loads", "0.9"),
    *("--seeds", "2", "--jobs", "2", "--tables-only", "--out"),
)


def n_lines(out: Path) -> int:
    """Runs that a folder keeps."""
    path = out / "runs.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmsched", "stress", *KILLED, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="process groups and SIGKILL are POSIX's")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_plan__resumes_to_the_same_tables_as_an_undisturbed_one(kind, tmp_path):
    # given an undisturbed plan
    assert start(tmp_path / "calm").wait() == 0
    calm = tables(tmp_path / "calm")
    n_runs = n_lines(tmp_path / "calm")
    # when it is killed again and again, each time a few runs further on
    out, rng, n_kills = tmp_path / "killed", np.random.default_rng(11), 0
    while n_kills < 5:
        process = start(out)
        until = n_lines(out) + int(rng.integers(1, n_runs // 6))
        while process.poll() is None and n_lines(out) < until:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, kind)
            n_kills += 1
        process.wait()
    assert 0 < n_lines(out) < n_runs
    # then the last start ends with the same tables
    assert start(out).wait() == 0
    assert tables(out) == calm


# Real rows


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="NOT RUN ON ANY REAL TRACE: ../shared/data is absent")
@pytest.mark.parametrize(
    ("file", "rows"),
    [("traces/azure_llm_2023_conv.csv.gz", 19_366), ("burstgpt/burstgpt_1_head400.csv", 383)],
)
def test_step1__runs_up_to_the_rows_that_a_real_trace_has(file, rows, tmp_path):
    result = invoke(
        *("step1", "--trace", str(DATA / file), "--rps-scale", "4", "--gpu-counts", "2"),
        *("--volumes", "300,100000", "--seeds", "2", "--jobs", "1", "--tables-only", "--json"),
        *("--out", str(tmp_path)),
    )
    assert result.exit_code == 0, result.output
    (step,) = json.loads(result.stdout)["steps"]
    assert step["failed"] == 0
    assert {row["requests"] for row in step["summary"]} == {300, rows}
    assert f"has {rows} requests in all: volume 100000 left out" in step["statements"][0]
    runs = {row["scheduler"]: row["n"] for row in step["summary"]}
    assert runs == {
        **dict.fromkeys(("static_fifo", "dynamic_no_bins"), 1),  # nothing random in them
        **dict.fromkeys(("multi_bin_dynamic", "multi_bin_adaptive"), 2),
    }


def test_command__where_no_request_fits_says_so_and_has_every_table(tmp_path):
    # given requests that are all larger than the memory
    rows = [f"{second},500000,5" for second in range(20)]
    trace = tmp_path / "big.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    # when the whole plan runs, figures and report included
    result = invoke(
        *("all", "--trace", str(trace), "--volumes", "20", "--gpu-counts", "1,2"),
        *("--bins", "1,2", "--seeds", "1", "--jobs", "1", "--out", str(out)),
    )
    # then it ends well, tells it, and nothing is missing
    assert result.exit_code == 0, result.output
    assert "100 % of the requests are too large for the KV memory" in result.stdout
    assert (out / "step1_per_bin.csv").is_file()
    assert "too large for the KV memory" in (out / "report.html").read_text(encoding="utf-8")


def test_command__that_replaces_runs_of_other_settings_says_so(tmp_path):
    given = ("step1", "--gpu-counts", "1", "--volumes", "60", "--seeds", "1", "--jobs", "1")
    options = (*given, "--tables-only", "--out", str(tmp_path))
    assert "other settings" not in invoke(*options).stderr
    assert "other settings" not in invoke(*options).stderr  # the same again
    changed = invoke(*options, "--sla", "5")
    assert changed.exit_code == 0
    assert "had 4 runs of other settings" in changed.stderr


def test_command__started_again_leaves_the_report_alone(tmp_path):
    given = ("step3", "--best-gpu-count", "1", "--bins", "1,2", "--volumes", "60", "--seeds", "1")
    options = (*given, "--jobs", "1", "--out", str(tmp_path))
    assert invoke(*options).exit_code == 0
    report = tmp_path / "report.html"
    first = report.stat()
    # when nothing has changed, the file is the same one
    again = invoke(*options)
    assert "nothing has changed" in again.stderr
    assert report.stat().st_mtime_ns == first.st_mtime_ns
    # when a figure is gone, or the results are others, it is made again
    next((tmp_path / "figures").glob("*.png")).unlink()
    assert "nothing has changed" not in invoke(*options).stderr
    assert "nothing has changed" not in invoke(*options, "--sla", "5").stderr
