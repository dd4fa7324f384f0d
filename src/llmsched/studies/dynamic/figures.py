"""The figures of the dynamic-batching paper, redone: a result's tidy table in, a plot out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from llmsched.figures.style import plotnine_module
from llmsched.studies.dynamic.capacity import LATENCY
from llmsched.studies.dynamic.throughput import law_text
from llmsched.studies.multibin.figures import RATE_AXIS, paper_labels, paper_theme

if TYPE_CHECKING:
    from plotnine import ggplot

    from llmsched.studies.multibin.results import FigureResult

STATIC, DYNAMIC = "#7f7f7f", "#0072b2"
LAW_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")


def line(result: FigureResult) -> ggplot:
    """Figure 3: step time and throughput against the batch size."""
    p9 = plotnine_module()
    table = result.table
    figure: ggplot = (
        p9.ggplot(table, p9.aes("batch_size", "theory"))
        + p9.geom_line(colour=DYNAMIC)
        + p9.geom_point(p9.aes(y="simulated"), table.dropna(subset=["simulated"]))
        + p9.facet_wrap("panel", scales="free_y")
        + p9.expand_limits(y=0)
        + paper_labels(result.caption, x="Batch size b [requests]", y="")
        + paper_theme()
    )
    return figure


def gains(result: FigureResult) -> ggplot:
    """Table I: the predicted gain of each row under each law, beside the published one."""
    import pandas as pd

    p9 = plotnine_module()
    table = result.table[result.table["policy"].eq("dynamic")].copy()
    table[["mean", "low", "high", "published"]] *= 100
    rows = list(dict.fromkeys(table["row"]))
    laws = [law_text(law) for law in dict.fromkeys(table["law"])]
    table["row"] = pd.Categorical(table["row"], rows[::-1])
    table["lengths"] = pd.Categorical([law_text(law) for law in table["law"]], laws)
    aside = p9.position_dodge(width=0.6)
    published = table.drop_duplicates("row")
    figure: ggplot = (
        p9.ggplot(table, p9.aes("row", "mean", colour="lengths"))
        + p9.geom_hline(yintercept=0, colour="#bdbdbd")
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), position=aside)
        + p9.geom_point(position=aside, size=1.8)
        + p9.geom_point(p9.aes(y="published"), published, colour="black", shape="x", size=3.5)
        + p9.scale_colour_manual(list(LAW_COLOURS[: len(laws)]))
        + p9.coord_flip()
        + paper_labels(
            result.caption, x="", y="Gain in tokens/s, dynamic over static [%]", colour="Lengths"
        )
        + paper_theme()
    )
    return figure


def capacities(result: FigureResult) -> ggplot:
    """Table II: capacities beside the published ones."""
    import pandas as pd

    p9 = plotnine_module()
    table = result.table.copy()
    table["row"] = pd.Categorical(table["row"], list(dict.fromkeys(table["row"]))[::-1])
    aside = p9.position_dodge(width=0.5)
    figure: ggplot = (
        p9.ggplot(table, p9.aes("row", "mean", colour="policy"))
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), position=aside)
        + p9.geom_point(position=aside, size=2)
        + p9.geom_point(p9.aes(y="published"), position=aside, shape="x", size=3.5, colour="black")
        + p9.aes(group="policy")
        + _policy_colours()
        + p9.coord_flip()
        + p9.expand_limits(y=0)
        + paper_labels(
            "Crosses: published. The static column is fitted, the dynamic one predicted.",
            x="",
            y="Capacity [requests/s]",
            colour="",
        )
        + paper_theme()
        + p9.theme(figure_size=(6.5, 2.6))
    )
    return figure


def curves(result: FigureResult) -> ggplot:
    """Figure 4: decode latency and throughput against the arrival rate."""
    import pandas as pd

    p9 = plotnine_module()
    table = result.table.copy()
    table["panel"] = pd.Categorical(table["panel"], list(dict.fromkeys(table["panel"])))
    sla = pd.DataFrame({"panel": pd.Categorical([LATENCY], table["panel"].cat.categories)})
    sla["y"] = 50.0
    figure: ggplot = (
        p9.ggplot(table, p9.aes("arrival_rate_per_s", "mean", colour="policy"))
        + p9.geom_hline(sla, p9.aes(yintercept="y"), linetype="dashed")
        + p9.geom_line()
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"))
        + p9.geom_point(size=1.5)
        + _policy_colours()
        + p9.facet_wrap("panel", scales="free_y")
        + p9.expand_limits(y=0)
        + paper_labels(result.caption, x=RATE_AXIS, y="", colour="")
        + paper_theme()
    )
    return figure


def control(result: FigureResult) -> ggplot:
    """Algorithm 2: decodes and step time by observation."""
    import pandas as pd

    p9 = plotnine_module()
    panels = ("Decodes in a step", "Step time [ms]")
    both = [
        result.table.assign(panel=panel, value=result.table[value], target=result.table[target])
        for panel, value, target in zip(
            panels, ("decodes", "step_ms"), ("at_sla", "sla_ms"), strict=True
        )
    ]
    table = pd.concat(both, ignore_index=True)
    table["setting"] = [
        f"α = {a}, δ = {d}" for a, d in zip(table["alpha"], table["delta"], strict=True)
    ]
    figure: ggplot = (
        p9.ggplot(table, p9.aes("observation", "value", colour="setting"))
        + p9.geom_line(p9.aes(y="target"), linetype="dashed", colour="black")
        + p9.geom_line()
        + p9.facet_wrap("panel", scales="free_y")
        + p9.scale_colour_manual(list(LAW_COLOURS))
        + p9.expand_limits(y=0)
        + paper_labels(result.caption, x="Observation (10 steps each)", y="", colour="")
        + paper_theme()
    )
    return figure


DRAW: Mapping[str, Callable[[FigureResult], ggplot]] = {
    "3": line,
    "table-1": gains,
    "table-2": capacities,
    "4": curves,
    "algorithm-2": control,
}


def _policy_colours() -> Any:
    return plotnine_module().scale_colour_manual({"static": STATIC, "dynamic": DYNAMIC})
