"""A run over time as one figure: who was served, on which GPU, and what waited meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmsched.figures.style import plotnine_module, theme

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

KIND_COLOURS = {
    "batch": "#4c78a8",
    "prefill": "#d95f02",
    "decode": "#9ecae1",
    "resumed": "#7570b3",
}
QUEUE = "queue"


def timeline(slices: pd.DataFrame, counters: pd.DataFrame, *, title: str, caption: str) -> ggplot:
    """Slices on top, a row per GPU or lane, and one panel per counter below.

    Parameters
    ----------
    slices : DataFrame
        Columns `gpu`, `lane`, `start_s`, `end_s`, `kind`, as from `Timeline.slices_frame`.
    counters : DataFrame
        Columns `gpu` (-1 for the queue of all), `name`, `at_s`, `value`.
    title, caption : str
        What ran, and what is left out.
    """
    import pandas as pd

    p9 = plotnine_module()
    lanes = slices.groupby("gpu")["lane"].max() + 1
    first_lane = lanes.cumsum() - lanes  # GPUs one above the other
    one_each = bool((lanes == 1).all())
    boxes = slices.assign(
        y=slices["gpu"].map(first_lane) + slices["lane"],
        panel="GPU" if one_each else "running requests, from GPU 0 up",
    )
    names = list(dict.fromkeys(counters["name"]))
    panels = [*dict.fromkeys(boxes["panel"]), *names]
    boxes["panel"] = pd.Categorical(boxes["panel"], panels)
    lines = counters.assign(
        panel=pd.Categorical(counters["name"], panels),
        who=[QUEUE if gpu < 0 else f"GPU {gpu}" for gpu in counters["gpu"]],
    )
    end_s = max(boxes["end_s"].max(), lines["at_s"].max()) if len(lines) else boxes["end_s"].max()
    last = lines.groupby(["name", "gpu"], observed=True).tail(1).assign(at_s=end_s)
    lines = pd.concat([lines, last], ignore_index=True).sort_values("at_s", kind="stable")
    parts = pd.DataFrame({"y": first_lane.iloc[1:] - 0.5})  # between one GPU's lanes and the next's
    parts["panel"] = pd.Categorical([panels[0]] * len(parts), panels)
    edge = {"colour": "white", "size": 0.2} if len(boxes) < 2000 else {}
    figure: ggplot = (
        p9.ggplot()
        + p9.geom_rect(
            p9.aes(xmin="start_s", xmax="end_s", ymin="y - 0.45", ymax="y + 0.45", fill="kind"),
            data=boxes,
            **edge,
        )
        + p9.geom_step(p9.aes("at_s", "value", colour="who"), data=lines, direction="hv")
        + p9.geom_hline(p9.aes(yintercept="y"), data=parts, size=0.3)
        + p9.facet_wrap("panel", ncol=1, scales="free_y")
        + p9.scale_fill_manual(KIND_COLOURS)
        + p9.labs(x="Time [s]", y="", fill="", colour="", title=title, caption=caption)
        + theme()
        + p9.theme(figure_size=(11, 2.0 + 1.5 * len(panels)))
    )
    return figure
