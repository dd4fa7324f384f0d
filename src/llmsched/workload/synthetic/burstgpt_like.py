"""The values of a BurstGPT-like profile: people chatting, programs that send jobs, silences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from llmsched.workload.synthetic.profile_checks import (
    HOURS_PER_DAY,
    require,
    require_few,
    require_hours,
    require_reach,
    require_share,
)
from llmsched.workload.synthetic.profile_kinds import TokenLaw

_PARTS: tuple[Literal["prompt", "output"], ...] = ("prompt", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """People chatting: Poisson within the hour, a daily rhythm, one length law for all."""

    requests_per_day: float
    day_log_sd: float  # of the lognormal factor between days
    hour_profile: tuple[float, ...]  # rate by hour of day, relative
    failure_share: float
    gpt4_share: float
    log_correlation: float  # of prompt and output, in the Gaussian copula
    prompt: TokenLaw
    output: TokenLaw

    def __post_init__(self) -> None:
        require(self.requests_per_day >= 0, "requests_per_day", ">= 0", self.requests_per_day)
        require(0 <= self.day_log_sd <= 3, "day_log_sd", "within 0..3", self.day_log_sd)
        require_hours(self.hour_profile)
        require_share(self.failure_share, "failure_share")
        require_share(self.gpt4_share, "gpt4_share")
        require(
            -1 < self.log_correlation < 1, "log_correlation", "within -1..1", self.log_correlation
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKind:
    """A family of API jobs: how often they start, how each is paced, how long its requests are.

    A job draws its rate (log-uniform), its duration (truncated lognormal) and its own narrow
    length law: the logs of its prompt and output medians are normal with the `*_between` spread,
    its requests are lognormal around them with the `*_within` spread. A share of the
    requests of each job is longer, prompt and output together, by the `long_*_log_shift`.
    """

    name: str
    jobs_per_day: float
    rate_min_per_s: float
    rate_max_per_s: float
    duration_log_mean: float
    duration_log_sd: float
    duration_max_s: float
    batch_size: int  # requests that one call of the client sends together
    batch_spread_s: float  # time over which they are sent
    gap_cv: float  # of the gamma gaps between batches
    active_share: float  # of a job's time, in which it sends that much faster; 1 is always
    active_mean_s: float  # until a pause, on average
    prompt_log_mean: float
    prompt_log_sd_between: float
    prompt_log_sd_within: float
    output_log_mean: float
    output_log_sd_between: float
    output_log_sd_within: float
    long_share: float
    long_prompt_log_shift: float
    long_output_log_shift: float

    def __post_init__(self) -> None:
        require(self.jobs_per_day >= 0, "jobs_per_day", ">= 0", self.jobs_per_day)
        require(self.rate_min_per_s > 0, "rate_min_per_s", "> 0", self.rate_min_per_s)
        require(
            self.rate_max_per_s >= self.rate_min_per_s,
            "rate_max_per_s",
            f">= rate_min_per_s ({self.rate_min_per_s})",
            self.rate_max_per_s,
        )
        require(self.duration_log_sd > 0, "duration_log_sd", "> 0", self.duration_log_sd)
        require(self.duration_max_s > 0, "duration_max_s", "> 0", self.duration_max_s)
        require(self.batch_size >= 1, "batch_size", ">= 1", self.batch_size)
        require_few(self.batch_size, "batch_size")
        jobs = f"{self.name}: jobs_per_day * rate_max_per_s * duration_max_s"
        require_few(self.jobs_per_day * self.rate_max_per_s * self.duration_max_s, jobs)
        require_reach(
            self.duration_log_mean,
            self.duration_log_sd,
            0.0,
            self.duration_max_s,
            "duration_log_mean",
        )
        require(self.batch_spread_s >= 0, "batch_spread_s", ">= 0", self.batch_spread_s)
        require(0.1 <= self.gap_cv <= 10, "gap_cv", "within 0.1..10", self.gap_cv)
        require(0 < self.active_share <= 1, "active_share", "within 0..1", self.active_share)
        require(self.active_mean_s > 0, "active_mean_s", "> 0", self.active_mean_s)
        require_share(self.long_share, "long_share")
        for part in ("prompt", "output"):
            shift = f"long_{part}_log_shift"
            require(0 <= getattr(self, shift) <= 6, shift, "within 0..6", getattr(self, shift))
            between, within = f"{part}_log_sd_between", f"{part}_log_sd_within"
            middle = getattr(self, f"{part}_log_mean")
            require(middle >= 0, f"{part}_log_mean", ">= 0", middle)
            require(getattr(self, between) <= 3, between, "<= 3", getattr(self, between))
            require(getattr(self, between) >= 0, between, ">= 0", getattr(self, between))
            require(getattr(self, within) > 0, within, "> 0", getattr(self, within))

    def law(self, part: Literal["prompt", "output"]) -> tuple[float, float, float, float]:
        """Log mean, log sd between and within jobs, and log shift of the long ones."""
        names = ("log_mean", "log_sd_between", "log_sd_within")
        middle, between, within = (getattr(self, f"{part}_{name}") for name in names)
        longer = self.long_prompt_log_shift if part == "prompt" else self.long_output_log_shift
        return middle, between, within, longer if self.long_share else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """Programs: independent jobs whose number follows the day and the hour."""

    day_log_sd: float  # log sd of the lognormal level of a day
    day_log_correlation: float  # of the log level between successive days
    hour_profile: tuple[float, ...]  # job starts by hour of day, relative
    failure_share: float
    gpt4_share: float  # of jobs
    max_prompt_tokens: int
    max_output_tokens: int
    jobs: tuple[JobKind, ...]

    def __post_init__(self) -> None:
        require(0 <= self.day_log_sd <= 3, "day_log_sd", "within 0..3", self.day_log_sd)
        require(
            0 <= self.day_log_correlation < 1,
            "day_log_correlation",
            "within 0..1",
            self.day_log_correlation,
        )
        require_hours(self.hour_profile)
        require_share(self.failure_share, "failure_share")
        require_share(self.gpt4_share, "gpt4_share")
        require(self.max_prompt_tokens >= 1, "max_prompt_tokens", ">= 1", self.max_prompt_tokens)
        require(self.max_output_tokens >= 1, "max_output_tokens", ">= 1", self.max_output_tokens)
        for kind in self.jobs:
            for part in _PARTS:
                most = getattr(self, f"max_{part}_tokens") + 0.5
                middle, between, within, longer = kind.law(part)
                key = f"{kind.name}: {part}_log_mean, give or take 4 {part}_log_sd_between"
                require_reach(middle - 4 * between, within, 0.5, most, key)
                require_reach(middle + 4 * between + longer, within, 0.5, most, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silences:
    """Times at which nothing arrives: at a constant rate, `min_s` plus an exponential long."""

    per_day: float
    min_s: float
    mean_excess_s: float

    def __post_init__(self) -> None:
        for key in ("per_day", "min_s", "mean_excess_s"):
            require(getattr(self, key) >= 0, key, ">= 0", getattr(self, key))
        covered = self.per_day * (self.min_s + self.mean_excess_s) / 86_400
        require(covered < 0.5, "per_day * mean length", "below half a day", f"{covered:.2f} days")


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstGptLike:
    """A conversation stream plus API jobs, from `start_hour` of a day as a request sees it."""

    kind: ClassVar[str] = "burstgpt-like"
    name: str
    description: str
    start_hour: int
    stamp_s: float  # arrivals are cut down to whole multiples of it; 0 keeps them exact
    silences: Silences
    conversation: Conversation
    api: Api

    def __post_init__(self) -> None:
        longest_h = math.ceil(max((k.duration_max_s for k in self.api.jobs), default=0.0) / 3600)
        require(
            longest_h <= self.start_hour < HOURS_PER_DAY,
            "start_hour",
            f"within {longest_h}..23 (no job may outlast the warm-up from midnight)",
            self.start_hour,
        )
        require(self.stamp_s >= 0, "stamp_s", ">= 0", self.stamp_s)
        busy = self.conversation.requests_per_day + sum(k.jobs_per_day for k in self.api.jobs)
        require(busy > 0, "requests_per_day or jobs_per_day", "> 0 somewhere", busy)
