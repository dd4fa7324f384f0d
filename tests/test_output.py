"""Tables in files: floats read back exactly, what never was is empty, and all or nothing."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmsched._util.files import OutputError, whole_file
from llmsched.engine import export as output
from llmsched.engine.batch.run import run_engine
from llmsched.engine.export import check_table_path, write_table
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.latency.registry import load_latency
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.settings import Settings
from llmsched.workload.trace import Trace

REQUEST_COLUMNS = [
    *("request", "arrival_s", "prompt_tokens", "output_tokens", "predicted_tokens", "bin"),
    *("start_s", "finish_s", "gpu", "batch"),
]
BATCH_COLUMNS = [
    *("batch", "start_s", "finish_s", "gpu", "bin", "size", "tokens"),
    *("max_total_tokens", "max_prompt_tokens", "max_output_tokens"),
]
FLOATS = ("arrival_s", "start_s", "finish_s")


@pytest.fixture(scope="module")
def tables() -> tuple[RequestTable, BatchTable]:
    """A run of 300 requests at awkward instants, about a tenth of them rejected."""
    rng = np.random.default_rng(2)
    n = 300
    trace = Trace(
        arrival_s=np.concatenate(([0.0], np.cumsum(rng.exponential(0.1 / 3, n - 1)))),
        prompt_tokens=rng.integers(0, 1000, n, dtype=np.int32),
        output_tokens=rng.integers(0, 1000, n, dtype=np.int32),
    )
    return run_engine(
        trace,
        rng.integers(0, 3, n).astype(np.int32),
        3,
        make_scheduler("multi_bin_dynamic", Settings(capacity_tokens=1600.0)),
        n_gpus=3,
        latency=load_latency("reference"),
    )


def read(path: Path) -> pd.DataFrame:
    """A file as a frame; a CSV by Python's own `float`, which is exact whatever pandas does."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return pd.DataFrame(
        {
            name: np.array([float(cell) if cell else np.nan for cell in cells])
            if name in FLOATS or "" in cells
            else np.array(cells, dtype=np.int64)
            for name, cells in columns.items()
        }
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_requests__read_back_exactly(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path, suffix: str
) -> None:
    requests, _ = tables
    assert 0 < (~requests.completed).sum() < 100
    path = tmp_path / f"requests{suffix}"
    write_table(requests, path)
    frame = read(path)
    assert list(frame.columns) == REQUEST_COLUMNS
    assert frame["request"].tolist() == [*range(len(requests))]
    for name in FLOATS:  # NaN where rejected, the very bits elsewhere
        assert frame[name].to_numpy().tobytes() == getattr(requests, name).tobytes()
    for name in ("prompt_tokens", "output_tokens", "predicted_tokens", "bin"):
        assert frame[name].tolist() == getattr(requests, name).tolist()
    for name in ("gpu", "batch"):
        assert frame[name].fillna(-1).astype(int).tolist() == getattr(requests, name).tolist()
        assert (frame[name].isna() == ~requests.completed).all()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_batches__read_back_exactly(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path, suffix: str
) -> None:
    _, batches = tables
    path = tmp_path / f"batches{suffix}"
    write_table(batches, str(path))
    frame = read(path)
    assert list(frame.columns) == BATCH_COLUMNS
    assert frame["batch"].tolist() == [*range(len(batches))]
    for name in BATCH_COLUMNS[1:]:
        assert (frame[name].to_numpy() == getattr(batches, name)).all()  # `==`, so the same bits


def test_csv__is_plain_with_empty_cells_for_what_never_happened(tmp_path: Path) -> None:
    requests, batches = run_engine(
        Trace(
            arrival_s=np.array([0.0, 0.1]),
            prompt_tokens=np.array([50, 1], np.int32),
            output_tokens=np.array([50, 2], np.int32),
        ),
        np.zeros(2, np.int32),
        1,
        make_scheduler("dynamic_no_bins", Settings(capacity_tokens=10.0)),
        n_gpus=1,
        latency=load_latency("multi-bin-paper"),
    )
    write_table(requests, tmp_path / "requests.csv")
    write_table(batches, tmp_path / "batches.csv")
    # (0.1 + 2 * 0.0366 in double precision is not 0.1732)
    assert (tmp_path / "requests.csv").read_text().splitlines()[1:] == [
        "0,0,50,50,50,0,,,,",
        "1,0.1,1,2,2,0,0.1,0.17320000000000002,0,0",
    ]
    assert (tmp_path / "batches.csv").read_text().splitlines()[1:] == [
        "0,0.1,0.17320000000000002,0,0,1,3,3,1,2"
    ]


def test_frames__hold_the_same_as_the_files(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path
) -> None:
    for table, columns in zip(tables, (REQUEST_COLUMNS, BATCH_COLUMNS), strict=True):
        frame = table.to_frame()
        assert list(frame.columns) == columns
        path = tmp_path / "table.parquet"
        write_table(table, path)
        pd.testing.assert_frame_equal(frame, pd.read_parquet(path), check_dtype=False)
    assert tables[0].to_frame()["gpu"].isna().sum() == (~tables[0].completed).sum()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_writing__that_fails_leaves_the_old_file_and_nothing_else(
    tables: tuple[RequestTable, BatchTable],
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given a file that is there, and a disk that fills up half way
    path = tmp_path / f"requests{suffix}"
    path.write_text("the old one")

    def half(table: object, partial: Path, given_suffix: str) -> None:
        assert given_suffix == suffix
        assert partial.parent == tmp_path  # or the last step would not be one rename
        assert partial != path
        partial.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(output, "_write", half)
    with pytest.raises(OSError, match="no space left"):
        write_table(tables[0], path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "the old one"


def test_writing__replaces_an_older_file_and_leaves_no_other(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path
) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("the old one")
    write_table(tables[0], path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert len(path.read_text().splitlines()) == len(tables[0]) + 1


@pytest.mark.parametrize("name", ["t.txt", "t", "t.csv.gz"])
def test_path__must_end_in_a_known_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet, got '.*'"):
        check_table_path(tmp_path / name)


def test_path__must_be_in_a_folder_that_exists_and_be_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must exist; create it first"):
        check_table_path(tmp_path / "nowhere" / "t.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="must not be a folder"):
        check_table_path(tmp_path / "folder.csv")
    assert check_table_path(str(tmp_path / "t.parquet")) == tmp_path / "t.parquet"


def test_writing__checks_the_path_too(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        write_table(tables[0], tmp_path / "t.xlsx")


@pytest.mark.parametrize(("name", "start"), [("T.CSV", b"batch,"), ("T.Parquet", b"PAR1")])
def test_path__may_end_in_capitals(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path, name: str, start: bytes
) -> None:
    write_table(tables[1], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_writing__follows_a_link(tables: tuple[RequestTable, BatchTable], tmp_path: Path) -> None:
    # given two links in a row, to a file and to none yet, in another folder
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    for name in ("old.csv", "new.csv"):
        (tmp_path / "far" / "link.csv").unlink(missing_ok=True)
        (tmp_path / "far" / "link.csv").symlink_to(name)
        link = tmp_path / "near" / name
        link.symlink_to(tmp_path / "far" / "link.csv")
        if name == "old.csv":
            (tmp_path / "far" / name).write_text("the old one")
        # when
        write_table(tables[1], link)
        # then
        assert link.is_symlink()
        assert (tmp_path / "far" / "link.csv").is_symlink()
        assert (tmp_path / "far" / name).read_text().startswith("batch,")
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_path__must_not_be_a_link_to_itself_nor_too_long(tmp_path: Path) -> None:
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    with pytest.raises(ValueError, match=r"must not be a link to itself, got '.*loop\.csv'"):
        check_table_path(tmp_path / "loop.csv")
    with pytest.raises(ValueError, match="File name too long"):
        check_table_path(tmp_path / f"{'x' * 300}.csv")


def test_path__must_be_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "null.csv").symlink_to(os.devnull)
    with pytest.raises(ValueError, match="must be a file that can be replaced"):
        check_table_path(tmp_path / "null.csv")


def test_path__must_be_in_a_folder_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write anywhere
    with pytest.raises(ValueError, match="must be writable"):
        check_table_path(tmp_path / "t.csv")


def test_writing__takes_the_longest_name_there_is(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path
) -> None:
    path = tmp_path / f"{'x' * 251}.csv"
    write_table(tables[1], path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_writing__that_fails_names_the_file_of_the_user(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_table: object, partial: Path, _suffix: str) -> None:
        raise OSError(28, "No space left on device", str(partial))

    monkeypatch.setattr(output, "_write", fail)
    with pytest.raises(OSError, match="No space") as caught:
        write_table(tables[1], tmp_path / "t.csv")
    text = f"{tmp_path / 't.csv'}: cannot be written (No space left on device)"
    assert str(caught.value) == text


def test_writing__removes_what_a_killed_run_left_but_not_what_another_is_writing(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path
) -> None:
    (tmp_path / ".t.csv.0123.partial").write_text("half")  # nobody holds its lock
    with whole_file(tmp_path / "t.csv") as others:
        others.write_text("theirs\n")
        write_table(tables[1], tmp_path / "t.csv")
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [others.name, "t.csv"]
    assert (tmp_path / "t.csv").read_text() == "theirs\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX's")
def test_writing__keeps_the_mode_and_never_follows_a_planted_link(
    tables: tuple[RequestTable, BatchTable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.touch()
    path.chmod(0o600)
    write_table(tables[1], path)
    assert path.stat().st_mode & 0o777 == 0o600
    # a link in the very place of the partial file: its name is guessed here, and random in life
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("llmsched._util.files.secrets.token_hex", lambda _n: "guessed")
    (tmp_path / ".t.csv.guessed.partial").symlink_to(victim)
    with pytest.raises(OutputError, match=r"t.csv: cannot be written \(File exists\)"):
        write_table(tables[1], path)
    assert victim.read_text() == "precious"
