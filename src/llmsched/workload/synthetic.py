"""Synthetic workloads: draws a `Trace` from a profile, vectorised, whole blocks at a time.

Four models: Poisson, gamma bursts, ON/OFF, and a BurstGPT-like mixture of a conversation stream
and API jobs whose parameters come from the real trace (`workloads/README.md`). Laws are what they
say: a truncated law is sampled by its own inverse distribution function, nothing is clipped.

Each concern (arrivals, lengths, one job family, ...) draws from its own child of the caller's
generator, block after block. So the same seed gives the same bytes, and a longer trace begins
with the shorter one. Left out: sessions, repeated prompts, duplicate rows and trends over months.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import given_up
from llmsched._util.types import FloatArray, IntArray
from llmsched.workload.profiles import (
    HOURS_PER_DAY,
    Api,
    BurstGptLike,
    Conversation,
    GammaBursts,
    JobKind,
    OnOff,
    Poisson,
    Profile,
    Silences,
    TokenLaw,
    load_profile,
    profile_names,
)
from llmsched.workload.token_laws import token_counts, truncated_lognormal
from llmsched.workload.trace import Labels, Trace

__all__ = ["generate", "load_profile", "profile_names"]

MODELS = ("ChatGPT", "GPT-4")
LOG_TYPES = ("Conversation log", "API log")

_BLOCK = 1 << 16  # requests (or ON/OFF cycles) per block of the simple profiles
_DAY_S = 86_400.0
_CodeArray = NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Some successive requests; times from any origin, labels as codes."""

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    model: _CodeArray | None = None
    log_type: _CodeArray | None = None


def generate(profile: Profile, n_requests: int, rng: np.random.Generator) -> Trace:
    """The first `n_requests` raw rows of a workload, in real time.

    Parameters
    ----------
    profile : Profile
        What `load_profile` returns.
    n_requests : int
        Rows to draw, failures (`output_tokens` 0) included; must be >= 1.
    rng : numpy.random.Generator
        Its children are drawn from, it is not.

    Returns
    -------
    Trace
        Arrivals in seconds from the first one; labels where the profile has them.

    Raises
    ------
    ValueError
        If `n_requests` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> trace = generate(load_profile("burstgpt-like"), 1000, np.random.default_rng(0))
    >>> len(trace), trace.log_type.names
    (1000, ('Conversation log', 'API log'))
    """
    if n_requests < 1:
        raise ValueError(f"n_requests must be >= 1, got {n_requests}")
    arrival_s = np.empty(n_requests)
    prompt, output = np.empty(n_requests, np.int32), np.empty(n_requests, np.int32)
    model, log_type = np.zeros(n_requests, np.int16), np.zeros(n_requests, np.int16)
    labelled, filled = False, 0
    for block in _blocks(profile, rng):
        rows = slice(filled, min(filled + len(block.arrival_s), n_requests))
        taken = rows.stop - rows.start
        arrival_s[rows] = block.arrival_s[:taken]
        prompt[rows], output[rows] = block.prompt_tokens[:taken], block.output_tokens[:taken]
        if block.model is not None and block.log_type is not None:
            model[rows], log_type[rows] = block.model[:taken], block.log_type[:taken]
            labelled = True
        filled = rows.stop
        if filled == n_requests:
            break
    arrival_s -= arrival_s[0]
    return Trace(
        arrival_s=given_up(arrival_s),
        prompt_tokens=given_up(prompt),
        output_tokens=given_up(output),
        model=Labels(codes=given_up(model), names=MODELS) if labelled else None,
        log_type=Labels(codes=given_up(log_type), names=LOG_TYPES) if labelled else None,
        name=profile.name,
    )


def _blocks(profile: Profile, rng: np.random.Generator) -> Iterator[_Block]:
    """Endless blocks of requests in order of arrival."""
    if isinstance(profile, BurstGptLike):
        yield from _burstgpt_days(profile, rng)
        return
    gaps, lengths = rng.spawn(2)
    for arrival_s in _arrivals(profile, gaps):
        n = len(arrival_s)
        prompt = _law_tokens(profile.prompt, lengths.random(n))
        yield _Block(arrival_s, prompt, _law_tokens(profile.output, lengths.random(n)))


def _arrivals(
    profile: Poisson | GammaBursts | OnOff, rng: np.random.Generator
) -> Iterator[FloatArray]:
    match profile:
        case Poisson():
            return _renewals(profile.rate_per_s, 1.0, rng)
        case GammaBursts():
            return _renewals(profile.rate_per_s, profile.gap_cv, rng)
        case OnOff():
            return _on_off(profile, rng)


def _renewals(rate_per_s: float, gap_cv: float, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Arrivals with independent gamma gaps of mean 1/rate and that coefficient of variation."""
    shape, now_s = gap_cv**-2, 0.0
    while True:
        arrival_s = rng.standard_gamma(shape, _BLOCK)
        arrival_s /= shape * rate_per_s
        arrival_s[0] += now_s
        np.cumsum(arrival_s, out=arrival_s)
        now_s = float(arrival_s[-1])
        yield arrival_s


def _on_off(profile: OnOff, rng: np.random.Generator) -> Iterator[FloatArray]:
    """A two-state Markov-modulated Poisson process, from the start of an ON phase."""
    phases, counts, places = rng.spawn(3)
    rate_per_s = np.array([profile.on_rate_per_s, profile.off_rate_per_s])
    now_s = 0.0
    per_cycle = profile.on_rate_per_s * profile.on_mean_s
    cycles = int(np.clip(_BLOCK / max(per_cycle, 1e-9), 16, _BLOCK))  # about a block of requests
    while True:
        length_s = phases.standard_exponential((cycles, 2))
        length_s *= (profile.on_mean_s, profile.off_mean_s)
        end_s = now_s + np.cumsum(length_s.ravel())
        start_s = np.concatenate(([now_s], end_s[:-1]))
        k = counts.poisson((length_s * rate_per_s).ravel())
        arrival_s = np.repeat(start_s, k)
        arrival_s += places.random(len(arrival_s)) * np.repeat(length_s.ravel(), k)
        arrival_s.sort()
        now_s = float(end_s[-1])
        yield arrival_s


def _burstgpt_days(profile: BurstGptLike, rng: np.random.Generator) -> Iterator[_Block]:
    """One block per day, from `start_hour` of the first.

    Notes
    -----
    The first day is drawn from midnight and its requests before `start_hour` are dropped. No job
    outlasts that warm-up, so the job process is already stationary when the trace begins. The
    day's log level starts at `day_log_sd` standard deviations above the mean day, the centre of
    the level that a randomly chosen *request* sees (the size-biased lognormal), and wanders back
    to the mean of the days: the trace begins on a day typical of requests, not of the calendar.
    """
    api = profile.api
    levels, quiet, talk, *families = rng.spawn(3 + len(api.jobs))
    z, day, carried, silences = api.day_log_sd, 0, _empty(), np.empty((0, 2))
    first_s = profile.start_hour * 3600.0
    while True:
        level = float(np.exp(api.day_log_sd * z - api.day_log_sd**2 / 2))
        parts = [carried, _talk_day(profile.conversation, day, talk)]
        for kind, child in zip(api.jobs, families, strict=True):
            parts.append(_job_day(api, kind, level, day, child))
        silences = np.concatenate((silences, _silences_s(profile.silences, day, quiet)))
        whole = _without(_sorted(parts), silences)
        begin, end = np.searchsorted(whole.arrival_s, (first_s, (day + 1) * _DAY_S))
        carried = _rows(whole, slice(end, None))
        yield _stamped(_rows(whole, slice(begin, end)), profile.stamp_s)
        first_s, day = 0.0, day + 1
        silences = silences[silences[:, 1] > day * _DAY_S]
        rho = api.day_log_correlation
        z = rho * z + (1 - rho**2) ** 0.5 * levels.standard_normal()


def _talk_day(talk: Conversation, day: int, rng: np.random.Generator) -> _Block:
    """The conversation requests of one day, unsorted."""
    from scipy.special import ndtr

    factor = np.exp(talk.day_log_sd * rng.standard_normal() - talk.day_log_sd**2 / 2)
    arrival_s = _starts_s(talk.requests_per_day * factor, talk.hour_profile, day, rng)
    n = len(arrival_s)
    # Gaussian copula: both marginals are exactly the truncated laws
    first = rng.standard_normal(n)
    second = talk.log_correlation * first
    second += (1 - talk.log_correlation**2) ** 0.5 * rng.standard_normal(n)
    prompt = _law_tokens(talk.prompt, ndtr(first))
    output = _law_tokens(talk.output, ndtr(second))
    _fail(prompt, output, talk.failure_share, rng)
    model = (rng.random(n) < talk.gpt4_share).astype(np.int16)
    return _Block(arrival_s, prompt, output, model, np.zeros(n, np.int16))


def _job_day(api: Api, kind: JobKind, level: float, day: int, rng: np.random.Generator) -> _Block:
    """Every request, unsorted, of the jobs of one family that start on one day."""
    start_s = _starts_s(kind.jobs_per_day * level, api.hour_profile, day, rng)
    n_jobs = len(start_s)
    log_rate = rng.uniform(np.log(kind.rate_min_per_s), np.log(kind.rate_max_per_s), n_jobs)
    rate_per_s = np.exp(log_rate)
    duration_s = truncated_lognormal(
        np.array([kind.duration_log_mean]),
        kind.duration_log_sd,
        0.0,
        kind.duration_max_s,
        rng.random(n_jobs),
    )
    batches = np.maximum(np.rint(rate_per_s * duration_s / kind.batch_size), 1).astype(np.intp)
    batch_s = _batch_times_s(start_s, batches, kind.batch_size / rate_per_s, kind.gap_cv, rng)
    offset_s = np.arange(kind.batch_size) * (kind.batch_spread_s / kind.batch_size)
    arrival_s = (batch_s[:, np.newaxis] + offset_s).ravel()
    job = np.repeat(np.arange(n_jobs), batches * kind.batch_size)

    prompt_log = rng.normal(kind.prompt_log_mean, kind.prompt_log_sd_between, n_jobs)
    output_log = rng.normal(kind.output_log_mean, kind.output_log_sd_between, n_jobs)
    gpt4 = rng.random(n_jobs) < api.gpt4_share
    n = len(arrival_s)
    prompt = token_counts(
        prompt_log, kind.prompt_log_sd_within, api.max_prompt_tokens, rng.random(n), job
    )
    output = token_counts(
        output_log, kind.output_log_sd_within, api.max_output_tokens, rng.random(n), job
    )
    _fail(prompt, output, api.failure_share, rng)
    return _Block(arrival_s, prompt, output, gpt4[job].astype(np.int16), np.ones(n, np.int16))


def _starts_s(
    per_day: float, hour_profile: tuple[float, ...], day: int, rng: np.random.Generator
) -> FloatArray:
    """Poisson instants over one day, `per_day` on average, at a rate that steps every hour [s]."""
    weight = np.asarray(hour_profile)
    k = rng.poisson(per_day * weight / weight.sum())
    hour = np.repeat(np.arange(HOURS_PER_DAY), k)
    starts: FloatArray = day * _DAY_S + 3600.0 * (hour + rng.random(len(hour)))
    return starts


def _silences_s(silences: Silences, day: int, rng: np.random.Generator) -> FloatArray:
    """Start and end of the silences that begin on one day, shape (k, 2) [s]."""
    k = rng.poisson(silences.per_day)
    start_s = (day + rng.random(k)) * _DAY_S
    length_s = silences.min_s + silences.mean_excess_s * rng.standard_exponential(k)
    return np.column_stack((start_s, start_s + length_s))


def _without(block: _Block, silences: FloatArray) -> _Block:
    """The requests, in order of arrival, that fall into no silence."""
    keep = np.ones(len(block.arrival_s), np.bool_)
    for begin, end in np.searchsorted(block.arrival_s, silences):
        keep[begin:end] = False
    return _rows(block, keep)


def _batch_times_s(
    start_s: FloatArray,
    batches: NDArray[np.intp],
    mean_gap_s: FloatArray,
    gap_cv: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Instants of all batches, job after job: the first at the start, then gamma gaps [s]."""
    shape = gap_cv**-2
    gap_s = rng.standard_gamma(shape, int(batches.sum()))
    gap_s *= np.repeat(mean_gap_s / shape, batches)
    first = np.cumsum(batches) - batches
    gap_s[first] = 0.0
    elapsed_s = np.cumsum(gap_s)
    elapsed_s += np.repeat(start_s - elapsed_s[first], batches)
    return elapsed_s


def _law_tokens(law: TokenLaw, uniform: FloatArray) -> IntArray:
    """Token counts of a law at the given levels of its distribution function, shape (n,)."""
    return token_counts(np.array([law.log_mean]), law.log_sd, law.max_tokens, uniform)


def _fail(prompt: IntArray, output: IntArray, share: float, rng: np.random.Generator) -> None:
    """Turn that share of requests into failures: no tokens either way, as in the real trace."""
    failed = rng.random(len(prompt)) < share
    prompt[failed] = 0
    output[failed] = 0


def _empty() -> _Block:
    codes = np.empty(0, np.int16)
    return _Block(np.empty(0), np.empty(0, np.int32), np.empty(0, np.int32), codes, codes)


def _sorted(parts: list[_Block]) -> _Block:
    """All requests of the parts in order of arrival."""
    columns = [np.concatenate(column) for column in zip(*map(_columns, parts), strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return _Block(*(column[order] for column in columns))


def _rows(block: _Block, rows: slice | NDArray[np.bool_]) -> _Block:
    return _Block(*(column[rows] for column in _columns(block)))


def _columns(block: _Block) -> tuple[NDArray[Any], ...]:
    return tuple(getattr(block, name) for name in _Block.__slots__)


def _stamped(block: _Block, stamp_s: float) -> _Block:
    """The same requests with times cut down to whole stamps."""
    if stamp_s == 0:
        return block
    return replace(block, arrival_s=np.floor(block.arrival_s / stamp_s) * stamp_s)
