"""The constants of the two-regime form from a run's own times, without any timing of layers.

A simulated run is a rough function of the constants: one step more or less moves an arrival to the
next step, and a preemption from one request to another. So derivatives come from no pair of runs,
but from a plane through many: constants are drawn around the present ones, each draw is simulated,
and every request's TTFT and TPOT gets the plane nearest to its simulated ones. The constants then
move to where the planes are nearest to what was measured, and the next planes are laid there.

Constants are fitted as logarithms, so none is negative, and held by a weak prior: a factor of e,
one standard deviation, around proportions of the log's median time per token. Where the log says
nothing about a constant the prior stays, its interval is as wide, and a note names it. An interval
has the larger of two standard deviations: of fits to blocks of neighbouring requests drawn anew,
whose errors go together, and what the log's information leaves of the prior's. In the
cross-validation the constants are fitted without one fifth of the requests, and the run is
simulated with them for the errors of that fifth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.calibration.benchmarks.runs import RequestLog
from llmsched.latency.steps.two_regime import DecodeTerms, MixedTerms, TwoRegime
from llmsched.simulation.scenario import Scenario
from llmsched.studies.validation.fit import Fitted
from llmsched.studies.validation.replay import (
    Replay,
    Times,
    log_trace,
    measured_times,
    unknown_steps,
)
from llmsched.studies.validation.server import check_memory

CONSTANTS = (
    *("decode.c0_s", "decode.cb_s", "decode.ckv_s"),
    *("mixed.c0_s", "mixed.cp_s", "mixed.n0_tokens"),
    *("mixed.cb_s", "mixed.ckv_s", "mixed.cpair_s"),
)
FIGURES = ("ttft_s", "tpot_s")  # the end to end time is their sum
PRIOR = 1.0  # standard deviation of a logarithm
WIDTHS = (0.4, 0.3, 0.2, 0.2, 0.15, 0.15, 0.15)  # of the draws, round by round
DRAWS, LAST_DRAWS, LAST_WIDTH = 40, 160, 0.2  # the last ones give the intervals
FARTHEST = 2.0  # move of a constant in a round, in widths
LEAST_MISS, FAR = 1e-3, 2.0  # of a mean; of a typical miss
FOLDS, BLOCK, RESAMPLES = 5, 10, 200
NORMAL_95 = 1.96
FEWEST_OF_LOG = 20  # requests
UNTOLD = 0.6  # share of the prior's spread that is left where the log says little


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cloud:
    """Runs simulated with constants drawn around some centre, and what was measured.

    Everything is in the coordinates of the draws: logarithms = centre + width · draw.
    """

    centre: FloatArray  # (p,) logarithms
    width: float
    draws: FloatArray  # (d, p) standard normal, each with its mirror image
    times: FloatArray  # (d, n, figures) simulated
    real: FloatArray  # (n, figures) measured

    def planes(self) -> Planes:
        """The plane of each time, in units of how far the typical one misses."""
        d, p = self.draws.shape
        n, figures = self.real.shape
        design = np.column_stack([np.ones(d), self.draws])
        flat = self.times.reshape(d, -1)
        terms = np.linalg.lstsq(design, flat, rcond=None)[0]
        rough = np.sum(np.square(flat - design @ terms), axis=0) / (d - p - 1)
        misses = self.real - terms[0].reshape(n, figures)
        known = ~np.isnan(misses)
        typical = [1.4826 * np.median(np.abs(misses[known[:, j], j])) for j in range(figures)]
        scale = np.maximum(typical, LEAST_MISS * np.nanmean(self.real, axis=0))
        # what is far off counts in proportion, not by its square
        far = np.maximum(np.abs(np.where(known, misses, 0.0)) / scale, FAR)
        weights = known * np.sqrt(FAR / far) / scale
        slopes = terms[1:].T.reshape(n, figures, p) * weights[..., None]
        noise = np.sum(rough.reshape(n, figures) * weights**2, axis=1)
        return Planes(
            misses=np.where(known, misses, 0.0) * weights,
            slopes=slopes,
            noise=noise[:, None, None] * np.linalg.inv(self.draws.T @ self.draws),
        )

    def solved(
        self, planes: Planes, prior: FloatArray, rows: FloatArray | None = None
    ) -> FloatArray:
        """The draw nearest to what was measured and to the prior.

        `rows` says how often each request counts. Slopes are noisy, as the runs are rough, and
        noise looks like information: it holds the solution near the centre, which a search is the
        safer for.
        """
        count = np.ones(len(self.real)) if rows is None else rows
        wanted = np.einsum("i,ijp,ij->p", count, planes.slopes, planes.misses)
        wanted += self.width * (prior - self.centre) / PRIOR**2
        information = np.einsum("i,ijp,ijq->pq", count, planes.slopes, planes.slopes)
        found: FloatArray = np.linalg.solve(information + self._prior(), wanted)
        return found

    def spreads(self, planes: Planes) -> FloatArray:
        """Standard deviation of each logarithm, by the information without that of the noise."""
        information = np.einsum("ijp,ijq->pq", planes.slopes, planes.slopes)
        values, vectors = np.linalg.eigh(information - planes.noise.sum(axis=0))
        information = (vectors * np.maximum(values, 0.0)) @ vectors.T
        variances = np.diag(np.linalg.inv(information + self._prior()))
        found: FloatArray = self.width * np.sqrt(variances)
        return found

    def _prior(self) -> FloatArray:
        return np.asarray((self.width / PRIOR) ** 2 * np.eye(len(self.centre)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planes:
    """Every time as a plane over the draws."""

    misses: FloatArray  # (n, figures) measured less the plane's at the centre, in typical misses
    slopes: FloatArray  # (n, figures, p)
    noise: FloatArray  # (n, p, p) what the noise of the slopes adds to their products


def fit_log(log: RequestLog, scenario: Scenario, *, name: str) -> tuple[TwoRegime, Fitted]:
    """The two-regime step time of a whole log, for a file of its own.

    Parameters
    ----------
    log : RequestLog
    scenario : Scenario
        How its server was set; its step times are not looked at.

    Raises
    ------
    ValueError
        If the server's KV memory is not known, TTFT and TPOT are not both logged, or there are
        fewer than 20 requests.
    """
    n = len(log.arrival_s)
    if n < FEWEST_OF_LOG:
        raise ValueError(
            f"{log.source}: a log must have {FEWEST_OF_LOG} requests or more to fit the constants "
            f"of a step, got {n}"
        )
    check_memory(scenario)
    replay = unknown_steps(log_trace(log), scenario.replica())
    replay, fitted = fit_constants(replay, measured_times(log), n, seed=scenario.seed, name=name)
    assert isinstance(replay.step, TwoRegime)
    return replay.step, fitted


def fit_constants(
    replay: Replay, measured: Times, first: int, *, seed: int = 0, name: str = "fitted"
) -> tuple[Replay, Fitted]:
    """The replay with step times fitted to its first requests.

    Parameters
    ----------
    replay : Replay
        What is served, and how; its step times are not looked at.
    measured : mapping
        TTFT and TPOT of each request [s]; those of requests from `first` on are not looked at.
    first : int
        Requests to fit on.
    seed : int
        Of the draws.

    Raises
    ------
    ValueError
        If TTFT and TPOT are not both logged.
    """
    if missing := [one for one in FIGURES if one not in measured]:
        raise ValueError(
            f"the constants of a step must be fitted to first tokens and ends, got a run without "
            f"{' and '.join(missing)}"
        )
    real = np.column_stack([measured[one][:first] for one in FIGURES])
    rng = np.random.default_rng(seed)
    prior = np.log(_guess(replay, real, first))
    logs = prior + _common_factor(replay, prior, real, name)
    prior = logs.copy()
    best = (np.inf, logs)
    for width in WIDTHS:
        cloud = _cloud(replay, logs, real, width, DRAWS, rng, name)
        move = cloud.solved(cloud.planes(), prior)
        logs = logs + width * np.clip(move, -FARTHEST, FARTHEST)
        best = min(best, (_loss(replay, logs, real, name), logs), key=lambda one: one[0])
    logs = best[1]
    cloud = _cloud(replay, logs, real, LAST_WIDTH, LAST_DRAWS, rng, name)
    spreads = _spreads(cloud, prior, rng)
    low, high = np.exp(logs - NORMAL_95 * spreads), np.exp(logs + NORMAL_95 * spreads)
    held_out = _cross_validated(replay, cloud, prior, name)
    source = (
        f"fitted to requests 1-{first} of {replay.trace.name}; off by "
        + ", ".join(f"{error:.1%} ({one})" for one, error in zip(FIGURES, held_out, strict=True))
        + f" in the means of held-out requests, over {FOLDS} folds"
    )
    fitted = Fitted(
        what="all",
        requests=(0, first),
        values=dict(zip(CONSTANTS, np.exp(logs).tolist(), strict=True)),
        intervals={
            one: ends for one, *ends in zip(CONSTANTS, low.tolist(), high.tolist(), strict=True)
        },
        held_out_error=dict(zip(FIGURES, held_out, strict=True)),
        notes=_untold(spreads),
    )
    return replace(replay, step=_model(logs, name, source)), fitted


def _untold(spreads: FloatArray) -> tuple[str, ...]:
    """A note that names the constants of which the log says little."""
    names = [
        one for one, sd in zip(CONSTANTS, spreads.tolist(), strict=True) if sd > UNTOLD * PRIOR
    ]
    if not names:
        return ()
    return (
        f"the run does not tell {', '.join(names)} apart from the others: their values are little "
        "more than assumed, and hold at such loads and lengths only",
    )


def _model(logs: FloatArray, name: str, source: str = "") -> TwoRegime:
    values = dict(zip(CONSTANTS, np.exp(logs).tolist(), strict=True))
    terms = {
        regime: {key.partition(".")[2]: v for key, v in values.items() if key.startswith(regime)}
        for regime in ("decode", "mixed")
    }
    return TwoRegime(
        decode=DecodeTerms(**terms["decode"]),
        mixed=MixedTerms(**terms["mixed"]),
        name=name,
        source=source,
        kind="measurement",
    )


def _guess(replay: Replay, real: FloatArray, first: int) -> FloatArray:
    """Constants in the proportions of real servers, of the size that the log's times suggest."""
    trace = replay.trace
    prompt = float(np.mean(trace.prompt_tokens[:first]))
    output = float(np.mean(trace.output_tokens[:first]))
    step_s = float(np.nanmedian(real[:, 1]))
    running = 16.0
    kv = running * (prompt + output / 2)
    c0, cb, ckv = 0.7 * step_s, 0.1 * step_s / running, 0.2 * step_s / kv
    cp = step_s / 200
    # beside a prefill the decodes' own tokens are among those that cost cp
    return np.array([c0, cb, ckv, c0, cp, 64.0, cb / 4, 1.5 * ckv, 0.1 * cp / prompt])


def _times(replay: Replay, logs: FloatArray, n: int, name: str) -> FloatArray:
    found = replace(replay, step=_model(logs, name)).times()
    return np.column_stack([found[one][:n] for one in FIGURES])


def _common_factor(replay: Replay, logs: FloatArray, real: FloatArray, name: str) -> FloatArray:
    """The logarithm of the factor on all times that gives the mean time per output token."""
    is_time = np.array([not one.endswith("tokens") for one in CONSTANTS], dtype=np.float64)
    low, high = -2.5, 2.5
    wanted = float(np.nanmean(real[:, 1]))
    for _ in range(10):
        middle = (low + high) / 2
        got = float(np.nanmean(_times(replay, logs + middle * is_time, len(real), name)[:, 1]))
        low, high = (middle, high) if got < wanted else (low, middle)
    return np.asarray((low + high) / 2 * is_time)


def _loss(replay: Replay, logs: FloatArray, real: FloatArray, name: str) -> float:
    """Mean absolute error of the requests, in shares of the measured means, summed over figures."""
    missed = np.abs(_times(replay, logs, len(real), name) - real)
    return float(np.sum(np.nanmean(missed, axis=0) / np.nanmean(real, axis=0)))


def _cloud(
    replay: Replay,
    logs: FloatArray,
    real: FloatArray,
    width: float,
    draws: int,
    rng: np.random.Generator,
    name: str,
) -> Cloud:
    half = rng.standard_normal((draws // 2, len(logs)))
    both = np.concatenate([half, -half])
    times = np.stack([_times(replay, logs + width * draw, len(real), name) for draw in both])
    return Cloud(centre=logs, width=width, draws=both, times=times, real=real)


def _cross_validated(replay: Replay, cloud: Cloud, prior: FloatArray, name: str) -> list[float]:
    """Mean |error| of the means of each fold, simulated with constants fitted to the others."""
    planes, n = cloud.planes(), len(cloud.real)
    errors = []
    for fold in np.array_split(np.arange(n), FOLDS):
        rows = np.ones(n)
        rows[fold] = 0.0
        move = np.clip(cloud.solved(planes, prior, rows), -FARTHEST, FARTHEST)
        got = _times(replay, cloud.centre + cloud.width * move, n, name)[fold]
        errors.append(np.nanmean(got, axis=0) / np.nanmean(cloud.real[fold], axis=0) - 1)
    found: list[float] = np.mean(np.abs(errors), axis=0).tolist()
    return found


def _spreads(cloud: Cloud, prior: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Standard deviation of each logarithm: over blocks of requests drawn anew, or what is left
    of the prior's, whichever is larger.
    """
    planes, n = cloud.planes(), len(cloud.real)
    starts = np.arange(0, n, BLOCK)
    found = []
    for _ in range(RESAMPLES):
        blocks = [np.arange(one, min(one + BLOCK, n)) for one in rng.choice(starts, len(starts))]
        rows = np.bincount(np.concatenate(blocks), minlength=n).astype(np.float64)
        found.append(cloud.width * cloud.solved(planes, prior, rows))
    larger: FloatArray = np.maximum(np.std(found, axis=0), cloud.spreads(planes))
    return larger
