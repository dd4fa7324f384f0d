"""What the runs of a stress step say: intervals over replications, paired differences, the knee.

Every function takes the `runs` of a step (see `stress.StepResult`) and gives a tidy table. A group
is what shares everything but the seed; a group that nothing random touches has one run and an
interval of width zero, and failed runs are in no mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched._util.types import FloatArray
from llmsched.metrics.intervals import Interval, mean_interval, paired_difference
from llmsched.studies.stress.noise import COMPARED, Difference

if TYPE_CHECKING:
    import pandas as pd

GROUP = ("scheduler", "n_gpus", "requests", "n_bins", "target_load")
METRICS = (
    *("sla_violation_rate", "goodput_rps", "throughput_rps", "throughput_tps", "output_tps"),
    *("latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s", "latency_max_s"),
    *("queueing_mean_s", "service_mean_s", "gpu_utilization", "batch_size_mean", "padding_waste"),
    *("rejected", "makespan_s"),
)
SCALING = ("throughput_speedup", "goodput_speedup", "throughput_efficiency", "goodput_efficiency")
PER_BIN_METRICS = (
    *("request_share", "gpu_time_share", "sla_violation_rate", "latency_mean_s", "latency_p99_s"),
    *("wait_max_s", "backlog_mean", "backlog_peak", "batch_size_mean", "batches"),
    *("output_variance_mean", "output_range_mean", "output_max_over_mean"),
)
LABELS = ("overloaded", "backlogged", "stable")  # the worst first


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Every metric of every group: its mean over replications and the 95 % interval.

    Columns: those of `GROUP`, `metric`, `mean`, `low`, `high` (NaN where one replication gives no
    interval), `n` (runs done), `offered_load` (their mean ρ), `load_label` (the one that most
    got; the worse on ties) and `n_label` (how many got it).  A group whose runs all failed has no
    row.
    """
    import pandas as pd

    metrics = [name for name in (*METRICS, *SCALING) if name in runs]
    rows = []
    for group, members in groups(runs):
        load = {
            "offered_load": float(members["offered_load"].astype(float).mean()),
            "load_label": _load_label(members),
        }
        load["n_label"] = int((members["load_label"] == load["load_label"]).sum())
        for metric in metrics:
            rows.append(group | {"metric": metric} | _interval_row(members, metric) | load)
    columns = [*GROUP, "metric", "mean", "low", "high", "n", "offered_load"]
    columns += ["load_label", "n_label"]
    return pd.DataFrame(rows, columns=columns)


def groups(runs: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The groups of finished runs, in the order of the runs: what they share, and their rows."""
    done = runs[runs["status"] == "done"]
    keys = done[list(GROUP[:2])].assign(
        requests=done["requests_asked"], n_bins=done["n_bins"], target_load=done["target_load"]
    )
    for values, members in done.groupby(
        [keys[name] for name in GROUP], sort=False, dropna=False, observed=True
    ):
        yield dict(zip(GROUP, values, strict=True)), members


def _load_label(members: pd.DataFrame) -> str:
    labels = list(members["load_label"])
    return max(LABELS, key=labels.count)


def _interval_row(members: pd.DataFrame, metric: str) -> dict[str, float]:
    interval = interval_of(members, metric)
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": len(members),
    }


def interval_of(members: pd.DataFrame, metric: str) -> Interval:
    """The mean of a metric over a group's runs, and its interval."""
    values = members[metric].to_numpy(dtype=np.float64)
    if not members["random"].any():
        value = float(values[0])
        return Interval(mean=value, low=value, high=value, n=1)
    return mean_interval(values)


def differences(
    runs: pd.DataFrame,
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    *,
    names: Sequence[str],
    metrics: Sequence[str] = COMPARED,
) -> pd.DataFrame:
    """One group less another, replication by replication, for each pair and metric.

    Parameters
    ----------
    pairs : sequence of (dict, dict)
        Values of `GROUP`, as from `groups`: of the group, and of the one it is set against.
    names : sequence of str
        The columns of `GROUP` that tell the two of a pair apart; `against` has their values.

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
        for metric in metrics:
            found = _difference(members[0], members[1], metric)
            if found is None:
                continue
            rows.append(
                {
                    "what": ", ".join(_value_text(name, first[name]) for name in varying),
                    "against": ", ".join(_value_text(name, second[name]) for name in names),
                    **first,
                    "metric": metric,
                    "mean": found.interval.mean,
                    "low": found.interval.low,
                    "high": found.interval.high,
                    "n": found.interval.n,
                    "verdict": found.verdict,
                }
            )
    columns = ["what", "against", *GROUP, "metric", "mean", "low", "high", "n", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _difference(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> Difference | None:
    """First less second over the seeds that both have; what is not random has one for all."""
    a, b = (members.set_index("seed")[metric].astype(float) for members in (first, second))
    random = bool(first["random"].any()), bool(second["random"].any())
    seeds = a.index.intersection(b.index) if all(random) else (a if random[0] else b).index
    if not len(seeds):
        return None
    interval = paired_difference(_samples(a, seeds, random[0]), _samples(b, seeds, random[1]))
    if not any(random):
        interval = Interval(mean=interval.mean, low=interval.mean, high=interval.mean, n=1)
    return Difference(
        scheduler=str(first["scheduler"].iloc[0]),
        baseline=str(second["scheduler"].iloc[0]),
        metric=metric,
        interval=interval,
        rounding=1e-9 * abs(float(b.mean())),
    )


def _samples(values: pd.Series[float], seeds: pd.Index[Any], random: bool) -> list[float]:
    """A metric under each seed; what is not random is the same under all."""
    return values[seeds].tolist() if random else [float(values.iloc[0])] * len(seeds)


def _hashable(group: dict[str, Any]) -> tuple[Any, ...]:
    """A group's values, no load for NaN, which never equals itself."""
    return tuple(
        None if isinstance(group[name], float) and math.isnan(group[name]) else group[name]
        for name in GROUP
    )


def _value_text(name: str, value: Any) -> str:
    if name == "scheduler":
        return str(value)
    if name == "target_load":
        return f"load {value:g}"
    unit = {"n_gpus": "GPU", "requests": "request", "n_bins": "bin"}[name]
    return f"{int(value)} {unit}{'' if value == 1 else 's'}"


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
    rates = summary[summary["metric"] == "sla_violation_rate"].sort_values("n_gpus")
    highest = rates["high"].fillna(rates["mean"])
    meeting = rates[highest <= target]
    return float(meeting["n_gpus"].iloc[0]) if len(meeting) else None


def per_bin_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Every bin of every group: the columns of `summary_table`, and `bin`, for per-bin metrics."""
    import pandas as pd

    from llmsched.simulation.sweep.store import per_bin_frame

    rows = []
    for group, members in groups(runs):
        frame = per_bin_frame(members).merge(members[["key", "random"]], on="key")
        for one_bin, of_bin in frame.groupby("bin", sort=True):
            rows += [
                group | {"bin": one_bin, "metric": metric} | _interval_row(of_bin, metric)
                for metric in PER_BIN_METRICS
            ]
    columns = [*GROUP, "bin", "metric", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def batch_size_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The share of batches of each size, pooled over a group's runs: `batch_size`, `share`."""
    import pandas as pd

    tables = []
    for group, members in groups(runs):
        counts = [np.asarray(one, dtype=np.int64) for one in members["batch_size_counts"]]
        total = np.zeros(max(map(len, counts)), dtype=np.int64)
        for one in counts:
            total[: len(one)] += one
        sizes = np.flatnonzero(total)
        table = pd.DataFrame({"batch_size": sizes, "share": total[sizes] / total.sum()})
        tables.append(table.assign(**group))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def latency_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The latency distribution of every group: `quantile`, and the mean over its runs, [s]."""
    import pandas as pd

    tables = []
    for group, members in groups(runs):
        curves = [np.asarray(one) for one in members["latency_quantiles_s"] if len(one)]
        if curves:
            levels = np.linspace(0, 1, len(curves[0]))
            table = pd.DataFrame({"quantile": levels, "latency_s": np.mean(curves, axis=0)})
            tables.append(table.assign(**group))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
