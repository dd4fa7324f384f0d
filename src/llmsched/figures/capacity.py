"""The capacity curve: a metric against the load. A tidy frame in, a plotnine plot out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmsched.figures.style import plotnine_module, scheduler_colours, theme

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

NEAR = 3.0  # the curve is drawn within this factor of the smallest and the largest capacity
LOAD_AXIS = "Offered load ρ"


def capacity_curve(
    frame: pd.DataFrame,
    capacities: pd.DataFrame,
    *,
    axis: str,
    metric: str,
    target: float,
    title: str,
    caption: str,
) -> ggplot:
    """The metric against the arrival rate (or the GPUs), and once more against offered load.

    Points are means over replications with their intervals; the line across is the target, the
    dashed ones are the mean capacities. Points farther than a factor of 3 from all capacities are
    left out, and intervals end at 0, below which no metric can lie.

    Parameters
    ----------
    frame : DataFrame
        Columns `scheduler`, `value`, `offered_load`, `mean`, `low`, `high`, as from
        `Capacity.to_frame`.
    capacities : DataFrame
        Columns `scheduler`, `value`, `offered_load`: a row per scheduler that has a capacity.
    axis, metric : str
        Titles of the axes, with units.
    target : float
        In the unit of the metric.
    """
    import pandas as pd

    p9 = plotnine_module()
    schedulers = list(dict.fromkeys(frame["scheduler"]))
    points = frame[_drawable(frame, capacities)].copy()
    points["low"] = points["low"].fillna(points["mean"]).clip(lower=0)
    points["high"] = points["high"].fillna(points["mean"])

    def panels(table: pd.DataFrame) -> pd.DataFrame:
        """Each row twice: at its rate or GPU count, and at its offered load."""
        both = [
            table.assign(x=table[column], panel=name)
            for column, name in (("value", axis), ("offered_load", LOAD_AXIS))
        ]
        long = pd.concat(both, ignore_index=True)
        long["panel"] = pd.Categorical(long["panel"], [axis, LOAD_AXIS])
        long["scheduler"] = pd.Categorical(long["scheduler"], schedulers)
        return long

    figure: ggplot = (
        p9.ggplot(panels(points), p9.aes("x", "mean", colour="scheduler"))
        + p9.geom_hline(yintercept=target, size=0.8)
        + p9.geom_line(size=0.6)
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), size=0.6, alpha=0.7)
        + p9.geom_point(size=2)
        + p9.facet_wrap("panel", scales="free_x", ncol=2)
        + p9.scale_colour_manual(scheduler_colours(schedulers))
        + p9.expand_limits(y=0)
        + p9.labs(x="", y=metric, title=title, caption=caption)
        + theme()
        + p9.theme(legend_position="top", legend_title=p9.element_blank())
    )
    if len(capacities):
        figure += p9.geom_vline(
            p9.aes(xintercept="x", colour="scheduler"),
            data=panels(capacities),
            linetype="dashed",
            show_legend=False,
        )
    return figure


def _drawable(frame: pd.DataFrame, capacities: pd.DataFrame) -> pd.Series[bool]:
    """Finite points, and where there is a capacity those near one."""
    finite: pd.Series[bool] = np.isfinite(frame["value"]) & np.isfinite(frame["mean"])
    if not len(capacities):
        return finite
    low, high = capacities["value"].min() / NEAR, capacities["value"].max() * NEAR
    return finite & frame["value"].between(low, high)
