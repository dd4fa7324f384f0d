"""`llmsched calibrate import`: a latency model from results that a serving benchmark saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.calibration.benchmarks.registry import AUTO, FORMATS
from llmsched.cli.command import print_json
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.fields import given_fields, given_parameter, scenario_of
from llmsched.cli.options import field_options

if TYPE_CHECKING:
    from llmsched.calibration.benchmarks.fit import BenchmarkFit, FittedPoint
    from llmsched.calibration.benchmarks.runs import Benchmarks, RequestLog

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)
OF_LOGS = ("serving.kv_tokens", "serving.max_running", "serving.step_tokens", "seed")
MOST = 1_000_000  # requests in flight
FORMATS_HELP = "\b\nFormats:\n" + "\n".join(
    f"  {one.name:<15} {one.title}" for one in FORMATS.values()
)


def _counts(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Numbers of requests with commas between them."""
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    counts = tuple(int(part) for part in parts if part.isdecimal() and len(part) < 8)
    if len(counts) < len(parts) or not all(1 <= count <= MOST for count in counts):
        message = f"must be whole numbers from 1 to {MOST}, got {text!r}"
        raise click.BadParameter(message, ctx=ctx, param=param)
    return counts


def conditions(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """FIELD=VALUE, each field once."""
    found: dict[str, str] = {}
    for text in values:
        field, equals, value = text.partition("=")
        if not (field and equals) or field in found:
            message = f"must be FIELD=VALUE, each field once, got {text!r}"
            raise click.BadParameter(message, ctx=ctx, param=param)
        found[field] = value
    return found


@click.command("import", cls=OneLineErrors, epilog=FORMATS_HELP)
@click.argument("format_", type=click.Choice([AUTO, *FORMATS]), metavar="FORMAT")
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--out", required=True, type=OUT, metavar="MODEL.json", help="Where the model goes.")
@click.option("--figure", type=OUT, metavar="FILE", help="Measured and modelled times, drawn.")
@click.option(
    "--concurrency",
    callback=_counts,
    metavar="N[,N...]",
    help="Requests in flight: for all files that do not say, or one for each FILE.",
)
@click.option(
    "--output-tokens",
    type=click.FloatRange(min=1),
    metavar="TOKENS",
    help="That each request was made to generate, where the tool counts text only.",
)
@click.option(
    "--where",
    multiple=True,
    callback=conditions,
    metavar="FIELD=VALUE",
    help="Take only results whose field has this value; may come again.",
)
@field_options(*OF_LOGS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def import_(
    format_: str,
    files: tuple[Path, ...],
    out: Path,
    figure: Path | None,
    concurrency: tuple[int, ...],
    output_tokens: float | None,
    where: dict[str, str],
    as_json: bool,
    **values: Any,
) -> None:
    """Make a latency model from result FILEs, two concurrencies or more, best with 1 among them.

    Of one log of single requests it becomes a step-time file, fitted by simulating the log.
    FORMAT is `auto`, which looks at each file, or one of those below.

    \b
    Examples:
      llmsched calibrate import auto c1.json c4.json c16.json c32.json --out h100.json
      llmsched compare --trace BurstGPT_1.csv --latency h100.json
    """
    from llmsched.calibration.benchmarks.fit import fit_benchmarks
    from llmsched.calibration.benchmarks.registry import read_benchmarks
    from llmsched.latency.files import save_model

    _check_outputs(files, out, figure)
    benchmarks = read_benchmarks(
        files, format=format_, concurrency=concurrency, output_tokens=output_tokens, where=where
    )
    log = _only_log(benchmarks)
    if log is not None:
        _import_log(log, out, figure, values, as_json=as_json)
        return
    _refuse_idle_options(values)
    fit = fit_benchmarks(benchmarks, name=out.stem)
    save_model(fit.model, out)
    if figure is not None:
        from llmsched.cli.text import save_figure
        from llmsched.figures.calibration import benchmark_figure

        save_figure(benchmark_figure(fit), figure)
    if as_json:
        print_json(_json(fit))
    else:
        click.echo(_text(fit))
    for note in fit.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(f"Model: {out}", err=True)


def _only_log(benchmarks: Benchmarks) -> RequestLog | None:
    """The log, where the results are one log of an open loop."""
    from llmsched.calibration.benchmarks.runs import RequestLog

    run = benchmarks.runs[0] if len(benchmarks.runs) == 1 else None
    return run if isinstance(run, RequestLog) and run.load.concurrency is None else None


def _import_log(
    log: RequestLog, out: Path, figure: Path | None, values: dict[str, Any], *, as_json: bool
) -> None:
    from llmsched.latency.steps.files import save_two_regime
    from llmsched.studies.validation.fit_all import fit_log
    from llmsched.studies.validation.server import server_layer

    if figure is not None:
        raise click.UsageError(
            "--figure draws closed loops; of a log, see llmsched validate --figure"
        )
    fixed = {"scheduler": "continuous_static", "hardware": {"n_gpus": 1}}
    scenario = scenario_of([server_layer(log, None), given_fields(values), fixed])
    model, fitted = fit_log(log, scenario, name=out.stem)
    save_two_regime(model, out)
    if as_json:
        print_json(fitted.to_dict())
    else:
        from llmsched.cli.answers.validate import constants_table
        from llmsched.cli.text import aligned

        click.echo(f"{aligned(constants_table(fitted))}\n\n{model.describe()}")
    for note in (*log.notes, *fitted.notes):
        click.echo(f"Note: {note}", err=True)
    click.echo(f"Step time: {out}", err=True)


def _refuse_idle_options(values: dict[str, Any]) -> None:
    """Fail if something was said of a server that is not simulated."""
    for name in values:
        if given_parameter(name):
            flag = name.rpartition("__")[2].replace("_", "-")
            raise click.UsageError(
                f"--{flag} does nothing for closed loops, whose fit simulates nothing; leave it out"
            )


def _check_outputs(files: tuple[Path, ...], out: Path, figure: Path | None) -> None:
    """Fail before the work if an output cannot be written, or would replace another file."""
    from llmsched._util.files import check_output
    from llmsched.cli.text import check_figure_path

    if out.suffix.lower() != ".json":
        raise click.UsageError(f"--out must end in .json, got {str(out)!r}")
    check_output(out, "a model file")
    if figure is not None:
        check_figure_path(figure)
    for output in (out, figure):
        if output is not None and output.exists() and any(map(output.samefile, files)):
            raise click.UsageError(f"the output would replace the result file {output}")


def _text(fit: BenchmarkFit) -> str:
    """A line per benchmark, and the model."""
    from llmsched.cli.text import aligned

    header = ["in flight", "prompt", "output", "TTFT [ms]", "TPOT [ms]", "modelled"]
    rows = [[*header, "end to end [s]", "batch [s]", "error"]]
    rows += [_row(one) for one in fit.points]
    quality = (
        f"Relative error of the batch times: median {fit.median_relative_error:.1%}, "
        f"worst {fit.max_relative_error:.1%}"
    )
    return f"{aligned(rows)}\n\n{quality}\n{fit.model.describe()}"


def _row(one: FittedPoint) -> list[str]:
    point = one.point
    idle = "" if point.is_busy else f" of {point.concurrency}"
    return [
        f"{point.company:.3g}{idle}" if idle else str(point.concurrency),
        f"{point.prompt_tokens:.0f}",
        f"{point.output_tokens:.0f}",
        f"{1e3 * one.ttft_s:.1f}",
        f"{1e3 * one.tpot_s:.2f}",
        f"{1e3 * one.modelled_tpot_s:.2f}",
        f"{one.e2e_s:.3f}",
        f"{one.batch_s:.3f}",
        f"{one.relative_error:+.1%}",
    ]


def _json(fit: BenchmarkFit) -> dict[str, Any]:
    from llmsched.latency.files import model_to_dict

    return {
        "model": model_to_dict(fit.model),
        "median_relative_error": fit.median_relative_error,
        "max_relative_error": fit.max_relative_error,
        "notes": list(fit.notes),
        "points": [
            {
                "source": one.point.source,
                "concurrency": one.point.concurrency,
                "in_flight": one.point.in_flight,
                "company": one.point.company,
                "prompt_tokens": one.point.prompt_tokens,
                "output_tokens": one.point.output_tokens,
                "completed": one.point.completed,
                "failed": one.point.failed,
                "ttft_s": one.ttft_s,
                "tpot_s": one.tpot_s,
                "e2e_s": one.e2e_s,
                "batch_s": one.batch_s,
                "modelled_tpot_s": one.modelled_tpot_s,
                "relative_error": one.relative_error,
                "tpot_relative_error": one.tpot_relative_error,
            }
            for one in fit.points
        ],
    }
