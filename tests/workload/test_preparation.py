"""Choosing and scaling requests, and what a trace is said to look like."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from llmsched.workload.describe import burst_shapes, describe, gamma_shape
from llmsched.workload.formats.registry import read_trace
from llmsched.workload.prepare import prepare
from llmsched.workload.trace import Labels, Trace, TraceError

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real traces must lie in {DATA}")


def six_requests() -> Trace:
    """One request every 10 s; the third and fifth failed; models A and B take turns."""
    codes = np.array([0, 1, 0, 1, 0, 1], np.int16)
    return Trace(
        arrival_s=np.arange(6) * 10.0,
        prompt_tokens=np.array([1, 2, 3, 4, 5, 6], np.int32),
        output_tokens=np.array([9, 8, 0, 6, 0, 4], np.int32),
        model=Labels(codes=codes, names=("A", "B")),
        log_type=Labels(codes=np.zeros(6, np.int16), names=("API log", "Conversation log")),
        name="six",
        left_out=(("earlier", 7),),
        notes=("note",),
    )


def as_is(**rules: object) -> Trace:
    return prepare(six_requests(), **({"failures": "keep", "rps_scale": 1.0} | rules))


def test_defaults__drop_failures_and_keep_the_times():
    trace = prepare(six_requests())
    assert trace.prompt_tokens.tolist() == [1, 2, 4, 6]
    assert trace.arrival_s.tolist() == [0.0, 10.0, 30.0, 50.0]
    assert trace.left_out == (("earlier", 7), ("failed: no output tokens", 2))
    assert trace.notes == ("note",)


def test_no_rule__leaves_the_trace_alone():
    trace = as_is()
    assert trace.arrival_s.tolist() == six_requests().arrival_s.tolist()
    assert trace.left_out == (("earlier", 7),)


def test_window__holds_its_start_and_not_its_end_and_starts_at_0():
    trace = as_is(window_s=(10.0, 40.0))
    assert trace.prompt_tokens.tolist() == [2, 3, 4]
    assert trace.arrival_s.tolist() == [0.0, 10.0, 20.0]
    assert trace.model.codes.tolist() == [1, 0, 1]
    assert trace.left_out[1:] == (("outside the window 10 to 40 s", 3),)


def test_window__counts_from_the_first_arrival():
    late = Trace(
        arrival_s=np.array([5.0, 6.0, 7.0]),
        prompt_tokens=np.ones(3, np.int32),
        output_tokens=np.ones(3, np.int32),
    )
    assert prepare(late, window_s=(1.0, 2.0), rps_scale=1.0).left_out[0][1] == 2


def test_label__keeps_its_requests_only():
    trace = as_is(model="B")
    assert trace.prompt_tokens.tolist() == [2, 4, 6]
    assert trace.arrival_s.tolist() == [0.0, 20.0, 40.0]
    assert trace.left_out[1:] == (("model other than B", 3),)
    assert len(as_is(log_type="API log")) == 6


def test_order__first_n_counts_what_the_filters_left():
    # the window leaves 2 to 6, model B leaves 2, 4, 6; the first two of them, at twice the rate
    trace = as_is(window_s=(10.0, math.inf), model="B", requests=2, rps_scale=2.0)
    assert trace.prompt_tokens.tolist() == [2, 4]
    assert trace.arrival_s.tolist() == [0.0, 10.0]


def test_order__a_rule_that_leaves_nothing_is_named():
    with pytest.raises(TraceError, match=r"'failed: no output tokens' leaves out all 2"):
        as_is(window_s=(10.0, math.inf), model="A", failures="drop")
    with pytest.raises(TraceError, match="'outside the window 60 to inf s' leaves out all 6"):
        as_is(window_s=(60.0, math.inf))
    with pytest.raises(TraceError, match="'log type other than Conversation log'"):
        as_is(log_type="Conversation log")


def test_requests__are_the_first_ones():
    trace = as_is(requests=2, failures="drop", window_s=(10.0, math.inf))
    assert trace.prompt_tokens.tolist() == [2, 4]
    assert trace.left_out[1:] == (
        ("outside the window 10 to inf s", 1),
        ("failed: no output tokens", 2),
        ("after the first 2", 1),
    )


def test_requests__fewer_than_asked_for_is_a_warning_with_both_numbers():
    with pytest.warns(UserWarning, match=r"asked for 7 requests.*has only 6"):
        assert len(as_is(requests=7)) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_is(requests=6)


def test_scale__is_the_difference_divided_once():
    # given times whose difference and quotient depend on the order of the two operations
    arrival_s = np.array([0.1, 0.3, 0.7])
    ones = np.ones(3, np.int32)
    trace = Trace(arrival_s=arrival_s, prompt_tokens=ones, output_tokens=ones)
    # when / then
    scaled = prepare(trace, rps_scale=3.0).arrival_s
    assert scaled.tolist() == [0.0, (0.3 - 0.1) / 3.0, (0.7 - 0.1) / 3.0]
    assert scaled[1] != 0.3 / 3.0 - 0.1 / 3.0


def test_jitter__moves_whole_requests_by_less_than_its_size_and_sorts():
    # given 1000 requests in 10 whole seconds, recognisable by their prompts
    n = 1000
    trace = Trace(
        arrival_s=np.repeat(np.arange(10.0), 100),
        prompt_tokens=np.arange(n, dtype=np.int32),
        output_tokens=np.ones(n, np.int32),
        model=Labels(codes=(np.arange(n) % 7).astype(np.int16), names=tuple("abcdefg")),
    )
    # when
    moved = prepare(trace, jitter_s=2.0, rps_scale=1.0, rng=np.random.default_rng(1))
    # then the same draw, worked out apart, puts every request where it now is
    drawn = trace.arrival_s + np.random.default_rng(1).uniform(0.0, 2.0, n)
    order = moved.prompt_tokens
    assert sorted(order.tolist()) == list(range(n))
    assert moved.arrival_s.tolist() == (drawn[order] - drawn.min()).tolist()
    assert (moved.model.codes == order % 7).all()
    assert (np.diff(moved.arrival_s) >= 0).all()
    assert (order != np.arange(n)).any()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"requests": 0}, "requests must be >= 1, got 0"),
        ({"window_s": (5.0, 5.0)}, "got 5:5"),
        ({"window_s": (-1.0, 5.0)}, "got -1:5"),
        ({"window_s": (math.nan, 5.0)}, "got nan:5"),
        ({"failures": "maybe"}, "'drop' or 'keep', got 'maybe'"),
        ({"rps_scale": 0.0}, r"RPS scale must be from 1e-06 to 1e\+09, got 0; 1 is real time"),
        ({"rps_scale": 9e-7}, "got 9e-07"),
        ({"rps_scale": 1.1e9}, r"got 1.1e\+09"),
        ({"rps_scale": math.inf}, "got inf"),
        ({"rps_scale": math.nan}, "got nan"),
        ({"jitter_s": -1.0}, r"jitter must be from 0 to 1e\+06 s, got -1"),
        ({"jitter_s": 1.1e6}, r"got 1.1e\+06"),
        ({"jitter_s": math.nan}, "got nan"),
        ({"jitter_s": 1.0}, "pass rng"),
    ],
)
def test_options__out_of_range_are_refused(rules, expected):
    with pytest.raises(ValueError, match=expected):
        as_is(**rules)


def test_label__unknown_or_without_a_column_is_refused():
    with pytest.raises(TraceError, match=r"model must be one in trace 'six': 'A', 'B'; got 'C'"):
        as_is(model="C")
    with pytest.raises(TraceError, match=r"log type must be one .* got 'C'"):
        as_is(log_type="C")
    ones = np.ones(1, np.int32)
    plain = Trace(arrival_s=np.zeros(1), prompt_tokens=ones, output_tokens=ones)
    with pytest.raises(TraceError, match="must have a log type column to choose 'A' by"):
        prepare(plain, log_type="A")


def test_empty_trace__is_refused():
    none = np.zeros(0, np.int32)
    empty = Trace(arrival_s=np.zeros(0), prompt_tokens=none, output_tokens=none)
    for ask in (prepare, describe):
        with pytest.raises(TraceError, match="at least one request, got none"):
            ask(empty)


# --- description ---------------------------------------------------------------------------------


def test_describe__is_right_for_a_hand_worked_trace():
    # given gaps 10, 0, 20 s: mean 10, variance (0 + 100 + 100) / 3
    trace = Trace(
        arrival_s=np.array([0.0, 10.0, 10.0, 30.0]),
        prompt_tokens=np.array([10, 20, 30, 40], np.int32),
        output_tokens=np.array([0, 2, 4, 6], np.int32),
        name="hand",
        left_out=(("rule", 1),),
        notes=("sorted",),
    )
    # when
    summary = describe(trace)
    # then
    assert (summary.name, summary.requests, summary.span_s) == ("hand", 4, 30.0)
    assert summary.arrival_rate_per_s == 3 / 30
    assert summary.gap_cv == pytest.approx(math.sqrt(200 / 3) / 10, rel=1e-15)
    assert (summary.burst_shape, summary.burst_windows) == (None, 0)
    assert (summary.prompt_tokens.mean, summary.prompt_tokens.p50) == (25.0, 25.0)
    assert summary.prompt_tokens.p90 == pytest.approx(37.0)  # 3 gaps · 0.9 = 2.7 ranks up
    assert summary.prompt_tokens.p95 == pytest.approx(38.5)
    assert summary.prompt_tokens.p99 == pytest.approx(39.7)
    assert summary.prompt_tokens.max == 40
    assert summary.output_tokens.max == 6
    assert (summary.failure_share, summary.tied_share) == (0.25, 0.25)
    assert (summary.left_out, summary.notes) == ((("rule", 1),), ("sorted",))


def test_describe__what_is_undefined_is_none():
    ones = np.ones(40, np.int32)
    tied = describe(Trace(arrival_s=np.zeros(40), prompt_tokens=ones, output_tokens=ones))
    assert (tied.arrival_rate_per_s, tied.gap_cv, tied.burst_shape) == (None, None, None)
    clock = describe(Trace(arrival_s=np.arange(40.0), prompt_tokens=ones, output_tokens=ones))
    assert clock.gap_cv == 0.0
    assert clock.burst_shape is None


@pytest.mark.parametrize("shape", [0.1, 0.5, 1.0, 3.0, 50.0])
def test_gamma_shape__agrees_with_scipy(shape):
    gaps_s = np.random.default_rng(7).gamma(shape, 2.0, size=400)
    fitted, _, _ = stats.gamma.fit(gaps_s, floc=0.0)
    assert gamma_shape(gaps_s) == pytest.approx(fitted, rel=1e-6)  # scipy stops near 1e-8


def test_burst_shapes__takes_windows_of_20_minutes_with_31_requests():
    # given 31 requests in the first window, 30 in the second, 40 in the fourth
    rng = np.random.default_rng(2)
    counts = {0: 31, 1: 30, 3: 40}
    parts = [1200 * w + np.sort(rng.uniform(0, 1199, n)) for w, n in counts.items()]
    parts[0] -= parts[0][0]
    arrival_s = np.concatenate(parts)
    # when
    shapes = burst_shapes(arrival_s, rng=rng)
    # then
    assert shapes.tolist() == [gamma_shape(np.diff(parts[0])), gamma_shape(np.diff(parts[2]))]


def test_burst_shapes__whole_second_stamps_of_a_poisson_stream_give_1():
    # given 50 windows of a Poisson stream of 1 request a second, rounded down to seconds
    rng = np.random.default_rng(3)
    arrival_s = np.floor(np.cumsum(rng.exponential(size=60_000)))
    # when
    shapes = burst_shapes(arrival_s - arrival_s[0], rng=rng)
    # then: a shape from 1200 gaps near k = 1 has a standard error of
    # sqrt(1 / (1200 (ψ'(1) - 1))) = 0.036; uniform shifts within a second turn the stream back
    # into a Poisson one, so the mean of 49 windows is within 5 of its standard errors
    assert len(shapes) >= 48
    assert abs(shapes.mean() - 1.0) < 5 * 0.036 / math.sqrt(len(shapes))


REAL = [  # STATISTICS.md §3.2 and §4: rate, CV, p50, p90, p99, max of prompt and output, ties
    (
        "burstgpt/burstgpt_1_head400.csv",
        (0.0107, 4.56, (314, 1418, 1958, 2126), (230, 571, 1421, 2019), 0.0425, 0.010),
    ),
    (
        "burstgpt/burstgpt_1_busy_window_0_136s.csv",
        (6.42, 2.35, (63, 70, 3046, 3122), (3, 7, 165, 266), 0.0, 0.844),
    ),
    (
        "traces/azure_llm_2023_conv.csv.gz",
        (5.53, 1.09, (1020, 2735, 4142, 14050), (129, 424, 601, 1000), 0.0, 0.0),
    ),
    (
        "traces/mooncake_conversation_trace.jsonl.gz",
        (3.40, 3.03, (6909, 27367, 85400, 126195), (350, 597, 1119, 2000), 0.0, 0.902),
    ),
]


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("file", "published"), REAL)
def test_real__description_is_the_published_one(file, published):
    rate, cv, prompt, output, failures, ties = published
    summary = describe(read_trace(DATA / file))
    assert summary.arrival_rate_per_s == pytest.approx(rate, rel=0.005)  # three digits are given
    assert summary.gap_cv == pytest.approx(cv, abs=0.005)
    for tokens, values in ((summary.prompt_tokens, prompt), (summary.output_tokens, output)):
        given = (tokens.p50, tokens.p90, tokens.p99, tokens.max)
        assert given == pytest.approx(values, abs=0.5 + 1e-6)
    assert summary.failure_share == failures
    assert summary.tied_share == pytest.approx(ties, abs=0.0005)


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    ("file", "window_s", "published"),
    [
        ("burstgpt/burstgpt_1_head400.csv", None, 1.04),
        ("burstgpt/burstgpt_1_head400.csv", (29_445.0, math.inf), 1.13),
        ("burstgpt/burstgpt_1_busy_window_0_136s.csv", None, 1.09),
        ("burstgpt/burstgpt_1_busy_window_3567_7102s.csv", (33.0, math.inf), 1.44),
        ("traces/azure_llm_2023_conv.csv.gz", None, 0.88),
    ],
)
def test_real__burst_shape_is_near_the_published_one(file, window_s, published):
    trace = prepare(read_trace(DATA / file), window_s=window_s, failures="keep", rps_scale=1.0)
    # given 20 draws of the shifts that undo whole-second stamps; the published figure is one such
    step_s = 1.0 if (trace.arrival_s % 1 == 0).all() else 0.0
    medians = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shifted = np.sort(trace.arrival_s + rng.uniform(0.0, step_s, len(trace)))
        medians.append(np.median(burst_shapes(shifted, rng=rng)))
    # then it lies within 4 standard deviations of a draw (0.005: it is rounded)
    assert abs(np.mean(medians) - published) < 4 * np.std(medians, ddof=1) + 0.0051
