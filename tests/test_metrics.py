"""Figures of merit against a hand-worked run and a slow recomputation from the definitions."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from llmsched.engine.records import BatchTable, RequestTable
from llmsched.metrics.run import metrics

JSON_KEYS = [
    *("requests", "completed", "rejected", "gpus", "bins", "sla_s", "makespan_s"),
    *("throughput_rps", "throughput_tps", "output_tps", "latency_mean_s", "latency_p50_s"),
    *("latency_p90_s", "latency_p95_s", "latency_p99_s", "latency_max_s", "queueing_mean_s"),
    *("service_mean_s", "sla_violation_rate", "goodput_rps", "served_per_busy_s"),
    *(
        "gpu_utilization",
        "batches",
        "batch_size_mean",
        "batch_size_sd",
        "batch_size_max",
        "padding_waste",
    ),
    *("seconds_per_output_token", "kv_tokens_mean", "kv_tokens_max", "kv_bytes_mean"),
    *("kv_bytes_max", "beyond_memory_share", "per_bin"),
]


def make_tables(rows, batches):
    """Tables from rows (arrival, prompt, output, bin, batch or None) and batches (start, finish).

    What a batch holds is worked out from its rows; a batch's GPU does not matter to the metrics.
    """
    of_batch = [[r for r in rows if r[4] == b] for b in range(len(batches))]
    served = [(math.nan, math.nan) if r[4] is None else batches[r[4]] for r in rows]

    def ints(values):
        return np.array(list(values), dtype=np.int32)

    def floats(values):
        return np.array(list(values), dtype=np.float64)

    batch = ints(-1 if r[4] is None else r[4] for r in rows)
    requests = RequestTable(
        arrival_s=floats(r[0] for r in rows),
        prompt_tokens=ints(r[1] for r in rows),
        output_tokens=ints(r[2] for r in rows),
        predicted_tokens=ints(r[2] for r in rows),
        bin=ints(r[3] for r in rows),
        start_s=floats(start for start, _ in served),
        finish_s=floats(finish for _, finish in served),
        gpu=np.minimum(batch, 0),
        batch=batch,
    )
    table = BatchTable(
        start_s=floats(start for start, _ in batches),
        finish_s=floats(finish for _, finish in batches),
        gpu=ints(0 for _ in batches),
        bin=ints(members[0][3] for members in of_batch),
        size=ints(len(members) for members in of_batch),
        tokens=np.array([sum(r[1] + r[2] for r in m) for m in of_batch], dtype=np.int64),
        max_total_tokens=ints(max(r[1] + r[2] for r in m) for m in of_batch),
        max_prompt_tokens=ints(max(r[1] for r in m) for m in of_batch),
        max_output_tokens=ints(max(r[2] for r in m) for m in of_batch),
    )
    return requests, table


# Six requests, two bins, one rejected; three batches, the last two side by side.
#   request   0    1    2    3    4    5
#   arrival   0    0    1    2    4    5
#   bin       0    1    0    0    1    1
#   batch     0    2    1    1   none  2
# Batch 0 runs 0..3, batch 1 3..6, batch 2 5..8; latencies 3, 8, 5, 4, -, 3; waits 0, 5, 2, 1, -, 0.
HAND_ROWS = [
    (0.0, 10, 2, 0, 0),
    (0.0, 30, 40, 1, 2),
    (1.0, 6, 4, 0, 1),
    (2.0, 12, 8, 0, 1),
    (4.0, 900, 100, 1, None),
    (5.0, 10, 20, 1, 2),
]
HAND_BATCHES = [(0.0, 3.0), (3.0, 6.0), (5.0, 8.0)]


def hand_worked(**options):
    settings = {"n_gpus": 2, "sla_s": 4.0, "n_bins": 2, "kv_bytes_per_token": 100.0}
    settings |= {"kv_capacity_tokens": 30.0} | options
    return metrics(*make_tables(HAND_ROWS, HAND_BATCHES), **settings)


def test_metrics__of_a_hand_worked_run():
    expected = {
        "requests": 6,
        "completed": 5,
        "rejected": 1,
        "gpus": 2,
        "bins": 2,
        "sla_s": 4.0,
        "makespan_s": 8.0,
        "throughput_rps": 5 / 8,
        "throughput_tps": (12 + 70 + 10 + 20 + 30) / 8,  # 142, without the rejected
        "output_tps": (2 + 40 + 4 + 8 + 20) / 8,
        "latency_mean_s": (3 + 8 + 5 + 4 + 3) / 5,
        "latency_p50_s": 4.0,  # of 3, 3, 4, 5, 8
        "latency_p90_s": 5 + 0.6 * 3,  # position 0.9 * 4 = 3.6
        "latency_p95_s": 5 + 0.8 * 3,
        "latency_p99_s": 5 + 0.96 * 3,
        "latency_max_s": 8.0,
        "queueing_mean_s": (0 + 5 + 2 + 1 + 0) / 5,
        "service_mean_s": 3.0,
        "sla_violation_rate": 3 / 6,  # 8 and 5 are late, one is rejected; exactly 4 is in time
        "goodput_rps": 3 / 8,
        "served_per_busy_s": 5 / 9,
        "gpu_utilization": 9 / 16,
        "batches": 3,
        "batch_size_mean": 5 / 3,
        "batch_size_sd": math.sqrt(2 / 9),  # sizes 1, 2, 2
        "batch_size_max": 2,
        "padding_waste": 1 - 142 / (1 * 12 + 2 * 20 + 2 * 70),
        "seconds_per_output_token": 9 / 74,
        "kv_tokens_mean": 142 / 3,
        "kv_tokens_max": 100,
        "kv_bytes_mean": 14200 / 3,
        "kv_bytes_max": 10000.0,
        "beyond_memory_share": 1 / 3,  # batches of 12, 30 and 100 tokens
    }
    result = hand_worked().to_dict()
    result.pop("per_bin")
    assert result == pytest.approx(expected, rel=1e-12)


def test_metrics__per_bin_of_a_hand_worked_run():
    short, long = hand_worked().to_dict()["per_bin"]
    assert short == pytest.approx(
        {
            "bin": 0,
            "requests": 3,
            "request_share": 0.5,
            "rejected": 0,
            "batches": 2,
            "batch_size_mean": 1.5,
            "output_variance_mean": (0 + 4) / 2,  # outputs {2} and {4, 8}
            "output_range_mean": (0 + 4) / 2,
            "output_max_over_mean": (1 + 8 / 6) / 2,
            "latency_mean_s": 4.0,  # 3, 5, 4
            "latency_p99_s": 4 + 0.98,
            "sla_violation_rate": 1 / 3,
            "wait_max_s": 2.0,
            "gpu_time_share": 6 / 9,
            "backlog_mean": (0 + 2 + 1) / 8,
            "backlog_peak": 2,  # both wait from 2 to 3
        },
        rel=1e-12,
    )
    assert long == pytest.approx(
        {
            "bin": 1,
            "requests": 3,
            "request_share": 0.5,
            "rejected": 1,
            "batches": 1,
            "batch_size_mean": 2.0,
            "output_variance_mean": 100.0,  # outputs {40, 20}
            "output_range_mean": 20.0,
            "output_max_over_mean": 40 / 30,
            "latency_mean_s": 5.5,  # 8, 3
            "latency_p99_s": 3 + 0.99 * 5,
            "sla_violation_rate": 2 / 3,
            "wait_max_s": 5.0,
            "gpu_time_share": 3 / 9,
            "backlog_mean": 5 / 8,
            "backlog_peak": 1,  # the last one starts as it arrives, so two never wait
        },
        rel=1e-12,
    )


def test_metrics__keys_are_those_of_the_json_output():
    result = hand_worked(kv_bytes_per_token=None).to_dict()
    assert list(result) == JSON_KEYS
    assert result["kv_bytes_mean"] is None
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_span__ends_at_the_last_arrival_when_that_comes_after_the_last_finish():
    # given three requests served within 5 s, and one rejected 100 s later
    rows = [(0.0, 1, 1, 0, 0), (1.0, 1, 1, 0, 1), (4.0, 1, 1, 0, 2), (104.0, 900, 1, 0, None)]
    batches = [(0.0, 1.0), (1.0, 2.0), (4.0, 5.0)]
    result = metrics(*make_tables(rows, batches), n_gpus=2, sla_s=1.0, n_bins=1)
    # then rates, utilization and backlog are over those 104 s
    assert (result.makespan_s, result.throughput_rps, result.goodput_rps) == (104, 3 / 104, 3 / 104)
    assert result.gpu_utilization == 3 / 208
    assert result.served_per_busy_s == 1.0


def test_goodput__counts_every_request_not_the_completed_ones():
    # given 200 requests of which 163 are rejected and half of the rest are in time, over 10 s
    rows = [(0.0, 1, 1, 0, i if i < 37 else None) for i in range(200)]
    batches = [(0.0, 0.5)] * 18 + [(0.0, 10.0)] * 19
    result = metrics(*make_tables(rows, batches), n_gpus=37, sla_s=1.0, n_bins=1)
    # then violations are of all 200, and goodput is 18 in 10 s
    assert result.sla_violation_rate == 182 / 200
    assert result.goodput_rps == 1.8


def test_metrics__of_a_run_that_rejected_everything_have_no_latencies():
    rows = [(0.0, 900, 100, 0, None), (1.0, 900, 100, 1, None)]
    result = metrics(*make_tables(rows, []), n_gpus=1, sla_s=1.0, n_bins=2).to_dict()
    bins = result.pop("per_bin")
    # then counts and rates are 0, all are violations, and what has no value is null
    nulls = {key for key, value in result.items() if value is None}
    assert nulls == {
        *("served_per_busy_s", "latency_mean_s", "latency_p50_s", "latency_p90_s", "latency_p95_s"),
        *("latency_p99_s", "latency_max_s", "queueing_mean_s", "service_mean_s"),
        *("batch_size_mean", "batch_size_sd", "padding_waste", "seconds_per_output_token"),
        *("kv_tokens_mean", "kv_bytes_mean", "kv_bytes_max", "beyond_memory_share"),
    }
    assert result["makespan_s"] == 1.0  # the last arrival ends a run that serves nobody
    assert (result["requests"], result["completed"], result["rejected"]) == (2, 0, 2)
    assert result["sla_violation_rate"] == 1.0
    assert result["throughput_rps"] == result["goodput_rps"] == result["gpu_utilization"] == 0.0
    assert [(b["requests"], b["rejected"], b["sla_violation_rate"]) for b in bins] == [
        (1, 1, 1)
    ] * 2
    assert bins[0]["latency_p99_s"] is None
    assert bins[0]["backlog_peak"] == 0


def test_metrics__of_no_requests_are_empty():
    result = metrics(*make_tables([], []), n_gpus=1, sla_s=1.0, n_bins=1).to_dict()
    assert (result["requests"], result["batches"], result["throughput_rps"]) == (0, 0, 0.0)
    assert result["sla_violation_rate"] is None


def test_metrics__of_requests_without_tokens_waste_nothing():
    rows = [(0.0, 0, 0, 0, 0), (0.0, 0, 0, 0, 0)]
    result = metrics(*make_tables(rows, [(0.0, 1.0)]), n_gpus=1, sla_s=1.0, n_bins=1)
    assert result.padding_waste == 0.0
    assert math.isnan(result.seconds_per_output_token)
    assert result.per_bin[0].output_max_over_mean == 1.0


def test_metrics__of_equal_lengths_have_exactly_no_variance():
    rows = [(0.0, 3, 1_234_567, 0, 0)] * 7
    result = metrics(*make_tables(rows, [(0.0, 1.0)]), n_gpus=1, sla_s=1.0, n_bins=1)
    assert result.per_bin[0].output_variance_mean == 0.0
    assert result.padding_waste == 0.0


def test_metrics__token_sums_exceed_32_bits():
    rows = [(0.0, 1_000_000_000, 1_000_000_000, 0, 0)] * 4
    result = metrics(*make_tables(rows, [(0.0, 1.0)]), n_gpus=1, sla_s=1.0, n_bins=1)
    assert (result.throughput_tps, result.output_tps) == (8e9, 4e9)
    assert result.padding_waste == 0.0
    assert result.kv_tokens_max == 8_000_000_000


def test_metrics__leave_the_tables_as_they_were():
    requests, batches = make_tables(HAND_ROWS, HAND_BATCHES)
    before = [getattr(t, c).copy() for t in (requests, batches) for c in t.__slots__]
    metrics(requests, batches, n_gpus=2, sla_s=4.0, n_bins=2)
    after = [getattr(t, c) for t in (requests, batches) for c in t.__slots__]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_gpus": 0}, "n_gpus must be >= 1, got 0"),
        ({"sla_s": 0.0}, "sla_s must be positive, got 0"),
        ({"sla_s": math.nan}, "sla_s must be positive, got nan"),
        ({"n_bins": 1}, r"got n_bins=1 and bins 0..1"),
    ],
)
def test_metrics__refuse_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        hand_worked(**options)


# every figure again, slowly, from the definitions


@st.composite
def runs(draw):
    """A run: arrivals with ties, bins, rejections, batches of one bin in FIFO order."""
    n_bins = draw(st.integers(1, 4))
    n = draw(st.integers(1, 25))
    arrivals = sorted(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)))
    tokens = st.integers(0, 60)
    drawn = [
        (draw(tokens), draw(tokens), draw(st.integers(0, n_bins - 1)), draw(st.integers(0, 5)))
        for _ in range(n)
    ]
    groups, batches = [], []
    for k in range(n_bins):
        members = [i for i, (_, _, b, luck) in enumerate(drawn) if b == k and luck > 0]
        start = 0.0
        while members:
            size = draw(st.integers(1, len(members)))
            group, members = members[:size], members[size:]
            start = max(start, arrivals[group[-1]] + draw(st.integers(0, 30)) / 7)
            groups.append(group)
            batches.append((start, start + draw(st.integers(1, 40)) / 9))
    order = sorted(range(len(batches)), key=lambda b: batches[b][0])
    number = {i: order.index(b) for b, group in enumerate(groups) for i in group}
    rows = [
        (arrivals[i] - arrivals[0], prompt, output, k, number.get(i))
        for i, (prompt, output, k, _) in enumerate(drawn)
    ]
    rows = [(float(r[0]), *r[1:]) for r in rows]
    shift = arrivals[0]
    return rows, [(s - shift, f - shift) for s, f in (batches[b] for b in order)], n_bins


def percentile(values, percent):
    ranked, position = sorted(values), percent / 100 * (len(values) - 1)
    below = min(int(position), len(values) - 1)
    above = min(below + 1, len(values) - 1)
    return ranked[below] + (position - below) * (ranked[above] - ranked[below])


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def ratio(part, whole):
    return part / whole if whole else None


def spread(members):
    outputs = [r[2] for r in members]
    centre = mean(outputs)
    peak = max(outputs) / centre if centre else 1.0
    return mean((x - centre) ** 2 for x in outputs), max(outputs) - min(outputs), peak


def slow_bin(k, rows, batches, sla_s, makespan):
    mine = [r for r in rows if r[3] == k]
    served = [r for r in mine if r[4] is not None]
    numbers = sorted({r[4] for r in served})
    spreads = [spread([r for r in served if r[4] == b]) for b in numbers]
    latency = [batches[r[4]][1] - r[0] for r in served]
    wait = [batches[r[4]][0] - r[0] for r in served]
    busy = math.fsum(f - s for s, f in batches)
    instants = [r[0] for r in served]
    return {
        "bin": k,
        "requests": len(mine),
        "request_share": len(mine) / len(rows),
        "rejected": len(mine) - len(served),
        "batches": len(numbers),
        "batch_size_mean": ratio(len(served), len(numbers)),
        "output_variance_mean": mean(s[0] for s in spreads),
        "output_range_mean": mean(s[1] for s in spreads),
        "output_max_over_mean": mean(s[2] for s in spreads),
        "latency_mean_s": mean(latency),
        "latency_p99_s": percentile(latency, 99) if latency else None,
        "sla_violation_rate": ratio(len(mine) - sum(x <= sla_s for x in latency), len(mine)),
        "wait_max_s": max(wait, default=None),
        "gpu_time_share": ratio(math.fsum(batches[b][1] - batches[b][0] for b in numbers), busy),
        "backlog_mean": math.fsum(wait) / makespan if math.fsum(wait) else 0.0,
        "backlog_peak": max(
            (sum(r[0] <= t < batches[r[4]][0] for r in served) for t in instants), default=0
        ),
    }


def slow_metrics(rows, batches, n_bins, n_gpus, sla_s):
    served = [r for r in rows if r[4] is not None]
    latency = [batches[r[4]][1] - r[0] for r in served]
    makespan = max([f for _, f in batches] + [r[0] for r in rows]) - rows[0][0]
    busy = math.fsum(f - s for s, f in batches)
    good = sum(x <= sla_s for x in latency)
    of_batch = [[r for r in rows if r[4] == b] for b in range(len(batches))]
    sizes = [len(m) for m in of_batch]
    kv = [sum(r[1] + r[2] for r in m) for m in of_batch]
    slots = sum(len(m) * max(r[1] + r[2] for r in m) for m in of_batch)
    outputs = sum(r[2] for r in served)
    centre = mean(sizes)

    def rate(amount):
        return amount / makespan if amount else 0.0

    return {
        "requests": len(rows),
        "completed": len(served),
        "rejected": len(rows) - len(served),
        "gpus": n_gpus,
        "bins": n_bins,
        "sla_s": sla_s,
        "makespan_s": makespan,
        "throughput_rps": rate(len(served)),
        "throughput_tps": rate(sum(kv)),
        "output_tps": rate(outputs),
        "latency_mean_s": mean(latency),
        **{
            f"latency_p{p}_s": percentile(latency, p) if latency else None for p in (50, 90, 95, 99)
        },
        "latency_max_s": max(latency, default=None),
        "queueing_mean_s": mean(batches[r[4]][0] - r[0] for r in served),
        "service_mean_s": mean(batches[r[4]][1] - batches[r[4]][0] for r in served),
        "sla_violation_rate": (len(rows) - good) / len(rows),
        "goodput_rps": rate(good),
        "served_per_busy_s": ratio(len(served), busy),
        "gpu_utilization": rate(busy) / n_gpus,
        "batches": len(batches),
        "batch_size_mean": centre,
        "batch_size_sd": math.sqrt(mean((s - centre) ** 2 for s in sizes)) if sizes else None,
        "batch_size_max": max(sizes, default=0),
        "padding_waste": (1 - sum(kv) / slots if slots else 0.0) if batches else None,
        "seconds_per_output_token": ratio(busy, outputs),
        "kv_tokens_mean": mean(kv),
        "kv_tokens_max": max(kv, default=0),
        "kv_bytes_mean": mean(100 * tokens for tokens in kv),
        "kv_bytes_max": 100 * max(kv, default=0),
        "beyond_memory_share": ratio(sum(tokens > 25 for tokens in kv), len(kv)),
        "per_bin": [slow_bin(k, rows, batches, sla_s, makespan) for k in range(n_bins)],
    }


@given(run=runs(), n_gpus=st.integers(1, 5), sla_s=st.sampled_from([0.5, 3.0, math.inf]))
@settings(deadline=None, max_examples=150)
def test_metrics__equal_a_slow_recomputation(run, n_gpus, sla_s):
    rows, batches, n_bins = run
    result = metrics(
        *make_tables(rows, batches),
        n_gpus=n_gpus,
        sla_s=sla_s,
        n_bins=n_bins,
        kv_bytes_per_token=100.0,
        kv_capacity_tokens=25.0,
    ).to_dict()
    expected = slow_metrics(rows, batches, n_bins, n_gpus, sla_s)
    if sla_s == math.inf:
        expected["sla_s"] = None
    # then each figure agrees to 10 digits: sums of at most 25 terms, in another order
    for fast, slow in zip(result.pop("per_bin"), expected.pop("per_bin"), strict=True):
        assert_same(fast, slow)
    assert_same(result, expected)


def assert_same(fast, slow):
    assert fast.keys() == slow.keys()
    for key, value in slow.items():
        if value is None:
            assert fast[key] is None, key
        else:
            assert fast[key] == pytest.approx(value, rel=1e-10, abs=1e-10), key


@pytest.mark.slow
def test_metrics__do_not_depend_on_the_threads_of_blas():
    # given 100,000 batches: BLAS splits products that long over its threads
    code = (
        "import json, llmsched; w = llmsched.Workload(requests=100_000, rps_scale=50);"
        "print(json.dumps(llmsched.simulate(w, 'static_fifo', n_gpus=50).to_dict()))"
    )
    # when one and two threads measure the same run
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    }
    # then every digit is the same
    (one,) = said
    assert json.loads(one)["batches"] > 20_000
