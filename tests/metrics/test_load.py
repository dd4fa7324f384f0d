"""Offered load against hand-worked work, and the label against runs made for each of its cases."""

import math
import types
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from llmsched.engine.iteration.settings import IterationSettings
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.engine.step_records import ReplicaTable, ServedTable
from llmsched.metrics.load import (
    LABEL_RULE,
    load_label,
    memory_best_batch,
    offered_load,
    step_load,
    step_load_label,
)
from llmsched.workload.trace import Trace


class Sums:
    """T = b + 10 * L + 100 * longest prompt + 1000 * longest output: every part shows."""

    def service_s(self, batch):
        return (
            1.0 * batch.size
            + 10.0 * batch.max_total_tokens
            + 100.0 * batch.max_prompt_tokens
            + 1000.0 * batch.max_output_tokens
        )


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def make_trace(arrival, prompt, output) -> Trace:
    return Trace(
        arrival_s=np.array(arrival, dtype=np.float64),
        prompt_tokens=ints(*prompt),
        output_tokens=ints(*output),
    )


FIVE = make_trace([0, 1, 2, 3, 10], prompt=[1, 5, 2, 6, 3], output=[4, 1, 3, 1, 9])
FIVE_BINS = ints(0, 1, 0, 1, 0)


def test_offered_load__cuts_each_bin_into_batches_in_order_of_arrival():
    # given bin 0 with requests 0, 2, 4 in batches of 2: {0, 2} takes 2 + 50 + 200 + 4000 s and
    # {4} takes 1 + 120 + 300 + 9000 s; bin 1 with {1, 3}: 2 + 70 + 600 + 1000 s
    work_s = (2 + 50 + 200 + 4000) + (1 + 120 + 300 + 9000) + (2 + 70 + 600 + 1000)
    # then the load is the work of a request times 4 gaps in 10 s, over 3 GPUs
    load = offered_load(FIVE, FIVE_BINS, n_bins=2, best_batch=2, latency=Sums(), n_gpus=3)
    assert load == pytest.approx(work_s / 5 * 0.4 / 3, rel=1e-15)


def test_offered_load__takes_a_best_batch_per_bin():
    # given batches of 1 in bin 0 and of 2 in bin 1, and an empty bin
    alone_s = (1 + 50 + 100 + 4000) + (1 + 50 + 200 + 3000) + (1 + 120 + 300 + 9000)
    load = offered_load(
        FIVE, FIVE_BINS, n_bins=3, best_batch=ints(1, 2, 9), latency=Sums(), n_gpus=1
    )
    assert load == pytest.approx((alone_s + 2 + 70 + 600 + 1000) / 5 * 0.4, rel=1e-15)


def test_offered_load__of_evenly_spaced_requests_is_service_over_gap():
    # given 20 requests 1.047 s apart, 1.005 s of work each: not n / (n - 1) times too much
    trace = make_trace(1.047 * np.arange(20), [0] * 20, [0] * 20)
    alone = types.SimpleNamespace(service_s=lambda batch: np.full(len(batch.size), 1.005))
    load = offered_load(
        trace, np.zeros(20, np.int32), n_bins=1, best_batch=1, latency=alone, n_gpus=1
    )
    assert load == pytest.approx(1.005 / 1.047, rel=1e-12)


def test_offered_load__counts_the_time_in_which_rejected_requests_arrive():
    # given two requests within 1 s that are served, and a third, 10 s later, that is not
    served, offered = make_trace([0, 1], [0] * 2, [0] * 2), make_trace([0, 1, 11], [0] * 3, [0] * 3)
    load = offered_load(
        served, ints(0, 0), n_bins=1, best_batch=1, latency=Sums(), n_gpus=1, offered=offered
    )
    # then a request brings 2/3 s of work, and 2 gaps take 11 s
    assert load == pytest.approx(2 / 3 * 2 / 11, rel=1e-12)


def test_offered_load__of_simultaneous_arrivals_is_infinite():
    trace = make_trace([0, 0], [1, 1], [1, 1])
    assert offered_load(trace, ints(0, 0), n_bins=1, best_batch=8, latency=Sums(), n_gpus=4) == (
        math.inf
    )


def test_offered_load__of_nothing_is_zero():
    trace = make_trace([], [], [])
    assert offered_load(trace, ints(), n_bins=2, best_batch=8, latency=Sums(), n_gpus=4) == 0.0


def test_offered_load__refuses_batches_of_none():
    with pytest.raises(ValueError, match="best_batch must be >= 1 in every bin, got 0"):
        offered_load(FIVE, FIVE_BINS, n_bins=2, best_batch=ints(1, 0), latency=Sums(), n_gpus=1)


@given(
    requests=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=30
    ),
    best=st.lists(st.integers(1, 7), min_size=4, max_size=4),
)
@settings(deadline=None)
def test_offered_load__equals_a_slow_recomputation(requests, best):
    trace = make_trace(
        np.linspace(0, 1, len(requests)), [r[0] for r in requests], [r[1] for r in requests]
    )
    load = offered_load(
        trace,
        ints(*(r[2] for r in requests)),
        n_bins=4,
        best_batch=ints(*best),
        latency=Sums(),
        n_gpus=1,
    )
    work_s = 0.0
    for k in range(4):
        mine = [r for r in requests if r[2] == k]
        for first in range(0, len(mine), best[k]):
            members = mine[first : first + best[k]]
            work_s += len(members) + 10 * max(p + o for p, o, _ in members)
            work_s += 100 * max(r[0] for r in members) + 1000 * max(r[1] for r in members)
    n = len(requests)
    assert load == (pytest.approx(work_s * (n - 1) / n, rel=1e-12) if n > 1 else math.inf)


def test_memory_best_batch__divides_the_capacity_by_the_mean_request_of_the_bin():
    # given requests of 5, 5 and 12 tokens in bin 0, of 6 and 7 in bin 1, none in bin 2
    best = memory_best_batch(FIVE, FIVE_BINS, n_bins=3, kv_capacity_tokens=100, batch_max=128)
    # then floor(90 / (22/3)) = floor(12.27), floor(90 / 6.5) = floor(13.8), and no limit but B_max
    assert best.tolist() == [12, 13, 128]
    assert memory_best_batch(
        FIVE, FIVE_BINS, n_bins=3, kv_capacity_tokens=100, batch_max=13
    ).tolist() == [12, 13, 13]
    assert memory_best_batch(
        FIVE, FIVE_BINS, n_bins=2, kv_capacity_tokens=2, batch_max=13
    ).tolist() == [1, 1]


def make_run(arrival, start, finish):
    """One request per batch; a start of None is a rejection."""
    n, served = len(arrival), [s is not None for s in start]
    numbers = np.cumsum(served, dtype=np.int32) - 1
    floats = [np.array([math.nan if v is None else v for v in c], float) for c in (start, finish)]
    zeros, ones = np.zeros(n, np.int32), np.ones(sum(served), np.int32)
    requests = RequestTable(
        arrival_s=np.array(arrival, float),
        prompt_tokens=zeros,
        output_tokens=zeros,
        predicted_tokens=zeros,
        bin=zeros,
        start_s=floats[0],
        finish_s=floats[1],
        gpu=zeros,
        batch=np.where(served, numbers, -1).astype(np.int32),
    )
    batches = BatchTable(
        start_s=floats[0][served],
        finish_s=floats[1][served],
        gpu=ones,
        bin=ones,
        size=ones,
        tokens=ones.astype(np.int64),
        max_total_tokens=ones,
        max_prompt_tokens=ones,
        max_output_tokens=ones,
    )
    return requests, batches


def label(load, run, n_gpus=1):
    return load_label(load, *run, n_gpus=n_gpus)


def test_label__is_stable_when_waits_are_short_and_the_drain_too():
    # given a last request that runs alone for 30 s: that is service, not a drain
    run = make_run([0, 50, 100], start=[0, 50, 100], finish=[10, 60, 130])
    assert label(0.5, run) == "stable"


def test_label__is_overloaded_from_an_offered_load_of_one():
    run = make_run([0, 50, 100], start=[0, 50, 100], finish=[10, 60, 110])
    assert label(0.999, run) == "stable"
    assert label(1.0, run) == "overloaded"
    assert label(math.inf, run) == "overloaded"


def test_label__is_overloaded_when_busy_gpus_drain_for_over_a_tenth_of_the_span():
    # given a GPU that is busy from 0 on, services of 40 s and arrivals for 100 s: 150 s is the
    # latest finish that is in time
    run = make_run([0, 1, 50, 100], start=[0, 40, 80, 110], finish=[40, 80, 110, 150])
    assert label(0.5, run) == "stable"
    run = make_run([0, 1, 50, 100], start=[0, 40, 80, 110.5], finish=[40, 80, 110.5, 150.5])
    assert label(0.5, run) == "overloaded"


def test_label__is_not_overloaded_when_the_gpus_were_idle_before_a_late_burst():
    # given the drain of the test above on a GPU that was busy for 94 of 100 s, then for 95
    late = make_run([0, 6, 50, 100], start=[0, 46, 86, 110.5], finish=[40, 86, 110.5, 150.5])
    assert label(0.5, late) == "stable"
    later = make_run([0, 5, 50, 100], start=[0, 45, 85, 110.5], finish=[40, 85, 110.5, 150.5])
    assert label(0.5, later) == "overloaded"
    # and on two GPUs, one of them idle
    assert label(0.5, later, n_gpus=2) == "stable"


def test_label__is_backlogged_when_a_wait_takes_over_two_hundredths_of_the_span():
    # given services of 10 s and a span of 100 s: a wait of 12 s is still that of a full GPU
    run = make_run([0, 1, 2, 100], start=[0, 13, None, 100], finish=[10, 23, None, 110])
    assert label(0.5, run) == "stable"
    run = make_run([0, 1, 2, 100], start=[0, 13.5, None, 100], finish=[10, 23.5, None, 110])
    assert label(0.5, run) == "backlogged"


def test_label__of_a_run_that_served_nothing_is_overloaded():
    assert label(0.0, make_run([0, 1], [None, None], [None, None])) == "overloaded"
    assert label(0.0, make_run([], [], [])) == "stable"


class StepSums:
    """1 s a prompt token and 10 s a decode, 0.1 s a token that decodes read."""

    def step_s(self, prefills, n_decodes, decode_kv):
        return sum(chunk for chunk, _ in prefills) + 10.0 * n_decodes + 0.1 * decode_kv


def make_steps(arrival, scheduled, finish, busy_s=(0.0,)):
    """Requests of 10 + 4 tokens on the first of some replicas; a start of None is a rejection."""
    arrival_s, scheduled_s, finish_s = (
        np.array(column, dtype=np.float64) for column in (arrival, scheduled, finish)
    )
    same, counts = np.full(len(arrival), 10, np.int32), np.zeros(len(busy_s), np.int64)
    table = ServedTable(
        arrival_s=arrival_s,
        prompt_tokens=same,
        output_tokens=same - 6,
        predicted_tokens=same,
        queued_s=arrival_s,
        scheduled_s=scheduled_s,
        first_token_s=scheduled_s,
        finish_s=finish_s,
        preemptions=same,
        recomputed_tokens=same.astype(np.int64),
        cached_tokens=same,
        replica=np.where(np.isnan(scheduled_s), -1, 0).astype(np.int32),
    )
    replicas = ReplicaTable(
        **{one.name: counts for one in fields(ReplicaTable) if one.name != "busy_s"},
        busy_s=np.array(busy_s),
    )
    return table, replicas


def test_step_load__is_the_work_of_the_largest_batch_over_the_gaps():
    # given outputs of 4 that hold 10 + 4/2 tokens on average: memory for 48 tokens is 4 requests
    table, _ = make_steps([0, 5, 20], [0, 5, math.nan], [1, 6, math.nan])
    told = IterationSettings(kv_tokens=48, max_running=8, step_tokens=100, overhead_s=0.5)
    # then a request takes one step's worth: 10 prompt tokens, 4 decodes on 48 tokens, 55.3 s
    load = step_load(table, told, StepSums(), 3)
    # of which 2 of 3 requests, with 2 gaps in 20 s, on 3 replicas
    assert load == pytest.approx(2 / 3 * (10 + 40 + 4.8 + 0.5) * 2 / 20 / 3, rel=1e-12)
    # and where steps leave 4 tokens to prompts, 2.5 of 4 prompt tokens and 2 decodes each
    told = replace(told, step_tokens=8, per_request_s=0.25)
    load = step_load(table, told, StepSums(), 1)
    step_s = 4 + 20 + 2.4 + 0.5 + 3 * 0.25
    assert load == pytest.approx(2 / 3 * 2.5 * step_s * 2 / 20, rel=1e-12)
    assert step_load(make_steps([0, 0], [0, 1], [1, 2])[0], told, StepSums(), 1) == math.inf


@pytest.mark.parametrize(
    ("arrival", "scheduled", "finish", "busy_s", "label"),
    [
        # a stay of 40 s on top of a tenth of 100 s, then 0.5 s more
        ([0, 1, 50, 100], [0, 40, 80, 110], [40, 80, 110, 150], [150.0], "stable"),
        ([0, 1, 50, 100], [0, 40, 80, 110.5], [40, 80, 110.5, 150.5], [150.5], "overloaded"),
        # busy for 94 of the 100 s, and with a second replica that rests
        ([0, 1, 50, 100], [0, 40, 80, 110.5], [40, 80, 110.5, 150.5], [144.5], "stable"),
        ([0, 1, 50, 100], [0, 40, 80, 110.5], [40, 80, 110.5, 150.5], [150.5, 0], "stable"),
        # a wait of 12, then of 12.5 s where a stay takes 10 and 2 % are 2
        ([0, 1, 2, 100], [0, 13, None, 100], [10, 23, None, 110], [30.0], "stable"),
        ([0, 1, 2, 100], [0, 13.5, None, 100], [10, 23.5, None, 110], [30.0], "backlogged"),
        ([0, 1], [None, None], [None, None], [0.0], "overloaded"),
    ],
)
def test_step_label__follows_the_same_rule(arrival, scheduled, finish, busy_s, label):
    assert step_load_label(0.5, *make_steps(arrival, scheduled, finish, busy_s)) == label


def test_label__rule_names_every_label_and_threshold():
    words = ("stable", "backlogged", "overloaded", "10%", "95%", "2%")
    assert all(word in LABEL_RULE for word in words)
