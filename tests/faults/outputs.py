"""Faults of what is written: closed and full streams, full disks, planted links, odd paths."""

from __future__ import annotations

from injection import Fault

RUN = "llmsched static-fifo --requests 300"
LOST = r"standard output cannot be written \("
FULL = r"cannot be written \(.*File too large\)"

OUTPUTS = [
    *(
        Fault(f"a full {where}: {command}", f"llmsched {command} {where}", 1, LOST)
        for where in (">/dev/full", ">&-")
        for command in (
            "--help",
            "--version",
            "list gpus",
            "static-fifo --requests 300",
            "compare --requests 50 --seeds 1",
            "trace info poisson",
        )
    ),
    Fault(
        "a full >/dev/full: capacity",
        "llmsched capacity --requests 50 --seeds 1 --schedulers static-fifo --jobs 1 >/dev/full",
        *(1, LOST),
    ),
    Fault("no stderr", f"{RUN} --requests-out r.csv 2>&-", 0, left="test $(wc -l < r.csv) = 301"),
    Fault("neither stream, nor stdin", f"{RUN} --requests-out r.csv <&- >&- 2>&-", 1),
    Fault("a full stderr", "llmsched static-fifo --trace nowhere 2>/dev/full", 2),
    Fault("a reader that leaves", f"llmsched trace info --help | head -1; {RUN} | head -1", 0),
    Fault(
        "a reader that leaves, and what it leaves",
        f"{RUN} --requests-out r.csv | true; exit 0",
        *(0, ""),
        left="test ! -e r.csv -o $(wc -l < r.csv) = 301",
    ),
    Fault("a folder that is not there", f"{RUN} --requests-out no/r.csv", 2, "must exist; create"),
    Fault("a folder as the file", f"mkdir r.csv; {RUN} --requests-out r.csv", 2, "be a folder"),
    Fault(
        "a device as the file",
        f"ln -s /dev/full r.csv; {RUN} --requests-out r.csv",
        2,
        "a file that can",
    ),
    Fault(
        "a link to itself as the file",
        f"ln -s r.csv r.csv; {RUN} --requests-out r.csv",
        2,
        "link to itself",
    ),
    Fault(
        "a name that is too long", f"{RUN} --requests-out {'x' * 300}.csv", 2, "File name too long"
    ),
    Fault(
        "the trace as the file",
        "trace 9 > x.csv; cp x.csv y; llmsched static-fifo --trace x.csv --requests-out x.csv",
        2,
        "would replace the trace",
        "cmp x.csv y",
    ),
    Fault(
        "a disk that fills under a table",
        "echo old > r.csv; small_files 10; llmsched static-fifo --requests 3000 --requests-out r.csv",
        *(1, f"r.csv: {FULL}"),
        left="test $(cat r.csv) = old",
    ),
    Fault(
        "a disk that fills under a Parquet table",
        "small_files 10; llmsched static-fifo --requests 3000 --requests-out r.parquet",
        *(1, f"r.parquet: {FULL}"),
        left="test ! -e r.parquet",
    ),
    *(
        Fault(
            f"a disk that fills under a conversion to {name}",
            f"small_files 4; llmsched trace convert poisson {name} --requests 9000",
            *(1, f"{name}: {FULL}"),
            left=f"test ! -e {name}",
        )
        for name in ("x.csv", "x.jsonl", "x.parquet", "x.csv.gz", "x.csv.zst")
    ),
    Fault(
        "a disk that fills under a figure",
        "small_files 4; llmsched compare --requests 50 --seeds 1 --figure f.png >/dev/null",
        *(1, f"f.png: {FULL}"),
        left="test ! -e f.png",
    ),
    Fault(
        "a planted link in the place of the partial file",
        "echo precious > victim; bash -c 'ln -s victim .r.csv.$$.partial; exec llmsched static-fifo "
        "--requests 300 --requests-out r.csv'; code=$?; rm .r.csv.*; exit $code",
        *(0, ""),
        left="test $(cat victim) = precious && test $(wc -l < r.csv) = 301",
    ),
    Fault(
        "a private file that is replaced",
        f"touch r.csv; chmod 600 r.csv; {RUN} --requests-out r.csv",
        *(0, ""),
        left="test $(stat -c %a r.csv) = 600 && test $(wc -l < r.csv) = 301",
    ),
    Fault(
        "two writers of one file, each with the same process number",
        "for n in 1 2; do unshare -p -f --mount-proc llmsched static-fifo --requests 20000 "
        "--requests-out r.csv >/dev/null & done; wait",
        *(0, ""),
        left="test $(wc -l < r.csv) = 20001 && awk -F, 'NF != 10 { exit 1 }' r.csv",
    ),
    Fault(
        "what a killed writer left",
        f"echo half > .r.csv.0123456789abcdef.partial; {RUN} --requests-out r.csv",
        *(0, ""),
        left="test ! -e .r.csv.0123456789abcdef.partial",
    ),
    Fault(
        "too little memory",
        "ulimit -v 1500000; llmsched static-fifo --requests 30000000",
        *(1, "memory"),
    ),
]
