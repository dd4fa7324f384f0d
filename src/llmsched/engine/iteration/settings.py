"""What one replica of the iteration-level engine is told, with vLLM's defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

Prefill = Literal["chunked", "first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationSettings:
    """How a replica batches, and what its KV memory holds.

    Parameters
    ----------
    kv_tokens : int
        η, tokens of KV memory that requests can use. vLLM's start-up line counts one block more.
    block_tokens : int
        Tokens a KV block holds.
    max_running : int
        Most requests that run at once (`max_num_seqs`).
    step_tokens : int
        Most tokens a step computes (`max_num_batched_tokens`).
    depth : {2, 1}
        Steps in flight at most: 2 decides a step while the one before runs (async scheduling),
        1 waits for its end.
    prefill : {"chunked", "first"}
        Chunks of prompts beside decodes, or steps of whole prompts while decodes stall.
    prefix_caching : bool
        Whether full KV blocks are found again by later requests with the same prefix, and by
        preempted ones.
    full_sequence_check : bool
        Admit a request only while blocks for all its known tokens are free.
    watermark_blocks : int
        Blocks that must stay free when a request is admitted beside running ones.
    long_prefill_tokens : int
        Most prompt tokens of one request in one step; 0 for no such bound.
    max_model_len : int, optional
        Longest prompt + output; outputs are cut to it.
    overhead_s, per_request_s : float
        Added to every step, and per entry of a step [s].

    Raises
    ------
    ValueError
        If a field is out of range, or depth 2 is asked for with prefill first.

    Examples
    --------
    >>> IterationSettings(kv_tokens=41_392).usable_blocks
    2587
    """

    kv_tokens: int
    block_tokens: int = 16
    max_running: int = 256
    step_tokens: int = 2048
    depth: int = 2
    prefill: Prefill = "chunked"
    prefix_caching: bool = True
    full_sequence_check: bool = True
    watermark_blocks: int = 0
    long_prefill_tokens: int = 0
    max_model_len: int | None = None
    overhead_s: float = 0.0
    per_request_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("block_tokens", "max_running", "step_tokens"):
            _check_count(name, getattr(self, name), 1)
        for name in ("watermark_blocks", "long_prefill_tokens"):
            _check_count(name, getattr(self, name), 0)
        if self.max_model_len is not None:
            _check_count("max_model_len", self.max_model_len, 2)
        _check_count("kv_tokens", self.kv_tokens, 1)
        if self.usable_blocks < 1:
            raise ValueError(
                f"kv_tokens must hold at least one block of {self.block_tokens} tokens, "
                f"got {self.kv_tokens}"
            )
        if self.prefill not in get_args(Prefill):
            raise ValueError(f"prefill must be 'chunked' or 'first', got {self.prefill!r}")
        if self.depth not in (1, 2):
            raise ValueError(f"depth must be 1 or 2 steps in flight, got {self.depth!r}")
        if self.depth == 2 and self.prefill == "first":
            raise ValueError("depth must be 1 with prefill 'first', got 2; prefill first is sync")
        for name in ("overhead_s", "per_request_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and >= 0 seconds, got {value}")

    @property
    def usable_blocks(self) -> int:
        """Whole KV blocks that requests can use."""
        return self.kv_tokens // self.block_tokens


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
