"""What optimal bin edges add over equal-mass ones, and when they cost: README.md.

    python experiments/optimal_edges/edges.py --data ../shared/data --jobs 2

Both kinds of edges share the requests and the predictor's noise of each replication. Without
`--data` only the embedded workload is run.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from llmsched import Binning, Hardware, Scenario, Settings, Slo, Trace, Workload, simulate
from llmsched._util.streams import Streams
from llmsched._util.text import interval_text
from llmsched.metrics.intervals import mean_interval
from llmsched.prediction.optimal_edges import expected_batch_max
from llmsched.simulation.workers import pool

HERE = Path(__file__).parent
AZURE = "traces/azure_llm_2023_conv.csv.gz"
GSM8K = "lengths/gsm8k_gpt3_solution_lengths.csv.gz"
SETUPS = (("multi-bin-paper", "output"), ("reference", "output"), ("reference", "total"))
PREDICTORS = ("oracle", "noisy")
BATCH_SIZE = 8  # of multi_bin_only
LOADS = {"all at time 0, 1 GPU": (1, 0.0), "200 ×, 4 GPUs": (4, 200.0), "20 ×, 4 GPUs": (4, 20.0)}

PAGE = """# What optimal bin edges add over equal-mass ones

**With true lengths optimal edges gain in {gain} of {n_oracle} cases in saturation; with the default
predictor they gain in {noisy_gain} and lose in {noisy_loss} of {n_noisy}.** The edges are fitted to
predictions as if these were true. Bin by what the time depends on, and take
`--bin-choice longest-queue`: round robin gives small bins too many turns.

Made by `python experiments/optimal_edges/edges.py --data FOLDER`; do not edit. A cell is the change
against equal mass [%], paired over {replications} replications, ± half its 95 % interval; it is a
gain or a loss where the interval leaves out 0.

## Saturation

Throughput of `multi_bin_only`: {requests:,} requests at time 0, one GPU, batches of {batch_size}.
In brackets what the ratio of the objectives promises for the lengths as predicted.

{saturation}

## Dynamic batches

`multi_bin_dynamic`, 4 bins by output, `reference`, {requests:,} BurstGPT-like requests.

{dynamic}

Azure: Azure/AzurePublicDataset (CC-BY-4.0). GSM8K: openai/grade-school-math (MIT), answers of
GPT-3 175B to the 1,319 test questions. Both are drawn with replacement.
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of a table: requests, and how they are served."""

    table: str
    row: tuple[str, ...]
    column: str
    workload: str
    rps_scale: float = 0.0  # 0: all at time 0
    scenario: Scenario
    by: str = "output"
    n_bins: int = 4


def cases(workloads: list[str]) -> Iterator[Case]:
    """Every case, in the order of the tables."""
    base = Scenario(slo=Slo(latency_s=1.0))
    for (latency, by), workload, predictor, k in itertools.product(
        SETUPS, workloads, PREDICTORS, (2, 4, 8)
    ):
        yield Case(
            table="saturation",
            row=(f"{latency}, by {by}", workload, predictor),
            column=f"k = {k}",
            workload=workload,
            scenario=replace(
                base,
                scheduler="multi_bin_only",
                settings=Settings(batch_size=BATCH_SIZE),
                hardware=Hardware(n_gpus=1, latency=latency),
                predictor=predictor,
            ),
            by=by,
            n_bins=k,
        )
    for (load, (n_gpus, scale)), predictor, choice in itertools.product(
        LOADS.items(), PREDICTORS, ("round-robin", "longest-queue")
    ):
        yield Case(
            table="dynamic",
            row=(load, predictor),
            column=choice,
            workload="BurstGPT-like",
            rps_scale=scale,
            scenario=replace(
                base,
                settings=Settings(bin_choice=choice),
                hardware=Hardware(n_gpus=n_gpus, latency="reference"),
                predictor=predictor,
            ),
        )


def requests_of(name: str, n: int, rps_scale: float, seed: int, data: Path | None) -> Trace:
    """The requests of a workload in one replication."""
    if data is not None and name in REAL:
        lengths = REAL[name](data)
        rows = lengths[Streams.of_seed(seed).requests.integers(len(lengths), size=n)]
        prompt, output = rows.astype(np.int32).T
        return Trace(arrival_s=np.zeros(n), prompt_tokens=prompt, output_tokens=output)
    trace = Workload(requests=n, rps_scale=rps_scale or 1.0).load(seed)
    if not rps_scale:
        trace = replace(trace, arrival_s=np.zeros(n))
    if name.endswith("shuffled"):  # neighbours in a batch no longer resemble each other
        order = Streams.of_seed(seed).jitter.permutation(n)
        columns = {"prompt_tokens": trace.prompt_tokens, "output_tokens": trace.output_tokens}
        trace = replace(trace, **{column: tokens[order] for column, tokens in columns.items()})
    return trace


@cache
def _azure(data: Path) -> np.ndarray:
    trace = Workload(source=str(data / AZURE)).load()
    return np.column_stack([trace.prompt_tokens, trace.output_tokens])


@cache
def _gsm8k(data: Path) -> np.ndarray:
    return pd.read_csv(data / GSM8K)[["question_bpe", "out_175b_bpe"]].to_numpy()


REAL: dict[str, Callable[[Path], np.ndarray]] = {"Azure conversation": _azure, "GSM8K": _gsm8k}


def replication(task: tuple[Case, int], *, requests: int, data: Path | None) -> dict[str, object]:
    """Optimal less equal-mass edges in one case and replication [%], and what is promised."""
    case, seed = task
    trace = requests_of(case.workload, requests, case.rps_scale, seed, data)
    found = {}
    for edges in ("equal-mass", "optimal"):
        binning = Binning.parse(edges, n_bins=case.n_bins, by=case.by)
        run = simulate(replace(case.scenario, workload=trace, binning=binning, seed=seed))
        tokens = run.requests.predicted_tokens
        tokens = tokens if case.by == "output" else tokens + trace.prompt_tokens
        objective = expected_batch_max(tokens, run.edges, batch_size=BATCH_SIZE)
        found[edges] = (run.metrics.throughput_rps, run.metrics.latency_mean_s, 1 / objective)
    ratios = np.array(found["optimal"]) / np.array(found["equal-mass"])
    changes = dict(zip(("throughput", "latency", "promised"), 100 * (ratios - 1), strict=True))
    where = {"table": case.table, "row": case.row, "column": case.column, "seed": seed}
    return where | changes


def cell(changes: pd.Series) -> str:
    """The mean change with half its interval."""
    found = mean_interval(changes.to_numpy())
    return interval_text(found.mean, found.low, found.high, sign=True)


def tables(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Both tables of the page."""
    rows: dict[str, dict[tuple[str, ...], dict[str, str]]] = {"saturation": {}, "dynamic": {}}
    for (table, row, column), one in runs.groupby(["table", "row", "column"], sort=False):
        cells = rows[table].setdefault(row, {})
        if table == "saturation":
            cells[column] = f"{cell(one['throughput'])} ({one['promised'].mean():.1f})"
        else:
            cells.setdefault("throughput", cell(one["throughput"]))
            cells[f"mean latency, {column}"] = cell(one["latency"])
    heads = {
        "saturation": ("T and bins", "workload", "predictor"),
        "dynamic": ("load", "predictor"),
    }
    return {
        name: pd.DataFrame(
            [dict(zip(heads[name], row, strict=True)) | cells for row, cells in found.items()]
        )
        for name, found in rows.items()
    }


def counts(runs: pd.DataFrame) -> dict[str, int]:
    """How many cases in saturation gain, and how many lose, by more than their noise."""
    found = runs[runs["table"] == "saturation"].groupby(["row", "column"])["throughput"]
    intervals = {key: mean_interval(one.to_numpy()) for key, one in found}
    oracle = [one for (row, _), one in intervals.items() if row[-1] == "oracle"]
    noisy = [one for (row, _), one in intervals.items() if row[-1] == "noisy"]
    return {
        "n_oracle": len(oracle),
        "n_noisy": len(noisy),
        "gain": sum(one.low > 0 for one in oracle),
        "noisy_gain": sum(one.low > 0 for one in noisy),
        "noisy_loss": sum(one.high < 0 for one in noisy),
    }


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the real traces and lengths")
    parser.add_argument("--report", type=Path, default=HERE / "README.md", metavar="FILE")
    parser.add_argument("--requests", type=int, default=8_000, metavar="N")
    parser.add_argument("--replications", type=int, default=12, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    options = parser.parse_args()
    names = ["BurstGPT-like", "BurstGPT-like, shuffled", *(REAL if options.data else ())]
    seeds = range(options.seed, options.seed + options.replications)
    tasks = list(itertools.product(cases(names), seeds))
    work = partial(replication, requests=options.requests, data=options.data)
    with pool(jobs=options.jobs) as workers:
        done = dict(workers.results(work, tasks))
    runs = pd.DataFrame([done[number] for number in range(len(tasks))])
    page = PAGE.format(
        replications=options.replications,
        requests=options.requests,
        batch_size=BATCH_SIZE,
        **{name: table.to_markdown(index=False) for name, table in tables(runs).items()},
        **counts(runs),
    )
    options.report.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
