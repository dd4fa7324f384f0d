"""The figures of a run: hand-worked, and against their definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from serving import RTX_4090, LinearStep, poisson, serve

from llmsched.engine.iteration import log
from llmsched.engine.iteration.log import _at_ranks
from llmsched.metrics.registry import METRICS
from llmsched.metrics.tokens import token_metrics
from llmsched.workload.slo import Slo


def test_figures__of_two_requests_by_hand():
    # A runs 0-30, 30-52 beside B's prompt, 52-66 beside B's last; B's tokens come at 52 and 66
    run = serve([(0, 20, 3), (30, 10, 2), (40, 999, 9)], blocks=10, depth=1)
    figures = token_metrics(run, Slo(latency_s=None, ttft_s=25, tpot_s=16))
    assert run.requests.finish_s.tolist()[:2] == [66, 66]
    ttft = [getattr(figures, f"ttft_{q}_s") for q in ("mean", "p50", "p90", "p95", "p99")]
    assert ttft == [26.0, 26.0, 29.2, 29.6, 29.92]  # 30 and 22
    assert figures.tpot_mean_s == 16.0  # 18 and 14
    assert figures.itl_mean_s == pytest.approx(50 / 3)  # 22, 14 and 14
    assert (figures.itl_p50_s, figures.itl_p99_s) == pytest.approx((14.0, 21.84))
    assert figures.latency_mean_s == 51.0
    assert figures.latency_max_s == 66.0
    assert figures.queueing_mean_s == 0.0
    assert (figures.requests, figures.completed, figures.rejected) == (3, 2, 1)
    assert figures.makespan_s == 66.0
    assert figures.throughput_rps == 2 / 66
    assert figures.output_tps == 5 / 66
    assert figures.throughput_tps == 35 / 66
    assert figures.served_per_busy_s == 2 / 66
    assert figures.goodput_rps == 1 / 66  # B: A's first token came late
    assert figures.sla_violation_rate == 2 / 3
    # two blocks from 0 to 66, one from 30 to 66
    assert figures.kv_share_mean == pytest.approx((2 * 66 + 36) / 66 / 10)
    assert figures.kv_share_max == 0.3
    assert figures.running_mean == pytest.approx((66 + 36) / 66)
    assert (figures.running_max, figures.waiting_mean, figures.waiting_max) == (2, 0.0, 0)
    assert (figures.steps, figures.tokens_per_step) == (3, 33 / 3)
    assert figures.gpu_utilization == 1.0
    assert figures.preemptions_per_request == 0.0


@pytest.mark.parametrize("replicas", [1, 3])
def test_figures__are_their_definitions(replicas):
    # given a run with preemptions and rejections
    trace = poisson(400, 12 * replicas, seed=21)
    options = {"most_steps": 10**6, "n_replicas": replicas}
    run = serve(trace, blocks=90, step=RTX_4090, run=options)
    figures, table = token_metrics(run, Slo(ttft_s=1.0, tpot_s=0.03, latency_s=20.0)), run.requests
    served = table.completed
    assert figures.rejected == (~served).sum() > 0
    assert figures.preemptions_per_request == table.preemptions.sum() / served.sum() > 0.1
    makespan_s = table.finish_s[served].max() - trace.arrival_s[0]
    ttft_s = (table.first_token_s - trace.arrival_s)[served]
    outputs = trace.output_tokens[served]
    with np.errstate(invalid="ignore"):
        tpot_s = ((table.finish_s - table.first_token_s)[served]) / (outputs - 1)
    e2e_s = (table.finish_s - trace.arrival_s)[served]
    good = (ttft_s <= 1.0) & ((tpot_s <= 0.03) | (outputs == 1)) & (e2e_s <= 20.0)
    assert 0 < good.sum() < served.sum()
    assert figures.goodput_rps == good.sum() / makespan_s
    assert figures.sla_violation_rate == pytest.approx(1 - good.sum() / 400)
    assert figures.tpot_p95_s == np.quantile(tpot_s[outputs > 1], 0.95)
    assert figures.latency_p99_s == np.quantile(e2e_s, 0.99)
    gaps = np.repeat(*run.gaps.expand())
    assert figures.itl_mean_s == pytest.approx(gaps.mean())
    expected = np.quantile(gaps, (0.5, 0.9, 0.95, 0.99)).tolist()
    assert [getattr(figures, f"itl_{q}_s") for q in ("p50", "p90", "p95", "p99")] == expected
    # what is weighted by time, against the steps: at depth 2 a step is decided one earlier
    steps = run.steps
    assert steps is not None
    assert figures.gpu_utilization == pytest.approx(
        (steps.end_s - steps.start_s).sum() / makespan_s / replicas
    )
    assert figures.running_max == steps.running.max()
    assert figures.waiting_max == steps.waiting.max()
    assert figures.kv_share_max == steps.used_blocks.max() / 90


@pytest.mark.parametrize("depth", [1, 2])
def test_running_and_waiting__over_time_are_little_s_law(depth):
    # given a run without preemption: time in each place, summed over requests
    trace = poisson(500, 9, seed=22)
    run = serve(trace, blocks=2587, step=RTX_4090, depth=depth, max_running=40)
    table, figures = run.requests, token_metrics(run)
    assert table.preemptions.sum() == 0
    per_s = 1 / figures.makespan_s
    running = (table.finish_s - table.scheduled_s).sum() * per_s
    waiting = (table.scheduled_s - table.arrival_s).sum() * per_s
    assert figures.running_mean == pytest.approx(running)
    assert figures.waiting_mean == pytest.approx(waiting)
    # and with preemptions, in the system as a whole
    tight = serve(trace, blocks=300, step=RTX_4090, depth=depth, max_running=40)
    figures = token_metrics(tight)
    assert tight.requests.preemptions.sum() > 20
    inside = (tight.requests.finish_s - trace.arrival_s).sum() / figures.makespan_s
    assert figures.running_mean + figures.waiting_mean == pytest.approx(inside)
    assert figures.waiting_mean > 0


def test_prefix_hits__are_a_share_of_the_prompts():
    from llmsched.workload.prefixes.prefix_ids import PrefixIds

    ids = PrefixIds.of([[1, 2]] * 2, tokens_per_id=16)
    run = serve(
        [(0, 40, 2), (100, 40, 2)], blocks=9, prefix_caching=True, columns={"prefix_ids": ids}
    )
    assert token_metrics(run).prefix_hit_share == 32 / 80


def test_nobody_served__is_no_figure_but_no_error():
    figures = token_metrics(serve([(0, 999, 2)], blocks=2), Slo(latency_s=1.0))
    assert figures.rejected == 1
    assert figures.sla_violation_rate == 1.0
    assert math.isnan(figures.ttft_mean_s)
    assert math.isnan(figures.throughput_rps)


@pytest.mark.parametrize("rate_per_s", [0.2, 1, 4, 20])
@pytest.mark.parametrize("mode", ["chunked", "first"])
def test_gap_quantiles__are_those_of_every_gap(rate_per_s, mode):
    # given runs from single decodes in long leaps to full batches
    trace = poisson(200, rate_per_s, seed=23)
    depth = 1 if mode == "first" else 2
    run = serve(trace, blocks=800, step=RTX_4090, depth=depth, prefill=mode)
    quantiles = (0.0, 0.001, 0.1, 0.37, 0.5, 0.9, 0.95, 0.99, 0.9999, 1.0)
    expected = np.quantile(np.repeat(*run.gaps.expand()), quantiles)
    assert run.gaps.quantiles(quantiles).tolist() == expected.tolist()


def test_gaps__are_the_same_in_small_parts(monkeypatch):
    run = serve(poisson(200, 4, seed=23), blocks=300, step=RTX_4090)
    whole, quantiles = run.gaps.expand(), (0.0, 0.37, 0.5, 0.99, 1.0)
    at_once = run.gaps.quantiles(quantiles)
    monkeypatch.setattr(log, "PART", 7)
    for found, expected in zip(run.gaps.expand(), whole, strict=True):
        np.testing.assert_array_equal(np.sort(found), np.sort(expected))
    assert run.gaps.quantiles(quantiles).tolist() == at_once.tolist()


def test_gap_quantiles__of_equal_steps_differ_in_their_last_bits_only():
    # given steps of 0.1 s exactly, at instants that are not multiples of it
    step = LinearStep(0.1, 0.0, 0.0)
    run = serve(poisson(50, 0.05, seed=24), blocks=800, step=step)
    every = np.sort(np.repeat(*run.gaps.expand()))
    changes = np.flatnonzero(np.diff(every))
    assert len(changes) > 2
    ranks = np.r_[0, changes - 1, changes, changes + 1, changes + 2, len(every) - 1]
    quantiles = tuple(ranks / (len(every) - 1))
    assert run.gaps.quantiles(quantiles).tolist() == np.quantile(every, quantiles).tolist()


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=20),
    st.data(),
)
def test_at_ranks__is_the_sorted_repetition(pairs, data):
    values, counts = (np.array(column) for column in zip(*pairs, strict=True))
    repeated = np.sort(np.repeat(values, counts))
    ranks = np.array(data.draw(st.lists(st.integers(0, len(repeated) - 1), max_size=9)), np.int64)
    assert _at_ranks(values / 1.0, counts, ranks).tolist() == repeated[ranks].tolist()


def test_figures__are_in_the_registry_under_their_names():
    figures = token_metrics(serve([(0, 20, 3)], blocks=10))
    settings = {"gpus", "bins", "sla_s", "per_bin", "running_max", "waiting_max"}
    assert {*figures.to_dict()} - settings <= {*METRICS}


def test_batch__is_the_requests_that_run_while_the_gpu_computes():
    # given A alone for 30, A and B for 36, nobody for 34, C alone
    figures = token_metrics(serve([(0, 20, 3), (30, 10, 2), (100, 20, 1)], blocks=10, depth=1))
    assert figures.batch_size_mean == pytest.approx((66 + 36 + 30) / (66 + 30))
