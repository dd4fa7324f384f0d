"""A validation as text, for a terminal and for a Markdown report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmsched.cli.text import aligned, number

if TYPE_CHECKING:
    from llmsched.studies.validation.errors import Errors
    from llmsched.studies.validation.fit import Fitted
    from llmsched.studies.validation.stages import StageErrors, StagesValidation
    from llmsched.studies.validation.validate import Validation

TITLES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E", "queueing_s": "queueing"}
STATISTICS = ("mean", "p50", "p90", "p99")
COUNTERS = {"running": "running", "waiting": "waiting", "kv_share": "KV in use"}
Table = list[list[str]]


def verdict(found: Validation) -> str:
    """How far off the means are, and the requests."""
    means = _means(found.errors)
    each = {name: one.per_request_error for name, one in found.errors.items()}
    per_request = next((each[name] for name in ("e2e_s", "ttft_s") if each.get(name)), None)
    text = f"{means} of the means"
    if per_request is not None:
        text += f"; per request {per_request:.1%}".replace("%", " %")
    if found.fitted is not None:
        first, last = found.fitted.requests
        text += (
            f". Fitted to requests {first + 1}-{last}: {found.fitted.describe()}; judged on "
            f"{found.judged[0] + 1}-{found.judged[1]}"
        )
    return f"{text}."


def validation_tables(found: Validation) -> list[tuple[str, Table]]:
    """Titles and tables: errors, counters, and what was assumed."""
    rows = [["[s]", *STATISTICS, "per request"]]
    for name, one in found.errors.items():
        rows.append([f"{TITLES[name]} measured", *map(_plain, one.measured.values()), ""])
        rows.append([f"{TITLES[name]} simulated", *map(_plain, one.simulated.values()), ""])
        off = [_signed(error) for error in one.relative_error.values()]
        rows.append([f"{TITLES[name]} error", *off, _share(one.per_request_error)])
    tables = [("Measured and simulated", rows)]
    if found.unfitted is not None:
        means = ["as given, not fitted", *(_signed(e.mean_error) for e in found.unfitted.values())]
        tables.append(("Without the fit", [_of_means(found.unfitted), means]))
    if found.fitted is not None and found.fitted.intervals:
        tables.append(("Fitted constants", constants_table(found.fitted)))
    if found.series:
        head = ["counter", "mean |error|", "measured mean", "measured most"]
        counters = [
            [COUNTERS[name], *map(number, one.to_dict().values())]
            for name, one in found.series.items()
        ]
        tables.append(("Over time", [head, *counters]))
    assumed = [
        [one.name, *(_signed(error) for error in one.errors.values()), _matters(one.moved)]
        for one in found.assumptions
    ]
    heads = [*_of_means(found.errors), "matters"]
    tables.append(("What was assumed: error of the means when it is not so", [heads, *assumed]))
    return tables


def constants_table(fitted: Fitted) -> Table:
    """Every constant with its interval."""
    rows = [
        [name, *map(number, (value, *fitted.intervals[name]))]
        for name, value in fitted.values.items()
    ]
    return [["constant", "fitted", "95 % from", "to"], *rows]


def stages_verdict(found: StagesValidation) -> str:
    """Median and worst error of the means, over the stages that count."""
    parts = []
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        spread = found.spread(name)
        if spread is not None:
            median, worst = (f"{100 * error:.3g} %" for error in spread)
            parts.append(f"{TITLES[name]} {median} (worst {worst})")
    left_out = len(found.stages) - len(found.judged)
    note = f", {left_out} left out (overloaded, or fitted to)" if left_out else ""
    if not parts:
        return f"No stage to judge{note}."
    return f"{', '.join(parts)} off in the median, over {len(found.judged)} stages{note}."


def stages_tables(found: StagesValidation) -> list[tuple[str, Table]]:
    """Titles and tables: a row per stage, and the fits."""
    names = [name for name in TITLES if any(name in one.errors for one in found.stages)]
    head = ["stage, load", *(TITLES[name] for name in names)]
    head += [f"{TITLES[name]} p99" for name in names if name != "tpot_s"]
    title = "Error of the mean (of the median where no mean is known), and of the 99th percentile"
    tables = [(title, [[*head, ""], *(_stage(one, names) for one in found.stages)])]
    if found.fitted:
        fits = [
            [run, f"{one.factor:.4g}", f"{1e3 * one.delay_s:.3g}"]
            for run, one in found.fitted.items()
        ]
        tables.append(("Fitted", [["run", "steps ×", "delay [ms]"], *fits]))
    return tables


def as_text(head: str, tables: Sequence[tuple[str, Table]], tail: str) -> str:
    """For a terminal."""
    return "\n\n".join([head, *(f"{title}\n{aligned(rows)}" for title, rows in tables), tail])


def as_markdown(
    title: str, head: str, tables: Sequence[tuple[str, Table]], tail: str, figure: str | None
) -> str:
    """For a report."""
    parts = [f"# {title}", f"**{head}**"]
    if figure is not None:
        parts.append(f"![Measured and simulated]({figure})")
    for name, rows in tables:
        lines = [f"| {' | '.join(row)} |" for row in rows]
        parts.append("\n".join([f"## {name}\n", lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]))
    return "\n\n".join([*parts, tail]) + "\n"


def _stage(one: StageErrors, names: Sequence[str]) -> list[str]:
    def cell(name: str, statistic: str = "") -> str:
        errors = one.errors.get(name)
        if errors is None:
            return "-"
        return _signed(errors.relative_error[statistic] if statistic else errors.typical_error)

    note = "overloaded" if one.overloaded else "fitted on" if one.fitted_on else ""
    return [
        f"{one.run}, {one.load_value:g}",
        *map(cell, names),
        *(cell(name, "p99") for name in names if name != "tpot_s"),
        note,
    ]


def _means(errors: Errors) -> str:
    return ", ".join(
        f"{TITLES[name]} {_signed(one.mean_error)}"
        for name, one in errors.items()
        if name != "queueing_s"
    )


def _of_means(errors: Errors) -> list[str]:
    return ["error of the mean", *(TITLES[name] for name in errors)]


def _matters(moved: float) -> str:
    from llmsched.studies.validation.validate import MATTERS

    return f"yes, {_share(moved)}" if moved >= MATTERS else "no"


def _plain(value: float | None) -> str:
    return number(value)


def _signed(error: float | None) -> str:
    return "-" if error is None or error != error else f"{100 * error:+.1f} %"


def _share(error: float | None) -> str:
    return "-" if error is None else f"{100 * error:.1f} %"
