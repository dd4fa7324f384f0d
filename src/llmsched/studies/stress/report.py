"""The stress plan's report: one HTML file with figures, tables, and how each number was made.

The page needs nothing but itself: no script, no font, no request. It holds no time of day and no
duration, so the same results give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from llmsched._util.files import check_output, whole_file
from llmsched.metrics.load import LABEL_RULE
from llmsched.studies.stress import html as h, report_tables as tables
from llmsched.studies.stress.html import Markup, element

if TYPE_CHECKING:
    from llmsched.studies.stress.step_results import StepResult, StressResult

DEFINITIONS = (
    "Latency is finish − arrival of a completed request; a batch holds its GPU until its longest "
    "member ends.",
    "Violations are the share of all requests later than the SLA, rejected ones included.",
    "Throughput is completed requests, goodput is requests within the SLA, per second of makespan "
    "(first arrival to last finish).",
    "The offered load ρ is the work at the scheduler's largest batch over the GPU time there is. "
    "Real batches are smaller while queues are short, so ρ < 1 does not promise a stable run.",
    f"Labels: {LABEL_RULE}. In overload, latencies measure the length of the run, not the "
    "scheduler. A point has the label of most of its replications, the worse on ties; 'stable 3 "
    "of 4' says that not all have it.",
    "a ± b is a mean over replications and half its 95 % Student-t interval; b is 0 where nothing "
    "is random, and a stands alone where one replication gives no interval. In sentences, the "
    "interval of a share is cut at 0 and 100 %: few replications that differ much can take it "
    "beyond.",
    "Differences are paired: both sides saw the same requests and the same random numbers in each "
    "replication. One is larger than the noise when its 95 % interval leaves out 0; with many "
    "differences, 1 in 20 does so by chance alone.",
)


Pictures = Mapping[tuple[str, str], bytes]  # PNG files by step and figure


def draw_pictures(result: StressResult) -> Pictures:
    """Every figure of every step as a PNG file, by the names of both."""
    return {
        (step.name, name): h.png(figure.draw())
        for step in result.steps
        for name, figure in step.figures.items()
    }


def results_sha256(result: StressResult) -> str:
    """Checksum of all that the report and its figures are made from."""
    made = (result.command, result.plan, sorted(result.versions.items()))
    digest = hashlib.sha256(repr(made).encode())
    for step in result.steps:
        runs = step.runs[["key", "version", "status"]]
        for table in (runs, step.summary, step.differences):
            digest.update(table.to_csv(index=False, lineterminator="\n").encode())
        digest.update(repr((step.name, step.title, step.statements)).encode())
    return digest.hexdigest()


def reported_sha256(path: str | os.PathLike[str]) -> str | None:
    """The checksum of the results that the report in this file was made from; None without one."""
    try:
        with open(path, encoding="utf-8") as file:
            found = re.search(r'<meta name="results-sha256" content="([0-9a-f]{64})">', file.read())
    except (OSError, ValueError):
        return None
    return found and found[1]


def write_report(
    result: StressResult, path: str | os.PathLike[str], *, pictures: Pictures | None = None
) -> None:
    """Write the report of a stress plan, whole or not at all.

    Parameters
    ----------
    result : StressResult
        The steps to report, failed runs included.
    path : path
        The HTML file.
    pictures : mapping, optional
        What `draw_pictures` gave, where the figures are wanted elsewhere too: drawing them takes
        most of the time.

    Raises
    ------
    ValueError
        If no file can be put there.
    OutputError
        If writing fails, an `OSError`.
    """
    check_output(path, "the report")
    page = html_report(result, pictures=pictures)
    with whole_file(path, suffix=".html") as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")


def html_report(result: StressResult, *, pictures: Pictures | None = None) -> str:
    """The report as HTML."""
    if pictures is None:
        pictures = draw_pictures(result)
    base = result.plan.base
    title = f"Stress plan: {Path(base.recipe().source).name}, {base.hardware.latency}"
    sections = [
        ("short", "In short", _overview(result)),
        ("made", "How it was made", _making(result)),
        *((step.name, step.title, _step(step, pictures)) for step in result.steps),
        ("definitions", "Definitions", h.bullets(DEFINITIONS)),
        ("settings", "Every setting", _every_setting(result)),
        ("requests", "Checksums", _checksums(result)),
    ]
    contents = [element("a", _short(name, head), href=f"#{name}") for name, head, _ in sections]
    body = [element("section", element("h2", head), part, id=name) for name, head, part in sections]
    template = Path(__file__).with_name("stress_report.html.in").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=h.escaped(title),
        results_sha256=results_sha256(result),
        contents=h.bullets(contents),
        body=h.joined([element("h1", title), *body]),
    )


def _short(name: str, title: str) -> str:
    """What the list of contents calls a section."""
    return f"Step {name.removeprefix('step')}" if name.startswith("step") else title


def _overview(result: StressResult) -> Markup:
    rows = []
    for step in result.steps:
        failed = int((step.runs["status"] == "failed").sum())
        labels = [label for _, label in _loads(step)]
        significant = int((step.differences["verdict"] == tables.SIGNIFICANT).sum())
        rows.append(
            [
                element("a", step.title, href=f"#{step.name}"),
                h.number(len(step.runs) - failed),
                element("span", failed, class_="failed") if failed else "0",
                *(h.number(labels.count(label)) for label in tables.LABELS),
                f"{significant} of {len(step.differences)}",
            ]
        )
    head = ["step", "runs done", "failed", *(f"points {label}" for label in tables.LABELS)]
    note = (
        "A point is a scheduler at one setting, over all its replications. Compare schedulers "
        "on equal GPUs only, and trust a latency only where the label is stable."
    )
    return h.joined(
        [
            h.table(
                [*head, f"differences {tables.SIGNIFICANT}"], rows, label="the steps", class_="wrap"
            ),
            element("p", note),
        ]
    )


def _loads(step: StepResult) -> list[tuple[float, str]]:
    """ρ and the label of every point."""
    points = step.summary.drop_duplicates([*tables.POINT])
    return list(zip(points["offered_load"], points["load_label"], strict=True))


def _making(result: StressResult) -> Markup:
    plan = result.plan
    workload, settings = plan.workload, plan.base.settings
    hardware = plan.base.hardware.resolved()
    capacity_tokens = settings.capacity_tokens or hardware.capacity_tokens
    kind = "synthetic profile" if workload.synthetic else "trace file"
    scale = workload.rps_scale or 1.0
    real_time = "real timestamps" if scale == 1 else "arrival times divided by it"
    rows: list[list[object]] = [
        ["workload", f"{workload.source} ({kind})"],
        ["rate scaling", f"{scale:g} ({real_time})"],
        ["failed requests of the trace", {"keep": "kept", "drop": "left out"}[workload.failures]],
        ["latency model", "; ".join(_latency_models(result))],
        ["served model", f"{hardware.llm.name}; KV cache for {capacity_tokens:,.0f} tokens"],
        ["predictor", plan.base.predictor_object().name],
        ["SLA", f"{plan.base.sla_s:g} s"],
        ["controller, memory rule", f"{settings.controller}, {settings.memory}"],
        ["bins K", f"{plan.base.binning.n_bins}, but in step 3"],
        ["seeds", ", ".join(map(str, plan.seeds))],
        ["versions", ", ".join(f"{name} {found}" for name, found in result.versions.items())],
    ]
    return h.joined(
        [
            element("pre", element("code", result.command)),
            h.table(["what", "value"], rows, label="how the runs were made", class_="facts"),
        ]
    )


def _latency_models(result: StressResult) -> list[str]:
    """The description of every latency model that a run had: name, formula or measurement, law."""
    done = [step.runs[step.runs["status"] == "done"] for step in result.steps]
    found = dict.fromkeys(text for runs in done for text in runs["latency_description"])
    return list(found) or [f"{result.plan.base.hardware.latency}: no run is done"]


def _step(step: StepResult, pictures: Pictures) -> Markup:
    parts = [h.bullets(step.statements)] if step.statements else []
    parts += list(tables.points(step))
    parts += [
        h.figure(pictures[step.name, name], caption=found.caption, id_=f"{step.name}-{number}")
        for number, (name, found) in enumerate(step.figures.items(), start=1)
    ]
    parts += list(tables.differences(step.differences))
    parts += list(tables.failures(step.runs))
    parts += list(tables.notes(step.runs))
    return h.joined(parts)


def _every_setting(result: StressResult) -> Markup:
    from llmsched.simulation.sweep.store import config_columns

    steps = {f.name: getattr(result.plan, f.name) for f in fields(result.plan) if f.name != "base"}
    plan = config_columns(result.plan.base.to_dict()) | steps
    rows = [[element("code", name), _setting(value)] for name, value in plan.items()]
    return h.table(["field", "value"], rows, label="every setting of the plan", class_="facts")


def _setting(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else "not set" if value is None else str(value)


def _checksums(result: StressResult) -> Markup:
    """SHA-256 of the requests that the runs replayed."""
    names = ["trace", "requests", "workload_rps_scale", "seed", "trace_sha256"]
    found: dict[tuple[Any, ...], None] = {}
    for step in result.steps:
        done = step.runs[step.runs["status"] == "done"]
        found.update(dict.fromkeys(zip(*(done[name] for name in names), strict=True)))
    cells = [
        [
            trace,
            tables.plain(requests),
            f"{scale:.6g}",
            seed,
            element("span", sha, class_="checksum"),
        ]
        for trace, requests, scale, seed, sha in found
    ]
    head = ["trace", "requests", "rate scaling", "seed", "SHA-256 of the requests replayed"]
    return h.joined(
        [
            element("p", "Equal checksums are equal requests at equal times, everywhere."),
            h.table(head, cells, label="checksums", class_="tall"),
        ]
    )
