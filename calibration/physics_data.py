"""The measurements that `derive_physics.py` fits, each as the steps that its time is the sum of."""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import derive_measured_sets as bench

from llmsched.hardware import gpu_named, model_named
from llmsched.latency.physics.work import Deployment

CHAT_PROMPT_TOKENS = 150  # LM-Arena prompts; ML.ENERGY's file has no prompt lengths
CHAT_SEEN = 0.75  # of the output that a running request has behind it, its length varying
CHUNK_TOKENS = 8192  # prompt tokens in one step of the closed loops
UNCACHED_TOKENS = 8  # of a stage's prompt: 44 to 55 texts in turn, cached but for the last block
QWEN_PROMPT, QWEN_OUTPUT = 900, 141  # RTX 3090: from its KV use and its throughput; see PHYSICS.md

Steps = tuple[float, Sequence[tuple[int, int]], int, float]  # weight, prefills, decodes, kv


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured time and the steps it is made of."""

    source: str
    measure: str  # e2e, tpot or ttft
    deployment: Deployment
    config: str  # deployment and series: points of one config deviate together
    seconds: float
    steps: tuple[Steps, ...]
    date: str = ""
    fitted: bool = True  # else only predicted (a second view of a fitted time)
    label: str = ""
    alike: bool = False  # all requests of the batch are one prompt: they choose the same experts

    @property
    def dense(self) -> bool:
        return not self.deployment.model.experts


def read_points(data: Path) -> list[Point]:
    """Every measured point that is usable; see PHYSICS.md for those that are not."""
    latency = data / "latency"
    return [
        *llm_inference_bench(data),
        *splitwise(latency / "splitwise_perf_model.csv.gz"),
        *ml_energy(latency / "mlenergy_lm_arena_chat_itl_vs_batch.csv.gz"),
        *layer_tables(latency),
        *h100_stages(data / "vllm_h100_runs" / "stages.csv"),
        *rtx_3090(latency / "vllm_concurrency_qwen_rtx3090.csv"),
        *inferencex(latency / "inferencex_deepseek_r1_closed_loop.csv"),
    ]


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, gzipped or not."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return list(csv.DictReader(text.splitlines()))


BENCH_GPUS = {
    "Nvidia A100 GPU": "a100-40gb",  # their full-cache cells queue as 40 GB cards do
    "Nvidia H100 GPU": "h100-sxm",
    "Nvidia GH200 GPU": "gh200-96gb",
}
BENCH_ENGINES = {
    "vLLM": "vllm-2024",
    "TensorRT-LLM": "trt-llm-2024",
    "Deepspeed-MII": "deepspeed-mii",
}


def llm_inference_bench(data: Path) -> Iterator[Point]:
    """Whole batches: b prompts of L tokens in one prefill, then L − 1 decode steps."""
    whole = bench.keep_whole(bench.read_series(data / bench.RESULTS))
    first = bench.read_first_token_s(data / bench.FIRST_TOKEN)
    for key, series in whole.items():
        deployment = Deployment(
            gpu=gpu_named(BENCH_GPUS[key.gpu]),
            model=model_named(key.model),
            tp=key.n_gpus,
            engine=BENCH_ENGINES[key.framework],
        )
        config = f"bench {key.name}"
        room = kv_room_tokens(deployment)
        for b, tokens, seconds in zip(*map(list, series[:3]), strict=True):
            size, length = int(b), int(tokens)
            if size * 2 * length > room:
                continue  # the batch does not fit: part of it waited
            yield Point(
                source="LLM-Inference-Bench",
                measure="e2e",
                deployment=deployment,
                config=config,
                seconds=float(seconds),
                steps=(
                    (1, [(length, 0)] * size, 0, 0),
                    (length - 1, (), size, size * 1.5 * length),
                ),
                label=f"b={size} L={length}",
                alike=deployment.engine != "vllm-2024",
            )
        if key in first:
            yield Point(
                source="LLM-Inference-Bench",
                measure="ttft",
                deployment=deployment,
                config=config,
                seconds=first[key],
                steps=((1, [(1024, 0)] * 16, 0, 0),),
                label="b=16 L=1024",
            )


def kv_room_tokens(deployment: Deployment) -> float:
    """Tokens that fit beside the weights in 90 % of the memory, 2 GB a GPU set aside.

    Data sheets round memory: a card of 40 GB holds 40 GiB.
    """
    memory = deployment.tp * (0.9 * deployment.gpu.memory_bytes * 2**30 / 1e9 - 2e9)
    model = deployment.model
    return (memory - 2 * model.parameters) / (2 * model.kv_numbers_per_token)


def splitwise(path: Path) -> Iterator[Point]:
    """Prefill and mean decode step of one-dimensional sweeps, the median of the repeats."""
    cells = defaultdict(list)
    for row in rows(path):
        cell = row["model"], row["hardware"], int(row["tensor_parallel"])
        shape = int(row["prompt_size"]), int(row["batch_size"]), int(row["token_size"])
        memory_artefact = cell[0] == "llama2-70b" and cell[2] == 2 and shape[1] == 64
        if row["hardware"] == "h100-80gb-pcap" or memory_artefact or shape[2] != 128:
            continue
        cells[cell + shape].append((float(row["prompt_time"]), float(row["token_time"])))
    for (model, gpu, tp, prompt, size, output), times in cells.items():
        deployment = Deployment(
            gpu=gpu_named("h100-sxm" if gpu == "h100-80gb" else gpu),
            model=model_named(model),
            tp=tp,
            engine="vllm-2023",
        )
        config = f"splitwise {gpu} {model} tp{tp}"
        prefill_ms, token_ms = (median(time[i] for time in times) for i in (0, 1))
        label = f"b={size} prompt={prompt}"
        for measure, ms, step in (
            ("ttft", prefill_ms, (1, [(prompt, 0)] * size, 0, 0)),
            ("tpot", token_ms, (1, (), size, size * (prompt + output / 2))),
        ):
            yield Point(
                source="Splitwise",
                measure=measure,
                deployment=deployment,
                config=config,
                seconds=ms / 1e3,
                steps=(step,),
                label=label,
            )


def ml_energy(path: Path) -> Iterator[Point]:
    """Mean inter-token latency at a mean batch size: decode steps, some with a prefill."""
    for row in rows(path):
        if "Nemotron" in row["model_id"]:
            continue  # Mamba layers: not this model's kind
        size, output = float(row["avg_batch_size"]), float(row["avg_output_len"])
        gpus, ep = int(row["num_gpus"]), int(row["expert_parallel"])
        deployment = Deployment(
            gpu=gpu_named("h100-sxm" if row["gpu_model"] == "H100" else "b200"),
            model=model_named(row["model_id"]),
            tp=gpus,
            ep=ep,
            precision="fp8" if row["weight_precision"] == "fp8" else "bf16",
            engine="vllm-2025",
        )
        kv = size * (CHAT_PROMPT_TOKENS + CHAT_SEEN * output)
        yield Point(
            source="ML.ENERGY",
            measure="tpot",
            deployment=deployment,
            config=f"mlenergy {deployment.name}",
            seconds=size / float(row["output_throughput_tokens_per_sec"]),
            steps=mixture(size, kv, CHAT_PROMPT_TOKENS, size / output),
            label=f"b={size:.0f}",
        )


def mixture(
    size: float, kv: float, prompt: int, prefills_per_step: float, *, before: int = 0
) -> tuple[Steps, ...]:
    """Steps of `size` decodes, of which a share carry a prompt, or all of them several."""
    n, each = max(1, round(size)), kv / size
    chunk = (prompt, before)
    if prefills_per_step <= 1:
        return (
            (1 - prefills_per_step, (), n, n * each),
            (prefills_per_step, [chunk], n, n * each),
        )
    low = math.floor(prefills_per_step)
    high = prefills_per_step - low
    return (
        (1 - high, [chunk] * low, n, n * each),
        (high, [chunk] * (low + 1), n, n * each),
    )


LAYERS = 32
DECODE_KV = (64, 256, 1024, 4096)
PREFILL_KV = (0, 512, 2048)


def layer_tables(folder: Path) -> Iterator[Point]:
    """GPU time of whole steps, composed of the measured layers of Llama-3.1-8B."""
    for gpu in ("RTX4090", "RTXPRO6000"):
        stem = f"vllm_layers_{gpu}_Llama-3.1-8B_tp1"
        once, layers = _dense_us(folder / f"{stem}_dense.csv.gz")
        heads: dict[int, float] = defaultdict(float)
        for row in rows(folder / f"{stem}_per_sequence.csv.gz"):
            heads[int(row["sequences"])] += float(row["time_us"])
        deployment = Deployment(
            gpu=gpu_named(gpu.lower()), model=model_named("llama-3.1-8b"), engine="kernels"
        )
        seen = set()
        for row in rows(folder / f"{stem}_attention.csv.gz"):
            chunk, before = int(row["prefill_chunk"]), int(row["kv_prefill"])
            n, each = int(row["n_decode"]), int(row["kv_decode"])
            shape = chunk, before if chunk else 0, n, each if n else 0
            sequences = n + (chunk > 0)
            if shape in seen or not _wanted(*shape) or sequences not in heads:
                continue
            tokens = chunk + n
            if tokens not in layers:
                continue
            seen.add(shape)
            layer_us = layers[tokens] + float(row["time_us"])
            yield Point(
                source="layer tables",
                measure="tpot" if n else "ttft",
                deployment=deployment,
                config=f"layers {gpu}",
                seconds=(LAYERS * layer_us + once[tokens] + heads[sequences]) / 1e6,
                steps=((1, [(chunk, before)] if chunk else [], n, n * each),),
                label=f"chunk={chunk}@{before} n={n} kv={each}",
            )


def _dense_us(path: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Time by tokens: of the layers that run once, and of one block without attention [µs]."""
    once: dict[int, float] = defaultdict(float)
    block: dict[int, float] = defaultdict(float)
    for row in rows(path):
        tokens, layer, us = int(row["tokens"]), row["layer"], float(row["time_us"])
        if layer in ("embedding", "final_layernorm"):
            once[tokens] += us
        else:
            block[tokens] += us * (2 if layer == "layernorm" else 1)
    return once, block


def _wanted(chunk: int, before: int, n: int, each: int) -> bool:
    """A thinned grid: decodes, prefills, and some of both."""
    power = n & (n - 1) == 0 and chunk & (chunk - 1) == 0
    return (
        power
        and (chunk == 0 or (chunk >= 64 and before in PREFILL_KV))
        and (n == 0 or each in DECODE_KV)
        and not (chunk and n and (before or n not in (8, 32, 64) or each == 64))
    )


def h100_stages(path: Path) -> Iterator[Point]:
    """Open loops below saturation: the time per output token at the measured load."""
    for row in rows(path):
        if "reasoning" in row["run"]:
            continue  # overloaded
        output, prompt = int(row["output_len_asked"]), float(row["prompt_mean"])
        decode_s = float(row["e2e_mean_s"]) - float(row["ttft_mean_s"])
        seconds = decode_s / (output - 1)
        size = float(row["requested_rate_rps"]) * decode_s
        deployment = stage_deployment(row)
        yield Point(
            source="H100 stages",
            measure="tpot",
            deployment=deployment,
            config=f"stages {deployment.name}",
            seconds=seconds,
            steps=mixture(
                size,
                size * (prompt + output / 2),
                UNCACHED_TOKENS,
                float(row["requested_rate_rps"]) * seconds,
                before=round(prompt) - UNCACHED_TOKENS,
            ),
            label=f"{row['run']} {row['stage']}",
        )


def stage_deployment(row: dict[str, str]) -> Deployment:
    """The deployment of one row of the stages."""
    return Deployment(
        gpu=gpu_named("h100-sxm"),
        model=model_named(row["model"]),
        tp=int(row["tp"]),
        engine="vllm",
    )


def rtx_3090(path: Path) -> Iterator[Point]:
    """A Qwen of 7 B parameters, as its KV use says, at fixed concurrency."""
    deployment = Deployment(
        gpu=gpu_named("rtx-3090"), model=model_named("qwen2.5-7b"), engine="vllm"
    )
    for row in rows(path):
        size = int(row["concurrency"])
        yield Point(
            source="RTX 3090",
            measure="tpot",
            deployment=deployment,
            config="rtx 3090",
            seconds=float(row["tpot_mean_ms"]) / 1e3,
            steps=mixture(
                size, size * (QWEN_PROMPT + QWEN_OUTPUT / 2), QWEN_PROMPT, (size - 1) / QWEN_OUTPUT
            ),
            label=f"c={size}",
        )


PRECISIONS = {"fp4": "fp4", "fp8": "fp8"}
SERVERS = {"sglang": "sglang", "trt": "trt-llm"}
CLOSED_GPUS = {"b200": "b200", "h200": "h200-sxm", "mi300x": "mi300x"}


def inferencex(path: Path) -> Iterator[Point]:
    """Closed loops of DeepSeek-R1; lengths are 0.9 of the nominal ones on average."""
    for row in rows(path):
        deployment = Deployment(
            gpu=gpu_named(CLOSED_GPUS[row["hardware"]]),
            model=model_named(row["model"]),
            tp=int(row["tp"]),
            ep=int(row["ep"]),
            precision=row["precision"],
            dp_attention=row["dp_attention"] == "True",
            engine=SERVERS[row["framework"]],
        )
        prompt, output = (round(0.9 * int(row[f"{side}_tokens"])) for side in ("prompt", "output"))
        size = int(row["concurrency"])
        steps = mixture(size, size * (prompt + output / 2), prompt, (size - 1) / output)
        for measure, seconds, made_of in (
            ("tpot", float(row["tpot_p50_s"]), steps),
            (
                "e2e",
                float(row["e2e_p50_s"]),
                (
                    (1, [(prompt, 0)], size - 1, (size - 1) * (prompt + output / 2)),
                    *(((output - 1) * weight, *step) for weight, *step in steps),
                ),
            ),
        ):
            yield Point(
                source="InferenceX",
                measure=measure,
                deployment=deployment,
                config=f"inferencex {deployment.name}",
                seconds=seconds,
                steps=made_of,
                date=f"{deployment.gpu.name} {deployment.engine} {row['date']}",
                fitted=measure == "tpot",
                label=f"c={size} {row['prompt_tokens']}+{row['output_tokens']} {row['date']}",
            )
