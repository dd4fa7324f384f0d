"""Results as text for a terminal, and the figure of a comparison."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched._util.files import check_output, whole_file
from llmsched.cli.errors import keep_inputs
from llmsched.metrics.load import LABEL_RULE
from llmsched.metrics.registry import column_of

if TYPE_CHECKING:
    from llmsched.latency.base import LatencyModel
    from llmsched.latency.steps.base import StepLatency
    from llmsched.metrics.intervals import Interval
    from llmsched.simulation.comparison_results import Comparison, Difference, SchedulerResult
    from llmsched.simulation.simulate import Run
    from llmsched.simulation.uncertainty import RunUncertainty
    from llmsched.workload.trace import Trace

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")
COLUMNS = (
    *("sla_violation_rate", "latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s"),
    *("throughput_rps", "goodput_rps", "gpu_utilization", "batch_size_mean", "offered_load"),
)
WITH_CALIBRATION = "  with calibration error"
DIFFERENCE_COLUMNS = ("difference", "verdict")
CALIBRATED_COLUMNS = ("with calibration error", "verdict")
BIN_COLUMNS = (
    *("bin", "requests", "batch_size_mean", "latency_mean_s", "latency_p99_s"),
    *("sla_violation_rate", "wait_max_s", "backlog_mean", "backlog_peak", "gpu_time_share"),
    "output_max_over_mean",
)


def left_out_notes(trace: Trace) -> None:
    """Say on stderr which requests of the source do not take part, and why."""
    for note in trace.notes:
        click.echo(f"Note: {note}", err=True)
    for rule, count in trace.left_out:
        click.echo(f"Left out: {count} ({rule})", err=True)


def run_table(run: Run, uncertainty: RunUncertainty | None = None) -> str:
    """One run: figures of merit, those with calibration error, then one line per bin."""
    summary = run.to_dict()
    hidden = {
        "per_bin",
        "latency_description",
        "latency_model",
        "latency_kind",
        "bin_edges",
        "config",
    }
    rows = [[key, number(value)] for key, value in summary.items() if key not in hidden]
    per_bin = [[number(getattr(row, key)) for key in BIN_COLUMNS] for row in run.metrics.per_bin]
    edges = ", ".join(f"{edge:g}" for edge in run.edges) or "none (one queue)"
    return "\n\n".join(
        (
            aligned(rows),
            *(_calibration_lines(uncertainty) if uncertainty else ()),
            f"Per bin; edges: {edges}\n" + aligned([list(map(column_of, BIN_COLUMNS)), *per_bin]),
            _legend(run.latency),
        )
    )


def _calibration_lines(uncertainty: RunUncertainty) -> list[str]:
    """The main figures at the fitted latency parameters, and between which bounds they lie."""
    from llmsched.simulation.uncertainty import reached_confidence

    rows = [["", "fitted", "low", "high"]]
    for metric in COLUMNS:
        interval = uncertainty.interval(metric)
        rows.append([column_of(metric), *map(number, (interval.mean, interval.low, interval.high))])
    n_draws = len(uncertainty.drawn)
    head = (
        f"Calibration error: {percent(reached_confidence(n_draws))} over {n_draws} draws of the "
        "latency's parameters, these requests given"
    )
    return [f"{head}\n{aligned(rows)}"]


def percent(share: float) -> str:
    """A share in percent, without needless digits."""
    return f"{100 * share:.3g} %"


def comparison_table(result: Comparison) -> str:
    """All schedulers side by side, then what differs by more than the noise."""
    header = ["", *(row.scheduler for row in result.results)]
    rows = [header, ["load label", *(row.load_label for row in result.results)]]
    for metric in (*COLUMNS, "completed", "rejected"):
        rows.append([column_of(metric), *(_cell(row, metric) for row in result.results)])
        if result.n_draws and metric in COLUMNS:
            rows.append([WITH_CALIBRATION, *(_range(row, metric) for row in result.results)])
    lines = [
        _comparison_header(result),
        aligned(rows),
        *_difference_lines(result),
        _legend(result.latency),
    ]
    return "\n\n".join(lines)


def _legend(latency: LatencyModel | StepLatency) -> str:
    """What the service times come from, and what the load labels mean."""
    lines = (f"Latency model: {latency.describe()}", f"Label: {LABEL_RULE}")
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in lines)


def _comparison_header(result: Comparison) -> str:
    """What was compared on what, and what the cells say."""
    from llmsched.simulation.uncertainty import reached_confidence

    first = result.results[0].summaries[0]
    seeds = result.seeds
    spread = (
        f"Mean ± half its 95% interval over {len(seeds)} replications (seeds {seeds[0]}.."
        f"{seeds[-1]})."
    )
    if not any(row.random for row in result.results):
        spread = "Nothing here is random: one run each, without intervals."
    elif len(seeds) == 1:
        spread = f"One replication (seed {seeds[0]}), so no interval; --seeds 2 or more gives one."
    if result.n_draws:
        spread += (
            f"\nBelow it: the {percent(reached_confidence(result.n_draws))} interval that includes "
            f"calibration error, over {result.n_draws} draws of the latency's parameters."
        )
    return (
        f"The same {first['requests']} requests of {first['trace']} for all, {result.n_gpus} GPUs "
        f"each, SLA {first['sla_s']:g} s, predictor {first['predictor']}.\n{spread}"
    )


def _difference_lines(result: Comparison) -> list[str]:
    differences = result.differences()
    if len(result.results) == 1:
        return []
    if not differences:
        return [f"No differences: they are taken against {result.baseline}, which did not run."]
    rows = [["scheduler", "metric", *DIFFERENCE_COLUMNS]]
    rows += [[one.scheduler, one.metric, *difference_cells(one)] for one in differences]
    if result.n_draws:
        rows[0] += CALIBRATED_COLUMNS
    return [f"Against {differences[0].baseline}, replication by replication\n" + aligned(rows)]


def difference_cells(difference: Difference) -> list[str]:
    """Difference and verdict; where latency was drawn, also both with calibration error."""
    interval, calibrated = difference.interval, difference.calibrated
    mean = "-" if math.isnan(interval.mean) else f"{interval.mean:+.4g}"
    cells = [f"{mean} {_ends(interval, '+')}".rstrip(), difference.verdict]
    if calibrated is not None:
        cells += [_ends(calibrated, "+") or "-", difference.calibrated_verdict or "-"]
    return cells


def _ends(interval: Interval, sign: str = "") -> str:
    """The interval in brackets; nothing where there is none."""
    if math.isnan(interval.low):
        return ""
    return f"[{interval.low:{sign}.4g}, {interval.high:{sign}.4g}]"


def _range(result: SchedulerResult, metric: str) -> str:
    interval = result.calibrated(metric)
    return "-" if interval is None else _ends(interval) or "-"


def _cell(result: SchedulerResult, metric: str) -> str:
    interval = result.interval(metric)
    if math.isnan(interval.low) or interval.low == interval.high:
        return number(interval.mean)
    return f"{number(interval.mean)} ± {_digits(interval.half_width, 2)}"


def number(value: object) -> str:
    """A value for a table: four significant digits of a float, a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return _digits(value, 4) if isinstance(value, float) else str(value)


def _digits(value: float, digits: int) -> str:
    """So many significant digits, but no powers of ten where a plain number is as short."""
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def check_figure_path(path: Path) -> None:
    """Fail before the runs if the figure cannot be written."""
    if path.suffix.lower() not in FIGURE_SUFFIXES:
        raise ValueError(f"a figure must end in {', '.join(FIGURE_SUFFIXES)}; got {str(path)!r}")
    check_output(path, "a figure")
    keep_inputs([path])


def save_comparison(result: Comparison, path: Path) -> None:
    """Draw the comparison and write it, all at once."""
    from llmsched.figures.comparison import scheduler_comparison

    summary = result.results[0].summaries[0]
    title = f"{summary['requests']} requests of {summary['trace']}, {result.n_gpus} GPUs each"
    caption = (
        f"Points: means over {len(result.seeds)} replications; bars: 95% intervals of the mean. "
        f"SLA {summary['sla_s']:g} s. Latency model: {result.latency.name} ({result.latency.kind})."
    )
    if result.n_draws:
        caption += (
            f"\nThin bars: with calibration error, over {result.n_draws} draws of the latency."
        )
    figure = scheduler_comparison(result.to_frame(), title=title, caption=caption)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Write a plotnine figure, all at once; `OutputError` if that fails."""
    import warnings

    with whole_file(path, suffix=path.suffix.lower()) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plotnine's notes on saving
        figure.save(partial, verbose=False, dpi=150)
