"""inference-perf's reports: `stage_N_lifecycle_metrics.json`, or the single requests.

Stage fields, in kubernetes-sigs/inference-perf, `inference_perf/reportgen/base.py`:
`load_summary.requested_rate`, `.send_duration`, `.count` and, for closed loops, `.concurrency`;
`successes.count`; `mean`, `median`, `p90`, `p99` of `successes.latency.request_latency` and
`.time_to_first_token` [s]; `successes.throughput.requests_per_sec`; the mean of
`successes.prompt_tokens` (before 2026 `prompt_len`) and of `successes.output_tokens` (what the
server counted; before 2026 missing) or `output_len`; `failures.count`.

Request fields (`per_request_lifecycle_metrics.json`): `start_time`, `end_time` [s], `error`, and
`info` with `input_tokens`, `output_tokens`, `output_token_times` [s] (since 2026 in
`request_metrics.text` and `response_metrics`).

Notes
-----
`time_per_output_token` counts stream events, and its count is that of the text tokenised again,
chunk by chunk: about two per token in some versions. It is not used. The time per output token is
(end to end - TTFT)/(output - 1). `output_len` is the text tokenised again, too, which can be far
from what was generated: where `ignore_eos` was on, say what was asked for (`--output-tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def _read(file: ResultFile) -> Iterator[Run]:
    if _has_requests(file):
        yield _log(file)
    else:
        for stage in file.records():
            yield _stage(stage, file)


def _stage(stage: Record, file: ResultFile) -> Run:
    completed, failed = stage.count("successes.count"), stage.optional_count("failures.count") or 0
    if completed == 0:
        stage.fail(f"requests must have completed, got 0 completed and {failed} failed")
    prompts = "successes.prompt_tokens.mean"
    prompts = prompts if stage.has(prompts) else "successes.prompt_len.mean"
    output_tokens, notes = _output_tokens(stage, file.output_tokens)
    ttft = stage.summary("successes.latency.time_to_first_token.{}")
    e2e = stage.summary("successes.latency.request_latency.{}")
    decode_s = (e2e.mean_s or 0) - (ttft.mean_s or 0)
    tpot = LatencySummary(mean_s=decode_s / (output_tokens - 1) if output_tokens > 1 else None)
    return Means(
        load=_load(stage, file.concurrency),
        completed=completed,
        failed=failed,
        throughput_per_s=stage.optional("successes.throughput.requests_per_sec"),
        duration_s=stage.optional("load_summary.send_duration"),
        prompt_tokens=stage.number(prompts),
        output_tokens=output_tokens,
        ttft=ttft,
        tpot=tpot,
        e2e=e2e,
        source=stage.place,
        notes=notes,
    ).as_run()


def _load(stage: Record, given: int | None) -> Load:
    rate_per_s = stage.optional("load_summary.requested_rate")
    if stage.has("load_summary.concurrency"):
        concurrency = stage.count("load_summary.concurrency")
        return Load(words=f"concurrency {concurrency}", concurrency=concurrency)
    if rate_per_s is None and given is None:
        stage.fail(
            "a stage must say its requested_rate or concurrency, got neither; name the files "
            "stage_N_lifecycle_metrics.json, not the summary of all stages"
        )
    words = "no requested_rate" if rate_per_s is None else f"requested_rate {rate_per_s:g}"
    return Load(words=words, concurrency=given, rate_per_s=rate_per_s)


def _output_tokens(stage: Record, asked: float | None) -> tuple[float, tuple[str, ...]]:
    """Mean tokens generated: as asked, as the server counted, or of the text tokenised again."""
    if asked is not None:
        return asked, ()
    by_client = stage.optional("successes.client_fallback_requests.output")
    if stage.has("successes.output_tokens.mean") and not by_client:
        return stage.number("successes.output_tokens.mean"), ()
    tokens = stage.number("successes.output_len.mean")
    if stage.optional("successes.output_len.min") == 0:
        stage.fail(
            f"output_len must count the tokens generated, got {tokens:.1f} on average and 0 for "
            "some, of the text tokenised again; give --output-tokens N (what was asked for, with "
            "ignore_eos)"
        )
    return tokens, (
        f"outputs are {tokens:.1f} tokens by output_len, the text tokenised again; with ignore_eos "
        "give --output-tokens N",
    )


def _has_requests(file: ResultFile) -> bool:
    return file.has_fields("start_time", "end_time", "info")


def _log(file: ResultFile) -> RequestLog:
    requests = list(file.records())
    done = [request for request in requests if not request.has("error")]
    if not done:
        message = f"requests must have completed, got 0 completed and {len(requests)} failed"
        raise file.error(message)
    done.sort(key=lambda request: request.number("start_time"))
    start_s, finish_s = (
        np.array([request.number(name) for request in done]) for name in ("start_time", "end_time")
    )
    first_s = np.array([_first_token(request) for request in done])
    outputs = [_either(request, "info.output_tokens", *_SERVER) for request in done]
    if file.output_tokens is not None:
        outputs = [file.output_tokens] * len(done)
    prompts = [
        _either(request, "info.input_tokens", "info.request_metrics.text.input_tokens")
        for request in done
    ]
    return RequestLog(
        arrival_s=start_s - start_s[0],
        prompt_tokens=done[0].whole("input_tokens", np.array(prompts)),
        output_tokens=done[0].whole("output_tokens", np.array(outputs)),
        first_token_s=first_s - start_s[0],
        finish_s=finish_s - start_s[0],
        load=Load(words="an open loop", concurrency=file.concurrency),
        failed=len(requests) - len(done),
        source=str(file.path),
        notes=()
        if file.output_tokens is not None
        else (
            "output lengths may be of the text tokenised again; with ignore_eos give "
            "--output-tokens N",
        ),
    )


_SERVER = (
    "info.response_metrics.server_usage.completion_tokens",
    "info.response_metrics.output_tokens",
)


def _either(request: Record, *names: str) -> float:
    return request.number(next((name for name in names if request.has(name)), names[0]))


def _first_token(request: Record) -> float:
    names = ("info.output_token_times", "info.response_metrics.output_token_times")
    name = next((name for name in names if request.has(name)), names[0])
    first: Any = request.numbers(name)[0]
    return float(first)


INFERENCE_PERF = Format(
    name="inference-perf",
    title="stage_N_lifecycle_metrics.json, or per_request_lifecycle_metrics.json",
    holds=lambda file: _has_requests(file) or file.has_fields("load_summary", "successes"),
    read=_read,
    wanted="load_summary and successes",
    counts_text=True,
)
