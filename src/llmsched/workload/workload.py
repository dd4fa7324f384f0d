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

import numpy as np
from numpy.typing import NDArray

from llmsched._util.streams import Streams
from llmsched.workload.closed_loop import ClosedLoop
from llmsched.workload.trace import Trace, TraceError

if TYPE_CHECKING:
    from llmsched.workload.formats.columns import Enough

DEFAULT_PROFILE = "burstgpt-like"
DEFAULT_REQUESTS = 10_000
DEFAULT_RPS_SCALE = 200.0


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
    closed_loop : ClosedLoop, optional
        Users who send the requests, each the next one after the last answer; arrival times of the
        source do not count then. By default requests come when the source says.
    """

    source: str = DEFAULT_PROFILE
    requests: int | None = None
    rps_scale: float = DEFAULT_RPS_SCALE
    failures: Literal["drop", "keep"] = "drop"
    window_s: tuple[float, float] | None = None
    model: str | None = None
    log_type: str | None = None
    jitter_s: float = 0.0
    trace_format: str | None = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    columns: str | None = None
    closed_loop: ClosedLoop | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the source is a profile rather than a file of requests."""
        from llmsched.workload.profiles import profile_names

        return self.source in profile_names() or self.source.endswith(".toml")

    @property
    def random(self) -> bool:
        """Whether another seed gives other requests."""
        loop = self.closed_loop
        return self.synthetic or self.jitter_s > 0 or (loop is not None and loop.random)

    def load(self, seed: int = 0) -> Trace:
        """The requests that a run with this seed replays."""
        return self.loader()(seed)

    def loader(self) -> Callable[[int], Trace]:
        """A function from seed to trace that reads a file only once."""
        if self.synthetic:
            return self._generate
        if self.trace_format is None and not Path(self.source).exists():
            raise TraceError(_unknown_source(self.source))
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
        from llmsched.workload.formats.columns import Enough

        if self.requests is None or self.window_s is not None:
            return None
        named = {"model": self.model, "log_type": self.log_type}
        labels = {role: name for role, name in named.items() if name is not None}
        return Enough(requests=self.requests, failures=self.failures == "keep", labels=labels)

    def _prepared(self, raw: Trace, seed: int, requests: int | None) -> Trace:
        from llmsched.workload.prepare import prepare

        streams = Streams.of_seed(seed)
        prepared = prepare(
            raw,
            requests=requests,
            window_s=self.window_s,
            model=self.model,
            log_type=self.log_type,
            failures=self.failures,
            rps_scale=self.rps_scale if self.closed_loop is None else 1.0,
            jitter_s=self.jitter_s,
            rng=streams.jitter,
        )
        if self.closed_loop is not None:
            prepared = self.closed_loop.over(prepared, streams.clients)
        return replace(prepared, recipe=asdict(self))

    def _generate(self, seed: int) -> Trace:
        """Requests of the profile, as many as asked for after the filters."""
        from llmsched.workload.profiles import load_profile
        from llmsched.workload.synthetic import generate

        for option in ("trace_format", "time_unit", "columns"):
            if getattr(self, option) is not None:
                spoken = option.replace("_", " ")
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
            kept = np.flatnonzero(self._wanted(raw))
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
        keep = np.ones(len(raw), dtype=np.bool_)
        if self.failures == "drop":
            keep &= raw.output_tokens > 0
        if self.window_s is not None:
            keep &= (raw.arrival_s >= self.window_s[0]) & (raw.arrival_s < self.window_s[1])
        for labels, name in ((raw.model, self.model), (raw.log_type, self.log_type)):
            if name is not None and labels is not None and name in labels.names:
                keep &= labels.mask(name)
        return keep


def _unknown_source(source: str) -> str:
    from llmsched.workload.profiles import profile_names

    return f"{source}: no such file, nor one of the profiles {', '.join(profile_names())}"
