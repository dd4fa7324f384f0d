"""What each stress step compares and what it says, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from stress_builders import STEP1, STEP2, STEP2B, STEP3, TINY, result_of, runs_of

from llmsched.studies.stress.plan import SCHEDULERS
from llmsched.studies.stress.steps import choose_gpus, one_gpu_loads


def test_pairs__of_held_loads_are_within_a_load_and_of_bins_go_back_to_the_first():
    def group(**values):
        return {"n_gpus": 1, "n_bins": 4, "target_load": math.nan, **values}

    held = [group(n_gpus=n, target_load=load) for load in (0.7, 0.9) for n in (1, 2, 4)]
    a, b, c, d, e, f = held
    assert STEP2B.pairs(held) == [(b, a), (c, b), (e, d), (f, e)]
    static, dynamic, binned, adaptive = (group(scheduler=name, requests=9) for name in SCHEDULERS)
    elsewhere = group(scheduler="static_fifo", requests=9, n_gpus=2)
    assert STEP1.pairs([static, dynamic, binned, adaptive, elsewhere]) == [
        (dynamic, static),
        (binned, static),
        (adaptive, static),
        (binned, dynamic),
        (adaptive, binned),
    ]
    one, two, four = (group(n_gpus=n) for n in (1, 2, 4))
    assert STEP2.pairs([one, two, four]) == [(two, one), (four, two)]
    one, two, four = (group(n_bins=n) for n in (1, 2, 4))
    assert STEP3.pairs([one, two, four]) == [(two, one), (four, two), (four, one)]


def test_verdict__of_step_1_names_the_best_on_each_gpu_count_at_the_largest_volume():
    fifo = {"scheduler": "static_fifo", "n_bins": 1}
    found = result_of(
        STEP1,
        {**fifo, "sla_violation_rate": 0.9},
        {"sla_violation_rate": 0.9, "load_label": "overloaded"},
        {**fifo, "n_gpus": 4.0, "sla_violation_rate": 0.3},
        {"n_gpus": 4.0, "sla_violation_rate": 0.1},
        # and another one at a smaller volume
        {**fifo, "requests_asked": 5, "sla_violation_rate": 0.0},
    )
    assert found.verdict == (
        "Fewest late or rejected of 10 requests: static_fifo on 1 GPU, 90 %; multi_bin_dynamic on "
        "4 GPUs, 10 %.",
        "1 of 2 differences between schedulers there are larger than the noise; 1 of 4 points are "
        "overloaded.",
    )


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        # rate² / GPUs is 100, 200, 121; then largest at either end
        ((10.0, 20.0, 22.0), "2 GPUs by throughput"),
        ((10.0, 20.0, 40.0), "4 GPUs (the largest count) by throughput"),
        ((10.0, 11.0, 12.0), "1 GPU (the smallest count) by throughput"),
    ],
)
def test_verdict__of_step_2_says_where_the_knee_is(rates, text):
    rows = zip((1.0, 2.0, 4.0), rates, strict=True)
    found = result_of(STEP2, *({"n_gpus": n, "throughput_rps": rate} for n, rate in rows))
    assert f"Knee (speedup × efficiency highest): {text}," in found.verdict[1]


def test_verdict__of_step_2_says_where_replications_disagree_on_the_knee():
    # given knees on 1, 2 and 4 GPUs: rate^2 / GPUs is highest there
    rates = {0: (10.0, 11.0, 12.0), 1: (10.0, 19.0, 20.0), 2: (10.0, 19.0, 37.0)}
    rows = [
        {"n_gpus": n_gpus, "throughput_rps": rate, "seed": seed, "random": True}
        for seed, curve in rates.items()
        for n_gpus, rate in zip((1.0, 2.0, 4.0), curve, strict=True)
    ]
    knees = result_of(STEP2, *rows).verdict[1]
    assert "1, 2 or 4 GPUs (replications disagree) by throughput" in knees


def test_verdict__of_step_2_names_the_fewest_gpus_or_the_lowest_rate():
    rates = {1.0: 0.3, 2.0: 0.04, 4.0: 0.02}
    rows = [{"n_gpus": n, "sla_violation_rate": rate} for n, rate in rates.items()]
    found = result_of(STEP2, *rows)
    assert found.verdict[0] == "2 GPUs: the fewest with at most 5 % late, 4 %."
    strict = replace(found, plan=replace(found.plan, target_violations=0.01))
    assert strict.verdict[0] == (
        "No GPU count has at most 1 % late, interval and all; lowest on 4 GPUs, 2 %."
    )


def test_verdict__of_step_2b_says_from_where_on_each_load_meets_the_target():
    rates = {(0.7, 1.0): 0.3, (0.7, 2.0): 0.04, (0.9, 1.0): 0.3, (0.9, 2.0): 0.2}
    found = result_of(
        STEP2B,
        *(
            {"target_load": load, "n_gpus": n, "sla_violation_rate": rate}
            | ({"load_label": "overloaded"} if rate > 0.2 else {})
            for (load, n), rate in rates.items()
        ),
    )
    assert found.verdict == (
        "At most 5 % late: from 2 GPUs on at ρ 0.7; on no GPU count at ρ 0.9.",
        "2 of 4 points are overloaded: ρ counts on the largest batch, smaller ones cost more.",
    )


def test_verdict__of_step_3_names_the_lowest_rate_and_its_difference():
    rates = {1: 0.3, 2: 0.1, 4: 0.2}
    rows = [{"n_bins": n, "sla_violation_rate": rate} for n, rate in rates.items()]
    assert result_of(STEP3, *rows).verdict == (
        "Fewest late or rejected with 2 bins: 10 %.",
        "Against 1 bin that is −20 ± 0 points, larger than the noise.",
    )


def test_one_gpu_loads__are_those_of_one_gpu_wherever_the_plan_begins():
    # given ρ = 1.2 and 1.6 on one GPU, and runs on 2 and 4, one of which failed
    runs = runs_of(
        {"seed": 0, "n_gpus": 2.0, "offered_load": 0.6},
        {"seed": 1, "n_gpus": 2.0, "status": "failed", "offered_load": math.nan},
        {"seed": 0, "n_gpus": 4.0, "offered_load": 0.3},
        {"seed": 1, "n_gpus": 4.0, "offered_load": 0.4},
    )
    assert one_gpu_loads(runs) == {0: pytest.approx(1.2), 1: pytest.approx(1.6)}


def test_choice__is_what_was_asked_for_what_meets_the_target_or_the_largest():
    # given 30 % of violations on 1 GPU and 20 % on 2, the target being 5 %
    rates = ((1.0, 0.3), (2.0, 0.2))
    runs = runs_of(*({"n_gpus": n, "sla_violation_rate": rate} for n, rate in rates))
    assert choose_gpus(TINY, runs) == (
        2,
        "2 GPUs: no count of step 2 has at most 5 % late, so the largest",
    )
    assert choose_gpus(replace(TINY, target_violations=0.3), runs) == (
        1,
        "1 GPU: the fewest of step 2 with at most 30 % late",
    )
    assert choose_gpus(replace(TINY, best_gpu_count=7), None) == (7, "7 GPUs: as asked for")
    with pytest.raises(ValueError, match="step 3 must have a GPU count"):
        choose_gpus(TINY, None)
