"""Time one batch: prefill, then exactly so many decode steps, and what the harness itself adds.

A batch of b equal requests: one forward pass over b x p random prompt tokens, then o - 1 passes
over one token each with the KV cache. The next token is the most likely one; no token ends the
output. On a GPU, events on its stream are timed; the host waits for the device before the first
pass and after the last one only, as an engine that runs ahead of it would.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from llmsched.calibration.measure.model import TimedModel
from llmsched.calibration.measure.torch_library import is_out_of_memory, libraries

_OVERHEAD_STEPS = 32
_OVERHEAD_TRIALS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTime:
    """How long one batch took."""

    prefill_s: float  # one forward pass over the prompts, first token chosen
    whole_s: float  # from the prompts to the last token
    peak_memory_bytes: int | None = None  # of the device's tensors, weights included; None on a CPU


class Stopwatch(Protocol):
    """Instants on the device's own clock."""

    def mark(self) -> None:
        """Note the instant at which the device is done with everything asked so far."""

    def since_first_s(self) -> list[float]:
        """Wait for the device; time of each mark after the first one [s]."""


class HostStopwatch:
    """The clock of the host, for work that the host itself does."""

    def __init__(self) -> None:
        self._instants_s: list[float] = []

    def mark(self) -> None:
        """Note the instant."""
        self._instants_s.append(time.perf_counter())

    def since_first_s(self) -> list[float]:
        """Time of each mark after the first one [s]."""
        first_s, *later_s = self._instants_s
        return [instant_s - first_s for instant_s in later_s]


class CudaStopwatch:
    """Events on the GPU's stream; the first mark waits until the GPU is idle."""

    def __init__(self) -> None:
        torch, _ = libraries()
        self._cuda = torch.cuda
        self._events: list[Any] = []

    def mark(self) -> None:
        """Put an event on the stream."""
        if not self._events:
            self._cuda.synchronize()
        event = self._cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def since_first_s(self) -> list[float]:
        """Wait for the GPU; time of each event after the first one [s]."""
        self._cuda.synchronize()
        first, *later = self._events
        return [first.elapsed_time(event) / 1e3 for event in later]  # from milliseconds


def random_prompts(
    model: TimedModel, batch_size: int, prompt_tokens: int, rng: np.random.Generator
) -> Any:
    """Token ids, a tensor of shape (batch_size, prompt_tokens) on the model's device."""
    torch, _ = libraries()
    ids = rng.integers(0, model.vocab_size, (batch_size, prompt_tokens), dtype=np.int64)
    return torch.from_numpy(ids).to(model.device)


def time_batch(model: TimedModel, prompts: Any, output_tokens: int) -> BatchTime:
    """Generate exactly `output_tokens` tokens for each prompt, and time it.

    Parameters
    ----------
    model : TimedModel
        The model; its `forward` is called once per step.
    prompts : tensor of shape (batch_size, prompt_tokens)
        Token ids on the model's device.
    output_tokens : int
        Tokens to generate for each prompt; must be >= 1.
    """
    torch, _ = libraries()
    on_gpu = model.device == "cuda"
    watch: Stopwatch = CudaStopwatch() if on_gpu else HostStopwatch()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode(), _no_garbage_collection():
        prefill_s, whole_s = _generate(model, prompts, output_tokens, watch)
    peak = int(torch.cuda.max_memory_allocated()) if on_gpu else None
    return BatchTime(prefill_s=prefill_s, whole_s=whole_s, peak_memory_bytes=peak)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A full collection with torch loaded takes longer than a small batch."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _generate(
    model: TimedModel, prompts: Any, output_tokens: int, watch: Stopwatch
) -> tuple[float, float]:
    """Prefill time and whole time [s]."""
    forward, options = model.forward, model.forward_options
    watch.mark()
    result = forward(input_ids=prompts, use_cache=True, **options)
    next_ids = result.logits[:, -1:].argmax(-1)
    watch.mark()
    for _ in range(output_tokens - 1):
        result = forward(
            input_ids=next_ids, past_key_values=result.past_key_values, use_cache=True, **options
        )
        next_ids = result.logits[:, -1:].argmax(-1)
    watch.mark()
    prefill_s, whole_s = watch.since_first_s()
    return prefill_s, whole_s


def time_or_none(
    model: TimedModel, prompts: Callable[[], Any], output_tokens: int
) -> BatchTime | None:
    """As `time_batch`; None if memory ran out twice, the second time with all caches emptied."""
    for _attempt in range(2):
        try:
            return time_batch(model, prompts(), output_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # only here is the failed run's memory let go: its traceback held the tensors
        free_memory(model)
    return None


def free_memory(model: TimedModel) -> None:
    """Give back what earlier batches left in the caches."""
    torch, _ = libraries()
    gc.collect()
    if model.device == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOverhead:
    """What a decode step takes apart from the model's forward pass."""

    harness_s: float  # the loop, its calls and its clock
    token_choice_s: float  # the most likely token: any engine has to choose one


def step_overhead(model: TimedModel, batch_size: int) -> StepOverhead:
    """Time of the same loop around a forward pass that returns at once, per step.

    Its result is either logits of the model's size, or something that already knows its token.
    """
    torch, _ = libraries()
    dtype = getattr(torch, model.dtype)
    logits = torch.zeros(batch_size, 1, model.vocab_size, dtype=dtype, device=model.device)
    prompts = torch.zeros(batch_size, 1, dtype=torch.long, device=model.device)
    harness_s = _empty_step_s(model, prompts, _Chosen(prompts))
    return StepOverhead(
        harness_s=harness_s,
        token_choice_s=max(0.0, _empty_step_s(model, prompts, logits) - harness_s),
    )


class _Chosen:
    """Logits that know the next token."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids

    def __getitem__(self, _: object) -> _Chosen:
        return self

    def argmax(self, _: int) -> Any:
        return self._ids


def _empty_step_s(model: TimedModel, prompts: Any, logits: Any) -> float:
    result = SimpleNamespace(logits=logits, past_key_values=None)
    at_once = replace(model, forward=lambda **_: result)
    times_s = [
        time_batch(at_once, prompts, _OVERHEAD_STEPS).whole_s for _ in range(_OVERHEAD_TRIALS)
    ]
    return float(np.median(times_s)) / _OVERHEAD_STEPS
