"""Classic queues that pin the engine where the Multi-Bin paper is silent.

One request at a time: M/G/1 and M/D/1 (Pollaczek-Khinchine), M/M/c (Erlang C).  Batches of all
who wait, at most B: the bulk-service queue, in closed form where every batch takes equally long,
numerically where the time depends on the batch size, and Inoue's bound where it grows linearly.
Poisson arrivals, FIFO, in the long run throughout; several batch-serving GPUs are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from llmsched._util.arrays import FloatArray

_TAIL = 40.0  # chances below e^-40 are left out of the numerical queue
_MOST_STATES = 4000


def mg1_wait_s(arrival_rate_per_s: ArrayLike, *, mean_s: float, variance_s2: float) -> FloatArray:
    """Mean wait in an M/G/1 queue, lambda E[S^2] / (2 (1 - rho)) [s].

    Parameters
    ----------
    arrival_rate_per_s : float or array_like
        Arrivals per second (lambda), >= 0.
    mean_s, variance_s2 : float
        Of the service time [s, s^2].

    Raises
    ------
    ValueError
        If an argument is out of range, or rho = lambda * mean is not below 1.

    References
    ----------
    .. [1] Kleinrock, "Queueing Systems", vol. 1, Wiley 1975, ch. 5: Pollaczek-Khinchine.
    """
    if not (mean_s > 0 and variance_s2 >= 0):
        raise ValueError(f"M/G/1 needs mean > 0 and variance >= 0, got {mean_s:g}, {variance_s2:g}")
    rate = _rates(arrival_rate_per_s)
    rho = _below_one(rate * mean_s)
    return np.asarray(rate * (variance_s2 + mean_s**2) / (2 * (1 - rho)))


def md1_wait_s(arrival_rate_per_s: ArrayLike, *, service_s: float) -> FloatArray:
    """Mean wait in an M/D/1 queue, rho S / (2 (1 - rho)) [s]: `mg1_wait_s` without variance."""
    return mg1_wait_s(arrival_rate_per_s, mean_s=service_s, variance_s2=0.0)


def erlang_c(offered_load: ArrayLike, n_servers: int) -> FloatArray:
    """Chance that a request waits in an M/M/c queue.

    By the recursion of Erlang's B formula, which neither overflows nor cancels for large c.

    Parameters
    ----------
    offered_load : float or array_like
        a = lambda * mean service time, in [0, c).
    n_servers : int
        Servers (c), >= 1.

    Raises
    ------
    ValueError
        If an argument is out of range, or a/c is not below 1.

    References
    ----------
    .. [1] Kleinrock, "Queueing Systems", vol. 1, Wiley 1975, ch. 3.
    """
    if n_servers < 1:
        raise ValueError(f"n_servers must be >= 1, got {n_servers}")
    load = np.asarray(offered_load, dtype=np.float64)
    if not (load >= 0).all():
        raise ValueError(f"offered_load must be >= 0, got {load.min():g}")
    rho = _below_one(load / n_servers)
    blocked = np.ones_like(load)
    for servers in range(1, n_servers + 1):
        blocked = load * blocked / (servers + load * blocked)
    return np.asarray(blocked / (1 - rho * (1 - blocked)))


def mmc_wait_s(arrival_rate_per_s: ArrayLike, *, mean_s: float, n_servers: int) -> FloatArray:
    """Mean wait in an M/M/c queue, C(c, a) * mean / (c - a) [s]; see `erlang_c`.

    Raises
    ------
    ValueError
        If an argument is out of range, or rho = lambda * mean / c is not below 1.
    """
    if not mean_s > 0:
        raise ValueError(f"mean_s must be > 0, got {mean_s:g}")
    load = _rates(arrival_rate_per_s) * mean_s
    return np.asarray(erlang_c(load, n_servers) * mean_s / (n_servers - load))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchServer:
    """The long run of one GPU that serves batches, over requests and over batches."""

    mean_wait_s: float  # from arrival to the start of the batch, over requests
    mean_latency_s: float  # from arrival to the end of the batch, over requests
    mean_batch_size: float  # over batches
    utilization: float  # share of the time that the GPU is busy


def constant_batch_server(
    arrival_rate_per_s: float, *, service_s: float, max_batch_size: int
) -> BatchServer:
    """A GPU that takes all who wait, at most B, and needs the same time for any batch.

    The bulk-service queue M/D^[1,B]/1: a free GPU starts with the first arrival alone.

    Parameters
    ----------
    arrival_rate_per_s : float
        Arrivals per second (lambda), > 0.
    service_s : float
        Time of any batch (D) [s].
    max_batch_size : int
        Most requests per batch (B), >= 1.

    Raises
    ------
    ValueError
        If an argument is out of range, or lambda * D / B is not below 1.

    Notes
    -----
    Closed form.  The number left behind by a batch has generating function
    K(z) C (z - 1) prod(z - z_i) / (z^B - K(z)), K(z) = exp(-a(1 - z)), a = lambda D, where z_i are
    the B - 1 zeros of z^B - K(z) inside the unit circle [1]_; with a constant time they are
    Lambert W's: z_i = -(B/a) W0(-(a/B) e^(2 pi i j/B - a/B)).  Idle times until the next arrival,
    and so means over time, are those of the rule (1, B) of [2]_.

    References
    ----------
    .. [1] Bailey, "On queueing processes with bulk service", J. R. Stat. Soc. B 16 (1954) 80-87.
    .. [2] Neuts, "A general class of bulk queues with Poisson input", Ann. Math. Stat. 38 (1967)
       759-770.
    """
    _check_batch_server(arrival_rate_per_s, np.array([service_s]), max_batch_size)
    b, load = max_batch_size, arrival_rate_per_s * service_s
    zeros = _zeros_inside(load, b)
    left_behind = load + np.sum(1 / (1 - zeros)).real - (b * (b - 1) - load**2) / (2 * (b - load))
    empty = float((b - load) * np.prod(-zeros / (1 - zeros)).real)  # chance to leave nobody
    batch_size = load + empty
    wait_s = service_s * (left_behind - load / 2) / batch_size
    return BatchServer(
        mean_wait_s=float(wait_s),
        mean_latency_s=float(wait_s + service_s),
        mean_batch_size=batch_size,
        utilization=load / batch_size,
    )


def batch_server(arrival_rate_per_s: float, *, service_s: ArrayLike) -> BatchServer:
    """A GPU that takes all who wait, at most B, and needs a known time for each batch size.

    Parameters
    ----------
    arrival_rate_per_s : float
        Arrivals per second (lambda), > 0.
    service_s : array_like of shape (B,)
        Time of a batch of 1, 2, ..., B requests [s].

    Raises
    ------
    ValueError
        If an argument is out of range, lambda * T(B) / B is not below 1, or so near to it that
        the queue reaches thousands.

    Notes
    -----
    Numerical, to about 1e-9 of the wait: the number left behind by a batch is a Markov chain,
    solved on the states that are not rarer than e^-40; means over time follow from those over
    batches.
    """
    times_s = np.asarray(service_s, dtype=np.float64)
    if times_s.ndim != 1 or not len(times_s):
        raise ValueError(f"service_s must be one row of at least 1 time, got {times_s.shape}")
    b, rate = len(times_s), arrival_rate_per_s
    _check_batch_server(rate, times_s, b)
    n_states = _states(rate, times_s)
    left = np.arange(n_states)
    size = np.clip(left, 1, b)
    time_s = times_s[size - 1]
    chance = _left_behind(rate, times_s, n_states)

    mean_time_s = chance @ time_s
    cycle_s = mean_time_s + chance[0] / rate
    waiting = chance @ (np.maximum(left - b, 0) * time_s + rate * time_s**2 / 2) / cycle_s
    batch_size = chance @ size
    wait_s = waiting / rate  # Little's law
    return BatchServer(
        mean_wait_s=float(wait_s),
        mean_latency_s=float(wait_s + chance @ (size * time_s) / batch_size),
        mean_batch_size=float(batch_size),
        utilization=float(mean_time_s / cycle_s),
    )


def linear_batch_latency_bound_s(
    arrival_rate_per_s: ArrayLike, *, per_request_s: float, setup_s: float
) -> FloatArray:
    """Upper bound on the mean latency where a batch of b takes setup + b * per_request [s].

    All who wait are taken, without limit: min(phi_0, phi_1) of [1]_, tight at both ends of the
    load.

    Parameters
    ----------
    arrival_rate_per_s : float or array_like
        Arrivals per second (lambda), > 0.
    per_request_s, setup_s : float
        alpha and tau_0 of the paper, both > 0 [s].

    Raises
    ------
    ValueError
        If an argument is out of range, or lambda * alpha is not below 1.

    References
    ----------
    .. [1] Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching: a
       closed-form characterization", Perform. Eval. 147 (2021), arXiv:1912.06322.
    """
    if not (per_request_s > 0 and setup_s > 0):
        raise ValueError(
            f"per_request_s and setup_s must be > 0, got {per_request_s:g} and {setup_s:g}"
        )
    rate = _rates(arrival_rate_per_s)
    if not (rate > 0).all():
        raise ValueError(f"arrival_rate_per_s must be > 0, got {rate.min():g}")
    a, t = per_request_s, setup_s
    rho = _below_one(rate * a)
    phi_0 = (a + t) / (2 * (1 - rho)) * (1 + 2 * rate * t + (1 - rate * t) / (1 + rho))
    phi_1 = 1.5 * t / (1 - rho) + a / 2 * (rho + 2) / (1 - rho**2)
    return np.minimum(phi_0, phi_1)


def _zeros_inside(load: float, batch_size: int) -> np.ndarray[tuple[int], np.dtype[np.complex128]]:
    """The B - 1 zeros of z^B - exp(-load (1 - z)) inside the unit circle."""
    from scipy.special import lambertw

    share = load / batch_size
    turns = np.exp(2j * np.pi * np.arange(1, batch_size) / batch_size)
    return np.asarray(-lambertw(-share * turns * math.exp(-share)) / share)


def _left_behind(rate_per_s: float, times_s: FloatArray, n_states: int) -> FloatArray:
    """Chance of each number left behind by a batch, in the long run, shape (n_states,)."""
    from scipy.special import gammaln

    b = len(times_s)
    arrivals = np.arange(n_states)
    load = rate_per_s * times_s[:, np.newaxis]
    poisson = np.exp(arrivals * np.log(load) - load - gammaln(arrivals + 1))  # (B, n_states)
    step = np.zeros((n_states, n_states))
    for left in range(n_states):
        stay = max(left - b, 0)
        step[left, stay:] = poisson[min(max(left, 1), b) - 1, : n_states - stay]
    step[:, -1] += 1 - step.sum(axis=1)  # what goes beyond the last state stays in it
    balance = (step - np.eye(n_states)).T
    balance[-1] = 1.0  # one balance equation is spare: the chances sum to 1
    return np.linalg.solve(balance, np.append(np.zeros(n_states - 1), 1.0))


def _states(rate_per_s: float, times_s: FloatArray) -> int:
    """How many states the chain needs: its tail is geometric, with the zero of z^B - K beyond 1."""
    from scipy.special import lambertw

    b = len(times_s)
    share = rate_per_s * times_s[-1] / b
    growth = float(-lambertw(-share * math.exp(-share), -1).real / share)
    most = rate_per_s * float(times_s.max())  # arrivals during the longest batch, on average
    n_states = b + most + 12 * math.sqrt(most) + _TAIL + _TAIL / math.log(growth)
    if not n_states <= _MOST_STATES:
        raise ValueError(
            f"a batch server must need at most {_MOST_STATES} states, got {n_states:.0f} at load "
            f"{share:.6g} and batches of {b}; lower the arrival rate"
        )
    return math.ceil(n_states)


def _check_batch_server(rate_per_s: float, times_s: FloatArray, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"max_batch_size must be >= 1, got {batch_size}; use 1 for no batching")
    if not 0 < rate_per_s < math.inf:
        raise ValueError(f"arrival_rate_per_s must be in (0, inf), got {rate_per_s:g}")
    if not ((times_s > 0) & (times_s < math.inf)).all():
        raise ValueError(f"service_s must be > 0 and finite, got {times_s.min():g}")
    _below_one(np.asarray(rate_per_s * times_s[-1] / batch_size))


def _rates(arrival_rate_per_s: ArrayLike) -> FloatArray:
    rate = np.asarray(arrival_rate_per_s, dtype=np.float64)
    if not (rate >= 0).all():
        raise ValueError(f"arrival_rate_per_s must be >= 0, got {rate.min():g}")
    return rate


def _below_one(rho: FloatArray) -> FloatArray:
    """The load, if the queue has a long run."""
    if not (rho < 1).all():
        raise ValueError(
            f"the load rho must be < 1 for a long-run mean, got {np.max(rho):g}; "
            "lower the arrival rate"
        )
    return rho
