"""Two real vLLM 0.19 runs replayed by the stepping reference, step times from layer tables.

`test_replay_real.py` holds the errors; `pytest -m data -s` on it prints them. The composition of
layer times is plain Python of its own, so that the product's is compared with it too. The data
(../shared/data) is not in this repository: 300 ShareGPT requests on an RTX 4090 and on an RTX PRO
6000, and layer times of both, all from casys-kaist/LLMServingSim (MIT).
"""

from __future__ import annotations

import csv
import gzip
import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from stepping import Options, Result, StepTime, run

DATA = Path(__file__).parents[3] / "shared" / "data"
MODEL = "Llama-3.1-8B"
N_LAYERS = 32
DENSE_TIMES = {  # how often each dense layer runs in a step
    "layernorm": 2 * N_LAYERS,
    "qkv_proj": N_LAYERS,
    "rotary_emb": N_LAYERS,
    "o_proj": N_LAYERS,
    "gate_up_proj": N_LAYERS,
    "act_fn": N_LAYERS,
    "down_proj": N_LAYERS,
    "embedding": 1,
    "final_layernorm": 1,
}
# the PRO 6000's attention table has further points, but they make no full grid
DOUBLING_GRID = {0, *(2**j for j in range(15))}
RUNS = {  # KV of the PRO 6000 is not recorded and never binds
    "RTX4090": Options(usable_blocks=2588 - 1, max_num_seqs=256, prefix_caching=True),
    "RTXPRO6000": Options(usable_blocks=100_000, max_num_seqs=128, prefix_caching=True),
}


# ------------------------------------------------------------------------------------ step time


def cell(axis: Sequence[int], x: float) -> tuple[int, float]:
    """The cell of x and its place in it: clamped below the axis, beyond 1 above it."""
    i = min(max(bisect_right(axis, x) - 1, 0), len(axis) - 2)
    return i, max(0.0, (x - axis[i]) / (axis[i + 1] - axis[i]))


class Grid:
    """Multilinear in raw coordinates on a full grid; prolonged above it, clamped below it."""

    def __init__(self, points: dict[tuple[int, ...], float]) -> None:
        self.axes = [sorted(set(axis)) for axis in zip(*points, strict=True)]
        self.points = {corner: points[corner] for corner in product(*self.axes)}

    def __call__(self, *x: float) -> float:
        sides = []
        for axis, at in zip(self.axes, x, strict=True):
            i, w = cell(axis, at)
            sides.append(((axis[i], 1 - w), (axis[i + 1], w)))
        total = 0.0
        for corner in product(*sides):
            weight = 1.0
            for _, w in corner:
                weight *= w
            if weight:
                total += weight * self.points[tuple(at for at, _ in corner)]
        return total


class Layers:
    """Seconds of a step: layers x (dense + attention), embedding, final norm, lm_head, sampler."""

    def __init__(self, gpu: str, max_num_seqs: int) -> None:
        largest = min(512, 2 * max_num_seqs)
        self.graphs = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
        dense: dict[tuple[int, ...], float] = defaultdict(float)
        for row in table(f"vllm_layers_{gpu}_{MODEL}_tp1_dense"):
            dense[(int(row["tokens"]),)] += DENSE_TIMES[row["layer"]] * float(row["time_us"])
        sequences: dict[tuple[int, ...], float] = defaultdict(float)
        for row in table(f"vllm_layers_{gpu}_{MODEL}_tp1_per_sequence"):
            sequences[(int(row["sequences"]),)] += float(row["time_us"])
        self.dense, self.per_sequence = Grid(dense), Grid(sequences)
        self.longest = max(dense)[0]
        self.beyond = (dense[(self.longest,)] - dense[(1536,)]) / (self.longest - 1536)
        attention: dict[str, dict[tuple[int, ...], float]] = defaultdict(dict)
        for row in table(f"vllm_layers_{gpu}_{MODEL}_tp1_attention"):
            chunk, kv, n, decode_kv = at = tuple(map(int, list(row.values())[:4]))
            if set(at) <= DOUBLING_GRID:
                kind = "mixed" if chunk and n else "prefill" if chunk else "decode"
                key = {"mixed": at, "prefill": (chunk, kv), "decode": (n, decode_kv)}[kind]
                attention[kind][key] = float(row["time_us"])
        self.attention = {kind: Grid(points) for kind, points in attention.items()}

    def __call__(self, prefills: list[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        tokens = sum(chunk for chunk, _ in prefills) + n_decodes
        attention_us = self.attention_us(prefills, n_decodes, decode_kv)
        entries_us = self.per_sequence(len(prefills) + n_decodes)
        return 1e-6 * (self.dense_us(tokens) + N_LAYERS * attention_us + entries_us)

    def dense_us(self, tokens: int) -> float:
        """Padded to the next CUDA graph; beyond the table along its last quarter, not its noise."""
        if tokens > self.longest:
            return self.dense(self.longest) + (tokens - self.longest) * self.beyond
        if tokens <= self.graphs[-1]:
            tokens = self.graphs[bisect_left(self.graphs, tokens)]
        return self.dense(tokens)

    def attention_us(self, prefills: list[tuple[int, int]], n: int, decode_kv: int) -> float:
        """Of one layer: unpadded; three tables, no interpolation towards chunk 0 or n 0."""
        if not prefills:
            return self.attention["decode"](n, decode_kv / n)
        if not n:
            return self.attention["prefill"](*merged(prefills))
        return self.attention["mixed"](*merged(prefills), n, decode_kv / n)


def merged(prefills: list[tuple[int, int]]) -> tuple[float, float]:
    """One chunk of as many tokens and (query, key) pairs; else, from kv 0, of as many pairs."""
    if len(prefills) == 1:
        return prefills[0]
    pairs = sum(chunk * (kv + chunk / 2) for chunk, kv in prefills)
    chunk = sum(chunk for chunk, _ in prefills)
    kv = pairs / chunk - chunk / 2
    return (chunk, kv) if kv >= 0 else (sqrt(2 * pairs), 0)


# ----------------------------------------------------------------------------------- the replay


def table(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / "latency" / f"{name}.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def requests(gpu: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / "vllm_sharegpt_runs" / f"{gpu}_{MODEL}_requests.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def shared_block_ids(log: list[dict[str, Any]]) -> list[list[tuple[int, int]]]:
    """Ids of the full prompt blocks; a shared prefix has those of the earlier request."""
    ids = [[(i, block) for block in range(one["input_toks"] // 16)] for i, one in enumerate(log)]
    with (DATA / "vllm_sharegpt_runs" / f"{MODEL}_shared_prefixes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            n = int(row["shared_blocks"])
            ids[int(row["request"])][:n] = ids[int(row["earlier_request"])][:n]
    return ids


def replay(gpu: str, step_time: StepTime, options: Options, *, shared: bool = True) -> Result:
    """The run's own arrivals and lengths, from the first arrival on."""
    log = requests(gpu)
    return run(
        [one["arrival_time"] - log[0]["arrival_time"] for one in log],
        [one["input_toks"] for one in log],
        [one["output_toks"] for one in log],
        step_time,
        options,
        block_ids=shared_block_ids(log) if shared else None,
    )


Columns = dict[str, np.ndarray]


def columns(arrival: Any, scheduled: Any, first: Any, last: Any, output: Any) -> Columns:
    return {
        "ttft": first - arrival,
        "tpot": (last - first) / (output - 1),
        "e2e": last - arrival,
        "queueing": scheduled - arrival,
    }


def measured(gpu: str) -> Columns:
    """Clocks: engine less arrival clock is the least of queued - arrival (1-2 ms of transport)."""
    log = {key: np.array([one[key] for one in requests(gpu)]) for key in requests(gpu)[0]}
    arrival = log["arrival_time"] + (log["queued_ts"] - log["arrival_time"]).min()
    stamps = (log[f"{name}_ts"] for name in ("scheduled", "first_token", "last_token"))
    return columns(arrival, *stamps, log["output_toks"])


def simulated(result: Result) -> Columns:
    names = ("arrival_s", "scheduled_s", "first_s", "finish_s", "output")
    return columns(*(np.array([getattr(one, name) for one in result.requests]) for name in names))


def errors(gpu: str, result: Result, *, judged: slice = slice(None)) -> dict[str, list[float]]:
    """For each figure: error % of mean, p50, p90, p99, and the mean |error| over the mean."""
    found = {}
    for name, real in measured(gpu).items():
        real, ours = real[judged], simulated(result)[name][judged]
        each = [float(np.mean(ours) / np.mean(real) - 1)]
        each += list(np.percentile(ours, [50, 90, 99]) / np.percentile(real, [50, 90, 99]) - 1)
        found[name] = [100 * value for value in (*each, np.mean(abs(ours - real)) / np.mean(real))]
    return found


def words(found: dict[str, list[float]]) -> str:
    """`ttft +0.4/+0.2/+0.4/-0.0 (0.6)`, and so on."""
    return " | ".join(
        f"{name} {'/'.join(f'{value:+.1f}' for value in values[:4])} ({values[4]:.1f})"
        for name, values in found.items()
    )
