"""Progress of a sweep on stderr: one line per finished run, and a bar where there is a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from llmsched._notes import Notes

if TYPE_CHECKING:
    from llmsched.sweep import RunRecord


@contextmanager
def sweep_progress() -> Iterator[Callable[[RunRecord], None]]:
    """Give the `on_done` of a sweep: it prints each run, and each kind of note once.

    On a terminal one bar below shows the share of the requests that are done and the remaining
    time; it moves by requests, not by runs, since runs differ in size a thousandfold.
    """
    import sys

    shown = Notes()
    if not sys.stderr.isatty():

        def plain(record: RunRecord) -> None:
            for line in [run_line(record), *_new_notes(record, shown)]:
                click.echo(line, err=True)

        yield plain
        for line in shown.repeated():
            click.echo(f"Note: {line}", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        Remaining(),
    )
    console = Console(stderr=True)
    # a run may take minutes: its step counts for as long as the sweep goes on
    with Progress(*columns, console=console, transient=True, speed_estimate_period=math.inf) as bar:
        task = bar.add_task("runs", total=1.0)

        def draw(record: RunRecord) -> None:
            for line in [run_line(record), *_new_notes(record, shown)]:
                bar.console.print(line, markup=False, highlight=False)
            runs = f"{record.n_done} of {record.n_total} runs"
            bar.update(task, completed=record.work_done, description=runs)

        yield draw
        for line in shown.repeated():
            bar.console.print(f"Note: {line}", markup=False, highlight=False)


def run_line(record: RunRecord) -> str:
    """One finished or failed run in one line."""
    config = record.config
    what = f"{config.scheduler}, {config.n_gpus:g} GPUs, seed {config.seed}"
    count = f"[{record.n_done}/{record.n_total}]"
    if record.error is not None:
        return f"{count} FAILED {what}: {record.error}"
    row = record.row
    return (
        f"{count} {row['trace']}, {row['requests']} requests, {what}, {row['bins']} bins: "
        f"violations {row['sla_violation_rate']:.1%}, {row['load_label']}, "
        f"{record.wall_s:.1f} s"
    )


def _new_notes(record: RunRecord, shown: Notes) -> list[str]:
    """The run's warnings of which nothing alike was shown before."""
    return [f"Note: {note}" for note in shown.extend(record.row.get("notes", ()))]
