"""Defaults and bounds that a field of a scenario and the code behind it share."""

from __future__ import annotations

DEFAULT_BINS = 4
MAX_BINS = 64
MATTERS = 0.02  # smallest difference that does: of rates and times, in points of shares
DEFAULT_LOAD = 0.7  # offered load ρ at which a synthetic profile is held
LOADS = (1e-6, 1e6)
RATES_PER_S = (1e-9, 1e9)
RPS_SCALES = (1e-6, 1e9)  # least and most; beyond them no trace keeps its gaps
LONGEST_JITTER_S = 1e6
MOST_USERS = 1_000_000
LONGEST_THINK_S = 1e6
THINK_TIMES = ("exponential", "constant")
TIMELINE_EVENTS = 200_000  # slices and samples of a timeline, at most
