"""Sweeps: keys, resuming, failures, damaged files, the cache, and the same numbers anywhere."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plan_world
import pytest
from plan_world import plan_scenario, plan_simulate as simulate

from llmsched import Binning, Settings, Workload
from llmsched.cli.progress import run_line, sweep_progress
from llmsched.prediction.predictors import predictor_from_spec
from llmsched.simulation.beliefs import predict_bins
from llmsched.simulation.scenario import Scenario
from llmsched.simulation.sweep.store import RunStore, latency_quantiles_frame, per_bin_frame
from llmsched.simulation.sweep.sweep import (
    TIMING_COLUMNS,
    RunConfig,
    RunRecord,
    load_results,
    pending,
    sweep,
)
from llmsched.simulation.workers import WorkerDiedError
from llmsched.workload.slo import Slo

SMALL = Workload(requests=60)
IMPOSSIBLE = plan_scenario(  # a predictor of bins of output tokens cannot bin by anything else
    workload=SMALL,
    scheduler="multi_bin_dynamic",
    predictor="bin-error:0.1",
    binning=Binning(by="total"),
)


GOLDEN_KEY = "6a36649574a6c33aa641a22aae34e66b974b2591c63fdf697c15642726b0414a"
ORACLE = predictor_from_spec("oracle")


def grid(n_seeds: int = 2) -> list[RunConfig]:
    return [
        plan_scenario(workload=SMALL, scheduler=scheduler, n_gpus=n_gpus, seed=seed)
        for scheduler in ("static_fifo", "multi_bin_dynamic")
        for n_gpus in (1, math.inf)
        for seed in range(n_seeds)
    ]


def in_bytes(results) -> bytes:
    """A result table without its timing columns, every value in full, as bytes."""
    import pyarrow as pa

    table = pa.Table.from_pandas(results.drop(columns=list(TIMING_COLUMNS)))
    return f"{table.schema}\n{json.dumps(table.to_pylist())}".encode()


def run_lines(out: Path) -> list[bytes]:
    """The kept runs of a folder, a line each."""
    return (out / "runs.jsonl").read_bytes().splitlines(keepends=True)


def write_trace(path: Path, first_output: int = 5) -> Path:
    rows = [f"{i},ChatGPT,{10 + i},{first_output + i},{15 + 2 * i},API log" for i in range(20)]
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


# Keys


def test_key__is_the_same_everywhere_golden():
    # a golden: it moves when a default or a profile changes, and then old results do not count
    config = plan_scenario(
        workload=Workload(requests=1000, window_s=(0.0, math.inf)),
        scheduler="multi_bin_dynamic",
        settings=Settings(sla_s=0.1, capacity_tokens=69231.5),
    )
    assert config.key() == GOLDEN_KEY


def test_key__tells_apart_whatever_changes_the_numbers():
    config = plan_scenario(workload=SMALL, scheduler="static_fifo")
    others = [
        replace(config, workload=replace(SMALL, rps_scale=100)),
        replace(config, scheduler="dynamic_no_bins"),
        plan_scenario(config, n_gpus=5),
        replace(config, slo=Slo(latency_s=2)),
        replace(config, binning=Binning(n_bins=5)),
        plan_scenario(config, latency="reference-revised"),
        replace(config, predictor="oracle"),
        replace(config, admission="one-by-one"),
        replace(config, seed=1),
        plan_scenario(config, llm="qwen3-4b"),
    ]
    assert len({other.key() for other in [config, *others]}) == 11


def test_key__is_of_values_not_of_spelling():
    config = plan_scenario(workload=SMALL, scheduler="static_fifo")
    same = [
        plan_scenario(config, n_gpus=4.0, predictor="noisy:0.674"),
        replace(config, workload=replace(SMALL, rps_scale=200)),
    ]
    assert {other.key() for other in same} == {config.key()}


def test_key__of_a_trace_file_follows_its_content_not_its_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = (write_trace(tmp_path / folder / "burst.csv") for folder in "ab")
    keys = [
        plan_scenario(workload=Workload(source=str(path)), scheduler="static_fifo").key()
        for path in (here, there)
    ]
    monkeypatch.chdir(tmp_path / "a")
    config = plan_scenario(workload=Workload(source="burst.csv"), scheduler="static_fifo")
    keys += [config.key(), config.with_absolute_paths().key()]
    assert len(set(keys)) == 1
    write_trace(here, first_output=6)
    assert config.key() != keys[0]


def test_key__of_a_latency_grid_follows_its_content_and_form(tmp_path):
    path = tmp_path / "grid.csv"
    path.write_text("one\n")
    config = plan_scenario(workload=SMALL, scheduler="static_fifo", latency=str(path))
    keys = {config.key(), plan_scenario(config, latency=f"{path}#four-term").key()}
    path.write_text("another\n")
    keys.add(config.key())
    assert len(keys) == 3


def test_absolute_paths__keep_the_form_of_a_latency_grid(tmp_path, monkeypatch):
    # given a grid beside, which a process elsewhere is to find and to fit in the same form
    (tmp_path / "grid.csv").write_text("one\n")
    monkeypatch.chdir(tmp_path)
    for latency in ("grid.csv", "grid.csv#four-term"):
        config = plan_scenario(workload=SMALL, scheduler="static_fifo", latency=latency)
        there = config.with_absolute_paths()
        assert there.hardware.latency == f"{tmp_path}/{latency}"
        assert there.key() == config.key()


def test_key__of_a_file_that_is_not_there_says_so(tmp_path):
    config = plan_scenario(workload=Workload(source="nowhere.csv"), scheduler="static_fifo")
    with pytest.raises(ValueError, match=r"nowhere\.csv: no such file"):
        config.key()


# What a sweep gives


def test_sweep__gives_what_simulate_gives(tmp_path):
    config = plan_scenario(
        workload=SMALL, scheduler="multi_bin_dynamic", n_gpus=2, seed=3, binning=Binning(n_bins=3)
    )
    row = sweep([config], tmp_path, jobs=1).iloc[0]
    run = simulate(SMALL, "multi_bin_dynamic", n_gpus=2, seed=3, binning=3)
    for name, value in run.to_dict().items():
        if name not in ("per_bin", "bin_edges", "config", "extrapolated_axis"):
            assert row[name] == value, name
    assert row["bin_edges"].tolist() == run.edges.tolist()
    per_bin = per_bin_frame(load_results(tmp_path))
    assert per_bin["latency_p99_s"].tolist() == [one.latency_p99_s for one in run.metrics.per_bin]
    latency_s = run.requests.finish_s - run.requests.arrival_s
    drawn = latency_quantiles_frame(load_results(tmp_path)).set_index("quantile")["latency_s"]
    assert len(drawn) == 201
    assert drawn[0.0] == latency_s.min()
    assert drawn[0.5] == np.quantile(latency_s, 0.5)
    assert drawn[1.0] == latency_s.max()
    assert row["batch_size_counts"].sum() == len(run.batches)
    assert row["workload_requests"] == 60
    assert row["slo_latency_s"] == 1.0
    assert row["status"] == "done"
    assert math.isnan(row["error"])
    assert len(row["trace_sha256"]) == 64
    assert row["version"]
    assert row["wall_s"] > 0


@pytest.mark.parametrize("jobs", [2, pytest.param(None, marks=pytest.mark.slow)])
def test_sweep__is_the_same_on_any_number_of_cores(tmp_path, jobs):
    one = sweep(grid(), tmp_path / "one", jobs=1)
    many = sweep(grid(), tmp_path / "many", jobs=jobs)
    assert in_bytes(one) == in_bytes(many)
    assert in_bytes(load_results(tmp_path / "one")) == in_bytes(load_results(tmp_path / "many"))
    assert not (one["status"] != "done").any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sweep__is_the_same_on_ray(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    seen: list[RunRecord] = []
    configs = [*grid(), IMPOSSIBLE]
    local = sweep(configs, tmp_path / "local", jobs=1)
    on_ray = sweep(configs, tmp_path / "ray", backend="ray", jobs=2, on_done=seen.append)
    assert in_bytes(local) == in_bytes(on_ray)
    assert len(seen) == len(configs)
    assert not ray.is_initialized()


def test_results__come_in_the_order_asked_and_by_key_from_the_folder(tmp_path):
    configs = grid()
    results = sweep([*configs, configs[0]], tmp_path, jobs=1)
    assert results["key"].tolist() == [config.key() for config in configs]
    assert load_results(tmp_path)["key"].tolist() == sorted(results["key"])
    assert results["n_gpus"].tolist() == [config.hardware.n_gpus for config in configs]


def test_results__keep_edges_windows_and_warnings(tmp_path):
    config = plan_scenario(
        workload=Workload(requests=60, window_s=(0.0, 1e6)),
        scheduler="multi_bin_dynamic",
        binning=Binning(edges=(50.0, 200.0)),
    )
    ties = replace(config, workload=SMALL, predictor="oracle", binning=Binning(n_bins=60))
    fixed, tied = (row for _, row in sweep([config, ties], tmp_path, jobs=1).iterrows())
    assert fixed["binning_edges"] == "50,200"
    assert fixed["workload_window_s"].tolist() == [0.0, 1e6]
    assert "60 equal-mass bins asked for" in tied["notes"][0]
    # and a run that finds its bins in the cache has the same warning
    other = sweep([plan_scenario(ties, n_gpus=9)], tmp_path, jobs=1).iloc[0]
    assert other["notes"].tolist() == tied["notes"].tolist()


# Again, and in parts


def test_second_start__starts_nothing(tmp_path, monkeypatch):
    first = sweep(grid(), tmp_path, jobs=1)
    before = run_lines(tmp_path)

    def never(*_args: object, **_options: object) -> None:
        raise AssertionError("a backend was started")

    monkeypatch.setattr("llmsched.simulation.sweep.runner.pool", never)
    assert pending(grid(), tmp_path) == []
    for backend in ("local", "ray"):
        again = sweep(grid(), tmp_path, backend=backend, on_done=never)
        assert again.equals(first)
    assert run_lines(tmp_path) == before


def test_steps__run_apart_add_up(tmp_path):
    configs = grid()
    sweep(configs[:3], tmp_path / "parts", jobs=1)
    assert pending(configs, tmp_path / "parts") == configs[3:]
    seen: list[RunRecord] = []
    sweep(configs, tmp_path / "parts", jobs=1, on_done=seen.append)
    assert {record.key for record in seen} == {config.key() for config in configs[3:]}
    assert [record.n_done for record in seen] == list(range(1, len(configs) - 2))
    assert seen[-1].work_done == pytest.approx(1)
    sweep(configs, tmp_path / "whole", jobs=1)
    assert in_bytes(load_results(tmp_path / "parts")) == in_bytes(load_results(tmp_path / "whole"))


def test_interrupted_sweep__keeps_what_was_finished(tmp_path):
    def stop(record: RunRecord) -> None:
        if record.n_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(grid(), tmp_path, jobs=1, on_done=stop)
    assert len(run_lines(tmp_path)) == 2
    assert len(pending(grid(), tmp_path)) == len(grid()) - 2


def test_other_version__is_kept_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("llmsched.simulation.sweep.runner.__version__", "0.0.1")
    sweep(grid(), tmp_path, jobs=1)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"are of version 0\.0\.1"):
        sweep(grid(), tmp_path, jobs=1)


# Failures


def test_failed_run__is_recorded_and_done_again_only_when_asked(tmp_path, monkeypatch):
    configs = [IMPOSSIBLE, *grid(1)]
    seen: list[RunRecord] = []
    results = sweep(configs, tmp_path, jobs=1, on_done=seen.append)
    # recorded, with its error, and the others are done
    assert results["status"].tolist() == ["failed", *["done"] * (len(configs) - 1)]
    assert "bins must be by output" in results["error"][0]
    failure = RunStore.read(tmp_path).rows[IMPOSSIBLE.key()]
    assert failure["scheduler"] == "multi_bin_dynamic"
    assert "Traceback" in failure["traceback"]
    assert [record.status for record in seen].count("failed") == 1
    # not done again
    seen.clear()
    assert pending(configs, tmp_path) == []
    sweep(configs, tmp_path, jobs=1, on_done=seen.append)
    assert seen == []
    # unless asked for: with its cause gone, it succeeds and the failure is forgotten
    monkeypatch.setattr(
        "llmsched.simulation.sweep.runs.predict_bins",
        lambda trace, policy, _predictor, *rest: predict_bins(trace, policy, ORACLE, *rest),
    )
    results = sweep(configs, tmp_path, jobs=1, retry_failed=True, on_done=seen.append)
    assert [record.key for record in seen] == [IMPOSSIBLE.key()]
    assert results["status"].tolist() == ["done"] * len(configs)
    assert pending(configs, tmp_path, retry_failed=True) == []


def workers() -> list[int]:
    """The loky workers among the children of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid() and b"popen_loky" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the workers in /proc")
@pytest.mark.slow
def test_killed_worker__ends_the_sweep_with_advice_and_keeps_finished_runs(tmp_path):
    def kill(_record: RunRecord) -> None:
        for pid in workers():
            os.kill(pid, signal.SIGKILL)

    configs = grid(20)
    with pytest.raises(WorkerDiedError, match="finished runs are kept: go on with fewer jobs"):
        sweep(configs, tmp_path, jobs=2, on_done=kill)
    assert 0 < len(run_lines(tmp_path)) < len(configs)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the workers in /proc")
@pytest.mark.slow
def test_killed_sweep__takes_its_workers_with_it(tmp_path):
    # given a sweep over two cores that says who its workers are, and is then killed
    code = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parent)!r}, {plan_world.__file__.rpartition("/")[0]!r}]
from test_sweep import Path, grid, sweep, workers
def tell(_record):
    print(*workers(), flush=True)
    time.sleep(60)
sweep(grid(20), Path({str(tmp_path)!r}), jobs=2, on_done=tell)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    # then they end as well, which loky's own would not do
    give_up_s = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheduler": "fifo"}, "scheduler must be one of"),
        ({"latency": "referense"}, "latency must be a known name, a model file or a grid CSV file"),
        ({"predictor": "noisy:x"}, "noisy:SIGMA must have a number"),
        ({"llm": "gpt-9"}, "llm must be a known name"),
        ({"n_gpus": 1.5}, "n_gpus must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0 .* got -1"),
    ],
)
def test_wrong_config__ends_before_the_first_run(tmp_path, change, message):
    def start() -> None:
        sweep([*grid(), plan_scenario(grid()[0], **change)], tmp_path / "out", jobs=1)

    with pytest.raises(ValueError, match=message):
        start()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs must be >= 1, got 0"),
        ({"backend": "slurm"}, "backend must be one of local, ray; got 'slurm'"),
        ({"address": "auto"}, "an address needs backend 'ray'"),
        ({"backend": "ray", "address": "127.0.0.1:9"}, "nothing answers"),
    ],
)
def test_wrong_option__is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(grid(), tmp_path, **options)


# Damaged files


def half(line: bytes) -> bytes:
    return line[: len(line) // 2] + b"\n"


def flipped(line: bytes) -> bytes:
    """One byte of the values changed: JSON itself would not notice."""
    place = line.index(b"stable") if b"stable" in line else line.index(b"overloaded")
    return line[:place] + b"X" + line[place + 1 :]


def under_another_key(line: bytes) -> bytes:
    return line.replace(line[8:72], b"0" * 64)


@pytest.mark.parametrize(
    "damage",
    [
        half,
        flipped,
        under_another_key,
        lambda _line: b"{}\n",
        lambda _line: b"[" * 100_000 + b"\n",
        lambda _line: b"\xff\x00garbage\n",
        lambda line: line[:156] + b"[]}\n",
    ],
)
def test_damaged_line__is_detected_and_its_run_done_again(tmp_path, damage):
    sweep(grid(), tmp_path, jobs=1)
    before = in_bytes(load_results(tmp_path))
    lines = run_lines(tmp_path)
    victim = lines[2][8:72].decode()
    lines[2] = damage(lines[2])
    (tmp_path / "runs.jsonl").write_bytes(b"".join(lines))
    with pytest.warns(UserWarning, match="1 kept runs are damaged and left out"):
        assert len(load_results(tmp_path)) == len(grid()) - 1
    assert [config.key() for config in pending(grid(), tmp_path)] == [victim]
    seen: list[RunRecord] = []
    with pytest.warns(UserWarning, match="1 kept runs are damaged"):
        sweep(grid(), tmp_path, jobs=1, on_done=seen.append)
    assert [record.key for record in seen] == [victim]
    with pytest.warns(UserWarning, match="1 kept runs are damaged"):
        assert in_bytes(load_results(tmp_path)) == before


def test_last_words__of_a_killed_writer_are_no_run_and_spoil_none(tmp_path):
    sweep(grid()[:2], tmp_path, jobs=1)
    with (tmp_path / "runs.jsonl").open("ab") as file:
        file.write(b'{"key":"0123')
    assert len(sweep(grid(), tmp_path, jobs=1)) == len(grid())
    with pytest.warns(UserWarning, match="1 kept runs are damaged"):
        assert len(load_results(tmp_path)) == len(grid())


def test_folder__in_the_place_of_the_file_is_named(tmp_path):
    (tmp_path / "runs.jsonl").mkdir()
    with pytest.raises(OSError, match=r"runs\.jsonl: must be a file of runs, got a folder"):
        sweep(grid(), tmp_path, jobs=1)


def test_folder__has_one_owner_at_a_time(tmp_path):
    def second(_record: RunRecord) -> None:
        with pytest.raises(OSError, match="another sweep works in this folder"):
            sweep(grid(), tmp_path, jobs=1)
        assert isinstance(load_results(tmp_path), pd.DataFrame)  # reading is free

    sweep(grid()[:1], tmp_path, jobs=1, on_done=second)
    assert len(sweep(grid()[:1], tmp_path)) == 1


def test_machine_fault__ends_the_sweep_and_is_no_result(tmp_path, monkeypatch):
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmsched.simulation.sweep.runs.serve", full)
    with pytest.raises(OSError, match="No space left"):
        sweep(grid(), tmp_path, jobs=1)
    monkeypatch.undo()
    assert len(pending(grid(), tmp_path)) == len(grid())


# What runs share


BIG = Workload(source="poisson", requests=25_000)


def big(n_seeds: int = 1) -> list[Scenario]:
    return [
        plan_scenario(workload=BIG, scheduler="multi_bin_dynamic", n_gpus=n, seed=seed)
        for n in (4, 8)
        for seed in range(n_seeds)
    ]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch) -> None:
    """Nothing that this process prepared for another test."""
    monkeypatch.setattr("llmsched.simulation.sweep.cache._open", OrderedDict())


def entries(out: Path, kind: str) -> list[Path]:
    return sorted((out / "cache").glob(f"{kind}-*"))


def test_cache__has_each_large_workload_once_and_each_prediction_once(tmp_path):
    sweep([*big(2), *grid()], tmp_path, jobs=1)
    assert len(entries(tmp_path, "trace")) == 2  # one per seed; small ones are not worth a file
    assert len(entries(tmp_path, "bins")) == 2


@pytest.mark.parametrize("damage", ["half", "flip", "swap", "file", "meta"])
def test_cache__that_is_damaged_or_another_entrys_is_made_again(tmp_path, monkeypatch, damage):
    before = sweep(big(2), tmp_path / "whole", jobs=1)
    monkeypatch.setattr("llmsched.simulation.sweep.cache._open", OrderedDict())
    sweep(big(2), tmp_path / "out", jobs=1)
    (tmp_path / "out" / "runs.jsonl").unlink()
    one, other = entries(tmp_path / "out", "trace")
    column = one / "output_tokens.npy"
    if damage == "half":
        column.write_bytes(column.read_bytes()[:1000])
    elif damage == "flip":
        data = column.read_bytes()
        column.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "swap":
        aside = one.with_name("aside")
        one.rename(aside)
        other.rename(one)
        aside.rename(other)
    elif damage == "file":
        shutil.rmtree(one)
        one.write_text("not a folder")
    else:
        (one / "meta.json").write_text("[" * 100_000)
    monkeypatch.setattr("llmsched.simulation.sweep.cache._open", OrderedDict())
    assert in_bytes(sweep(big(2), tmp_path / "out", jobs=1)) == in_bytes(before)


def test_cache__may_be_deleted(tmp_path, monkeypatch):
    sweep(big()[:1], tmp_path, jobs=1)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("llmsched.simulation.sweep.cache._open", OrderedDict())
    assert len(sweep(big(), tmp_path, jobs=1)) == 2


def test_cached_trace__is_a_read_only_map(tmp_path):
    from llmsched.simulation.sweep.cache import cached_trace

    made = cached_trace(tmp_path, "key", lambda: SMALL.load(0)).value
    for column in (made.arrival_s, made.prompt_tokens, made.output_tokens):
        assert isinstance(column.base, np.memmap)
        assert not column.flags.writeable
        assert type(column) is np.ndarray


def test_cached_trace__keeps_priorities_and_prefix_ids(tmp_path):
    from llmsched.simulation.sweep.cache import cached_trace
    from llmsched.workload.prefixes.prefix_ids import PrefixIds

    def load():
        trace = SMALL.load(0).take(slice(3))
        ids = PrefixIds.of([[7], [], [7]], tokens_per_id=4)
        return replace(trace, priority=np.array([2, 0, 1], np.int32), prefix_ids=ids)

    for name in ("made", "made"):  # then found
        kept = cached_trace(tmp_path, name, load).value
        assert kept.priority.tolist() == [2, 0, 1]
        assert [kept.prefix_ids.row(row).tolist() for row in range(3)] == [[7], [], [7]]
        assert kept.prefix_ids.tokens_per_id == 4


def test_trace_file__that_changes_under_a_running_sweep_is_a_failure(tmp_path, monkeypatch):
    path = write_trace(tmp_path / "burst.csv")
    config = plan_scenario(
        workload=Workload(source=str(path), rps_scale=1), scheduler="static_fifo"
    )
    monkeypatch.setattr(
        "llmsched.simulation.sweep.runner.source_sha256", lambda _workload: "0" * 64
    )
    results = sweep([config], tmp_path / "out", jobs=1)
    assert "must be the file that the sweep was started with" in results["error"][0]


# Progress


def test_progress__is_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    ties = plan_scenario(
        workload=SMALL,
        scheduler="multi_bin_dynamic",
        predictor="oracle",
        binning=Binning(n_bins=60),
    )
    with sweep_progress() as on_done:
        sweep(
            [*grid(1), IMPOSSIBLE, ties, replace(ties, binning=Binning(n_bins=59))],
            tmp_path,
            jobs=1,
            on_done=on_done,
        )
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 9, lines  # seven runs, a note, and that more of its kind came
    assert lines[0].startswith("[1/7] burstgpt-like, 60 requests, static_fifo, 1 GPU, seed 0, ")
    assert (
        sum("FAILED multi_bin_dynamic, 4 GPUs, seed 0: ValueError" in line for line in lines) == 1
    )
    assert sum(re.match(r"Note: \d+ equal-mass bins", line) is not None for line in lines) == 1
    assert "more like this one, with other numbers" in lines[-1]


def test_progress__on_a_terminal_draws_a_bar_that_moves_by_requests(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    sizes = [replace(grid()[0], workload=Workload(requests=n)) for n in (10, 190)]
    seen: list[RunRecord] = []
    with sweep_progress() as on_done:
        sweep(sizes, tmp_path, jobs=1, on_done=lambda run: (seen.append(run), on_done(run)))
    assert [record.work_done for record in seen] == [0.95, 1.0]  # the longest first
    assert run_line(seen[0]) in capsys.readouterr().err
