"""What a serving benchmark measured: requests one by one, or the means of one load.

Every format comes down to these values, which the fit and `llmsched validate` read:

- `RequestLog`: each request's arrival, lengths and instants, all on one clock;
- `ClosedLoopPoint`: means and percentiles with a fixed number of clients;
- `OpenLoopStage`: the same at a request rate.

Times are in seconds from the first arrival, lengths in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import CalibrationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

IDLE = 0.1  # share of the clients that may be idle before the stated concurrency is doubted


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """One kind of time over the completed requests [s]; None where the file does not say."""

    mean_s: float | None = None
    p50_s: float | None = None
    p90_s: float | None = None
    p99_s: float | None = None

    @classmethod
    def of(cls, values_s: FloatArray | None) -> Self:
        """The summary of single times; NaN are left out, and of none nothing is known."""
        if values_s is None:
            return cls()
        known = values_s[~np.isnan(values_s)]
        if not len(known):
            return cls()
        p50, p90, p99 = np.percentile(known, (50, 90, 99))
        return cls(mean_s=float(known.mean()), p50_s=float(p50), p90_s=float(p90), p99_s=float(p99))

    @property
    def typical_s(self) -> float | None:
        """The mean, or the median where no mean is known."""
        return self.p50_s if self.mean_s is None else self.mean_s

    def check(self, name: str, place: str) -> None:
        """Fail if one of them is no time."""
        for statistic in ("mean_s", "p50_s", "p90_s", "p99_s"):
            value = getattr(self, statistic)
            if value is None:
                continue
            # the median gap within chunks of several tokens is 0, the mean is not
            if not 0 <= value < math.inf or (statistic == "mean_s" and value == 0):
                raise CalibrationError(
                    f"{place}: {name}_{statistic} must be > 0, got {value:g}; "
                    "measure with streaming on"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What served, in the file's own words; None where it does not say."""

    model: str | None = None
    device: str | None = None
    engine: str | None = None
    precision: str | None = None
    tp: int | None = None  # GPUs of one tensor-parallel group
    ep: int | None = None  # of one expert-parallel group
    dp_attention: bool | None = None  # attention data-parallel
    max_running: int | None = None  # requests in one step
    step_tokens: int | None = None  # tokens in one step
    kv_tokens: int | None = None  # that the KV memory holds, vLLM's dummy block not counted
    max_model_tokens: int | None = None  # prompt + output of one request
    prefix_caching: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefixes:
    """Prompts that begin with one of a few system prompts."""

    system_prompts: int
    users_per_system_prompt: int
    multi_turn: bool
    system_prompt_tokens: int
    question_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How the client sent requests: a fixed number in flight, or at a rate."""

    words: str  # the file's
    concurrency: int | None = None  # None for an open loop
    rate_per_s: float | None = None  # inf where all were sent at once, None if not known
    arrivals: str = ""  # "constant", "poisson", ... where the file says


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Means and percentiles over the completed requests of one load.

    Raises
    ------
    CalibrationError
        If a length is below 1, a time or a rate not above 0.
    """

    load: Load
    prompt_tokens: float  # mean
    output_tokens: float  # mean
    ttft: LatencySummary
    tpot: LatencySummary  # per output token after the first
    e2e: LatencySummary  # from sending to the last token
    completed: int | None = None
    failed: int = 0
    throughput_per_s: float | None = None  # completed requests over the whole time
    duration_s: float | None = None  # of sending
    server: Server = field(default_factory=Server)
    date: str = ""  # the day, where the file says
    source: str  # the file, and the benchmark in it
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            if not 1 <= getattr(self, name) < math.inf:
                self.fail(f"{name} must be >= 1, got {getattr(self, name):g}")
        for name in ("ttft", "tpot", "e2e"):
            getattr(self, name).check(name, self.source)
        for name, value in (
            ("concurrency", self.load.concurrency),
            ("the request rate", self.load.rate_per_s),
            ("throughput", self.throughput_per_s),
        ):
            if value is not None and not value > 0:
                self.fail(f"{name} must be > 0, got {value:g}")

    def fail(self, message: str) -> NoReturn:
        """Raise the one-line error for this load."""
        raise CalibrationError(f"{self.source}: {message}")

    def as_run(self) -> ClosedLoopPoint | OpenLoopStage:
        """What the load makes of it: a point of a closed loop, or a stage of an open one."""
        kind = OpenLoopStage if self.load.concurrency is None else ClosedLoopPoint
        return kind(**{one.name: getattr(self, one.name) for one in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoopPoint(Means):
    """One benchmark in which each of `concurrency` clients sends when its last request ended.

    Raises
    ------
    CalibrationError
        As `Means`; or if fewer requests completed than there were clients, or more were in flight.
    """

    def __post_init__(self) -> None:
        Means.__post_init__(self)
        if self.completed is not None and self.completed < self.concurrency:
            self.fail(
                f"as many requests must complete as are in flight, got {self.completed} of "
                f"{self.concurrency}; send more"
            )
        if self.in_flight is not None and self.in_flight > (1 + IDLE) * self.concurrency:
            self.fail(
                "requests in flight (throughput x latency) must be at most the concurrency "
                f"{self.concurrency}, got {self.in_flight:.3g}; look at duration and times"
            )

    @property
    def concurrency(self) -> int:
        """Clients, so the most requests in flight."""
        return self.load.concurrency or 0

    @property
    def in_flight(self) -> float | None:
        """Requests in flight, averaged over the benchmark, by Little's law; None if not known."""
        if self.throughput_per_s is None or self.e2e.mean_s is None:
            return None
        return self.throughput_per_s * self.e2e.mean_s

    @property
    def think_s(self) -> float | None:
        """How long a client waits between two requests, on average [s]; None if not known."""
        if self.throughput_per_s is None or self.e2e.mean_s is None:
            return None
        return max(0.0, self.concurrency / self.throughput_per_s - self.e2e.mean_s)

    @property
    def is_busy(self) -> bool:
        """Whether at most a tenth of the clients was idle, or nothing else is known.

        Sessions with idle gaps, and the end of a short run, leave clients idle.
        """
        return self.in_flight is None or self.in_flight >= (1 - IDLE) * self.concurrency

    @property
    def company(self) -> float:
        """Requests in flight while a request is served, itself included.

        The concurrency where the clients are busy. Else each of the others is taken to be there as
        often as clients are on average, whoever else is: 1 + (concurrency - 1)·share.
        """
        if self.is_busy or self.in_flight is None:
            return float(self.concurrency)
        return 1 + (self.concurrency - 1) * self.in_flight / self.concurrency


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoopStage(Means):
    """One benchmark at a request rate, whatever the server makes of it."""

    prefixes: SharedPrefixes | None = None
    run: str = ""  # stages of one run share a server
    stage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineSeries:
    """Counters of the engine over time; None where not logged."""

    t_s: FloatArray  # (m,) as the instants of the log
    running: FloatArray | None = None
    waiting: FloatArray | None = None
    kv_share: FloatArray | None = None  # of the KV memory in use, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestLog:
    """The completed requests of a run in order of arrival, all instants on one clock.

    Arrays have shape (n,); an instant that is not logged for any request is None.

    Raises
    ------
    CalibrationError
        If columns differ in length, arrivals are not sorted from 0 on, lengths are below 1, or
        an instant comes before the one that must precede it.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    queued_s: FloatArray | None = None  # taken in by the engine
    scheduled_s: FloatArray | None = None  # first step that includes it
    first_token_s: FloatArray | None = None
    finish_s: FloatArray | None = None  # last token
    itl_s: tuple[FloatArray, ...] | None = None  # gaps between the chunks of each request
    load: Load
    duration_s: float | None = None  # of the whole run, where the file says
    failed: int = 0  # further requests, not in the columns
    series: EngineSeries | None = None
    server: Server = field(default_factory=Server)
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.arrival_s)
        names = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "finish_s")
        columns = {name: getattr(self, name) for name in names}
        logged = {name: column for name, column in columns.items() if column is not None}
        lengths = {"prompt_tokens": self.prompt_tokens, "output_tokens": self.output_tokens}
        for name, column in (logged | lengths).items():
            if len(column) != n or not n:
                raise CalibrationError(
                    f"{self.source}: {name} must have an entry for each of {max(n, 1)} requests, "
                    f"got {len(column)}"
                )
        for name, tokens in lengths.items():
            if tokens.min() < 1:
                raise CalibrationError(f"{self.source}: {name} must be >= 1, got {tokens.min()}")
        if self.arrival_s[0] != 0 or np.any(np.diff(self.arrival_s) < 0):
            raise CalibrationError(f"{self.source}: arrival_s must be sorted and begin at 0")
        before, earlier = "arrival_s", self.arrival_s
        for name, instants in list(logged.items())[1:]:
            self._check_order(before, earlier, name, instants)
            before, earlier = name, instants

    def _check_order(
        self, before: str, earlier: FloatArray, name: str, instants: FloatArray
    ) -> None:
        # two clocks that were put on one base agree to their resolution
        bad = np.flatnonzero(~(instants >= earlier - 1e-6))
        if len(bad):
            row = int(bad[0])
            raise CalibrationError(
                f"{self.source}: {name} must not be before {before}, got {instants[row]:.6f} and "
                f"{earlier[row]:.6f} s for request {row + 1} by arrival"
            )

    @property
    def ttft_s(self) -> FloatArray | None:
        """Arrival to first token [s]."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> FloatArray | None:
        """Arrival to last token [s]."""
        return None if self.finish_s is None else self.finish_s - self.arrival_s

    @property
    def queueing_s(self) -> FloatArray | None:
        """Arrival to the first step that includes the request [s]."""
        return None if self.scheduled_s is None else self.scheduled_s - self.arrival_s

    @property
    def tpot_s(self) -> FloatArray | None:
        """Per output token after the first [s]; NaN for outputs of one token."""
        if self.first_token_s is None or self.finish_s is None:
            return None
        return per_later_token(self.finish_s - self.first_token_s, self.output_tokens)

    def closed_loop_point(self) -> ClosedLoopPoint:
        """The means of a log whose `concurrency` is known.

        Raises
        ------
        ValueError
            If it is not.
        CalibrationError
            As `ClosedLoopPoint`.
        """
        if self.load.concurrency is None:
            raise ValueError("concurrency must be known for a closed loop, got None")
        n, span_s = len(self.arrival_s), self.duration_s
        if span_s is None and self.finish_s is not None:
            span_s = float(self.finish_s.max())
        return ClosedLoopPoint(
            load=self.load,
            prompt_tokens=float(self.prompt_tokens.mean()),
            output_tokens=float(self.output_tokens.mean()),
            ttft=LatencySummary.of(self.ttft_s),
            tpot=LatencySummary.of(self.tpot_s),
            e2e=LatencySummary.of(self.e2e_s),
            completed=n,
            failed=self.failed,
            throughput_per_s=n / span_s if span_s else None,
            server=self.server,
            source=self.source,
            notes=self.notes,
        )


def per_later_token(decode_s: FloatArray, output_tokens: IntArray) -> FloatArray:
    """Times divided by the output tokens after the first [s]; NaN where there are none."""
    later = np.where(output_tokens > 1, output_tokens - 1.0, np.nan)
    return np.asarray(decode_s / later, dtype=np.float64)


Run = RequestLog | ClosedLoopPoint | OpenLoopStage


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmarks:
    """What some result files hold."""

    format: str
    files: tuple[tuple[Run, ...], ...]  # the runs of each
    source: str  # the files and their digest

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them, in order."""
        return tuple(run for runs in self.files for run in runs)


def closed_loop(run: Run) -> ClosedLoopPoint | None:
    """A run as a point of a closed loop; None if nothing fixes the requests in flight."""
    if isinstance(run, RequestLog):
        return None if run.load.concurrency is None else run.closed_loop_point()
    return run if isinstance(run, ClosedLoopPoint) else None
