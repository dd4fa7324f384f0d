"""Tables to files: CSV or Parquet by suffix, floats so that they read back exactly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from llmsched._util.files import check_output, whole_file
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.engine.step_records import ServedTable, StepTable

Table = RequestTable | BatchTable | ServedTable | StepTable
SUFFIXES = (".csv", ".parquet")
_ROWS = {RequestTable: "request", ServedTable: "request", BatchTable: "batch", StepTable: "step"}
_NEVER_HAPPENED = frozenset(  # to a rejected request
    (
        *("start_s", "finish_s", "gpu", "batch"),
        *("queued_s", "scheduled_s", "first_token_s", "replica"),
    )
)


def check_table_path(path: str | os.PathLike[str]) -> Path:
    """The path, if a table can be written there; before the run, so that no result is lost.

    Raises
    ------
    ValueError
        If the suffix is not one of ours or no file can be put there.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a table file must end in {' or '.join(SUFFIXES)}, got {str(path)!r}")
    check_output(path, "a table file")
    return target


def write_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Write a table, all at once: a reader never sees half a file.

    The first column numbers the rows (`request`, `batch` or `step`). A rejected request has empty
    cells for what never happened. A link is followed.

    Raises
    ------
    ValueError
        If the path cannot be that of a table.
    OutputError
        If writing fails, an `OSError`.
    """
    import pyarrow as pa

    target = check_table_path(path)
    missing = ~table.completed if isinstance(table, RequestTable | ServedTable) else None
    columns = {_ROWS[type(table)]: pa.array(np.arange(len(table)))}
    for name in table.__slots__:
        values = getattr(table, name)
        if isinstance(values, np.ndarray):
            columns[name] = pa.array(values, mask=missing if name in _NEVER_HAPPENED else None)
    with whole_file(path) as partial:
        _write(pa.table(columns), partial, target.suffix.lower())


def _write(table: Any, path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
    else:
        from pyarrow import csv

        with path.open("wb") as file:  # arrow would quote the names in the header
            file.write((",".join(table.column_names) + "\n").encode())
            csv.write_csv(
                table, file, csv.WriteOptions(include_header=False, quoting_style="needed")
            )
