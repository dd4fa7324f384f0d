"""vLLM's `bench serve` and SGLang's `bench_serving`, which began as a copy of it.

Fields, in vllm-project/vllm, `vllm/benchmarks/serve.py` (`--save-result`, `--append-result`):
`model_id`, `num_prompts`, `request_rate` ("inf" for none), `burstiness`, `max_concurrency` (null or
0 for none), `ramp_up_strategy`, `duration` [s], `completed`, `failed`, `total_input_tokens`,
`total_output_tokens`, and `mean_`, `median_`, `p90_`, `p99_` of `ttft_ms`, `tpot_ms`, `itl_ms`,
`e2el_ms`. With `--save-detailed`, an entry per request: `input_lens`, `output_lens` (0 where it
failed), `ttfts` [s], `itls` [s], and in newer versions `start_times` [s].

Fields, in sgl-project/sglang, `python/sglang/bench_serving.py`, later
`python/sglang/benchmark/serving.py` (`--output-file`, one object a line): the same, but
`mean_e2e_latency_ms`, and `concurrency`, what was really in flight (the sum of the latencies over
the duration). `request_rate` is Infinity for none, or "trace". `server_info` has the server's
arguments. With `--output-details`, the same lists without `start_times`.

InferenceX/InferenceMAX result files, before they are aggregated, are vLLM's too.

Notes
-----
`mean_tpot_ms` is a mean over requests, `mean_itl_ms` one over the chunks received. Where every
chunk is one token, the mean end-to-end time is TTFT + (mean output - 1)·ITL, whatever the lengths;
with TPOT it would be right for equal lengths only.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmsched.calibration.benchmarks.files import Format, ResultFile
from llmsched.calibration.benchmarks.records import Record
from llmsched.calibration.benchmarks.runs import (
    FloatArray,
    IntArray,
    LatencySummary,
    Load,
    Means,
    RequestLog,
    Run,
    Server,
    per_later_token,
)

MS = 1e-3
MANY_TOKENS = 1.5  # ITL over TPOT beyond which chunks are said to hold several tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Requests:
    """The completed requests, in the order in which the client made them."""

    prompt_tokens: IntArray
    output_tokens: IntArray
    ttft_s: FloatArray
    itl_s: tuple[FloatArray, ...]
    start_s: FloatArray | None
    failed: int

    @property
    def e2e_s(self) -> FloatArray:
        decode_s = np.array([gaps.sum() for gaps in self.itl_s], dtype=np.float64)
        return np.asarray(self.ttft_s + decode_s)


def _read(file: ResultFile) -> Iterator[Run]:
    for result in file.records():
        load = _load(result, file.concurrency)
        completed = result.count("completed")
        if completed == 0:
            failed = result.optional_count("failed") or result.optional_count("num_prompts") or 0
            result.fail(f"requests must have completed, got 0 completed and {failed} failed")
        if result.has("itls"):
            yield _from_details(result, load)
        else:
            yield _from_summary(result, load, completed)


def _load(result: Record, given: int | None) -> Load:
    rate, limit = result.get("request_rate"), result.optional_count("max_concurrency")
    ramp = result.text("ramp_up_strategy")
    rate_per_s: float | None = math.inf
    if ramp or rate == "trace":
        rate_per_s = None
    elif rate not in (None, "inf", math.inf):
        rate_per_s = result.number("request_rate")
    words = f"request_rate {'inf' if rate_per_s == math.inf else rate}, max_concurrency {limit}"
    paced = rate_per_s is not None and rate_per_s < math.inf
    return Load(
        concurrency=limit if limit and rate_per_s == math.inf else given,
        rate_per_s=rate_per_s,
        arrivals="poisson" if paced and result.get("burstiness") == 1 else "",
        words=words + (f", ramp-up {ramp}" if ramp else ""),
    )


def _server(result: Record) -> Server:
    return Server(
        model=result.text("model_id", "server_info.model_path"),
        tp=result.optional_count("server_info.tp_size"),
        ep=result.optional_count("server_info.ep_size"),
        max_running=result.optional_count("server_info.max_running_requests"),
        step_tokens=result.optional_count("server_info.chunked_prefill_size"),
        kv_tokens=result.optional_count("server_info.max_total_num_tokens"),
    )


def _from_summary(result: Record, load: Load, completed: int) -> Run:
    failed = result.optional_count("failed")
    if failed is None:  # not saved before 2025, and never by SGLang
        failed = max(0, (result.optional_count("num_prompts") or completed) - completed)
    output_tokens = result.count("total_output_tokens") / completed
    duration_s = result.optional("duration")
    throughput_per_s = completed / duration_s if duration_s else None
    e2e, notes = _end_to_end(result, output_tokens, throughput_per_s, load.concurrency)
    return Means(
        load=load,
        completed=completed,
        failed=failed,
        throughput_per_s=throughput_per_s,
        prompt_tokens=result.count("total_input_tokens") / completed,
        output_tokens=output_tokens,
        ttft=result.summary("{}_ttft_ms", unit_s=MS),
        tpot=result.summary("{}_tpot_ms", unit_s=MS),
        e2e=e2e,
        server=_server(result),
        source=result.place,
        notes=notes,
    ).as_run()


def _end_to_end(
    result: Record, output_tokens: float, throughput_per_s: float | None, concurrency: int | None
) -> tuple[LatencySummary, tuple[str, ...]]:
    """The end-to-end times, saved or made of the others, and what must be said of them."""
    for name in ("e2el", "e2e_latency"):
        if result.has(f"mean_{name}_ms"):
            return result.summary(f"{{}}_{name}_ms", unit_s=MS), ()
    ttft_s = result.number("mean_ttft_ms", unit_s=MS)
    tpot_s = result.number("mean_tpot_ms", unit_s=MS)
    itl_s = result.optional("mean_itl_ms", unit_s=MS)
    by_tpot = LatencySummary(mean_s=ttft_s + (output_tokens - 1) * tpot_s)
    if itl_s is None:
        return by_tpot, ("the end-to-end time is from mean_tpot_ms, right for equal outputs only",)
    by_itl = LatencySummary(mean_s=ttft_s + (output_tokens - 1) * itl_s)
    # no more than the concurrency can have been in flight
    most_s = math.inf
    if concurrency is not None and throughput_per_s:
        most_s = 1.02 * concurrency / throughput_per_s
    if itl_s <= MANY_TOKENS * tpot_s and (by_itl.mean_s or 0) <= most_s:
        return by_itl, ()
    return by_tpot, (
        f"chunks hold several tokens (mean_itl_ms {itl_s / MS:.3g}, mean_tpot_ms "
        f"{tpot_s / MS:.3g}): the end-to-end time is from mean_tpot_ms, right for equal outputs "
        "only; save e2el too (--percentile-metrics ttft,tpot,itl,e2el)",
    )


def _from_details(result: Record, load: Load) -> Run:
    """One by one where it is known when they were sent; else their means."""
    requests, notes = _requests(result)
    arrival_s = requests.start_s
    if arrival_s is None and load.rate_per_s == math.inf and load.concurrency is None:
        arrival_s = np.zeros(len(requests.ttft_s))
    elif (
        arrival_s is None
        and load.rate_per_s == math.inf
        and load.concurrency
        and not requests.failed
    ):
        arrival_s = _send_times_s(requests.e2e_s, load.concurrency)
        notes += ("send times are not saved: each request is sent when an earlier one ends",)
    if arrival_s is not None:
        return _log(result, load, requests, arrival_s, notes)
    duration_s = result.optional("duration")
    return Means(
        load=load,
        completed=len(requests.ttft_s),
        failed=requests.failed,
        throughput_per_s=len(requests.ttft_s) / duration_s if duration_s else None,
        prompt_tokens=float(requests.prompt_tokens.mean()),
        output_tokens=float(requests.output_tokens.mean()),
        ttft=LatencySummary.of(requests.ttft_s),
        tpot=LatencySummary.of(
            per_later_token(requests.e2e_s - requests.ttft_s, requests.output_tokens)
        ),
        e2e=LatencySummary.of(requests.e2e_s),
        server=_server(result),
        source=result.place,
        notes=notes,
    ).as_run()


def _requests(result: Record) -> tuple[_Requests, tuple[str, ...]]:
    prompts, outputs, ttft_s = map(result.numbers, ("input_lens", "output_lens", "ttfts"))
    itl_s = result.ragged("itls")
    starts = result.numbers("start_times") if result.has("start_times") else None
    lengths = [len(prompts), len(outputs), len(ttft_s), len(itl_s)]
    lengths += [] if starts is None else [len(starts)]
    if len(set(lengths)) > 1:
        result.fail(
            "the lists input_lens, output_lens, ttfts, itls and start_times must have one entry "
            f"per request, got {', '.join(map(str, lengths))}"
        )
    done = outputs > 0
    if not done.any():
        result.fail(f"requests must have completed, got 0 completed and {len(done)} failed")
    outputs, ttft_s = outputs[done], ttft_s[done]
    gaps = tuple(gap for gap, is_done in zip(itl_s, done, strict=True) if is_done)
    gaps, notes = _without_ttft(gaps, outputs, ttft_s)
    requests = _Requests(
        prompt_tokens=result.whole("input_lens", prompts[done]),
        output_tokens=result.whole("output_lens", outputs),
        ttft_s=ttft_s,
        itl_s=gaps,
        start_s=None if starts is None else starts[done],
        failed=int((~done).sum()),
    )
    return requests, notes


def _without_ttft(
    itl_s: tuple[FloatArray, ...], outputs: FloatArray, ttft_s: FloatArray
) -> tuple[tuple[FloatArray, ...], tuple[str, ...]]:
    """The gaps without the TTFT that each list began with before vllm-project/vllm#7242."""
    begins = [
        len(gaps) == output and math.isclose(gaps[0], ttft, rel_tol=1e-6)
        for gaps, output, ttft in zip(itl_s, outputs, ttft_s, strict=True)
    ]
    if not any(begins):
        return itl_s, ()
    left = tuple(gaps[1:] if has else gaps for gaps, has in zip(itl_s, begins, strict=True))
    return left, ("lists of itls begin with the TTFT, as they did in 2024: it is left out of them",)


def _send_times_s(e2e_s: FloatArray, concurrency: int) -> FloatArray:
    """When a client with that many slots sends requests that take so long, in order, from 0 [s]."""
    free_s = [0.0] * min(concurrency, len(e2e_s))
    starts = []
    for duration_s in e2e_s.tolist():
        starts.append(free_s[0])
        heapq.heapreplace(free_s, free_s[0] + duration_s)
    return np.array(starts)


def _log(
    result: Record,
    load: Load,
    requests: _Requests,
    arrival_s: FloatArray,
    notes: tuple[str, ...],
) -> RequestLog:
    order = np.argsort(arrival_s, kind="stable")
    arrival_s = arrival_s[order] - arrival_s.min()
    return RequestLog(
        arrival_s=arrival_s,
        prompt_tokens=requests.prompt_tokens[order],
        output_tokens=requests.output_tokens[order],
        first_token_s=arrival_s + requests.ttft_s[order],
        finish_s=arrival_s + requests.e2e_s[order],
        itl_s=tuple(requests.itl_s[i] for i in order),
        load=load,
        duration_s=result.optional("duration"),
        failed=requests.failed,
        server=_server(result),
        source=result.place,
        notes=notes,
    )


def _is_sglang(file: ResultFile) -> bool:
    return file.has_fields("total_input_tokens", "mean_e2e_latency_ms")


VLLM_BENCH = Format(
    name="vllm-bench",
    title="vllm bench serve --save-result, also --save-detailed",
    holds=lambda file: (
        file.has_fields("total_input_tokens", "mean_ttft_ms") and not _is_sglang(file)
    ),
    read=_read,
    wanted="total_input_tokens and mean_ttft_ms",
)
SGLANG = Format(
    name="sglang",
    title="SGLang bench_serving --output-file, also --output-details",
    holds=_is_sglang,
    read=_read,
    wanted="total_input_tokens and mean_e2e_latency_ms",
)
