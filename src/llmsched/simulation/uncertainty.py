"""Calibration error in the answer: runs under drawn latency parameters, and the interval they give.

Wanted is the mean m(θ) of a figure of merit over replications at the *true* latency parameters θ,
of which a calibration tells an estimate and its errors.

Runs.  N parameter sets are drawn once (`Hardware.draw`), from a stream of the root seed that
serves nothing else.  Every scheduler and replication shares them, and each is run on the requests
and the predictor's noise of the fitted set, so draws differ by calibration alone.  What a
scheduler believes, such as bins by service time, stays that of the fitted parameters: whoever
operates it knows no others.

Interval.  With errors spread around the truth as the draws are around the estimate, truth and
draws are exchangeable.  m(θ) is then distributed as the mixture, over the draws, of the Student-t
distributions that the replications give for each m(θ_d); the interval is the central 95 % of it
(`calibrated_interval`).  Where the draws agree that is the usual t interval, and where nothing
else is random the draws' own quantiles.  It assumes nothing about the shape of m: violation rates
are steps in θ, on which 95 % intervals from a standard deviation of the draws covered 88 % of
4000 made-up truths, and these 95 %.  Of exchangeable values the range of N holds one more with
probability (N - 1)/(N + 1), so 95 % take 39 draws; fewer reach less, and say so.

Left out: that the form of the model is wrong, and that the GPU in use is not the one measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.latency.base import LatencyModel
from llmsched.latency.registry import load_latency
from llmsched.metrics.intervals import Interval
from llmsched.simulation.hardware import ResolvedHardware, drawn_latency
from llmsched.simulation.scenario import Scenario

FEWEST_DRAWS, MOST_DRAWS = 2, 1000
FULL_DRAWS = 39  # (39 - 1)/(39 + 1) = 0.95
FIGURES_OF_MERIT = (
    *("sla_violation_rate", "latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s"),
    *("throughput_rps", "goodput_rps", "gpu_utilization", "batch_size_mean", "offered_load"),
)
Summary = Mapping[str, float | None]  # the numbers of `Run.to_dict`


def draw_latencies(
    latency: LatencyModel | str, n_draws: int, *, seed: int = 0
) -> tuple[LatencyModel, ...]:
    """Latency models with parameters drawn from the calibration errors of this one.

    The first draws of more are the same.

    Parameters
    ----------
    latency : LatencyModel or str
        A measured or fitted model, or what `load_latency` takes.
    n_draws : int
        How many, in [2, 1000]; intervals reach 95 % from 39 on.
    seed : int
        Root seed; it gives the draws a stream of their own.

    Raises
    ------
    ValueError
        If the number is out of range.
    CalibrationError
        If the model has no calibration errors, as every formula.

    Examples
    --------
    >>> from llmsched.latency import FourTermModel, Uncertainty
    >>> errors = Uncertainty(parameter_names=("a0_s",), covariance=((1e-6,),))  # 1 ms
    >>> model = FourTermModel(a0_s=0.01, a1_s=1e-3, a2_s=0, a3_s=0, name="mine", source="hand",
    ...                       uncertainty=errors)
    >>> [round(1e3 * drawn.a0_s, 2) for drawn in draw_latencies(model, 2)]  # [ms]
    [8.96, 10.08]
    """
    if not FEWEST_DRAWS <= n_draws <= MOST_DRAWS:
        raise ValueError(
            f"draws of the latency parameters must number {FEWEST_DRAWS} to {MOST_DRAWS}, "
            f"got {n_draws}; {FULL_DRAWS} are enough for 95 %"
        )
    model = load_latency(latency) if isinstance(latency, str) else latency
    return tuple(drawn_latency(model, seed, number) for number in range(n_draws))


def check_draws(hardware: ResolvedHardware, n_draws: int) -> None:
    """Fail unless the latency's parameters can be drawn so many times; 0 asks for nothing.

    Raises
    ------
    ValueError
        If the number is out of range.
    CalibrationError
        If the model has no calibration errors, as every formula.
    """
    if n_draws:
        draw_latencies(hardware.uncertain, n_draws)


def under_draws(scenario: Scenario, n_draws: int, *, seed: int) -> tuple[Scenario, ...]:
    """The scenario under each draw of its latency, from the stream of the root seed."""
    hardware = scenario.hardware
    return tuple(
        replace(scenario, hardware=replace(hardware, draw=(seed, number)))
        for number in range(n_draws)
    )


def numbers_of(row: Mapping[str, Any]) -> Summary:
    """The numbers of a run's row, the rest left out."""
    return {k: v for k, v in row.items() if v is None or isinstance(v, int | float)}


def values_over_draws(drawn: Sequence[Summary], metric: str) -> FloatArray:
    """The metric in each draw, NaN where it has no value, shape (n_draws,)."""
    values = (summary[metric] for summary in drawn)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUncertainty:
    """One run and its draws: what calibration error does to it; its requests are given."""

    fitted: Summary
    drawn: tuple[Summary, ...]

    def interval(self, metric: str) -> Interval:
        """The value at the fitted parameters, and its interval over the draws."""
        value = self.fitted[metric]
        fitted = math.nan if value is None else value
        return calibrated_interval(fitted, values_over_draws(self.drawn, metric))

    def to_dict(self) -> dict[str, Any]:
        """The main figures of merit as one JSON object."""
        return {
            "draws": len(self.drawn),
            "confidence": reached_confidence(len(self.drawn)),
            "intervals": {name: self.interval(name).to_dict() for name in FIGURES_OF_MERIT},
        }


def reached_confidence(n_draws: int, *, confidence: float = 0.95) -> float:
    """What an interval over so many draws covers: the confidence asked for, or less."""
    return min(confidence, (n_draws - 1) / (n_draws + 1))


def calibrated_interval(
    fitted: float, drawn: FloatArray, *, confidence: float = 0.95, resampled: bool = False
) -> Interval:
    """The mean at the fitted parameters, with an interval that includes calibration error.

    Parameters
    ----------
    fitted : float
        Mean over replications at the fitted parameters: the `mean` of what comes back.
    drawn : ndarray of shape (n_draws, n_replications), or (n_draws,)
        The metric under each draw in each replication; one axis where nothing else is random.
    resampled : bool
        Whether the replications are resamples of one trace, see `mean_interval`.

    Returns
    -------
    Interval
        NaN ends where a value is not finite, or where one replication shows no sampling error.
        Its confidence is less than asked for if the draws are too few.

    Notes
    -----
    The draws' quantiles are taken at i/(N + 1) and joined by lines, as are the standard errors
    that belong to them; beyond the smallest and the largest they stay at these.

    Examples
    --------
    >>> interval = calibrated_interval(20.0, np.arange(1.0, 40.0))
    >>> round(interval.low, 9), round(interval.high, 9), interval.confidence
    (1.0, 39.0, 0.95)
    """
    values = np.asarray(drawn, dtype=np.float64)
    n_draws = len(values)
    n = 1 if values.ndim == 1 else values.shape[1]
    low = high = math.nan
    if np.isfinite(values).all() and not (values.ndim == 2 and n == 1):
        means, errors = _means_and_errors(values, resampled)
        tail = (1 - confidence) / 2
        low, high = (_mixture_quantile(means, errors, n - 1, p) for p in (tail, 1 - tail))
    reached = reached_confidence(n_draws, confidence=confidence)
    return Interval(mean=fitted, low=low, high=high, n=n, confidence=reached)


def mixture_interval(
    means: FloatArray, errors: FloatArray, dof: int, *, confidence: float = 0.95
) -> Interval:
    """The interval of the mixture of t distributions around the draws; its mean is theirs.

    Parameters
    ----------
    means, errors : ndarray of shape (n_draws,)
        Of each draw, over replications; NaN ends where a value is not finite.
    dof : int
        Degrees of freedom of the errors.
    """
    low = high = math.nan
    if np.isfinite(means).all() and np.isfinite(errors).all():
        order = np.argsort(means, kind="stable")
        tail = (1 - confidence) / 2
        ends = [_mixture_quantile(means[order], errors[order], dof, p) for p in (tail, 1 - tail)]
        low, high = ends
    reached = reached_confidence(len(means), confidence=confidence)
    return Interval(mean=float(means.mean()), low=low, high=high, n=dof + 1, confidence=reached)


def _means_and_errors(values: FloatArray, resampled: bool) -> tuple[FloatArray, FloatArray]:
    """Mean and standard error of each draw, in order of the means."""
    if values.ndim == 1:
        return np.sort(values), np.zeros(len(values))
    equal = (values == values[:, :1]).all(axis=1)  # not by the formula, which rounds
    means = np.where(equal, values[:, 0], values.mean(axis=1))
    n = values.shape[1]
    spread = math.sqrt((n + 1) / n if resampled else 1 / n)
    errors = np.where(equal, 0.0, values.std(axis=1, ddof=1) * spread)
    order = np.argsort(means, kind="stable")
    return means[order], errors[order]


_POINTS = 1000  # of the draws' quantile function: a tail of 0.025 is 25 of them
_HALVINGS = 40  # of the range that holds the answer: to 1e-12 of it


def _mixture_quantile(means: FloatArray, errors: FloatArray, dof: int, share: float) -> float:
    """Where the mixture of t distributions around the draws holds this share below."""
    if not errors.any():
        return float(_between(means, np.array([share]))[0])
    from scipy.special import stdtr, stdtrit

    shares = (np.arange(_POINTS) + 0.5) / _POINTS
    centre, error = _between(means, shares), _between(errors, shares)
    ends = centre + error * stdtrit(dof, share)
    low, high = float(ends.min()), float(ends.max())  # each component's own: the answer is between
    spread = np.where(error > 0, error, 1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = np.where(error > 0, stdtr(dof, (middle - centre) / spread), middle >= centre)
        low, high = (low, middle) if below.mean() >= share else (middle, high)
    return high


def _between(ordered: FloatArray, shares: FloatArray) -> FloatArray:
    """Quantiles at i/(N + 1) of N ordered values, lines between them."""
    n = len(ordered)
    return np.interp(shares * (n + 1), np.arange(1, n + 1), ordered)
