"""LLMServingSim's logs of real vLLM runs: `requests.jsonl`, with its meta and counters beside it.

Fields, in casys-kaist/LLMServingSim, `bench/core/recorder.py`: each line of `requests.jsonl` has
`input_toks`, `output_toks`, `arrival_time` (seconds since 1970) and, on the engine's clock,
`queued_ts`, `scheduled_ts`, `first_token_ts`, `last_token_ts` [s]. In the same folder, `meta.json`
has `model`, `vllm_version`, `started_at`, `engine_kwargs`, `kv_cache` and `hardware`, and
`timeseries.csv` the counters `t` [s], `running`, `waiting`, `kv_cache_pct`
(`bench/core/stat_logger.py`). Both may be missing; a prefix of the file's name, and `.gz`, may
stand on all three.

Notes
-----
The two clocks are put on one base by the shortest way from arrival to engine: engine - arrival
clock = min(queued - arrival). A millisecond or two of transport stays in it. TTFT counts from the
arrival; that of LLMServingSim's own older reports counted from `queued_ts`, which is later.
`scheduled_ts` is that of the first admission, whatever preemption follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from llmsched.calibration.benchmarks.files import Format, ResultFile, read_beside
from llmsched.calibration.benchmarks.formats.tables import series_beside
from llmsched.calibration.benchmarks.records import Record, record
from llmsched.calibration.benchmarks.runs import Load, RequestLog, Run, Server

_STAMPS = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")


def _read(file: ResultFile) -> Iterator[Run]:
    rows = sorted(file.records(), key=lambda row: row.number("arrival_time"))
    arrivals_s = np.array([row.number("arrival_time") for row in rows])
    first_s = float(arrivals_s[0])
    arrival_s = arrivals_s - first_s
    stamps_s = {name: np.array([row.number(name) for row in rows]) for name in _STAMPS}
    clock_s = float((stamps_s["queued_ts"] - arrival_s).min())
    queued_s, scheduled_s, first_token_s, finish_s = (stamps_s[name] - clock_s for name in _STAMPS)
    meta = read_beside(file.path, "meta.json")
    about = record(meta.values[0], str(meta.path)) if meta is not None and meta.values else None
    start_s = _start_s(about)
    yield RequestLog(
        arrival_s=arrival_s,
        prompt_tokens=np.array([row.count("input_toks") for row in rows], np.int64),
        output_tokens=np.array([row.count("output_toks") for row in rows], np.int64),
        queued_s=np.maximum(queued_s, arrival_s),  # equal but for the last digit
        scheduled_s=scheduled_s,
        first_token_s=first_token_s,
        finish_s=finish_s,
        load=Load(words="an open loop", concurrency=file.concurrency),
        series=series_beside(file.path, zero_s=0.0 if start_s is None else first_s - start_s),
        server=Server() if about is None else _server(about),
        source=str(file.path),
    )


def _server(about: Record) -> Server:
    version = about.text("vllm_version")
    return Server(
        model=about.text("model"),
        device=about.text("hardware.device_name"),
        engine=None if version is None else f"vllm {version}",
        precision=about.text("engine_kwargs.dtype"),
        tp=about.optional_count("engine_kwargs.tensor_parallel_size"),
        max_running=about.optional_count("engine_kwargs.max_num_seqs"),
        step_tokens=about.optional_count("engine_kwargs.max_num_batched_tokens"),
        kv_tokens=_usable_tokens(about),
        max_model_tokens=about.optional_count("engine_kwargs.max_model_len"),
        prefix_caching=about.flag("kv_cache.enable_prefix_caching"),
    )


def _usable_tokens(about: Record) -> int | None:
    """What the KV memory holds: one block of vLLM's pool is a dummy."""
    blocks = about.optional_count("kv_cache.num_gpu_blocks")
    block_tokens = about.optional_count("kv_cache.block_size")
    if blocks is None or block_tokens is None:
        return None
    return (blocks - 1) * block_tokens


def _start_s(about: Record | None) -> float | None:
    """When the run started, which is 0 on the clock of its counters [s since 1970]."""
    started = None if about is None else about.text("started_at")
    if about is None or started is None:
        return None
    try:
        start = datetime.fromisoformat(started)
    except ValueError:
        about.fail(f"field started_at must be a date, got {started!r}")
    return start.replace(tzinfo=start.tzinfo or UTC).timestamp()


LLMSERVINGSIM = Format(
    name="llmservingsim",
    title="LLMServingSim bench/results/RUN/requests.jsonl",
    holds=lambda file: file.has_fields("input_toks", "output_toks", "arrival_time", "queued_ts"),
    read=_read,
    wanted="input_toks, output_toks, arrival_time and queued_ts",
)
