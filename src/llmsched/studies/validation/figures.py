"""Figures of a validation: distributions laid over each other, and errors against load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmsched.figures.style import plotnine_module, theme
from llmsched.studies.validation.stages import StagesValidation

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

    from llmsched.studies.validation.validate import Validation

COLOURS = {"measured": "#000000", "simulated": "#d95f02"}
PANELS = {
    "ttft_s": "TTFT [s]: share of requests",
    "tpot_s": "TPOT [s]: share of requests",
    "e2e_s": "E2E [s]: share of requests",
    "load": "Requests in flight on arrival: E2E error [%]",
}
NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}


def validation_figure(found: Validation | StagesValidation) -> ggplot:
    """A log's distributions and errors against load, or the errors of stages against load."""
    if isinstance(found, StagesValidation):
        return _stages_figure(found)
    return _log_figure(found)


def _log_figure(found: Validation) -> ggplot:
    import pandas as pd

    p9 = plotnine_module()
    curves = pd.concat(
        [_curve(found, name, who) for name in NAMES if name in found.errors for who in COLOURS]
    )
    points = _load_points(found)
    order = [
        PANELS[name] for name in PANELS if PANELS[name] in {*curves["panel"], *points["panel"]}
    ]
    for frame in (curves, points):
        frame["panel"] = pd.Categorical(frame["panel"], order)
    first, last = found.judged
    figure: ggplot = (
        p9.ggplot(curves, p9.aes("x", "y"))
        + p9.geom_step(p9.aes(colour="who"), size=0.8)
        + p9.geom_point(data=points, size=1, alpha=0.5)
        + p9.facet_wrap("panel", scales="free", ncol=2)
        + p9.scale_colour_manual(COLOURS)
        + p9.labs(
            x="",
            y="",
            colour="",
            title="A real server's requests, measured and simulated",
            caption=f"Requests {first + 1} to {last}; a point is a request.",
        )
        + theme()
        + p9.theme(figure_size=(11, 7))
    )
    return figure


def _curve(found: Validation, name: str, who: str) -> pd.DataFrame:
    import pandas as pd

    times = found.measured if who == "measured" else found.simulated
    column = times[name][slice(*found.judged)]
    values = np.sort(column[~np.isnan(column)])
    share = np.arange(1, len(values) + 1) / len(values)
    return pd.DataFrame({"x": values, "y": share, "who": who, "panel": PANELS[name]})


def _load_points(found: Validation) -> pd.DataFrame:
    import pandas as pd

    name = "e2e_s" if "e2e_s" in found.measured else "ttft_s"
    arrival_s, real = found.replay.trace.arrival_s, found.measured[name]
    ends_s = np.sort(arrival_s + real)
    in_flight = np.arange(len(arrival_s)) - np.searchsorted(ends_s, arrival_s, side="right")
    error = 100 * (found.simulated[name] / real - 1)
    rows = slice(*found.judged)
    return pd.DataFrame(
        {"x": in_flight[rows], "y": error[rows], "who": "simulated", "panel": PANELS["load"]}
    )


def _stages_figure(found: StagesValidation) -> ggplot:
    import pandas as pd

    p9 = plotnine_module()
    rows = [
        {
            "load": one.load_value,
            "error": 100 * one.errors[name].typical_error,
            "figure": NAMES[name],
            "which": "overloaded" if one.overloaded else "fitted on" if one.fitted_on else "judged",
        }
        for one in found.stages
        for name in NAMES
        if name in one.errors
    ]
    frame = pd.DataFrame(rows).dropna()
    colours = {"judged": "#d95f02", "fitted on": "#7f7f7f", "overloaded": "#1f77b4"}
    figure: ggplot = (
        p9.ggplot(frame, p9.aes("load", "error", colour="which"))
        + p9.geom_hline(yintercept=0, size=0.4)
        + p9.geom_point(size=2)
        + p9.facet_wrap("figure", scales="free_y")
        + p9.scale_colour_manual(colours)
        + p9.labs(
            x="Load: requests/s, or clients",
            y="Error of the mean [%]",
            colour="",
            title="Stages of real servers: error of the simulated means",
        )
        + theme()
    )
    return figure
