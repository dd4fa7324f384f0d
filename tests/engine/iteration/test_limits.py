"""The iteration level where its answers are known: one request, queues, lockstep, scaling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from serving import MS, RTX_4090, LinearStep, poisson, serve, trace_of

from llmsched.engine.iteration.run import run_iteration_engine
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.theory.queueing import mg1_wait_s
from llmsched.workload.trace import Trace

AMPLE = 10**6


@pytest.mark.parametrize("depth", [1, 2])
def test_one_request__has_its_latencies_in_closed_form(depth):
    # given a prompt of three chunks, and 100 output tokens, alone
    run = serve([(3.0, 150, 100)], blocks=AMPLE, step=RTX_4090, step_tokens=64, depth=depth)
    # then its first token comes after the chunks, one decode step gives each of the others
    ttft_s = sum(RTX_4090.step_s([chunk], 0, 0) for chunk in ((64, 0), (64, 64), (22, 128)))
    decode_s = sum(RTX_4090.step_s((), 1, kv) for kv in range(150, 249))
    table = run.requests
    assert table.first_token_s[0] - 3.0 == pytest.approx(ttft_s, rel=1e-12)
    assert table.finish_s[0] - table.first_token_s[0] == pytest.approx(decode_s, rel=1e-12)


def mean_queueing_s(utilization: float, *, n: int, warm_up: int, depth: int, seed: int) -> float:
    """One request at a time, steps of 20 ms, geometric outputs of 50 tokens on average."""
    rng = np.random.default_rng([44, seed])
    trace = Trace(
        arrival_s=np.cumsum(rng.exponential(50 * 0.02 / utilization, n)),
        prompt_tokens=np.ones(n, np.int32),
        output_tokens=rng.geometric(1 / 50, n).astype(np.int32),
    )
    step = LinearStep(0.02, 0.0, 0.0)
    table = serve(trace, blocks=AMPLE, step=step, max_running=1, depth=depth).requests
    return float((table.scheduled_s - table.arrival_s)[warm_up:].mean())


@pytest.mark.theory
@pytest.mark.parametrize(
    ("utilization", "n", "warm_up", "depth"),
    [
        (0.3, 600, 100, 1),
        (0.3, 600, 100, 2),
        (0.6, 1500, 300, 2),
        pytest.param(0.9, 20_000, 4000, 1, marks=pytest.mark.slow),
        pytest.param(0.9, 20_000, 4000, 2, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_one_at_a_time__waits_as_an_mg1_queue(utilization, n, warm_up, depth):
    # given a service time of 20 ms per output token, which is geometric
    waits = [
        mean_queueing_s(utilization, n=n, warm_up=warm_up, depth=depth, seed=seed)
        for seed in range(30)
    ]
    # then the mean wait is Pollaczek's and Khinchine's, within 4 standard errors
    variance_s2 = 0.02**2 * (1 - 1 / 50) * 50**2
    expected = float(
        mg1_wait_s(utilization / (50 * 0.02), mean_s=50 * 0.02, variance_s2=variance_s2)
    )
    assert abs(np.mean(waits) - expected) < 4 * stats.sem(waits)


@pytest.mark.theory
@pytest.mark.parametrize("n_running", [1, 2, 3, 7, 16, 64, 100, 255, 256])
@pytest.mark.parametrize("depth", [1, 2])
def test_infinite_demand__gives_n_tokens_per_step(n_running, depth):
    # given equal requests, all there at once, and a step of 30 + 0.22 n ms
    step = LinearStep(0.030, 0.00022, 0.00022)
    trace = trace_of([(0.0, 1, 20)] * (4 * n_running))
    run = serve(trace, blocks=AMPLE, step=step, max_running=n_running, depth=depth)
    # then each step gives n tokens
    tokens_per_s = 4 * n_running * 20 / run.requests.finish_s.max()
    assert tokens_per_s == pytest.approx(n_running / step.step_s((), n_running, 0), rel=1e-9)


def test_ample_everything__nobody_waits_for_anybody():
    # given a step of 20 ms whatever is in it, and memory for all
    trace = poisson(500, 20, seed=3, prompt=50)
    run = serve(trace, blocks=AMPLE, step=LinearStep(0.02, 0.0, 0.0), max_running=10**6)
    table = run.requests
    # then each waits for the step in progress and is served in as many steps as it has tokens
    assert run.replicas.running_max[0] > 50
    assert (table.scheduled_s - table.arrival_s).max() <= 0.02 + 1e-9
    decode_s = table.finish_s - table.first_token_s
    np.testing.assert_allclose(decode_s, 0.02 * (trace.output_tokens - 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2])
def test_scaling_all_times__scales_all_results(depth):
    trace = poisson(300, 12, seed=4)
    double = replace(trace, arrival_s=2 * trace.arrival_s)
    once = serve(trace, blocks=300, step=RTX_4090, depth=depth).requests
    twice = serve(double, blocks=300, step=RTX_4090.scaled(2.0), depth=depth).requests
    for name in ("queued_s", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_array_equal(getattr(twice, name), 2 * getattr(once, name))
    np.testing.assert_array_equal(twice.preemptions, once.preemptions)
    assert once.preemptions.sum() > 0


def test_k_replicas_of_a_k_fold_trace__are_k_times_one():
    trace, k = poisson(200, 9, seed=6), 3
    many = Trace(
        arrival_s=np.repeat(trace.arrival_s, k),
        prompt_tokens=np.repeat(trace.prompt_tokens, k),
        output_tokens=np.repeat(trace.output_tokens, k),
    )
    one = serve(trace, blocks=300, step=RTX_4090).requests
    table = serve(many, blocks=300, step=RTX_4090, run={"n_replicas": k}).requests
    assert table.replica.tolist() == list(range(k)) * 200
    for name in ("queued_s", "first_token_s", "finish_s", "preemptions"):
        np.testing.assert_array_equal(getattr(table, name), np.repeat(getattr(one, name), k))


def test_prefix_caching__with_private_blocks_and_no_preemption_changes_nothing():
    trace = poisson(300, 6, seed=7)
    off = serve(trace, blocks=2587, step=RTX_4090)
    on = serve(trace, blocks=2587, step=RTX_4090, prefix_caching=True)
    assert off.requests.preemptions.sum() == 0
    np.testing.assert_array_equal(on.requests.finish_s, off.requests.finish_s)
    assert on.requests.cached_tokens.sum() == 0


def test_tokens__are_conserved():
    # given a run with preemptions and without a cache
    trace = poisson(400, 12, seed=8)
    run = serve(trace, blocks=400, step=RTX_4090)
    table = run.requests
    assert table.preemptions.sum() > 20
    # then what was computed is each token but the last once, and what was lost again
    once = (trace.prompt_tokens + trace.output_tokens - 1).sum()
    assert run.replicas.tokens.sum() == once + table.recomputed_tokens.sum()
    gaps, counts = run.gaps.expand()
    assert counts.sum() == (trace.output_tokens - 1).sum()
    expected = (table.finish_s - table.first_token_s).sum()
    assert (gaps * counts).sum() == pytest.approx(expected, rel=1e-9)


def test_an_empty_trace__is_served():
    run = serve([], blocks=3)
    assert len(run.requests) == 0
    assert run.replicas.steps.tolist() == [0]


def test_a_prompt_without_tokens__is_refused():
    with pytest.raises(ValueError, match=r"prompt_tokens must be >= 1 .* got 0 in request 1"):
        serve([(0, 1, 1), (0, 0, 1)], blocks=3)


def test_outputs_of_no_token__are_rejected_not_lost():
    table = serve([(0, 5, 0), (1, 5, 2)], blocks=3).requests
    assert table.completed.tolist() == [False, True]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kv_tokens": 15}, "kv_tokens must hold at least one block of 16 tokens, got 15"),
        ({"kv_tokens": 0}, "kv_tokens must be a whole number >= 1, got 0"),
        ({"kv_tokens": 1e5}, "kv_tokens must be a whole number >= 1, got 100000.0"),
        ({"block_tokens": 0}, "block_tokens must be a whole number >= 1, got 0"),
        ({"max_running": 0}, "max_running must be a whole number >= 1, got 0"),
        ({"max_running": True}, "max_running must be a whole number >= 1, got True"),
        ({"step_tokens": 0}, "step_tokens must be a whole number >= 1, got 0"),
        ({"watermark_blocks": -1}, "watermark_blocks must be a whole number >= 0, got -1"),
        ({"long_prefill_tokens": -5}, "long_prefill_tokens must be a whole number >= 0, got -5"),
        ({"max_model_len": 1}, "max_model_len must be a whole number >= 2, got 1"),
        ({"depth": 3}, "depth must be a whole number from 1 to 2, got 3"),
        ({"prefill": "last", "depth": 1}, "prefill must be one of chunked, first; got 'last'"),
        ({"prefill": "first"}, "depth must be 1 with prefill 'first', got 2"),
        ({"overhead_s": -0.1}, "overhead_s must be a finite number >= 0 seconds, got -0.1"),
        (
            {"per_request_s": float("nan")},
            "per_request_s must be a finite number >= 0 seconds, got nan",
        ),
    ],
)
def test_settings__out_of_range_are_refused_in_one_line(arguments, told):
    with pytest.raises(ValueError) as error:
        IterationSettings(**{"kv_tokens": 1600, **arguments})
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"n_replicas": 0}, "n_replicas must be >= 1, got 0"),
        ({"predicted_tokens": np.ones(1, np.int32)}, "predicted_tokens must have 2 entries, got 1"),
        ({"bins": np.ones(3, np.int32)}, "bins must have 2 entries, got 3"),
    ],
)
def test_run__arguments_that_do_not_fit_are_refused(arguments, told):
    trace = trace_of([(0, 5, 2), (0, 5, 2)])
    with pytest.raises(ValueError, match=told):
        run_iteration_engine(trace, IterationSettings(kv_tokens=160), MS, **arguments)
