"""Workload profiles: what a synthetic workload is made of, as frozen values read from TOML.

A profile is one file in `workloads/` (or any path). Everything a generator needs is in the file:
there are no hidden defaults, an unknown key is an error, and so is a missing one. The drawing
itself is in `arrivals`.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from llmsched._util.resources import data_folder
from llmsched.workload.trace import TraceError

HOURS_PER_DAY = 24
_PARTS: tuple[Literal["prompt", "output"], ...] = ("prompt", "output")
_MOST_BYTES = 1 << 20
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

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLaw:
    """Lognormal token counts, truncated to 1..`max_tokens` and rounded to whole tokens.

    `log_mean` and `log_sd` belong to the lognormal before the truncation.
    """

    log_mean: float
    log_sd: float
    max_tokens: int

    def __post_init__(self) -> None:
        _require(self.log_sd > 0, "log_sd", "> 0", self.log_sd)
        _require(self.max_tokens >= 1, "max_tokens", ">= 1", self.max_tokens)
        _require_reach(self.log_mean, self.log_sd, 0.5, self.max_tokens + 0.5, "log_mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Arrivals at a constant rate with independent exponential gaps."""

    kind: ClassVar[str] = "poisson"
    name: str
    description: str
    rate_per_s: float
    prompt: TokenLaw
    output: TokenLaw

    def __post_init__(self) -> None:
        _require(self.rate_per_s >= 1e-6, "rate_per_s", ">= 1e-06", self.rate_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaBursts:
    """Independent gamma gaps: `gap_cv` above 1 is burstier than Poisson, below 1 smoother."""

    kind: ClassVar[str] = "gamma-bursts"
    name: str
    description: str
    rate_per_s: float
    gap_cv: float
    prompt: TokenLaw
    output: TokenLaw

    def __post_init__(self) -> None:
        _require(self.rate_per_s >= 1e-6, "rate_per_s", ">= 1e-06", self.rate_per_s)
        _require(0.1 <= self.gap_cv <= 10, "gap_cv", "within 0.1..10", self.gap_cv)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnOff:
    """A Poisson process that switches between two rates after exponential times (MMPP(2))."""

    kind: ClassVar[str] = "on-off"
    name: str
    description: str
    on_rate_per_s: float
    off_rate_per_s: float
    on_mean_s: float
    off_mean_s: float
    prompt: TokenLaw
    output: TokenLaw

    def __post_init__(self) -> None:
        _require(self.on_rate_per_s > 0, "on_rate_per_s", "> 0", self.on_rate_per_s)
        _require(self.off_rate_per_s >= 0, "off_rate_per_s", ">= 0", self.off_rate_per_s)
        _require(self.on_mean_s > 0, "on_mean_s", "> 0", self.on_mean_s)
        for phase in ("on", "off"):
            rate, mean_s = (getattr(self, f"{phase}_{of}") for of in ("rate_per_s", "mean_s"))
            _require_few(rate * mean_s, f"{phase}_rate_per_s * {phase}_mean_s")
        _require(self.off_mean_s > 0, "off_mean_s", "> 0", self.off_mean_s)


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
        _require(self.requests_per_day >= 0, "requests_per_day", ">= 0", self.requests_per_day)
        _require(0 <= self.day_log_sd <= 3, "day_log_sd", "within 0..3", self.day_log_sd)
        _require_hours(self.hour_profile)
        _require_share(self.failure_share, "failure_share")
        _require_share(self.gpt4_share, "gpt4_share")
        _require(
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
        _require(self.jobs_per_day >= 0, "jobs_per_day", ">= 0", self.jobs_per_day)
        _require(self.rate_min_per_s > 0, "rate_min_per_s", "> 0", self.rate_min_per_s)
        _require(
            self.rate_max_per_s >= self.rate_min_per_s,
            "rate_max_per_s",
            f">= rate_min_per_s ({self.rate_min_per_s})",
            self.rate_max_per_s,
        )
        _require(self.duration_log_sd > 0, "duration_log_sd", "> 0", self.duration_log_sd)
        _require(self.duration_max_s > 0, "duration_max_s", "> 0", self.duration_max_s)
        _require(self.batch_size >= 1, "batch_size", ">= 1", self.batch_size)
        _require_few(self.batch_size, "batch_size")
        jobs = f"{self.name}: jobs_per_day * rate_max_per_s * duration_max_s"
        _require_few(self.jobs_per_day * self.rate_max_per_s * self.duration_max_s, jobs)
        _require_reach(
            self.duration_log_mean,
            self.duration_log_sd,
            0.0,
            self.duration_max_s,
            "duration_log_mean",
        )
        _require(self.batch_spread_s >= 0, "batch_spread_s", ">= 0", self.batch_spread_s)
        _require(0.1 <= self.gap_cv <= 10, "gap_cv", "within 0.1..10", self.gap_cv)
        _require(0 < self.active_share <= 1, "active_share", "within 0..1", self.active_share)
        _require(self.active_mean_s > 0, "active_mean_s", "> 0", self.active_mean_s)
        _require_share(self.long_share, "long_share")
        for part in ("prompt", "output"):
            shift = f"long_{part}_log_shift"
            _require(0 <= getattr(self, shift) <= 6, shift, "within 0..6", getattr(self, shift))
            between, within = f"{part}_log_sd_between", f"{part}_log_sd_within"
            middle = getattr(self, f"{part}_log_mean")
            _require(middle >= 0, f"{part}_log_mean", ">= 0", middle)
            _require(getattr(self, between) <= 3, between, "<= 3", getattr(self, between))
            _require(getattr(self, between) >= 0, between, ">= 0", getattr(self, between))
            _require(getattr(self, within) > 0, within, "> 0", getattr(self, within))

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
        _require(0 <= self.day_log_sd <= 3, "day_log_sd", "within 0..3", self.day_log_sd)
        _require(
            0 <= self.day_log_correlation < 1,
            "day_log_correlation",
            "within 0..1",
            self.day_log_correlation,
        )
        _require_hours(self.hour_profile)
        _require_share(self.failure_share, "failure_share")
        _require_share(self.gpt4_share, "gpt4_share")
        _require(self.max_prompt_tokens >= 1, "max_prompt_tokens", ">= 1", self.max_prompt_tokens)
        _require(self.max_output_tokens >= 1, "max_output_tokens", ">= 1", self.max_output_tokens)
        for kind in self.jobs:
            for part in _PARTS:
                most = getattr(self, f"max_{part}_tokens") + 0.5
                middle, between, within, longer = kind.law(part)
                key = f"{kind.name}: {part}_log_mean, give or take 4 {part}_log_sd_between"
                _require_reach(middle - 4 * between, within, 0.5, most, key)
                _require_reach(middle + 4 * between + longer, within, 0.5, most, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silences:
    """Times at which nothing arrives: at a constant rate, `min_s` plus an exponential long."""

    per_day: float
    min_s: float
    mean_excess_s: float

    def __post_init__(self) -> None:
        for key in ("per_day", "min_s", "mean_excess_s"):
            _require(getattr(self, key) >= 0, key, ">= 0", getattr(self, key))
        covered = self.per_day * (self.min_s + self.mean_excess_s) / 86_400
        _require(covered < 0.5, "per_day * mean length", "below half a day", f"{covered:.2f} days")


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
        _require(
            longest_h <= self.start_hour < HOURS_PER_DAY,
            "start_hour",
            f"within {longest_h}..23 (no job may outlast the warm-up from midnight)",
            self.start_hour,
        )
        _require(self.stamp_s >= 0, "stamp_s", ">= 0", self.stamp_s)
        busy = self.conversation.requests_per_day + sum(k.jobs_per_day for k in self.api.jobs)
        _require(busy > 0, "requests_per_day or jobs_per_day", "> 0 somewhere", busy)


Profile = Poisson | GammaBursts | OnOff | BurstGptLike
_KINDS: dict[str, type[Profile]] = {
    kind.kind: kind for kind in (Poisson, GammaBursts, OnOff, BurstGptLike)
}


def profile_names() -> tuple[str, ...]:
    """The names of the profiles that come with the package, sorted."""
    return tuple(sorted(path.stem for path in data_folder("workloads").glob("*.toml")))


def load_profile(name_or_path: str | Path) -> Profile:
    """The profile of that name, or the one in that TOML file.

    Parameters
    ----------
    name_or_path : str or Path
        A name from `profile_names`, or a path that ends in `.toml`.

    Raises
    ------
    TraceError
        If the name is unknown, or the file is missing, is not TOML, or holds an unknown,
        missing, ill-typed or impossible value. The message names the file and the key.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = profile_names()
        if str(name_or_path) not in known:
            raise TraceError(
                f"workload must be one of {', '.join(known)} or a .toml file, got "
                f"{str(name_or_path)!r}"
            )
        path = data_folder("workloads") / f"{name_or_path}.toml"
    table = _toml(path)
    try:
        kind = table.pop("kind", None)
        if not isinstance(kind, str) or kind not in _KINDS:
            raise TraceError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
        return _build(_KINDS[kind], {"name": path.stem, **table}, where="")
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def _toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dictionaries, within bounds."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise TraceError(f"{path}: a workload profile must be at most 1 MiB long")
        return tomllib.loads(text.decode())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise TraceError(f"{path}: a workload profile must be readable, {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise TraceError(f"{path}: a workload profile must be TOML, {error}") from None
    except RecursionError:
        raise TraceError(f"{path}: a workload profile must not be so deeply nested") from None
    except TraceError:
        raise
    except ValueError:  # Python's own limit on the digits of a number
        raise TraceError(f"{path}: numbers of a workload profile must fit a float64") from None


def _build(cls: type[T], table: dict[str, Any], where: str) -> T:
    """A `cls` from a TOML table; `where` is the dotted key of the table, for messages."""
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            raise TraceError(f"{where}{key} is unknown; known here: {', '.join(names)}")
    for key in names:
        if key not in table:
            raise TraceError(f"{where}{key} must be given")
    values = {key: _value(hints[key], table[key], f"{where}{key}") for key in names}
    try:
        return cls(**values)
    except TraceError as error:
        raise TraceError(f"{where}{error}") from None


def _value(hint: Any, value: Any, key: str) -> Any:
    """`value` as the type that `hint` asks for."""
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise TraceError(f"{key} must be a table, got {value!r}")
        return _build(hint, value, where=f"{key}.")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise TraceError(f"{key} must be a list, got {value!r}")
        item = get_args(hint)[0]
        return tuple(_value(item, each, f"{key}[{i}]") for i, each in enumerate(value))
    if isinstance(value, int | float) and abs(value) != math.inf:
        _require_bounds(key, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        word = {float: "a finite number", int: "a whole number", str: "text"}[hint]
        raise TraceError(f"{key} must be {word}, got {value!r}")
    return value


def _require_bounds(key: str, value: float) -> None:
    """Fail for a number that no workload means, before it fills the memory."""
    name = re.sub(r"\[\d+\]$", "", key).rpartition(".")[2]
    low, high = next(bounds for pattern, bounds in _BOUNDS.items() if re.search(pattern, name))
    if value < low or value > high:  # not NaN: the type says what it must be
        long = isinstance(value, int) and value.bit_length() > 256
        given = "a number of more than 70 digits" if long else f"{value}"
        raise TraceError(f"{key} must lie within {low:g}..{high:g}, got {given}")


def _require(holds: bool, key: str, rule: str, value: object) -> None:
    if not holds:
        raise TraceError(f"{key} must be {rule}, got {value}")


def _require_few(requests: float, key: str) -> None:
    _require(requests <= _MOST_AT_ONCE, key, f"at most {_MOST_AT_ONCE:g} requests", requests)


def _require_reach(log_mean: float, log_sd: float, low: float, high: float, key: str) -> None:
    """Fail unless a lognormal of these logs has some of its mass between the bounds."""
    lowest = math.log(low) if low > 0 else -math.inf
    nearest = min(max(log_mean, lowest), math.log(high))
    rule = f"within 7 log_sd of the values {low:g} to {high:g}"
    _require(abs(log_mean - nearest) <= 7 * log_sd, key, rule, log_mean)


def _require_share(value: float, key: str) -> None:
    _require(0 <= value <= 1, key, "within 0..1", value)


def _require_hours(profile: tuple[float, ...]) -> None:
    _require(len(profile) == HOURS_PER_DAY, "hour_profile", "24 numbers long", len(profile))
    _require(min(profile) >= 0 < sum(profile), "hour_profile", ">= 0 and not all 0", profile)
