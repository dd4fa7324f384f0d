"""A trace: the requests of a workload as columns, in order of arrival.

Everything that is known about a workload before the simulation starts is one frozen `Trace`.
Reading files is in `formats`, making synthetic ones in `arrivals`; nothing here reads or draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.types import FloatArray, IntArray

_MOST_TOKENS = 2**31 - 1
LONGEST_S = 1e9  # 30 years; a double still resolves 0.1 us there


class TraceError(ValueError):
    """A trace that cannot be used, with the place and what was expected there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """One text per request, stored as a code into a short list of names."""

    codes: NDArray[np.int16]  # (n,) index into `names`
    names: tuple[str, ...]

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Labels:
        return Labels(codes=self.codes[rows], names=self.names)

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Which requests carry `name`."""
        if name not in self.names:
            raise TraceError(f"label must be one of {', '.join(self.names)}; got {name!r}")
        mask: NDArray[np.bool_] = self.codes == self.names.index(name)
        return mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival, one array per column; a policy never sees `output_tokens`.

    Raises
    ------
    TraceError
        If the columns differ in length, an arrival is not finite or goes back in time, or a
        token count or a service time is negative.
    """

    arrival_s: FloatArray  # (n,) seconds since the first arrival, non-decreasing
    prompt_tokens: IntArray  # (n,)
    output_tokens: IntArray  # (n,) the truth: for the latency model only
    model: Labels | None = None
    log_type: Labels | None = None
    service_s: FloatArray | None = None  # (n,) drawn time of each request alone, latency "drawn"
    name: str = "trace"
    left_out: tuple[tuple[str, int], ...] = ()  # (rule, requests it left out)
    notes: tuple[str, ...] = ()  # what a reader had to put right, for the user to see
    recipe: Mapping[str, Any] | None = None  # the `Workload` it came from, for the results to say

    def __post_init__(self) -> None:
        n = len(self.arrival_s)
        if len(self.prompt_tokens) != n or len(self.output_tokens) != n:
            raise TraceError(
                f"columns must have one length, got {n} arrivals, {len(self.prompt_tokens)} "
                f"prompt and {len(self.output_tokens)} output counts"
            )
        if self.service_s is not None:
            _check_service(self.service_s, n, self.name)
        if not np.isfinite(self.arrival_s).all():
            raise TraceError(f"arrival_s must be finite in trace {self.name!r}")
        if n and np.diff(self.arrival_s).min(initial=0.0) < 0:
            raise TraceError(f"arrival_s must not decrease in trace {self.name!r}; sort it first")
        if n and max(-self.arrival_s[0], self.arrival_s[-1]) > LONGEST_S:
            raise TraceError(
                f"arrivals must lie within {LONGEST_S:g} s, or doubles lose service times; "
                f"trace {self.name!r} reaches {self.arrival_s[-1]:g} s; check its unit, scale"
            )
        if n and min(int(self.prompt_tokens.min()), int(self.output_tokens.min())) < 0:
            raise TraceError(f"token counts must be >= 0 in trace {self.name!r}")
        if n and int(self.prompt_tokens.max()) + int(self.output_tokens.max()) > _MOST_TOKENS:
            raise TraceError(f"prompt + output must be < 2**31 tokens in trace {self.name!r}")

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Trace:
        """The given rows of every column: a slice, a mask, or indices in order of arrival."""
        return replace(
            self,
            arrival_s=self.arrival_s[rows],
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            model=None if self.model is None else self.model[rows],
            log_type=None if self.log_type is None else self.log_type[rows],
            service_s=None if self.service_s is None else self.service_s[rows],
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that a run depends on, by name; labels only choose requests."""
        names = ("arrival_s", "prompt_tokens", "output_tokens", "service_s")
        found = {name: getattr(self, name) for name in names}
        return {name: column for name, column in found.items() if column is not None}

    @property
    def total_tokens(self) -> IntArray:
        """Prompt plus output tokens of each request, shape (n,)."""
        return self.prompt_tokens + self.output_tokens

    @property
    def span_s(self) -> float:
        """Time from the first to the last arrival [s]."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) else 0.0

    @property
    def arrival_rate_per_s(self) -> float:
        """Gaps over the span [requests/s]; infinite where all arrive at one instant."""
        return (len(self) - 1) / self.span_s if self.span_s > 0 else math.inf


def _check_service(service_s: FloatArray, n: int, name: str) -> None:
    if len(service_s) != n:
        raise TraceError(f"service_s must have {n} entries in trace {name!r}, got {len(service_s)}")
    if n and not (np.isfinite(service_s).all() and service_s.min() >= 0):
        raise TraceError(f"service_s must be finite and >= 0 in trace {name!r}")
