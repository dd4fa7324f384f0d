"""Results as text for a terminal, and the figure of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched._util.files import check_output, whole_file
from llmsched.cli.errors import keep_inputs

if TYPE_CHECKING:
    from llmsched.simulation.comparison.results import Comparison
    from llmsched.workload.trace import Trace

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")


def left_out_notes(trace: Trace) -> None:
    """Say on stderr which requests of the source do not take part, and why."""
    for note in trace.notes:
        click.echo(f"Note: {note}", err=True)
    for rule, count in trace.left_out:
        click.echo(f"Left out: {count} ({rule})", err=True)


def percent(share: float, digits: int = 3) -> str:
    """A share in percent, without needless digits."""
    return f"{_digits(100 * share, digits)} %"


def number(value: object) -> str:
    """A value for a table: four significant digits of a float, a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return _digits(value, 4) if isinstance(value, float) else str(value)


def _digits(value: float, digits: int) -> str:
    """So many significant digits, but no powers of ten where a plain number is as short."""
    plain = 10**digits - 0.5 <= abs(value) < 1e9  # what is rounded up to a power of ten, too
    return f"{value:.0f}" if plain else f"{value:.{digits}g}"


def aligned(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """Columns of equal width: some to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
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
        f"Points: typical values over {len(result.seeds)} replications; bars: 95% intervals. "
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
