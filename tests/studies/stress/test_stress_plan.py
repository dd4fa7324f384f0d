"""The stress plan as values: which runs its steps ask for, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from stress_builders import BASE, STEP1, STEP2, STEP2B, STEP3, runs_of, write_trace

from llmsched.prediction.binning import Binning
from llmsched.simulation.scenario import Scenario, as_scenario
from llmsched.studies.stress.plan import SCHEDULERS, Plan
from llmsched.workload.workload import Workload

PLAN = Plan(base=BASE)
ONE_SEED = Plan(base=BASE, replications=1)
AT_RHO_2 = {"step2": runs_of({"offered_load": 2.0})}


def test_plan__has_the_runs_that_the_stress_plan_asks_for_and_equal_gpus_beside():
    asked = [run.scenario for run in STEP1.runs(PLAN, {})]
    places = {(one.workload.requests, one.scheduler, one.hardware.n_gpus) for one in asked}
    volumes = (1_000, 10_000, 100_000, 1_000_000)
    assert places == {(v, name, n) for v in volumes for name in SCHEDULERS for n in (1, 2, 4)}
    gpus = [run.scenario.hardware.n_gpus for run in STEP2.runs(ONE_SEED, {})]
    assert gpus == [1, 2, 4, 8, 16, 32, 64, 100]
    fixed = replace(ONE_SEED, best_gpu_count=100)
    assert [run.scenario.binning.n_bins for run in STEP3.runs(fixed, {})] == [1, 2, 4, 8, 16, 32]
    scaled = [
        *STEP2.runs(PLAN, {}),
        *STEP3.runs(fixed, {}),
        *STEP2B.runs(PLAN, AT_RHO_2),
    ]
    assert {run.scenario.workload.requests for run in scaled} == {1_000_000}
    assert {(one.sla_s, one.workload.rps_scale, one.binning.n_bins) for one in asked} == {
        (1.0, 200.0, 4)
    }


def test_plan__runs_on_any_hardware():
    # given a measured set, which brings its GPU and its model
    base = as_scenario(BASE, latency="h100-llama-3-8b-vllm", slo=10.0)
    (run, *_) = STEP3.runs(Plan(base=base, best_gpu_count=7), {})
    # then every step runs there, whatever else it sets
    assert run.scenario.hardware.n_gpus == 7
    assert run.scenario.sla_s == 10.0
    assert run.scenario.hardware.resolved().gpu.name == "h100-sxm"


def test_plan__replicates_only_what_is_random(tmp_path):
    file = Workload(source=str(write_trace(tmp_path / "t.csv")))
    plan = Plan(base=Scenario(workload=file), volumes=(50,), replications=3)
    seeds = {name: plan.seeds_of(name) for name in SCHEDULERS}
    assert seeds["static_fifo"] == seeds["dynamic_no_bins"] == (0,)
    assert seeds["multi_bin_dynamic"] == (0, 1, 2)  # the predictor's noise
    oracle = replace(plan.base, predictor="oracle")
    assert replace(plan, base=oracle).seeds_of("multi_bin_dynamic") == (0,)
    jittered = replace(plan.base, workload=replace(file, jitter_s=1.0))
    assert replace(plan, base=jittered).seeds_of("static_fifo") == (0, 1, 2)
    assert Plan(base=Scenario(seed=5), replications=2).seeds_of("static_fifo") == (5, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volumes": ()}, "volumes must be increasing numbers > 0, got none"),
        ({"volumes": (10, 10)}, "got 10, 10"),
        ({"volumes": (10, 10**10)}, "volumes must be at most 1,000,000,000, got 10,000,000,000"),
        ({"gpu_counts": (0, 1)}, "got 0, 1"),
        ({"compared_gpu_counts": (2, 1)}, "compared_gpu_counts must be increasing"),
        ({"loads": (math.nan,)}, "got nan"),
        ({"loads": (0.5, math.inf)}, "got 0.5, inf"),
        ({"bins": (1, 65)}, "bins must be at most 64, got 65"),
        ({"best_gpu_count": 0}, "best_gpu_count must be a whole number from 1 to 1000000, got 0"),
        ({"target_violations": 0.0}, "target_violations must be .* > 0 and < 1, got 0"),
        ({"target_violations": 1.0}, "target_violations must be .* > 0 and < 1, got 1"),
        ({"replications": 0}, "replications must be a whole number >= 1, got 0"),
        ({"base": Scenario(workload=Workload(requests=5))}, "set by volumes, got 5"),
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
    plan = Plan(base=BASE, gpu_counts=(1, 4), loads=(0.5, 0.7), replications=2)
    step2 = runs_of({"seed": 0, "offered_load": 2.0}, {"seed": 1, "offered_load": 3.0})
    # then the rate is 200 * load * GPUs / ρ, to 6 digits, never below
    rates = {
        (load, one.hardware.n_gpus, one.seed): one.workload.rps_scale
        for one, load in STEP2B.runs(plan, {"step2": step2})
    }
    assert len(rates) == 8
    assert rates[0.5, 1, 0] == 50.0
    assert rates[0.5, 4, 0] == 200.0
    assert rates[0.5, 1, 1] == 33.3334
    assert rates[0.7, 4, 1] == 186.667


def test_settings__are_the_same_for_all_runs_of_a_step_but_for_what_it_sets():
    plan = Plan(base=replace(BASE, binning=Binning(n_bins=2)))
    faster = replace(plan, base=plan.base.at_rate(2))
    more_bins = replace(plan, base=replace(plan.base, binning=Binning(n_bins=3)))
    other_seed = replace(plan, base=replace(plan.base, seed=9), volumes=(7,), gpu_counts=(3,))
    for step in (STEP1, STEP2, STEP2B, STEP3):
        key = step.settings_key(plan)
        assert step.settings_key(other_seed) == key
        assert (step.settings_key(faster) == key) == (step is STEP2B)  # its loads set the rate
        assert (step.settings_key(more_bins) == key) == (step is STEP3)
