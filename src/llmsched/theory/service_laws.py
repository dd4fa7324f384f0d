"""Workloads without tokens: service times drawn from a law, arrivals from a Poisson process.

They run the papers' abstract models on the engine that token models run on: the latency model
"drawn" takes the largest service time of a batch.  The laws themselves are in `distributions`.
Left out: dependence between requests, and between a request's time and its arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from llmsched.theory.distributions import Empirical, Exponential, Lognormal, ServiceLaw, Uniform
from llmsched.workload.trace import Trace

__all__ = [
    "Empirical",
    "Exponential",
    "Lognormal",
    "ServiceLaw",
    "Uniform",
    "drawn_trace",
    "parse",
]

_PARAMETERS: Mapping[str, tuple[Callable[..., ServiceLaw], tuple[str, ...]]] = {
    "uniform": (Uniform, ("LOW", "HIGH")),
    "exponential": (Exponential, ("MEAN",)),
    "lognormal": (Lognormal, ("MEAN", "SIGMA")),
}


def parse(spec: str) -> ServiceLaw:
    """The law that a text asks for: `uniform:LOW,HIGH`, `exponential:MEAN`, `lognormal:MEAN,SIGMA`.

    All in seconds but sigma, the standard deviation of the logarithm; `str` of a law gives the
    text back.

    Raises
    ------
    ValueError
        If the text names no law, or its numbers are not the law's.

    Examples
    --------
    >>> parse("uniform:1,20").mean_s
    10.5
    >>> str(parse("lognormal:10,0.5"))
    'lognormal:10,0.5'
    """
    name, _, numbers = spec.strip().partition(":")
    known = ", ".join(f"{law}:{','.join(names)}" for law, (_, names) in _PARAMETERS.items())
    if name not in _PARAMETERS:
        raise ValueError(f"a service law must be one of {known}; got {spec!r}")
    law, names = _PARAMETERS[name]
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    if len(values) != len(names):
        raise ValueError(f"a service law must read {name}:{','.join(names)}, got {spec!r}")
    return law(*values)


def drawn_trace(
    law: ServiceLaw, n_requests: int, *, arrival_rate_per_s: float, rng: np.random.Generator
) -> Trace:
    """A workload without tokens: Poisson arrivals, each with a service time drawn from the law.

    Parameters
    ----------
    law : ServiceLaw
        Of the time each request would take alone.
    n_requests : int
        Must be >= 1.
    arrival_rate_per_s : float
        Rate of the arrivals (lambda); `math.inf` puts all of them at time 0.
    rng : numpy.random.Generator
        Its children are drawn from, it is not: another rate gives the same service times, and
        arrivals that differ by a factor only.

    Returns
    -------
    Trace
        The first arrival is at 0; no tokens; the times are in `service_s`.

    Raises
    ------
    ValueError
        If `n_requests` is below 1 or the rate is not above 0.
    """
    if n_requests < 1:
        raise ValueError(f"n_requests must be >= 1, got {n_requests}")
    if not arrival_rate_per_s > 0:
        raise ValueError(
            f"arrival_rate_per_s must be > 0, got {arrival_rate_per_s:g}; inf is all at time 0"
        )
    arrivals, service = rng.spawn(2)
    gaps = np.cumsum(arrivals.standard_exponential(n_requests - 1))
    tokens = np.zeros(n_requests, dtype=np.int32)
    return Trace(
        arrival_s=np.concatenate(([0.0], gaps / arrival_rate_per_s)),
        prompt_tokens=tokens,
        output_tokens=tokens,
        service_s=law.sample_s(service, n_requests),
        name=str(law),
    )
