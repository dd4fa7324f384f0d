"""What the harness reads off its clock, against forward passes of known length."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness times models of torch")

from measured_fakes import VOCABULARY, FakeForward, fake_model  # noqa: E402

from llmsched.calibration.measure import timing as calibrate_timing  # noqa: E402
from llmsched.calibration.measure.timing import step_overhead, time_batch  # noqa: E402

PREFILL_S, STEP_S = 0.25, 0.125  # sums of these are exact


@pytest.fixture
def clock(monkeypatch):
    """A clock for the harness that only a forward pass moves."""
    clock = SimpleNamespace(now_s=0.0)
    clock.perf_counter = lambda: clock.now_s
    monkeypatch.setattr(calibrate_timing, "time", clock)
    return clock


def prompts(batch_size: int, n_tokens: int):
    return torch.zeros(batch_size, n_tokens, dtype=torch.long)


def test_time_batch__is_one_prefill_and_one_step_per_further_token(clock):
    def takes(batch_size: int, n_tokens: int) -> None:
        clock.now_s += PREFILL_S if n_tokens > 1 else STEP_S

    timed = time_batch(fake_model(FakeForward(takes)), prompts(3, 7), 5)
    assert timed.prefill_s == PREFILL_S
    assert timed.whole_s == PREFILL_S + 4 * STEP_S
    assert timed.peak_memory_bytes is None


def test_time_batch__of_one_token_is_its_prefill(clock):
    def takes(batch_size: int, n_tokens: int) -> None:
        clock.now_s += PREFILL_S

    timed = time_batch(fake_model(FakeForward(takes)), prompts(1, 2), 1)
    assert (timed.prefill_s, timed.whole_s) == (PREFILL_S, PREFILL_S)


def test_time_batch__feeds_each_step_the_token_chosen_and_the_cache_of_the_step_before():
    # given a forward pass whose call i chooses token i and returns cache i
    forward = FakeForward()
    model = fake_model(forward, forward_options={"logits_to_keep": 1})
    # when 4 tokens are generated for 3 prompts of 7 tokens
    time_batch(model, prompts(3, 7), 4)
    # then the prompts went in once, and then one token at a time
    assert [tuple(call["input_ids"].shape) for call in forward.calls] == [(3, 7), *[(3, 1)] * 3]
    assert [call["input_ids"].unique().tolist() for call in forward.calls[1:]] == [[1], [2], [3]]
    caches = [call.get("past_key_values") for call in forward.calls]
    assert caches == [None, "cache 1", "cache 2", "cache 3"]
    assert all(call["use_cache"] and call["logits_to_keep"] == 1 for call in forward.calls)


def test_time_batch__computes_no_gradients_and_collects_no_garbage():
    import gc

    seen = []

    def takes(batch_size: int, n_tokens: int) -> None:
        seen.append((torch.is_inference_mode_enabled(), gc.isenabled()))

    assert gc.isenabled()
    time_batch(fake_model(FakeForward(takes)), prompts(1, 2), 2)
    assert seen == [(True, False)] * 2
    assert gc.isenabled()


def test_time_batch__lets_errors_through_and_collects_garbage_again():
    import gc

    def breaks(batch_size: int, n_tokens: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        time_batch(fake_model(FakeForward(breaks)), prompts(1, 2), 2)
    assert gc.isenabled()


class FakeCuda:
    """A GPU whose clock, in milliseconds, only forward passes move; notes the calls."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.calls: list[str] = []

    def synchronize(self) -> None:
        self.calls.append("wait")

    def reset_peak_memory_stats(self) -> None:
        self.calls.append("reset peak")

    def max_memory_allocated(self) -> int:
        return 12345

    def Event(self, *, enable_timing: bool):  # noqa: N802
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu: FakeCuda) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.gpu.calls.append("event")
        self.at_ms = self.gpu.now_ms

    def elapsed_time(self, other: FakeEvent) -> float:
        self.gpu.calls.append("read")
        return other.at_ms - self.at_ms


def test_time_batch__on_a_gpu_reads_events_and_waits_only_before_and_after(monkeypatch):
    # given a GPU on which a prefill takes 250 ms and a step 125 ms
    gpu = FakeCuda()
    for name in ("synchronize", "reset_peak_memory_stats", "max_memory_allocated", "Event"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))

    def takes(batch_size: int, n_tokens: int) -> None:
        gpu.calls.append("forward")
        gpu.now_ms += 250.0 if n_tokens > 1 else 125.0

    # when three tokens are generated
    timed = time_batch(fake_model(FakeForward(takes), device="cuda"), prompts(2, 7), 3)
    # then times are in seconds, and no wait stands between the passes
    assert (timed.prefill_s, timed.whole_s) == (0.25, 0.5)
    assert timed.peak_memory_bytes == 12345
    assert gpu.calls == [
        *("reset peak", "wait", "event", "forward", "event", "forward", "forward", "event"),
        *("wait", "read", "read"),
    ]


def busy(takes_s: float):
    """A forward pass that keeps the processor for this long: a sleep may be woken late."""

    def wait(batch_size: int, n_tokens: int) -> None:
        until_s = time.perf_counter() + takes_s
        while time.perf_counter() < until_s:
            pass

    return wait


def test_time_batch__of_a_fixed_forward_is_right_within_2_percent_and_adds_less_than_1():
    # given a forward pass of 5 ms that notes how long it really took
    forward, n_tokens, shares, errors = FakeForward(busy(0.005)), 8, [], []
    model = fake_model(forward)
    # when batches of 8 tokens are timed
    for _ in range(9):
        forward.spans_s.clear()
        timed = time_batch(model, prompts(4, 16), n_tokens)
        inside_s = sum(forward.spans_s)
        shares.append((timed.whole_s - inside_s) / timed.whole_s)
        errors.append(timed.prefill_s / forward.spans_s[0] - 1)
        errors.append((timed.whole_s - timed.prefill_s) / sum(forward.spans_s[1:]) - 1)
    # then the rest is below 1 % (40 us a step are), and prefill and steps are right within 2 %;
    # medians, so that being interrupted between two passes now and then does not count
    assert 0 <= np.median(shares) < 0.01
    assert abs(np.median(errors)) < 0.02


def test_step_overhead__is_the_loop_without_forward_passes(monkeypatch):
    # given a clock that moves by 1/64 s whenever it is read, and by nothing else
    reads = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(reads) / 64)
    monkeypatch.setattr(calibrate_timing, "time", clock)
    model = fake_model(lambda **_: pytest.fail("the real forward pass"), forward_options={"x": 1})
    # when the loop is timed: three marks a batch of 32 steps
    overhead = step_overhead(model, 4)
    # then that is all there is, and the choice of the token adds none
    assert overhead.harness_s == 2 / 64 / 32
    assert overhead.token_choice_s == 0.0


def test_step_overhead__tells_the_choice_of_the_token_from_the_loop(monkeypatch):
    # given a clock that moves by 1/64 s whenever a token is chosen from logits of the model's size
    clock = SimpleNamespace(now_s=0.0)
    clock.perf_counter = lambda: clock.now_s
    monkeypatch.setattr(calibrate_timing, "time", clock)
    argmax = torch.Tensor.argmax

    def slow_argmax(logits, dimension):
        assert logits.shape == (4, 1, VOCABULARY)
        clock.now_s += 1 / 64
        return argmax(logits, dimension)

    monkeypatch.setattr(torch.Tensor, "argmax", slow_argmax)
    overhead = step_overhead(fake_model(), 4)
    assert (overhead.harness_s, overhead.token_choice_s) == (0.0, 1 / 64)
