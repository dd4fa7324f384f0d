"""InferenceX's (formerly InferenceMAX's) aggregated results: JSON, the site's rows, or a table.

Fields, in SemiAnalysisAI/InferenceX, `infx/results/fixed_sequence.py` (before
`utils/process_result.py`; files `agg_*.json`): `hw`, `conc`, `model`, `framework`, `precision`,
`isl`, `osl`, `tp`, `ep`, `dp_attention`, `disagg`, `spec_decoding`, `tput_per_gpu`, and `mean_`,
`median_`, `p90_`, `p99_` of `ttft`, `tpot`, `e2el` [s]. The rows of the site
(SemiAnalysisAI/InferenceX-app, `packages/app/cypress/fixtures/api/benchmarks.json`) have
`hardware`, `decode_tp`, `decode_ep`, `decode_dp_attention`, `spec_method` instead, and the times
in `metrics`. A table has their columns by our names: see `tables`.

The files before aggregation are vLLM's (`vllm`), and are read as such.

Notes
-----
Lengths there are nominal: they are drawn uniformly from 0.8 to 1.0 of them (`--random-range-ratio
0.8`), so their means are 0.9 of them. Of 75 published points with means, 1 + (e2e - TTFT)/TPOT is
0.89 to 0.91 of the nominal output.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmsched.calibration.benchmarks.files import Format, ResultFile
from llmsched.calibration.benchmarks.formats.tables import server_of, times_of
from llmsched.calibration.benchmarks.formats.vllm import VLLM_BENCH
from llmsched.calibration.benchmarks.records import Record
from llmsched.calibration.benchmarks.runs import (
    ClosedLoopPoint,
    LatencySummary,
    Load,
    Run,
    Server,
)

MEAN_LENGTH = 0.9  # of the nominal one
_TABLE = ("hardware", "framework", "precision", "concurrency", "prompt_tokens", "tpot_p50_s")


def _read(file: ResultFile) -> Iterator[Run]:
    if VLLM_BENCH.holds(file):
        yield from VLLM_BENCH.read(file)
    elif file.columns:
        yield from map(_of_table, file.rows)
    else:
        yield from map(_of_aggregate, file.records())


def _of_aggregate(result: Record) -> ClosedLoopPoint:
    of_site = result.has("metrics")
    at, side = ("metrics.", "decode_") if of_site else ("", "")
    _check_one_engine(result, "spec_method" if of_site else "spec_decoding")

    ttft, tpot, e2e = (
        result.summary(f"{at}{{}}_{name}", needs_mean=False) for name in ("ttft", "tpot", "e2el")
    )
    return _point(
        result,
        concurrency=result.count("conc"),
        lengths=(result.number("isl"), result.number("osl")),
        times=(ttft, tpot, e2e),
        tokens_per_s_per_gpu=result.optional(f"{at}tput_per_gpu"),
        server=Server(
            model=result.text("model"),
            device=result.text("hardware" if of_site else "hw"),
            engine=result.text("framework"),
            precision=result.text("precision"),
            tp=result.optional_count(f"{side}tp"),
            ep=result.optional_count(f"{side}ep"),
            dp_attention=result.flag(f"{side}dp_attention"),
        ),
    )


def _check_one_engine(result: Record, spec: str) -> None:
    others = {
        "disagg=false": result.flag("disagg"),
        "is_multinode=false": result.flag("is_multinode"),
        f"{spec}=none": (result.text(spec) or "none") != "none",
    }
    for wanted, is_other in others.items():
        if is_other:
            name = wanted.partition("=")[0]
            result.fail(
                "must be one engine without speculative decoding, got "
                f"{name} {result.get(name)}; leave it out (--where {wanted})"
            )


def _of_table(row: Record) -> ClosedLoopPoint:
    return _point(
        row,
        concurrency=row.count("concurrency"),
        lengths=(row.number("prompt_tokens"), row.number("output_tokens")),
        times=times_of(row),
        tokens_per_s_per_gpu=row.optional("tokens_per_s_per_gpu"),
        server=server_of(row),
    )


def _point(
    result: Record,
    *,
    concurrency: int,
    lengths: tuple[float, float],
    times: tuple[LatencySummary, LatencySummary, LatencySummary],
    tokens_per_s_per_gpu: float | None,
    server: Server,
) -> ClosedLoopPoint:
    prompt_tokens, output_tokens = (MEAN_LENGTH * nominal for nominal in lengths)
    throughput_per_s = None
    if tokens_per_s_per_gpu is not None and server.tp is not None:
        tokens_per_s = tokens_per_s_per_gpu * server.tp
        throughput_per_s = tokens_per_s / (prompt_tokens + output_tokens)
    ttft, tpot, e2e = times
    return ClosedLoopPoint(
        load=Load(words=f"concurrency {concurrency}", concurrency=concurrency),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        ttft=ttft,
        tpot=tpot,
        e2e=e2e,
        throughput_per_s=throughput_per_s,
        server=server,
        date=result.text("date") or "",
        source=result.place,
        notes=("lengths are 0.9 of the nominal ones, as they are drawn from 0.8 to 1.0 of them",),
    )


INFERENCEX = Format(
    name="inferencex",
    title="InferenceX/InferenceMAX agg_*.json, the site's rows, or a table of them",
    holds=lambda file: (
        file.has_fields("conc", "isl", "osl") or (bool(file.columns) and file.has_fields(*_TABLE))
    ),
    read=_read,
    wanted="conc, isl and osl",
)
