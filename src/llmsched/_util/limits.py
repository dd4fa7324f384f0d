"""Defaults and bounds that a field of a scenario and the code behind it share."""

from __future__ import annotations

DEFAULT_BINS = 4
MAX_BINS = 64
DEFAULT_RPS_SCALE = 200.0
RPS_SCALES = (1e-6, 1e9)  # least and most; beyond them no trace keeps its gaps
LONGEST_JITTER_S = 1e6
MOST_USERS = 1_000_000
LONGEST_THINK_S = 1e6
THINK_TIMES = ("exponential", "constant")
TIMELINE_EVENTS = 200_000  # slices and samples of a timeline, at most
