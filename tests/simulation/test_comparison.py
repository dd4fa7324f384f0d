"""Comparisons: equal requests, what is replicated, and differences against their noise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plan_world import plan_compare as compare, plan_simulate as simulate
from scipy import stats

from llmsched import Run, Settings, Trace, Workload
from llmsched.hardware import MODELS
from llmsched.latency.formulas import PerTokenModel
from llmsched.metrics.differences import VERDICTS, Difference, corrected, difference
from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.schedulers.base import FinishedBatch, Selection, WaitingView
from llmsched.simulation.comparison.results import Comparison, SchedulerResult, compared
from llmsched.simulation.simulate import serve
from llmsched.simulation.sweep import runs as runs_module
from llmsched.simulation.sweep.runner import RunRecord
from llmsched.workload.formats import registry as formats

THREE = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic")
BUSY = Workload(requests=300, rps_scale=800.0)
SECOND_PER_TOKEN = PerTokenModel(output_token_s=1.0, name="one second per token", source="hand")


def figure_1b() -> Trace:
    """Service times of 1, 5, 2 and 6 s at once."""
    return Trace(
        arrival_s=np.zeros(4),
        prompt_tokens=np.zeros(4, np.int32),
        output_tokens=np.array([1, 5, 2, 6], np.int32),
        name="figure 1(b)",
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.csv"
    rng = np.random.default_rng(0)
    rows = zip(
        np.cumsum(rng.exponential(30.0, 200)).tolist(),
        rng.integers(1, 500, 200).tolist(),
        rng.integers(1, 900, 200).tolist(),
        strict=True,
    )
    lines = (f"{arrival_s},{prompt},{output}" for arrival_s, prompt, output in rows)
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *lines]) + "\n")
    return str(path)


def by_name(comparison: Comparison) -> dict[str, SchedulerResult]:
    return {result.scheduler: result for result in comparison.results}


def difference_of(comparison: Comparison, scheduler: str, metric: str) -> Difference:
    (found,) = (
        one
        for one in comparison.differences()
        if (one.scheduler, one.metric) == (scheduler, metric)
    )
    return found


# ------------------------------------------------------------------- a difference that is known


def test_difference__of_figure_1b_is_exact() -> None:
    # given 4 requests in 11 s from one queue and in 8 s from two bins, nothing random
    comparison = compare(
        figure_1b(),
        ("static_fifo", "multi_bin_only"),
        n_gpus=1,
        latency=SECOND_PER_TOKEN,
        predictor="oracle",
        binning=2,
        settings=Settings(batch_size=2, sla_s=5.0),
    )
    # then the ratio of the rates is 11 / 8, and no noise could hide it
    throughput = difference_of(comparison, "multi_bin_only", "throughput_rps")
    assert throughput.interval.mean == pytest.approx(11 / 8 - 1, rel=1e-12)
    assert throughput.verdict == "nothing was random"
    goodput = difference_of(comparison, "multi_bin_only", "goodput_rps")
    assert goodput.interval.mean == pytest.approx(11 / 8 - 1, rel=1e-12)
    # and within 5 s there are two of four either way
    violations = difference_of(comparison, "multi_bin_only", "sla_violation_rate")
    assert violations.interval.mean == 0
    assert violations.verdict == "equal"


def test_difference__is_paired_replication_by_replication() -> None:
    # given what each seed gives on its own
    comparison = compare(BUSY, THREE, replications=4, seed=10, n_gpus=1)
    for metric in ("latency_mean_s", "goodput_rps"):
        a, b = (
            [
                getattr(simulate(BUSY, name, n_gpus=1, seed=seed).metrics, metric)
                for seed in (10, 11, 12, 13)
            ]
            for name in ("multi_bin_dynamic", "static_fifo")
        )
        # then the comparison pairs the same seeds, as scipy's paired t-test of the logs does;
        # goodput with its skewness
        interval = difference_of(comparison, "multi_bin_dynamic", metric).interval
        expected = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
        if metric == "goodput_rps":
            expected = mean_interval(np.log(np.divide(a, b)), skewed=True)
        assert interval.mean == pytest.approx(stats.gmean(np.divide(a, b)) - 1, rel=1e-9)
        assert interval.low == pytest.approx(np.expm1(expected.low), rel=1e-9)
        assert interval.high == pytest.approx(np.expm1(expected.high), rel=1e-9)
        assert by_name(comparison)["static_fifo"].samples(metric) == b


def verdict_of(
    low: float, high: float, p: float = 0.01, metric: str = "latency_mean_s", **more: Any
) -> str:
    interval = Interval(mean=(low + high) / 2, low=low, high=high, n=5)
    return Difference(
        scheduler="a",
        baseline="b",
        metric=metric,
        interval=interval,
        p_value=p,
        corrected_p=p,
        **more,
    ).verdict


def test_verdict__in_words() -> None:
    nan = math.nan
    assert verdict_of(-0.3, -0.1) == "better"
    assert verdict_of(0.1, 0.3) == "worse"
    assert verdict_of(0.1, 0.3, metric="goodput_rps") == "better"
    assert verdict_of(0.1, 0.3, p=0.06) == "not told apart"
    assert verdict_of(-0.1, 0.3, p=0.4) == "not told apart"
    # 2 % matter by default, so many per cent less as more: 1 / 1.02
    assert verdict_of(0.001, 0.019) == verdict_of(-0.0196, 0.01, p=0.5) == "too small to matter"
    assert verdict_of(-0.0197, 0.01, p=0.5) == "not told apart"
    assert verdict_of(0.001, 0.019, matters=0.01) == "worse"
    assert verdict_of(0.0, 0.0, equal=True) == "equal"
    assert verdict_of(0.2, 0.2, random=False) == "nothing was random"
    interval = Interval(mean=0.1, low=nan, high=nan, n=1)
    one = Difference(
        scheduler="a", baseline="b", metric="latency_mean_s", interval=interval, p_value=nan
    )
    assert one.verdict == "one replication"
    assert verdict_of(nan, nan) == "no value"


def test_verdicts__are_corrected_for_their_number() -> None:
    # given 20 metrics in which nothing differs, 200 times: any false verdict in 5 % of the tables
    rng = np.random.default_rng(3)
    false = 0
    for _ in range(200):
        lines = corrected(
            [
                difference(
                    np.exp(rng.normal(size=10)),
                    np.exp(rng.normal(size=10)),
                    metric="latency_mean_s",
                    scheduler="a",
                    baseline="b",
                )
                for _ in range(20)
            ]
        )
        false += any(line.verdict in ("better", "worse") for line in lines)
    # then 200 tables at 5 % give 10, more than 20 of them once in a thousand
    assert false <= 20


def test_difference__of_shares_is_in_points_at_the_baselines_typical_level() -> None:
    # given odds that double in every replication
    base = np.array([0.1, 0.2, 0.4])
    ours = 2 * base / (1 - base) / (1 + 2 * base / (1 - base))
    found = difference(
        ours, base, metric="sla_violation_rate", scheduler="a", baseline="b", least=1e-4
    )
    typical = np.exp(np.mean(np.log(base / (1 - base))))
    assert found.interval.mean == pytest.approx(
        2 * typical / (1 + 2 * typical) - typical / (1 + typical), rel=1e-9
    )


def test_differences__are_against_the_baseline_that_is_asked_for() -> None:
    static, dynamic = (
        compare(BUSY, THREE, replications=2, baseline=name, n_gpus=1)
        for name in ("static_fifo", "dynamic_no_bins")
    )
    assert {one.scheduler for one in static.differences()} == {THREE[1], THREE[2]}
    assert {one.scheduler for one in dynamic.differences()} == {THREE[0], THREE[2]}
    one, other = (
        difference_of(static, "dynamic_no_bins", "goodput_rps").interval,
        difference_of(dynamic, "static_fifo", "goodput_rps").interval,
    )
    ends = (other.mean, other.high, other.low)
    assert (one.mean, one.low, one.high) == pytest.approx([1 / (1 + x) - 1 for x in ends])


def test_differences__without_static_fifo_are_against_the_first() -> None:
    class Stack:
        """Newest first, two at a time; not hashable."""

        __hash__ = None  # type: ignore[assignment]

        def __init__(self) -> None:
            self.stack: list[int] = []

        def next_batch(self, waiting: WaitingView, now_s: float) -> Selection | None:
            self.stack += waiting.arrived.column("request").tolist()
            batch, self.stack = self.stack[-2:], self.stack[:-2]
            return Selection(batch) if batch else None

        def observe(self, batch: FinishedBatch, service_s: float) -> None: ...

    schedulers: list[Any] = ["multi-bin-only", Stack(), lambda settings: Stack()]
    comparison = compare(BUSY, schedulers, replications=1)
    assert comparison.baseline == "multi_bin_only"
    assert {one.scheduler for one in comparison.differences()} == {"Stack", "<lambda>"}
    with pytest.raises(ValueError, match="distinct names, got Stack, Stack"):
        compare(BUSY, [Stack(), Stack()], replications=1)


def test_differences__of_one_scheduler_there_are_none() -> None:
    assert compare(BUSY, ("dynamic_no_bins",), replications=1).differences() == []


# --------------------------------------------------------------------- what is run how often


def runs(*args: Any, **options: Any) -> tuple[list[tuple[str, int]], Comparison]:
    """(scheduler, seed) of every simulation of a comparison, in order, and the comparison."""
    seen: list[RunRecord] = []
    comparison = compare(*args, on_done=seen.append, **options)
    return [(run.config.scheduler_name, run.config.seed) for run in seen], comparison


def test_profile__everything_is_replicated() -> None:
    seen, comparison = runs(BUSY, THREE, replications=3, seed=4)
    assert seen == [(name, seed) for seed in (4, 5, 6) for name in THREE]
    assert comparison.seeds == (4, 5, 6)
    assert all(result.random for result in comparison.results)
    # and each replication has requests of its own
    spans = by_name(comparison)["static_fifo"].samples("makespan_s")
    assert len(set(spans)) == 3


def test_file__what_nothing_random_touches_is_run_once(file: str) -> None:
    seen, comparison = runs(Workload(source=file), THREE, replications=3, n_gpus=1)
    assert seen == [
        *((name, 0) for name in THREE),
        ("multi_bin_dynamic", 1),
        ("multi_bin_dynamic", 2),
    ]
    results = by_name(comparison)
    assert [results[name].random for name in THREE] == [False, False, True]
    for name in ("static_fifo", "dynamic_no_bins"):
        assert len(results[name].summaries) == 3
        assert [summary["seed"] for summary in results[name].summaries] == [0, 1, 2]
        interval = results[name].interval("latency_mean_s")
        assert interval.low == interval.high == interval.mean
    assert results["multi_bin_dynamic"].interval("latency_mean_s").half_width > 0


@pytest.mark.parametrize(
    ("options", "n_runs"),
    [
        ({"predictor": "oracle"}, 3),
        ({"predictor": "noisy:0"}, 3),
        ({"predictor": "noisy:0.5"}, 5),
        ({"predictor": "prompt-power-law"}, 5),
    ],
)
def test_file__an_exact_predictor_is_run_once(
    file: str, options: dict[str, Any], n_runs: int
) -> None:
    seen, comparison = runs(Workload(source=file), THREE, replications=3, **options)
    assert len(seen) == n_runs
    assert by_name(comparison)["multi_bin_dynamic"].random == (n_runs == 5)


def test_file__jitter_makes_every_run_random(file: str) -> None:
    seen, _ = runs(Workload(source=file, jitter_s=1.0), THREE, replications=2, predictor="oracle")
    assert len(seen) == 6


def test_file__is_read_once(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = formats.read_trace
    monkeypatch.setattr(
        formats, "read_trace", lambda *args, **options: reads.append(args) or read(*args, **options)
    )
    compare(Workload(source=file, jitter_s=1.0), THREE, replications=3)
    assert len(reads) == 1


def test_text__is_a_file_or_a_profile(file: str) -> None:
    summary = compare(file, ("static_fifo",), replications=1).results[0].summaries[0]
    assert summary["requests"] == 200
    assert figures_of(summary) == simulate(file, "static_fifo").to_dict()


def figures_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a row has of its run, without what tells it apart."""
    return {name: row[name] for name in simulate(figure_1b(), "static_fifo").to_dict()}


def test_replications__of_a_file_are_resamples_of_it(file: str) -> None:
    names = ("static_fifo", "multi_bin_only")
    comparison = compare(file, names, replications=3, resample=True)
    assert comparison.resampled
    result, other = comparison.results
    assert len({one["trace_sha256"] for one in result.summaries}) == 3
    # the interval is that of one more such stretch: wider than that of the mean by sqrt(n + 1)
    samples, others = (np.log(one.samples("latency_mean_s")) for one in (result, other))
    interval = result.interval("latency_mean_s")
    change = difference_of(comparison, "multi_bin_only", "latency_mean_s").interval
    for x, found, less in ((samples, interval, 0), (others - samples, change, 1)):
        half = stats.t.ppf(0.975, 2) * x.std(ddof=1) * math.sqrt(1 + 1 / 3)
        assert found.high == pytest.approx(math.exp(x.mean() + half) - less, rel=1e-9)


def test_schedulers__share_the_requests_and_the_noise_of_a_replication(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Run] = []

    def spy(*args: Any, **options: Any) -> Run:
        seen.append(serve(*args, **options))
        return seen[-1]

    monkeypatch.setattr(runs_module, "serve", spy)
    compare(BUSY, (*THREE, "multi_bin_only"), replications=2)
    for seed in (0, 1):
        of_seed = [run for run in seen if run.seed == seed]
        assert len(of_seed) == 4
        assert len({run.requests.arrival_s.tobytes() for run in of_seed}) == 1
        assert len({run.requests.output_tokens.tobytes() for run in of_seed}) == 1
        assert len({run.requests.predicted_tokens.tobytes() for run in of_seed}) == 1
        assert {run.metrics.gpus for run in of_seed} == {4}


def test_order_of_schedulers__does_not_matter() -> None:
    forward, backward = (compare(BUSY, order, replications=2) for order in (THREE, THREE[::-1]))
    assert [result.scheduler for result in backward.results] == [*THREE[::-1]]
    for name in THREE:
        assert timeless(by_name(forward)[name]) == timeless(by_name(backward)[name])

    def differences(comparison: Comparison) -> dict[tuple[str, str], Interval]:
        return {(one.scheduler, one.metric): one.interval for one in comparison.differences()}

    assert differences(forward) == differences(backward)


def test_a_scheduler__does_not_depend_on_the_company() -> None:
    together = by_name(compare(BUSY, THREE, replications=2))
    for name in THREE:
        alone = by_name(compare(BUSY, (name,), replications=2))[name]
        assert timeless(alone) == timeless(together[name])


def timeless(result: SchedulerResult) -> SchedulerResult:
    """The result without how long its runs took."""
    rows = tuple({**row, "wall_s": 0.0} for row in result.summaries)
    return replace(result, summaries=rows)


def test_options__reach_every_run() -> None:
    # given a comparison and single runs with the same options, none of them a default
    options: dict[str, Any] = {
        "n_gpus": 2,
        "latency": "reference-revised",
        "predictor": "noisy:0.2",
        "binning": 3,
        "settings": Settings(sla_s=3.0, batch_size=5, controller="window"),
        "admission": "one-by-one",
        "llm": MODELS["llama-2-7b"],
        "gpu": "a100-80gb",
    }
    comparison = compare(BUSY, THREE, replications=2, seed=6, **options)
    for result in comparison.results:
        alone = [simulate(BUSY, result.scheduler, seed=s, **options).to_dict() for s in (6, 7)]
        assert list(map(figures_of, result.summaries)) == alone


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replications": 0}, "replications must be a whole number >= 1, got 0"),
        ({"schedulers": ()}, "schedulers must be distinct names, got none"),
        ({"schedulers": ("static_fifo", "static_fifo")}, "distinct names, got static_fifo, static"),
        ({"schedulers": ("static_fifo", "fifo")}, "scheduler must be one of .* got 'fifo'"),
        ({"baseline": "fifo"}, "baseline must be one of static_fifo, .* got 'fifo'"),
        ({"latency": "a100"}, "latency must be .* got 'a100'"),
        ({"predictor": "magic"}, "predictor must be .* got 'magic'"),
        ({"n_gpus": 0}, "n_gpus must be .*>= 1.*, got 0"),
        ({"seed": -1}, "seed must be a whole number from 0 .* got -1"),
    ],
)
def test_options__that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    def on_done(_record: RunRecord) -> None:
        raise AssertionError("nothing may run before the options are known to be good")

    with pytest.raises(ValueError, match=message):
        compare(figure_1b(), **{"on_done": on_done, **options})


# -------------------------------------------------------------------------- what it reports


def test_one_replication__has_means_and_no_intervals() -> None:
    comparison = compare(BUSY, THREE, replications=1)
    for result in comparison.results:
        interval = result.interval("throughput_rps")
        assert interval.mean == result.summaries[0]["throughput_rps"]
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
    assert {one.verdict for one in comparison.differences()} == {"one replication"}
    summary = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert summary["differences"][0]["low"] is None
    assert summary["schedulers"][0]["intervals"]["throughput_rps"]["high"] is None


def test_interval__is_students_over_the_replications() -> None:
    result = compare(BUSY, ("static_fifo",), replications=4).results[0]
    samples = result.samples("latency_mean_s")
    assert samples == [summary["latency_mean_s"] for summary in result.summaries]
    logs = np.log(samples)  # of times: the typical value is the geometric mean
    expected = stats.t.interval(0.95, 3, np.mean(logs), stats.sem(logs))
    interval = result.interval("latency_mean_s")
    assert (interval.low, interval.high) == pytest.approx(tuple(np.exp(expected)), rel=1e-9)


def test_to_dict__is_strict_json_with_every_figure_and_its_interval() -> None:
    comparison = compare(BUSY, THREE, replications=2, seed=3, n_gpus=1)
    summary = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert (summary["gpus"], summary["seeds"]) == (1, [3, 4])
    assert (summary["latency_model"], summary["latency_kind"]) == ("reference", "formula")
    assert [one["scheduler"] for one in summary["schedulers"]] == [*THREE]
    for one, result in zip(summary["schedulers"], comparison.results, strict=True):
        samples = result.samples("throughput_rps")
        assert one["throughput_rps"] == pytest.approx(stats.gmean(samples), rel=1e-12)
        assert one["intervals"]["throughput_rps"]["typical"] == one["throughput_rps"]
        assert one["intervals"]["throughput_rps"]["mean"] == pytest.approx(np.mean(samples))
        assert one["gpus"] == 1
        assert one["sla_s"] == 1.0
        assert one["load_label"] in ("stable", "backlogged", "overloaded")
        assert one["offered_load"] > 0
        # what has no mean stands beside its seed, each replication's own
        assert [each["seed"] for each in one["replications"]] == [3, 4]
        for each, own in zip(one["replications"], result.summaries, strict=True):
            assert each["per_bin"] == own["per_bin"]
            assert each["bin_edges"] == own["bin_edges"]
    assert len(summary["differences"]) == 2 * 6
    for one in summary["differences"]:
        assert one["against"] == "static_fifo"
        assert one["low"] <= one["difference"] <= one["high"]
        assert one["verdict"] in VERDICTS


def test_to_dict__a_figure_without_a_value_is_null() -> None:
    # given two requests, both too large for the memory
    trace = Trace(
        arrival_s=np.zeros(2),
        prompt_tokens=np.full(2, 9, np.int32),
        output_tokens=np.full(2, 9, np.int32),
    )
    settings = Settings(capacity_tokens=1.0)
    comparison = compare(
        trace, ("static_fifo", "dynamic_no_bins"), replications=2, settings=settings
    )
    summary = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    dynamic = summary["schedulers"][1]
    assert dynamic["latency_mean_s"] is None
    assert dynamic["intervals"]["latency_mean_s"] == {
        **dict.fromkeys(("typical", "low", "high", "mean"))
    }
    assert dynamic["sla_violation_rate"] == 1.0


def test_to_frame__has_a_row_per_scheduler_and_metric() -> None:
    comparison = compare(BUSY, THREE, replications=2)
    frame = comparison.to_frame()
    assert list(frame.columns) == ["scheduler", "metric", "typical", "low", "high"]
    assert set(frame["scheduler"]) == {*THREE}
    assert not {"sla_s", "gpus", "seed", "bins"} & {*frame["metric"]}
    cell = frame[(frame["scheduler"] == "dynamic_no_bins") & (frame["metric"] == "goodput_rps")]
    interval = by_name(comparison)["dynamic_no_bins"].interval("goodput_rps")
    assert cell[["typical", "low", "high"]].to_numpy().tolist() == [
        [interval.mean, interval.low, interval.high]
    ]


def test_rates__are_compared_in_busy_seconds_only_where_both_keep_up() -> None:
    row = {"throughput_rps": 1.0, "served_per_busy_s": 1.0}
    kept_up, late = (
        SchedulerResult(scheduler="any", summaries=({**row, "load_label": label},), random=True)
        for label in ("backlogged", "overloaded")
    )
    assert compared(kept_up, kept_up) == ["served_per_busy_s"]
    assert compared(kept_up, late) == compared(late, kept_up) == ["throughput_rps"]


def test_typical_value__counts_no_late_request_as_half_of_one() -> None:
    # given 10 requests in 5 s: half a request is 5 % of them, and 0.1 requests/s
    rows = tuple(
        {"sla_violation_rate": rate, "goodput_rps": rate, "requests": 10, "makespan_s": 5.0}
        for rate in (0.0, 0.5)
    )
    result = SchedulerResult(scheduler="any", summaries=rows, random=True)
    odds = math.sqrt(0.05 / 0.95 * 1.0)
    assert result.interval("sla_violation_rate").mean == pytest.approx(odds / (1 + odds))
    assert result.interval("goodput_rps").mean == pytest.approx(math.sqrt(0.1 * 0.5))


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        (("stable", "stable", "overloaded"), "stable"),
        (("stable", "overloaded"), "overloaded"),
        (("backlogged", "stable"), "backlogged"),
        (("backlogged",), "backlogged"),
    ],
)
def test_load_label__is_the_most_frequent_and_the_worse_on_ties(
    labels: tuple[str, ...], label: str
) -> None:
    result = SchedulerResult(
        scheduler="any", summaries=tuple({"load_label": one} for one in labels), random=True
    )
    assert result.load_label == label


def test_compare__default_is_the_embedded_workload_and_the_three_schedulers() -> None:
    comparison = compare(replications=1)
    assert [result.scheduler for result in comparison.results] == [*THREE]
    summary = comparison.results[0].summaries[0]
    assert (summary["trace"], summary["requests"]) == ("burstgpt-like", 10_000)
    assert (comparison.n_gpus, comparison.baseline) == (4, "static_fifo")
