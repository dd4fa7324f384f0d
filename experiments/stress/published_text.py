"""Markdown for PUBLISHED.md: tables, intervals, and what an interval says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmsched.metrics.intervals import Interval


def head(titles: Sequence[object]) -> list[str]:
    """The two lines that begin a table."""
    return [line(titles), "|---" * len(titles) + "|"]


def line(cells: Sequence[object]) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def number(value: float) -> str:
    """Four digits, never in powers of ten."""
    return f"{value:.{_decimals(abs(value))}f}"


def text(interval: Interval, *, sign: bool = False) -> str:
    """A mean and half its interval, in decimals that give the larger of them four digits."""
    decimals = _decimals(max(abs(interval.mean), interval.half_width))
    return f"{interval.mean:{'+' * sign}.{decimals}f} ± {interval.half_width:.{decimals}f}"


def difference(interval: Interval) -> str:
    """The same, bold where it is larger than its noise."""
    shown = text(interval, sign=True)
    return f"**{shown}**" if interval.significant else shown


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def verdict(interval: Interval, *, falls: str, rises: str) -> str:
    """Which way a difference goes, if it can be told."""
    if not interval.significant:
        return "not significant"
    return falls if interval.mean < 0 else rises


def _decimals(size: float) -> int:
    if not size > 0:
        return 0
    return min(max(3 - math.floor(math.log10(size)), 0), 5)
