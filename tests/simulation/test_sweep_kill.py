"""A sweep killed at random moments, again and again, ends in the same tables as one left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sweep_kill_target import configs

from llmsched.simulation.sweep.sweep import TIMING_COLUMNS, load_results, sweep

TARGET = Path(__file__).parents[1] / "support" / "sweep_kill_target.py"


def table_bytes(out: Path) -> bytes:
    """The results of a folder without timing, every value in full, as bytes."""
    import pyarrow as pa

    table = pa.Table.from_pandas(load_results(out).drop(columns=list(TIMING_COLUMNS)))
    return f"{table.schema}\n{json.dumps(table.to_pylist())}".encode()


def n_run_files(out: Path) -> int:
    path = out / "runs.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start(out: Path, jobs: int) -> subprocess.Popen[bytes]:
    """A sweep in a process group of its own, just about to begin."""
    process = subprocess.Popen(
        [sys.executable, str(TARGET), str(out), str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="process groups and SIGKILL are POSIX's")
def test_killed_sweep__resumes_to_the_same_bytes_as_an_undisturbed_one(tmp_path):
    # given an undisturbed sweep, and a total that a kill may find done, begun or not begun
    sweep(configs(), tmp_path / "calm", jobs=1)
    calm = table_bytes(tmp_path / "calm")
    rng = np.random.default_rng(20260801)
    n_kills = n_midway = 0
    folders = [tmp_path / "killed-0"]
    # when kill -9 comes at random moments, at least 10 times, some of them with runs half done
    while n_kills < 10 or n_midway < 3:
        assert n_kills < 60, f"only {n_midway} of {n_kills} kills came midway"
        jobs, everyone = 1 + (n_kills % 3 == 2), n_kills % 4 >= 2
        process = start(folders[-1], jobs)
        if n_kills % 2:  # in its very midst; else perhaps before its first run is done
            n_before = n_run_files(folders[-1])
            while process.poll() is None and n_run_files(folders[-1]) <= n_before:
                time.sleep(0.005)
        try:
            process.wait(rng.uniform(0.0, 0.3))
        except subprocess.TimeoutExpired:
            kill = os.killpg if everyone else os.kill
            kill(process.pid, signal.SIGKILL)  # the workers as well, or the main process alone
            n_kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
        n_found = n_run_files(folders[-1])
        n_midway += 0 < n_found < len(configs())
        if n_found == len(configs()):  # nothing left to disturb here
            folders.append(tmp_path / f"killed-{len(folders)}")
    # then what each left behind resumes to the same tables
    for folder in folders:
        sweep(configs(), folder, jobs=1)
        assert table_bytes(folder) == calm
        # nor is a half-written file or folder left where one was killed
        assert not list((folder / "cache").glob(".*.partial"))
