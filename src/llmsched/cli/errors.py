"""Errors in one line, warnings as notes, and inputs that no output may replace."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from llmsched._util.files import OutputError
from llmsched._util.notes import Notes


class InputError(click.ClickException):
    """Input that cannot be used: one line on stderr, exit code 2."""

    exit_code = 2


class OneLineErrors(click.Command):
    """A command whose errors end in one line, without a traceback.

    Exit code 2 means that the input cannot be used, 1 that the run failed.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show warnings as notes on stderr."""
        try:
            with notes_on_stderr():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # nobody reads on, as after `| head`: click ends quietly
        except OutputError as error:
            raise click.ClickException(str(error)) from error
        except MemoryError as error:
            message = "the run needs more memory than there is; ask for fewer --requests"
            raise click.ClickException(message) from error
        except (ValueError, OSError) as error:
            raise InputError(" ".join(str(error).split())) from error


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print our warnings as `Note: ...` lines, each kind once, and at the end how often it came.

    Others are faults and look like it.
    """
    shown = Notes()
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *details: Any, **more: Any) -> None:
        if not issubclass(category, UserWarning):
            usual(message, category, *details, **more)
        elif shown.add(str(message)):
            click.echo(f"Note: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
    for line in shown.repeated():
        click.echo(f"Note: {line}", err=True)


def keep_inputs(outputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Fail if an output would replace a file that the running command reads, under any name."""
    for title, source in _inputs(click.get_current_context().params):
        for output in outputs:
            if output is not None and _same_file(os.fspath(output), source):
                raise click.UsageError(f"the output would replace the {title} {source}")


def _inputs(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a command reads, by what it is: its trace or profile, and its latency grid."""
    from llmsched.workload.profiles import profile_names

    for name in ("file", "workload__source"):
        if (trace := params.get(name)) and trace not in profile_names():
            yield "trace", trace
    if latency := params.get("hardware__latency") or params.get("latency"):
        grid, mark, _ = latency.rpartition("#")
        yield "latency grid", grid if mark and not Path(latency).is_file() else latency


def _same_file(output: str, source: str) -> bool:
    if os.path.realpath(output) == os.path.realpath(source):
        return True
    try:
        return os.path.samefile(output, source)
    except OSError:  # one of them is not there, so they differ
        return False
