"""What the commands share: errors in one line, warnings as notes, progress on a terminal."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click


class InputError(click.ClickException):
    """Input that cannot be used: one line on stderr, exit code 2."""

    exit_code = 2


class OneLineErrors(click.Command):
    """A command whose input errors end in one line and exit code 2, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show warnings as notes on stderr."""
        try:
            with notes_on_stderr():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # nobody reads on, as after `| head`: click ends quietly
        except (ValueError, OSError) as error:
            raise InputError(" ".join(str(error).split())) from error


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print our warnings as `Note: ...` lines, each once."""
    shown: set[str] = set()

    def show(message: Warning | str, *_details: object, **_more: object) -> None:
        text = str(message)
        if text not in shown:
            shown.add(text)
            click.echo(f"Note: {text}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


@contextmanager
def progress_bar(total: int, label: str) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on stderr, fed with the work done so far; None when not a terminal."""
    import sys

    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def scheduler_name(text: str) -> str:
    """The registered scheduler that a text means; a command's spelling, with dashes, will do."""
    from llmsched.schedulers import SCHEDULERS

    wanted = text.strip()
    spelled = (name for name in SCHEDULERS if name.replace("_", "-") == wanted.replace("_", "-"))
    return next(spelled, wanted)


def positive(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A finite number above 0."""
    return _checked(context, option, value, lambda number: number > 0, "> 0")


def not_negative(
    context: click.Context, option: click.Parameter, value: float | None
) -> float | None:
    """A finite number, 0 or more."""
    return _checked(context, option, value, lambda number: number >= 0, ">= 0")


def _checked(
    context: click.Context,
    option: click.Parameter,
    value: float | None,
    holds: Callable[[float], bool],
    rule: str,
) -> float | None:
    if value is None or (math.isfinite(value) and holds(value)):
        return value
    message = f"must be a finite number {rule}, got {value:g}"
    raise click.BadParameter(message, ctx=context, param=option)


def window(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[float, float] | None:
    """START:END in seconds, either of which may be left out."""
    if text is None:
        return None
    start_text, colon, end_text = text.partition(":")
    try:
        start_s, end_s = float(start_text or 0), float(end_text or "inf")
    except ValueError:
        start_s = end_s = float("nan")
    if not (colon and 0 <= start_s < end_s):
        message = f"must be START:END seconds with 0 <= START < END, got {text!r}"
        raise click.BadParameter(message, ctx=context, param=option)
    return start_s, end_s


def gpu_count(context: click.Context, option: click.Parameter, text: str) -> float:
    """A whole number of GPUs, or infinitely many."""
    if text == "inf":
        return math.inf
    if not text.isdecimal() or int(text) < 1:
        message = f"must be a whole number >= 1 or inf, got {text!r}"
        raise click.BadParameter(message, ctx=context, param=option)
    return int(text)
