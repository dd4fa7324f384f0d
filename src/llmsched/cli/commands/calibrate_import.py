"""`llmsched calibrate import`: a latency model from results that a serving benchmark saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.calibration.benchmarks.formats import TOOLS
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.values import BATCH_SIZE

if TYPE_CHECKING:
    from llmsched.calibration.benchmarks.fit import BenchmarkFit

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)


@click.command("import", cls=OneLineErrors)
@click.argument("tool", type=click.Choice(list(TOOLS)))
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--out", required=True, type=OUT, metavar="MODEL.json", help="Where the model goes.")
@click.option("--figure", type=OUT, metavar="FILE", help="Measured and modelled times, drawn.")
@click.option(
    "--concurrency",
    type=BATCH_SIZE,
    metavar="N",
    help="Requests in flight, for files that do not say.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def import_(
    tool: str,
    files: tuple[Path, ...],
    out: Path,
    figure: Path | None,
    concurrency: int | None,
    as_json: bool,
) -> None:
    """Make a latency model from result FILEs of TOOL, one or more concurrencies, 1 among them.

    aiperf and genai-perf save the same fields, so each reads the other's files too.

    \b
    Examples:
      llmsched calibrate import vllm-bench c1.json c4.json c16.json c32.json --out h100.json
      llmsched compare --trace BurstGPT_1.csv --latency h100.json
    """
    from llmsched.calibration.benchmarks.fit import fit_benchmarks
    from llmsched.calibration.benchmarks.points import read_benchmarks
    from llmsched.latency.files import save_model

    _check_outputs(files, out, figure)
    benchmarks = read_benchmarks(files, tool=tool, concurrency=concurrency)
    fit = fit_benchmarks(benchmarks, name=out.stem)
    save_model(fit.model, out)
    if figure is not None:
        from llmsched.cli.text import save_figure
        from llmsched.figures.calibration import benchmark_figure

        save_figure(benchmark_figure(fit), figure)
    click.echo(json.dumps(_json(fit), indent=2, allow_nan=False) if as_json else _text(fit))
    for note in fit.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(f"Model: {out}", err=True)


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

    rows = [
        [
            "in flight",
            "prompt",
            "output",
            "TTFT [ms]",
            "TPOT [ms]",
            "modelled",
            "end to end [s]",
            "batch [s]",
            "error",
        ]
    ]
    for one in fit.points:
        point = one.point
        rows.append(
            [
                str(point.concurrency),
                f"{point.prompt_tokens:.0f}",
                f"{point.output_tokens:.0f}",
                f"{1e3 * point.ttft_s:.1f}",
                f"{1e3 * point.tpot_s:.2f}",
                f"{1e3 * one.tpot_s:.2f}",
                f"{point.e2e_s:.3f}",
                f"{one.batch_s:.3f}",
                f"{one.relative_error:+.1%}",
            ]
        )
    quality = (
        f"Relative error of the batch times: median {fit.median_relative_error:.1%}, "
        f"worst {fit.max_relative_error:.1%}"
    )
    return f"{aligned(rows)}\n\n{quality}\n{fit.model.describe()}"


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
                "prompt_tokens": one.point.prompt_tokens,
                "output_tokens": one.point.output_tokens,
                "completed": one.point.completed,
                "failed": one.point.failed,
                "ttft_s": one.point.ttft_s,
                "tpot_s": one.point.tpot_s,
                "e2e_s": one.point.e2e_s,
                "batch_s": one.batch_s,
                "modelled_tpot_s": one.tpot_s,
                "relative_error": one.relative_error,
                "tpot_relative_error": one.tpot_relative_error,
            }
            for one in fit.points
        ],
    }
