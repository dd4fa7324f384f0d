"""What was run, in two lines: requests and their rate, hardware, SLA, predictor, replications."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def header(
    first: Mapping[str, Any],
    rates: Sequence[float | None],
    *,
    rate: str,
    hardware: str,
    counts: Sequence[int] = (),
) -> str:
    """The requests, how fast they come and why, and what serves them.

    Parameters
    ----------
    first : mapping
        The row of the first run (`Run.to_dict`).
    rates : sequence
        The arrival rate of each replication [requests/s].
    rate : str
        How it came about.
    counts : sequence
        The requests of each replication, where they differ.
    """
    objectives = f"SLA {first['sla_s']:g} s" if first.get("sla_s") is not None else "no SLA"
    return (
        f"{counts_text(counts or (first['requests'],))} of {first['trace']} "
        f"at {rate_text(rates)} ({rate}),\n"
        f"{hardware}, {objectives}, predictor {first['predictor']}"
    )


def counts_text(counts: Sequence[int]) -> str:
    """How many requests there are; resamples of a trace have more or fewer of them."""
    low, high = min(counts), max(counts)
    if low == high:
        return f"{low} request{'' if low == 1 else 's'}"
    return f"{low} to {high} requests"


def rate_text(rates: Sequence[float | None]) -> str:
    """The arrival rate, or the range of several."""
    known = [rate for rate in rates if rate is not None and math.isfinite(rate)]
    if not known:
        return "one instant"
    low, high = f"{min(known):.3g}", f"{max(known):.3g}"
    return f"{low} requests/s" if low == high else f"{low} to {high} requests/s"


def replications_text(seeds: Sequence[int], *, random: bool, resampled: bool) -> str:
    """How often it was run, and what another replication is."""
    if not random:
        return ".\nNothing was random: one run each, without intervals."
    if len(seeds) == 1:
        return f", seed {seeds[0]}.\nOne replication, so no interval; --seeds 2 or more gives one."
    kind = "resamples of the trace" if resampled else "replications"
    return f", {len(seeds)} {kind} (seeds {seeds[0]}..{seeds[-1]})."
