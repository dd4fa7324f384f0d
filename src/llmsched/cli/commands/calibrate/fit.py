"""`llmsched calibrate fit` and `show`: from a grid to a latency model, and what a model says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmsched.cli.command import print_json
from llmsched.cli.errors import OneLineErrors, keep_inputs
from llmsched.cli.fields import given_parameter as given

if TYPE_CHECKING:
    from llmsched.latency.fit.bootstrap import Bootstrap
    from llmsched.latency.fit.form_fit import LatencyFit
    from llmsched.latency.fit.validation import FormComparison

FORMS = ("best", "reference", "four-term", "step", "interpolation")
WIDE = {"max_content_width": 100}


@click.command(cls=OneLineErrors, context_settings=WIDE)
@click.argument("latency", metavar="GRID.csv", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--form",
    type=click.Choice(FORMS),
    default="best",
    show_default=True,
    help="Which form to take; best predicts held-out batch sizes and lengths best.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="MODEL.json",
    help="Write the model; --latency takes the file.",
)
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the grid and the forms (.png, .pdf, .svg).",
)
@click.option(
    "--residuals",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the forms' relative errors, cell by cell (.png, .pdf, .svg).",
)
@click.option(
    "--bootstrap",
    "n_bootstrap",
    type=click.IntRange(2, 100_000),
    metavar="N",
    help="Intervals from N redrawn grids, beside those of the covariance.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def fit(
    latency: str,
    form: str,
    out: Path | None,
    figure: Path | None,
    residuals: Path | None,
    n_bootstrap: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Fit every form of latency model to a measured grid, and choose one.

    \b
    Example: llmsched calibrate fit grid.csv --bootstrap 1000 --out gpu.json
    """
    from llmsched.cli.answers.calibrate import fit_dict, fit_text
    from llmsched.latency.files import save_model
    from llmsched.latency.fit.best import checked
    from llmsched.latency.fit.form_fit import fit_form
    from llmsched.latency.fit.grid import read_grid
    from llmsched.latency.fit.validation import compare_forms

    if given("seed") and n_bootstrap is None:
        raise click.UsageError("--seed does nothing without --bootstrap; leave it out")
    if n_bootstrap is not None and form == "interpolation":
        raise click.UsageError(
            "--bootstrap redraws the residuals of a parametric form, and an interpolation has "
            "none; leave it out, or ask for another --form"
        )
    _check_outputs(Path(latency), out, figure, residuals)
    comparison = compare_forms(read_grid(latency))
    taken = comparison.best
    if form != "best":
        taken = fit_form(comparison.grid, form, chosen="asked for")
    taken = checked(taken)
    redrawn = _redrawn(comparison, taken, n_bootstrap, seed) if n_bootstrap else None
    if as_json:
        content = fit_dict(comparison, taken, redrawn)
        print_json(content)
    else:
        click.echo(fit_text(comparison, taken, redrawn))
    _draw(comparison, figure, residuals)
    if out is not None:
        save_model(taken.model, out)
        click.echo(f"Model: {out}", err=True)


@click.command(cls=OneLineErrors, context_settings=WIDE)
@click.argument("latency", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(latency: str, as_json: bool) -> None:
    """Say what a latency model is: equation, parameters, range, source, and times.

    NAME|FILE is what --latency takes: a known name, a model file, or a grid CSV.

    \b
    Example: llmsched calibrate show h100-llama-3-8b-vllm
    """
    from llmsched.cli.answers.calibrate import model_dict, model_text
    from llmsched.latency.registry import load_latency

    model = load_latency(latency)
    if as_json:
        print_json(model_dict(model))
    else:
        click.echo(model_text(model))


def _redrawn(comparison: FormComparison, taken: LatencyFit, n: int, seed: int) -> Bootstrap | None:
    """The bootstrap of the form taken, or of the best parametric one beside an interpolation."""
    import numpy as np

    from llmsched.latency.fit.bootstrap import bootstrap

    bootstrapped: LatencyFit | None = taken
    if taken.estimate is None:
        bootstrapped = comparison.best_parametric
        of = "and no parametric form fits this grid; --bootstrap is left out"
        if bootstrapped is not None:
            of = f"so --bootstrap is of {bootstrapped.form}, the best parametric form"
        click.echo(f"Note: the interpolation taken has no residuals to redraw, {of}", err=True)
    return bootstrap(bootstrapped, n, np.random.default_rng(seed)) if bootstrapped else None


def _check_outputs(
    grid: Path, out: Path | None, figure: Path | None, residuals: Path | None
) -> None:
    from llmsched._util.files import check_output
    from llmsched.cli.text import check_figure_path

    for path in (figure, residuals):
        if path is not None:
            check_figure_path(path)
    if figure is not None and residuals is not None and figure.resolve() == residuals.resolve():
        raise click.UsageError(f"--residuals must not be the file of --figure, got {residuals}")
    if out is not None:
        if out.suffix.lower() != ".json":
            raise click.BadParameter(f"must end in .json, got {str(out)!r}", param_hint="--out")
        if out.resolve() == grid.resolve().with_suffix(".json"):
            raise click.UsageError(
                f"--out would take the name of the grid's provenance, got {out}; name another file"
            )
        check_output(out, "a model file")
        keep_inputs([out])


def _draw(comparison: FormComparison, figure: Path | None, residuals: Path | None) -> None:
    if figure is None and residuals is None:
        return
    from llmsched.cli.text import save_figure
    from llmsched.figures.calibration import fit_figure, residual_figure

    fits = [result.fit for result in comparison.results if result.fit is not None]
    for path, draw in ((figure, fit_figure), (residuals, residual_figure)):
        if path is not None:
            save_figure(draw(comparison.grid, fits), path)
            click.echo(f"Figure: {path}", err=True)
