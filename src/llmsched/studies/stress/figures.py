"""Figures of the stress plan, one function each: a tidy frame in, a plotnine plot out.

Points are means over replications, bars their 95 % intervals, shapes the load label. Frames are
those of `tables`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmsched._util.text import count_text
from llmsched.figures.style import plotnine_module, scheduler_colours, theme
from llmsched.studies.stress.tables import shown

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

DPI = 110
WIDTH_IN, PANEL_IN = 8.5, 2.4
LABEL_SHAPES = {"stable": "o", "backlogged": "^", "overloaded": "x"}
AXES = {"requests": "Requests", "n_gpus": "GPUs", "n_bins": "Bins K"}
LEGENDS = {"scheduler": "", "n_gpus": "GPUs", "n_bins": "Bins K", "bin": "Bin", "target_load": "ρ"}
GREY = "#777777"


class Figure(NamedTuple):
    """A figure: what it shows and what its points are, and how to draw it."""

    caption: str
    draw: Callable[[], ggplot]


def titles(metrics: Sequence[str]) -> str:
    """The metrics of a figure as the start of its caption."""
    return ", ".join(shown(metric)[0].partition(" [")[0] for metric in metrics).capitalize()


def about_points(runs: pd.DataFrame) -> str:
    """What points and bars are."""
    n = runs["seed"].nunique()
    shapes = "dot stable, triangle backlogged, cross overloaded"
    if n == 1:
        return f"One replication, so no interval; {shapes}."
    return f"Means of {n} replications, bars: 95 % intervals; {shapes}."


def curves(
    summary: pd.DataFrame,
    metrics: Sequence[str],
    *,
    x: str,
    colour: str | None = None,
    panels: str | None = None,
    log_y: bool = False,
    line: float | None = None,
    linear: bool = False,
    loads: bool = False,
) -> ggplot:
    """Metrics along an axis, with intervals.

    Parameters
    ----------
    summary : DataFrame
        As from `summary_table`.
    metrics : sequence of str
        A panel each.
    x, colour, panels : str
        Columns of `tables.GROUP`: the axis, what the curves differ in, and a column of panels for
        each of its values.
    line : float, optional
        A dashed line across, such as the target.
    linear : bool
        A dashed line from the first point on, in proportion to the axis.
    loads : bool
        Write ρ above each point.
    """
    import pandas as pd

    p9 = plotnine_module()
    data = drawn(summary, metrics)
    scale, data["curve"] = colour_scale(data[colour] if colour else None, data.index)
    data["load_label"] = pd.Categorical(data["load_label"], list(LABEL_SHAPES))
    colours = {"colour": "curve"} if colour else {}
    shift = p9.position_dodge(width=0.04 * np.log10(data[x].max() / data[x].min()))
    rows = 1 if len(metrics) == 1 else len(metrics) if panels else (len(metrics) + 1) // 2
    figure: ggplot = (
        p9.ggplot(data, p9.aes(x, "mean", group="curve", **colours))
        + _lines(data, size=0.6, position=shift)
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), size=0.7, alpha=0.7, position=shift)
        + p9.geom_point(p9.aes(shape="load_label"), size=2.2, position=shift)
        + p9.scale_shape_manual(LABEL_SHAPES)
        + _x_scale(data[x], AXES[x])
        + scale
        + p9.labs(y="" if len(metrics) > 1 or panels else shown(metrics[0])[0])
        + p9.labs(colour=LEGENDS.get(colour or "", ""), shape="")
        + _page(rows)
    )
    if panels is not None:
        data["column"] = panel_titles(data[panels], panels)
        figure += p9.facet_grid("panel ~ column", scales="free_y", labeller=_wrapped)
    elif len(metrics) > 1:
        figure += p9.facet_wrap("panel", ncol=2, scales="free_y")
    if log_y:
        figure += p9.scale_y_log10(labels=plain, minor_breaks=[])
    elif all(shown(metric)[1] == 100 for metric in metrics):
        figure += p9.expand_limits(y=(0, 100))
    else:
        figure += p9.expand_limits(y=0)
    if line is not None:
        across = line * shown(metrics[0])[1]
        figure += p9.geom_hline(yintercept=across, linetype="dashed", colour=GREY)
    if linear:
        fewest = data[x].min()
        first = data[data[x] == fewest].set_index("panel")["mean"]
        ideal = data.assign(mean=data["panel"].map(first).astype(float) * data[x] / fewest)
        figure += _lines(ideal, data=ideal, linetype="dashed", colour=GREY)
    if loads:
        texts = data.assign(load=[f"ρ {value:.2g}" for value in data["offered_load"]])
        figure += p9.geom_text(p9.aes(y=106, label="load"), data=texts, size=8)
    return figure


def distributions(
    table: pd.DataFrame,
    title: str,
    *,
    colour: str,
    panels: str | None = None,
    line: float | None = None,
) -> ggplot:
    """The share of requests or batches up to a value, a curve per `colour`.

    Parameters
    ----------
    table : DataFrame
        As from `latency_table` or `batch_size_table`.
    title : str
        Of the axis of values.
    line : float, optional
        A dashed line upright, such as the SLA.
    """
    p9 = plotnine_module()
    data = table[table["value"] > 0].copy()
    scale, data["curve"] = colour_scale(data[colour], data.index)
    draw = p9.geom_step if data["value"].dtype.kind == "i" else p9.geom_line
    figure: ggplot = (
        p9.ggplot(data, p9.aes("value", "100 * share", colour="curve", group="curve"))
        + draw(size=0.7)
        + p9.scale_x_log10(labels=plain, minor_breaks=[])
        + scale
        + p9.expand_limits(y=(0, 100))
        + p9.labs(x=title, y="As much or less [%]", colour=LEGENDS[colour])
        + _page(1)
    )
    if line is not None:
        figure += p9.geom_vline(xintercept=line, linetype="dashed", colour=GREY)
    if panels is not None:
        data["column"] = panel_titles(data[panels], panels)
        figure += p9.facet_wrap("column", ncol=3)
    return figure


def bins(
    per_bin: pd.DataFrame, metrics: Sequence[str], *, x: str, colour: str, log_y: bool = False
) -> ggplot:
    """What became of each bin, a panel per metric.

    Parameters
    ----------
    per_bin : DataFrame
        As from `per_bin_table`.
    x : {"bin", "place", "n_gpus"}
        The bin, its place among the K, or the GPUs.
    colour : {"scheduler", "n_bins", "bin"}
        What the curves differ in; schedulers stand side by side, without lines.
    """
    import pandas as pd

    p9 = plotnine_module()
    data = drawn(per_bin, metrics)
    if log_y:
        data = data[data["mean"] > 0]  # a wait of 0 has no place on a log axis
    scale, data["curve"] = colour_scale(data[colour], data.index)
    side_by_side = x == "bin"
    shift = p9.position_dodge(width=0.6 if side_by_side else 0)
    axis = _x_scale(data[x], AXES[x]) if x in AXES else []
    if x == "place":
        data["place"] = (data["bin"] + 0.5) / data["n_bins"]
        axis = [p9.labs(x="Place of the bin: (bin + ½) / K"), p9.expand_limits(x=(0, 1))]
    elif side_by_side:
        names = data["bin"].astype(int).astype(str).where(data["n_bins"] > 1, "all")
        order = sorted(set(names), key=lambda name: -1 if name == "all" else int(name))
        data["bin"] = pd.Categorical(names, order)
        axis = [p9.labs(x="Bin, the shortest first; all: one queue")]
    figure: ggplot = (
        p9.ggplot(data, p9.aes(x, "mean", colour="curve", group="curve"))
        + ([] if side_by_side else _lines(data, size=0.6))
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), size=0.7, alpha=0.4, position=shift)
        + p9.geom_point(size=2, position=shift)
        + p9.facet_wrap("panel", scales="free_y", ncol=2)
        + axis
        + scale
        + p9.labs(y="", colour=LEGENDS[colour])
        + _page((len(metrics) + 1) // 2)
    )
    limits = p9.scale_y_log10(labels=plain, minor_breaks=[]) if log_y else p9.expand_limits(y=0)
    figure += limits
    return figure


def drawn(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows of these metrics that have a value, in the unit shown, and `panel`, their title.

    Intervals are cut where they end: a share at 0 and 100 %, anything else at half the lowest
    point of its panel, which a log axis needs and a linear one hardly shows.
    """
    import pandas as pd

    data = table[table["metric"].isin(list(metrics)) & table["mean"].notna()].copy()
    factor = data["metric"].map({metric: shown(metric)[1] for metric in metrics})
    share = factor == 100
    for end in ("low", "high"):
        data[end] = data[end].fillna(data["mean"])
    for name in ("mean", "low", "high"):
        data[name] *= factor.astype(float)
    lowest = data["mean"].groupby(data["metric"]).transform("min") / 2
    data["low"] = data["low"].clip(lower=lowest.where(~share, 0.0))
    data["high"] = data["high"].where(~share, data["high"].clip(upper=100.0))
    names = {metric: shown(metric)[0] for metric in metrics}
    data["panel"] = pd.Categorical(data["metric"].map(names), list(names.values()))
    return data


def panel_titles(values: pd.Series[Any], column: str) -> Any:
    """Values of a column as panel titles, in order: `1 GPU`, `2 GPUs`."""
    import pandas as pd

    names = {value: count_text(value, AXES[column][:-1]) for value in sorted(set(values))}
    return pd.Categorical(values.map(names), list(names.values()))


def colour_scale(values: pd.Series[Any] | None, index: pd.Index[Any]) -> tuple[Any, Any]:
    """A scale for what the curves differ in, and the values as its categories."""
    import pandas as pd

    p9 = plotnine_module()
    if values is None:
        return [], pd.Series("", index=index)
    if pd.api.types.is_numeric_dtype(values):
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        ordered = sorted(set(values))
        places = np.linspace(0, 0.85, len(ordered))  # beyond it, yellow on white
        colours = [to_hex(colormaps["viridis"](place)) for place in places]
        names = {value: f"{value:g}" for value in ordered}
        values = values.map(names)
        scale = dict(zip(names.values(), colours, strict=True))
    else:
        scale = scheduler_colours(list(dict.fromkeys(values)))
    return p9.scale_colour_manual(scale), pd.Categorical(values, list(scale))


def _lines(points: pd.DataFrame, **options: Any) -> list[Any]:
    """The lines through the points of each panel and curve; none where each is a single point."""
    if points.groupby(["panel", "curve"], observed=True).size().max() < 2:
        return []
    return [plotnine_module().geom_line(**options)]


def _x_scale(values: pd.Series[Any], title: str) -> list[Any]:
    p9 = plotnine_module()
    breaks = sorted(set(values))
    labels = [counted(value) for value in breaks]
    return [p9.scale_x_log10(breaks=breaks, labels=labels, minor_breaks=[]), p9.labs(x=title)]


def _page(rows: int) -> Any:
    p9 = plotnine_module()
    return theme() + p9.theme(
        figure_size=(WIDTH_IN, 1.4 + PANEL_IN * rows),
        legend_position="top",
        legend_box="vertical",
    )


def plain(values: Sequence[float]) -> list[str]:
    """Axis labels without powers of ten."""
    return [f"{value:.0f}" if value >= 1000 else f"{value:g}" for value in values]


def counted(value: float) -> str:
    """1000 as 1K, 1000000 as 1M."""
    for size, letter in ((1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _wrapped(text: str) -> str:
    """A panel title that fits its strip: the unit on a line of its own."""
    return text.replace(" [", "\n[")


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file; the same numbers give the same bytes."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plotnine's notes on saving
        # no software version in the file
        figure.draw().save(
            picture, format="png", dpi=DPI, verbose=False, metadata={"Software": None}
        )
    return picture.getvalue()


Pictures = Mapping[str, bytes]  # PNG files by the figure's name
