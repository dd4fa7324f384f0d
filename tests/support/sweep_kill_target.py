"""The sweep that `test_sweep_kill` kills: `python sweep_kill_target.py OUT JOBS`."""

from __future__ import annotations

import sys
from pathlib import Path

from llmsched import Workload
from llmsched.simulation.sweep.sweep import RunConfig, sweep


def configs() -> list[RunConfig]:
    """Many small runs on many small workloads, so that a kill meets every kind of writing."""
    return [
        RunConfig(workload=Workload(requests=40 + seed), scheduler=scheduler, n_gpus=1, seed=seed)
        for seed in range(24)
        for scheduler in ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic")
    ]


if __name__ == "__main__":
    # what a sweep loads on first use, so that a kill soon after "ready" comes in its midst
    import joblib  # noqa: F401
    import pandas as pd  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    print("ready", flush=True)
    sweep(configs(), Path(sys.argv[1]), jobs=int(sys.argv[2]))
