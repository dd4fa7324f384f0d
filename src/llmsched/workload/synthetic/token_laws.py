"""Token lengths: the truncated lognormal, sampled through its inverse distribution function.

No redrawing and no clipping: a uniform level in, a value of the truncated law out. So a law keeps
its shape up to its bound, one level gives one value, and a copula is exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.workload.synthetic.profile_kinds import TokenLaw


def truncated_lognormal(
    log_mean: FloatArray,
    log_sd: float,
    low: float,
    high: float,
    uniform: FloatArray,
    group: NDArray[np.intp] | slice = slice(None),
) -> FloatArray:
    """Quantiles of lognormals given low < value < high, shape (n,).

    Parameters
    ----------
    log_mean : ndarray of shape (g,)
        Means of the logs before the truncation, one per group, or one for all.
    log_sd : float
        Standard deviation of the logs before the truncation.
    low, high : float
        Bounds of the values; 0 is no lower bound.
    uniform : ndarray of shape (n,)
        Levels in [0, 1).
    group : ndarray of shape (n,), optional
        Whose `log_mean` each value follows.

    Raises
    ------
    ValueError
        If a law has no probability left between the bounds.
    """
    from scipy.special import ndtr, ndtri

    below = ndtr((np.log(low) - log_mean) / log_sd) if low > 0 else np.zeros_like(log_mean)
    inside = ndtr((np.log(high) - log_mean) / log_sd) - below
    if not inside.all():
        raise ValueError(
            f"a lognormal must reach into {low}..{high}, got log_mean {log_mean.min():g} to "
            f"{log_mean.max():g} with log_sd {log_sd:g}"
        )
    value: FloatArray = uniform * inside[group]
    value += below[group]
    ndtri(value, out=value)
    value *= log_sd
    value += log_mean[group]
    np.exp(value, out=value)
    return value


def token_counts(
    log_mean: FloatArray,
    log_sd: float,
    max_tokens: int,
    uniform: FloatArray,
    group: NDArray[np.intp] | slice = slice(None),
) -> IntArray:
    """Token counts 1..max_tokens: lognormal in (1/2, max + 1/2), then rounded, shape (n,)."""
    value = truncated_lognormal(log_mean, log_sd, 0.5, max_tokens + 0.5, uniform, group)
    value += 0.5  # rounding half up keeps the law's lower end, 1/2, at 1
    whole = value.astype(np.int32)
    # only where floating point gives the bound itself, which the law excludes
    return np.clip(whole, 1, max_tokens, out=whole)


def law_tokens(law: TokenLaw, uniform: FloatArray) -> IntArray:
    """Token counts of a law at the given levels of its distribution function, shape (n,)."""
    return token_counts(np.array([law.log_mean]), law.log_sd, law.max_tokens, uniform)
