"""The files of a sweep: one Parquet per finished run, one JSON per failed one, and reading both.

A run file appears all at once, under its key, and carries a checksum of its values: one that was
cut short or overwritten is known as such and the run is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from llmsched._util.options import field_types, options_of
from llmsched.metrics.bins import BinMetrics
from llmsched.metrics.run import Metrics
from llmsched.simulation.scenario import SECTIONS, Scenario

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_METADATA = b"llmsched_sha256"
_LOAD = {
    "offered_load": float,
    "load_label": str,
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


class RunStore:
    """The folder of a sweep: `runs/<key>.parquet` and `failed/<key>.json`."""

    def __init__(self, out: Path) -> None:
        self.runs = out / "runs"
        self.failed = out / "failed"

    def write(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep a finished run; an earlier failure is forgotten."""
        import pyarrow.parquet as pq

        table = _table([row])
        checksum = _checksum(table.to_pylist()[0])
        table = table.replace_schema_metadata({_METADATA: checksum.encode()})
        _replace(self.runs / f"{key}.parquet", lambda path: pq.write_table(table, path))
        (self.failed / f"{key}.json").unlink(missing_ok=True)

    def write_failed(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep a failed run with its error."""
        text = json.dumps(row, indent=2) + "\n"
        _replace(self.failed / f"{key}.json", lambda path: path.write_text(text, encoding="utf-8"))

    def keys(self) -> list[str]:
        """Keys of all runs that have a file, finished or failed, sorted."""
        files = [*self.runs.glob("*.parquet"), *self.failed.glob("*.json")]
        return sorted({file.stem for file in files if not file.name.startswith(".")})

    def read(self, key: str) -> Stored | None:
        """The run under this key; None where there is none."""
        path = self.runs / f"{key}.parquet"
        if path.exists():
            table = _read_run(path, key)
            return Stored(status="damaged" if table is None else "done", table=table)
        path = self.failed / f"{key}.json"
        if not path.exists():
            return None
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            return Stored(status="failed", table=_table([row]))
        except (ValueError, TypeError, AttributeError):
            return Stored(status="damaged", table=None)

    def remove_leftovers(self, older_than_s: float = 3600.0) -> None:
        """Remove what killed writers left behind long ago; a young one may still be written."""
        import time

        for folder in (self.runs, self.failed):
            for partial in folder.glob(".*.partial"):
                with suppress(OSError):
                    if time.time() - partial.stat().st_mtime > older_than_s:
                        partial.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a store has under a key."""

    status: str  # done, failed or damaged
    table: pa.Table | None  # one row; None where damaged


def frame_of(tables: Sequence[pa.Table]) -> pd.DataFrame:
    """The runs as a DataFrame, one row each, in the order given."""
    import pyarrow as pa

    schema = _schema()
    frame: pd.DataFrame = pa.concat_tables([schema.empty_table(), *tables]).to_pandas()
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
    columns |= _hints(Metrics) | _LOAD | _RUN
    return pa.schema([(name, _arrow_type(hint)) for name, hint in columns.items()])


def _option_types(kind: type, prefix: str) -> dict[str, type]:
    types_of = field_types(kind)
    return {f"{prefix}{name}": types_of[name][0] for name in options_of(kind)}


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


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


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([dict(row) for row in rows], schema=_schema())


def _checksum(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def _read_run(path: Path, key: str) -> pa.Table | None:
    """The table of a run file, or None if it is not what was written under this key."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
        written = (table.schema.metadata or {}).get(_METADATA, b"").decode()
        rows = table.to_pylist()
        if len(rows) != 1 or rows[0]["key"] != key or _checksum(rows[0]) != written:
            return None
        return _table(rows)
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None


def _replace(path: Path, write: Any) -> None:
    """Write a file beside its place, make it durable, and rename it: a reader sees all or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
