"""`llmsched validate`: the simulator against a run of a real server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched._util.options import options_of
from llmsched.cli.command import print_json
from llmsched.cli.commands.calibrate.imports import FILE, OUT, conditions
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.fields import given_fields, scenario_of
from llmsched.cli.options import field_options, with_options
from llmsched.engine.iteration.settings import IterationSettings

if TYPE_CHECKING:
    from llmsched.calibration.benchmarks.runs import Run
    from llmsched.cli.answers.validate import Table
    from llmsched.simulation.scenario import Scenario
    from llmsched.studies.validation.fit import FitPlan
    from llmsched.studies.validation.stages import StagesValidation
    from llmsched.studies.validation.validate import Validation

FIELDS = (
    *("hardware.step_time", "hardware.llm", "hardware.tp", "hardware.gpu"),
    # lengths are those of the run, whatever cut them
    *(f"serving.{name}" for name in options_of(IterationSettings) if name != "max_model_len"),
    "seed",
)


def _fit_plan(ctx: click.Context, param: click.Parameter, text: str | None) -> FitPlan | None:
    if text is None:
        return None
    from llmsched.studies.validation.fit import FitPlan

    try:
        return FitPlan.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from error


OWN = (
    click.option(
        "--shared-prefixes",
        type=FILE,
        metavar="FILE",
        help="CSV of what prompts share: request, earlier_request, shared_blocks.",
    ),
    click.option(
        "--fit",
        callback=_fit_plan,
        metavar="WHAT:N",
        help="Fit overhead (per step), scale (a factor on steps) or all (constants of the steps) "
        "to the first N requests, and judge on the others; of stages, scale, to the first N of "
        "each run.",
    ),
    click.option(
        "--where",
        multiple=True,
        callback=conditions,
        metavar="FIELD=VALUE",
        help="Take only results whose field has this value; may come again.",
    ),
    click.option(
        "--output-tokens",
        type=click.FloatRange(min=1),
        metavar="TOKENS",
        help="That each request was made to generate, where the tool counts text only.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    click.option("--figure", type=OUT, metavar="FILE", help="Measured and simulated, drawn."),
    click.option("--report", type=OUT, metavar="FILE.md", help="The tables in Markdown."),
)


@click.command("validate", cls=OneLineErrors, context_settings={"max_content_width": 100})
@click.argument("run", nargs=-1, required=True, type=FILE, metavar="RUN...")
@field_options(*FIELDS)
@with_options(OWN)
def validate_(run: tuple[Path, ...], **values: Any) -> None:
    """Replay a real server's RUN, and say how far the simulator is off.

    RUN is a log of single requests, or stages at a rate or at fixed concurrencies, in any format
    that `calibrate import` takes. What it says of its server is taken from it; options go over it.

    \b
    Examples:
      llmsched validate requests.jsonl --step-time rtx-4090-llama-3.1-8b
      llmsched validate stages.csv --step-time physics:h100-sxm --fit scale:1
    """
    from llmsched.calibration.benchmarks.registry import read_benchmarks
    from llmsched.calibration.benchmarks.runs import RequestLog

    _check_outputs(values)
    runs = read_benchmarks(run, output_tokens=values["output_tokens"], where=values["where"]).runs
    logs = [one for one in runs if isinstance(one, RequestLog)]
    if logs and len(runs) > 1:
        raise click.UsageError(
            "RUN must be one log of requests, or stages; got "
            f"{len(logs)} logs among {len(runs)} runs"
        )
    if logs:
        _validate_log(logs[0], values)
    else:
        _validate_stages([one for one in runs if not isinstance(one, RequestLog)], values)


def _validate_log(log: Any, values: Mapping[str, Any]) -> None:
    from llmsched.cli.answers.validate import validation_tables, verdict
    from llmsched.studies.validation.validate import validate

    found = validate(
        log,
        _scenario(log, values),
        shared_prefixes=values["shared_prefixes"],
        fit=values["fit"],
    )
    for note in found.notes:
        click.echo(f"Note: {note}", err=True)
    _put_out(found, verdict(found), validation_tables(found), _tail(found), values)


def _tail(found: Validation) -> str:
    settings = found.replay.settings
    return (
        f"{found.requests} requests of {found.source}; {settings.kv_tokens} KV tokens, "
        f"at most {settings.max_running} running and {settings.step_tokens} tokens a step.\n"
        f"Step time: {found.replay.step.describe()}"
    )


def _validate_stages(stages: list[Any], values: Mapping[str, Any]) -> None:
    from llmsched.cli.answers.validate import stages_tables, stages_verdict
    from llmsched.cli.progress import progress_bar
    from llmsched.studies.validation.stages import validate_stages

    if values["hardware__step_time"] is None:
        raise click.UsageError("a step time must be given for stages, got none; --step-time NAME")
    if values["shared_prefixes"] is not None:
        raise click.UsageError("--shared-prefixes names requests of a log; of stages, leave it out")
    with progress_bar(len(stages), "stages") as progress:
        found = validate_stages(
            stages, lambda one: _scenario(one, values), fit=values["fit"], progress=progress
        )
    models = dict.fromkeys(one.step_time for one in found.stages)
    tail = f"Step time: {', '.join(models)}"
    _put_out(found, stages_verdict(found), stages_tables(found), tail, values)


def _scenario(run: Run, values: Mapping[str, Any]) -> Scenario:
    """What was given, over what the run says of its server."""
    from llmsched.studies.validation.server import completed_step_time, server_layer

    given = given_fields(values)
    hardware = given.setdefault("hardware", {})
    step_time = hardware.get("step_time")
    if step_time is not None:
        hardware["step_time"] = completed_step_time(step_time, run.server)
    fixed = {"scheduler": "continuous_static", "hardware": {"n_gpus": 1}}
    layers = [server_layer(run, step_time), given, fixed]
    if step_time is None:  # the steps are fitted; the memory is that of --gpu and --llm
        layers.insert(0, {"hardware": {"latency": "reference"}})
    return scenario_of(layers)


def _put_out(
    found: Validation | StagesValidation,
    head: str,
    tables: list[tuple[str, Table]],
    tail: str,
    values: Mapping[str, Any],
) -> None:
    from llmsched.cli.answers.validate import as_markdown, as_text

    figure: Path | None = values["figure"]
    if figure is not None:
        from llmsched.cli.text import save_figure
        from llmsched.studies.validation.figures import validation_figure

        save_figure(validation_figure(found), figure)
    if values["report"] is not None:
        from llmsched._util.files import whole_file

        name = None if figure is None else figure.name
        page = as_markdown("Simulated and measured", head, tables, tail, name)
        with whole_file(values["report"]) as partial:
            partial.write_text(page, encoding="utf-8")
    if values["as_json"]:
        print_json(found.to_dict())
    else:
        click.echo(as_text(head, tables, tail))


def _check_outputs(values: Mapping[str, Any]) -> None:
    """Fail before the work if an output cannot be written."""
    from llmsched._util.files import check_output
    from llmsched.cli.errors import keep_inputs
    from llmsched.cli.text import check_figure_path

    if values["figure"] is not None:
        check_figure_path(values["figure"])
    if values["report"] is not None:
        if values["report"].suffix.lower() != ".md":
            raise click.UsageError(f"--report must end in .md, got {str(values['report'])!r}")
        check_output(values["report"], "a report")
    keep_inputs([values["figure"], values["report"]])
