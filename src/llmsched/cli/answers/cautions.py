"""What a reader must be careful about, a line each: extrapolation, overload, transients, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmsched.cli.text import percent
from llmsched.latency.base import AXIS_LABELS

Row = Mapping[str, Any]


def cautions(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Every caution that the rows of some schedulers call for.

    Parameters
    ----------
    rows : mapping
        Of each scheduler, the row of each replication (`Run.to_dict`).
    """
    found = [
        _labelled(
            rows,
            "overloaded",
            "work comes faster than it is done, so every latency grows with the length of the run",
        ),
        _labelled(
            rows,
            "backlogged",
            "a backlog built up and drained: latencies depend on how long the run is",
        ),
        _extrapolated(rows),
        _beyond_memory(rows),
        _rejected(rows),
    ]
    return [line for line in found if line]


def _labelled(rows: Mapping[str, Sequence[Row]], label: str, meaning: str) -> str:
    told = []
    for scheduler, runs in rows.items():
        count = sum(run["load_label"] == label for run in runs)
        if count:
            of = "" if count == len(runs) else f" in {count} of {len(runs)} runs"
            told.append(f"{scheduler}{of}")
    return f"{label.capitalize()}: {', '.join(told)}; {meaning}." if told else ""


def _extrapolated(rows: Mapping[str, Sequence[Row]]) -> str:
    shares = _worst(rows, "extrapolated_share")
    if not shares:
        return ""
    runs = [run for each in rows.values() for run in each if run.get("extrapolated_axis")]
    far = ""
    if runs:
        worst = max(runs, key=lambda run: float(run["extrapolated_times"]))
        axis = AXIS_LABELS[worst["extrapolated_axis"]]
        far = f", up to {worst['extrapolated_times']:.2g} times the largest measured {axis}"
    return f"Extrapolated batches, beyond what was measured: {shares}{far}."


def _beyond_memory(rows: Mapping[str, Sequence[Row]]) -> str:
    shares = _worst(rows, "beyond_memory_share")
    if not shares:
        return ""
    return (
        f"Batches larger than the KV memory: {shares}; a scheduler without memory limit is given "
        "them for free."
    )


def _worst(rows: Mapping[str, Sequence[Row]], metric: str) -> str:
    """The mean share of each scheduler that has any."""
    told = []
    for scheduler, runs in rows.items():
        values = [run.get(metric) or 0.0 for run in runs]
        if any(values):
            told.append(f"{scheduler} {percent(sum(values) / len(values))}")
    return ", ".join(told)


def _rejected(rows: Mapping[str, Sequence[Row]]) -> str:
    told = []
    for scheduler, runs in rows.items():
        rejected = sum(run["rejected"] for run in runs)
        if rejected:
            share = rejected / sum(run["requests"] for run in runs)
            told.append(f"{scheduler} {percent(share)}")
    if not told:
        return ""
    return f"Rejected, too large for the memory alone, and counted as late: {', '.join(told)}."
