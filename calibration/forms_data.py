"""The measurements of `../shared/data` as grids and points, by the rules of README.md.

LLM-Inference-Bench through the reader of `derive_measured_sets.py`; Splitwise, the RTX 3090 sweep
and ML.ENERGY here. What is left out, and why, is said where it happens.
"""

from __future__ import annotations

import csv
import gzip
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from derive_measured_sets import FIRST_TOKEN, RESULTS, keep_whole, read_first_token_s, read_series
from numpy.typing import NDArray

from llmsched.calibration.benchmarks.runs import (
    Benchmarks,
    ClosedLoopPoint,
    LatencySummary,
    Load,
)
from llmsched.latency.fit.grid import LatencyGrid

FloatArray = NDArray[np.float64]

SPLITWISE = "latency/splitwise_perf_model.csv.gz"
RTX3090 = "latency/vllm_concurrency_qwen_rtx3090.csv"
ML_ENERGY = "latency/mlenergy_lm_arena_chat_itl_vs_batch.csv.gz"
RTX3090_OUTPUT_TOKENS = 128  # the file's throughput, TTFT and TPOT agree with it to 1.3 %
RTX3090_PROMPT_TOKENS = 1000  # not in the file; only scales the time per prompt token
LEAST_BATCHES = 4  # of an ML.ENERGY configuration: two parameters and a check


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One GPU, model and framework: its grid, and its time to first token where it was measured."""

    name: str
    gpu: str
    framework: str
    grid: LatencyGrid
    first_token_s: float | None  # of b = 16 prompts of 1024 tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSeries:
    """Median time between tokens against the mean batch size."""

    name: str
    gpu: str
    batch_size: FloatArray
    step_s: FloatArray


def inference_bench(folder: Path) -> list[Configuration]:
    """The 66 configurations before the quality cut, L = prompt + output, both alike."""
    first_token_s = read_first_token_s(folder / FIRST_TOKEN)
    found = []
    for key, series in keep_whole(read_series(folder / RESULTS)).items():
        tokens = series.tokens.astype(np.int64)
        grid = _grid(key.name, series.batch_size.astype(np.int64), tokens, tokens, series.latency_s)
        found.append(
            Configuration(
                name=key.name,
                gpu=key.gpu.removeprefix("Nvidia ").removesuffix(" GPU"),
                framework=key.framework,
                grid=grid,
                first_token_s=first_token_s.get(key),
            )
        )
    return sorted(found, key=lambda one: one.name)


def shipped_names() -> set[str]:
    """The configurations that `measured_sets.csv` ships: the others were cut."""
    path = Path(__file__).with_name("measured_sets.csv")
    return {row["name"] for row in _rows(path)}


def with_first_token(one: Configuration) -> LatencyGrid:
    """The grid of a configuration, and its time to first token as one more cell, the last."""
    grid = one.grid
    assert grid.prompt_tokens is not None
    assert grid.output_tokens is not None
    assert one.first_token_s is not None
    return _grid(
        grid.name,
        np.append(grid.batch_size, 16),
        np.append(grid.prompt_tokens, 1024),
        np.append(grid.output_tokens, 1),
        np.append(grid.mean_latency_s, one.first_token_s),
    )


def _grid(name: str, b: Any, prompt: Any, output: Any, latency_s: FloatArray) -> LatencyGrid:
    return LatencyGrid(
        batch_size=b,
        max_seq_len=prompt + output,
        mean_latency_s=latency_s,
        std_latency_s=np.full(len(b), np.nan),  # single runs, or unknown
        n_trials=np.ones(len(b), dtype=np.int64),
        prompt_tokens=prompt,
        output_tokens=output,
        name=name,
    )


def splitwise(folder: Path) -> list[LatencyGrid]:
    """Prefill and decode step of each model, GPU and parallelism, five repeats and more a cell.

    Left out: the power-capped H100, which was computed and not measured; llama2-70b on two GPUs
    at batch 64, which ran out of memory.
    """
    rows: dict[str, dict[tuple[int, int, int], list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in _rows(folder / SPLITWISE):
        b, parallel = int(row["batch_size"]), int(row["tensor_parallel"])
        if row["hardware"] == "h100-80gb-pcap":
            continue
        if row["model"] == "llama2-70b" and parallel == 2 and b == 64:
            continue
        cell = b, int(row["prompt_size"]), int(row["token_size"])
        times = float(row["prompt_time"]) / 1e3, float(row["token_time"]) / 1e3
        gpu = row["hardware"].removesuffix("-80gb")
        rows[f"{gpu}-{row['model']}-tp{parallel}"][cell].append(times)
    return [_step_grid(name, rows[name]) for name in sorted(rows)]


def _step_grid(
    name: str, cells: dict[tuple[int, int, int], list[tuple[float, float]]]
) -> LatencyGrid:
    b, prompt, output = np.array(sorted(cells)).T
    repeats = [np.array(cells[cell]) for cell in sorted(cells)]
    prefill_s, step_s = np.array([times.mean(axis=0) for times in repeats]).T
    return LatencyGrid(
        batch_size=b,
        max_seq_len=prompt + output,
        mean_latency_s=prefill_s + (output - 1) * step_s,
        std_latency_s=np.full(len(b), np.nan),
        n_trials=np.array([len(times) for times in repeats]),
        prompt_tokens=prompt,
        output_tokens=output,
        prefill_s=prefill_s,
        prefill_std_s=np.full(len(b), np.nan),  # so that relative errors count alike
        decode_step_s=step_s,
        decode_step_std_s=np.full(len(b), np.nan),
        name=name,
    )


def rtx3090(folder: Path) -> Benchmarks:
    """TTFT and TPOT of a served Qwen against concurrency, as `calibrate import` takes them."""
    points = []
    for row in _rows(folder / RTX3090):
        ttft_s, tpot_s = float(row["ttft_mean_ms"]) / 1e3, float(row["tpot_mean_ms"]) / 1e3
        points.append(
            ClosedLoopPoint(
                load=Load(words="", concurrency=int(row["concurrency"])),
                prompt_tokens=RTX3090_PROMPT_TOKENS,
                output_tokens=RTX3090_OUTPUT_TOKENS,
                ttft=LatencySummary(mean_s=ttft_s),
                tpot=LatencySummary(mean_s=tpot_s),
                e2e=LatencySummary(mean_s=ttft_s + (RTX3090_OUTPUT_TOKENS - 1) * tpot_s),
                completed=int(row["requests_per_level"]),
                source=f"{RTX3090}, concurrency {row['concurrency']}",
            )
        )
    return Benchmarks(format="closed-loop", files=(tuple(points),), source=RTX3090)


def ml_energy(folder: Path) -> list[DecodeSeries]:
    """Time between tokens against batch size, of every configuration with four batches or more.

    Batch sizes are averages over time. Where several `max_num_seqs` gave the same batch (the
    server was never full), they are averaged into one point, within 1 %.
    """
    keys = ("gpu_model", "num_gpus", "model_id", "weight_precision")
    parallel = ("tensor_parallel", "expert_parallel", "data_parallel")
    series: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for row in _rows(folder / ML_ENERGY):
        series[tuple(row[key] for key in (*keys, *parallel))].append(
            (float(row["avg_batch_size"]), float(row["median_itl_ms"]) / 1e3)
        )
    found = []
    for key, points in sorted(series.items()):
        merged = list(_merged(sorted(points)))
        if len(merged) >= LEAST_BATCHES:
            b, step_s = np.array(merged).T
            name = f"{key[0]} x{key[1]} {key[2].split('/')[-1]} {key[3]}"
            found.append(DecodeSeries(name=name, gpu=key[0], batch_size=b, step_s=step_s))
    return found


def _merged(points: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Neighbours within 1 % of each other's batch size, averaged."""
    group: list[tuple[float, float]] = []
    for point in [*points, (float("inf"), 0.0)]:
        if group and point[0] > 1.01 * group[0][0]:
            yield statistics.mean(b for b, _ in group), statistics.mean(s for _, s in group)
            group = []
        group.append(point)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, compressed or not."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    yield from csv.DictReader(text.decode("utf-8").splitlines())
