"""Files of public kinds and real runs, from ../shared, which does not ship."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from llmsched.calibration.benchmarks.fit import fit_benchmarks
from llmsched.calibration.benchmarks.registry import read_benchmarks
from llmsched.calibration.benchmarks.runs import closed_loop
from llmsched.latency.base import CalibrationError

SHARED = Path(__file__).parents[4] / "shared"
CASES = SHARED / "cases"
DATA = SHARED / "data"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (CASES.is_dir() and DATA.is_dir()),
        reason="NOT RUN ON SHARED CASES AND REAL RUNS: ../shared is not there",
    ),
]


def points(name, *files, **options):
    paths = [CASES / name / file for file in files] or [CASES / name]
    return [closed_loop(run) for run in read_benchmarks(paths, **options).runs]


SWEEP = ("c1.json", "c4.json", "c16.json")


def test_case__lengths_that_vary_in_a_summary():
    found = points("vllm_summary_varying_lengths", *SWEEP, format="vllm-bench")
    assert [point.e2e.mean_s for point in found] == pytest.approx([1.874, 2.799, 3.683], abs=5e-4)
    assert not any(point.notes for point in found)


def test_case__gaps_that_begin_with_the_ttft():
    found = points("vllm_itls_with_ttft", *SWEEP, format="vllm-bench")
    tpot_ms = [1e3 * point.tpot.mean_s for point in found]
    assert tpot_ms == pytest.approx([10.50, 17.29, 39.14], abs=6e-3)
    assert [point.e2e.mean_s for point in found] == pytest.approx([0.418, 0.712, 1.887], abs=5e-4)
    # they are those of the file's own summary, to the digits that its lists keep
    for file, point in zip(SWEEP, found, strict=True):
        summary = json.loads((CASES / "vllm_itls_with_ttft" / file).read_text())
        assert 1e3 * point.tpot.mean_s == pytest.approx(summary["mean_tpot_ms"], rel=1e-4)
        assert 1e3 * point.ttft.mean_s == pytest.approx(summary["mean_ttft_ms"], rel=1e-4)


def test_case__sessions_with_idle_gaps():
    files = [f"c{n}.json" for n in (1, 2, 16, 64)]
    found = points("aiperf_think_time", *files, format="aiperf")
    assert [point.in_flight for point in found] == pytest.approx(
        [0.616, 1.16, 11.7, 55.7], rel=5e-3
    )
    assert not any(point.is_busy for point in found)
    fit = fit_benchmarks(read_benchmarks([CASES / "aiperf_think_time" / file for file in files]))
    assert "0.616 of 1, 1.16 of 2, 11.7 of 16, 55.7 of 64 requests" in fit.notes[0]


def test_case__no_limit_is_no_closed_loop():
    paths = [
        CASES / "vllm_summary_varying_lengths" / "c1.json",
        CASES / "vllm_max_concurrency_0.json",
    ]
    with pytest.raises(CalibrationError, match=r"max_concurrency_0.json: .* max_concurrency 0"):
        fit_benchmarks(read_benchmarks(paths, format="vllm-bench"))


def test_case__sglang():
    found = points("sglang_bench_serving.jsonl", format="sglang")
    assert [point.company for point in found] == [1, 4, 16, 32]
    e2e_s = [point.e2e.mean_s for point in found]
    assert e2e_s == pytest.approx([1.354, 1.577, 2.468, 3.656], abs=5e-4)
    # what was really in flight is what the file says
    said = [json.loads(line)["concurrency"] for line in _lines("sglang_bench_serving.jsonl")]
    assert [point.in_flight for point in found] == pytest.approx(said, rel=0.03)


def _lines(name):
    return [line for line in (CASES / name).read_text().splitlines() if line.strip()]


def test_case__nobody_publishes_concurrency_1():
    files = sorted((CASES / "inferencex_no_c1").glob("*.json"))
    fit = fit_benchmarks(read_benchmarks(files, format="vllm-bench"))
    # the files are of a server with c0 = 10 ms, cp = 20 µs, cb = 0.5 ms: what they tell is the sum
    assert fit.model.c0_s == pytest.approx(0.010, rel=1e-3)
    assert fit.model.cb_s == pytest.approx(0.5e-3 + 20e-6 * 927 / 918, rel=1e-3)
    assert (fit.model.cp_s, fit.model.ckv_s) == (0, 0)
    assert any("2 of 4 constants can be told apart" in note for note in fit.notes)


# real runs


@pytest.mark.parametrize(
    ("name", "max_running", "kv_tokens", "device"),
    [
        ("RTX4090", 256, 2587 * 16, "NVIDIA GeForce RTX 4090"),
        ("RTXPRO6000", 128, None, None),
    ],
)
def test_run__two_logs_of_vllm_on_one_clock(name, max_running, kv_tokens, device):
    path = DATA / "vllm_sharegpt_runs" / f"{name}_Llama-3.1-8B_requests.jsonl.gz"
    (log,) = read_benchmarks([path]).runs
    server = log.server
    assert (server.model, server.max_running, server.step_tokens) == (
        "meta-llama/Llama-3.1-8B",
        max_running,
        2048,
    )
    assert (server.kv_tokens, server.device) == (kv_tokens, device)
    # one request was taken in at once, the others later; TTFT from the arrival is the longer one
    assert np.min(log.queued_s - log.arrival_s) == pytest.approx(0, abs=1e-6)
    later_s = np.mean(log.queued_s - log.arrival_s)
    assert 0.02 < later_s < 0.14
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    from_queued_s = np.mean([row["first_token_ts"] - row["queued_ts"] for row in rows])
    assert np.mean(log.ttft_s) == pytest.approx(from_queued_s + later_s, rel=1e-9)
    # the counters end as the run does
    assert log.series.t_s[-1] == pytest.approx(log.finish_s.max(), abs=2)
    assert log.series.running.max() <= max_running
    assert (log.series.kv_share is None) == (name == "RTXPRO6000")


def test_run__stages_of_an_h100():
    found = {
        (stage.run, stage.stage): stage
        for stage in read_benchmarks([DATA / "vllm_h100_runs" / "stages.csv"]).runs
    }
    assert len(found) == 12
    assert found["llama-2-7b-tp1-codegen", 0].tpot.mean_s == pytest.approx(7.3e-3, abs=5e-5)
    assert found["codellama-34b-tp2-general", 0].tpot.mean_s == pytest.approx(14.8e-3, abs=5e-5)
    overloaded = found["llama-2-7b-tp1-reasoning", 0]
    assert (overloaded.completed, overloaded.failed) == (732, 4068)
    assert overloaded.throughput_per_s < 0.2 * overloaded.load.rate_per_s


def test_run__closed_loops_of_deepseek_r1():
    path = DATA / "latency" / "inferencex_deepseek_r1_closed_loop.csv"
    found = read_benchmarks([path]).runs
    assert len(found) == 588
    with_means = [point for point in found if point.e2e.mean_s is not None]
    assert len(with_means) == 75
    # mean lengths are 0.9 of the nominal ones: what TTFT leaves of the end-to-end time is so many
    # times TPOT, and so many were in flight
    implied = [
        (point.e2e.mean_s - point.ttft.mean_s) / point.tpot.mean_s + 1 for point in with_means
    ]
    shares = [o / point.output_tokens for o, point in zip(implied, with_means, strict=True)]
    assert min(shares) > 0.98
    assert max(shares) < 1.01
    assert all(point.is_busy for point in found)
    # one server of one day: two constants and a prompt's cost, within a tenth
    where = {"hardware": "mi300x", "output_tokens": "1024", "date": with_means[0].date}
    day = {point.date for point in with_means if point.server.device == "mi300x"}
    fit = fit_benchmarks(read_benchmarks([path], where={**where, "date": max(day)}))
    assert fit.max_relative_error < 0.1
