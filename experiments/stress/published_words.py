"""What the tables of PUBLISHED.md say, in words: every number and every count comes from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from published_orderings import (
    BIN_COLUMNS,
    DYNAMIC,
    GPU_COUNTS,
    MULTI,
    STATIC,
    Published,
    Runs,
    Step,
    bin_steps_1m,
    gpu_steps,
    gpu_steps_1m,
    paired,
)
from published_text import listed, verdict

from llmsched.simulation.sweep.store import per_bin_frame

QUIET_START = "and a quiet start"
SAYS = {"falls": "holds", "rises": "reversed"}


def words(settings: Mapping[str, Runs], runs: Published, published: pd.DataFrame) -> dict[str, str]:
    """The parts of the prose, by their names in published.md.in."""
    noisy = {name.removesuffix(", noisy"): r for name, r in settings.items() if "noisy" in name}
    return {
        "dynamic_says": by_verdict(orderings_of(noisy, DYNAMIC, STATIC)),
        "multi_says": by_verdict(orderings_of(settings, MULTI, DYNAMIC)),
        "dynamic_late": dynamic_late(noisy),
        "static_batches": static_batches(noisy),
        "gpus_say": in_steps(gpu_steps(settings)),
        "gpus_1m_say": in_steps(gpu_steps_1m(runs)),
        "bins_1m_say": in_steps(bin_steps_1m(runs)),
        "more_throughput": more_throughput(settings),
        "overloaded": overloaded(settings),
        **long_bins(settings),
        **against_published(runs, published),
    }


def orderings_of(
    settings: Mapping[str, Runs], first: str, second: str, metric: str = "sla_violation_rate"
) -> list[Step]:
    """First less second, in every setting and on every number of GPUs."""
    return [
        (name, f"{n_gpus}", paired(runs[first, n_gpus], runs[second, n_gpus], metric))
        for name, runs in settings.items()
        for n_gpus in GPU_COUNTS
    ]


def by_verdict(steps: Iterable[Step]) -> str:
    """A line for each verdict, and where it is the one."""
    places: dict[str, dict[str, list[str]]] = {
        "holds": {},
        "not significant": {},
        "reversed": {},
    }
    for where, gpus, pair in steps:
        at = places[verdict(pair, **SAYS)].setdefault(where, [])
        at.append(f"{gpus} ({pair.mean:+.4f})")
    return "\n".join(
        f"- {says}: "
        + ("; ".join(f"{where}: {listed(at)}" for where, at in found.items()) or "nowhere")
        for says, found in places.items()
    )


def in_steps(steps: Sequence[Step]) -> str:
    """How many of the steps hold, and which do not."""
    found: dict[str, list[str]] = {"holds": [], "reversed": [], "not significant": []}
    for where, step, pair in steps:
        found[verdict(pair, **SAYS)].append(f"{where}, {step} ({pair.mean:+.4f})")
    holding = len(found.pop("holds"))
    others = (
        f"{says}: {len(names)}" + (f" ({'; '.join(names)})" if names else "")
        for says, names in found.items()
    )
    return f"of {len(steps)} steps {holding} hold; {'; '.join(others)}"


def dynamic_late(settings: Mapping[str, Runs]) -> str:
    """Static's and dynamic's violations as it comes, lowest to highest."""
    said = []
    for name, runs in settings.items():
        if "as it comes" in name:
            rates = [
                float(runs[s, n]["sla_violation_rate"].mean())
                for s in (STATIC, DYNAMIC)
                for n in GPU_COUNTS
            ]
            said.append(f"{min(rates):.3f} to {max(rates):.3f} ({name.split(',')[0]})")
    return " and ".join(said)


def static_batches(settings: Mapping[str, Runs]) -> str:
    """Static's mean batch on the most GPUs with a quiet start."""
    most = max(GPU_COUNTS)
    return " and ".join(
        f"{runs[STATIC, most]['batch_size_mean'].mean():.2f} ({name.split(',')[0]})"
        for name, runs in settings.items()
        if "quiet start" in name
    )


def more_throughput(settings: Mapping[str, Runs]) -> str:
    """How often multi-bin's throughput is more than static's, and how often less."""
    said = []
    for start in ("as it comes", "quiet start"):
        chosen = {name: runs for name, runs in settings.items() if start in name}
        steps = orderings_of(chosen, MULTI, STATIC, "throughput_rps")
        found = Counter(verdict(pair, falls="less", rises="more") for *_, pair in steps)
        said.append(f"{start} more in {found['more']} and less in {found['less']} of {len(steps)}")
    return ", ".join(said)


def overloaded(settings: Mapping[str, Runs]) -> str:
    """Runs labelled as overloaded, of those that come as they come."""
    labels = pd.concat(
        [
            found["load_label"]
            for name, runs in settings.items()
            if "as it comes" in name
            for found in runs.values()
        ]
    )
    return f"{(labels == 'overloaded').mean():.0%}".replace("%", " %")


def long_bins(settings: Mapping[str, Runs]) -> dict[str, str]:
    """The bin of the longest beside the others on one GPU: its wait, GPU time and batches."""
    waits: list[float] = []
    shares: list[float] = []
    batches: dict[str, list[float]] = {"as it comes": [], "quiet start": []}
    for name, runs in settings.items():
        bins = per_bin_frame(runs[MULTI, 1]).groupby("bin")[list(BIN_COLUMNS)].mean()
        last, others = bins.iloc[-1], bins.iloc[:-1]
        waits.append(last["wait_max_s"] / others["wait_max_s"].max())
        shares.append(100 * last["gpu_time_share"])
        start = next(start for start in batches if start in name)
        batches[start].append(last["batch_size_mean"] / others["batch_size_mean"].min())
    return {
        "long_waits": _ends(waits, ".1f"),
        "long_shares": _ends(shares, ".0f"),
        "long_batches": _ends(batches["as it comes"], ".2f"),
        "long_batches_quiet": _ends(batches["quiet start"], ".3f"),
    }


def against_published(runs: Published, published: pd.DataFrame) -> dict[str, str]:
    """Ours over the published value: throughput, violations and latency of the last variants."""
    keys = [published[name] for name in ("scheduler", "requests", "n_gpus", "n_bins")]
    rows_of = list(zip(*keys, strict=True))
    last = {row: found for (_, row), found in runs.items()}

    def over(metric: str, chosen: Iterable[tuple[str, int, int, int]]) -> list[float]:
        value = dict(zip(rows_of, published[metric].to_numpy(dtype=float), strict=True))
        return [float(last[row][metric].mean() / value[row]) for row in chosen]

    quiet = [row for name, row in runs if name == QUIET_START]
    most = [row for row in last if row[0] == MULTI and row[1] == 1_000_000]
    multi = [row for row in last if row[0] == MULTI]
    said = {}
    for requests, short in ((1_000, "1k"), (10_000, "10k")):
        rows = [row for row in quiet if row[1] == requests]
        said[f"violations_{short}"] = _ends(over("sla_violation_rate", rows), ".2f")
        said[f"throughput_{short}"] = _ends(over("throughput_rps", rows), ".3f")
        for which, on in (
            ("few", [row for row in rows if row[2] < 4]),
            ("4", [row for row in rows if row[2] == 4]),
        ):
            said[f"latency_{short}_{which}"] = _ends(over("latency_mean_s", on), ".2f")
    few = [row for row in most if row[2] <= 8]
    said["multi_throughput_1m"] = _ends([1 / r for r in over("throughput_rps", few)], ".2f")
    said["multi_latency"] = _ends(over("latency_mean_s", multi), ".2f")
    return said


def _ends(values: Sequence[float], spec: str) -> str:
    """Lowest to highest."""
    if not len(values):
        return "(not run)"
    low, high = f"{min(values):{spec}}", f"{max(values):{spec}}"
    return low if low == high else f"{low} to {high}"
