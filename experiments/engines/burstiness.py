"""Bursts, predictors, bins, and Algorithm 2's constants on real traffic.

Writes every run to OUT/burstiness.csv, the figures beside this file, and docs/burstiness.md.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from pathlib import Path

import pandas as pd
import plotnine as p9
from runs import TRACES, Task, rows

from llmsched.figures.style import theme
from llmsched.metrics.intervals import Interval, mean_interval

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "burstiness.md"
PARTS = 5
WORKLOADS = tuple(TRACES)
CVS = (1.0, 2.0, 3.0, 5.0)
BURST_SCHEDULERS = ("continuous_static", "continuous_sjf", "continuous_multi_bin")
BURST_LOADS = (0.5, 0.7)
PREDICTORS = {
    "oracle": "true lengths",
    "noisy:0.36": "noisy, sigma 0.36",
    "confusion:bert": "published BERT errors",
    "prompt-power-law": "prompt only",
}
PREDICTING = {"multi_bin_dynamic": "dynamic_no_bins", "continuous_sjf": "continuous_static"}
PREDICTOR_LOADS = {"multi_bin_dynamic": 0.1, "continuous_sjf": 0.9}
BINS = (2, 4, 8, 16)
CONTROLS = tuple(product((16, 20), (4, 5), (0.1, 0.3)))
COLOURS = ("#7f7f7f", "#009e73", "#d55e00")


def tasks(data: str) -> list[Task]:
    """Every run of the page, each once."""
    made = []
    for workload, part in product(WORKLOADS, range(PARTS)):
        at = {"workload": workload, "part": part, "data": data}
        made += [
            Task(load=load, scheduler=name, cv=cv, **at)
            for load, name, cv in product(BURST_LOADS, BURST_SCHEDULERS, CVS)
        ]
        for name, base in PREDICTING.items():
            load = PREDICTOR_LOADS[name]
            made.append(Task(load=load, scheduler=base, **at))
            made += [
                Task(load=load, scheduler=name, predictor=predictor, **at)
                for predictor in PREDICTORS
            ]
        made += [
            Task(load=0.1, scheduler="multi_bin_dynamic", predictor="oracle", n_bins=n, **at)
            for n in BINS
        ]
        made += [
            Task(load=0.9, scheduler="continuous_multi_bin", predictor="oracle", n_bins=n, **at)
            for n in BINS
        ]
        made.append(Task(load=0.7, scheduler="continuous_static", **at))
        made += [
            Task(load=0.7, scheduler="algorithms 1 and 2", control=control, **at)
            for control in CONTROLS
        ]
    return list(dict.fromkeys(made))


def relative(ours: pd.DataFrame, base: pd.DataFrame, metric: str) -> Interval:
    """Paired relative difference over replications [%]."""
    pair = ours.set_index("part")[metric] / base.set_index("part")[metric]
    return mean_interval((100 * (pair - 1)).to_numpy())


def text(one: Interval, unit: str = " %") -> str:
    """A difference with its interval."""
    digits = 1 if one.half_width < 2 else 0
    return f"{one.mean:+.{digits}f} ± {one.half_width:.{digits}f}{unit}"


def _where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, value in values.items():
        same = table[column].isna() if value is None else table[column] == value
        table = table[same]
    return table


def bursts_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean wait for the first token at each burstiness, and what an order of waiting changes."""
    found = []
    for cv in CVS:
        line: dict[str, object] = {"CV": f"{cv:g}"}
        for workload in WORKLOADS:
            cell = _where(table, workload=workload, cv=cv, load=0.7)
            static = cell[cell["scheduler"] == "continuous_static"]
            mean = mean_interval(static["ttft_mean_s"].to_numpy())
            line[f"{workload} [s]"] = f"{mean.mean:.3g} ± {mean.half_width:.2g}"
            sjf = cell[cell["scheduler"] == "continuous_sjf"]
            line[f"sjf, {workload.split()[0]}"] = text(relative(sjf, static, "ttft_mean_s"))
        found.append(line)
    return pd.DataFrame(found)


def predictors_table(table: pd.DataFrame) -> pd.DataFrame:
    """What each predictor brings over a scheduler that looks at no length: mean latency or TTFT."""
    found = []
    plain = table[table["cv"].isna() & (table["n_bins"] == 4)]
    for name, base in PREDICTING.items():
        metric = "e2e_mean_s" if name == "multi_bin_dynamic" else "ttft_mean_s"
        for predictor, words in PREDICTORS.items():
            if name == "continuous_sjf" and predictor.startswith("confusion"):
                continue  # published errors are of bins: a ranking would see true lengths
            line = {"scheduler": name, "over": base, "lengths": words}
            for workload in WORKLOADS:
                cell = _where(plain, workload=workload, load=PREDICTOR_LOADS[name])
                ours = _where(cell, scheduler=name, predictor=predictor)
                none = _where(cell, scheduler=base, predictor="noisy")
                line[workload] = text(relative(ours, none, metric))
            found.append(line)
    return pd.DataFrame(found)


def prompt_first(table: pd.DataFrame) -> str:
    """What ranking by the prompt brings on long prompts, in points of requests in time."""
    cell = _where(table, workload=WORKLOADS[-1], load=0.9, cv=None, n_bins=4)
    ours = _where(cell, scheduler="continuous_sjf", predictor="prompt-power-law")
    none = _where(cell, scheduler="continuous_static", predictor="noisy")
    pair = [one.set_index("part")["within_relaxed"] for one in (ours, none)]
    return text(mean_interval((pair[0] - pair[1]).to_numpy()), " points")


def bins_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean latency with more bins against two, true lengths."""
    found = []
    for name, load in (("multi_bin_dynamic", 0.1), ("continuous_multi_bin", 0.9)):
        for n_bins in BINS[1:]:
            line = {"scheduler": name, "ρ": f"{load:g}", "bins": str(n_bins)}
            for workload in WORKLOADS:
                cell = _where(
                    table, workload=workload, load=load, scheduler=name, predictor="oracle"
                )
                two, more = _where(cell, n_bins=2), _where(cell, n_bins=n_bins)
                line[workload] = text(relative(more, two, "e2e_mean_s"))
            found.append(line)
    return pd.DataFrame(found)


def control_table(table: pd.DataFrame) -> pd.DataFrame:
    """Each setting of Algorithm 2 against no limit: p99 of TPOT, and the share served in time."""
    found = []
    for alpha, delta, epsilon in CONTROLS:
        line: dict[str, object] = {"α, δ, ε": f"{alpha}, {delta}, {epsilon:g}"}
        for workload in WORKLOADS:
            cell = _where(table, workload=workload, load=0.7, cv=None, n_bins=4)
            ours = cell[cell["control"] == str((alpha, delta, epsilon))]
            none = _where(cell, scheduler="continuous_static", predictor="noisy")
            short = workload.split()[0]
            line[f"TPOT p99, {short}"] = text(relative(ours, none, "tpot_p99_ms"))
            pair = (
                ours.set_index("part")["within_relaxed"] - none.set_index("part")["within_relaxed"]
            )
            line[f"in time, {short}"] = text(mean_interval(pair.to_numpy()), " pts")
        found.append(line)
    return pd.DataFrame(found)


def bursts_figure(table: pd.DataFrame) -> p9.ggplot:
    """Mean TTFT against burstiness."""
    cell = table[table["cv"].notna()]
    groups = cell.groupby(["workload", "load", "scheduler", "cv"])["ttft_mean_s"].agg(list)
    frame = groups.reset_index()
    intervals = [mean_interval(values) for values in frame["ttft_mean_s"]]
    frame["mean"] = [one.mean for one in intervals]
    frame["low"] = [max(one.low, 0.3 * one.mean) for one in intervals]
    frame["high"] = [one.high for one in intervals]
    frame["workload"] = pd.Categorical(frame["workload"], WORKLOADS)
    frame["load"] = [f"ρ = {load:g}" for load in frame["load"]]
    return (
        p9.ggplot(frame, p9.aes("cv", "mean", colour="scheduler", linetype="load"))
        + p9.geom_line()
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), linetype="solid")
        + p9.geom_point(size=1.6)
        + p9.facet_wrap("workload")
        + p9.scale_y_log10()
        + p9.scale_colour_manual(dict(zip(BURST_SCHEDULERS, COLOURS, strict=True)))
        + p9.labs(
            x="Coefficient of variation of the gaps between arrivals",
            y="Mean time to the first token [s]",
            colour="",
            linetype="",
            caption=f"Mean and 95 % interval of {PARTS} replications; lower ends are cut at 0.3 "
            "of the mean, for the axis.",
        )
        + theme()
        + p9.theme(figure_size=(10, 4), legend_position="top")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with traces/, from the data notes")
    parser.add_argument("--out", default="out", help="where burstiness.csv goes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="take OUT/burstiness.csv as it is")
    asked = parser.parse_args()
    csv = Path(asked.out) / "burstiness.csv"
    if not asked.again:
        csv.parent.mkdir(parents=True, exist_ok=True)
        rows(tasks(asked.data), asked.jobs).drop(columns="data").to_csv(csv, index=False)
    table = pd.read_csv(csv)
    bursts_figure(table).save(
        HERE / "burstiness.png", dpi=120, verbose=False, metadata={"Software": None}
    )
    tables = {
        "bursts": bursts_table(table),
        "predictors": predictors_table(table),
        "bins": bins_table(table),
        "control": control_table(table),
    }
    words = (HERE / "burstiness_page.md").read_text(encoding="utf-8")
    marked = {
        name: one.to_markdown(index=False, disable_numparse=True) for name, one in tables.items()
    }
    PAGE.write_text(
        words.format(parts=PARTS, prompt_first=prompt_first(table), **marked), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
