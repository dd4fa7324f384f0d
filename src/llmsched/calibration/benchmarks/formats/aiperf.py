"""AIPerf's and GenAI-Perf's results: the summary, or AIPerf's records of single requests.

Summary fields, in ai-dynamo/aiperf, `src/aiperf/common/models/export_models.py`
(`profile_export_aiperf.json`), a shape kept from triton-inference-server/perf_analyzer,
`genai-perf/genai_perf/export_data/json_exporter.py` (`profile_export_genai_perf.json`): `unit`,
`avg`, `p50`, `p90`, `p99` of `time_to_first_token`, `inter_token_latency`, `request_latency`,
`input_sequence_length`, `output_sequence_length`; `avg` of `request_count`,
`error_request_count`, `benchmark_duration`, `request_throughput`; and `input_config`, which has the
concurrency in `phases` (aiperf 0.6 on), `loadgen` (aiperf before), `perf_analyzer.stimulus`
(genai-perf's late versions) or at its top (genai-perf before).

Record fields, in ai-dynamo/aiperf, `docs/tutorials/working-with-profile-exports.md`
(`profile_export.jsonl`): `metadata.request_start_ns`, `metadata.benchmark_phase`, and `value` and
`unit` under `metrics` of the same names and `inter_chunk_latency`; `error` where it failed. The
load is that of `profile_export_aiperf.json` in the same folder, if it is there.

Notes
-----
`inter_token_latency` is (latency - TTFT)/(output - 1) of each request, then the mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmsched.calibration.benchmarks.files import Format, ResultFile, read_file
from llmsched.calibration.benchmarks.records import Record
from llmsched.calibration.benchmarks.runs import (
    LatencySummary,
    Load,
    Means,
    RequestLog,
    Run,
)

_UNITS_S = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _read(file: ResultFile) -> Iterator[Run]:
    if _has_records(file):
        yield _log(file)
    else:
        for summary in file.records():
            yield _means(summary, file.concurrency)


def _means(summary: Record, given: int | None) -> Run:
    completed = failed = None
    if summary.has("request_count"):
        completed = summary.count("request_count.avg")
    if summary.has("error_request_count"):
        failed = summary.count("error_request_count.avg")
    if completed == 0:
        summary.fail(f"requests must have completed, got 0 completed and {failed or 0} failed")
    throughput_per_s = summary.optional("request_throughput.avg")
    if completed and summary.has("benchmark_duration"):
        duration_s = _time_s(summary, "benchmark_duration", "avg")
        throughput_per_s = completed / duration_s if duration_s else None
    return Means(
        load=_load(summary, given),
        completed=completed,
        failed=failed or 0,
        throughput_per_s=throughput_per_s,
        prompt_tokens=summary.number("input_sequence_length.avg"),
        output_tokens=summary.number("output_sequence_length.avg"),
        ttft=_times(summary, "time_to_first_token"),
        tpot=_times(summary, "inter_token_latency"),
        e2e=_times(summary, "request_latency"),
        source=summary.place,
    ).as_run()


def _load(summary: Record, given: int | None) -> Load:
    """The concurrency, and the load in words; with a request rate the loop is open."""
    at = ["input_config.loadgen", "input_config.perf_analyzer.stimulus", "input_config"]
    holders = [summary.within(summary.get(name), "") for name in at if _is_object(summary, name)]
    if isinstance(summary.get("input_config.phases"), list):
        phases = list(summary.records("input_config.phases"))
        holders = [phase for phase in phases if phase.get("name") == "profiling"] + holders
    for holder in holders:
        if holder.has("request_rate"):
            rate_per_s = holder.number("request_rate")
            return Load(
                words=f"request_rate {rate_per_s:g}", concurrency=given, rate_per_s=rate_per_s
            )
        value = holder.get("concurrency")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is not None:
            place = summary.within({"concurrency": value}, "")
            return Load(words=f"concurrency {value}", concurrency=place.count("concurrency"))
    words = "neither concurrency nor request_rate in input_config"
    return Load(words=words, concurrency=given)


def _is_object(summary: Record, name: str) -> bool:
    return isinstance(summary.get(name), dict)


def _times(summary: Record, metric: str) -> LatencySummary:
    statistics = ("avg", "p50", "p90", "p99")
    return summary.summary(f"{metric}.{{}}", statistics, unit_s=_unit_s(summary, metric))


def _time_s(record: Record, metric: str, statistic: str) -> float:
    """A time of a metric [s]."""
    return record.number(f"{metric}.{statistic}", unit_s=_unit_s(record, metric))


def _unit_s(record: Record, metric: str) -> float:
    """The unit of a metric of times; without one they are in ms, as both tools write them."""
    unit = record.text(f"{metric}.unit") or "ms"
    if unit not in _UNITS_S:
        record.fail(f"unit of {metric} must be one of {', '.join(_UNITS_S)}, got {unit!r}")
    return _UNITS_S[unit]


def _has_records(file: ResultFile) -> bool:
    return file.has_fields("metadata.request_start_ns", "metrics")


def _log(file: ResultFile) -> RequestLog:
    """The requests of the phase that counts, in order of sending."""
    records = [
        record
        for record in file.records()
        if record.get("metadata.benchmark_phase") in (None, "profiling")
    ]
    done = [record for record in records if not record.has("error")]
    if not done:
        raise file.error(f"requests must have completed, got 0 completed and {len(records)} failed")
    done.sort(key=lambda record: record.number("metadata.request_start_ns"))
    # whole nanoseconds since 1970 do not fit float64: take the first away before
    first_ns = done[0].get("metadata.request_start_ns")
    arrival_s = np.array(
        [(record.get("metadata.request_start_ns") - first_ns) / 1e9 for record in done]
    )
    ttft_s, e2e_s = (
        np.array([_time_s(record, f"metrics.{metric}", "value") for record in done])
        for metric in ("time_to_first_token", "request_latency")
    )
    has_gaps = all(record.has("metrics.inter_chunk_latency.value") for record in done)
    return RequestLog(
        arrival_s=arrival_s,
        prompt_tokens=_counts(done, "input_sequence_length"),
        output_tokens=_counts(done, "output_sequence_length"),
        first_token_s=arrival_s + ttft_s,
        finish_s=arrival_s + e2e_s,
        itl_s=tuple(_gaps_s(record) for record in done) if has_gaps else None,
        load=_load_beside(file),
        failed=len(records) - len(done),
        source=str(file.path),
    )


def _counts(records: list[Record], metric: str) -> np.ndarray:
    return np.array([record.count(f"metrics.{metric}.value") for record in records], np.int64)


def _gaps_s(record: Record) -> np.ndarray:
    metric = "metrics.inter_chunk_latency"
    return _unit_s(record, metric) * record.numbers(f"{metric}.value")


def _load_beside(file: ResultFile) -> Load:
    """The load of the summary in the same folder, or what the user says."""
    summary = file.path.with_name("profile_export_aiperf.json")
    if summary.is_file():
        for record in read_file(summary).records():
            return _load(record, file.concurrency)
    words = "no profile_export_aiperf.json in the same folder to say the load"
    return Load(words=words, concurrency=file.concurrency)


AIPERF, GENAI_PERF = (
    Format(
        name=name,
        title=title,
        holds=lambda file: (
            _has_records(file) or file.has_fields("time_to_first_token", "input_config")
        ),
        read=_read,
        wanted="time_to_first_token and input_config",
    )
    for name, title in (
        ("aiperf", "profile_export_aiperf.json, or the records profile_export.jsonl"),
        ("genai-perf", "profile_export_genai_perf.json"),
    )
)
