"""How the stress plan's sentences word numbers: rates with intervals, loads, counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched._util.notes import Notes
from llmsched.studies.stress.tables import fewest_gpus, groups, knee, per_bin_table

if TYPE_CHECKING:
    import pandas as pd


def interval_text(row: Any) -> str:
    """A violation rate in per cent, with its interval, cut at what a share can be."""
    if math.isnan(row.low) or row.low == row.high:
        return percent(row.mean)
    low, high = max(row.low, 0.0), min(row.high, 1.0)
    return f"{percent(row.mean)} [{100 * low:.3g}, {100 * high:.3g}]"


def difference_text(row: Any, *, of_shares: bool = False) -> str:
    """A difference with its interval; in points where it is one of shares."""
    scale, unit = (100, " points") if of_shares else (1, "")
    if math.isnan(row.low) or row.low == row.high:
        return f"{scale * row.mean:+.3g}{unit}"
    return f"{scale * row.mean:+.3g}{unit} [{scale * row.low:+.3g}, {scale * row.high:+.3g}]"


def load_text(row: Any) -> str:
    """The load and its label: `ρ 0.63, backlogged`; no load where all arrive at one instant."""
    load = "infinite" if math.isnan(row.offered_load) else f"{row.offered_load:.3g}"
    return f"ρ {load}, {label_text(row)}"


def label_text(row: Any) -> str:
    """A point's label, and how many of its replications have it where not all do."""
    return row.load_label if row.n_label == row.n else f"{row.load_label} {row.n_label} of {row.n}"


def percent(share: float) -> str:
    """A share in per cent, three digits."""
    return f"{100 * share:.3g} %"


def points(share: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share:.3g} points"


def number(value: float) -> str:
    """Three significant digits, no powers of ten below a billion."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def gpus(count: float) -> str:
    """`1 GPU`, `4 GPUs`."""
    return f"{count:.0f} GPU{'' if count == 1 else 's'}"


def bins_text(count: float) -> str:
    """`1 bin`, `4 bins`."""
    return f"{count:.0f} bin{'' if count == 1 else 's'}"


TITLES = {
    "sla_violation_rate": "violations",
    "goodput_rps": "goodput",
    "throughput_rps": "throughput",
    "latency_mean_s": "mean latency",
    "latency_p99_s": "99th percentile of latency",
}
CLEAR = "larger than the noise"
MANY = 4  # a sentence names so many, and counts more


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Findings:
    """The tables of a step, and the violation target."""

    runs: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame
    target: float


def step1_statements(found: Findings) -> list[str]:
    """Who violates least on equal GPUs at the largest volume, what GPUs alone do, starvation."""
    sentences = []
    largest = found.summary[found.summary["requests"] == found.summary["requests"].max()]
    for n_gpus, place in largest.groupby("n_gpus"):
        rates = _metric(place, "sla_violation_rate")
        parts = [f"{row.scheduler} {interval_text(row)}, {load_text(row)}" for row in rates]
        sentences.append(
            f"On {gpus(n_gpus)}, {place['requests'].iloc[0]} requests, late or rejected: "
            + "; ".join(parts)
            + "."
        )
    sentences += _unequal(largest)
    at_largest = found.differences[found.differences["requests"] == found.summary["requests"].max()]
    throughput = at_largest[
        (at_largest["scheduler"] == "multi_bin_dynamic")
        & (at_largest["against"] == "static_fifo")
        & (at_largest["metric"] == "throughput_rps")
    ]
    for row in throughput.itertuples():
        sentences.append(
            f"Throughput of multi_bin_dynamic less that of static_fifo on {gpus(row.n_gpus)}: "
            f"{difference_text(row)} requests/s, {row.verdict}."
        )
    return [*sentences, *_starving(found.runs, found.summary["requests"].max())]


def _unequal(largest: pd.DataFrame) -> list[str]:
    """The headline of unequal GPUs, and how much of it is the GPUs' doing."""
    fewest, most = largest["n_gpus"].min(), largest["n_gpus"].max()
    rates = largest[largest["metric"] == "sla_violation_rate"].set_index(["scheduler", "n_gpus"])
    wanted = [("static_fifo", fewest), ("static_fifo", most), ("multi_bin_dynamic", most)]
    if fewest == most or any(place not in rates.index for place in wanted):
        return []
    alone, equal, binned = (rates.loc[place, "mean"] for place in wanted)
    return [
        f"static_fifo on {gpus(fewest)} against multi_bin_dynamic on {gpus(most)} is "
        f"{percent(alone)} against {percent(binned)} violations; of these "
        f"{points(alone - binned)}, {points(alone - equal)} are due to the GPUs, as static_fifo "
        f"on {gpus(most)} has {percent(equal)}."
    ]


def _starving(runs: pd.DataFrame, requests: int) -> list[str]:
    """Of the binned schedulers at this volume: the bin that waits longest, and its share."""
    table = per_bin_table(runs[runs["requests_asked"] == requests])
    sentences = []
    for group, _ in groups(runs):
        if group["requests"] != requests or group["n_bins"] == 1:
            continue
        here = table[(table["scheduler"] == group["scheduler"])]
        here = here[here["n_gpus"] == group["n_gpus"]]
        bins = here.pivot(index="bin", columns="metric", values="mean")
        p99_s = bins["latency_p99_s"].dropna()
        if len(p99_s) < 2:
            continue  # one bin alone has requests that were served
        worst = p99_s.idxmax()
        others = p99_s.drop(worst)
        sentences.append(
            f"{group['scheduler']} on {gpus(group['n_gpus'])}: bin {worst} of {len(bins)} waits "
            f"longest, up to {number(bins['wait_max_s'][worst])} s; its 99th percentile of latency "
            f"is {number(bins['latency_p99_s'][worst])} s beside {number(others.min())} to "
            f"{number(others.max())} s, and it has {percent(bins['gpu_time_share'][worst])} of the "
            f"GPU time for {percent(bins['request_share'][worst])} of the requests."
        )
    return sentences


def step2_statements(found: Findings) -> list[str]:
    """The knee, the fewest GPUs that meet the target, the load at every point, efficiency."""
    if not len(found.summary):
        return ["No run finished, so there is neither a knee nor a GPU count to choose."]
    sentences = [_target_sentence(found.summary, found.target)]
    sentences += [
        _knee_sentence(found.runs, metric) for metric in ("throughput_rps", "goodput_rps")
    ]
    rates = [
        f"{row.n_gpus:.0f}: {interval_text(row)}, {load_text(row)}"
        for row in _metric(found.summary, "sla_violation_rate")
    ]
    sentences.append("Violations by GPUs: " + "; ".join(rates) + ".")
    fewest = found.summary["n_gpus"].min()
    for metric in ("throughput_efficiency", "goodput_efficiency"):
        parts = [
            f"{number(row.mean)} on {row.n_gpus:.0f}"
            for row in _metric(found.summary, metric)
            if row.n_gpus > fewest and not math.isnan(row.mean)
        ]
        if parts:
            name = metric.removesuffix("_efficiency")
            sentences.append(
                f"Scaling efficiency of {name} (1 is linear from {gpus(fewest)}): "
                f"{', '.join(parts)}."
            )
    return sentences


def _target_sentence(summary: pd.DataFrame, target: float) -> str:
    best = fewest_gpus(summary, target)
    rates = {row.n_gpus: row for row in _metric(summary, "sla_violation_rate")}
    asked = f"violations within {percent(target)}"
    if best is not None:
        row = rates[best]
        sure = "one replication, no interval" if math.isnan(row.high) else "interval and all"
        return f"The fewest GPUs with {asked} are {best:.0f}: {interval_text(row)} ({sure})."
    lowest = min(rates.values(), key=lambda row: row.mean)
    return (
        f"No GPU count has {asked}, interval and all; the lowest rate is {interval_text(lowest)} "
        f"on {gpus(lowest.n_gpus)}."
    )


def _knee_sentence(runs: pd.DataFrame, metric: str) -> str:
    """The knee of the mean curve, and of each replication's."""
    done = runs[runs["status"] == "done"]
    name = metric.removesuffix("_rps")
    curve = done.groupby("n_gpus")[metric].mean()
    at = knee(curve.index.to_numpy(), curve.to_numpy())
    own = [
        knee(one["n_gpus"].to_numpy(np.float64), one[metric].to_numpy(np.float64))
        for _, one in done.groupby("seed")
    ]
    agreeing = sum(count == at for count in own)
    if agreeing <= len(own) / 2:
        places = ", ".join(f"{count:.0f}" for count in sorted(own))
        return (
            f"By {name}, no knee can be named: speedup times efficiency is highest on {places} "
            f"GPUs in the replications, and on {at:.0f} for their mean rates."
        )
    where = "the largest count: no knee within the range" if at == max(curve.index) else "the knee"
    if at == min(curve.index):
        where = "the smallest count: the knee is there or below"
    return (
        f"By {name}, speedup times efficiency of the mean rates is highest on {gpus(at)}, {where} "
        f"({agreeing} of {len(own)} replications agree)."
    )


def step2b_statements(found: Findings) -> list[str]:
    """How near the loads are to what was asked, the labels, and what GPUs do at a held load."""
    if not len(found.summary):
        return ["No run finished, so nothing is known at held loads."]
    done = found.runs[found.runs["status"] == "done"]
    off = (done["offered_load"].astype(float) / done["target_load"] - 1).abs().max()
    sentences = [
        f"Offered loads are within {off:.2g} of the target, as a share of it, in all "
        f"{len(done)} runs; they are at the largest batch of the scheduler, and smaller ones "
        "cost more GPU time per request, so a load below 1 may overload a run: see the labels."
    ]
    for load, place in found.summary.groupby("target_load"):
        rates = [
            f"{row.n_gpus:.0f}: {interval_text(row)} ({label_text(row)})"
            for row in _metric(place, "sla_violation_rate")
        ]
        sentences.append(f"Violations by GPUs at load {load:g}: " + "; ".join(rates) + ".")
        best = fewest_gpus(place, found.target)
        sentences.append(
            f"At load {load:g}, "
            + (
                f"no GPU count has violations within {percent(found.target)}."
                if best is None
                else f"violations are within {percent(found.target)} from {gpus(best)} on."
            )
        )
    return sentences


def step3_statements(found: Findings) -> list[str]:
    """Violations by number of bins, the best, and whether it is distinct from the others."""
    if not len(found.summary):
        return ["No run finished, so nothing is known of the number of bins."]
    rates = list(_metric(found.summary, "sla_violation_rate"))
    parts = [f"{row.n_bins}: {interval_text(row)}, {load_text(row)}" for row in rates]
    sentences = ["Violations by number of bins: " + "; ".join(parts) + "."]
    best = min(rates, key=lambda row: row.mean)
    sentences.append(f"The lowest rate is at {bins_text(best.n_bins)}: {interval_text(best)}.")
    first = bins_text(rates[0].n_bins)
    for row in _metric(
        found.differences[found.differences["against"] == first], "sla_violation_rate"
    ):
        sentences.append(
            f"{bins_text(row.n_bins)} less {row.against}: {difference_text(row, of_shares=True)} "
            f"violations, {row.verdict}."
        )
    done = found.runs[found.runs["status"] == "done"]
    for n_bins, place in done.groupby("n_bins"):
        if place["bins"].min() == n_bins:
            continue
        sentences.append(
            f"Of {n_bins} bins asked for, tied lengths leave {place['bins'].min():.0f} to "
            f"{place['bins'].max():.0f}."
        )
    return sentences


def common_statements(found: Findings) -> list[str]:
    """What holds of every step: significance, failed runs, notes of the runs."""
    return [
        *_significance(found.differences),
        *_rejected(found.runs),
        *_failures(found.runs),
        *_notes(found.runs),
    ]


def _significance(differences: pd.DataFrame) -> list[str]:
    """How many differences exceed the noise, and which do not where they are few."""
    sentences = []
    for metric, rows in differences.groupby("metric", sort=False):
        within = rows[rows["verdict"] != CLEAR]
        name = TITLES[str(metric)]
        if not len(within):
            sentences.append(f"All {len(rows)} differences in {name} are {CLEAR}.")
            continue
        named = [f"{row.what} against {row.against}" for row in within.itertuples()]
        few = len(named) <= MANY and len(named) < len(rows)
        listed = f"; not so: {'; '.join(named)}" if few else ""
        sentences.append(
            f"{len(rows) - len(within)} of {len(rows)} differences in {name} are {CLEAR}{listed}."
        )
    return sentences


def _rejected(runs: pd.DataFrame) -> list[str]:
    """That some requests were too large for the memory, where they were."""
    done = runs[runs["status"] == "done"]
    share = (done["rejected"] / done["requests"].astype(float)).max()
    if not share > 0:
        return []
    return [
        f"In the worst run {percent(share)} of the requests are too large for the KV memory: they "
        "are rejected, count as late, and have no latency."
    ]


def _failures(runs: pd.DataFrame) -> list[str]:
    failed = runs[runs["status"] == "failed"]
    if not len(failed):
        return []
    named = [
        f"{row['scheduler']}, {gpus(row['n_gpus'])}, {row['requests_asked']} requests, "
        f"seed {row['seed']}: {row['error']}"
        for row in failed.to_dict("records")
    ]
    more = f"; and {len(named) - MANY} more" if len(named) > MANY else ""
    return [
        f"{len(failed)} of {len(runs)} runs FAILED and are in no mean: "
        f"{'; '.join(named[:MANY])}{more}. --retry-failed does them again."
    ]


def _notes(runs: pd.DataFrame) -> list[str]:
    """Each kind of note once, with how many gave it: numbers in it differ from run to run."""
    said = Notes()
    for notes in runs["notes"]:
        said.extend(() if notes is None else notes)
    sentences = []
    for note in said.counts():
        numbers = f" ({note.others} of them with other numbers)" if note.others else ""
        sentences.append(f"Note of {note.times} of {len(runs)} runs{numbers}: {note.text}")
    return sentences


def _metric(table: pd.DataFrame, metric: str) -> Iterator[Any]:
    """The rows of one metric, columns as attributes."""
    return table[table["metric"] == metric].itertuples()


STATEMENTS: Mapping[str, Callable[[Findings], list[str]]] = {
    "step1": step1_statements,
    "step2": step2_statements,
    "step2b": step2b_statements,
    "step3": step3_statements,
}
