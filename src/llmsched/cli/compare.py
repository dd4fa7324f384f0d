"""`llmsched compare`: schedulers on equal GPUs and the same requests."""

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


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.option(
    "--schedulers",
    default="static_fifo,dynamic_no_bins,multi_bin_dynamic",
    show_default=True,
    metavar="A,B,...",
    help="Which schedulers, by name.",
)
@click.option(
    "--seeds",
    "replications",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Replications, with seeds --seed, --seed + 1, ...; intervals need 2.",
)
@with_options(WORKLOAD, SERVING, FIXED, DYNAMIC, BINS, BIN_CHOICE, FORMING)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw it (.png, .pdf, .svg)."
)
def compare(**values: Any) -> None:
    """Run schedulers on equal GPUs and the same requests; say which differences are real.

    Whatever is random is replicated, and all schedulers share its numbers.

    Example: llmsched compare --trace BurstGPT_1.csv --requests 100000 --gpus 4 --sla 1.0
    """
    from llmsched.cli.render import check_figure_path, comparison_table, save_comparison
    from llmsched.comparison import compare as run_comparison

    as_json, figure = values.pop("as_json"), values.pop("figure")
    if figure is not None:
        check_figure_path(figure)
    schedulers = [name.strip().replace("-", "_") for name in values.pop("schedulers").split(",")]
    workload, llm = take_workload(values), take_llm(values)
    settings, binning = take_settings(values, llm), take_binning(values)
    replications = values["replications"]
    with progress_bar(len(schedulers) * replications, "runs") as progress:
        done = 0

        def count(_run: object) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done)

        result = run_comparison(
            workload,
            schedulers,
            n_gpus=values["gpus"],
            latency=values["latency"],
            predictor=values["predictor"],
            binning=binning,
            settings=settings,
            admission=values["admission"],
            seed=values["seed"],
            replications=replications,
            llm=llm,
            on_run=count,
        )
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else comparison_table(result))
    if figure is not None:
        save_comparison(result, figure)
        click.echo(f"Figure: {figure}", err=True)
