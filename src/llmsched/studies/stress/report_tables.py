"""The tables of one step of the stress plan's report: its points, differences, failures, notes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmsched._util.notes import NoteCount, Notes
from llmsched.studies.stress import html as h
from llmsched.studies.stress.findings import label_text
from llmsched.studies.stress.html import Markup, element

if TYPE_CHECKING:
    import pandas as pd

    from llmsched.studies.stress.step_results import StepResult

# metric -> its title and what its values are multiplied by; these are shown first, the rest apart
METRICS: Mapping[str, tuple[str, float]] = {
    "sla_violation_rate": ("violations [%]", 100),
    "goodput_rps": ("goodput [req/s]", 1),
    "throughput_rps": ("throughput [req/s]", 1),
    "latency_mean_s": ("mean latency [s]", 1),
    "latency_p50_s": ("median latency [s]", 1),
    "latency_p95_s": ("P95 latency [s]", 1),
    "latency_p99_s": ("P99 latency [s]", 1),
    "gpu_utilization": ("GPU utilization [%]", 100),
    "batch_size_mean": ("batch size, mean", 1),
    "throughput_efficiency": ("throughput / linear", 1),
    "goodput_efficiency": ("goodput / linear", 1),
}
UNITS = {"_rps": " [req/s]", "_tps": " [tokens/s]", "_s": " [s]"}
POINT = {  # what tells the points of a step apart
    "scheduler": "scheduler",
    "n_gpus": "GPUs",
    "requests": "requests",
    "n_bins": "bins\u00a0K",
    "target_load": "ρ aimed at",
}
LABELS = ("stable", "backlogged", "overloaded")
SIGNIFICANT = "larger than the noise"


def points(step: StepResult) -> Iterator[Markup]:
    """Every point with its load and figures of merit; what all points share is said once."""
    summary = step.summary
    if summary.empty:
        yield element("p", "No point has a finished run.", class_="failed")
        return
    varying = [name for name in POINT if summary[name].nunique(dropna=False) > 1] or ["scheduler"]
    same = [name for name in POINT if name not in varying and summary[name].notna().all()]
    if same:
        shared = [f"{POINT[name]} {plain(summary[name].iloc[0])}" for name in same]
        yield element("p", f"All points: {', '.join(shared)}.", class_="soft")
    present = set(summary["metric"])
    yield element("h3", "Every point")
    yield _point_table(summary, varying, [name for name in METRICS if name in present], step.title)
    others = [name for name in dict.fromkeys(summary["metric"]) if name not in METRICS]
    if others:
        yield element("h3", "Other figures of merit")
        yield _point_table(summary, varying, others, f"{step.title}, other figures of merit")


def _point_table(
    summary: pd.DataFrame, varying: Sequence[str], metrics: Sequence[str], label: str
) -> Markup:
    rows = []
    for _, point in summary.groupby([*POINT], sort=False, dropna=False):
        first = point.iloc[0]
        found = {row.metric: row for row in point.itertuples()}
        state, text = first["load_label"], label_text(first)
        rows.append(
            [
                *(plain(first[name]) for name in varying),
                _load(first["offered_load"]),
                element("span", text, class_=state) if state in LABELS else h.MISSING,
                *(_value(found[name]) if name in found else h.MISSING for name in metrics),
                h.number(int(point["n"].max())),
            ]
        )
    head = [*(POINT[name] for name in varying), "ρ", "load", *map(_title, metrics), "runs"]
    return h.table(head, rows, label=label, class_="tall")


def _title(metric: str) -> str:
    if metric in METRICS:
        return METRICS[metric][0]
    for ending, unit in UNITS.items():
        if metric.endswith(ending):
            return metric.removesuffix(ending).replace("_", " ") + unit
    return metric.replace("_", " ")


def _factor(metric: str) -> float:
    return METRICS[metric][1] if metric in METRICS else 1.0


def _value(row: Any) -> str:
    factor = _factor(row.metric)
    return h.interval(row.mean * factor, row.low * factor, row.high * factor)


def plain(value: Any) -> str:
    """A cell that tells points apart: a name or a count."""
    return value if isinstance(value, str) else h.number(float(value))


def _load(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return h.number(value)
    return f"{value:.3g}"


def differences(found: pd.DataFrame) -> Iterator[Markup]:
    """One row per pair, one column per metric; what exceeds the noise is set apart."""
    if found.empty:
        return
    metrics = list(dict.fromkeys(found["metric"]))
    rows = []
    for (what, against), pair in found.groupby(["what", "against"], sort=False):
        by_metric = {row.metric: row for row in pair.itertuples()}
        cells = (_difference(by_metric[m]) if m in by_metric else h.MISSING for m in metrics)
        rows.append([what, against, *cells])
    count = int((found["verdict"] == SIGNIFICANT).sum())
    yield element("h3", "What differs, and what does not")
    yield element(
        "p",
        f"{count} of {len(found)} differences are {SIGNIFICANT} (bold). The others, marked ≈, are "
        "not: nothing follows from them but that these runs cannot tell.",
    )
    head = ["what", "less", *map(_title, metrics)]
    yield h.table(head, rows, label="paired differences", class_="tall")


def _difference(row: Any) -> Markup:
    factor = _factor(row.metric)
    text = h.interval(row.mean * factor, row.low * factor, row.high * factor, sign=True)
    if row.verdict == SIGNIFICANT:
        return element("strong", text)
    if row.verdict == "equal":
        return element("span", "equal", class_="noise")
    if math.isnan(row.low):
        return element("span", f"≈ {text} ({row.verdict})", class_="noise")
    return element("span", f"≈ {text}", class_="noise")


def failures(runs: pd.DataFrame) -> Iterator[Markup]:
    """The failed runs and their errors."""
    failed = runs[runs["status"] == "failed"]
    if failed.empty:
        return
    yield element("h3", f"Failed runs ({len(failed)})", class_="failed")
    yield element("p", "They are in no figure and no mean above.")
    names = ("scheduler", "n_gpus", "requests_asked", "n_bins", "seed", "error")
    columns = (failed[name] for name in names)
    rows = [
        [scheduler, plain(n_gpus), plain(requests), plain(n_bins), seed, element("div", error)]
        for scheduler, n_gpus, requests, n_bins, seed, error in zip(*columns, strict=True)
    ]
    head = ["scheduler", "GPUs", "requests", "bins\u00a0K", "seed", "error"]
    yield h.table(head, rows, label="failed runs", class_="wrap")


def notes(runs: pd.DataFrame) -> Iterator[Markup]:
    """Warnings of the runs, each kind once, with how many there were of it."""
    said = Notes()
    for notes in runs["notes"]:
        said.extend(() if notes is None else notes)
    if said.counts():
        yield element("h3", "Notes of the runs")
        yield h.bullets([_counted(note) for note in said.counts()])


def _counted(note: NoteCount) -> str:
    numbers = f", {note.others} of them with other numbers" if note.others else ""
    return f"{note.text} ({note.times} runs{numbers})"
