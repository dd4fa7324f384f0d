"""What a result is in a notebook: one line, a table, a tidy frame, a drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest

import llmsched
from llmsched.latency.base import Shape
from llmsched.metrics.registry import METRICS
from llmsched.simulation.capacity.results import Target


def trace(arrival_s: list[float], prompts: list[int], outputs: list[int]) -> llmsched.Trace:
    return llmsched.Trace(
        arrival_s=np.array(arrival_s),
        prompt_tokens=np.array(prompts, np.int32),
        output_tokens=np.array(outputs, np.int32),
    )


WORKLOAD = llmsched.Workload(source="poisson", requests=60, rps_scale=50.0)
STEPS = {"step_time": "multi-bin-paper", "slo": 30.0}


@pytest.fixture(scope="module")
def comparison() -> llmsched.Comparison:
    pair = ("static_fifo", "multi_bin_dynamic")
    return llmsched.compare(WORKLOAD, pair, latency="reference", replications=2, slo=1.0)


@pytest.fixture(scope="module")
def results(comparison):
    target = Target(metric="latency_p99_s", at_most=2.0)
    return {
        "BatchRun": llmsched.simulate(WORKLOAD, "static_fifo", latency="reference"),
        "ContinuousRun": llmsched.simulate(WORKLOAD, "continuous_static", **STEPS),
        "Comparison": comparison,
        "Plan": llmsched.plan(
            WORKLOAD, ["static_fifo"], latency="reference", replications=2, jobs=1
        ),
        "Capacity": llmsched.capacity(
            WORKLOAD, "static_fifo", latency="reference", target=target, replications=1, jobs=1
        ),
    }


@pytest.mark.parametrize("kind", ["BatchRun", "ContinuousRun", "Comparison", "Capacity", "Plan"])
def test_result__is_one_line_a_table_and_a_drawing(kind, results, tmp_path):
    result = results[kind]
    line = repr(result)
    assert line.startswith(f"<{kind} ")
    assert "static" in line
    assert "\n" not in line
    assert len(line) < 600
    page = result._repr_html_()
    assert page.startswith("<p><b>")
    assert "<table" in page
    figure = result.plot()
    figure.save(tmp_path / "figure.png", verbose=False, dpi=30)
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_run__as_a_frame_has_every_figure_with_its_unit(results):
    run = results["ContinuousRun"]
    frame = run.to_frame().set_index("metric")
    told = run.to_dict()
    assert set(frame.index) == {name for name in METRICS if name in told}
    for name in ("latency_p95_s", "requests", "ttft_mean_s"):
        assert frame.loc[name, "value"] == told[name]
    assert frame.loc["latency_p95_s", "unit"] == "s"
    assert frame["value"].dtype == float


def test_run__without_a_value_says_so():
    huge = trace([0.0], [10**7], [1])
    run = llmsched.simulate(huge, "dynamic_no_bins", latency="reference")
    assert "latency p95 -" in repr(run)
    frame = run.to_frame().set_index("metric")
    assert math.isnan(frame.loc["latency_p95_s", "value"])
    unlimited = llmsched.simulate(huge, "dynamic_no_bins", latency="reference", n_gpus=math.inf)
    assert "1 request of " in repr(unlimited)
    assert " on inf GPUs, " in repr(unlimited)


def test_comparison__has_its_differences_as_a_frame(comparison):
    frame = comparison.differences_frame()
    one = comparison.differences()[0]
    assert len(frame) == len(comparison.differences())
    assert set(frame["scheduler"]) == {"multi_bin_dynamic"}
    assert frame["verdict"].iloc[0] == one.verdict


def test_table__puts_names_of_others_safely(comparison, monkeypatch):
    monkeypatch.setattr(type(comparison), "headline", lambda self: "<script>")
    assert "<script>" not in comparison._repr_html_()


WRONG = {
    "workload": (3, "Workload or Trace, got 3"),
    "latency": (5, "a LatencyModel or a function of the batch, got 5"),
    "gpu": ([], r"gpu must be a str or GpuSpec .*got \[\]"),
    "llm": (5, "llm must be a str or ModelSpec, got 5"),
    "predictor": (5, "predictor must be a name or an object with predict, got 5"),
    "router": (5, "router must be a name or callable, got 5"),
    "step_time": (5, "step_time must be a name or an object with step_s, got 5"),
    "binning": (2.5, "binning must be a Binning, got 2.5"),
    "settings": ({"sla_s": 1}, r"settings must be a Settings, .*write Settings\("),
    "serving": ({}, "must be a IterationSettings"),
}


@pytest.mark.parametrize("part", WRONG)
def test_scenario__of_a_wrong_type_is_one_line(part):
    value, line = WRONG[part]
    given = (value, {}) if part == "workload" else (WORKLOAD, {part: value})
    with pytest.raises(TypeError, match=line):
        llmsched.simulate(given[0], **given[1])


def test_scenario__takes_names_where_there_are_presets():
    scenario = llmsched.Scenario(workload="poisson")
    assert scenario.workload == llmsched.Workload(source="poisson")
    named = llmsched.Hardware(latency="reference", gpu="a100-80gb", llm="llama-3.1-8b").resolved()
    assert (named.gpu.name, named.llm.name) == ("a100-80gb", "llama-3.1-8b")


def test_function__is_a_latency_model():
    def linear(batch):
        return 0.5 + 0.01 * batch.max_output_tokens

    both = trace([0.0, 0.0], [10, 10], [100, 50])
    run = llmsched.simulate(both, "static_fifo", latency=linear, n_gpus=1)
    assert run.latency.name == "linear"
    assert run.requests.finish_s.tolist() == [1.5, 1.5]
    constant = llmsched.simulate(both, "dynamic_no_bins", latency=lambda batch: 2.0, n_gpus=1)
    assert constant.metrics.latency_max_s == 2.0 * len(constant.batches)
    many = Shape(*np.full((5, 3), 7))
    assert constant.latency.service_s(many).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (lambda batch: 0.0, "must give seconds > 0 for numbers, got 0.0"),
        (lambda batch: batch.nothing, "AttributeError"),
        (lambda batch: max(1.0, batch.size), "numpy.maximum for max"),
    ],
)
def test_function__that_is_no_latency_is_one_line(function, line):
    with pytest.raises(ValueError, match=line):
        llmsched.Hardware(latency=function)
