"""Where the command begins: an interrupt ends it in one line, even while Python still imports.

A module of its own, so that nothing of the package is imported before.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    """End while nothing is there yet that would have to be put in order."""
    if sys.stderr is not None:
        os.write(2, b"Interrupted.\n")
    os._exit(128 + number)


def _on(number: signal.Signals, handler: signal._HANDLER) -> None:
    if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
        signal.signal(number, handler)


_on(signal.SIGINT, _end_at_once)
_on(signal.SIGTERM, _end_at_once)


def main() -> None:
    """Run the command line."""
    from llmsched.cli.errors import terminated
    from llmsched.cli.main import main as command

    _on(signal.SIGINT, signal.default_int_handler)
    _on(signal.SIGTERM, terminated)
    try:
        command()
    except SystemExit as end:
        if end.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            _end_with(end.code)
        raise
    except RuntimeError as error:  # Python 3.11's wrapping of one in `__set_name__`, in an import
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        os.write(2, b"Interrupted.\n")
        _end_with(128 + signal.SIGINT)


def _end_with(code: int) -> None:
    """End with this very code.

    Python would end by the signal instead, where the interrupt came while a C extension ran code
    from a string, as some do when they are imported.
    """
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
