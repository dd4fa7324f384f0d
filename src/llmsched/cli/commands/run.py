"""`llmsched static-fifo` and its siblings: one command per scheduler."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.errors import OneLineErrors, keep_inputs
from llmsched.cli.options import (
    BIN_CHOICE,
    BINS,
    DYNAMIC,
    FIXED,
    FORMING,
    MEMORY,
    SERVING,
    UNCERTAINTY,
    WORKLOAD,
    given,
    take_binning,
    take_draws,
    take_llm,
    take_settings,
    take_workload,
    with_options,
)
from llmsched.cli.progress import progress_bar
from llmsched.cli.values import scheduler_name

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
    @with_options(WORKLOAD, SERVING, UNCERTAINTY, *GROUPS.get(scheduler, ALL_GROUPS), OUTPUT)
    def command(**values: Any) -> None:
        _run(scheduler, values)

    return command


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
    from llmsched.latency.registry import load_latency
    from llmsched.prediction.predictors import predictor_from_spec
    from llmsched.simulation.simulate import simulate

    requests_out, batches_out = _output_paths(values)
    as_json, seed = values.pop("as_json"), values["seed"]
    workload, llm = take_workload(values), take_llm(values)
    settings, binning = take_settings(values, llm), take_binning(values)
    latency, predictor = load_latency(values["latency"]), predictor_from_spec(values["predictor"])
    draws = take_draws(values, latency)
    trace = workload.load(seed)
    left_out_notes(trace)
    common: dict[str, Any] = {
        "n_gpus": values["gpus"],
        "latency": latency,
        "predictor": predictor,
        "binning": binning,
        "settings": settings,
        "admission": values["admission"],
        "seed": seed,
        "llm": llm,
    }
    with progress_bar(len(trace), scheduler) as progress:
        run = simulate(trace, scheduler, progress=progress, **common)
    uncertainty = _uncertainty(run, trace, draws, common) if draws else None
    if requests_out is not None:
        write_table(run.requests, requests_out)
    if batches_out is not None:
        write_table(run.batches, batches_out)
    if as_json:
        found = run.to_dict()
        if uncertainty is not None:
            found["latency_uncertainty"] = uncertainty.to_dict()
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        click.echo(run_table(run, uncertainty))


def _uncertainty(
    run: Run, trace: Trace, draws: Sequence[LatencyModel], common: dict[str, Any]
) -> RunUncertainty:
    """The same run under each draw of the latency's parameters."""
    from llmsched.simulation.uncertainty import RunUncertainty, simulate_draws

    with progress_bar(len(draws), "draws of the latency") as progress:
        runs = itertools.count(1)

        def count(_run: object) -> None:
            if progress is not None:
                progress(next(runs))

        drawn = simulate_draws(trace, run.scheduler, draws, on_run=count, **common)
    return RunUncertainty(fitted=run.to_dict(), drawn=drawn)


def _output_paths(values: dict[str, Any]) -> tuple[Path | None, Path | None]:
    """Where the tables go, checked before the run."""
    from llmsched.engine.export import check_table_path

    requests_out, batches_out = values.pop("requests_out"), values.pop("batches_out")
    chosen = [check_table_path(path) for path in (requests_out, batches_out) if path is not None]
    if len({os.path.realpath(path) for path in chosen}) < len(chosen):
        raise click.UsageError("--requests-out and --batches-out must be two different files")
    keep_inputs(chosen)
    return requests_out, batches_out


def chosen_schedulers(text: str) -> list[str]:
    """The schedulers to compare, each known and given once, and every option of use to one."""
    from llmsched.schedulers.registry import SCHEDULERS

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
    from llmsched.schedulers.registry import SCHEDULERS

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
