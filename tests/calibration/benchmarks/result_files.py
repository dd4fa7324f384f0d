"""Result files in the shapes that the tools document, made here; none is anybody's result.

All are of one server whose times are known: `TRUTH`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from llmsched.latency.step import StepModel

TRUTH = StepModel(
    c0_s=0.010,
    cp_s=1e-4,
    n0_tokens=0.0,
    cb_s=2e-4,
    ckv_s=1e-7,
    name="truth",
    source="made up",
)


def together(concurrency, prompt=500, output=101):
    """What a client measures if all requests in flight are prefilled and decoded together."""
    decode_s = TRUTH.ckv_s * concurrency * (prompt + output / 2)
    return {
        "concurrency": concurrency,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "ttft_s": TRUTH.prefill_s(concurrency, prompt),
        "tpot_s": TRUTH.c0_s + TRUTH.cb_s * concurrency + decode_s,
    }


def e2e_s(point):
    return point["ttft_s"] + (point["output_tokens"] - 1) * point["tpot_s"]


def save(path: Path, *documents) -> Path:
    path.write_text("\n".join(json.dumps(one) for one in documents), encoding="utf-8")
    return path


def table(path: Path, rows) -> Path:
    """Dicts as a CSV table."""
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def packed(path: Path) -> Path:
    """The same file through gzip."""
    other = path.with_name(path.name + ".gz")
    other.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return other


def vllm_file(point, **changes):
    """`vllm bench serve --save-result`, all clients busy all the time."""
    n = 40 * point["concurrency"]
    return {
        "backend": "vllm",
        "model_id": "m",
        "num_prompts": n,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": point["concurrency"],
        "duration": n / point["concurrency"] * e2e_s(point),
        "completed": n,
        "failed": 0,
        "total_input_tokens": n * point["prompt_tokens"],
        "total_output_tokens": n * point["output_tokens"],
        "mean_ttft_ms": 1e3 * point["ttft_s"],
        "median_ttft_ms": 1e3 * point["ttft_s"],
        "p99_ttft_ms": 2e3 * point["ttft_s"],
        "mean_tpot_ms": 1e3 * point["tpot_s"],
        **changes,
    }


def sglang_file(point, **changes):
    """A line of `bench_serving --output-file`."""
    n = 40 * point["concurrency"]
    duration_s = n / point["concurrency"] * e2e_s(point)
    return {
        "tag": None,
        "backend": "sglang",
        "dataset_name": "random",
        "request_rate": float("inf"),
        "max_concurrency": point["concurrency"],
        "duration": duration_s,
        "completed": n,
        "total_input_tokens": n * point["prompt_tokens"],
        "total_output_tokens": n * point["output_tokens"],
        "total_output_tokens_retokenized": n * point["output_tokens"] - 3,
        "mean_e2e_latency_ms": 1e3 * e2e_s(point),
        "median_e2e_latency_ms": 1e3 * e2e_s(point),
        "mean_ttft_ms": 1e3 * point["ttft_s"],
        "mean_tpot_ms": 1e3 * point["tpot_s"],
        "mean_itl_ms": 1e3 * point["tpot_s"],
        "concurrency": n * e2e_s(point) / duration_s,
        "accept_length": None,
        "server_info": {"model_path": "m", "tp_size": 2, "max_total_num_tokens": 400_000},
        **changes,
    }


def guidellm_benchmark(point, *, strategy, errored=0):
    """One entry of guidellm's `benchmarks`, as of version 0.4."""

    def mean(value):
        percentiles = {"p90": 1.1 * value, "p99": 1.2 * value}
        statistics = {"mean": value, "median": value, "percentiles": percentiles}
        return {"successful": {**statistics, "std_dev": 0.0, "count": 40}}

    return {
        "type_": "generative_benchmark",
        "config": {"strategy": strategy},
        "metrics": {
            "request_totals": {"successful": 400, "incomplete": 1, "errored": errored},
            "request_latency": mean(e2e_s(point)),
            "prompt_token_count": mean(point["prompt_tokens"]),
            "output_token_count": mean(point["output_tokens"]),
            "time_to_first_token_ms": mean(1e3 * point["ttft_s"]),
            "inter_token_latency_ms": mean(1e3 * point["tpot_s"]),
            "time_per_output_token_ms": mean(1e3 * e2e_s(point) / point["output_tokens"]),
        },
    }


def guidellm_file(points):
    benchmarks = []
    for point in points:
        n = point["concurrency"]
        strategy = {"type_": "concurrent", "streams": n} if n > 1 else {"type_": "synchronous"}
        benchmarks.append(guidellm_benchmark(point, strategy=strategy))
    return {"metadata": {"version": 1}, "benchmarks": benchmarks}


def aiperf_file(point, *, config=None, **changes):
    """aiperf's summary, `profile_export_aiperf.json`."""

    def metric(value, unit):
        return {"unit": unit, "avg": value, "p50": value, "std": 0.0}

    return {
        "aiperf_version": "0.5.0",
        "input_config": config or {"loadgen": {"concurrency": point["concurrency"]}},
        "request_count": metric(400, "requests"),
        "error_request_count": None,
        "input_sequence_length": metric(point["prompt_tokens"], "tokens"),
        "output_sequence_length": metric(point["output_tokens"], "tokens"),
        "time_to_first_token": metric(1e3 * point["ttft_s"], "ms"),
        "inter_token_latency": metric(1e3 * point["tpot_s"], "ms"),
        "request_latency": metric(1e3 * e2e_s(point), "ms"),
        **changes,
    }


def aiperf_record(start_s, ttft_ms, latency_ms, *, prompt=100, output=11, phase="profiling"):
    """A line of aiperf's `profile_export.jsonl`."""
    gap_ms = (latency_ms - ttft_ms) / (output - 1)
    return {
        "metadata": {
            "request_start_ns": 1_759_813_207_532_900_363 + round(1e9 * start_s),
            "benchmark_phase": phase,
        },
        "metrics": {
            "input_sequence_length": {"value": prompt, "unit": "tokens"},
            "output_sequence_length": {"value": output, "unit": "tokens"},
            "time_to_first_token": {"value": ttft_ms, "unit": "ms"},
            "request_latency": {"value": latency_ms, "unit": "ms"},
            "inter_chunk_latency": {"value": [gap_ms] * (output - 1), "unit": "ms"},
        },
        "error": None,
    }


def inference_perf_stage(*, load=None, **successes):
    """inference-perf's `stage_0_lifecycle_metrics.json`: 247 tokens asked for, events counted."""

    def times(mean):
        return {"mean": mean, "min": mean, "median": mean, "p90": 1.1 * mean, "p99": 1.2 * mean}

    return {
        "load_summary": {
            "count": 3000,
            "send_duration": 600.0,
            "requested_rate": 5.0,
            "achieved_rate": 5.0,
            **(load or {}),
        },
        "successes": {
            "count": 3000,
            "latency": {
                "request_latency": times(1.871),
                "time_to_first_token": times(0.025),
                "time_per_output_token": times(0.0036),  # about half: two events a token
            },
            "throughput": {"requests_per_sec": 4.99},
            "prompt_len": {"mean": 590.0},
            "output_len": {"mean": 193.7, "min": 3.0},
            **successes,
        },
        "failures": {"count": 2, "request_latency": None},
    }


def inference_perf_request(start_s, token_times_s, *, prompt=100):
    """An entry of inference-perf's `per_request_lifecycle_metrics.json`."""
    return {
        "start_time": start_s,
        "end_time": token_times_s[-1] + 0.001,
        "request": "{}",
        "info": {
            "input_tokens": prompt,
            "output_tokens": len(token_times_s),
            "output_token_times": token_times_s,
        },
        "error": None,
    }


def inferencex_file(point, **changes):
    """InferenceX's `agg_*.json`: nominal lengths, of which 0.9 are drawn on average."""
    prompt, output = point["prompt_tokens"] / 0.9, point["output_tokens"] / 0.9
    tokens_per_s = point["concurrency"] / e2e_s(point) * 0.9 * (prompt + output)
    return {
        "hw": "h200",
        "conc": point["concurrency"],
        "model": "m",
        "framework": "vllm",
        "precision": "fp8",
        "spec_decoding": "none",
        "disagg": False,
        "isl": prompt,
        "osl": output,
        "is_multinode": False,
        "tp": 8,
        "ep": 1,
        "dp_attention": "false",
        "tput_per_gpu": tokens_per_s / 8,
        "mean_ttft": point["ttft_s"],
        "median_ttft": point["ttft_s"],
        "mean_tpot": point["tpot_s"],
        "mean_e2el": e2e_s(point),
        "p99_e2el": 1.2 * e2e_s(point),
        **changes,
    }


def inferencex_site_row(point, **changes):
    """A row of the InferenceX site: the same, the times in `metrics`."""
    one = inferencex_file(point)
    metrics = {name: one[name] for name in one if name.startswith(("mean", "median", "p99"))}
    return {
        "hardware": "h200",
        "framework": "vllm",
        "model": "m",
        "precision": "fp8",
        "spec_method": "none",
        "disagg": False,
        "is_multinode": False,
        "decode_tp": 8,
        "decode_ep": 1,
        "decode_dp_attention": False,
        "isl": one["isl"],
        "osl": one["osl"],
        "conc": one["conc"],
        "date": "2026-06-11",
        "metrics": {**metrics, "tput_per_gpu": one["tput_per_gpu"]},
        **changes,
    }


def llmservingsim_run(folder: Path) -> Path:
    """A log of two requests, with its meta and counters: engine clock = arrival clock - 980 s."""
    rows = [
        {
            "request_id": f"bench-{i}",
            "input_toks": prompt,
            "output_toks": output,
            "arrival_time": 1000.0 + arrival,
            "queued_ts": 20.0 + queued,
            "scheduled_ts": 20.0 + queued + 0.01,
            "first_token_ts": 20.0 + first,
            "last_token_ts": 20.0 + last,
        }
        # the first waits 2 ms to be taken in, the second half a second
        for i, (prompt, output, arrival, queued, first, last) in enumerate(
            [(300, 11, 0.0, 0.002, 0.252, 1.252), (200, 1, 0.25, 0.75, 1.002, 1.002)]
        )
    ]
    save(
        folder / "A_meta.json",
        {
            "model": "m",
            "vllm_version": "0.19.0",
            "engine_kwargs": {
                "tensor_parallel_size": 1,
                "max_num_seqs": 256,
                "max_num_batched_tokens": 2048,
                "dtype": "bfloat16",
            },
            "started_at": "1970-01-01T00:16:39.9Z",
            "kv_cache": {"num_gpu_blocks": 101, "block_size": 16, "enable_prefix_caching": True},
            "hardware": {"device_name": "NVIDIA GeForce RTX 4090"},
        },
    )
    table(
        folder / "A_timeseries.csv",
        [
            {"t": t, "running": running, "waiting": waiting, "kv_cache_pct": 50.0}
            for t, running, waiting in ((1.0, 1, 1), (2.0, 0, 0))
        ],
    )
    return save(folder / "A_requests.jsonl", *rows)


REQUESTS = [
    {"arrival_s": 5.0, "prompt_tokens": 10, "output_tokens": 3, "ttft_s": 0.1, "e2e_s": 0.3},
    {"arrival_s": 5.5, "prompt_tokens": 20, "output_tokens": 1, "ttft_s": 0.2, "e2e_s": 0.2},
]
STAGE = {
    "run": "a",
    "stage": 1,
    "model": "m",
    "tp": 2,
    "max_model_len": 4096,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 128,
    "load_type": "constant",
    "requested_rate_rps": 5,
    "duration_s": 600,
    "requests": 3000,
    "failures": 1,
    "system_prompts": 11,
    "users_per_system_prompt": 4,
    "multi_turn": True,
    "system_prompt_len": 100,
    "question_len": 466,
    "output_len_asked": 247,
    "prompt_mean": 591.6,
    "output_mean": 193.7,
    "achieved_rps": 4.99,
    "ttft_mean_s": 0.025,
    "ttft_p99_s": 0.046,
    "tpot_mean_s": 0.0036,
    "e2e_mean_s": 1.871,
    "e2e_p99_s": 2.189,
}


def closed_loop_row(point):
    """A row of the table of closed loops."""
    return {
        "concurrency": point["concurrency"],
        "prompt_tokens": point["prompt_tokens"],
        "output_tokens": point["output_tokens"],
        "ttft_mean_ms": 1e3 * point["ttft_s"],
        "tpot_mean_s": point["tpot_s"],
    }


def inferencex_row(point):
    """A row of our table of InferenceX's results; means are often missing."""
    one = inferencex_file(point)
    return {
        "hardware": "h200",
        "framework": "sglang",
        "model": "m",
        "precision": "fp8",
        "tp": 8,
        "ep": 1,
        "dp_attention": False,
        "prompt_tokens": one["isl"],
        "output_tokens": one["osl"],
        "concurrency": one["conc"],
        "date": "2025-11-10",
        "ttft_mean_s": "",
        "ttft_p50_s": point["ttft_s"],
        "tpot_mean_s": "",
        "tpot_p50_s": point["tpot_s"],
        "e2e_mean_s": "",
        "e2e_p50_s": e2e_s(point),
        "tokens_per_s_per_gpu": one["tput_per_gpu"],
    }


# format -> a small file of it in a folder
EXAMPLES = {
    "vllm-bench": lambda folder: save(folder / "v.json", vllm_file(together(4))),
    "sglang": lambda folder: save(folder / "s.jsonl", *map(sglang_file, map(together, (1, 4)))),
    "guidellm": lambda folder: save(folder / "g.json", guidellm_file([together(1), together(4)])),
    "aiperf": lambda folder: save(folder / "a.json", aiperf_file(together(4))),
    "aiperf, records": lambda folder: save(
        folder / "profile_export.jsonl", aiperf_record(0, 50, 150), aiperf_record(1, 60, 260)
    ),
    "inference-perf": lambda folder: save(folder / "i.json", inference_perf_stage()),
    "inference-perf, requests": lambda folder: save(
        folder / "r.json",
        [inference_perf_request(1.0, [1.1, 1.2]), inference_perf_request(0.5, [0.7, 0.8, 0.9])],
    ),
    "inferencex": lambda folder: save(folder / "agg_x.json", inferencex_file(together(4))),
    "inferencex, site": lambda folder: save(
        folder / "x.json", [inferencex_site_row(together(n)) for n in (4, 8)]
    ),
    "inferencex, table": lambda folder: table(
        folder / "x.csv", [inferencex_row(together(n)) for n in (4, 8)]
    ),
    "llmservingsim": llmservingsim_run,
    "csv": lambda folder: table(folder / "requests.csv", REQUESTS),
    "stages": lambda folder: table(folder / "stages.csv", [STAGE]),
    "closed-loop": lambda folder: table(
        folder / "c.csv", [closed_loop_row(together(n)) for n in (1, 4, 16, 32)]
    ),
}
