"""`kill -9` at random instants: what is left is sound, and the next run is as an undisturbed one.

Sweeps are killed in `test_sweep_kill`, stress plans with their reports in `test_stress`, downloads
in `test_fetch`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform == "win32", reason="process groups and SIGKILL are POSIX's"),
]
COMMANDS = {
    "convert": ("trace convert poisson x.csv.gz --requests 200000", "x.csv.gz"),
    "convert to Parquet": ("trace convert poisson x.parquet --requests 400000", "x.parquet"),
    "tables": ("dynamic-no-bins --requests 100000 --requests-out r.csv", "r.csv"),
    "compare": ("compare --requests 2000 --seeds 2 --figure f.png", "f.png"),
    "capacity": (
        "capacity --target-violations 0.5 --requests 200 --seeds 2 --schedulers static-fifo --jobs 2 --capacity-curve f.png",
        "f.png",
    ),
    "stress": (
        "stress step1 --volumes 500,1000 --gpu-counts 1 --seeds 2 --jobs 2 --out . --tables-only",
        "step1_summary.csv",
    ),
}
N_KILLS = 5


def start(arguments: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmsched", *arguments.split()],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_command__leaves_whole_files_and_goes_on_to_the_same_bytes(
    name: str, tmp_path: Path
) -> None:
    arguments, output = COMMANDS[name]
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    began_s = time.monotonic()
    said, _ = start(arguments, calm).communicate(timeout=120)
    wall_s = time.monotonic() - began_s
    expected = (calm / output).read_bytes()
    instants = random.Random(20260801)
    # when the whole group dies at random instants, most of them in the second half, where it writes
    for _ in range(N_KILLS):
        process = start(arguments, killed)
        assert process.stdout is not None
        process.stdout.close()
        try:
            process.wait(wall_s * instants.triangular(0.1, 1.1, 0.9))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if (killed / output).exists():
            assert (killed / output).read_bytes() == expected
    # then a run that is left alone is as if nothing had happened
    again, _ = start(arguments, killed).communicate(timeout=120)
    assert again == said
    assert (killed / output).read_bytes() == expected
    assert not [path for path in killed.rglob("*") if "partial" in path.name]
