"""`llmsched compare`: schedulers on equal GPUs and the same requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.command import print_json
from llmsched.cli.config import show_config, the_scenario
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.options import (
    ALL_SETTINGS,
    CLOSED_LOOP,
    MATTERS_OPTION,
    RESAMPLE,
    RUNS,
    SERVING,
    UNCERTAINTY,
    VERBOSE,
    WORKLOAD,
    chosen_schedulers,
    replications_option,
    scenario_options,
    take_draws,
    where_of,
    with_options,
)
from llmsched.cli.progress import progress_bar

if TYPE_CHECKING:
    from llmsched.simulation.comparison.results import Comparison
    from llmsched.simulation.scenario import Scenario


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.option(
    "--schedulers",
    default="static-fifo,dynamic-no-bins,multi-bin-dynamic",
    show_default=True,
    metavar="A,B,...",
    help="Which schedulers, by name; the others are set against static_fifo, or the first.",
)
@with_options((replications_option(10), MATTERS_OPTION))
@scenario_options(*WORKLOAD, *RESAMPLE, *CLOSED_LOOP, *SERVING, *ALL_SETTINGS)
@with_options(UNCERTAINTY, RUNS, (VERBOSE,))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the comparison (.png, .pdf, .svg).",
)
def compare(**values: Any) -> None:
    """Run schedulers on equal GPUs and the same requests; say which differences are real.

    Whatever is random is replicated, and all schedulers share its numbers. Replications of a trace
    file are resamples of its blocks, unless --no-resample-trace.

    \b
    Example: llmsched compare --trace BurstGPT_1.csv --requests 10000 --sla 10
    """
    from llmsched.cli.answers.compare import comparison_text
    from llmsched.cli.text import check_figure_path, save_comparison

    figure = values["figure"]
    if figure is not None:
        check_figure_path(figure)
    schedulers = chosen_schedulers(values["schedulers"])
    scenario = the_scenario(values, scheduler=schedulers[0])
    if show_config(values, scenario):
        return
    result = _compared(scenario, schedulers, values)
    if values["as_json"]:
        print_json(result.to_dict())
    else:
        click.echo(comparison_text(result, verbose=values["verbose"]))
    if figure is not None:
        save_comparison(result, figure)
        click.echo(f"Figure: {figure}", err=True)


def _compared(scenario: Scenario, schedulers: list[str], values: dict[str, Any]) -> Comparison:
    """Everything is checked first, then the requests are read, then the runs begin."""
    from llmsched.cli.text import left_out_notes
    from llmsched.simulation.comparison.comparison import compare as run_comparison
    from llmsched.simulation.sweep.runner import RunRecord

    scenario.check()
    n_draws = take_draws(values["n_draws"], scenario)
    left_out_notes(scenario.requests())
    with progress_bar(100, "runs") as progress:

        def count(record: RunRecord) -> None:
            if progress is not None:
                progress(int(100 * record.work_done))

        return run_comparison(
            scenario,
            schedulers,
            replications=values["replications"],
            matters=values["matters"],
            latency_draws=n_draws,
            **where_of(values),
            on_done=count,
        )
