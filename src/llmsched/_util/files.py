"""Output files, written whole or not at all; and where the package's data folders lie."""

from __future__ import annotations

import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME_PART = 40  # characters of a name, at most 160 bytes, so that the partial one is no longer
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)  # never what is there


_PACKAGE = Path(__file__).resolve().parents[1]


class OutputError(OSError):
    """A file that could not be written: one line that names it as the user did."""


def identity(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What tells a file's content apart without reading it: another file, or a change, shows."""
    status = os.stat(path)
    return (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )


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

    Whatever goes wrong, a loss of power included, the file is either as it was or complete. It
    keeps the mode of what it replaces. A link stays: what it leads to is replaced. What killed
    writers left beside it is removed.

    Raises
    ------
    OutputError
        If writing fails.
    """
    target = Path(os.path.realpath(path))
    stem = f".{target.name[:_NAME_PART]}."
    partial: Path | None = None
    try:
        _remove_leftovers(target.parent, stem)
        partial, descriptor = _new_file(target, stem, suffix)
        try:
            yield partial
            _keep(partial)
            os.replace(partial, target)
        finally:
            os.close(descriptor)
        _keep(target.parent)
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise OutputError(f"{os.fspath(path)}: cannot be written ({reason})") from error
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _new_file(target: Path, stem: str, suffix: str) -> tuple[Path, int]:
    """A file that nobody else has, locked while its descriptor is open."""
    while True:
        partial = target.with_name(f"{stem}{secrets.token_hex(8)}.partial{suffix}")
        descriptor = os.open(partial, _NEW, 0o666)
        if os.name != "posix":
            os.close(descriptor)  # there an open file cannot be renamed
            return partial, os.open(os.devnull, os.O_RDONLY)
        with suppress(FileNotFoundError):
            os.fchmod(descriptor, target.stat().st_mode & 0o777)
        if _locked(descriptor) and _is_named(descriptor, partial):
            return partial, descriptor
        os.close(descriptor)  # taken for a leftover before it was locked


def _remove_leftovers(folder: Path, stem: str) -> None:
    """Remove what runs that were killed left beside the file: nobody holds their lock."""
    if os.name != "posix":
        return
    for partial in folder.glob(f"{glob.escape(stem)}*.partial*"):
        with suppress(OSError):  # a link, or another user's
            descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
                if regular and _locked(descriptor) and _is_named(descriptor, partial):
                    partial.unlink()
            finally:
                os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether the file is ours now, which it stays until the descriptor is closed."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing is removed there, and names are random
        return False
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _keep(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, survive a loss of power."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def data_folder(name: str) -> Path:
    """The folder `name`: inside the installed package, or at the top of a source checkout."""
    for root in (_PACKAGE / "data", _PACKAGE.parents[1]):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(f"data folder {name!r} must lie in the package; reinstall llmsched")
