"""Trace files: one reader and one writer for every format, chosen by name or recognised.

A format is one object with a name. The built-in ones are in `FORMATS`; a package of yours adds its
own through the entry-point group `llmsched.trace_formats`, each entry naming such an object. What
the files hold is in `workloads/REAL_TRACES.md`.
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
from llmsched.workload.formats.clocks import Clock, NumberClock, StampClock
from llmsched.workload.formats.columns import shown
from llmsched.workload.formats.csv import CsvFormat, header_of
from llmsched.workload.formats.files import TraceFile, inner_suffix, open_trace_file, replacing
from llmsched.workload.formats.jsonlines import JsonLinesFormat
from llmsched.workload.formats.parquet import ParquetFormat
from llmsched.workload.trace import Trace, TraceError

ENTRY_POINTS = "llmsched.trace_formats"


class TraceFormat(Protocol):
    """What a trace format must do; compression and atomic writing are done around it."""

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


BURSTGPT = CsvFormat(
    name="burstgpt",
    time="Timestamp",
    prompt=("Request tokens",),
    output="Response tokens",
    model="Model",
    log_type="Log Type",
    total="Total tokens",
    order=("time", "model", "prompt", "output", "total", "log_type"),
    clock=NumberClock(tidy=True),
)
AZURE = CsvFormat(
    name="azure",
    time="TIMESTAMP",
    prompt=("ContextTokens",),
    output="GeneratedTokens",
    clock=StampClock(),
)
CSV = CsvFormat(
    name="csv",
    time="arrival_s",
    prompt=("prompt_tokens", "input_tokens"),
    output="output_tokens",
    model="model",
    log_type="log_type",
    clock=NumberClock(),
)
_BUILT_IN = (BURSTGPT, AZURE, JsonLinesFormat(), CSV, ParquetFormat())
FORMATS: Registry[TraceFormat] = Registry(
    "trace format",
    ENTRY_POINTS,
    {known.name: known for known in _BUILT_IN},
    methods=("recognises", "read", "write"),
)
_BY_SUFFIX = {
    "": "csv",
    ".csv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "mooncake",
}


def read_trace(path: str | os.PathLike[str], *, trace_format: str | None = None) -> Trace:
    """Read a trace file, plain or compressed with gzip or zstd.

    Parameters
    ----------
    path
        The file. Its first bytes decide the compression, its first line the format.
    trace_format
        A name in `all_formats()`, to override what the first line says.

    Returns
    -------
    Trace
        Arrivals in seconds from the first one in the file, stably sorted, not scaled. `notes` says
        how many rows were out of order.

    Raises
    ------
    TraceError
        If anything in the file cannot be right. The message is one line: the file, the line (from
        1, the header is line 1; a parquet file has rows), the column, what must hold there and
        what was given.
    """
    file = open_trace_file(path)
    if trace_format is None:
        return _read(_recognised(file), file)
    chosen = _format_named(trace_format)
    try:
        return _read(chosen, file)
    except TraceError as error:
        head = file.head()
        likely = next((known for known in _BUILT_IN if known.recognises(head)), chosen)
        if likely.name == chosen.name or _recognises(chosen, head):
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
        `.parquet` or `.pq`, and `mooncake` for `.jsonl`.

    Warns
    -----
    UserWarning
        If the format has to round the arrivals, or has no place for a label, with what is lost.
        `csv`, `parquet` and `burstgpt` hold arrivals that begin at 0 to the last bit.

    Raises
    ------
    TraceError
        If there is no request, the format is not known or cannot hold the arrivals, or no file can
        be put there.
    OutputError
        If writing fails, an `OSError`.
    """
    path = Path(path)
    name = check_trace_path(path, trace_format=trace_format)
    chosen = _format_named(name)
    if not len(trace):
        raise TraceError(f"{path}: a trace must have at least one request to be written, got none")
    _check_losses(trace, chosen)
    with replacing(path) as out:
        _write(chosen, trace, out)
    return name


def check_trace_path(path: str | os.PathLike[str], *, trace_format: str | None = None) -> str:
    """The format in which `write_trace` would write that file; `TraceError` if it cannot."""
    try:
        check_output(path, "a trace file")
    except ValueError as error:
        raise TraceError(str(error)) from error
    if trace_format is not None:
        return _format_named(trace_format).name
    suffix = inner_suffix(Path(path))
    if suffix not in _BY_SUFFIX:
        known = ", ".join(filter(None, _BY_SUFFIX))
        raise TraceError(
            f"a trace file must end in {known} (and .gz or .zst) where its format is not given, "
            f"got {os.fspath(path)!r}"
        )
    return _BY_SUFFIX[suffix]


def recognise(path: str | os.PathLike[str]) -> str:
    """The name of the format of a file, from its first line; `TraceError` if there is none."""
    return _recognised(open_trace_file(path)).name


def all_formats() -> Mapping[str, TraceFormat]:
    """Every format by name: the built-in ones and those of installed packages."""
    return FORMATS


def _format_named(name: str) -> TraceFormat:
    try:
        return FORMATS.named(name)
    except ValueError as error:
        raise TraceError(str(error)) from error


def _recognised(file: TraceFile) -> TraceFormat:
    """The format whose header this is; installed packages are asked after the built-in ones."""
    head = file.head()
    known: TraceFormat
    for known in _BUILT_IN:
        if known.recognises(head):
            return known
    for name in all_formats():
        if _recognises(known := _format_named(name), head):
            return known
    raise _unrecognised(file, head)


# Calls into a format, which may be somebody else's; what it says of the file is passed on.


def _recognises(known: TraceFormat, head: bytes) -> bool:
    try:
        return known.recognises(head)
    except CALL_ERRORS as error:
        raise_failure(known, "recognises", error)


def _read(known: TraceFormat, file: TraceFile) -> Trace:
    try:
        trace = known.read(file)
    except (TraceError, OSError):
        raise
    except CALL_ERRORS as error:
        raise_failure(known, "read", error)
    if not isinstance(trace, Trace):
        raise PluginError(f"{name_of(known)}.read must give a Trace, got {trace!r}")
    return trace


def _write(known: TraceFormat, trace: Trace, out: BinaryIO) -> None:
    try:
        known.write(trace, out)
    except (TraceError, OSError):
        raise
    except CALL_ERRORS as error:
        raise_failure(known, "write", error)


def _unrecognised(file: TraceFile, head: bytes) -> TraceError:
    """Say what is missing if the header is nearly one we know, else what would be read."""
    header = header_of(head)
    lacking, nearest = min(
        ((known.missing(header), known) for known in (BURSTGPT, AZURE, CSV)),
        key=lambda candidate: len(candidate[0]),
    )
    first_line = head.split(b"\n", 1)[0].rstrip(b"\r")
    try:
        given = shown(first_line.decode())
    except UnicodeDecodeError:
        return file.error("must be UTF-8 text or parquet, got binary data", line=1)
    if len(lacking) < 3:
        message = f"must name the column {lacking[0]!r} of the {nearest.name} format, got {given}"
        return file.error(message, line=1)
    expected = "; ".join(f"{known.name} ({known.summary})" for known in _BUILT_IN)
    return file.error(f"must begin a trace: {expected}; got {given}", line=1)


def _check_losses(trace: Trace, chosen: TraceFormat) -> None:
    """Refuse ruined times and warn of losses, in the built-in formats.

    A format of another package speaks for itself.
    """
    for known in _BUILT_IN:
        if known is chosen:
            _check_rounding(trace, known.name, known.clock)
            _check_columns(trace, known.name)
            for role in ("model", "log_type"):
                place, given = getattr(known, role), getattr(trace, role) is not None
                if given and place is None:
                    message = f"{known.name} has no column for {role}: the names are left out"
                    warnings.warn(message, stacklevel=3)
                elif not given and known is BURSTGPT:
                    message = f"the trace has no {role}: the column {place!r} is left out"
                    warnings.warn(message, stacklevel=3)


def _check_columns(trace: Trace, name: str) -> None:
    lost = ["priority"] if trace.priority is not None else []
    if trace.prefix_ids is not None and name != JsonLinesFormat().name:
        lost.append("prefix ids")
    for column in lost:
        warnings.warn(f"{name} has no column for {column}: they are left out", stacklevel=4)


def _check_rounding(trace: Trace, name: str, clock: Clock) -> None:
    since_s = trace.arrival_s - trace.arrival_s[0]
    with np.errstate(invalid="ignore"):  # what int64 cannot hold shows in the error
        error_s = np.abs(clock.seconds(clock.from_seconds(trace.arrival_s)) - since_s)
    if not (error_s <= clock.step_s + np.spacing(since_s)).all():
        raise TraceError(
            f"{name} holds times in {clock.step} of 64 bits, which must span the arrivals, got "
            f"{trace.arrival_s[0]:g} to {trace.arrival_s[-1]:g} s; write csv or parquet"
        )
    if changed := int(np.count_nonzero(error_s)):
        warnings.warn(
            f"{name} holds times in {clock.step}: {changed} of {len(trace)} arrivals are rounded, "
            f"by at most {error_s.max():.3g} s; csv and parquet keep them",
            stacklevel=4,
        )
