"""`llmsched paper`: published papers, redone by simulation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmsched.cli.errors import OneLineErrors
from llmsched.cli.progress import progress_bar
from llmsched.cli.values import SEED

if TYPE_CHECKING:
    from llmsched.studies.multibin.reproduction import Reproduction

F = TypeVar("F", bound=Callable[..., Any])

PER_MILLE = 1000  # the bar starts before the runs are counted


class _Group(OneLineErrors, click.Group):
    """A group whose input errors end in one line."""


@click.group(cls=_Group)
def paper() -> None:
    """Redo the figures of a published paper, and compare them with what it prints."""


def _options(figures: str) -> Callable[[F], F]:
    """What every paper's command is told; `figures` are those that it knows."""
    options = (
        click.option(
            "--figure",
            "numbers",
            multiple=True,
            metavar="N",
            help=f"{figures}; may be repeated; all when not given.",
        ),
        click.option(
            "--quick", is_flag=True, help="Smaller sizes than the paper's: seconds, not minutes."
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Write tables (.csv), pictures (.png) and REPORT.md there.",
        ),
        click.option(
            "--seed",
            type=SEED,
            default=0,
            show_default=True,
            metavar="N",
            help="Of every draw; the same seed gives the same numbers.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            metavar="N",
            help="Processes; all cores when not given. The numbers do not depend on it.",
        ),
        click.option("--checks", is_flag=True, help="Print every value beside the published one."),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@paper.command(cls=OneLineErrors)
@_options("1b, 3, 4, 6, 7, 8, 9, 11 or table-1")
def multibin(**asked: Any) -> None:
    """Guldogan et al., "Multi-Bin Batching", arXiv:2412.04504.

    Settings, one file a figure, are in experiments/multibin/settings.

    \b
    Example: llmsched paper multibin --figure 3 --quick --out out/multibin
    """
    from llmsched.studies.multibin.reproduction import FIGURES, reproduce

    _redo(reproduce, FIGURES, **asked)


@paper.command(cls=OneLineErrors)
@_options("3, 4, table-1, table-2 or algorithm-2")
def dynamic(**asked: Any) -> None:
    """Pang et al., "Memory-aware and SLA-constrained Dynamic Batching", arXiv:2503.05248.

    Settings, one file a figure, are in experiments/dynamic/settings.

    \b
    Example: llmsched paper dynamic --figure table-2 --quick --out out/dynamic
    """
    from llmsched.studies.dynamic.figures import DRAW
    from llmsched.studies.dynamic.reproduction import FIGURES, PAGE, reproduce

    _redo(reproduce, FIGURES, page=PAGE, draw=DRAW, **asked)


def _redo(
    reproduce: Callable[..., Reproduction],
    figures: Mapping[str, object],
    *,
    numbers: tuple[str, ...],
    quick: bool,
    out: Path | None,
    seed: int,
    jobs: int | None,
    checks: bool,
    **report: Any,
) -> None:
    """Redo, write what was asked for, and print the verdicts."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # before the runs, so that nothing is lost
    with progress_bar(PER_MILLE, "runs") as bar:
        done = reproduce(
            numbers or tuple(figures),
            quick=quick,
            seed=seed,
            n_jobs=jobs or os.cpu_count() or 1,
            progress=None if bar is None else lambda n, total: bar(PER_MILLE * n // total),
        )
    if out is not None:
        from llmsched.studies.multibin.report import write

        for path in write(done, out, **report):
            click.echo(f"Note: wrote {path}", err=True)
    _print(done, checks)


def _print(done: Reproduction, with_checks: bool) -> None:
    from llmsched.studies.multibin.report import checks, summary

    tables = [summary(done).drop(columns="what")]
    tables += [checks(figure) for figure in done.figures] if with_checks else []
    for table in tables:
        click.echo(table.to_markdown(index=False, tablefmt="plain", disable_numparse=True))
