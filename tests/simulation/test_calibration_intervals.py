"""Calibration error in the answer: the interval's rule and coverage, and who runs under a draw."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from plan_world import in_plan, plan_compare as compare, plan_scenario, plan_simulate as simulate
from scipy import stats

from llmsched import Run, Settings, Trace, Workload, make_scheduler
from llmsched._util.streams import Streams
from llmsched.cli.answers.run import COLUMNS
from llmsched.cli.main import main
from llmsched.latency.base import CalibrationError, CalibrationWarning, MeasuredRange, Shape
from llmsched.latency.files import save_model
from llmsched.latency.formulas import FourTermModel, PerTokenModel
from llmsched.latency.registry import measured_names
from llmsched.latency.uncertainty import Uncertainty
from llmsched.metrics.intervals import mean_interval
from llmsched.prediction.binning import Binning
from llmsched.simulation.capacity.capacity import capacities
from llmsched.simulation.capacity.statements import messages, statement
from llmsched.simulation.capacity.target import Target
from llmsched.simulation.hardware import Hardware
from llmsched.simulation.simulate import serve
from llmsched.simulation.uncertainty import (
    FIGURES_OF_MERIT,
    RunUncertainty,
    calibrated_interval,
    draw_latencies,
    reached_confidence,
    under_draws,
)

BUSY = Workload(requests=300, rps_scale=400.0, source="burstgpt-like-v1")
PARAMETERS = ("a0_s", "a1_s", "a2_s", "a3_s")
TRUTH = FourTermModel(a0_s=0.05, a1_s=1e-3, a2_s=1e-5, a3_s=1e-9, name="truth", source="made up")
ERRORS = Uncertainty.of(
    PARAMETERS, np.diag([(0.1 * getattr(TRUTH, name)) ** 2 for name in PARAMETERS])
)
FITTED = replace(TRUTH, uncertainty=ERRORS)


def per_token(token_s: float) -> PerTokenModel:
    return PerTokenModel(output_token_s=token_s, name="line", source="hand")


def one_at_a_time(n: int = 4) -> Trace:
    """Requests of 10 output tokens, a second apart: alone, each has its service as latency."""
    return Trace(
        arrival_s=np.arange(n, dtype=float),
        prompt_tokens=np.full(n, 5, np.int32),
        output_tokens=np.full(n, 10, np.int32),
        name="one at a time",
    )


# ------------------------------------------------------------------------------ the interval


def test_interval__of_39_draws_is_their_range_and_of_79_the_second_from_each_end() -> None:
    # given nothing random but the draws: i/(N + 1) is 0.025 at i = 1 of 39, and at i = 2 of 79
    rng = np.random.default_rng(0)
    for n_draws, low, high in ((39, 1.0, 39.0), (79, 2.0, 78.0)):
        interval = calibrated_interval(5.0, rng.permutation(np.arange(1.0, n_draws + 1)))
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-12)
        assert (interval.mean, interval.confidence) == (5.0, 0.95)


def test_interval__of_few_draws_says_what_it_reaches() -> None:
    # given 9 draws: the chance that a tenth lies between them is 8/10
    interval = calibrated_interval(5.0, np.arange(1.0, 10.0))
    assert (interval.low, interval.high, interval.confidence) == (1.0, 9.0, 0.8)
    assert reached_confidence(39) == 0.95
    assert reached_confidence(1000) == 0.95


def test_interval__of_draws_that_agree_is_that_of_the_replications() -> None:
    samples = np.array([1.0, 2.0, 4.0, 4.5])
    usual = mean_interval(samples)
    interval = calibrated_interval(usual.mean, np.tile(samples, (20, 1)))
    assert interval.low == pytest.approx(usual.low, rel=1e-12)
    assert interval.high == pytest.approx(usual.high, rel=1e-12)


def test_interval__is_the_mixture_of_what_replications_say_of_each_draw() -> None:
    # given 200 draws, each with a mean and a standard error of its own over 6 replications
    rng = np.random.default_rng(3)
    samples = rng.gamma(2.0, 1.0, (200, 1)) + rng.normal(0, 0.4, (200, 6))
    interval = calibrated_interval(2.0, samples)
    # then the mixture of their t distributions holds 2.5 % beyond either end; quantiles at
    # i/(N + 1) move less than one draw of the 200
    law = stats.t(5, loc=samples.mean(1), scale=stats.sem(samples, axis=1))
    assert law.cdf(interval.low).mean() == pytest.approx(0.025, abs=1 / 200)
    assert law.sf(interval.high).mean() == pytest.approx(0.025, abs=1 / 200)


def test_interval__follows_a_monotone_change_of_the_metric() -> None:
    draws = np.random.default_rng(4).normal(0, 1, 39)
    plain, changed = calibrated_interval(0.0, draws), calibrated_interval(1.0, np.exp(draws))
    assert changed.low == pytest.approx(math.exp(plain.low), rel=1e-12)
    assert changed.high == pytest.approx(math.exp(plain.high), rel=1e-12)


@pytest.mark.parametrize(
    "drawn",
    [np.ones((5, 1)), np.array([1.0, math.nan]), np.array([[1.0, 2.0], [math.inf, 2.0]])],
    ids=["one replication", "no value", "out of reach"],
)
def test_interval__is_absent_where_it_has_no_meaning(drawn: Any) -> None:
    interval = calibrated_interval(1.0, drawn)
    assert interval.mean == 1.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.significant


def test_uncertainty__of_a_metric_without_a_value_has_no_interval() -> None:
    # given a percentile that one of the draws does not have, as where it completed nothing
    drawn = [{"latency_p99_s": 2.0}, {"latency_p99_s": None}, {"latency_p99_s": 4.0}]
    interval = RunUncertainty(fitted={"latency_p99_s": 3.0}, drawn=tuple(drawn)).interval(
        "latency_p99_s"
    )
    # then it does not count as 0
    assert interval.mean == 3.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def mean_service_s(model: FourTermModel, lengths: Any) -> Any:
    return np.mean(model.service_s(Shape(8, lengths, lengths, lengths)), axis=-1)


def late_share(model: FourTermModel, lengths: Any) -> Any:
    return np.mean(model.service_s(Shape(8, lengths, lengths, lengths)) > 0.62, axis=-1)


COVERAGE = {
    "calibration dominates": (mean_service_s, 0.1, 5, 200),
    "both matter": (mean_service_s, 0.1, 5, 4),
    "noise dominates": (mean_service_s, 0.01, 5, 4),
    "violations, a step": (late_share, 0.05, 5, 50),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COVERAGE)
def test_interval__covers_the_mean_at_the_true_parameters(case: str) -> None:
    # given a truth, and 400 calibrations of it, each with its own small simulation
    metric, error, n_replications, n_requests = COVERAGE[case]
    errors = Uncertainty.of(
        PARAMETERS, np.diag([(error * getattr(TRUTH, name)) ** 2 for name in PARAMETERS])
    )
    wanted = metric(TRUTH, np.arange(100, 901))  # lengths are uniform on these
    covered = sampling_covered = 0
    for trial in range(400):
        rng = np.random.default_rng([7, trial])
        centre = np.array([getattr(TRUTH, name) for name in PARAMETERS])
        estimate = dict(zip(PARAMETERS, errors.draw(centre, rng).tolist(), strict=True))
        fitted = replace(TRUTH, **estimate, uncertainty=errors)
        lengths = rng.integers(100, 901, (n_replications, n_requests))
        drawn = np.array([metric(one, lengths) for one in draw_latencies(fitted, 39, seed=trial)])
        sampling = mean_interval(metric(fitted, lengths))
        interval = calibrated_interval(sampling.mean, drawn)
        covered += interval.low <= wanted <= interval.high
        sampling_covered += sampling.low <= wanted <= sampling.high
    # then 95 % of the intervals hold it, within 2.75 standard errors of a share of 400
    assert 0.92 <= covered / 400 <= 0.98
    if case != "noise dominates":  # and those of sampling alone do not
        assert sampling_covered / 400 < 0.92


def test_interval__covers_a_step_where_a_standard_deviation_does_not() -> None:
    # given a share of violations that is a logistic step of one parameter, whose error is 1
    def violations(slowness: Any) -> Any:
        return 1 / (1 + np.exp(1 - slowness))

    covered = normal_covered = 0
    for trial in range(1000):
        rng = np.random.default_rng([9, trial])
        estimate = rng.standard_normal()
        drawn, fitted = violations(estimate + rng.standard_normal(39)), violations(estimate)
        interval = calibrated_interval(fitted, drawn)
        covered += interval.low <= violations(0.0) <= interval.high
        half = stats.t.ppf(0.975, 39) * math.sqrt(np.mean((drawn - fitted) ** 2))
        normal_covered += abs(violations(0.0) - fitted) <= half
    # then 95 % hold it, within 4 standard errors of a share of 1000, and of the other 88 %
    standard_error = math.sqrt(0.95 * 0.05 / 1000)
    assert abs(covered / 1000 - 0.95) < 4 * standard_error
    assert normal_covered / 1000 < 0.95 - 4 * standard_error


# -------------------------------------------------------------------------------------- draws


def test_draws__are_the_first_of_more_and_change_with_the_seed() -> None:
    five, nine = draw_latencies(FITTED, 5, seed=3), draw_latencies(FITTED, 9, seed=3)
    assert five == nine[:5]
    assert five[0] == FITTED.draw(Streams.of_seed(3).calibration)
    assert len({model.a0_s for model in nine}) == 9  # type: ignore[attr-defined]
    assert draw_latencies(FITTED, 5, seed=4)[0] != five[0]


def test_draws__have_a_stream_that_leaves_the_others_as_they_were() -> None:
    streams = Streams.of_seed(11)
    before = [np.random.default_rng(s).random(5) for s in np.random.SeedSequence(11).spawn(3)]
    now = [rng.random(5) for rng in (streams.requests, streams.jitter, streams.prediction)]
    assert np.array_equal(before, now)
    assert not np.isin(streams.calibration.random(5), now).any()


@pytest.mark.parametrize("n_draws", [-1, 0, 1, 1001])
def test_draws__must_be_a_usable_number(n_draws: int) -> None:
    with pytest.raises(ValueError, match=f"must number 2 to 1000, got {n_draws}; 39 are enough"):
        draw_latencies(FITTED, n_draws)


def test_draws__of_a_formula_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"'reference' .* must have calibration errors"):
        draw_latencies("reference", 20)


# ------------------------------------------------------------------------------------ one run


@pytest.fixture
def drawn_as(monkeypatch: pytest.MonkeyPatch):
    """Draws of the latency are these models, whatever they are drawn from."""

    def put(draws: Sequence[Any]) -> None:
        monkeypatch.setattr(
            "llmsched.simulation.hardware.drawn_latency", lambda _model, _seed, n: draws[n]
        )
        monkeypatch.setattr("llmsched.simulation.comparison.comparison.check_draws", ignore)
        monkeypatch.setattr("llmsched.simulation.capacity.capacity.check_draws", ignore)

    return put


def ignore(*_: object) -> None:
    """Check nothing."""


def drawn_runs(trace: Trace, scheduler: str, n_draws: int, **options: Any) -> list[Run]:
    scenario = plan_scenario(trace, scheduler, **{"n_gpus": 2, "latency": FITTED, **options})
    return [serve(one, trace) for one in under_draws(scenario, n_draws, seed=0)]


def test_run__serves_with_the_draw_and_believes_in_the_fitted_parameters(drawn_as: Any) -> None:
    # given bins by predicted service time, at fixed edges, and draws twice and half as slow
    trace = BUSY.load(0)
    fitted = per_token(0.01)
    binning = Binning(by="service", edges=(1.0, 4.0))
    drawn_as([per_token(0.02), per_token(0.005)])
    slow, fast = drawn_runs(trace, "multi_bin_dynamic", 2, latency=fitted, binning=binning)
    plain = simulate(trace, "multi_bin_dynamic", n_gpus=2, latency=fitted, binning=binning)
    # then times are the draw's
    for run, token_s in ((slow, 0.02), (fast, 0.005)):
        service_s = run.batches.finish_s - run.batches.start_s
        assert service_s == pytest.approx(token_s * run.batches.max_output_tokens)
    # and bins those of the fitted model
    assert np.array_equal(slow.requests.bin, plain.requests.bin)
    assert np.array_equal(fast.requests.bin, plain.requests.bin)
    other = simulate(trace, "multi_bin_dynamic", n_gpus=2, latency=per_token(0.02), binning=binning)
    assert not np.array_equal(other.requests.bin, plain.requests.bin)


@pytest.mark.parametrize("scheduler", ["static_fifo", "multi_bin_dynamic", "multi_bin_adaptive"])
def test_run__under_a_draw_equal_to_the_fitted_parameters_is_the_same(
    scheduler: str, drawn_as: Any
) -> None:
    drawn_as([FITTED])
    trace = BUSY.load(0)
    plain = simulate(trace, scheduler, n_gpus=2, latency=FITTED).to_dict()
    (same,) = drawn_runs(trace, scheduler, 1)
    assert same.to_dict() == plain


def test_run__does_not_say_again_that_it_lies_outside_the_measured_range() -> None:
    # given warnings that are errors, and batches of one where 2 to 4 were measured
    measured = replace(FITTED, measured=MeasuredRange(size=(2, 4)))
    with pytest.warns(CalibrationWarning, match="4 of 4 batches"):
        simulate(one_at_a_time(), "static_fifo", latency=measured)
    drawn_runs(one_at_a_time(), "static_fifo", 3, latency=measured)


def test_uncertainty__of_a_run_is_the_range_of_its_draws(drawn_as: Any) -> None:
    # given requests served alone, in 10 tokens times 1, 2, ..., 39 ms
    trace = one_at_a_time()
    drawn_as([per_token(k / 1000) for k in range(1, 40)])
    fitted = simulate(trace, "static_fifo", n_gpus=2, latency=per_token(0.02))
    runs = drawn_runs(trace, "static_fifo", 39, latency=per_token(0.02))
    found = RunUncertainty(
        fitted=fitted.to_dict(), drawn=tuple(run.to_dict() for run in runs)
    ).to_dict()
    assert (found["draws"], found["confidence"]) == (39, 0.95)
    latency = found["intervals"]["latency_mean_s"]
    assert latency == pytest.approx({"mean": 0.2, "low": 0.01, "high": 0.39}, rel=1e-9)
    assert set(found["intervals"]) == set(FIGURES_OF_MERIT) == set(COLUMNS)


# ------------------------------------------------------------------------------------ compare


def test_compare__draws_change_no_number_that_was_there_without_them() -> None:
    plain = compare(BUSY, latency=FITTED, replications=2, n_gpus=1).to_dict()
    drawn = compare(BUSY, latency=FITTED, replications=2, n_gpus=1, latency_draws=2).to_dict()
    assert drawn.pop("latency_uncertainty") == {"draws": 2, "confidence": pytest.approx(1 / 3)}
    for one in drawn["schedulers"]:
        assert set(one.pop("intervals_with_calibration")) == set(one["intervals"])
    for difference in drawn["differences"]:
        assert set(difference.pop("with_calibration")) >= {"difference", "low", "high", "verdict"}
    assert drawn == plain


def test_compare__draws_that_agree_give_the_intervals_of_sampling(drawn_as: Any) -> None:
    drawn_as([FITTED] * 3)
    found = compare(BUSY, latency=FITTED, replications=3, n_gpus=1, latency_draws=3)
    for result in found.results:
        usual, both = result.interval("latency_mean_s"), result.calibrated("latency_mean_s")
        assert both is not None
        assert (both.mean, both.low, both.high) == pytest.approx(
            (usual.mean, usual.low, usual.high), rel=1e-9
        )
    # with draws Student's t stays, also where the interval of sampling allows for skewness
    skewed = ("goodput_rps", "sla_violation_rate")
    for difference in found.differences():
        assert difference.calibrated is not None
        if difference.metric not in skewed:
            assert difference.calibrated.low == pytest.approx(difference.interval.low, rel=1e-9)


def test_compare__shares_draws_between_schedulers() -> None:
    # given two names of one policy: whatever is drawn, they differ by nothing
    names = ("static_fifo", "multi_bin_only")
    found = compare(
        BUSY, names, binning=1, latency=FITTED, replications=2, n_gpus=1, latency_draws=3
    )
    fifo, bins = (result.drawn_on_scale("service_mean_s") for result in found.results)
    assert fifo.shape == (3, 2)
    assert len(set(fifo[:, 0])) == 3
    assert bins.shape == fifo.shape
    assert found.n_draws == 3


def test_compare__of_what_is_not_random_runs_each_draw_once(drawn_as: Any) -> None:
    # given a trace, and 1, 2, ..., 39 ms a token around 20 ms
    drawn_as([per_token(k / 1000) for k in range(1, 40)])
    seen: list[Any] = []
    found = compare(
        one_at_a_time(),
        ("static_fifo", "dynamic_no_bins"),
        latency=per_token(0.02),
        replications=3,
        latency_draws=39,
        on_done=seen.append,
    )
    assert len(seen) == 2 * 40
    # then there is no sampling error, and the interval is that of the draws alone
    for result in found.results:
        assert result.drawn_on_scale("latency_mean_s").shape == (39, 3)
        interval = result.calibrated("latency_mean_s")
        assert interval is not None
        assert (interval.mean, interval.low, interval.high) == pytest.approx((0.2, 0.01, 0.39))
    assert {one.calibrated_verdict for one in found.differences()} == {"equal"}


def test_compare__of_one_random_replication_has_no_interval_with_calibration_either() -> None:
    found = compare(BUSY, latency=FITTED, replications=1, n_gpus=1, latency_draws=2)
    assert {one.calibrated_verdict for one in found.differences()} <= {"no interval", "equal"}


# ----------------------------------------------------------------------------------- capacity


def test_capacity__of_a_clockwork_has_the_interval_of_its_service_times(drawn_as: Any) -> None:
    # given D/D/1 of 10 tokens, whose service takes 0.8 to 1.2 s
    drawn_as([per_token(0.1 * share) for share in np.linspace(0.8, 1.2, 39)])
    trace = replace(one_at_a_time(60), arrival_s=5.0 * np.arange(60.0))
    (found,) = capacities(
        trace,
        ("static_fifo",),
        target=Target(metric="latency_p99_s", at_most=1.3),
        settings=Settings(batch_size=1),
        n_gpus=1,
        latency=per_token(0.1),
        latency_draws=39,
        jobs=1,
        tolerance=0.001,
    )
    interval = found.calibrated
    assert interval is not None
    # then the slowest draw may wait 0.1 s and the fastest 0.5 s, over 0.99 of 59 gaps
    for share, end in ((1.2, interval.low), (0.8, interval.high)):
        gap_s = share - (1.3 - share) / (0.99 * 59)
        assert end == pytest.approx(1 / gap_s, rel=0.0011)
    assert interval.low < found.value < interval.high
    # and says so
    assert "with calibration error 95 % [" in statement(found)
    found_dict = json.loads(json.dumps(found.to_dict(), allow_nan=False))["latency_uncertainty"]
    assert (found_dict["draws"], found_dict["low"]) == (39, interval.low)
    assert len(found_dict["per_draw"]) == 39


def test_capacity__under_a_draw_equal_to_the_fitted_parameters_is_the_same(drawn_as: Any) -> None:
    drawn_as([FITTED] * 2)
    options: dict[str, Any] = {"latency": FITTED, "jobs": 1, "replications": 3, "tolerance": 0.05}
    options |= {"target": Target(at_most=0.3), "slo": 5.0}
    (plain,) = capacities(BUSY, ("static_fifo",), **options)
    (drawn,) = capacities(BUSY, ("static_fifo",), latency_draws=2, **options)
    assert drawn.value == plain.value
    assert (drawn.assured, drawn.curve) == (plain.assured, plain.curve)
    assert plain.calibrated is None
    assert [root.rate for root in drawn.drawn] == pytest.approx([plain.value] * 2, rel=0.05)


def test_capacity__without_a_root_under_some_draw_has_no_interval_and_says_so(
    drawn_as: Any,
) -> None:
    # given a target that the second draw cannot meet at any rate
    drawn_as([per_token(0.01), per_token(10.0)])
    (found,) = capacities(
        one_at_a_time(60),
        ("static_fifo",),
        target=Target(at_most=0.0),
        latency=per_token(0.01),
        settings=Settings(batch_size=1),
        slo=1.0,
        latency_draws=2,
        jobs=1,
    )
    assert found.calibrated is not None
    assert math.isnan(found.calibrated.low)
    assert "no capacity under 1 of 2 draws" in " ".join(messages(found))


# --------------------------------------------------------------------------------- the command


@pytest.fixture
def model(tmp_path: Path) -> str:
    save_model(FITTED, tmp_path / "model.json")
    return str(tmp_path / "model.json")


def run(line: str) -> Any:
    return CliRunner().invoke(main, in_plan(line.split()))


@pytest.mark.parametrize("command", ["static-fifo", "compare", "capacity"])
def test_command__refuses_a_formula_in_one_line(command: str) -> None:
    result = run(f"{command} --latency reference --latency-uncertainty 20")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("Error: latency model 'reference' (formula)")


def test_scheduler_command__shows_the_fitted_value_between_its_bounds(model: str) -> None:
    line = f"static-fifo --requests 200 --latency {model}"
    plain, drawn = run(f"{line} --json"), run(f"{line} --json --latency-uncertainty 39")
    found = json.loads(drawn.stdout)
    uncertainty = found.pop("latency_uncertainty")
    assert found == json.loads(plain.stdout)
    assert (uncertainty["draws"], uncertainty["confidence"]) == (39, 0.95)
    interval = uncertainty["intervals"]["latency_mean_s"]
    assert interval["mean"] == found["latency_mean_s"]
    assert interval["low"] < interval["mean"] < interval["high"]
    assert "Note: intervals over" not in drawn.stderr
    table = run(f"{line} --latency-uncertainty 9")
    assert "Calibration error: 80 % over 9 draws" in table.stdout
    assert "Note: intervals over 9 draws" in table.stderr
    assert "hold 80 %, not 95 %; take 39 or more" in table.stderr


def test_compare_command__shows_both_intervals_and_both_verdicts(model: str) -> None:
    line = f"compare --requests 200 --seeds 2 --latency {model} --latency-uncertainty 5"
    table = run(line).stdout
    assert table.count("  with calibration error  ") >= 3
    assert "With calibration error: 66.7 % interval over 5 draws" in table
    found = json.loads(run(f"{line} --json").stdout)
    assert found["differences"][0]["with_calibration"]["verdict"] in table


def test_capacity_command__is_the_same_on_any_number_of_cores(model: str) -> None:
    line = (
        f"capacity --requests 100 --seeds 2 --schedulers static-fifo,multi-bin-dynamic --tolerance "
        f"0.1 --target-violations 0.5 --latency {model} --latency-uncertainty 3"
    )
    one, two = (run(f"{line} --json --jobs {jobs}") for jobs in (1, 2))
    assert one.exit_code == 0, one.output
    assert json.loads(one.stdout) == json.loads(two.stdout)
    found = json.loads(one.stdout)
    assert found["schedulers"][0]["latency_uncertainty"]["draws"] == 3
    assert "with calibration error (50 %)" in run(f"{line} --jobs 1").stdout


def test_figure__has_thin_bars_between_the_calibrated_ends() -> None:
    from llmsched.figures.comparison import scheduler_comparison

    plain, drawn = (
        compare(BUSY, latency=FITTED, replications=2, latency_draws=some).to_frame()
        for some in (0, 3)
    )
    assert set(drawn) - set(plain) == {"calibrated_low", "calibrated_high"}
    before, after = (scheduler_comparison(one, title="", caption="") for one in (plain, drawn))
    assert len(after.layers) == len(before.layers) + 1
    after.draw(show=False)


# ------------------------------------------------------------------------------- memory options


@pytest.mark.parametrize(
    ("options", "gpu", "llm"),
    [
        ({"latency": "h100-llama-3-8b-vllm"}, "h100-sxm", "llama-3-8b"),
        ({"latency": "h100-llama-3-8b-vllm", "llm": "llama-3-8b"}, "h100-sxm", "llama-3-8b"),
        ({"latency": "a100-llama-2-7b-vllm", "gpu": "a100-40gb"}, "a100-40gb", "llama-2-7b"),
        ({"latency": "a100-llama-2-7b-vllm", "gpu": "96"}, "96 GB", "llama-2-7b"),
        ({"latency": "gh200-decilm-7b-vllm"}, "gh200-96gb", "decilm-7b"),
        ({"latency": "reference"}, "default-12gb", "qwen3-1.7b"),
    ],
)
def test_hardware__a_measured_set_brings_its_gpu_and_model(options, gpu, llm) -> None:
    found = Hardware(**options).resolved()
    assert (found.gpu.name, found.llm.name) == (gpu, llm)


def test_hardware__every_measured_set_fits_the_memory_it_was_measured_in() -> None:
    for name in measured_names():
        assert Hardware(latency=name).resolved().capacity_tokens > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm": "llama-3.1-8b"}, "llm must be llama-3-8b with .* got llama-3.1-8b: leave it out"),
        ({"gpu": "a100-80gb"}, "gpu must be h100-sxm with .* got a100-80gb: leave it out"),
        ({"gpu": "tpu"}, "gpu must be a known name or a TOML file, got 'tpu'"),
    ],
)
def test_hardware__a_contradiction_is_an_error(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Hardware(latency="h100-llama-3-8b-vllm", **options).resolved()


def test_settings__bound_batch_sizes_as_the_command_line_does() -> None:
    with pytest.raises(ValueError, match=r"batch_size must be .* to 1000000, got 1000001"):
        make_scheduler("static_fifo", Settings(batch_size=1_000_001))
    with pytest.raises(ValueError, match=r"batch_max must be .* to 1000000, got 1000001"):
        Settings(batch_max=1_000_001)
