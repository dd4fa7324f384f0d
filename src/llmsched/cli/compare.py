"""`llmsched compare`: schedulers on equal GPUs and the same requests."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.common import OneLineErrors, progress_bar, scheduler_name
from llmsched.cli.options import (
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

if TYPE_CHECKING:
    from llmsched.comparison import Comparison


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.option(
    "--schedulers",
    default="static-fifo,dynamic-no-bins,multi-bin-dynamic",
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
@with_options(WORKLOAD, SERVING, FIXED, DYNAMIC, BINS, BIN_CHOICE, FORMING)
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
    from llmsched.cli.render import check_figure_path, comparison_table, save_comparison

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
    from llmsched.cli.render import left_out_notes
    from llmsched.comparison import compare as run_comparison
    from llmsched.latency import load_latency
    from llmsched.prediction import predictor_from_spec

    schedulers = _schedulers(values.pop("schedulers"))
    workload, llm = take_workload(values), take_llm(values)
    settings, binning = take_settings(values, llm), take_binning(values)
    latency, predictor = load_latency(values["latency"]), predictor_from_spec(values["predictor"])
    requests = workload.load(values["seed"])
    left_out_notes(requests)
    with progress_bar(len(schedulers) * values["replications"], "runs") as progress:
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
            on_run=count,
        )


def _schedulers(text: str) -> list[str]:
    """The schedulers to compare, each known and given once, and every option of use to one."""
    from llmsched.schedulers import SCHEDULERS

    schedulers = [scheduler_name(name) for name in text.split(",")]
    if "" in schedulers:
        raise click.UsageError(f"--schedulers must be names between commas, got {text!r}")
    for name in schedulers:
        SCHEDULERS.named(name)
        if schedulers.count(name) > 1:
            raise click.UsageError(f"--schedulers must name each one once, got {name} twice")
    _refuse_idle_options(schedulers)
    return schedulers


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
    for parameter in click.get_current_context().command.params:
        name = parameter.name or ""
        taking = takers.get(name, [])
        if given(name) and taking and not set(taking) & set(schedulers):
            raise click.UsageError(
                f"{parameter.opts[0]} does nothing for {', '.join(schedulers)}; leave it out, or "
                f"compare one of {', '.join(taking)}"
            )
