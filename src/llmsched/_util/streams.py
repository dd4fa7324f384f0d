"""One random stream per concern, so that changing a policy leaves the requests untouched."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np


@dataclass(frozen=True, slots=True)
class Streams:
    """Independent random generators of one replication, one per concern."""

    requests: np.random.Generator
    jitter: np.random.Generator
    prediction: np.random.Generator
    calibration: np.random.Generator  # draws of latency parameters: of the root seed's, not more
    clients: np.random.Generator  # pauses of the users of a closed loop
    resampling: np.random.Generator  # which stretches of a trace make another like it

    @classmethod
    def of_seed(cls, seed: int) -> Streams:
        """The streams of a root seed.

        Raises
        ------
        ValueError
            If the seed is no whole number, or negative.
        """
        if not isinstance(seed, Integral) or seed < 0:
            raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")
        children = np.random.SeedSequence(seed).spawn(6)  # one more leaves the others as they are
        return cls(*(np.random.default_rng(child) for child in children))
