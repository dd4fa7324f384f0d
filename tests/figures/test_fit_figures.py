"""Figures of fits: what is drawn is what was measured and fitted, in the house's colours."""

from __future__ import annotations

import numpy as np
import pytest

from llmsched.calibration.benchmarks.fit import fit_benchmarks
from llmsched.calibration.benchmarks.runs import (
    Benchmarks,
    ClosedLoopPoint,
    LatencySummary,
    Load,
)
from llmsched.figures.calibration import (
    FORM_COLOURS,
    benchmark_figure,
    fit_figure,
    form_colours,
    residual_figure,
)
from llmsched.latency.base import Shape
from llmsched.latency.fit.best import fit_grid
from llmsched.latency.fit.grid import LatencyGrid

FORMS = ("reference", "four-term")


@pytest.fixture
def grid():
    """Two batch sizes, three lengths; a time that grows with b, bent by 10 % at one cell."""
    b = np.array([1, 1, 1, 8, 8, 8])
    tokens = np.array([100, 200, 400, 100, 200, 400])
    mean = 0.05 + 0.001 * tokens + 1e-4 * b * tokens
    mean[4] *= 1.1
    return LatencyGrid(
        batch_size=b,
        max_seq_len=tokens,
        mean_latency_s=mean,
        std_latency_s=mean * [0.02, 0.01, 0.03, 0.02, 0.02, 0.01],
        n_trials=np.full(6, 4),
        name="hand",
    )


def test_fit_figure__draws_each_cell_once_and_each_form_in_each_panel(grid):
    # given two fitted forms
    fits = [fit_grid(grid, form=form) for form in FORMS]
    # when they are drawn
    figure = fit_figure(grid, fits)
    # then there is a point per cell, its bar two standard errors (σ/√4 each) to each side
    assert len(figure.data) == 6
    first = figure.data.iloc[0]
    assert first["mean_s"] == pytest.approx(0.16, rel=1e-12)
    assert first["high_s"] - first["low_s"] == pytest.approx(2 * 0.02 * 0.16, rel=1e-9)
    # and each curve is its model, in both panels, between the lengths measured
    curves = figure.layers[0]._data
    assert set(curves["panel"]) == {"batch 1", "batch 8"}
    assert (curves["tokens"].min(), curves["tokens"].max()) == (100, 400)
    for fit in fits:
        row = curves[(curves["form"] == fit.form) & (curves["batch_size"] == 8)].iloc[-1]
        expected = fit.model.service_s(Shape(8, 400, 0, 0))
        assert row["time_s"] == pytest.approx(expected, rel=1e-12)


def test_residual_figure__shows_the_share_that_each_form_misses(grid):
    fits = [fit_grid(grid, form=form) for form in FORMS]
    figure = residual_figure(grid, fits)
    # a panel per form, all cells in each, and the largest residual is the fit's own worst error
    assert len(figure.data) == 12
    for fit in fits:
        panel = figure.data[figure.data["panel"].str.startswith(fit.form)]
        worst = 100 * fit.max_relative_error
        assert np.abs(panel["residual"]).max() == pytest.approx(worst, rel=1e-9)
    labels = list(figure.data["panel"].cat.categories)
    assert [label.split(",")[0] for label in labels] == list(FORMS)


def test_fit_figure__follows_prompts_and_outputs_where_they_are_known_apart(grid):
    # given a grid with a quarter of each length as output, and a model that sees outputs only
    class OutputsOnly:
        def service_s(self, batch):
            return 0.01 * batch.max_output_tokens

    class Fit:
        form, model = "step", OutputsOnly()

    steps = LatencyGrid(
        batch_size=grid.batch_size,
        max_seq_len=grid.max_seq_len,
        mean_latency_s=grid.mean_latency_s,
        std_latency_s=np.full(6, np.nan),
        n_trials=grid.n_trials,
        prompt_tokens=grid.max_seq_len * 3 // 4,
        output_tokens=grid.max_seq_len // 4,
    )
    figure = fit_figure(steps, [Fit()])
    # then the curve is a hundredth of a quarter of the length, and no bars are promised
    curves = figure.layers[0]._data
    assert np.allclose(curves["time_s"], curves["tokens"] / 400)
    assert "standard errors" not in figure.labels.caption


def test_colours__are_one_per_form():
    assert len(set(FORM_COLOURS.values())) == len(FORM_COLOURS)
    assert form_colours(["step", "own"]) == {"step": FORM_COLOURS["step"], "own": "#000000"}


def benchmark_fit():
    """A sweep whose end-to-end time jumps at concurrency 8, so that the model misses it."""
    points = tuple(
        ClosedLoopPoint(
            load=Load(words="", concurrency=n),
            prompt_tokens=100,
            output_tokens=10,
            ttft=LatencySummary(mean_s=0.1 * n),
            tpot=LatencySummary(mean_s=0.01),
            e2e=LatencySummary(mean_s=0.1 * n + 0.09 + 0.2 * (n == 8)),
            source="hand",
        )
        for n in (1, 4, 8)
    )
    return fit_benchmarks(Benchmarks(format="aiperf", files=(points,), source="hand"))


def test_benchmark_figure__has_the_model_as_line_and_the_measurement_as_points():
    fit = benchmark_fit()
    figure = benchmark_figure(fit)
    assert figure.data["measured_s"].tolist() == [one.e2e_s for one in fit.points]
    assert figure.data["batch_s"].tolist() == [one.batch_s for one in fit.points]
    drawn = {type(layer.geom).__name__: layer.mapping["y"] for layer in figure.layers}
    assert (drawn["geom_line"], drawn["geom_point"]) == ("batch_s", "measured_s")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_figures__can_be_saved(grid, tmp_path, suffix):
    fits = [fit_grid(grid, form=form) for form in FORMS]
    figures = {
        "fit": fit_figure(grid, fits),
        "residual": residual_figure(grid, fits),
        "benchmark": benchmark_figure(benchmark_fit()),
    }
    for name, figure in figures.items():
        path = tmp_path / f"{name}{suffix}"
        figure.save(path, verbose=False, dpi=60)
        assert path.stat().st_size > 1000
