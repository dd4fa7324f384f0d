"""What the numbers of a workload profile must be: one line that names the key."""

from __future__ import annotations

import math
import re

from llmsched.workload.trace import TraceError

HOURS_PER_DAY = 24
_MOST_AT_ONCE = 1e7  # requests of one phase, or of one family of jobs on an ordinary day
_BOUNDS = {  # of numbers, by what their keys end in; the classes below know more
    r"log_mean$": (-10.0, 20.0),
    r"log_sd": (-10.0, 10.0),
    r"rate.*_per_s$": (-1.0, 1e6),
    r"_per_day$": (-1.0, 1e7),
    r"_s$": (-1.0, 1e8),
    r"tokens$|batch_size$": (-1.0, 1e9),
    r"": (-1e6, 1e6),
}


def require_bounds(key: str, value: float) -> None:
    """Fail for a number that no workload means, before it fills the memory."""
    name = re.sub(r"\[\d+\]$", "", key).rpartition(".")[2]
    low, high = next(bounds for pattern, bounds in _BOUNDS.items() if re.search(pattern, name))
    if value < low or value > high:  # not NaN: the type says what it must be
        long = isinstance(value, int) and value.bit_length() > 256
        given = "a number of more than 70 digits" if long else f"{value}"
        raise TraceError(f"{key} must lie within {low:g}..{high:g}, got {given}")


def require(holds: bool, key: str, rule: str, value: object) -> None:
    """Fail unless it holds."""
    if not holds:
        raise TraceError(f"{key} must be {rule}, got {value}")


def require_few(requests: float, key: str) -> None:
    """Fail for more requests than a profile may send at once."""
    require(requests <= _MOST_AT_ONCE, key, f"at most {_MOST_AT_ONCE:g} requests", requests)


def require_reach(log_mean: float, log_sd: float, low: float, high: float, key: str) -> None:
    """Fail unless a lognormal of these logs has some of its mass between the bounds."""
    lowest = math.log(low) if low > 0 else -math.inf
    nearest = min(max(log_mean, lowest), math.log(high))
    rule = f"within 7 log_sd of the values {low:g} to {high:g}"
    require(abs(log_mean - nearest) <= 7 * log_sd, key, rule, log_mean)


def require_share(value: float, key: str) -> None:
    """Fail unless it lies within 0..1."""
    require(0 <= value <= 1, key, "within 0..1", value)


def require_hours(profile: tuple[float, ...]) -> None:
    """Fail unless these are 24 weights."""
    require(len(profile) == HOURS_PER_DAY, "hour_profile", "24 numbers long", len(profile))
    require(min(profile) >= 0 < sum(profile), "hour_profile", ">= 0 and not all 0", profile)
