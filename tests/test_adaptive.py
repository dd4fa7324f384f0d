"""`multi_bin_adaptive`: its service line, its plan, its choice, its edges, and what they buy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from llmsched import Binning, Settings, Trace, make_scheduler
from llmsched.engine.batch.run import run_engine
from llmsched.prediction.edges import assign_bins, rolling_bins
from llmsched.schedulers.adaptive import AdaptivePolicy, LearnedBin, ServiceLine
from llmsched.schedulers.base import Head, WaitingView
from llmsched.schedulers.scheduler import Scheduler
from llmsched.simulation.beliefs import scheduler_binning
from plan_world import plan_simulate as simulate


@dataclass
class FixedMemory:
    """A memory limit that learns nothing."""

    most: int = 1000

    def limit(self) -> int:
        return self.most

    def observe(self, batch: object) -> None:
        del batch


@dataclass
class Finished:
    size: int
    mean_tokens: float = 1.0
    mean_squared_tokens: float = 1.0


def learned(
    *batches: tuple[int, float], most: int = 1000, sla_s: float = 10.0, batch_max: int = 128
) -> LearnedBin:
    """A bin that has seen these batches: (size, service time)."""
    one = LearnedBin(FixedMemory(most), sla_s, batch_max)
    for size, service_s in batches:
        one.observe(Finished(size), service_s)
    return one


def chosen_of(
    *bins: LearnedBin, waited_s: list[float], counts: list[int]
) -> tuple[int, int] | None:
    """Bin and size that the policy plans, the oldest request of each bin having waited so long."""
    policy = AdaptivePolicy(10.0, FixedMemory, bins=list(bins))
    oldest_s = tuple(100.0 - wait_s for wait_s in waited_s)
    plan = policy.next_batch(WaitingView(tuple(counts), oldest_s), 100.0)
    return None if plan is None else (plan.bin, plan.size)


# ------------------------------------------------------------------------- the service line


def test_service_line__knows_nothing_before_the_first_batch():
    assert ServiceLine().service_s(7) == 0.0


def test_service_line__is_flat_through_a_single_batch():
    line = learned((4, 2.0)).line
    assert [line.service_s(size) for size in (1, 4, 9)] == [2.0, 2.0, 2.0]


def test_service_line__finds_a_line_whatever_the_order():
    # given T = 3 + 0.5 b
    line = learned(*((size, 3 + 0.5 * size) for size in (8, 2, 2, 16, 1, 5, 9, 4))).line
    for size in (1, 10, 100):
        assert line.service_s(size) == pytest.approx(3 + 0.5 * size, rel=1e-12)


@pytest.mark.parametrize(
    ("batches", "at_1", "at_8"),
    [
        (((2, 4.0), (4, 2.0)), 3.0, 3.0),  # falling: flat at the mean
        # T = 10 - 4·(4 - b) passes 0 above b = 1: through the origin instead, mean 6 at 3
        (((2, 2.0), (4, 10.0)), 2.0, 16.0),
    ],
)
def test_service_line__never_falls_nor_costs_more_per_request(batches, at_1, at_8):
    line = learned(*batches).line
    assert line.service_s(1) == pytest.approx(at_1, rel=1e-12)
    assert line.service_s(8) == pytest.approx(at_8, rel=1e-12)


def test_service_line__forgets():
    # given 50 batches of 1 s and then 50 of 2 s: 0.9^50 = 0.5 % of the first are left
    line = learned(*[(4, 1.0)] * 50, *[(4, 2.0)] * 50).line
    assert line.service_s(4) == pytest.approx(2.0 - 0.9**50, rel=1e-9)


# ------------------------------------------------------------------------------- the batch


LINE = ((2, 4.0), (6, 8.0))  # T = 2 + b


@pytest.mark.parametrize(
    ("waiting", "waited_s", "most", "planned"),
    [
        (5, 0.0, 1000, 5),  # 7 s: in time
        (8, 0.0, 1000, 8),  # 10 s: just
        (20, 0.0, 1000, 8),  # 22 s: shrunk to what meets 10 s
        (20, 2.0, 1000, 6),  # 8 s are left
        (20, 2.5, 1000, 5),  # a quarter of the SLA: still
        (20, 2.6, 1000, 20),  # more: the queue is the trouble
        (20, 0.0, 4, 4),  # memory first
        (3, 9.0, 1000, 3),  # late in any case
    ],
)
def test_plan__shrinks_only_where_shrinking_helps(waiting, waited_s, most, planned):
    one = learned(*LINE, most=most)
    assert one.plan(waiting, waited_s)[0] == planned


def test_plan__of_requests_that_cannot_meet_the_sla_takes_all():
    assert learned(*LINE, sla_s=2.9).plan(20, 0.0) == (20, 22.0)  # T(1) = 3 s
    assert learned(*LINE, sla_s=3.0).plan(20, 0.0) == (1, 3.0)


def test_plan__is_never_above_the_largest_batch():
    assert learned(sla_s=1.0, batch_max=7).plan(20, 0.0) == (7, 0.0)


# ------------------------------------------------------------------------------ the choice


def test_choice__takes_the_most_requests_per_gpu_second():
    # given T = 4 s and T = 1 s, nothing has waited: scores 6 and 2, then 1 and 2
    bins = learned((4, 4.0)), learned((4, 1.0))
    assert chosen_of(*bins, waited_s=[0.0, 0.0], counts=[6, 2]) == (0, 6)
    assert chosen_of(*bins, waited_s=[0.0, 0.0], counts=[1, 2]) == (1, 2)


def test_choice__is_drawn_by_the_wait_in_units_of_the_service():
    # given one request each of 4 s and 1 s: 1 + 3/4 loses to 1 + 1/1, 1 + 5/4 wins
    for waited_s, chosen in ((3.0, 1), (5.0, 0)):
        bins = learned((1, 4.0)), learned((1, 1.0))
        assert chosen_of(*bins, waited_s=[waited_s, 1.0], counts=[1, 1]) == (chosen, 1)


def test_choice__counts_the_hopeless_a_tenth():
    # given 12 s against an SLA of 10 s: 30 requests score 30·(12 + 0)/12/10 = 3
    bins = learned((4, 12.0)), learned((4, 1.0))
    for others, chosen in ((2, (0, 30)), (4, (1, 4))):
        assert chosen_of(*bins, waited_s=[0.0, 0.0], counts=[30, others]) == chosen
    # but they do not wait for ever
    assert chosen_of(*bins, waited_s=[120.0, 0.0], counts=[30, 4]) == (0, 30)


def test_choice__finds_out_about_a_bin_that_nobody_knows():
    bins = learned((1, 1.0)), learned()
    assert chosen_of(*bins, waited_s=[50.0, 0.0], counts=[100, 1]) == (1, 1)


def test_choice__is_none_when_nothing_waits_and_lowest_on_ties():
    bins = learned((1, 1.0)), learned((1, 1.0))
    assert chosen_of(*bins, waited_s=[1.0, 1.0], counts=[0, 0]) is None
    assert chosen_of(*bins, waited_s=[1.0, 1.0], counts=[3, 3]) == (0, 3)
    assert chosen_of(*bins, waited_s=[1.0, 1.0], counts=[0, 3]) == (1, 3)


# ------------------------------------------------------------------------- what it is told


@dataclass
class Watching:
    """Serves the first bin that is not empty and notes how long its oldest has waited."""

    seen: list[tuple[float, int, float]] = field(default_factory=list)

    def next_batch(self, waiting: WaitingView, now_s: float) -> Head:
        chosen = next(index for index, count in enumerate(waiting.counts) if count)
        self.seen.append((now_s, chosen, now_s - waiting.oldest_arrival_s[chosen]))
        return Head(chosen, 1)

    def observe(self, batch: object, service_s: float) -> None:
        pass


class Seconds:
    """Every batch takes 10 s."""

    def service_s(self, batch: object) -> float:
        return 10.0


@pytest.mark.parametrize("admission", ["together", "one-by-one"])
def test_ages__are_those_of_the_oldest_whenever_a_policy_is_asked(admission):
    # given requests at 0, 1, 2, 3, 4 and 99 s, every other one in bin 1, and batches of one
    trace = Trace(
        arrival_s=np.array([0.0, 1.0, 2.0, 3.0, 4.0, 99.0]),
        prompt_tokens=np.ones(6, dtype=np.int32),
        output_tokens=np.ones(6, dtype=np.int32),
    )
    watching = Watching()
    scheduler = Scheduler(policy=watching, sees="ages", binned=True)
    # when one GPU serves them, bin 0 first
    bins = np.array([0, 1, 0, 1, 0, 1], dtype=np.int32)
    run_engine(trace, bins, 2, scheduler, n_gpus=1, latency=Seconds(), admission=admission)
    # then it pulls at 0, 10, ..., 40 and, having idled, at 99; the oldest of the bin starts
    backlog = [(10, 0, 8), (20, 0, 16), (30, 1, 29), (40, 1, 37)]
    assert watching.seen == [(0, 0, 0), *backlog, (99, 1, 0)]


# -------------------------------------------------------------------------------- the edges


def test_rolling_bins__are_quantiles_of_what_came_before():
    # given 100 values in four bins, windows of 40, refreshed every 32
    values = np.random.default_rng(3).lognormal(0, 1, 100)
    bins, edges = rolling_bins(values, 4, window=40, every=32)
    expected = np.zeros(100, dtype=int)
    for first, end in ((16, 32), (32, 64), (64, 96), (96, 100)):
        recent = np.quantile(values[max(0, first - 40) : first], [0.25, 0.5, 0.75])
        expected[first:end] = assign_bins(values[first:end], recent)
    assert bins.tolist() == expected.tolist()
    assert edges.tolist() == np.quantile(values[56:96], [0.25, 0.5, 0.75]).tolist()


def test_rolling_bins__know_nothing_of_later_requests():
    values = np.random.default_rng(4).lognormal(0, 1, 5000)
    bins, _ = rolling_bins(values, 4)
    for n in (10, 17, 700, 3000):
        assert rolling_bins(values[:n], 4)[0].tolist() == bins[:n].tolist()


def test_rolling_bins__follow_traffic_that_changes():
    # given requests that become 100 times as long half way
    lengths = np.random.default_rng(5).lognormal(0, 1, 20_000)
    lengths[10_000:] *= 100
    # then the last quarter is spread evenly again: 4 standard errors of a share of 1/4
    share = np.bincount(rolling_bins(lengths, 4)[0][15_000:], minlength=4) / 5000
    # the edges, too, are estimates, from 2048 values each
    error = math.sqrt(0.25 * 0.75 * (1 / 5000 + 1 / 2048))
    assert np.abs(share - 0.25).max() < 4 * error


@pytest.mark.parametrize("n", [0, 1, 16])
def test_rolling_bins__are_one_bin_until_something_is_known(n):
    bins, edges = rolling_bins(np.arange(float(n)), 4)
    assert bins.tolist() == [0] * n
    assert len(edges) == 0


def test_adaptive__bins_by_service_and_follows_unless_told_otherwise():
    adaptive, plain = make_scheduler("multi_bin_adaptive"), make_scheduler("multi_bin_dynamic")
    found = scheduler_binning(adaptive, Binning(n_bins=8))
    assert (found.n_bins, found.by, found.rule) == (8, "service", "rolling")
    found = scheduler_binning(adaptive, Binning(by="total", rule="equal-mass"))
    assert (found.by, found.rule) == ("total", "equal-mass")
    found = scheduler_binning(adaptive, Binning(by="output", edges=(10.0, 20.0)))
    assert (found.by, found.edges) == ("output", (10.0, 20.0))
    found = scheduler_binning(plain, Binning())
    assert (found.by, found.rule) == ("output", "equal-mass")


# ------------------------------------------------------------------------------- the whole


def traffic(n: int, rate_per_s: float, seed: int) -> Trace:
    """Poisson arrivals of lognormal lengths, much like conversations."""
    rng = np.random.default_rng(seed)
    return Trace(
        arrival_s=np.append(0.0, np.cumsum(rng.exponential(1 / rate_per_s, n - 1))),
        prompt_tokens=np.minimum(rng.lognormal(6.3, 1.0, n), 8000).astype(np.int32),
        output_tokens=np.minimum(rng.lognormal(5.0, 0.8, n), 2000).astype(np.int32),
    )


def test_adaptive__violates_less_than_the_same_bins_in_turn():
    """On the traffic that it was tuned on, at ρ about 0.5: paired, over 6 seeds."""
    gains = []
    for seed in range(6):
        trace = traffic(3000, 70.0, seed)
        rival = simulate(
            trace, binning=Binning(by="service"), settings=Settings(controller="none"), seed=seed
        )
        ours = simulate(trace, "multi_bin_adaptive", seed=seed)
        gains.append(rival.metrics.sla_violation_rate - ours.metrics.sla_violation_rate)
    assert np.mean(gains) > 4 * np.std(gains, ddof=1) / math.sqrt(len(gains))


def test_adaptive__does_not_shrink_batches_of_a_bin_that_cannot_meet_the_sla():
    # given requests of which none meets 10 ms even alone, so many that queues build
    trace = traffic(2000, 200.0, 1)
    settings = Settings(sla_s=0.01)
    ours = simulate(trace, "multi_bin_adaptive", settings=settings).metrics
    spiral = simulate(trace, binning=Binning(by="service"), settings=settings).metrics
    assert ours.batch_size_mean > 2 * spiral.batch_size_mean
    assert ours.throughput_rps > spiral.throughput_rps


def test_adaptive__bins_do_not_depend_on_later_requests():
    trace = traffic(2000, 50.0, 2)
    run = simulate(trace, "multi_bin_adaptive", predictor="oracle")
    early = simulate(trace.take(slice(900)), "multi_bin_adaptive", predictor="oracle")
    assert early.requests.bin.tolist() == run.requests.bin[:900].tolist()
    assert len(run.edges) == 3
