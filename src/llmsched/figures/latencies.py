"""How long requests take: the share of them that is done within a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmsched.figures.style import plotnine_module, theme

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot


def latency_shares(frame: pd.DataFrame, *, title: str, caption: str) -> ggplot:
    """The distribution of latency and, where first tokens are known, of the time to the first.

    Parameters
    ----------
    frame : DataFrame
        A row per request, as from `Run.requests.to_frame`: columns `arrival_s`, `finish_s` and,
        at the iteration level, `first_token_s`; NaN where a request was rejected, which is never
        done.
    title, caption : str
        What was run, and what is left out.
    """
    import pandas as pd

    p9 = plotnine_module()
    ends = {"latency": "finish_s", "time to first token": "first_token_s"}
    parts = []
    for name, column in ends.items():
        if column in frame:
            seconds = (frame[column] - frame["arrival_s"]).dropna().sort_values()
            share = seconds.rank(method="max") / len(frame)
            parts.append(pd.DataFrame({"what": name, "seconds": seconds, "share": share}))
    data = pd.concat(parts, ignore_index=True)
    data["what"] = pd.Categorical(data["what"], list(ends))
    figure: ggplot = (
        p9.ggplot(data[data["seconds"] > 0], p9.aes("seconds", "share", linetype="what"))
        + p9.geom_step(size=0.8)
        + p9.scale_x_log10()
        + p9.scale_y_continuous(limits=(0, 1))
        + p9.labs(x="Time [s]", y="Share of requests", title=title, caption=caption, linetype="")
        + theme()
        + p9.theme(legend_position="top")
    )
    return figure
