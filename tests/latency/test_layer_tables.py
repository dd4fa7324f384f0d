"""Reading layer tables: what the profiler writes comes in, all else is refused in one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from layer_files import BEFORE, CHUNKS, DECODES, KV, attention_rows, attention_us, write_layers

from llmsched.latency import CalibrationError
from llmsched.latency.steps import layer_tables
from llmsched.latency.steps.layer_tables import is_layer_prefix, read_layers


@pytest.mark.parametrize("packed", [False, True])
def test_read__plain_and_packed(tmp_path, packed):
    files = read_layers(write_layers(tmp_path / "gpu_tp1", packed=packed))
    assert files.name == "gpu_tp1"
    assert files.dense["o_proj"].axes == ((1, 8, 16, 64, 600),)
    assert files.mixed.axes == (CHUNKS, BEFORE, DECODES, KV)
    assert files.mixed.times_us[1, 2, 3, 0] == attention_us(32, 32, 8, 16)
    assert files.decode.times_us[2, 1] == attention_us(0, 0, 4, 32)
    assert files.prefill.times_us[2, 1] == attention_us(64, 16, 0, 0)
    assert not files.mixed.off.size


def test_read__a_folder_as_the_profiler_leaves_it(tmp_path):
    prefix = write_layers(tmp_path / "x")
    folder = tmp_path / "tp1"
    folder.mkdir()
    for part in layer_tables.PARTS:
        Path(f"{prefix}_{part}.csv").rename(folder / f"{part}.csv")
    assert is_layer_prefix(str(folder))
    assert not is_layer_prefix(prefix)
    assert read_layers(str(folder)).name == "tp1"


def test_read__order_of_rows_does_not_matter(tmp_path):
    prefix = write_layers(tmp_path / "a")
    mixed_up = {part: lambda lines: [lines[0], *lines[:0:-1]] for part in layer_tables.PARTS}
    one, two = read_layers(prefix), read_layers(write_layers(tmp_path / "b", change=mixed_up))
    assert one.mixed.times_us.tobytes() == two.mixed.times_us.tobytes()
    assert one.dense["layernorm"].times_us.tobytes() == two.dense["layernorm"].times_us.tobytes()


def test_read__without_layers_that_a_model_may_lack(tmp_path):
    def without(lines):
        return [line for line in lines if not line.startswith("rotary_emb")]

    files = read_layers(write_layers(tmp_path / "x", change={"dense": without}))
    assert "rotary_emb" not in files.dense


def test_read__any_rectangular_grid_is_taken_whole(tmp_path):
    # given values that do not double
    kv = (16, 24, 40)
    files = read_layers(write_layers(tmp_path / "x", rows=attention_rows(kv=kv)))
    assert files.decode.axes[1] == kv
    assert files.mixed.axes[3] == kv


def two_sweeps():
    """The doubling sweep, and a second one with other chunks and kv that shares some rows."""
    second = attention_rows(chunks=(16, 24, 48), kv=(16, 48, 96))
    return list(dict.fromkeys([*attention_rows(), *second]))


def test_read__of_two_sweeps_the_doubling_one_is_the_grid(tmp_path):
    files = read_layers(write_layers(tmp_path / "x", rows=two_sweeps()))
    # decodes alone would be rectangular, but follow the same rule as the other two
    assert files.mixed.axes == (CHUNKS, BEFORE, DECODES, KV)
    assert files.decode.axes == (DECODES, KV)
    assert len(files.decode.off) == len(DECODES) * 2
    assert len(files.prefill.off) == 2 * len(BEFORE)
    assert len(files.mixed.off) == len(two_sweeps()) - len(attention_rows()) - 4 * 2 - 2 * 4


def test_off_grid_errors__are_those_of_the_interpolation(tmp_path):
    # given times that are linear in kv but for one row off the grid
    def linear(c, k, n, kv):
        return 10.0 + c + k + n * kv + (8.0 if (c, n, kv) == (0, 1, 48) else 0.0)

    files = read_layers(write_layers(tmp_path / "x", rows=two_sweeps(), attention=linear))
    errors = files.decode.off_grid_errors()
    assert np.sort(errors) == pytest.approx([(10 + 48) / 66 - 1] + 7 * [0.0], abs=1e-12)
    assert np.abs(files.mixed.off_grid_errors()).max() < 1e-12


def drop(start: str):
    return lambda lines: [line for line in lines if not line.startswith(start)]


def swap(number: int, text: str):
    return lambda lines: [*lines[:number], text, *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("dense", drop("down_proj"), "dense.csv: layer must be one of .*without down_proj"),
        ("dense", drop("down_proj,16,"), "same tokens, got down_proj without tokens 16"),
        ("dense", swap(3, "moe,16,1.0"), r"got it with \['moe'\]"),
        (
            "dense",
            swap(3, "embedding,1,1.0"),
            "line 4 must be a new point, got embedding at .* 1 a",
        ),
        (
            "dense",
            swap(0, "layer,tokens"),
            "must begin with layer,tokens,time_us, got layer,tokens",
        ),
        ("dense", swap(0, ""), "must begin with layer,tokens,time_us, got"),
        ("dense", lambda lines: lines[:1], "must hold rows below its header, got none"),
        ("dense", lambda lines: [], "must begin with layer,tokens,time_us, got"),
        ("dense", swap(3, "embedding,16"), "line 4 must have 3 cells, got 2"),
        ("dense", swap(3, "embedding,16,1,2"), "line 4 must have 3 cells, got 4"),
        ("dense", swap(3, ""), "line 4 must have 3 cells, got 0"),
        ("dense", swap(3, "embedding,0,1"), "line 4: tokens must be a whole number >= 1, got '0'"),
        ("dense", swap(3, "embedding,1.5,1"), "tokens must be a whole number >= 1, got '1.5'"),
        ("dense", swap(3, "embedding,-1,1"), "tokens must be a whole number >= 1, got '-1'"),
        ("dense", swap(3, f"embedding,{'9' * 5000},1"), "must be a whole number >= 1, got '999"),
        ("dense", swap(3, "embedding,16,0"), "line 4: time_us must be a number > 0, got '0'"),
        ("dense", swap(3, "embedding,16,-3"), "time_us must be a number > 0, got '-3'"),
        ("dense", swap(3, "embedding,16,nan"), "time_us must be a number > 0, got 'nan'"),
        ("dense", swap(3, "embedding,16,inf"), "time_us must be a number > 0, got 'inf'"),
        ("dense", swap(3, "embedding,16,"), "time_us must be a number > 0, got ''"),
        ("per_sequence", drop("sampler"), "per_sequence.csv: layer must be .* without sampler"),
        (
            "per_sequence",
            lambda lines: [lines[0], "lm_head,1,3", "sampler,1,3"],
            r"sequences must take two values or more to interpolate, got \[1\]",
        ),
        ("attention", drop("0,0,"), "attention.csv: must hold rows with decodes alone, got none"),
        (
            "attention",
            drop("16,0,0,0,"),
            "must form a grid, .* got none at prefill_chunk 16, kv_pr",
        ),
        (
            "attention",
            drop("32,16,4,64,"),
            "got none at prefill_chunk 32, kv_prefill 16, n_decode 4",
        ),
        ("attention", swap(1, "0,0,0,0,5"), "line 2 must have a prefill or decodes, and kv only"),
        ("attention", swap(1, "0,16,1,16,5"), "line 2 must have a prefill or decodes, and kv only"),
        (
            "attention",
            swap(2, "16,16,0,16,5"),
            "line 3 must have a prefill or decodes, and kv only",
        ),
        ("attention", swap(2, "0,0,1,16,5"), "line 3 must be a new point, got 0, 0, 1, 16 again"),
        (
            "attention",
            lambda lines: [x for x in lines if x.split(",")[1] in ("kv_prefill", "0")],
            r"kv_prefill must take two values or more to interpolate, got \[0\]",
        ),
    ],
)
def test_read__damage_is_one_line(tmp_path, part, change, message):
    prefix = write_layers(tmp_path / "x", change={part: change})
    with pytest.raises(CalibrationError, match=message) as caught:
        read_layers(prefix)
    assert "\n" not in str(caught.value)
    assert f"x_{part}.csv" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("part", layer_tables.PARTS)
def test_read__a_file_that_is_not_there(tmp_path, part):
    prefix = write_layers(tmp_path / "x")
    Path(f"{prefix}_{part}.csv").unlink()
    assert is_layer_prefix(prefix)
    with pytest.raises(
        CalibrationError, match=rf"one of .*x_{part}\.csv and x_{part}\.csv\.gz, got"
    ):
        read_layers(prefix)


def test_read__a_file_that_is_there_twice(tmp_path):
    write_layers(tmp_path / "x")
    prefix = write_layers(tmp_path / "x", packed=True)
    with pytest.raises(CalibrationError, match="got both; remove one"):
        read_layers(prefix)


@pytest.mark.parametrize(
    "content",
    [
        b"layer,tokens,time_us\nx\xff,1,1\n",
        gzip.compress(b"layer,tokens", mtime=0)[:-6],
        b"\x1f\x8bno",
    ],
)
def test_read__bytes_that_are_no_text(tmp_path, content):
    prefix = write_layers(tmp_path / "x")
    Path(f"{prefix}_dense.csv").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"x_dense\.csv: must be a readable CSV file, got"):
        read_layers(prefix)


def test_read__a_file_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(layer_tables, "_MAX_BYTES", 2**20)
    prefix = write_layers(tmp_path / "x")
    Path(f"{prefix}_dense.csv").unlink()
    bomb = gzip.compress(b"layer,tokens,time_us\n" + b"\n" * 2**21)
    Path(f"{prefix}_dense.csv.gz").write_bytes(bomb)
    with pytest.raises(
        CalibrationError, match=r"x_dense\.csv\.gz: must be at most 1 MiB, got more"
    ):
        read_layers(prefix)
