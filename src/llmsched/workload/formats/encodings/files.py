"""Trace files as bytes: opened through gzip or zstd, bounded, written whole or not at all.

Compression is recognised by its first bytes when reading and chosen by suffix when writing. No
line may be longer than `MAX_LINE_BYTES`, so that a file's size says what reading it may cost.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from llmsched._util.files import whole_file
from llmsched._util.text import printable
from llmsched.workload.trace import TraceError

MAX_LINE_BYTES = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
_HEAD_BYTES = 65_536


class Place(TypedDict, total=False):
    """Where in a file; both count from 1."""

    line: int
    row: int


Locate = Callable[[int], Place]  # where a row, from 0, stands


@dataclass(frozen=True, slots=True)
class TraceFile:
    """One file that may hold a trace; `open` gives its bytes, decompressed."""

    path: Path
    compression: str | None = None  # "gzip", "zstd" or none

    @property
    def name(self) -> str:
        """Its name as text: bytes that are not UTF-8 and control characters as `\\x..`."""
        return printable(self.path.name)

    def arrow_stream(self) -> Any:
        """A pyarrow input stream of the decompressed bytes."""
        import pyarrow as pa

        raw = self.path.open("rb")  # pyarrow takes only names that are UTF-8
        return pa.input_stream(raw, compression=self.compression)

    def open(self) -> BinaryIO:
        """A binary file of the decompressed bytes; damaged data raises OSError while reading."""
        return io.BufferedReader(self.arrow_stream(), _HEAD_BYTES)

    def head(self) -> bytes:
        """The first decompressed bytes, the first line whole; `TraceError` if there are none."""
        try:
            with self.open() as stream:
                head = stream.read(_HEAD_BYTES)
                if b"\n" not in head:
                    head += stream.readline(MAX_LINE_BYTES + 1 - len(head))
        except OSError as error:
            raise self.damaged(error, line=1) from error
        if not head:
            message = "must hold a header and at least one request, got an empty file"
            raise self.error(message, line=1)
        return head

    def lines(self) -> Iterator[tuple[int, str]]:
        """Each line of a text file with its number, from 1, its line end kept."""
        number = 0
        try:
            with self.open() as stream:
                while line := stream.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if len(line) > MAX_LINE_BYTES:
                        raise self.too_long(number)
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            given = f"byte 0x{error.object[error.start]:02x}"
            raise self.error(f"must be UTF-8 text, got {given}", line=number) from error
        except OSError as error:
            raise self.damaged(error, line=number + 1) from error

    def too_long(self, line: int) -> TraceError:
        """The one-line error for a line beyond the limit."""
        return self.error("a line must be at most 1 MiB long, got a longer one", line=line)

    def error(
        self, message: str, *, line: int | None = None, row: int | None = None, column: str = ""
    ) -> TraceError:
        """The one-line error for a place in this file; lines and rows count from 1."""
        places = [f"line {line}"] if line is not None else []
        places += [f"row {row}"] if row is not None else []
        places += [f"column {column!r}"] if column else []
        path = printable(os.fspath(self.path))
        text = ": ".join(part for part in (path, ", ".join(places), message) if part)
        return TraceError(" ".join(text.splitlines()))

    def damaged(self, error: Exception, *, line: int | None = None) -> TraceError:
        """The one-line error for bytes that cannot be read or decompressed."""
        if self.compression:
            expected = f"must be complete {self.compression} data; it is cut off or damaged here"
        else:
            expected = "cannot be read"
        return self.error(f"{expected} ({error}); get the file again", line=line)


def open_trace_file(path: str | os.PathLike[str]) -> TraceFile:
    """Look at a file and its compression.

    Raises
    ------
    TraceError
        If it is missing, a folder, not a regular file or unreadable.
    """
    if not os.fspath(path):
        raise TraceError("a trace must be the name of a file or a profile, got ''")
    path = Path(path)
    file = TraceFile(path)
    try:
        if not path.exists():
            raise file.error("no such file; a trace file was expected")
        if path.is_dir():
            raise file.error("must be a trace file, got a folder")
        if not path.is_file():
            raise file.error("must be a regular file; save the stream to a file first")
        with path.open("rb") as stream:
            first = stream.read(4)
    except OSError as error:
        raise file.error(f"cannot be read ({error.strerror})") from error
    for magic, compression in _MAGIC.items():
        if first.startswith(magic):
            return TraceFile(path, compression)
    return file


def inner_suffix(path: Path) -> str:
    """The suffix in lower case without its compression: `.csv` for `x.csv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name and give it its own at the end.

    Whatever goes wrong, `path` is either as it was or complete. Its suffix chooses the compression.
    """
    compression = _SUFFIXES.get(path.suffix.lower())
    with whole_file(path) as part, part.open("wb") as raw, _compressed(raw, compression) as out:
        yield out


@contextmanager
def _compressed(raw: BinaryIO, compression: str | None) -> Iterator[BinaryIO]:
    if compression is None:
        yield raw
        return
    if compression == "gzip":  # pyarrow's level 9 took 8.1 s for a million rows, 6 takes 3.6
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            yield packed  # type: ignore[misc]
        return
    import pyarrow as pa

    with pa.CompressedOutputStream(raw, compression) as arrow, io.BufferedWriter(arrow) as out:
        yield out
