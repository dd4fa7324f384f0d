"""What a search found, in a sentence, and what a reader must know beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmsched.simulation.capacity.target import UNITS

if TYPE_CHECKING:
    from llmsched.simulation.capacity.results import Capacity


def statement(found: Capacity) -> str:
    """What the search found and how sure it is, in a sentence or two."""
    interval, unit, value = found.interval, UNITS[found.search], found.value
    if not found.reachable:
        return f"{found.target} is out of reach."
    if found.unbounded:
        return "No bound found."
    if found.search == "gpus":
        return f"{value:g} GPUs ({met_text(found)})."
    said = f"capacity {value:.4g} {unit}"
    if not found.random:
        return f"{said}{_with_calibration(found)}; nothing here is random, so without interval."
    if interval.n == 1:
        return f"{said} in one replication, so without interval; 2 or more give one."
    if not math.isnan(interval.low):
        said += f", 95 % interval [{interval.low:.4g}, {interval.high:.4g}]"
    said += f" ({interval.n} replications){_with_calibration(found)}"
    if found.assured is None:
        return f"{said}."
    what = "the mean " + found.target.metric.removesuffix("_s").replace("_", " ")
    limit = f"the upper 95 % confidence limit of {what} (one-sided, at that value alone)"
    if found.assured in (0.0, math.inf):
        return f"{said}. At no tested value is {limit} within the target."
    return f"{said}. At {found.assured:.4g} {unit} {limit} is within the target."


def met_text(found: Capacity) -> str:
    """In how many replications so many GPUs meet the target, and one fewer."""
    n = len(found.seeds) if found.random else 1
    here, fewer = found.point(found.value), found.point(found.value - 1)
    assert here is not None  # every answer was tested
    if n == 1:
        return f"met in one {'run' if not found.random else 'replication'}"
    text = f"met in {here.met} of {n} replications"
    return text if fewer is None else f"{text}; {fewer.value:g}: in {fewer.met} of {n}"


def _with_calibration(found: Capacity) -> str:
    calibrated = found.calibrated
    if calibrated is None or math.isnan(calibrated.low):
        return ""
    return (
        f", with calibration error {100 * calibrated.confidence:.3g} % "
        f"[{calibrated.low:.4g}, {calibrated.high:.4g}] ({found.n_draws} draws of the latency)"
    )


def messages(found: Capacity) -> tuple[str, ...]:
    """What a reader must know beside the figure: out of reach, unbounded, no root under a draw."""
    notes = []
    name = found.scheduler
    if not found.curve:
        notes.append(
            f"{name}: {found.target} is below the floor: alone on an idle GPU it is "
            f"{found.floor.metric:.3g} already"
        )
    elif not found.reachable:
        even = "at any tested rate" if found.search == "rate" else "on any number of GPUs"
        notes.append(
            f"{name}: {found.target} is out of reach {even}; relax the target, or change the "
            "settings (requests with equal stamps come together at any rate; jitter parts them)"
        )
    if found.unbounded:
        notes.append(
            f"{name}: {found.target} holds even when all {found.n_requests} requests come nearly "
            "at once; take more requests"
        )
    beyond = sum(not 0 < root.rate < math.inf for root in found.drawn)
    if beyond:
        notes.append(
            f"{name}: no capacity under {beyond} of {found.n_draws} draws of the latency, so no "
            "interval with calibration error"
        )
    return tuple(notes)
