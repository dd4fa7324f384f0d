"""What the runs of a step say: intervals over replications, paired differences, the knee.

Every function takes the `runs` of a step (see `StepResult`) and gives a tidy table. A group is
what shares everything but the seed; a group that nothing random touches has one run and an
interval of width zero, and failed runs are in no mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched._util.notes import Notes
from llmsched._util.text import count_text, share_text
from llmsched.metrics.intervals import Interval, mean_interval, paired_difference
from llmsched.metrics.registry import METRICS as REGISTERED, title_of

if TYPE_CHECKING:
    import pandas as pd

Group = dict[str, Any]  # values of `GROUP`
GROUP = ("scheduler", "n_gpus", "requests", "n_bins", "target_load")
VIOLATIONS = "sla_violation_rate"
METRICS = (
    *(VIOLATIONS, "goodput_rps", "throughput_rps", "throughput_tps", "output_tps"),
    *("latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s", "latency_max_s"),
    *("queueing_mean_s", "service_mean_s", "gpu_utilization", "batch_size_mean", "padding_waste"),
    *("rejected", "makespan_s"),
    *("throughput_speedup", "goodput_speedup", "throughput_efficiency", "goodput_efficiency"),
    # of the iteration level only, as others above are of batches only
    *("ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s"),
    *("kv_share_mean", "preemptions_per_request"),
)
PER_BIN_METRICS = (
    *("request_share", "gpu_time_share", VIOLATIONS, "latency_mean_s", "latency_p99_s"),
    *("wait_max_s", "backlog_mean", "backlog_peak", "batch_size_mean", "batches"),
    *("output_variance_mean", "output_range_mean", "output_max_over_mean"),
)
COMPARED = ("throughput_rps", "goodput_rps", VIOLATIONS, "latency_mean_s", "latency_p99_s")
ROUNDING = 1e-9  # of the value: a difference up to this is that of the last digits of two sums
DERIVED = {"throughput_efficiency": "throughput / linear", "goodput_efficiency": "goodput / linear"}
CLEAR = "larger than the noise"
LABELS = ("overloaded", "backlogged", "stable")  # the worst first


def shown(metric: str) -> tuple[str, float]:
    """The title of a metric with its unit, and what its values are multiplied by: shares by 100."""
    if metric in REGISTERED and REGISTERED[metric].scale == "logit":
        return f"{REGISTERED[metric].title} [%]", 100.0
    return DERIVED.get(metric, title_of(metric)), 1.0


def groups(runs: pd.DataFrame) -> Iterator[tuple[Group, pd.DataFrame]]:
    """The groups of finished runs, in the order of the runs: what they share, and their rows."""
    done = runs[runs["status"] == "done"]
    keys = done.assign(requests=done["requests_asked"])[list(GROUP)]
    for values, members in done.groupby(
        [keys[name] for name in GROUP], sort=False, dropna=False, observed=True
    ):
        yield dict(zip(GROUP, values, strict=True)), members


def rows_of(table: pd.DataFrame) -> list[Any]:
    """The rows of a table, columns as attributes."""
    return list(table.itertuples())


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Every metric of every group: its mean over replications and the 95 % interval.

    Columns: those of `GROUP`, `metric`, `mean`, `low`, `high` (NaN where one replication gives no
    interval), `n` (runs done), `offered_load` (their mean ρ), `load_label` (the one that most
    got; the worse on ties) and `n_label` (how many got it).  A group whose runs all failed has no
    row.
    """
    import pandas as pd

    metrics = [name for name in METRICS if name in runs]
    rows = []
    for group, members in groups(runs):
        labels = list(members["load_label"])
        label = max(LABELS, key=labels.count)
        load = {
            "offered_load": float(members["offered_load"].astype(float).mean()),
            "load_label": label,
            "n_label": labels.count(label),
        }
        rows += [
            group | {"metric": metric} | _interval_row(members, metric) | load for metric in metrics
        ]
    columns = [*GROUP, "metric", "mean", "low", "high", "n", "offered_load"]
    return pd.DataFrame(rows, columns=[*columns, "load_label", "n_label"])


def _interval_row(members: pd.DataFrame, metric: str) -> dict[str, float]:
    """The mean of a metric over a group's runs, its interval, and how many runs there are."""
    values = members[metric].to_numpy(dtype=np.float64)
    random = bool(members["random"].any())
    interval = mean_interval(values) if random else _exact(float(values[0]))
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": len(members),
    }


def _exact(value: float) -> Interval:
    """The interval of what nothing random touches."""
    return Interval(mean=value, low=value, high=value, n=1)


def differences(
    runs: pd.DataFrame,
    pairs: Sequence[tuple[Group, Group]],
    *,
    against: str,
    metrics: Sequence[str] = COMPARED,
) -> pd.DataFrame:
    """One group less another, replication by replication, for each pair and metric.

    Parameters
    ----------
    pairs : sequence of (dict, dict)
        Values of `GROUP`, as from `groups`: of the group, and of the one it is set against.
    against : str
        The column of `GROUP` that tells the two of a pair apart.

    Returns
    -------
    DataFrame
        `what` (what varies within the step, in words), `against`, the columns of `GROUP` of the
        first, `metric`, `mean`, `low`, `high`, `n` and `verdict`.  A pair without a replication
        that both finished has no rows.
    """
    import pandas as pd

    by_group = {_hashable(group): members for group, members in groups(runs)}
    varying = [name for i, name in enumerate(GROUP) if len({key[i] for key in by_group}) > 1]
    rows = []
    for first, second in pairs:
        members = [by_group.get(_hashable(group)) for group in (first, second)]
        if members[0] is None or members[1] is None:
            continue
        words = {
            "what": ", ".join(value_text(name, first[name]) for name in varying),
            "against": value_text(against, second[against]),
        }
        for metric in metrics:
            if (found := _difference(members[0], members[1], metric)) is not None:
                rows.append({**words, **first, "metric": metric, **found})
    columns = ["what", "against", *GROUP, "metric", "mean", "low", "high", "n", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _difference(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    """First less second over the seeds that both have; what is not random has one for all."""
    a, b = (members.set_index("seed")[metric].astype(float) for members in (first, second))
    random = bool(first["random"].any()), bool(second["random"].any())
    seeds = a.index.intersection(b.index) if all(random) else (a if random[0] else b).index
    if not len(seeds):
        return None
    samples = [
        values[seeds].tolist() if each else [float(values.iloc[0])] * len(seeds)
        for values, each in zip((a, b), random, strict=True)
    ]
    interval = paired_difference(*samples)
    if not any(random):
        interval = _exact(interval.mean)
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}
    return {**ends, "verdict": _verdict(interval, ROUNDING * abs(float(b.mean())))}


def _verdict(interval: Interval, rounding: float) -> str:
    """Whether a difference is larger than the noise of the replications, in words."""
    if math.isnan(interval.low):
        return f"{'one replication' if interval.n == 1 else 'no value'}: no interval"
    if max(interval.high - interval.low, abs(interval.mean)) <= rounding:
        return "equal"
    return CLEAR if interval.significant else "within the noise"


def _hashable(group: Group) -> tuple[Any, ...]:
    """A group's values, None for NaN, which never equals itself."""
    return tuple(None if group[name] != group[name] else group[name] for name in GROUP)


def value_text(name: str, value: Any) -> str:
    """A value that tells groups apart, in words: `4 GPUs`, `load 0.7`, a scheduler's name."""
    units = {"n_gpus": "GPU", "requests": "request", "n_bins": "bin"}
    if name in units:
        return count_text(value, units[name])
    return f"load {value:g}" if name == "target_load" else str(value)


def with_scaling(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with their speedup over the fewest GPUs of the same seed, and their efficiency.

    Speedup is throughput (or goodput) over that of the fewest GPUs m; efficiency is speedup over
    n / m, so that 1 means linear.  NaN where the run on the fewest GPUs failed or had none.
    """
    done = runs["status"] == "done"
    fewest = runs["n_gpus"].min()
    base = runs[done & (runs["n_gpus"] == fewest)].set_index("seed")
    scaled = runs.copy()
    for name in ("throughput", "goodput"):
        at_fewest = runs["seed"].map(base[f"{name}_rps"]).astype(float)
        speedup = runs[f"{name}_rps"].astype(float) / at_fewest.where(at_fewest > 0)
        scaled[f"{name}_speedup"] = speedup
        scaled[f"{name}_efficiency"] = speedup * fewest / runs["n_gpus"]
    return scaled


def knee(n_gpus: Sequence[float] | FloatArray, rate: Sequence[float] | FloatArray) -> float:
    """The GPU count where rate^2 / GPUs is largest, the smallest on ties.

    That is speedup times efficiency, the knee of the profile of efficiency against time [1]_:
    beyond it one per cent more GPUs gain less than half a per cent more rate.

    Raises
    ------
    ValueError
        If there is no point, or a rate is not a number.

    References
    ----------
    .. [1] Eager, Zahorjan, Lazowska, "Speedup versus efficiency in parallel systems", IEEE
       Transactions on Computers 38(3), 1989.

    Examples
    --------
    >>> knee([1, 2, 4, 8], [10.0, 20.0, 36.0, 40.0])
    4.0
    """
    counts, rates = np.asarray(n_gpus, dtype=np.float64), np.asarray(rate, dtype=np.float64)
    if not len(counts) or np.isnan(rates).any():
        raise ValueError(f"a knee needs at least 1 point and no NaN, got {rates.tolist()}")
    order = np.argsort(counts, kind="stable")
    power = rates[order] ** 2 / counts[order]
    return float(counts[order][np.argmax(power)])


def fewest_gpus(summary: pd.DataFrame, target: float) -> float | None:
    """The fewest GPUs whose violation rate stays within the target; None if none does.

    The upper end of the interval must be within it; where there is no interval, the mean.
    """
    rates = summary[summary["metric"] == VIOLATIONS].sort_values("n_gpus")
    highest = rates["high"].fillna(rates["mean"])
    meeting = rates[highest <= target]
    return float(meeting["n_gpus"].iloc[0]) if len(meeting) else None


def per_bin_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Every bin of every group: the columns of `summary_table`, and `bin`, for per-bin metrics."""
    import pandas as pd

    from llmsched.simulation.sweep.store import per_bin_frame

    rows = []
    for group, members in groups(runs):
        frame = per_bin_frame(members)
        if frame.empty:  # of the iteration level
            continue
        frame = frame.merge(members[["key", "random"]], on="key")
        for one_bin, of_bin in frame.groupby("bin", sort=True):
            rows += [
                group | {"bin": one_bin, "metric": metric} | _interval_row(of_bin, metric)
                for metric in PER_BIN_METRICS
            ]
    return pd.DataFrame(rows, columns=[*GROUP, "bin", "metric", "mean", "low", "high", "n"])


def batch_size_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The share of batches of at most each size, pooled over a group's runs: `value`, `share`."""
    import pandas as pd

    tables = []
    for group, members in groups(runs):
        counts = [np.asarray(one, dtype=np.int64) for one in members["batch_size_counts"]]
        total = np.zeros(max(map(len, counts)), dtype=np.int64)
        for one in counts:
            total[: len(one)] += one
        sizes = np.flatnonzero(total)
        shares = total[sizes].cumsum() / total.sum()
        tables.append(pd.DataFrame({"value": sizes, "share": shares}).assign(**group))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def latency_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The share of requests within each latency, the mean over a group's runs: `value` [s]."""
    import pandas as pd

    tables = []
    for group, members in groups(runs):
        curves = [np.asarray(one) for one in members["latency_quantiles_s"] if len(one)]
        if curves:
            levels = np.linspace(0, 1, len(curves[0]))
            table = pd.DataFrame({"value": np.mean(curves, axis=0), "share": levels})
            tables.append(table.assign(**group))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


_MOST_FAILURES = 4  # a caution names so many, and counts the others


def cautions(runs: pd.DataFrame) -> list[str]:
    """What to know before trusting a step, a line each: left out, rejected, failed, its notes."""
    found: list[str] = list(runs.attrs.get("notes", ()))
    done, failed = (runs[runs["status"] == status] for status in ("done", "failed"))
    share = (done["rejected"] / done["requests"].astype(float)).max()
    if share > 0:
        found.append(
            f"In the worst run {share_text(share)} of the requests are too large for the KV "
            "memory: they are rejected, count as late, and have no latency."
        )
    if len(failed):
        named = [
            f"{row['scheduler']}, {count_text(row['n_gpus'], 'GPU')}, {row['requests_asked']} "
            f"requests, seed {row['seed']}: {row['error']}"
            for row in failed[:_MOST_FAILURES].to_dict("records")
        ]
        more = len(failed) - len(named)
        found.append(
            f"{len(failed)} of {len(runs)} runs FAILED and are in no mean: {'; '.join(named)}"
            f"{f'; and {more} more' if more else ''}. --retry-failed does them again."
        )
    said = Notes()
    for notes in runs["notes"]:
        said.extend(() if notes is None else notes)
    for note in said.counts():
        others = f", {note.others} of them with other numbers" if note.others else ""
        found.append(f"{note.text} (note of {note.times} of {len(runs)} runs{others})")
    return found
