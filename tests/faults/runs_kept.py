"""Faults of kept runs: damaged, swapped and locked folders, dying workers, a machine that fails.

`stress` is `llmsched stress step1` on 60 requests, into `st`, with the options given.
"""

from __future__ import annotations

from injection import Fault

FIRST = "stress --tables-only --jobs 1 >a 2>/dev/null && cp -r st before && "
AGAIN = "; stress --tables-only --jobs 1 >b"
SAME = "cmp a b && cmp before/step1.csv st/step1.csv"
BIG = (
    "llmsched stress step1 --volumes 25000 --gpu-counts 1 --seeds 2 --jobs 1 --out st --tables-only"
)
FULL = "cannot be written"


def damaged(name: str, command: str) -> Fault:
    """A plan, its folder damaged, and the plan again: the same numbers."""
    return Fault(name, FIRST + command + AGAIN, 0, left=SAME)


RUNS_KEPT = [
    damaged("runs cut short", "truncate -s -100 st/runs.jsonl"),
    damaged(
        "a run with one digit changed",
        'sed -i \'2s/"latency_mean_s":[0-9]/"latency_mean_s":7/\' st/runs.jsonl',
    ),
    damaged("runs under each other's keys", "sed -i '1{h;d};2{G}' st/runs.jsonl"),
    damaged(
        "a run of 200,000 brackets",
        "printf '[%.0s' $(seq 200000) >> st/runs.jsonl; echo >> st/runs.jsonl",
    ),
    damaged(
        "a run that is no text", "head -c 3000 /dev/urandom >> st/runs.jsonl; echo >> st/runs.jsonl"
    ),
    damaged("no runs", "rm st/runs.jsonl"),
    damaged("a table that is no Parquet", "echo damaged > st/step1.parquet"),
    damaged("an empty table", ": > st/step1.parquet"),
    Fault(
        "a folder in the place of the runs",
        "mkdir -p st/runs.jsonl; stress --tables-only --jobs 1",
        2,
        "runs.jsonl: must be a file of runs, got a folder; remove it",
    ),
    Fault(
        "a folder in the place of the lock",
        "mkdir -p st/.lock; stress --tables-only --jobs 1",
        *(2, "lock"),
    ),
    Fault(
        "a folder in the place of a table",
        "mkdir -p st/step1.csv; stress --tables-only --jobs 1",
        1,
        "step1.csv",
    ),
    Fault("a file in the place of the folder", ": > st; stress --tables-only --jobs 1", 2, "st"),
    Fault(
        "two cached workloads exchanged",
        f"{BIG} >a 2>/dev/null; cd st/cache; set -- trace-*; mv $1 t; mv $2 $1; mv t $2; cd ../..; "
        f"cp st/step1.csv before.csv; rm st/runs.jsonl; {BIG} >b",
        *(0, ""),
        left="cmp a b && cmp before.csv st/step1.csv",
    ),
    *(
        Fault(
            f"a cached workload damaged: {how}",
            f"{BIG} >a 2>/dev/null; cd st/cache; set -- trace-*; {command}; cd ../..; "
            f"cp st/step1.csv before.csv; rm st/runs.jsonl; {BIG} >b",
            *(0, ""),
            left="cmp a b && cmp before.csv st/step1.csv",
        )
        for how, command in (
            ("empty", "echo '{}' > $1/meta.json"),
            ("nested", "printf '[%.0s' $(seq 200000) > $1/meta.json"),
            ("a file", "rm -r $1; : > $1"),
            ("halved", "truncate -s 20000 $1/output_tokens.npy"),
        )
    ),
    Fault("a file in the place of the cache", f"mkdir st; : > st/cache; {BIG}", 2, "st/cache"),
    Fault(
        "a disk that fills under a plan, and has room again",
        f"(small_files 50; {BIG}) >/dev/null 2>err; code=$?; tail -1 err | grep -Eq '{FULL}' || exit 9; "
        f"grep -c Traceback err; test $code = 1 || exit 8; {BIG} >b",
        *(0, ""),
        left='! grep -q \'"status":"failed"\' st/runs.jsonl && test -s st/step1.csv',
    ),
    Fault(
        "a plan of more memory than there is",
        "ulimit -v 1500000; llmsched stress step1 --volumes 30000000 --gpu-counts 1 --seeds 1 "
        "--jobs 1 --out st --tables-only",
        *(1, "memory"),
        left="test ! -s st/runs.jsonl",
    ),
    Fault(
        "two plans in one folder",
        "llmsched stress step1 --volumes 40000 --gpu-counts 1 --seeds 3 --jobs 1 --out st "
        "--tables-only >a 2>/dev/null & until test -s st/runs.jsonl; do sleep 0.05; done; "
        "stress --tables-only --jobs 1 >b; code=$?; wait; exit $code",
        *(1, "another sweep works in this folder"),
        left="test ! -s b && test -s a && ! grep -q ',60,' st/step1.csv",
    ),
    Fault(
        "a worker that is killed",
        "llmsched stress step1 --volumes 300000 --gpu-counts 1 --seeds 4 --jobs 2 --out st "
        '--tables-only & until worker=$(pgrep -P $! -f popen_loky | head -1) && test -n "$worker"; '
        "do sleep 0.1; done; sleep 1; kill -9 $worker; wait $!",
        *(1, "worker processes must live until the work is done"),
    ),
    *(
        Fault(
            f"a {name}.py in the current folder",
            f'echo \'open("/dev/stderr", "w").write("taken"); open("marker", "w")\' > {name}.py; '
            "stress --tables-only --jobs 2",
            *(0, ""),
            left="test ! -e marker",
        )
        for name in ("pickle", "random", "numpy", "joblib")
    ),
    Fault(
        "names that are formulas, tags and quotes",
        "trace 60 > $'=1+1<b>\"x.csv'; llmsched stress step1 --volumes 60 --gpu-counts 1 --seeds 1 "
        "--jobs 1 --out st --trace $'=1+1<b>\"x.csv'",
        *(0, "Report: "),
        left="! grep -qE '(^|,)\"?=' st/step1.csv && ! grep -q '<b>' st/report.html",
    ),
    Fault(
        "another hash seed, time zone, locale and folder",
        "llmsched compare --requests 300 --seeds 2 --json >a; mkdir d; cd d; PYTHONHASHSEED=7 "
        "TZ=Asia/Tokyo LC_ALL=C OMP_NUM_THREADS=1 llmsched compare --requests 300 --seeds 2 --json >../b",
        *(0, ""),
        left="cmp a b",
    ),
    Fault(
        "a trace that is edited without a trace of it",
        "trace 99 >x.csv; python - <<'END'\n"
        "import os\nfrom pathlib import Path\nfrom llmsched import Scenario, Workload\n"
        "scenario = Scenario(workload=Workload(source='x.csv'))\nbefore = scenario.key()\n"
        "path, status = Path('x.csv'), os.stat('x.csv')\n"
        "path.write_text(path.read_text().replace(',5\\n', ',6\\n', 1))\n"
        "os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))\n"
        "assert status.st_size == path.stat().st_size and before != scenario.key()\nEND",
        0,
    ),
    Fault(
        "a report that is damaged",
        "stress --jobs 1 >a 2>/dev/null; head -c 99 st/report.html > r; mv r st/report.html; stress --jobs 1 >b",
        *(0, ""),
        left="cmp a b && grep -q '</html>' st/report.html",
    ),
]
