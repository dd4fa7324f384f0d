"""Step 1 on real rows, up to as many as there are: the Azure and BurstGPT part of MEASURED.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import measured_claims as c
import measured_rules as rules
import numpy as np
import pandas as pd
from measured_runs import PLAN_RPS_SCALE, on_hardware, run
from published_runs import H100, REFERENCE, Hardware
from published_text import head, line, number, text

from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.studies.stress.plan import SCHEDULERS, Plan

FILES = {
    "Azure 2023 conversation": Path("traces", "azure_llm_2023_conv.csv.gz"),
    "BurstGPT, first 400 rows": Path("burstgpt", "burstgpt_1_head400.csv"),
}
RATES = {"as it came": 1.0, f"{PLAN_RPS_SCALE:g}×": PLAN_RPS_SCALE}
MISSING = (
    "**NOT RUN ON ANY REAL ROW: no `--data` was given.** Give the folder that holds "
    + " and ".join(f"`{path.as_posix()}`" for path in FILES.values())
    + "."
)


class Place(NamedTuple):
    """Step 1 of one file at one rate on one hardware, its largest volume only."""

    name: str
    hardware: Hardware
    runs: pd.DataFrame


def real_rows(plan: Plan, data: Path | None, out: Path, *, jobs: int) -> str:
    """The tables and sentences of the real rows, or in bold that they were not run."""
    if data is None:
        return MISSING
    places = list(_places(plan, data, out, jobs))
    return "\n\n".join([volumes(plan, places), table(places), sentences(places)])


def _places(plan: Plan, data: Path, out: Path, jobs: int) -> Iterator[Place]:
    for title, path in FILES.items():
        for rate, rps_scale in RATES.items():
            for hardware in (REFERENCE, H100):
                on = on_hardware(plan, hardware, rps_scale=rps_scale)
                on = replace(on, workload=replace(on.workload, source=str(data / path)))
                folder = out / f"{path.name.split('.')[0]}-{rps_scale:g}-{hardware.latency}"
                runs = run(on, folder, jobs=jobs, steps=("step1",))["step1"]
                yield Place(f"{title}, {rate}", hardware, c.largest(runs))


def volumes(plan: Plan, places: list[Place]) -> str:
    """Which volumes the files do not have; what a profile's plan calls a million is all rows."""
    rows = {place.name.rpartition(",")[0]: place.runs["requests_asked"].iloc[0] for place in places}
    return " ".join(
        f"{name}: {n_rows:,} requests in all; of the plan's volumes, "
        f"{', '.join(f'{v:,}' for v in plan.volumes if v > n_rows) or 'none'} left out, "
        f"all {n_rows:,} run instead."
        for name, n_rows in rows.items()
    )


def table(places: list[Place]) -> str:
    """Violations, throughput, ρ and labels by scheduler, a group of columns per GPU count."""
    counts = sorted(set(places[0].runs["n_gpus"]))
    titles = [f"{n:.0f} GPU{'s' * (n > 1)}: late [%] | req/s | ρ, label" for n in counts]
    lines = head(["rows, rate", "latency set", "scheduler", *titles])
    lines[1] = "|---" * (3 + 3 * len(counts)) + "|"
    for place in places:
        for scheduler in SCHEDULERS:
            cells: list[str] = []
            for n_gpus in counts:
                chosen = place.runs["scheduler"] == scheduler
                members = place.runs[chosen & (place.runs["n_gpus"] == n_gpus)]
                late, rate = (_mean(members, metric) for metric in (c.LATE, "throughput_rps"))
                rho = number(float(members["offered_load"].astype(float).mean()))
                cells += [late, rate, f"{rho}, {_label(members)}"]
            lines.append(line([place.name, place.hardware.latency, scheduler, *cells]))
    return "\n".join(lines)


def _mean(members: pd.DataFrame, metric: str) -> str:
    """With half the interval over the predictor's seeds; alone where nothing is random."""
    if metric == c.LATE:
        return rules.points_text(mean_interval(100 * members[metric].to_numpy(float)), sign=False)
    rates = members[metric].to_numpy(float)
    return text(mean_interval(rates)) if np.ptp(rates) else number(float(rates[0]))


def _label(members: pd.DataFrame) -> str:
    found = set(members["load_label"])
    return found.pop() if len(found) == 1 else rules.labels(members)


def sentences(places: list[Place]) -> str:
    """One per file, rate and latency set: differences in violations, in points."""
    return "\n".join(f"- {_sentence(place)}" for place in places)


def _sentence(place: Place) -> str:
    parts = []
    for n_gpus in sorted(set(place.runs["n_gpus"])):
        here = place.runs[place.runs["n_gpus"] == n_gpus]
        gains = [_less(here, first, second) for first, second in _RIVALS]
        told = [
            f"{words} {rules.claim_cell(gain, -1)}"
            for words, gain in zip(_WORDS, gains, strict=True)
            if rules.verdict(gain, -1) != rules.NONE
        ]
        if len(told) < len(gains):
            told.append("the others within a point" if told else "all within a point")
        parts.append(f"{n_gpus:.0f} GPU{'s' * (n_gpus > 1)}: {', '.join(told)}")
    return f"{place.name}, {place.hardware.latency}. {'; '.join(parts)}."


def _less(here: pd.DataFrame, first: str, second: str) -> Interval:
    rates = (c.by_seed(here, c.LATE, scheduler=name) for name in (first, second))
    return mean_interval(list(c.less(*rates).values()))


_RIVALS = ((c.DYNAMIC, c.STATIC), (c.MULTI, c.DYNAMIC), (c.ADAPTIVE, c.MULTI))
_WORDS = ("dynamic less static", "multi-bin less dynamic", "adaptive less multi-bin")
