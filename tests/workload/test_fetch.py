"""Downloads against a local server: whole, resumed, corrupted, refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
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
    headers: dict[str, str] = field(default_factory=dict)  # to send beside the usual ones
    endless: bool = False  # send no length, and fifty times the body
    hold: threading.Event | None = None  # wait for it before the body


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
            for name, value in state.headers.items():
                self.send_header(name, value)
            if not state.endless:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.hold is not None:
                state.hold.wait(30)
            with contextlib.suppress(ConnectionError):
                for _ in range(50 if state.endless else 0):
                    self.wfile.write(body)
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
    release = fetch_module.Release(
        url=server.url, sha256=("0" * 64, SHA256), size_bytes=len(CONTENT)
    )
    monkeypatch.setitem(RELEASES, "burstgpt", release)
    assert fetch("burstgpt", folder=tmp_path).read_bytes() == CONTENT
    assert fetch("burstgpt", folder=tmp_path) == tmp_path / FILE


def test_download__goes_to_the_cache_by_default(server, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
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


def test_size__of_the_release_is_the_cap(server, tmp_path, monkeypatch):
    release = fetch_module.Release(url=server.url, sha256=(SHA256,), size_bytes=len(CONTENT))
    monkeypatch.setitem(RELEASES, "burstgpt", release)
    # given a server that goes on and on, or says at once that there is more
    for server.endless in (True, False):
        server.content = CONTENT + b"x"
        with pytest.raises(FetchError, match="at most 1000016 bytes long, the server sends more"):
            fetch("burstgpt", folder=tmp_path)
        assert names(tmp_path) == []
    server.content = CONTENT
    assert fetch("burstgpt", folder=tmp_path).read_bytes() == CONTENT


def test_packed_answer__is_refused_before_it_is_unpacked(server, tmp_path):
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(FetchError, match=r"the server packs it \(gzip\)"):
        get(server, tmp_path)
    assert names(tmp_path) == []


def test_not_satisfiable__with_nothing_kept_names_the_server(server, tmp_path):
    server.status = [416]
    with pytest.raises(FetchError, match=r"must be a file to download, the server says 416"):
        get(server, tmp_path)
    assert names(tmp_path) == []


def test_part__that_is_a_link_is_not_followed(server, tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / f"{FILE}.part").symlink_to("precious")
    with pytest.raises(FetchError, match=r"\.part: must not be a link; remove it first"):
        get(server, tmp_path)
    assert (tmp_path / "precious").read_bytes() == b"mine"
    (tmp_path / "precious").unlink()  # nor made, where it is not there
    with pytest.raises(FetchError, match=r"\.part: must not be a link; remove it first"):
        get(server, tmp_path)
    assert names(tmp_path) == [f"{FILE}.part"]


def test_part__that_is_no_file_is_refused(server, tmp_path):
    (tmp_path / f"{FILE}.part").mkdir()
    with pytest.raises(FetchError, match="cannot be written"):
        get(server, tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / f"{FILE}.part").rmdir()
    (tmp_path / "fifo").rename(tmp_path / f"{FILE}.part")
    with pytest.raises(FetchError, match="must be a regular file"):
        get(server, tmp_path)


def test_two_at_once__are_both_right_and_one_downloads(server, tmp_path):
    # given a server that holds the first download until the second has begun to wait
    server.hold = threading.Event()
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(get(server, tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    threading.Timer(0.3, server.hold.set).start()
    for thread in threads:
        thread.join(30)
    # then all have the file, and it came once
    assert found == [tmp_path / FILE] * 3
    assert found[0].read_bytes() == CONTENT
    assert server.asked == [None]
    assert names(tmp_path) == [FILE]


def test_killed__leaves_nothing_but_the_part_and_goes_on_with_it(server, tmp_path):
    # given a download that is killed half-way, three times
    server.hold = threading.Event()
    code = (
        "import sys\nfrom llmsched.workload.fetch import fetch\n"
        "print('here', flush=True)\n"
        "fetch('burstgpt', url=sys.argv[1], sha256=sys.argv[2], folder=sys.argv[3])"
    )
    command = [sys.executable, "-c", code, server.url, SHA256, str(tmp_path)]
    for n_asked in range(1, 4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            while len(server.asked) < n_asked:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    # then there is no litter, and the next one is right
    assert set(names(tmp_path)) <= {f"{FILE}.part"}
    server.hold.set()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == [FILE]


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
