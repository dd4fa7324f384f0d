"""One run of the batch level as text: the verdict, the main figures, the cautions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmsched.cli.answers.cautions import cautions
from llmsched.cli.answers.header import header
from llmsched.cli.answers.numbers import head_of, level_text
from llmsched.cli.text import aligned, number, percent
from llmsched.metrics.intervals import Interval
from llmsched.metrics.load import LABEL_RULE
from llmsched.metrics.registry import column_of

if TYPE_CHECKING:
    from llmsched.simulation.run import BatchRun
    from llmsched.simulation.uncertainty import RunUncertainty

COLUMNS = (
    *("sla_violation_rate", "latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s"),
    *("throughput_rps", "goodput_rps", "gpu_utilization", "batch_size_mean", "offered_load"),
)
BIN_COLUMNS = (
    *("bin", "requests", "batch_size_mean", "latency_mean_s", "latency_p99_s"),
    *("sla_violation_rate", "wait_max_s", "backlog_mean", "backlog_peak", "gpu_time_share"),
    "output_max_over_mean",
)
HIDDEN = (
    *("per_bin", "latency_description", "latency_model", "latency_kind", "bin_edges", "config"),
    *("scheduler", "trace", "seed", "predictor", "extrapolated_axis"),
)


def run_text(
    run: BatchRun,
    hardware: str,
    uncertainty: RunUncertainty | None = None,
    *,
    verbose: bool = False,
) -> str:
    """One run: how many requests are late, the main figures, and what to be careful about.

    Parameters
    ----------
    hardware : str
        GPUs and model in a few words.
    verbose : bool
        Also every figure, one line per bin, and what the words mean.
    """
    summary = run.to_dict()
    parts = [
        _verdict(run, summary, hardware),
        aligned([[head_of(name), _level(summary[name], name)] for name in COLUMNS]),
    ]
    if uncertainty is not None:
        parts.append(calibration_text(uncertainty, COLUMNS))
    careful = cautions({run.scheduler: [summary]})
    parts.append("\n".join(_filled(line) for line in careful))
    if verbose:
        parts += _verbose(run, summary)
    return "\n\n".join(part for part in parts if part)


def _verdict(run: BatchRun, summary: dict[str, Any], hardware: str) -> str:
    metrics = run.metrics
    late = f"{percent(metrics.sla_violation_rate, 3)} of {metrics.requests} requests are late"
    if math.isinf(metrics.sla_s):
        late = f"{metrics.completed} of {metrics.requests} requests served"
    said = header(summary, [run.arrival_rate_rps], rate=run.config["rate"], hardware=hardware)
    return f"{late}; {run.load_label} at load ρ {run.offered_load:.2f}.\n{said}, seed {run.seed}."


def _level(value: float | None, metric: str) -> str:
    mean = math.nan if value is None else value
    return level_text(Interval(mean=mean, low=math.nan, high=math.nan, n=1), metric)


def calibration_text(uncertainty: RunUncertainty, columns: Sequence[str]) -> str:
    """The main figures at the fitted latency parameters, and between which bounds they lie."""
    from llmsched.simulation.uncertainty import reached_confidence

    n_draws = len(uncertainty.drawn)
    rows = [["", "fitted (low-high)"]]
    rows += [[head_of(name), level_text(uncertainty.interval(name), name)] for name in columns]
    head = (
        f"Calibration error: {percent(reached_confidence(n_draws))} over {n_draws} draws of the "
        "latency's parameters, these requests given"
    )
    return f"{head}\n{aligned(rows)}"


def _verbose(run: BatchRun, summary: dict[str, Any]) -> list[str]:
    rows = [[name, number(value)] for name, value in summary.items() if name not in HIDDEN]
    per_bin = [[number(getattr(row, key)) for key in BIN_COLUMNS] for row in run.metrics.per_bin]
    edges = ", ".join(f"{edge:g}" for edge in run.edges) or "none (one queue)"
    legend = (f"Latency model: {run.latency.describe()}", f"Label: {LABEL_RULE}")
    return [
        aligned(rows),
        f"Per bin; edges: {edges}\n" + aligned([list(map(column_of, BIN_COLUMNS)), *per_bin]),
        "\n".join(_filled(line) for line in legend),
    ]


def _filled(line: str) -> str:
    return textwrap.fill(line, 100, subsequent_indent="  ", break_long_words=False)
