"""Settings by one word: what a run is where nothing else is said beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmsched.simulation.scenario import Scenario

# "plan" is the stress plan's world, in which the project's origin published its results
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "plan": {
        "workload": {"rps_scale": 200.0},
        "hardware": {"latency": "reference", "n_gpus": 4},  # whose GPU has 12 GB
        "slo": {"latency_s": 1.0},
        "binning": {"n_bins": 4},
    }
}


def preset(name: str) -> Scenario:
    """The scenario of this name.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> preset("plan").hardware.latency
    'reference'
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return Scenario.from_dict(PRESETS[name])
