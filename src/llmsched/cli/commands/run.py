"""`llmsched static-fifo` and its siblings: one command per scheduler."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.config import show_config, the_scenario
from llmsched.cli.errors import OneLineErrors, keep_inputs
from llmsched.cli.options import (
    ALL_SETTINGS,
    CLOSED_LOOP,
    SERVING,
    TAKES,
    UNCERTAINTY,
    WORKLOAD,
    scenario_options,
    take_draws,
    with_options,
)
from llmsched.cli.progress import progress_bar

if TYPE_CHECKING:
    from llmsched.latency.base import LatencyModel
    from llmsched.simulation.simulate import Run
    from llmsched.simulation.uncertainty import RunUncertainty
    from llmsched.workload.trace import Trace

OUTPUT = (
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    click.option(
        "--requests-out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write one row per request (.csv or .parquet).",
    ),
    click.option(
        "--batches-out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write one row per batch (.csv or .parquet).",
    ),
)


def scheduler_command(scheduler: str) -> click.Command:
    """The command that runs one scheduler; a user's own takes every option."""

    @scenario_options(*WORKLOAD, *SERVING, *TAKES.get(scheduler, (*CLOSED_LOOP, *ALL_SETTINGS)))
    @with_options(UNCERTAINTY, OUTPUT)
    def command(**values: Any) -> None:
        _run(scheduler, values)

    return click.command(
        name=scheduler.replace("_", "-"),
        cls=OneLineErrors,
        help=_help(scheduler),
        context_settings={"max_content_width": 100},
    )(command)


def _help(scheduler: str) -> str:
    from llmsched.cli.values import SCHEDULER_HELP

    summary = SCHEDULER_HELP.get(scheduler) or _summary(scheduler)
    name = scheduler.replace("_", "-")
    return f"{summary}\n\n\b\nExample: llmsched {name} --trace BurstGPT_1.csv --gpus 4 --json"


def _summary(scheduler: str) -> str:
    """What an installed package says of its scheduler."""
    from llmsched.schedulers.registry import SCHEDULERS

    text = SCHEDULERS.named(scheduler).__doc__ or "A scheduler of an installed package."
    return text.strip().splitlines()[0]


def _run(scheduler: str, values: dict[str, Any]) -> None:
    from llmsched.cli.text import left_out_notes, run_table
    from llmsched.engine.export import write_table
    from llmsched.simulation.simulate import serve

    requests_out, batches_out = _output_paths(values)
    scenario = the_scenario(values, scheduler=scheduler)
    if show_config(values, scenario):
        return
    scenario.check()
    draws = take_draws(values["n_draws"], scenario)
    trace = scenario.requests()
    left_out_notes(trace)
    with progress_bar(len(trace), scheduler) as progress:
        run = serve(scenario, trace, progress=progress)
    uncertainty = _uncertainty(run, trace, draws, scenario) if draws else None
    if requests_out is not None:
        write_table(run.requests, requests_out)
    if batches_out is not None:
        write_table(run.batches, batches_out)
    if values["as_json"]:
        found = run.to_dict()
        if uncertainty is not None:
            found["latency_uncertainty"] = uncertainty.to_dict()
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        click.echo(run_table(run, uncertainty))


def _uncertainty(
    run: Run, trace: Trace, draws: Sequence[LatencyModel], scenario: Any
) -> RunUncertainty:
    """The same run under each draw of the latency's parameters."""
    from llmsched.simulation.uncertainty import RunUncertainty, simulate_draws

    with progress_bar(len(draws), "draws of the latency") as progress:
        runs = itertools.count(1)

        def count(_run: object) -> None:
            if progress is not None:
                progress(next(runs))

        drawn = simulate_draws(scenario, trace, draws, on_run=count)
    return RunUncertainty(fitted=run.to_dict(), drawn=drawn)


def _output_paths(values: dict[str, Any]) -> tuple[Path | None, Path | None]:
    """Where the tables go, checked before the run."""
    from llmsched.engine.export import check_table_path

    requests_out, batches_out = values["requests_out"], values["batches_out"]
    chosen = [check_table_path(path) for path in (requests_out, batches_out) if path is not None]
    if len({os.path.realpath(path) for path in chosen}) < len(chosen):
        raise click.UsageError("--requests-out and --batches-out must be two different files")
    keep_inputs(chosen)
    return requests_out, batches_out
