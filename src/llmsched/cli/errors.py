"""How a command ends: errors in one line, the exit codes, warnings as notes.

Exit codes: 0 done; 1 the run or the machine failed, or a result could not be written; 2 the input
cannot be used; 130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import click

from llmsched._util.files import OutputError
from llmsched._util.notes import Notes
from llmsched._util.text import printable
from llmsched.cli.command import EveryCommand, near_names

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# what a user can mend in the command line; other faults of files are the machine's
_OF_THE_INPUT = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENODEV, errno.ENXIO, None),
}


class Terminated(KeyboardInterrupt):
    """The process was asked to end by a signal other than Ctrl-C's."""


def terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    """What SIGTERM does while a command runs: it ends as with Ctrl-C, its workers with it."""
    raise Terminated


class InputError(click.ClickException):
    """Input that cannot be used: one line on stderr, exit code 2."""

    exit_code = BAD_INPUT


class OneLineErrors(EveryCommand):
    """A command whose errors end in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show warnings as notes on stderr."""
        try:
            with notes_on_stderr():
                return super().invoke(ctx)
        except KeyboardInterrupt as end:
            click.echo("Interrupted.", err=True)
            code = TERMINATED if isinstance(end, Terminated) else INTERRUPTED
            raise click.exceptions.Exit(code) from end
        except BrokenPipeError:
            raise  # nobody reads on, as after `| head`: click ends quietly
        except MemoryError as error:
            message = "the run needs more memory than there is; ask for fewer --requests"
            raise click.ClickException(message) from error
        except (ValueError, OSError) as error:
            raise _in_one_line(error) from error


def _in_one_line(error: ValueError | OSError) -> click.ClickException:
    text = " ".join(str(error).split())
    if isinstance(error, OutputError | ChildProcessError):
        return click.ClickException(text)
    if isinstance(error, OSError) and error.errno not in _OF_THE_INPUT:
        if error.filename is None and error.strerror:
            text = f"standard output cannot be written ({error.strerror})"
        return click.ClickException(text)
    return InputError(text)


class OneLineGroup(OneLineErrors, click.Group):
    """A group of commands whose usage errors, too, are one line."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command line and end the process with its exit code."""
        if not standalone_mode:
            return self._run(*args, **extra)
        _have_streams()
        sys.exit(_code_of(lambda: self._run(*args, **extra)))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a name; of a wrong one, an error with the names that are near."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = near_names(args[0], self.list_commands(ctx))
            ctx.fail(f"No such command {args[0]!r}{near}")
        return super().resolve_command(ctx, args)

    def _run(self, *args: Any, **extra: Any) -> Any:
        return super().main(*args, **{**extra, "standalone_mode": False})


def _code_of(command: Callable[[], Any]) -> int:
    """The exit code of a command, its error shown."""
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _say(f"Error: {printable(' '.join(error.format_message().split()))}")
        return error.exit_code
    except click.Abort as error:
        _say("Interrupted.")
        return TERMINATED if isinstance(error.__cause__, Terminated) else INTERRUPTED
    except KeyboardInterrupt as end:
        _say("Interrupted.")
        return TERMINATED if isinstance(end, Terminated) else INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return FAILED
    except OSError as error:
        _forget_stdout()
        _say(f"Error: standard output cannot be written ({error.strerror or error})")
        return FAILED


def _say(line: str) -> None:
    with suppress(OSError):  # there may be nobody left to tell
        click.echo(line, err=True)


def _have_streams() -> None:
    """Without stderr a command works unheard; without stdout its result is lost, which it says."""
    if sys.stderr is None:
        sys.stderr = _nowhere()
    if sys.stdout is None:
        sys.stdout = _Closed()


class _Closed(io.StringIO):
    """A standard output that nobody opened."""

    def write(self, _text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _forget_stdout() -> None:
    """Keep Python from flushing what cannot be written when it ends, and from saying so."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, AttributeError, ValueError):
        sys.stdout = _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # while the process lives


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
            _say(f"Note: {printable(str(message))}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
    for line in shown.repeated():
        _say(f"Note: {printable(line)}")


def keep_inputs(outputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Fail if an output would replace a file that the running command reads, under any name."""
    for title, source in _inputs(click.get_current_context().params):
        for output in outputs:
            if output is not None and _same_file(os.fspath(output), source):
                raise click.UsageError(f"the output would replace the {title} {source}")


def _inputs(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a command reads, by what it is: its trace or profile, and its latency grid."""
    from llmsched.workload.synthetic.profiles import profile_names

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
