"""Downloads against a local server: whole, resumed, corrupted, refused."""

from __future__ import annotations

import hashlib
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmsched.workload import fetch as fetch_module
from llmsched.workload.fetch import RELEASES, FetchError, fetch

CONTENT = b"Timestamp,Model\n" + bytes(i % 251 for i in range(1_000_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "BurstGPT_1.csv"


@dataclass
class Server:
    """What the local server does, and which ranges it was asked for."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True  # honour Range
    cut_at: list[int] = field(default_factory=list)  # bytes after which each connection breaks
    status: list[int] = field(default_factory=list)  # statuses to answer with first
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch):
    """A server on this machine; no waiting between attempts."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            given = self.headers.get("Range")
            state.asked.append(given)
            if state.status:
                self.send_error(state.status.pop(0))
                return
            start = 0
            if given and state.ranges:
                start = int(given.removeprefix("bytes=").removesuffix("-"))
                if start >= len(state.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                last = len(state.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            else:
                self.send_response(200)
            body = state.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut_at.pop(0)] if state.cut_at else body)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch_module, "_FIRST_WAIT_S", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}/some/{FILE}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def get(server: Server, folder: Path, **options: object) -> Path:
    return fetch("burstgpt", **({"url": server.url, "sha256": SHA256, "folder": folder} | options))


def whole_chunks(n_bytes: int) -> int:
    """What is kept of a connection that breaks after so many bytes."""
    chunk = 1 << 14
    return n_bytes // chunk * chunk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download__gives_the_file_its_bytes_and_nothing_else(server, tmp_path, capfd):
    folder = tmp_path / "new"
    path = get(server, folder)
    assert path == folder / FILE
    assert path.read_bytes() == CONTENT
    assert names(folder) == [FILE]
    assert server.asked == [None]
    assert capfd.readouterr() == ("", "")


def test_download__is_done_once(server, tmp_path):
    get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_download__any_accepted_checksum_will_do(server, tmp_path, monkeypatch):
    release = fetch_module.Release(url=server.url, sha256=("0" * 64, SHA256))
    monkeypatch.setitem(RELEASES, "burstgpt", release)
    assert fetch("burstgpt", folder=tmp_path).read_bytes() == CONTENT
    assert fetch("burstgpt", folder=tmp_path) == tmp_path / FILE


def test_download__goes_to_the_cache_by_default(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    assert get(server, None) == tmp_path / "llmsched" / FILE


def test_broken_connection__is_resumed_where_it_broke(server, tmp_path):
    # given a server that drops the first connection half-way
    server.cut_at = [500_000]
    # when / then
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={whole_chunks(500_000)}-"]
    assert names(tmp_path) == [FILE]


def test_broken_connection__again_and_again_keeps_the_part_for_the_next_call(server, tmp_path):
    # given a server that drops every connection of the first call
    server.cut_at = [100_000] * 4
    # when
    with pytest.raises(FetchError, match=r"are kept in .*\.part: run it again") as caught:
        get(server, tmp_path)
    # then the part is there, and the next call asks for the rest only
    kept = 4 * whole_chunks(100_000)
    assert f"{kept} bytes are kept" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == [f"{FILE}.part"]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={kept}-"
    assert names(tmp_path) == [FILE]


def test_broken_connection__without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    server.cut_at = [500_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={whole_chunks(500_000)}-"]


def test_part__that_is_complete_is_taken(server, tmp_path):
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_part__of_another_file_is_found_out_and_removed(server, tmp_path):
    (tmp_path / f"{FILE}.part").write_bytes(b"something else")
    with pytest.raises(FetchError, match="it was removed"):
        get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_corrupted_download__is_removed_and_reported(server, tmp_path):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(FetchError, match=f"must have the sha256 {SHA256}, got .*removed") as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_another_file__at_the_url_needs_its_checksum(server, tmp_path):
    with pytest.raises(FetchError, match="46fc9480"):
        fetch("burstgpt", url=server.url, folder=tmp_path)


def test_existing_file__with_another_checksum_is_left_alone(server, tmp_path):
    (tmp_path / FILE).write_bytes(b"mine")
    with pytest.raises(FetchError, match="move the file away"):
        get(server, tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"mine"
    assert server.asked == []


def test_server_error__is_tried_again(server, tmp_path):
    server.status = [503, 500]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_not_found__is_not_tried_again(server, tmp_path):
    server.status = [404]
    with pytest.raises(FetchError, match="the server says 404"):
        get(server, tmp_path)
    assert len(server.asked) == 1
    assert names(tmp_path) == []


def test_refused_connection__says_what_to_do(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{FILE}"
        with pytest.raises(FetchError, match="no connection lasted in 4 attempts") as caught:
            get(server, tmp_path, url=url)
    assert "check the network" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "not-an-address", "gopher://x/y", "http://", "http://["])
def test_address__that_is_none_is_refused(server, tmp_path, url):
    with pytest.raises(FetchError, match="must be an address"):
        get(server, tmp_path, url=url)
    assert names(tmp_path) == []


@pytest.mark.parametrize("sha256", ["", "zz", SHA256[:-1], SHA256 + "0", "g" * 64])
def test_checksum__that_is_none_is_refused_before_connecting(server, tmp_path, sha256):
    with pytest.raises(FetchError, match="sha256 must be 64 hexadecimal digits, got"):
        get(server, tmp_path, sha256=sha256)
    assert server.asked == []
    assert names(tmp_path) == []


def test_checksum__may_be_in_capitals(server, tmp_path):
    assert get(server, tmp_path, sha256=f" {SHA256.upper()}\n").read_bytes() == CONTENT


def test_path__is_absolute(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in ("downloaded", "there already"):
        assert get(server, Path("data")) == tmp_path / "data" / FILE


def test_name__unknown_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(FetchError, match=r"one of burstgpt, burstgpt-without-fails-1, .*'azure'"):
        fetch("azure", folder=tmp_path)


def test_folder__that_cannot_be_written_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="cannot be written"):
        get(server, tmp_path / "file" / "below")


def test_progress__counts_the_bytes_up_to_the_whole_file(server, tmp_path):
    told = []
    path = get(server, tmp_path, progress=lambda done, total: told.append((done, total)))
    size = path.stat().st_size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_releases__have_full_checksums():
    for release in RELEASES.values():
        assert release.url.startswith("https://github.com/HPMLL/BurstGPT/releases/download/")
        assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in release.sha256)
