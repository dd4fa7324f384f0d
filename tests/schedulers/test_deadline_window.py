"""`deadline_window`: its choices by hand, against every window looked at one by one, its gain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from llmsched import Settings, Slo, Trace, Workload, make_scheduler, simulate
from llmsched.engine.batch.run import run_engine
from llmsched.latency.base import Shape
from llmsched.schedulers.base import REQUEST_COLUMNS, Arrivals, FinishedBatch, WaitingView
from llmsched.schedulers.window.policy import SIZES, WindowPolicy, WindowRule

PLAIN = WindowRule(look_ahead=math.inf, learning_rate=0.0)  # in time or late, nothing else


class Longest:
    """One second per output token of the longest, so that a batch costs what its longest does."""

    def service_s(self, batch: Any) -> Any:
        return batch.max_output_tokens * 1.0


class Parts:
    """Prompts, outputs, their sum, the size and what is drawn all count."""

    def service_s(self, batch: Any) -> Any:
        tokens = 0.005 * batch.max_prompt_tokens + 0.02 * batch.max_output_tokens
        others = 0.02 * batch.size + 0.002 * batch.max_total_tokens
        return tokens + others + 0.5 * batch.max_service_s


@dataclass
class Queue:
    """What a policy would be shown, one question after another, on one GPU."""

    policy: WindowPolicy
    n_waiting: int = 0
    n_shown: int = 0
    note: Any = None

    def ask(self, now_s: float, *came: tuple[float, int]) -> list[int]:
        """The next batch, after these came: (arrival, predicted output)."""
        rows = [
            (self.n_shown + i, arrival_s, 0, output, 1.0 * output, 0)
            for i, (arrival_s, output) in enumerate(came)
        ]
        self.n_shown += len(came)
        self.n_waiting += len(came)
        arrived = Arrivals(np.array(rows, REQUEST_COLUMNS))
        view = WaitingView(counts=(self.n_waiting,), arrived=arrived)
        plan = self.policy.next_batch(view, now_s)
        self.n_waiting -= len(plan.requests)
        self.policy._n_running -= 1  # it is served at once
        self.note = plan.note
        return list(plan.requests)


def queue(
    *, sla_s: float = 10.0, rule: WindowRule = PLAIN, capacity: float = math.inf, most: int = 128
) -> Queue:
    return Queue(WindowPolicy(Longest(), sla_s, capacity, most, rule))


# ----------------------------------------------------------------------------------- by hand


def test_window__is_the_one_of_most_requests_in_time_per_second() -> None:
    # given outputs of 1, 5, 2 and 6 s at once; value per second of [1] and of [1, 2] is 1
    waiting = queue()
    # then the smaller of equals goes first, then 2 s; [5, 6] has 2/6, [5] alone 1/5
    assert waiting.ask(0, (0, 1), (0, 5), (0, 2), (0, 6)) == [0]
    assert waiting.ask(1) == [2]
    assert waiting.ask(3) == [1, 3]


@pytest.mark.parametrize(
    ("late_weight", "most_late", "planned"),
    [(2, 10, [1]), (8, 10, [0, 1]), (8, 0.25, [1])],
)
def test_window__weighs_the_late_by_their_wait(
    late_weight: float, most_late: float, planned: list[int]
) -> None:
    # given 8 s late after two SLAs of waiting, and 1 s that has just come: worth 1 per second;
    # both at once are worth (1 + 2·late_weight)/8, or (1 + late_weight·most_late)/8 at most
    rule = replace(PLAIN, late_weight=late_weight, most_late=most_late)
    assert queue(rule=rule).ask(20, (0, 8), (20, 1)) == planned


@pytest.mark.parametrize(("now_s", "planned"), [(4, [0, 1]), (4.5, [1])])
def test_window__is_late_what_cannot_end_in_time(now_s: float, planned: list[int]) -> None:
    # given 6 s since time 0 and 9 s since now, SLA 10 s, and no worth to the late
    # then until 4 s both are in time, 2/9 per second; after it the first one adds nothing
    rule = replace(PLAIN, late_weight=0.0)
    assert queue(rule=rule).ask(now_s, (0, 6), (now_s, 9)) == planned


@pytest.mark.parametrize(("look_ahead", "planned"), [(0.3, [0]), (math.inf, [1])])
def test_window__prefers_who_cannot_wait(look_ahead: float, planned: list[int]) -> None:
    # given, at 4 s, 5 s with 1 s to spare, and 4 s with 6 s to spare, one at a time
    # then 0.3 SLAs ahead they are worth 1/(1 + 1/3)/5 and 1/(1 + 6/3)/4 per second
    rule = replace(PLAIN, look_ahead=look_ahead, queue_ahead=0.0)
    assert queue(rule=rule, most=1).ask(4, (0, 5), (4, 4)) == planned


def test_window__takes_the_oldest_of_equals() -> None:
    # given equals of which the older half is late and worth nothing
    waiting = queue(rule=replace(PLAIN, late_weight=0.0), most=3)
    old, young = [(0, 5)] * 3, [(20, 5)] * 3
    # then the window of the young is served with the requests that came first
    assert waiting.ask(20, *old, *young) == [0, 1, 2]
    assert waiting.ask(20) == [3, 4, 5]


def test_window__does_not_serve_equals_before_those_that_did_not_fit() -> None:
    # given eight equals, of which four fit by prediction, and the first is longer than it seems
    tokens = np.array([5, *[2] * 7], np.int32)
    arrival_s, prompt = np.zeros(8), np.zeros(8, np.int32)
    requests, _ = run_engine(
        Trace(arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=tokens),
        np.zeros(8, np.int32),
        1,
        make_scheduler(
            "deadline_window", Settings(latency=Longest(), sla_s=99.0, capacity_tokens=10.0)
        ),
        n_gpus=1,
        latency=Longest(),
        predicted_tokens=np.full(8, 2, np.int32),
    )
    # then the one that the engine gave back comes before the four that no plan held
    assert requests.batch.tolist() == [0, 0, 0, 1, 1, 1, 1, 2]


def test_window__fits_nine_tenths_of_the_memory_by_predicted_lengths() -> None:
    equals = [(0, 30)] * 4
    assert queue(sla_s=99, capacity=100).ask(0, *equals) == [0, 1, 2]
    assert queue(sla_s=99, capacity=99).ask(0, *equals) == [0, 1]
    assert queue(sla_s=99, capacity=134).ask(0, *equals) == [0, 1, 2, 3]


def test_corrections__are_learned_for_size_and_length() -> None:
    # given 2 s and 3 s, of one octave, 9 s, of another, and two of 3 s
    waiting = queue(rule=replace(PLAIN, learning_rate=0.25))
    notes = []
    for outputs in ([2], [3], [9], [3, 3]):
        waiting.ask(0, *((0, output) for output in outputs))
        notes.append(waiting.note)
    first, second, other, pair = notes

    def finish(note: Any, size: int, service_s: float) -> None:
        waiting.policy.observe(FinishedBatch(0, size, 1, (0, 0) * size, note), service_s)

    def log2_correction(note: Any) -> float:
        return waiting.policy._log_correction(*note[:2]) / math.log(2)

    # when the first took twice what the model said
    finish(first, 1, 4.0)
    # then its likes get half of the error, a quarter for the size and one for the octave
    assert log2_correction(second) == pytest.approx(0.5)
    assert log2_correction(other) == pytest.approx(0.25)
    # and when the second does the same, half of what is left, though it was planned before
    finish(second, 1, 6.0)
    assert log2_correction(second) == pytest.approx(0.75)
    # and nothing is learned of a batch that the memory cut, or that took no time
    learned = log2_correction(pair)
    finish(pair, 1, 99.0)
    finish(pair, 2, 0.0)
    assert log2_correction(pair) == learned == pytest.approx(0.375)


def test_policy__without_a_latency_model_says_what_it_lacks() -> None:
    trace = Trace(
        arrival_s=np.zeros(2),
        prompt_tokens=np.ones(2, np.int32),
        output_tokens=np.ones(2, np.int32),
    )
    blind = make_scheduler("deadline_window")
    with pytest.raises(ValueError, match="got no latency model"):
        run_engine(trace, np.zeros(2, np.int32), 1, blind, n_gpus=1, latency=Longest())


# -------------------------------------------------------------------- against every window


def best_by_hand(
    requests: list[tuple[float, int, int, float]], now_s: float, sla_s: float, capacity: float
) -> list[int]:
    """The best of every window, looked at one by one as the docstrings say, for one idle GPU."""
    latency, rule = Parts(), WindowRule()

    def time_s(size: int, members: list[int]) -> float:
        prompt, output = (max(requests[i][k] for i in members) for k in (1, 2))
        total = max(sum(requests[i][1:3]) for i in members)
        alone_s = max(requests[i][3] for i in members)
        return latency.service_s(Shape(size, total, prompt, output, alone_s))

    order = sorted(range(len(requests)), key=lambda i: requests[i][3])
    usual = max(size for size in (1, 4, 16, 64) if size <= len(order))
    drain_s = sum(time_s(usual, [i]) for i in order) / usual

    def worth(i: int, size: int) -> float:
        likes = next(anchor for anchor in (1, 4, 16, 64, 128) if anchor >= size)
        wait_s = now_s - requests[i][0]
        left_s = sla_s - wait_s - time_s(likes, [i])
        if left_s < 0:
            return rule.late_weight * min(wait_s / sla_s, rule.most_late)
        return 1 / (1 + max(left_s - drain_s, 0) / (rule.look_ahead * sla_s))

    best, chosen = -1.0, [0]
    for size in [size for size in SIZES if size <= len(order)]:
        for start in range(len(order) - size + 1):
            members = order[start : start + size]
            tokens = sum(requests[i][1] + requests[i][2] for i in members)
            value = sum(worth(i, size) for i in members) / time_s(size, members)
            if (size == 1 or tokens <= 0.9 * capacity) and value > best * (1 + 1e-12):
                best, chosen = value, members
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(25))
def test_window__is_the_best_of_all(seed: int) -> None:
    # given up to 60 requests that have waited for up to three SLAs
    rng = np.random.default_rng(seed)
    n, sla_s, capacity = int(rng.integers(2, 60)), float(rng.choice([2, 10])), 20_000.0
    arrival_s = np.sort(rng.uniform(0, 3 * sla_s, n))
    prompt, output = rng.integers(1, 900, n), rng.integers(1, 200, n)
    alone_s = rng.uniform(0.1, 10, n)
    columns = (arrival_s, prompt, output, alone_s)
    requests = list(zip(*(column.tolist() for column in columns), strict=True))
    rows = np.zeros(n, REQUEST_COLUMNS)
    rows["request"], rows["arrival_s"] = np.arange(n), arrival_s
    rows["prompt_tokens"], rows["predicted_tokens"] = prompt, output
    rows["alone_s"] = alone_s
    # when a GPU asks
    policy = WindowPolicy(Parts(), sla_s, capacity)
    plan = policy.next_batch(WaitingView(counts=(n,), arrived=Arrivals(rows)), 3 * sla_s)
    # then it gets the best of every window there is
    assert list(plan.requests) == best_by_hand(requests, 3 * sla_s, sla_s, capacity)


# --------------------------------------------------------------------------------- its gain


@pytest.mark.filterwarnings("ignore::llmsched.latency.base.CalibrationWarning")
def test_window__violates_less_than_bins_on_bursts() -> None:
    """As docs/deadline_window.md has it, on four seeds that chose nothing."""
    gains = []
    for seed in range(2000, 2004):
        workload = Workload(source="burstgpt-like-v1", requests=1000, rps_scale=200.0)
        late = {
            scheduler: simulate(
                workload,
                scheduler,
                n_gpus=4,
                latency="h100-llama-3-8b-vllm",
                binning=4,
                slo=Slo(latency_s=10.0),
                seed=seed,
            ).metrics.sla_violation_rate
            for scheduler in ("deadline_window", "multi_bin_dynamic")
        }
        gains.append(late["multi_bin_dynamic"] - late["deadline_window"])
    assert min(gains) > 0
