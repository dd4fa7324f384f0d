"""Runs of a stress step by hand, and the tiny plan that its tests share."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmsched import Hardware, Scenario, Slo, Workload
from llmsched.prediction.binning import Binning
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.step import StepResult
from llmsched.studies.stress.steps import STEPS
from llmsched.studies.stress.tables import METRICS, PER_BIN_METRICS

STEP1, STEP2, STEP2B, STEP3 = STEPS
ALL = ("step1", "step2", "step3")
# what the plan's numbers follow from, whatever the defaults of a scenario are
BASE = Scenario(
    workload=Workload(rps_scale=200.0),
    hardware=Hardware(latency="reference"),
    slo=Slo(latency_s=1.0),
)
TINY = Plan(
    volumes=(60, 120),
    gpu_counts=(1, 2),
    bins=(1, 3),
    loads=(0.7, 0.9),
    replications=2,
    base=replace(BASE, binning=Binning(n_bins=2)),
)
TINY_OPTIONS = ("--volumes", "60,120", "--seeds", "2", "--jobs", "1", "--tables-only")
# a tiny run has its bins merged now and then, which is the runs' affair
MERGED = "ignore:.*equal-mass bins asked for.*:UserWarning"
_USUAL: dict[str, Any] = {
    **dict.fromkeys(METRICS[:17], 1.0),
    "status": "done",
    "error": None,
    "notes": None,
    "random": True,
    "scheduler": "multi_bin_dynamic",
    "n_gpus": 1.0,
    "requests": 10,
    "requests_asked": 10,
    "completed": 10,
    "rejected": 0,
    "seed": 0,
    "n_bins": 4,
    "target_load": math.nan,
    "offered_load": 0.5,
    "load_label": "stable",
    "sla_violation_rate": 0.1,
    "goodput_rps": 9.0,
    "throughput_rps": 10.0,
}


def runs_of(*rows: dict[str, Any]) -> pd.DataFrame:
    """Runs with the columns that the tables need; what a row leaves out is as usual."""
    return pd.DataFrame([_USUAL | {"key": f"{i}"} | row for i, row in enumerate(rows)])


def result_of(step: Any, *rows: dict[str, Any]) -> StepResult:
    """What the runs of these rows amount to; nothing is random unless a row says so."""
    runs = runs_of(*({"random": False} | row for row in rows))
    return StepResult.of(step, runs, Plan(base=BASE))


def bins_of(*given: dict[str, float]) -> list[dict[str, float]]:
    """Bins of a run; what is not given is 1."""
    return [
        {"bin": index, **dict.fromkeys(PER_BIN_METRICS, 1.0), **one}
        for index, one in enumerate(given)
    ]


def write_trace(path: Path, n: int = 80, *, gap_s: float = 1.0, tokens: int = 0) -> Path:
    """A request every `gap_s` seconds, of unequal lengths or of so many prompt tokens."""
    lengths = np.random.default_rng(3).integers(20, 900, (n, 2))
    rows = [f"{i * gap_s},{tokens or p},{o}" for i, (p, o) in enumerate(lengths)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    return path


def tables(out: Path) -> dict[str, bytes]:
    """Every table of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("step*"))}
