"""Figures of the reproduced papers, one function each: a tidy table in, a plotnine plot out.

Nothing here runs a simulation, reads a file or saves one. One colour per number of bins serves all
figures; points are simulated with their intervals, lines are theory, crosses are the paper's.
"""

from __future__ import annotations

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
PUBLISHED_SHAPE = "x"
MOST_LATENCY_S = 60  # of figure 6's axis
WIDTH_IN, HEIGHT_IN, DPI = 6.5, 3.6, 150  # text width of a page


def example(result: FigureResult) -> ggplot:
    """Figure 1(b): who is served when, and how long each waits for its batch."""
    import pandas as pd

    p9 = plotnine_module()
    table = result.table.copy()
    table["own_end_s"] = table["start_s"] + table["service_s"]
    table["label"] = [f"{s:g} s" for s in table["service_s"]]
    table["row"] = pd.Categorical(
        [f"request {r + 1}" for r in table["request"]],
        [f"request {r + 1}" for r in sorted(set(table["request"]), reverse=True)],
    )
    figure: ggplot = (
        p9.ggplot(table, p9.aes(y="row", yend="row"))
        + p9.geom_segment(p9.aes(x="start_s", xend="finish_s"), size=7, colour="#d9d9d9")
        + p9.geom_segment(p9.aes(x="start_s", xend="own_end_s"), size=7, colour=BIN_COLOURS[8])
        + p9.geom_text(p9.aes(x="start_s + 0.15", label="label"), ha="left", size=8, colour="white")
        + p9.facet_wrap("queues")
        + p9.scale_x_continuous(breaks=range(0, 13, 2))
        + p9.labs(x="Time [s]", y="", caption=result.caption)
        + _theme()
        + p9.theme(figure_size=(WIDTH_IN, 2.4))
    )
    return figure


def against_arrival_rate(result: FigureResult) -> ggplot:
    """Figures 3, 4 and 9: throughput, or latency, or both, against the arrival rate."""
    table = _with_bins(result.table)
    panels = list(dict.fromkeys(table["panel"]))
    if len(panels) == 1 and panels[0].startswith("Throughput"):
        return _throughput(table, result.caption)
    if len(panels) == 1:
        return _latency(table, result.caption)
    stable = table["arrival_rate_per_s"] < table["saturated"]
    return _both(table[stable | table["panel"].str.startswith("Throughput")], result.caption)


def thresholds(result: FigureResult) -> ggplot:
    """Figure 6: latency against the arrival rate, and the thresholds, under both laws."""
    p9 = plotnine_module()
    table = _with_bins(result.table)
    latency = table[np.isfinite(table["arrival_rate_per_s"])].copy()
    saturated = table[~np.isfinite(table["arrival_rate_per_s"])]
    latency = latency[latency["mean"] < MOST_LATENCY_S]  # beyond it there is no steady state
    figure: ggplot = (
        p9.ggplot(latency, p9.aes("arrival_rate_per_s", "mean", colour="bins"))
        + p9.geom_vline(
            saturated,
            p9.aes(xintercept="theory", colour="bins"),
            linetype="dashed",
            size=0.4,
            show_legend=False,
        )
        + p9.geom_line(size=0.6)
        + p9.geom_errorbar(p9.aes(ymin="low", ymax="high"), width=0.5, size=0.4)
        + p9.geom_point(size=1.2)
        + p9.geom_point(
            saturated,
            p9.aes("published", 1.6),
            shape=PUBLISHED_SHAPE,
            size=2.5,
            stroke=0.8,
            show_legend=False,
        )
        + p9.facet_wrap("lengths")
        + p9.scale_y_log10()
        + p9.labs(
            x="Arrival rate [requests/s]",
            y="Mean latency [s]",
            colour="Bins k",
            caption=_wrapped(
                "Dashed: predicted threshold of each k; crosses: the published ones. Latencies "
                f"above {MOST_LATENCY_S} s are left out. "
                + result.caption.replace(" Crosses: published. Dashed: theory.", "")
            ),
        )
        + _bin_colours(table)
        + _theme()
    )
    return figure


def against_bins(result: FigureResult) -> ggplot:
    """Figure 7: throughput against the number of bins, under both laws."""
    p9 = plotnine_module()
    table = result.table
    figure: ggplot = (
        p9.ggplot(table, p9.aes("n_bins", "mean", colour="lengths", shape="lengths"))
        + p9.geom_line(p9.aes(y="theory"), size=0.6)
        + p9.geom_errorbar(p9.aes(ymin="low", ymax="high"), width=0.05, size=0.4)
        + p9.geom_point(size=1.8)
        + _published(table, "n_bins")
        + _bins_axis(table)
        + p9.scale_colour_manual([BIN_COLOURS[8], BIN_COLOURS[16]])
        + p9.expand_limits(y=0.3)
        + p9.labs(
            x="Bins k",
            y="Throughput [requests/s]",
            colour="Lengths",
            shape="Lengths",
            caption=_wrapped("Lines: theory. " + result.caption),
        )
        + _theme()
    )
    return figure


def against_error(result: FigureResult) -> ggplot:
    """Figure 8: throughput against the probability of a wrong bin."""
    p9 = plotnine_module()
    table = _with_bins(result.table)
    figure: ggplot = (
        p9.ggplot(table, p9.aes("error_probability", "mean", colour="bins"))
        + p9.geom_line(p9.aes(y="theory"), size=0.6)
        + p9.geom_errorbar(p9.aes(ymin="low", ymax="high"), width=0.008, size=0.4)
        + p9.geom_point(size=1.4)
        + _published(table, "error_probability")
        + p9.labs(
            x="Probability p of each neighbouring bin",
            y="Throughput [requests/s]",
            colour="Bins k",
            caption=_wrapped(result.caption),
        )
        + _bin_colours(table)
        + _theme()
    )
    return figure


def predictor_gain(result: FigureResult) -> ggplot:
    """Figure 11: gain over one bin, oracle and BERT predictor."""
    p9 = plotnine_module()
    table = result.table
    figure: ggplot = (
        p9.ggplot(table, p9.aes("n_bins", "100 * mean", colour="predictor", shape="predictor"))
        + p9.geom_line(p9.aes(y="100 * theory"), size=0.6)
        + p9.geom_errorbar(p9.aes(ymin="100 * low", ymax="100 * high"), width=0.05, size=0.4)
        + p9.geom_point(size=1.8)
        + p9.geom_point(
            table.dropna(subset=["published"]),
            p9.aes("n_bins", "100 * published", colour="predictor"),
            shape=PUBLISHED_SHAPE,
            size=3,
            stroke=1,
            inherit_aes=False,
            show_legend=False,
        )
        + _bins_axis(table)
        + p9.scale_colour_manual([BIN_COLOURS[16], BIN_COLOURS[8]])
        + p9.labs(
            x="Bins k",
            y="Throughput gain over k = 1 [%]",
            colour="Lengths from",
            shape="Lengths from",
            caption=_wrapped(result.caption),
        )
        + _theme()
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


def _throughput(table: pd.DataFrame, caption: str) -> ggplot:
    p9 = plotnine_module()
    saturated = table.drop_duplicates("n_bins")
    figure: ggplot = (
        p9.ggplot(table, p9.aes("arrival_rate_per_s", "mean", colour="bins"))
        + p9.geom_abline(slope=1, intercept=0, colour="#bdbdbd")
        + p9.geom_hline(p9.aes(yintercept="limit"), linetype="dotted", size=0.5)
        + p9.geom_hline(
            saturated, p9.aes(yintercept="saturated", colour="bins"), linetype="dashed", size=0.5
        )
        + p9.geom_errorbar(p9.aes(ymin="low", ymax="high"), width=0.12, size=0.4)
        + p9.geom_point(size=1.5)
        + p9.labs(
            x="Arrival rate [requests/s]",
            y="Throughput [requests/s]",
            colour="Bins k",
            caption=_wrapped(
                "Dashed: Theorem 4.2; dotted: its limit for infinitely many bins; grey: throughput "
                "= arrival rate. " + caption
            ),
        )
        + _bin_colours(table)
        + _theme()
    )
    return figure


def _latency(table: pd.DataFrame, caption: str) -> ggplot:
    p9 = plotnine_module()
    figure: ggplot = (
        p9.ggplot(table, p9.aes("arrival_rate_per_s", "mean", colour="bins"))
        + p9.geom_vline(
            table.drop_duplicates("n_bins"),
            p9.aes(xintercept="saturated", colour="bins"),
            linetype="dotted",
            size=0.5,
            show_legend=False,
        )
        + p9.geom_line(p9.aes(y="theory"), linetype="dashed", size=0.5)
        + p9.geom_errorbar(p9.aes(ymin="low", ymax="high"), width=0.15, size=0.4)
        + p9.geom_point(p9.aes(shape="servers"), size=1.8, fill="white")
        + p9.scale_shape_manual({"one server": "o", "unlimited servers": "^"})
        + p9.scale_y_log10()
        + p9.labs(
            x="Arrival rate [requests/s]",
            y="Mean latency [s]",
            colour="Bins k",
            shape="",
            caption=_wrapped(
                "Dashed: Lemma 5.1, infinitely many servers; dotted: saturated throughput of one "
                "server. " + caption
            ),
        )
        + _bin_colours(table)
        + _theme()
    )
    return figure


def _both(table: pd.DataFrame, caption: str) -> ggplot:
    import pandas as pd

    p9 = plotnine_module()
    panels = list(dict.fromkeys(table["panel"]))
    table = table.assign(panel=pd.Categorical(table["panel"], panels))
    throughput, latency = (table[table["panel"] == panel] for panel in panels)
    saturated = throughput.drop_duplicates("n_bins")
    follows = throughput[throughput["arrival_rate_per_s"] <= throughput["bound"].max()]
    figure: ggplot = (
        p9.ggplot(table, p9.aes("arrival_rate_per_s", "mean", colour="bins"))
        + p9.geom_line(
            follows,
            p9.aes("arrival_rate_per_s", "arrival_rate_per_s"),
            colour="#bdbdbd",
            inherit_aes=False,
        )
        + p9.geom_hline(
            saturated, p9.aes(yintercept="saturated", colour="bins"), linetype="dashed", size=0.5
        )
        + p9.geom_hline(
            saturated.dropna(subset=["bound"]),
            p9.aes(yintercept="bound", colour="bins"),
            linetype="dotted",
            size=0.6,
        )
        + p9.geom_line(latency, p9.aes(y="theory"), linetype="dashed", size=0.5)
        + p9.geom_errorbar(p9.aes(ymin="low", ymax="high"), width=0.08, size=0.4)
        + p9.geom_point(p9.aes(shape="servers"), size=1.5, fill="white")
        + p9.scale_shape_manual({"one server": "o", "unlimited servers": "^"})
        + p9.facet_wrap("panel", scales="free")
        + p9.labs(
            x="Arrival rate [requests/s]",
            y="",
            colour="Bins k",
            shape="",
            caption=_wrapped(
                "Dashed: exact, equal-mass bins (left), and Lemma 5.1 (right); dotted: what "
                "Appendix A.4 guarantees at its own edges; grey: throughput = arrival rate. "
                "Latencies above the saturated throughput are left out. " + caption
            ),
        )
        + _bin_colours(table)
        + _theme()
        + p9.theme(figure_size=(WIDTH_IN + 0.7, HEIGHT_IN))
    )
    return figure


def _published(table: pd.DataFrame, x: str) -> Any:
    p9 = plotnine_module()
    return p9.geom_point(
        table.dropna(subset=["published"]),
        p9.aes(x, "published"),
        shape=PUBLISHED_SHAPE,
        size=3,
        stroke=1,
        colour="black",
        inherit_aes=False,
    )


def _bins_axis(table: pd.DataFrame) -> Any:
    """Numbers of bins, equally far apart."""
    bins = sorted(set(table["n_bins"]))
    return plotnine_module().scale_x_continuous(
        breaks=bins, labels=[str(k) for k in bins], trans="log2"
    )


def _with_bins(table: pd.DataFrame) -> pd.DataFrame:
    """With `bins`, the number of bins as an ordered category."""
    import pandas as pd

    bins = sorted(set(table["n_bins"]))
    return table.assign(bins=pd.Categorical(table["n_bins"].astype(str), [str(k) for k in bins]))


def _bin_colours(table: pd.DataFrame) -> Any:
    p9 = plotnine_module()
    return p9.scale_colour_manual({str(k): BIN_COLOURS[int(k)] for k in set(table["n_bins"])})


def _wrapped(caption: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(caption, 105))


def _theme() -> Any:
    p9 = plotnine_module()
    return p9.theme_bw(base_size=9) + p9.theme(
        figure_size=(WIDTH_IN, HEIGHT_IN),
        panel_grid_minor=p9.element_blank(),
        strip_background=p9.element_rect(fill="#f0f0f0"),
        plot_caption=p9.element_text(ha="left", size=7),
        legend_key=p9.element_blank(),
    )
