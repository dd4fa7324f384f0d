"""What the iteration-level engine asks of a step-time model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmsched.trace import FloatArray


class StepLatency(Protocol):
    """Seconds of one forward pass, from what it computes."""

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        """Time of one step [s].

        Parameters
        ----------
        prefills : sequence of (chunk, kv_before)
            Tokens that each prefill entry computes, and its KV from before the step [tokens].
        n_decodes : int
            Entries of one token on top of KV that was there.
        decode_kv : int
            Their summed KV from before the step [tokens].
        """
        ...

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
        """Times of `steps` decode-only steps in a row with a fixed set, shape (steps,) [s].

        Element j equals `step_s((), n_decodes, decode_kv + j * n_decodes)` to the last bit.
        """
        ...
