"""The stress plan's figures: every one draws, and shows the numbers it is given."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pandas as pd
import pytest
from stress_builders import ALL, MERGED, TINY

from llmsched.studies.stress import figures
from llmsched.studies.stress.run import run_steps

NAMES = {
    "step1": ["violations", "latency", "rates", "latencies", "bins", "composition", "batch_sizes"],
    "step2": ["violations", "latency", "rates", "efficiency", "latencies", "bins", "batch_sizes"],
    "step2b": ["violations", "latency"],
    "step3": ["bins", "composition", "starvation", "latencies"],
}

pytestmark = pytest.mark.filterwarnings(MERGED)


@pytest.fixture(scope="module")
def one_point(tmp_path_factory):
    """A plan with a single point everywhere, and one replication."""
    plan = replace(TINY, volumes=(60,), gpu_counts=(1,), bins=(2,), loads=(0.9,), replications=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return run_steps(plan, ALL, tmp_path_factory.mktemp("point"), jobs=1)


def marks_in(plot) -> list[int]:
    """How many marks each panel of the drawn plot holds."""
    import matplotlib.pyplot as plt

    figure = plot.draw()
    marks = [len(panel.collections) + len(panel.lines) for panel in figure.axes]
    plt.close(figure)
    return marks


def test_figures__are_those_of_each_step_and_say_what_they_show(done, one_point):
    for result in (done[1], one_point):
        for found in result.steps:
            own = NAMES[found.step.name]
            assert list(found.figures) == [f"{found.step.name}_{name}" for name in own]
    drawn = {name: one for found in done[1].steps for name, one in found.figures.items()}
    assert all(one.caption.endswith(".") for one in drawn.values())
    assert (
        sum("Means of 2 replications, bars: 95 % inter" in d.caption for d in drawn.values()) == 15
    )
    assert drawn["step1_latency"].caption.startswith("Mean latency, latency p99. ")
    lone = one_point.steps[0].figures["step1_violations"]
    assert lone.caption.startswith("Violations. One replication, so no interval;")


@pytest.mark.parametrize("name", ["step1_violations", "step2_rates", "step3_composition"])
def test_figure__draws_something_in_every_panel_without_a_warning(name, done):
    (figure,) = (one.figures[name] for one in done[1].steps if name in one.figures)
    assert all(marks := marks_in(figure.draw())), marks


def test_png__of_the_same_numbers_is_the_same_bytes(done):
    figure = done[1].steps[2].figures["step2b_violations"]
    assert figures.png(figure) == figures.png(figure)


@pytest.mark.slow
def test_every_figure__draws_something_in_every_panel_without_a_warning(done, one_point):
    drawn = [item for found in done[1].steps for item in found.figures.items()]
    alone = ("step1_violations", "step1_bins", "step2_rates", "step2_bins", "step3_composition")
    drawn += [(n, f) for one in one_point.steps for n, f in one.figures.items() if n in alone]
    for name, figure in drawn:
        assert all(marks := marks_in(figure.draw())), (name, marks)


def summary_of(*points: tuple[float, float, float, float]) -> pd.DataFrame:
    """Goodput, throughput and violations (a tenth of it) by GPUs: n, mean, low, high."""
    frame = pd.DataFrame(points, columns=["n_gpus", "mean", "low", "high"]).assign(
        target_load=math.nan, offered_load=0.5, load_label="stable"
    )
    rates = [frame.assign(metric=f"{name}_rps") for name in ("throughput", "goodput")]
    shares = frame.assign(metric="sla_violation_rate")
    shares[["mean", "low", "high"]] /= 10
    return pd.concat([*rates, shares], ignore_index=True)


def test_drawn__cuts_bars_at_what_can_be_and_has_none_without_an_interval():
    summary = summary_of((1.0, 4.0, -2.0, 12.0), (2.0, 8.0, math.nan, math.nan))
    shares = figures.drawn(summary, ["sla_violation_rate"])  # in per cent
    assert shares["low"].tolist() == [0.0, 80.0]
    assert shares["high"].tolist() == [100.0, 80.0]
    rates = figures.drawn(summary, ["goodput_rps"])
    assert rates["low"].tolist() == [2.0, 8.0]  # half the lowest point: a log axis has no -2
    assert rates["high"].tolist() == [12.0, 8.0]
    assert list(rates["panel"].cat.categories) == ["goodput [requests/s]"]
    assert not len(figures.drawn(summary.assign(mean=math.nan), ["goodput_rps"]))


def layer(plot, kind: str) -> pd.DataFrame:
    """The data of the plot's last layer of a kind that has its own."""
    found = [one._data for one in plot.layers if type(one.geom).__name__ == kind]
    return [data for data in found if isinstance(data, pd.DataFrame)][-1]


def test_curves__have_the_linear_line_from_the_fewest_gpus():
    summary = summary_of(*((n, rate, rate, rate) for n, rate in ((2, 10), (4, 15), (8, 20))))
    rates = ("throughput_rps", "goodput_rps")
    plot = figures.curves(summary, rates, x="n_gpus", log_y=True, linear=True)
    linear = layer(plot, "geom_line").query("metric == 'goodput_rps'")
    assert linear["mean"].tolist() == [10.0, 20.0, 40.0]  # 2, 4 and 8 GPUs
    assert plot.data.query("metric == 'goodput_rps'")["mean"].tolist() == [10.0, 15.0, 20.0]


def test_curves__have_their_load_beside_them_and_the_target_in_their_unit():
    summary = summary_of((1.0, 4.0, 3.0, 5.0), (2.0, 2.0, 1.0, 3.0))
    summary["offered_load"] = summary["n_gpus"].map({1.0: 1.234, 2.0: 0.617})
    plot = figures.curves(summary, ["sla_violation_rate"], x="n_gpus", line=0.05, loads=True)
    assert layer(plot, "geom_text")["load"].tolist() == ["ρ 1.2", "ρ 0.62"]
    assert layer(plot, "geom_hline")["yintercept"].tolist() == [5.0]
    assert plot.labels.y == "violations [%]"


def test_labels__have_no_powers_of_ten():
    assert figures.plain([0.01, 1.0, 250.0, 30000.0]) == ["0.01", "1", "250", "30000"]
    assert [figures.counted(n) for n in (64, 1000, 2500, 1e6)] == ["64", "1K", "2.5K", "1M"]
