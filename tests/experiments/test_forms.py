"""FORMS.md: its arithmetic by hand, and that it comes out of the data again."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmsched._util.files import data_folder
from llmsched.latency.fit.grid import LatencyGrid

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def forms(monkeypatch):
    """The script of calibration/, which is no package."""
    monkeypatch.syspath_prepend(str(data_folder("calibration")))
    return importlib.import_module("forms")


def make_grid(law, name="h100-hand", *, sizes=(1, 16, 32, 64), lengths=(256, 512, 1024)):
    b, tokens = (axis.ravel() for axis in np.meshgrid(sizes, lengths, indexing="ij"))
    return LatencyGrid(
        batch_size=b,
        max_seq_len=tokens,
        mean_latency_s=law(b, tokens),
        std_latency_s=np.full(b.shape, np.nan),
        n_trials=np.ones(b.shape, dtype=np.int64),
        name=name,
    )


def test_form_errors__tell_the_law_of_a_grid_from_one_that_saturates(forms):
    # given times that grow in proportion to the batch: T = L·b, so T(64)/T(16) = 4
    grid = make_grid(lambda b, tokens: 1e-4 * tokens * b)
    errors = forms.form_errors([grid], ("reference", "four-term")).set_index("form")
    # then the four terms meet it, also what was left out of the fit, and `reference` cannot:
    # (1 + γ·63/64)/(1 + γ·15/16) is at most 1.05, so it is off by more than half somewhere
    assert errors.loc["four-term", "held_out_max_relative_error"] < 1e-6
    assert errors.loc["reference", "max_relative_error"] > 0.5
    assert (errors["gpu"] == "H100").all()
    assert forms.growth(grid) == pytest.approx(4)
    assert np.isnan(forms.growth(make_grid(lambda b, tokens: tokens * b, sizes=(1, 8))))


def test_line_errors__tell_a_line_from_a_law_that_saturates(forms):
    # given a decode step of exactly 10 ms + 0.1 ms per request
    b = np.array([1.0, 8.0, 64.0, 256.0])
    step_s = 0.010 + 1e-4 * b
    # then the line meets it, and the saturating law cannot: it has one time for 64 and 256
    assert forms.line_errors(b, step_s).max() < 1e-9
    assert forms.line_errors((b - 1) / b, step_s).max() > 0.3


def test_pair__is_median_and_worst_with_two_digits(forms):
    shown = [forms.percent(share) for share in (0.0044, 0.0994, 0.0996, 15.36)]
    assert shown == ["0.4 %", "9.9 %", "10 %", "1536 %"]
    assert forms.pair(pd.Series([0.01, 0.02, 0.9]), pd.Series([0.1, 0.2, 0.3])) == "2.0 % / 20 %"


@pytest.mark.data
@pytest.mark.slow
def test_page__comes_out_of_the_source_byte_for_byte(forms, tmp_path):
    if not DATA.is_dir():
        pytest.skip("NOT MADE AGAIN FROM THE MEASUREMENTS: ../shared/data is not there")
    forms.main(["--data", str(DATA), "--out", str(tmp_path)])
    shipped = data_folder("calibration")
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"FORMS.md", *(path.name for path in shipped.glob("forms-*.png"))}
    assert (tmp_path / "FORMS.md").read_bytes() == (shipped / "FORMS.md").read_bytes()
