"""Result files become runs: the fields of each tool, hand-worked, and what is said of them."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from result_files import (
    EXAMPLES,
    REQUESTS,
    STAGE,
    TRUTH,
    aiperf_file,
    aiperf_record,
    e2e_s,
    guidellm_benchmark,
    guidellm_file,
    inference_perf_request,
    inference_perf_stage,
    inferencex_file,
    inferencex_row,
    inferencex_site_row,
    llmservingsim_run,
    packed,
    save,
    sglang_file,
    table,
    together,
    vllm_file,
)

from llmsched.calibration.benchmarks.files import read_file
from llmsched.calibration.benchmarks.registry import FORMATS, read_benchmarks
from llmsched.calibration.benchmarks.runs import ClosedLoopPoint, OpenLoopStage, RequestLog
from llmsched.latency.base import CalibrationError


def runs(path, **options):
    return read_benchmarks([path], **options).runs


def only(path, **options):
    (run,) = runs(path, **options)
    return run


# every format


@pytest.mark.parametrize("example", EXAMPLES)
def test_auto__every_format_is_known_by_its_content_packed_or_not(tmp_path, example):
    # given a small file of the format
    path = EXAMPLES[example](tmp_path)
    name = example.partition(",")[0]
    # when it is read without a name and with its own
    benchmarks = read_benchmarks([path])
    again = read_benchmarks([path], format=name)
    # then it is known, and no other tool takes it for its own (two save the same shape)
    assert benchmarks.format == again.format == name
    assert len(benchmarks.runs) == len(again.runs) >= 1
    holding = {one.name for one in FORMATS.values() if one.holds(read_file(path))}
    assert holding - {"genai-perf", "closed-loop"} == {name} - {"closed-loop"}
    # and so it is through gzip
    assert len(read_benchmarks([packed(path)]).runs) == len(benchmarks.runs)


def test_auto__files_of_several_formats_may_be_named_at_once(tmp_path):
    vllm = save(tmp_path / "v.json", vllm_file(together(1)))
    sglang = save(tmp_path / "s.json", sglang_file(together(4)))
    benchmarks = read_benchmarks([vllm, sglang])
    assert benchmarks.format == "vllm-bench and sglang"
    assert [run.concurrency for run in benchmarks.runs] == [1, 4]


# vLLM and SGLang


def test_vllm__the_hand_worked_file(tmp_path):
    # given 80 requests, 100 prompt tokens each and 11 output tokens; TTFT 50 ms, TPOT 8 ms
    point = {"concurrency": 2, "prompt_tokens": 100, "output_tokens": 11}
    path = save(tmp_path / "r.json", vllm_file({**point, "ttft_s": 0.05, "tpot_s": 0.008}))
    # when it is read
    found = only(path, format="vllm-bench")
    # then the end-to-end time is 50 + 10·8 ms, and both clients were busy: 80 in 5.2 s
    assert (found.concurrency, found.prompt_tokens, found.output_tokens) == (2, 100, 11)
    assert (found.ttft.mean_s, found.tpot.mean_s, found.completed) == (0.05, 0.008, 80)
    assert (found.ttft.p50_s, found.ttft.p90_s, found.ttft.p99_s) == (0.05, None, 0.1)
    assert found.e2e.mean_s == pytest.approx(0.130, rel=1e-12)
    assert found.throughput_per_s == pytest.approx(80 / 5.2, rel=1e-12)
    assert found.server.model == "m"


def test_vllm__lengths_that_vary_take_itl_a_mean_over_tokens(tmp_path):
    # given TPOT 20 ms over requests, but 10 ms over tokens: the long ones decode faster
    point = {"concurrency": 1, "prompt_tokens": 10, "output_tokens": 101, "ttft_s": 0.5}
    document = vllm_file({**point, "tpot_s": 0.010}, mean_tpot_ms=20.0, mean_itl_ms=10.0)
    found = only(save(tmp_path / "r.json", document))
    # then the end-to-end time is 0.5 + 100·0.010 s, and TPOT is as saved
    assert found.e2e.mean_s == pytest.approx(1.5, rel=1e-12)
    assert found.tpot.mean_s == 0.020
    assert not found.notes


@pytest.mark.parametrize(
    ("itl_ms", "concurrency"),
    [
        (16.1, 4),  # far above TPOT
        (12.0, 1),  # less so, but then 1.18 requests would have been in flight
    ],
)
def test_vllm__chunks_of_several_tokens_take_tpot_and_say_so(tmp_path, itl_ms, concurrency):
    point = together(concurrency) | {"ttft_s": 0.1, "tpot_s": 0.010}
    found = only(save(tmp_path / "r.json", vllm_file(point, mean_itl_ms=itl_ms)))
    assert found.e2e.mean_s == pytest.approx(0.1 + 100 * 0.010, rel=1e-12)
    assert "chunks hold several tokens" in found.notes[0]


def test_vllm__an_end_to_end_time_that_was_saved_is_taken(tmp_path):
    path = save(tmp_path / "r.json", vllm_file(together(2), mean_e2el_ms=1234.0, mean_itl_ms=99.0))
    assert only(path).e2e.mean_s == 1.234


def test_vllm__appended_results_are_several_runs(tmp_path):
    # given what --append-result writes: one JSON object per line
    path = save(tmp_path / "all.json", *(vllm_file(together(n)) for n in (1, 2, 8)))
    assert [run.concurrency for run in runs(path)] == [1, 2, 8]
    assert runs(path)[1].source == f"{path} (result 2)"


def detailed(*, limit=1, rate="inf", **changes):
    """Three requests in detail, the last one failed."""
    details = {
        "input_lens": [10, 30, 50],
        "output_lens": [3, 5, 0],
        "ttfts": [0.1, 0.3, 0.0],
        "itls": [[0.1, 0.1], [0.1, 0.2, 0.15, 0.15], []],
        "completed": 2,
        "failed": 1,
        "duration": 1.2,
        "max_concurrency": limit,
        "request_rate": rate,
    }
    return vllm_file(together(1), **{**details, **changes})


def whole(**changes):
    """Three requests in detail that take 3, 1 and 1 s, all done."""
    details = {
        "input_lens": [10, 20, 30],
        "output_lens": [3, 2, 2],
        "ttfts": [1.0, 0.5, 0.5],
        "itls": [[1.0, 1.0], [0.5], [0.5]],
        "completed": 3,
        "failed": 0,
    }
    return detailed(**{**details, **changes})


def test_vllm__details_with_a_failure_give_the_means_of_the_others(tmp_path):
    # given that who was sent when is not saved, and does not follow beside a request that failed
    found = only(save(tmp_path / "r.json", detailed()))
    # then the means are those of the two that completed; TPOT is over requests
    assert isinstance(found, ClosedLoopPoint)
    assert (found.prompt_tokens, found.output_tokens, found.failed) == (20, 4, 1)
    assert found.ttft.mean_s == pytest.approx(0.2, rel=1e-12)
    assert found.tpot.mean_s == pytest.approx((0.2 / 2 + 0.6 / 4) / 2, rel=1e-12)
    assert found.e2e.mean_s == pytest.approx(0.2 + 0.4, rel=1e-12)
    assert found.in_flight == pytest.approx(2 / 1.2 * 0.6, rel=1e-12)


def test_vllm__start_times_put_single_requests_on_one_clock(tmp_path):
    # given clock readings of the client, the second request sent first
    found = only(save(tmp_path / "r.json", detailed(start_times=[7.5, 7.0, 8.0])))
    # then the log begins with it, at 0
    assert isinstance(found, RequestLog)
    assert found.arrival_s.tolist() == [0, 0.5]
    assert found.prompt_tokens.tolist() == [30, 10]
    assert found.first_token_s == pytest.approx([0.3, 0.6])
    assert found.finish_s == pytest.approx([0.9, 0.8])
    assert found.tpot_s == pytest.approx([0.15, 0.1])
    assert [len(gaps) for gaps in found.itl_s] == [4, 2]
    assert (found.failed, found.load.concurrency, found.duration_s) == (1, 1, 1.2)


def test_vllm__send_times_of_a_closed_loop_follow_from_its_slots(tmp_path):
    # given 2 slots and requests of 3, 1 and 1 s: the third is sent when the second ends
    found = only(save(tmp_path / "r.json", whole(limit=2)))
    assert found.arrival_s.tolist() == [0, 0, 1]
    assert found.finish_s.tolist() == [3, 1, 2]
    assert "sent when an earlier one ends" in found.notes[0]
    # and without a limit, all at once
    found = only(save(tmp_path / "all.json", whole(limit=None)))
    assert found.arrival_s.tolist() == [0, 0, 0]
    assert found.load.concurrency is None


def test_vllm__details_at_a_rate_are_a_stage_as_send_times_are_not_saved(tmp_path):
    found = only(save(tmp_path / "r.json", whole(limit=None, rate=2.0)))
    assert isinstance(found, OpenLoopStage)
    assert (found.load.rate_per_s, found.load.arrivals) == (2.0, "poisson")
    assert found.e2e.mean_s == pytest.approx(5 / 3)
    assert found.e2e.p50_s == 1.0


def test_vllm__gaps_that_begin_with_the_ttft_lose_it(tmp_path):
    # given lists as saved in 2024: one entry per output token, the first of them the TTFT
    document = whole(limit=1, itls=[[1.0, 1.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    found = only(save(tmp_path / "r.json", document))
    # then the times are those of the gaps alone
    assert found.e2e_s.tolist() == [3, 1, 1]
    assert found.tpot_s.tolist() == [1, 0.5, 0.5]
    assert "begin with the TTFT" in found.notes[0]
    # while as many chunks as tokens are not enough to tell
    document = whole(limit=1, itls=[[1.5, 1.0, 1.0], [0.6, 0.5], [0.6, 0.5]])
    assert only(save(tmp_path / "n.json", document)).e2e_s == pytest.approx([4.5, 1.6, 1.6])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_concurrency": None}, "request_rate inf, max_concurrency None"),
        ({"max_concurrency": 0}, "request_rate inf, max_concurrency 0"),
        ({"request_rate": 3.0}, "request_rate 3.0, max_concurrency 4"),
        (
            {"ramp_up_strategy": "linear"},
            "request_rate inf, max_concurrency 4, ramp-up linear",
        ),
    ],
)
def test_vllm__loads_that_do_not_fix_the_requests_in_flight(tmp_path, changes, words):
    # given a summary without a limit, with a rate, or with a ramp-up
    path = save(tmp_path / "r.json", vllm_file(together(4), **changes))
    # then it is an open loop, unless the user knows better
    found = only(path)
    assert isinstance(found, OpenLoopStage)
    assert found.load.words == words
    assert only(path, concurrency=[4]).concurrency == 4


def test_sglang__the_fields_of_its_own(tmp_path):
    # given four runs, a line each
    path = save(tmp_path / "s.jsonl", *map(sglang_file, map(together, (1, 4, 16, 32))))
    found = runs(path, format="sglang")
    # then the end-to-end time is as saved, and what was in flight is what the file says
    assert [run.concurrency for run in found] == [1, 4, 16, 32]
    for run in found:
        point = together(run.concurrency)
        assert run.e2e.mean_s == pytest.approx(e2e_s(point), rel=1e-12)
        assert run.in_flight == pytest.approx(run.concurrency, rel=1e-9)
        assert (run.server.model, run.server.tp, run.server.kv_tokens) == ("m", 2, 400_000)


def test_sglang__a_trace_has_no_rate_and_details_are_read_as_vllms(tmp_path):
    path = save(tmp_path / "t.jsonl", sglang_file(together(4), request_rate="trace"))
    assert only(path).load.rate_per_s is None
    lists = {name: whole()[name] for name in ("input_lens", "output_lens", "ttfts", "itls")}
    path = save(tmp_path / "d.jsonl", sglang_file(together(2), completed=3, duration=3, **lists))
    assert only(path).e2e_s.tolist() == [3, 1, 1]


# GuideLLM


@pytest.mark.parametrize("version", ["0.3", "0.4"])
def test_guidellm__streams_are_points_and_rates_are_stages(tmp_path, version):
    # given a sweep as guidellm runs it: one request at a time, then streams, then a constant rate
    document = guidellm_file([together(1), together(4)])
    rate = {"type_": "constant", "rate": 2.5}
    document["benchmarks"].append(guidellm_benchmark(together(3), strategy=rate, errored=7))
    if version == "0.3":  # the strategy was in `args`, the counts beside the metrics
        for benchmark in document["benchmarks"]:
            benchmark["args"] = benchmark.pop("config")
            benchmark["request_totals"] = benchmark["metrics"].pop("request_totals")
    # when it is read
    one, four, stage = runs(save(tmp_path / "b.json", document), format="guidellm")
    # then two points are there, TPOT without the first token, and a stage
    assert (one.concurrency, four.concurrency) == (1, 4)
    expected = together(4)
    assert four.tpot.mean_s == pytest.approx(expected["tpot_s"], rel=1e-12)
    assert four.e2e.mean_s == pytest.approx(e2e_s(expected), rel=1e-12)
    assert four.ttft.p99_s == pytest.approx(1.2 * expected["ttft_s"], rel=1e-12)
    assert isinstance(stage, OpenLoopStage)
    assert (stage.load.rate_per_s, stage.load.arrivals, stage.failed) == (2.5, "constant", 7)


@pytest.mark.parametrize("start", ["start_time", "request_start_time"])
def test_guidellm__single_requests_are_read_where_all_are_there(tmp_path, start):
    # given the two that completed, one by one
    document = guidellm_file([together(2)])
    (benchmark,) = document["benchmarks"]
    benchmark["metrics"]["request_totals"]["successful"] = 2
    request = {"prompt_tokens": 10, "output_tokens": 3, "time_to_first_token_ms": 100.0}
    benchmark["requests"] = {
        "successful": [
            {**request, start: 101.0, "request_latency": 0.5},
            {**request, start: 100.0, "request_latency": 0.3},
        ]
    }
    found = only(save(tmp_path / "b.json", document))
    # then they are a log of the closed loop
    assert found.arrival_s.tolist() == [0, 1]
    assert found.tpot_s == pytest.approx([0.1, 0.2])
    assert found.closed_loop_point().e2e.mean_s == pytest.approx(0.4)
    # and are not where some were left out
    benchmark["requests"]["successful"].pop()
    assert isinstance(only(save(tmp_path / "c.json", document)), ClosedLoopPoint)


# AIPerf, GenAI-Perf


@pytest.mark.parametrize(
    ("tool", "config"),
    [
        ("aiperf", {"loadgen": {"concurrency": 4, "request_rate": None}}),
        ("aiperf", {"phases": [{"name": "warmup"}, {"name": "profiling", "concurrency": 4}]}),
        ("genai-perf", {"concurrency": 4, "request_rate": None}),
        ("genai-perf", {"concurrency": [4]}),
        ("genai-perf", {"perf_analyzer": {"stimulus": {"concurrency": 4}}}),
    ],
)
def test_aiperf__the_concurrency_is_said_in_five_places(tmp_path, tool, config):
    found = only(save(tmp_path / "p.json", aiperf_file(together(4), config=config)), format=tool)
    assert found.concurrency == 4
    assert found.ttft.mean_s == pytest.approx(TRUTH.prefill_s(4, 500), rel=1e-12)


def test_aiperf__at_a_request_rate_the_loop_is_open(tmp_path):
    # given a rate with a cap on the requests in flight: the cap is not what was in flight
    config = {"loadgen": {"concurrency": 64, "request_rate": 3.0}}
    found = only(save(tmp_path / "p.json", aiperf_file(together(4), config=config)))
    assert isinstance(found, OpenLoopStage)
    assert found.load.rate_per_s == 3.0


def test_aiperf__idle_sessions_show_in_what_was_in_flight(tmp_path):
    # given 400 requests in 1000 s, 1.5 s each, by 4 clients
    point = together(4) | {"ttft_s": 0.5, "tpot_s": 0.01}
    duration = {"unit": "sec", "avg": 1000.0}
    found = only(save(tmp_path / "p.json", aiperf_file(point, benchmark_duration=duration)))
    assert found.in_flight == pytest.approx(0.6)
    assert not found.is_busy
    # so that each waits 10 s in all, 8.5 of them to think
    assert found.think_s == pytest.approx(8.5)


def test_aiperf__a_unit_is_obeyed(tmp_path):
    document = aiperf_file(together(4))
    document["time_to_first_token"] = {"unit": "us", "avg": 70_000.0}
    assert only(save(tmp_path / "p.json", document)).ttft.mean_s == pytest.approx(0.07, rel=1e-12)
    document["time_to_first_token"] = {"avg": 80.0}  # none: milliseconds
    assert only(save(tmp_path / "p.json", document)).ttft.mean_s == pytest.approx(0.08, rel=1e-12)
    document["time_to_first_token"]["unit"] = "ticks"
    with pytest.raises(CalibrationError, match=r"unit of time_to_first_token .* got 'ticks'"):
        only(save(tmp_path / "p.json", document))


def test_aiperf__records_are_a_log_with_the_load_of_the_summary_beside_them(tmp_path):
    # given a warm-up, two requests out of order and one that failed, in nanoseconds since 1970
    failed = {**aiperf_record(2, 1, 2), "error": {"code": 499}}
    records = [
        aiperf_record(-3, 50, 150, phase="warmup"),
        aiperf_record(1, 60, 260),
        aiperf_record(0, 50, 150),
        failed,
    ]
    path = save(tmp_path / "profile_export.jsonl", *records)
    # when they are read alone, and beside the summary
    alone = only(path)
    assert only(path, concurrency=[2]).load.concurrency == 2
    save(tmp_path / "profile_export_aiperf.json", aiperf_file(together(2)))
    found = only(path)
    # then they are on one clock, exact to the nanosecond
    assert found.arrival_s.tolist() == [0, 1]
    assert found.ttft_s == pytest.approx([0.05, 0.06], abs=1e-9)
    assert found.e2e_s == pytest.approx([0.15, 0.26], abs=1e-9)
    assert found.itl_s[1] == pytest.approx([0.02] * 10)
    assert (found.failed, found.load.concurrency) == (1, 2)
    assert alone.load.concurrency is None


# inference-perf


def test_inference_perf__time_per_token_is_not_that_of_stream_events(tmp_path):
    # given 247 tokens asked for, of which the client counts 193.7 in the text, and events of 3.6 ms
    path = save(tmp_path / "stage_0.json", inference_perf_stage())
    found = only(path, output_tokens=247)
    # then a token takes (1.871 - 0.025)/246 s
    assert isinstance(found, OpenLoopStage)
    assert found.tpot.mean_s == pytest.approx(1.846 / 246, rel=1e-12)
    assert (found.output_tokens, found.prompt_tokens) == (247, 590)
    assert (found.load.rate_per_s, found.duration_s) == (5.0, 600.0)
    assert (found.completed, found.failed) == (3000, 2)
    assert found.ttft.p99_s == pytest.approx(0.03)
    assert not found.notes
    # and with the text's count, it is said
    assert "tokenised again" in only(path).notes[0]


def test_inference_perf__the_servers_count_is_taken_where_it_is_all_there(tmp_path):
    counted = {"output_tokens": {"total": 3, "mean": 247.0}, "prompt_tokens": {"mean": 600.0}}
    found = only(save(tmp_path / "s.json", inference_perf_stage(**counted)))
    assert (found.output_tokens, found.prompt_tokens, found.notes) == (247, 600, ())
    # but not where the client stood in for it
    counted["client_fallback_requests"] = {"prompt": 0, "output": 4}
    found = only(save(tmp_path / "t.json", inference_perf_stage(**counted)))
    assert found.output_tokens == 193.7


def test_inference_perf__text_of_no_tokens_is_refused(tmp_path):
    stage = inference_perf_stage(output_len={"mean": 193.7, "min": 0.0})
    path = save(tmp_path / "s.json", stage)
    with pytest.raises(CalibrationError, match=r"got 193.7 on average and 0 .* --output-tokens N"):
        only(path)
    assert only(path, output_tokens=247).output_tokens == 247


def test_inference_perf__a_closed_loop_says_its_concurrency(tmp_path):
    stage = inference_perf_stage(load={"concurrency": 10})
    found = only(save(tmp_path / "s.json", stage), output_tokens=247)
    assert found.concurrency == 10
    assert found.in_flight == pytest.approx(4.99 * 1.871)


def test_inference_perf__the_summary_of_all_stages_is_refused(tmp_path):
    summary = inference_perf_stage(load={"requested_rate": None})
    with pytest.raises(CalibrationError, match="name the files stage_N"):
        only(save(tmp_path / "summary.json", summary))


def test_inference_perf__single_requests_are_a_log(tmp_path):
    # given two requests, out of order, one in the fields of 2026
    late = inference_perf_request(1.0, [1.1, 1.2])
    late["info"] = {
        "request_metrics": {"text": {"input_tokens": 70}},
        "response_metrics": {
            "output_tokens": 9,
            "output_token_times": [1.1, 1.2],
            "server_usage": {"completion_tokens": 2},
        },
    }
    path = save(tmp_path / "p.json", [late, inference_perf_request(0.5, [0.7, 0.8, 0.9])])
    found = only(path)
    assert found.arrival_s.tolist() == [0, 0.5]
    assert found.ttft_s == pytest.approx([0.2, 0.1])
    assert found.e2e_s == pytest.approx([0.401, 0.201])
    assert found.prompt_tokens.tolist() == [100, 70]
    assert found.output_tokens.tolist() == [3, 2]
    assert only(path, output_tokens=5).output_tokens.tolist() == [5, 5]


# InferenceX


@pytest.mark.parametrize("make", [inferencex_file, inferencex_site_row])
def test_inferencex__lengths_are_nine_tenths_of_the_nominal_ones(tmp_path, make):
    found = only(save(tmp_path / "x.json", make(together(4))))
    assert (found.concurrency, found.prompt_tokens, found.output_tokens) == (4, 500, 101)
    assert found.e2e.mean_s == pytest.approx(e2e_s(together(4)))
    assert found.e2e.p99_s == pytest.approx(1.2 * e2e_s(together(4)))
    assert found.in_flight == pytest.approx(4)
    server = found.server
    assert (server.device, server.engine, server.precision) == ("h200", "vllm", "fp8")
    assert (server.tp, server.ep, server.dp_attention) == (8, 1, False)
    assert "0.9 of the nominal" in found.notes[0]


def test_inferencex__a_table_has_medians_where_means_are_missing(tmp_path):
    path = table(tmp_path / "x.csv", [inferencex_row(together(n)) for n in (4, 8)])
    four, eight = runs(path)
    assert four.e2e.mean_s is None
    assert four.e2e.typical_s == pytest.approx(e2e_s(together(4)))
    assert (eight.concurrency, eight.output_tokens, eight.date) == (8, 101, "2025-11-10")


def test_inferencex__files_before_aggregation_are_vllms(tmp_path):
    path = save(tmp_path / "r.json", vllm_file(together(4), mean_e2el_ms=1300.0))
    assert only(path, format="inferencex").output_tokens == 101


@pytest.mark.parametrize("change", [{"disagg": True}, {"spec_method": "mtp"}])
def test_inferencex__other_ways_to_serve_are_refused_and_can_be_left_out(tmp_path, change):
    rows = [inferencex_site_row(together(4)), inferencex_site_row(together(8), **change)]
    path = save(tmp_path / "x.json", rows)
    with pytest.raises(
        CalibrationError, match=r"must be one engine .*\(--where \w+=(false|none)\)"
    ):
        runs(path)
    where = {"disagg": "false", "spec_method": "none"}
    assert [run.concurrency for run in runs(path, where=where)] == [4]


# LLMServingSim


def test_llmservingsim__both_clocks_are_put_on_one_base(tmp_path):
    # given two requests: the way to the engine took the first 2 ms, the second 500 ms
    found = only(llmservingsim_run(tmp_path))
    # then the engine's clock is that of the arrivals less the shorter way, and instants count from
    # the arrival, not from when the engine took the request in
    assert found.arrival_s.tolist() == [0, 0.25]
    assert found.queued_s == pytest.approx([0, 0.748])
    assert found.queueing_s == pytest.approx([0.01, 0.508])
    assert found.ttft_s == pytest.approx([0.25, 0.75])
    assert found.e2e_s == pytest.approx([1.25, 0.75])
    assert found.tpot_s[0] == pytest.approx(0.1)
    assert math.isnan(found.tpot_s[1])  # of a single token


def test_llmservingsim__settings_and_counters_are_read_beside_the_log(tmp_path):
    found = only(packed(llmservingsim_run(tmp_path)))
    server = found.server
    assert (server.model, server.engine) == ("m", "vllm 0.19.0")
    assert (server.max_running, server.step_tokens, server.prefix_caching) == (256, 2048, True)
    assert server.kv_tokens == 1600  # one of 101 blocks is a dummy
    # the counters' clock starts with the run, 0.1 s before the first arrival
    assert found.series.t_s == pytest.approx([0.9, 1.9])
    assert found.series.running.tolist() == [1, 0]
    assert found.series.kv_share.tolist() == [0.5, 0.5]
    # and neither must be there; a column of zeros was never filled
    rows = [{"t": 1.0, "running": 1, "waiting": 0, "kv_cache_pct": 0.0}]
    table(tmp_path / "A_timeseries.csv", rows)
    assert only(tmp_path / "A_requests.jsonl.gz").series.kv_share is None
    for name in ("A_meta.json", "A_timeseries.csv"):
        (tmp_path / name).unlink()
    alone = only(tmp_path / "A_requests.jsonl.gz")
    assert (alone.server.model, alone.series) == (None, None)


# tables


def test_csv__durations_count_from_the_arrival(tmp_path):
    found = only(table(tmp_path / "r.csv", REQUESTS))
    assert found.arrival_s.tolist() == [0, 0.5]
    assert found.first_token_s == pytest.approx([0.1, 0.7])
    assert found.finish_s == pytest.approx([0.3, 0.7])
    assert found.load.concurrency is None
    assert only(tmp_path / "r.csv", concurrency=[2]).closed_loop_point().concurrency == 2


def test_csv__counters_beside_it_are_on_the_clock_of_the_arrivals(tmp_path):
    path = table(tmp_path / "requests.csv", REQUESTS)  # the first arrives at 5 s
    table(tmp_path / "timeseries.csv", [{"t": 5.5, "running": 2}, {"t": 6.5, "running": 0}])
    series = only(path).series
    assert series.t_s.tolist() == [0.5, 1.5]
    assert series.running.tolist() == [2, 0]
    assert (series.waiting, series.kv_share) == (None, None)
    table(tmp_path / "timeseries.csv", [{"time": 5.5, "running": 2}])
    with pytest.raises(CalibrationError, match="must have a column t, got time, running"):
        only(path)


def test_csv__vllms_own_names_on_two_clocks_with_a_failure(tmp_path):
    # given the stamps of vLLM V1: arrivals since 1970, the rest on the engine's clock; ; between
    path = tmp_path / "m.csv"
    path.write_text(
        "arrival_time;num_prompt_tokens;num_generation_tokens;queued_ts;scheduled_ts;"
        "first_token_ts;last_token_ts\n"
        "1000.0;10;3;20.002;20.5;21.002;22.002\n"
        "1000.5;10;0;20.6;;;\n"
        "1001.0;10;1;21.502;21.6;21.702;21.702\n"
    )
    found = only(path, format="csv")
    assert found.arrival_s.tolist() == [0, 1]
    assert found.ttft_s == pytest.approx([1, 0.7])
    assert found.queueing_s == pytest.approx([0.498, 0.598])
    assert found.failed == 1
    # without queued_ts nothing puts them on one base
    path.write_text(path.read_text().replace("queued_ts", "other"))
    with pytest.raises(CalibrationError, match="must come with queued_ts"):
        only(path)


def test_csv__vllms_older_names_are_all_on_one_clock(tmp_path):
    row = {
        "arrival_time": 1000.0,
        "num_prompt_tokens": 10,
        "num_generation_tokens": 3,
        "first_scheduled_time": 1000.1,
        "first_token_time": 1000.5,
        "last_token_time": 1001.5,
    }
    found = only(table(tmp_path / "m.csv", [row]))
    assert found.queueing_s == pytest.approx([0.1])
    assert found.tpot_s == pytest.approx([0.5])


def test_stages__time_per_token_is_not_that_of_stream_events(tmp_path):
    found = only(table(tmp_path / "s.csv", [STAGE]))
    assert (found.run, found.stage) == ("a", 1)
    assert found.tpot.mean_s == pytest.approx(1.846 / 246, rel=1e-12)
    assert found.tpot.p99_s is None
    assert (found.load.rate_per_s, found.load.arrivals) == (5, "constant")
    assert (found.throughput_per_s, found.completed, found.failed) == (4.99, 3000, 1)
    server = found.server
    assert (server.model, server.tp, server.max_running, server.step_tokens) == ("m", 2, 128, 2048)
    prefixes = found.prefixes
    assert (prefixes.system_prompts, prefixes.users_per_system_prompt) == (11, 4)
    assert (prefixes.multi_turn, prefixes.system_prompt_tokens) == (True, 100)


def test_closed_loop__milliseconds_seconds_and_no_end_to_end_time(tmp_path):
    found = runs(EXAMPLES["closed-loop"](tmp_path))
    assert [run.concurrency for run in found] == [1, 4, 16, 32]
    for run in found:
        expected = together(run.concurrency)
        assert run.ttft.mean_s == pytest.approx(expected["ttft_s"])
        assert run.e2e.mean_s == pytest.approx(e2e_s(expected))


# the page


def examples():
    """The tables of the page, by format."""
    page = (Path(__file__).parents[3] / "calibration" / "README.md").read_text(encoding="utf-8")
    for name, block in re.findall(r"<!-- example: (\S+) -->\n((?:    .*\n)+)", page):
        yield name, textwrap.dedent(block)


@pytest.mark.parametrize(("name", "text"), list(examples()))
def test_page__every_table_on_it_is_read(tmp_path, name, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    benchmarks = read_benchmarks([path])
    assert benchmarks.format == name
    assert len(benchmarks.runs) >= 1


def test_page__it_has_every_format():
    page = (Path(__file__).parents[3] / "calibration" / "README.md").read_text(encoding="utf-8")
    assert {name for name, _ in examples()} == {"csv", "stages", "closed-loop"}
    assert not [name for name in FORMATS if f"`{name}`" not in page]


# what users say


def test_concurrency__one_number_for_all_or_one_a_file(tmp_path):
    # given a sweep whose files do not say what was in flight, and one that does
    sweep = [
        save(tmp_path / f"{n}.json", vllm_file(together(n), max_concurrency=None)) for n in (1, 4)
    ]
    known = save(tmp_path / "k.json", vllm_file(together(16)))
    # then one number a file says it, in order
    found = read_benchmarks([*sweep, known], concurrency=[1, 4, 16]).runs
    assert [run.concurrency for run in found] == [1, 4, 16]
    # and one number says it of those that do not
    found = read_benchmarks([sweep[1], known], concurrency=[4]).runs
    assert [run.concurrency for run in found] == [4, 16]
    with pytest.raises(CalibrationError, match="must be 16 as the file says, got 8"):
        read_benchmarks([*sweep, known], concurrency=[1, 4, 8])
    with pytest.raises(CalibrationError, match="got 16 and only files that do"):
        read_benchmarks([known], concurrency=[16])
    with pytest.raises(ValueError, match="one number, or one for each of 3 files, got 2"):
        read_benchmarks([*sweep, known], concurrency=[1, 4])
    with pytest.raises(ValueError, match="concurrency must be >= 1, got 0"):
        read_benchmarks([known], concurrency=[0])


def test_concurrency__a_stage_at_a_rate_takes_none(tmp_path):
    path = table(tmp_path / "s.csv", [STAGE])
    with pytest.raises(CalibrationError, match="stages at a request rate have none"):
        read_benchmarks([path], concurrency=[4])


def test_where__picks_results_of_any_format(tmp_path):
    path = save(tmp_path / "x.json", *(inferencex_site_row(together(n)) for n in (4, 8)))
    assert [run.concurrency for run in runs(path, where={"conc": "8"})] == [8]
    path = table(tmp_path / "x.csv", [inferencex_row(together(n)) for n in (4, 8)])
    where = {"hardware": "H200", "concurrency": "4"}
    assert [run.concurrency for run in runs(path, where=where)] == [4]
    with pytest.raises(CalibrationError, match="must have a result where tp=3, got none"):
        runs(path, where={"tp": "3"})


@pytest.mark.parametrize(("format_", "message"), [("vllm", "must be one of auto, vllm-bench")])
def test_format__an_unknown_name_lists_the_known_ones(tmp_path, format_, message):
    path = save(tmp_path / "r.json", vllm_file(together(1)))
    with pytest.raises(ValueError, match=message):
        read_benchmarks([path], format=format_)
    with pytest.raises(ValueError, match="output_tokens must be >= 1, got 0"):
        read_benchmarks([path], output_tokens=0)
    with pytest.raises(CalibrationError, match="vllm-bench counts tokens itself, got 50"):
        read_benchmarks([path], output_tokens=50)


def test_digest__the_same_result_twice_is_refused(tmp_path):
    # given a file, a copy and a link of it
    first = save(tmp_path / "c1.json", vllm_file(together(1)))
    other = save(tmp_path / "c4.json", vllm_file(together(4)))
    (tmp_path / "copy.json").write_bytes(first.read_bytes())
    (tmp_path / "link.json").symlink_to(first)
    for again in ("c1.json", "copy.json", "link.json"):
        with pytest.raises(CalibrationError, match=rf"{again}: every result must be named once"):
            read_benchmarks([first, other, tmp_path / again])
    assert len(read_benchmarks([first, other]).runs) == 2


def test_log__a_means_point_of_it_is_that_of_its_columns(tmp_path):
    # given three requests with send times, two clients
    document = whole(limit=2, start_times=[0.0, 0.0, 1.0], duration=3.5)
    point = only(save(tmp_path / "r.json", document)).closed_loop_point()
    assert (point.prompt_tokens, point.output_tokens) == (20, pytest.approx(7 / 3))
    assert point.e2e.mean_s == pytest.approx(5 / 3)
    assert point.tpot.mean_s == pytest.approx(np.mean([1, 0.5, 0.5]))
    assert point.in_flight == pytest.approx(5 / 3.5)
