"""Derive `step_times/*.json`: the two-regime form fitted to the layer tables of two GPUs.

    python calibration/derive_step_times.py --data FOLDER [--out FOLDER]

FOLDER holds `latency/vllm_layers_<GPU>_Llama-3.1-8B_tp1_{dense,attention,per_sequence}.csv.gz`,
profiled by casys-kaist/LLMServingSim. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from llmsched.hardware import MODELS
from llmsched.latency.steps.files import save_two_regime
from llmsched.latency.steps.fit import StepGrid, fit_two_regime, two_regime_errors
from llmsched.latency.steps.layer_tables import read_layers
from llmsched.latency.steps.layers import LayerTables
from llmsched.latency.steps.two_regime import RegimeErrors, TwoRegime

SOURCE = "casys-kaist/LLMServingSim@5daddb21a545658d5150b535712d0494584b5278"
LICENCE = "MIT"


class Card(NamedTuple):
    """One GPU's tables, and the server whose steps the form is fitted to."""

    folder: str  # of the GPU in the source
    max_running: int  # max_num_seqs of the run published beside the tables
    kv_tokens: int  # that fit its memory beside Llama-3.1-8B in 16 bits


CARDS = {
    "rtx-4090-llama-3.1-8b": Card("RTX4090", 256, 41_408),  # kv_tokens as the run logged them
    # not logged: 96 GB × 0.9 less 16.1 GB of weights, 131,072 bytes a token, rounded to 2^19
    "rtx-pro-6000-llama-3.1-8b": Card("RTXPRO6000", 128, 524_288),
}


def derive(name: str, data: Path) -> TwoRegime:
    """The form of one GPU, its constants rounded, its errors those of the rounded ones."""
    card = CARDS[name]
    files = read_layers(str(data / "latency" / f"vllm_layers_{card.folder}_Llama-3.1-8B_tp1"))
    tables = LayerTables(files, MODELS["llama-3.1-8b"].layers, max_running=card.max_running)
    grid = StepGrid(kv_tokens=card.kv_tokens)
    source = (
        f"fitted to layer tables of vLLM kernels, Llama-3.1-8B in bf16 on one {card.folder}, "
        f"at {min(grid.decodes)}-{max(grid.decodes)} decodes of {min(grid.mean_kv)}-"
        f"{max(grid.mean_kv)} tokens, {card.kv_tokens} in all, with prefills of "
        f"{min(grid.chunks)}-{max(grid.chunks)}; {SOURCE} profiler/perf/{card.folder}/"
        f"meta-llama/Llama-3.1-8B/bf16/tp1 ({LICENCE})"
    )
    form = fit_two_regime(tables, grid, name=name, source=source)
    decode = {key: _rounded(value, 5) for key, value in asdict(form.decode).items()}
    mixed = {key: _rounded(value, 5) for key, value in asdict(form.mixed).items()}
    form = replace(form, decode=replace(form.decode, **decode), mixed=replace(form.mixed, **mixed))
    decode_errors, mixed_errors = two_regime_errors(form, tables, grid)
    return form.with_errors(decode=_short(decode_errors), mixed=_short(mixed_errors))


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _short(errors: RegimeErrors) -> RegimeErrors:
    shares = {key: _rounded(getattr(errors, key), 3) for key in ("mean", "median", "max")}
    return replace(errors, **shares)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the data, fit, write the files and print what they hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    default = Path(__file__).with_name("step_times")
    parser.add_argument("--out", type=Path, default=default, metavar="FOLDER")
    options = parser.parse_args(arguments)
    for name in CARDS:
        form = derive(name, options.data)
        save_two_regime(form, options.out / f"{name}.json")
        sys.stdout.write(f"{form.describe()}\n")


if __name__ == "__main__":
    main()
