"""What the commands share: errors in one line, warnings as notes, progress on a terminal."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from llmsched._notes import Notes
from llmsched._whole_files import OutputError

REQUEST_COUNT = click.IntRange(1, 1_000_000_000)
REPLICATIONS = click.IntRange(1, 10_000)
SEED = click.IntRange(0, 2**32 - 1)
BATCH_SIZE = click.IntRange(1, 1_000_000)


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


def keep_inputs(outputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Fail if an output would replace a file that the running command reads, under any name."""
    for title, source in _inputs(click.get_current_context().params):
        for output in outputs:
            if output is not None and _same_file(os.fspath(output), source):
                raise click.UsageError(f"the output would replace the {title} {source}")


def _inputs(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a command reads, by what it is: its trace or profile, and its latency grid."""
    from llmsched.profiles import profile_names

    for name in ("file", "source"):
        if (trace := params.get(name)) and trace not in profile_names():
            yield "trace", trace
    if latency := params.get("latency"):
        grid, mark, _ = latency.rpartition("#")
        yield "latency grid", grid if mark and not Path(latency).is_file() else latency


def _same_file(output: str, source: str) -> bool:
    if os.path.realpath(output) == os.path.realpath(source):
        return True
    try:
        return os.path.samefile(output, source)
    except OSError:  # one of them is not there, so they differ
        return False


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


def rate_factor(
    context: click.Context, option: click.Parameter, value: float | None
) -> float | None:
    """A factor that arrival rates can be multiplied by."""
    from llmsched.preparation import RPS_SCALES

    return _within(context, option, value, RPS_SCALES)


def jitter(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A jitter in seconds."""
    from llmsched.preparation import LONGEST_JITTER_S

    return _within(context, option, value, (0.0, LONGEST_JITTER_S))


def _within(
    context: click.Context,
    option: click.Parameter,
    value: float | None,
    bounds: tuple[float, float],
) -> float | None:
    least, most = bounds
    rule = f"from {least:g} to {most:g}"
    return _checked(context, option, value, lambda number: least <= number <= most, rule)


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
