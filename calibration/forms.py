"""How well each form of a latency model describes real GPUs: FORMS.md and its figures.

    python calibration/forms.py --data FOLDER [--out FOLDER] [--csv FILE]

FOLDER holds the measurements that are named below and in `derive_measured_sets.py`. Forms are
fitted and cross-validated as `llmsched calibrate fit` does it. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from derive_measured_sets import RESULTS, keep_whole, read_series
from numpy.typing import NDArray

from llmsched._util.files import whole_file
from llmsched.calibration.benchmarks.fit import BenchmarkFit, fit_benchmarks
from llmsched.calibration.benchmarks.runs import (
    Benchmarks,
    ClosedLoopPoint,
    LatencySummary,
    Load,
)
from llmsched.figures.calibration import fit_figure, form_colours
from llmsched.figures.style import plotnine_module, theme
from llmsched.latency.fit.form_fit import fit_form
from llmsched.latency.fit.forms import nonnegative_least_squares
from llmsched.latency.fit.grid import LatencyGrid
from llmsched.latency.fit.validation import compare_forms

FloatArray = NDArray[np.float64]

SPLITWISE = "latency/splitwise_perf_model.csv.gz"
RTX3090 = "latency/vllm_concurrency_qwen_rtx3090.csv"
ML_ENERGY = "latency/mlenergy_lm_arena_chat_itl_vs_batch.csv.gz"
RTX3090_TOKENS = (1000, 128)  # prompt: not in the file, only scales a time; output: its throughput
LEAST_BATCHES = 4  # of an ML.ENERGY configuration: two parameters and a check
FORMS = ("reference", "four-term", "interpolation")
EXAMPLE = "h100-llama-3-8b-vllm"

PAGE = """# Which form describes a GPU

**Do not trust `reference` for large batches: in the median of {n} configurations its worst cell
is {reference} off, that of `four-term` {four_term}.** A batch of 64 takes {growth:.2f} times as
long as one of 16; `reference` allows 1.05. Where prompts and outputs vary apart, only `step` fits.

Made by `python calibration/forms.py --data FOLDER`; do not edit. Errors are
|modelled/measured − 1|, median / worst, each the median over the configurations. *Left out*: every
batch size and every length in turn, with the form fitted to the others.

![Errors on what was left out of the fit](forms-held-out.png)

## Whole batches (LLM-Inference-Bench, as many prompt as output tokens)

{forms}

By GPU, left out:

{gpus}

![{example}](forms-{example}.png)

## Prefill and decode timed apart (Splitwise)

Time of a whole batch, in sample: prompts of 128 to 8192 tokens, up to 64 requests.

{splitwise}

## The decode step against the batch (ML.ENERGY)

c0 + cb·b is what `four-term` and `step` say of one step, β·(1 + γ·(b − 1)/b) what `reference` does.

{decode}

## A served model (vLLM on an RTX 3090, concurrency {concurrencies})

`llmsched calibrate import` meets the end-to-end times within {served} (median) and {served_worst}
(worst).

## Limits

- Every member of a batch has the same prompt and output. Mixed batches, taken at their longest, are
  upper bounds under any form.
- 2023 and 2024 frameworks; single runs in the first tables. No form describes the jump where a
  batch no longer fits the KV memory.
- Leaving out the largest batch or length extrapolates by a factor of two; of more, nothing is said.

## Sources

- LLM-Inference-Bench, argonne-lcf/LLM-Inference-Bench @ 4211f5d4e9bc0145ed541b6d372d5d8223b44235,
  `Plots/All_results.csv`; BSD-3-Clause, copyright UChicago Argonne, LLC.
- Splitwise, Mutinifni/splitwise-sim @ 8f99e7dc9b407f4ce2488d03dd44c0b8b946dab0,
  `data/perf_model.csv`; MIT.
- AMD-Aljohani/dr-bgs-llm-routing @ 92883925975183a5795fbecd1ddb18119468b093,
  `data/calibration/qwen_rtx3090_direct_telemetry.csv`; CC-BY-4.0.
- ML.ENERGY, ml-energy/leaderboard @ 0cd52dab897c5d91a45f4d413038f3b8b4251b0f,
  `public/data/tasks/lm-arena-chat.json`; no licence file: figures only.

No measured row is in this repository: the tables hold errors of fits.
"""


def inference_bench(folder: Path) -> list[LatencyGrid]:
    """The configurations of NVIDIA GPUs by rules 1 to 4 of README.md, L = prompt + output."""
    found = []
    for key, series in keep_whole(read_series(folder / RESULTS)).items():
        tokens = series.tokens.astype(np.int64)
        times = pd.DataFrame({"mean": series.latency_s})
        found.append(_grid(key.name, series.batch_size.astype(np.int64), tokens, tokens, times))
    return sorted(found, key=lambda grid: grid.name)


def splitwise(folder: Path) -> list[LatencyGrid]:
    """Prefill and decode step of each model, GPU and parallelism.

    Left out: the power-capped H100, which was computed and not measured; llama2-70b on two GPUs at
    batch 64, which ran out of memory.
    """
    rows = pd.read_csv(folder / SPLITWISE)
    rows = rows[rows["hardware"] != "h100-80gb-pcap"]
    full = (rows["model"] == "llama2-70b") & (rows["tensor_parallel"] == 2)
    rows = rows[~(full & (rows["batch_size"] == 64))]
    rows[["prefill", "step"]] = rows[["prompt_time", "token_time"]] / 1e3
    gpu, parallel = rows["hardware"].str.removesuffix("-80gb"), rows["tensor_parallel"].astype(str)
    grids = []
    for name, one in rows.groupby(gpu + "-" + rows["model"] + "-tp" + parallel):
        cells = one.groupby(["batch_size", "prompt_size", "token_size"])
        times = cells[["prefill", "step"]].mean().assign(n=cells.size())
        b, prompt, output = (times.index.get_level_values(i).to_numpy() for i in range(3))
        times["mean"] = times["prefill"] + (output - 1) * times["step"]
        grids.append(_grid(str(name), b, prompt, output, times))
    return grids


def _grid(name: str, b: Any, prompt: Any, output: Any, times: pd.DataFrame) -> LatencyGrid:
    """A grid of means whose spread is not known, so that relative errors count alike."""
    unknown = np.full(len(b), np.nan)
    steps: dict[str, Any] = {}
    if "step" in times:
        steps = {
            "prefill_s": times["prefill"].to_numpy(),
            "decode_step_s": times["step"].to_numpy(),
        }
        steps |= {"prefill_std_s": unknown, "decode_step_std_s": unknown}
    return LatencyGrid(
        batch_size=b,
        max_seq_len=prompt + output,
        mean_latency_s=times["mean"].to_numpy(),
        std_latency_s=unknown,
        n_trials=times["n"].to_numpy() if "n" in times else np.ones(len(b), dtype=np.int64),
        prompt_tokens=prompt,
        output_tokens=output,
        name=name,
        **steps,
    )


def rtx3090(folder: Path) -> Benchmarks:
    """TTFT and TPOT of a served Qwen against concurrency, as `calibrate import` takes them."""
    prompt, output = RTX3090_TOKENS
    points = []
    for _, row in pd.read_csv(folder / RTX3090).iterrows():
        ttft_s, tpot_s = row["ttft_mean_ms"] / 1e3, row["tpot_mean_ms"] / 1e3
        points.append(
            ClosedLoopPoint(
                load=Load(words="", concurrency=int(row["concurrency"])),
                prompt_tokens=prompt,
                output_tokens=output,
                ttft=LatencySummary(mean_s=ttft_s),
                tpot=LatencySummary(mean_s=tpot_s),
                e2e=LatencySummary(mean_s=ttft_s + (output - 1) * tpot_s),
                completed=int(row["requests_per_level"]),
                source=f"{RTX3090}, concurrency {row['concurrency']:.0f}",
            )
        )
    return Benchmarks(format="closed-loop", files=(tuple(points),), source=RTX3090)


def form_errors(grids: Sequence[LatencyGrid], forms: Sequence[str]) -> pd.DataFrame:
    """A row per grid and form that it identifies: R², errors in sample and on what was left out."""
    rows = [
        {"grid": grid.name, "gpu": grid.name.partition("-")[0].upper(), "cells": len(grid)}
        | result.to_dict()
        for grid in grids
        for result in compare_forms(grid, forms=forms).results
        if result.fit is not None
    ]
    return pd.DataFrame(rows)


def growth(grid: LatencyGrid) -> float:
    """T(64)/T(16), median over the lengths that have both; NaN where none has."""
    by_size = pd.Series(grid.mean_latency_s, [grid.batch_size, grid.max_seq_len]).unstack(level=0)
    return float((by_size[64] / by_size[16]).median()) if {16, 64} <= set(by_size) else float("nan")


def decode_errors(folder: Path) -> pd.DataFrame:
    """Errors of two laws of the decode step on every configuration with four batches or more.

    Batch sizes are averages over time. Where several server limits gave the same batch (within
    1 %), they are one point.
    """
    rows = pd.read_csv(folder / ML_ENERGY)
    keys = [*rows.columns[:7]]  # GPU, model, precision, parallelism
    found = []
    for key, one in rows.sort_values("avg_batch_size").groupby(keys):
        place = (one["avg_batch_size"].pct_change() > 0.01).cumsum()
        points = one.groupby(place)[["avg_batch_size", "median_itl_ms"]].mean()
        if len(points) >= LEAST_BATCHES:
            b, step = points.to_numpy().T
            for law, column in {"c0 + cb·b": b, "β·(1 + γ·(b − 1)/b)": (b - 1) / b}.items():
                errors = line_errors(column, step)
                found.append({"GPU": key[0], "law": law, "middle": np.median(errors)})
                found[-1]["worst"] = errors.max()
    return pd.DataFrame(found)


def line_errors(column: FloatArray, measured: FloatArray) -> FloatArray:
    """Sizes of the relative errors of a + b·column, both >= 0, fitted to relative squares."""
    design = np.column_stack([np.ones_like(column), column])
    terms = nonnegative_least_squares(design / measured[:, None], np.ones_like(measured))
    return np.abs(design @ terms / measured - 1)


def pair(middle: pd.Series, worst: pd.Series) -> str:
    """Median / worst error, each the median over the configurations."""
    return " / ".join(percent(float(column.median())) for column in (middle, worst))


def percent(share: float) -> str:
    """Two digits at least; one before and one after the point below 10 %."""
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


IN_SAMPLE = ("median_relative_error", "max_relative_error")
HELD_OUT = ("held_out_median_relative_error", "held_out_max_relative_error")


def forms_table(errors: pd.DataFrame) -> pd.DataFrame:
    """A row per form."""
    rows = []
    for form, one in errors.groupby("form", sort=False):
        exact = form == "interpolation"  # it meets its own cells
        row = {"form": form, "configurations": len(one)}
        row["R²"] = "-" if exact else f"{one['r_squared'].median():.3f}"
        row["in sample"] = "-" if exact else pair(*(one[name] for name in IN_SAMPLE))
        row["left out: a batch size"] = pair(
            one["held_out_batch_sizes_median"], one["held_out_batch_sizes_max"]
        )
        row["left out: a length"] = pair(
            one["held_out_lengths_median"], one["held_out_lengths_max"]
        )
        rows.append(row)
    return pd.DataFrame(rows)


def by(errors: pd.DataFrame, index: str, title: str, columns: Sequence[str]) -> pd.DataFrame:
    """A row per value of a column, the errors of each form beside each other."""
    rows = []
    for value, one in errors.groupby(index):
        count = {"configurations": one["grid"].nunique()} if index == "gpu" else {}
        cells = {
            f: pair(*(c[name] for name in columns)) for f, c in one.groupby("form", sort=False)
        }
        rows.append({title: value, **count, **cells})
    return pd.DataFrame(rows).fillna("refused")


def held_out_figure(errors: pd.DataFrame) -> Any:
    """Share of the configurations whose error on what was left out is below the axis."""
    p9 = plotnine_module()
    data = errors.dropna(subset=HELD_OUT[0]).sort_values(HELD_OUT[0])
    data["error"] = 100 * data[HELD_OUT[0]]
    groups = data.groupby("form")["error"]
    data["share"] = 100 * groups.rank(method="first") / groups.transform("size")
    data["form"] = pd.Categorical(data["form"], FORMS)
    return (
        p9.ggplot(data, p9.aes("error", "share", colour="form"))
        + p9.geom_step(size=0.9)
        + p9.scale_x_log10(breaks=[1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
        + p9.scale_colour_manual(form_colours(FORMS))
        + p9.labs(
            x="Median error on what was left out [% of measured]", y="Configurations with less [%]"
        )
        + theme()
        + p9.theme(figure_size=(7, 3.6), legend_position="top", legend_title=p9.element_blank())
    )


def page(
    errors: pd.DataFrame,
    grids: Sequence[LatencyGrid],
    apart: pd.DataFrame,
    decode: pd.DataFrame,
    served: BenchmarkFit,
) -> str:
    """FORMS.md."""
    worst = errors.groupby("form")["max_relative_error"].median()
    laws = [
        {"GPU": gpu, "configurations": len(one) // 2}
        | {law: pair(c["middle"], c["worst"]) for law, c in one.groupby("law", sort=False)}
        for gpu, one in decode.groupby("GPU")
    ]
    return PAGE.format(
        n=errors["grid"].nunique(),
        reference=percent(worst["reference"]),
        four_term=percent(worst["four-term"]),
        growth=np.nanmedian([growth(grid) for grid in grids]),
        forms=forms_table(errors).to_markdown(index=False),
        gpus=by(errors, "gpu", "GPU", HELD_OUT).to_markdown(index=False),
        example=EXAMPLE,
        splitwise=by(apart, "grid", "measured", IN_SAMPLE).to_markdown(index=False),
        decode=pd.DataFrame(laws).to_markdown(index=False),
        concurrencies=f"1 to {served.points[-1].point.concurrency}",
        served=percent(served.median_relative_error),
        served_worst=percent(served.max_relative_error),
    )


def _save(figure: Any, path: Path) -> None:
    with whole_file(path, suffix=".png") as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plotnine's notes on saving
        figure.save(partial, verbose=False, dpi=100, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, fit, and write the page with its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="every configuration and form")
    options = parser.parse_args(arguments)
    grids = inference_bench(options.data)
    errors = form_errors(grids, FORMS)
    if options.csv is not None:
        errors.to_csv(options.csv, index=False, lineterminator="\n")
    apart = form_errors(splitwise(options.data), ("reference", "four-term", "step"))
    served = fit_benchmarks(rtx3090(options.data), name="rtx3090")
    text = page(errors, grids, apart, decode_errors(options.data), served)
    (example,) = (grid for grid in grids if grid.name == EXAMPLE)
    fits = [fit_form(example, form, chosen="drawn") for form in FORMS[:2]]
    _save(fit_figure(example, fits), options.out / f"forms-{EXAMPLE}.png")
    _save(held_out_figure(errors), options.out / "forms-held-out.png")
    with whole_file(options.out / "FORMS.md") as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
