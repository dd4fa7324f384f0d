"""A comparison as text: who serves best, the table, the differences, the cautions."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from llmsched.cli.answers.cautions import cautions
from llmsched.cli.answers.header import header, replications_text
from llmsched.cli.answers.numbers import change_text, head_of, level_text
from llmsched.cli.text import aligned, percent
from llmsched.metrics.differences import VERDICTS
from llmsched.metrics.load import LABEL_RULE
from llmsched.metrics.registry import METRICS
from llmsched.simulation.hardware import DEFAULT_LATENCY
from llmsched.simulation.uncertainty import reached_confidence
from llmsched.workload.workload import DEFAULT_PROFILE

if TYPE_CHECKING:
    from llmsched.metrics.differences import Difference
    from llmsched.simulation.comparison.results import Comparison, SchedulerResult

COLUMNS = ("sla_violation_rate", "latency_mean_s", "latency_p95_s", "latency_p99_s", "goodput_rps")
MORE_COLUMNS = (
    *("latency_p50_s", "ttft_p99_s", "tpot_p99_s", "itl_p99_s", "throughput_rps"),
    *("served_per_busy_s", "gpu_utilization", "batch_size_mean", "padding_waste", "offered_load"),
    *("extrapolated_share", "beyond_memory_share"),
)
SPOKEN = {"one replication": "untested (one replication)", "no value": "without a value"}
WIDTH = 100


def comparison_text(result: Comparison, *, verbose: bool = False) -> str:
    """The verdict first, then how it came about; more tables where they are asked for."""
    parts = [
        "\n".join((*_verdict(result), _header(result))),
        _levels(result, COLUMNS),
    ]
    differences = result.differences()
    if differences:
        parts.append(_differences(result, differences))
    careful = cautions({one.scheduler: one.summaries for one in result.results})
    parts.append("\n".join(map(_filled, (*careful, *_other_world(result)))))
    if verbose:
        parts += _verbose(result)
    return "\n\n".join(part for part in parts if part)


def _verdict(result: Comparison) -> list[str]:
    """Who has the fewest late requests, and what that is worth against the baseline."""
    levels = {one.scheduler: one.interval("sla_violation_rate").mean for one in result.results}
    ranked = sorted(levels, key=lambda name: levels[name])
    late = ", ".join(f"{name} {percent(levels[name], 2)}" for name in ranked)
    lines = [f"Late: {late}."]
    differences = result.differences()
    against = [name for name in ranked if name != result.baseline]
    told = []
    for name in against:
        mine = [one for one in differences if one.scheduler == name]
        words = _tally(mine)
        if words:
            told.append(f"{name} is {words}")
    if told:
        lines.append(f"Against {result.baseline}: {'; '.join(told)}.")
    return [_filled(line) for line in lines]


def _tally(differences: list[Difference]) -> str:
    """`better in mean latency, worse in 2, not told apart in 3`, the firm verdicts first."""
    by_verdict: dict[str, list[str]] = {}
    for one in sorted(differences, key=lambda one: VERDICTS.index(one.verdict)):
        verdict = one.direction if one.verdict == "nothing was random" else one.verdict
        spoken = SPOKEN.get(verdict, verdict)
        by_verdict.setdefault(spoken, []).append(METRICS[one.metric].title)
    if len(by_verdict) == 1:
        ((verdict, titles),) = by_verdict.items()
        every = "any of" if verdict == "not told apart" else "all"
        return f"{verdict} in {every} {len(titles)} metrics"
    return ", ".join(
        f"{verdict} in {titles[0] if len(titles) == 1 else len(titles)}"
        for verdict, titles in by_verdict.items()
    )


def _header(result: Comparison) -> str:
    first = result.results[0].summaries[0]
    rows = result.results[0].summaries
    return header(
        first,
        [row["arrival_rate_rps"] for row in rows],
        rate=result.rate,
        hardware=result.hardware.describe(),
        counts=[row["requests"] for row in rows],
    ) + replications_text(
        result.seeds,
        random=any(row.random for row in result.results),
        resampled=result.resampled,
    )


def _levels(result: Comparison, columns: tuple[str, ...]) -> str:
    """Typical values, one line per scheduler."""
    there = [metric for metric in columns if metric in result.results[0].summaries[0]]
    rows = [["", *map(head_of, there), "load ρ", "label"]]
    for one in result.results:
        cells = [level_text(one.interval(metric), metric) for metric in there]
        rows.append([one.scheduler, *cells, f"{one.interval('offered_load').mean:.2f}"])
        rows[-1].append(one.load_label)
        if result.n_draws:
            rows.append(["  with calibration error", *_calibrated(one, there), "", ""])
    spread = ""
    if len(result.seeds) > 1 and any(one.random for one in result.results):
        spread = "Typical values over replications (95 % interval)\n"
    if result.n_draws:
        reached = percent(reached_confidence(result.n_draws))
        spread += f"With calibration error: {reached} interval over {result.n_draws} draws\n"
    return spread + aligned(rows)


def _calibrated(one: SchedulerResult, metrics: list[str]) -> list[str]:
    found = (one.calibrated(metric) for metric in metrics)
    return [
        "" if interval is None else level_text(interval, metric)
        for metric, interval in zip(metrics, found, strict=True)
    ]


def _differences(result: Comparison, differences: list[Difference]) -> str:
    rows = [["scheduler", "metric", "difference", "verdict"]]
    if result.n_draws:
        rows[0] += ["with calibration error", "verdict"]
    said = ""
    for one in differences:
        name = "" if one.scheduler == said else one.scheduler
        said = one.scheduler
        cells = [name, METRICS[one.metric].title, change_text(one.interval, one.metric)]
        rows.append([*cells, one.verdict])
        if result.n_draws:
            calibrated = one.calibrated
            rows[-1] += [
                "-" if calibrated is None else change_text(calibrated, one.metric),
                one.calibrated_verdict or "-",
            ]
    head = f"Against {result.baseline}, replication by replication"
    if any(one.random for one in result.results):
        head += f"; verdicts corrected for their number, {percent(result.matters)} matters"
    return f"{head}\n{aligned(rows, left=(0, 1, 3, 5))}"


def _other_world(result: Comparison) -> list[str]:
    """Under the stress plan's own formula whole batches rank otherwise; steps it does not know."""
    workload = result.workload
    default = workload is not None and workload.source == DEFAULT_PROFILE
    batches = any("padding_waste" in one.summaries[0] for one in result.results)
    if not (default and batches) or result.latency.name != DEFAULT_LATENCY:
        return []
    return [
        "Under the stress plan's own latency formula the gaps are others: "
        "llmsched compare --preset plan"
    ]


def _verbose(result: Comparison) -> list[str]:
    there = [name for name in MORE_COLUMNS if name in result.results[0].summaries[0]]
    rows = [["", *(one.scheduler for one in result.results)]]
    for metric in there:
        cells = [level_text(one.interval(metric), metric) for one in result.results]
        rows.append([head_of(metric), *cells])
    legend = (f"Latency model: {result.latency.describe()}", f"Label: {LABEL_RULE}")
    return [aligned(rows), "\n".join(map(_filled, legend))]


def _filled(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False)
