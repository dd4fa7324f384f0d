"""The report on forms: its arithmetic by hand, and that it comes out of the data again."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmsched._util.resources import data_folder
from llmsched.latency.fit.grid import LatencyGrid
from llmsched.latency.formulas import MAX_GAMMA

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def scripts(monkeypatch):
    """The modules of calibration/, which is a folder of scripts and no package."""
    monkeypatch.syspath_prepend(str(data_folder("calibration")))
    names = ("forms_data", "forms_errors", "forms_per_gpu")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def make_grid(law, *, sizes=(1, 16, 32, 64), lengths=(256, 512, 1024)):
    b, tokens = (axis.ravel() for axis in np.meshgrid(sizes, lengths, indexing="ij"))
    return LatencyGrid(
        batch_size=b,
        max_seq_len=tokens,
        mean_latency_s=law(b, tokens),
        std_latency_s=np.full(b.shape, np.nan),
        n_trials=np.ones(b.shape, dtype=np.int64),
    )


def four_term_s(b, tokens):
    return 0.02 + 0.004 * tokens + 2e-5 * b * tokens + 5e-9 * b * tokens**2


def test_form_errors__every_cell_is_held_out_once_by_size_and_once_by_length(scripts):
    # given a grid that is exactly of the four terms: 4 batch sizes × 3 lengths
    grid = make_grid(four_term_s)
    # when the four terms are fitted
    found = scripts.forms_per_gpu._form_errors(grid, "four-term")
    # then nothing is left over, in sample or held out: 12 cells by size, 12 by length, of which
    # batch 16 and 32 and the middle length lie between (3 + 3 + 4), batch 64 and the longest are
    # the largest (3 + 4), the shortest length is the shortest (4), and batch 1 stands alone (3)
    assert np.abs(found.errors).max() < 1e-6
    assert {place: len(errors) for place, errors in found.held_out.items()} == {
        "batch 1": 3,
        "between": 10,
        "largest": 7,
        "shortest": 4,
    }
    assert max(abs(error) for errors in found.held_out.values() for error in errors) < 1e-6
    assert found.largest_ratio == pytest.approx(1, abs=1e-6)
    assert found.refused == {}


def test_form_errors__a_saturating_form_is_caught_on_a_grid_that_does_not_saturate(scripts):
    # given times that grow in proportion to the batch: T = L·b, so T(64)/T(16) = 4
    grid = make_grid(lambda b, tokens: 1e-4 * tokens * b)
    found = scripts.forms_per_gpu._form_errors(grid, "reference")
    # then it cannot: (1 + γ·63/64)/(1 + γ·15/16) is at most 1.05, so beside a batch of 16 it gives
    # one of 64 at most 1.05/4 of its time. Fitted without batch 1, γ goes to its bound, and as the
    # fit lies below the largest time, T(64) = 64·T(1), it leaves batch 1 at most this share
    ratios = 1 + found.errors[grid.max_seq_len == 1024]
    assert ratios[3] / ratios[1] < 1.0501 / 4
    assert found.largest_ratio == ratios[3] < 1
    assert max(found.held_out["batch 1"]) < 64 / (1 + MAX_GAMMA * 63 / 64) - 1 < 0
    assert scripts.forms_per_gpu._growth(grid) == pytest.approx(4)


def test_line_errors__tell_a_line_from_a_law_that_saturates(scripts):
    # given a decode step of exactly 10 ms + 0.1 ms per request
    b = np.array([1.0, 8.0, 64.0, 256.0])
    series = scripts.forms_data.DecodeSeries(
        name="hand", gpu="G", batch_size=b, step_s=0.010 + 1e-4 * b
    )
    linear = scripts.forms_per_gpu.line_errors(series, saturating=False)
    saturating = scripts.forms_per_gpu.line_errors(series, saturating=True)
    # then the line meets it, also at the two batches that lie between others and were left out
    assert np.abs(linear.errors).max() < 1e-9
    assert linear.held_out == pytest.approx([0, 0], abs=1e-9)
    # and the saturating law cannot: it has one time for 64 and 256, which differ by 2.2
    assert np.abs(saturating.errors).max() > 0.3


def test_percent__keeps_two_digits(scripts):
    shown = [scripts.forms_errors.percent(share) for share in (0.0044, 0.0994, 0.0996, 15.36)]
    assert shown == ["0.4 %", "9.9 %", "10 %", "1536 %"]


@pytest.mark.data
@pytest.mark.slow
def test_report__comes_out_of_the_source_byte_for_byte(scripts, tmp_path):
    if not DATA.is_dir():
        pytest.skip("NOT MADE AGAIN FROM THE MEASUREMENTS: ../shared/data is not there")
    scripts.forms_per_gpu.main(["--data", str(DATA), "--out", str(tmp_path)])
    shipped = data_folder("calibration")
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {
        path.name
        for path in shipped.iterdir()
        if path.name.lower().startswith("forms") and path.suffix in (".md", ".png")
    }
    assert (tmp_path / "FORMS.md").read_bytes() == (shipped / "FORMS.md").read_bytes()
