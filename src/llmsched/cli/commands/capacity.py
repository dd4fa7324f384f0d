"""`llmsched capacity`: the highest arrival rate, or the fewest GPUs, that meets a target."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.config import show_config, the_scenario
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.fields import given_parameter
from llmsched.cli.options import (
    ALL_SETTINGS,
    SERVING,
    UNCERTAINTY,
    WORKLOAD,
    chosen_schedulers,
    replications_option,
    scenario_options,
    take_draws,
    with_options,
)
from llmsched.cli.progress import progress_bar
from llmsched.metrics.registry import title_of

if TYPE_CHECKING:
    from llmsched.simulation.capacity.results import Capacity, Target
    from llmsched.simulation.scenario import Scenario

TARGETS = {
    "target_violations": "sla_violation_rate",
    "target_p95": "latency_p95_s",
    "target_p99": "latency_p99_s",
}
CALIBRATED = ("calibrated low", "high")
AXIS_TITLES = {"rate": "Arrival rate [requests/s]", "gpus": "GPUs"}

SEARCH = (
    click.option(
        "--schedulers",
        default="static-fifo,dynamic-no-bins,multi-bin-dynamic",
        show_default=True,
        metavar="A,B,...",
        help="Which schedulers, by name; the others are set against the first.",
    ),
    click.option(
        "--search",
        type=click.Choice(["rate", "gpus"]),
        default="rate",
        show_default=True,
        help="The highest arrival rate on --gpus, or the fewest GPUs at the workload's rate.",
    ),
    click.option(
        "--target-violations",
        type=float,
        metavar="SHARE",
        show_default="0.01",
        help="At most this share of requests later than --sla.",
    ),
    click.option(
        "--target-p95", type=float, metavar="SECONDS", help="At most this latency, 95th percentile."
    ),
    click.option(
        "--target-p99", type=float, metavar="SECONDS", help="At most this latency, 99th percentile."
    ),
    replications_option(5),
    click.option(
        "--tolerance",
        type=float,
        default=0.02,
        show_default=True,
        metavar="SHARE",
        help="How far the failing rate may lie above the passing one.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="one per core",
        help="Processes; the result does not depend on it.",
    ),
)


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@with_options(SEARCH)
@scenario_options(*WORKLOAD, *SERVING, *ALL_SETTINGS)
@with_options(UNCERTAINTY)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--capacity-curve",
    "curve",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the target's metric against the load (.png, .pdf, .svg).",
)
def capacity(**values: Any) -> None:
    """Find the highest arrival rate, or the fewest GPUs, that keeps to a latency target.

    By bracketing and bisection in every replication, on the same requests for all schedulers.

    \b
    Example: llmsched capacity --trace BurstGPT_1.csv --requests 10000 --target-violations 0.01
    """
    from llmsched.cli.text import check_figure_path
    from llmsched.simulation.capacity.results import differences

    curve = values["curve"]
    if curve is not None:
        check_figure_path(curve)
    target = _target(values)
    schedulers = chosen_schedulers(values["schedulers"])
    if values["search"] == "gpus" and given_parameter("hardware__n_gpus"):
        raise click.UsageError("--gpus is what --search gpus looks for; leave one of the two out")
    scenario = the_scenario(values, scheduler=schedulers[0])
    if show_config(values, scenario):
        return
    found = _found(scenario, schedulers, target, values)
    if values["as_json"]:
        click.echo(json.dumps(_json(found), indent=2, allow_nan=False))
    else:
        click.echo(_text(found, differences(found)))
    if curve is not None:
        _save_curve(found, curve)
        click.echo(f"Figure: {curve}", err=True)


def _target(values: dict[str, Any]) -> Target:
    from llmsched.simulation.capacity.results import Target

    asked = {name: value for name in TARGETS if (value := values[name]) is not None}
    if len(asked) > 1:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise click.UsageError(f"give one target, not {names}")
    for name, at_most in asked.items():
        return Target(metric=TARGETS[name], at_most=at_most)  # type: ignore[arg-type]
    return Target()


def _found(
    scenario: Scenario, schedulers: list[str], target: Target, values: dict[str, Any]
) -> tuple[Capacity, ...]:
    """Everything is checked first, then the requests are read, then the search begins."""
    from dataclasses import replace

    from llmsched.cli.text import left_out_notes
    from llmsched.simulation.capacity.capacity import capacities

    scenario.check()
    draws = take_draws(values["n_draws"], scenario)
    requests = scenario.requests()
    left_out_notes(requests)
    if not scenario.recipe().random:
        scenario = replace(scenario, workload=requests)  # a file is read once
    with progress_bar(100, "searches") as progress:
        return capacities(
            scenario,
            schedulers,
            target=target,
            search=values["search"],
            replications=values["replications"],
            tolerance=values["tolerance"],
            jobs=values["jobs"],
            latency_draws=draws,
            on_progress=None if progress is None else lambda share: progress(int(100 * share)),
        )


def _json(found: tuple[Capacity, ...]) -> dict[str, Any]:
    from llmsched.simulation.capacity.results import differences
    from llmsched.simulation.comparison.results import calibrated_dict

    first = found[0]
    return {
        "search": first.search,
        "target_metric": first.target.metric,
        "target_at_most": first.target.at_most,
        "gpus": None if math.isnan(first.n_gpus) else first.n_gpus,
        "sla_s": first.sla_s,
        "seeds": list(first.seeds),
        "tolerance": first.tolerance,
        "confidence": 0.95,
        "trace": first.trace_name,
        "requests": first.n_requests,
        "predictor": first.predictor,
        "latency_description": first.latency,
        "schedulers": [one.to_dict() for one in found],
        "differences": [
            {
                "scheduler": difference.scheduler,
                "against": difference.baseline,
                **difference.interval.to_dict(),
                "verdict": difference.verdict,
                **calibrated_dict(difference),
            }
            for difference in differences(found)
        ],
    }


def _text(found: tuple[Capacity, ...], differences: list[Any]) -> str:
    """A line per scheduler, what it says, and what differs by more than the noise."""
    from llmsched.cli.text import (
        CALIBRATED_COLUMNS,
        DIFFERENCE_COLUMNS,
        aligned,
        difference_cells,
        number,
        percent,
    )
    from llmsched.simulation.capacity.results import UNITS

    first = found[0]
    what = "Highest arrival rate" if first.search == "rate" else "Fewest GPUs"
    where = f" on {first.n_gpus} GPUs" if first.search == "rate" else ""
    head = (
        f"{what} with {first.target}{where}, by search on {first.n_requests} requests of "
        f"{first.trace_name}\nSLA {first.sla_s:g} s, seeds {first.seeds[0]}..{first.seeds[-1]}, "
        f"predictor {first.predictor}, tolerance {first.tolerance:g}"
    )
    if (calibrated := first.calibrated) is not None:
        head += (
            f"\nCalibrated: the {percent(calibrated.confidence)} interval that includes "
            f"calibration error, over {first.n_draws} draws of the latency's parameters"
        )
    unit = UNITS[first.search]
    rows = [["scheduler", unit, "95 % low", "high", "load ρ", "assured", "runs"]]
    for one in found:
        interval = one.interval
        numbers = (interval.mean, interval.low, interval.high, one.offered_load, one.assured)
        rows.append([one.scheduler, *map(number, numbers), str(one.n_runs)])
        if (calibrated := one.calibrated) is not None:
            rows[0] += CALIBRATED if len(rows) == 2 else ()
            rows[-1] += [number(calibrated.low), number(calibrated.high)]
    parts = [head, aligned(rows)]
    parts.append("\n".join(f"{one.scheduler}: {one.statement()}" for one in found))
    notes = [note for one in found for note in one.messages()]
    if notes:
        parts.append("\n".join(f"Note: {note}" for note in notes))
    if differences:
        lines = [["scheduler", *DIFFERENCE_COLUMNS]]
        if first.n_draws:
            lines[0] += CALIBRATED_COLUMNS
        lines += [[one.scheduler, *difference_cells(one)] for one in differences]
        parts.append(f"Against {first.scheduler}, same requests [{unit}]\n" + aligned(lines))
    return "\n\n".join([*parts, f"Latency model: {first.latency}"])


def _save_curve(found: tuple[Capacity, ...], path: Path) -> None:
    """Draw the curves and write the figure, all at once."""
    import pandas as pd

    from llmsched.cli.text import save_figure
    from llmsched.figures.capacity import capacity_curve

    first = found[0]
    columns = ["scheduler", "value", "offered_load"]
    where = [(one.scheduler, one.interval.mean, one.offered_load) for one in found]
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
            "from 0 on.\nHorizontal line: the target; dashed: mean capacities. Points within a "
            "factor of 3 of the capacities.\nρ is the load at each scheduler's own best batch."
        ),
    )
    save_figure(figure, path)
