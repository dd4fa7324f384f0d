"""Progress of a sweep on stderr: one line per finished run, and a bar where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmsched._util.notes import Notes

if TYPE_CHECKING:
    from llmsched.simulation.sweep.sweep import RunRecord
import math
import sys
from typing import Any

import click


@contextmanager
def sweep_progress() -> Iterator[Callable[[RunRecord], None]]:
    """Give the `on_done` of a sweep: it prints each run, and each kind of note once.

    On a terminal one bar below shows the share of the requests that are done and the remaining
    time; it moves by requests, not by runs, since runs differ in size a thousandfold.
    """
    shown = Notes()
    with long_bar("runs") as bar:

        def tell(record: RunRecord) -> None:
            bar.say(run_line(record))
            for note in shown.extend(record.row.get("notes", ())):
                bar.say(f"Note: {note}")
            bar.move(record.work_done, f"{record.n_done} of {record.n_total} runs")

        yield tell
        for line in shown.repeated():
            bar.say(f"Note: {line}")


def run_line(record: RunRecord) -> str:
    """One finished or failed run in one line."""
    config = record.config
    what = f"{config.scheduler}, {_count(config.hardware.n_gpus, 'GPU')}, seed {config.seed}"
    count = f"[{record.n_done}/{record.n_total}]"
    if record.error is not None:
        return f"{count} FAILED {what}: {record.error}"
    row = record.row
    bins = _count(row["bins"], "bin")
    return (
        f"{count} {row['trace']}, {row['requests']} requests, {what}, {bins}: "
        f"violations {row['sla_violation_rate']:.1%}, {row['load_label']}, "
        f"{record.wall_s:.1f} s"
    )


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


class LongBar:
    """Lines, and where there is a terminal a bar with the remaining time below them."""

    def __init__(self, drawn: Any = None, label: str = "") -> None:
        self._drawn = drawn  # a rich Progress; None where there is no terminal
        self._task = None if drawn is None else drawn.add_task(label, total=1.0)

    @property
    def drawn(self) -> bool:
        """Whether a bar shows how far the work is; else lines must."""
        return self._drawn is not None

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._drawn is None:
            click.echo(line, err=True)
        else:
            self._drawn.console.print(line, markup=False, highlight=False)

    def move(self, share: float, label: str) -> None:
        """Draw that this share of the work is done."""
        if self._drawn is not None:
            self._drawn.update(self._task, completed=share, description=label)


@contextmanager
def long_bar(label: str) -> Iterator[LongBar]:
    """A bar for the work inside; it goes when that is done."""
    if not sys.stderr.isatty():
        yield LongBar()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn as Remaining,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        Remaining(),
    )
    console = Console(stderr=True)
    # one step may take minutes: its speed counts for as long as the work goes on
    with Progress(
        *columns, console=console, transient=True, speed_estimate_period=math.inf
    ) as drawn:
        yield LongBar(drawn, label)


@contextmanager
def progress_bar(total: int, label: str) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on stderr, fed with the work done so far; None when not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def download_bar(title: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on stderr for a download, fed with bytes done and in all; None when not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
