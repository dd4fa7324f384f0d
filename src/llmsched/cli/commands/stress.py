"""`llmsched stress`: the three-step stress plan, or one of its steps, into one folder."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched._util.options import field_types, options_of
from llmsched.cli.command import print_json
from llmsched.cli.config import show_config, the_scenario
from llmsched.cli.errors import OneLineErrors, keep_inputs
from llmsched.cli.fields import (
    FieldType,
    field_option,
    given_parameter as given,
    parameter_name,
)
from llmsched.cli.options import (
    BATCHES,
    CONTINUOUS,
    DYNAMIC,
    FIXED,
    SERVING,
    WORKLOAD,
    replications_option,
    scenario_options,
    with_options,
)
from llmsched.studies.stress.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

    from llmsched.simulation.scenario import Scenario
    from llmsched.studies.stress.run import StressResult
    from llmsched.studies.stress.step import StepResult

RUNNABLE = ("step1", "step2", "step3")  # step 2b comes with step 2
SHOWN = ("sla_violation_rate", "goodput_rps", "latency_p99_s")  # in the table of a terminal
# where and how the runs are done moves no number, and is not part of the command that is kept
NO_NUMBER = ("out", "backend", "address", "jobs", "retry_failed", "tables_only", "as_json")
PLANNED = (
    *("workload.requests", "workload.offered_load", "workload.rate_per_s"),
    *("hardware.n_gpus", "admission"),
)  # the plan's, or left alone
OF_BATCHES = [path for path in (*BATCHES, *FIXED, *DYNAMIC) if path not in CONTINUOUS]
OF_STEPS = (  # the others of a replica come from a file
    *("hardware.step_time", "slo.ttft_s", "slo.tpot_s", "router", "serving.kv_tokens"),
    *("serving.memory_share", "serving.max_running", "serving.step_tokens"),
)
OPTIONS = [
    path
    for path in dict.fromkeys((*WORKLOAD, *SERVING, *BATCHES, *FIXED, *DYNAMIC, *OF_STEPS))
    if path not in PLANNED
]


def _plan_option(name: str) -> Any:
    """The option of one field of the plan; what is not given is left to it."""
    what = options_of(Plan)[name]
    default = Plan.__dataclass_fields__[name].default
    return click.option(
        f"--{name.replace('_', '-')}",
        type=FieldType(name, what, field_types(Plan)[name][0]),
        show_default=what.default_text or f"{default:g}",
        metavar=what.metavar,
        help=what.help,
    )


EXECUTION = (
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


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.argument("step", type=click.Choice([*RUNNABLE, "all"]), default="all")
@with_options([*map(_plan_option, options_of(Plan)), replications_option(4)])
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
    from llmsched.studies.stress.run import run_steps

    step, out = values["step"], values["out"]
    steps = RUNNABLE if step == "all" else (step,)
    _refuse_idle_options(step)
    _refuse_other_level(values["engine"])
    if values["address"] is not None and values["backend"] != "ray":
        raise click.UsageError("--address is that of a Ray cluster; give --backend ray as well")
    keep_inputs(_outputs(out))
    scenario = the_scenario(values, preset="plan")
    if show_config(values, scenario):
        return
    plan = _plan(values, scenario)
    execution = {name: values[name] for name in ("backend", "jobs", "address", "retry_failed")}
    try:
        with sweep_progress() as on_done:
            result = run_steps(plan, steps, out, command=_command(), on_done=on_done, **execution)
    except KeyboardInterrupt:
        click.echo(f"Finished runs are kept in {out}; the same command goes on.", err=True)
        raise
    if values["as_json"]:
        print_json(_json(result))
    else:
        click.echo(_text(result))
    if not values["tables_only"]:
        _draw(result, out)
    now = [found for found in result.steps if found.step.name.removesuffix("b") in steps]
    if failed := sum(found.n_failed for found in now):
        raise click.ClickException(f"{failed} runs failed; --retry-failed does them again")


def _refuse_idle_options(asked: str) -> None:
    """Fail if an option was given that this step does not take, but another does."""
    from llmsched.studies.stress.steps import STEPS

    for name in {name for step in STEPS for name in step.takes}:
        takers = [step.name for step in STEPS if name in step.takes]
        if asked != "all" and asked not in takers and given(name):
            option = f"--{name.rpartition('__')[2].replace('_', '-')}"
            raise click.UsageError(
                f"{option} does nothing in {asked}; leave it out, or run "
                f"{' or '.join([*takers, 'all'])}"
            )


def _refuse_other_level(engine: str) -> None:
    """Fail if an option was given that only the other engine takes."""
    idle, other = (OF_BATCHES, "batch") if engine == "iteration" else (OF_STEPS, "iteration")
    for path in idle:
        if path not in ("hardware.latency", "hardware.step_time") and given(parameter_name(path)):
            raise click.UsageError(
                f"{field_option(path).opts[0]} does nothing with --engine {engine}; leave it out, "
                f"or give --engine {other}"
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


def _plan(values: dict[str, Any], scenario: Scenario) -> Plan:
    """The plan that the options ask for; what was not given is left to it."""
    asked = {name: values[name] for name in options_of(Plan) if values[name] is not None}
    if values["step"] == "step1" and "gpu_counts" in asked:
        asked["compared_gpu_counts"] = asked.pop("gpu_counts")
    return Plan(base=scenario, replications=values["replications"], **asked)


def _text(result: StressResult) -> str:
    """Of each step: what it found, its points, and what to know before trusting them."""
    return "\n\n".join(_step_text(found) for found in result.steps)


def _step_text(found: StepResult) -> str:
    from llmsched.cli.text import aligned
    from llmsched.studies.stress.report import point_tables

    lines = [found.step.title, *found.verdict]
    largest = found.summary[found.summary["requests"] == found.summary["requests"].max()]
    for said, table in point_tables(largest, SHOWN):
        rows = [list(table.columns), *table.to_numpy().tolist()]
        lines += [*([said] if said else []), aligned(rows)]
    return "\n".join([*lines, *(f"Note: {line}" for line in found.cautions)])


def _json(result: StressResult) -> dict[str, Any]:
    return {
        "command": result.command,
        "versions": dict(result.versions),
        "steps": [
            {
                "name": found.step.name,
                "runs": len(found.runs),
                "failed": found.n_failed,
                "verdict": list(found.verdict),
                "notes": found.cautions,
                "summary": _records(found.summary),
                "differences": _records(found.differences),
            }
            for found in result.steps
        ],
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain values, null where there is no number."""
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return records


def _draw(result: StressResult, out: Path) -> None:
    """The figures as PNG files, and the report; neither where nothing has changed."""
    from llmsched._util.files import whole_file
    from llmsched.studies.stress.report import (
        draw_pictures,
        reported_sha256,
        results_sha256,
        write_report,
    )

    report = out / "report.html"
    files = [out / "figures" / f"{name}.png" for step in result.steps for name in step.figures]
    if reported_sha256(report) == results_sha256(result) and all(map(Path.is_file, files)):
        click.echo(f"Report: {report} (as before: nothing has changed)", err=True)
        return
    (out / "figures").mkdir(exist_ok=True)
    pictures = draw_pictures(result)
    for name, picture in pictures.items():
        with whole_file(out / "figures" / f"{name}.png") as partial:
            partial.write_bytes(picture)
    write_report(result, report, pictures=pictures)
    click.echo(f"Report: {report}", err=True)
