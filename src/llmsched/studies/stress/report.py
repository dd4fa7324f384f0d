"""The stress plan's report: one HTML file with the finding, figures, tables, and how it was made.

The page needs nothing but itself: no font, no request, and no script but its own few lines. It
holds no time of day and no duration, so the same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsched._util.files import check_output, whole_file
from llmsched._util.text import MISSING, interval_text, number_text
from llmsched.metrics.load import LABEL_RULE
from llmsched.studies.stress.figures import Pictures, png
from llmsched.studies.stress.step import StepResult
from llmsched.studies.stress.tables import CLEAR, GROUP, LABELS, rows_of, shown, value_text

if TYPE_CHECKING:
    import pandas as pd

    from llmsched.studies.stress.run import StressResult

DEFINITIONS = (
    "Latency is finish − arrival of a completed request; a batch holds its GPU until its longest "
    "member ends.",
    "Violations are the share of all requests later than the SLA, rejected ones included.",
    "Throughput is completed requests, goodput is requests within the SLA, per second of makespan "
    "(first arrival to last finish).",
    "The offered load ρ is the work at the scheduler's largest batch over the GPU time there is. "
    "Real batches are smaller while queues are short, so ρ < 1 does not promise a stable run.",
    f"Labels: {LABEL_RULE}. A point has the label of most of its replications.",
    "In overload a latency measures the length of the run, not the scheduler.",
    "a ± b is a mean over replications and half its 95 % Student-t interval; b is 0 where nothing "
    "is random, and a stands alone where one replication gives no interval.",
    "Differences are paired: both sides saw the same requests and the same random numbers. ≈ marks "
    "those within the noise; of the others, 1 in 20 is there by chance alone.",
)
FIRST = (  # the columns of every table of points; the others are in a table of their own
    *("sla_violation_rate", "goodput_rps", "throughput_rps", "latency_mean_s", "latency_p99_s"),
    *("gpu_utilization", "batch_size_mean"),
)
COLUMNS = {"scheduler": "scheduler", "n_gpus": "GPUs", "requests": "requests", "n_bins": "bins K"}
COLUMNS |= {"target_load": "ρ held"}


def draw_pictures(result: StressResult) -> Pictures:
    """Every figure of every step as a PNG file, by name."""
    return {name: png(figure) for step in result.steps for name, figure in step.figures.items()}


def results_sha256(result: StressResult) -> str:
    """Checksum of all that the report and its figures are made from."""
    made = (result.command, result.plan, sorted(result.versions.items()))
    digest = hashlib.sha256(repr(made).encode())
    for found in result.steps:
        runs = found.runs[["key", "version", "status"]]
        for table in (runs, found.summary, found.differences):
            digest.update(table.to_csv(index=False, lineterminator="\n").encode())
        digest.update(repr((found.step.name, found.verdict, found.cautions)).encode())
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
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    templates = files("llmsched.studies.stress")
    script = (templates / "report.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    base, latency = result.plan.base, result.plan.base.resolved_hardware().latency
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["table"] = _html_table
    environment.filters["base64"] = lambda picture: base64.b64encode(picture).decode("ascii")
    page = environment.from_string(
        (templates / "report.html.jinja").read_text(encoding="utf-8")
    ).render(
        title=f"Stress plan: {Path(base.recipe().source).name}, {latency.name}",
        results_sha256=results_sha256(result),
        script=Markup(script),
        script_sha256=digest,
        command=result.command,
        steps=result.steps,
        shown_first=dict([item for found in result.steps for item in found.figures.items()][:1]),
        pictures=draw_pictures(result) if pictures is None else pictures,
        overview=overview(result.steps),
        points=point_tables,
        differences=difference_table,
        failures=failure_table,
        clear=CLEAR,
        making=_making(result),
        settings=_every_setting(result),
        checksums=_checksums(result),
        definitions=DEFINITIONS,
    )
    return f"{page}\n"


def _html_table(table: pd.DataFrame) -> Any:
    """A table of texts as HTML; whatever a user named is escaped."""
    import pandas as pd
    from markupsafe import Markup

    with pd.option_context("display.max_colwidth", None):
        return Markup(table.to_html(index=False, border=0, na_rep=MISSING))


def overview(steps: Sequence[StepResult]) -> pd.DataFrame:
    """A row per step: its runs, the labels of its points, what differs."""
    import pandas as pd

    rows = []
    for found in steps:
        labels = found.rates["load_label"].tolist()
        clear = int((found.differences["verdict"] == CLEAR).sum())
        rows.append(
            {
                "step": found.step.title,
                "runs done": len(found.done),
                "failed": found.n_failed,
                **{f"points {label}": labels.count(label) for label in reversed(LABELS)},
                f"differences {CLEAR}": f"{clear} of {len(found.differences)}",
            }
        )
    return pd.DataFrame(rows)


def point_tables(
    summary: pd.DataFrame, metrics: Sequence[str] | None = None
) -> list[tuple[str, pd.DataFrame]]:
    """Every point with its load: first the main figures of merit, then the others.

    What all points share is said once, before the first. With `metrics`, these alone.
    """
    if summary.empty:
        return []
    varying = [name for name in GROUP if summary[name].nunique(dropna=False) > 1] or ["scheduler"]
    same = [name for name in GROUP if name not in varying and summary[name].notna().all()]
    shared = ", ".join(value_text(name, summary[name].iloc[0]) for name in same)
    present = list(dict.fromkeys(summary["metric"]))
    first = [name for name in metrics or FIRST if name in present]
    others = [] if metrics else [name for name in present if name not in first]
    tables = [(f"All points: {shared}." if shared else "", first), ("Other figures", others)]
    return [(said, _point_table(summary, varying, names)) for said, names in tables if names]


def _point_table(
    summary: pd.DataFrame, varying: Sequence[str], metrics: Sequence[str]
) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for _, point in summary.groupby([*GROUP], sort=False, dropna=False):
        first = point.iloc[0]
        values = {row.metric: row for row in rows_of(point)}
        few = first["n_label"] < first["n"]
        label = f"{first['load_label']} {first['n_label']} of {first['n']}" if few else None
        rows.append(
            {
                **{COLUMNS[name]: _plain(first[name]) for name in varying},
                "ρ": _load(first["offered_load"]),
                "load": label or first["load_label"],
                **{shown(name)[0]: _value(values[name]) for name in metrics if name in values},
            }
        )
    return pd.DataFrame(rows).fillna(MISSING)


def _value(row: Any, *, sign: bool = False) -> str:
    factor = shown(row.metric)[1]
    return interval_text(row.mean * factor, row.low * factor, row.high * factor, sign=sign)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else number_text(float(value))


def _load(value: float) -> str:
    return "∞" if value != value else f"{value:.3g}"


def difference_table(found: StepResult) -> pd.DataFrame:
    """One row per pair, one column per metric; ≈ before what is within the noise."""
    import pandas as pd

    rows = []
    for (what, against), pair in found.differences.groupby(["what", "against"], sort=False):
        cells = {shown(row.metric)[0]: _difference(row) for row in rows_of(pair)}
        rows.append({"what": what, "less": against, **cells})
    return pd.DataFrame(rows).fillna(MISSING)


def _difference(row: Any) -> str:
    if row.verdict == "equal":
        return "equal"
    text = _value(row, sign=True)
    return text if row.verdict == CLEAR else f"≈ {text}"


def failure_table(found: StepResult) -> pd.DataFrame:
    """The failed runs and their errors."""
    names = ["scheduler", "n_gpus", "requests_asked", "n_bins", "seed", "error"]
    failed: pd.DataFrame = found.runs.loc[found.runs["status"] == "failed", names]
    return failed


def _making(result: StressResult) -> pd.DataFrame:
    """What the numbers were made with, beside the settings."""
    import pandas as pd

    base = result.plan.base
    hardware = base.resolved_hardware()
    capacity_tokens = base.settings.capacity_tokens or hardware.capacity_tokens
    done = [text for found in result.steps for text in found.done["latency_description"]]
    facts = {
        "latency": "; ".join(dict.fromkeys(done)) or f"{hardware.latency.name}: no run is done",
        "served model": f"{hardware.llm.name}; KV cache for {capacity_tokens:,.0f} tokens",
        "versions": ", ".join(f"{name} {found}" for name, found in result.versions.items()),
    }
    return pd.DataFrame(facts.items(), columns=["what", "value"])


def _every_setting(result: StressResult) -> pd.DataFrame:
    import pandas as pd

    from llmsched.simulation.sweep.store import config_columns

    steps = {f.name: getattr(result.plan, f.name) for f in fields(result.plan) if f.name != "base"}
    plan = config_columns(result.plan.base.to_dict()) | steps
    rows = [(name, _setting(value)) for name, value in plan.items()]
    return pd.DataFrame(rows, columns=["setting", "value"])


def _setting(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else "not set" if value is None else str(value)


def _checksums(result: StressResult) -> pd.DataFrame:
    """SHA-256 of the requests that the runs replayed."""
    import pandas as pd

    names = ["trace", "requests", "workload_rps_scale", "seed", "trace_sha256"]
    runs = pd.concat([found.done[names] for found in result.steps] or [pd.DataFrame(columns=names)])
    shown_as = {"workload_rps_scale": "rate scaling", "trace_sha256": "SHA-256 of the requests"}
    return runs.drop_duplicates().rename(columns=shown_as)
