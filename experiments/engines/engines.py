"""What is left of multi-bin and SLA batching where requests may join at every step.

Batch schedulers beside continuous ones on the same requests, GPUs and step times. Writes every run
to OUT/engines.csv, the figure beside this file, and docs/engines.md.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import plotnine as p9
from runs import TRACES, Task, rows

from llmsched.figures.style import theme
from llmsched.metrics.intervals import Interval, mean_interval

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "engines.md"
FIGURE = HERE / "engines.png"
LOADS = (0.1, 0.5, 0.7, 0.9)
PARTS = 5
BATCH = (
    *("static_fifo", "dynamic_no_bins", "multi_bin_dynamic"),
    *("multi_bin_adaptive", "deadline_window"),
)
STEP = ("continuous_static", "continuous_dynamic", "continuous_multi_bin", "continuous_sjf")
COLOURS = {
    "static": "#7f7f7f",
    "dynamic": "#0072b2",
    "multi-bin": "#d55e00",
    "adaptive / sjf": "#009e73",
    "deadline window": "#cc79a7",
}
KIND = dict(zip(BATCH, COLOURS, strict=True)) | dict(zip(STEP, COLOURS, strict=False))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A conclusion, and the paired comparison that it stands on."""

    text: str
    scheduler: str
    against: str
    metric: str
    load: float
    better: int  # the sign of a difference that bears it out
    points: bool = False  # a difference in points, not a relative one


CLAIMS = (
    Claim(
        text="Joining at every step beats the best batch server: requests within 10 s and 100 ms",
        scheduler="continuous_static",
        against="deadline_window",
        metric="within_relaxed",
        load=0.5,
        better=1,
        points=True,
    ),
    Claim(
        text="Bins help a batch server: mean latency, low load",
        scheduler="multi_bin_dynamic",
        against="dynamic_no_bins",
        metric="e2e_mean_s",
        load=0.1,
        better=-1,
    ),
    Claim(
        text="Bins help a batch server: mean latency",
        scheduler="multi_bin_dynamic",
        against="dynamic_no_bins",
        metric="e2e_mean_s",
        load=0.7,
        better=-1,
    ),
    Claim(
        text="A deadline window beats bins on a batch server: requests within 10 s and 100 ms",
        scheduler="deadline_window",
        against="multi_bin_adaptive",
        metric="within_relaxed",
        load=0.5,
        better=1,
        points=True,
    ),
    Claim(
        text="Bins help where requests join at every step: mean latency",
        scheduler="continuous_multi_bin",
        against="continuous_static",
        metric="e2e_mean_s",
        load=0.7,
        better=-1,
    ),
    Claim(
        text="The same, close to saturation",
        scheduler="continuous_multi_bin",
        against="continuous_static",
        metric="e2e_mean_s",
        load=0.9,
        better=-1,
    ),
    Claim(
        text="Shortest first shortens the mean wait for a first token",
        scheduler="continuous_sjf",
        against="continuous_static",
        metric="ttft_mean_s",
        load=0.9,
        better=-1,
    ),
    Claim(
        text="Shortest first does not lengthen the longest waits: p99 of the first token",
        scheduler="continuous_sjf",
        against="continuous_static",
        metric="ttft_p99_s",
        load=0.9,
        better=-1,
    ),
    Claim(
        text="Shortest first serves more requests within 10 s and 100 ms",
        scheduler="continuous_sjf",
        against="continuous_static",
        metric="within_relaxed",
        load=0.9,
        better=1,
        points=True,
    ),
    Claim(
        text="The SLA limit (Algorithms 1 and 2) lowers p99 of the time per token",
        scheduler="continuous_dynamic",
        against="continuous_static",
        metric="tpot_p99_ms",
        load=0.7,
        better=-1,
    ),
    Claim(
        text="The SLA limit brings more requests within 1 s and 50 ms",
        scheduler="continuous_dynamic",
        against="continuous_static",
        metric="within_interactive",
        load=0.7,
        better=1,
        points=True,
    ),
)


def difference(table: pd.DataFrame, claim: Claim, workload: str) -> Interval:
    """The claim's paired difference on one workload [%, or points]."""
    cell = table[(table["workload"] == workload) & (table["load"] == claim.load)]
    by_part = cell.pivot(index="part", columns="scheduler", values=claim.metric)
    ours, base = by_part[claim.scheduler], by_part[claim.against]
    return mean_interval((ours - base if claim.points else 100 * (ours / base - 1)).to_numpy())


def verdict(claim: Claim, found: list[Interval]) -> str:
    """Whether the intervals bear the claim out, in words."""
    n = sum(one.significant and one.mean * claim.better > 0 for one in found)
    against = sum(one.significant and one.mean * claim.better < 0 for one in found)
    words = {len(found): "yes", 0: "no"}.get(n, f"on {n} of {len(found)}")
    return words + (f"; the reverse on {against}" if against else "")


def claims_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row per claim: the paired differences and the verdict."""
    found = []
    for claim in CLAIMS:
        intervals = [difference(table, claim, workload) for workload in TRACES]
        unit = " pts" if claim.points else " %"
        cells = [_text(one) + unit for one in intervals]
        found.append(
            {
                "conclusion": claim.text,
                "ρ": f"{claim.load:g}",
                **dict(zip(TRACES, cells, strict=True)),
                "borne out": verdict(claim, intervals),
            }
        )
    return pd.DataFrame(found)


def _text(one: Interval) -> str:
    digits = 1 if one.half_width < 2 else 0
    return f"{one.mean:+.{digits}f} ± {one.half_width:.{digits}f}"


def levels_table(table: pd.DataFrame, load: float) -> pd.DataFrame:
    """Mean figures of every scheduler at one load, by workload."""
    cell = table[table["load"] == load]
    columns = {"ttft_mean_s": "TTFT [s]", "tpot_mean_ms": "TPOT [ms]", "e2e_mean_s": "E2E [s]"}
    within = {"within_interactive": "1 s, 50 ms [%]", "within_relaxed": "10 s, 100 ms [%]"}
    means = cell.groupby(["workload", "scheduler"])[[*columns, *within]].mean()
    order = [(workload, name) for workload in TRACES for name in BATCH + STEP]
    means = means.loc[order].rename(columns=columns | within)
    return means.map(lambda value: f"{value:.3g}").reset_index()


def figure(table: pd.DataFrame) -> p9.ggplot:
    """Share of requests within the relaxed objectives against the load."""
    means = table.groupby(["workload", "scheduler", "load"])["within_relaxed"]
    frame = means.agg(list).reset_index()
    intervals = [mean_interval(values) for values in frame["within_relaxed"]]
    frame["mean"] = [one.mean for one in intervals]
    frame["low"] = [max(0.0, one.low) for one in intervals]
    frame["high"] = [min(100.0, one.high) for one in intervals]
    frame["kind"] = pd.Categorical(frame["scheduler"].map(KIND), list(COLOURS))
    frame["level"] = np.where(
        frame["scheduler"].isin(BATCH), "whole batches", "joining at every step"
    )
    frame["workload"] = pd.Categorical(frame["workload"], list(TRACES))
    return (
        p9.ggplot(frame, p9.aes("load", "mean", colour="kind", linetype="level", shape="level"))
        + p9.geom_line()
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), linetype="solid")
        + p9.geom_point(size=2)
        + p9.facet_wrap("workload")
        + p9.scale_colour_manual(COLOURS)
        + p9.labs(
            x="Load ρ of continuous batching",
            y="Within 10 s and 100 ms [% of requests]",
            colour="",
            linetype="",
            shape="",
            caption=f"Mean and 95 % interval of {PARTS} replications.",
        )
        + theme()
        + p9.theme(figure_size=(10, 4), legend_position="top")
    )


def page(table: pd.DataFrame) -> str:
    """docs/engines.md."""
    words = (HERE / "page.md").read_text(encoding="utf-8")
    return words.format(
        claims=claims_table(table).to_markdown(index=False, disable_numparse=True),
        figures=levels_table(table, 0.7).to_markdown(index=False, disable_numparse=True),
        parts=PARTS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with traces/, from the data notes")
    parser.add_argument("--out", default="out", help="where engines.csv goes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="take OUT/engines.csv as it is")
    asked = parser.parse_args()
    csv = Path(asked.out) / "engines.csv"
    if not asked.again:
        grid = product(TRACES, range(PARTS), LOADS, BATCH + STEP)
        tasks = [
            Task(workload=workload, load=load, part=part, scheduler=name, data=asked.data)
            for workload, part, load, name in grid
        ]
        csv.parent.mkdir(parents=True, exist_ok=True)
        rows(tasks, asked.jobs).drop(columns="data").to_csv(csv, index=False)
    table = pd.read_csv(csv)
    figure(table).save(FIGURE, dpi=120, verbose=False, metadata={"Software": None})
    PAGE.write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    main()
