"""`llmsched compare`: schedulers on equal GPUs and the same requests."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.commands.run import chosen_schedulers
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.options import (
    BIN_CHOICE,
    BINS,
    DYNAMIC,
    FIXED,
    FORMING,
    SERVING,
    UNCERTAINTY,
    WORKLOAD,
    replications_option,
    take_binning,
    take_draws,
    take_llm,
    take_settings,
    take_workload,
    with_options,
)
from llmsched.cli.progress import progress_bar

if TYPE_CHECKING:
    from llmsched.simulation.comparison_results import Comparison


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.option(
    "--schedulers",
    default="static-fifo,dynamic-no-bins,multi-bin-dynamic",
    show_default=True,
    metavar="A,B,...",
    help="Which schedulers, by name; the others are set against static_fifo.",
)
@with_options(
    *((replications_option(5),), WORKLOAD, SERVING, UNCERTAINTY),
    *(FIXED, DYNAMIC, BINS, BIN_CHOICE, FORMING),
)
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

    as_json, figure = values.pop("as_json"), values.pop("figure")
    if figure is not None:
        check_figure_path(figure)
    result = _compared(values)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        click.echo(comparison_table(result))
    if figure is not None:
        save_comparison(result, figure)
        click.echo(f"Figure: {figure}", err=True)


def _compared(values: dict[str, Any]) -> Comparison:
    """Everything is checked first, then the requests are read, then the runs begin."""
    from llmsched.cli.text import left_out_notes
    from llmsched.latency.registry import load_latency
    from llmsched.prediction.predictors import predictor_from_spec
    from llmsched.simulation.comparison import compare as run_comparison

    schedulers = chosen_schedulers(values.pop("schedulers"))
    workload, llm = take_workload(values), take_llm(values)
    settings, binning = take_settings(values, llm), take_binning(values)
    latency, predictor = load_latency(values["latency"]), predictor_from_spec(values["predictor"])
    draws = take_draws(values, latency)
    requests = workload.load(values["seed"])
    left_out_notes(requests)
    total = len(schedulers) * values["replications"] * (1 + len(draws))
    with progress_bar(total, "runs") as progress:
        runs = itertools.count(1)

        def count(_run: object) -> None:
            if progress is not None:
                progress(next(runs))

        return run_comparison(
            workload if workload.random else requests,
            schedulers,
            n_gpus=values["gpus"],
            latency=latency,
            predictor=predictor,
            binning=binning,
            settings=settings,
            admission=values["admission"],
            seed=values["seed"],
            replications=values["replications"],
            llm=llm,
            latency_draws=draws,
            on_run=count,
        )
