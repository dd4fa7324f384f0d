"""Figures of latency fits: a grid or benchmark points with the forms fitted to them.

One colour per form, the same in every figure. Nothing here fits, reads or saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmsched.figures.style import plotnine_module, theme
from llmsched.latency.base import LatencyModel, Shape, service_times_s

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

    from llmsched.calibration.benchmarks.fit import BenchmarkFit
    from llmsched.latency.fit.grid import LatencyGrid

FORM_COLOURS = {
    "reference": "#7f7f7f",
    "four-term": "#1f77b4",
    "step": "#d95f02",
    "interpolation": "#1b9e77",
}
CURVE_POINTS = 60  # of each curve, between the shortest and the longest length measured


class FormFit(Protocol):
    """What a figure needs of a fit: its form, and the model."""

    @property
    def form(self) -> str: ...
    @property
    def model(self) -> LatencyModel: ...


def fit_figure(grid: LatencyGrid, fits: Sequence[FormFit]) -> ggplot:
    """Measured means against the length, a panel per batch size, and a line per form.

    Bars are ± 2 standard errors of the means where the grid has them. Between the measured lengths
    of a panel, prompts and outputs of a curve are interpolated like the total length.
    """
    p9 = plotnine_module()
    cells, curves = _cells(grid), _curves(grid, fits)
    figure: ggplot = (
        p9.ggplot(cells, p9.aes("tokens", "mean_s"))
        + p9.geom_line(p9.aes(y="time_s", colour="form"), data=curves, size=0.8)
        + p9.geom_linerange(p9.aes(ymin="low_s", ymax="high_s"), size=0.6)
        + p9.geom_point(size=1.8)
        + p9.facet_wrap("panel", scales="free_y", ncol=4)
        + p9.scale_colour_manual(_colours(fits))
        + p9.expand_limits(y=0)
        + p9.labs(
            x="Longest prompt + output [tokens]",
            y="Time of one batch [s]",
            title=f"{grid.name}: measured batches and the forms fitted to them",
            caption=f"Points: means{_bars(grid)}. Every panel has its own time axis, from 0.",
        )
        + theme()
        + _legend_above(p9)
        + _size(p9, cells)
    )
    return figure


def residual_figure(grid: LatencyGrid, fits: Sequence[FormFit]) -> ggplot:
    """Relative residual of every cell, fitted/measured − 1, a panel per form.

    Against the batch size, coloured by the length: a form that is wrong in b bends, one that is
    wrong in the length spreads.
    """
    import pandas as pd

    p9 = plotnine_module()
    cells = _cells(grid)
    frames = []
    for fit in fits:
        fitted_s = service_times_s(fit.model, grid.shapes())
        worst = float(np.max(np.abs(fitted_s / grid.mean_latency_s - 1)))
        frame = cells.assign(
            residual=100 * (fitted_s / grid.mean_latency_s - 1),
            panel=f"{fit.form}, worst {worst:.1%}",
        )
        frames.append(frame)
    data = pd.concat(frames, ignore_index=True)
    data["panel"] = pd.Categorical(data["panel"], list(dict.fromkeys(data["panel"])))
    data["length"] = pd.Categorical(data["tokens"])
    sizes = np.unique(grid.batch_size)
    figure: ggplot = (
        p9.ggplot(data, p9.aes("batch_size", "residual", colour="length", group="length"))
        + p9.geom_hline(yintercept=0, size=0.5)
        + p9.geom_line(size=0.5, alpha=0.6)
        + p9.geom_point(size=2)
        + p9.facet_wrap("panel", ncol=2)
        + p9.scale_x_continuous(trans="log2", breaks=sizes, labels=[str(size) for size in sizes])
        + p9.scale_colour_cmap_d("viridis")
        + p9.labs(
            x="Batch size [requests]",
            y="Fitted − measured [% of measured]",
            colour="Prompt + output\n[tokens]",
            title=f"{grid.name}: what the forms leave over",
            caption="A line joins the cells of one length.",
        )
        + theme()
        + p9.theme(figure_size=(9, 3.2 * ((len(fits) + 1) // 2)))
    )
    return figure


def benchmark_figure(fit: BenchmarkFit) -> ggplot:
    """End-to-end time of requests against their concurrency, and the imported model's batches."""
    import pandas as pd

    p9 = plotnine_module()
    rows = []
    for one in fit.points:
        point = one.point
        lengths = f"{point.prompt_tokens:.0f} + {point.output_tokens:.0f} tokens"
        rows.append((point.company, one.e2e_s, one.batch_s, lengths))
    data = pd.DataFrame(rows, columns=["in_flight", "measured_s", "batch_s", "lengths"])
    figure: ggplot = (
        p9.ggplot(data.sort_values("in_flight"), p9.aes("in_flight", colour="lengths"))
        + p9.geom_line(p9.aes(y="batch_s"), size=0.8)
        + p9.geom_point(p9.aes(y="measured_s"), size=2.4)
        + p9.scale_colour_brewer(type="qual", palette="Dark2")
        + p9.expand_limits(x=0, y=0)
        + p9.labs(
            x="Requests in flight, size of the batch",
            y="End-to-end time of a request, time of a batch [s]",
            colour="Prompt + output",
            title=f"{fit.model.name}: served requests and the model's batches",
            caption="Points: measured means; lines: the model.",
        )
        + theme()
        + p9.theme(figure_size=(7.5, 4.5))
    )
    return figure


def form_colours(forms: Sequence[str]) -> dict[str, str]:
    """The colour of every form."""
    return {form: FORM_COLOURS.get(form, "#000000") for form in forms}


def _colours(fits: Sequence[FormFit]) -> dict[str, str]:
    return form_colours([fit.form for fit in fits])


def _cells(grid: LatencyGrid) -> pd.DataFrame:
    """One row per cell, with the ends of its bar."""
    import pandas as pd

    error_s = np.nan_to_num(2 * grid.std_latency_s / np.sqrt(grid.n_trials))
    frame = pd.DataFrame(
        {
            "batch_size": grid.batch_size,
            "tokens": grid.max_seq_len,
            "mean_s": grid.mean_latency_s,
            "low_s": grid.mean_latency_s - error_s,
            "high_s": grid.mean_latency_s + error_s,
        }
    )
    frame["panel"] = _panels(frame["batch_size"])
    return frame.sort_values(["batch_size", "tokens"], ignore_index=True)


def _panels(sizes: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    labels = [f"batch {size}" for size in sorted(set(sizes))]
    return pd.Series(pd.Categorical([f"batch {size}" for size in sizes], labels), sizes.index)


def _curves(grid: LatencyGrid, fits: Sequence[FormFit]) -> pd.DataFrame:
    """Each form along the lengths of each batch size."""
    import pandas as pd

    frames = []
    for size in np.unique(grid.batch_size):
        here = grid.batch_size == size
        order = np.argsort(grid.max_seq_len[here])
        known = grid.max_seq_len[here][order]
        tokens = np.linspace(known[0], known[-1], CURVE_POINTS)
        parts = []
        for lengths in (grid.prompt_tokens, grid.output_tokens):
            values = np.zeros_like(known) if lengths is None else lengths[here][order]
            parts.append(np.interp(tokens, known, values))
        shape = Shape(np.full(CURVE_POINTS, size), tokens, *parts)
        frames += [
            pd.DataFrame(
                {
                    "batch_size": size,
                    "tokens": tokens,
                    "form": fit.form,
                    "time_s": service_times_s(fit.model, shape),
                }
            )
            for fit in fits
        ]
    data = pd.concat(frames, ignore_index=True)
    data["panel"] = _panels(data["batch_size"])
    data["form"] = pd.Categorical(data["form"], [fit.form for fit in fits])
    return data


def _bars(grid: LatencyGrid) -> str:
    measured = grid.std_latency_s > 0
    return " ± 2 standard errors" if measured.any() else ""


def _legend_above(p9: Any) -> Any:
    return p9.theme(legend_position="top", legend_title=p9.element_blank())


def _size(p9: Any, cells: pd.DataFrame) -> Any:
    n_panels = cells["batch_size"].nunique()
    columns, rows = min(n_panels, 4), -(-n_panels // 4)
    return p9.theme(figure_size=(max(2.9 * columns, 6), 2.6 * rows + 1.2))
