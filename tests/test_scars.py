"""The scars of other simulators, each a test: what went wrong elsewhere must not go wrong here.

From first reports to users' threads, other simulators of LLM serving got these wrong. Where a scar
belongs to one module its tests are there; the rest, and what only shows end to end, are below.

==  ==========================================  ==================================================
 #  scar                                        tests
==  ==========================================  ==================================================
 1  goodput over completed requests only;       test_metrics: goodput__counts_every_request...;
    load counted at completion; requests        test_load: offered_load__*; below: scar_1
    without a target counted as passes
 2  a loop that stopped with work waiting;      test_scheduler_contract; test_engine: ties__*,
    polling idle GPUs; ties out of order;       events__*, idle_gpus__*; below: scar_2
    a crash at t = 0
 3  options parsed and never used; unknown      test_policies: settings__each_one...; the walk of
    names silently replaced                     the whole command line; below: scar_3
 4  a "Poisson" stream cut at 3 mean gaps;      test_arrivals: poisson__*, token_counts__*;
    fractional token counts                     below: scar_4
 5  equal-mass bins over ties come out empty;   test_binning: equal_mass_edges__*, bins__follow...;
    the shortest in the last bin; a mode that   below: scar_5
    nobody ever ran
 6  a "measured" grid that is the formula       test_latency_fit: fit__an_exact_formula..., fit__an_
                                                std...; below: scar_6
 7  a per-bin controller that starves a bin     test_metrics: metrics__per_bin...; below: scar_7
 8  overload and idleness without saying so     test_load: label__*, offered_load__*; below: scar_8
 9  ids and results that depend on what ran     test_scheduler_contract: a_second_run...;
    before; huge output; results at exit        test_output; below: scar_9
==  ==========================================  ==================================================
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from llmsched import Binning, Run, Settings, Trace, Workload, load_latency
from llmsched.engine.export import write_table
from plan_world import plan_compare as compare, plan_simulate as simulate

SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_only")
every_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


def trace_of(arrival_s: Any, prompt: Any, output: Any) -> Trace:
    return Trace(
        arrival_s=np.asarray(arrival_s, dtype=np.float64),
        prompt_tokens=np.asarray(prompt, dtype=np.int32),
        output_tokens=np.asarray(output, dtype=np.int32),
    )


# ------------------------------------------------------ 1: goodput, load and who has a target


def test_scar_1__dropping_most_requests_is_no_way_to_a_good_goodput() -> None:
    # given 1,000 requests of which the memory holds 185, every one of those served in time
    output = np.full(1000, 500)
    output[:185] = 50
    trace = trace_of(np.arange(1000.0), np.zeros(1000), output)
    run = simulate(trace, "dynamic_no_bins", settings=Settings(capacity_tokens=100.0))
    assert (run.metrics.completed, run.metrics.rejected) == (185, 815)
    # then the other 815 are violations, and goodput counts the 185 over all the time it took
    assert run.metrics.sla_violation_rate == 0.815
    assert run.metrics.goodput_rps * run.metrics.makespan_s == pytest.approx(185)


@every_scheduler
def test_scar_1__every_request_has_the_target(name: str) -> None:
    run = simulate(Workload(requests=500, rps_scale=2000.0), name, n_gpus=1)
    late = run.requests.finish_s - run.requests.arrival_s > run.metrics.sla_s
    assert 0 < late.sum() < 500
    assert run.metrics.sla_violation_rate == late.sum() / 500
    per_bin = [one.sla_violation_rate * one.requests for one in run.metrics.per_bin]
    assert sum(per_bin) == pytest.approx(late.sum())


def test_scar_1__offered_load_counts_what_arrives_not_what_is_done() -> None:
    # given the same arrivals on one GPU that cannot keep up and on 50 that can
    trace = Workload(requests=2000, rps_scale=800.0).load()
    one, many = (simulate(trace, "static_fifo", n_gpus=n) for n in (1, 50))
    assert one.metrics.makespan_s > 2 * many.metrics.makespan_s
    # then the load offered is the same work, over 50 times as many GPUs
    assert one.offered_load == pytest.approx(50 * many.offered_load, rel=1e-12)


# ------------------------------------------- 2: the end of the run, idle GPUs, ties, t = 0


@every_scheduler
def test_scar_2__the_run_goes_on_until_nothing_waits(name: str) -> None:
    # given a burst whose last request comes long before the last service ends
    trace = trace_of(np.linspace(0.0, 1.0, 3000), np.full(3000, 100), np.full(3000, 400))
    run = simulate(trace, name, n_gpus=2, binning=1)
    assert run.metrics.completed == 3000
    assert run.metrics.makespan_s > 2 * trace.span_s


@every_scheduler
@pytest.mark.parametrize("admission", ["together", "one-by-one"])
@pytest.mark.filterwarnings("ignore:admission makes no difference:UserWarning")
def test_scar_2__all_at_time_zero_in_trace_order(name: str, admission: Any) -> None:
    run = simulate(
        trace_of(np.zeros(50), np.full(50, 10), np.arange(50) % 7),
        name,
        n_gpus=3,
        admission=admission,
        predictor="oracle",
        binning=2,
    )
    assert run.metrics.completed == 50
    assert run.requests.start_s.min() == 0.0
    for bin_index in range(run.metrics.bins):
        assert (np.diff(run.requests.batch[run.requests.bin == bin_index]) >= 0).all()


@every_scheduler
def test_scar_2__a_single_request_at_time_zero_is_served(name: str) -> None:
    run = simulate(trace_of([0.0], [10], [10]), name, binning=1)
    assert run.requests.start_s.tolist() == [0.0]


# ------------------------------------------------------------ 3: nothing is silently replaced


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("latency", "tpu-v9"),
        ("scheduler", "smart"),
        ("predictor", "gpt"),
        ("trace", "chatbot"),
    ],
)
def test_scar_3__an_unknown_name_is_an_error_never_a_default(option: str, name: str) -> None:
    given: dict[str, Any] = {"trace": "poisson", option: name}
    with pytest.raises(ValueError, match=f"must be .*got '{name}'|{name}: no such file"):
        simulate(given.pop("trace"), **given)


@pytest.mark.parametrize("option", ["controller", "memory", "bin_choice"])
def test_scar_3__an_unknown_policy_is_an_error_never_a_default(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be one of .* got 'best'"):
        Settings(**{option: "best"})  # type: ignore[arg-type]


# --------------------------------------------------------------------- 4: laws are what they say


def test_scar_4__a_poisson_stream_has_its_rate_its_cv_and_its_long_gaps() -> None:
    # given 20,000 gaps as a run sees them
    n = 20_000
    gaps_s = np.diff(Workload(source="poisson", requests=n + 1, rps_scale=1.0).load(4).arrival_s)
    # then the mean is 1/0.271 within 4 standard errors (a cut at 3 means is 5 % off, 7 of them),
    assert abs(gaps_s.mean() - 1 / 0.271) < 4 * stats.sem(gaps_s)
    # so is the CV of 1 (its standard error is 1/sqrt(n); the cut gives 0.88),
    assert abs(gaps_s.std() / gaps_s.mean() - 1) < 4 / np.sqrt(n)
    # and a share exp(-3) of the gaps is longer than 3 means
    long_share = (gaps_s > 3 / 0.271).mean()
    expected = np.exp(-3.0)
    assert abs(long_share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("source", ["burstgpt-like", "poisson", "gamma-bursts", "on-off"])
def test_scar_4__token_counts_are_whole(source: str) -> None:
    trace = Workload(source=source, requests=200).load()
    assert trace.prompt_tokens.dtype == trace.output_tokens.dtype == np.int32
    run = simulate(trace, predictor="noisy", binning=1)
    assert run.requests.predicted_tokens.dtype == np.int32
    assert (run.requests.predicted_tokens >= 1).all()


# -------------------------------------------------------------- 5: bins over ties, untried modes


def test_scar_5__tied_lengths_leave_fewer_bins_and_say_so() -> None:
    # given 90 % of outputs of one length
    output = np.where(np.arange(1000) % 10 == 0, 500, 3)
    trace = trace_of(np.arange(1000.0), np.zeros(1000), output)
    with pytest.warns(UserWarning, match="4 equal-mass bins asked for"):
        run = simulate(trace, predictor="oracle")
    # then the shorter ones share a bin, below that of the longer
    short, long = (set(run.requests.bin[output == length].tolist()) for length in (3, 500))
    assert len(short) == 1
    assert len(long) <= 1
    assert max(short) <= min(long)
    assert run.metrics.completed == 1000


def test_scar_5__what_is_shorter_than_every_edge_is_in_the_first_bin() -> None:
    output = [100, 200, 300, 400, 1]
    run = simulate(
        trace_of(range(5), np.zeros(5), output),
        predictor="oracle",
        binning=Binning(edges=(50, 250)),
    )
    assert run.requests.bin.tolist() == [1, 1, 2, 2, 0]


def modes() -> list[dict[str, Any]]:
    """Each choice that a run has, alone; and the dynamic scheduler's with each other."""
    alone: list[dict[str, Any]] = [
        *({"predictor": spec} for spec in ("oracle", "noisy", "prompt-power-law", "bin-error:0.2")),
        *({"predictor": "confusion:bert", "binning": n_bins} for n_bins in (2, 4, 8)),
        *({"binning": Binning(by=by)} for by in ("output", "total", "service")),
        {"binning": Binning(edges=(64.0, 256.0, 1024.0))},
        *({"binning": n_bins} for n_bins in (1, 2, 16)),
        *({"latency": name} for name in ("reference", "reference-revised", "multi-bin-paper")),
        {"settings": Settings(batch_size=1, batch_max=1)},
        {"settings": Settings(max_forming_wait_s=0.0)},
        {"settings": Settings(max_forming_wait_s=2.0)},
        {"n_gpus": 64},
    ]
    together = [
        {
            "settings": Settings(controller=controller, memory=memory, bin_choice=choice),
            "admission": admission,
            "binning": Binning(by=by),
        }
        for controller, memory, choice, admission, by in itertools.product(
            ("paper", "window", "none"),
            ("buffer", "clt"),
            ("round-robin", "longest-queue"),
            ("together", "one-by-one"),
            ("output", "total"),
        )
    ]
    return alone + together


@every_scheduler
@pytest.mark.filterwarnings("ignore:.*equal-mass bins asked for.*:UserWarning")
@pytest.mark.filterwarnings("ignore:admission makes no difference:UserWarning")
def test_scar_5__every_mode_has_been_run(name: str) -> None:
    trace = Workload(requests=80, rps_scale=2000.0, failures="keep").load()
    for options in modes():
        run = simulate(trace, name, **{"n_gpus": 2, **options})
        assert run.metrics.completed == 80, options


# ------------------------------------------------------------------- 6: a formula is no measurement


def test_scar_6__every_result_says_whether_its_latency_is_a_formula_or_a_measurement() -> None:
    trace = trace_of([0.0, 1.0], [128, 128], [128, 128])
    for name, kind in (
        ("reference", "formula"),
        ("multi-bin-paper", "formula"),
        ("h100-llama-3-8b-vllm", "measurement"),
    ):
        run = simulate(trace, "static_fifo", latency=name).to_dict()
        assert (run["latency_model"], run["latency_kind"]) == (name, kind)
        comparison = compare(trace, ("static_fifo",), latency=name, replications=1).to_dict()
        assert comparison["latency_kind"] == kind
        # a measurement says where it was measured, a formula that nothing was
        assert ("measured at" in run["latency_description"]) == (kind == "measurement")
    assert "not calibrated on a GPU" in load_latency("reference").describe()


# ------------------------------------------------------------------------ 7: the bin that starves


def starving(controller: str, scheduler: str = "multi_bin_dynamic") -> Run:
    """A quarter of the requests needs 1.2 to 1.5 s alone, against an SLA of 1 s."""
    rng = np.random.default_rng(0)
    n = 3000
    arrival_s = np.concatenate(([0.0], np.cumsum(rng.exponential(1 / 20, n - 1))))
    long = rng.random(n) < 0.25
    output = np.where(long, rng.integers(4000, 5000, n), rng.integers(5, 60, n))
    return simulate(
        trace_of(arrival_s, np.full(n, 20), output),
        scheduler,
        predictor="oracle",
        binning=Binning(edges=(20.0, 40.0, 1000.0)),
        settings=Settings(controller=controller),
    )


def test_scar_7__a_starving_bin_is_seen_in_the_results() -> None:
    # given a rule that, once at a batch of 1, stays there (the window) on the long bin
    run = starving("window")
    *short, long = run.metrics.per_bin
    # then the median and the bins of short requests look well,
    assert run.metrics.latency_p50_s < 1.0
    assert all(one.latency_p99_s < 2.0 for one in short)
    # and the long bin's own figures tell what happened to it
    assert long.batch_size_mean < 1.1
    assert long.latency_p99_s > 50 * max(one.latency_p99_s for one in short)
    assert long.wait_max_s > 50 * max(one.wait_max_s for one in short)
    assert long.backlog_peak > 10 * max(one.backlog_peak for one in short)
    assert long.backlog_mean > 10 * max(one.backlog_mean for one in short)
    assert long.gpu_time_share > 0.9 > 0.3 > long.request_share
    assert long.sla_violation_rate == 1.0
    # though with full batches the work would have been a fifth of the GPU time there is
    assert run.offered_load < 0.3
    assert run.load_label == "overloaded"
    # and the throughput is below that of no bins and no control at all
    static = starving("window", "static_fifo")
    assert run.metrics.throughput_rps < 0.7 * static.metrics.throughput_rps


def test_scar_7__algorithm_2_does_not_starve_it() -> None:
    # given Algorithm 2, whose interval never gets narrower than alpha when it is too slow
    run = starving("paper")
    *_, long = run.metrics.per_bin
    assert long.latency_p99_s < 5.0
    assert run.load_label == "stable"
    static = starving("paper", "static_fifo")
    assert run.metrics.throughput_rps >= static.metrics.throughput_rps


# ----------------------------------------------------------------- 8: the load beside every point


def test_scar_8__200_times_the_rate_is_overload_on_one_gpu_and_says_so() -> None:
    for name in SCHEDULERS:
        run = simulate(Workload(requests=4000), name, n_gpus=1)
        summary = run.to_dict()
        assert summary["offered_load"] > 1, name
        assert summary["load_label"] == "overloaded"


def test_scar_8__100_gpus_are_nearly_idle_and_say_so() -> None:
    for name in SCHEDULERS[:3]:
        run = simulate(Workload(requests=4000), name, n_gpus=100)
        summary = run.to_dict()
        assert summary["offered_load"] < 0.25, name
        assert summary["load_label"] == "stable"
        assert summary["gpu_utilization"] < 0.4


def test_scar_8__load_and_label_are_beside_every_run_of_a_comparison() -> None:
    comparison = compare(Workload(requests=300), SCHEDULERS, replications=2, n_gpus=1).to_dict()
    for one in comparison["schedulers"]:
        assert one["offered_load"] > 0
        assert set(one["intervals"]["offered_load"]) == {"typical", "low", "high", "mean"}
        assert one["load_label"] in ("stable", "backlogged", "overloaded")


def test_scar_8__the_load_can_be_held_by_scaling_the_rate_with_the_gpus() -> None:
    loads = [
        simulate(Workload(requests=2000, rps_scale=50.0 * n), n_gpus=n).offered_load
        for n in (1, 4, 16)
    ]
    assert loads == pytest.approx([loads[0]] * 3, rel=1e-9)


# ---------------------------------------------------------------- 9: the same bytes, every time


FRESH = """
import sys
from llmsched import Workload, simulate
from llmsched.engine.export import write_table
workload = Workload(requests=300, rps_scale=2000.0)
run = simulate(workload, sys.argv[1], latency="reference", slo=1.0, seed=1)
write_table(run.requests, sys.argv[2])
"""


def test_scar_9__a_second_run_in_one_process_has_the_ids_of_a_fresh_one(tmp_path: Path) -> None:
    # given what a fresh process writes
    fresh = tmp_path / "fresh.csv"
    command = [sys.executable, "-c", FRESH, "multi_bin_dynamic", str(fresh)]
    subprocess.run(command, check=True, timeout=60)
    digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
    # when this process, which has run much else, does it twice more
    workload = Workload(requests=300, rps_scale=2000.0)
    for attempt in range(2):
        path = tmp_path / f"{attempt}.csv"
        run = simulate(workload, "multi_bin_dynamic", seed=1)
        write_table(run.requests, path)
        # then the bytes are the same, there as soon as the call returns
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        assert run.requests.batch.min() == 0
        simulate(workload, "multi_bin_only", seed=2)


def test_scar_9__a_request_costs_about_a_line_of_text(tmp_path: Path) -> None:
    run = simulate(Workload(requests=5000))
    for suffix, most_bytes in ((".csv", 120), (".parquet", 80)):
        path = tmp_path / f"requests{suffix}"
        write_table(run.requests, path)
        assert path.stat().st_size < most_bytes * 5000
