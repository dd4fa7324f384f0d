"""Calls into code that is not ours: whatever it does, it ends in one line that names it."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

# What a call into a plug-in may raise; Ctrl-C stays what it is.
CALL_ERRORS = (Exception, SystemExit)


class PluginError(ValueError):
    """Somebody else's code raised, or answered what cannot be used; its name comes first."""


def raise_failure(owner: object, method: str, error: BaseException) -> NoReturn:
    """Raise what a call into `owner` raised as one line that names it; what is ours, as it is.

    Raises
    ------
    PluginError
        Unless the owner is of this package.
    """
    if isinstance(error, PluginError) or is_ours(owner):
        raise error
    called = f"{name_of(owner)}.{method}" if method else name_of(owner)
    raise PluginError(f"{called} must not fail, got {said(error)}; mend it there") from error


def said(error: BaseException) -> str:
    """The kind of an error and its text, in one line."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))


def name_of(thing: object) -> str:
    """Module and qualified name of a function or a class; of another object, of its class."""
    while isinstance(thing, partial):
        thing = thing.func
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def is_ours(thing: object) -> bool:
    """Whether something comes from this package."""
    return name_of(thing).startswith("llmsched.")
