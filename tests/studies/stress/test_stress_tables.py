"""The tables of a stress step, by hand: intervals, paired differences, the knee, cautions."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from stress_builders import runs_of

from llmsched.studies.stress.tables import (
    batch_size_table,
    cautions,
    differences,
    fewest_gpus,
    groups,
    knee,
    latency_table,
    summary_table,
    with_scaling,
)

T_2 = 4.302653  # 97.5 % quantile of Student's t with 2 degrees of freedom


def test_summary__has_student_intervals_and_the_usual_label_and_mean_load():
    rates, labels = (0.1, 0.2, 0.3), ("stable", "overloaded", "stable")
    runs = runs_of(
        *(
            {"seed": seed, "sla_violation_rate": rate, "load_label": label, "offered_load": rate}
            for seed, (rate, label) in enumerate(zip(rates, labels, strict=True))
        )
    )
    row = summary_table(runs).set_index("metric").loc["sla_violation_rate"]
    half = T_2 * 0.1 / math.sqrt(3)  # standard deviation 0.1
    assert [row["mean"], row["low"], row["high"]] == pytest.approx(
        [0.2, 0.2 - half, 0.2 + half], rel=1e-6
    )
    assert (row["n"], row["load_label"], row["n_label"]) == (3, "stable", 2)
    assert row["offered_load"] == pytest.approx(0.2)
    # and labels that tie count as the worse
    assert set(summary_table(runs[:2])["load_label"]) == {"overloaded"}


def test_summary__leaves_failed_runs_out_of_means_and_one_run_without_interval():
    runs = runs_of(
        {"seed": 0, "goodput_rps": 5.0},
        {"seed": 1, "status": "failed", "goodput_rps": math.nan},
        {"n_gpus": 2.0, "status": "failed"},
        {"n_gpus": 4.0, "random": False, "goodput_rps": 7.0},
    )
    rows = summary_table(runs).query("metric == 'goodput_rps'").set_index("n_gpus")
    assert list(rows.index) == [1.0, 4.0]
    assert rows.loc[1.0, "mean"] == 5.0
    assert math.isnan(rows.loc[1.0, "low"])
    assert rows.loc[4.0, ["mean", "low", "high"]].tolist() == [7.0, 7.0, 7.0]


def less(runs: pd.DataFrame, *pairs: tuple[int, int], against: str = "n_gpus") -> pd.DataFrame:
    """Goodput of some groups less that of others, by their places in the runs."""
    found = [group for group, _ in groups(runs)]
    chosen = [(found[first], found[second]) for first, second in pairs]
    return differences(runs, chosen, against=against, metrics=["goodput_rps"])


def test_differences__are_paired_by_seed_not_by_rank():
    # given goodputs that more GPUs turn around: 3, 1 and -1 more, seed by seed
    runs = runs_of(
        *(
            {"seed": seed, "n_gpus": n_gpus, "goodput_rps": rate}
            for n_gpus, rates in ((1.0, (1.0, 2.0, 3.0)), (2.0, (4.0, 3.0, 2.0)))
            for seed, rate in enumerate(rates)
        )
    )
    # then the interval is that of 3, 1 and -1; smallest with smallest, all would differ by 1
    (row,) = less(runs, (1, 0)).to_dict("records")
    half = T_2 * 2.0 / math.sqrt(3)
    assert [row["mean"], row["low"], row["high"]] == pytest.approx([1, 1 - half, 1 + half], 1e-6)
    assert (row["what"], row["against"], row["n"]) == ("2 GPUs", "1 GPU", 3)
    assert row["verdict"] == "within the noise"
    # and over the seeds that both have
    runs.loc[runs["n_gpus"].eq(2.0) & runs["seed"].eq(0), "status"] = "failed"
    (row,) = less(runs, (1, 0)).to_dict("records")
    assert (row["mean"], row["n"]) == (0.0, 2)


def test_differences__of_what_is_not_random_hold_for_every_seed():
    runs = runs_of(
        {"scheduler": "static_fifo", "random": False, "goodput_rps": 1.0},
        {"scheduler": "dynamic_no_bins", "random": False, "goodput_rps": 4.0},
        {"seed": 0, "goodput_rps": 2.0},
        {"seed": 1, "goodput_rps": 4.0},
    )
    table = less(runs, (2, 0), (0, 2), (1, 0), against="scheduler")
    assert table["mean"].tolist() == [2.0, -2.0, 3.0]
    assert table["n"].tolist() == [2, 2, 1]
    assert table["verdict"].tolist()[2] == "larger than the noise"
    assert table["low"].tolist()[2] == 3.0


def test_scaling__is_relative_to_the_fewest_gpus_of_the_same_seed():
    rates = {(0, 2): 10.0, (0, 4): 18.0, (1, 2): 20.0, (1, 4): 10.0}
    runs = runs_of(
        *(
            {"seed": seed, "n_gpus": float(n), "throughput_rps": rate, "goodput_rps": 0.0}
            for (seed, n), rate in rates.items()
        )
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


def test_distributions__are_pooled_for_batches_and_averaged_for_latencies():
    # given 3 batches of 1 and one of 2 under one seed, and one of 1 under the other
    runs = runs_of(
        {"seed": 0, "batch_size_counts": [0, 3, 1], "latency_quantiles_s": [1.0, 2.0]},
        {"seed": 1, "batch_size_counts": [0, 1], "latency_quantiles_s": [3.0, 8.0]},
    )
    table = batch_size_table(runs)
    assert table["value"].tolist() == [1, 2]
    assert table["share"].tolist() == [0.8, 1.0]
    assert latency_table(runs)[["share", "value"]].to_numpy().tolist() == [[0, 2], [1, 5]]


def test_cautions__tell_what_was_rejected_what_failed_and_what_the_runs_noted():
    runs = runs_of(
        {"n_bins": 1, "rejected": 4, "notes": ["3 bins merged"]},
        {"n_bins": 2, "rejected": 1, "notes": ["4 bins merged", "slow"]},
        *({"n_bins": n, "status": "failed", "error": "no luck"} for n in range(5)),
    )
    runs.attrs["notes"] = ["Run on 2 GPUs: as asked for."]
    chosen, rejected, failed, merged, slow = cautions(runs)
    assert chosen == "Run on 2 GPUs: as asked for."
    assert rejected.startswith("In the worst run 40 % of the requests are too large")
    assert failed.startswith("5 of 7 runs FAILED and are in no mean: multi_bin_dynamic, 1 GPU, 10 ")
    assert "seed 0: no luck" in failed
    assert failed.endswith("; and 1 more. --retry-failed does them again.")
    assert merged == "3 bins merged (note of 2 of 7 runs, 1 of them with other numbers)"
    assert slow == "slow (note of 1 of 7 runs)"
