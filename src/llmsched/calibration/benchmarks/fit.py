"""A step-time model from closed loops: what a batch would take.

In a closed loop with n requests in flight, continuous batching lets each request take part in o
steps (o its output tokens); while it lives, the n requests bring n prompts and n·(o − 1) decoded
tokens. Whether prompts are prefilled together or one by one into the others' decode steps, the
steps of one life add up to the same time, that of a batch of n requests (`StepModel.service_s`
with n0 = 0):

    TTFT + (o − 1)·TPOT = o·c0 + n·p·cp + n·o·cb + n·(o − 1)·(p + o/2)·ckv

How that sum falls apart into TTFT and TPOT depends on the order of prefills, on queueing and on
luck; only for a client that is alone does each mean what it says:

    TTFT(1) = c0 + cp·p + cb,    TPOT(1) = c0 + cb + (p + o/2)·ckv

So the fit takes TTFT and TPOT at concurrency 1 and the end-to-end times above it; a TPOT under
load would count the others' prefills as decoding, and a TTFT under load the wait for them. All
terms >= 0, least squares on relative errors. Constants that the points cannot tell apart are not:
the model then says which of them stand for which.

Notes
-----
Assumed: the server admits all n requests at once (n within its batch limit and KV memory), keeps
no prefixes in a cache, and TTFT at concurrency 1 is GPU time (time in the network or the tokenizer
goes into cp). n0 is 0, every prompt token costs: where the GPU's floor hides the first ones, a
prompt shorter than those measured comes out too long, and a longer one too short. n is the
concurrency, or `ClosedLoopPoint.company` where clients were idle.

Fits of step times that simulate the run (open loops, single requests) live above this room: they
need the engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmsched.calibration.benchmarks.points import UsablePoint, listed, usable_points
from llmsched.calibration.benchmarks.runs import Benchmarks, ClosedLoopPoint
from llmsched.latency.base import CalibrationError, Kind, MeasuredRange
from llmsched.latency.fit.form_fit import EXACT
from llmsched.latency.fit.forms import nonnegative_least_squares
from llmsched.latency.step import StepModel
from llmsched.latency.uncertainty import Uncertainty

FloatArray = NDArray[np.float64]

PARAMETERS = ("c0_s", "cp_s", "cb_s", "ckv_s")
# what is fitted, the first of them that the points tell apart
_CHOICES = (
    PARAMETERS,
    ("c0_s", "cp_s", "cb_s"),
    ("c0_s", "cb_s", "ckv_s"),
    ("c0_s", "cb_s"),
)
TOLD_APART = 0.15  # share of a constant's effect that the others must not be able to take over
POOR = 0.2  # relative error above which the form is said not to describe the server


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPoint:
    """A point, and what the model makes of it [s]."""

    point: ClosedLoopPoint
    ttft_s: float  # measured means
    tpot_s: float
    e2e_s: float
    batch_s: float  # the model's time of a batch of the requests in flight
    modelled_tpot_s: float  # what that leaves per output token after the TTFT

    @property
    def relative_error(self) -> float:
        """Of the batch time, against the measured end-to-end time."""
        return self.batch_s / self.e2e_s - 1

    @property
    def tpot_relative_error(self) -> float:
        """Of the time per output token, against the measured end-to-end time less its TTFT."""
        measured_s = (self.e2e_s - self.ttft_s) / (self.point.output_tokens - 1)
        return self.modelled_tpot_s / measured_s - 1


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

    Constants that the points cannot tell apart are 0, and their time is part of the others, right
    at these lengths; a note says so.

    Raises
    ------
    CalibrationError
        If a file has no closed loop, only one concurrency, more than one server, or too few times
        for the constants.
    """
    usable, notes = usable_points(benchmarks)
    sizes = _sizes(usable)
    if len(sizes) < 2:
        raise CalibrationError(
            "benchmarks must hold at least 2 concurrencies to tell the time of a step from the "
            f"time per request, got only {sizes[0]}; measure for example 1, 4, 16 and 32"
        )
    names, design, observed = _identified(usable)
    if len(observed) <= len(names):
        raise CalibrationError(
            f"benchmarks must give more than {len(names)} times for {', '.join(names)} and an "
            f"error estimate, got {len(observed)}; measure one more concurrency"
        )
    relative = design / observed[:, None]
    terms = nonnegative_least_squares(relative, np.ones_like(observed))
    model = StepModel(
        **(dict.fromkeys(PARAMETERS, 0.0) | dict(zip(names, terms.tolist(), strict=True))),
        n0_tokens=0.0,
        name=name,
        source="",
        measured=_measured(usable),
        uncertainty=_uncertainty(names, relative, terms),
    )
    return _described(model, benchmarks, usable, names, notes)


def _identified(usable: list[UsablePoint]) -> tuple[tuple[str, ...], FloatArray, FloatArray]:
    """The constants that the points tell apart, with their equations."""
    design, observed = _equations(usable)
    relative = design / observed[:, None]
    columns = relative / np.maximum(np.linalg.norm(relative, axis=0), 1e-300)
    for names in _CHOICES:
        chosen = [PARAMETERS.index(name) for name in names]
        if all(_own_share(columns, one, chosen) >= TOLD_APART for one in chosen):
            return names, design[:, chosen], observed
    raise CalibrationError(
        "benchmarks must tell the time of a step from the time per request, got concurrencies too "
        f"near each other ({listed(_sizes(usable))}); measure for example 1, 4, 16 and 32"
    )


def _own_share(columns: FloatArray, one: int, chosen: list[int]) -> float:
    """The length of a unit column that no combination of the other chosen ones can make up for."""
    others = columns[:, [each for each in chosen if each != one]]
    made_up = others @ np.linalg.lstsq(others, columns[:, one], rcond=None)[0]
    return float(np.linalg.norm(columns[:, one] - made_up))


def _equations(usable: list[UsablePoint]) -> tuple[FloatArray, FloatArray]:
    """The equations of the module's docstring: a row of coefficients and a time each."""
    rows: list[tuple[tuple[float, ...], float]] = []
    for one in usable:
        n, p, o = one.shape
        if one.is_alone:
            rows.append(((1, p, 1, 0), one.ttft_s))
            rows.append(((1, 0, 1, p + o / 2), one.tpot_s))
        else:
            rows.append(((o, n * p, n * o, n * (o - 1) * (p + o / 2)), one.e2e_s))
    design = np.array([coefficients for coefficients, _ in rows], dtype=np.float64)
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


def _measured(usable: list[UsablePoint]) -> MeasuredRange:
    sizes, prompts, outputs = zip(*(one.shape for one in usable), strict=True)

    def bounds(values: tuple[float, ...]) -> tuple[int, int]:
        return math.floor(min(values)), math.ceil(max(values))

    return MeasuredRange(
        size=bounds(sizes), max_prompt_tokens=bounds(prompts), max_output_tokens=bounds(outputs)
    )


def _fitted_point(model: StepModel, one: UsablePoint) -> FittedPoint:
    n, p, o = one.shape
    prefill_s = model.c0_s + model.cp_s * n * p + model.cb_s * n
    step_s = model.c0_s + model.cb_s * n + model.ckv_s * n * (p + o / 2)
    batch_s = prefill_s + (o - 1) * step_s
    first_s = prefill_s if one.is_alone else one.ttft_s
    return FittedPoint(
        point=one.point,
        ttft_s=one.ttft_s,
        tpot_s=one.tpot_s,
        e2e_s=one.e2e_s,
        batch_s=batch_s,
        modelled_tpot_s=(batch_s - first_s) / (o - 1),
    )


def _described(
    model: StepModel,
    benchmarks: Benchmarks,
    usable: list[UsablePoint],
    names: tuple[str, ...],
    notes: list[str],
) -> BenchmarkFit:
    """The fit with its source and notes."""
    points = tuple(_fitted_point(model, one) for one in usable)
    fit = BenchmarkFit(model=model, points=points, notes=())
    worst = max(points, key=lambda one: abs(one.relative_error))
    rule = "n0 = 0"
    if len(names) < len(PARAMETERS):
        rule += f", {_merged(names)}"
        notes.append(
            f"{len(names)} of {len(PARAMETERS)} constants can be told apart at these lengths "
            f"({_shapes(usable)}), and the model holds there only: {_merged(names)}"
        )
    if fit.max_relative_error > POOR:
        notes.append(
            f"the model misses the time at concurrency {worst.point.concurrency} by "
            f"{worst.relative_error:+.0%}: was the concurrency above the server's batch limit, or "
            "its KV memory full, or lengths that vary much? Leave out such files"
        )
    if fit.max_relative_error < EXACT:
        notes.append("the model meets every point exactly: a formula's output, no measurement")
    alone = " prefill and decode told apart by TTFT and TPOT at concurrency 1,"
    source = (
        f"form step from {len(points)} results of {benchmarks.format} at concurrency "
        f"{listed(_sizes(usable))}; a batch of n takes what a request takes among n,"
        f"{alone if any(one.is_alone for one in usable) else ''} {rule}; relative error median "
        f"{fit.median_relative_error:.1%}, worst {fit.max_relative_error:.1%}; {benchmarks.source}"
    )
    kind: Kind = "formula" if fit.max_relative_error < EXACT else "measurement"
    return replace(fit, model=replace(model, source=source, kind=kind), notes=tuple(notes))


def _merged(names: tuple[str, ...]) -> str:
    """Which constants are part of which others."""
    short = {name: name.removesuffix("_s") for name in PARAMETERS}
    missing = [short[name] for name in PARAMETERS if name not in names]
    takers = [short[name] for name in names if name != "c0_s"]
    theirs = "its" if len(missing) == 1 else "their"
    return f"{' and '.join(missing)} = 0, {theirs} time being part of {' and '.join(takers)}"


def _sizes(usable: list[UsablePoint]) -> list[int]:
    return sorted({one.point.concurrency for one in usable})


def _shapes(usable: list[UsablePoint]) -> str:
    shapes = sorted({(round(p), round(o)) for _, p, o in (one.shape for one in usable)})
    return listed([f"{prompt} + {output} tokens" for prompt, output in shapes])
