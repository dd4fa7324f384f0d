"""The contract of the batch level: plans by hand, what the engine refuses, and who may be asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from plan_world import plan_compare as compare, plan_simulate as simulate

from llmsched import Scheduler, Settings, Trace, Workload, make_scheduler
from llmsched._util.plugins import PluginError
from llmsched.engine.batch.run import run_engine
from llmsched.schedulers.base import (
    BatchPlan,
    FinishedBatch,
    Head,
    Later,
    RequestView,
    Selection,
    WaitingView,
)
from llmsched.schedulers.batch_size import FixedBatcher
from llmsched.schedulers.registry import scheduler_name


class Longest:
    """One second per output token of the longest."""

    def service_s(self, batch: Any) -> Any:
        return 1.0 * batch.max_output_tokens


def asked(*rows: tuple[float, int]) -> Trace:
    """Requests without a prompt, from (arrival, output tokens)."""
    arrival_s, output = zip(*rows, strict=True)
    return Trace(
        arrival_s=np.array(arrival_s, dtype=np.float64),
        prompt_tokens=np.zeros(len(rows), dtype=np.int32),
        output_tokens=np.array(output, dtype=np.int32),
    )


@dataclass
class Scripted:
    """Answers what it was told to, one plan after another, and notes what it is shown."""

    plans: list[Any]
    shown: list[tuple[float, tuple[int, ...], list[int]]] = field(default_factory=list)
    finished: list[tuple[int, float, Any, float]] = field(default_factory=list)

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan | None:
        new = [request.request for request in waiting.arrived]
        self.shown.append((now_s, waiting.counts, new))
        plan = self.plans.pop(0)
        return plan(waiting) if callable(plan) else plan

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        self.finished.append((batch.size, batch.mean_tokens, batch.note, service_s))


def serve(
    trace: Trace,
    plans: list[Any],
    *,
    n_gpus: int = 1,
    bins: list[int] | None = None,
    admission: Any = "together",
    **terms: Any,
) -> tuple[Scripted, list[tuple[float, float, list[int]]]]:
    """The policy after the run, and every batch as (start, finish, requests)."""
    policy = Scripted(plans)
    scheduler = Scheduler(policy=policy, **{"sees": "requests", **terms})
    requests, batches = run_engine(
        trace,
        np.array(bins or [0] * len(trace), dtype=np.int32),
        max(bins or [0]) + 1,
        scheduler,
        n_gpus=n_gpus,
        latency=Longest(),
        admission=admission,
    )
    served = []
    for batch, start_s in enumerate(batches.start_s.tolist()):
        members = np.flatnonzero(requests.batch == batch).tolist()
        served.append((start_s, float(batches.finish_s[batch]), members))
    return policy, served


# -------------------------------------------------------------------------------- the plans


def test_selection__is_any_set_of_waiting_requests() -> None:
    # given four requests at once, of 1, 5, 2 and 6 s; when the policy pairs what is alike
    trace = asked((0, 1), (0, 5), (0, 2), (0, 6))
    policy, served = serve(trace, [Selection([2, 0], note="short"), Selection((1, 3))])
    # then it takes 8 s, not the 11 s of the order of arrival (figure 1(b) of the multi-bin paper)
    assert served == [(0, 2, [0, 2]), (2, 8, [1, 3])]
    assert policy.shown == [(0, (4,), [0, 1, 2, 3]), (2, (2,), [])]
    # and it learns how each plan went
    assert policy.finished == [(2, 1.5, "short", 2.0), (2, 5.5, None, 6.0)]


def test_requests__are_shown_as_they_arrive_with_what_may_be_known() -> None:
    trace = Trace(
        arrival_s=np.array([0.0, 1.0, 1.0, 9.0]),
        prompt_tokens=np.array([7, 8, 9, 10], dtype=np.int32),
        output_tokens=np.array([4, 2, 3, 1], dtype=np.int32),
    )
    seen: list[RequestView] = []

    def first(waiting: WaitingView) -> Selection:
        seen.extend(waiting.arrived)
        return Selection([seen[len(seen) - len(waiting.arrived)].request])

    scheduler = Scheduler(policy=Scripted([first, first, Selection([2]), first]), sees="requests")
    requests, _ = run_engine(
        trace,
        np.array([0, 1, 0, 1], dtype=np.int32),
        2,
        scheduler,
        n_gpus=1,
        latency=Longest(),
        predicted_tokens=np.array([40, 20, 30, 10], dtype=np.int32),
    )
    assert seen == [
        RequestView(0, 0.0, 7, 40, 40.0, 0),
        RequestView(1, 1.0, 8, 20, 20.0, 1),
        RequestView(2, 1.0, 9, 30, 30.0, 0),
        RequestView(3, 9.0, 10, 10, 10.0, 1),
    ]
    assert requests.start_s.tolist() == [0, 4, 6, 9]


def test_selection__names_requests_by_their_row_also_where_some_are_rejected() -> None:
    # given that request 1 is larger than the memory
    policy, served = serve(
        asked((0, 1), (0, 99), (0, 2)), [Selection([2]), Selection([0])], capacity_tokens=10.0
    )
    assert served == [(0, 2, [2]), (2, 3, [0])]
    assert policy.shown[0] == (0, (2,), [0, 2])


def test_plan__is_cut_to_its_beginning_that_fits_and_the_rest_is_shown_again() -> None:
    # given a memory of 10 tokens, and plans of all that wait
    rows = (0, 4), (0, 5), (0, 3), (0, 6)
    plans = [Selection([2, 0, 1, 3]), Selection([3, 1]), Selection([1])]
    policy, served = serve(asked(*rows), plans, capacity_tokens=10.0)
    # then 3 + 4 fit and 5 more do not; 6 fits, and 5 more do not
    assert served == [(0, 4, [0, 2]), (4, 10, [3]), (10, 15, [1])]
    assert policy.shown == [(0, (4,), [0, 1, 2, 3]), (4, (2,), [1, 3]), (10, (1,), [1])]


def test_head__is_cut_to_what_fits_and_skips_what_was_picked_before() -> None:
    # given two bins; when a selection takes the oldest and the last of bin 0
    rows = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]
    plans = [Selection([0, 4]), Head(1, 1), Head(0, 2)]
    policy, served = serve(asked(*rows), plans, bins=[0, 1, 0, 0, 0])
    # then the head of bin 0 is what is left of it, in order of arrival
    assert served == [(0, 5, [0, 4]), (5, 7, [1]), (7, 11, [2, 3])]
    assert [counts for _, counts, _ in policy.shown] == [(4, 1), (2, 1), (2, 0)]
    # and in one bin with 6 tokens of memory, 1 + 2 + 3 fit and 4 more do not
    plans = [Head(0, 5), Head(0, 2), Head(0, 1)]
    _, served = serve(asked(*rows), plans, capacity_tokens=6.0)
    assert served == [(0, 3, [0, 1, 2]), (3, 7, [3]), (7, 12, [4])]


def test_several_gpus__are_asked_in_turn_and_each_sees_what_is_left() -> None:
    policy, served = serve(
        asked((0, 3), (0, 1), (0, 2)), [Selection([1]), Selection([0, 2])], n_gpus=2
    )
    assert served == [(0, 1, [1]), (0, 3, [0, 2])]
    assert [shown[1:] for shown in policy.shown] == [((3,), [0, 1, 2]), ((2,), [])]


@pytest.mark.parametrize("admission", ["together", "one-by-one"])
def test_none__waits_for_the_next_arrival(admission: str) -> None:
    plans = [None, Selection([0, 1])]
    policy, served = serve(asked((0, 1), (3.5, 2)), plans, admission=admission)
    assert served == [(3.5, 5.5, [0, 1])]
    assert policy.shown == [(0, (1,), [0]), (3.5, (2,), [1])]


@pytest.mark.parametrize("admission", ["together", "one-by-one"])
@pytest.mark.parametrize("sees", ["counts", "requests"])
def test_later__is_asked_again_at_that_instant_to_the_last_bit(admission: str, sees: str) -> None:
    # given an instant that now + (t - now) would miss
    at_s = 0.1 + 0.2
    plans = [Later(at_s), Head(0, 1)]
    policy, served = serve(asked((0.1, 1)), plans, admission=admission, sees=sees)
    assert served == [(at_s, at_s + 1, [0])]
    assert [now_s for now_s, _, _ in policy.shown] == [0.1, at_s]


def test_later__arrivals_and_other_gpus_ask_before_that_instant() -> None:
    # given GPU 0 busy until 4 with request 0, and request 1 held back until 9
    rows = (0, 4), (1, 1), (2, 1)
    plans = [Head(0, 1), Later(9.0), Later(9.0), Later(9.0), Head(0, 2)]
    policy, served = serve(asked(*rows), plans, n_gpus=2)
    # then it is asked when 2 arrives, when 0 ends, and at 9, where one answer serves both
    assert [now_s for now_s, _, _ in policy.shown] == [0, 1, 2, 4, 9]
    assert served == [(0, 4, [0]), (9, 10, [1, 2])]


def test_later__of_an_earlier_instant_counts_too() -> None:
    plans = [Later(9.0), Later(5.0), Head(0, 2)]
    policy, served = serve(asked((0, 1), (1, 1)), plans)
    assert [now_s for now_s, _, _ in policy.shown] == [0, 1, 5]
    assert served == [(5, 6, [0, 1])]


def test_formed_batches__may_be_held_back_but_not_merged() -> None:
    from llmsched.schedulers.scheduler import FullBatches

    terms: dict[str, Any] = {"release": FullBatches(batch_size=2), "sees": "counts"}
    rows = (0, 1), (0, 1), (0, 1), (0, 1)
    policy, served = serve(asked(*rows), [Later(3.0), Head(0, 1), Head(0, 1)], **terms)
    assert served == [(3, 4, [0, 1]), (4, 5, [2, 3])]
    assert policy.shown[0][1] == (2,)
    with pytest.raises(PluginError, match=r"one formed batch, Head\(0, 1\), got Head\(bin=0, size"):
        serve(asked(*rows), [Head(0, 2)], **terms)


# ------------------------------------------------------------------------ what is refused


THREE = ((0, 1), (0, 2), (5, 3))  # the third arrives later


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Selection([0, 1, 0]), "each request once, got request 0 twice"),
        (Selection([0, 2]), "requests that wait, got 2, which does not"),
        (Selection([3]), "requests that wait, got 3, which does not"),
        (Selection([-1]), "requests that wait, got -1, which does not"),
        (Selection([0.0]), "requests that wait, got 0.0, which does not"),
        (Selection(["0"]), "requests that wait, got '0', which does not"),
        (Selection([]), "at least one request, or None, got none"),
        (Selection({0, 1}), r"a sequence of requests, got \{0, 1\}"),
        (Selection(0), "a sequence of requests, got 0"),
        (Head(0, 3), r"at most as many as wait there, got Head\(bin=0, size=3\); 2 wait"),
        (Head(0, 0), r"got Head\(bin=0, size=0\)"),
        (Head(-1, 1), r"got Head\(bin=-1, size=1\)"),
        (Head(1, 1), r"got Head\(bin=1, size=1\)"),
        (Head(0, 1.5), r"got Head\(bin=0, size=1.5\)"),
        (Head(0.0, 1), r"got Head\(bin=0.0, size=1\)"),
        (Later(0.0), r"later than now, 0.0 s, got Later\(at_s=0.0\)"),
        (Later(math.nan), r"later than now, 0.0 s, got Later\(at_s=nan\)"),
        (Later("soon"), r"later than now, 0.0 s, got Later\(at_s='soon'\)"),
        (7, "must plan a Head, a Selection, a Later or None, got 7; 2 wait"),
        ([0, 1], r"got \[0, 1\]; 2 wait"),
    ],
)
def test_plan__that_cannot_be_is_refused_in_one_line(plan: Any, said: str) -> None:
    with pytest.raises(PluginError, match=said) as caught:
        serve(asked(*THREE), [plan])
    assert str(caught.value).startswith("test_batch_policy.Scripted.next_batch must plan ")
    assert "\n" not in str(caught.value)


def test_plan__of_what_was_served_before_is_refused() -> None:
    with pytest.raises(PluginError, match="requests that wait, got 0, which does not"):
        serve(asked(*THREE), [Selection([0]), Selection([1, 0])])


def test_plan__of_numpys_integers_is_as_good() -> None:
    plans = [Selection(np.array([1, 0])), Head(np.int64(0), np.int32(1))]
    _, served = serve(asked(*THREE), plans)
    assert served == [(0, 2, [0, 1]), (5, 8, [2])]
    _, served = serve(asked(*THREE), [Head(np.int64(0), np.int64(2)), Head(0, 1)], sees="counts")
    assert served == [(0, 2, [0, 1]), (5, 8, [2])]


def test_selection__needs_to_see_requests() -> None:
    with pytest.raises(PluginError, match=r"must plan a Head, a Later or None, got Selection\("):
        serve(asked(*THREE), [Selection([0])], sees="counts")


def test_policy__that_leaves_requests_waiting_is_refused() -> None:
    with pytest.raises(ValueError, match="serve every request it takes, got 2 left waiting"):
        serve(asked((0, 1), (0, 2)), [None])


class Failing:
    """Raises where it is told to."""

    def __init__(self, where: str, error: type[BaseException]) -> None:
        self.where, self.error = where, error

    def next_batch(self, waiting: WaitingView, now_s: float) -> Head:
        if self.where == "next_batch":
            raise self.error("of\nmine")
        return Head(0, 1)

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        if self.where == "observe":
            raise self.error("of\nmine")


@pytest.mark.parametrize("where", ["next_batch", "observe"])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, StopIteration, AssertionError])
def test_policy__that_raises_is_named_in_one_line(where: str, error: type[BaseException]) -> None:
    said = f"test_batch_policy.Failing.{where} must not fail, got {error.__name__}: of mine; mend"
    with pytest.raises(PluginError, match=said) as caught:
        simulate(asked((0, 1), (0, 1)), Failing(where, error))
    assert isinstance(caught.value.__cause__, error)


def test_policy__interrupted_by_hand_is_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        simulate(asked((0, 1)), Failing("next_batch", KeyboardInterrupt))


# ------------------------------------------------------- what a scheduler of bins may answer


@dataclass
class Limited:
    """A batcher that answers this."""

    answer: Any

    def limit(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        pass


@dataclass
class Chosen:
    """A choice that answers this."""

    answer: Any

    def choose(self, waiting: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def with_parts(batcher: Any, choice: Any) -> Callable[[Settings], Scheduler]:
    return lambda settings: Scheduler(batcher=lambda: batcher, choice=choice)


@pytest.mark.parametrize("answer", [2.5, None, "8", 0, -3, math.nan, [1]])
def test_limit__must_be_a_whole_number_from_1_on(answer: Any) -> None:
    said = r"test_batch_policy.Limited.limit must give a whole number >= 1, got "
    with pytest.raises(PluginError, match=said) as caught:
        simulate(asked((0, 1), (0, 1)), with_parts(Limited(answer), Chosen(0)))
    assert repr(answer) in str(caught.value)


@pytest.mark.parametrize("answer", [99, 1, -1, 0.0, "0", [0]])
def test_choose__must_be_a_bin_where_requests_wait(answer: Any) -> None:
    said = r"test_batch_policy.Chosen.choose must give the index of a bin where requests wait"
    with pytest.raises(PluginError, match=said) as caught:
        simulate(asked((0, 1), (0, 1)), with_parts(FixedBatcher(1), Chosen(answer)))
    assert f"got {answer!r}, with 2 waiting" in str(caught.value)


def test_parts__that_raise_are_named() -> None:
    trace = asked((0, 1), (0, 1))
    with pytest.raises(PluginError, match=r"Limited.limit must not fail, got KeyError: 'no'"):
        simulate(trace, with_parts(Limited(KeyError("no")), Chosen(0)))
    with pytest.raises(PluginError, match=r"Chosen.choose must not fail, got KeyError: 'no'"):
        simulate(trace, with_parts(FixedBatcher(1), Chosen(KeyError("no"))))
    with pytest.raises(PluginError, match=r"NoneType.* must not fail|must not fail"):
        simulate(trace, with_parts(None, Chosen(0)))


def test_parts__may_answer_in_numpys_integers() -> None:
    run = simulate(asked((0, 1), (0, 1)), with_parts(Limited(np.int64(2)), Chosen(np.int32(0))))
    assert run.batches.size.tolist() == [2]


# ---------------------------------------------------------------- whom `make_scheduler` takes


class Stateful:
    """Serves as many as it has been asked before."""

    def __init__(self) -> None:
        self.times = 0

    def next_batch(self, waiting: WaitingView, now_s: float) -> Head:
        self.times += 1
        return Head(0, min(self.times, waiting.counts[0]))

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        pass


class OfSettings(Stateful):
    """Made of its settings."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        assert settings.sla_s == 2.0
        assert settings.batch_target_s == 2.0
        assert settings.latency is not None
        assert settings.capacity_tokens == 50.0


SIX = [(0.0, 1)] * 6


def sizes(scheduler: Any, **options: Any) -> list[int]:
    run = simulate(asked(*SIX), scheduler, n_gpus=1, **options)
    return run.batches.size.tolist()


def test_make_scheduler__takes_functions_classes_policies_and_schedulers() -> None:
    settings = Settings(sla_s=2.0, capacity_tokens=50.0)
    assert sizes(lambda told: Stateful()) == [1, 2, 3]
    assert sizes(lambda told: Scheduler(policy=Stateful())) == [1, 2, 3]
    assert sizes(OfSettings, settings=settings) == [1, 2, 3]
    assert sizes(Stateful()) == [1, 2, 3]
    assert sizes(Scheduler(policy=Stateful())) == [1, 2, 3]
    assert sizes(Scheduler(batcher=lambda: FixedBatcher(4))) == [4, 2]


def test_make_scheduler__gives_every_run_its_own_copy() -> None:
    ours = Stateful()
    for one in (ours, Scheduler(policy=ours)):
        assert sizes(one) == sizes(one) == [1, 2, 3]
    assert ours.times == 0


def test_make_scheduler__a_policy_alone_has_the_memory_of_the_run() -> None:
    made = make_scheduler(Stateful(), Settings(capacity_tokens=7.0, batch_max=9))
    assert (made.capacity_tokens, made.batch_max, made.sees) == (7.0, 9, "requests")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (lambda settings: None, "got NoneType; return one"),
        (lambda settings: Stateful, "got type; return one"),
        (lambda: None, r"made of its settings without a failure, got TypeError: .*lambda"),
        (object(), "got object; return one"),
        (7, "got int; return one"),
    ],
)
def test_make_scheduler__says_in_one_line_what_is_wrong(spec: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make_scheduler(spec)
    assert "\n" not in str(caught.value)


def test_scheduler__has_a_policy_or_a_batcher() -> None:
    with pytest.raises(ValueError, match="a policy or a batcher, got neither"):
        Scheduler()
    with pytest.raises(ValueError, match="a policy or a batcher, got both"):
        Scheduler(policy=Stateful(), batcher=FixedBatcher)


def test_scheduler_name__is_that_of_the_function_or_the_class() -> None:
    def mine(settings: Settings) -> Stateful:
        return Stateful()

    specs = ("static_fifo", mine, Stateful(), Stateful, Scheduler(policy=Stateful()))
    names = [scheduler_name(one) for one in specs]
    assert names == ["static_fifo", "mine", "Stateful", "Stateful", "Stateful"]


# ------------------------------------------------------------------------------- settings


def test_settings__own_values_first_then_the_runs_then_the_defaults() -> None:
    bare = Settings()
    assert (bare.sla_s, bare.batch_target_s, bare.capacity_tokens) == (None, None, None)
    told = bare.resolved(sla_s=3.0, capacity_tokens=9.0)
    assert (told.sla_s, told.batch_target_s, told.capacity_tokens) == (3.0, 3.0, 9.0)
    told = Settings(sla_s=2.0, batch_target_s=0.5).resolved(sla_s=3.0)
    assert (told.sla_s, told.batch_target_s) == (2.0, 0.5)
    assert bare.resolved().sla_s == 1.0
    assert bare.resolved().capacity_tokens == (12e9 - 4.06e9) / 114688


def test_batch_target__is_what_controllers_aim_at_and_the_sla_what_is_measured() -> None:
    workload = Workload(requests=300)
    runs = [
        simulate(workload, "dynamic_no_bins", settings=Settings(sla_s=1.0, batch_target_s=target))
        for target in (None, 0.1)
    ]
    assert runs[0].metrics.batches < runs[1].metrics.batches
    assert [run.metrics.sla_s for run in runs] == [1.0, 1.0]


def test_compare__takes_a_name_whose_policy_sees_predictions_as_random() -> None:
    assert make_scheduler(Stateful()).uses_predictions
    assert not make_scheduler("static_fifo").uses_predictions
    found = compare(Workload(requests=50), ["static_fifo"], replications=2)
    assert len(found.to_dict()["schedulers"]) == 1
