"""Progress of a sweep on stderr: one line per finished run, and a bar where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmsched._notes import Notes
from llmsched.cli.long_bar import long_bar

if TYPE_CHECKING:
    from llmsched.sweep import RunRecord


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
    what = f"{config.scheduler}, {_count(config.n_gpus, 'GPU')}, seed {config.seed}"
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
