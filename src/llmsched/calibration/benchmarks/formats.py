"""The JSON that serving benchmarks save, one reader per tool: which field says what.

- vLLM, `vllm bench serve --save-result`: vllm-project/vllm, `vllm/benchmarks/serve.py`;
- guidellm: vllm-project/guidellm, `src/guidellm/benchmark/schemas/generative/metrics.py` and
  `schemas/base.py` (0.4 on), neuralmagic/guidellm, `src/guidellm/benchmark/benchmark.py` (before);
- aiperf: ai-dynamo/aiperf, `src/aiperf/common/models/export_models.py`;
- genai-perf: triton-inference-server/perf_analyzer,
  `genai-perf/genai_perf/export_data/json_exporter.py`, the shape that aiperf keeps.

A field that is missing or no number is an error that names the file and the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llmsched.latency.base import CalibrationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """One benchmark as its file has it: means over the completed requests, in s and tokens."""

    source: str  # the file, and the benchmark in it
    load: str  # how requests were sent, in the file's words
    concurrency: int | None  # requests in flight; None for an open loop
    prompt_tokens: float
    output_tokens: float
    ttft_s: float
    tpot_s: float
    e2e_s: float
    completed: int | None  # None where the tool does not say
    failed: int


Reader = Callable[[dict[str, Any], str], Iterator[Means]]


def vllm_bench(document: dict[str, Any], place: str) -> Iterator[Means]:
    """`vllm bench serve --save-result`; with --save-detailed the means are taken here.

    TPOT is there a mean over requests; where lengths vary, the end-to-end time needs the mean over
    tokens, which only the details (or --percentile-metrics with e2el) give.
    """
    completed = _count(document, "completed", place)
    if document.get("failed") is not None:
        failed = _count(document, "failed", place)
    else:  # not saved before 2025
        failed = _count(document, "num_prompts", place) - completed
    check_completed(completed, failed, place)
    rate, limit = document.get("request_rate", "inf"), document.get("max_concurrency")
    closed = limit is not None and rate in ("inf", math.inf)
    yield Means(
        source=place,
        load=f"request_rate {rate}, max_concurrency {limit}",
        concurrency=_count(document, "max_concurrency", place) if closed else None,
        completed=completed,
        failed=failed,
        **(
            _vllm_details(document, place)
            if "itls" in document
            else _vllm_summary(document, completed, place)
        ),
    )


def _vllm_summary(document: dict[str, Any], completed: int, place: str) -> dict[str, float]:
    output_tokens = _count(document, "total_output_tokens", place) / completed
    ttft_s = _number(document, "mean_ttft_ms", place) / 1e3
    tpot_s = _number(document, "mean_tpot_ms", place) / 1e3
    if "mean_e2el_ms" in document:
        e2e_s = _number(document, "mean_e2el_ms", place) / 1e3
    else:
        e2e_s = ttft_s + (output_tokens - 1) * tpot_s
    return {
        "prompt_tokens": _count(document, "total_input_tokens", place) / completed,
        "output_tokens": output_tokens,
        "ttft_s": ttft_s,
        "tpot_s": tpot_s,
        "e2e_s": e2e_s,
    }


def _vllm_details(document: dict[str, Any], place: str) -> dict[str, float]:
    """The same from the single requests; a failed one has no output token."""
    names = ("input_lens", "output_lens", "ttfts", "itls")
    try:
        columns = [document[name] for name in names]
        rows = [row for row in zip(*columns, strict=True) if row[1] > 0]
        n, n_tokens = len(rows), sum(output for _, output, _, _ in rows)
        ttft_s = sum(ttft for _, _, ttft, _ in rows) / n
        decode_s = sum(sum(gaps) for *_, gaps in rows)
        prompt_tokens = sum(prompt for prompt, *_ in rows) / n
        tpot_s = decode_s / (n_tokens - n)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise CalibrationError(
            f"{place}: the lists {', '.join(names)} must have one entry per request, with output "
            "of 2 tokens and more; save again with --save-detailed, or without"
        ) from None
    return {
        "prompt_tokens": prompt_tokens,
        "output_tokens": n_tokens / n,
        "ttft_s": ttft_s,
        "tpot_s": tpot_s,
        "e2e_s": ttft_s + decode_s / n,
    }


def guidellm(document: dict[str, Any], place: str) -> Iterator[Means]:
    """`guidellm benchmark --output-path FILE.json`: strategies `synchronous` and `concurrent`.

    `inter_token_latency_ms` is the time per output token without the first, weighted by tokens;
    guidellm's own `time_per_output_token_ms` counts the first token in and is not used.
    """
    benchmarks = document["benchmarks"]
    if not isinstance(benchmarks, list) or not benchmarks:
        raise CalibrationError(f"{place}: field benchmarks must be a list of one or more")
    for number, benchmark in enumerate(benchmarks, start=1):
        where = f"{place} (benchmark {number})"
        # 0.4 moved the strategy from `args` to `config`, the counts into `metrics`
        strategy = _at(benchmark, "config.strategy") or _at(benchmark, "args.strategy")
        counts = "metrics.request_totals"
        if _at(benchmark, counts) is None:
            counts = "request_totals"
        failed = _count(benchmark, f"{counts}.errored", where)
        completed = _count(benchmark, f"{counts}.successful", where)
        check_completed(completed, failed, where)
        kind = str(_at(strategy, "type_"))
        concurrency = {"synchronous": 1}.get(kind)
        if kind == "concurrent":
            concurrency = _count(strategy, "streams", where)
        yield Means(
            source=where,
            load=f"strategy {kind}",
            concurrency=concurrency,
            prompt_tokens=_successful(benchmark, "prompt_token_count", where),
            output_tokens=_successful(benchmark, "output_token_count", where),
            ttft_s=_successful(benchmark, "time_to_first_token_ms", where) / 1e3,
            tpot_s=_successful(benchmark, "inter_token_latency_ms", where) / 1e3,
            e2e_s=_successful(benchmark, "request_latency", where),  # the only one in seconds
            completed=completed,
            failed=failed,
        )


def _successful(benchmark: dict[str, Any], metric: str, place: str) -> float:
    return _number(benchmark, f"metrics.{metric}.successful.mean", place)


def aiperf(document: dict[str, Any], place: str) -> Iterator[Means]:
    """aiperf's `profile_export_aiperf.json`, genai-perf's `profile_export_genai_perf.json`.

    `inter_token_latency` is (latency − TTFT)/(output − 1) of each request, then the mean.
    """
    failed = completed = None
    if document.get("request_count") is not None:
        completed = _count(document, "request_count.avg", place)
    if document.get("error_request_count") is not None:
        failed = _count(document, "error_request_count.avg", place)
    if completed is not None:
        check_completed(completed, failed or 0, place)
    concurrency, load = _aiperf_load(document["input_config"], place)
    yield Means(
        source=place,
        load=load,
        concurrency=concurrency,
        prompt_tokens=_number(document, "input_sequence_length.avg", place),
        output_tokens=_number(document, "output_sequence_length.avg", place),
        ttft_s=_seconds(document, "time_to_first_token", place),
        tpot_s=_seconds(document, "inter_token_latency", place),
        e2e_s=_seconds(document, "request_latency", place),
        completed=completed,
        failed=failed or 0,
    )


def _aiperf_load(config: Any, place: str) -> tuple[int | None, str]:
    """The concurrency, and the load in words; with a request rate the loop is open.

    It lies in `phases` (aiperf 0.6 on), in `loadgen` (aiperf before), in `perf_analyzer.stimulus`
    (genai-perf's late versions) or at the top (genai-perf before).
    """
    phases = _at(config, "phases")
    phase = None
    if isinstance(phases, list):
        phase = next((one for one in phases if _at(one, "name") == "profiling"), None)
    for holder in (phase, _at(config, "loadgen"), _at(config, "perf_analyzer.stimulus"), config):
        rate, value = _at(holder, "request_rate"), _at(holder, "concurrency")
        if rate is not None:
            return None, f"request_rate {rate}"
        if value is not None:
            single = value[0] if isinstance(value, list) and len(value) == 1 else value
            return _count({"concurrency": single}, "concurrency", place), f"concurrency {single}"
    return None, "neither concurrency nor request_rate in input_config"


_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _seconds(document: dict[str, Any], metric: str, place: str) -> float:
    """The mean of a metric of times [s]; without a unit it is in ms, as both tools write them."""
    unit = _at(document, f"{metric}.unit") or "ms"
    if unit not in _UNITS:
        raise CalibrationError(
            f"{place}: unit of {metric} must be one of {', '.join(_UNITS)}, got {unit!r}"
        )
    return _UNITS[unit] * _number(document, f"{metric}.avg", place)


def _at(document: Any, dotted: str) -> Any:
    """What lies at a.b.c; None where there is nothing."""
    for name in dotted.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _number(document: Any, dotted: str, place: str) -> float:
    value = _at(document, dotted)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        shown = "nothing" if value is None else repr(value)[:60]
        raise CalibrationError(f"{place}: field {dotted} must be a number, got {shown}")
    return float(value)


def _count(document: Any, dotted: str, place: str) -> int:
    value = _number(document, dotted, place)
    if value < 0 or value != int(value):
        raise CalibrationError(f"{place}: field {dotted} must be a count, got {value:g}")
    return int(value)


def check_completed(completed: int, failed: int, place: str) -> None:
    """Fail if no request completed: there is then nothing to take a mean of."""
    if completed == 0:
        raise CalibrationError(
            f"{place}: requests must have completed, got 0 completed and {failed} failed"
        )


# tool -> its reader, and the fields that tell its files from the others'
TOOLS: dict[str, tuple[Reader, tuple[str, ...]]] = {
    "vllm-bench": (vllm_bench, ("total_input_tokens", "mean_ttft_ms")),
    "guidellm": (guidellm, ("benchmarks",)),
    "aiperf": (aiperf, ("time_to_first_token", "input_config")),
    "genai-perf": (aiperf, ("time_to_first_token", "input_config")),
}
USELESS = {  # files of the same tools that hold no points, by their fields
    ("avg_latency", "latencies"): (
        "the result of `vllm bench latency`, which does not save its batch size and lengths"
    ),
    ("elapsed_time", "tokens_per_second"): (
        "the result of `vllm bench throughput`, which does not save its batch sizes"
    ),
    ("metadata", "metrics"): "single requests; name the summary, profile_export_aiperf.json",
}
