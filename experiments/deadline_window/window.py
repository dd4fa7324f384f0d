"""What `deadline_window` gains over every other scheduler, where, and from which of its parts.

    python experiments/deadline_window/window.py --data FOLDER   # or: make window ARGS="--data ..."

One row per run goes to `OUT/runs.csv` as it is done, and a second start goes on from there; the
tables are `OUT/RESULTS.md` and the figure `OUT/gain.png`. Without `--data` the only traffic is the
synthetic one. `--half tune` takes the seeds and parts that the constants were chosen on.
"""

from __future__ import annotations

import argparse
import csv
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from report import write_report

from llmsched import Binning, Scheduler, Settings, Slo, Trace, Workload, simulate
from llmsched.schedulers.window.policy import WindowPolicy, WindowRule

HERE = Path(__file__).parent
N_GPUS = 4
N_REPLICATIONS = 5
N_PARTS = 2 * N_REPLICATIONS  # of a long file: every second one chose the constants
LOADS = (0.4, 0.7, 0.9)
BURST_REQUESTS = 5000
BUSY = "burstgpt/burstgpt_1_busy_window_"
ROWS = {  # short files and into how many parts each is cut
    "tune": ((f"{BUSY}3567_7102s.csv", 2),),
    "judge": ((f"{BUSY}0_136s.csv", 3), ("burstgpt/burstgpt_1_head400.csv", 2)),
}
FILES = {
    "Azure conversation": "traces/azure_llm_2023_conv.csv.gz",
    "Mooncake": "traces/mooncake_conversation_trace.jsonl.gz",
}
TRAFFIC = ("BurstGPT-like", *FILES, "BurstGPT rows")
HARDWARE = {  # latency model, which says the memory too, and two SLAs [s]
    "reference": ("reference", (1.0, 3.0)),
    "H100": ("h100-llama-3-8b-vllm", (5.0, 10.0)),
    "A100": ("a100-llama-3-8b-vllm", (10.0, 20.0)),
}
ONE, SERVICE = Binning(n_bins=1), Binning(n_bins=4, by="service", rule="equal-mass")


@dataclass(frozen=True)
class Entry:
    """One scheduler with its settings."""

    scheduler: str | Callable[[Settings], Scheduler] = "static_fifo"
    settings: dict[str, Any] = field(default_factory=dict)
    binning: Binning = ONE
    predictor: str = "noisy"


def window(settings: Settings, rule: WindowRule) -> Scheduler:
    """`deadline_window` with other constants."""
    policy = WindowPolicy(
        settings.latency, settings.deadline_s, settings.kv_tokens, settings.batch_max, rule
    )
    return Scheduler(
        policy=policy,
        sees="requests",
        batch_max=settings.batch_max,
        capacity_tokens=settings.kv_tokens,
    )


def variant(**constants: Any) -> Entry:
    return Entry(partial(window, rule=WindowRule(**constants)))


OTHERS = {
    **{f"static {size}": Entry(settings={"batch_size": size}) for size in (8, 32, 64, 128)},
    "dynamic": Entry("dynamic_no_bins"),
    "multi-bin 4": Entry("multi_bin_dynamic", binning=SERVICE),
    "multi-bin 16": Entry("multi_bin_dynamic", binning=replace(SERVICE, n_bins=16)),
    "adaptive": Entry("multi_bin_adaptive", binning=Binning(n_bins=4)),
}
OURS = {"window": Entry("deadline_window")}
ABLATION = {
    "late weigh 0.1": variant(late_weight=0.1),
    "late weigh 1": variant(late_weight=1.0),
    "late weigh 4": variant(late_weight=4.0),
    "all who can be in time worth 1": variant(look_ahead=float("inf")),
    "does not look at the queue ahead": variant(queue_ahead=0.0),
    "learns nothing": variant(learning_rate=0.0),
    "learns by size alone": variant(by_length=False),
    "order: predicted output": variant(order="output"),
    "sizes 1, 8, 64, 128": variant(sizes=(1, 8, 64, 128)),
    "16 windows of a size": variant(positions=16),
    "looks anew at every batch": variant(refresh=0.0),
}
PREDICTORS = ("oracle", "noisy", "noisy:1.5", "prompt-power-law")
BELIEVERS = ("window", "multi-bin 4", "adaptive")
ALL: dict[str, Entry] = {
    **OURS,
    **OTHERS,
    **ABLATION,
    **{
        f"{name}, {predictor}": replace({**OURS, **OTHERS}[name], predictor=predictor)
        for name, predictor in product(BELIEVERS, PREDICTORS)
        if predictor != "noisy"
    },
}


@dataclass(frozen=True)
class Task:
    """All runs on one replication's requests, of which some may be done."""

    traffic: str
    hardware: str
    replication: int
    half: str
    data: Path | None
    done: frozenset[tuple[str, ...]]
    parts_too: bool  # the ablation and the predictors, at the middle load


def n_replications(traffic: str, half: str) -> int:
    if traffic == "BurstGPT rows":
        return sum(parts for _, parts in ROWS[half])
    return N_REPLICATIONS


def requests_of(task: Task) -> Trace:
    """One replication's requests, in real time: drawn, or a part of a file."""
    judged = task.half == "judge"
    if task.traffic == "BurstGPT-like":
        workload = Workload(source="burstgpt-like", requests=BURST_REQUESTS, rps_scale=1.0)
        return workload.load(task.replication + 1000 * judged)
    assert task.data is not None
    if task.traffic in FILES:
        return part_of(
            task.data / FILES[task.traffic], 2 * task.replication + judged, n_parts=N_PARTS
        )
    parts = [(name, part, n) for name, n in ROWS[task.half] for part in range(n)]
    name, part, n_parts = parts[task.replication]
    return part_of(task.data / name, part, n_parts=n_parts)


def part_of(path: Path, part: int, *, n_parts: int) -> Trace:
    trace = Workload(source=str(path), rps_scale=1.0).load(0)
    bounds = np.linspace(0, len(trace), n_parts + 1).astype(int)
    kept = trace.take(slice(bounds[part], bounds[part + 1]))
    return replace(kept, arrival_s=kept.arrival_s - kept.arrival_s[0])


def serve(trace: Trace, task: Task, entry: Entry, sla_s: float) -> Any:
    return simulate(
        trace,
        entry.scheduler,
        n_gpus=N_GPUS,
        latency=HARDWARE[task.hardware][0],
        binning=entry.binning,
        settings=Settings(**entry.settings),
        slo=Slo(latency_s=sla_s),
        predictor=entry.predictor,
        seed=task.replication,
    )


def saturation_rps(trace: Trace, task: Task) -> float:
    """Throughput of multi-bin in full batches, every request there at time 0: where ρ is 1."""
    full = Entry("multi_bin_dynamic", {"controller": "none"}, SERVICE)
    at_once = replace(trace, arrival_s=np.zeros(len(trace)))
    return float(serve(at_once, task, full, 10.0).metrics.throughput_rps)


def replication(task: Task) -> list[list[Any]]:
    """A row for every load, SLA and scheduler that is not done."""
    warnings.simplefilter("ignore")  # lengths beyond the measured range: see the README
    wanted = [
        (load, sla_s, entry, key)
        for load, sla_s in product(LOADS, HARDWARE[task.hardware][1])
        for entry in (ALL if task.parts_too and load == LOADS[1] else [*OURS, *OTHERS])
        for key in [(task.traffic, task.hardware, str(load), str(sla_s), entry)]
        if (*key, str(task.replication)) not in task.done
    ]
    if not wanted:
        return []
    trace = requests_of(task)
    full_rps = saturation_rps(trace, task)
    rows = []
    for load, sla_s, entry, key in wanted:
        scale = (len(trace) - 1) / trace.span_s / (load * full_rps)
        run = serve(replace(trace, arrival_s=trace.arrival_s * scale), task, ALL[entry], sla_s)
        found, requests = run.metrics, run.requests
        longest_s = float(np.nanmax(requests.start_s - requests.arrival_s))
        rows.append(
            [
                *(*key, task.replication, 100 * found.sla_violation_rate, found.goodput_rps),
                *(found.latency_p99_s, found.latency_mean_s, longest_s),
            ]
        )
    return rows


COLUMNS = (
    *("traffic", "hardware", "load", "sla_s", "entry", "replication"),
    *("late", "goodput_rps", "p99_s", "mean_s", "longest_wait_s"),
)


def tasks(options: argparse.Namespace, done: frozenset[tuple[str, ...]]) -> Iterator[Task]:
    traffic = TRAFFIC if options.data else TRAFFIC[:1]
    for name, hardware in product(traffic, HARDWARE):
        for number in range(min(options.replications, n_replications(name, options.half))):
            parts_too = number < options.ablations
            yield Task(name, hardware, number, options.half, options.data, done, parts_too)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the traces; see the README")
    parser.add_argument("--half", choices=("judge", "tune"), default="judge")
    parser.add_argument("--replications", type=int, default=N_REPLICATIONS)
    parser.add_argument("--ablations", type=int, default=2, help="replications of the ablation")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = options.out / f"runs-{options.half}.csv"
    if not runs.exists():
        runs.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with runs.open(encoding="utf-8", newline="") as file:
        done = frozenset(tuple(row[:6]) for row in csv.reader(file))
    with runs.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        with ProcessPoolExecutor(options.jobs) as pool:
            for rows in pool.map(replication, tasks(options, done)):
                writer.writerows(rows)
                file.flush()
    write_report(
        runs,
        options.out,
        others=list(OTHERS),
        ablation=list(ABLATION),
        load=LOADS[1],
        believers=BELIEVERS,
        predictors=PREDICTORS,
    )


if __name__ == "__main__":
    main()
