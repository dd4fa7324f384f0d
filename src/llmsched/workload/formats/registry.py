"""Trace files: one reader and one writer for every format, chosen by name or recognised.

A format is one object with a name. The built-in ones are in `FORMATS`; a package of yours adds its
own through the entry-point group `llmsched.trace_formats`, each entry naming such an object. What
the files hold is in `docs/formats.md`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from llmsched._util.files import check_output
from llmsched._util.plugins import CALL_ERRORS, PluginError, name_of, raise_failure
from llmsched._util.registry import Registry
from llmsched.workload.formats import public
from llmsched.workload.formats.clocks import UNITS, Unit
from llmsched.workload.formats.encodings.cells import shown
from llmsched.workload.formats.encodings.columns import Enough
from llmsched.workload.formats.encodings.files import (
    TraceFile,
    inner_suffix,
    open_trace_file,
    replacing,
)
from llmsched.workload.formats.layout import Layout, ours
from llmsched.workload.formats.recognise import chosen_layout, parse_columns, table_layout
from llmsched.workload.formats.tables import (
    column_names,
    encoding_of,
    header_place,
    lost,
    read_table,
    write_table,
)
from llmsched.workload.trace import Trace, TraceError

ENTRY_POINTS = "llmsched.trace_formats"


class TraceFormat(Protocol):
    """What a trace format of another package must do; compression and whole files are ours."""

    @property
    def name(self) -> str:
        """What `--trace-format` calls it."""

    @property
    def summary(self) -> str:
        """What a file of it looks like, in a few words."""

    def recognises(self, head: bytes) -> bool:
        """Whether a file that begins with these decompressed bytes is of this format."""

    def read(self, file: TraceFile) -> Trace:
        """The trace in a file, from its first arrival on; `file.error(...)` makes the errors."""

    def write(self, trace: Trace, out: BinaryIO) -> None:
        """Write a trace to an open binary file."""


_OURS = (ours("csv"), ours("jsonl"), ours("parquet"))
_LAYOUTS = (  # in the order in which they are tried: the more particular ones first
    public.BURSTGPT,
    public.AZURE,
    public.BAILIAN,
    public.AIPERF,
    public.MOONCAKE,
    public.GUIDELLM,
    public.VIDUR,
    public.SPLITWISE,
    public.LLMSERVINGSIM,
    public.BLIS,
    public.SERVEGEN,
    public.OPENAI,
    *_OURS,
)
FORMATS: Registry[Layout | TraceFormat] = Registry(
    "trace format",
    ENTRY_POINTS,
    {layout.name: layout for layout in _LAYOUTS},
    methods=("recognises", "read", "write"),
)
_BY_SUFFIX = {
    "": "csv",
    ".csv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
}


def read_trace(
    path: str | os.PathLike[str],
    *,
    trace_format: str | None = None,
    time_unit: Unit | None = None,
    columns: str | None = None,
    enough: Enough | None = None,
) -> Trace:
    """Read a trace file, plain or compressed with gzip or zstd.

    Parameters
    ----------
    path
        The file. Its first bytes decide the compression and whether it is text, JSON lines or
        Parquet; the names of its columns the format.
    trace_format
        A name in `all_formats()`, to override what the columns say.
    time_unit : {"s", "ms", "us", "ns"}, optional
        The unit of its times, to override what the format says, or where nothing says it.
    columns
        Which column is what, for files of no known format:
        `arrival=created_at,prompt=n_prompt,output=n_completion`, and `model`, `log_type` and
        `session` where there are such.
    enough : Enough, optional
        When to stop reading a file that is in order of time.

    Returns
    -------
    Trace
        Arrivals in seconds from the first one in the file, stably sorted, not scaled. `read_as`
        says the format and the unit, `notes` how many rows were out of order.

    Raises
    ------
    TraceError
        If anything in the file cannot be right, or the unit of its times cannot be known. The
        message is one line: the file, the line (from 1, the header is line 1; a parquet file has
        rows), the column, what must hold there and what was given.
    """
    if time_unit is not None and time_unit not in UNITS:
        raise TraceError(f"time unit must be one of {', '.join(UNITS)}; got {time_unit!r}")
    if columns is not None:
        parse_columns(columns)
        if trace_format is not None:
            raise TraceError(
                f"columns go with no trace format, got {trace_format!r} too; leave one out"
            )
    file = open_trace_file(path)
    if columns is not None:
        layout = chosen_layout(columns, column_names(file), file, header_place(file))
        return read_table(layout, file, asked=time_unit, enough=enough)
    if trace_format is None:
        return _read(_recognised(file), file, time_unit, enough)
    chosen = _format_named(trace_format)
    try:
        return _read(chosen, file, time_unit, enough)
    except TraceError as error:
        likely = _likely(file)
        if likely is None or likely.name == chosen.name or _fits(chosen, file):
            raise
        advice = f"the file looks like {likely.name}: ask for that, or for no format"
        raise TraceError(f"{error}; {advice}") from error


def write_trace(
    trace: Trace, path: str | os.PathLike[str], *, trace_format: str | None = None
) -> str:
    """Write a trace and return the name of the format.

    Parameters
    ----------
    trace
        At least one request.
    path
        A suffix `.gz` or `.zst` compresses. The file appears only when it is complete. A link is
        followed.
    trace_format
        A name in `all_formats()`; by default `csv` for `.csv`, `.txt` or no suffix, `parquet` for
        `.parquet` or `.pq`, and `jsonl` for `.jsonl`: our own columns, in which nothing is lost.

    Warns
    -----
    UserWarning
        If the format has to round the arrivals, or has no place for a column, with what is lost.

    Raises
    ------
    TraceError
        If there is no request, the format is not known, only read, or cannot hold the arrivals,
        or no file can be put there.
    OutputError
        If writing fails, an `OSError`.
    """
    path = Path(path)
    name = check_trace_path(path, trace_format=trace_format)
    chosen = _format_named(name)
    if not len(trace):
        raise TraceError(f"{path}: a trace must have at least one request to be written, got none")
    if isinstance(chosen, Layout):
        _check_losses(trace, chosen)
    with replacing(path) as out:
        if isinstance(chosen, Layout):
            write_table(chosen, trace, out)
        else:
            _write(chosen, trace, out)
    return name


def check_trace_path(path: str | os.PathLike[str], *, trace_format: str | None = None) -> str:
    """The format in which `write_trace` would write that file; `TraceError` if it cannot."""
    try:
        check_output(path, "a trace file")
    except ValueError as error:
        raise TraceError(str(error)) from error
    if trace_format is not None:
        chosen = _format_named(trace_format)
        if isinstance(chosen, Layout) and not chosen.writable:
            able = ", ".join(layout.name for layout in _LAYOUTS if layout.writable)
            raise TraceError(f"trace format to write must be one of {able}; got {chosen.name!r}")
        return chosen.name
    suffix = inner_suffix(Path(path))
    if suffix not in _BY_SUFFIX:
        known = ", ".join(filter(None, _BY_SUFFIX))
        raise TraceError(
            f"a trace file must end in {known} (and .gz or .zst) where its format is not given, "
            f"got {os.fspath(path)!r}"
        )
    return _BY_SUFFIX[suffix]


def recognise(path: str | os.PathLike[str]) -> str:
    """The name of the format of a file, from its columns; `TraceError` if there is none."""
    return _recognised(open_trace_file(path)).name


def all_formats() -> Mapping[str, Layout | TraceFormat]:
    """Every format by name: the built-in ones and those of installed packages."""
    return FORMATS


def _format_named(name: str) -> Layout | TraceFormat:
    try:
        return FORMATS.named(name)
    except ValueError as error:
        raise TraceError(str(error)) from error


def _read(
    chosen: Layout | TraceFormat, file: TraceFile, unit: Unit | None, enough: Enough | None
) -> Trace:
    if isinstance(chosen, Layout):
        if chosen in _OURS and chosen.written != encoding_of(file.head()):
            raise file.error(f"must be a {chosen.name} file, got {encoding_of(file.head())}")
        return read_table(chosen, file, asked=unit, enough=enough)
    if unit is not None:
        raise TraceError(
            f"time unit is for built-in formats, got {unit!r} for {chosen.name!r}; leave it out"
        )
    try:
        trace = chosen.read(file)
    except (TraceError, OSError):
        raise
    except CALL_ERRORS as error:
        raise_failure(chosen, "read", error)
    if not isinstance(trace, Trace):
        raise PluginError(f"{name_of(chosen)}.read must give a Trace, got {trace!r}")
    return trace


def _write(known: TraceFormat, trace: Trace, out: BinaryIO) -> None:
    try:
        known.write(trace, out)
    except (TraceError, OSError):
        raise
    except CALL_ERRORS as error:
        raise_failure(known, "write", error)


def _recognises(known: TraceFormat, head: bytes) -> bool:
    try:
        return known.recognises(head)
    except CALL_ERRORS as error:
        raise_failure(known, "recognises", error)


def _recognised(file: TraceFile) -> Layout | TraceFormat:
    """The format whose columns these are; installed packages are asked after the built-in ones."""
    names: list[str] = []
    problem: TraceError | None = None
    try:
        names = column_names(file)
        if known := _fitting(names, file):
            return known
    except TraceError as error:
        problem = error
    head = file.head()
    for name in all_formats():
        plugin = _format_named(name)
        if not isinstance(plugin, Layout) and _recognises(plugin, head):
            return plugin
    if problem is not None:
        raise problem
    return _table(names, file)


def _fitting(names: list[str], file: TraceFile) -> Layout | None:
    """The built-in layout with these columns; ours by what the file is written in."""
    for layout in _LAYOUTS:
        if layout.fits(names) and (
            layout not in _OURS or layout.written == encoding_of(file.head())
        ):
            return layout
    return None


def _table(names: list[str], file: TraceFile) -> Layout:
    """A table with common names; else an error that says which columns are missing."""
    try:
        return table_layout(names, file, header_place(file))
    except TraceError as error:
        near = [layout for layout in _LAYOUTS if not layout.asked_for and layout.required]
        lacking, nearest = min(
            ((layout.missing(names), layout) for layout in near), key=lambda pair: len(pair[0])
        )
        if len(lacking) > 1 or len(nearest.missing([])) < 3:
            raise
        message = f"must name the column {lacking[0]!r} of the {nearest.name} format"
        _, _, advice = str(error).rpartition("; ")
        given = shown(", ".join(names))
        raise file.error(f"{message}, got {given}; or {advice}", **header_place(file)) from error


def _likely(file: TraceFile) -> Layout | None:
    try:
        return _fitting(column_names(file), file)
    except TraceError:
        return None


def _fits(chosen: Layout | TraceFormat, file: TraceFile) -> bool:
    if not isinstance(chosen, Layout):
        return _recognises(chosen, file.head())
    try:
        return chosen.fits(column_names(file))
    except TraceError:
        return False


def _check_losses(trace: Trace, chosen: Layout) -> None:
    """Refuse ruined times and warn of losses, in the built-in formats.

    A format of another package speaks for itself.
    """
    if trace.closed and "think_s" not in chosen.columns:
        raise TraceError(
            f"{chosen.name} cannot hold requests that wait for an answer; write csv, jsonl or "
            "parquet"
        )
    ids = trace.prefix_ids
    if ids is not None and chosen.tokens_per_id and ids.tokens_per_id not in chosen.tokens_per_id:
        sizes = " or ".join(map(str, chosen.tokens_per_id))
        raise TraceError(
            f"{chosen.name} holds prefix ids of {sizes} tokens, got ids of {ids.tokens_per_id}; "
            "write csv, jsonl or parquet"
        )
    _check_rounding(trace, chosen)
    for role in lost(chosen, trace):
        warnings.warn(f"{chosen.name} has no column for {role}: it is left out", stacklevel=3)
    for role in ("model", "log_type"):
        if chosen is public.BURSTGPT and getattr(trace, role) is None:
            message = f"the trace has no {role}: the column {chosen.columns[role][0]!r} is left out"
            warnings.warn(message, stacklevel=3)


def _check_rounding(trace: Trace, chosen: Layout) -> None:
    clock = chosen.clock
    assert clock is not None
    since_s = trace.arrival_s - trace.arrival_s[0]
    with np.errstate(invalid="ignore"):  # what int64 cannot hold shows in the error
        error_s = np.abs(clock.seconds(clock.from_seconds(trace.arrival_s)) - since_s)
    if not (error_s <= clock.step_s + np.spacing(since_s)).all():
        raise TraceError(
            f"{chosen.name} holds times in {clock.step} of 64 bits, which must span the arrivals, "
            f"got {trace.arrival_s[0]:g} to {trace.arrival_s[-1]:g} s; write csv or parquet"
        )
    if changed := int(np.count_nonzero(error_s)):
        warnings.warn(
            f"{chosen.name} holds times in {clock.step}: {changed} of {len(trace)} arrivals are "
            f"rounded, by at most {error_s.max():.3g} s; csv and parquet keep them",
            stacklevel=4,
        )
