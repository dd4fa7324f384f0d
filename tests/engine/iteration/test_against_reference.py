"""The engine against an eager stepping reference, request by request and bit for bit.

The reference is written from the rules alone (`tests/reference/stepping.py`) and shares nothing
with the engine.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import stepping
from random_cases import random_case, tiny_case
from serving import DYADIC, RTX_4090, CheckedCore, poisson, serve

from llmsched.engine.iteration import run as run_module
from llmsched.engine.iteration.run import IterationRun
from llmsched.metrics.tokens import token_metrics


def assert_equal(expected: stepping.Result, run: IterationRun) -> None:
    """Every stamp and every count; no tolerance but in what is integrated over time."""
    table = run.requests
    columns = {
        "replica": [-1 if r.replica is None else r.replica for r in expected.requests],
        "preemptions": [r.preemptions for r in expected.requests],
        "recomputed_tokens": [r.recomputed_tokens for r in expected.requests],
        "cached_tokens": [r.cached_tokens for r in expected.requests],
        "queued_s": stamps(r.queued_s for r in expected.requests),
        "scheduled_s": stamps(r.scheduled_s for r in expected.requests),
        "first_token_s": stamps(r.first_s for r in expected.requests),
        "finish_s": stamps(r.finish_s for r in expected.requests),
    }
    for name, values in columns.items():
        np.testing.assert_array_equal(getattr(table, name), values, err_msg=name)
    gaps = sorted(b - a for r in expected.requests for a, b in pairwise(r.token_s))
    assert np.sort(np.repeat(*run.gaps.expand())).tolist() == gaps
    replicas = run.replicas
    for i, engine in enumerate(expected.engines):
        steps = [decision for decision in engine.decisions if decision.entries]
        assert replicas.steps[i] == len(steps)
        assert replicas.tokens[i] == sum(step.tokens for step in steps)
        assert replicas.busy_s[i] == pytest.approx(sum(s.duration_s for s in steps), rel=1e-9)
        block_s = sum(used * (b - a) for (a, used), (b, _) in pairwise(engine.levels))
        assert replicas.kv_block_s[i] == pytest.approx(block_s, rel=1e-9)
        assert replicas.kv_blocks_max[i] == max((used for _, used in engine.levels), default=0)


def stamps(values: Any) -> list[float]:
    return [math.nan if value is None else value for value in values]


@pytest.mark.parametrize("seed", range(100))
def test_engine__equals_the_stepping_reference(monkeypatch, seed):
    # given a random run, its counters checked after every decision
    monkeypatch.setattr(run_module, "Core", CheckedCore)
    case = random_case(seed)
    # when both serve it, the engine with leaps and without
    expected = case.reference(RTX_4090)
    # then they agree
    assert_equal(expected, case.engine(RTX_4090))
    assert_equal(expected, case.engine(RTX_4090, leaps=False))


@pytest.mark.parametrize("seed", range(40))
def test_engine__equals_the_reference_with_batch_limits(monkeypatch, seed):
    monkeypatch.setattr(run_module, "Core", CheckedCore)
    case = random_case(seed, limits=True)
    expected = case.reference(RTX_4090)
    assert_equal(expected, case.engine(RTX_4090))
    assert_equal(expected, case.engine(RTX_4090, leaps=False))


@pytest.mark.parametrize("seed", range(1000, 1020))
def test_engine__equals_the_reference_in_dyadic_times(seed):
    case = random_case(seed)
    assert_equal(case.reference(DYADIC), case.engine(DYADIC))


@pytest.mark.parametrize("first", range(0, 1500, 300))
def test_engine__equals_the_reference_on_tiny_runs(monkeypatch, first):
    # a few requests of a few tokens in a few small blocks, where every corner is near
    monkeypatch.setattr(run_module, "Core", CheckedCore)
    for seed in range(first, first + 300):
        case = tiny_case(seed)
        assert_equal(case.reference(RTX_4090), case.engine(RTX_4090, leaps=seed % 3 > 0))


LONG = [pytest.param(first, marks=pytest.mark.long) for first in range(1100, 6100, 500)]


@pytest.mark.slow
@pytest.mark.parametrize("first", [100, 600, *LONG])
def test_engine__equals_the_reference_on_thousands_of_runs(first):
    for seed in range(first, first + 500):
        case = random_case(seed, limits=seed % 5 == 0)
        expected = case.reference(RTX_4090)
        assert_equal(expected, case.engine(RTX_4090, leaps=seed % 2 == 0))


@pytest.mark.slow
@pytest.mark.parametrize("rate_per_s", [0.3, 3, 6, 12])
@pytest.mark.parametrize("caching", [False, True])
def test_engine__equals_the_reference_on_a_long_run(rate_per_s, caching):
    trace = poisson(3000, rate_per_s, seed=7)
    expected = stepping.run(
        trace.arrival_s.tolist(),
        trace.prompt_tokens.tolist(),
        trace.output_tokens.tolist(),
        RTX_4090.step_s,
        stepping.Options(usable_blocks=2587, prefix_caching=caching),
    )

    run = serve(trace, blocks=2587, step=RTX_4090, prefix_caching=caching)
    assert_equal(expected, run)
    assert token_metrics(run).completed == 3000
