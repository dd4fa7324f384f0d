"""How commands end: exit codes, one line on stderr, in any state of the streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "llmsched"]
LONG = ("compare", "--requests", "3000000", "--rps-scale", "200", "--seeds", "20")


def end(*arguments: str, redirect: str = "", timeout_s: float = 60.0):
    line = f"exec {sys.executable} -m llmsched {' '.join(arguments)} {redirect}"
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("comparee",), "No such command 'comparee'"),
        (("compare", "--gpuz", "3"), "No such option"),
        (("compare", "--gpus", "9" * 5000), "--gpus"),
        (("static-fifo", "--trace", "nowhere.csv"), "no such file"),
        (("compare", "--requests"), "requires an argument"),
    ],
)
def test_bad_input__is_one_line_and_code_2(arguments, words):
    done = end(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert words in done.stderr


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
@pytest.mark.parametrize("arguments", [("static-fifo", "--requests", "50", "--json"), ("--help",)])
def test_result__that_cannot_be_written_is_a_failure(arguments, redirect):
    if "full" in redirect and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    done = end(*arguments, redirect=redirect)
    assert done.returncode == 1
    assert "standard output cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_errors__that_nobody_hears_do_not_stop_the_work(tmp_path):
    out = tmp_path / "requests.csv"
    done = end("static-fifo", "--requests", "50", "--requests-out", str(out), redirect="2>&-")
    assert done.returncode == 0
    assert "of 50 requests" in done.stdout
    assert len(out.read_text().splitlines()) > 40


def test_reader__that_leaves_early_is_left_in_peace():
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m llmsched static-fifo --requests 50 | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("after_s", [0.15, 0.5, 2.5])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt__ends_in_one_line_within_two_seconds(number, code, after_s):
    process = subprocess.Popen(
        [*COMMAND, *LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    time.sleep(after_s)
    began_s = time.monotonic()
    os.killpg(process.pid, number)
    try:
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()  # where the signal is ignored, as in the background of some shells
    assert process.returncode == code, stderr
    assert time.monotonic() - began_s < 10  # two on a quiet machine
    text = stderr.decode()
    assert "Traceback" not in text
    assert text.splitlines()[-1] == "Interrupted."
