"""Stress plans that are run: resuming, the same bytes anywhere, what is left out and said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stress_builders import ALL, MERGED, STEP1, STEP2, STEP2B, STEP3, TINY, tables, write_trace

from llmsched.simulation.hardware import Hardware
from llmsched.simulation.scenario import Scenario, as_scenario
from llmsched.simulation.simulate import simulate
from llmsched.simulation.sweep.sweep import RunConfig, sweep
from llmsched.studies.stress.plan import CONTINUOUS, SCHEDULERS, Plan
from llmsched.studies.stress.run import available, read_runs, run_steps
from llmsched.studies.stress.tables import per_bin_table
from llmsched.workload.slo import Slo
from llmsched.workload.workload import Workload

DATA = Path(__file__).parents[4] / "shared" / "data"
ONE = replace(TINY, gpu_counts=(1,), loads=(0.9,))

pytestmark = pytest.mark.filterwarnings(MERGED)


def test_run__has_all_steps_with_tables_verdicts_and_figures(done):
    out, result = done
    n_runs = {found.step.name: len(found.runs) for found in result.steps}
    assert n_runs == {"step1": 2 * 2 * 4 * 2, "step2": 4, "step2b": 8, "step3": 4}
    for found in result.steps:
        assert set(found.runs["status"]) == {"done"}
        assert {"requests_asked", "n_bins", "target_load"} <= set(found.runs)
        assert 1 <= len(found.verdict) <= 2
        assert found.figures
        assert len(found.differences)
        assert found.differences["verdict"].notna().all()
        assert set(found.summary["n"]) == {2}
        for suffix in (".csv", "_summary.csv", "_differences.csv", "_per_bin.csv"):
            assert (out / f"{found.step.name}{suffix}").stat().st_size > 100
    # what is compared is compared on equal GPUs and volumes, everyone against static_fifo
    first = result.steps[0]
    binned = {name: set(rows["n_bins"]) for name, rows in first.runs.groupby("scheduler")}
    assert binned == {name: {2 if "bin_" in name else 1} for name in SCHEDULERS}
    against = first.differences.query("against == 'static_fifo' and metric == 'goodput_rps'")
    assert len(against) == 2 * 2 * 3
    assert result.steps[3].cautions[0].startswith("Run on 2 GPUs: ")


def test_run__holds_the_loads_that_step_2b_asks_for(done):
    held = done[1].steps[2]
    ratio = held.runs["offered_load"] / held.runs["target_load"]
    # never below but for rounding in the last digits of ρ, and 6 digits of the rate above
    assert ratio.min() > 1 - 1e-12
    assert ratio.max() < 1 + 1.1e-5


def test_run__summary_equals_the_runs_it_is_of(done):
    found = done[1].steps[1]
    row = found.summary.query("metric == 'goodput_rps' and n_gpus == 2").iloc[0]
    assert row["mean"] == pytest.approx(found.runs.query("n_gpus == 2")["goodput_rps"].mean())
    per_bin = per_bin_table(found.runs)
    shares = per_bin.query("metric == 'request_share' and n_gpus == 2")["mean"]
    assert shares.sum() == pytest.approx(1.0)


def test_run__at_another_rate_is_the_one_that_simulate_gives(tmp_path):
    # the requests are kept once and scaled per run: to the last bit what a load at that rate gives
    configs = [
        RunConfig(
            workload=Workload(requests=200, rps_scale=scale),
            scheduler="multi_bin_dynamic",
            latency="reference",
            n_gpus=2,
            seed=1,
        )
        for scale in (1.0, 33.3334, 200.0)
    ]
    results = sweep(configs, tmp_path, jobs=1)
    for config, row in zip(configs, results.to_dict("records"), strict=True):
        run = simulate(config)
        assert row["latency_mean_s"] == run.metrics.latency_mean_s
        assert row["makespan_s"] == run.metrics.makespan_s
        assert row["offered_load"] == run.offered_load
    assert results["trace_sha256"].nunique() == 3


def test_run__of_one_step_after_another_has_the_same_bytes_and_does_nothing_twice(done, tmp_path):
    # given steps that are started one by one, the first on two processes
    for step in ALL:
        result = run_steps(TINY, [step], tmp_path, jobs=2 if step == "step1" else 1)
    # then all are there, with the bytes of all at once in one process
    assert [found.step.name for found in result.steps] == ["step1", "step2", "step2b", "step3"]
    assert tables(tmp_path) == tables(done[0])
    runs: list[Any] = []
    run_steps(TINY, ALL, tmp_path, jobs=1, on_done=runs.append)
    assert runs == []
    assert tables(tmp_path) == tables(done[0])


@pytest.mark.skipif(sys.platform == "win32", reason="process groups and SIGINT are POSIX's")
def test_killed_plan__resumes_to_the_same_tables_as_an_undisturbed_one(done, tmp_path):
    # given the same plan in a process that Ctrl-C ends after a few runs (kill -9 of a sweep is in
    # test_sweep_kill.py: a step is a sweep)
    code = (
        "from stress_builders import ALL, TINY; from llmsched.studies.stress.run import run_steps; "
        f"from pathlib import Path; run_steps(TINY, ALL, Path({str(tmp_path)!r}), jobs=2)"
    )
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and n_kept(tmp_path) < 5:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) != 0
    assert 5 <= n_kept(tmp_path) < 44
    # when it is started again
    done_now: list[Any] = []
    before = n_kept(tmp_path)
    run_steps(TINY, ALL, tmp_path, jobs=1, on_done=done_now.append)
    # then only what is missing is done, and the tables are those of the undisturbed one
    assert len(done_now) == n_kept(tmp_path) - before
    assert tables(tmp_path) == tables(done[0])


def n_kept(out: Path) -> int:
    """Runs that a folder keeps."""
    path = out / "runs.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_run__leaves_steps_of_other_settings_out_and_says_so(done):
    out, _ = done
    stricter = replace(TINY, base=replace(TINY.base, slo=Slo(latency_s=0.5)))
    slower = replace(TINY, base=TINY.base.at_rate(0.5))
    for step in (STEP1, STEP2, STEP3):
        for other in (stricter, slower):
            with pytest.warns(UserWarning, match=f"{step.name}.parquet has another workload or"):
                assert read_runs(step, other, out) is None
    # but for step 2b, whose loads set its rates: those runs are the same ones
    assert read_runs(STEP2B, slower, out) is not None


@pytest.mark.parametrize(
    "change",
    [{"volumes": (60,)}, {"base": replace(TINY.base, seed=7)}, {"base": TINY.base.at_rate(0.5)}],
    ids=["fewer requests", "other seeds", "another rate"],
)
@pytest.mark.filterwarnings("ignore:.*another workload:UserWarning")
def test_step3__is_not_chosen_by_a_step_2_of_other_requests(change, tmp_path):
    run_steps(replace(ONE, **change), ["step2"], tmp_path, jobs=1)
    with pytest.raises(ValueError, match="run step2 into it first, or give --best-gpu-count"):
        run_steps(TINY, ["step3"], tmp_path, jobs=1)


def test_run__says_which_runs_failed_and_does_them_again_when_asked(tmp_path, monkeypatch):
    from llmsched.simulation.sweep import runs as workers

    serve = workers.serve

    def breaking(scenario: Scenario, *args: Any, **options: Any) -> Any:
        if scenario.hardware.n_gpus == 2 and scenario.seed == 1:
            raise RuntimeError("out of luck")
        return serve(scenario, *args, **options)

    monkeypatch.setattr(workers, "serve", breaking)
    scaling, held = run_steps(TINY, ["step2"], tmp_path, jobs=1).steps
    (failed,) = [one for one in scaling.cautions if "FAILED" in one]
    assert failed.startswith("1 of 4 runs FAILED and are in no mean: multi_bin_dynamic, 2 GPUs")
    assert "RuntimeError: out of luck" in failed
    assert scaling.summary.query("n_gpus == 2")["n"].unique() == [1]
    assert "2 of 8 runs FAILED" in " ".join(held.cautions)
    # when luck is back, only a sweep that is asked to does them again
    monkeypatch.setattr(workers, "serve", serve)
    assert run_steps(TINY, ["step2"], tmp_path, jobs=1).steps[0].n_failed == 1
    assert run_steps(TINY, ["step2"], tmp_path, jobs=1, retry_failed=True).steps[0].n_failed == 0


def test_run__where_all_fails_has_no_figures_and_no_means(tmp_path, monkeypatch):
    from llmsched.simulation.sweep import runs as workers

    def broken(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(workers, "serve", broken)
    with pytest.warns(UserWarning, match="step 2b is left out"):
        result = run_steps(ONE, ["step1", "step2"], tmp_path, jobs=1)
    assert [found.step.name for found in result.steps] == ["step1", "step2"]
    for found in result.steps:
        assert found.verdict == ("No run finished, so there is nothing to say.",)
        assert not found.figures
        assert "FAILED" in found.cautions[-1]


def test_run__of_requests_at_one_instant_has_no_step_2b(tmp_path):
    workload = Workload(source=str(write_trace(tmp_path / "t.csv", gap_s=0.0)))
    plan = replace(ONE, base=replace(TINY.base, workload=workload), volumes=(80,))
    with pytest.warns(UserWarning, match="step 2b is left out: no run of step 2 has a finite load"):
        result = run_steps(plan, ["step2"], tmp_path / "out", jobs=1)
    assert [found.step.name for found in result.steps] == ["step2"]


def test_volumes__beyond_the_rows_of_a_file_become_all_its_rows(tmp_path):
    workload = Workload(source=str(write_trace(tmp_path / "t.csv", n=80)))
    plan, notes = available(Plan(base=Scenario(workload=workload), volumes=(40, 100, 1000)))
    assert plan.volumes == (40, 80)
    assert notes == [
        "t.csv has 80 requests in all: volumes 100, 1000 left out, and all of it is run instead"
    ]
    # the whole file is not run twice where it is asked for as well
    assert available(replace(plan, volumes=(80, 100)))[0].volumes == (80,)
    assert available(replace(plan, volumes=(40, 80))) == (replace(plan, volumes=(40, 80)), [])
    plan = replace(ONE, base=replace(TINY.base, workload=workload), volumes=(100,))
    (found,) = run_steps(plan, ["step1"], tmp_path / "out", jobs=1).steps
    assert "t.csv has 80 requests in all" in found.cautions[0]
    assert set(found.runs["requests"]) == {80}


def test_run__under_a_measured_latency_set_says_where_it_was_not_measured(tmp_path):
    plan = replace(ONE, base=as_scenario(TINY.base, latency="h100-llama-3-8b-vllm"), volumes=(120,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run_steps(plan, ["step2"], tmp_path, jobs=1).steps[0]
    assert set(found.runs["latency_kind"]) == {"measurement"}
    assert any("lie outside the range where" in line for line in found.cautions), found.cautions


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="NOT RUN ON ANY REAL TRACE: ../shared/data is absent")
@pytest.mark.parametrize(
    ("file", "rows"),
    [("traces/azure_llm_2023_conv.csv.gz", 19_366), ("burstgpt/burstgpt_1_head400.csv", 383)],
)
def test_step1__runs_up_to_the_rows_that_a_real_trace_has(file, rows, tmp_path):
    base = Scenario(workload=Workload(source=str(DATA / file), rps_scale=4.0))
    plan = Plan(base=base, volumes=(300, 100_000), gpu_counts=(2,), replications=2)
    (found,) = run_steps(plan, ["step1"], tmp_path, jobs=1).steps
    assert found.n_failed == 0
    assert set(found.summary["requests"]) == {300, rows}
    assert f"has {rows} requests in all: volume 100000 left out" in found.cautions[0]
    runs = dict(zip(found.summary["scheduler"], found.summary["n"], strict=True))
    assert runs == {
        **dict.fromkeys(("static_fifo", "dynamic_no_bins"), 1),  # nothing random in them
        **dict.fromkeys(("multi_bin_dynamic", "multi_bin_adaptive"), 2),
    }


def test_run__of_the_iteration_level_has_its_schedulers_and_token_metrics(tmp_path):
    hardware = Hardware(step_time="rtx-4090-llama-3.1-8b")
    workload = Workload(source="poisson", rps_scale=1.0)
    base = Scenario(workload=workload, hardware=hardware, slo=Slo(latency_s=30))
    plan = Plan(
        base=base,
        engine="iteration",
        volumes=(40, 80),
        gpu_counts=(1, 2),
        loads=(0.9,),
        bins=(1, 2),
        replications=2,
    )
    result = run_steps(plan, ["step1", "step2", "step3"], tmp_path, jobs=1)
    first, scaled, held, binned = result.steps
    assert set(first.runs["scheduler"]) == set(CONTINUOUS)
    for found in (scaled, held, binned):
        assert set(found.runs["scheduler"]) == {"continuous_multi_bin"}
    assert {"ttft_p99_s", "tpot_mean_s", "kv_share_mean"} <= set(first.summary["metric"])
    # rivals are compared on equal terms: three against first come, at 2 volumes on 2 GPU counts
    pairs = first.differences.query("metric == 'goodput_rps'")
    assert len(pairs) == 3 * 2 * 2
    assert set(pairs["against"]) == {"continuous_static"}
    ratio = held.runs["offered_load"] / held.runs["target_load"]
    assert ratio.between(1 - 1e-9, 1 + 1e-5).all()  # the rate is rounded up, to six digits
    names = {name for found in result.steps for name in found.figures}
    assert {"step1_tokens", "step2_tokens", "step3_tokens"} <= names
    assert not {"step1_batch_sizes", "step1_bins", "step3_composition"} & names
    for found in result.steps:
        for figure in found.figures.values():
            figure.draw()
    # and it goes on where it was: nothing is run twice
    done: list[object] = []
    run_steps(plan, ["step1"], tmp_path, jobs=1, on_done=done.append)
    assert done == []
