"""`llmsched compare`: schedulers on equal GPUs and the same requests."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.config import show_config, the_scenario
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.options import (
    ALL_SETTINGS,
    CLOSED_LOOP,
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

if TYPE_CHECKING:
    from llmsched.simulation.comparison_results import Comparison
    from llmsched.simulation.scenario import Scenario


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.option(
    "--schedulers",
    default="static-fifo,dynamic-no-bins,multi-bin-dynamic",
    show_default=True,
    metavar="A,B,...",
    help="Which schedulers, by name; the others are set against static_fifo.",
)
@with_options((replications_option(5),))
@scenario_options(*WORKLOAD, *CLOSED_LOOP, *SERVING, *ALL_SETTINGS)
@with_options(UNCERTAINTY)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the comparison (.png, .pdf, .svg).",
)
def compare(**values: Any) -> None:
    """Run schedulers on equal GPUs and the same requests; say which differences are real.

    Whatever is random is replicated, and all schedulers share its numbers.

    \b
    Example: llmsched compare --trace BurstGPT_1.csv --requests 100000 --sla 1.0
    """
    from llmsched.cli.text import check_figure_path, comparison_table, save_comparison

    figure = values["figure"]
    if figure is not None:
        check_figure_path(figure)
    schedulers = chosen_schedulers(values["schedulers"])
    scenario = the_scenario(values, scheduler=schedulers[0])
    if show_config(values, scenario):
        return
    result = _compared(scenario, schedulers, values)
    if values["as_json"]:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        click.echo(comparison_table(result))
    if figure is not None:
        save_comparison(result, figure)
        click.echo(f"Figure: {figure}", err=True)


def _compared(scenario: Scenario, schedulers: list[str], values: dict[str, Any]) -> Comparison:
    """Everything is checked first, then the requests are read, then the runs begin."""
    from dataclasses import replace

    from llmsched.cli.text import left_out_notes
    from llmsched.simulation.comparison import compare as run_comparison

    scenario.check()
    draws = take_draws(values["n_draws"], scenario)
    requests = scenario.requests()
    left_out_notes(requests)
    if not scenario.recipe().random:
        scenario = replace(scenario, workload=requests)  # a file is read once
    total = len(schedulers) * values["replications"] * (1 + len(draws))
    with progress_bar(total, "runs") as progress:
        runs = itertools.count(1)

        def count(_run: object) -> None:
            if progress is not None:
                progress(next(runs))

        return run_comparison(
            scenario,
            schedulers,
            replications=values["replications"],
            latency_draws=draws,
            on_run=count,
        )
