"""The classic queues against hand-worked values, brute force and queues played out by recursion."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmsched.theory.distributions import Lognormal
from llmsched.theory.queueing import (
    batch_server,
    constant_batch_server,
    erlang_c,
    linear_batch_latency_bound_s,
    md1_wait_s,
    mg1_wait_s,
    mmc_wait_s,
)

LINEAR = {"per_request_s": 0.5, "setup_s": 1.0}


def standard_error(samples, n_batches=50):
    """Of the mean of correlated samples, from the means of long stretches."""
    stretches = samples[: len(samples) // n_batches * n_batches].reshape(n_batches, -1)
    return stretches.mean(axis=1).std(ddof=1) / math.sqrt(n_batches)


def played_out(rate, service_s, n_requests, rng):
    """Waits, and start and size of each batch, of a GPU that takes all who wait, batch by batch."""
    arrival_s = np.cumsum(rng.exponential(1 / rate, n_requests))
    start_s, batches = np.empty(n_requests), []
    free_s, first = 0.0, 0
    while first < n_requests:
        now_s = max(free_s, arrival_s[first])
        end = min(int(np.searchsorted(arrival_s, now_s, side="right")), first + len(service_s))
        start_s[first:end] = now_s
        free_s = now_s + service_s[end - first - 1]
        batches.append((now_s, end - first))
        first = end
    batch_start_s, sizes = np.array(batches).T
    return start_s - arrival_s, batch_start_s, sizes


# ---- one at a time


def test_md1__hand_worked():
    # rho = 1/2: half a service time; rho = 0.9: 4.5 of them
    np.testing.assert_allclose(md1_wait_s([0.0, 0.25, 0.45], service_s=2.0), [0.0, 1.0, 9.0])


def test_mg1__of_exponential_times_is_m_m_1():
    # rho/(mu - lambda), twice the wait of M/D/1
    rates = np.array([0.15, 0.3, 0.45])
    found = mg1_wait_s(rates, mean_s=2.0, variance_s2=4.0)
    np.testing.assert_allclose(found, 2 * rates / (0.5 - rates))
    np.testing.assert_allclose(found, 2 * md1_wait_s(rates, service_s=2.0))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_mg1__is_the_wait_of_lindleys_recursion(rho):
    # given M/G/1 with lognormal times, 400,000 requests
    law, rng = Lognormal(2.0, 0.5), np.random.default_rng(23)
    n, rate = 400_000, rho / 2.0
    step = law.sample_s(rng, n) - rng.exponential(1 / rate, n)
    walk = np.concatenate(([0.0], np.cumsum(step)))
    wait_s = walk - np.minimum.accumulate(walk)
    expected = float(mg1_wait_s(rate, mean_s=law.mean_s, variance_s2=law.variance_s2))
    assert abs(wait_s.mean() - expected) < 4 * standard_error(wait_s)


@pytest.mark.parametrize("n_servers", [1, 2, 5, 12])
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_erlang_c__is_erlangs_sum(n_servers, rho):
    load = rho * n_servers
    waiting = load**n_servers / math.factorial(n_servers) / (1 - rho)
    free = sum(load**j / math.factorial(j) for j in range(n_servers))
    assert float(erlang_c(load, n_servers)) == pytest.approx(waiting / (free + waiting), rel=1e-13)


def test_erlang_c__of_one_server_is_its_load_and_of_none_zero():
    loads = np.array([0.0, 0.25, 0.9])
    np.testing.assert_allclose(erlang_c(loads, 1), loads, atol=1e-16)


def test_erlang_c__of_thousands_of_servers_stays_a_probability():
    # Halfin-Whitt: c = a + beta sqrt(a) tends to 1/(1 + beta Phi(beta)/phi(beta)), beta = 1
    load, beta = 1e5, 1.0
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    limit = 1 / (1 + beta * 0.8413447460685429 / density)
    found = float(erlang_c(load, int(load + beta * math.sqrt(load))))
    assert found == pytest.approx(limit, abs=1 / math.sqrt(load))  # the order of what it leaves out


def test_mmc__hand_worked():
    # two servers at load a = 1: C = 1/3, and the wait is C * mean/(2 - 1)
    assert float(erlang_c(1.0, 2)) == pytest.approx(1 / 3)
    assert float(mmc_wait_s(0.1, mean_s=10.0, n_servers=2)) == pytest.approx(10 / 3)


def test_mmc__of_one_server_is_m_m_1():
    rates = np.array([0.15, 0.3, 0.45])
    found = mmc_wait_s(rates, mean_s=2.0, n_servers=1)
    np.testing.assert_allclose(found, mg1_wait_s(rates, mean_s=2.0, variance_s2=4.0))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_mmc__is_the_wait_of_a_queue_played_out(rho):
    # given M/M/3, requests to the first free server, 100,000 of them
    rng, n = np.random.default_rng(29), 100_000
    arrival_s = np.cumsum(rng.exponential(1 / (1.5 * rho), n))
    service_s, free_s, wait_s = rng.exponential(2.0, n), [0.0] * 3, np.empty(n)
    for request in range(n):
        server = free_s.index(min(free_s))
        start_s = max(arrival_s[request], free_s[server])
        wait_s[request] = start_s - arrival_s[request]
        free_s[server] = start_s + service_s[request]
    expected = float(mmc_wait_s(1.5 * rho, mean_s=2.0, n_servers=3))
    assert abs(wait_s.mean() - expected) < 4 * standard_error(wait_s)


# ---- batches


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_constant_batch_server__of_one_request_is_m_d_1(rho):
    found = constant_batch_server(rho / 2, service_s=2.0, max_batch_size=1)
    assert found.mean_wait_s == pytest.approx(float(md1_wait_s(rho / 2, service_s=2.0)))
    assert found.mean_latency_s == pytest.approx(found.mean_wait_s + 2.0)
    assert found.mean_batch_size == pytest.approx(1.0)
    assert found.utilization == pytest.approx(rho)


@pytest.mark.parametrize("max_batch_size", [2, 8, 128])
@pytest.mark.parametrize("rho", [0.01, 0.3, 0.6, 0.9])
def test_constant_batch_server__is_the_chain_solved_numerically(max_batch_size, rho):
    rate = rho * max_batch_size / 2
    closed = constant_batch_server(rate, service_s=2.0, max_batch_size=max_batch_size)
    solved = batch_server(rate, service_s=np.full(max_batch_size, 2.0))
    for name in ("mean_wait_s", "mean_latency_s", "mean_batch_size", "utilization"):
        assert getattr(solved, name) == pytest.approx(getattr(closed, name), rel=1e-9)


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("service_s", [[2.0] * 4, [1.0, 1.25, 1.75, 2.0], [2.0, 1.0, 2.5, 2.0]])
def test_batch_server__is_a_queue_played_out(rho, service_s):
    # given batches of at most 4, 2 s for a full one; times may even fall with the size
    rate = rho * 4 / 2.0
    wait_s, start_s, sizes = played_out(rate, service_s, 100_000, np.random.default_rng(31))
    time_s = np.asarray(service_s)[sizes.astype(int) - 1]
    latency_s = wait_s + np.repeat(time_s, sizes.astype(int))
    found = batch_server(rate, service_s=service_s)
    # then each lies within 4 standard errors; of a ratio, by what is left of busy - u * cycle
    left_s = time_s[:-1] - found.utilization * np.diff(start_s)
    assert abs(wait_s.mean() - found.mean_wait_s) < 4 * standard_error(wait_s)
    assert abs(latency_s.mean() - found.mean_latency_s) < 4 * standard_error(latency_s)
    assert abs(sizes.mean() - found.mean_batch_size) < 4 * standard_error(sizes)
    assert abs(left_s.mean()) < 4 * standard_error(left_s)


def test_batch_server__hand_worked_light_traffic():
    # given almost no arrivals: batches of one, and a wait only for who meets a busy GPU, half a
    # service time with probability lambda T(1)
    rate, first_s = 1e-6, 3.0
    found = batch_server(rate, service_s=[first_s, 4.0])
    assert found.mean_wait_s == pytest.approx(rate * first_s**2 / 2, rel=1e-5)
    assert found.mean_batch_size == pytest.approx(1.0, rel=1e-5)
    assert found.utilization == pytest.approx(rate * first_s, rel=1e-5)
    assert found.mean_latency_s == pytest.approx(first_s, rel=1e-5)


def test_batch_server__fills_its_batches_towards_saturation():
    loads = (0.3, 0.6, 0.9, 0.99)
    found = [constant_batch_server(8 * load, service_s=1.0, max_batch_size=8) for load in loads]
    assert (np.diff([one.mean_wait_s for one in found]) > 0).all()
    assert found[-1].mean_batch_size == pytest.approx(8 * 0.99, rel=1e-3)
    assert found[-1].utilization == pytest.approx(1.0, rel=1e-3)


def test_linear_bound__is_above_the_exact_latency_and_tight_at_both_ends():
    rates = np.array([0.001, 0.1, 0.5, 1.0, 1.5, 1.8])
    service_s = 1.0 + 0.5 * np.arange(1, 121)  # at most 18 on average, sd 10
    exact = np.array([batch_server(rate, service_s=service_s).mean_latency_s for rate in rates])
    bound = linear_batch_latency_bound_s(rates, **LINEAR)
    assert (exact < bound).all()
    assert bound[0] / exact[0] == pytest.approx(1, abs=1e-5)
    assert bound[-1] / exact[-1] == pytest.approx(1, abs=1e-4)
    assert (bound / exact).max() < 1.05


def test_linear_bound__hand_worked():
    # alpha = 1/2, tau_0 = 1: phi_0 = 1.5/(2 * 3/4) * (2 + (1/2)/(5/4)) = 2.4 at lambda = 1/2,
    # phi_1 = 1.5/(1/2) + (1/4)(5/2)/(3/4) = 23/6 at lambda = 1
    found = linear_batch_latency_bound_s([0.5, 1.0], **LINEAR)
    np.testing.assert_allclose(found, [2.4, 23 / 6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: md1_wait_s(0.5, service_s=2.0), "rho must be < 1 .* got 1; lower"),
        (lambda: md1_wait_s([0.1, -0.1], service_s=2.0), "arrival_rate_per_s must be >= 0, got"),
        (lambda: mg1_wait_s(0.1, mean_s=2.0, variance_s2=-1.0), "variance >= 0, got 2, -1"),
        (lambda: erlang_c(2.0, 2), "rho must be < 1 .* got 1"),
        (lambda: erlang_c(-1.0, 2), "offered_load must be >= 0, got -1"),
        (lambda: erlang_c(0.5, 0), "n_servers must be >= 1, got 0"),
        (lambda: mmc_wait_s(0.1, mean_s=0.0, n_servers=1), "mean_s must be > 0, got 0"),
        (lambda: mmc_wait_s(1.0, mean_s=2.0, n_servers=2), "rho must be < 1"),
        (
            lambda: constant_batch_server(1.0, service_s=1.0, max_batch_size=0),
            "max_batch_size must be >= 1, got 0",
        ),
        (
            lambda: constant_batch_server(0.0, service_s=1.0, max_batch_size=8),
            r"arrival_rate_per_s must be in \(0, inf\), got 0",
        ),
        (lambda: constant_batch_server(8.0, service_s=1.0, max_batch_size=8), "rho must be < 1"),
        (lambda: batch_server(1.0, service_s=[1.0, 0.0]), "service_s must be > 0 and finite"),
        (lambda: batch_server(1.0, service_s=[]), "at least 1 time"),
        (lambda: batch_server(3.0, service_s=[0.5, 1.0]), "rho must be < 1 .* got 1.5"),
        (lambda: batch_server(7.9999, service_s=[1.0] * 8), "at most 4000 states"),
        (
            lambda: linear_batch_latency_bound_s(1.0, per_request_s=0.0, setup_s=1.0),
            "per_request_s and setup_s must be > 0, got 0 and 1",
        ),
        (lambda: linear_batch_latency_bound_s(2.0, **LINEAR), "rho must be < 1 .* got 1"),
        (lambda: linear_batch_latency_bound_s(0.0, **LINEAR), "arrival_rate_per_s must be > 0"),
    ],
)
def test_queueing__says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
