"""Closed loops and sessions: arrivals that answers make, at the batch level.

Hand-worked cases first; then the run against an open loop of its own arrivals, against Little's
law, which holds exactly, and against the machine-repair formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from reference_engine import run as reference_run

from llmsched import capacity
from llmsched.engine.batch.run import run_engine
from llmsched.engine.clock import Clock
from llmsched.engine.feed import Feed
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.schedulers.base import BatchPlan, Head, Later, RequestView, Selection, WaitingView
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.scheduler import Scheduler
from llmsched.schedulers.settings import Settings
from llmsched.simulation.scenario import as_scenario
from llmsched.studies.stress.plan import Plan
from llmsched.workload.closed_loop import ClosedLoop
from llmsched.workload.demand import Users, demand_of
from llmsched.workload.sessions import Turns, earliest_s, levels, whole_prompts
from llmsched.workload.trace import Trace, TraceError
from llmsched.workload.workload import Workload


class ShortestTwo:
    """The two shortest of those that wait, which it is told of one by one."""

    def __init__(self, settings: Settings) -> None:
        del settings
        self.waiting: dict[int, RequestView] = {}

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan:
        self.waiting |= {one.request: one for one in waiting.arrived}
        sizes = {
            one.request: (one.predicted_tokens, one.arrival_s) for one in self.waiting.values()
        }
        chosen = sorted(sizes, key=sizes.__getitem__)[:2]
        for row in chosen:
            del self.waiting[row]
        return Selection(chosen)

    def observe(self, batch: Any, service_s: float) -> None:
        pass


class PatientPolicy:
    """Waits for three requests, but not for ever."""

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan:
        until_s = min(waiting.oldest_arrival_s) + 0.7
        if sum(waiting.counts) < 3 and now_s < until_s:
            return Later(until_s)
        return Head(int(np.argmax(waiting.counts)), min(4, max(waiting.counts)))

    def observe(self, batch: Any, service_s: float) -> None:
        pass


def patient(settings: Settings) -> Scheduler:
    return Scheduler(
        policy=PatientPolicy(), sees="ages", binned=True, capacity_tokens=settings.capacity_tokens
    )


SCHEDULERS = (
    *("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_adaptive"),
    *("deadline_window", ShortestTwo, patient),
)
ADMISSIONS = ("together", "one-by-one")


@dataclass(frozen=True)
class OutputSeconds:
    """One second for each output token of the longest member; no formula, no surprise."""

    name: str = "seconds"

    def service_s(self, batch: Any) -> float:
        return batch.max_output_tokens * 1.0  # of one batch, or of many at once


def requests(*outputs: int, prompt: int = 0) -> Trace:
    n = len(outputs)
    return Trace(
        arrival_s=np.zeros(n),
        prompt_tokens=np.full(n, prompt, np.int32),
        output_tokens=np.array(outputs, np.int32),
    )


def served(
    trace: Trace,
    scheduler: str = "static_fifo",
    *,
    n_gpus: int = 1,
    bins: Any = None,
    n_bins: int = 1,
    latency: Any = None,
    admission: Any = "together",
    **options: Any,
) -> tuple[RequestTable, BatchTable]:
    if bins is None:
        bins = np.zeros(len(trace), np.int32)
    return run_engine(
        trace,
        bins,
        n_bins,
        make_scheduler(scheduler, Settings(latency=OutputSeconds(), **options)),
        n_gpus=n_gpus,
        latency=latency or OutputSeconds(),
        admission=admission,
    )


def users(n: int, trace: Trace, *, think_s: float = 0.0) -> Trace:
    loop = ClosedLoop(concurrency=n, think_time_s=think_s, think_time="constant")
    return loop.over(trace, np.random.default_rng(0))


# --- worked by hand ------------------------------------------------------------------------------


def test_users__who_think_a_second():
    # given two users, a second of thinking, one GPU that serves one request after the other
    trace = users(2, requests(2, 3, 1, 1, 4), think_s=1.0)
    table, _ = served(trace, batch_size=1)
    # then, with users A and B: A0 and B1 come at 1; A2 a second after 3; B3 a second after 6; A4 a
    # second after 7, when it comes before the GPU asks for work
    assert table.arrival_s.tolist() == [1, 1, 4, 7, 8]
    assert table.start_s.tolist() == [1, 3, 6, 7, 8]
    assert table.finish_s.tolist() == [3, 6, 7, 8, 12]


def test_users__who_do_not_think_come_behind_all_answers_of_the_instant():
    # given three users and batches of two: request 2 waits when the first two are answered
    trace = users(3, requests(1, 1, 1, 1, 1, 1))
    table, batches = served(trace, batch_size=2)
    # then the GPU goes on with what waits, 2; the answered users' 3 and 4 come behind that
    assert table.arrival_s.tolist() == [0, 0, 0, 1, 1, 2]
    assert table.start_s.tolist() == [0, 0, 1, 2, 2, 3]
    assert batches.size.tolist() == [2, 1, 2, 1]


def test_users__whom_two_gpus_answer_at_one_instant_come_together():
    # given GPU 1 with request 2 and GPU 0 with requests 3 and 4, both until 2
    trace = users(3, requests(1, 1, 2, 1, 1, 1, 1, 1))
    table, _ = served(trace, n_gpus=2, batch_size=2)
    # then 5, 6 and 7 find both GPUs idle, as if each user had thought for a moment
    assert table.arrival_s.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert table.gpu.tolist() == [0, 0, 1, 0, 0, 0, 0, 1]


def test_users__who_do_not_think_fill_a_batch_together():
    # given as many users as a batch holds
    trace = users(4, requests(*[2] * 8))
    table, batches = served(trace, batch_size=4)
    assert batches.size.tolist() == [4, 4]
    assert table.arrival_s.tolist() == [0] * 4 + [2] * 4
    assert table.start_s.tolist() == [0] * 4 + [2] * 4


def test_users__the_lowest_idle_gpu_takes_what_an_answer_brings():
    # given two GPUs, of which 0 is idle when GPU 1 answers
    trace = users(2, requests(1, 2, 1, 1))
    table, _ = served(trace, n_gpus=2, batch_size=1)
    # then 2 (user A at 1) goes to GPU 0, which has just answered and is the lowest idle one
    assert table.gpu.tolist() == [0, 1, 0, 0]
    assert table.start_s.tolist() == [0, 0, 1, 2]
    # and 3 comes at 2, when both are idle: the one that answered request 1 is not preferred
    assert table.arrival_s.tolist() == [0, 0, 1, 2]


def test_users__admission_one_by_one_serves_each_alone():
    trace = users(4, requests(*[2] * 8))
    together = served(trace, n_gpus=4, batch_size=4)[1]
    alone = served(trace, n_gpus=4, batch_size=4, admission="one-by-one")[1]
    assert together.size.tolist() == [4, 4]
    assert alone.size.tolist() == [1] * 8


def test_users__a_rejected_request_is_answered_at_once():
    # given room for 69,231 tokens, and two requests that are larger
    trace = users(1, requests(1, 2, 3, 4))
    big = trace.prompt_tokens.copy()
    big[[1, 2]] = 100_000
    table, _ = served(replace(trace, prompt_tokens=big), "dynamic_no_bins", sla_s=1e9)
    assert table.arrival_s.tolist() == [0, 1, 1, 1]
    assert np.isnan(table.start_s).tolist() == [False, True, True, False]
    assert table.start_s[3] == 1.0


def test_sessions__turns_come_a_pause_after_the_answer_before():
    # given session A (rows 0, 2, 3) from 0 on, and B (rows 1, 4) from 1 on
    turns = Turns(
        after=np.array([-1, -1, 0, 2, 1], np.int32),
        think_s=np.array([np.nan, np.nan, 2.0, 0.0, 5.0]),
    )
    arrival_s = earliest_s(np.array([0.0, 1.0, 0, 0, 0]), turns.after, turns.think_s)
    assert arrival_s.tolist() == [0.0, 1.0, 2.0, 2.0, 6.0]
    trace = replace(requests(3, 3, 1, 1, 1), arrival_s=arrival_s, turns=turns)
    table, _ = served(trace, batch_size=1)
    # A's first ends at 3, its second comes at 5; B's first runs 3 to 6, so A's second runs 6 to 7,
    # its third comes at 7; B's second comes at 6 + 5
    assert table.arrival_s.tolist() == [0, 1, 5, 7, 11]
    assert table.finish_s.tolist() == [3, 6, 7, 8, 12]


def test_sessions__a_turn_comes_before_a_policy_is_asked_again_at_its_instant():
    # given three requests served from 0 to 1, one alone that the policy lets wait from 0.5 to 1.2,
    # and a turn that comes 0.2 after the answers
    turns = Turns(
        after=np.array([-1, -1, -1, 0, -1], np.int32),
        think_s=np.array([np.nan, np.nan, np.nan, 0.2, np.nan]),
    )
    arrival_s = np.array([0.0, 0.0, 0.0, 0.2, 0.5])
    trace = replace(requests(1, 1, 1, 1, 1), arrival_s=arrival_s, turns=turns)
    table, batches = served(trace, patient, n_gpus=2)
    assert table.arrival_s[3] == 1.2
    assert table.start_s[3:].tolist() == [1.2, 1.2]
    assert batches.size.tolist() == [3, 2]


def test_sessions__recorded_turns_come_when_they_came():
    turns = Turns(after=np.array([-1, 0], np.int32), think_s=np.full(2, np.nan))
    trace = replace(requests(9, 1), arrival_s=np.array([0.0, 1.0]), turns=turns)
    assert not trace.closed
    assert served(trace, batch_size=8)[0].arrival_s.tolist() == [0, 1]


def test_sessions__a_user_stays_with_one_to_its_end():
    # given two users, sessions (0, 2), (1,), (3,), (4,); the pauses of sessions are the source's
    turns = Turns(
        after=np.array([-1, -1, 0, -1, -1], np.int32),
        think_s=np.array([np.nan, np.nan, 3.0, np.nan, np.nan]),
    )
    trace = replace(requests(1, 1, 1, 1, 1), arrival_s=np.array([0.0, 0, 3, 3, 3]), turns=turns)
    table, _ = served(users(2, trace, think_s=0.5), batch_size=1, n_gpus=9)
    # A: 0 at 0.5 to 1.5, its turn 2 at 4.5 to 5.5; B: 1 at 0.5, 3 at 2.0, 4 at 3.5
    assert table.arrival_s.tolist() == [0.5, 0.5, 4.5, 2.0, 3.5]


def test_demand__first_requests_of_users_come_by_instant():
    loop = ClosedLoop(concurrency=3, think_time_s=1.0)
    trace = loop.over(requests(*[1] * 50), np.random.default_rng(1))
    demand = demand_of(trace)
    assert isinstance(demand, Users)
    first = list(demand.first())
    assert [instant for instant, _ in first] == sorted(trace.turns.think_s[:3].tolist())
    assert demand.answered(0, 10.0) == [(10.0 + trace.turns.think_s[3], 3)]


# --- against open loops ---------------------------------------------------------------------------


@st.composite
def loops(draw: Any) -> Trace:
    """Requests of users who think, or of sessions, with sizes that sometimes do not fit."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    trace = replace(
        requests(*rng.integers(0, 30, n).tolist()),
        prompt_tokens=rng.choice([10, 100, 1000, 100_000], n, p=[0.4, 0.4, 0.18, 0.02]).astype(
            np.int32
        ),
    )
    after = np.full(n, -1, np.int32)
    if draw(st.booleans()):
        follows = np.flatnonzero(rng.random(n) < 0.6)
        follows = follows[follows > 0]
        after[follows] = rng.integers(0, follows)
    think_s = np.where(after >= 0, rng.exponential(size=n), np.nan)
    arrival_s = np.sort(rng.exponential(size=n).cumsum())
    arrival_s = earliest_s(arrival_s, after, think_s)
    order = np.argsort(arrival_s, kind="stable")
    if (np.diff(arrival_s) < 0).any():
        new_row = np.empty(n, np.int32)
        new_row[order] = np.arange(n)
        after = np.where(after >= 0, new_row[after], -1)[order].astype(np.int32)
        think_s = think_s[order]
    sessions = replace(trace, arrival_s=arrival_s[order], turns=Turns(after=after, think_s=think_s))
    if draw(st.booleans()):
        loop = ClosedLoop(concurrency=draw(st.integers(1, 9)), think_time_s=1.0)
        return loop.over(sessions, rng)
    return sessions


@given(
    trace=loops(),
    scheduler=st.sampled_from(SCHEDULERS),
    n_gpus=st.integers(1, 3),
    admission=st.sampled_from(ADMISSIONS),
)
@settings(max_examples=300, deadline=None)
def test_closed_loop__equals_the_open_loop_of_its_own_arrivals(trace, scheduler, n_gpus, admission):
    # given a run whose arrivals its answers made (pauses are random, so no instants tie)
    n_bins = 3 if scheduler is patient or "multi_bin" in str(scheduler) else 1
    bins = (trace.output_tokens // 10 % n_bins).astype(np.int32)
    options = {"n_gpus": n_gpus, "n_bins": n_bins, "admission": admission, "sla_s": 20.0}
    table, batches = served(trace, scheduler, bins=bins, **options)
    # when the same requests come at those instants whatever is answered
    order = np.argsort(table.arrival_s, kind="stable")
    opened = replace(trace, turns=None, arrival_s=np.zeros(len(trace))).take(order)
    opened = replace(opened, arrival_s=table.arrival_s[order])
    again, batches_again = served(opened, scheduler, bins=bins[order], **options)
    # then every instant is the same, to the last bit
    for name in RequestTable.__slots__:
        mine, other = getattr(table, name)[order], getattr(again, name)
        assert np.array_equal(mine, other, equal_nan=mine.dtype.kind == "f"), name
    for name in BatchTable.__slots__:
        assert np.array_equal(getattr(batches, name), getattr(batches_again, name)), name
    # and no user has two requests under way, no turn comes before the answer to the one before
    turns = trace.turns
    done = np.where(np.isnan(table.finish_s), table.arrival_s, table.finish_s)
    later = np.flatnonzero(turns.waiting)
    assert (table.arrival_s[later] == done[turns.after[later]] + turns.think_s[later]).all()


@pytest.mark.parametrize("scheduler", ["static_fifo", "dynamic_no_bins", "multi_bin_dynamic"])
def test_closed_loop__its_arrivals_in_the_eager_reference_give_the_same_run(scheduler):
    rng = np.random.default_rng(3)
    trace = requests(*rng.integers(1, 300, 500).tolist(), prompt=50)
    trace = ClosedLoop(concurrency=12, think_time_s=0.3).over(trace, rng)
    edges = [80.0, 160.0]
    bins = np.searchsorted(edges, trace.output_tokens, side="right").astype(np.int32)
    one_bin = scheduler != "multi_bin_dynamic"
    table, _ = served(
        trace,
        scheduler,
        n_gpus=2,
        bins=np.zeros_like(bins) if one_bin else bins,
        n_bins=1 if one_bin else 3,
        sla_s=200.0,
    )
    order = np.argsort(table.arrival_s, kind="stable")
    columns = (table.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.output_tokens)
    rows = list(zip(*(column[order].tolist() for column in columns), strict=True))
    expected = reference_run(
        rows,
        scheduler,
        n_gpus=2,
        edges=edges,
        sla_s=200.0,
        service_s=lambda size, total, prompt, output: float(output),
    )
    assert table.start_s[order].tolist() == expected.start_s
    assert table.finish_s[order].tolist() == expected.finish_s
    assert table.gpu[order].tolist() == expected.gpu


# --- laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 4, 8, 16, 32, 64])
def test_max_concurrency_sweep__littles_law_holds_exactly(concurrency):
    # given `vllm bench serve --max-concurrency N`: N in flight, the next one sent at each answer
    rng = np.random.default_rng(concurrency)
    trace = users(concurrency, requests(*rng.integers(1, 200, 1000).tolist(), prompt=100))
    table, _ = served(trace, "dynamic_no_bins", n_gpus=2, sla_s=300.0)
    # then exactly N are in flight from the first request to the last one sent. All times are
    # whole seconds here, so sums are exact
    last_s = table.arrival_s.max()
    events = np.concatenate([table.arrival_s, table.finish_s])
    change = np.concatenate([np.ones(1000), -np.ones(1000)])
    instants = np.unique(events)
    in_flight = np.array([change[events <= instant].sum() for instant in instants])
    assert (in_flight[instants < last_s] == concurrency).all()
    # and L = λ W: the mean number in flight, times the time, is the sum of the latencies
    upto = np.minimum(table.finish_s, last_s) - table.arrival_s
    assert upto.sum() == concurrency * last_s
    latency_s = table.finish_s - table.arrival_s
    area = (in_flight[:-1] * np.diff(instants)).sum()
    assert latency_s.sum() == area


def repair_state_chances(n_users: int, rate: float) -> np.ndarray:
    """Chances of 0..n requests in an M/M/1//N system; `rate` = mean service / mean pause."""
    weights = [math.perm(n_users, k) * rate**k for k in range(n_users + 1)]
    return np.array(weights) / sum(weights)


@pytest.mark.theory
@pytest.mark.parametrize(("n_users", "think_s"), [(1, 1.0), (4, 2.0), (10, 5.0), (10, 20.0)])
def test_users__who_think_are_the_machine_repair_model(n_users, think_s):
    # given one server, exponential service of mean 1 s, N users with exponential pauses
    # (Kleinrock, "Queueing Systems", vol. 1, section 3.8: M/M/1//N)
    chances = repair_state_chances(n_users, 1.0 / think_s)
    throughput = 1 - chances[0]
    response_s = n_users / throughput - think_s  # the users' cycle
    n, warm_up = 3000, 300
    samples = []
    for seed in range(30):
        rng = np.random.default_rng(np.random.SeedSequence([9, seed]))
        trace = replace(requests(*[1] * n), service_s=rng.exponential(size=n))
        trace = ClosedLoop(concurrency=n_users, think_time_s=think_s).over(trace, rng)
        table, _ = served(trace, batch_size=1, latency=Drawn())
        kept = np.argsort(table.arrival_s)[warm_up:-n_users]
        arrival_s = table.arrival_s[kept]
        rate = (len(kept) - 1) / (arrival_s[-1] - arrival_s[0])
        latency_s = (table.finish_s - table.arrival_s)[kept].mean()
        samples.append((rate, latency_s))
    # then throughput and response time are the formula's, within 4 standard errors and 2 %
    for found, expected in zip(np.transpose(samples), (throughput, response_s), strict=True):
        error = found.std(ddof=1) / math.sqrt(len(found))
        assert abs(found.mean() - expected) < 4 * error
        assert abs(found.mean() / expected - 1) < 0.02


@dataclass(frozen=True)
class Drawn:
    """The drawn time of the longest member."""

    def service_s(self, batch: Any) -> float:
        return batch.max_service_s


# --- what is refused ------------------------------------------------------------------------------


def test_full_batches__would_wait_for_ever():
    with pytest.raises(ValueError, match="would wait for ever"):
        served(users(2, requests(1, 1, 1)), "multi_bin_only")


def test_untimed__needs_users():
    turns = Turns(after=np.array([-1, -1], np.int32), think_s=np.full(2, np.nan), timed=False)
    trace = replace(requests(1, 1), turns=turns)
    with pytest.raises(
        TraceError, match=r"must have arrival times .*arrival=NAME.*, or users .*--concurrency N"
    ):
        served(trace)
    assert served(users(1, trace))[0].arrival_s.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"concurrency": 0}, "concurrency must be a whole number from 1 to 1000000, got 0"),
        ({"concurrency": 2.5}, "got 2.5"),
        ({"concurrency": True}, "got True"),
        ({"concurrency": 10**7}, "got 10000000"),
        ({"concurrency": 1, "think_time_s": -1.0}, r"from 0 to 1e\+06, got -1"),
        ({"concurrency": 1, "think_time_s": math.nan}, "got nan"),
        ({"concurrency": 1, "think_time": "uniform"}, "exponential, constant; got 'uniform'"),
    ],
)
def test_closed_loop__what_is_out_of_range_is_named(options, expected):
    with pytest.raises(ValueError, match=expected):
        ClosedLoop(**options)


def test_workload__thinking_needs_users_and_a_rate_needs_arrivals():
    for thinking in ({"think_time_s": 2.0}, {"think_time": "constant"}):
        with pytest.raises(ValueError, match=r"think_time_s and think_time need concurrency, got"):
            Workload(**thinking)
    loop = Workload(concurrency=3, requests=50)
    assert loop.closed_loop == ClosedLoop(concurrency=3)
    assert Workload().closed_loop is None
    # the rate of the source does not count, and nobody may set or search for one
    assert (replace(loop, rps_scale=1.0).load().output_tokens == loop.load().output_tokens).all()
    with pytest.raises(ValueError, match=r"rps_scale cannot count where 3 users wait for answers"):
        replace(loop, rps_scale=2.0)
    with pytest.raises(ValueError, match=r"capacity needs arrivals at a given rate"):
        capacity(loop, "static_fifo", replications=1, jobs=1)
    with pytest.raises(ValueError, match=r"stress plan sends requests at given rates, got a clo"):
        Plan(base=as_scenario(Workload(concurrency=3)))


@pytest.mark.parametrize(
    ("after", "think_s", "expected"),
    [
        ([-1, 1], [0.0, 0.0], "must follow an earlier one, got row 1 after row 1"),
        ([-1, 5], [0.0, 0.0], "got row 1 after row 5"),
        ([-2, 0], [0.0, 0.0], "got -2"),
        ([-1, 0], [0.0, -1.0], "must be >= 0 and finite"),
        ([-1, 0], [0.0, math.inf], "must be >= 0 and finite"),
        ([-1, 0], [0.0], "of one length, got 2 and 1"),
    ],
)
def test_turns__what_cannot_be_is_named(after, think_s, expected):
    with pytest.raises(ValueError, match=expected):
        Turns(after=np.array(after, np.int32), think_s=np.array(think_s))


# --- columns of sessions --------------------------------------------------------------------------


def test_levels__are_first_turns_then_second_ones():
    after = np.array([-1, 0, 1, -1, 3, 1], np.int32)
    assert [rows.tolist() for rows in levels(after)] == [[0, 3], [1, 4], [2, 5]]
    assert [rows.tolist() for rows in levels(after[:0])] == []


def test_whole_prompts__are_all_that_was_said_before_and_what_is_new():
    after = np.array([-1, 0, 1, -1], np.int32)
    prompt, output = np.array([100, 10, 20, 7]), np.array([5, 6, 7, 8])
    assert whole_prompts(prompt, output, after).tolist() == [100, 115, 141, 7]


def test_take__who_follows_one_left_out_follows_the_one_before():
    turns = Turns(
        after=np.array([-1, 0, 1, -1, 3], np.int32),
        think_s=np.array([np.nan, 1.0, 2.0, np.nan, 4.0]),
    )
    kept = turns.take(np.array([True, False, True, False, True]))
    assert kept.after.tolist() == [-1, 0, -1]
    assert kept.think_s[1] == 3.0
    assert turns.take(slice(2)).after.tolist() == [-1, 0]


def test_feed__delivers_what_ties_together_in_order_of_rows():
    arrived: list[tuple[float, list[int]]] = []
    clock = Clock(-math.inf)
    # given row 3, which comes by itself at 2, and row 2, which comes a second after the answer to 0
    turns = Turns(
        after=np.array([-1, -1, 0, -1], np.int32), think_s=np.array([np.nan, np.nan, 1.0, np.nan])
    )
    trace = replace(requests(1, 1, 1, 1), arrival_s=np.array([0.0, 1.0, 1.0, 2.0]), turns=turns)
    feed = Feed(clock, demand_of(trace), lambda rows, _: arrived.append((clock.now, rows)))
    feed.begin()
    clock.at(1.0).callbacks.append(lambda _: feed.answered([0]))
    clock.run()
    assert arrived == [(0.0, [0]), (1.0, [1]), (2.0, [2, 3])]
