"""The pages on both levels: their arithmetic by hand, and a small run of each kind."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from llmsched.metrics.intervals import mean_interval

FOLDER = Path(__file__).parents[2] / "experiments" / "engines"


@pytest.fixture
def runs(monkeypatch):
    """The runs of experiments/engines, which is no package, on few requests."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("runs")
    monkeypatch.setitem(module.TRACES, "BurstGPT-like", ("burstgpt-like", 60))
    for cached in (module.requests, module.at_load):
        cached.cache_clear()
    yield module
    for cached in (module.requests, module.at_load):
        cached.cache_clear()


@pytest.fixture
def engines(runs):
    return importlib.import_module("engines")


def test_streamed__gives_a_batch_its_first_tokens_after_the_prefill(runs):
    # given a batch of two, from 10 to 16 s, prompts of 100 tokens, outputs of 4 and 1
    step = runs.step_time_from_spec(runs.STEP)
    prefill_s = step.step_s([(100, 0)] * 2, 0, 0)
    run = SimpleNamespace(
        batches=SimpleNamespace(
            start_s=np.array([10.0]),
            finish_s=np.array([10.0 + prefill_s + 6.0]),
            size=np.array([2]),
            max_prompt_tokens=np.array([100]),
            max_output_tokens=np.array([4]),
        ),
        requests=SimpleNamespace(
            completed=np.array([True, True, False]),
            batch=np.array([0, 0, -1]),
            arrival_s=np.array([9.0, 10.0, 10.0]),
            output_tokens=np.array([4, 1, 7]),
        ),
    )
    ttft_s, tpot_s, e2e_s = runs._streamed(run)
    np.testing.assert_allclose(ttft_s, [1 + prefill_s, prefill_s])
    np.testing.assert_allclose(tpot_s, [2.0, np.nan])  # three decode steps in six seconds
    np.testing.assert_allclose(e2e_s, [1 + prefill_s + 6, prefill_s])


def test_rows__of_both_levels_are_of_the_same_requests_and_load(runs):
    made = {"workload": "BurstGPT-like", "load": 0.5, "part": 0, "data": ""}
    trace = runs.at_load("BurstGPT-like", 0.5, 0, "", None)
    twice = runs.at_load("BurstGPT-like", 1.0, 0, "", None)
    np.testing.assert_allclose(trace.arrival_s, 2 * twice.arrival_s)
    tasks = [
        runs.Task(scheduler=name, **made) for name in ("continuous_static", "multi_bin_dynamic")
    ]
    table = runs.rows(tasks, jobs=1).set_index("scheduler")
    assert (
        table.loc["continuous_static", "e2e_mean_s"] < table.loc["multi_bin_dynamic", "e2e_mean_s"]
    )
    assert table["within_relaxed"].between(0, 100).all()


def test_gamma_gaps__have_the_asked_coefficient_of_variation(runs, monkeypatch):
    monkeypatch.setitem(runs.TRACES, "BurstGPT-like", ("burstgpt-like", 2000))
    runs.requests.cache_clear()
    gaps = np.diff(runs.at_load("BurstGPT-like", 0.7, 1, "", 3.0).arrival_s)
    # the CV of 1,999 Gamma gaps of CV 3 has a standard error near 0.2
    assert gaps.std() / gaps.mean() == pytest.approx(3.0, abs=0.8)


def test_control__is_the_algorithm_with_those_constants(runs):
    limit = runs._limit((20, 5, 0.2))
    controller = limit.controller
    assert (controller.alpha, controller.delta, controller.tolerance_share) == (20, 5, 0.2)
    assert controller.batch_max == limit.batch_max == runs.SERVING.max_running


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([[-3.0, -3.1], [-2.0, -2.1]], "yes"),
        ([[-3.0, 3.0], [-2.0, 2.1]], "no"),
        ([[-3.0, -3.1], [2.0, 2.1]], "on 1 of 2; the reverse on 1"),
    ],
)
def test_verdict__counts_intervals_that_leave_out_zero(engines, samples, words):
    claim = engines.Claim(text="", scheduler="a", against="b", metric="m", load=0.5, better=-1)
    assert engines.verdict(claim, [mean_interval(one) for one in samples]) == words


def test_difference__is_paired_by_part(engines):
    claim = engines.Claim(text="", scheduler="a", against="b", metric="m", load=0.5, better=-1)
    rows = [
        {"workload": "w", "load": 0.5, "part": part, "scheduler": name, "m": value}
        for part, (a, b) in enumerate([(1.1, 1.0), (11.0, 10.0)])
        for name, value in (("a", a), ("b", b))
    ]
    found = engines.difference(pd.DataFrame(rows), claim, "w")
    assert found.mean == pytest.approx(10.0)
    assert found.half_width == pytest.approx(0.0, abs=1e-9)
