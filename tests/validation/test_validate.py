"""`validate` on runs whose server is known: the simulator itself, so that the errors are, too."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from llmsched.calibration.benchmarks.runs import (
    ClosedLoopPoint,
    LatencySummary,
    Load,
    OpenLoopStage,
    Server,
    SharedPrefixes,
)
from llmsched.cli.main import main
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.latency.steps.base import Scaled
from llmsched.latency.steps.two_regime import DecodeTerms, MixedTerms, TwoRegime
from llmsched.simulation.hardware import Hardware
from llmsched.simulation.scenario import Scenario
from llmsched.studies.validation.fit import FitPlan
from llmsched.studies.validation.fit_all import CONSTANTS, fit_constants
from llmsched.studies.validation.loads import stage_requests
from llmsched.studies.validation.replay import Replay
from llmsched.studies.validation.server import completed_step_time
from llmsched.studies.validation.stages import validate_stages
from llmsched.workload.trace import Trace

STEPS = TwoRegime(
    decode=DecodeTerms(c0_s=0.0169, cb_s=4e-5, ckv_s=1.65e-7),
    mixed=MixedTerms(
        c0_s=0.0198, cp_s=8.5e-5, n0_tokens=106, cb_s=2.2e-5, ckv_s=2.7e-7, cpair_s=4.4e-9
    ),
    name="truth",
)
FILE = {
    "form": "two-regime",
    "decode": {"c0_s": 0.0169, "cb_s": 4e-5, "ckv_s": 1.65e-7},
    "mixed": {
        "c0_s": 0.0198,
        "cp_s": 8.5e-5,
        "n0_tokens": 106,
        "cb_s": 2.2e-5,
        "ckv_s": 2.7e-7,
        "cpair_s": 4.4e-9,
    },
}
SETTINGS = IterationSettings(kv_tokens=6000)


def requests(n=60, seed=1, per_s=8.0):
    rng = np.random.default_rng(seed)
    gaps_s = rng.exponential(1 / per_s, n - 1)
    return Trace(
        arrival_s=np.concatenate([[0.0], np.cumsum(gaps_s)]),
        prompt_tokens=np.clip(rng.lognormal(6, 0.8, n), 10, 2000).astype(np.int32),
        output_tokens=np.clip(rng.lognormal(4.3, 0.7, n), 2, 400).astype(np.int32),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The step times, and logs of servers that take them as they are, or otherwise."""
    tmp = tmp_path_factory.mktemp("validate")
    (tmp / "steps.json").write_text(json.dumps(FILE))
    trace = requests()
    for name, replay in {
        "same": Replay(trace=trace, settings=SETTINGS, step=STEPS),
        "slower": Replay(trace=trace, settings=SETTINGS, step=Scaled(STEPS, 1.25)),
        "overhead": Replay(trace=trace, settings=replace(SETTINGS, overhead_s=3e-3), step=STEPS),
    }.items():
        times = replay.times()
        columns = [trace.arrival_s, trace.prompt_tokens, trace.output_tokens]
        columns += [times["ttft_s"], times["e2e_s"]]
        rows = [
            ",".join(map(repr, row)) for row in zip(*(c.tolist() for c in columns), strict=True)
        ]
        head = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s"
        (tmp / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n")
    return tmp


def run(files, log, *arguments):
    steps = ["--step-time", str(files / "steps.json"), "--kv-tokens", "6000"]
    result = CliRunner().invoke(main, ["validate", str(files / log), *steps, *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_validate__a_run_of_the_simulator_itself_has_no_errors(files):
    found = run(files, "same.csv")
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        errors = found[name]
        assert set(errors["measured"]) == {"mean", "p50", "p90", "p99"}
        assert all(abs(error) < 1e-9 for error in errors["relative_error"].values())
        assert errors["per_request_error"] < 1e-9
    assert found["fitted"] is None
    assert "queueing_s" not in found  # which the log does not say


def test_validate__says_what_its_assumptions_are_worth(files):
    assumed = {one["name"]: one for one in run(files, "same.csv")["assumptions"]}
    # the KV memory binds: with less of it requests wait longer, with more less
    assert assumed["KV memory -5 %"]["mean_errors"]["ttft_s"] > 0.01
    assert assumed["KV memory +5 %"]["mean_errors"]["ttft_s"] < -0.01
    assert assumed["KV memory -5 %"]["matters"]
    ample = run(files, "same.csv", "--kv-tokens", "1000000")["assumptions"]
    assert not any(one["matters"] for one in ample if one["name"].startswith("KV"))


@pytest.mark.parametrize(
    ("log", "plan", "name", "truth"),
    [
        ("slower.csv", "scale:30", "factor", 1.25),
        ("overhead.csv", "overhead:30", "overhead_s", 3e-3),
    ],
)
def test_validate__a_fitted_constant_is_found_and_judged_on_the_rest(files, log, plan, name, truth):
    found = run(files, log, "--fit", plan)
    assert found["fitted"]["values"][name] == pytest.approx(truth, rel=0.02)
    assert found["fitted"]["requests"] == [0, 30]
    assert found["judged"] == [30, 60]
    assert abs(found["e2e_s"]["relative_error"]["mean"]) < 0.01
    # as given the steps were too fast, which the unfitted errors say
    assert found["unfitted"]["e2e_s"]["relative_error"]["mean"] < -0.05


FIT_ALL = ("--fit", "all:30")
SMALL = (*("--gpu", "rtx-4090", "--llm", "llama-3.1-8b"), *("--gpu-memory-utilization", "0.5"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kv-tokens", "6000"], "a step time must be given"),
        (["--step-time", "{steps}"], "kv_tokens must be known"),
        (["--step-time", "{steps}", "--gpu", "rtx-4090"], "or --gpu and --llm"),
        (["--step-time", "nowhere"], "step time must be a known name"),
        ([*FIT_ALL, "--gpu", "rtx-4090"], "kv_tokens must be known"),
        (
            [*FIT_ALL, *SMALL],
            "'llama-3.1-8b' must fit GPU 'rtx-4090-24gb'",  # so its memory is asked, not the H100's
        ),
        (["--step-time", "{steps}", "--kv-tokens", "64"], "hold every request"),
        (["--step-time", "{steps}", "--kv-tokens", "6000", "--fit", "scale:55"], "10 requests or"),
        (["--step-time", "physics:h100-sxm"], "that does not say them"),
    ],
)
def test_validate__what_is_missing_is_said_in_one_line(files, arguments, says):
    given = [one.format(steps=files / "steps.json") for one in arguments]
    result = CliRunner().invoke(main, ["validate", str(files / "same.csv"), *given])
    assert result.exit_code == 2
    assert says in result.output
    assert result.output.count("\n") == 1


def test_completed_step_time__takes_from_the_run_what_it_leaves_open():
    server = Server(
        model="DeepSeek-R1-0528", device="h200", engine="trt", precision="fp8", tp=8, ep=8
    )
    assert completed_step_time("physics", server) == (
        "physics:h200:DeepSeek-R1-0528:tp8:ep8:fp8:trt-llm"
    )
    assert completed_step_time("physics:b200", server) == "physics:b200:DeepSeek-R1-0528:tp8:ep8"
    assert completed_step_time("physics:b200:qwen3-8b", server) == "physics:b200:qwen3-8b"


def test_physics__kv_memory_follows_the_weights_precision():
    in_16, in_8 = (
        Hardware(step_time=f"physics:h100-sxm:llama-3.1-8b{precision}").resolved().kv_tokens(0.9)
        for precision in ("", ":fp8")
    )
    assert in_8 - in_16 == pytest.approx(8.03e9 / 131072, rel=0.01)  # a byte less a weight


def stage(number, rate_per_s, ttft_s, e2e_s, **more):
    given = {
        "load": Load(words="rate", rate_per_s=rate_per_s, arrivals="constant"),
        "prompt_tokens": 200.0,
        "output_tokens": 50.0,
        "ttft": LatencySummary(mean_s=ttft_s),
        "tpot": LatencySummary(mean_s=(e2e_s - ttft_s) / 49),
        "e2e": LatencySummary(mean_s=e2e_s),
        "completed": 100,
        "duration_s": 100 / rate_per_s,
        "run": "a",
        "stage": number,
        "source": "s.csv",
    }
    return OpenLoopStage(**{**given, **more})


def scenario(step=STEPS, **settings):
    return Scenario(
        scheduler="continuous_static",
        hardware=Hardware(n_gpus=1, step_time=step),
        serving=IterationSettings(kv_tokens=100_000, **settings),
    )


def test_stages__a_factor_and_a_delay_from_the_slower_one_give_the_faster_one():
    # given a server whose steps take 1.25 times as long, behind a front end of 5 ms
    alone = validate_stages(
        [stage(0, 2, 1, 2), stage(1, 5, 1, 2)], lambda _: scenario(Scaled(STEPS, 1.25))
    )
    means = [
        [one.errors[name].simulated["mean"] + 0.005 for name in ("ttft_s", "e2e_s")]
        for one in alone.stages
    ]
    measured = [stage(number, rate, *means[number]) for number, rate in ((0, 2), (1, 5))]
    measured.append(stage(0, 2, *means[0], run="of one stage"))
    # when the slower stage is fitted to
    found = validate_stages(measured, lambda _: scenario(), fit=FitPlan.parse("scale:1"))
    # then factor and delay are those, and only the faster one is judged
    assert found.fitted["a"].factor == pytest.approx(1.25, abs=0.005)
    assert found.fitted["a"].delay_s == pytest.approx(0.005, abs=5e-4)
    assert [one.stage for one in found.judged] == [1]
    assert found.spread("e2e_s")[1] < 0.01
    assert found.spread("ttft_s")[1] < 0.03


def test_stages__one_that_does_not_keep_up_is_said_and_not_judged():
    slow = stage(0, 5, 1, 2, throughput_per_s=3.0)
    found = validate_stages([slow, stage(1, 5, 1, 2, failed=1)], lambda _: scenario())
    assert [one.overloaded for one in found.stages] == [True, True]
    assert found.judged == ()
    assert found.to_dict()["stages"][0]["overloaded"] is True


def test_stage_requests__texts_come_round_and_are_cached_but_for_their_last_block():
    shared = SharedPrefixes(
        system_prompts=3,
        users_per_system_prompt=4,
        multi_turn=True,
        system_prompt_tokens=100,
        question_tokens=100,
    )
    trace = stage_requests(stage(0, 5, 1, 2, prefixes=shared))
    assert abs(trace.prompt_tokens.mean() - 200) < 1
    assert (trace.prefix_ids.row(0) == trace.prefix_ids.row(12)).all()
    assert not set(trace.prefix_ids.row(0)) & set(trace.prefix_ids.row(1))
    run = Replay(trace=trace, settings=SETTINGS, step=STEPS).run()
    left = (trace.prompt_tokens - run.requests.cached_tokens)[12:]
    assert left.max() <= 16
    assert 7 < left.mean() < 10


def test_closed_loop__clients_are_always_busy():
    # given constant steps of 10 ms, 4 clients: with every prompt in one step, o steps a request
    flat = replace(
        STEPS,
        decode=DecodeTerms(c0_s=0.01, cb_s=0, ckv_s=0),
        mixed=MixedTerms(c0_s=0.01, cp_s=0, n0_tokens=0, cb_s=0, ckv_s=0, cpair_s=0),
    )
    point = ClosedLoopPoint(
        load=Load(words="c4", concurrency=4),
        prompt_tokens=180.0,
        output_tokens=90.0,
        ttft=LatencySummary(mean_s=0.01),
        tpot=LatencySummary(mean_s=0.01),
        e2e=LatencySummary(mean_s=0.9),
        source="c.csv",
    )
    found = validate_stages([point], lambda _: scenario(flat, depth=1)).stages[0]
    assert found.load_value == 4
    assert found.errors["tpot_s"].relative_error["mean"] == pytest.approx(0, abs=1e-9)
    assert abs(found.errors["e2e_s"].relative_error["mean"]) < 0.02  # lengths are drawn


@pytest.mark.slow
def test_fit_constants__predicts_the_requests_that_it_has_not_seen():
    replay = Replay(trace=requests(120), settings=SETTINGS, step=STEPS)
    measured = replay.times()
    fitted, found = fit_constants(replay, measured, 60)
    ours = fitted.times()
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert ours[name][60:].mean() == pytest.approx(measured[name][60:].mean(), rel=0.05)
    assert tuple(found.values) == CONSTANTS
    low, high = found.intervals["decode.c0_s"]
    assert low < 0.0169 < high
    # so short a run says little of the pairs of query and key, and the fit says so
    assert any("mixed.cpair_s" in note for note in found.notes)


@pytest.mark.slow
def test_calibrate_import__a_log_becomes_a_step_time_file(files, tmp_path):
    out = tmp_path / "mine.json"
    arguments = ["calibrate", "import", "csv", str(files / "same.csv"), "--out", str(out)]
    result = CliRunner().invoke(main, [*arguments, "--kv-tokens", "6000"])
    assert result.exit_code == 0, result.output
    found = run(files, "same.csv", "--step-time", str(out))
    assert abs(found["e2e_s"]["relative_error"]["mean"]) < 0.05
