"""FORMS.md: the errors of the forms as tables, and what they mean in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from forms_errors import (
    FormErrors,
    LineErrors,
    Row,
    StepRow,
    both,
    forms_of,
    left_out,
    markdown,
    median,
    pair,
    worst,
)
from forms_words import (
    GOOD,
    LIMITS,
    ROUGH,
    SOURCES,
    about_rows,
    about_served,
    about_steps,
    about_table,
    after_summary,
    bullets,
    prose,
    take_away,
)

from llmsched.calibration.benchmarks.fit import BenchmarkFit


def report(
    rows: Sequence[Row],
    *,
    shipped: dict[str, tuple[float, float]],
    steps: Sequence[StepRow],
    served: BenchmarkFit,
    lines: dict[str, list[LineErrors]],
    examples: Sequence[str],
) -> str:
    """The whole of FORMS.md.

    `shipped` has the median and worst errors in sample of the fits behind `measured_sets.csv`,
    each the median over the configurations.
    """
    parts = [
        "# Which form describes a GPU",
        "Made by `python calibration/forms_per_gpu.py --data FOLDER`; the same data give the same "
        "bytes.",
        take_away(rows, steps, served),
        "![Held-out errors of the forms](forms-held-out.png)",
        "## Whole batches: LLM-Inference-Bench",
        about_rows(rows, shipped),
        _summary_table(rows),
        after_summary(rows),
        _gpu_table(rows),
        "### Every configuration",
        about_table(),
        _row_table(rows),
        *(f"![{name}](forms-{name}.png)" for name in examples),
        "## Prefill and decode apart: Splitwise",
        about_steps(steps),
        _step_table(steps),
        "## A served model: vLLM on an RTX 3090",
        about_served(served),
        "## The decode step against the batch: ML.ENERGY",
        _line_table(lines),
        "## Limits",
        bullets(*LIMITS),
        "## Sources",
        SOURCES,
    ]
    return "\n\n".join(parts) + "\n"


COLUMNS = (
    ("between", "between measured ones"),
    ("largest", "the largest"),
    ("shortest", "the shortest"),
    ("batch 1", "batch 1"),
)


def _summary_table(rows: Sequence[Row]) -> str:
    head = ["form", "configurations", "R²", "in sample"]
    table = [[*head, *(f"left out: {title}" for _, title in COLUMNS)]]
    for form in rows[0].forms:
        found = forms_of(rows, form)
        exact = form == "interpolation"
        cells = [form, str(len(found))]
        cells.append("-" if exact else f"{median([one.r_squared for one in found]):.3f}")
        in_sample = [(median(np.abs(one.errors)), worst(one)) for one in found]
        cells.append("-" if exact else pair(np.median(in_sample, axis=0)))
        for place, _ in COLUMNS:
            errors = [one.held_out_errors([place]) for one in found if place in one.held_out]
            if errors:
                pairs = [(float(np.median(e)), float(e.max())) for e in errors]
                cells.append(pair(np.median(pairs, axis=0)))
            else:
                cells.append("not possible")
        table.append(cells)
    return markdown(table)


def _gpu_table(rows: Sequence[Row]) -> str:
    table = [["GPU", "configurations", "reference: R²", "in sample", "left out"]]
    table[0] += ["four-term: R²", "in sample", "left out", "interpolation: left out"]
    for gpu in sorted({one.gpu for one in rows}):
        here = [one for one in rows if one.gpu == gpu]
        cells = [gpu, str(len(here))]
        for form in ("reference", "four-term"):
            found = forms_of(here, form)
            cells.append(f"{median([one.r_squared for one in found]):.3f}")
            in_sample = [(median(np.abs(one.errors)), worst(one)) for one in found]
            cells += [pair(np.median(in_sample, axis=0)), left_out(found)]
        cells.append(left_out(forms_of(here, "interpolation")))
        table.append(cells)
    return markdown(table)


def _row_table(rows: Sequence[Row]) -> str:
    table = [["configuration", "reference: R²", "in sample", "left out", "largest", "in words"]]
    table[0] += ["four-term: R²", "in sample", "left out", "interpolation: left out", "step"]
    for one in rows:
        reference, four = one.forms["reference"], one.forms["four-term"]
        assert reference is not None
        assert four is not None
        grid = one.forms["interpolation"]
        off = worst(reference)
        words = "good" if off <= GOOD else "rough" if off <= ROUGH else "bad"
        table.append(
            [
                one.name + ("" if one.kept else " ✂"),
                *_cells(reference),
                f"{reference.largest_ratio:.2f}",
                words,
                *_cells(four),
                "-" if grid is None else left_out([grid]),
                "-" if one.step is None else both(one.step.errors),
            ]
        )
    return markdown(table)


def _cells(one: FormErrors) -> list[str]:
    return [f"{one.r_squared:.3f}", both(one.errors), left_out([one])]


def _step_table(steps: Sequence[StepRow]) -> str:
    table = [["measured", "cells", "prefill", "left out", "decode step", "left out"]]
    table[0] += ["whole batch", "left out", "whole: reference", "whole: four-term"]
    for one in steps:
        cells = [one.name, str(one.cells)]
        for part in range(3):
            for errors in (one.in_sample, one.held_out):
                cells.append("-" if errors is None else both(errors[part]))
        for form in ("reference", "four-term"):
            found = one.whole[form]
            cells.append("-" if found is None else both(found.errors))
        table.append(cells)
    return markdown(table)


def _line_table(lines: dict[str, list[LineErrors]]) -> str:
    table = [["GPU", "configurations", "c0 + cb·b", "left out", "β·(1 + γ·(b − 1)/b)", "left out"]]
    for gpu in sorted({one.gpu for one in lines["linear"]}):
        here = {form: [one for one in found if one.gpu == gpu] for form, found in lines.items()}
        cells = [gpu, str(len(here["linear"]))]
        for form in ("linear", "saturating"):
            for part in ("errors", "held_out"):
                sizes = [np.abs(getattr(one, part)) for one in here[form]]
                pairs = [(float(np.median(e)), float(e.max())) for e in sizes]
                cells.append(pair(np.median(pairs, axis=0)))
        table.append(cells)
    about = prose(
        """Median time between tokens of vLLM against its mean batch size, LM-Arena chat;
        configurations with four batch sizes and more. Median / worst error, each the median over
        the configurations; *left out*: each batch size that lies between others. The second law is
        what `reference` says of one step."""
    )
    return f"{about}\n\n{markdown(table)}"
