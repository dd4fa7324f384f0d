"""The rules of experiments/stress/measured.py: what a claim is said to do, and what survives."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
import pytest

from conftest import plan_scenario
from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.prediction.binning import Binning
from llmsched.studies.stress.plan import SCHEDULERS, Plan

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "stress"))

import measured
import measured_claims as c
import measured_real
import measured_rules as rules
import measured_runs

TINY = Plan(
    volumes=(60,),
    gpu_counts=(1, 2),
    bins=(1, 2),
    loads=(0.9,),
    replications=2,
    base=plan_scenario(binning=Binning(n_bins=2)),
)

# a tiny run has its bins merged now and then, which is the runs' affair
pytestmark = pytest.mark.filterwarnings("ignore:.*equal-mass bins asked for.*:UserWarning")


def between(low: float, high: float) -> Interval:
    """An interval of four replications."""
    return Interval(mean=(low + high) / 2, low=low, high=high, n=4)


@pytest.mark.parametrize(
    ("interval", "sign", "says"),
    [
        (between(-9.0, -2.0), -1, rules.HOLDS),
        (between(-9.0, -2.0), +1, rules.REVERSED),
        (between(2.0, 9.0), -1, rules.REVERSED),
        (between(2.0, 9.0), +1, rules.HOLDS),
        (between(-9.0, 2.0), -1, rules.UNTOLD),
        (between(-0.5, 3.0), +1, rules.UNTOLD),
        # within a point either way, which is none even where it leaves out 0
        (between(-0.4, 0.6), -1, rules.NONE),
        (between(-0.9, -0.2), -1, rules.NONE),
        (between(0.0, 0.0), -1, rules.NONE),
        # reaches out of the margin, and leaves out 0
        (between(-1.2, -0.2), -1, rules.HOLDS),
        (between(-5.0, -5.0), -1, rules.HOLDS),  # where nothing is random
        (mean_interval([-5.0]), -1, rules.UNTOLD),  # one replication shows no noise
    ],
)
def test_verdict__follows_from_the_interval_and_the_margin_of_one_point(interval, sign, says):
    assert rules.verdict(interval, sign) == says


def test_survival__needs_both_verdicts_and_that_they_agree():
    # given every pair of verdicts
    kinds = (rules.HOLDS, rules.REVERSED, rules.NONE, rules.UNTOLD)
    # then only those that can be told are compared
    for first in kinds:
        for second in kinds:
            expected = rules.YES if first == second else rules.NO
            if rules.UNTOLD in (first, second):
                expected = rules.UNTOLD
            assert rules.survival(first, second) == expected


@pytest.mark.parametrize(
    ("reference", "other", "says"),
    [
        ([4, 8, 4, 2], [4, 8, 4, 2], rules.YES),
        ([4, 8, 4, 2], [8, 16, 8, 4], rules.NO),
        ([4, 8, 4, 2], [2, 4, 2, 1], rules.NO),
        ([4, 8, 4, 2], [8, 8, 8, 4], rules.UNTOLD),  # one the same
        ([4, 8, 4, 2], [8, 4, 8, 4], rules.UNTOLD),  # both ways
        ([math.inf] * 4, [8, 16, 8, 4], rules.NO),  # none under the one
        ([math.inf] * 4, [math.inf] * 4, rules.YES),
        ([4], [8], rules.UNTOLD),
    ],
)
def test_survival_of_places__needs_all_replications_the_same_or_all_to_one_side(
    reference, other, says
):
    first, second = (dict(enumerate(values)) for values in (reference, other))
    assert rules.survival_of_places(first, second) == says


def test_p_value__is_five_per_cent_where_the_interval_ends_at_zero():
    # given 95 % intervals that just reach 0, and one twice as far off: t = 2 × 3.1824, 3 d.f.
    assert rules.p_value(between(-6.0, 0.0)) == pytest.approx(0.05)
    # 2 P(T > 2 × 3.18245) = 0.007848, by the closed form of Student's t with 3 degrees
    t = 2 * 3.182446305284263
    tail = 0.5 - (math.atan(t / math.sqrt(3)) + t * math.sqrt(3) / (3 + t * t)) / math.pi
    assert rules.p_value(between(-9.0, -3.0)) == pytest.approx(2 * tail)


def test_holm__stops_at_the_first_that_fails():
    # given 4 tests: 0.01 <= 0.05/4, 0.016 <= 0.05/3, 0.03 > 0.05/2, so the rest stay as well
    assert rules.n_after_holm([0.03, 0.01, 0.04, 0.016]) == 2
    assert rules.n_after_holm([0.01, math.nan]) == 1
    assert rules.n_after_holm([]) == 0


def runs(rates: dict[tuple[str, int, int], float], **columns: object) -> pd.DataFrame:
    """Finished runs of step 1: (scheduler, GPUs, seed) -> violation rate."""
    rows = [
        {"scheduler": name, "n_gpus": n_gpus, "seed": seed, c.LATE: rate}
        for (name, n_gpus, seed), rate in rates.items()
    ]
    return pd.DataFrame(rows).assign(status="done", random=True, requests_asked=80, **columns)


def test_claims__of_step_1_are_paired_by_seed_in_points():
    # given dynamic 10 and 20 points below static, at very unlike rates, and a failed run
    table = runs(
        {
            (c.STATIC, 1, 0): 0.90,
            (c.STATIC, 1, 1): 0.30,
            (c.STATIC, 1, 2): 0.50,
            (c.DYNAMIC, 1, 0): 0.80,
            (c.DYNAMIC, 1, 1): 0.10,
            (c.DYNAMIC, 1, 2): 0.99,
        }
    )
    table.loc[table["seed"] == 2, "status"] = ["done", "failed"]
    # when the first claim of the plan is asked
    first = c.claims(TINY)[0]
    # then
    assert first.words == "dynamic_no_bins has fewer violations than static_fifo, 1 GPU"
    assert first.values({"step1": table}) == pytest.approx({0: -10.0, 1: -20.0})


def test_by_seed__counts_a_run_that_nothing_random_touches_for_every_seed():
    # given one run of static FIFO on a file, beside a binned scheduler with two seeds
    table = runs({(c.STATIC, 1, 0): 0.5, (c.MULTI, 1, 0): 0.2, (c.MULTI, 1, 1): 0.3})
    table["random"] = table["scheduler"] == c.MULTI
    # then it is there for both
    assert c.by_seed(table, c.LATE, scheduler=c.STATIC) == {0: 0.5, 1: 0.5}
    assert c.by_seed(table, c.LATE, scheduler=c.MULTI) == {0: 0.2, 1: 0.3}


@pytest.mark.parametrize("slower", [False, True])
def test_fewest_gpus__is_infinite_where_no_count_meets_the_target(slower):
    table = runs({(c.MULTI, 1, 0): 0.2, (c.MULTI, 2, 0): 0.05, (c.MULTI, 1, 1): 0.3})
    if slower:
        table[c.LATE] += 0.01
    fewest = c.findings(TINY)[2]
    assert fewest.words == "fewest GPUs with at most 5 % late"
    expected = {0: math.inf if slower else 2.0, 1: math.inf}
    assert fewest.values({"step2": table}) == expected


@pytest.mark.slow
def test_report__has_every_claim_and_is_the_same_bytes_from_kept_runs(tmp_path):
    # given a tiny plan, run under all settings
    first = measured_runs.run_all(TINY, tmp_path, jobs=1)
    text = measured.report(TINY, first, measured_real.MISSING)
    # when it is asked for again, from what was kept
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/runs/*")}
    again = measured_runs.run_all(TINY, tmp_path, jobs=1)
    # then nothing was run, the report is the same, whole, and loud about the real rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/runs/*")} == kept
    assert measured.report(TINY, again, measured_real.MISSING) == text
    assert "{{" not in text
    assert "NOT RUN ON ANY REAL ROW" in text
    for one in (*c.claims(TINY), *c.findings(TINY)):
        assert sum(f"| {one.step} | {one.words} |" in line for line in text.splitlines()) == 1
    # and the points name each scheduler of step 1 once per GPU count
    n_points = sum(
        line.startswith(tuple(f"| step1 | {name} | " for name in SCHEDULERS))
        for line in text.splitlines()
    )
    assert n_points == len(SCHEDULERS) * len(TINY.step1_gpu_counts)


def test_settings__have_the_memory_and_the_sla_of_their_hardware():
    # given the H100 at a tenth of the rate
    plan = measured_runs.SETTINGS[2].plan(TINY)
    # then: 80 GB less 16.06 GB of weights, over 131,072 bytes a token
    assert plan.base.sla_s == 10.0
    assert plan.base.hardware.resolved().capacity_tokens == pytest.approx(
        (80e9 - 16.06e9) / 131_072, rel=1e-3
    )
    assert (plan.workload.rps_scale, plan.base.hardware.latency) == (20.0, "h100-llama-3-8b-vllm")
    # and the reference is the plan as it is
    as_it_is = measured_runs.SETTINGS[0].plan(TINY).base
    assert as_it_is.hardware.resolved() == TINY.base.hardware.resolved()
    assert (as_it_is.slo, as_it_is.workload) == (TINY.base.slo, TINY.base.workload)


def test_outside__adds_up_what_the_notes_of_the_runs_say():
    # given two runs with notes and one without
    note = (
        "3 of 10 batches (30.0%) lie outside the range where latency model 'x' was measured "
        "(batch size 1-64): batch size: 0 below, 2 above; their service times are extrapolated"
    )
    other = note.replace("batch size: 0 below, 2 above", "prompt tokens: 1 below, 2 above")
    table = pd.DataFrame({"notes": [[note], [other, "another note"], []]})
    # then
    assert measured._outside(table) == (6, 2)
