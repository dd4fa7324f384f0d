"""The product's demand-driven engine against the eager reference, request by request, bit by bit.

The cases are made to collide: arrivals sit on a coarse grid with many ties, and most service
models give whole numbers of grid steps, so that completions fall on arrivals and on each other.
Token counts are of the size of the batchers' starting mean (500) and memories hold a few requests,
so that the memory limit, the prefix rule and rejection all bind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from reference_engine import (
    SCHEDULERS,
    Controller,
    MemoryLimit,
    Outcome,
    Request,
    reference_service_s,
    run,
)

from llmsched.engine.batch.run import run_engine
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.settings import Settings
from llmsched.workload.trace import Trace

SERVICE_MODELS: dict[str, Callable[[int, int, int, int], float]] = {
    "reference": reference_service_s,
    "longest output": lambda b, total, prompt, output: float(output // 100),
    "size": lambda b, total, prompt, output: float(b),
    "often nothing": lambda b, total, prompt, output: float((b + total // 100) % 3),
    "tenths": lambda b, total, prompt, output: 0.1 * ((prompt // 100) + b),
    "constant": lambda b, total, prompt, output: 2.0,
}


@dataclass(frozen=True)
class Model:
    """One of the service models, as the engine wants it."""

    name: str

    def service_s(self, batch: Any) -> float:
        return SERVICE_MODELS[self.name](
            batch.size, batch.max_total_tokens, batch.max_prompt_tokens, batch.max_output_tokens
        )


@dataclass(frozen=True)
class Case:
    """Everything that both engines are told."""

    requests: list[Request]
    scheduler: str
    n_gpus: int
    admission: str
    model: str
    edges: tuple[float, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)  # as in `Settings` and in `run`


@st.composite
def cases(draw: st.DrawFn, scheduler: str, max_requests: int = 40) -> Case:
    """A trace full of ties and one way to serve it."""
    step_s = draw(st.sampled_from((1.0, 0.5, 0.1)))
    n = draw(st.integers(0, max_requests))  # long traces as often as short ones
    requests: list[Request] = []
    steps = 0
    for code in draw(st.lists(st.integers(0, 7 * 9 * 13 * 4 - 1), min_size=n, max_size=n)):
        # one number per request, four digits: drawing them apart takes four times as long
        code, gap = divmod(code, 7)
        code, prompt = divmod(code, 9)
        value, output = divmod(code, 13)
        steps += (0, 0, 0, 1, 1, 2, 5)[gap]
        requests.append((steps * step_s, 100 * prompt, 100 * output, value))
    batch_min = draw(st.integers(1, 6))
    options: dict[str, Any] = {
        "sla_s": draw(st.sampled_from((0.3, 1.0, 2.0, 8.0))),
        "batch_size": draw(st.integers(1, 5)),
        "batch_min": batch_min,
        "batch_max": draw(st.sampled_from((batch_min, batch_min + 3, batch_min + 20, 128))),
        "controller": draw(st.sampled_from(("paper", "window", "none"))),
        "memory": draw(st.sampled_from(("buffer", "clt"))),
        "capacity_tokens": draw(
            st.sampled_from((1000.0, 1799.5, 3000.0, 6000.0, 69231.3, 69231.3))
        ),
        "bin_choice": draw(st.sampled_from(("round-robin", "longest-queue"))),
        "max_forming_wait_s": draw(st.sampled_from((None, 0.0, 0.1, 1.0, 2.0, 7.0))),
    }
    all_edges = ((), (1,), (2,), (1, 2), (1, 2, 3), (0.5, 1.5, 2.5, 9))
    return Case(
        requests,
        scheduler,
        n_gpus=draw(st.one_of(st.integers(1, 3), st.integers(1, 16))),
        admission=draw(st.sampled_from(("together", "one-by-one"))),
        model=draw(st.sampled_from(sorted(SERVICE_MODELS))),
        edges=draw(st.sampled_from(all_edges)) if scheduler.startswith("multi_bin") else (),
        options=options,
    )


def by_reference(case: Case) -> Outcome:
    return run(
        case.requests,
        case.scheduler,
        n_gpus=case.n_gpus,
        admission=case.admission,
        edges=case.edges,
        service_s=SERVICE_MODELS[case.model],
        **case.options,
    )


def by_product(case: Case) -> tuple[RequestTable, BatchTable]:
    columns = list(zip(*case.requests, strict=True)) or [(), (), (), ()]
    trace = Trace(
        arrival_s=np.array(columns[0], dtype=np.float64),
        prompt_tokens=np.array(columns[1], dtype=np.int32),
        output_tokens=np.array(columns[2], dtype=np.int32),
    )
    bins = np.array([sum(edge <= value for edge in case.edges) for value in columns[3]], np.int32)
    return run_engine(
        trace,
        bins,
        len(case.edges) + 1,
        make_scheduler(case.scheduler, Settings(**case.options)),
        n_gpus=case.n_gpus,
        latency=Model(case.model),  # type: ignore[arg-type]
        admission=case.admission,  # type: ignore[arg-type]
    )


def floats(column: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in column.tolist()]


def ids(column: np.ndarray) -> list[int | None]:
    return [None if value == -1 else value for value in column.tolist()]


def assert_equal(case: Case) -> Outcome:
    """Both engines on one case: the same floats, GPUs, bins and batches, `==` throughout."""
    expected = by_reference(case)
    requests, batches = by_product(case)
    assert floats(requests.start_s) == expected.start_s
    assert floats(requests.finish_s) == expected.finish_s
    assert ids(requests.gpu) == expected.gpu
    assert ids(requests.batch) == expected.batch
    assert requests.bin.tolist() == expected.bin
    columns = (batches.start_s, batches.finish_s, batches.gpu, batches.bin, batches.size)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert rows == [(*batch[:4], len(batch[4])) for batch in expected.batches]
    for row, (*_, members) in enumerate(expected.batches):
        chosen = [case.requests[m] for m in members]
        totals = [prompt + output for _, prompt, output, _ in chosen]
        assert batches.tokens[row] == sum(totals)
        assert batches.max_total_tokens[row] == max(totals)
        assert batches.max_prompt_tokens[row] == max(prompt for _, prompt, _, _ in chosen)
        assert batches.max_output_tokens[row] == max(output for _, _, output, _ in chosen)
    return expected


def features(case: Case, outcome: Outcome) -> set[str]:
    """Which of the situations that the cases are made for did this one reach?"""
    arrivals = {arrival_s for arrival_s, *_ in case.requests}
    finishes = [finish_s for _, finish_s, *_ in outcome.batches]
    reached = {f"ended by {reason}" for reason in outcome.ended_by}
    if None in outcome.batch and outcome.batches:
        reached.add("some rejected")
    if any(start_s < finish_s in arrivals for start_s, finish_s, *_ in outcome.batches):
        reached.add("completion at an arrival")
    if len(set(finishes)) < len(finishes):
        reached.add("completions at one instant")
    if any(start_s not in arrivals | set(finishes) for start_s, *_ in outcome.batches):
        reached.add("start at a timer")
    return reached


ANY = ("completion at an arrival", "completions at one instant")
LIMITED = ("ended by memory", "ended by sla", "ended by fit", "ended by queue", "some rejected")
MEANT_FOR = {
    "static_fifo": ANY,
    "dynamic_no_bins": ANY + LIMITED,
    "multi_bin_dynamic": ANY + LIMITED,
    "multi_bin_only": (*ANY, "start at a timer"),
}


QUICK = settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_engine__equals_the_eager_reference_to_the_last_bit(scheduler: str) -> None:
    reached: Counter[str] = Counter()

    @QUICK
    @given(cases(scheduler))
    def check(case: Case) -> None:
        reached.update(features(case, assert_equal(case)))

    check()
    # an agreement on easy cases would prove little
    assert all(reached[feature] >= 10 for feature in MEANT_FOR[scheduler]), reached


@pytest.mark.slow
@pytest.mark.parametrize("examples", [1000, pytest.param(5000, marks=pytest.mark.long)])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_engine__equals_the_eager_reference_on_many_more_cases(
    scheduler: str, examples: int
) -> None:
    @settings(QUICK, max_examples=examples)
    @given(cases(scheduler, max_requests=100))
    def check(case: Case) -> None:
        assert_equal(case)

    check()


@pytest.mark.parametrize("admission", ["together", "one-by-one"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_engine__equals_the_eager_reference_on_a_long_backlogged_trace(
    scheduler: str, admission: str
) -> None:
    # given 1500 requests with tied stamps and heavy-tailed lengths, through overload and back
    rng = np.random.default_rng(7)
    arrival_s = np.floor(np.cumsum(rng.exponential(0.02, 1500)) * 20) / 20
    prompt = np.minimum(rng.lognormal(5, 1.2, 1500), 9000).astype(int)
    output = np.minimum(rng.lognormal(4.5, 1.2, 1500), 9000).astype(int)
    guess = output * rng.lognormal(0, 0.5, 1500)
    columns = (c.tolist() for c in (arrival_s, prompt, output, guess))
    requests: list[Request] = list(zip(*columns, strict=True))
    edges = (45.0, 90.0, 180.0) if scheduler.startswith("multi_bin") else ()
    for n_gpus, controller, memory, bin_choice in (
        (1, "paper", "buffer", "round-robin"),
        (3, "window", "clt", "longest-queue"),
        (16, "paper", "clt", "round-robin"),
    ):
        options = {
            "controller": controller,
            "memory": memory,
            "bin_choice": bin_choice,
            "sla_s": 0.4,
            "capacity_tokens": 8000.0,
            "max_forming_wait_s": 0.5 if n_gpus > 1 else None,
        }
        assert_equal(Case(requests, scheduler, n_gpus, admission, "reference", edges, options))


# ------------------------------------------------------------------- the policies, step by step


@dataclass(frozen=True)
class Finished:
    """A finished batch as a policy sees it, from the true lengths of its members."""

    tokens: list[int]

    @property
    def size(self) -> int:
        return len(self.tokens)

    @property
    def mean_tokens(self) -> float:
        return sum(self.tokens) / len(self.tokens)

    @property
    def mean_squared_tokens(self) -> float:
        return sum(one * one for one in self.tokens) / len(self.tokens)


@st.composite
def finished_batches(draw: st.DrawFn) -> list[tuple[float, list[int]]]:
    """Service times about an SLA of 1 s, often exactly on its tolerance, and batches' lengths."""
    services = st.sampled_from((0.0, 0.5, 0.9, 0.95, 1.0, 1.1, 1.2, 1.3, 2.0, 5.0))
    sizes = st.sampled_from((1, 2, 3, 5, 8, 9, 13, 20, 21, 40, 64, 100, 128))
    lengths = st.integers(0, 901 * 901 - 1)
    steps = []
    for service_s, size, both in draw(
        st.lists(st.tuples(services, sizes, lengths), min_size=1, max_size=25)
    ):
        short, long = divmod(both, 901)
        steps.append((service_s, [short] * (size // 2) + [long] * (size - size // 2)))
    return steps


@pytest.mark.parametrize("controller", ["paper", "window", "none"])
def test_dynamic_batcher__equals_the_reference_step_by_step(controller: str) -> None:
    @settings(QUICK, max_examples=200)
    @given(
        finished_batches(),
        st.sampled_from(("buffer", "clt")),
        st.sampled_from(((1, 128), (1, 12), (4, 40), (20, 128))),
        st.sampled_from((5000.0, 20000.0, 69231.3, 1e9)),
    )
    def check(
        steps: list[tuple[float, list[int]]],
        memory: str,
        bounds: tuple[int, int],
        capacity_tokens: float,
    ) -> None:
        # given the product's batcher and the reference's two limits
        batcher = make_scheduler(
            "dynamic_no_bins",
            Settings(
                sla_s=1.0,
                batch_min=bounds[0],
                batch_max=bounds[1],
                controller=controller,
                memory=memory,
                capacity_tokens=capacity_tokens,
            ),
        ).batcher()
        sla_limit = Controller(controller, 1.0, *bounds)
        memory_limit = MemoryLimit(memory, capacity_tokens)
        # when both see the same batches, then they allow the same number after each
        for service_s, tokens in steps:
            assert batcher.limit() == max(1, min(sla_limit.limit(), memory_limit.limit()))
            batcher.observe(Finished(tokens), service_s)
            sla_limit.observe(service_s, len(tokens))
            memory_limit.observe(tokens)
        assert batcher.limit() == max(1, min(sla_limit.limit(), memory_limit.limit()))

    check()
