"""How the stress plan's sentences word numbers: rates with intervals, loads, counts."""

from __future__ import annotations

import math
from typing import Any


def interval_text(row: Any) -> str:
    """A violation rate in per cent, with its interval, cut at what a share can be."""
    if math.isnan(row.low) or row.low == row.high:
        return percent(row.mean)
    low, high = max(row.low, 0.0), min(row.high, 1.0)
    return f"{percent(row.mean)} [{100 * low:.3g}, {100 * high:.3g}]"


def difference_text(row: Any, *, of_shares: bool = False) -> str:
    """A difference with its interval; in points where it is one of shares."""
    scale, unit = (100, " points") if of_shares else (1, "")
    if math.isnan(row.low) or row.low == row.high:
        return f"{scale * row.mean:+.3g}{unit}"
    return f"{scale * row.mean:+.3g}{unit} [{scale * row.low:+.3g}, {scale * row.high:+.3g}]"


def load_text(row: Any) -> str:
    """The load and its label: `ρ 0.63, backlogged`; no load where all arrive at one instant."""
    load = "infinite" if math.isnan(row.offered_load) else f"{row.offered_load:.3g}"
    return f"ρ {load}, {label_text(row)}"


def label_text(row: Any) -> str:
    """A point's label, and how many of its replications have it where not all do."""
    return row.load_label if row.n_label == row.n else f"{row.load_label} {row.n_label} of {row.n}"


def percent(share: float) -> str:
    """A share in per cent, three digits."""
    return f"{100 * share:.3g} %"


def points(share: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share:.3g} points"


def number(value: float) -> str:
    """Three significant digits, no powers of ten below a billion."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def gpus(count: float) -> str:
    """`1 GPU`, `4 GPUs`."""
    return f"{count:.0f} GPU{'' if count == 1 else 's'}"


def bins_text(count: float) -> str:
    """`1 bin`, `4 bins`."""
    return f"{count:.0f} bin{'' if count == 1 else 's'}"
