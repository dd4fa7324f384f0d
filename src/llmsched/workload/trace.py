"""A trace: the requests of a workload as columns, in order of arrival.

Everything that is known about a workload before the simulation starts is one frozen `Trace`.
Reading files is in `formats`, making synthetic ones in `synthetic`; nothing here reads or draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray, given_up, read_only
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.sessions import Turns

_MOST_TOKENS = 2**31 - 1
LONGEST_S = 1e9  # 30 years; a double still resolves 0.1 us there


class TraceError(ValueError):
    """A trace that cannot be used, with the place and what was expected there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """One text per request, stored as a code into a short list of names."""

    codes: NDArray[np.int16]  # (n,) index into `names`
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", read_only(self.codes))

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Labels:
        return Labels(codes=given_up(self.codes[rows]), names=self.names)

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Which requests carry `name`."""
        if name not in self.names:
            raise TraceError(f"label must be one of {', '.join(self.names)}; got {name!r}")
        mask: NDArray[np.bool_] = self.codes == self.names.index(name)
        return mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival, one array per column; a policy never sees `output_tokens`.

    Columns are read-only: an array that somebody could still write to is copied.

    Raises
    ------
    TraceError
        If the columns differ in length, an arrival is not finite or goes back in time, a token
        count or a service time is negative, or a prompt has more prefix ids than pieces.
    """

    arrival_s: FloatArray  # (n,) seconds since the first arrival, non-decreasing
    prompt_tokens: IntArray  # (n,)
    output_tokens: IntArray  # (n,) the truth: for the latency model only
    model: Labels | None = None
    log_type: Labels | None = None
    service_s: FloatArray | None = None  # (n,) drawn time of each request alone, latency "drawn"
    priority: IntArray | None = None  # (n,) smaller is more urgent
    prefix_ids: PrefixIds | None = None  # which prompts begin alike, for a prefix cache
    turns: Turns | None = None  # which request follows which answer; None where none does
    name: str = "trace"
    left_out: tuple[tuple[str, int], ...] = ()  # (rule, requests it left out)
    notes: tuple[str, ...] = ()  # what a reader had to put right, for the user to see
    read_as: str = ""  # the format of the file and the unit of its times
    recipe: Mapping[str, Any] | None = None  # the `Workload` it came from, for the results to say

    def __post_init__(self) -> None:
        for column, kinds in (
            ("arrival_s", "fiu"),
            ("prompt_tokens", "iu"),
            ("output_tokens", "iu"),
        ):
            _check_column(column, getattr(self, column), kinds)
        n = len(self.arrival_s)
        if len(self.prompt_tokens) != n or len(self.output_tokens) != n:
            raise TraceError(
                f"columns must have one length, got {n} arrivals, {len(self.prompt_tokens)} "
                f"prompt and {len(self.output_tokens)} output counts"
            )
        if self.service_s is not None:
            _check_service(self.service_s, n, self.name)
        if self.priority is not None and len(self.priority) != n:
            raise TraceError(
                f"priority must have {n} entries in trace {self.name!r}, got {len(self.priority)}"
            )
        if self.prefix_ids is not None:
            _check_prefixes(self.prefix_ids, self.prompt_tokens, self.name)
        if self.turns is not None and len(self.turns) != n:
            raise TraceError(
                f"turns must have {n} rows in trace {self.name!r}, got {len(self.turns)}"
            )
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
        for column in ("arrival_s", "prompt_tokens", "output_tokens", "service_s", "priority"):
            values = getattr(self, column)
            if values is not None:
                object.__setattr__(self, column, read_only(values))

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Trace:
        """The given rows of every column: a slice, a mask, or indices in order of arrival."""
        return replace(
            self,
            arrival_s=given_up(self.arrival_s[rows]),
            prompt_tokens=given_up(self.prompt_tokens[rows]),
            output_tokens=given_up(self.output_tokens[rows]),
            model=None if self.model is None else self.model[rows],
            log_type=None if self.log_type is None else self.log_type[rows],
            service_s=None if self.service_s is None else given_up(self.service_s[rows]),
            priority=None if self.priority is None else self.priority[rows],
            prefix_ids=None if self.prefix_ids is None else self.prefix_ids.take(rows),
            turns=None if self.turns is None else self.turns.take(rows),
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that a run depends on, by name; labels only choose requests."""
        names = ("arrival_s", "prompt_tokens", "output_tokens", "service_s", "priority")
        found: dict[str, NDArray[Any] | None] = {name: getattr(self, name) for name in names}
        if self.prefix_ids is not None:
            found |= {"prefix_ids": self.prefix_ids.ids, "prefix_offsets": self.prefix_ids.offsets}
        if self.turns is not None:
            found |= {"after": self.turns.after, "think_s": self.turns.think_s}
        return {name: column for name, column in found.items() if column is not None}

    def arrived(self, arrival_s: FloatArray) -> Trace:
        """The same requests as an open loop: each at the instant, shape (n,), that a run made."""
        order = np.argsort(arrival_s, kind="stable")
        still = replace(self, arrival_s=np.zeros(len(self)), turns=None).take(order)
        return replace(still, arrival_s=arrival_s[order])

    @property
    def closed(self) -> bool:
        """Whether any arrival depends on an answer: `arrival_s` then is the earliest possible."""
        return self.turns is not None and self.turns.closed

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


def _check_column(name: str, values: object, kinds: str) -> None:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in kinds:
        given = type(values).__name__
        if isinstance(values, np.ndarray):
            given = f"{values.dtype} of shape {values.shape}"
        what = "numbers" if "f" in kinds else "whole numbers"
        raise TraceError(f"{name} must be a numpy array of {what}, shape (n,), got {given}")


def _check_service(service_s: FloatArray, n: int, name: str) -> None:
    if len(service_s) != n:
        raise TraceError(f"service_s must have {n} entries in trace {name!r}, got {len(service_s)}")
    if n and not (np.isfinite(service_s).all() and service_s.min() >= 0):
        raise TraceError(f"service_s must be finite and >= 0 in trace {name!r}")


def _check_prefixes(prefix_ids: PrefixIds, prompt_tokens: IntArray, name: str) -> None:
    n = len(prompt_tokens)
    if len(prefix_ids) != n:
        raise TraceError(
            f"prefix ids must have {n} rows in trace {name!r}, got {len(prefix_ids)}; "
            "give one per request, empty where nothing is known"
        )
    pieces = -(-prompt_tokens.astype(np.int64) // prefix_ids.tokens_per_id)
    too_many = prefix_ids.lengths > pieces
    if too_many.any():
        row = int(np.argmax(too_many))
        raise TraceError(
            f"a prompt must have at most one prefix id per {prefix_ids.tokens_per_id} tokens, got "
            f"{int(prefix_ids.lengths[row])} for {int(prompt_tokens[row])} tokens in request {row} "
            f"of trace {name!r}; check tokens_per_id"
        )
