"""The aggregates of a BurstGPT-like trace, computed as they were for the real one.

Two of the real files are not plain counts, and are imitated rather than corrected: the hourly file
counts conversations by session (joined when the gap is at most 15 minutes) in the hour where the
session starts, and the daily ones know only whole days.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmsched.workload.trace import Trace

DAY_S = 86_400.0
HOUR_S = 3600.0
SESSION_GAP_S = 900.0

# BurstGPT_1, 61 days, 1,429,737 rows with failures (CC-BY-4.0): counts from the daily and hourly
# files, the rest as published for the whole trace; the stamps' ties come from a busy window.
REAL: dict[str, float] = {
    "mean rate [1/s]": 0.271,
    "requests per day, mean": 23_438,
    "requests per day, median": 14_457,
    "requests per day, sd of the log": 1.14,
    "requests per day, lag-1 correlation of the log": 0.56,
    "requests per hour, p5": 3,
    "requests per hour, p25": 144,
    "requests per hour, p50": 517,
    "requests per hour, p75": 1_625,
    "requests per hour, p90": 3_385,
    "requests per hour, p99": 13_658,
    "requests per hour, lag-1 correlation": 0.67,
    "share of requests in the busiest 1 % of hours": 0.18,
    "share of requests in the busiest 10 % of hours": 0.59,
    "rate a request sees, p10 [1/s]": 0.21,
    "rate a request sees, p50 [1/s]": 0.96,
    "rate a request sees, p90 [1/s]": 4.6,
    "rate a request sees, p99 [1/s]": 9.3,
    "hours without a session start, share": 0.285,
    "silences over 1 h, per day": 0.80,
    "longest silence [h]": 4.2,
    "CV of the gaps": 13.28,
    "prompt tokens, mean": 611,
    "prompt tokens, sd": 782,
    "prompt tokens, q25": 137,
    "prompt tokens, q50": 251,
    "prompt tokens, q75": 758,
    "output tokens, mean": 123,
    "output tokens, sd": 268,
    "output tokens, q25": 7,
    "output tokens, q50": 34,
    "output tokens, q75": 134,
    "prompt tokens of API rows, mean": 600,
    "output tokens of API rows, mean": 105,
    "log correlation of conversations": 0.27,
    "conversation, share of rows": 0.104,
    "GPT-4, share of rows": 0.153,
    "failures, share of rows": 0.0178,
    "failures, share of conversations": 0.04,
    "tied stamps in busy hours, share": 0.84,
}


def aggregates(trace: Trace, start_hour: float) -> dict[str, float]:
    """What `REAL` holds, for a trace that begins at `start_hour` of a day."""
    if trace.model is None or trace.log_type is None:
        raise ValueError(f"trace {trace.name!r} must have models and log types")
    return _rates(trace, start_hour) | _lengths(trace) | _kinds(trace)


def daily_counts(trace: Trace, start_hour: float) -> NDArray[np.int64]:
    """Requests of each whole day, shape (days,)."""
    day = np.floor((trace.arrival_s + start_hour * HOUR_S) / DAY_S).astype(np.intp)
    return np.bincount(day)[1:-1]


def session_hours(trace: Trace, start_hour: float) -> NDArray[np.int64]:
    """Requests by the hour in which their session starts, as in the real hourly file."""
    chat = trace.log_type.codes == 0
    starts_s = trace.arrival_s.copy()
    chat_s = trace.arrival_s[chat]
    first = np.flatnonzero(np.diff(chat_s, prepend=-np.inf) > SESSION_GAP_S)
    starts_s[chat] = np.repeat(chat_s[first], np.diff(first, append=len(chat_s)))
    return np.bincount(((starts_s + start_hour * HOUR_S) // HOUR_S).astype(np.intp))[
        int(start_hour) : -1
    ]


def hour_of_day(trace: Trace, start_hour: float) -> NDArray[np.float64]:
    """Mean requests per hour of day over the whole days, shape (24,)."""
    hour = ((trace.arrival_s + start_hour * HOUR_S) // HOUR_S).astype(np.intp)
    days = hour[-1] // 24
    return np.bincount(hour, minlength=24 * days)[24 : 24 * days].reshape(-1, 24).mean(axis=0)


def rate_seen(hourly: NDArray[np.int64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles over requests of the mean rate of the hour they fall in [1/s]."""
    order = np.sort(hourly)
    share = np.cumsum(order) / order.sum()
    return order[np.searchsorted(share, levels)] / HOUR_S


def _rates(trace: Trace, start_hour: float) -> dict[str, float]:
    days = daily_counts(trace, start_hour)
    log_days = np.log(np.maximum(days, 1))
    hourly = session_hours(trace, start_hour)
    busiest = np.sort(hourly)[::-1]
    share = np.cumsum(busiest) / busiest.sum()
    gaps_s = np.diff(trace.arrival_s)
    seen = rate_seen(hourly, np.array([0.1, 0.5, 0.9, 0.99]))
    result = {
        "mean rate [1/s]": len(trace) / trace.span_s,
        "requests per day, mean": days.mean(),
        "requests per day, median": np.median(days),
        "requests per day, sd of the log": log_days.std(ddof=1),
        "requests per day, lag-1 correlation of the log": _lag1(log_days),
        "requests per hour, lag-1 correlation": _lag1(hourly),
        "share of requests in the busiest 1 % of hours": share[len(share) // 100],
        "share of requests in the busiest 10 % of hours": share[len(share) // 10],
        "hours without a session start, share": np.mean(hourly == 0),
        "silences over 1 h, per day": np.sum(gaps_s > HOUR_S) / (trace.span_s / DAY_S),
        "longest silence [h]": gaps_s.max() / HOUR_S,
        "CV of the gaps": gaps_s.std() / gaps_s.mean(),
    }
    for level in (5, 25, 50, 75, 90, 99):
        result[f"requests per hour, p{level}"] = np.percentile(hourly[hourly > 0], level)
    for level, rate in zip((10, 50, 90, 99), seen, strict=True):
        result[f"rate a request sees, p{level} [1/s]"] = rate
    return {key: float(value) for key, value in result.items()}


def _lengths(trace: Trace) -> dict[str, float]:
    api = trace.log_type.codes == 1
    chat = ~api & (trace.output_tokens > 0)
    logs = np.log(trace.prompt_tokens[chat]), np.log(trace.output_tokens[chat])
    result = {"log correlation of conversations": np.corrcoef(*logs)[0, 1]}
    for name, tokens in (("prompt", trace.prompt_tokens), ("output", trace.output_tokens)):
        result[f"{name} tokens, mean"] = tokens.mean()
        result[f"{name} tokens, sd"] = tokens.std()
        result[f"{name} tokens of API rows, mean"] = tokens[api].mean()
        for level in (25, 50, 75):
            result[f"{name} tokens, q{level}"] = np.percentile(tokens, level)
    return {key: float(value) for key, value in result.items()}


def _kinds(trace: Trace) -> dict[str, float]:
    chat = trace.log_type.codes == 0
    failed = trace.output_tokens == 0
    return {
        "conversation, share of rows": float(chat.mean()),
        "GPT-4, share of rows": float((trace.model.codes == 1).mean()),
        "failures, share of rows": float(failed.mean()),
        "failures, share of conversations": float(failed[chat].mean()),
        "tied stamps in busy hours, share": tied_in_busy_hours(trace),
    }


def tied_in_busy_hours(trace: Trace) -> float:
    """Share of requests with the stamp of the one before, in hours of 4 to 9.5 req/s."""
    hour = (trace.arrival_s // HOUR_S).astype(np.intp)
    rate_per_s = np.bincount(hour)[hour] / HOUR_S
    busy = (rate_per_s >= 4) & (rate_per_s <= 9.5)
    tied = np.diff(trace.arrival_s, prepend=-1.0) == 0
    return float(tied[busy].mean()) if busy.any() else float("nan")


def rank_lag1(tokens: NDArray[np.int32]) -> float:
    """Rank correlation of successive token counts."""
    from scipy.stats import rankdata

    return _lag1(rankdata(tokens))


def _lag1(x: NDArray[np.float64] | NDArray[np.int64]) -> float:
    return float(np.corrcoef(x[:-1], x[1:])[0, 1])
