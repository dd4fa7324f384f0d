"""A scripted fault: how it is made, how the command must end, and what must be left.

A script runs in bash, in an empty folder, with `llmsched` as installed; its last command is the
one under test. Beside what a fault expects, every one ends without a traceback, without half a
file, without a process left, within its time.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

PRELUDE = r"""
trace() { echo arrival_s,prompt_tokens,output_tokens
          seq 0 $(($1 - 1)) | awk '{ print $1 * 0.1 "," 10 + $1 % 7 "," 5 + $1 % 11 }'; }
digits() { head -c 10000000 /dev/zero | tr '\0' 1 | gzip -1 > .digits
           for _ in $(seq 300); do cat .digits; done; }  # 3 GB of one line in 13 MB
plugin() { mkdir -p site/plug-1.dist-info; cat > site/plug.py
           printf 'Metadata-Version: 2.1\nName: plug\nVersion: 1\n' > site/plug-1.dist-info/METADATA
           printf '[llmsched.%s]\nours = plug:ours\n' "$1" > site/plug-1.dist-info/entry_points.txt
           export PYTHONPATH="$PWD/site:$PYTHONPATH"; }
ready() { until grep -q 'SigCgt:.*[4-7c-f]...$' /proc/$1/status; do sleep 0.01; done; }  # SIGTERM
after() { local seconds=$1 number=$2; shift 2; set -m; "$@" & local process=$!; set +m
          ready $process; sleep "$seconds"
          kill -"$number" -- -$process; wait $process; }  # to the whole group, as a terminal does
small_files() { trap '' XFSZ; ulimit -f "$1"; }  # blocks of 1 KiB: as a disk that is full
stress() { llmsched stress step1 --volumes 60 --gpu-counts 1 --seeds 2 --out st "$@"; }
"""
COMMAND = f"#!{sys.executable}\nfrom llmsched_command import main\nmain()\n"


@dataclass(frozen=True)
class Fault:
    """One fault; `left` is a bash test of the folder afterwards."""

    name: str
    script: str
    code: int
    says: str = ""  # a regular expression for the last line on stderr
    left: str = "true"
    limit_s: float = 60.0


@dataclass(frozen=True)
class End:
    """How a script ended."""

    code: int
    stdout: str
    stderr: str
    wall_s: float


def bash(script: str, folder: Path, *, limit_s: float = 60.0) -> End:
    """Run a script in a folder as a session of its own; fails if any of it outlives its time."""
    binaries = folder.parent / "bin"
    if not binaries.exists():
        binaries.mkdir()
        (binaries / "llmsched").write_text(COMMAND)
        (binaries / "llmsched").chmod(0o755)
        (binaries / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (binaries / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "COLUMNS": "200"}
    environment["PROFILES"] = str(Path(__file__).parents[2] / "workloads")
    began_s = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", PRELUDE + script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process.pid)
        pytest.fail(f"a hang: not done after {limit_s:g} s")
    wall_s = time.monotonic() - began_s
    left = _end(process.pid, grace_s=3.0)
    assert not left, f"{left} processes outlive the command"
    return End(
        process.returncode, *(part.decode(errors="replace") for part in (stdout, stderr)), wall_s
    )


def _end(session: int, grace_s: float = 0.0) -> int:
    """End what is left of a session after a while, and count it."""
    until_s = time.monotonic() + grace_s
    while (found := _members(session)) and time.monotonic() < until_s:
        time.sleep(0.05)
    for process in found:
        os.kill(process, signal.SIGKILL)
    return len(found)


def _members(session: int) -> list[int]:
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(entry.parent.name))
    return members


def check(fault: Fault, folder: Path) -> End:
    """Do what a fault says and hold the end against what it expects."""
    end = bash(fault.script, folder, limit_s=fault.limit_s)
    said = f"{fault.name}: ended with {end.code}\n{end.stdout[-2000:]}\n{end.stderr[-2000:]}"
    lines = end.stderr.splitlines()
    assert end.code == fault.code, said
    assert "Traceback" not in end.stderr + end.stdout, said
    assert re.search(fault.says, lines[-1] if lines else ""), said
    if fault.code in (1, 2) and fault.says:
        assert lines[-1].startswith("Error: "), said
    half = [path for path in folder.rglob("*") if ".partial" in path.name or path.suffix == ".part"]
    assert not half, said
    left = subprocess.run(["bash", "-c", fault.left], cwd=folder, capture_output=True, check=False)
    assert left.returncode == 0, f"{fault.left}\n{said}\n{left.stdout}{left.stderr}"
    return end
