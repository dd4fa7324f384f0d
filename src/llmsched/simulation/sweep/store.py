"""What a sweep keeps: finished and failed runs in one file, a line each, read back and checked.

A run is appended at once, so a killed sweep loses nothing that was finished. Each line carries the
run's key and a checksum of both: a line that was cut short, changed or moved from another folder's
run is known as such, and its run is done again. A folder has one owner at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from llmsched._util.files import OutputError
from llmsched._util.options import field_types, options_of
from llmsched.metrics.bins import BinMetrics
from llmsched.metrics.run import Metrics
from llmsched.metrics.tokens import TokenMetrics
from llmsched.simulation.scenario import SECTIONS, Scenario

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FILE = "runs.jsonl"
_HEAD = '{"key":"%s","sha256":"%s","row":'
_KEY, _SUM, _ROW = slice(8, 72), slice(84, 148), slice(156, -1)  # where they stand in a line
_SYNC_EVERY_S = 1.0
_LOAD = {
    "offered_load": float,
    "load_label": str,
    "arrival_rate_rps": float,
    "extrapolated_share": float,
    "extrapolated_times": float,
    "extrapolated_axis": str,
    "bin_edges": list[float],
    "latency_model": str,
    "latency_kind": str,
    "latency_description": str,
    "trace": str,
}
_RUN = {
    "per_bin": list[BinMetrics],
    "latency_quantiles_s": list[float],
    "batch_size_counts": list[int],
    "notes": list[str],
    "trace_sha256": str,
    "version": str,
    "wall_s": float,
    "status": str,
    "error": str,
}


class FolderInUseError(OutputError):
    """Another sweep works in the folder."""


@contextmanager
def owned(out: Path, lock_name: str = ".lock") -> Iterator[None]:
    """A folder, made if need be, that has one owner meanwhile for what the lock stands for.

    Raises
    ------
    FolderInUseError
        If another process has it.
    """
    from filelock import FileLock, Timeout

    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / lock_name, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"{out}: another sweep works in this folder; wait until it is done, or name "
            "another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(slots=True)
class RunStore:
    """The runs of a folder, as rows by key; `opened` gives one that can be written to."""

    rows: dict[str, dict[str, Any]]
    damaged: int  # lines that are not what was written
    _file: IO[bytes] | None = None
    _synced_s: float = 0.0

    @classmethod
    def read(cls, out: Path) -> RunStore:
        """What the folder has; nothing where there is no such folder."""
        rows: dict[str, dict[str, Any]] = {}
        damaged = 0
        path = out / FILE
        if path.is_dir():
            raise OSError(f"{path}: must be a file of runs, got a folder; remove it")
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        continue  # the last words of a killed writer
                    found = _row(line[:-1])
                    if found is None:
                        damaged += bool(line.strip())
                    else:
                        rows[found[0]] = found[1]
        return cls(rows=rows, damaged=damaged)

    @classmethod
    @contextmanager
    def opened(cls, out: Path) -> Iterator[RunStore]:
        """The runs of a folder, which is made if need be and belongs to the caller meanwhile.

        Raises
        ------
        FolderInUseError
            If another process has it.
        """
        with owned(out):
            store = cls.read(out)
            with (out / FILE).open("ab") as file:
                if _cut_short(out / FILE):
                    file.write(b"\n")
                store._file = file
                try:
                    yield store
                finally:
                    store._sync()
                    store._file = None

    def keep(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep a run; what was there under its key is forgotten."""
        assert self._file is not None, "only a store that was opened can keep runs"
        text = json.dumps(row, separators=(",", ":"))
        head = _HEAD % (key, _checksum(key, text.encode()))
        self._file.write(f"{head}{text}}}\n".encode())
        self._file.flush()
        if time.monotonic() - self._synced_s > _SYNC_EVERY_S:
            self._sync()
        self.rows[key] = dict(row)

    def _sync(self) -> None:
        """Make what was written survive a loss of power."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()


def _cut_short(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if not file.tell():
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _row(line: bytes) -> tuple[str, dict[str, Any]] | None:
    """The key and the row of a line; None if it is not what was written."""
    try:
        key, checksum, text = line[_KEY].decode(), line[_SUM].decode(), line[_ROW]
        if line[: _ROW.start] != (_HEAD % (key, checksum)).encode() or line[-1:] != b"}":
            return None
        if _checksum(key, text) != checksum:
            return None
        row: dict[str, Any] = json.loads(text)
        return (key, row) if row.get("key") == key else None
    except (ValueError, AttributeError, RecursionError):
        return None


def _checksum(key: str, text: bytes) -> str:
    return hashlib.sha256(key.encode() + text).hexdigest()


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The runs as a DataFrame, one row each, in the order given."""
    import pyarrow as pa

    schema = _schema()
    names = schema.names
    plain = [{name: row.get(name) for name in names} for row in rows]
    frame: pd.DataFrame = pa.Table.from_pylist(plain, schema=schema).to_pandas()
    return frame


def per_bin_frame(results: pd.DataFrame) -> pd.DataFrame:
    """One row per run and bin, with the run's `key` and the fields of `BinMetrics`."""
    import pandas as pd

    rows = [
        {"key": key, **one_bin}
        for key, per_bin in zip(results["key"], results["per_bin"], strict=True)
        if per_bin is not None
        for one_bin in per_bin
    ]
    return pd.DataFrame(rows)


def latency_quantiles_frame(results: pd.DataFrame) -> pd.DataFrame:
    """One row per run and quantile: `key`, `quantile` in [0, 1], `latency_s`."""
    import numpy as np
    import pandas as pd

    kept = [
        pd.DataFrame({"key": key, "quantile": np.linspace(0, 1, len(values)), "latency_s": values})
        for key, values in zip(results["key"], results["latency_quantiles_s"], strict=True)
        if values is not None and len(values)
    ]
    return (
        pd.concat(kept, ignore_index=True)
        if kept
        else pd.DataFrame({"key": [], "quantile": [], "latency_s": []})
    )


def config_columns(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario as flat columns: `workload_source`, `slo_latency_s`, `binning_n_bins`, ...

    Those of the hardware go by their own names: `n_gpus`, `latency`, `gpu`, `llm`.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            prefix = "" if name == "hardware" else f"{name}_"
            flat.update({f"{prefix}{part}": inner for part, inner in value.items()})
        else:
            flat[name] = value
    return flat


@cache
def _schema() -> pa.Schema:
    """Every column and its type, whatever values a run has."""
    import pyarrow as pa

    columns: dict[str, Any] = {"key": str, "scheduler": str, **_option_types(Scenario, "")}
    for section, kind in SECTIONS.items():
        columns |= _option_types(kind, "" if section == "hardware" else f"{section}_")
    columns |= {"settings_capacity_tokens": float, "workload_window_s": list[float]}
    columns |= _hints(TokenMetrics) | _hints(Metrics) | _LOAD | _RUN
    return pa.schema([(name, _arrow_type(hint)) for name, hint in columns.items()])


def _option_types(kind: type, prefix: str) -> dict[str, type]:
    types_of = field_types(kind)
    return {f"{prefix}{name}": types_of[name][0] for name in options_of(kind)}


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.compare}


def _arrow_type(hint: Any) -> Any:
    """The Arrow type of an annotation; a tuple becomes a list of its first type."""
    import pyarrow as pa

    if hint in (int, float, str, bool):
        return {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _arrow_type(next(part for part in arguments if part is not type(None)))
    if origin in (tuple, list):
        return pa.list_(_arrow_type(arguments[0]))
    if isinstance(hint, type):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in _hints(hint).items()])
    return pa.string()  # a Literal
