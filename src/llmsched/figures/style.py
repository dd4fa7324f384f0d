"""Figures, one function each: a tidy frame in, a plotnine plot out.

Nothing here runs a simulation, reads a file or saves one. One theme and one colour per scheduler
serve all figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


SCHEDULER_COLOURS = {
    "static_fifo": "#7f7f7f",
    "dynamic_no_bins": "#1f77b4",
    "multi_bin_dynamic": "#d95f02",
    "multi_bin_only": "#1b9e77",
    "multi_bin_adaptive": "#7570b3",
    "continuous_static": "#4d4d4d",
    "continuous_dynamic": "#56b4e9",
    "continuous_multi_bin": "#e69f00",
    "continuous_sjf": "#009e73",
    "continuous_priority": "#cc79a7",
    "deadline_window": "#e7298a",
}
OTHER_COLOURS = ("#66a61e", "#a6761d", "#e6ab02")


def scheduler_colours(schedulers: list[str]) -> dict[str, str]:
    """One colour per scheduler: ours fixed, users' own from a second palette."""
    others = [name for name in schedulers if name not in SCHEDULER_COLOURS]
    spare = {name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)}
    return {name: SCHEDULER_COLOURS.get(name, spare.get(name, "#000000")) for name in schedulers}


def plotnine_module() -> Any:
    """The module, untyped: half of its functions carry no types."""
    import plotnine

    return plotnine


def theme() -> Any:
    """The look that all figures share; add to it what one figure needs."""
    p9 = plotnine_module()
    return p9.theme_bw(base_size=11) + p9.theme(
        figure_size=(11, 5),
        panel_grid_minor=p9.element_blank(),
        strip_background=p9.element_rect(fill="#f0f0f0"),
        plot_caption=p9.element_text(ha="left", size=8),
    )
