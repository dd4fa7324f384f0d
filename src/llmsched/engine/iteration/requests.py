"""The requests as the engine serves them: what is cut, what is refused, and who is in service."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llmsched._util.arrays import IntArray
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.workload.trace import Trace

NEVER_ADMITTED, PREEMPTED = -2, -1

Chunk = tuple["Active", int]  # who computes how many tokens, other than by decoding
Step = tuple[float, list["Active"], float, int, int]
"""A step in flight: its end [s], whose last token it gives, duration [s], decodes, prefills."""


class ServedRequests:
    """The trace's columns after the rules that act on arrival.

    An output is cut to `max_model_len` - prompt. Refused are requests with no output left, and
    those whose prompt + output - 1 tokens do not fit the KV memory even alone.

    Raises
    ------
    ValueError
        If a prompt has no token.
    """

    def __init__(
        self, trace: Trace, settings: IterationSettings, predicted_tokens: IntArray | None = None
    ) -> None:
        prompt = trace.prompt_tokens
        if len(trace) and int(prompt.min()) < 1:
            row = int(np.argmin(prompt))
            raise ValueError(
                "prompt_tokens must be >= 1 where steps are simulated, got "
                f"{int(prompt[row])} in request {row} of trace {trace.name!r}; leave it out"
            )
        output = trace.output_tokens
        if settings.max_model_len is not None:
            output = np.minimum(output, settings.max_model_len - prompt)
        most = settings.usable_blocks * settings.block_tokens
        total = prompt.astype(np.int64) + output
        self.accepted = (output >= 1) & (total - 1 <= most)
        self.output_tokens: IntArray = output.astype(np.int32, copy=False)
        self.n = len(trace)
        self.predicted_tokens: IntArray = (
            self.output_tokens if predicted_tokens is None else predicted_tokens
        )
        # Scalar reads from a memoryview take 40 ns, from an ndarray 90 ns.
        arrival_s = np.full(self.n, np.nan) if trace.closed else trace.arrival_s
        self.arrival: memoryview[Any] = np.ascontiguousarray(arrival_s).data
        # From when on a replica may take it in: on arrival, unless an answer brings it.
        self.noticed: memoryview[Any] = arrival_s.copy().data if trace.closed else self.arrival
        self.prompt: memoryview[Any] = np.ascontiguousarray(prompt).data
        self.total: memoryview[Any] = total.astype(np.int32).data  # prompt + output
        work = prompt + self.predicted_tokens
        self.predicted_work: memoryview[Any] = work.astype(np.int32).data  # prompt + prediction


class Active:
    """A request in service: admitted, or preempted and waiting to come back.

    While it prefills, `computed` counts the tokens with KV. Once it decodes, every tick gives it
    one, so that they are `tick - offset` and nothing is touched from step to step.
    """

    __slots__ = (
        "computed",
        "decoding",
        "ended",
        "finish_tick",
        "first_tick",
        "furthest",
        "last_token_s",
        "late",
        "n_shared",
        "offset",
        "path",
        "pieces",
        "private",
        "prompt",
        "request",
        "resumed_tick",
        "seq",
        "target",
        "total",
    )

    first_tick: int  # of its decodes; this and the next two are set when it joins them
    finish_tick: int
    offset: int

    def __init__(self, request: int, prompt: int, total: int) -> None:
        self.request = request
        self.prompt = prompt
        self.seq = NEVER_ADMITTED  # else its place in the order of admission, or PREEMPTED
        self.target = prompt  # tokens known when it was admitted: what prefill must compute
        self.total = total  # prompt + output
        self.computed = 0
        self.furthest = 0  # most tokens ever computed: less than that is recomputed
        self.decoding = False
        self.ended = False  # its last token is sampled, and in flight
        self.late = False  # it decodes, but its latest token is not the last tick's
        self.resumed_tick = -1  # the last tick after one that left it out
        self.last_token_s = math.nan  # end of the step of its latest token, unless the last tick's
        self.path: list[tuple[int, int]] | None = None  # of its prefix ids: nodes, blocks of each
        self.pieces: list[Any] = []  # blocks with prefix ids that it holds, in chain order
        self.n_shared = 0  # how many these are
        self.private: tuple[int, int] | None = None  # blocks left behind at a preemption

    def blocks_at_end(self, block_tokens: int) -> int:
        """KV blocks held when the last token arrives: that token itself has none."""
        return -(-(self.total - 1) // block_tokens)
