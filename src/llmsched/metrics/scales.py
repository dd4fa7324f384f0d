"""On which scale the replications of a metric are averaged: its typical value, and back again.

Times and rates are averaged as logarithms, shares as logits, the rest as it is (`Metric.scale`).
The typical value is what the mean on the scale stands for: of times the geometric mean, so that a
difference is a typical ratio.  No interval then leaves what is possible, and the skewness that
makes plain Student-t intervals miss is mostly gone.

A share of 0 or 1, or a rate of 0, has no place on these scales.  It counts as half a request: the
least that a run of its length could have shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.metrics.registry import METRICS, Scale


def scale_of(metric: str) -> Scale:
    """The scale of a metric; as it is where it is none of ours."""
    return METRICS[metric].scale if metric in METRICS else "linear"


def is_skewed(metric: str) -> bool:
    """Whether its replications are skewed on their scale too."""
    return metric in METRICS and METRICS[metric].skewed


def half_a_request(metric: str, *, requests: int, span_s: float | None) -> float:
    """What half a request is in a share or a rate; NaN in what is neither."""
    if scale_of(metric) == "logit":
        return 0.5 / requests if requests else math.nan
    if metric in METRICS and METRICS[metric].unit == "requests/s" and span_s:
        return 0.5 / span_s
    return math.nan


def on_scale(
    values: Sequence[float] | FloatArray,
    scale: Scale,
    *,
    least: float | Sequence[float] | FloatArray = math.nan,
) -> FloatArray:
    """The values on their scale; NaN where one has no place there.

    Parameters
    ----------
    values : sequence of shape (n,)
        Of n replications.
    scale : {"log", "logit", "linear"}
        Of the metric.
    least : float or sequence of shape (n,)
        What a 0 counts as, such as `half_a_request` of each replication.

    Examples
    --------
    >>> on_scale([0.0, 0.5, 1.0], "logit", least=0.1).round(3).tolist()
    [-2.197, 0.0, 2.197]
    """
    x = np.asarray(values, dtype=np.float64)
    if scale == "linear":
        return x
    floor = np.broadcast_to(np.asarray(least, dtype=np.float64), x.shape)
    x = np.where(x == 0, floor, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        if scale == "log":
            found: FloatArray = np.log(x)
        else:
            x = np.where(x == 1, 1 - floor, x)
            found = np.log(x) - np.log1p(-x)
    return np.where(np.isfinite(found), found, np.nan)


def from_scale(x: float, scale: Scale) -> float:
    """The value that stands at this place of the scale."""
    if scale == "linear" or math.isnan(x):
        return x
    if scale == "log":
        return math.exp(x)
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def typical(
    values: Sequence[float] | FloatArray,
    metric: str,
    *,
    least: float | Sequence[float] | FloatArray = math.nan,
    resampled: bool = False,
    confidence: float = 0.95,
) -> Interval:
    """The typical value of a metric over replications, with its confidence interval.

    Replications that all agree give their very value and an interval of width zero.

    Parameters
    ----------
    values : sequence of shape (n,)
        The metric in each replication; NaN where it has no value.
    metric : str
        Its name.
    least : float or sequence of shape (n,)
        As in `on_scale`.
    resampled : bool
        Whether the replications are resamples of one trace, see `mean_interval`.

    Examples
    --------
    >>> found = typical([1.0, 10.0, 100.0], "latency_p99_s")
    >>> round(found.mean, 6), round(found.low, 3), round(found.high)
    (10.0, 0.033, 3049)
    """
    scale = scale_of(metric)
    x = np.asarray(values, dtype=np.float64)
    if len(x) and (x == x[0]).all():
        return mean_interval(x, confidence=confidence)
    found = mean_interval(
        on_scale(x, scale, least=least),
        resampled=resampled,
        confidence=confidence,
        skewed=is_skewed(metric),
    )
    ends = (from_scale(value, scale) for value in (found.mean, found.low, found.high))
    mean, low, high = ends
    return Interval(mean=mean, low=low, high=high, n=found.n, confidence=confidence)
