"""`llmsched static-fifo` and its siblings: one command per scheduler."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from llmsched.cli.common import OneLineErrors, keep_inputs, progress_bar
from llmsched.cli.options import (
    BIN_CHOICE,
    BINS,
    DYNAMIC,
    FIXED,
    FORMING,
    MEMORY,
    SERVING,
    WORKLOAD,
    take_binning,
    take_llm,
    take_settings,
    take_workload,
    with_options,
)

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
GROUPS: dict[str, tuple[Any, ...]] = {
    "static_fifo": (FIXED,),
    "dynamic_no_bins": (DYNAMIC,),
    "multi_bin_dynamic": (DYNAMIC, BINS, BIN_CHOICE),
    "multi_bin_only": (FIXED, BINS, FORMING),
    "multi_bin_adaptive": (MEMORY, BINS),
}
ALL_GROUPS = (FIXED, DYNAMIC, BINS, BIN_CHOICE, FORMING)


def scheduler_command(scheduler: str) -> click.Command:
    """The command that runs one scheduler; a user's own takes every option."""

    @click.command(
        name=scheduler.replace("_", "-"),
        cls=OneLineErrors,
        help=_help(scheduler),
        context_settings={"max_content_width": 100},
    )
    @with_options(WORKLOAD, SERVING, *GROUPS.get(scheduler, ALL_GROUPS), OUTPUT)
    def command(**values: Any) -> None:
        _run(scheduler, values)

    return command


def _help(scheduler: str) -> str:
    from llmsched.cli import SCHEDULER_HELP

    summary = SCHEDULER_HELP.get(scheduler) or _summary(scheduler)
    name = scheduler.replace("_", "-")
    return f"{summary}\n\n\b\nExample: llmsched {name} --trace BurstGPT_1.csv --gpus 4 --json"


def _summary(scheduler: str) -> str:
    """What an installed package says of its scheduler."""
    from llmsched.schedulers import SCHEDULERS

    text = SCHEDULERS.named(scheduler).__doc__ or "A scheduler of an installed package."
    return text.strip().splitlines()[0]


def _run(scheduler: str, values: dict[str, Any]) -> None:
    from llmsched.cli.render import left_out_notes, run_table
    from llmsched.latency import load_latency
    from llmsched.output import write_table
    from llmsched.prediction import predictor_from_spec
    from llmsched.simulation import simulate

    requests_out, batches_out = _output_paths(values)
    as_json, seed = values.pop("as_json"), values.pop("seed")
    workload, llm = take_workload(values), take_llm(values)
    settings, binning = take_settings(values, llm), take_binning(values)
    latency, predictor = load_latency(values["latency"]), predictor_from_spec(values["predictor"])
    trace = workload.load(seed)
    left_out_notes(trace)
    with progress_bar(len(trace), scheduler) as progress:
        run = simulate(
            trace,
            scheduler,
            n_gpus=values["gpus"],
            latency=latency,
            predictor=predictor,
            binning=binning,
            settings=settings,
            admission=values["admission"],
            seed=seed,
            llm=llm,
            progress=progress,
        )
    if requests_out is not None:
        write_table(run.requests, requests_out)
    if batches_out is not None:
        write_table(run.batches, batches_out)
    if as_json:
        click.echo(json.dumps(run.to_dict(), indent=2, allow_nan=False))
    else:
        click.echo(run_table(run))


def _output_paths(values: dict[str, Any]) -> tuple[Path | None, Path | None]:
    """Where the tables go, checked before the run."""
    from llmsched.output import check_table_path

    requests_out, batches_out = values.pop("requests_out"), values.pop("batches_out")
    chosen = [check_table_path(path) for path in (requests_out, batches_out) if path is not None]
    if len({os.path.realpath(path) for path in chosen}) < len(chosen):
        raise click.UsageError("--requests-out and --batches-out must be two different files")
    keep_inputs(chosen)
    return requests_out, batches_out
