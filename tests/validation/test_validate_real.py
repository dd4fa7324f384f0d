"""`llmsched validate` on real vLLM runs: the commands of docs/validation.md, and their errors.

The rows are not in this repository; where the folder is absent these tests are skipped, and the
run's summary says so.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmsched.cli.main import main

DATA = Path(__file__).parents[3] / "shared" / "data"
RUNS = DATA / "vllm_sharegpt_runs"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not RUNS.is_dir(), reason="NOT VALIDATED ON ANY REAL RUN: ../shared/data is not there"
    ),
]


def validated(*arguments):
    result = CliRunner().invoke(main, ["validate", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def sharegpt(gpu, *arguments, layers=True):
    prefix = DATA / "latency" / f"vllm_layers_{gpu}_Llama-3.1-8B_tp1"
    return validated(
        RUNS / f"{gpu}_Llama-3.1-8B_requests.jsonl.gz",
        *(["--step-time", prefix] if layers else []),
        *("--shared-prefixes", RUNS / "Llama-3.1-8B_shared_prefixes.csv"),
        *arguments,
    )


def means(found):
    return [found[name]["relative_error"]["mean"] for name in ("ttft_s", "tpot_s", "e2e_s")]


def percent(found, name):
    """Errors of mean, p50, p90, p99 and of a request [%]: those of an earlier implementation."""
    errors = [*found[name]["relative_error"].values(), found[name]["per_request_error"]]
    return [round(100 * error, 1) + 0.0 for error in errors]


def test_rtx_4090__nothing_fitted():
    found = sharegpt("RTX4090")
    assert percent(found, "ttft_s") == [0.4, 0.2, 0.4, 0.0, 0.6]
    assert percent(found, "tpot_s") == [0.2, 0.4, 1.6, 0.4, 1.9]
    assert percent(found, "e2e_s") == [0.4, 1.2, 0.1, 0.2, 0.6]
    assert percent(found, "queueing_s") == [0.4, 0.2, 0.5, -0.1, 0.7]
    assert found["series"]["running"]["mean_absolute_error"] < 1.0
    assert found["series"]["waiting"]["mean_absolute_error"] < 1.5
    assert found["series"]["kv_share"]["mean_absolute_error"] < 0.02
    moved = {one["name"]: one["mean_errors"]["ttft_s"] for one in found["assumptions"]}
    assert moved["KV memory -5 %"] == pytest.approx(0.041, abs=0.002)
    assert moved["KV memory +5 %"] == pytest.approx(-0.045, abs=0.002)
    assert moved["prefix caching off"] == pytest.approx(0.054, abs=0.002)
    assert moved["prompts share nothing"] == pytest.approx(0.017, abs=0.002)


def test_rtx_pro_6000__one_constant_of_the_first_hundred():
    # its KV memory is not recorded and never binds
    found = sharegpt("RTXPRO6000", "--kv-tokens", 1_600_000, "--fit", "overhead:100")
    assert 1.5e-3 < found["fitted"]["values"]["overhead_s"] < 2.2e-3
    assert max(map(abs, means(found))) < 0.02
    assert found["unfitted"]["e2e_s"]["relative_error"]["mean"] < -0.05


@pytest.mark.slow
def test_rtx_4090__all_constants_from_the_first_hundred_without_layer_times():
    found = sharegpt("RTX4090", "--fit", "all:100", layers=False)
    assert max(map(abs, means(found))) < 0.05


@pytest.mark.slow
def test_h100_stages__the_faster_stage_from_the_slower_one():
    # the shipped physics has seen these stages; calibration/physics_stages.csv has it without them
    arguments = [DATA / "vllm_h100_runs" / "stages.csv", "--step-time", "physics:h100-sxm"]
    found = validated(*arguments, "--fit", "scale:1")
    runs = found["fitted"]
    faster = [one for one in found["stages"] if one["run"] in runs and not one["fitted_on"]]
    assert len(faster) == 4
    for one in faster:
        assert abs(one["e2e_s"]["relative_error"]["mean"]) < 0.05, one["run"]
        assert abs(one["ttft_s"]["relative_error"]["mean"]) < 0.15, one["run"]
    assert sum(one["overloaded"] for one in found["stages"]) == 2
