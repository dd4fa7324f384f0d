"""Optimal edges under dynamic batching: made for which batch size, and what they do to latency.

    python experiments/optimal_edges/dynamic.py

`multi_bin_dynamic` serves the embedded workload, in saturation and at three loads. Optimal edges
for batches of 2 to 128 are set against equal mass, paired over replications.
"""

from __future__ import annotations

import argparse
import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from llmsched import Binning, Settings, Workload, simulate
from llmsched.metrics.intervals import mean_interval

LOADS = (("at time 0", 1, 200.0), ("200x", 4, 200.0), ("200x", 16, 200.0), ("20x", 4, 20.0))
PREDICTORS = ("oracle", "noisy")
CHOICES = ("round-robin", "longest-queue")
EDGES = ("equal-mass", *(f"optimal:{size}" for size in (2, 4, 8, 16, 32, 128)))
MEASURED = ("throughput_rps", "latency_mean_s", "batch_size_mean")


def main() -> None:
    """Parse, run, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path(__file__).parent / "out")
    parser.add_argument("--requests", type=int, default=10_000, metavar="N")
    parser.add_argument("--replications", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes")
    options = parser.parse_args()

    import pandas as pd

    seeds = range(options.seed, options.seed + options.replications)
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = pool.map(partial(replication, requests=options.requests), seeds)
        frame = pd.DataFrame(list(itertools.chain.from_iterable(rows)))
    table = []
    for key, case in frame.groupby(["load", "predictor", "choice"], sort=False):
        wide = case.pivot(index="seed", columns="edges", values=list(MEASURED))
        for edges in EDGES[1:]:
            row = dict(zip(("load", "predictor", "choice"), key, strict=True)) | {"edges": edges}
            for name in MEASURED[:2]:
                change = 100 * (wide[name][edges] / wide[name]["equal-mass"] - 1)
                interval = mean_interval(change.to_numpy())
                row |= {f"{name} %": interval.mean, "±": interval.half_width}
                row[f"{name} ±"] = row.pop("±")
            table.append(row | {"batch": wide["batch_size_mean"][edges].mean()})
    result = pd.DataFrame(table)
    options.out.mkdir(parents=True, exist_ok=True)
    result.to_csv(options.out / "dynamic.csv", index=False)
    print(result.to_string(index=False, float_format=lambda x: f"{x:.2f}"))


def replication(seed: int, *, requests: int) -> list[dict[str, object]]:
    """Every load, predictor, order of bins and kind of edges, on the requests of one seed."""
    rows = []
    for (load, n_gpus, scale), predictor, choice, edges in itertools.product(
        LOADS, PREDICTORS, CHOICES, EDGES
    ):
        trace = Workload(requests=requests, rps_scale=scale).load(seed)
        if load == "at time 0":
            trace = replace(trace, arrival_s=np.zeros(len(trace)))
        run = simulate(
            trace,
            "multi_bin_dynamic",
            n_gpus=n_gpus,
            latency="reference",
            slo=1.0,
            predictor=predictor,
            binning=Binning.parse(edges),
            settings=Settings(bin_choice=choice),
            seed=seed,
        )
        figures = run.metrics.to_dict()
        rows.append(
            {
                "load": f"{load}, {n_gpus} GPUs",
                "predictor": predictor,
                "choice": choice,
                "edges": edges,
                "seed": seed,
                **{name: figures[name] for name in MEASURED},
            }
        )
    return rows


if __name__ == "__main__":
    main()
