"""Faults of what is read: files that are damaged, hostile, huge or none."""

from __future__ import annotations

from injection import Fault

HEAD = "arrival_s,prompt_tokens,output_tokens"
LITTLE = "ulimit -v 4000000\n"  # 4 GB of addresses, of which an idle process has 1
RUN = "llmsched static-fifo --real-timestamps --requests 100 --trace"


def written(text: str, name: str = "x.csv") -> str:
    """A run of a file with this text, in printf's spelling."""
    return f"printf '{text}' > {name}; {RUN} {name}"


PARQUET = """python - <<'END'
import pyarrow as pa, pyarrow.parquet as pq
{}
END
"""

INPUTS = [
    Fault("no file", f"{RUN} x.csv", 2, "no such file"),
    Fault("a folder", f"mkdir x.csv; {RUN} x.csv", 2, "got a folder"),
    Fault("a pipe", f"mkfifo x.csv; {RUN} x.csv", 2, "must be a regular file", limit_s=10),
    Fault("an endless device", f"{RUN} /dev/zero", 2, "must be a regular file", limit_s=10),
    Fault("an empty file", f": > x.csv; {RUN} x.csv", 2, "got an empty file"),
    Fault("a link to itself", f"ln -s x.csv x.csv; {RUN} x.csv", 2, "x.csv"),
    Fault("a header alone", written(f"{HEAD}\\n"), 2, "x.csv"),
    Fault("not a number", written(f"{HEAD}\\n0,1,1\\n1,2,nan\\n"), 2, "line 3, column 'output_tok"),
    Fault("no UTF-8", written(f"{HEAD}\\n0,1,1\\n1,2,\\377\\n"), 2, "line 3"),
    Fault("zero bytes", written(f"{HEAD}\\n0,1,1\\n\\0\\0\\0\\n"), 2, "line 3"),
    Fault(
        "a field too many", written(f"{HEAD}\\n0,1,1\\n1,2,3,4\\n"), 2, "line 3.*3 fields.*got 4"
    ),
    Fault("an open quote", written(f'{HEAD}\\n0,1,1\\n1,"2,3\\n'), 2, "line 3"),
    Fault("digits of other scripts", written(f"{HEAD}\\n0,1,1\\n1,\\331\\241,1\\n"), 2, "line 3"),
    Fault(
        "a number of 5,000 digits",
        f"(echo {HEAD}; echo 0,1,1; echo 1,$(printf '9%.0s' $(seq 5000)),1) > x.csv; {RUN} x.csv",
        *(2, "line 3, column 'prompt_tokens'"),
    ),
    Fault(
        "gzip cut short",
        "trace 9999 | gzip | head -c 9000 > x.csv.gz; llmsched trace info x.csv.gz",
        *(2, "must be complete gzip data"),
    ),
    Fault(
        "zstd with a byte changed",
        f"trace 9999 | gzip > x; printf '\\x28\\xb5\\x2f\\xfd' > x.csv.zst; cat x >> x.csv.zst;"
        f" {RUN} x.csv.zst",
        *(2, "must be complete zstd data"),
    ),
    Fault(
        "a line of 3 GB, packed",
        f"(printf '{HEAD}\\n0,1,1\\n0,1,' | gzip; digits) > x.csv.gz; {LITTLE} {RUN} x.csv.gz",
        *(2, "line 3: a line must be at most 1 MiB"),
    ),
    Fault("a header of 3 GB", f"digits > x.csv.gz; {LITTLE} {RUN} x.csv.gz", 2, "x.csv.gz"),
    Fault(
        "a JSON text of 3 GB",
        f"""(printf '{{"arrival_s": "' | gzip; digits) > x.jsonl.gz; {LITTLE} {RUN} x.jsonl.gz""",
        *(2, "x.jsonl.gz"),
    ),
    Fault(
        "8 GB of nothing after three rows",
        f"trace 3 > x.csv; truncate -s 8G x.csv; {LITTLE} {RUN} x.csv",
        *(2, "line 5: a line must be at most 1 MiB"),
    ),
    Fault(
        "100 million rows, packed, of which 100 are asked for",
        f"(echo {HEAD}; yes 0,1,1 | head -c 600000000) | zstd -q > x.csv.zst; {LITTLE} {RUN} x.csv.zst",
        0,
    ),
    Fault(
        "JSON of 200,000 brackets", f"printf '[%.0s' $(seq 200000) > x.jsonl; {RUN} x.jsonl", 2, "x"
    ),
    Fault(
        "JSON of 200,000 brackets on line 2",
        f"""(echo '{{"arrival_s":0,"prompt_tokens":1,"output_tokens":1}}'
        printf '[%.0s' $(seq 200000); echo) > x.jsonl; {RUN} x.jsonl""",
        *(2, "line 2"),
    ),
    Fault(
        "a JSON key twice",
        written(
            '{"arrival_s":0,"prompt_tokens":1,"output_tokens":1,"output_tokens":9}\\n', "x.jsonl"
        ),
        *(2, "line 1.*output_tokens"),
    ),
    Fault(
        "two JSON objects on a line",
        written(2 * '{"arrival_s":0,"prompt_tokens":1,"output_tokens":1} ' + "\\n", "x.jsonl"),
        *(2, "line 1"),
    ),
    Fault(
        "parquet cut short", f"printf PAR1abc > x.parquet; {RUN} x.parquet", 2, "complete parquet"
    ),
    Fault(
        "parquet with a column twice",
        PARQUET.format(
            "pq.write_table(pa.table([[0.0], [1], [1], [1]], names=['arrival_s', 'prompt_tokens',"
            " 'output_tokens', 'output_tokens']), 'x.parquet')"
        )
        + f"{RUN} x.parquet",
        *(2, "output_tokens"),
    ),
    Fault(
        "parquet of 50 million rows in one group, of which 100 are asked for",
        PARQUET.format(
            "import numpy as np\nones = pa.array(np.ones(50_000_000, np.int64))\n"
            "pq.write_table(pa.table([ones, ones, ones], names=['arrival_s', 'prompt_tokens',"
            " 'output_tokens']), 'x.parquet', row_group_size=50_000_000)"
        )
        + f"{LITTLE} {RUN} x.parquet",
        0,
    ),
    Fault("a name that is no UTF-8", f"trace 9 > $'bad\\xff.csv'; {RUN} $'bad\\xff.csv' --json", 0),
    Fault(
        "a name with a terminal's commands",
        f"echo prose > $'x\\e[31m\\n.csv'; {RUN} $'x\\e[31m\\n.csv' 2>&1 | tee got >&2; grep -c $'\\e' got; "
        "exit ${PIPESTATUS[0]}",
        *(1, r"x\\x1b\[31m\\n.csv"),
    ),
    Fault(
        "a profile of 400 digits",
        written("rate_per_s = " + "9" * 400 + "\\n", "x.toml"),
        2,
        "x.toml",
    ),
    Fault(
        "a profile of 5,000 brackets",
        f"(printf 'a='; printf '[%.0s' $(seq 5000)) > x.toml; {RUN} x.toml",
        2,
        "x.toml",
    ),
    Fault("a profile that is no TOML", written("kind = = 3\\n", "x.toml"), 2, "x.toml"),
    Fault(
        "a profile with a key too many",
        "cp \"$PROFILES/poisson.toml\" x.toml; echo 'wrong = 1' >> x.toml; " + f"{RUN} x.toml",
        2,
        "wrong",
    ),
    Fault(
        "settings that are no TOML",
        "echo '[[[' > c.toml; llmsched compare --config c.toml",
        2,
        "c.toml",
    ),
    Fault(
        "settings of 5,000 brackets",
        "(printf 'a='; printf '[%.0s' $(seq 5000)) > c.toml; llmsched compare --config c.toml",
        2,
        "c.toml",
    ),
    Fault(
        "settings with a key too many",
        "echo 'gpuz = 3' > c.toml; llmsched compare --config c.toml",
        2,
        "gpuz",
    ),
    Fault(
        "settings that are a folder", "mkdir c.toml; llmsched compare --config c.toml", 2, "c.toml"
    ),
    Fault(
        "a latency that is no JSON",
        "echo '{' > l.json; llmsched compare --requests 9 --latency l.json",
        2,
        "l.json",
    ),
    Fault(
        "a latency of 200,000 brackets",
        "printf '[%.0s' $(seq 200000) > l.json; llmsched compare --requests 9 --latency l.json",
        2,
        "l.json",
    ),
    Fault(
        "a grid with no numbers",
        "printf 'batch_size,seq_len,seconds\\n1,2,x\\n' > g.csv; llmsched compare --requests 9 --latency g.csv",
        2,
        "g.csv",
    ),
]
