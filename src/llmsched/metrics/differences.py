"""One alternative against another, replication by replication, and the verdict in a word.

Differences are taken on the metric's scale (`scales`) and told in its own way: times and rates as
a typical ratio less 1, shares in points at the baseline's typical level, the rest in their unit.
The verdicts of one table are corrected for their number (Holm), so that the chance of any false
`better` or `worse` in it is 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched._util.limits import MATTERS
from llmsched.metrics.intervals import Interval, holm, mean_interval, p_value_of_zero
from llmsched.metrics.registry import METRICS
from llmsched.metrics.scales import from_scale, is_skewed, on_scale, scale_of

LEVEL = 0.05  # of all verdicts of a table together
EQUAL = 1e-9  # of the value: a difference up to this is that of the last digits of two sums
VERDICTS = (
    *("better", "worse", "too small to matter", "not told apart", "equal"),
    *("nothing was random", "one replication", "no value"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a scheduler changes in one metric against the baseline."""

    scheduler: str
    baseline: str
    metric: str
    interval: Interval  # ratio less 1 of times and rates; of shares a share; else in the unit
    p_value: float  # of no difference, for this line alone; NaN where there is none
    equal: bool = False  # in every replication
    random: bool = True  # False where every replication is the same by construction
    matters: float = MATTERS  # a change up to this is none that matters, in the interval's unit
    corrected_p: float = math.nan  # for all lines of the table
    calibrated: Interval | None = None  # the same with calibration error, where it was asked for

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        interval = self.interval
        if math.isnan(interval.mean):
            return "no value"
        if self.equal:
            return "equal"
        if not self.random:
            return "nothing was random"
        if math.isnan(interval.low):
            return "one replication"
        if self.small:
            return "too small to matter"
        if not self.corrected_p <= LEVEL:
            return "not told apart"
        return self.direction

    @property
    def calibrated_verdict(self) -> str | None:
        """Whether the difference exceeds noise and calibration error; None without draws."""
        if self.calibrated is None:
            return None
        if self.equal:
            return "equal"
        if math.isnan(self.calibrated.low):
            return "no interval"
        return self.direction if self.calibrated.significant else "not told apart"

    @property
    def direction(self) -> str:
        """Whether the estimate is for the better, whatever its noise."""
        up = self.interval.mean > 0
        better = METRICS[self.metric].better if self.metric in METRICS else None
        if better is None:
            return "higher" if up else "lower"
        return "better" if up == (better == "higher") else "worse"

    @property
    def small(self) -> bool:
        """Whether the whole interval is too small to matter."""
        least = 1 / (1 + self.matters) - 1 if scale_of(self.metric) == "log" else -self.matters
        return least <= self.interval.low and self.interval.high <= self.matters

    def to_dict(self) -> dict[str, Any]:
        """The difference as one JSON object."""
        ends = self.interval.to_dict()
        found: dict[str, Any] = {
            "scheduler": self.scheduler,
            "against": self.baseline,
            "metric": self.metric,
            "unit": {"log": "ratio - 1", "logit": "share"}.get(scale_of(self.metric), "difference"),
            "difference": ends["mean"],
            "low": ends["low"],
            "high": ends["high"],
            "p_value": _finite(self.p_value),
            "p_value_holm": _finite(self.corrected_p),
            "verdict": self.verdict,
        }
        if self.calibrated is not None:
            more = self.calibrated.to_dict()
            found["with_calibration"] = {
                "difference": more["mean"],
                "low": more["low"],
                "high": more["high"],
                "confidence": self.calibrated.confidence,
                "verdict": self.calibrated_verdict,
            }
        return found


def difference(
    ours: Sequence[float] | FloatArray,
    theirs: Sequence[float] | FloatArray,
    *,
    metric: str,
    scheduler: str,
    baseline: str,
    least: float | Sequence[float] | FloatArray = math.nan,
    random: bool = True,
    resampled: bool = False,
    matters: float = MATTERS,
) -> Difference:
    """The paired difference of two series of replications under common random numbers.

    Parameters
    ----------
    ours, theirs : sequence of shape (n,)
        The metric in each replication, of the scheduler and of the baseline.
    metric, scheduler, baseline : str
        Names.
    least : float or sequence of shape (n,)
        What a 0 counts as, see `scales.on_scale`.
    random : bool
        Whether another seed gives other values.
    resampled : bool
        Whether the replications are resamples of one trace.
    matters : float
        The smallest change that matters: 0.02 is 2 % of rates and times, 2 points of shares.
    """
    scale = scale_of(metric)
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if len(a) != len(b):
        raise ValueError(f"paired samples must be of one length, got {len(a)} and {len(b)}")
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and has no interval
        equal = bool((np.abs(a - b) <= EQUAL * np.abs(b)).all())
        base = on_scale(b, scale, least=least)
        change = on_scale(a, scale, least=least) - base
    level = float(base.mean())
    # where one of the two saturates first, differences of logits are skewed, though levels are not
    form = {"resampled": resampled, "skewed": is_skewed(metric) or scale == "logit"}
    found = told(mean_interval(change, **form), scale, level)
    return Difference(
        scheduler=scheduler,
        baseline=baseline,
        metric=metric,
        interval=found,
        p_value=1.0 if equal else p_value_of_zero(change, **form),
        equal=equal,
        random=random,
        matters=matters * abs(level) if scale == "linear" else matters,
    )


def told(change: Interval, scale: str, level: float) -> Interval:
    """A change on the scale as people say it: a ratio less 1, points, or as it is.

    Parameters
    ----------
    change : Interval
        Of the difference on the scale.
    level : float
        The baseline's mean on the scale.
    """

    def one(x: float) -> float:
        if math.isnan(x):
            return x
        if scale == "log":
            return math.expm1(x)
        if scale == "logit":
            return from_scale(level + x, "logit") - from_scale(level, "logit")
        return x

    return replace(change, mean=one(change.mean), low=one(change.low), high=one(change.high))


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The lines of one table, their p-values corrected for their number."""
    p_values = [one.p_value if one.random else math.nan for one in differences]
    return [replace(one, corrected_p=p) for one, p in zip(differences, holm(p_values), strict=True)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
