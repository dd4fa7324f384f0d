"""Synthetic workloads: draws a `Trace` from a profile, vectorised, whole blocks at a time.

Five models: Poisson, gamma bursts, ON/OFF, sessions, and a BurstGPT-like mixture of a conversation
stream and API jobs. Laws are what they say: a truncated law is sampled by its own inverse
distribution function, nothing is clipped.

Each concern (arrivals, lengths, one job family, ...) draws from its own child of the caller's
generator, block after block. So the same seed gives the same bytes, and a longer trace begins
with the shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmsched._util.arrays import FloatArray, given_up
from llmsched.workload.synthetic.burstgpt_days import LOG_TYPES, MODELS, Block, burstgpt_days
from llmsched.workload.synthetic.burstgpt_like import BurstGptLike
from llmsched.workload.synthetic.profile_kinds import GammaBursts, OnOff, Poisson, Sessions
from llmsched.workload.synthetic.profiles import Profile, load_profile, profile_names
from llmsched.workload.synthetic.session_draws import draw_sessions
from llmsched.workload.synthetic.token_laws import law_tokens
from llmsched.workload.trace import Labels, Trace

__all__ = ["generate", "load_profile", "profile_names"]

_BLOCK = 1 << 16  # requests (or ON/OFF cycles) per block of the simple profiles


def generate(profile: Profile, n_requests: int, rng: np.random.Generator) -> Trace:
    """The first `n_requests` raw rows of a workload, in real time.

    Parameters
    ----------
    profile : Profile
        What `load_profile` returns.
    n_requests : int
        Rows to draw, failures (`output_tokens` 0) included; must be >= 1.
    rng : numpy.random.Generator
        Its children are drawn from, it is not.

    Returns
    -------
    Trace
        Arrivals in seconds from the first one; labels where the profile has them.

    Raises
    ------
    ValueError
        If `n_requests` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> trace = generate(load_profile("burstgpt-like"), 1000, np.random.default_rng(0))
    >>> len(trace), trace.log_type.names
    (1000, ('Conversation log', 'API log'))
    """
    if n_requests < 1:
        raise ValueError(f"n_requests must be >= 1, got {n_requests}")
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator, got {rng!r}; use default_rng")
    if isinstance(profile, Sessions):
        return draw_sessions(profile, n_requests, rng)
    arrival_s = np.empty(n_requests)
    prompt, output = np.empty(n_requests, np.int32), np.empty(n_requests, np.int32)
    model, log_type = np.zeros(n_requests, np.int16), np.zeros(n_requests, np.int16)
    labelled, filled = False, 0
    for block in _blocks(profile, n_requests, rng):
        rows = slice(filled, min(filled + len(block.arrival_s), n_requests))
        taken = rows.stop - rows.start
        arrival_s[rows] = block.arrival_s[:taken]
        prompt[rows], output[rows] = block.prompt_tokens[:taken], block.output_tokens[:taken]
        if block.model is not None and block.log_type is not None:
            model[rows], log_type[rows] = block.model[:taken], block.log_type[:taken]
            labelled = True
        filled = rows.stop
        if filled == n_requests:
            break
    arrival_s -= arrival_s[0]
    return Trace(
        arrival_s=given_up(arrival_s),
        prompt_tokens=given_up(prompt),
        output_tokens=given_up(output),
        model=Labels(codes=given_up(model), names=MODELS) if labelled else None,
        log_type=Labels(codes=given_up(log_type), names=LOG_TYPES) if labelled else None,
        name=profile.name,
    )


def _blocks(
    profile: Poisson | GammaBursts | OnOff | BurstGptLike, most: int, rng: np.random.Generator
) -> Iterator[Block]:
    """Blocks of requests in order of arrival, of which the first `most` are wanted."""
    if isinstance(profile, BurstGptLike):
        yield from burstgpt_days(profile, most, rng)
        return
    gaps, lengths = rng.spawn(2)
    for arrival_s in _arrivals(profile, gaps):
        n = len(arrival_s)
        prompt = law_tokens(profile.prompt, lengths.random(n)[:most])
        output = law_tokens(
            profile.output, lengths.random(n)[:most]
        )  # of levels of the whole block
        yield Block(arrival_s[:most], prompt, output)
        most -= n


def _arrivals(
    profile: Poisson | GammaBursts | OnOff, rng: np.random.Generator
) -> Iterator[FloatArray]:
    match profile:
        case Poisson():
            return _renewals(profile.rate_per_s, 1.0, rng)
        case GammaBursts():
            return _renewals(profile.rate_per_s, profile.gap_cv, rng)
        case OnOff():
            return _on_off(profile, rng)


def _renewals(rate_per_s: float, gap_cv: float, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Arrivals with independent gamma gaps of mean 1/rate and that coefficient of variation."""
    shape, now_s = gap_cv**-2, 0.0
    while True:
        arrival_s = rng.standard_gamma(shape, _BLOCK)
        arrival_s /= shape * rate_per_s
        arrival_s[0] += now_s
        np.cumsum(arrival_s, out=arrival_s)
        now_s = float(arrival_s[-1])
        yield arrival_s


def _on_off(profile: OnOff, rng: np.random.Generator) -> Iterator[FloatArray]:
    """A two-state Markov-modulated Poisson process, from the start of an ON phase."""
    phases, counts, places = rng.spawn(3)
    rate_per_s = np.array([profile.on_rate_per_s, profile.off_rate_per_s])
    now_s = 0.0
    per_cycle = profile.on_rate_per_s * profile.on_mean_s
    cycles = int(np.clip(_BLOCK / max(per_cycle, 1e-9), 16, _BLOCK))  # about a block of requests
    while True:
        length_s = phases.standard_exponential((cycles, 2))
        length_s *= (profile.on_mean_s, profile.off_mean_s)
        end_s = now_s + np.cumsum(length_s.ravel())
        start_s = np.concatenate(([now_s], end_s[:-1]))
        k = counts.poisson((length_s * rate_per_s).ravel())
        arrival_s = np.repeat(start_s, k)
        arrival_s += places.random(len(arrival_s)) * np.repeat(length_s.ravel(), k)
        arrival_s.sort()
        now_s = float(end_s[-1])
        yield arrival_s
