"""`--timeline FILE`: a run over time, for Perfetto or as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched._util.limits import TIMELINE_EVENTS

if TYPE_CHECKING:
    from llmsched.engine.timeline.base import Timeline
    from llmsched.simulation.run import Run

FIGURES = (".png", ".svg", ".pdf")
FIGURE_EVENTS = 20_000  # more could not be told apart, and take minutes to draw


def _window(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[float, float] | None:
    from llmsched.workload.workload import parse_window

    if text is None:
        return None
    try:
        return parse_window(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context, param=option) from error


TIMELINE = (
    click.option(
        "--timeline",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the run over time: .json for Perfetto, or a figure (.png, .svg, .pdf).",
    ),
    click.option(
        "--timeline-window",
        callback=_window,
        metavar="START:END",
        help="Only this part of the run, in seconds since the first arrival.",
    ),
    click.option(
        "--timeline-events",
        type=click.IntRange(min=1),
        metavar="N",
        help="Slices and samples at most; a note says what is left out.  [default: "
        f"{TIMELINE_EVENTS}, {FIGURE_EVENTS} in a figure]",
    ),
)


def check_timeline(values: Mapping[str, Any]) -> Path | None:
    """Where the timeline goes, checked before the run."""
    from llmsched._util.files import check_output

    path: Path | None = values["timeline"]
    if path is None:
        given = [name for name in ("timeline_window", "timeline_events") if values[name]]
        if given:
            raise click.UsageError(f"--{given[0].replace('_', '-')} needs --timeline FILE")
        return None
    if path.suffix.lower() not in (".json", *FIGURES):
        raise click.UsageError(
            f"--timeline must end in .json, {', '.join(FIGURES)}; got {str(path)!r}"
        )
    check_output(path, "a timeline")
    return path


def most_events(values: Mapping[str, Any]) -> int:
    """Slices and samples that the timeline may hold."""
    drawn = values["timeline"].suffix.lower() in FIGURES
    asked: int | None = values["timeline_events"]
    return asked or (FIGURE_EVENTS if drawn else TIMELINE_EVENTS)


def write_timeline(run: Run, values: Mapping[str, Any]) -> None:
    """Write the file that was asked for, and say what is not in it."""
    path: Path = values["timeline"]
    window = {} if values["timeline_window"] is None else {"window_s": values["timeline_window"]}
    found = run.timeline(most_events=most_events(values), **window)
    if not len(found.slices):
        raise click.ClickException("nothing was served in the time that --timeline is to show")
    if path.suffix.lower() in FIGURES:
        _draw(found, path)
    else:
        found.write(path)
    if found.left_out:
        click.echo(
            f"Note: {found.left_out} events from {found.window_s[1]:.6g} s on are not in {path}; "
            "--timeline-window shows another part, --timeline-events takes more",
            err=True,
        )


def _draw(found: Timeline, path: Path) -> None:
    from llmsched.cli.text import save_figure
    from llmsched.figures.timeline import timeline

    about = found.about
    title = f"{about['scheduler']} on {about['trace']}, seed {about['seed']}"
    caption = f"Latency: {about['latency']}."
    if found.left_out:
        caption += f" {found.left_out} events from {found.window_s[1]:.6g} s on are left out."
    figure = timeline(found.slices_frame(), found.counters_frame(), title=title, caption=caption)
    save_figure(figure, path)
