"""Figures of the reproduced paper: a figure's tidy table in, a plotnine plot out.

One colour per number of bins serves all figures; points are simulated with their intervals, lines
are theory, crosses are the paper's.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched.figures.style import plotnine_module

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

    from llmsched.studies.multibin.results import FigureResult

# from grey (no bins) through a scale that stays apart in print and for the colour-blind
BIN_COLOURS = {
    1: "#7f7f7f",
    2: "#e69f00",
    3: "#56b4e9",
    4: "#009e73",
    5: "#cc79a7",
    8: "#0072b2",
    16: "#d55e00",
    32: "#000000",
}
MOST_LATENCY_S = 60  # of figure 6's axis
WIDTH_IN, HEIGHT_IN, DPI = 6.5, 3.6, 150  # text width of a page
RATE_AXIS = "Arrival rate [requests/s]"
LATENCY_AXIS, THROUGHPUT_AXIS = "Mean latency [s]", "Throughput [requests/s]"


def example(result: FigureResult) -> ggplot:
    """Figure 1(b): who is served when, and how long each waits for its batch."""
    import pandas as pd

    p9 = plotnine_module()
    table = result.table.copy()
    table["own_end_s"] = table["start_s"] + table["service_s"]
    table["label"] = [f"{s:g} s" for s in table["service_s"]]
    names = [f"request {r + 1}" for r in sorted(set(table["request"]), reverse=True)]
    table["row"] = pd.Categorical([f"request {r + 1}" for r in table["request"]], names)
    figure: ggplot = (
        p9.ggplot(table, p9.aes(y="row", yend="row"))
        + p9.geom_segment(p9.aes(x="start_s", xend="finish_s"), size=7, colour="#d9d9d9")
        + p9.geom_segment(p9.aes(x="start_s", xend="own_end_s"), size=7, colour=BIN_COLOURS[8])
        + p9.geom_text(p9.aes(x="start_s + 0.15", label="label"), ha="left", size=8, colour="white")
        + p9.facet_wrap("queues")
        + p9.scale_x_continuous(breaks=range(0, 13, 2))
        + paper_labels(result.caption, x="Time [s]", y="")
        + paper_theme()
        + p9.theme(figure_size=(WIDTH_IN, 2.4))
    )
    return figure


def against_arrival_rate(result: FigureResult) -> ggplot:
    """Figures 3, 4 and 9: throughput, or latency, or both, against the arrival rate."""
    import pandas as pd

    p9 = plotnine_module()
    table = _with_bins(result.table)
    table["panel"] = pd.Categorical(table["panel"], list(dict.fromkeys(table["panel"])))
    is_rate = table["panel"].str.startswith("Throughput")
    both = is_rate.any() and not is_rate.all()
    if both:  # no steady state above the saturated throughput, and an axis without it
        table = table[(table["arrival_rate_per_s"] < table["saturated"]) | is_rate]
    rates, latencies = table[is_rate.loc[table.index]], table[~is_rate.loc[table.index]]
    caption, layers = [], []
    if len(rates):
        saturated = p9.aes(yintercept="saturated", colour="bins")
        once = rates.drop_duplicates("n_bins")
        follows = rates[rates["arrival_rate_per_s"] <= rates["saturated"].max()]
        identity = p9.aes("arrival_rate_per_s", "arrival_rate_per_s")
        layers += [
            p9.geom_line(follows, identity, colour="#bdbdbd", inherit_aes=False),
            p9.geom_hline(once, saturated, linetype="dashed", size=0.5),
        ]
        bound = "bound" if rates["bound"].notna().any() else "limit"
        dotted = once.dropna(subset=[bound])
        of = {"colour": "bins"} if bound == "bound" else {}
        layers += [p9.geom_hline(dotted, p9.aes(yintercept=bound, **of), linetype="dotted")]
        caption += [
            "Throughput: dashed, theory; grey, the arrival rate; dotted, "
            + ("what A.4 guarantees." if bound == "bound" else "its limit for ever more bins.")
        ]
    if len(latencies):
        layers += [p9.geom_line(latencies, p9.aes(y="theory"), linetype="dashed", size=0.5)]
        caption += ["Latency: dashed, Lemma 5.1."]
    if len(latencies) and not both:
        x = p9.aes(xintercept="saturated", colour="bins")
        once = latencies.drop_duplicates("n_bins")
        layers += [p9.geom_vline(once, x, linetype="dotted", show_legend=False)]
        layers += [p9.scale_y_log10()]
        caption += ["Dotted: saturated throughput of one server."]
    axis = "" if both else THROUGHPUT_AXIS if len(rates) else LATENCY_AXIS
    figure: ggplot = _curves(table, x="arrival_rate_per_s", colour="bins", below=layers)
    figure += paper_labels(
        " ".join([*caption, result.caption]), x=RATE_AXIS, y=axis, colour="Bins k"
    )
    if len(latencies):
        figure += p9.aes(shape="servers")
        figure += p9.scale_shape_manual({"one server": "o", "unlimited servers": "^"})
        figure += p9.labs(shape="")
    if both:
        figure += p9.facet_wrap("panel", scales="free")
    return figure


def thresholds(result: FigureResult) -> ggplot:
    """Figure 6: latency against the arrival rate, and the thresholds, under both laws."""
    p9 = plotnine_module()
    table = _with_bins(result.table)
    saturated = table[~np.isfinite(table["arrival_rate_per_s"])]
    latency = table[np.isfinite(table["arrival_rate_per_s"]) & (table["mean"] < MOST_LATENCY_S)]
    marks = [
        p9.geom_vline(
            saturated,
            p9.aes(xintercept="theory", colour="bins"),
            linetype="dashed",
            show_legend=False,
        ),
        p9.geom_point(saturated, p9.aes("published", 1.6), shape="x", size=2.5, show_legend=False),
        p9.geom_line(size=0.6),
    ]
    figure: ggplot = (
        _curves(latency, x="arrival_rate_per_s", colour="bins", below=marks)
        + p9.facet_wrap("lengths")
        + p9.scale_y_log10()
        + paper_labels(
            "Dashed: predicted threshold of each k; crosses: the published ones. Latencies above "
            f"{MOST_LATENCY_S} s are left out. {result.caption}",
            x=RATE_AXIS,
            y=LATENCY_AXIS,
            colour="Bins k",
        )
    )
    return figure


def against_bins(result: FigureResult) -> ggplot:
    """Figure 7: throughput against the number of bins, under both laws."""
    p9 = plotnine_module()
    figure: ggplot = (
        _curves(result.table, x="n_bins", colour="lengths", crosses=True)
        + p9.expand_limits(y=0.3)
        + paper_labels(f"Lines: theory. {result.caption}", x="Bins k", y=THROUGHPUT_AXIS)
        + p9.labs(colour="Lengths", shape="Lengths")
    )
    return figure


def against_error(result: FigureResult) -> ggplot:
    """Figure 8: throughput against the probability of a wrong bin."""
    table = _with_bins(result.table)
    figure: ggplot = _curves(
        table, x="error_probability", colour="bins", crosses=True
    ) + paper_labels(
        result.caption,
        x="Probability p of each neighbouring bin",
        y=THROUGHPUT_AXIS,
        colour="Bins k",
    )
    return figure


def predictor_gain(result: FigureResult) -> ggplot:
    """Figure 11: gain over one bin, oracle and BERT predictor."""
    p9 = plotnine_module()
    table = result.table.copy()
    table[["mean", "low", "high", "theory", "published"]] *= 100
    figure: ggplot = (
        _curves(table, x="n_bins", colour="predictor", crosses=True)
        + paper_labels(result.caption, x="Bins k", y="Throughput gain over k = 1 [%]")
        + p9.labs(colour="Lengths from", shape="Lengths from")
    )
    return figure


DRAW: Mapping[str, Callable[[FigureResult], ggplot]] = {
    "1b": example,
    "3": against_arrival_rate,
    "4": against_arrival_rate,
    "6": thresholds,
    "7": against_bins,
    "8": against_error,
    "9": against_arrival_rate,
    "11": predictor_gain,
}


def _curves(
    table: pd.DataFrame,
    *,
    x: str,
    colour: str,
    crosses: bool = False,
    below: list[Any] | None = None,
) -> Any:
    """Points with their intervals over what lies below them: by default, lines of theory."""
    p9 = plotnine_module()
    values = list(dict.fromkeys(table[colour]))
    by_bins = colour == "bins"
    colours = {str(k): BIN_COLOURS[int(k)] for k in values} if by_bins else None
    shape = {} if by_bins else {"shape": colour}
    figure = p9.ggplot(table, p9.aes(x, "mean", colour=colour, **shape))
    for layer in [p9.geom_line(p9.aes(y="theory"), size=0.6)] if below is None else below:
        figure += layer
    figure += p9.geom_linerange(p9.aes(ymin="low", ymax="high"), size=0.6)
    figure += p9.geom_point(size=1.5, fill="white")
    figure += p9.scale_colour_manual(colours or [BIN_COLOURS[8], BIN_COLOURS[16]])
    if crosses:
        known, at = table.dropna(subset=["published"]), p9.aes(x, "published", colour=colour)
        figure += p9.geom_point(
            known, at, shape="x", size=3, stroke=1, inherit_aes=False, show_legend=False
        )
    if x == "n_bins":
        bins = sorted(set(table["n_bins"]))
        figure += p9.scale_x_continuous(breaks=bins, labels=list(map(str, bins)), trans="log2")
    return figure + paper_theme()


def _with_bins(table: pd.DataFrame) -> pd.DataFrame:
    """With `bins`, the number of bins as an ordered category."""
    import pandas as pd

    bins = [str(k) for k in sorted(set(table["n_bins"]))]
    return table.assign(bins=pd.Categorical(table["n_bins"].astype(str), bins))


def paper_labels(caption: str, **titles: str) -> Any:
    """Titles, and a caption broken into lines of the figure's width."""
    return plotnine_module().labs(caption="\n".join(textwrap.wrap(caption, 105)), **titles)


def paper_theme() -> Any:
    """The look of a figure in a paper's column."""
    p9 = plotnine_module()
    return p9.theme_bw(base_size=9) + p9.theme(
        figure_size=(WIDTH_IN, HEIGHT_IN),
        panel_grid_minor=p9.element_blank(),
        strip_background=p9.element_rect(fill="#f0f0f0"),
        plot_caption=p9.element_text(ha="left", size=7),
        legend_key=p9.element_blank(),
    )
