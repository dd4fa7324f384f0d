"""Figures of the stress plan, one function each: a tidy frame in, a plotnine plot out.

Points are means over replications, bars their 95 % intervals, shapes the load label. Frames come
from `stress_tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmsched.figures.style import plotnine_module, scheduler_colours, theme

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

LABEL_SHAPES = {"stable": "o", "backlogged": "^", "overloaded": "x"}
METRIC_TITLES = {
    "sla_violation_rate": "SLA violations [share]",
    "goodput_rps": "Goodput [requests/s]",
    "throughput_rps": "Throughput [requests/s]",
    "latency_mean_s": "Mean latency [s]",
    "latency_p99_s": "Latency, 99th percentile [s]",
    "throughput_efficiency": "Throughput / linear",
    "goodput_efficiency": "Goodput / linear",
    "batch_size_mean": "Batch size, mean [requests]",
}
SHARES = ("sla_violation_rate", "gpu_time_share", "request_share")
GPU_AXIS, VOLUME_AXIS, BIN_AXIS = "GPUs", "Requests", "Bins K"


def violations_against_volume(summary: pd.DataFrame) -> ggplot:
    """Step 1: violations of every scheduler, a panel per GPU count."""
    return _by_volume(summary, ["sla_violation_rate"])


def latency_against_volume(summary: pd.DataFrame) -> ggplot:
    """Step 1: mean and 99th percentile of latency, a column per GPU count."""
    p9 = plotnine_module()
    metrics = ["latency_mean_s", "latency_p99_s"]
    figure: ggplot = _by_volume(summary, metrics) + p9.scale_y_log10(labels=plain, minor_breaks=[])
    return figure


def goodput_against_volume(summary: pd.DataFrame) -> ggplot:
    """Step 1: throughput and goodput, a column per GPU count."""
    p9 = plotnine_module()
    figure: ggplot = _by_volume(summary, ["throughput_rps", "goodput_rps"])
    figure += p9.expand_limits(y=0)
    return figure


def _by_volume(summary: pd.DataFrame, metrics: Sequence[str]) -> ggplot:
    p9 = plotnine_module()
    data = drawn(summary, metrics)
    data["gpus"] = gpu_panels(data)
    scale, data["scheduler"] = colour_scale(data["scheduler"])
    volumes = sorted(set(data["requests"]))
    figure: ggplot = (
        _curves(data, x="requests", colour="scheduler")
        + p9.facet_grid("panel ~ gpus", scales="free_y", labeller=_wrapped)
        + scale
        + p9.scale_x_log10(breaks=volumes, labels=_counts, minor_breaks=[])
        + p9.labs(x=VOLUME_AXIS, y="")
        + p9.theme(figure_size=(11, 2.2 + 2.3 * len(metrics)))
    )
    return figure


def rates_against_gpus(summary: pd.DataFrame) -> ggplot:
    """Step 2: throughput and goodput against GPUs, log-log, with the linear lines."""
    p9 = plotnine_module()
    metrics = ["throughput_rps", "goodput_rps"]
    data = drawn(summary, metrics)
    fewest = data["n_gpus"].min()
    base = data[data["n_gpus"] == fewest].set_index("panel")["mean"]
    linear = data.assign(mean=data["panel"].map(base).astype(float) * data["n_gpus"] / fewest)
    figure: ggplot = (
        _curves(data)
        + lines(linear, None, data=linear, linetype="dashed", colour="#777777")
        + p9.facet_wrap("panel", ncol=2)
        + gpu_scale(data)
        + p9.scale_y_log10(labels=plain, minor_breaks=[])
        + p9.labs(x=GPU_AXIS, y="[requests/s]")
    )
    return figure


def efficiency_against_gpus(summary: pd.DataFrame) -> ggplot:
    """Step 2: throughput and goodput over what the fewest GPUs promise, log-log."""
    p9 = plotnine_module()
    data = drawn(summary, ["throughput_efficiency", "goodput_efficiency"])
    figure: ggplot = (
        _curves(data)
        + p9.geom_hline(yintercept=1, linetype="dashed", colour="#777777")
        + p9.facet_wrap("panel", ncol=2, scales="free_y")
        + gpu_scale(data)
        + p9.scale_y_log10(labels=plain, minor_breaks=[])
        + p9.labs(x=GPU_AXIS, y="Scaling efficiency")
    )
    return figure


def violations_against_gpus(summary: pd.DataFrame, *, target: float) -> ggplot:
    """Step 2: violations with ρ written at each point and the target across."""
    p9 = plotnine_module()
    data = drawn(summary, ["sla_violation_rate"])
    loads = data.assign(load=[f"ρ {value:.2g}" for value in data["offered_load"]])
    figure: ggplot = (
        _curves(data)
        + p9.geom_hline(yintercept=target, linetype="dashed", colour="#777777")
        + p9.geom_text(p9.aes(y=1.06, label="load"), data=loads, size=8)
        + gpu_scale(data)
        + p9.expand_limits(y=0)
        + p9.labs(x=GPU_AXIS, y=METRIC_TITLES["sla_violation_rate"])
        + p9.theme(figure_size=(8, 4.5))
    )
    return figure


def latency_against_gpus(summary: pd.DataFrame) -> ggplot:
    """Step 2: mean and 99th percentile of latency, log-log."""
    p9 = plotnine_module()
    data = drawn(summary, ["latency_mean_s", "latency_p99_s"])
    figure: ggplot = (
        _curves(data)
        + p9.facet_wrap("panel", ncol=2)
        + gpu_scale(data)
        + p9.scale_y_log10(labels=plain, minor_breaks=[])
        + p9.labs(x=GPU_AXIS, y="[s]")
    )
    return figure


def held_loads_violations(summary: pd.DataFrame, *, target: float) -> ggplot:
    """Step 2b: violations and goodput per GPU against GPUs, a curve per held load."""
    p9 = plotnine_module()
    data = _with_loads(drawn(summary, ["sla_violation_rate"]))
    figure: ggplot = (
        _curves(data, colour="load", dodge=0.02)
        + p9.geom_hline(yintercept=target, linetype="dashed", colour="#777777")
        + p9.scale_colour_brewer(type="qual", palette="Dark2")
        + gpu_scale(data)
        + p9.expand_limits(y=(0, 1))
        + p9.labs(x=GPU_AXIS, y=METRIC_TITLES["sla_violation_rate"])
        + p9.theme(figure_size=(8, 4.5))
    )
    return figure


def held_loads_latency(summary: pd.DataFrame) -> ggplot:
    """Step 2b: mean and 99th percentile of latency against GPUs, a curve per held load."""
    p9 = plotnine_module()
    data = _with_loads(drawn(summary, ["latency_mean_s", "latency_p99_s"]))
    figure: ggplot = (
        _curves(data, colour="load", dodge=0.02)
        + p9.facet_wrap("panel", ncol=2)
        + p9.scale_colour_brewer(type="qual", palette="Dark2")
        + gpu_scale(data)
        + p9.scale_y_log10(labels=plain, minor_breaks=[])
        + p9.labs(x=GPU_AXIS, y="[s]")
    )
    return figure


def bins_sensitivity(summary: pd.DataFrame) -> ggplot:
    """Step 3: violations, goodput and latency against the number of bins."""
    p9 = plotnine_module()
    metrics = ["sla_violation_rate", "goodput_rps", "latency_mean_s", "latency_p99_s"]
    data = drawn(summary, metrics)
    counts = sorted(set(data["n_bins"]))
    figure: ggplot = (
        _curves(data, x="n_bins")
        + p9.facet_wrap("panel", ncol=2, scales="free_y")
        + p9.scale_x_log10(breaks=counts, labels=list(map(str, counts)), minor_breaks=[])
        + p9.labs(x=BIN_AXIS, y="")
        + p9.theme(figure_size=(9, 6))
    )
    return figure


def drawn(
    table: pd.DataFrame, metrics: Sequence[str], titles: Mapping[str, str] = METRIC_TITLES
) -> pd.DataFrame:
    """The rows of these metrics that have a value; intervals where there are, cut where they end.

    A share lies in [0, 1]; other bars end at half the lowest point of their panel, which a log
    axis needs and a linear one hardly shows.
    """
    import pandas as pd

    data = table[table["metric"].isin(list(metrics)) & table["mean"].notna()].copy()
    share = data["metric"].isin(SHARES)
    data["low"] = data["low"].fillna(data["mean"])
    data["high"] = data["high"].fillna(data["mean"])
    lowest = data["mean"].groupby(data["metric"]).transform("min") / 2
    data["low"] = data["low"].clip(lower=lowest.where(~share, 0.0))
    data["high"] = data["high"].where(~share, data["high"].clip(upper=1.0))
    panels = [titles[metric] for metric in metrics]
    data["panel"] = pd.Categorical(data["metric"].map(dict(titles)), panels)
    return data


def _curves(
    data: pd.DataFrame, *, x: str = "n_gpus", colour: str | None = None, dodge: float = 0.0
) -> Any:
    """Lines, intervals and points; shapes tell the load labels."""
    import pandas as pd

    p9 = plotnine_module()
    data = data.copy()
    data["load_label"] = pd.Categorical(data["load_label"], list(LABEL_SHAPES))
    colours = {} if colour is None else {"colour": colour}
    shift = p9.position_dodge(width=dodge)
    return (
        p9.ggplot(data, p9.aes(x, "mean", group=colour or 1, **colours))
        + lines(data, colour, size=0.6, position=shift)
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), size=0.7, alpha=0.7, position=shift)
        + p9.geom_point(p9.aes(shape="load_label"), size=2.5, position=shift)
        + p9.scale_shape_manual(LABEL_SHAPES)
        + p9.labs(colour="", shape="")
        + page()
    )


def lines(points: pd.DataFrame, by: str | None, **options: Any) -> list[Any]:
    """The lines through the points of each panel and colour; none where each is a single point."""
    keys = ["panel"] if by is None else ["panel", by]
    if points.groupby(keys, observed=True).size().max() < 2:
        return []
    return [plotnine_module().geom_line(**options)]


def page(height: float = 4.5) -> Any:
    p9 = plotnine_module()
    return theme() + p9.theme(
        figure_size=(10, height), legend_position="top", legend_box="horizontal"
    )


def gpu_scale(data: pd.DataFrame) -> Any:
    counts = sorted(set(data["n_gpus"]))
    labels = [f"{count:.0f}" for count in counts]
    return plotnine_module().scale_x_log10(breaks=counts, labels=labels, minor_breaks=[])


def gpu_panels(data: pd.DataFrame) -> Any:
    """The GPU counts as panel titles, in order."""
    import pandas as pd

    names = {n: f"{n:.0f} GPU{'' if n == 1 else 's'}" for n in sorted(set(data["n_gpus"]))}
    return pd.Categorical(data["n_gpus"].map(names), list(names.values()))


def _with_loads(data: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    loads = {load: f"ρ = {load:g}" for load in sorted(set(data["target_load"]))}
    return data.assign(load=pd.Categorical(data["target_load"].map(loads), list(loads.values())))


def colour_scale(values: pd.Series[Any]) -> tuple[Any, Any]:
    """A scale for what the curves differ in, and the values as its categories."""
    import pandas as pd

    p9 = plotnine_module()
    if pd.api.types.is_numeric_dtype(values):
        names = {value: f"{value:.0f}" for value in sorted(set(values))}
        return p9.scale_colour_cmap_d("viridis"), pd.Categorical(
            values.map(names), list(names.values())
        )
    found = list(dict.fromkeys(values))
    return p9.scale_colour_manual(scheduler_colours(found)), pd.Categorical(values, found)


def plain(values: Sequence[float]) -> list[str]:
    """Axis labels without powers of ten."""
    return [f"{value:.0f}" if value >= 1000 else f"{value:g}" for value in values]


def _counts(values: Sequence[float]) -> list[str]:
    """1000 as 1K, 1000000 as 1M."""
    names = []
    for value in values:
        if value >= 1e6:
            names.append(f"{value / 1e6:g}M")
        else:
            names.append(f"{value / 1e3:g}K" if value >= 1e3 else f"{value:g}")
    return names


def _wrapped(text: str) -> str:
    """A panel title that fits its strip: the unit on a line of its own."""
    return text.replace(" [", "\n[")
