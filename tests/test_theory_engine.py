"""The engine against closed forms: the Multi-Bin paper's, and classic queues at batch size 1.

Tolerances are standard errors over independent replications, 4 of them: with t_29 a false alarm in
2,500, were the seeds not fixed.  End effects are kept out, not tolerated: with all requests at time
0, or in a lemma about full batches, the number of requests fills every batch of every bin; queues
that start empty drop a warm-up of many relaxation times.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmsched import Binning, Settings
from llmsched.theory.distributions import Exponential, Lognormal, ServiceLaw, Uniform
from llmsched.theory.multi_bin import uniform_latency_s, uniform_throughput_per_s
from llmsched.theory.queueing import mg1_wait_s, mmc_wait_s
from llmsched.theory.service_laws import drawn_trace
from plan_world import plan_simulate as simulate

pytestmark = pytest.mark.theory

BATCH_SIZE = 128
LOW_S, HIGH_S = 1.0, 20.0
REPLICATIONS = 30
LAWS = (Uniform(1.0, 20.0), Exponential(10.0), Lognormal(10.0, 0.5))


def multi_bin(n_bins, n_requests, *, arrival_rate_per_s, n_gpus, seed):
    """One run of the paper's Algorithm 1 on U(1, 20) service times."""
    rng = np.random.default_rng(np.random.SeedSequence([42, seed]))
    return simulate(
        drawn_trace(
            Uniform(LOW_S, HIGH_S), n_requests, arrival_rate_per_s=arrival_rate_per_s, rng=rng
        ),
        "multi_bin_only",
        n_gpus=n_gpus,
        latency="drawn",
        predictor="oracle",
        binning=Binning(n_bins=n_bins, by="service"),
        settings=Settings(batch_size=BATCH_SIZE),
    )


def mean_wait_s(scheduler, law: ServiceLaw, utilization, *, n_servers, n_requests, warm_up, seed):
    """Mean wait of the requests after the warm-up, one request at a time on each server."""
    rng = np.random.default_rng(np.random.SeedSequence([43, seed]))
    rate = utilization * n_servers / law.mean_s
    run = simulate(
        drawn_trace(law, n_requests, arrival_rate_per_s=rate, rng=rng),
        scheduler,
        n_gpus=n_servers,
        latency="drawn",
        predictor="oracle",
        settings=Settings(batch_size=1, batch_max=1, controller="none"),
    )
    return float((run.requests.start_s - run.requests.arrival_s)[warm_up:].mean())


def assert_within_4_standard_errors(samples, expected, *, most_relative_error):
    """Also that the standard error is small enough for this to mean something."""
    samples = np.asarray(samples)
    standard_error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert abs(samples.mean() - expected) <= 4 * standard_error
    assert abs(samples.mean() / expected - 1) <= most_relative_error


@pytest.mark.parametrize("n_bins", [1, 2, 3, 4, 5, 8, 16, 32])
def test_saturated_throughput__is_theorem_4_2(n_bins):
    # given requests enough to fill every batch of every bin, all there at time 0
    n_requests = BATCH_SIZE * 480  # 480 batches: a multiple of all these numbers of bins
    # when one server serves them
    samples = []
    for seed in range(REPLICATIONS):
        run = multi_bin(n_bins, n_requests, arrival_rate_per_s=math.inf, n_gpus=1, seed=seed)
        assert (run.batches.size == BATCH_SIZE).all()
        samples.append(run.metrics.throughput_rps)
    # then theory is within 4 standard errors, and within 0.5 %
    expected = float(uniform_throughput_per_s(n_bins, BATCH_SIZE, low_s=LOW_S, high_s=HIGH_S))
    assert_within_4_standard_errors(samples, expected, most_relative_error=0.005)


@pytest.mark.parametrize("arrival_rate_per_s", [1.0, 4.0, 12.0])
@pytest.mark.parametrize("n_bins", [1, 2, 3])
def test_latency_with_unlimited_servers__is_lemma_5_1(n_bins, arrival_rate_per_s):
    # given Poisson arrivals, with no partly full batch left at the end
    n_requests = BATCH_SIZE * 240
    # when no batch ever waits for a server
    samples = []
    for seed in range(REPLICATIONS):
        run = multi_bin(
            n_bins, n_requests, arrival_rate_per_s=arrival_rate_per_s, n_gpus=math.inf, seed=seed
        )
        assert (run.batches.size == BATCH_SIZE).all()
        samples.append(run.metrics.latency_mean_s)
    # then latency is the batch's own time and the wait until it is full
    expected = float(
        uniform_latency_s(
            n_bins,
            BATCH_SIZE,
            low_s=LOW_S,
            high_s=HIGH_S,
            arrival_rate_per_s=arrival_rate_per_s,
        )
    )
    assert_within_4_standard_errors(samples, expected, most_relative_error=0.01)


# An M/M/1 relaxes in about 1/(1 - sqrt(rho))^2 services: 5, 20 and 380 of them; the warm-up is at
# least ten times as long. At 0.9 the mean wait of 16,000 requests still varies by 17 % from run to
# run.
RUN_LENGTHS = {0.3: (3_000, 100), 0.6: (5_000, 200), 0.9: (20_000, 4_000)}
MOST_RELATIVE_ERROR = {0.3: 0.05, 0.6: 0.05, 0.9: 0.10}


@pytest.mark.parametrize("utilization", RUN_LENGTHS)
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_wait_of_one_server__is_pollaczek_khinchine(law, utilization):
    n_requests, warm_up = RUN_LENGTHS[utilization]
    samples = [
        mean_wait_s(
            "static_fifo",
            law,
            utilization,
            n_servers=1,
            n_requests=n_requests,
            warm_up=warm_up,
            seed=seed,
        )
        for seed in range(REPLICATIONS)
    ]
    expected = float(
        mg1_wait_s(utilization / law.mean_s, mean_s=law.mean_s, variance_s2=law.variance_s2)
    )
    assert_within_4_standard_errors(
        samples, expected, most_relative_error=MOST_RELATIVE_ERROR[utilization]
    )


@pytest.mark.parametrize("utilization", RUN_LENGTHS)
@pytest.mark.parametrize("n_servers", [2, 8])
def test_wait_of_several_servers__is_erlang_c(n_servers, utilization):
    n_requests, warm_up = RUN_LENGTHS[utilization]
    law = Exponential(10.0)
    samples = [
        mean_wait_s(
            "dynamic_no_bins",
            law,
            utilization,
            n_servers=n_servers,
            n_requests=n_requests,
            warm_up=warm_up,
            seed=seed,
        )
        for seed in range(REPLICATIONS)
    ]
    expected = float(
        mmc_wait_s(utilization * n_servers / law.mean_s, mean_s=law.mean_s, n_servers=n_servers)
    )
    # at 0.3 hardly any request waits for one of 8, so few long waits decide
    rare = n_servers == 8 and utilization == 0.3
    assert_within_4_standard_errors(
        samples, expected, most_relative_error=0.5 if rare else MOST_RELATIVE_ERROR[utilization]
    )


@pytest.mark.parametrize("scheduler", ["dynamic_no_bins", "multi_bin_dynamic", "multi_bin_only"])
def test_schedulers__are_one_fifo_queue_at_batch_size_1(scheduler):
    # given one request at a time, which makes every FIFO scheduler without bins the same queue
    options = {"n_servers": 1, "n_requests": 2_000, "warm_up": 0, "seed": 1}
    law = Lognormal(10.0, 0.5)
    expected = mean_wait_s("static_fifo", law, 0.8, **options)
    # then they agree, request by request, where bins do not change the order
    if scheduler.startswith("multi_bin"):
        rng = np.random.default_rng(np.random.SeedSequence([43, 1]))
        trace = drawn_trace(law, 2_000, arrival_rate_per_s=0.8 / law.mean_s, rng=rng)
        run = simulate(
            trace,
            scheduler,
            n_gpus=1,
            latency="drawn",
            predictor="oracle",
            binning=1,
            settings=Settings(batch_size=1, batch_max=1, controller="none"),
        )
        assert run.metrics.queueing_mean_s == expected
    else:
        assert mean_wait_s(scheduler, law, 0.8, **options) == expected
