"""The trials of a measurement that is under way: one JSON line each, on the disk before the next.

The first line says what is measured, so that only the same measurement goes on with it. A line
that a kill cut short is known by its missing end, and its trial is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llmsched._util.files import OutputError
from llmsched.latency.base import CalibrationError


class PartialFile:
    """The lines found in the file, and new ones appended to it."""

    def __init__(self, path: Path, file: IO[bytes], records: list[dict[str, Any]]) -> None:
        self.records = records  # in the order of writing, the header left out
        self._path = path
        self._file = file

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line and wait until it is on the disk.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        line = _line(record)
        try:
            while line:  # a disk that fills up may take a part of it
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written ({error.strerror}); {kept(self._path)}"
            ) from error
        self.records.append(dict(record))


@contextmanager
def partial_file(path: Path, header: Mapping[str, Any], *, restart: bool) -> Iterator[PartialFile]:
    """The file for the measurement that `header` describes, begun or gone on with.

    Raises
    ------
    CalibrationError
        If another process writes it, it belongs to another measurement, or a line is not ours.
    OutputError
        If it cannot be opened.
    """
    with _opened(path) as file:
        _lock(file, path)
        if restart:
            file.truncate(0)
        file.seek(0)
        records = _whole_records(file, path)
        found = records[:1]
        partial = PartialFile(path, file, records[1:])
        if found:
            _check_same(path, found[0], json.loads(_line(header)))
        else:
            partial.append(header)
            partial.records.clear()
        yield partial


def kept(path: Path) -> str:
    """What to say of the trials when a measurement ends early."""
    return f"finished trials are kept in {path}, and the same command goes on from there"


def _opened(path: Path) -> IO[bytes]:
    """Unbuffered, so that closing it after a failed write writes nothing more."""
    try:
        return path.open("a+b", buffering=0)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); name another --out, in a folder that "
            "can be written"
        ) from error


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _lock(file: IO[bytes], path: Path) -> None:
    """One process at a time; the lock of a killed one is gone with it."""
    try:
        import fcntl
    except ImportError:
        return  # not on Windows
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CalibrationError(
            f"{path}: another run must not be measuring into it, and one is; wait or name "
            "another --out"
        ) from error


def _whole_records(file: IO[bytes], path: Path) -> list[dict[str, Any]]:
    """The lines that were written to their end; what a kill left of the next one is cut off."""
    raw = file.read()
    end = raw.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(raw[:end].splitlines(), start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise CalibrationError(
                f"{path}:{number}: must be a line of a measurement under way, and is not; "
                "remove the file or use --restart"
            )
        records.append(record)
    file.truncate(end)
    return records


def _check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Say what differs between the measurement in the file and the one asked for."""
    differing = list(_differences(found, wanted))
    if differing:
        raise CalibrationError(
            f"{path}: must be of the same measurement to go on with it, and differs in "
            f"{'; '.join(differing[:3])}; give the same options again, or use --restart"
        )


def _differences(found: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """Each value that differs, as `place (found, now wanted)`."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted}):
            inner = f"{place}.{key}" if place else key
            yield from _differences(found.get(key), wanted.get(key), inner)
    elif found != wanted:
        yield f"{place} ({found}, now {wanted})"
