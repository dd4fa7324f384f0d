"""Real trace files from the releases of their authors: downloaded once, checked, resumed.

`workloads/REAL_TRACES.md` says what each file holds and how to get it by hand.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requests import Response

Progress = Callable[[int, int | None], None]  # bytes done, and of how many if that is known

_BURSTGPT_URL = "https://github.com/HPMLL/BurstGPT/releases/download/v1.1"
_ATTEMPTS = 4
_FIRST_WAIT_S = 1.0  # doubles after each broken connection
_TIMEOUT_S = (10.0, 60.0)  # to connect, to hear the next byte
_CHUNK_BYTES = 1 << 14  # a broken connection loses the chunk that it breaks
_MOST_BYTES = 1 << 30  # of a file that is none of ours


class FetchError(ValueError):
    """A file that could not be downloaded, or is not the one that was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A file as its authors published it."""

    url: str
    sha256: tuple[str, ...]  # any of these: the same rows circulate with either line end
    size_bytes: int  # of the largest of them: no download goes beyond

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


RELEASES = {
    "burstgpt": Release(
        url=f"{_BURSTGPT_URL}/BurstGPT_1.csv",
        sha256=(
            "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122",  # CRLF
            "46fc9480ef0b748ecb2b51d512ff08c196b031782cbe6f78e28044d768e86d5a",  # LF
        ),
        size_bytes=52_283_111,
    ),
    "burstgpt-without-fails-1": Release(
        url=f"{_BURSTGPT_URL}/BurstGPT_without_fails_1.csv",
        sha256=("a4d068a7113ec0290e74063a1b3447dc6001a30e4298eb313581b71006dda1f4",),
        size_bytes=51_429_517,
    ),
    "burstgpt-without-fails-2": Release(
        url=f"{_BURSTGPT_URL}/BurstGPT_without_fails_2.csv",
        sha256=("56193aa9b2bb26128ded43d2d29a960df6bf5af062bcfc9b005f3fcaa4e6e501",),
        size_bytes=142_376_815,
    ),
}


def fetch(
    name: str,
    *,
    url: str | None = None,
    sha256: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a release file, unless it is there already, and return its path.

    A broken connection is tried again, from where it broke; what was downloaded stays beside the
    file as `.part`, and the next call goes on with it. The file gets its name only once its
    checksum is right. Of two calls at once the second waits for the first.

    Parameters
    ----------
    name
        One of `RELEASES`.
    url
        Another address of the file, such as a mirror.
    sha256
        The expected checksum, if the file at `url` is not the one released.
    folder
        Where to keep it; by default the user's cache folder.
    progress : callable, optional
        Called with the bytes that are there and those there will be (None where the server does
        not say).

    Raises
    ------
    FetchError
        If an argument cannot be (see `check_request`), the server cannot be reached, does not have
        the file, packs it or sends more than the file is long, or the checksum is wrong. A
        download that cannot be right is removed.
    """
    from platformdirs import user_cache_path

    check_request(name, url=url, sha256=sha256)
    release = RELEASES[name]
    accepted = release.sha256 if sha256 is None else (sha256.strip().lower(),)
    kept_in = Path(folder if folder is not None else user_cache_path("llmsched")).absolute()
    target = kept_in / release.file_name
    download = _Download(
        url=url or release.url,
        part=target.with_name(target.name + ".part"),
        accepted=accepted,
        most_bytes=release.size_bytes if sha256 is None else _MOST_BYTES,
        progress=progress,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while not _is_there(target, accepted):
            with _locked(download.part) as part:
                # who waited for the lock may find the work done, and the part renamed
                if not target.exists() and _still_named(part, download.part):
                    download.complete(part)
                    os.replace(download.part, target)
    except OSError as error:
        raise FetchError(f"{target}: cannot be written ({error.strerror or error})") from error
    return target


def check_request(name: str, *, url: str | None = None, sha256: str | None = None) -> None:
    """`FetchError` if `fetch` could not even begin: the name, the address or the checksum."""
    from urllib.parse import urlsplit

    if name not in RELEASES:
        raise FetchError(f"name must be one of {', '.join(RELEASES)}; got {name!r}")
    if url is not None:
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            known = False
        if not known:
            raise FetchError(f"url must be an address that begins with http(s)://, got {url!r}")
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256.strip().lower()):
        raise FetchError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")


def _is_there(target: Path, accepted: tuple[str, ...]) -> bool:
    """Whether the file is there already; `FetchError` if another one is."""
    if not target.exists():
        return False
    with target.open("rb") as file:
        given = _sha256(file)
    if given in accepted:
        return True
    message = f"{target}: must have the sha256 {' or '.join(accepted)}, got {given}"
    raise FetchError(f"{message}; move the file away or name another folder")


@contextmanager
def _locked(path: Path) -> Iterator[BufferedIOBase]:
    """The part file, opened for this process alone; one that stays empty is removed."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise FetchError(f"{path}: must not be a link; remove it first") from error
        raise
    if path.is_symlink() or not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise FetchError(f"{path}: must be a regular file; remove it first")
    with os.fdopen(number, "r+b") as file:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size and _still_named(file, path):
                with suppress(OSError):
                    path.unlink()


def _still_named(file: BufferedIOBase, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Download:
    """A download that resumes, retries, and takes any of a few checksums."""

    url: str
    part: Path
    accepted: tuple[str, ...]
    most_bytes: int
    progress: Progress | None

    def complete(self, part: BufferedIOBase) -> None:
        """Have the whole file in `part`, in a few attempts, and check it."""
        self._attempts(part)
        part.flush()
        given = _sha256(part)
        if given not in self.accepted:
            raise self._removed(
                f"download must have the sha256 {' or '.join(self.accepted)}, got {given}"
            )

    def _attempts(self, part: BufferedIOBase) -> None:
        import requests
        from requests.exceptions import ChunkedEncodingError

        broken = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError)
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                return self._attempt(part)
            except broken as error:
                problem = str(error)
            except requests.RequestException as error:
                message = f"{self.url}: must be an address to download from ({error})"
                raise FetchError(message) from error
        kept = _size(part)
        advice = f"{kept} bytes are kept in {self.part}: run it again to go on from there"
        if not kept:
            advice = "check the network or give another address, then run it again"
        raise FetchError(
            f"{self.url}: no connection lasted in {_ATTEMPTS} attempts ({problem}); {advice}"
        )

    def _attempt(self, part: BufferedIOBase) -> None:
        """One request for what is still missing; a broken connection raises from requests."""
        import requests

        done = _size(part)
        if done > self.most_bytes:
            done = 0
        # identity: a range of compressed bytes would not be a range of the file
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with requests.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code == 416 and done:  # nothing is missing; the checksum judges
                return
            self._check(response)
            if response.status_code == 200:  # all of it, whatever was asked for
                done = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                part.truncate(0)
                raise requests.ConnectionError("the server sent another part than was asked for")
            length = response.headers.get("Content-Length", "")
            total = done + int(length) if re.fullmatch(r"\d{1,15}", length, re.ASCII) else None
            part.truncate(done)
            part.seek(done)
            for chunk in response.iter_content(_CHUNK_BYTES):
                done += len(chunk)
                if max(done, total or 0) > self.most_bytes:
                    raise self._removed(
                        f"download must be at most {self.most_bytes} bytes long, the server sends "
                        "more"
                    )
                part.write(chunk)
                if self.progress is not None:
                    self.progress(done, total)
        if total is not None and done < total:
            part.flush()
            raise requests.ConnectionError(f"connection closed after {done} of {total} bytes")

    def _check(self, response: Response) -> None:
        """Fail unless the server sends the file, as it is."""
        import requests

        if response.status_code >= 500 or response.status_code == 429:
            raise requests.ConnectionError(f"server error {response.status_code}")
        if response.status_code not in (200, 206):
            status = f"{response.status_code} {response.reason}"
            raise FetchError(f"{self.url}: must be a file to download, the server says {status}")
        packed = response.headers.get("Content-Encoding", "identity")
        if packed not in ("", "identity"):
            raise FetchError(
                f"{self.url}: must come as it is, the server packs it ({packed}); give another "
                "address"
            )

    def _removed(self, problem: str) -> FetchError:
        with suppress(OSError):
            self.part.unlink()
        return FetchError(
            f"{self.url}: {problem}; it was removed: try again, or another address or checksum"
        )


def _size(file: BufferedIOBase) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


def _sha256(file: BufferedIOBase) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
