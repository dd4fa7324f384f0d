"""The figure of each result: what its `plot()` draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmsched.figures.capacity import capacity_curve
from llmsched.figures.comparison import scheduler_comparison
from llmsched.figures.latencies import latency_shares
from llmsched.metrics.registry import title_of

if TYPE_CHECKING:
    from plotnine import ggplot

    from llmsched.simulation.capacity.results import Capacity
    from llmsched.simulation.comparison_results import Comparison
    from llmsched.simulation.run import Run

AXES = {"rate": "Arrival rate [requests/s]", "gpus": "GPUs"}


def run_figure(run: Run) -> ggplot:
    """Which share of the requests is done within a time."""
    told = run.to_dict()
    rejected = f", {told['rejected']} rejected" if told["rejected"] else ""
    return latency_shares(
        run.requests.to_frame(),
        title=f"{told['requests']} requests of {told['trace']}, {run.scheduler}",
        caption=f"Share of all requests{rejected}. Load: {run.load_label}.",
    )


def comparison_figure(result: Comparison) -> ggplot:
    """Six figures of merit per scheduler."""
    first = result.results[0].summaries[0]
    return scheduler_comparison(
        result.to_frame(),
        title=f"{first['requests']} requests of {first['trace']}, {result.n_gpus:g} GPUs each",
        caption=(
            f"Points with 95 % intervals over {len(result.seeds)} replications. "
            f"Latency: {result.latency.name} ({result.latency.kind})."
        ),
    )


def capacity_figure(found: Capacity) -> ggplot:
    """The target's metric against the load."""
    import pandas as pd

    where = (found.scheduler, found.interval.mean, found.offered_load)
    rows = [where] if 0 < where[1] < math.inf else []
    return capacity_curve(
        found.to_frame(),
        pd.DataFrame(rows, columns=["scheduler", "value", "offered_load"]),
        axis=AXES[found.search],
        metric=title_of(found.target.metric),
        target=found.target.at_most,
        title=f"{found.n_requests} requests of {found.trace_name}: {found.target}",
        caption=f"Points with 95 % intervals over {len(found.seeds)} replications. Line: the "
        "target; dashed: the capacity.",
    )
