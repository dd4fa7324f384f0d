"""Numbers and their intervals as a person writes them: the digits that intervals support."""

from __future__ import annotations

import math

from llmsched.metrics.intervals import Interval
from llmsched.metrics.registry import METRICS
from llmsched.metrics.scales import scale_of

MOST_DIGITS = 1e7  # from here on a value is written as 1.2e+07


def is_share(metric: str) -> bool:
    """Whether a metric is said in per cent."""
    return scale_of(metric) == "logit"


def head_of(metric: str) -> str:
    """The head of a metric's column, with its unit."""
    if metric == "sla_violation_rate":
        return "late [%]"
    if is_share(metric):
        return f"{METRICS[metric].title} [%]"
    return METRICS[metric].axis.replace("requests/s", "/s") if metric in METRICS else metric


def level_text(interval: Interval, metric: str) -> str:
    """A typical value with the ends of its interval: `94 (88-97)`; `-` where there is none."""
    times = 100.0 if is_share(metric) else 1.0
    mean, low, high = (times * x for x in (interval.mean, interval.low, interval.high))
    if math.isnan(mean):
        return "-"
    if math.isnan(low) or low == high:
        return plain(mean, abs(mean) / 1000)
    return with_ends(mean, low, high)


def with_ends(mean: float, low: float, high: float) -> str:
    """`94 (88-97)`: the ends in the digits that the interval supports, the value in two or more."""
    step = (high - low) / 10
    return f"{plain(mean, min(step, abs(mean) / 10))} ({plain(low, step)}-{plain(high, step)})"


def change_text(interval: Interval, metric: str) -> str:
    """A difference with its interval: per cent of times and rates, points of shares."""
    scale = scale_of(metric)
    times, unit = (1.0, METRICS[metric].unit) if scale == "linear" else (100.0, "%")
    unit = "points" if scale == "logit" else unit
    mean, low, high = (times * x for x in (interval.mean, interval.low, interval.high))
    if math.isnan(mean):
        return "-"
    if math.isnan(low) or low == high:
        return f"{signed(mean, max(abs(mean) / 100, 1e-6)) if mean else 0} {unit}"
    step = (high - low) / 10
    return f"{signed(mean, step)} ({signed(low, step)} to {signed(high, step)}) {unit}"


def plain(value: float, step: float) -> str:
    """The value to the decimals that steps of this size are seen in."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "-"
    if abs(value) >= MOST_DIGITS:
        return f"{value:.2g}"
    decimals = max(0, -math.floor(math.log10(step))) if 0 < step < math.inf else 2
    return f"{value:.{min(decimals, 6)}f}"


def signed(value: float, step: float) -> str:
    """The same with its sign; no sign for what is shown as nothing."""
    text = plain(value, step)
    if text != "-" and not float(text):
        return text.removeprefix("-")
    return text if text.startswith("-") else f"+{text}"
