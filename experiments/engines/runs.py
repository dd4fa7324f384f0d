"""One run of either level on two H100: requests, load and scheduler in, a row of figures out.

The requests of a workload are cut into parts, or drawn anew, for replications. Load ρ is that of
continuous batching (`metrics.load.step_load`), whoever serves: at one load all schedulers see the
same requests at the same instants.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmsched import Trace, Workload, simulate
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.latency.step_times import step_time_from_spec
from llmsched.metrics.load import step_load
from llmsched.prediction.binning import Binning
from llmsched.schedulers.iteration.base import IterationScheduler
from llmsched.schedulers.iteration.limits import DynamicLimit
from llmsched.schedulers.iteration.orders import Fcfs
from llmsched.schedulers.memory_limit import CltLimit
from llmsched.schedulers.settings import Settings
from llmsched.schedulers.sla_control import PaperController
from llmsched.simulation.run import BatchRun, ContinuousRun, Run
from llmsched.simulation.workers import pool
from llmsched.workload.slo import Slo

STEP = "physics:h100:llama-3.1-8b"
N_GPUS = 2
TPOT_SLA_S = 0.05
BATCH_TARGET_S = 10.0  # what a batch may take at the batch level
OBJECTIVES = {"interactive": (1.0, 0.05), "relaxed": (10.0, 0.1)}  # TTFT, TPOT [s]
SERVING = IterationSettings(max_running=256)
TRACES = {  # where its rows are, and requests of one replication
    "BurstGPT-like": ("burstgpt-like", 1500),
    "Azure conversations": ("traces/azure_llm_2023_conv.csv.gz", 1500),
    "Mooncake conversations": ("traces/mooncake_conversation_trace.jsonl.gz", 500),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run."""

    workload: str
    load: float
    part: int
    scheduler: str
    data: str
    predictor: str = "noisy"
    n_bins: int = 4
    cv: float | None = None  # Gamma gaps of this coefficient of variation; None: as they came
    control: tuple[int, int, float] | None = None  # alpha, delta, epsilon of Algorithm 2


@cache
def requests(workload: str, part: int, data: str) -> Trace:
    """The requests of one replication: a draw of the profile, or rows of the file."""
    source, n = TRACES[workload]
    if "/" not in source:
        return Workload(source=source, requests=n, rps_scale=1.0).load(part)
    whole = _file(str(Path(data) / source))
    first = part * (len(whole) // 5)
    rows = whole.take(slice(first, first + n))
    return replace(rows, arrival_s=rows.arrival_s - rows.arrival_s[0])


@cache
def _file(path: str) -> Trace:
    return Workload(source=path, rps_scale=1.0).load()


@cache
def at_load(workload: str, load: float, part: int, data: str, cv: float | None) -> Trace:
    """The same requests at this load of continuous batching."""
    trace = requests(workload, part, data)
    if cv is not None:
        rng, shape = np.random.default_rng([part, 17]), cv**-2
        gaps = rng.gamma(shape, 1 / shape, len(trace) - 1)
        trace = replace(trace, arrival_s=np.concatenate(([0.0], np.cumsum(gaps))))
    run = _simulate(trace, Task(workload=workload, load=load, part=part, data=data, **_FCFS))
    assert isinstance(run, ContinuousRun)
    own = step_load(run.requests, _replica(run), step_time_from_spec(STEP), N_GPUS)
    return replace(trace, arrival_s=trace.arrival_s * (own / load))


_FCFS = {"scheduler": "continuous_static"}


def _replica(run: ContinuousRun) -> IterationSettings:
    names = IterationSettings.__dataclass_fields__
    return IterationSettings(**{k: v for k, v in run.config.items() if k in names})


def _simulate(trace: Trace, task: Task) -> Run:
    scheduler: str | IterationScheduler = task.scheduler
    if task.control is not None:
        scheduler = IterationScheduler(Fcfs, partial(_limit, task.control), uses_predictions=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lengths that tie make fewer bins
        return simulate(
            trace,
            scheduler,
            n_gpus=N_GPUS,
            step_time=STEP,
            serving=SERVING,
            slo=Slo(latency_s=None, tpot_s=TPOT_SLA_S),
            settings=Settings(batch_size=32, batch_max=256, batch_target_s=BATCH_TARGET_S),
            binning=Binning(n_bins=task.n_bins),
            predictor=task.predictor,
            seed=task.part,
        )


def _limit(control: tuple[int, int, float]) -> DynamicLimit:
    alpha, delta, epsilon = control
    most = SERVING.max_running
    controller = PaperController(
        TPOT_SLA_S, batch_max=most, alpha=alpha, delta=delta, tolerance_share=epsilon
    )
    return DynamicLimit(CltLimit(400_000), most, controller)


def row(task: Task) -> dict[str, Any]:
    """The figures of one run, by name."""
    trace = at_load(task.workload, task.load, task.part, task.data, task.cv)
    run = _simulate(trace, task)
    ttft_s, tpot_s, e2e_s = _streamed(run) if isinstance(run, BatchRun) else _stamped(run)
    figures = {
        "ttft_mean_s": ttft_s.mean(),
        "ttft_p99_s": np.quantile(ttft_s, 0.99),
        "tpot_mean_ms": 1e3 * np.nanmean(tpot_s),
        "tpot_p99_ms": 1e3 * np.nanquantile(tpot_s, 0.99),
        "e2e_mean_s": e2e_s.mean(),
        "e2e_p99_s": np.quantile(e2e_s, 0.99),
        "load_label": run.load_label,
    }
    for name, (most_ttft_s, most_tpot_s) in OBJECTIVES.items():
        within = (ttft_s <= most_ttft_s) & ~(tpot_s > most_tpot_s)
        figures[f"within_{name}"] = 100 * within.sum() / len(trace)
    return asdict(task) | figures


def _stamped(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert isinstance(run, ContinuousRun)
    table, done = run.requests, run.requests.completed
    gaps = np.where(table.output_tokens > 1, table.output_tokens - 1.0, np.nan)
    ttft_s = table.first_token_s - table.arrival_s
    tpot_s = (table.finish_s - table.first_token_s) / gaps
    return ttft_s[done], tpot_s[done], (table.finish_s - table.arrival_s)[done]


def _streamed(run: BatchRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As if a batch streamed its tokens: the first after its prefill, then one a step.

    That is the best a batch server can do: its requests are done at their own last token.
    """
    step, batches, table = step_time_from_spec(STEP), run.batches, run.requests
    prefill_s = np.array(
        [
            step.step_s([(int(prompt), 0)] * int(size), 0, 0)
            for prompt, size in zip(batches.max_prompt_tokens, batches.size, strict=True)
        ]
    )
    decodes = np.maximum(batches.max_output_tokens - 1, 1)
    each_s = (batches.finish_s - batches.start_s - prefill_s) / decodes
    done = table.completed
    batch, arrival_s = table.batch[done], table.arrival_s[done]
    first_s = batches.start_s[batch] + prefill_s[batch]
    gaps = np.maximum(table.output_tokens[done] - 1.0, 0)
    tpot_s = np.where(gaps > 0, each_s[batch], np.nan)
    return first_s - arrival_s, tpot_s, first_s + gaps * each_s[batch] - arrival_s


def rows(tasks: Sequence[Task], jobs: int) -> pd.DataFrame:
    """All of them, over the cores."""
    with pool(jobs=jobs, most=len(tasks)) as workers:
        found = dict(workers.results(row, list(tasks)))
    return pd.DataFrame([found[number] for number in range(len(tasks))])
