"""Progress of work that takes minutes or hours: lines on stderr, and a bar below on a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click


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
    # one step may take minutes: its speed counts for as long as the work goes on
    with Progress(
        *columns, console=console, transient=True, speed_estimate_period=math.inf
    ) as drawn:
        yield LongBar(drawn, label)
