"""How well each form of a latency model describes real GPUs: FORMS.md and its figures.

    python calibration/forms_per_gpu.py --data FOLDER [--out FOLDER]

FOLDER holds the measurements that `forms_data.py` and `derive_measured_sets.py` name. The same
files give the same bytes. Forms are fitted as `llmsched calibrate fit` does it; each batch size
and each length is left out in turn, and the form fitted to the others is asked for it.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from derive_measured_sets import (
    FIRST_TOKEN,
    RESULTS,
    fit as shipped_fit,
    keep_whole,
    read_first_token_s,
    read_series,
)
from forms_data import (
    Configuration,
    DecodeSeries,
    inference_bench,
    ml_energy,
    rtx3090,
    shipped_names,
    splitwise,
    with_first_token,
)
from forms_errors import FormErrors, LineErrors, Row, StepErrors, StepRow
from forms_report import report
from numpy.typing import NDArray

from llmsched._util.files import whole_file
from llmsched.calibration.benchmarks.fit import fit_benchmarks
from llmsched.figures.calibration import fit_figure, form_colours
from llmsched.figures.style import plotnine_module, theme
from llmsched.latency.base import CalibrationError
from llmsched.latency.fit.form_fit import LatencyFit, fit_form
from llmsched.latency.fit.forms import nonnegative_least_squares
from llmsched.latency.fit.grid import LatencyGrid

FloatArray = NDArray[np.float64]

FORMS = ("reference", "four-term", "interpolation")
EXAMPLES = ("h100-llama-3-8b-vllm", "a100-llama-2-7b-vllm")  # a usual one; one with a full memory


def row(one: Configuration, *, kept: bool) -> Row:
    """Every form on one configuration of LLM-Inference-Bench, in sample and held out."""
    step: FormErrors | None = None
    if one.first_token_s is not None:
        grid = with_first_token(one)
        step = _in_sample(_fitted(grid, "step"), cells=len(one.grid))
    return Row(
        name=one.name,
        gpu=one.gpu,
        cells=len(one.grid),
        kept=kept,
        growth=_growth(one.grid),
        forms={form: _form_errors(one.grid, form) for form in FORMS},
        step=step,
    )


def _fitted(grid: LatencyGrid, form: str) -> LatencyFit | None:
    """The fit, or None where the grid cannot identify the form."""
    try:
        return fit_form(grid, form, chosen="compared")
    except CalibrationError:
        return None


def _in_sample(fit: LatencyFit | None, *, cells: int) -> FormErrors | None:
    """Errors of a fit on its first `cells` cells, nothing held out."""
    if fit is None:
        return None
    measured_s = fit.grid.mean_latency_s[:cells]
    fitted_s = fit.fitted_s()[:cells]
    error = fitted_s / measured_s - 1
    spread = float(np.sum((measured_s - measured_s.mean()) ** 2))
    largest = int(np.argmax(fit.grid.batch_size[:cells] * fit.grid.max_seq_len[:cells]))
    return FormErrors(
        r_squared=1 - float(np.sum((fitted_s - measured_s) ** 2)) / spread,
        errors=error,
        largest_ratio=float(1 + error[largest]),
    )


def _form_errors(grid: LatencyGrid, form: str) -> FormErrors | None:
    found = _in_sample(_fitted(grid, form), cells=len(grid))
    if found is None:
        return None
    for axis in (grid.batch_size, grid.max_seq_len):
        values = np.unique(axis)
        for value in values:
            if axis is grid.batch_size and value == values[0]:
                place = "batch 1"
            elif value == values[0]:
                place = "shortest"
            else:
                place = "largest" if value == values[-1] else "between"
            out = axis == value
            fit = _fitted(grid.where(~out), form)
            if fit is None:
                found.refused[place] = found.refused.get(place, 0) + 1
                continue
            asked = grid.where(out)
            modelled_s = np.asarray(fit.model.service_s(asked.shapes()))
            found.held_out.setdefault(place, []).extend(
                (modelled_s / asked.mean_latency_s - 1).tolist()
            )
    return found


def _growth(grid: LatencyGrid) -> float:
    """T(64)/T(16), median over the lengths that have both; NaN where none has."""
    b, tokens, time_s = grid.batch_size, grid.max_seq_len, grid.mean_latency_s
    ratios = [
        time_s[(b == 64) & (tokens == length)][0] / time_s[(b == 16) & (tokens == length)][0]
        for length in np.unique(tokens)
        if {16, 64} <= set(b[tokens == length].tolist())
    ]
    return float(np.median(ratios)) if ratios else float("nan")


def step_row(grid: LatencyGrid) -> StepRow:
    """The step form on prefills and decode steps measured apart, and the forms in L beside it."""
    fit = _fitted(grid, "step")
    whole = {
        form: _in_sample(_fitted(grid, form), cells=len(grid))
        for form in ("reference", "four-term")
    }
    if fit is None:
        return StepRow(
            name=grid.name,
            cells=len(grid),
            in_sample=None,
            held_out=None,
            lone_prefill={},
            whole=whole,
        )
    held = [
        _step_errors(grid.where(axis == value), left.model)
        for axis, base in ((grid.batch_size, 1), (grid.prompt_tokens, 512))
        for value in np.unique(axis)
        if value != base and (left := _fitted(grid.where(axis != value), "step")) is not None
    ]
    found = _step_errors(grid, fit.model)
    alone = (grid.batch_size == 1) & (grid.output_tokens == 128)
    return StepRow(
        name=grid.name,
        cells=len(grid),
        in_sample=found,
        lone_prefill=dict(
            zip(_known(grid.prompt_tokens)[alone], found.prefill[alone], strict=True)
        ),
        held_out=StepErrors(*(np.concatenate(parts) for parts in zip(*held, strict=True))),
        whole=whole,
    )


def _step_errors(grid: LatencyGrid, model: Any) -> StepErrors:
    prompt, output = _known(grid.prompt_tokens), _known(grid.output_tokens)
    return StepErrors(
        prefill=model.prefill_s(grid.batch_size, prompt) / _known(grid.prefill_s) - 1,
        decode=model.decode_step_s(grid.batch_size, prompt + output / 2)
        / _known(grid.decode_step_s)
        - 1,
        whole=np.asarray(model.service_s(grid.shapes())) / grid.mean_latency_s - 1,
    )


def _known(column: Any) -> Any:
    """A column that grids with steps have."""
    assert column is not None
    return column


def line_errors(series: DecodeSeries, *, saturating: bool) -> LineErrors:
    """A decode step as c0 + cb·b, or as β·(1 + γ·(b − 1)/b), in sample and held out."""
    b, step_s = series.batch_size, series.step_s
    design = np.column_stack([np.ones_like(b), (b - 1) / b if saturating else b])

    def errors(fitted: NDArray[np.bool_], asked: NDArray[np.bool_]) -> FloatArray:
        terms = nonnegative_least_squares(
            design[fitted] / step_s[fitted, None], np.ones(int(fitted.sum()))
        )
        return np.asarray(design[asked] @ terms / step_s[asked] - 1)

    every = np.ones(len(b), dtype=np.bool_)
    inner = np.arange(1, len(b) - 1)
    left_out = [errors(np.arange(len(b)) != i, np.arange(len(b)) == i) for i in inner]
    return LineErrors(
        gpu=series.gpu, errors=errors(every, every), held_out=np.concatenate(left_out)
    )


def _shipped_errors(folder: Path) -> dict[str, tuple[float, float]]:
    """The line of README.md's table over all configurations: median and worst error."""
    first_token_s = read_first_token_s(folder / FIRST_TOKEN)
    fits = [
        shipped_fit(series, first_token_s.get(key))
        for key, series in keep_whole(read_series(folder / RESULTS)).items()
    ]
    medians = {}
    for form, errors in (
        ("reference", [one.reference for one in fits]),
        ("four-term", [one.errors for one in fits]),
    ):
        medians[form] = (
            float(np.median([one.median for one in errors])),
            float(np.median([one.worst for one in errors])),
        )
    return medians


def held_out_figure(rows: Sequence[Row]) -> Any:
    """Share of the configurations whose held-out error is below what the axis says."""
    import pandas as pd

    p9 = plotnine_module()
    frames = []
    for form in FORMS:
        for places, panel in (
            (("between",), "between what was measured"),
            (("largest", "shortest"), "one step beyond it"),
        ):
            errors = sorted(
                100 * found.held_out_median(places)
                for one in rows
                if (found := one.forms[form]) is not None
                and any(p in found.held_out for p in places)
            )
            share = 100 * np.arange(1, len(errors) + 1) / len(errors)
            frames.append(pd.DataFrame({"error": errors, "share": share, "form": form, "p": panel}))
    data = pd.concat(frames, ignore_index=True)
    data["p"] = pd.Categorical(data["p"], list(dict.fromkeys(data["p"])))
    data["form"] = pd.Categorical(data["form"], FORMS)
    return (
        p9.ggplot(data, p9.aes("error", "share", colour="form"))
        + p9.geom_step(size=0.9)
        + p9.facet_wrap("p", ncol=2)
        + p9.scale_x_log10(breaks=[1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
        + p9.scale_colour_manual(form_colours(FORMS))
        + p9.labs(
            x="Median error on batch sizes and lengths left out [% of measured]",
            y="Configurations with less [%]",
            title=f"{len(rows)} configurations of GPU, model and framework",
            caption="LLM-Inference-Bench; batch 1 is never left out here. Further left is better.",
        )
        + theme()
        + p9.theme(figure_size=(9, 4), legend_position="top", legend_title=p9.element_blank())
    )


def _save(figure: Any, path: Path) -> None:
    with whole_file(path, suffix=".png") as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plotnine's notes on saving
        figure.save(partial, verbose=False, dpi=100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, fit, and write the report with its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    options = parser.parse_args(arguments)
    every = inference_bench(options.data)
    kept = shipped_names()
    rows = [row(one, kept=one.name in kept) for one in every]
    series = ml_energy(options.data)
    text = report(
        rows,
        shipped=_shipped_errors(options.data),
        steps=[step_row(grid) for grid in splitwise(options.data)],
        served=fit_benchmarks(rtx3090(options.data), name="rtx3090"),
        lines={
            form: [line_errors(one, saturating=form == "saturating") for one in series]
            for form in ("linear", "saturating")
        },
        examples=EXAMPLES,
    )
    for one in every:
        if one.name in EXAMPLES:
            fits = [fit_form(one.grid, form, chosen="drawn") for form in FORMS[:2]]
            _save(fit_figure(one.grid, fits), options.out / f"forms-{one.name}.png")
    _save(held_out_figure(rows), options.out / "forms-held-out.png")
    with whole_file(options.out / "FORMS.md") as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
