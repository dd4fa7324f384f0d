"""The fit against the measured data: what is read, and how far the fitted constants lie off."""

from __future__ import annotations

import csv
import importlib
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmsched.latency.physics.constants import fitted
from llmsched.latency.physics.step import PhysicsStep, fitted_step

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (DATA / "latency").is_dir(),
        reason="PHYSICS NOT CHECKED AGAINST MEASUREMENTS: ../shared/data is not there",
    ),
]


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(ROOT / "calibration"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "calibration"))


@pytest.fixture(scope="module")
def points(scripts):
    return scripts("physics_data").read_points(DATA)


def test_points__every_source_is_read_whole(points):
    counts = Counter((point.source, point.measure) for point in points)
    assert counts["InferenceX", "tpot"] == 588
    assert counts["ML.ENERGY", "tpot"] == 328 - 28  # Mamba models left out
    assert counts["Splitwise", "tpot"] == 8 * 13 - 2  # one artefact on each GPU with tp 2
    assert counts["H100 stages", "tpot"] == 10
    assert counts["RTX 3090", "tpot"] == 6
    bench = [point for point in points if point.source == "LLM-Inference-Bench"]
    assert len({point.config for point in bench}) == 66
    assert counts["LLM-Inference-Bench", "ttft"] == 19


def test_points__cells_beyond_the_cache_are_left_out(points):
    labels = {p.label for p in points if p.config == "bench a100-llama-2-7b-vllm"}
    assert "b=16 L=1024" in labels  # 32,768 tokens: 17 GB beside 13.5 GB of weights in 40 GB
    assert "b=32 L=1024" not in labels


@pytest.mark.parametrize(
    ("source", "measure", "most"),
    [
        ("LLM-Inference-Bench", "e2e", 0.10),
        ("ML.ENERGY", "tpot", 0.16),
        ("H100 stages", "tpot", 0.10),
        ("InferenceX", "tpot", 0.20),
        ("InferenceX", "e2e", 0.20),
    ],
)
def test_errors__of_the_shipped_constants(points, source, measure, most):
    own = [point for point in points if (point.source, point.measure) == (source, measure)]
    measured = [p for p in own if p.deployment.engine in fitted().engines]
    ratios = [predicted_s(point) / point.seconds for point in measured]
    assert len(ratios) >= 10
    assert np.median(np.abs(np.log(ratios))) < most


def predicted_s(point):
    """The sum of a point's steps, by the package's own step model."""
    step = fitted_step(point.deployment)
    assert isinstance(step, PhysicsStep)
    return sum(weight * step.step_s(chunks, n, kv) for weight, chunks, n, kv in point.steps)


@pytest.mark.slow
def test_fit__gives_the_shipped_constants_and_errors_back(scripts, points):
    fit, derive = scripts("physics_fit"), scripts("derive_physics")
    problem = fit.Problem(points)
    again = fit.fit(problem)
    shipped = dict(zip(fitted().names, fitted().logs, strict=True))
    logs = dict(zip(problem.names, again.logs, strict=True))
    names = [name for name in problem.names if name in shipped]
    assert len(names) > 60
    assert max(abs(logs[name] - shipped[name]) for name in names) < 0.01

    (mask,) = [m for kind, name, m in derive.left_out_groups(points) if name == "h200-sxm"]
    without = fit.fit(problem, leave_out=mask, spreads=again.spreads, rounds=2)
    rows = derive.error_rows("gpu", "h200-sxm", mask, problem, without)
    with (ROOT / "calibration" / "physics_errors.csv").open(encoding="utf-8") as file:
        written = [row for row in csv.DictReader(file) if row["name"] == "h200-sxm"]
    assert len(rows) == len(written) == 2
    for new, old in zip(rows, written, strict=True):
        assert abs(float(new["median_error"]) - float(old["median_error"])) < 0.01
        assert abs(float(new["covered_95"]) - float(old["covered_95"])) < 0.03
