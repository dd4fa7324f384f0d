"""Tables of our own: single requests, stages of open loops, points of closed loops.

`csv`, a request a row: `arrival_s`, `prompt_tokens`, `output_tokens`; where logged the instants
`queued_s`, `scheduled_s`, `first_token_s`, `finish_s` on the clock of `arrival_s`, or `ttft_s` and
`e2e_s` from the arrival. The names of vLLM's own records do as well: `arrival_time`,
`num_prompt_tokens`, `num_generation_tokens`, and of vllm-project/vllm, `vllm/sequence.py` (V0)
`first_scheduled_time`, `first_token_time`, `last_token_time`, of `vllm/v1/metrics/stats.py` (V1)
`queued_ts`, `scheduled_ts`, `first_token_ts`, `last_token_ts`, whose clock is the engine's: it is
put on the arrivals' by min(queued - arrival). A request without an output failed. Beside
`requests.csv`, `timeseries.csv` may have the engine's counters: `t` [s] on the clock of the
arrivals, `running`, `waiting` and `kv_cache_pct`.

`stages`, a stage of an open loop a row: `run`, `stage`, `requested_rate_rps`, `load_type`,
`duration_s`, `requests`, `failures`, `prompt_mean`, `output_len_asked` (or `output_mean`),
`achieved_rps`, mean, p50, p90 and p99 of `ttft_*_s`, `e2e_*_s`; of the server `model`, `tp`,
`max_num_seqs`, `max_num_batched_tokens`, `max_model_len`; of shared prefixes `system_prompts`,
`users_per_system_prompt`, `multi_turn`, `system_prompt_len`, `question_len`.

`closed-loop`, a point a row: `concurrency`, `prompt_tokens`, `output_tokens` (means), mean, p50,
p90, p99 of `ttft_*_s`, `tpot_*_s` and, if saved, `e2e_*_s` (or `_ms`); if known `requests_per_s`,
`completed`, `failed`, and of the server `model`, `hardware`, `framework`, `precision`, `tp`, `ep`.

Notes
-----
`tpot_*` of stages is not used: inference-perf's, which they come from, counts stream events. The
time per output token is (e2e - ttft)/(output - 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llmsched.calibration.benchmarks.files import Format, ResultFile, read_beside
from llmsched.calibration.benchmarks.records import Record
from llmsched.calibration.benchmarks.runs import (
    ClosedLoopPoint,
    EngineSeries,
    FloatArray,
    LatencySummary,
    Load,
    OpenLoopStage,
    RequestLog,
    Run,
    Server,
    SharedPrefixes,
)

_NAMES = {  # column -> names it may have, those on the engine's clock last
    "arrival": ("arrival_s", "arrival_time"),
    "prompt": ("prompt_tokens", "num_prompt_tokens"),
    "output": ("output_tokens", "num_generation_tokens"),
    "queued": ("queued_s", "queued_ts"),
    "scheduled": ("scheduled_s", "first_scheduled_time", "scheduled_ts"),
    "first_token": ("first_token_s", "first_token_time", "first_token_ts"),
    "finish": ("finish_s", "last_token_time", "last_token_ts"),
}
_AFTER_ARRIVAL = {"first_token": "ttft_s", "finish": "e2e_s"}


def _read_requests(file: ResultFile) -> Iterator[Run]:
    found = {role: _name(file, names) for role, names in _NAMES.items()}
    output = found["output"]
    rows = [row for row in file.rows if output and (row.optional(output) or 0) > 0]
    if not rows:
        raise file.error(f"requests must have completed, got 0 completed of {len(file.rows)}")
    rows.sort(key=lambda row: row.number(found["arrival"] or ""))
    columns = {
        role: np.array([row.number(name) for row in rows]) for role, name in found.items() if name
    }
    first_s = float(columns["arrival"][0])
    arrival_s = columns["arrival"] - first_s
    instants_s: dict[str, FloatArray] = {}
    for role in ("queued", "scheduled", "first_token", "finish"):
        after = _AFTER_ARRIVAL.get(role)
        if role in columns:
            clock_s = _clock_s(file, found[role] or "", columns, first_s)
            instants_s[role] = columns[role] - clock_s
        elif after in file.columns:
            instants_s[role] = arrival_s + np.array([row.number(after or "") for row in rows])
    yield RequestLog(
        arrival_s=arrival_s,
        prompt_tokens=rows[0].whole("prompt_tokens", columns["prompt"]),
        output_tokens=rows[0].whole("output_tokens", columns["output"]),
        queued_s=instants_s.get("queued"),
        scheduled_s=instants_s.get("scheduled"),
        first_token_s=instants_s.get("first_token"),
        finish_s=instants_s.get("finish"),
        load=Load(words="an open loop", concurrency=file.concurrency),
        failed=len(file.rows) - len(rows),
        series=series_beside(file.path, zero_s=first_s),
        source=str(file.path),
    )


def _name(file: ResultFile, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in file.columns), None)


def _clock_s(file: ResultFile, name: str, columns: dict[str, FloatArray], first_s: float) -> float:
    """What the clock of a column says at the first arrival [s]."""
    if not name.endswith("_ts"):
        return first_s
    if "queued" not in columns:
        raise file.error(f"{name} must come with queued_ts, which puts its clock on the arrivals'")
    return float((columns["queued"] - (columns["arrival"] - first_s)).min())


def series_beside(path: Path, *, zero_s: float) -> EngineSeries | None:
    """The counters in the folder of a log, `zero_s` of their clock being the first arrival."""
    table = read_beside(path, "timeseries.csv")
    if table is None:
        return None

    def column(name: str) -> FloatArray | None:
        if name not in table.columns:
            return None
        return np.array([row.number(name) for row in table.rows])

    t_s, kv_pct = column("t"), column("kv_cache_pct")
    if t_s is None:
        raise table.error(f"counters must have a column t, got {table.looks()}")
    return EngineSeries(
        t_s=t_s - zero_s,
        running=column("running"),
        waiting=column("waiting"),
        # a column of zeros was never filled
        kv_share=kv_pct / 100 if kv_pct is not None and kv_pct.any() else None,
    )


def _read_stages(file: ResultFile) -> Iterator[Run]:
    for row in file.rows:
        asked = "output_len_asked" if row.has("output_len_asked") else "output_mean"
        output_tokens = file.output_tokens or row.number(asked)
        ttft, _, e2e = times_of(row)
        decode_s = row.number("e2e_mean_s") - row.number("ttft_mean_s")
        rate_per_s = row.number("requested_rate_rps")
        arrivals = row.text("load_type") or ""
        yield OpenLoopStage(
            load=Load(
                words=f"requested_rate_rps {rate_per_s:g}", rate_per_s=rate_per_s, arrivals=arrivals
            ),
            throughput_per_s=row.optional("achieved_rps"),
            duration_s=row.optional("duration_s"),
            completed=row.optional_count("requests"),
            failed=row.optional_count("failures") or 0,
            prompt_tokens=row.number("prompt_mean"),
            output_tokens=output_tokens,
            ttft=ttft,
            tpot=LatencySummary(
                mean_s=decode_s / (output_tokens - 1) if output_tokens > 1 else None
            ),
            e2e=e2e,
            prefixes=_prefixes(row),
            server=Server(
                model=row.text("model"),
                tp=row.optional_count("tp"),
                max_running=row.optional_count("max_num_seqs"),
                step_tokens=row.optional_count("max_num_batched_tokens"),
                max_model_tokens=row.optional_count("max_model_len"),
            ),
            run=row.text("run") or "",
            stage=row.optional_count("stage") or 0,
            source=row.place,
        )


def _prefixes(row: Record) -> SharedPrefixes | None:
    if not row.has("system_prompts"):
        return None
    return SharedPrefixes(
        system_prompts=row.count("system_prompts"),
        users_per_system_prompt=row.count("users_per_system_prompt"),
        multi_turn=row.flag("multi_turn") or False,
        system_prompt_tokens=row.count("system_prompt_len"),
        question_tokens=row.count("question_len"),
    )


def _read_closed_loops(file: ResultFile) -> Iterator[Run]:
    for row in file.rows:
        ttft, tpot, e2e = times_of(row)
        output_tokens = row.number("output_tokens")
        if e2e.mean_s is None and ttft.mean_s is not None and tpot.mean_s is not None:
            e2e = LatencySummary(mean_s=ttft.mean_s + (output_tokens - 1) * tpot.mean_s)
        concurrency = row.count("concurrency")
        yield ClosedLoopPoint(
            load=Load(words=f"concurrency {concurrency}", concurrency=concurrency),
            prompt_tokens=row.number("prompt_tokens"),
            output_tokens=output_tokens,
            ttft=ttft,
            tpot=tpot,
            e2e=e2e,
            completed=row.optional_count("completed"),
            failed=row.optional_count("failed") or 0,
            throughput_per_s=row.optional("requests_per_s"),
            server=server_of(row),
            source=row.place,
        )


def times_of(row: Record) -> tuple[LatencySummary, LatencySummary, LatencySummary]:
    """TTFT, TPOT and end-to-end times of a row, in seconds or milliseconds as its columns say."""
    ttft, tpot, e2e = (_times(row, name) for name in ("ttft", "tpot", "e2e"))
    return ttft, tpot, e2e


def _times(row: Record, name: str) -> LatencySummary:
    unit, unit_s = ("ms", 1e-3) if row.has(f"{name}_mean_ms") else ("s", 1.0)
    statistics = ("mean", "p50", "p90", "p99")
    return row.summary(f"{name}_{{}}_{unit}", statistics, unit_s=unit_s, needs_mean=False)


def server_of(row: Record) -> Server:
    """What a row of closed loops says of its server."""
    return Server(
        model=row.text("model"),
        device=row.text("hardware"),
        engine=row.text("framework"),
        precision=row.text("precision"),
        tp=row.optional_count("tp"),
        ep=row.optional_count("ep"),
        dp_attention=row.flag("dp_attention"),
    )


REQUESTS = Format(
    name="csv",
    title="a table of single requests",
    holds=lambda file: all(_name(file, _NAMES[role]) for role in ("arrival", "prompt", "output")),
    read=_read_requests,
    wanted="arrival_s, prompt_tokens and output_tokens",
)
STAGES = Format(
    name="stages",
    title="a table of stages at a request rate",
    holds=lambda file: bool(file.columns) and file.has_fields("requested_rate_rps", "e2e_mean_s"),
    read=_read_stages,
    wanted="requested_rate_rps and e2e_mean_s",
    counts_text=True,
)
CLOSED_LOOP = Format(
    name="closed-loop",
    title="a table of points at a fixed concurrency",
    holds=lambda file: bool(file.columns) and file.has_fields("concurrency"),
    read=_read_closed_loops,
    wanted="concurrency",
)
