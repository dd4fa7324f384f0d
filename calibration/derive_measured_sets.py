"""Derive `measured_sets.csv`: coefficients of measured GPUs from LLM-Inference-Bench.

    python calibration/derive_measured_sets.py --data FOLDER [--out FILE] [--covariance FILE]

FOLDER holds `latency/llm_inference_bench_all_results.csv.gz` (end-to-end time of b requests with L
prompt and L output tokens each) and `latency/llm_inference_bench_ttft_end.csv` (time to first
token at b = 16, prompt 1024). The same files give the same bytes. README.md says what the rules
below leave out and why, and what the covariance of the coefficients is.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.fit.forms import four_term_design, nonnegative_least_squares, reference_design

FloatArray = NDArray[np.float64]

RESULTS = "latency/llm_inference_bench_all_results.csv.gz"
FIRST_TOKEN = "latency/llm_inference_bench_ttft_end.csv"
SOURCE = (
    "argonne-lcf/LLM-Inference-Bench@4211f5d4e9bc0145ed541b6d372d5d8223b44235 "
    "Plots/All_results.csv and Plots/Fig_22/all_results_TTFT_ITL.csv"
)
LICENCE = "BSD-3-Clause"

COEFFICIENTS = ("a0_s", "a1_s", "a2_s", "a3_s", "prefill_share")
MIN_CELLS = 12  # of 20: fewer cannot check four terms
MAX_RELATIVE_ERROR = 0.20  # in the worst cell
BROKEN = {  # length 2048 beyond the model's context gave tiny latencies; see README.md
    ("Nvidia GH200 GPU", "vLLM"): {
        "BAAI/Aquila-7B",
        "EleutherAI/gpt-j-6b",
        "bigscience/bloom-7b1",
        "facebook/opt-6.7b",
        "huggyllama/llama-7b",
    },
    ("Nvidia H100 GPU", "TensorRT-LLM"): {"Qwen/Qwen2-7B", "Qwen/Qwen2-72B"},
}


class Key(NamedTuple):
    """One configuration of the benchmark."""

    gpu: str
    n_gpus: int
    framework: str
    model: str

    @property
    def name(self) -> str:
        """`<gpu>-<model>-<framework>[-tpN]`, lower case, without the publisher."""
        gpu = self.gpu.removeprefix("Nvidia ").removesuffix(" GPU")
        model = self.model.split("/")[1].removeprefix("Meta-")
        model = model.removesuffix("-hf").removesuffix("-v0.1")
        parallel = f"-tp{self.n_gpus}" if self.n_gpus > 1 else ""
        return f"{gpu}-{model}-{self.framework}{parallel}".lower()


class Series(NamedTuple):
    """All cells of one configuration, repeats averaged."""

    batch_size: FloatArray
    tokens: FloatArray  # of the prompt, and of the output
    latency_s: FloatArray
    repeats: int  # rows merged into another cell


class Errors(NamedTuple):
    """How far a form is from the cells of a grid."""

    r_squared: float
    median: float  # relative error
    worst: float  # relative error


class Spread(NamedTuple):
    """How sure the terms are: read off the residuals of the relative least squares."""

    covariance: FloatArray  # (4, 4) of the terms; (5, 5) with the prefill share where measured
    degrees_of_freedom: int


class Fit(NamedTuple):
    """Four terms with the prefill share, and the errors on the grid of both forms."""

    a0_s: float
    a1_s: float
    a2_s: float
    a3_s: float
    prefill_share: float | None  # None where no time to first token was measured
    errors: Errors
    reference: Errors  # of the reference formula, refitted to the same cells
    spread: Spread


def read_series(path: Path) -> dict[Key, Series]:
    """The NVIDIA configurations, without llama.cpp, whose latency means something else."""
    cells: dict[Key, dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            framework = row["Framework"]
            if "llama.cpp" in framework or not row["Hardware"].startswith("Nvidia"):
                continue
            key = Key(row["Hardware"], int(row["Num of Hardware"]), framework, row["Model"])
            cell = (int(row["Input Output Length"]), int(row["Batch Size"]))
            cells[key][cell].append(float(row["Latency"]))
    return {key: _series(cells[key]) for key in sorted(cells)}


def _series(cells: dict[tuple[int, int], list[float]]) -> Series:
    tokens, sizes = np.array(sorted(cells), dtype=np.float64).T
    means = [sum(cells[cell]) / len(cells[cell]) for cell in sorted(cells)]
    return Series(sizes, tokens, np.array(means), sum(len(rows) - 1 for rows in cells.values()))


def read_first_token_s(path: Path) -> dict[Key, float]:
    """Time to first token of each configuration at b = 16 and a prompt of 1024 tokens [s]."""
    found = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not row["Hardware"].startswith("Nvidia"):
                continue
            shape = row["Input Length"], row["Output Length"], row["Batch Size"]
            if shape != ("1024", "1", "16"):
                raise ValueError(f"first-token rows must be 1024 in, 1 out, b = 16; got {row}")
            n_gpus = int(row["Num of Hardware"])
            key = Key(row["Hardware"], n_gpus, row["Framework"], row["Model"])
            found[key] = float(row["TTFT Latency"])
    return found


def fit(series: Series, first_token_s: float | None) -> Fit:
    """Relative least squares, all terms >= 0; the first token counts as one more cell."""
    b, tokens, latency_s = series.batch_size, series.tokens, series.latency_s
    if first_token_s is None:
        design = four_term_design(b, tokens)
        terms = nonnegative_least_squares(design / latency_s[:, None], np.ones_like(latency_s))
        share = None
        spread = _spread(design / latency_s[:, None], terms)
    else:
        sizes, observed = np.append(b, 16.0), np.append(latency_s, first_token_s)
        p, o = np.append(tokens, 1024.0), np.append(tokens, 1.0)
        columns = [np.ones_like(p), o, sizes * p, sizes * o, sizes * (p + 0.5 * o) * o / 1.5]
        design = np.column_stack(columns)
        a0_s, a1_s, prefill_s, decode_s, a3_s = nonnegative_least_squares(
            design / observed[:, None], np.ones_like(observed)
        )
        terms = np.array([a0_s, a1_s, prefill_s + decode_s, a3_s])
        share = float(prefill_s / (prefill_s + decode_s))
        linear = np.array([a0_s, a1_s, prefill_s, decode_s, a3_s])
        spread = _with_share(_spread(design / observed[:, None], linear), prefill_s, decode_s)
    saturating = reference_design(b, 2 * tokens)
    reference = nonnegative_least_squares(saturating / latency_s[:, None], np.ones_like(latency_s))
    return Fit(
        a0_s=float(terms[0]),
        a1_s=float(terms[1]),
        a2_s=float(terms[2]),
        a3_s=float(terms[3]),
        prefill_share=share,
        errors=_errors(four_term_design(b, tokens) @ terms, latency_s),
        reference=_errors(saturating @ reference, latency_s),
        spread=spread,
    )


def _spread(relative_design: FloatArray, terms: FloatArray) -> Spread:
    """Residual variance times (XᵀX)⁻¹, terms on the bound 0 included."""
    scale = np.linalg.norm(relative_design, axis=0)
    scaled = relative_design / scale
    freedom = len(scaled) - len(terms)
    variance = float(np.sum(np.square(relative_design @ terms - 1))) / freedom
    inverse = np.linalg.inv(scaled.T @ scaled) / np.outer(scale, scale)
    return Spread(variance * inverse, freedom)


def _with_share(spread: Spread, prefill_s: float, decode_s: float) -> Spread:
    """From (a0, a1, prefill, decode, a3) to (a0, a1, a2, a3, w), to first order."""
    a2_s = prefill_s + decode_s
    jacobian = np.zeros((5, 5))
    jacobian[0, 0] = jacobian[1, 1] = jacobian[3, 4] = 1
    jacobian[2, 2:4] = 1  # a2 = prefill + decode
    jacobian[4, 2:4] = decode_s / a2_s**2, -prefill_s / a2_s**2  # w = prefill/a2
    return spread._replace(covariance=jacobian @ spread.covariance @ jacobian.T)


def _errors(fitted: FloatArray, observed: FloatArray) -> Errors:
    relative = np.abs(fitted / observed - 1)
    residual = float(np.sum((fitted - observed) ** 2))
    total = float(np.sum((observed - observed.mean()) ** 2))
    return Errors(1 - residual / total, float(np.median(relative)), float(relative.max()))


def keep_whole(every: dict[Key, Series]) -> dict[Key, Series]:
    """The configurations that are not broken and have enough cells."""
    return {
        key: series
        for key, series in every.items()
        if key.model not in BROKEN.get((key.gpu, key.framework), set())
        and len(series.latency_s) >= MIN_CELLS
    }


def table(whole: dict[Key, Series], fits: dict[Key, Fit]) -> list[dict[str, object]]:
    """One row per configuration that the four terms describe within `MAX_RELATIVE_ERROR`."""
    kept = {key: fitted for key, fitted in fits.items() if _good(fitted)}
    rows = [_row(key, whole[key], fitted, *_share(key, kept)) for key, fitted in kept.items()]
    return sorted(rows, key=lambda row: str(row["name"]))


def _good(fitted: Fit) -> bool:
    return fitted.errors.worst <= MAX_RELATIVE_ERROR


def _share(key: Key, kept: dict[Key, Fit]) -> tuple[float, str]:
    """The prefill share of a configuration and where it comes from (README.md, rule 6)."""
    own = kept[key].prefill_share
    return (own, "own first token") if own is not None else _lent_share(key, kept)


def _lent_share(key: Key, kept: dict[Key, Fit]) -> tuple[float, str]:
    """The share that the other configurations lend to this one."""
    measured = {
        other: fitted.prefill_share
        for other, fitted in kept.items()
        if fitted.prefill_share is not None and other != key
    }
    near = [
        share
        for other, share in measured.items()
        if (other.gpu, other.framework) == (key.gpu, key.framework)
    ]
    if near:
        return median(near), f"median over {len(near)} of this GPU and framework"
    return median(measured.values()), f"median over all {len(measured)} measured"


def lent_share_error(kept: dict[Key, Fit]) -> float:
    """Root mean square of own share minus the one that would have been lent instead."""
    misses = [
        fitted.prefill_share - _lent_share(key, kept)[0]
        for key, fitted in kept.items()
        if fitted.prefill_share is not None
    ]
    return float(np.sqrt(np.mean(np.square(misses))))


def covariance_table(fits: dict[Key, Fit]) -> list[dict[str, object]]:
    """One row per configuration kept: degrees of freedom and the upper triangle of (5, 5)."""
    kept = {key: fitted for key, fitted in fits.items() if _good(fitted)}
    lent = lent_share_error(kept)
    rows = []
    for key in sorted(kept, key=lambda key: key.name):
        covariance = np.zeros((5, 5))
        own = kept[key].spread.covariance
        covariance[: len(own), : len(own)] = own
        if len(own) == 4:
            covariance[4, 4] = lent**2
        row: dict[str, object] = {
            "name": key.name,
            "degrees_of_freedom": kept[key].spread.degrees_of_freedom,
        }
        for i, first in enumerate(COEFFICIENTS):
            for j in range(i, 5):
                row[f"{first}*{COEFFICIENTS[j]}"] = f"{covariance[i, j]:.9g}"
        rows.append(row)
    return rows


def _row(key: Key, series: Series, fitted: Fit, share: float, origin: str) -> dict[str, object]:
    return {
        "name": key.name,
        "a0_s": f"{fitted.a0_s:.6g}",
        "a1_s": f"{fitted.a1_s:.6g}",
        "a2_s": f"{fitted.a2_s:.6g}",
        "a3_s": f"{fitted.a3_s:.6g}",
        "prefill_share": f"{share:.4g}",
        "prefill_share_from": origin,
        "batch_min": int(series.batch_size.min()),
        "batch_max": int(series.batch_size.max()),
        "tokens_min": int(series.tokens.min()),
        "tokens_max": int(series.tokens.max()),
        "cells": len(series.latency_s),
        "repeats_averaged": series.repeats,
        "r_squared": f"{fitted.errors.r_squared:.4f}",
        "median_relative_error": f"{fitted.errors.median:.4f}",
        "max_relative_error": f"{fitted.errors.worst:.4f}",
        "reference_r_squared": f"{fitted.reference.r_squared:.4f}",
        "reference_median_relative_error": f"{fitted.reference.median:.4f}",
        "reference_max_relative_error": f"{fitted.reference.worst:.4f}",
        "source": SOURCE,
        "licence": LICENCE,
    }


def summary(fits: dict[Key, Fit], n_kept: int) -> str:
    """Medians over the configurations of R² and of the relative errors of both forms."""
    four = np.array([fitted.errors for fitted in fits.values()])
    reference = np.array([fitted.reference for fitted in fits.values()])
    kept = four[:, 2] <= MAX_RELATIVE_ERROR
    lines = ["form | configurations | median R² | median error | worst error (median of each)"]
    for label, rows in (("all", np.ones_like(kept)), (f"the {n_kept} kept", kept)):
        for form, errors in (("reference", reference), ("four-term", four)):
            r_squared, middle, worst = np.median(errors[rows], axis=0)
            lines.append(
                f"{form} | {label} ({rows.sum()}) | {r_squared:.3f} | {middle:.1%} | {worst:.1%}"
            )
    better = int(np.sum(four[:, 2] < reference[:, 2]))
    lines.append(f"four-term has the smaller worst error in {better} of {len(four)}")
    left_out = [
        f"{key.name} ({fitted.errors.worst:.0%})"
        for key, fitted in fits.items()
        if not _good(fitted)
    ]
    lines.append(f"left out, worst error above {MAX_RELATIVE_ERROR:.0%}: {', '.join(left_out)}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the data, fit, write the table and print its summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    default = Path(__file__).with_name("measured_sets.csv")
    parser.add_argument("--out", type=Path, default=default, metavar="FILE")
    parser.add_argument("--covariance", type=Path, metavar="FILE", help="default: beside --out")
    options = parser.parse_args(arguments)
    first_token_s = read_first_token_s(options.data / FIRST_TOKEN)
    whole = keep_whole(read_series(options.data / RESULTS))
    fits = {key: fit(series, first_token_s.get(key)) for key, series in whole.items()}
    rows = table(whole, fits)
    _write(options.out, rows)
    beside = options.out.with_name(f"{options.out.stem}_covariance.csv")
    _write(options.covariance or beside, covariance_table(fits))
    sys.stdout.write(summary(fits, len(rows)))


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
