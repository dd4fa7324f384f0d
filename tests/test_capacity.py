"""Capacity: known ones found, the search's rules, common random numbers, confidence, command."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from llmsched import Settings, Trace, TraceError, Workload, simulate
from llmsched.cli.main import main
from llmsched.simulation.capacity import runs as capacity_runs
from llmsched.simulation.capacity.capacity import capacities, capacity
from llmsched.simulation.capacity.results import Capacity, Target, differences
from llmsched.simulation.capacity.runs import Point, Task, at_rate
from llmsched.simulation.capacity.search import edge, hardest_passing, next_gpus, next_rate
from llmsched.simulation.simulate import serve

SERVICE_S = 1.0
ONE_BY_ONE: dict[str, Any] = {
    "latency": "drawn",
    "settings": Settings(batch_size=1, sla_s=SERVICE_S * (1 + 1e-9)),
    "jobs": 1,
    "replications": 1,
}
BUSY = Workload(source="poisson", requests=200, rps_scale=10.0)


def evenly(gap_s: float, n: int = 60) -> Trace:
    """Equally spaced requests of one second each: D/D/c when served one by one."""
    return Trace(
        arrival_s=np.arange(n) * gap_s,
        prompt_tokens=np.full(n, 10, np.int32),
        output_tokens=np.full(n, 10, np.int32),
        service_s=np.full(n, SERVICE_S),
        name="evenly",
    )


def found_by(test, *, rate: bool, start: float = 1.0, tolerance: float = 0.02) -> dict[float, bool]:
    """All tests of a search in which `test` says what passes."""
    passes: dict[float, bool] = {}
    while True:
        if rate:
            value = next_rate(passes, start=start, tolerance=tolerance)
        else:
            value = next_gpus(passes, start=int(start), n_requests=100)
        if value is None:
            return passes
        assert value not in passes, "nothing is tested twice"
        passes[value] = test(value)


@pytest.fixture
def pretend(monkeypatch):
    """Runs are replaced by a function of value and seed, at offered load value / 10."""

    def put(metric) -> list[tuple[str, int, float]]:
        tested: list[tuple[str, int, float]] = []

        def run(value: float, task: Task, _trace: Trace, _scenario: object) -> Point:
            tested.append((task.scheduler, task.seed, value))
            return Point(metric(value, task.seed), value / 10)

        monkeypatch.setattr(capacity_runs, "_test", run)
        return tested

    return put


# ---------------------------------------------------------------------------- capacities known


@pytest.mark.parametrize("n_gpus", [1, 3])
def test_rate__of_a_clockwork_is_the_service_rate(n_gpus):
    # given D/D/c, in which nobody waits as long as the gap is at least service / c
    found = capacity(
        evenly(5.0), "static_fifo", n_gpus=n_gpus, target=Target(at_most=0), **(ONE_BY_ONE)
    )
    # then n requests at that gap come at n / (n - 1) times c / service
    known = 60 / 59 * n_gpus / SERVICE_S
    assert known / 1.02 <= found.interval.mean <= known * (1 + 1e-8)
    assert found.offered_load == pytest.approx(found.interval.mean * SERVICE_S / n_gpus)
    assert found.monotone


@pytest.mark.parametrize(("gap_s", "gpus"), [(2.0, 1), (1.0, 1), (0.5, 2), (0.3, 4), (0.15, 7)])
def test_gpus__of_a_clockwork_are_service_over_gap(gap_s, gpus):
    found = capacity(
        evenly(gap_s), "static_fifo", search="gpus", target=Target(at_most=0), **ONE_BY_ONE
    )
    assert found.per_replication == (gpus,)
    # and n requests at that gap are 60/59 per gap, of one second each
    assert found.offered_load == pytest.approx(60 / 59 / gap_s * SERVICE_S / gpus)


def test_latency_target__of_a_clockwork_is_its_last_wait():
    # given D/D/1 at gap g < 1: request i waits i (1 - g), so the 95th percentile over 60 is
    # 1 + 0.95 * 59 * (1 - g), at most 3 s from g = 1 - 2 / 56.05 on
    target = Target(metric="latency_p95_s", at_most=3.0)
    found = capacity(evenly(5.0), "static_fifo", n_gpus=1, target=target, **ONE_BY_ONE)
    known = 60 / 59 / (1 - 2 / (0.95 * 59))
    assert known / 1.02 <= found.interval.mean <= known * (1 + 1e-8)
    # and the 99th is later, so its capacity is smaller: g = 1 - 2 / 58.41
    target = Target(metric="latency_p99_s", at_most=3.0)
    found = capacity(
        evenly(5.0), "static_fifo", n_gpus=1, target=target, tolerance=1e-4, **ONE_BY_ONE
    )
    assert found.interval.mean == pytest.approx(60 / 59 / (1 - 2 / (0.99 * 59)), rel=1e-4)


def test_capacity__is_where_a_run_of_its_own_stays_within_the_target():
    (found,) = capacities(
        BUSY, ("multi_bin_dynamic",), replications=2, jobs=1, target=Target(at_most=0.2)
    )
    for seed, rate in zip(found.seeds, found.per_replication, strict=True):
        # given the same requests at the rate found, and at half as much again
        within, beyond = (
            simulate(at_rate(BUSY.load(seed), rate * factor), "multi_bin_dynamic", seed=seed)
            for factor in (1, 1.5)
        )
        assert within.metrics.sla_violation_rate <= 0.2
        assert len(within.requests) / np.ptp(within.requests.arrival_s) == pytest.approx(rate)
        assert found.monotone
        assert beyond.metrics.sla_violation_rate > 0.2


def test_capacity__grows_with_the_target():
    rates = [
        capacity(
            BUSY, "static_fifo", replications=1, jobs=1, target=Target(at_most=x)
        ).interval.mean
        for x in (0.1, 0.3, 0.6)
    ]
    assert rates[0] < rates[1] < rates[2]


# --------------------------------------------------------------------------- the search's rules


@pytest.mark.parametrize("known", [0.0031, 0.9, 1.0, 1.7, 500.0])
def test_rate_search__ends_within_the_tolerance(known):
    passes = found_by(lambda rate: rate <= known, rate=True)
    best, failing = edge(passes, harder_upwards=True)
    assert best is not None
    assert failing is not None
    assert best <= known < failing <= best * 1.02
    # 10 to bracket and log2(ln 2 / ln 1.02) = 5.1 to bisect
    assert len(passes) <= 1 + 10 + 6


@pytest.mark.parametrize("known", [*range(1, 20), 63, 64, 65, 100])
@pytest.mark.parametrize("start", [1, 5, 40])
def test_gpu_search__finds_every_number(known, start):
    passes = found_by(lambda gpus: gpus >= known, rate=False, start=start)
    assert edge(passes, harder_upwards=False)[0] == known


def test_search__gives_up_on_what_is_out_of_reach_or_unbounded():
    out_of_reach = found_by(lambda _: False, rate=True)
    assert edge(out_of_reach, harder_upwards=True)[0] is None
    assert min(out_of_reach) == 2**-10
    assert max(found_by(lambda _: True, rate=True)) == 2**10
    # of GPUs, infinitely many tell at once
    assert found_by(lambda _: False, rate=False, start=3) == {3.0: False, math.inf: False}


def test_rate_search__doubles_until_it_fails():
    assert list(found_by(lambda rate: rate <= 9, rate=True, tolerance=0.9)) == [
        1,
        2,
        4,
        8,
        16,
        128**0.5,
    ]


def test_search__begins_at_the_given_rate_and_then_at_offered_load_1(pretend):
    # given offered load rate / 10, and 60 requests at 60/59 per second
    tested = pretend(lambda rate, _seed: float(rate > 12))
    capacity(evenly(1.0), "static_fifo", replications=1, jobs=1)
    assert [value for _, _, value in tested[:3]] == pytest.approx([60 / 59, 10, 20])


def test_edge__counts_from_the_easy_end():
    passes = {1.0: True, 2.0: True, 3.0: False, 4.0: True}
    assert edge(passes, harder_upwards=True) == (2.0, 3.0)
    assert edge(passes, harder_upwards=False) == (4.0, 3.0)
    assert hardest_passing(passes, harder_upwards=True) == 4.0
    assert hardest_passing(passes, harder_upwards=False) == 1.0
    assert hardest_passing({1.0: False}, harder_upwards=True) is None


def test_capacity__lies_below_every_tested_failure_and_the_rest_is_told(pretend):
    # given a scheduler that fails around 5, and again from 10 on
    tested = pretend(lambda rate, _seed: float(4.5 < rate < 5.5 or rate > 10))
    found = capacity(evenly(1.0), "static_fifo", replications=1, jobs=1, tolerance=0.01)
    # then the check at half of 10 finds the hole, and the search goes on below it
    (value,) = found.per_replication
    assert 4.5 / 1.01 <= value <= 4.5
    (beyond,) = found.hardest_passing
    assert 10 / 1.01 <= beyond <= 10
    assert not found.monotone
    assert f"not monotone for seeds 0: {beyond:.4g} requests/s" in found.messages()[0]
    assert len(set(tested)) == len(tested) == found.n_runs


# --------------------------------------------------------------------- replications, confidence


def test_statements__are_the_t_interval_and_the_upper_limit_of_the_metric(pretend):
    # given a violation rate in proportion to the arrival rate, steeper in some replications
    slope = {0: 0.001, 1: 0.0012, 2: 0.0009, 3: 0.0011}
    tested = pretend(lambda rate, seed: slope[seed] * rate)
    found = capacity(BUSY, "static_fifo", replications=4, jobs=1, tolerance=0.001)
    # then each capacity is 0.01 / slope, and the interval is Student's
    for seed, value in enumerate(found.per_replication):
        assert 0.01 / slope[seed] / 1.001 <= value <= 0.01 / slope[seed]
    expected = stats.t.interval(
        0.95, 3, np.mean(found.per_replication), stats.sem(found.per_replication)
    )
    assert (found.interval.low, found.interval.high) == pytest.approx(expected)
    # and the assured rate is where mean + t(0.95, 3) standard errors meets the target
    slopes = list(slope.values())
    steepest = np.mean(slopes) + stats.t.ppf(0.95, 3) * stats.sem(slopes)
    assert found.assured is not None
    assert 0.01 / steepest / 1.001 <= found.assured <= 0.01 / steepest
    assert f"At {found.assured:.4g} requests/s the upper 95 % confidence" in found.statement()
    assert len(set(tested)) == len(tested) == found.n_runs


def test_gpus__are_assured_by_the_same_rule(pretend):
    need = {0: 5, 1: 6, 2: 6, 3: 5}
    pretend(lambda gpus, seed: 0.0 if gpus >= need[seed] else 0.02)
    found = capacity(BUSY, "static_fifo", replications=4, jobs=1, search="gpus")
    assert found.per_replication == (5, 6, 6, 5)
    assert found.interval.mean == 5.5
    # on 5 half the replications are at 2 %: mean 1 %, and its upper limit is above
    assert found.assured == 6


def test_runs__share_requests_and_noise_over_rates_and_schedulers(monkeypatch):
    seen: list[tuple[str, int, Any]] = []

    def spy(scenario, trace, **options):
        run = serve(scenario, trace, **options)
        seen.append((scenario.scheduler, scenario.seed, run.requests))
        return run

    monkeypatch.setattr(capacity_runs, "serve", spy)
    names = ("multi_bin_dynamic", "multi_bin_only")
    capacities(BUSY, names, replications=2, jobs=1, tolerance=0.2, target=Target(at_most=0.5))
    for seed in (0, 1):
        first, *others = [requests for _, one, requests in seen if one == seed]
        relative = first.arrival_s / first.arrival_s[-1]
        assert len(others) > 10
        for requests in others:
            assert (requests.output_tokens == first.output_tokens).all()
            assert (requests.predicted_tokens == first.predicted_tokens).all()
            np.testing.assert_allclose(requests.arrival_s / requests.arrival_s[-1], relative)
    # and another seed gives others
    tokens = [{r.output_tokens.tobytes() for _, s, r in seen if s == seed} for seed in (0, 1)]
    assert [len(one) for one in tokens] == [1, 1]
    assert tokens[0] != tokens[1]


def test_capacity__of_what_nothing_random_touches_is_searched_once(pretend):
    tested = pretend(lambda rate, _seed: rate / 1000)
    trace = BUSY.load(0)
    fifo, bins = capacities(trace, ("static_fifo", "multi_bin_dynamic"), replications=3, jobs=1)
    assert {seed for name, seed, _ in tested if name == "static_fifo"} == {0}
    assert {seed for name, seed, _ in tested if name == "multi_bin_dynamic"} == {0, 1, 2}
    assert not fifo.random
    assert fifo.interval.low == fifo.interval.high == fifo.assured
    assert "nothing here is random" in fifo.statement()
    assert bins.random


def test_capacity__does_not_depend_on_the_number_of_processes():
    names = ("static_fifo", "multi_bin_dynamic")
    options: dict[str, Any] = {"replications": 2, "tolerance": 0.1, "target": Target(at_most=0.3)}
    one, two = (capacities(BUSY, names, jobs=jobs, **options) for jobs in (1, 2))
    assert [found.to_dict() for found in one] == [found.to_dict() for found in two]
    assert one[0].per_replication[0] != one[0].per_replication[1]


def test_differences__are_paired(pretend):
    a, b, c = (
        _found(per_replication=values)
        for values in ((10.0, 20.0, 30.0), (11.0, 22.0, 31.0), (9.0, 21.0, 30.0))
    )
    first, second = differences((a, b, c))
    expected = stats.ttest_rel(b.per_replication, a.per_replication).confidence_interval(0.95)
    assert first.interval.mean == pytest.approx(4 / 3)
    assert (first.interval.low, first.interval.high) == pytest.approx(tuple(expected))
    assert first.verdict == "within the noise"
    assert second.interval.mean == 0


def _found(**fields: Any) -> Capacity:
    values = {
        **dict.fromkeys(Capacity.__dataclass_fields__, 0),
        "scheduler": "s",
        "search": "rate",
        "target": Target(),
        **fields,
    }
    return Capacity(**values)


# ------------------------------------------------------------------------ out of reach, unbounded


def test_target__that_a_lone_request_misses_is_out_of_reach():
    settings = Settings(batch_size=1, sla_s=SERVICE_S / 2)
    options = {**ONE_BY_ONE, "settings": settings}
    found = capacity(evenly(1.0), "static_fifo", **options)
    assert found.per_replication == (0,)
    assert "out of reach at any tested rate in 1 of 1 replications" in found.messages()[0]
    found = capacity(evenly(1.0), "static_fifo", search="gpus", **options)
    assert found.per_replication == (math.inf,)
    assert "out of reach on any number of GPUs" in found.messages()[0]
    assert found.to_dict()["capacity"] is None


def test_target__that_all_at_once_meet_is_unbounded():
    options = {**ONE_BY_ONE, "settings": Settings(batch_size=1, sla_s=61.0)}
    found = capacity(evenly(1.0), "static_fifo", n_gpus=1, **options)
    assert found.per_replication == (math.inf,)
    assert found.monotone
    assert "even when all 60 requests come nearly at once" in found.messages()[0]


def test_rejected_request__is_infinitely_late():
    # given one of 50 requests that never fits, so that the 99th percentile is its latency
    output = np.full(50, 10, np.int32)
    output[7] = 5000
    trace = Trace(
        arrival_s=np.arange(50.0), prompt_tokens=np.full(50, 10, np.int32), output_tokens=output
    )
    settings = Settings(capacity_tokens=1000)
    late, early = (
        capacity(
            trace,
            "dynamic_no_bins",
            settings=settings,
            target=Target(metric=m, at_most=1.0),
            jobs=1,
        )
        for m in ("latency_p99_s", "latency_p95_s")
    )
    assert late.unreachable == 5
    assert early.unreachable == 0


# -------------------------------------------------------------------------- arguments, warnings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedulers": ()}, "distinct names, got none"),
        ({"schedulers": ("static_fifo",) * 2}, "distinct names, got static_fifo, static_fifo"),
        ({"schedulers": ("fifo",)}, "fifo"),
        ({"search": "speed"}, "search must be one of rate, gpus; got 'speed'"),
        ({"n_gpus": math.inf}, "n_gpus must be finite and >= 1 to have a capacity, got inf"),
        ({"n_gpus": 0}, "got 0"),
        ({"replications": 0}, "replications must be >= 1, got 0"),
        ({"tolerance": 0}, "tolerance must be in"),
        ({"tolerance": 1}, "got 1"),
        ({"jobs": 0}, "jobs must be >= 1, got 0"),
    ],
)
def test_argument__out_of_range_is_refused(wrong, message):
    arguments: dict[str, Any] = {"schedulers": ("static_fifo",), **wrong}
    with pytest.raises(ValueError, match=message):
        capacities(evenly(1.0), **arguments)


@pytest.mark.parametrize(
    ("metric", "at_most", "message"),
    [
        ("goodput_rps", 1, "metric must be one of sla_violation_rate"),
        ("sla_violation_rate", 1, "must be in \\[0, 1\\), got 1"),
        ("sla_violation_rate", math.nan, "got nan"),
        ("latency_p95_s", -1, "must be finite and >= 0 s, got -1"),
        ("latency_p99_s", math.inf, "got inf"),
    ],
)
def test_target__out_of_range_is_refused(metric, at_most, message):
    with pytest.raises(ValueError, match=message):
        Target(metric=metric, at_most=at_most)


def test_trace__without_a_span_is_refused():
    with pytest.raises(TraceError, match="got 60 within 0 s"):
        capacity(evenly(0.0), "static_fifo")


@pytest.mark.parametrize("jobs", [1, 2])
def test_warning__of_many_runs_is_given_once(jobs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        capacity(
            Workload(source="poisson", requests=40, rps_scale=10.0),
            "static_fifo",
            latency="h100-llama-3-8b-vllm",
            replications=2,
            tolerance=0.5,
            jobs=jobs,
        )
    texts = [str(one.message) for one in caught]
    assert len([text for text in texts if "prompt tokens" in text]) <= 3  # one per axis set
    assert all("lie outside the range" in text for text in texts)
    assert any("runs that say so" in text for text in texts)


# --------------------------------------------------------------------------------- the command

COMMAND = (
    "capacity --trace poisson --requests 150 --rps-scale 10 --seeds 2 --tolerance 0.1 --jobs 1"
)


def invoked(more: str) -> Any:
    return CliRunner().invoke(main, [*COMMAND.split(), *more.split()])


@pytest.mark.parametrize(
    ("option", "target"),
    [
        ("", Target()),
        ("--target-violations 0.3", Target(at_most=0.3)),
        ("--target-p95 2", Target(metric="latency_p95_s", at_most=2.0)),
        ("--target-p99 2", Target(metric="latency_p99_s", at_most=2.0)),
    ],
)
def test_command__prints_what_the_library_finds(option, target):
    result = invoked(f"--schedulers static-fifo,dynamic-no-bins --json {option}")
    assert result.exit_code == 0, result.output
    found = capacities(
        Workload(source="poisson", requests=150, rps_scale=10.0),
        ("static_fifo", "dynamic_no_bins"),
        target=target,
        replications=2,
        tolerance=0.1,
        jobs=1,
    )
    shown = json.loads(result.stdout)
    assert shown["schedulers"] == [one.to_dict() for one in found]
    assert shown["differences"][0]["verdict"] == differences(found)[0].verdict


def test_command__says_what_its_figures_mean():
    result = invoked("--search gpus --target-violations 0.3")
    assert result.exit_code == 0, result.output
    assert "Fewest GPUs with violations <= 30 %, by search on 150 requests" in result.stdout
    assert "Against static_fifo, same requests [GPUs]" in result.stdout
    assert result.stdout.count("the upper 95 % confidence limit of the mean") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target-p95 1 --target-p99 1", "give one target, not --target-p95, --target-p99"),
        ("--search gpus --gpus 2", "--gpus is what --search gpus looks for"),
        ("--gpus inf", "n_gpus must be finite"),
        ("--schedulers static-fifo --bins 3", "--bins does nothing for static_fifo"),
    ],
)
def test_command__refuses_what_cannot_be(options, message):
    result = invoked(options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("options", ["", "--search gpus --seeds 1", "--target-p99 0.001"])
def test_curve__is_drawn_whatever_was_found(options, tmp_path: Path):
    path = tmp_path / "curve.svg"
    result = invoked(f"--schedulers static-fifo --capacity-curve {path} {options}")
    assert result.exit_code == 0, result.output
    assert "Offered load" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]
