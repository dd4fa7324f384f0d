"""Interrupts: at any instant, in every command, with workers; one line, its code, nobody left."""

from __future__ import annotations

from injection import Fault

COMPARE = "llmsched compare --requests 3000000 --seeds 20"
LONG = {
    "compare": COMPARE,
    "capacity": "llmsched capacity --target-violations 0.5 --requests 100000 --seeds 4 --jobs 2",
    "stress": "llmsched stress step1 --volumes 1000000 --gpu-counts 1 --seeds 4 --jobs 2 --out st",
    "convert": "llmsched trace convert poisson x.csv --requests 30000000",
    "tables": "llmsched static-fifo --requests 2000000 --requests-out r.csv",
    "paper": "llmsched paper multibin",
}

SIGNALS = [
    *(
        Fault(f"Ctrl-C after {seconds} s", f"after {seconds} INT {COMPARE}", 130, "^Interrupted.$")
        for seconds in (0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.6, 1, 2)
    ),
    *(
        Fault(
            f"{said} in {name}",
            f"after 3 {number} {command}",
            code,
            "^Interrupted.$",
            "test ! -e x.csv -a ! -e r.csv",
            15,
        )
        for name, command in LONG.items()
        for said, number, code in (("Ctrl-C", "INT", 130), ("SIGTERM", "TERM", 143))
    ),
    Fault(
        "Ctrl-C twice",
        f"set -m; {COMPARE} & process=$!; set +m; sleep 2; kill -INT -- -$process; kill -INT -- -$process; wait $process",
        130,
        "^Interrupted.$",
    ),
    Fault(
        "a plan whose parent is killed",
        f"{LONG['stress']} & sleep 4; kill -9 $!; wait $!; sleep 2; "
        "pgrep -f '[p]open_loky_posix' -s 0 && exit 1; exit 0",
        0,
    ),
    Fault(
        "Ctrl-C in a plan that is started again",
        "plan='llmsched stress step1 --volumes 30000 --gpu-counts 1,2 --seeds 2 --jobs 2 --tables-only'; "
        "after 4 INT $plan --out st; $plan --out calm >a 2>/dev/null; $plan --out st >b",
        *(0, ""),
        left="cmp a b && cmp calm/step1.csv st/step1.csv",
    ),
]
