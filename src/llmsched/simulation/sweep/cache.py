"""Workloads and predictions prepared once, and large ones shared by processes as memory maps.

A process keeps the last few. Those worth it lie in a folder as well: each entry is a folder of
`.npy` columns and a `meta.json` with its key and their checksum, renamed into place when it is
complete. Whoever needs an entry first makes it, under a file lock; a kill leaves nothing half made,
and an entry that is damaged, or another's, is made again. The folder may be deleted at any time.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmsched._util.files import OutputError
from llmsched.simulation.beliefs import BinnedPrediction
from llmsched.simulation.keys import arrays_sha256
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.sessions import Turns
from llmsched.workload.trace import Trace

T = TypeVar("T")
_OPEN_ENTRIES = 64  # kept per process; an open map costs address space, not memory
_OPEN_BYTES = 64 * 2**20  # of those that are no maps


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """One entry: arrays by name, and what else belongs to them as plain values."""

    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Generic[T]):
    """Something of the cache, its checksum, and the warnings that its making gave."""

    value: T
    sha256: str
    notes: tuple[str, ...]
    n_bytes: int = 0  # of memory; none of a map


_open: OrderedDict[str, Prepared[Any]] = OrderedDict()  # this process's


def cached_trace(folder: Path | None, key: str, make: Callable[[], Trace]) -> Prepared[Trace]:
    """The trace under this key; `make` is called if it is not there.

    With a folder it is kept there for other processes, too, and comes over read-only maps.
    """

    def columns(trace: Trace) -> Columns:
        meta: dict[str, Any] = {
            "name": trace.name,
            "left_out": trace.left_out,
            "notes": trace.notes,
        }
        if trace.prefix_ids is not None:
            meta["tokens_per_id"] = trace.prefix_ids.tokens_per_id
        if trace.turns is not None:
            meta |= {"users": trace.turns.users, "timed": trace.turns.timed}
        return Columns(arrays=trace.columns(), meta=meta)

    def trace_of(entry: Columns) -> Trace:
        turns = None
        if "after" in entry.arrays:
            columns = {name: entry.arrays[name] for name in ("after", "think_s")}
            turns = Turns(users=entry.meta["users"], timed=entry.meta["timed"], **columns)
        return Trace(
            turns=turns,
            arrival_s=entry.arrays["arrival_s"],
            prompt_tokens=entry.arrays["prompt_tokens"],
            output_tokens=entry.arrays["output_tokens"],
            service_s=entry.arrays.get("service_s"),
            priority=entry.arrays.get("priority"),
            prefix_ids=_prefix_ids(entry),
            name=entry.meta["name"],
            left_out=tuple((rule, count) for rule, count in entry.meta["left_out"]),
            notes=tuple(entry.meta["notes"]),
        )

    key = f"trace-2-{key}"  # 2: with prefix ids
    return _cached(folder, key, make, columns, trace_of)


def _prefix_ids(entry: Columns) -> PrefixIds | None:
    if "prefix_ids" not in entry.arrays:
        return None
    return PrefixIds(
        ids=entry.arrays["prefix_ids"],
        offsets=entry.arrays["prefix_offsets"],
        tokens_per_id=entry.meta["tokens_per_id"],
    )


def cached_prediction(
    folder: Path | None, key: str, make: Callable[[], BinnedPrediction]
) -> Prepared[BinnedPrediction]:
    """The predicted lengths and bins under this key; `make` is called if they are not there."""

    def columns(made: BinnedPrediction) -> Columns:
        arrays: dict[str, NDArray[Any]] = {
            "tokens": made.tokens,
            "bins": made.bins,
            "edges": made.edges,
        }
        if made.alone_s is not None:
            arrays["alone_s"] = made.alone_s
        return Columns(arrays=arrays, meta={})

    return _cached(
        folder, f"bins-{key}", make, columns, lambda entry: BinnedPrediction(**entry.arrays)
    )


def _cached(
    folder: Path | None,
    name: str,
    make: Callable[[], T],
    columns: Callable[[T], Columns],
    build: Callable[[Columns], T],
) -> Prepared[T]:
    if name in _open:
        _open.move_to_end(name)
        return _open[name]
    if folder is None:
        with recorded_warnings() as notes:
            made = make()
        arrays = columns(made).arrays
        prepared = Prepared(
            value=made,
            sha256=arrays_sha256(arrays),
            notes=tuple(notes),
            n_bytes=sum(array.nbytes for array in arrays.values()),
        )
    else:
        entry = _load(folder / name) or _made(folder / name, make, columns)
        prepared = Prepared(
            value=build(entry), sha256=entry.meta["sha256"], notes=tuple(entry.meta["warnings"])
        )
    _open[name] = prepared
    while len(_open) > 1 and (
        len(_open) > _OPEN_ENTRIES or sum(one.n_bytes for one in _open.values()) > _OPEN_BYTES
    ):
        _open.popitem(last=False)
    return prepared


def _made(path: Path, make: Callable[[], T], columns: Callable[[T], Columns]) -> Columns:
    """The entry, made by whoever comes first."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        entry = _load(path)  # another process may have made it while this one waited
        if entry is None:
            _make(path, make, columns)
            entry = _load(path)
    if entry is None:
        raise OutputError(f"{path}: must keep what was just written there; is the disk full?")
    return entry


def _load(path: Path) -> Columns | None:
    """The entry, or None where there is none or it is not what was written under this name."""
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        lengths = meta["lengths"].items()
        arrays = {name: _mapped(path / f"{name}.npy", length) for name, length in lengths}
        if meta["name_of_entry"] != path.name or arrays_sha256(arrays) != meta["sha256"]:
            return None
        return Columns(arrays=arrays, meta=meta)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _mapped(path: Path, length: int) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r" if length else None, allow_pickle=False)
    if len(array) != length:
        raise ValueError(f"{path}: must have {length} entries, got {len(array)}")
    return np.asarray(array)  # a plain view of the map: the engine's indexing stays as fast


def _make(path: Path, make: Callable[[], T], columns: Callable[[T], Columns]) -> None:
    """Write the entry beside its place, then rename it; the lock is held."""
    partial = path.with_name(f".{path.name}.partial")
    for stale in (partial, path):  # left by a kill, or damaged, whatever it is
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink(missing_ok=True)
    with recorded_warnings() as notes:
        made = columns(make())
    try:
        _write(partial, made, {"name_of_entry": path.name, "warnings": notes})
        os.replace(partial, path)
    except OSError as error:  # of a full disk numpy says only how much it wrote
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _write(folder: Path, made: Columns, more: Mapping[str, Any]) -> None:
    folder.mkdir()
    for name, array in made.arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    meta = {
        **made.meta,
        **more,
        "lengths": {name: len(array) for name, array in made.arrays.items()},
        "sha256": arrays_sha256(made.arrays),
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Collect the texts of the warnings given inside, each once, in order."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield texts
        texts.extend(dict.fromkeys(str(warning.message) for warning in caught))
