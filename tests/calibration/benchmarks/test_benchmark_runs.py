"""What a run must be: clients and who was in flight, one clock for all instants, lengths."""

from __future__ import annotations

import numpy as np
import pytest

from llmsched.calibration.benchmarks.runs import (
    ClosedLoopPoint,
    LatencySummary,
    Load,
    Means,
    OpenLoopStage,
    RequestLog,
)
from llmsched.latency.base import CalibrationError


def means(**changes):
    times = {name: LatencySummary(mean_s=value) for name, value in TIMES.items()}
    values = {"prompt_tokens": 100, "output_tokens": 11, **times, "source": "f", **changes}
    return Means(**{"load": Load(words="", concurrency=4), **values})


TIMES = {"ttft": 0.5, "tpot": 0.05, "e2e": 1.0}


def log(**changes):
    columns = {
        "arrival_s": np.array([0.0, 1.0]),
        "prompt_tokens": np.array([10, 20]),
        "output_tokens": np.array([3, 1]),
        "queued_s": np.array([0.1, 1.1]),
        "first_token_s": np.array([0.5, 1.5]),
        "finish_s": np.array([1.0, 1.5]),
    }
    return RequestLog(**{**columns, "load": Load(words=""), "source": "f", **changes})


# closed loops


@pytest.mark.parametrize(
    ("throughput_per_s", "is_busy", "company"),
    [
        (None, True, 4),  # nothing is known
        (4.0, True, 4),  # 4 in flight
        (3.61, True, 4),  # the end of the run, say
        (2.0, False, 2.5),  # half the time each: itself and half of the three others
        (4.39, True, 4),
    ],
)
def test_point__idle_clients_keep_less_company(throughput_per_s, is_busy, company):
    # given 4 clients whose requests take 1 s
    point = means(throughput_per_s=throughput_per_s).as_run()
    assert isinstance(point, ClosedLoopPoint)
    assert (point.is_busy, point.company) == (is_busy, company)


def test_point__a_lone_client_is_alone_however_long_it_thinks():
    load = Load(words="", concurrency=1)
    point = means(load=load, throughput_per_s=0.2).as_run()
    assert not point.is_busy
    assert point.company == 1
    assert point.think_s == 4


def test_point__more_in_flight_than_clients_cannot_be():
    with pytest.raises(CalibrationError, match=r"f: requests in flight .* concurrency 4, got 4.5"):
        means(throughput_per_s=4.5).as_run()


def test_point__as_many_must_complete_as_there_are_clients():
    with pytest.raises(CalibrationError, match="got 3 of 4; send more"):
        means(completed=3).as_run()


def test_means__without_a_concurrency_they_are_a_stage():
    load = Load(words="", rate_per_s=3.0)
    stage = means(load=load, completed=3, throughput_per_s=99.0).as_run()
    assert isinstance(stage, OpenLoopStage)
    assert stage.load.rate_per_s == 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tokens": 0.5}, "prompt_tokens must be >= 1, got 0.5"),
        ({"output_tokens": float("inf")}, "output_tokens must be >= 1, got inf"),
        ({"ttft": LatencySummary(mean_s=0.0)}, "ttft_mean_s must be > 0, got 0; measure with"),
        ({"e2e": LatencySummary(p99_s=-1.0)}, "e2e_p99_s must be > 0, got -1"),
        ({"load": Load(words="", concurrency=0)}, "concurrency must be > 0, got 0"),
        ({"load": Load(words="", rate_per_s=-1.0)}, "the request rate must be > 0, got -1"),
        ({"throughput_per_s": -2.0}, "throughput must be > 0, got -2"),
    ],
)
def test_means__what_is_out_of_bounds_is_said(changes, message):
    with pytest.raises(CalibrationError, match=f"^f: {message}"):
        means(**changes)


def test_summary__of_single_times_leaves_out_what_is_not_defined():
    values = np.array([1.0, np.nan, 3.0, 2.0])
    summary = LatencySummary.of(values)
    assert (summary.mean_s, summary.p50_s) == (2, 2)
    assert summary.p90_s == pytest.approx(2.8)
    assert LatencySummary.of(np.array([np.nan])) == LatencySummary() == LatencySummary.of(None)


# logs


def test_log__times_count_from_the_arrival():
    found = log(scheduled_s=np.array([0.2, 1.3]))
    assert found.ttft_s == pytest.approx([0.5, 0.5])
    assert found.e2e_s == pytest.approx([1.0, 0.5])
    assert found.queueing_s == pytest.approx([0.2, 0.3])
    assert found.tpot_s[0] == 0.25
    assert np.isnan(found.tpot_s[1])


def test_log__what_is_not_logged_is_not_made_up():
    found = log(queued_s=None, first_token_s=None, finish_s=None)
    assert (found.ttft_s, found.tpot_s, found.e2e_s, found.queueing_s) == (None,) * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arrival_s": np.array([0.0])},
            "queued_s must have an entry for each of 1 requests, got 2",
        ),
        ({"finish_s": np.array([1.0])}, "finish_s must have an entry for each of 2 .* got 1"),
        ({"output_tokens": np.array([3, 0])}, "output_tokens must be >= 1, got 0"),
        ({"arrival_s": np.array([0.0, -1.0])}, "arrival_s must be sorted and begin at 0"),
        ({"arrival_s": np.array([0.5, 1.0])}, "arrival_s must be sorted and begin at 0"),
        (
            {"first_token_s": np.array([0.5, 1.0])},
            r"first_token_s must not be before queued_s, got 1.000000 and 1.100000 s for request 2",
        ),
        ({"finish_s": np.array([0.4, 1.5])}, "finish_s must not be before first_token_s"),
        ({"finish_s": np.array([np.nan, 1.5])}, "finish_s must not be before .* got nan"),
    ],
)
def test_log__columns_that_cannot_be_are_refused(changes, message):
    with pytest.raises(CalibrationError, match=message):
        log(**changes)


def test_log__an_open_loop_is_no_point():
    with pytest.raises(ValueError, match="concurrency must be known"):
        log().closed_loop_point()
