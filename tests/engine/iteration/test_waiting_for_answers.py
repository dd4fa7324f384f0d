"""Closed loops and sessions at the iteration level: arrivals that answers make."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_cases import random_case, tiny_case, waiting_for_answers
from scipy import stats
from serving import MS, RTX_4090, CheckedCore, LinearStep, poisson, serve, trace_of
from test_against_reference import assert_equal

from llmsched import simulate
from llmsched.engine.iteration import run as run_module
from llmsched.engine.iteration.run import IterationRun
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.metrics.tokens import token_metrics
from llmsched.workload.closed_loop import ClosedLoop
from llmsched.workload.sessions import Turns
from llmsched.workload.trace import Trace
from llmsched.workload.workload import Workload

AMPLE = 10**6


def users(
    n: int, rows: Any, *, think_s: float = 0.0, law: Any = "constant", seed: int = 0
) -> Trace:
    trace = rows if isinstance(rows, Trace) else trace_of(rows)
    loop = ClosedLoop(concurrency=n, think_time_s=think_s, think_time=law)
    return loop.over(trace, np.random.default_rng(seed))


@pytest.mark.parametrize(("depth", "ends"), [(1, [30, 42, 54]), (2, [30, 42, 54])])
def test_one_user__sends_the_next_request_at_each_answer(depth, ends):
    # given a step of 10 + 1 per prompt token + 2 per decode, and one user without pauses
    trace = users(1, [(0, 20, 3), (0, 5, 1), (0, 10, 2)])
    table = serve(trace, blocks=100, depth=depth).requests
    # then the next comes when the idle replica has answered, and is scheduled at once
    assert table.arrival_s.tolist() == [0.0, 54.0, 69.0]
    assert table.queued_s.tolist() == table.scheduled_s.tolist() == [0.0, 54.0, 69.0]
    assert table.first_token_s.tolist() == [ends[0], 69.0, 89.0]
    assert table.finish_s.tolist() == [ends[-1], 69.0, 101.0]


def test_users_without_pauses__come_behind_the_decisions_of_the_instant():
    # given two users of a synchronous replica; A has two tokens, B four, C one
    trace = users(2, [(0, 20, 2), (0, 20, 4), (0, 5, 1)])
    table = serve(trace, blocks=100, depth=1).requests
    # then A ends at 50 + 14 = 64, when B's next step, to 76, is decided before C comes; C runs
    # beside B's last step, which then takes 10 + 2 + 5
    assert table.finish_s[0] == table.arrival_s[2] == 64.0
    assert table.queued_s[2] == table.scheduled_s[2] == 76.0
    assert table.finish_s.tolist() == [64.0, 93.0, 93.0]


def test_a_rejected_request__is_answered_at_once():
    trace = users(1, [(0, 5, 1), (0, 999, 1), (0, 5, 1)])
    table = serve(trace, blocks=3).requests
    assert table.arrival_s.tolist() == [0.0, 15.0, 15.0]
    assert table.completed.tolist() == [True, False, True]
    assert table.finish_s[2] == 30.0


@pytest.mark.parametrize("seed", range(40))
def test_engine__equals_the_stepping_reference(monkeypatch, seed):
    # given requests that wait for answers, in round times that often tie
    monkeypatch.setattr(run_module, "Core", CheckedCore)
    step, pauses_s = (MS, [0.0, 0.0, 10.0, 55.0]) if seed % 2 else (RTX_4090, [0.0, 0.1, 2.0])
    case = waiting_for_answers(random_case(seed, limits=seed % 5 == 0), seed, pauses_s)
    expected = case.reference(step)
    for leaps in (True, False):
        run = case.engine(step, leaps=leaps)
        assert_equal(expected, run)
        assert run.requests.arrival_s.tolist() == [r.arrival_s for r in expected.requests]
    assert_turns_are_kept(case.turns, run)


def test_engine__equals_the_stepping_reference_on_tiny_runs(monkeypatch):
    monkeypatch.setattr(run_module, "Core", CheckedCore)
    for seed in range(250):
        case = waiting_for_answers(tiny_case(seed), seed, [0.0, 0.0, 12.0])
        assert_equal(case.reference(MS), case.engine(MS, leaps=seed % 3 > 0))


def assert_turns_are_kept(turns: Turns | None, run: IterationRun) -> None:
    """Every turn comes its pause after the answer, or refusal, before."""
    assert turns is not None
    table = run.requests
    done = np.where(table.completed, table.finish_s, table.arrival_s)
    later = np.flatnonzero(turns.waiting)
    expected = done[turns.after[later]] + turns.think_s[later]
    assert table.arrival_s[later].tolist() == expected.tolist()


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_max_concurrency__littles_law_holds_exactly(concurrency):
    # given `vllm bench serve --max-concurrency N` on two replicas, times in whole milliseconds
    trace = users(concurrency, replace(poisson(600, 1, seed=3), arrival_s=np.zeros(600)))
    run = serve(trace, blocks=300, run={"n_replicas": 2})
    table = run.requests
    # then N are in flight until the last one is sent, and L = λ W to the last bit
    last_s = table.arrival_s.max()
    assert (np.minimum(table.finish_s, last_s) - table.arrival_s).sum() == concurrency * last_s
    figures = token_metrics(run)
    in_system = (figures.running_mean + figures.waiting_mean) * figures.makespan_s
    assert in_system == pytest.approx((table.finish_s - table.arrival_s).sum(), rel=1e-9)
    assert concurrency < 64 or table.preemptions.sum() > 0


@pytest.mark.theory
@pytest.mark.parametrize(("n_users", "think_s"), [(4, 2.0), (10, 20.0)])
def test_users_who_think__are_the_machine_repair_model(n_users, think_s):
    # given one request at a time, about exponential service of mean 1 s (200 steps of 5 ms), N
    # users with exponential pauses (Kleinrock, "Queueing Systems", vol. 1, section 3.8)
    weights = [math.perm(n_users, k) / think_s**k for k in range(n_users + 1)]
    throughput = 1 - weights[0] / sum(weights)
    step = LinearStep(0.005, 0.0, 0.0)
    rates = []
    for seed in range(12):
        rng = np.random.default_rng([9, seed])
        outputs = rng.geometric(1 / 200, 1500).tolist()
        trace = users(
            n_users, [(0, 1, n) for n in outputs], think_s=think_s, law="exponential", seed=seed
        )
        table = serve(trace, blocks=AMPLE, step=step, max_running=1).requests
        arrival_s = np.sort(table.arrival_s)[200:-n_users]
        rates.append((len(arrival_s) - 1) / (arrival_s[-1] - arrival_s[0]))
    # then throughput is the formula's, within 4 standard errors
    assert abs(np.mean(rates) - throughput) < 4 * stats.sem(rates)
    assert stats.sem(rates) < 0.02 * throughput


def test_sessions__find_the_prompts_of_earlier_turns():
    # given conversations whose prompts hold all that was said, and memory for all of it
    workload = Workload(source="sessions", requests=400, rps_scale=1.0)
    trace = workload.load(seed=0)
    run = simulate(
        workload,
        "continuous_static",
        step_time="rtx-4090-llama-3.1-8b",
        gpu="rtx-4090",
        llm="llama-3.1-8b",
        n_gpus=2,
        router="prefix-affine",
        serving=IterationSettings(kv_tokens=10**7),
    )
    table, turns = run.requests, trace.turns
    later = np.flatnonzero(turns.after >= 0)
    # then a turn finds at least the whole pieces of the prompt before: not the answer to it
    piece = trace.prefix_ids.tokens_per_id
    prompt_before = trace.prompt_tokens[turns.after[later]] // piece * piece
    assert len(later) > 100
    assert (table.cached_tokens[later] >= prompt_before).all()
    assert (table.cached_tokens[later] == prompt_before).mean() > 0.9
    assert_turns_are_kept(turns, run)
