"""What an earlier simulator of these schedulers published, beside ours: PUBLISHED.md.

    python experiments/stress/published.py --jobs 2

`published.csv` has its results for BurstGPT_1.csv at 200 times the recorded rate: file order,
failures kept, the reference formula, bins by the prompt's power law, SLA 1 s. That file is not
here: ours run on the embedded profile at the published arrival rate, with that predictor, and up to
10,000 requests with conversations from midnight on, which is how the file begins. Runs are kept: a
second start does only what is missing.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pandas as pd

from llmsched import Binning, Hardware, Scenario, Slo, Workload
from llmsched._util.text import count_text, interval_text, number_text
from llmsched.metrics.intervals import mean_interval
from llmsched.simulation.sweep.sweep import sweep

HERE = Path(__file__).parent
# the published arrivals per second: throughput where next to nothing waited; for 100,000, where
# there is no such row, from the file's requests per day
RATES_PER_S = {1_000: 4.05, 10_000: 6.2894, 100_000: 24.4, 1_000_000: 53.9}
MIDNIGHT_S = 12 * 3600.0  # the profile begins at noon
SHOWN = {  # title, and what is multiplied by
    "sla_violation_rate": ("violations [%]", 100),
    "throughput_rps": ("requests/s", 1),
    "latency_mean_s": ("mean latency [s]", 1),
}

PAGE = """# Published values of an earlier simulator, beside ours

**Throughput agrees within 5 % in {n_rate} of {n} rows, violations within 10 points in {n_late}.**
Our mean latency is the lower one in {n_faster}.

Written by `make published`; do not edit. The published results are for BurstGPT_1.csv, which is not
here; ours are for the embedded profile at the same arrival rate (see `published.py`). Each cell:
published | ours, with half the 95 % Student-t interval over {seeds}.

{table}

Throughput differs most for bins on one and two overloaded GPUs. Algorithm 2 as published cannot
limit a batch below 9. With a limit that may reach 1, the longest bin starves and bins fall below
static FIFO, as published (`tests/experiments/test_stress_pages.py`).
"""


@lru_cache
def workload(requests: int, seed: int) -> Workload:
    """The profile's requests at the published arrival rate, which each seed is scaled to."""
    found = Workload(requests=requests, failures="keep", rps_scale=1.0)
    if requests <= 10_000:
        found = replace(found, window_s=(MIDNIGHT_S, math.inf), log_type="Conversation log")
    trace = found.load(seed)
    scale = RATES_PER_S[requests] * trace.span_s / len(trace)
    return replace(found, rps_scale=float(f"{scale:.6g}"))


def scenario(row: pd.Series, seed: int) -> Scenario:
    """Our run of a published row."""
    return Scenario(
        workload=workload(int(row["requests"]), seed),
        scheduler=row["scheduler"],
        hardware=Hardware(n_gpus=int(row["n_gpus"]), latency="reference"),
        slo=Slo(latency_s=1.0),
        binning=Binning(n_bins=int(row["n_bins"])),
        predictor="prompt-power-law",
        seed=seed,
    )


def table(published: pd.DataFrame, found: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A row per published one: its values, and ours with their intervals."""
    rows = []
    for (_, row), ours in zip(published.iterrows(), found, strict=True):
        gpus, bins = count_text(row["n_gpus"], "GPU"), count_text(row["n_bins"], "bin")
        cells = {"run": f"{row['scheduler']}, {row['requests']:,} requests, {gpus}, {bins}"}
        for metric, (title, factor) in SHOWN.items():
            one = mean_interval(factor * ours[metric].to_numpy())
            text = interval_text(one.mean, one.low, one.high)
            cells[title] = f"{number_text(factor * row[metric])} \\| {text}"
        rows.append(cells)
    return pd.DataFrame(rows)


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "out" / "published")
    parser.add_argument("--report", type=Path, default=HERE / "PUBLISHED.md")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most-requests", type=int, default=1_000_000, help="no larger rows")
    options = parser.parse_args()
    published = pd.read_csv(HERE / "published.csv")
    published = published[published["requests"] <= options.most_requests]
    asked = [
        [scenario(row, seed) for seed in range(options.seeds)] for _, row in published.iterrows()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of equal edges that are merged
        runs = sweep([one for several in asked for one in several], options.out, jobs=options.jobs)
    if len(failed := runs[runs["status"] == "failed"]):
        raise SystemExit(f"{len(failed)} runs failed, the first with: {failed['error'].iloc[0]}")
    by_key = runs.set_index("key")
    found = [by_key.loc[[one.key() for one in several], list(SHOWN)] for several in asked]
    means = pd.DataFrame([ours.mean() for ours in found], index=published.index)
    ratio, less = means / published[list(SHOWN)], means - published[list(SHOWN)]
    page = PAGE.format(
        n=len(published),
        n_rate=(abs(ratio["throughput_rps"] - 1) <= 0.05).sum(),
        n_late=(abs(less["sla_violation_rate"]) <= 0.1).sum(),
        n_faster=(less["latency_mean_s"] < 0).sum(),
        seeds=count_text(options.seeds, "seed"),
        table=table(published, found).to_markdown(index=False),
    )
    options.report.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
