"""The optional columns of a grid file: steps, memory, and cells that ran out of it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from llmsched.latency.base import CalibrationError, CalibrationWarning
from llmsched.latency.fit.grid import read_grid
from llmsched.latency.fit.grid_columns import (
    HEADER,
    MEMORY_COLUMNS,
    STATUS_COLUMNS,
    STEP_COLUMNS,
    FailedCell,
)
from llmsched.latency.registry import load_latency

ALL = (*HEADER, *STEP_COLUMNS, *MEMORY_COLUMNS, *STATUS_COLUMNS)
ROWS = [
    "1,100,1.04,0.01,5,60,40,0.065,0.001,0.025,0.0001,4000000000,ok",
    "1,200,2.10,,5,120,80,0.125,,0.025,,,ok",
    "8,100,1.30,0.02,5,60,40,0.13,0.001,0.03,0.0002,5000000000,ok",
    "8,200,2.62,0.02,5,120,80,0.25,0.001,0.03,0.0002,6000000000,ok",
]
FAILED = "8,400,,,,240,160,,,,,,out-of-memory"


def write(path, rows, header=ALL):
    path.write_text("\n".join([",".join(header), *rows]) + "\n", encoding="utf-8")
    return path


def test_read_grid__reads_every_optional_column(tmp_path):
    grid = read_grid(write(tmp_path / "grid.csv", ROWS))
    assert grid.prompt_tokens.tolist() == [60, 120, 60, 120]
    assert grid.output_tokens.tolist() == [40, 80, 40, 80]
    assert grid.prefill_s.tolist() == [0.065, 0.125, 0.13, 0.25]
    assert grid.decode_step_s.tolist() == [0.025, 0.025, 0.03, 0.03]
    assert grid.prefill_std_s[0] == 0.001
    assert grid.decode_step_std_s[2] == 0.0002
    assert np.isnan([grid.prefill_std_s[1], grid.decode_step_std_s[1]]).all()
    assert grid.peak_memory_bytes[0] == 4e9
    assert np.isnan(grid.peak_memory_bytes[1])
    assert grid.failed == ()
    assert str(grid.measured_steps) == "batch size 1-8, prompt tokens 60-120, output tokens 40-80"
    assert str(grid.measured) == "batch size 1-8, prompt + output tokens 100-200"


def test_read_grid__a_group_may_be_left_out_whole(tmp_path):
    rows = [",".join(row.split(",")[:11]) for row in ROWS]
    grid = read_grid(write(tmp_path / "grid.csv", rows, (*HEADER, *STEP_COLUMNS)))
    assert grid.peak_memory_bytes is None
    for missing in STEP_COLUMNS:
        header = [name for name in (*HEADER, *STEP_COLUMNS) if name != missing]
        with pytest.raises(CalibrationError, match=r"grid\.csv:1: header must be .* groups whole"):
            read_grid(write(tmp_path / "grid.csv", rows, header))


def test_read_grid__cells_out_of_memory_are_kept_aside_and_told_once(tmp_path):
    path = write(tmp_path / "grid.csv", [*ROWS, FAILED])
    with pytest.warns(CalibrationWarning) as caught:
        grid = read_grid(path)
    (warning,) = caught
    assert "1 of 5 cells ran out of memory and are left out (batch 8 × 400 tokens)" in str(
        warning.message
    )
    assert "memory limit of the simulated GPU" in str(warning.message)
    assert warning.filename == __file__
    assert len(grid) == 4
    assert grid.failed == (FailedCell(batch_size=8, max_seq_len=400),)
    assert grid.where(grid.batch_size == 8).failed == grid.failed


def test_load_latency__tells_of_failed_cells_once(tmp_path):
    path = write(tmp_path / "grid.csv", [*ROWS, FAILED])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_latency(f"{path}#reference")
    assert sum("ran out of memory" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (FAILED.replace("out-of-memory", "oom"), "column status must be ok or out-of-memory, got"),
        (FAILED.replace(",400,", ",400,1.5"), "mean_latency_sec must be empty where status is out"),
        ("8,400,,,,240,160,,,,,7,out-of-memory", "peak_memory_bytes must be empty where status"),
        ("8,400,,,7,240,160,,,,,,out-of-memory", "num_trials must be empty where status is"),
        ("9,100,1,,5,60,41,0.1,,0.02,,,ok", "max_seq_len must be prompt_tokens + output_tokens ="),
        ("9,100,1,,5,60,40,,,0.02,,,ok", "column prefill_mean_sec must be a number of seconds"),
        ("9,100,1,,5,60,40,0.1,,,,,ok", "column decode_step_mean_sec must be a number of seconds"),
        ("9,100,1,,5,60,40,0.1,,0.02,,1.5,ok", "peak_memory_bytes must be a whole number of bytes"),
        ("9,100,,,5,60,40,0.1,,0.02,,,ok", "column mean_latency_sec must be a number of seconds"),
        (ROWS[0], "must not repeat, got 1 and 100 of line 2 again"),
        (FAILED.replace("8,400", "8,200").replace("240,160", "120,80"), "must not repeat"),
    ],
)
def test_read_grid__a_bad_optional_cell_is_one_line_with_its_place(tmp_path, row, message):
    path = write(tmp_path / "grid.csv", [*ROWS, row])
    with pytest.raises(CalibrationError) as caught:
        read_grid(path)
    assert str(caught.value).startswith(f"{path}:6: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_grid__one_output_token_has_no_decode_step(tmp_path):
    grid = read_grid(write(tmp_path / "grid.csv", [*ROWS, "9,61,0.1,,5,60,1,0.1,,,,,ok"]))
    assert np.isnan(grid.decode_step_s[-1])


def test_read_grid__only_failed_cells_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match="got only 1 that ran out of memory"):
        read_grid(write(tmp_path / "grid.csv", [FAILED]))


def test_read_grid__one_length_may_have_several_splits(tmp_path):
    grid = read_grid(write(tmp_path / "grid.csv", [*ROWS, "8,200,2.0,,5,150,50,0.3,,0.03,,,ok"]))
    assert grid.max_seq_len.tolist().count(200) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_tokens": None}, "prompt_tokens and output_tokens or neither"),
        ({"decode_step_s": None}, "mean and std of prefill and decode step, or none"),
        ({"prompt_tokens": None, "output_tokens": None}, "beside its prefill"),
        ({"prompt_tokens": np.array([60, 120, 60, 121])}, "must add up to max_seq_len"),
        ({"prefill_s": np.array([0.1, 0.1, np.nan, 0.1])}, "prefill_s .* got nan in cell 2"),
        ({"decode_step_s": np.array([0.1, 0.1, 0.0, 0.1])}, "decode_step_s .* must be > 0"),
        ({"peak_memory_bytes": np.ones(3)}, "one-dimensional and of one length"),
    ],
)
def test_grid__optional_columns_are_checked(tmp_path, change, message):
    grid = read_grid(write(tmp_path / "grid.csv", ROWS))
    with pytest.raises(CalibrationError, match=message):
        replace(grid, **change)
