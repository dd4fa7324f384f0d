"""Capacities and plans as text, and the figure of both."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmsched.cli.answers.header import counts_text, rate_text, replications_text
from llmsched.cli.answers.numbers import change_text, with_ends
from llmsched.cli.text import aligned, percent, save_figure
from llmsched.metrics.registry import title_of
from llmsched.simulation.capacity.statements import messages, met_text, statement
from llmsched.simulation.capacity.target import UNITS

if TYPE_CHECKING:
    from llmsched.metrics.differences import Difference
    from llmsched.simulation.capacity.plan import Plan
    from llmsched.simulation.capacity.results import Capacity

AXIS_TITLES = {"rate": "Arrival rate [requests/s]", "gpus": "GPUs"}
WIDTH = 100


def capacity_text(
    found: Sequence[Capacity], differences: Sequence[Difference], *, verbose: bool = False
) -> str:
    """Who serves most, the table, the differences, the notes."""
    first = found[0]
    parts = [f"{_verdict(found)}\n{_header(first)}", _table(found)]
    if differences:
        rows = [["scheduler", "difference", "verdict"]]
        rows += [
            [one.scheduler, change_text(one.interval, one.metric), one.verdict]
            for one in differences
        ]
        parts.append(f"Against {first.scheduler}, same requests\n{aligned(rows, left=(0, 2))}")
    parts.append("\n".join(_filled(note) for one in found for note in messages(one)))
    if verbose:
        parts.append("\n".join(_filled(f"{one.scheduler}: {statement(one)}") for one in found))
        parts += [_curve(one) for one in found]
        parts.append(_filled(f"Latency model: {first.latency}"))
    return "\n\n".join(part for part in parts if part)


def _verdict(found: Sequence[Capacity]) -> str:
    first = found[0]
    more = first.search == "rate"
    ranked = sorted(found, key=lambda one: one.value, reverse=more)
    words = first.target.in_words(first.sla_s, first.more_limits)
    unit = UNITS[first.search]
    if not ranked[0].reachable:
        return f"{words}: out of reach for {', '.join(one.scheduler for one in ranked)}."
    told = ", ".join(f"{one.scheduler} {_value(one)}" for one in ranked)
    what = f"Highest arrival rate [{unit}]" if more else f"Fewest {unit}"
    return _filled(f"{what} with {words}: {told}.")


def _value(one: Capacity) -> str:
    if not one.reachable:
        return "none"
    if one.unbounded:
        return "any"
    if one.search == "gpus":
        return f"{one.value:g}"
    interval = one.interval
    if math.isnan(interval.low):
        return f"{one.value:.4g}"
    return with_ends(interval.mean, interval.low, interval.high)


def _header(first: Capacity) -> str:
    where = f"{first.hardware}, " if first.search == "rate" else ""
    rate = f" at {rate_text(first.rates_per_s)} ({first.rate_words})"
    return (
        f"{counts_text(first.counts)} of {first.trace_name}{rate if not where else ''},\n"
        f"{where}SLA {first.sla_s:g} s, predictor {first.predictor}"
        + replications_text(first.seeds, random=first.random, resampled=first.resampled)
    )


def _table(found: Sequence[Capacity]) -> str:
    first = found[0]
    unit = UNITS[first.search]
    if first.search == "gpus":
        rows = [["scheduler", unit, "load ρ", "assured", "", "runs"]]
    else:
        rows = [["scheduler", f"{unit} (95 % interval)", "load ρ", "assured", "runs"]]
    for one in found:
        assured = (
            "-" if one.assured is None or not 0 < one.assured < math.inf else (f"{one.assured:.4g}")
        )
        load = "-" if math.isnan(one.offered_load) else f"{one.offered_load:.2f}"
        row = [one.scheduler, _value(one), load, assured]
        if first.search == "gpus":
            row.append(met_text(one) if one.reachable else "")
        rows.append([*row, str(one.n_runs)])
        calibrated = one.calibrated
        if calibrated is not None:
            text = (
                "-"
                if math.isnan(calibrated.low)
                else (f"{calibrated.low:.4g}-{calibrated.high:.4g}")
            )
            rows.append([f"  with calibration error ({percent(calibrated.confidence)})", text])
            rows[-1] += [""] * (len(rows[0]) - 2)
    return aligned(rows)


def _curve(one: Capacity) -> str:
    head = ["", *(f"{point.value:.4g}" for point in one.curve)]
    target = one.target.percentile is None
    times = 100.0 if target else 1.0
    rows = [[UNITS[one.search], "ρ", "late [%]" if target else "latency [s]", "low", "high", "met"]]
    for point in one.curve:
        ends = (point.metric.mean, point.metric.low, point.metric.high)
        rows.append(
            [
                f"{point.value:.4g}",
                f"{point.offered_load:.3g}",
                *("-" if math.isnan(end) else f"{times * end:.3g}" for end in ends),
                f"{point.met}",
            ]
        )
    return f"{one.scheduler}\n{aligned(rows)}" if len(head) > 1 else ""


def plan_text(plan: Plan, *, verbose: bool = False) -> str:
    """The sentence first, then what no GPUs change, the cost, and the table."""
    lines = [_filled(plan.sentence())]
    if plan.reachable:
        lines.append(_filled(plan.floor_sentence()))
        cost = plan.cost_sentence()
        if cost is not None:
            lines.append(_filled(cost))
    parts = ["\n".join(lines)]
    if plan.found[0].curve:
        parts.append(f"{_header(plan.found[0])}\n\n{_table(plan.found)}")
    parts.append("\n".join(_filled(note) for one in plan.found for note in messages(one)))
    if verbose:
        parts += [_curve(one) for one in plan.found]
        parts.append(_filled(f"Latency model: {plan.found[0].latency}"))
    return "\n\n".join(part for part in parts if part)


def save_curve(found: Sequence[Capacity], path: Path) -> None:
    """Draw the curves and write the figure, all at once; a note where there is nothing to draw."""
    import pandas as pd

    from llmsched.figures.capacity import capacity_curve

    first = found[0]
    if not any(one.curve for one in found):
        click.echo("No figure: the target is below the floor, so nothing was run", err=True)
        return
    columns = ["scheduler", "value", "offered_load"]
    where = [(one.scheduler, one.value, one.offered_load) for one in found]
    dashed = pd.DataFrame([row for row in where if 0 < row[1] < math.inf], columns=columns)
    gpus = f" on {first.n_gpus} GPUs" if first.search == "rate" else ""
    title = f"{first.n_requests} requests of {first.trace_name}{gpus}: {first.target}"
    figure = capacity_curve(
        pd.concat([one.to_frame() for one in found], ignore_index=True),
        dashed,
        axis=AXIS_TITLES[first.search],
        metric=title_of(first.target.metric),
        target=first.target.at_most,
        title=title,
        caption=(
            f"Points: means over {len(first.seeds)} replications; bars: 95% intervals of the mean, "
            "from 0 on.\nHorizontal line: the target; dashed: capacities. Points within a "
            "factor of 3 of the capacities.\nρ is the load at each scheduler's own best batch."
        ),
    )
    save_figure(figure, path)
    click.echo(f"Figure: {path}", err=True)


def _filled(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False)
