"""The figure of each result: what its `plot()` draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmsched.figures.capacity import capacity_curve
from llmsched.figures.comparison import scheduler_comparison
from llmsched.figures.latencies import latency_shares
from llmsched.metrics.registry import title_of

if TYPE_CHECKING:
    from plotnine import ggplot

    from llmsched.simulation.capacity.plan import Plan
    from llmsched.simulation.capacity.results import Capacity
    from llmsched.simulation.comparison.results import Comparison
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
    return _curves((found,))


def plan_figure(plan: Plan) -> ggplot:
    """The same for every scheduler of a plan."""
    return _curves(plan.found)


def _curves(found: Sequence[Capacity]) -> ggplot:
    import pandas as pd

    first = found[0]
    where = [(one.scheduler, one.value, one.offered_load) for one in found]
    rows = [row for row in where if 0 < row[1] < math.inf]
    return capacity_curve(
        pd.concat([one.to_frame() for one in found], ignore_index=True),
        pd.DataFrame(rows, columns=["scheduler", "value", "offered_load"]),
        axis=AXES[first.search],
        metric=title_of(first.target.metric),
        target=first.target.at_most,
        title=f"{first.n_requests} requests of {first.trace_name}: {first.target}",
        caption=f"Points with 95 % intervals over {len(first.seeds)} replications. Line: the "
        "target; dashed: the capacity.",
    )
