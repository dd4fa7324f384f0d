"""A workload: which requests are run, from a trace file or a synthetic profile, at which rate.

A `Workload` is a recipe; `load` turns it into the `Trace` that a run replays. One seed has one
random stream per concern, so that changing a policy leaves the requests untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmsched._util.limits import (
    DEFAULT_RPS_SCALE,
    LONGEST_JITTER_S,
    LONGEST_THINK_S,
    MOST_USERS,
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

    Parameters
    ----------
    source : str
        A trace file, or the name (or TOML file) of a synthetic profile.
    requests : int, optional
        First N requests; by default all of a file, and 10,000 of a profile.
    rps_scale : float
        The arrival rate is multiplied by this; 1 replays the real timestamps.
    failures : {"drop", "keep"}
        What happens to requests without output.
    window_s : (float, float), optional
        Part of the source, in real seconds since its first request, end excluded.
    model, log_type : str, optional
        Only requests with this label.
    jitter_s : float
        Adds U(0, jitter_s) to every stamp, before scaling, to undo whole-second stamps [s].
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
    rps_scale: float = option(
        DEFAULT_RPS_SCALE,
        "Multiply the arrival rate; 1 keeps it as it is.",
        metavar="FACTOR",
        least=RPS_SCALES[0],
        most=RPS_SCALES[1],
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

    def __post_init__(self) -> None:
        check_options(self)
        if self.window_s is not None and not 0 <= self.window_s[0] < self.window_s[1]:
            given = f"{self.window_s[0]:g}:{self.window_s[1]:g}"
            raise ValueError(f"window must be START:END with 0 <= START < END seconds, got {given}")
        if self.concurrency is None and (self.think_time_s or self.think_time != "exponential"):
            raise ValueError(
                f"think_time_s and think_time need concurrency, got {self.think_time_s:g} "
                f"({self.think_time}) without; say how many users think"
            )
        if self.concurrency is not None and self.rps_scale not in (DEFAULT_RPS_SCALE, 1):
            raise ValueError(
                f"rps_scale cannot count where {self.concurrency} users wait for answers, got "
                f"{self.rps_scale:g}; leave one of rps_scale and concurrency out"
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
        return self.synthetic or self.jitter_s > 0 or thinking

    def load(self, seed: int = 0) -> Trace:
        """The requests that a run with this seed replays."""
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
        from llmsched.workload.prepare import prepare

        streams = Streams.of_seed(seed)
        prepared = prepare(
            raw,
            requests=requests,
            window_s=self.window_s,
            model=self.model,
            log_type=self.log_type,
            failures=self.failures,
            rps_scale=self.rps_scale if self.concurrency is None else 1.0,
            jitter_s=self.jitter_s,
            rng=streams.jitter,
        )
        loop = self.closed_loop
        if loop is not None:
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
