"""`llmsched static-fifo` and its siblings: one command per scheduler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from llmsched.cli.common import OneLineErrors, progress_bar
from llmsched.cli.options import (
    BIN_CHOICE,
    BINS,
    DYNAMIC,
    FIXED,
    FORMING,
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
    name = scheduler.replace("_", "-")
    from llmsched.cli import SCHEDULER_HELP

    summary = SCHEDULER_HELP.get(scheduler, "A scheduler of an installed package.")
    return f"{summary}\n\nExample: llmsched {name} --trace BurstGPT_1.csv --gpus 4 --json"


def _run(scheduler: str, values: dict[str, Any]) -> None:
    from llmsched.cli.render import left_out_notes, run_table
    from llmsched.output import check_table_path, write_table
    from llmsched.simulation import simulate

    outputs = {name: values.pop(name) for name in ("requests_out", "batches_out")}
    for path in filter(None, outputs.values()):
        check_table_path(path)
    as_json, seed = values.pop("as_json"), values.pop("seed")
    workload, llm = take_workload(values), take_llm(values)
    settings, binning = take_settings(values, llm), take_binning(values)
    trace = workload.load(seed)
    left_out_notes(trace)
    with progress_bar(len(trace), scheduler) as progress:
        run = simulate(
            trace,
            scheduler,
            n_gpus=values["gpus"],
            latency=values["latency"],
            predictor=values["predictor"],
            binning=binning,
            settings=settings,
            admission=values["admission"],
            seed=seed,
            llm=llm,
            progress=progress,
        )
    if outputs["requests_out"]:
        write_table(run.requests, outputs["requests_out"])
    if outputs["batches_out"]:
        write_table(run.batches, outputs["batches_out"])
    click.echo(json.dumps(run.to_dict(), indent=2) if as_json else run_table(run))
