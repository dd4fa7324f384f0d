"""What every scheduler of the iteration level must keep, and what each is for."""

from __future__ import annotations

import gc
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from serving import MS, RTX_4090, CheckedCore, poisson, serve, trace_of

from llmsched.engine.iteration import run as run_module
from llmsched.engine.iteration.core import Core
from llmsched.engine.iteration.requests import Active, ServedRequests
from llmsched.engine.iteration.run import IterationRun
from llmsched.schedulers.iteration.base import IterationScheduler, KnownRequests
from llmsched.schedulers.iteration.orders import BinsInTurn, Fcfs, Ranked
from llmsched.schedulers.iteration.registry import ITERATION_SCHEDULERS, IterationOptions
from llmsched.schedulers.iteration.routing import ROUTERS, ReplicasSeen
from llmsched.workload.trace import Trace

every_scheduler = pytest.mark.parametrize("name", sorted(ITERATION_SCHEDULERS))
BLOCKS = 40


def scheduler(name: str, **options: Any) -> IterationScheduler:
    more = {"capacity_tokens": 16 * BLOCKS, "tpot_sla_s": 0.05, **options}
    return ITERATION_SCHEDULERS[name](IterationOptions(**more))


def run_with(
    made: IterationScheduler, trace: Trace, *, blocks: int = BLOCKS, step: Any = MS, **options: Any
) -> IterationRun:
    """One run; lengths are predicted from the prompts, outputs are not looked at."""
    predicted = 1 + trace.prompt_tokens % 50
    run = {"scheduler": made, "predicted_tokens": predicted, "bins": predicted // 13}
    run |= options.pop("run", {})
    return serve(trace, blocks=blocks, step=step, run=run, **options)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Up to 30 requests on a grid of 10 ms, in a memory that holds a few of them."""
    n = draw(st.integers(1, 30))
    rows, now_s = [], 0.0
    for code in draw(st.lists(st.integers(0, 6 * 12 * 12 - 1), min_size=n, max_size=n)):
        code, gap = divmod(code, 6)
        prompt, output = divmod(code, 12)
        now_s += (0, 0, 0, 10, 35, 400)[gap]
        rows.append((now_s, 1 + 17 * prompt, 1 + 9 * output))
    priority = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return trace_of(rows, priority=np.array(priority, np.int32))


QUICK = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@every_scheduler
@QUICK
@given(
    trace=traces(),
    depth=st.sampled_from([1, 2]),
    most=st.sampled_from([1, 3, 256]),
    budget=st.sampled_from([16, 64, 2048]),
    caching=st.booleans(),
)
def test_contract__everybody_is_served_in_full(
    monkeypatch, name, trace, depth, most, budget, caching
):
    # counters, budget, places and blocks are checked after every decision
    monkeypatch.setattr(run_module, "Core", CheckedCore)
    options = {"depth": depth, "max_running": most, "step_tokens": budget}
    run = run_with(scheduler(name), trace, prefix_caching=caching, **options)
    table = run.requests
    # nothing is lost
    assert table.completed.all()
    _, counts = run.gaps.expand()
    assert counts.sum() == (trace.output_tokens - 1).sum()
    # and nothing happens before its time
    assert (trace.arrival_s <= table.queued_s).all()
    assert (table.queued_s <= table.scheduled_s).all()
    assert (table.scheduled_s < table.first_token_s).all()
    one = trace.output_tokens == 1
    assert ((table.first_token_s < table.finish_s) | one).all()
    assert (table.first_token_s[one] == table.finish_s[one]).all()
    # stepping agrees
    stepped = run_with(
        scheduler(name), trace, prefix_caching=caching, run={"leaps": False}, **options
    )
    np.testing.assert_array_equal(stepped.requests.finish_s, table.finish_s)


@every_scheduler
def test_contract__true_lengths_change_nothing_before_they_show(name):
    # given two traces that differ in true outputs alone
    rng = np.random.default_rng(12)
    trace = poisson(200, 8, seed=11)
    trace = replace(trace, output_tokens=rng.integers(100, 400, 200).astype(np.int32))
    other = replace(trace, output_tokens=rng.permutation(trace.output_tokens))
    known = {"capacity_tokens": 6400, "tpot_sla_s": 0.05}
    one = run_with(scheduler(name, **known), trace, blocks=400, step=RTX_4090).requests
    two = run_with(scheduler(name, **known), other, blocks=400, step=RTX_4090).requests
    # then all decisions are the same until the first request ends that should not
    differ = trace.output_tokens != other.output_tokens
    until_s = min(one.finish_s[differ].min(), two.finish_s[differ].min())
    early = (one.scheduled_s < until_s) | (two.scheduled_s < until_s)
    assert early.sum() > 10
    np.testing.assert_array_equal(one.scheduled_s[early], two.scheduled_s[early])


SKIPPED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType)


def reachable(*roots: Any) -> list[Any]:
    """Every object that code holding these could get at, classes and functions left out."""
    seen: dict[int, Any] = {}
    stack = list(roots)
    while stack:
        thing = stack.pop()
        if id(thing) in seen or isinstance(thing, SKIPPED):
            continue
        seen[id(thing)] = thing
        stack.extend(gc.get_referents(thing))
        if isinstance(thing, memoryview):
            stack.append(thing.obj)
    return list(seen.values())


@every_scheduler
def test_contract__true_lengths_cannot_be_reached(monkeypatch, name):
    # given the policies of a run, caught at its end
    caught: list[Core] = []

    class Caught(Core):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            caught.append(self)

    monkeypatch.setattr(run_module, "Core", Caught)
    trace = poisson(60, 8, seed=13)
    run_with(scheduler(name), trace, blocks=400, step=RTX_4090)
    policies = reachable(*[p for core in caught for p in (core.order, core.limit)])
    # then nothing they hold leads to the engine or to the column of true outputs
    assert not [p for p in policies if isinstance(p, Core | Active | ServedRequests | Trace)]
    arrays = [np.asarray(p) for p in policies if isinstance(p, memoryview | np.ndarray)]
    assert not [a for a in arrays if np.array_equal(a, trace.output_tokens)]
    with pytest.raises(TypeError, match="read-only"):
        KnownRequests.of(
            arrival_s=trace.arrival_s,
            prompt_tokens=trace.prompt_tokens,
            predicted_tokens=trace.prompt_tokens,
        ).priority[0] = 1


@pytest.mark.parametrize("name", ["continuous_static", "continuous_dynamic"])
def test_fcfs__first_schedules_are_in_order_of_arrival(name):
    table = run_with(scheduler(name), poisson(300, 9, seed=14), blocks=300, step=RTX_4090).requests
    assert table.preemptions.sum() > 50 or name == "continuous_dynamic"
    assert (np.diff(table.scheduled_s) >= 0).all()


def test_priority__overtakes_and_takes_blocks_from_the_least_urgent():
    # given one at a time, and a late request that is more urgent
    rows = [(0, 10, 5), (1, 10, 5), (2, 10, 5)]
    columns = {"priority": np.array([1, 1, 0], np.int32)}
    run = serve(rows, blocks=9, max_running=1, depth=1, columns=columns, run={
        "scheduler": scheduler("continuous_priority")
    })  # fmt: skip
    assert np.argsort(run.requests.finish_s).tolist() == [0, 2, 1]
    # given too few blocks for both, and the urgent one behind in the running list
    rows = [(0, 30, 20), (0, 30, 20)]
    run = serve(rows, blocks=5, depth=1, columns={"priority": np.array([1, 0], np.int32)}, run={
        "scheduler": scheduler("continuous_priority")
    })  # fmt: skip
    assert run.requests.preemptions.tolist() == [1, 0]


def waits(rows: list[tuple[float, int, int]], predicted: list[int], made: IterationScheduler):
    run = serve(
        rows,
        blocks=99,
        max_running=1,
        depth=1,
        run={"scheduler": made, "predicted_tokens": np.array(predicted, np.int32)},
    )
    return np.argsort(run.requests.scheduled_s, kind="stable").tolist()


def test_sjf__shortest_predicted_first():
    rows = [(0, 10, 9), (1, 10, 9), (2, 10, 9), (3, 10, 9)]
    assert waits(rows, [5, 300, 100, 200], scheduler("continuous_sjf")) == [0, 2, 3, 1]


def test_sjf__waiting_makes_up_for_length():
    # given 20 tokens a second: who came 10 s later must be shorter by more than 200
    rows = [(0, 10, 9), (1, 10, 9), (11, 10, 9), (11, 10, 9)]
    made = scheduler("continuous_sjf", ageing_tokens_per_s=20.0)
    assert waits(rows, [5, 300, 101, 99], made) == [0, 3, 1, 2]


def test_multi_bin__who_starts_together_is_of_one_bin_and_bins_take_turns():
    # given eight that wait while the first runs, of bins 0 and 1 in alternation, two places
    rows = [(0, 10, 9)] * 2 + [(1, 10, 9)] * 8
    bins = np.array([0, 0] + [1, 0] * 4, np.int32)
    run = serve(
        rows,
        blocks=99,
        max_running=2,
        depth=1,
        run={"scheduler": scheduler("continuous_multi_bin", n_bins=2), "bins": bins},
    )
    order = np.lexsort((np.arange(10), run.requests.scheduled_s))
    assert bins[order].tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert order[2:].tolist() == [2, 4, 3, 5, 6, 8, 7, 9]


def test_bins__the_longest_queue_may_choose_instead():
    made = scheduler("continuous_multi_bin", n_bins=4, bin_choice="longest-queue")
    run = run_with(made, poisson(100, 30, seed=15), blocks=400, step=RTX_4090)
    assert run.requests.completed.all()


def test_bins__beyond_their_number_are_refused():
    with pytest.raises(ValueError, match=r"bins must be in \[0, 2\), got bin 3"):
        run_with(scheduler("continuous_multi_bin", n_bins=2), poisson(100, 30, seed=15))


class LongestPromptFirst:
    """The order of the package's own documentation."""

    fifo = evicts_last = False

    def __init__(self, known: KnownRequests) -> None:
        self.known, self.waiting = known, []

    def add(self, request):
        self.waiting.append(request)

    put_back = add

    def head(self, n_admitted):
        return max(self.waiting, key=lambda r: self.known.prompt_tokens[r], default=None)

    def remove(self, request):
        self.waiting.remove(request)

    def victim(self, running):
        return running[-1]


def test_a_users_order__ten_lines_or_a_key():
    trace = poisson(120, 20, seed=16)
    by_class = run_with(IterationScheduler(LongestPromptFirst), trace, max_running=4, blocks=400)
    by_key = run_with(
        IterationScheduler(lambda known: Ranked(known, lambda k, r: -k.prompt_tokens[r])),
        trace,
        max_running=4,
        blocks=400,
    )
    np.testing.assert_array_equal(by_class.requests.finish_s, by_key.requests.finish_s)


class Nobody(Fcfs):
    def head(self, n_admitted):
        return None


class Stranger(LongestPromptFirst):
    def victim(self, running):
        return 10**6


class Forgetful(Fcfs):
    def remove(self, request):
        pass


class Hasty(Fcfs):
    def head(self, n_admitted):
        return 1


class Closed:
    def limit(self, n_decodes):
        return 0

    def finished(self, prompt_tokens, output_tokens): ...
    def observe(self, step): ...


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (IterationScheduler(Nobody), "must let somebody run, got nobody of 2 waiting"),
        (IterationScheduler(Fcfs, Closed), "must let somebody run, got nobody of 2 waiting"),
        (IterationScheduler(Forgetful), "must be one of the waiting requests, got request 0"),
        (IterationScheduler(Hasty), "must be one of the waiting requests, got request 1"),
        (IterationScheduler(Stranger), "must be one of the running requests, got request 1000000"),
    ],
)
def test_a_users_policy__that_cannot_be_is_refused_in_one_line(made, told):
    rows = [(0, 30, 40), (0, 30, 40)]
    with pytest.raises(ValueError, match=told):
        serve(rows, blocks=5, run={"scheduler": made})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"n_bins": 0}, r"n_bins must be in \[1, 64\], got 0"),
        (
            {"bin_choice": "best"},
            "bin_choice must be one of round-robin, longest-queue; got 'best'",
        ),
        ({"ageing_tokens_per_s": 0.0}, "ageing_tokens_per_s must be finite and > 0"),
    ],
)
def test_options__out_of_range_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        IterationOptions(capacity_tokens=100, **arguments)


def test_orders__know_an_ended_request_among_the_waiting():
    # a preempted request may get its last token while it waits, and is then removed from anywhere
    columns = {"arrival_s": np.zeros(4), "prompt_tokens": np.array([5, 3, 4, 1])}
    known = KnownRequests.of(predicted_tokens=np.ones(4), **columns)
    for order in (
        Fcfs(known),
        Ranked(known, lambda k, r: k.prompt_tokens[r]),
        BinsInTurn(known, 1),
    ):
        for request in range(4):
            order.add(request)
        order.remove(2)
        served = []
        while (head := order.head(0)) is not None:
            order.remove(head)
            served.append(head)
        assert sorted(served) == [0, 1, 3]


def test_routers__least_of_what_they_look_at():
    seen = ReplicasSeen([3, 2, 2], [9, 40, 7], [50, 30, 20], [16, 0, 64])
    known = KnownRequests.of(
        arrival_s=np.zeros(5), prompt_tokens=np.ones(5), predicted_tokens=np.ones(5)
    )
    chosen = {name: make(known, 3).route(0, seen) for name, make in ROUTERS.items()}
    assert chosen == {
        "round-robin": 0,
        "least-outstanding": 1,
        "least-kv": 2,
        "predicted-work": 2,
        "prefix-affine": 2,
    }
    # who is more than 32 requests busier than the least busy one is not asked for its cache
    busy = ReplicasSeen([3, 2, 35], [9, 40, 7], [50, 30, 20], [16, 0, 64])
    assert ROUTERS["prefix-affine"](known, 3).route(0, busy) == 0


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (3, r"must give an index in \[0, 2\), got 3 for request 0"),
        (-1, r"must give an index in \[0, 2\), got -1 for request 0"),
        (1.0, "must give the index of a replica, got 1.0 for request 0"),
        (None, "must give the index of a replica, got None for request 0"),
        (True, "must give the index of a replica, got True for request 0"),
    ],
)
@pytest.mark.parametrize("columns", [("outstanding",), ()])
def test_a_users_router__that_answers_no_replica_is_refused(chosen, told, columns):
    class Bad:
        sees = columns

        def __init__(self, known, n_replicas): ...

        def route(self, request, replicas):
            return chosen

    with pytest.raises(ValueError, match=told):
        serve([(0, 10, 2)], blocks=9, run={"n_replicas": 2, "router": Bad})


def test_a_users_router__that_asks_for_what_there_is_not_is_refused():
    class Bad(ROUTERS["least-kv"]):
        sees = ("outstanding", "temperature")

    with pytest.raises(ValueError, match=r"must see some of outstanding, .* got 'temperature'"):
        serve([(0, 10, 2)], blocks=9, run={"n_replicas": 2, "router": Bad})


def test_a_users_router__sees_the_replicas_as_they_are():
    seen: list[ReplicasSeen] = []

    class Watching:
        sees = ("outstanding", "used_blocks", "predicted_tokens")

        def __init__(self, known, n_replicas): ...

        def route(self, request, replicas):
            seen.append(replicas)
            return 0

    # A (20 tokens) is prefilled until 30, gets its last token at 54; B comes at that very instant
    serve(
        [(0, 20, 3), (35, 40, 1), (54, 1, 1)],
        blocks=9,
        depth=1,
        run={"n_replicas": 2, "router": Watching, "predicted_tokens": np.array([7, 8, 9])},
    )
    assert [list(s.outstanding) for s in seen] == [[0, 0], [1, 0], [2, 0]]
    assert [list(s.used_blocks) for s in seen] == [[0, 0], [2, 0], [5, 0]]
    assert [list(s.predicted_tokens) for s in seen] == [[0, 0], [27, 0], [75, 0]]
