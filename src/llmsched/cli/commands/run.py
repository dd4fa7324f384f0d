"""`llmsched static-fifo` and its siblings: one command per scheduler."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.command import print_json
from llmsched.cli.config import show_config, the_scenario
from llmsched.cli.errors import OneLineErrors, keep_inputs
from llmsched.cli.options import (
    SERVING,
    UNCERTAINTY,
    VERBOSE,
    WORKLOAD,
    scenario_options,
    take_draws,
    taken_by,
    with_options,
)
from llmsched.cli.progress import progress_bar
from llmsched.cli.timeline import TIMELINE, check_timeline, most_events, write_timeline

if TYPE_CHECKING:
    from llmsched.simulation.scenario import Scenario
    from llmsched.simulation.simulate import Run
    from llmsched.simulation.uncertainty import RunUncertainty
    from llmsched.workload.trace import Trace

OUTPUT = (
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    VERBOSE,
    click.option(
        "--requests-out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write one row per request (.csv or .parquet).",
    ),
)
BATCHES_OUT = (
    click.option(
        "--batches-out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write one row per batch (.csv or .parquet).",
    ),
)
STEPS_OUT = (
    click.option(
        "--steps-out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write one row per step (.csv or .parquet).",
    ),
    click.option(
        "--most-steps",
        type=click.IntRange(min=1),
        default=1_000_000,
        show_default=True,
        metavar="N",
        help="Rows of --steps-out at most; a note says what is left out.",
    ),
)


def scheduler_command(scheduler: str) -> click.Command:
    """The command that runs one scheduler; a user's own takes every option."""

    taken = taken_by(scheduler)
    more = STEPS_OUT if "router" in taken else BATCHES_OUT

    @scenario_options(*WORKLOAD, *SERVING, *taken)
    @with_options(UNCERTAINTY, OUTPUT, more, TIMELINE)
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

    about = SCHEDULER_HELP.get(scheduler)
    if about is None:
        from llmsched.schedulers.names import summary

        about = summary(scheduler)
    name = scheduler.replace("_", "-")
    return f"{about}\n\n\b\nExample: llmsched {name} --trace BurstGPT_1.csv --gpus 4 --json"


def _run(scheduler: str, values: dict[str, Any]) -> None:
    from llmsched.cli.text import left_out_notes
    from llmsched.latency.base import ExtrapolationWarning
    from llmsched.simulation.run import BatchRun, ContinuousRun
    from llmsched.simulation.simulate import serve

    out = _output_paths(values)
    scenario = the_scenario(values, scheduler=scheduler)
    if show_config(values, scenario):
        return
    scenario.check()
    n_draws = take_draws(values["n_draws"], scenario)
    trace = scenario.requests()
    left_out_notes(trace)
    with progress_bar(len(trace), scheduler) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the answer has it in a line
        run = serve(scenario, trace, **_steps_to_keep(values, out), progress=progress)
    uncertainty = _uncertainty(run, trace, n_draws, scenario) if n_draws else None
    _write(run, out)
    if "timeline" in out:
        write_timeline(run, values)
    if values["as_json"]:
        found = run.to_dict()
        if uncertainty is not None:
            found["latency_uncertainty"] = uncertainty.to_dict()
        print_json(found)
    elif isinstance(run, ContinuousRun):
        from llmsched.cli.answers.continuous import continuous_text

        click.echo(continuous_text(run, scenario.slo, uncertainty, verbose=values["verbose"]))
    elif isinstance(run, BatchRun):
        from llmsched.cli.answers.run import run_text

        hardware = scenario.resolved_hardware().describe()
        click.echo(run_text(run, hardware, uncertainty, verbose=values["verbose"]))


def _steps_to_keep(values: Mapping[str, Any], out: Mapping[str, Path]) -> dict[str, Any]:
    """How many steps to write down, and of which part of the run where a timeline alone asks."""
    if "steps_out" in out:
        return {"most_steps": values["most_steps"]}
    if "timeline" not in out or "most_steps" not in values:
        return {}
    window = values["timeline_window"]
    steps = {"most_steps": most_events(values)}
    return steps if window is None else {**steps, "steps_window_s": window}


def _write(run: Run, out: Mapping[str, Path]) -> None:
    """The tables that were asked for."""
    from llmsched.engine.export import write_table
    from llmsched.simulation.run import BatchRun, ContinuousRun

    if "requests_out" in out:
        write_table(run.requests, out["requests_out"])
    if isinstance(run, BatchRun) and "batches_out" in out:
        write_table(run.batches, out["batches_out"])
    if isinstance(run, ContinuousRun) and run.steps is not None and "steps_out" in out:
        write_table(run.steps, out["steps_out"])
        if run.steps.left_out:
            click.echo(
                f"Note: {run.steps.left_out} steps are not in {out['steps_out']}; --most-steps "
                "takes more",
                err=True,
            )


def _uncertainty(run: Run, trace: Trace, n_draws: int, scenario: Scenario) -> RunUncertainty:
    """The same run under each draw of the latency's parameters."""
    from llmsched.simulation.simulate import serve
    from llmsched.simulation.uncertainty import RunUncertainty, numbers_of, under_draws

    drawn = []
    with progress_bar(n_draws, "draws of the latency") as progress:
        for count, one in enumerate(under_draws(scenario, n_draws, seed=scenario.seed), start=1):
            drawn.append(numbers_of(serve(one, trace).to_dict()))
            if progress is not None:
                progress(count)
    return RunUncertainty(fitted=run.to_dict(), drawn=tuple(drawn))


def _output_paths(values: dict[str, Any]) -> dict[str, Path]:
    """Where the tables go, checked before the run."""
    from llmsched.engine.export import check_table_path

    names = ("requests_out", "batches_out", "steps_out")
    out = {name: values[name] for name in names if values.get(name) is not None}
    chosen = [check_table_path(path) for path in out.values()]
    timeline = check_timeline(values)
    if timeline is not None:
        out["timeline"] = timeline
        chosen.append(timeline)
    if len({os.path.realpath(path) for path in chosen}) < len(chosen):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in out)
        raise click.UsageError(f"{flags} must be different files")
    keep_inputs(chosen)
    return out
