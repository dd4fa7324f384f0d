"""Real trace files from the releases of their authors: downloaded once, checked, resumed.

`workloads/REAL_TRACES.md` says what each file holds and how to get it by hand.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Progress = Callable[[int, int | None], None]  # bytes done, and of how many if that is known

_BURSTGPT_URL = "https://github.com/HPMLL/BurstGPT/releases/download/v1.1"
_ATTEMPTS = 4
_FIRST_WAIT_S = 1.0  # doubles after each broken connection
_TIMEOUT_S = (10.0, 60.0)  # to connect, to hear the next byte
_CHUNK_BYTES = 1 << 14  # a broken connection loses the chunk that it breaks


class FetchError(ValueError):
    """A file that could not be downloaded, or is not the one that was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A file as its authors published it."""

    url: str
    sha256: tuple[str, ...]  # any of these: the same rows circulate with either line end

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
    ),
    "burstgpt-without-fails-1": Release(
        url=f"{_BURSTGPT_URL}/BurstGPT_without_fails_1.csv",
        sha256=("a4d068a7113ec0290e74063a1b3447dc6001a30e4298eb313581b71006dda1f4",),
    ),
    "burstgpt-without-fails-2": Release(
        url=f"{_BURSTGPT_URL}/BurstGPT_without_fails_2.csv",
        sha256=("56193aa9b2bb26128ded43d2d29a960df6bf5af062bcfc9b005f3fcaa4e6e501",),
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
    checksum is right.

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
        If an argument cannot be (see `check_request`), the server cannot be reached or does not
        have the file, or the checksum is wrong. A download with a wrong checksum is removed.
    """
    import pooch

    check_request(name, url=url, sha256=sha256)
    release = RELEASES[name]
    accepted = release.sha256 if sha256 is None else (sha256.strip().lower(),)
    kept_in = Path(folder if folder is not None else pooch.os_cache("llmsched")).absolute()
    target = kept_in / release.file_name
    if target.exists():
        if _sha256(target) in accepted:
            return target
        message = f"{target}: must have the sha256 {' or '.join(accepted)}, got {_sha256(target)}"
        raise FetchError(f"{message}; move the file away or name another folder")
    download = _Download(
        part=target.with_name(target.name + ".part"), accepted=accepted, progress=progress
    )
    try:
        with _quiet_pooch():
            found = pooch.retrieve(
                url or release.url,
                known_hash=None,  # pooch takes one checksum; the downloader accepts either
                fname=target.name,
                path=target.parent,
                downloader=download,
            )
    except OSError as error:
        raise FetchError(f"{target}: cannot be written ({error.strerror or error})") from error
    return Path(found)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Download:
    """A pooch downloader that resumes, retries and accepts any of a few checksums."""

    part: Path
    accepted: tuple[str, ...]
    progress: Progress | None

    def __call__(self, url: str, output_file: str | IO[Any], _pooch: Any) -> None:
        self._complete(url)
        given = _sha256(self.part)
        if given not in self.accepted:
            self.part.unlink()
            raise FetchError(
                f"{url}: download must have the sha256 {' or '.join(self.accepted)}, got {given}; "
                "it was removed: try again, or another address or checksum"
            )
        os.replace(self.part, str(output_file))

    def _complete(self, url: str) -> None:
        """Have the whole file in `part`, in a few attempts."""
        import requests
        from requests.exceptions import ChunkedEncodingError

        broken = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError)
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                return self._attempt(url)
            except broken as error:
                problem = str(error)
            except requests.RequestException as error:
                raise FetchError(f"{url}: must be an address to download from ({error})") from error
        kept = self.part.stat().st_size if self.part.exists() else 0
        advice = f"{kept} bytes are kept in {self.part}: run it again to go on from there"
        if not kept:
            advice = "check the network or give another address, then run it again"
        raise FetchError(
            f"{url}: no connection lasted in {_ATTEMPTS} attempts ({problem}); {advice}"
        )

    def _attempt(self, url: str) -> None:
        """One request for what is still missing; a broken connection raises from requests."""
        import requests

        done = self.part.stat().st_size if self.part.exists() else 0
        # identity: a range of compressed bytes would not be a range of the file
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code == 416:  # nothing is missing; the checksum judges
                return
            if response.status_code >= 500 or response.status_code == 429:
                raise requests.ConnectionError(f"server error {response.status_code}")
            if response.status_code not in (200, 206):
                status = f"{response.status_code} {response.reason}"
                raise FetchError(f"{url}: must be a file to download, the server says {status}")
            if response.status_code == 200:  # all of it, whatever was asked for
                done = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                self.part.unlink(missing_ok=True)
                raise requests.ConnectionError("the server sent another part than was asked for")
            length = response.headers.get("Content-Length", "")
            total = done + int(length) if length.isdigit() else None
            with self.part.open("ab" if done else "wb") as part:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    part.write(chunk)
                    done += len(chunk)
                    if self.progress is not None:
                        self.progress(done, total)
        if total is not None and done < total:
            raise requests.ConnectionError(f"connection closed after {done} of {total} bytes")


def _sha256(path: Path) -> str:
    import pooch

    return str(pooch.file_hash(str(path), alg="sha256"))


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Without pooch's own notes: it would print the checksum as advice to paste into code."""
    import pooch

    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
