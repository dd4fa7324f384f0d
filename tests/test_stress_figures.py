"""The stress plan's figures: every one draws, and shows the numbers it is given."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pandas as pd
import pytest

from conftest import plan_scenario
from llmsched.prediction.binning import Binning
from llmsched.studies.stress import bin_figures, figures
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.run import SweepOptions, run_steps

PLAN = Plan(
    volumes=(60, 120),
    gpu_counts=(1, 2),
    bins=(1, 3),
    loads=(0.7, 0.9),
    replications=2,
    base=plan_scenario(binning=Binning(n_bins=2)),
)
ONE_POINT = replace(PLAN, volumes=(60,), gpu_counts=(1,), bins=(2,), loads=(0.9,), replications=1)
NAMES = {
    "step1": [
        *("step1_violations", "step1_latency", "step1_rates", "step1_latencies"),
        *("step1_bins", "step1_composition", "step1_batch_sizes"),
    ],
    "step2": [
        *("step2_violations", "step2_latency", "step2_rates", "step2_efficiency"),
        *("step2_latencies", "step2_bins", "step2_batch_sizes"),
    ],
    "step2b": ["step2b_violations", "step2b_latency"],
    "step3": ["step3_bins", "step3_composition", "step3_starvation", "step3_latencies"],
}

pytestmark = pytest.mark.filterwarnings("ignore:.*equal-mass bins asked for.*:UserWarning")


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """The steps of a tiny plan, and of one with a single point everywhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # bins of so few requests merge
        return {
            plan: run_steps(
                plan,
                ["step1", "step2", "step3"],
                tmp_path_factory.mktemp("stress"),
                command="test",
                options=SweepOptions(jobs=1),
            ).steps
            for plan in (PLAN, ONE_POINT)
        }


def rendered(plot) -> list[int]:
    """Draw it in full, let go of it, and say how many marks each panel holds."""
    import matplotlib.pyplot as plt

    figure = plot.draw()
    marks = [len(panel.collections) + len(panel.lines) for panel in figure.axes]
    plt.close(figure)
    return marks


def test_figures__are_those_of_each_step_and_say_what_they_show(steps):
    for plan in (PLAN, ONE_POINT):
        assert {step.name: list(step.figures) for step in steps[plan]} == NAMES
    captions = {
        name: figure.caption for step in steps[PLAN] for name, figure in step.figures.items()
    }
    assert all(caption.endswith(".") for caption in captions.values())
    with_bars = [caption for caption in captions.values() if "bars: 95 % intervals" in caption]
    assert all("means over 2 replications" in caption for caption in with_bars)
    assert len(with_bars) == 15  # the distributions and the batch sizes have none
    assert "Offered loads ρ at the largest volume: static_fifo" in captions["step1_violations"]
    one = steps[ONE_POINT][0].figures["step1_violations"].caption
    assert "one replication, so no interval" in one


@pytest.mark.parametrize("name", ["step1_violations", "step2_rates", "step3_composition"])
def test_figure__draws_something_in_every_panel_without_a_warning(name, steps):
    drawn = {n: f for step in steps[PLAN] for n, f in step.figures.items()}
    marks = rendered(drawn[name].draw())
    assert marks
    assert all(marks), marks


@pytest.mark.slow
@pytest.mark.parametrize("plan", [PLAN, ONE_POINT], ids=["tiny", "one point"])
@pytest.mark.parametrize("name", [name for names in NAMES.values() for name in names])
def test_every_figure__draws_something_in_every_panel_without_a_warning(name, plan, steps):
    drawn = {n: f for step in steps[plan] for n, f in step.figures.items()}
    marks = rendered(drawn[name].draw())
    assert marks
    assert all(marks), marks


def summary_of(rows: list[tuple[float, float, float, float]]) -> pd.DataFrame:
    """Goodput and violations (a tenth of it) by GPUs: n, mean, low, high."""
    frame = pd.DataFrame(rows, columns=["n_gpus", "mean", "low", "high"])
    frame = frame.assign(
        scheduler="multi_bin_dynamic",
        requests=10,
        n_bins=4,
        target_load=math.nan,
        offered_load=0.5,
        load_label="stable",
        n=3,
    )
    rates = frame.assign(metric="throughput_rps")
    shares = frame.assign(
        metric="sla_violation_rate",
        mean=frame["mean"] / 10,
        low=frame["low"] / 10,
        high=frame["high"] / 10,
    )
    return pd.concat([rates, rates.assign(metric="goodput_rps"), shares], ignore_index=True)


def test_drawn__cuts_bars_at_what_can_be_and_has_none_without_an_interval():
    summary = summary_of([(1.0, 4.0, -2.0, 12.0), (2.0, 8.0, math.nan, math.nan)])
    shares = figures.drawn(summary, ["sla_violation_rate"])
    assert shares["low"].tolist() == [0.0, 0.8]
    assert shares["high"].tolist() == [1.0, 0.8]
    rates = figures.drawn(summary, ["goodput_rps"])
    assert rates["low"].tolist() == [2.0, 8.0]  # half the lowest point: a log axis has no -2
    assert rates["high"].tolist() == [12.0, 8.0]
    assert list(rates["panel"].cat.categories) == ["Goodput [requests/s]"]
    missing = figures.drawn(summary.assign(mean=math.nan), ["goodput_rps"])
    assert not len(missing)


def layer(plot, kind: str) -> pd.DataFrame:
    """The data of the plot's last layer of a kind that has its own."""
    found = [one._data for one in plot.layers if type(one.geom).__name__ == kind]
    own = [data for data in found if isinstance(data, pd.DataFrame)]
    return own[-1]


def test_rates__have_the_linear_line_from_the_fewest_gpus():
    summary = summary_of(
        [(2.0, 10.0, 10.0, 10.0), (4.0, 15.0, 15.0, 15.0), (8.0, 20.0, 20.0, 20.0)]
    )
    plot = figures.rates_against_gpus(summary)
    linear = layer(plot, "geom_line")
    goodput = linear[linear["metric"] == "goodput_rps"]
    assert goodput["mean"].tolist() == [10.0, 20.0, 40.0]  # 2, 4 and 8 GPUs
    assert plot.data.query("metric == 'goodput_rps'")["mean"].tolist() == [10.0, 15.0, 20.0]


def test_violations__have_their_load_beside_them():
    summary = summary_of([(1.0, 4.0, 3.0, 5.0), (2.0, 2.0, 1.0, 3.0)])
    summary["offered_load"] = summary["n_gpus"].map({1.0: 1.234, 2.0: 0.617})
    plot = figures.violations_against_gpus(summary, target=0.05)
    assert layer(plot, "geom_text")["load"].tolist() == ["ρ 1.2", "ρ 0.62"]
    assert plot.labels.y == "SLA violations [share]"


def test_batch_sizes__are_shares_that_add_up_per_curve():
    batches = pd.DataFrame(
        {
            "scheduler": ["static_fifo"] * 2 + ["dynamic_no_bins"],
            "n_gpus": [1.0] * 3,
            "batch_size": [1, 8, 4],
            "share": [0.25, 0.75, 1.0],
        }
    )
    plot = bin_figures.batch_sizes(batches, colour="scheduler", panels="n_gpus")
    assert plot.data["cumulated"].tolist() == [0.25, 1.0, 1.0]


def test_labels__have_no_powers_of_ten():
    assert figures.plain([0.01, 1.0, 250.0, 30000.0]) == ["0.01", "1", "250", "30000"]
