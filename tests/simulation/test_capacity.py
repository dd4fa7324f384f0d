"""Capacity: known ones found, the search's rules, common random numbers, confidence, command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from llmsched import Scenario, Settings, Slo, Trace, TraceError, Workload, simulate
from llmsched.cli.main import main
from llmsched.metrics.intervals import mean_interval
from llmsched.simulation.capacity import tested as capacity_tested
from llmsched.simulation.capacity.capacity import capacities, capacity
from llmsched.simulation.capacity.plan import plan
from llmsched.simulation.capacity.results import differences
from llmsched.simulation.capacity.root import Curve, Root, next_rate_for_root, root_of
from llmsched.simulation.capacity.search import edge, next_gpus, next_rate
from llmsched.simulation.capacity.statements import messages, statement
from llmsched.simulation.capacity.target import Target

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

    def put(metric, requests: int = 200) -> list[tuple[int, float]]:
        tested: list[tuple[int, float]] = []

        def test(self: Any, value: float) -> None:
            if value in self.rows:
                return
            seeds = [one.scenario.seed for one in self.replications]
            tested.extend((seed, value) for seed in seeds)
            shared = {"requests": requests, "rejected": 0, "offered_load": value / 10}
            self.rows[value] = [
                {"sla_violation_rate": metric(value, seed), **shared} for seed in seeds
            ]

        monkeypatch.setattr(capacity_tested.Tested, "test", test)
        return tested

    return put


# ---------------------------------------------------------------------------- capacities known


@pytest.mark.parametrize("n_gpus", [1, 3])
def test_rate__of_a_clockwork_is_the_service_rate(n_gpus):
    # given D/D/c, in which nobody waits as long as the gap is at least service / c
    found = capacity(
        evenly(5.0), "static_fifo", n_gpus=n_gpus, target=Target(at_most=0), **ONE_BY_ONE
    )
    # then requests come at c / service, the rate of their gaps
    known = n_gpus / SERVICE_S
    assert known / 1.02 <= found.value <= known * (1 + 1e-8)
    assert found.offered_load == pytest.approx(found.value * SERVICE_S / n_gpus)


@pytest.mark.parametrize(("gap_s", "gpus"), [(2.0, 1), (1.0, 1), (0.5, 2), (0.3, 4), (0.15, 7)])
def test_gpus__of_a_clockwork_are_service_over_gap(gap_s, gpus):
    found = capacity(
        evenly(gap_s), "static_fifo", search="gpus", target=Target(at_most=0), **ONE_BY_ONE
    )
    assert found.value == gpus
    assert found.offered_load == pytest.approx(SERVICE_S / gap_s / gpus)


def test_latency_target__of_a_clockwork_is_its_last_wait():
    # given D/D/1 at gap g < 1: request i waits i (1 - g), so the 95th percentile over 60 is
    # 1 + 0.95 * 59 * (1 - g), at most 3 s up to the rate 1 / g = 1 / (1 - 2 / 56.05)
    options = {**ONE_BY_ONE, "settings": Settings(batch_size=1)}
    for metric, share in (("latency_p95_s", 0.95), ("latency_p99_s", 0.99)):
        target = Target(metric=metric, at_most=3.0)  # type: ignore[arg-type]
        found = capacity(
            evenly(5.0), "static_fifo", n_gpus=1, target=target, tolerance=1e-3, **options
        )
        assert found.value == pytest.approx(1 / (1 - 2 / (share * 59)), rel=1e-3)
        assert found.sla_s == 3.0  # schedulers are told the target


def test_capacity__is_where_the_mean_of_runs_of_its_own_meets_the_target():
    options: dict[str, Any] = {"latency": "reference", "slo": 1.0}
    target = Target(at_most=0.2)
    found = capacity(BUSY, "multi_bin_dynamic", replications=2, jobs=1, target=target, **options)

    def mean_at(factor: float) -> float:
        workload = replace(BUSY, rps_scale=None, rate_per_s=found.value * factor)
        runs = [
            simulate(workload, "multi_bin_dynamic", seed=seed, **options) for seed in found.seeds
        ]
        return float(np.mean([run.metrics.sla_violation_rate for run in runs]))

    assert mean_at(1 / 1.02) <= 0.2
    assert mean_at(1.3) > 0.2


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


def test_edge__counts_from_the_easy_end():
    passes = {1.0: True, 2.0: True, 3.0: False, 4.0: True}
    assert edge(passes, harder_upwards=True) == (2.0, 3.0)
    assert edge(passes, harder_upwards=False) == (4.0, 3.0)


def test_capacity__lies_below_every_tested_failure(pretend):
    # given a scheduler that fails around 8, and again from 10 on
    pretend(lambda rate, _seed: float(7.5 < rate < 9.5 or rate > 10))
    found = capacity(evenly(1.0), "static_fifo", replications=1, jobs=1, tolerance=0.01)
    # then the check at 0.9 of 10 finds the hole, and the search goes on below it
    assert 7.5 / 1.01 <= found.value <= 7.5 * 1.01


# ----------------------------------------------------------------------------- root and interval


def test_root_search__closes_in_faster_than_bisection():
    curve = Curve(at_most=0.05, least=1e-4)
    for known in (0.3, 1.0, 7.0):
        tests: dict[float, np.ndarray] = {}
        while (rate := next_rate_for_root(tests, curve, start=1.0, tolerance=0.02)) is not None:
            late = 1 / (1 + 19 * (known / rate) ** 4)  # 5 % at the known rate
            tests[rate] = np.array([late, late])
        assert root_of(tests, curve).rate == pytest.approx(known, rel=1e-3)
        assert len(tests) <= 8


def test_root__is_that_of_the_mean_and_its_error_that_of_the_replications():
    # given violations of (rate / c)^2 with other c in each replication, so that the mean meets 1 %
    # at 0.1 / sqrt(mean of 1 / c^2)
    c = np.array([1.0, 1.2, 0.9, 1.1])
    rates = np.geomspace(0.05, 0.2, 41)
    tests = {float(rate): (rate / c) ** 2 for rate in rates}
    curve = Curve(at_most=0.01, least=1e-9)
    root = root_of(tests, curve)
    assert root.rate == pytest.approx(0.1 / math.sqrt(np.mean(c**-2)), rel=1e-3)
    # then log(root) = const - log(mean of 1 / c^2) / 2, whose error is known from the mean's
    weights = c**-2
    error = stats.sem(weights) / weights.mean() / 2
    assert stats.sem(root.deviations) == pytest.approx(error, rel=0.05)
    # whatever noise tests have that lie side by side: the slope is that of tests apart
    beside = root.rate * 0.999
    tests[beside] = 0.98 * (beside / c) ** 2
    assert stats.sem(root_of(tests, curve).deviations) == pytest.approx(error, rel=0.05)
    # and a replication that is worse than the mean pulls the root down
    assert (np.sign(root.deviations) == np.sign(weights.mean() - weights)).all()


def test_interval__holds_the_true_root_in_95_of_100():
    # given violations that are binomial, of 1000 requests in 10 replications, about a known curve
    rng, n_tries = np.random.default_rng(7), 1000
    rates, known = np.geomspace(0.8, 1.25, 11), 1.0
    late = 1 / (1 + 19 * (known / rates) ** 4)
    curve, held = Curve(at_most=0.05, least=5e-5), 0
    for _ in range(n_tries):
        noise = rng.normal(0.0, 0.3, 10)  # of each replication, at every rate
        odds = (late / (1 - late))[:, None] * np.exp(noise) / np.exp(0.3**2 / 2)
        tests = dict(zip(rates.tolist(), rng.binomial(1000, odds / (1 + odds)) / 1000, strict=True))
        root = root_of(tests, curve)
        found = root.interval(confidence=0.95)
        held += found.low <= math.log(known) <= found.high
    assert 0.92 <= held / n_tries <= 0.98


def test_statements__are_the_interval_and_the_upper_limit_of_the_metric(pretend):
    # given a violation rate in proportion to the arrival rate, steeper in some replications
    slopes = [0.001, 0.0012, 0.0009, 0.0011]
    tested = pretend(lambda rate, seed: min(slopes[seed] * rate, 1.0), requests=10**6)
    found = capacity(BUSY, "static_fifo", replications=4, jobs=1, tolerance=0.001, slo=100.0)
    assert found.value == pytest.approx(0.01 / np.mean(slopes), rel=1e-3)
    assert found.offered_load == pytest.approx(found.value / 10, rel=1e-9)
    assert found.interval.low < found.value < found.interval.high
    # resamples of one trace say no more than the trace does: wider than Student's by sqrt(n + 1)
    wider, usual = replace(found, resampled=True).interval, mean_interval(found.root.logarithms)
    times = math.log(wider.high / wider.low) / (usual.high - usual.low)
    assert times == pytest.approx(math.sqrt(5))
    # then the assured rate is where mean + t(0.95, 3) standard errors meets the target
    steepest = np.mean(slopes) + stats.t.ppf(0.95, 3) * stats.sem(slopes)
    assert found.assured is not None
    assert 0.01 / steepest / 1.001 <= found.assured <= 0.01 / steepest * (1 + 1e-9)
    assert f"At {found.assured:.4g} requests/s the upper 95 % confidence" in statement(found)
    # and only the replication that brackets for all is run at rates of its own
    assert len([one for one in tested if one[0] == 3]) == found.n_runs / 4


def test_interval__is_wider_where_violations_come_in_one_replication():
    # given five replications at a rate that meets 1 %, one alone late or all alike
    def root(shares: list[float]) -> Root:
        tests = {rate: np.array(shares) * 0.01 * rate**3 for rate in (0.9, 0.99, 1.01, 1.1)}
        return root_of(tests, Curve(at_most=0.01, least=1e-5))

    one, alike = root([5, 0, 0, 0, 0]), root([0.8, 0.9, 1.0, 1.1, 1.2])
    assert one.rate == pytest.approx(alike.rate)
    assert one.effective_n == pytest.approx(1)
    assert alike.effective_n == pytest.approx(5 / (1 + 0.02))
    # then t has one degree of freedom, and four, of which 95 % quantiles are 12.706 and 2.776
    for found, dof in ((one, 1.0), (alike, 4.0)):
        usual = mean_interval(found.logarithms, skewed=True, dof=dof)
        assert found.interval(confidence=0.95) == usual
    assert one.interval(confidence=0.95).low < mean_interval(one.logarithms).low
    # and a target below half a request of all, met by no late ones, has no interval
    none = root_of({0.9: np.zeros(5), 1.1: np.full(5, 0.1)}, Curve(at_most=1e-6, least=1e-5))
    assert np.isnan(none.deviations).all()


def test_gpus__are_whole_and_say_in_how_many_replications_they_suffice(pretend):
    need = {0: 5, 1: 6, 2: 6, 3: 5}
    pretend(lambda gpus, seed: 0.0 if gpus >= need[seed] else 0.021)
    found = capacity(BUSY, "static_fifo", replications=4, jobs=1, search="gpus", slo=100.0)
    # on 5 half the replications are at 2.1 %: the mean is above 1 %
    assert found.value == found.assured == 6
    assert statement(found) == "6 GPUs (met in 4 of 4 replications; 5: in 2 of 4)."
    assert math.isnan(found.interval.low)


def test_gpus__are_searched_at_one_rate_where_a_load_is_held():
    # given a load that is held on 4 GPUs: on 8 it would bring twice the rate, and never be met
    scenario = Scenario(workload=Workload(requests=100, offered_load=0.6), scheduler="static_fifo")
    rate_per_s = scenario.on(4).requests().arrival_rate_per_s
    one = capacity_tested.Replication(scenario=scenario, own_rate_per_s=rate_per_s)
    on_8 = capacity_tested.scenario_at(one, 8.0, "gpus")
    assert on_8.hardware.n_gpus == 8
    assert on_8.requests().arrival_rate_per_s == pytest.approx(rate_per_s)


def test_differences__are_paired_typical_ratios(pretend):
    pretend(lambda rate, seed: min(0.001 * (1 + 0.5 * seed) * rate, 1.0), requests=10**6)
    names = ("static_fifo", "multi_bin_dynamic")
    fifo, bins = capacities(BUSY, names, replications=4, jobs=1, slo=100.0)
    (line,) = differences((fifo, bins))
    # given the same in every replication, the difference is none, though each varies
    assert fifo.interval.high > 1.2 * fifo.interval.low
    assert line.interval.mean == pytest.approx(0, abs=1e-9)
    assert line.verdict == "equal"
    assert line.metric == "capacity_rps"
    # and one that takes twice the rate in every replication is better by exactly that
    (line,) = differences((fifo, replace(bins, root=replace(bins.root, rate=2 * bins.value))))
    assert (line.interval.mean, line.interval.high) == pytest.approx((1, 1), abs=1e-9)
    assert line.verdict == "better"
    assert mean_interval(fifo.root.deviations).mean == pytest.approx(0, abs=1e-12)


def test_capacity__of_what_nothing_random_touches_is_searched_once(pretend):
    tested = pretend(lambda rate, _seed: min(rate / 1000, 1.0))
    found = capacity(BUSY.load(0), "static_fifo", replications=3, jobs=1)
    assert {seed for seed, _ in tested} == {0}
    assert not found.random
    assert found.assured is None
    assert "nothing here is random" in statement(found)


def test_capacity__does_not_depend_on_the_number_of_processes(tmp_path):
    options: dict[str, Any] = {"replications": 2, "tolerance": 0.1, "target": Target(at_most=0.3)}
    names = ("static_fifo", "multi_bin_dynamic")
    one = capacities(BUSY, names, jobs=1, out=tmp_path / "runs", **options)
    two = capacities(BUSY, names, jobs=2, **options)
    assert [found.to_dict() for found in one] == [found.to_dict() for found in two]
    # and a second start does no run again
    again: list[Any] = []
    capacities(BUSY, names, jobs=1, out=tmp_path / "runs", on_done=again.append, **options)
    assert not again


# ------------------------------------------------------------------------ out of reach, unbounded


@pytest.mark.parametrize("search", ["rate", "gpus"])
def test_target__below_the_floor_is_refused_before_any_run(pretend, search):
    tested = pretend(lambda _value, _seed: 0.0)
    options = {**ONE_BY_ONE, "settings": Settings(batch_size=1, sla_s=SERVICE_S / 2)}
    found = capacity(evenly(1.0), "static_fifo", search=search, **options)
    assert not found.reachable
    assert not tested
    assert found.floor.share == 1
    assert "below the floor" in messages(found)[0]
    assert found.to_dict()["capacity"] in (None, 0.0)


def test_target__that_all_at_once_meet_is_unbounded():
    options = {**ONE_BY_ONE, "settings": Settings(batch_size=1, sla_s=61.0)}
    found = capacity(evenly(1.0), "static_fifo", n_gpus=1, **options)
    assert found.unbounded
    assert "even when all 60 requests come nearly at once" in messages(found)[0]


def test_rejected_request__is_infinitely_late():
    # given one of 50 requests that never fits, so that the 99th percentile is its latency
    output = np.full(50, 10, np.int32)
    output[7] = 5000
    trace = Trace(
        arrival_s=np.arange(50.0), prompt_tokens=np.full(50, 10, np.int32), output_tokens=output
    )
    options: dict[str, Any] = {"settings": Settings(capacity_tokens=1000), "jobs": 1}
    late, early = (
        capacity(trace, "dynamic_no_bins", target=Target(metric=m, at_most=3.0), **options)
        for m in ("latency_p99_s", "latency_p95_s")
    )
    assert not late.reachable
    assert early.reachable


def test_plan__says_the_answer_in_a_sentence(pretend):
    need = {"static_fifo": 9, "multi_bin_dynamic": 7}
    pretend(lambda gpus, seed: 0.2 if gpus < need[NAME[0]] - (seed < 7) else 0.0)
    NAME[:] = ["multi_bin_dynamic"]
    found = plan(BUSY, NAME, replications=10, price_per_gpu_hour=2.0)
    assert found.sentence().endswith(
        "95 % within 10 s: 7 GPUs with multi_bin_dynamic "
        "(met in 10 of 10 replications; 6: in 7 of 10)."
    )
    assert found.sentence().startswith("Your traffic (")
    assert found.cost_sentence() == "Cost an hour at 2 a GPU: multi_bin_dynamic 14."
    in_pairs = replace(found, gpus_per_model=2)
    assert "7 groups of 2 GPUs" in in_pairs.sentence()
    assert in_pairs.cost_per_hour(found.found[0]) == 28


NAME = ["static_fifo"]


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
        ({"replications": 0}, "replications must be a whole number >= 1, got 0"),
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
    assert shown["differences"] == [one.to_dict() for one in differences(found)]


def test_command__answers_in_its_first_line():
    result = invoked("--search gpus --target-violations 0.3")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Fewest GPUs with 70 % within 10 s: ")
    assert result.stdout.count("met in ") == 3


def test_plan_command__says_the_sentence_first_and_draws(tmp_path: Path):
    path = tmp_path / "plan.svg"
    result = CliRunner().invoke(
        main,
        f"plan --trace poisson --requests 150 --rate 20 --seeds 2 --schedulers static-fifo "
        f"--jobs 1 --figure {path}".split(),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Your traffic (20 requests/s, as asked for) on h100-sxm")
    assert "Alone on an idle GPU the 95th percentile is" in result.stdout
    assert path.stat().st_size > 0


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


@pytest.mark.parametrize("options", ["--target-p99 60", "--search gpus --sla 20", "--sla 900"])
def test_curve__is_drawn_whatever_was_found(options, tmp_path: Path):
    path = tmp_path / "curve.svg"
    result = invoked(f"--schedulers static-fifo --capacity-curve {path} {options}")
    assert result.exit_code == 0, result.output
    assert "Offered load" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_curve__of_what_was_not_run_is_no_figure(tmp_path: Path):
    path = tmp_path / "curve.svg"
    result = invoked(f"--schedulers static-fifo --capacity-curve {path} --target-p99 0.001")
    assert result.exit_code == 0, result.output
    assert "No figure: the target is below the floor" in result.stderr
    assert not path.exists()


def test_plan__takes_a_first_token_for_what_it_is_where_tokens_come_one_by_one() -> None:
    """It was held against the whole latency: 0.4 s was out of reach where 20 ms were needed."""
    workload = Workload(source="poisson", requests=40, rps_scale=1.0)
    found = plan(
        workload, ["continuous_static"], slo=Slo(latency_s=300.0, ttft_s=0.4), replications=1
    )
    assert found.reachable
    assert "95 % within 300 s, first token within 0.4 s: " in found.sentence()
