"""Schedulers of both levels by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from llmsched.schedulers.iteration.registry import ITERATION_SCHEDULERS
from llmsched.schedulers.registry import SCHEDULERS


def scheduler_names() -> Iterator[str]:
    """Every registered name, batch level first."""
    return chain(SCHEDULERS, ITERATION_SCHEDULERS)


def canonical(text: str) -> str:
    """The registered name that a text means, `-` and `_` being one letter; else the text."""
    wanted = text.strip()
    if wanted in SCHEDULERS or wanted in ITERATION_SCHEDULERS:
        return wanted
    spelled = (name for name in scheduler_names() if _key(name) == _key(wanted))
    return next(spelled, wanted)


def check_scheduler(name: str) -> None:
    """Fail unless a scheduler has this name, and can be loaded.

    Raises
    ------
    ValueError
        With the names there are.
    """
    if name in ITERATION_SCHEDULERS:
        ITERATION_SCHEDULERS.named(name)
    elif name in SCHEDULERS:
        SCHEDULERS.named(name)
    else:
        raise ValueError(f"scheduler must be one of {', '.join(scheduler_names())}; got {name!r}")


def summary(name: str) -> str:
    """What its factory says of it, in a line."""
    registry = ITERATION_SCHEDULERS if name in ITERATION_SCHEDULERS else SCHEDULERS
    text = registry.named(name).__doc__ or "A scheduler of an installed package."
    return text.strip().splitlines()[0]


def _key(name: str) -> str:
    return name.replace("-", "_")
