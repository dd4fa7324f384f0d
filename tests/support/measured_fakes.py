"""Stand-ins for a model in the tests of the measuring harness: forward passes of known length."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from llmsched.calibration.measure.model import TimedModel

VOCABULARY = 16


class FakeForward:
    """The forward pass of a causal LM: takes its time, notes its calls, chooses a known token."""

    def __init__(self, takes: Callable[[int, int], None] = lambda b, n: None) -> None:
        self.takes = takes  # called with the batch size and the tokens per request
        self.calls: list[dict[str, Any]] = []
        self.spans_s: list[float] = []

    def __call__(self, **arguments: Any) -> SimpleNamespace:
        began_s = time.perf_counter()
        self.calls.append(arguments)
        batch_size, n_tokens = arguments["input_ids"].shape
        self.takes(batch_size, n_tokens)
        logits = torch.zeros(batch_size, 1, VOCABULARY)
        logits[:, :, len(self.calls) % VOCABULARY] = 1.0  # call 1 chooses token 1, and so on
        result = SimpleNamespace(logits=logits, past_key_values=f"cache {len(self.calls)}")
        self.spans_s.append(time.perf_counter() - began_s)
        return result


def fake_model(forward: Callable[..., Any] | None = None, **options: Any) -> TimedModel:
    """A model whose forward pass is the one given."""
    facts = options.pop("facts", {"name": "fake", "weights": "none"})
    return TimedModel(
        forward=FakeForward() if forward is None else forward,
        vocab_size=VOCABULARY,
        facts=facts,
        **options,
    )
