"""Output files: checked before the work, links followed, written whole or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME_PART = 40  # characters of a name, at most 160 bytes, so that the partial one is no longer


class OutputError(OSError):
    """A file that could not be written: one line that names it as the user did."""


def check_output(path: str | os.PathLike[str], what: str) -> None:
    """Fail now if `what` cannot be put there later.

    Raises
    ------
    ValueError
        If the folder does not exist or cannot be written, or the path is a folder, anything else
        than a file, a link that leads nowhere, or a name that is too long.
    """
    given = repr(os.fspath(path))
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir():
            raise ValueError(f"{what} must not be a folder, got {given}")
        if target.is_symlink():
            raise ValueError(f"{what} must not be a link to itself, got {given}; remove it first")
        if target.exists() and not target.is_file():
            raise ValueError(f"{what} must be a file that can be replaced, got {given}")
        if not target.parent.is_dir():
            raise ValueError(f"folder of {given} must exist; create it first")
    except OSError as error:
        raise ValueError(f"{what} cannot be written to {given} ({error.strerror})") from error
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(f"folder of {given} must be writable; name another one")


@contextmanager
def whole_file(path: str | os.PathLike[str], *, suffix: str = "") -> Iterator[Path]:
    """A temporary path, ending in `suffix`, whose file takes the place of `path` at the end.

    Whatever goes wrong, the file is either as it was or complete. A link stays: what it leads to
    is replaced.

    Raises
    ------
    OutputError
        If writing fails.
    """
    target = Path(os.path.realpath(path))
    stem = f".{target.name[:_NAME_PART]}."
    partial = target.with_name(f"{stem}{os.getpid()}.partial{suffix}")
    try:
        _remove_leftovers(target.parent, stem)
        yield partial
        os.replace(partial, target)
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise OutputError(f"{os.fspath(path)}: cannot be written ({reason})") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _remove_leftovers(folder: Path, stem: str) -> None:
    """Remove what runs that were killed left beside the file."""
    if os.name != "posix":
        return  # signal 0 asks only here; elsewhere it may end the process
    for partial in folder.glob(f"{glob.escape(stem)}*.partial*"):
        process = partial.name.removeprefix(stem).partition(".")[0]
        if process.isdecimal() and not _lives(int(process)):
            partial.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
