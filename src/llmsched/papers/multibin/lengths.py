"""Length laws from the few quantiles of lengths that may be passed on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmsched.distributions import Empirical

_N_LEVELS = 5000
MID_LEVELS = (np.arange(_N_LEVELS) + 0.5) / _N_LEVELS  # they stand for a law, equally probable


def quantile_law(levels_percent: Sequence[float], quantiles: Sequence[float]) -> Empirical:
    """The law with these quantiles, and straight lines between them, in the quantiles' unit.

    Raises
    ------
    ValueError
        Unless the levels go from 0 to 100, each with its quantile, and neither decreases.

    Examples
    --------
    >>> quantile_law([0, 50, 100], [1.0, 2.0, 5.0]).mean_s
    2.5
    """
    levels, values = np.asarray(levels_percent), np.asarray(quantiles, dtype=np.float64)
    if len(levels) != len(values) or len(levels) < 2 or (levels[0], levels[-1]) != (0, 100):
        raise ValueError(
            f"levels must go from 0 to 100 %, one quantile each, got {len(levels)} levels and "
            f"{len(values)} quantiles"
        )
    if not ((np.diff(levels) > 0).all() and (np.diff(values) >= 0).all()):
        raise ValueError("levels must increase and quantiles must not decrease; sort them")
    return Empirical(np.interp(MID_LEVELS, levels / 100, values))
