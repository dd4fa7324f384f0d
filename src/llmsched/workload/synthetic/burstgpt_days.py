"""Draws the days of a BurstGPT-like workload: conversations, API jobs, silences.

How the parameters were found is in `workloads/README.md`. Left out: sessions, repeated prompts,
duplicate rows and trends over months.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.workload.synthetic.burstgpt_like import (
    Api,
    BurstGptLike,
    Conversation,
    JobKind,
    Silences,
)
from llmsched.workload.synthetic.profile_checks import HOURS_PER_DAY
from llmsched.workload.synthetic.token_laws import law_tokens, token_counts, truncated_lognormal

MODELS = ("ChatGPT", "GPT-4")
LOG_TYPES = ("Conversation log", "API log")

_DAY_S = 86_400.0
_CodeArray = NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some successive requests; times from any origin, labels as codes."""

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    model: _CodeArray | None = None
    log_type: _CodeArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Requests of one day, unsorted; what is not their time is worked out for those asked for."""

    arrival_s: FloatArray
    columns: Callable[[NDArray[np.intp]], tuple[NDArray[Any], ...]]  # prompt, output, model, log


def burstgpt_days(profile: BurstGptLike, most: int, rng: np.random.Generator) -> Iterator[Block]:
    """One block per day, from `start_hour` of the first, of which the first `most` are wanted.

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
        parts = [_part(carried), _talk_day(profile.conversation, day, talk)]
        for kind, child in zip(api.jobs, families, strict=True):
            parts.append(_job_day(api, kind, level, day, child))
        silences = np.concatenate((silences, _silences_s(profile.silences, day, quiet)))
        arrival_s, order = _in_order(parts, silences)
        begin, end = np.searchsorted(arrival_s, (first_s, (day + 1) * _DAY_S))
        yield _stamped(_rows(parts, order[begin : min(end, begin + most)]), profile.stamp_s)
        most -= int(end - begin)
        carried = _rows(parts, order[end:])
        first_s, day = 0.0, day + 1
        silences = silences[silences[:, 1] > day * _DAY_S]
        rho = api.day_log_correlation
        z = rho * z + (1 - rho**2) ** 0.5 * levels.standard_normal()


def _talk_day(talk: Conversation, day: int, rng: np.random.Generator) -> _Part:
    """The conversation requests of one day, unsorted."""
    from scipy.special import ndtr

    factor = np.exp(talk.day_log_sd * rng.standard_normal() - talk.day_log_sd**2 / 2)
    arrival_s = _starts_s(talk.requests_per_day * factor, talk.hour_profile, day, rng)
    n = len(arrival_s)
    # Gaussian copula: both marginals are exactly the truncated laws
    first = rng.standard_normal(n)
    second = talk.log_correlation * first
    second += (1 - talk.log_correlation**2) ** 0.5 * rng.standard_normal(n)
    failed = rng.random(n) < talk.failure_share
    model = (rng.random(n) < talk.gpt4_share).astype(np.int16)

    def columns(rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
        prompt = _unless(failed[rows], law_tokens(talk.prompt, ndtr(first[rows])))
        output = _unless(failed[rows], law_tokens(talk.output, ndtr(second[rows])))
        return prompt, output, model[rows], np.zeros(len(rows), np.int16)

    return _Part(arrival_s, columns)


def _job_day(api: Api, kind: JobKind, level: float, day: int, rng: np.random.Generator) -> _Part:
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
    batch_s = _batch_times_s(start_s, batches, kind.batch_size / rate_per_s, kind, rng)
    offset_s = np.arange(kind.batch_size) * (kind.batch_spread_s / kind.batch_size)
    arrival_s = (batch_s[:, np.newaxis] + offset_s).ravel()
    job = np.repeat(np.arange(n_jobs), batches * kind.batch_size)

    prompt_log = rng.normal(kind.prompt_log_mean, kind.prompt_log_sd_between, n_jobs)
    output_log = rng.normal(kind.output_log_mean, kind.output_log_sd_between, n_jobs)
    gpt4 = rng.random(n_jobs) < api.gpt4_share
    n = len(arrival_s)
    if kind.long_share:  # two laws for each job: that of most requests, and that of long ones
        job = job + n_jobs * (rng.random(n) < kind.long_share)
        prompt_log = np.concatenate((prompt_log, prompt_log + kind.long_prompt_log_shift))
        output_log = np.concatenate((output_log, output_log + kind.long_output_log_shift))
    prompt_level, output_level = rng.random(n), rng.random(n)
    failed = rng.random(n) < api.failure_share

    def columns(rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
        of, sd_p, sd_o = job[rows], kind.prompt_log_sd_within, kind.output_log_sd_within
        prompt = token_counts(prompt_log, sd_p, api.max_prompt_tokens, prompt_level[rows], of)
        output = token_counts(output_log, sd_o, api.max_output_tokens, output_level[rows], of)
        lost, model = failed[rows], gpt4[of % n_jobs].astype(np.int16)
        return _unless(lost, prompt), _unless(lost, output), model, np.ones(len(rows), np.int16)

    return _Part(arrival_s, columns)


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


def _batch_times_s(
    start_s: FloatArray,
    batches: NDArray[np.intp],
    mean_gap_s: FloatArray,
    kind: JobKind,
    rng: np.random.Generator,
) -> FloatArray:
    """Instants of all batches, job after job: the first at the start, then gamma gaps [s].

    A job that pauses has shorter gaps while it is active, and a pause in some of them: the mean
    gap stays what it is.
    """
    shape = kind.gap_cv**-2
    gap_s = rng.standard_gamma(shape, int(batches.sum()))
    active_gap_s = np.repeat(mean_gap_s * kind.active_share, batches)
    gap_s *= active_gap_s / shape
    if kind.active_share < 1:
        chance = np.minimum(active_gap_s / kind.active_mean_s, 1.0)
        pause_s = active_gap_s / chance * (1 / kind.active_share - 1)
        paused = rng.random(len(gap_s)) < chance
        gap_s += np.where(paused, pause_s * rng.standard_exponential(len(gap_s)), 0.0)
    first = np.cumsum(batches) - batches
    gap_s[first] = 0.0
    elapsed_s = np.cumsum(gap_s)
    elapsed_s += np.repeat(start_s - elapsed_s[first], batches)
    return elapsed_s


def _unless(failed: NDArray[np.bool_], tokens: IntArray) -> IntArray:
    """No tokens where a request failed, either way, as in the real trace."""
    tokens[failed] = 0
    return tokens


def _empty() -> Block:
    codes = np.empty(0, np.int16)
    return Block(np.empty(0), np.empty(0, np.int32), np.empty(0, np.int32), codes, codes)


def _part(block: Block) -> _Part:
    """What a day leaves to the next one."""
    rest = [getattr(block, name) for name in Block.__slots__[1:]]
    return _Part(block.arrival_s, lambda rows: tuple(column[rows] for column in rest))


def _in_order(parts: Sequence[_Part], silences: FloatArray) -> tuple[FloatArray, NDArray[np.intp]]:
    """Times in order of those that fall into no silence, and their rows, part after part."""
    arrival_s = np.concatenate([part.arrival_s for part in parts])
    order = np.argsort(arrival_s, kind="stable")
    arrival_s = arrival_s[order]
    keep = np.ones(len(arrival_s), np.bool_)
    for begin, end in np.searchsorted(arrival_s, silences):
        keep[begin:end] = False
    return arrival_s[keep], order[keep]


def _rows(parts: Sequence[_Part], rows: NDArray[np.intp]) -> Block:
    """These requests, by their rows part after part."""
    kinds = (np.float64, np.int32, np.int32, np.int16, np.int16)
    columns: list[NDArray[Any]] = [np.empty(len(rows), kind) for kind in kinds]
    first = 0
    for part in parts:
        last = first + len(part.arrival_s)
        here = np.flatnonzero((rows >= first) & (rows < last))
        own = rows[here] - first
        for column, values in zip(columns, (part.arrival_s[own], *part.columns(own)), strict=True):
            column[here] = values
        first = last
    return Block(*columns)


def _stamped(block: Block, stamp_s: float) -> Block:
    """The same requests with times cut down to whole stamps."""
    if stamp_s == 0:
        return block
    return replace(block, arrival_s=np.floor(block.arrival_s / stamp_s) * stamp_s)
