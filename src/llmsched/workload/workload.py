"""A workload: which requests are run, from a trace file or a synthetic profile, at which rate.

A `Workload` is a recipe; `load` turns it into the `Trace` that a run replays. One seed has one
random stream per concern, so that changing a policy leaves the requests untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmsched._util.limits import (
    DEFAULT_LOAD,
    LOADS,
    LONGEST_JITTER_S,
    LONGEST_THINK_S,
    MOST_USERS,
    RATES_PER_S,
    RPS_SCALES,
    THINK_TIMES,
)
from llmsched._util.options import check_options, option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmsched.workload.closed_loop import ClosedLoop
    from llmsched.workload.formats.encodings.columns import Enough
    from llmsched.workload.trace import Trace

DEFAULT_PROFILE = "burstgpt-like"
DEFAULT_REQUESTS = 10_000
RATE_FIELDS = ("rps_scale", "offered_load", "rate_per_s")  # one of them says how fast requests come


def parse_window(text: str) -> tuple[float, float]:
    """START:END in seconds, either of which may be left out."""
    start_text, colon, end_text = text.partition(":")
    try:
        start_s, end_s = float(start_text or 0), float(end_text or "inf")
    except ValueError:
        start_s = end_s = math.nan
    if not (colon and 0 <= start_s < end_s):
        raise ValueError(f"must be START:END seconds with 0 <= START < END, got {text!r}")
    return start_s, end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Which requests are run, and how fast they come.

    At most one of `rps_scale`, `offered_load` and `rate_per_s` is given. With none of them a file
    is replayed as recorded, and a profile is held at an offered load of 0.7.

    Parameters
    ----------
    source : str
        A trace file, or the name (or TOML file) of a synthetic profile.
    requests : int, optional
        First N requests; by default all of a file, and 10,000 of a profile.
    rps_scale : float, optional
        The arrival rate is multiplied by this; 1 replays the real timestamps.
    offered_load : float, optional
        The arrival rate is scaled so that this is the offered load ρ of every replication on the
        hardware of its scenario; `llmsched.simulation.held_load` has the definition.
    rate_per_s : float, optional
        The arrival rate is scaled to this in every replication [requests/s].
    failures : {"drop", "keep"}
        What happens to requests without output.
    window_s : (float, float), optional
        Part of the source, in real seconds since its first request, end excluded.
    model, log_type : str, optional
        Only requests with this label.
    jitter_s : float
        Adds U(0, jitter_s) to every stamp, before scaling, to undo whole-second stamps [s].
    resample : bool, optional
        Whether a seed stands for a resample of the file's traffic (`resample`) rather than for the
        file itself; None leaves it to the command.
    trace_format : str, optional
        Format of the file, when it is not to be recognised by its columns.
    time_unit : {"s", "ms", "us", "ns"}, optional
        Unit of the file's times, where the format does not say it or is wrong.
    columns : str, optional
        Which column of the file is what: `arrival=created_at,prompt=n_in,output=n_out`, and
        `model`, `log_type`, `session` where there are such.
    concurrency : int, optional
        Users who send the requests, each the next one after the last answer; arrival times and the
        rate of the source do not count then. By default requests come when the source says.
    think_time_s : float
        Mean pause of these users before a request [s].
    think_time : {"exponential", "constant"}
        Law of the pause.
    """

    source: str = option(
        DEFAULT_PROFILE,
        "Trace file, or synthetic profile: burstgpt-like, sessions, poisson, gamma-bursts, on-off.",
        flag="trace",
        metavar="FILE|PROFILE",
    )
    requests: int | None = option(
        None,
        "First N requests.",
        metavar="N",
        least=1,
        most=1_000_000_000,
        default_text="all of a file, 10000 of a profile",
    )
    rps_scale: float | None = option(
        None,
        "Multiply the arrival rate; 1 keeps it as it is.",
        metavar="FACTOR",
        least=RPS_SCALES[0],
        most=RPS_SCALES[1],
        default_text=f"1 for a file; a profile is held at --load {DEFAULT_LOAD:g}",
    )
    offered_load: float | None = option(
        None,
        "Scale the arrival rate so that this is the offered load of every replication.",
        flag="load",
        metavar="RHO",
        least=LOADS[0],
        most=LOADS[1],
    )
    rate_per_s: float | None = option(
        None,
        "Scale the arrival rate to this.",
        flag="rate",
        metavar="REQUESTS/S",
        least=RATES_PER_S[0],
        most=RATES_PER_S[1],
    )
    failures: Literal["drop", "keep"] = option(
        "drop", "What to do with requests without output.", choices=("drop", "keep")
    )
    window_s: tuple[float, float] | None = option(
        None,
        "Only this part of the trace, in real seconds since its first request.",
        flag="window",
        metavar="START:END",
        parse=parse_window,
    )
    model: str | None = option(None, "Only requests to this model.", metavar="NAME")
    log_type: str | None = option(None, "Only requests of this log type.", metavar="NAME")
    jitter_s: float = option(
        0.0,
        "Add U(0, SECONDS) to every stamp, before scaling: 1 undoes whole-second stamps.",
        flag="jitter",
        metavar="SECONDS",
        least=0,
        most=LONGEST_JITTER_S,
    )
    trace_format: str | None = option(
        None, "Format of the file, instead of recognising it by its columns.", metavar="NAME"
    )
    time_unit: Literal["s", "ms", "us", "ns"] | None = option(
        None,
        "Unit of the file's times, where nothing else says it or it is wrong.",
        choices=("s", "ms", "us", "ns"),
    )
    columns: str | None = option(
        None,
        "Which column is arrival, prompt, output, and if you like model, log_type, session.",
        metavar="ROLE=NAME,...",
    )
    concurrency: int | None = option(
        None,
        "So many users send the requests, each the next one after the last answer.",
        metavar="USERS",
        least=1,
        most=MOST_USERS,
        default_text="requests come when the trace says",
        hint="leave it out to send requests when the workload says",
    )
    think_time_s: float = option(
        0.0,
        "Mean pause of a user between an answer and the next request.",
        flag="think-time",
        metavar="SECONDS",
        least=0,
        most=LONGEST_THINK_S,
    )
    think_time: Literal["exponential", "constant"] = option(
        "exponential", "Law of the pause.", flag="think-time-law", choices=THINK_TIMES
    )
    resample: bool | None = option(
        None,
        "Replications are resamples of a file's traffic, or the file itself each time.",
        flag="resample-trace",
    )

    def __post_init__(self) -> None:
        check_options(self)
        given = [name for name in RATE_FIELDS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"give one of {', '.join(RATE_FIELDS)} (--rps-scale, --load, --rate), got "
                f"{' and '.join(given)}"
            )
        if self.window_s is not None and not 0 <= self.window_s[0] < self.window_s[1]:
            window = f"{self.window_s[0]:g}:{self.window_s[1]:g}"
            raise ValueError(
                f"window must be START:END with 0 <= START < END seconds, got {window}"
            )
        if self.concurrency is None and (self.think_time_s or self.think_time != "exponential"):
            raise ValueError(
                f"think_time_s and think_time need concurrency, got {self.think_time_s:g} "
                f"({self.think_time}) without; say how many users think"
            )
        if self.concurrency is not None and given and self.rps_scale != 1:
            raise ValueError(
                f"{given[0]} cannot count where {self.concurrency} users wait for answers, got "
                f"{getattr(self, given[0]):g}; leave one of {given[0]} and concurrency out"
            )

    @property
    def closed_loop(self) -> ClosedLoop | None:
        """The users who send the requests; None where these come when the source says."""
        from llmsched.workload.closed_loop import ClosedLoop

        if self.concurrency is None:
            return None
        return ClosedLoop(
            concurrency=self.concurrency,
            think_time_s=self.think_time_s,
            think_time=self.think_time,
        )

    @property
    def synthetic(self) -> bool:
        """Whether the source is a profile rather than a file of requests."""
        from llmsched.workload.synthetic.profiles import profile_names

        return self.source in profile_names() or self.source.endswith(".toml")

    @property
    def random(self) -> bool:
        """Whether another seed gives other requests."""
        thinking = self.think_time_s > 0 and self.think_time == "exponential"
        return self.synthetic or self.jitter_s > 0 or thinking or self.resample is True

    @property
    def held_load(self) -> float | None:
        """The offered load that every replication is brought to; None where the rate is given."""
        given = any(getattr(self, name) is not None for name in RATE_FIELDS)
        if given or not self.synthetic or self.concurrency is not None:
            return self.offered_load
        return DEFAULT_LOAD

    @property
    def in_real_time(self) -> Workload:
        """The same requests as the source has them, whatever their rate is to be."""
        return replace(self, rps_scale=1.0, offered_load=None, rate_per_s=None)

    def rate_factor(self, recorded: Trace) -> float:
        """What the rate of these requests is multiplied by, where no offered load is held."""
        if self.rate_per_s is None:
            return self.rps_scale or 1.0
        if recorded.closed:
            raise ValueError(
                f"rate_per_s needs recorded arrivals, but requests of trace {recorded.name!r} wait "
                "for answers; say how fast sessions begin (--rps-scale) instead"
            )
        if not recorded.span_s > 0:
            from llmsched.workload.trace import TraceError

            raise TraceError(
                f"trace {recorded.name!r} must have requests at two instants at least for an "
                f"arrival rate, got {len(recorded)} at one; leave rate_per_s (--rate) out"
            )
        return self.rate_per_s / recorded.arrival_rate_per_s

    def at_rate(self, factor: float) -> Workload:
        """The same with its arrival rate, however it is said, multiplied by this."""
        said = {name: getattr(self, name) for name in RATE_FIELDS}
        if self.held_load is not None:
            said["offered_load"] = self.held_load
        elif said["rate_per_s"] is None:
            said["rps_scale"] = said["rps_scale"] or 1.0
        moved: dict[str, Any] = {k: None if v is None else v * factor for k, v in said.items()}
        return replace(self, **moved)

    def rate_words(self, *, closed: bool = False) -> str:
        """How the arrival rate comes about; it cannot be held where requests wait for answers."""
        if self.concurrency is not None:
            return f"{self.concurrency} users in a closed loop"
        if self.held_load is not None and not closed:
            return f"offered load of multi_bin_dynamic held at {self.held_load:g}"
        if self.rate_per_s is not None:
            return "as asked for"
        recorded = "as the profile has it" if self.synthetic else "as recorded"
        return recorded if self.rps_scale in (None, 1) else f"{self.rps_scale:g} times {recorded}"

    def load(self, seed: int = 0) -> Trace:
        """The requests that a run with this seed replays.

        Where the offered load is to be held they come as the source has them: the load depends on
        the hardware, which `Scenario.requests` knows.
        """
        return self.loader()(seed)

    def loader(self) -> Callable[[int], Trace]:
        """A function from seed to trace that reads a file only once."""
        if self.synthetic:
            return self._generate
        if self.trace_format is None and not Path(self.source).exists():
            raise _unknown_source(self.source)
        from llmsched.workload.formats.registry import read_trace

        raw = read_trace(
            self.source,
            trace_format=self.trace_format,
            time_unit=self.time_unit,
            columns=self.columns,
            enough=self._enough(),
        )
        return lambda seed: self._prepared(raw, seed, self.requests)

    def _enough(self) -> Enough | None:
        """When a file in order of time need not be read further; None to read it all."""
        from llmsched.workload.formats.encodings.columns import Enough

        if self.requests is None or self.window_s is not None:
            return None
        named = {"model": self.model, "log_type": self.log_type}
        labels = {role: name for role, name in named.items() if name is not None}
        return Enough(requests=self.requests, failures=self.failures == "keep", labels=labels)

    def _prepared(self, raw: Trace, seed: int, requests: int | None) -> Trace:
        from llmsched._util.streams import Streams
        from llmsched.workload.prepare import at_scale, prepare
        from llmsched.workload.resample import resampled

        streams = Streams.of_seed(seed)
        prepared = prepare(
            raw,
            requests=requests,
            window_s=self.window_s,
            model=self.model,
            log_type=self.log_type,
            failures=self.failures,
            jitter_s=self.jitter_s,
            rng=streams.jitter,
        )
        if self.resample:
            prepared = resampled(prepared, streams.resampling)
        loop = self.closed_loop
        if loop is None:
            prepared = at_scale(prepared, self.rate_factor(prepared))
        else:
            prepared = loop.over(prepared, streams.clients)
        return replace(prepared, recipe=asdict(self))

    def _generate(self, seed: int) -> Trace:
        """Requests of the profile, as many as asked for after the filters."""
        from llmsched._util.streams import Streams
        from llmsched.workload.synthetic.generate import generate
        from llmsched.workload.synthetic.profiles import load_profile
        from llmsched.workload.trace import TraceError

        for name in ("trace_format", "time_unit", "columns"):
            if getattr(self, name) is not None:
                spoken = name.replace("_", " ")
                raise ValueError(
                    f"{spoken} needs a trace file, got the profile {self.source!r}; leave it out"
                )
        if self.resample:
            raise ValueError(
                f"resampling needs a trace file, got the profile {self.source!r}, of which every "
                "seed is another stretch; leave it out"
            )
        profile = load_profile(self.source)
        wanted = DEFAULT_REQUESTS if self.requests is None else self.requests
        if wanted < 1:
            raise ValueError(f"requests must be >= 1, got {wanted}")
        end_s = math.inf if self.window_s is None else self.window_s[1]
        whole_window = self.requests is None and end_s < math.inf
        rows, most_rows = wanted + 64, 64 * wanted + 10_000_000
        while True:
            # A longer draw of the same seed begins with the shorter one, so drawing again is exact.
            raw = generate(profile, rows, Streams.of_seed(seed).requests)
            kept = self._wanted(raw).nonzero()[0]
            if raw.span_s >= end_s:
                return self._prepared(raw, seed, self.requests)
            if len(kept) >= wanted and not whole_window:
                return self._prepared(raw.take(slice(kept[wanted - 1] + 1)), seed, None)
            if rows == most_rows:
                raise TraceError(
                    f"profile {self.source!r} must yield {wanted} requests after the filters, "
                    f"got {len(kept)} of {rows} rows; relax the filters"
                )
            growth = 8.0 if whole_window else 1.05 * wanted / max(len(kept), 1)
            rows = min(int(rows * min(growth, 8.0)) + 64, most_rows)

    def _wanted(self, raw: Trace) -> NDArray[np.bool_]:
        """Which rows the filters leave; a label that is not there is left for `prepare` to say."""
        keep = raw.output_tokens > 0 if self.failures == "drop" else raw.output_tokens >= 0
        if self.window_s is not None:
            keep &= (raw.arrival_s >= self.window_s[0]) & (raw.arrival_s < self.window_s[1])
        for labels, name in ((raw.model, self.model), (raw.log_type, self.log_type)):
            if name is not None and labels is not None and name in labels.names:
                keep &= labels.mask(name)
        return keep


def _unknown_source(source: str) -> Exception:
    from llmsched.workload.synthetic.profiles import profile_names
    from llmsched.workload.trace import TraceError

    names = ", ".join(profile_names())
    return TraceError(f"{source}: no such file, nor one of the profiles {names}")
