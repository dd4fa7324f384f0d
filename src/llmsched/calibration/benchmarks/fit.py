"""A step-time model from the points of a serving benchmark: what a batch would take.

In a closed loop with n requests in flight, continuous batching lets each request take part in o
steps (o its output tokens); while it lives, the n requests bring n prompts and n·(o − 1) decoded
tokens. Whether prompts are prefilled together or one by one into the others' decode steps, the
steps of one life add up to the same time, that of a batch of n requests (`StepModel.service_s`
with n0 = 0):

    TTFT + (o − 1)·TPOT = o·c0 + n·p·cp + n·o·cb + n·(o − 1)·(p + o/2)·ckv

How that sum falls apart into TTFT and TPOT depends on the order of prefills, on queueing and on
luck; only at n = 1 does each mean what it says:

    TTFT(1) = c0 + cp·p + cb,    TPOT(1) = c0 + cb + (p + o/2)·ckv

So the fit takes TTFT and TPOT at concurrency 1 and the end-to-end times above it; a TPOT under
load would count the others' prefills as decoding, and a TTFT under load the wait for them. All
terms >= 0, least squares on relative errors.

Notes
-----
Assumed: the server admits all n requests at once (n within its batch limit and KV memory), keeps
no prefixes in a cache, and TTFT at concurrency 1 is GPU time (time in the network or the tokenizer
goes into cp). n0 is 0, every prompt token costs: where the GPU's floor hides the first ones, a
prompt shorter than those measured comes out too long, and a longer one too short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmsched.calibration.benchmarks.points import BenchmarkPoint, Benchmarks
from llmsched.latency.base import CalibrationError, Kind, MeasuredRange
from llmsched.latency.fit.form_fit import EXACT
from llmsched.latency.fit.forms import nonnegative_least_squares
from llmsched.latency.step import StepModel
from llmsched.latency.uncertainty import Uncertainty

FloatArray = NDArray[np.float64]

PARAMETERS = ("c0_s", "cp_s", "cb_s", "ckv_s")
CONTEXT_RATIO = 1.5  # longest to shortest context: below it ckv cannot be told from cb
POOR = 0.2  # relative error above which the form is said not to describe the server


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPoint:
    """A point, and what the model makes of it [s]."""

    point: BenchmarkPoint
    batch_s: float  # the model's time of a batch of `concurrency` requests
    tpot_s: float  # what that leaves per output token after the measured TTFT

    @property
    def relative_error(self) -> float:
        """Of the batch time, against the measured end-to-end time."""
        return self.batch_s / self.point.e2e_s - 1

    @property
    def tpot_relative_error(self) -> float:
        """Of the time per output token, against the measured end-to-end time less its TTFT."""
        point = self.point
        measured_s = (point.e2e_s - point.ttft_s) / (point.output_tokens - 1)
        return self.tpot_s / measured_s - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFit:
    """The step model of some benchmark results, and how well it describes them."""

    model: StepModel
    points: tuple[FittedPoint, ...]
    notes: tuple[str, ...]

    @property
    def median_relative_error(self) -> float:
        """Of the batch times."""
        return float(np.median([abs(one.relative_error) for one in self.points]))

    @property
    def max_relative_error(self) -> float:
        """Of the batch times."""
        return max(abs(one.relative_error) for one in self.points)


def fit_benchmarks(benchmarks: Benchmarks, *, name: str = "imported") -> BenchmarkFit:
    """The step model that describes these benchmarks; see the module for what is assumed.

    Where all contexts p + o/2 lie within a factor of 1.5, reading keys and values cannot be told
    from the share per request: ckv is then 0 and its time part of cb, right at that context.

    Raises
    ------
    CalibrationError
        If concurrency 1 is missing, only one concurrency is there, or the points are too few or
        too much alike for the parameters.
    """
    points = benchmarks.points
    _check_concurrencies(points)
    context = np.array([p.prompt_tokens + p.output_tokens / 2 for p in points])
    told_apart = bool(context.max() >= CONTEXT_RATIO * context.min())
    names = PARAMETERS if told_apart else PARAMETERS[:3]
    design, observed = _equations(points, len(names))
    if len(observed) <= len(names):
        raise CalibrationError(
            f"benchmarks must give more than {len(names)} times for {', '.join(names)} and an "
            f"error estimate, got {len(observed)}; measure one more concurrency"
        )
    relative = design / observed[:, None]
    try:
        terms = nonnegative_least_squares(relative, np.ones_like(observed))
    except CalibrationError:
        raise CalibrationError(
            f"benchmarks must tell {', '.join(names)} apart, got {_shapes(points)}; vary prompt "
            "and output lengths apart from each other, or take one pair of lengths"
        ) from None
    model = StepModel(
        **(dict.fromkeys(PARAMETERS, 0.0) | dict(zip(names, terms.tolist(), strict=True))),
        n0_tokens=0.0,
        name=name,
        source="",
        measured=_measured(points),
        uncertainty=_uncertainty(names, relative, terms),
    )
    return _described(model, benchmarks, told_apart=told_apart)


def _check_concurrencies(points: tuple[BenchmarkPoint, ...]) -> None:
    found = sorted({point.concurrency for point in points})
    if found[0] != 1:
        raise CalibrationError(
            "benchmarks must include concurrency 1, where TTFT is one prefill and no waiting, got "
            f"{_listed(found)}; measure concurrency 1 with the same lengths and name its file too"
        )
    if len(found) < 2:
        raise CalibrationError(
            "benchmarks must hold at least 2 concurrencies to tell the time of a step from the "
            "time per request, got only 1; measure for example 1, 4, 16 and 32"
        )


def _equations(points: tuple[BenchmarkPoint, ...], n_terms: int) -> tuple[FloatArray, FloatArray]:
    """The equations of the module's docstring: a row of coefficients and a time each."""
    rows: list[tuple[tuple[float, ...], float]] = []
    for point in points:
        n, p, o = point.concurrency, point.prompt_tokens, point.output_tokens
        if n == 1:
            rows.append(((1, p, 1, 0), point.ttft_s))
            rows.append(((1, 0, 1, p + o / 2), point.tpot_s))
        else:
            rows.append(((o, n * p, n * o, n * (o - 1) * (p + o / 2)), point.e2e_s))
    design = np.array([coefficients[:n_terms] for coefficients, _ in rows], dtype=np.float64)
    return design, np.array([time_s for _, time_s in rows])


def _uncertainty(
    names: tuple[str, ...], relative: FloatArray, terms: FloatArray
) -> Uncertainty | None:
    """Covariance read off the relative residuals; None where these vanish."""
    freedom = len(relative) - len(names)
    variance = float(np.sum((relative @ terms - 1) ** 2)) / freedom
    if variance < EXACT**2:
        return None
    scale = np.linalg.norm(relative, axis=0)
    inverse = np.linalg.inv((relative / scale).T @ (relative / scale)) / np.outer(scale, scale)
    return Uncertainty.of(names, variance * inverse, degrees_of_freedom=freedom)


def _measured(points: tuple[BenchmarkPoint, ...]) -> MeasuredRange:
    def bounds(values: list[float]) -> tuple[int, int]:
        return math.floor(min(values)), math.ceil(max(values))

    return MeasuredRange(
        size=bounds([point.concurrency for point in points]),
        max_prompt_tokens=bounds([point.prompt_tokens for point in points]),
        max_output_tokens=bounds([point.output_tokens for point in points]),
    )


def _fitted_point(model: StepModel, point: BenchmarkPoint) -> FittedPoint:
    n, p, o = point.concurrency, point.prompt_tokens, point.output_tokens
    prefill_s = model.c0_s + model.cp_s * n * p + model.cb_s * n
    step_s = model.c0_s + model.cb_s * n + model.ckv_s * n * (p + o / 2)
    batch_s = prefill_s + (o - 1) * step_s
    first_s = prefill_s if n == 1 else point.ttft_s
    return FittedPoint(point=point, batch_s=batch_s, tpot_s=(batch_s - first_s) / (o - 1))


def _described(model: StepModel, benchmarks: Benchmarks, *, told_apart: bool) -> BenchmarkFit:
    """The fit with its source and notes."""
    points = tuple(_fitted_point(model, point) for point in benchmarks.points)
    fit = BenchmarkFit(model=model, points=points, notes=())
    worst = max(points, key=lambda one: abs(one.relative_error))
    notes = list(benchmarks.notes)
    rule = "n0 = 0"
    if not told_apart:
        shapes = _shapes(benchmarks.points)
        rule += ", ckv = 0, its time being part of cb"
        notes.append(
            f"ckv is 0 and its time part of cb: one context length ({shapes}) cannot tell them "
            "apart; the model holds at these lengths only"
        )
    if fit.max_relative_error > POOR:
        notes.append(
            f"the model misses the time at concurrency {worst.point.concurrency} by "
            f"{worst.relative_error:+.0%}: was the concurrency above the server's batch limit, or "
            "its KV memory full? Leave out such files"
        )
    if fit.max_relative_error < EXACT:
        notes.append("the model meets every point exactly: a formula's output, no measurement")
    sizes = sorted({point.concurrency for point in benchmarks.points})
    source = (
        f"form step from {len(points)} results of {benchmarks.tool} at concurrency "
        f"{_listed(sizes)}; a batch of n takes what a request takes at concurrency n, prefill and "
        f"decode told apart by TTFT and TPOT at concurrency 1, {rule}; relative error median "
        f"{fit.median_relative_error:.1%}, worst {fit.max_relative_error:.1%}; {benchmarks.source}"
    )
    kind: Kind = "formula" if fit.max_relative_error < EXACT else "measurement"
    return replace(fit, model=replace(model, source=source, kind=kind), notes=tuple(notes))


def _shapes(points: tuple[BenchmarkPoint, ...]) -> str:
    shapes = sorted({(round(p.prompt_tokens), round(p.output_tokens)) for p in points})
    return _listed([f"{prompt} + {output} tokens" for prompt, output in shapes])


def _listed(values: list[int] | list[str]) -> str:
    """Up to six of them, then a count."""
    more = f" and {len(values) - 6} more" if len(values) > 6 else ""
    return ", ".join(str(value) for value in values[:6]) + more
