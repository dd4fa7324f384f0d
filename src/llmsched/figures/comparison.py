"""The comparison of schedulers as one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot
from llmsched.figures.style import plotnine_module, scheduler_colours, theme
from llmsched.metrics.registry import title_of

PANELS = (
    *("sla_violation_rate", "goodput_rps", "throughput_rps"),
    *("latency_p50_s", "latency_p99_s", "batch_size_mean"),
)


def scheduler_comparison(frame: pd.DataFrame, *, title: str, caption: str) -> ggplot:
    """Six figures of merit per scheduler, each with its interval over replications.

    Parameters
    ----------
    frame : DataFrame
        Columns `scheduler`, `metric`, `typical`, `low`, `high`, as from `Comparison.to_frame`; with
        `calibrated_low` and `calibrated_high` thin bars are drawn between these.
    title, caption : str
        What was compared, and what the intervals are of.
    """
    import pandas as pd

    p9 = plotnine_module()
    schedulers = list(dict.fromkeys(frame["scheduler"]))
    data = frame[frame["metric"].isin(list(PANELS))].copy()
    data["panel"] = pd.Categorical(data["metric"].map(title_of), list(map(title_of, PANELS)))
    data["scheduler"] = pd.Categorical(data["scheduler"], schedulers[::-1])
    data["low"] = data["low"].fillna(data["typical"])
    data["high"] = data["high"].fillna(data["typical"])
    figure: ggplot = (
        p9.ggplot(data, p9.aes("typical", "scheduler", colour="scheduler"))
        + p9.geom_errorbarh(p9.aes(xmin="low", xmax="high"), height=0.35, size=0.8)
        + p9.geom_point(size=3)
        + p9.facet_wrap("panel", scales="free_x", ncol=3)
        + p9.scale_colour_manual(scheduler_colours(schedulers), guide=None)
        + p9.expand_limits(x=0)
        + p9.labs(x="", y="", title=title, caption=caption)
        + theme()
    )
    if "calibrated_low" in data:
        ends = p9.aes(y="scheduler", yend="scheduler", x="calibrated_low", xend="calibrated_high")
        known = data.dropna(subset=["calibrated_low", "calibrated_high"])
        figure += p9.geom_segment(ends, data=known, size=0.4)
    return figure
