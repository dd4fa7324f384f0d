"""Figures of the stress plan inside a run: latencies, batch sizes, and what becomes of each bin.

As in `stress_figures`: a tidy frame in, a plotnine plot out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmsched.figures.style import plotnine_module
from llmsched.studies.stress.figures import (
    BIN_AXIS,
    GPU_AXIS,
    colour_scale,
    drawn,
    gpu_panels,
    gpu_scale,
    lines,
    page,
    plain,
)

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

BIN_TITLES = {
    "sla_violation_rate": "SLA violations [share]",
    "latency_p99_s": "Latency, 99th percentile [s]",
    "wait_max_s": "Longest wait [s]",
    "gpu_time_share": "Share of GPU time",
    "batch_size_mean": "Batch size, mean [requests]",
    "output_variance_mean": "Variance of outputs in a batch [tokens²]",
    "output_range_mean": "Longest less shortest output in a batch [tokens]",
    "output_max_over_mean": "Longest / mean output in a batch",
}
COLOUR_TITLES = {"scheduler": "", "n_gpus": "GPUs", "n_bins": BIN_AXIS, "bin": "Bin"}


def latency_distributions(
    latencies: pd.DataFrame, *, colour: str, sla_s: float, panels: str | None = None
) -> ggplot:
    """The share of completed requests within a latency, a curve per `colour`; the SLA upright.

    Parameters
    ----------
    latencies : DataFrame
        As from `latency_table`.
    colour : {"scheduler", "n_gpus", "n_bins"}
        What the curves differ in.
    panels : str, optional
        "n_gpus" for a panel per GPU count.
    """
    p9 = plotnine_module()
    data = latencies[latencies["latency_s"] > 0].copy()
    if panels is not None:
        data["gpus"] = gpu_panels(data)
    scale, data[colour] = colour_scale(data[colour])
    figure: ggplot = (
        p9.ggplot(data, p9.aes("latency_s", "quantile", colour=colour, group=colour))
        + p9.geom_vline(xintercept=sla_s, linetype="dashed", colour="#777777")
        + p9.geom_line(size=0.7)
        + p9.scale_x_log10(labels=plain, minor_breaks=[])
        + scale
        + p9.labs(x="Latency [s]", y="Share of completed requests", colour=COLOUR_TITLES[colour])
        + page()
    )
    if panels is not None:
        figure += p9.facet_wrap("gpus", ncol=3)
    return figure


def batch_sizes(batches: pd.DataFrame, *, colour: str, panels: str | None = None) -> ggplot:
    """The share of batches of at most a size, a curve per `colour`; as `latency_distributions`."""
    p9 = plotnine_module()
    keys = [colour, "n_gpus"] if panels is not None else [colour]
    data = batches.assign(cumulated=batches.groupby(keys, sort=False)["share"].cumsum())
    if panels is not None:
        data["gpus"] = gpu_panels(data)
    scale, data[colour] = colour_scale(data[colour])
    figure: ggplot = (
        p9.ggplot(data, p9.aes("batch_size", "cumulated", colour=colour, group=colour))
        + p9.geom_step(size=0.7)
        + p9.geom_point(size=0.8)
        + p9.scale_x_log10(labels=plain, minor_breaks=[])
        + scale
        + p9.expand_limits(y=(0, 1))
        + p9.labs(x="Batch size [requests]", y="Share of batches", colour=COLOUR_TITLES[colour])
        + page()
    )
    if panels is not None:
        figure += p9.facet_wrap("gpus", ncol=3)
    return figure


def bins_by_scheduler(per_bin: pd.DataFrame, metrics: Sequence[str]) -> ggplot:
    """Step 1: what became of each bin, a panel per metric, the schedulers side by side."""
    import pandas as pd

    p9 = plotnine_module()
    data = drawn(per_bin, metrics, BIN_TITLES)
    scale, data["scheduler"] = colour_scale(data["scheduler"])
    alone = data["n_bins"] == 1
    names = data["bin"].astype(int).astype(str).where(~alone, "all")
    order = ["all", *sorted(set(names) - {"all"}, key=int)]
    data["where"] = pd.Categorical(names, [name for name in order if name in set(names)])
    dodge = p9.position_dodge(width=0.6)
    figure: ggplot = (
        p9.ggplot(data, p9.aes("where", "mean", colour="scheduler"))
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), size=0.8, position=dodge)
        + p9.geom_point(size=2.5, position=dodge)
        + p9.facet_wrap("panel", scales="free_y", ncol=2)
        + scale
        + p9.expand_limits(y=0)
        + p9.labs(x="Bin, of the shortest first", y="", colour="")
        + page(height=6)
    )
    return figure


def bins_by_number(per_bin: pd.DataFrame, metrics: Sequence[str]) -> ggplot:
    """Step 3: what became of each bin, at its place among the K, a curve per K."""
    p9 = plotnine_module()
    data = drawn(per_bin, metrics, BIN_TITLES)
    data["place"] = (data["bin"] + 0.5) / data["n_bins"]
    scale, data["n_bins"] = colour_scale(data["n_bins"])
    figure: ggplot = (
        p9.ggplot(data, p9.aes("place", "mean", colour="n_bins", group="n_bins"))
        + lines(data, "n_bins", size=0.6)
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), size=0.5, alpha=0.3)
        + p9.geom_point(size=1.8)
        + p9.facet_wrap("panel", scales="free_y", ncol=2)
        + scale
        + p9.expand_limits(y=(0, 0), x=(0, 1))
        + p9.labs(x="Place of the bin: (bin + ½) / K", y="", colour=BIN_AXIS)
        + page(height=6)
    )
    return figure


def bins_by_gpus(per_bin: pd.DataFrame, metrics: Sequence[str]) -> ggplot:
    """Step 2: what became of each bin against GPUs, a curve per bin."""
    p9 = plotnine_module()
    data = drawn(per_bin, metrics, BIN_TITLES)
    data = data[data["mean"] > 0]  # a wait of 0 has no place on a log axis
    counts = gpu_scale(data)
    scale, data["bin"] = colour_scale(data["bin"])
    figure: ggplot = (
        p9.ggplot(data, p9.aes("n_gpus", "mean", colour="bin", group="bin"))
        + lines(data, "bin", size=0.6)
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), size=0.6, alpha=0.7)
        + p9.geom_point(size=2)
        + p9.facet_wrap("panel", scales="free_y", ncol=2)
        + counts
        + p9.scale_y_log10(labels=plain, minor_breaks=[])
        + scale
        + p9.labs(x=GPU_AXIS, y="", colour="Bin")
        + page(height=4.5)
    )
    return figure
