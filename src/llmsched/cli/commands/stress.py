"""`llmsched stress`: the three-step stress plan, or one of its steps, into one folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.config import show_config, the_scenario
from llmsched.cli.errors import OneLineErrors, keep_inputs
from llmsched.cli.fields import given_parameter as given
from llmsched.cli.options import (
    DYNAMIC,
    FIXED,
    SERVING,
    WORKLOAD,
    replications_option,
    scenario_options,
    with_options,
)

if TYPE_CHECKING:
    import pandas as pd

    from llmsched.simulation.scenario import Scenario
    from llmsched.studies.stress.plan import Plan
    from llmsched.studies.stress.step_results import StepResult, StressResult

STEPS = {
    "step1": ("step1",),
    "step2": ("step2",),
    "step3": ("step3",),
    "all": ("step1", "step2", "step3"),
}
# what only some steps take: elsewhere it is refused rather than ignored
TAKEN_BY = {
    "gpu_counts": ("step1", "step2", "all"),
    "loads": ("step2", "all"),
    "bins": ("step3", "all"),
    "best_gpu_count": ("step3", "all"),
    "settings__batch_size": ("step1", "all"),
    "target_violations": ("step2", "step3", "all"),
}
# where and how the runs are done moves no number, and is not part of the command that is kept
NO_NUMBER = ("out", "backend", "address", "jobs", "retry_failed", "tables_only", "as_json")


def _numbers(kind: type[int] | type[float]) -> Callable[..., tuple[float, ...] | None]:
    """A callback that reads increasing numbers > 0 between commas."""

    def parse(
        context: click.Context, option: click.Parameter, text: str | None
    ) -> tuple[float, ...] | None:
        if text is None:
            return None
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError:
            values = ()
        if not values or not values[0] > 0 or sorted(set(values)) != list(values):
            what = "whole numbers" if kind is int else "numbers"
            message = f"must be increasing {what} > 0 between commas, got {text!r}"
            raise click.BadParameter(message, ctx=context, param=option)
        return values

    return parse


def _list_option(
    name: str, shown: str, help_text: str, *, kind: type[int] | type[float] = int
) -> Any:
    return click.option(
        name,
        callback=_numbers(kind),
        show_default=shown,
        metavar="A,B,...",
        help=help_text,
    )


PLAN: Sequence[Any] = (
    _list_option(
        "--volumes",
        "1000,10000,100000,1000000",
        "Requests of step 1's runs; the other steps take the largest.",
    ),
    _list_option(
        "--gpu-counts",
        "1,2,4,8,16,32,64,100; 1,2,4 for step1",
        "GPUs of steps 2 and 2b; step 1 compares on these, or within `all` on the three smallest.",
    ),
    _list_option(
        "--loads", "0.7,0.9,1", "Offered loads that step 2b holds, by the arrival rate.", kind=float
    ),
    _list_option("--bins", "1,2,4,8,16,32", "Numbers of bins of step 3; the others have 4."),
    click.option(
        "--best-gpu-count",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="what step 2 chose",
        help="GPUs of step 3.",
    ),
    click.option(
        "--target-violations",
        type=float,
        default=0.05,
        show_default=True,
        metavar="SHARE",
        help="Step 2 looks for the fewest GPUs with at most this share of violations.",
    ),
    replications_option(4),
)
EXECUTION: Sequence[Any] = (
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("out/stress"),
        show_default=True,
        metavar="DIR",
        help="Folder of runs, tables, figures and report; steps into one folder add up.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="The cores of this machine, or a Ray cluster.",
    ),
    click.option("--address", metavar="HOST:PORT", help="Of a Ray cluster that is running."),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="one per core",
        help="Runs at a time; no number depends on it.",
    ),
    click.option("--retry-failed", is_flag=True, help="Do failed runs again."),
    click.option("--tables-only", is_flag=True, help="No figures and no report."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


PLANNED = (
    *("workload.requests", "workload.offered_load", "workload.rate_per_s"),
    *("hardware.n_gpus", "admission"),
)  # the plan's, or left alone
OPTIONS = [path for path in (*WORKLOAD, *SERVING, *FIXED, *DYNAMIC) if path not in PLANNED]


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.argument("step", type=click.Choice(list(STEPS)), default="all")
@with_options(PLAN)
@scenario_options(*OPTIONS, preset="plan")
@with_options(EXECUTION)
def stress(**values: Any) -> None:
    """Run the three-step stress plan, or one step of it; a killed one goes on where it was.

    \b
    step1  request scaling: every volume, all schedulers on equal GPUs
    step2  GPU scaling at the given rate, and (2b) at held loads; chooses a GPU count
    step3  numbers of bins, on the GPU count of step 2 or --best-gpu-count
    all    the three of them

    \b
    Example: llmsched stress step1 --volumes 1000,10000 --gpu-counts 1,2,4 --seeds 3
    """
    from llmsched.cli.progress import sweep_progress
    from llmsched.studies.stress.run import SweepOptions, run_steps

    step, out = values.pop("step"), values.pop("out")
    as_json, tables_only = values.pop("as_json"), values.pop("tables_only")
    _refuse_idle_options(step)
    if values["address"] is not None and values["backend"] != "ray":
        raise click.UsageError("--address is that of a Ray cluster; give --backend ray as well")
    keep_inputs(_outputs(out))
    command = _command()
    scenario = the_scenario(values, preset="plan")
    if show_config(values, scenario):
        return
    execution = {name: values.pop(name) for name in ("backend", "jobs", "address", "retry_failed")}
    plan = _plan(values, step, scenario)
    try:
        with sweep_progress() as on_done:
            options = SweepOptions(**execution, on_done=on_done)
            result = run_steps(plan, STEPS[step], out, command=command, options=options)
    except KeyboardInterrupt:
        click.echo(f"Finished runs are kept in {out}; the same command goes on.", err=True)
        raise
    click.echo(json.dumps(_json(result), indent=2) if as_json else _text(result))
    if not tables_only:
        _draw(result, out)
    now = {*STEPS[step], "step2b"} if "step2" in STEPS[step] else {*STEPS[step]}
    here = [found.runs["status"] == "failed" for found in result.steps if found.name in now]
    failed = sum(int(runs.sum()) for runs in here)
    if failed:
        raise click.ClickException(f"{failed} runs failed; --retry-failed does them again")


def _refuse_idle_options(step: str) -> None:
    """Fail if an option was given that this step does not take."""
    for name, steps in TAKEN_BY.items():
        if step not in steps and given(name):
            option = f"--{name.rpartition('__')[2].replace('_', '-')}"
            raise click.UsageError(
                f"{option} does nothing in {step}; leave it out, or run {' or '.join(steps)}"
            )


def _outputs(out: Path) -> list[Path]:
    """Every file that the command may write, runs aside."""
    names = ("step1", "step2", "step2b", "step3")
    tables = (".parquet", ".csv", "_summary.csv", "_per_bin.csv", "_differences.csv")
    return [out / f"{name}{table}" for name in names for table in tables] + [out / "report.html"]


def _command() -> str:
    """The command line, without what moves no number."""
    context = click.get_current_context()
    parts = ["llmsched", "stress"]
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if isinstance(parameter, click.Argument):
            parts.append(str(value))
        elif given(name) and name not in NO_NUMBER:
            parts += [parameter.opts[0], *([] if parameter.is_flag else [_as_given(value)])]  # type: ignore[attr-defined]
    return shlex.join(parts)


def _as_given(value: Any) -> str:
    if isinstance(value, tuple):
        window = len(value) == 2 and all(isinstance(part, float) for part in value)
        return (":" if window else ",").join(f"{part:.15g}" for part in value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _plan(values: dict[str, Any], step: str, scenario: Scenario) -> Plan:
    """The plan that the options ask for; what was not given is left to it."""
    from llmsched.studies.stress.plan import Plan

    gpu_counts = values["gpu_counts"]
    asked = {name: values[name] for name in ("volumes", "loads", "bins", "best_gpu_count")}
    if gpu_counts is not None:
        asked["compared_gpu_counts" if step == "step1" else "gpu_counts"] = gpu_counts
    return Plan(
        base=scenario,
        **{name: value for name, value in asked.items() if value is not None},
        replications=values["replications"],
        target_violations=values["target_violations"],
    )


def _text(result: StressResult) -> str:
    """What each step found, in sentences."""
    return "\n\n".join(
        "\n".join([step.title, *(f"- {sentence}" for sentence in step.statements)])
        for step in result.steps
    )


def _json(result: StressResult) -> dict[str, Any]:
    return {
        "command": result.command,
        "versions": dict(result.versions),
        "steps": [_step_json(step) for step in result.steps],
    }


def _step_json(step: StepResult) -> dict[str, Any]:
    return {
        "name": step.name,
        "runs": len(step.runs),
        "failed": int((step.runs["status"] == "failed").sum()),
        "statements": list(step.statements),
        "summary": _records(step.summary),
        "differences": _records(step.differences),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain values, null where there is no number."""
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return records


def _draw(result: StressResult, out: Path) -> None:
    """The figures as PNG files, and the report."""
    from llmsched._util.files import whole_file
    from llmsched.studies.stress.report import (
        draw_pictures,
        reported_sha256,
        results_sha256,
        write_report,
    )

    report = out / "report.html"
    drawn = [out / "figures" / f"{name}.png" for step in result.steps for name in step.figures]
    if reported_sha256(report) == results_sha256(result) and all(map(Path.is_file, drawn)):
        click.echo(f"Report: {report} (as before: nothing has changed)", err=True)
        return
    (out / "figures").mkdir(exist_ok=True)
    pictures = draw_pictures(result)
    for (_, name), picture in pictures.items():
        with whole_file(out / "figures" / f"{name}.png") as partial:
            partial.write_bytes(picture)
    write_report(result, report, pictures=pictures)
    click.echo(f"Report: {report}", err=True)
