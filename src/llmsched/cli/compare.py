"""`llmsched compare`: schedulers on equal GPUs and the same requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from llmsched.cli.common import OneLineErrors, progress_bar, scheduler_name
from llmsched.cli.options import (
    ADMISSION,
    BIN_CHOICE,
    BINS,
    DYNAMIC,
    FIXED,
    FORMING,
    SERVING,
    WORKLOAD,
    given,
    take_binning,
    take_llm,
    take_settings,
    take_workload,
    with_options,
)
from llmsched.cli.scheduler import scheduler_command


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.option(
    "--schedulers",
    default="static_fifo,dynamic_no_bins,multi_bin_dynamic",
    show_default=True,
    metavar="A,B,...",
    help="Which schedulers, by name; the others are set against static_fifo.",
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
@with_options(WORKLOAD, SERVING, ADMISSION, FIXED, DYNAMIC, BINS, BIN_CHOICE, FORMING)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw the comparison (.png, .pdf, .svg)."
)
def compare(**values: Any) -> None:
    """Run schedulers on equal GPUs and the same requests; say which differences are real.

    Whatever is random is replicated, and all schedulers share its numbers.

    \b
    Example: llmsched compare --trace BurstGPT_1.csv --requests 100000 --sla 1.0
    """
    from llmsched.cli.render import (
        check_figure_path,
        comparison_table,
        left_out_notes,
        save_comparison,
    )
    from llmsched.comparison import compare as run_comparison

    as_json, figure = values.pop("as_json"), values.pop("figure")
    if figure is not None:
        check_figure_path(figure)
    schedulers = [scheduler_name(name) for name in values.pop("schedulers").split(",")]
    _refuse_idle_options(schedulers)
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
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        click.echo(comparison_table(result))
    if figure is not None:
        save_comparison(result, figure)
        click.echo(f"Figure: {figure}", err=True)


def _refuse_idle_options(schedulers: list[str]) -> None:
    """Fail if an option was given that none of the schedulers takes."""
    from llmsched.schedulers import SCHEDULERS

    takers: dict[str, list[str]] = {}
    for name in SCHEDULERS.ours:
        options = {option.name for option in scheduler_command(name).params if option.name}
        for option in options - ({"predictor"} if "n_bins" not in options else set()):
            takers.setdefault(option, []).append(name)
    if not set(schedulers) <= SCHEDULERS.ours.keys():
        return  # an installed package's scheduler may take any; an unknown one is refused later
    for option in click.get_current_context().command.params:
        taking = takers.get(option.name or "")
        if taking and given(option.name or "") and not set(taking) & set(schedulers):
            raise click.UsageError(
                f"{option.opts[0]} does nothing for {', '.join(schedulers)}; leave it out, or "
                f"compare one of {', '.join(taking)}"
            )
