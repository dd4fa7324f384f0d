"""GuideLLM's report, `guidellm benchmark --output-path FILE.json`: one run per benchmark.

Fields, in vllm-project/guidellm, `src/guidellm/benchmark/schemas/generative/metrics.py` (0.4 on)
and neuralmagic/guidellm, `src/guidellm/benchmark/benchmark.py` (before): each entry of `benchmarks`
has its strategy in `config.strategy` (before 0.4 in `args.strategy`): `type_` synchronous,
concurrent (`streams`), throughput, constant or poisson (`rate`); the counts in
`metrics.request_totals` (before 0.4 `request_totals`); and `mean`, `median` and `percentiles` under
`metrics.NAME.successful` of `prompt_token_count`, `output_token_count`, `time_to_first_token_ms`,
`inter_token_latency_ms`, `request_latency` [s] and `requests_per_second`.

Single requests, in `src/guidellm/schemas/request_stats.py`: `requests.successful` with
`request_start_time` (before 0.4 `start_time`) [s], `request_latency` [s], `time_to_first_token_ms`,
`prompt_tokens` and `output_tokens`. They are read where all that completed are there.

Notes
-----
`inter_token_latency_ms` is the time per output token without the first, weighted by tokens;
GuideLLM's own `time_per_output_token_ms` counts the first token in and is not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from llmsched.calibration.benchmarks.files import Format, ResultFile
from llmsched.calibration.benchmarks.records import Record
from llmsched.calibration.benchmarks.runs import (
    LatencySummary,
    Load,
    Means,
    RequestLog,
    Run,
)

MS = 1e-3


def _read(file: ResultFile) -> Iterator[Run]:
    for report in file.records():
        for benchmark in report.records("benchmarks"):
            yield _run(benchmark, file.concurrency)


def _run(benchmark: Record, given: int | None) -> Run:
    # 0.4 moved the strategy from `args` to `config`, the counts into `metrics`
    strategy = "config.strategy" if benchmark.has("config.strategy") else "args.strategy"
    totals = "metrics.request_totals"
    totals = totals if benchmark.has(totals) else "request_totals"
    completed = benchmark.count(f"{totals}.successful")
    failed = benchmark.count(f"{totals}.errored")
    if completed == 0:
        benchmark.fail(f"requests must have completed, got 0 completed and {failed} failed")
    load = _load(benchmark, strategy, given)
    single = benchmark.get("requests.successful")
    if isinstance(single, list) and len(single) == completed:
        return _log(benchmark, load, failed)
    return Means(
        load=load,
        completed=completed,
        failed=failed,
        throughput_per_s=benchmark.optional("metrics.requests_per_second.successful.mean"),
        prompt_tokens=benchmark.number("metrics.prompt_token_count.successful.mean"),
        output_tokens=benchmark.number("metrics.output_token_count.successful.mean"),
        ttft=_times(benchmark, "time_to_first_token_ms", MS),
        tpot=_times(benchmark, "inter_token_latency_ms", MS),
        e2e=_times(benchmark, "request_latency", 1.0),  # the only one in seconds
        source=benchmark.place,
    ).as_run()


def _load(benchmark: Record, strategy: str, given: int | None) -> Load:
    kind = benchmark.text(f"{strategy}.type_")
    words = f"strategy {kind}"
    if kind == "synchronous":
        return Load(words=words, concurrency=1)
    if kind == "concurrent":
        return Load(words=words, concurrency=benchmark.count(f"{strategy}.streams"))
    if kind in ("constant", "poisson"):
        rate_per_s = benchmark.number(f"{strategy}.rate")
        return Load(words=words, concurrency=given, rate_per_s=rate_per_s, arrivals=kind)
    return Load(
        words=words, concurrency=given, rate_per_s=math.inf if kind == "throughput" else None
    )


def _times(benchmark: Record, metric: str, unit_s: float) -> LatencySummary:
    statistics = ("mean", "median", "percentiles.p90", "percentiles.p99")
    return benchmark.summary(f"metrics.{metric}.successful.{{}}", statistics, unit_s=unit_s)


def _log(benchmark: Record, load: Load, failed: int) -> RequestLog:
    columns = []
    for request in benchmark.records("requests.successful"):
        start = "request_start_time" if request.has("request_start_time") else "start_time"
        columns.append(
            (
                request.number(start),
                request.count("prompt_tokens"),
                request.count("output_tokens"),
                request.number("time_to_first_token_ms", unit_s=MS),
                request.number("request_latency"),
            )
        )
    start_s, prompts, outputs, ttft_s, e2e_s = np.array(sorted(columns)).T
    arrival_s = start_s - start_s[0]
    return RequestLog(
        arrival_s=arrival_s,
        prompt_tokens=prompts.astype(np.int64),
        output_tokens=outputs.astype(np.int64),
        first_token_s=arrival_s + ttft_s,
        finish_s=arrival_s + e2e_s,
        load=load,
        failed=failed,
        source=benchmark.place,
    )


GUIDELLM = Format(
    name="guidellm",
    title="guidellm benchmark --output-path FILE.json",
    holds=lambda file: file.has_fields("benchmarks"),
    read=_read,
    wanted="benchmarks",
)
