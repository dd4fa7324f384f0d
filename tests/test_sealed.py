"""Nobody can cheat or be cheated: what a policy or a predictor can reach, and can write to.

The walk follows everything that a program reaches without the interpreter's own tools (no `gc`, no
frames): attributes, slots, closures, bound objects, containers, and what arrays and views stand on.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from llmsched import Scheduler, Settings, Trace, Workload, make_scheduler
from llmsched.engine.batch.run import run_engine
from llmsched.engine.columns import Columns
from llmsched.latency.registry import load_latency
from llmsched.prediction.binning import Binning
from llmsched.prediction.predictors import Noisy, Prediction
from llmsched.schedulers.base import BatchPlan, FinishedBatch, Head, WaitingView
from llmsched.schedulers.registry import SCHEDULERS
from plan_world import plan_compare as compare, plan_simulate as simulate

N, N_BINS = 60, 3


def sentinel_trace() -> Trace:
    """Requests whose true lengths occur nowhere else: prompts of 3 tokens, outputs 7,001 + 13 i."""
    return Trace(
        arrival_s=np.arange(N) * 0.4,
        prompt_tokens=np.full(N, 3, dtype=np.int32),
        output_tokens=(7001 + 13 * np.arange(N)).astype(np.int32),
    )


class Walk:
    """Everything that can be reached from some objects, each once."""

    def __init__(self, *roots: object) -> None:
        self.seen: dict[int, object] = {}
        todo = list(roots)
        while todo:
            thing = todo.pop()
            if id(thing) in self.seen or isinstance(thing, types.ModuleType):
                continue
            self.seen[id(thing)] = thing
            todo += self._next(thing)

    def _next(self, thing: object) -> Iterator[object]:
        if isinstance(thing, str | bytes | bytearray | int | float | type(None)):
            return
        if isinstance(thing, type):
            if thing.__module__.startswith(("llmsched", "test_")):
                yield from (v for k, v in vars(thing).items() if not k.startswith("__"))
            return
        if isinstance(thing, Mapping):
            yield from thing.keys()
            yield from thing.values()
        elif isinstance(thing, np.ndarray):
            yield thing.base
            return
        elif isinstance(thing, memoryview):
            yield thing.obj
            return
        elif isinstance(thing, Sequence | set | frozenset):
            yield from thing
        if isinstance(thing, partial):
            yield from (thing.func, thing.args, thing.keywords)
        if isinstance(thing, types.FunctionType):
            yield from (cell.cell_contents for cell in thing.__closure__ or ())
            yield from (thing.__defaults__, thing.__kwdefaults__)
            return
        if isinstance(thing, types.MethodType | types.BuiltinMethodType):
            yield thing.__self__
            return
        yield type(thing)
        names = {*dir(thing), *getattr(thing, "__dict__", {})}
        for kind in type(thing).__mro__:
            slots = getattr(kind, "__slots__", ())
            names.update((slots,) if isinstance(slots, str) else slots)
        for name in names:
            if name.startswith("__"):
                continue
            try:
                yield getattr(thing, name)
            except (AttributeError, TypeError, ValueError, ZeroDivisionError):
                continue

    def numbers(self) -> set[float]:
        """Every number that is held anywhere, also packed ones."""
        found: set[float] = set()
        for thing in self.seen.values():
            if isinstance(thing, bool):
                continue
            if isinstance(thing, int | float):
                found.add(float(thing))
            elif isinstance(thing, np.ndarray) and thing.dtype.names:
                for name in thing.dtype.names:
                    found.update(thing[name].ravel().astype(float).tolist())
            elif isinstance(thing, np.ndarray) and thing.dtype.kind in "iuf":
                found.update(thing.ravel().astype(float).tolist())
            elif isinstance(thing, memoryview):
                found.update(map(float, np.asarray(thing).ravel().tolist()))
            elif isinstance(thing, bytes | bytearray) and len(thing) % 4 == 0:
                found.update(np.frombuffer(bytes(thing), np.int32).astype(float).tolist())
        return found


class Spy:
    """A policy inside another, which looks at all that the inner one could."""

    def __init__(self, inner: Any, trace: Trace, also: Sequence[object]) -> None:
        self.inner, self.also, self.calls = inner, also, 0
        lengths = trace.output_tokens.astype(float)
        self.secret = {*lengths.tolist(), *(lengths + 3).tolist()}  # outputs, prompt + output
        self.known: set[float] = set()  # of finished requests

    def check(self, *handed: object) -> None:
        self.calls += 1
        leaked = Walk(self.inner, *handed, *self.also).numbers() & (self.secret - self.known)
        assert not leaked, f"lengths of requests that are not finished: {sorted(leaked)[:5]}"

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan | None:
        self.check(waiting)
        plan = self.inner.next_batch(waiting, now_s)
        self.check(waiting, plan)
        return plan

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        totals = batch._totals()  # its own members' are known from now on
        self.known.update(map(float, totals), (float(total - 3) for total in totals))
        self.known.update((batch.mean_tokens, batch.mean_squared_tokens))
        self.check(batch)
        self.inner.observe(batch, service_s)


def spied(name: str, **options: Any) -> Spy:
    """A run of a registered scheduler under the eyes of a spy."""
    trace = sentinel_trace()
    latency = load_latency("reference")
    settings = Settings(capacity_tokens=40_000.0, batch_size=4).resolved(latency=latency)
    scheduler = make_scheduler(name, settings)
    spy = Spy(scheduler.batch_policy(), trace, also=[settings])
    watched = replace(scheduler, policy=spy, batcher=None, **options)
    predicted = np.full(N, 5, dtype=np.int32)
    bins = np.arange(N, dtype=np.int32) % N_BINS
    requests, _ = run_engine(
        trace,
        bins if scheduler.binned else np.zeros(N, np.int32),
        N_BINS if scheduler.binned else 1,
        watched,
        n_gpus=2,
        latency=latency,
        predicted_tokens=predicted,
    )
    assert requests.completed.all()
    return spy


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_policy__reaches_no_length_of_a_request_that_is_not_finished(name: str) -> None:
    assert spied(name).calls > 20


@pytest.mark.parametrize("sees", ["counts", "ages", "requests"])
def test_view__of_every_kind_shows_no_length(sees: str) -> None:
    assert spied("static_fifo", sees=sees).calls > 20


def test_walk__finds_what_is_hidden_in_any_of_these_ways() -> None:
    """The walk itself: each hiding place, used on purpose, is found."""
    trace = sentinel_trace()
    columns = Columns(trace, np.arange(N, dtype=np.int32))

    class Holder:
        __slots__ = ("_private",)

    def closure() -> int:
        return columns.output_view[0]

    slotted = Holder()
    slotted._private = columns
    hidden: dict[str, object] = {
        "attribute": types.SimpleNamespace(a=types.SimpleNamespace(b=columns)),
        "slot": slotted,
        "closure": closure,
        "default": lambda x=columns: x,
        "method": columns.__len__,
        "partial": partial(len, columns),
        "slice of a view": columns.output_view[:0],
        "base of an array": columns.output[:0],
        "container": {"a": [({1}, columns.output_view[:0])]},
        "packed": columns.lengths_view[:2].tobytes() + b"",
    }
    for place, thing in hidden.items():
        assert 7001.0 in Walk(thing).numbers(), place


def test_view__is_read_only_and_a_finished_batch_is_the_policys_own_copy() -> None:
    class Writing:
        """Writes to whatever it is handed, wherever that can be written to."""

        def __init__(self) -> None:
            self.refused = 0

        def spoil(self, thing: object) -> None:
            for one in Walk(thing).seen.values():
                if isinstance(one, type | types.FunctionType | property):
                    continue  # who writes to classes can change anything
                if isinstance(one, np.ndarray) and one.flags.writeable:
                    one[...] = np.zeros((), one.dtype)
                if isinstance(one, memoryview) and not one.readonly:
                    one[:] = bytes(len(one))
                if isinstance(one, list):
                    one.clear()
                for name in ("counts", "oldest_arrival_s", "arrived", "size", "rows", "_tokens"):
                    try:
                        setattr(one, name, 0)
                    except (AttributeError, TypeError):
                        self.refused += 1

        def next_batch(self, waiting: WaitingView, now_s: float) -> Any:
            plan = Head(0, min(8, waiting.counts[0]))
            self.spoil(waiting)
            return plan

        def observe(self, batch: FinishedBatch, service_s: float) -> None:
            self.spoil(batch)

    workload = Workload(source="poisson", requests=500)
    honest = simulate(workload, "static_fifo", n_gpus=2)
    for sees in ("counts", "ages", "requests"):
        run = simulate(workload, Scheduler(policy=Writing(), sees=sees), n_gpus=2)
        for name in run.requests.__slots__:
            ours, theirs = getattr(run.requests, name), getattr(honest.requests, name)
            assert ours.tobytes() == theirs.tobytes(), name


# ----------------------------------------------------------------- the scripts of the attacks


def test_attack__a_batcher_that_overwrites_the_truth_finds_no_columns() -> None:
    """`batch.columns.total[...] = 1` once cut the mean latency from 46.09 to 0.0167 s."""

    class Overwriting:
        def limit(self) -> int:
            return 8

        def observe(self, batch: Any, service_s: float) -> None:
            batch.columns.total[batch.first + batch.size :] = 1

    workload = Workload(source="poisson", requests=2000)
    with pytest.raises(ValueError, match=r"Overwriting.observe must not fail, got AttributeError"):
        simulate(workload, lambda told: Scheduler(batcher=Overwriting, batch_max=8), n_gpus=2)


class InPlace:
    """The honest slip: a predictor that halves the lengths where they stand."""

    name = "mine"
    random = False

    def predict(self, trace: Trace, binning: Binning, rng: np.random.Generator) -> Prediction:
        tokens = trace.output_tokens
        tokens //= 2
        return Prediction(tokens=tokens)


def test_attack__a_predictor_cannot_write_to_the_trace() -> None:
    """It moved the baseline of a comparison, which uses no predictions, from 48.38 to 44.03 s."""
    workload = Workload(source="poisson", requests=300)
    with pytest.raises(ValueError, match=r"InPlace.predict must not fail, got .*read-only"):
        compare(workload, ["static_fifo", "multi_bin_dynamic"], replications=2, predictor=InPlace())


class Tampering:
    """Writes to every array that it can reach, through whatever it stands on."""

    name = "mine"
    random = False

    def __init__(self) -> None:
        self.written = 0

    def predict(self, trace: Trace, binning: Binning, rng: np.random.Generator) -> Prediction:
        before = trace.total_tokens.sum(), trace.arrival_s.sum()
        for one in Walk(trace).seen.values():
            if isinstance(one, np.ndarray) and one.flags.writeable:
                one[...] = 0  # `total_tokens`, say, is made when asked for
            self.written += isinstance(one, memoryview) and not one.readonly
        self.written += before != (trace.total_tokens.sum(), trace.arrival_s.sum())
        return Prediction(tokens=np.arange(1, len(trace) + 1, dtype=np.int32))


@pytest.mark.parametrize(
    "workload",
    [
        Workload(source="poisson", requests=200),
        Workload(requests=200),
        Workload(requests=200, jitter_s=0.01, rps_scale=3.0),
    ],
)
def test_trace__is_read_only_however_it_was_made(workload: Workload) -> None:
    tampering = Tampering()
    run = simulate(workload, "multi_bin_dynamic", predictor=tampering)
    assert tampering.written == 0
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(run.requests, column)[0] = 0


def test_trace__copies_what_others_could_write_to_and_nothing_else() -> None:
    # given arrays that their maker goes on using
    arrival_s, tokens = np.arange(5.0), np.arange(1, 6, dtype=np.int32)
    trace = Trace(arrival_s=arrival_s, prompt_tokens=tokens, output_tokens=tokens[::-1])
    arrival_s[:] = 99.0
    tokens[:] = 99
    assert trace.arrival_s.tolist() == [0, 1, 2, 3, 4]
    assert trace.output_tokens.tolist() == [5, 4, 3, 2, 1]
    # then what nobody can write to is shared
    part = trace.take(slice(1, 4))
    assert np.shares_memory(part.arrival_s, trace.arrival_s)
    again = replace(trace, name="other")
    assert again.prompt_tokens is trace.prompt_tokens
    # and a read-only view of what others can write to is copied
    view = tokens.view()
    view.setflags(write=False)
    assert not np.shares_memory(replace(trace, prompt_tokens=view).prompt_tokens, tokens)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([1, 2, 3], r"must give a Prediction, got \[1, 2, 3\]"),
        (Prediction(tokens=np.ones(3, np.int32)), r"one whole number for each of 4 .* \(3,\)"),
        (Prediction(tokens=np.ones(4)), "of kind 'f'"),
        (Prediction(tokens=-np.ones(4, np.int32)), "must give tokens >= 0"),
        (Prediction(tokens=[1, 1, 1, 1]), "of kind 'O'"),  # type: ignore[arg-type]
        (
            Prediction(tokens=np.ones(4, np.int32), service_s=np.full(4, np.nan)),
            "must give service_s >= 0",
        ),
    ],
)
def test_prediction__that_cannot_be_is_refused(answer: Any, said: str) -> None:
    class Mine:
        name = "mine"
        random = False

        def predict(self, trace: Trace, binning: Binning, rng: object) -> Any:
            return answer

    trace = sentinel_trace().take(slice(4))
    with pytest.raises(ValueError, match=said) as caught:
        simulate(trace, predictor=Mine())
    assert "Mine.predict must give" in str(caught.value)


def test_our_predictors__say_what_is_wrong_as_before() -> None:
    with pytest.raises(ValueError, match="less noise"):
        simulate(sentinel_trace(), predictor=Noisy(1e3))
