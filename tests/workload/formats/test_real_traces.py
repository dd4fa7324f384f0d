"""Every scheduler and `compare` on every real trace: to the end, every request accounted for.

The rows are not in this repository; where the folder is absent these tests are skipped, and the
summary of the run says so.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from plan_world import plan_compare as compare, plan_simulate as simulate
from reference_engine import Request, reference_service_s, run as reference_run

from llmsched import Run, Settings, Trace, Workload, load_latency

DATA = Path(__file__).parents[4] / "shared" / "data"
FILES = {
    "burstgpt-head": DATA / "burstgpt" / "burstgpt_1_head400.csv",
    "burstgpt-job": DATA / "burstgpt" / "burstgpt_1_busy_window_0_136s.csv",
    "burstgpt-talk": DATA / "burstgpt" / "burstgpt_1_busy_window_3567_7102s.csv",
    "azure-2023": DATA / "traces" / "azure_llm_2023_conv.csv.gz",
    "mooncake": DATA / "traces" / "mooncake_conversation_trace.jsonl.gz",
}
ROWS = {  # data rows of each file, and how many of them are failures (no output token)
    "burstgpt-head": (400, 17),
    "burstgpt-job": (873, 0),
    "burstgpt-talk": (312, 0),
    "azure-2023": (19_366, 0),
    "mooncake": (12_031, 0),
}
SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_only")
MEASURED = "h100-llama-3-8b-vllm"
CAPACITY_TOKENS = (12e9 - 4.06e9) / 114_688  # of the default card and model: 69,231 tokens

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not all(path.is_file() for path in FILES.values()),
        reason="NOT RUN ON ANY REAL TRACE: ../shared/data is not there",
    ),
    # real lengths tie, and leave the range where a latency model was measured
    pytest.mark.filterwarnings("ignore:.*equal-mass bins asked for.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::llmsched.latency.registry.CalibrationWarning"),
    pytest.mark.filterwarnings("ignore:admission makes no difference:UserWarning"),
]
every_file = pytest.mark.parametrize("name", sorted(FILES))


def n_rows(path: Path) -> int:
    """Data rows of a file, counted without our reader."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    n_lines = len(text.decode().strip().splitlines())
    return n_lines if ".jsonl" in path.name else n_lines - 1


@pytest.fixture(scope="module")
def traces() -> dict[tuple[str, float], Trace]:
    """Every file at 200 times its rate and in real time."""
    return {
        (name, scale): Workload(source=str(path), rps_scale=scale).load()
        for name, path in FILES.items()
        for scale in (1.0, 200.0)
    }


def assert_accounted(run: Run, trace: Trace) -> None:
    """Every request of the trace is there once, served or rejected, and counted as such."""
    requests, batches, figures = run.requests, run.batches, run.metrics
    assert requests.arrival_s.tobytes() == trace.arrival_s.tobytes()
    assert requests.prompt_tokens.tobytes() == trace.prompt_tokens.tobytes()
    assert requests.output_tokens.tobytes() == trace.output_tokens.tobytes()
    done = requests.completed
    assert figures.requests == len(trace)
    assert figures.completed + figures.rejected == len(trace)
    assert figures.completed == done.sum() == batches.size.sum()
    in_batch = np.bincount(requests.batch[done], minlength=len(batches))
    assert in_batch.tolist() == batches.size.tolist()
    # nothing is left waiting, starts before it came or ends before it started
    assert np.isfinite(requests.finish_s[done]).all()
    assert (requests.start_s[done] >= requests.arrival_s[done]).all()
    assert (requests.finish_s[done] >= requests.start_s[done]).all()
    # rejected: what cannot fit the memory alone, where there is one
    limit = run.config["capacity_tokens"] if "dynamic" in run.scheduler else np.inf
    assert (done == (trace.total_tokens <= limit)).all()
    # late or rejected is a violation, on time is goodput, and there is no third
    on_time = (requests.finish_s[done] - requests.arrival_s[done] <= figures.sla_s).sum()
    assert figures.sla_violation_rate == (len(trace) - on_time) / len(trace)
    assert figures.goodput_rps * figures.makespan_s == pytest.approx(on_time, abs=1e-6)
    assert sum(one.requests for one in figures.per_bin) == len(trace)
    assert sum(one.rejected for one in figures.per_bin) == figures.rejected


@every_file
def test_real__rows_of_the_file_are_kept_or_left_out_by_a_rule(name: str) -> None:
    rows, failures = ROWS[name]
    assert n_rows(FILES[name]) == rows
    for options, kept in (
        ({}, rows - failures),
        ({"failures": "keep"}, rows),
        ({"requests": 100}, 100),
    ):
        trace = Workload(source=str(FILES[name]), **options).load()  # type: ignore[arg-type]
        assert len(trace) == kept
        assert len(trace) + sum(n for _, n in trace.left_out) == rows


@every_file
@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_real__every_scheduler_runs_to_the_end(
    traces: dict[tuple[str, float], Trace], name: str, scale: float, scheduler: str
) -> None:
    trace = traces[name, scale]
    run = simulate(trace, scheduler, latency=MEASURED if scale == 1.0 else "reference")
    assert_accounted(run, trace)
    json.dumps(run.to_dict(), allow_nan=False)


def test_real__mooncake_has_prompts_that_no_memory_of_ours_holds(
    traces: dict[tuple[str, float], Trace],
) -> None:
    # given prompts of up to 126,195 tokens and room for 69,231
    trace = traces["mooncake", 200.0]
    run = simulate(trace, "dynamic_no_bins", settings=Settings(sla_s=1e9))
    # then those are rejected, and violations though no request that was served is late
    too_large = int((trace.total_tokens > CAPACITY_TOKENS).sum())
    assert run.metrics.rejected == too_large > 100
    assert run.metrics.sla_violation_rate == too_large / len(trace)


@every_file
def test_real__compare_runs_to_the_end(name: str) -> None:
    n = min(2000, ROWS[name][0] - ROWS[name][1])
    comparison = compare(
        Workload(source=str(FILES[name]), requests=n, resample=False), SCHEDULERS, replications=2
    )
    # the two schedulers without bins are touched by nothing random: one run stands for both
    for result in comparison.results:
        served = np.add(result.samples("completed"), result.samples("rejected"))
        assert len(set(served.tolist())) == 1
        assert result.random == ("multi_bin" in result.scheduler)
    assert {one.scheduler for one in comparison.differences()} == set(SCHEDULERS[1:])
    summary = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert len(summary["schedulers"]) == 4


@every_file
@pytest.mark.parametrize("failures", ["keep", "drop"])
@pytest.mark.parametrize("latency", ["reference", MEASURED])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_real__a_prefix_equals_the_eager_reference_to_the_last_bit(
    name: str, scale: float, latency: str, failures: Any
) -> None:
    trace = Workload(
        source=str(FILES[name]), requests=300, rps_scale=scale, failures=failures
    ).load()
    model = load_latency(latency)

    def service_s(size: int, total: int, prompt: int, output: int) -> float:
        if latency == "reference":
            return reference_service_s(size, total, prompt, output)
        shape = SimpleNamespace(
            size=size,
            max_total_tokens=total,
            max_prompt_tokens=prompt,
            max_output_tokens=output,
        )
        return model.service_s(shape)

    for scheduler in SCHEDULERS:
        for n_gpus, admission in ((1, "together"), (4, "one-by-one")):
            run = simulate(
                trace,
                scheduler,
                n_gpus=n_gpus,
                latency=latency,
                settings=Settings(capacity_tokens=CAPACITY_TOKENS),  # as the reference has it
                admission=admission,  # type: ignore[arg-type]
            )
            columns = (
                trace.arrival_s,
                trace.prompt_tokens,
                trace.output_tokens,
                run.requests.predicted_tokens,
            )
            requests: list[Request] = list(zip(*(c.tolist() for c in columns), strict=True))
            expected = reference_run(
                requests,
                scheduler,
                n_gpus=n_gpus,
                admission=admission,
                edges=run.edges.tolist(),
                service_s=service_s,
            )
            table = run.requests

            def optional(column: np.ndarray, done: np.ndarray = table.completed) -> list[Any]:
                rows = zip(column.tolist(), done.tolist(), strict=True)
                return [value if served else None for value, served in rows]

            assert optional(table.start_s) == expected.start_s
            assert optional(table.finish_s) == expected.finish_s
            assert optional(table.gpu) == expected.gpu
            assert optional(table.batch) == expected.batch
            assert table.bin.tolist() == expected.bin
