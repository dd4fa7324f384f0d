"""What one replica of the iteration-level engine is told, with vLLM's defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from llmsched._util.options import check_options, option

Prefill = Literal["chunked", "first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationSettings:
    """How a replica batches, and what its KV memory holds.

    Parameters
    ----------
    kv_tokens : int, optional
        η, tokens of KV memory that requests can use; by default what the hardware leaves beside
        the weights. vLLM's start-up line counts one block more.
    memory_share : float
        Share of the memory for weights and KV (`gpu_memory_utilization`), where `kv_tokens` is
        left open.
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

    kv_tokens: int | None = option(
        None,
        "Tokens of KV memory that requests can use.",
        metavar="N",
        least=1,
        default_text="what --gpu-memory-utilization leaves beside the weights",
    )
    memory_share: float = option(
        0.9,
        "Share of the GPU's memory for weights and KV.",
        flag="gpu-memory-utilization",
        metavar="SHARE",
        above=0,
        most=1,
    )
    block_tokens: int = option(16, "Tokens a KV block holds.", flag="block", metavar="N", least=1)
    max_running: int = option(
        256, "Most requests that run at once (max_num_seqs).", metavar="N", least=1
    )
    step_tokens: int = option(
        2048,
        "Most tokens a step computes (max_num_batched_tokens).",
        metavar="N",
        least=1,
    )
    depth: int = option(
        2,
        "Steps in flight: 2 decides a step while another runs (async scheduling), 1 after it.",
        metavar="1|2",
        least=1,
        most=2,
    )
    prefill: Prefill = option(
        "chunked",
        "Chunks of prompts beside decodes, or whole prompts first (needs --depth 1).",
        choices=get_args(Prefill),
    )
    prefix_caching: bool = option(True, "Find KV blocks of equal prefixes, and a victim's, again.")
    full_sequence_check: bool = option(
        True, "Admit only while blocks for the whole prompt are free."
    )
    watermark_blocks: int = option(
        0,
        "Blocks that stay free when a request is admitted beside others.",
        flag="watermark",
        metavar="N",
        least=0,
    )
    long_prefill_tokens: int = option(
        0,
        "Most prompt tokens of one request in one step; 0 for no such bound.",
        flag="long-prefill",
        metavar="N",
        least=0,
    )
    max_model_len: int | None = option(
        None,
        "Longest prompt + output; outputs are cut to it.",
        metavar="N",
        least=2,
        default_text="no limit",
    )
    overhead_s: float = option(
        0.0, "Added to every step.", flag="overhead", metavar="SECONDS", least=0
    )
    per_request_s: float = option(
        0.0,
        "Added to every step per request in it.",
        flag="overhead-per-request",
        metavar="SECONDS",
        least=0,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.depth == 2 and self.prefill == "first":
            raise ValueError(
                "depth must be 1 with prefill 'first', got 2; prefill first decides one step at a "
                "time"
            )
        if self.kv_tokens is not None and self.usable_blocks < 1:
            raise ValueError(
                f"kv_tokens must hold at least one block of {self.block_tokens} tokens, "
                f"got {self.kv_tokens}"
            )

    def resolved(self, kv_tokens: float) -> Self:
        """These settings with the KV memory that the hardware leaves, where none was given."""
        if self.kv_tokens is not None:
            return self
        return replace(self, kv_tokens=int(kv_tokens))

    @property
    def usable_blocks(self) -> int:
        """Whole KV blocks that requests can use; of settings whose KV memory is known."""
        assert self.kv_tokens is not None, "resolve the settings first"
        return self.kv_tokens // self.block_tokens
