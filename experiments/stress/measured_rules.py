"""When a claim holds, when it survives, and how both are shown: the rules of MEASURED.md.

A claim of direction is judged by the 95 % Student-t interval of its paired differences; a finding
that is a count or a place has one value per replication and no interval. Nothing is decided by
hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from llmsched.metrics.intervals import Interval

MARGIN = 1.0  # points or per cent; less than this either way is no difference
HOLDS, REVERSED, NONE, UNTOLD = "holds", "reversed", "no difference", "cannot be told"
YES, NO = "yes", "no"


def verdict(interval: Interval, sign: int) -> str:
    """What the interval says of a claim of this sign.

    `no difference` where all of it lies within the margin, even if it leaves out 0; then `holds`
    or `reversed` where it leaves out 0; else, and for one replication, `cannot be told`.
    """
    if interval.low >= -MARGIN and interval.high <= MARGIN:
        return NONE
    if not interval.significant:
        return UNTOLD
    return HOLDS if interval.mean * sign > 0 else REVERSED


def survival(under_reference: str, measured: str) -> str:
    """Whether the two verdicts agree; nothing is said unless both can be told."""
    if UNTOLD in (under_reference, measured):
        return UNTOLD
    return YES if under_reference == measured else NO


def survival_of_places(under_reference: Mapping[int, float], measured: Mapping[int, float]) -> str:
    """Whether each replication finds the same, or all of them more (or all less).

    Yes if the two agree in every replication, no if the second is larger in all or smaller in
    all, else it cannot be told; nor can it from one replication.
    """
    seeds = sorted(under_reference.keys() & measured.keys())
    first = [under_reference[seed] for seed in seeds]
    second = [measured[seed] for seed in seeds]
    if len(seeds) < 2:
        return UNTOLD
    if first == second:
        return YES
    pairs = list(zip(first, second, strict=True))
    one_way = all(a < b for a, b in pairs) or all(a > b for a, b in pairs)
    return NO if one_way else UNTOLD


def p_value(interval: Interval) -> float:
    """Two-sided, of Student's t against 0; NaN where there is no interval."""
    from scipy.special import stdtr, stdtrit

    if math.isnan(interval.half_width):
        return math.nan
    if interval.half_width == 0:
        return 1.0 if interval.mean == 0 else 0.0
    critical = float(stdtrit(interval.n - 1, (1 + interval.confidence) / 2))
    t = critical * interval.mean / interval.half_width
    return float(2 * stdtr(interval.n - 1, -abs(t)))


def n_after_holm(p_values: Sequence[float], level: float = 0.05) -> int:
    """How many stay significant when all are tested together, by Holm's procedure (1979)."""
    ordered = sorted(p for p in p_values if not math.isnan(p))
    for rank, p in enumerate(ordered):
        if p > level / (len(ordered) - rank):
            return rank
    return len(ordered)


def claim_cell(interval: Interval, sign: int) -> str:
    """The difference with half its interval, and the verdict."""
    if not interval.n:
        return "no run"
    return f"{points_text(interval)}: {verdict(interval, sign)}"


def points_text(interval: Interval, *, sign: bool = True) -> str:
    """A mean in points or per cent with half its interval; alone where it has no width."""
    mean = f"{round(interval.mean, 2) + 0.0:{'+' * sign}.2f}"  # + 0.0: no minus before nothing
    return mean if not interval.half_width > 0 else f"{mean} ± {interval.half_width:.2f}"


def finding_cell(values: Mapping[int, float]) -> str:
    """The value of each replication, in the order of the seeds; one if all agree."""
    shown = [_place(values[seed]) for seed in sorted(values)]
    return f"{shown[0]} (all {len(shown)})" if len(set(shown)) == 1 else ", ".join(shown)


def _place(value: float) -> str:
    return "none" if math.isinf(value) else f"{value:.0f}"


def labels(members: pd.DataFrame) -> str:
    """How many runs have each label, the most frequent first."""
    found = members["load_label"].value_counts().sort_index(kind="stable")
    ordered = found.sort_values(ascending=False, kind="stable")
    return ", ".join(f"{count} {label}" for label, count in ordered.items())
