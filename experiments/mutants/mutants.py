"""Break one line at a time and see whether a test notices: `make mutants`.

Every entry of `mutants.toml` is one small break of the package and the tests that must fail on
it. Breaks are made in copies of the working tree in a temporary folder, never in the tree itself;
the tests named there must first pass on an unbroken copy. Exits with 1 if a break survives, no
longer applies, or its tests cannot be run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIST = HERE / "mutants.toml"
TIMEOUT_S = 60.0  # per mutant; the slowest tests named take about 5 s
BASELINE_TIMEOUT_S = 600.0

PASSED, FAILED, TIMED_OUT = 0, 1, -1  # exit status of pytest, and ours for a hang

Verdict = Literal["caught", "survived", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One break: `old` becomes `new` in `file`, and one of `tests` must fail."""

    id: str
    file: str  # from the root of the repository
    old: str  # occurs in the file exactly once
    new: str
    why: str
    tests: tuple[str, ...]  # what pytest is given: files or test ids

    def __post_init__(self) -> None:
        if not self.old or self.old == self.new:
            raise ValueError(f"mutant {self.id}: old and new must differ and old not be empty")
        if not self.tests:
            raise ValueError(f"mutant {self.id}: tests must name at least one test")

    def applied(self, text: str) -> str:
        """The text of the file with the break in it.

        Raises
        ------
        ValueError
            If `old` does not occur in it exactly once.
        """
        n = text.count(self.old)
        if n != 1:
            raise ValueError(f"old must occur in {self.file} once, got {n} times; renew the entry")
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one mutant."""

    mutant: Mutant
    verdict: Verdict
    seconds: float
    detail: str  # the test that failed first, or what went wrong
    hung: bool = False


def load_mutants(path: Path = LIST) -> list[Mutant]:
    """The mutants of a list, in its order."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    mutants = [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    ids = [mutant.id for mutant in mutants]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"ids must differ, got twice: {', '.join(twice)}")
    return mutants


def copy_working_tree(target: Path) -> None:
    """Every file that git tracks or would track, as it is now, uncommitted changes included."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():  # a deleted file is still listed until the next commit
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_tests(copy: Path, tests: Iterable[str], timeout_s: float) -> tuple[int, str]:
    """Exit status and output of pytest in a copy; `TIMED_OUT` after `timeout_s`."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(copy / "src"), str(copy / HERE.relative_to(ROOT))]),
        # a break of equal length within one second would otherwise meet the old bytecode
        "PYTHONDONTWRITEBYTECODE": "1",
        "MUTANT_SOURCE": str(copy / "src"),
    }
    process = subprocess.Popen(
        [*command, "-p", "mutant_plugin", *tests],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return TIMED_OUT, ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what the tests have started
            process.wait()


def judge(mutant: Mutant, status: int, output: str) -> tuple[Verdict, str]:
    """What the end of the tests says about a mutant; a failed import is no verdict."""
    if status == PASSED:
        return "survived", f"none of {', '.join(mutant.tests)} failed; {mutant.why}"
    if status == TIMED_OUT:
        return "caught", "hung: stopped at the time limit"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if status == FAILED and failed:
        return "caught", failed[1]
    return "error", f"pytest ended with status {status}:\n{output[-2000:]}"


def try_mutant(copy: Path, mutant: Mutant, timeout_s: float) -> Outcome:
    """Break a copy, run the tests named, mend the copy."""
    start = time.monotonic()
    path = copy / mutant.file
    if not path.is_file():
        return Outcome(mutant=mutant, verdict="error", seconds=0, detail="there is no such file")
    intact = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutant.applied(intact), encoding="utf-8")
    except ValueError as error:
        return Outcome(mutant=mutant, verdict="error", seconds=0, detail=str(error))
    try:
        status, output = run_tests(copy, mutant.tests, timeout_s)
    finally:
        path.write_text(intact, encoding="utf-8")
    verdict, detail = judge(mutant, status, output)
    seconds = time.monotonic() - start
    hung = status == TIMED_OUT
    return Outcome(mutant=mutant, verdict=verdict, seconds=seconds, detail=detail, hung=hung)


def baseline(copies: Sequence[Path], mutants: Sequence[Mutant]) -> str | None:
    """Run all tests named on unbroken copies; what fails, or None."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    piles = [pile for k in range(len(copies)) if (pile := tests[k :: len(copies)])]
    with ThreadPoolExecutor(len(copies)) as pool:
        ends = pool.map(run_tests, copies, piles, [BASELINE_TIMEOUT_S] * len(piles))
        wrong = [output[-4000:] or "no end" for status, output in ends if status != PASSED]
    return "\n".join(wrong) or None


def try_all(copies: Sequence[Path], mutants: Sequence[Mutant], timeout_s: float) -> list[Outcome]:
    """Every mutant's outcome, in order, printed as they come; one at a time in each copy."""
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(mutant: Mutant) -> Outcome:
        copy = free.get()
        try:
            return try_mutant(copy, mutant, timeout_s)
        finally:
            free.put(copy)

    outcomes = []
    with ThreadPoolExecutor(len(copies)) as pool:
        for outcome in pool.map(one, mutants):
            outcomes.append(outcome)
            name, seconds = outcome.mutant.id, outcome.seconds
            print(f"{outcome.verdict:8}  {name:30} {seconds:5.1f} s  {outcome.detail}", flush=True)
    return outcomes


def check(mutant: Mutant) -> None:
    """Fail unless a mutant applies to the working tree and its tests are there, as far as named.

    Raises
    ------
    ValueError, OSError
        What is gone; parameters of a test are left to pytest.
    """
    mutant.applied((ROOT / mutant.file).read_text(encoding="utf-8"))
    for test in mutant.tests:
        file, *names = test.partition("[")[0].split("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        if gone := [name for name in names if not re.search(rf"\b(def|class) {name}\b", text)]:
            raise ValueError(f"{file} must have {gone[0]}, got none; renew the entry")


def list_mutants(mutants: Sequence[Mutant]) -> int:
    """Print id, file and reason of each; 1 if `check` fails for one."""
    stale = 0
    for mutant in mutants:
        print(f"{mutant.id:30} {mutant.file.removeprefix('src/llmsched/'):22} {mutant.why}")
        try:
            check(mutant)
        except (ValueError, OSError) as error:
            stale = 1
            print(f"    does not apply: {error}")
    return stale


def main() -> int:
    """Parse, copy, check the copy, break it again and again, sum up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="ID", action="append", help="this mutant; repeatable")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="copies tried at a time")
    parser.add_argument("--timeout-s", metavar="SECONDS", type=float, default=TIMEOUT_S)
    options = parser.parse_args()
    mutants = load_mutants()
    if options.only:
        unknown = set(options.only) - {mutant.id for mutant in mutants}
        if unknown:
            parser.error(f"--only must name a mutant of --list, got {', '.join(sorted(unknown))}")
        mutants = [mutant for mutant in mutants if mutant.id in options.only]
    if options.list:
        return list_mutants(mutants)
    if options.jobs < 1:
        parser.error(f"--jobs must be >= 1, got {options.jobs}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Path(folder) / str(k) for k in range(options.jobs)]
        copy_working_tree(copies[0])
        for copy in copies[1:]:
            shutil.copytree(copies[0], copy)
        wrong = baseline(copies, mutants)
        if wrong is not None:
            print(f"the tests named must pass before anything is broken, but:\n{wrong}")
            return 1
        took_s = time.monotonic() - start
        print(f"unbroken, the tests of {len(mutants)} mutants pass ({took_s:.0f} s)", flush=True)
        outcomes = try_all(copies, mutants, options.timeout_s)
    count = {v: sum(o.verdict == v for o in outcomes) for v in ("caught", "survived", "error")}
    hung = sum(outcome.hung for outcome in outcomes)
    print(
        f"{len(outcomes)} mutants: {count['caught']} caught ({hung} by the time limit), "
        f"{count['survived']} survived, {count['error']} errors; {time.monotonic() - start:.0f} s"
    )
    return 0 if count["caught"] == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
