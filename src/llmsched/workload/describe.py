"""What a trace looks like: rate, burstiness, lengths, failures and ties."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.trace import Trace, TraceError

_BURST_WINDOW_S = 1200.0
_BURST_WINDOW_REQUESTS = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSummary:
    """The token counts of one column [tokens]; percentiles are numpy's linear ones."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """What a trace looks like; `describe` defines the figures."""

    name: str
    read_as: str  # the format and the unit of the times; empty for what is no file
    requests: int
    sessions: int | None  # of requests that follow one another; None where none is known
    waiting_share: float  # requests that wait for an answer: when they arrive is up to the run
    think_mean_s: float | None
    span_s: float
    arrival_rate_per_s: float | None
    gap_cv: float | None
    burst_shape: float | None
    burst_windows: int
    prompt_tokens: TokenSummary
    output_tokens: TokenSummary
    shared_prefix_share: float | None
    failure_share: float
    tied_share: float
    left_out: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def describe(trace: Trace, *, rng: np.random.Generator | None = None) -> TraceSummary:
    """Rate, burstiness, lengths, failures and ties of a trace.

    Parameters
    ----------
    trace
        At least one request.
    rng
        De-quantises tied stamps for the burst shape; by default seeded with 0.

    Returns
    -------
    TraceSummary
        - `sessions`: requests that follow no other.
        - `think_mean_s`: mean pause before a request that waits for an answer.
        - `arrival_rate_per_s`: gaps / span, (n − 1) of them; n / span would count one too many.
        - `gap_cv`: standard deviation / mean of the gaps between successive arrivals (n − 1 gaps,
          divided by n − 1); 1 for a Poisson process. Silences of hours raise it, too.
        - `burst_shape`: shape of a gamma law fitted to the gaps by maximum likelihood, within
          windows of 20 minutes from the first arrival; the median over the windows with at least
          31 requests (`burst_windows` of them). 1 for Poisson, below 1 for bursts; unlike the CV
          it does not see silences. Where stamps tie, each first moves later by a uniform part of
          the clock's step, taken to be the smallest gap above 0.
        - `shared_prefix_share`: prefix ids that have come before / prefix ids, which is what an
          endless cache would find; None where none are known.
        - `failure_share`: requests without output tokens / requests.
        - `tied_share`: requests that arrive at the very instant of the one before / requests.

        A figure that is not defined, for too few requests or equal gaps, is None. Where requests
        wait for answers, so are rate and burstiness, and the span is the shortest possible: as if
        every answer took no time.
    """
    if not len(trace):
        raise TraceError(f"trace {trace.name!r} must have at least one request, got none")
    gaps_s = np.diff(trace.arrival_s)
    turns = trace.turns
    defined = trace.span_s > 0 and not trace.closed
    waiting = np.zeros(len(trace), np.bool_) if turns is None else turns.waiting
    shapes = np.empty(0)
    if not trace.closed:
        shapes = burst_shapes(trace.arrival_s, rng=rng or np.random.default_rng(0))
    shape = float(np.median(shapes)) if len(shapes) else math.inf
    return TraceSummary(
        name=trace.name,
        read_as=trace.read_as,
        requests=len(trace),
        sessions=None if turns is None else int(np.count_nonzero(turns.after < 0)),
        waiting_share=float(waiting.mean()),
        think_mean_s=float(turns.think_s[waiting].mean()) if turns and waiting.any() else None,
        span_s=trace.span_s,
        arrival_rate_per_s=len(gaps_s) / trace.span_s if defined else None,
        gap_cv=float(gaps_s.std() / gaps_s.mean()) if defined else None,
        burst_shape=shape if math.isfinite(shape) else None,
        burst_windows=len(shapes),
        prompt_tokens=_token_summary(trace.prompt_tokens),
        output_tokens=_token_summary(trace.output_tokens),
        shared_prefix_share=_shared_share(trace.prefix_ids),
        failure_share=float(np.mean(trace.output_tokens == 0)),
        tied_share=int(np.count_nonzero(gaps_s == 0)) / len(trace),
        left_out=trace.left_out,
        notes=trace.notes,
    )


def _shared_share(prefixes: PrefixIds | None) -> float | None:
    if prefixes is None or not len(prefixes.ids):
        return None
    return 1 - len(np.unique(prefixes.ids)) / len(prefixes.ids)


def _token_summary(tokens: IntArray) -> TokenSummary:
    p50, p90, p95, p99 = np.percentile(tokens, (50, 90, 95, 99)).tolist()
    return TokenSummary(
        mean=float(tokens.mean()), p50=p50, p90=p90, p95=p95, p99=p99, max=int(tokens.max())
    )


def burst_shapes(arrival_s: FloatArray, *, rng: np.random.Generator) -> FloatArray:
    """The gamma shape of the gaps in each 20-minute window with at least 31 requests.

    Parameters
    ----------
    arrival_s : ndarray of shape (n,)
        Arrivals, sorted [s].
    rng
        De-quantises tied stamps, as `describe` says.

    Returns
    -------
    ndarray of shape (n_windows,)
        Maximum-likelihood shapes, in order of time.
    """
    gaps_s = np.diff(arrival_s)
    if (gaps_s == 0).any() and (gaps_s > 0).any():
        step_s = gaps_s[gaps_s > 0].min()
        arrival_s = np.sort(arrival_s + rng.uniform(0.0, step_s, len(arrival_s)))
    window = ((arrival_s - arrival_s[0]) // _BURST_WINDOW_S).astype(np.int64)
    bounds = np.concatenate(([0], np.flatnonzero(np.diff(window)) + 1, [len(window)]))
    busy = np.flatnonzero(np.diff(bounds) >= _BURST_WINDOW_REQUESTS)
    windows = (np.diff(arrival_s[bounds[i] : bounds[i + 1]]) for i in busy)
    return np.array([gamma_shape(gaps) for gaps in windows if (gaps > 0).all()])


def gamma_shape(gaps_s: FloatArray) -> float:
    """The maximum-likelihood shape k of a gamma law, ln k − ψ(k) = ln mean − mean ln.

    Parameters
    ----------
    gaps_s : ndarray of shape (n,)
        Positive gaps [s], not all equal.

    References
    ----------
    .. [1] Minka, "Estimating a Gamma distribution", 2002: the start and the Newton step in 1/k.
    """
    from scipy.special import digamma, polygamma

    excess = math.log(gaps_s.mean()) - float(np.log(gaps_s).mean())
    if excess <= 1e-12:
        return math.inf  # equal gaps: a clockwork
    shape = (3 - excess + math.sqrt((excess - 3) ** 2 + 24 * excess)) / (12 * excess)
    for _ in range(100):
        slope = 1 / shape - float(polygamma(1, shape))
        step = (math.log(shape) - float(digamma(shape)) - excess) / (shape * shape * slope)
        following = 1 / (1 / shape + step)
        if abs(following - shape) <= 1e-12 * shape:
            break
        shape = following
    return following
