"""Why ours differ from the published values: the evidence, as Markdown."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from published_runs import (
    AS_IT_COMES,
    ORIGIN_PREDICTOR,
    PLAN_RPS_SCALE,
    PUBLISHED_RATE_PER_S,
    QUIET,
    VARIANTS,
    arrival_rate_per_s,
)
from published_text import difference, head, line, number, text

from llmsched import Trace, Workload, simulate
from llmsched.metrics.intervals import Interval, mean_interval, paired_difference
from llmsched.metrics.run import Metrics
from llmsched.schedulers.batch_size import DynamicBatcher
from llmsched.schedulers.memory_limit import BufferLimit
from llmsched.schedulers.registry import SCHEDULERS, make_scheduler
from llmsched.schedulers.scheduler import Scheduler
from llmsched.schedulers.settings import Settings
from llmsched.schedulers.sla_control import PaperController
from llmsched.simulation.presets import preset

STATIC, DYNAMIC, MULTI = "static_fifo", "dynamic_no_bins", "multi_bin_dynamic"
SCHEDULERS_COMPARED = (STATIC, DYNAMIC, MULTI)
N_SEEDS = 10
REQUESTS = 10_000
TIES, FAILED = "ties in random order", "failed requests left out"
SMALL = {
    "sla_violation_rate": "violations",
    "latency_mean_s": "mean latency [s]",
    "throughput_rps": "throughput [req/s]",
}
SmallPairs = dict[tuple[str, str], list[tuple[Metrics, Metrics]]]  # changed, unchanged


def rates() -> str:
    """Arrival rates: published, of the profile, and of its conversations from midnight on."""
    lines = head(["requests", "published [req/s]", "the profile at 200×", "lowest to highest seed"])
    for requests, published in PUBLISHED_RATE_PER_S.items():
        workload = AS_IT_COMES.workload(requests, 0)
        ours = [arrival_rate_per_s(workload, seed) for seed in range(5)]
        ends = f"{number(min(ours))} to {number(max(ours))}"
        lines.append(line([f"{requests:,}", number(published), text(mean_interval(ours)), ends]))
    return "\n".join(lines)


def small_pairs(n_seeds: int = N_SEEDS) -> SmallPairs:
    """Ties served in another order than they came in, and failed requests left out."""
    changes: dict[str, Callable[[Workload, int], Trace]] = {
        TIES: _ties_shuffled,
        FAILED: lambda w, seed: replace(w, failures="drop").load(seed),
    }
    return {
        (what, scheduler): [
            (_metrics(change(w, seed), scheduler, seed), _metrics(w.load(seed), scheduler, seed))
            for seed in range(n_seeds)
            for w in (QUIET.workload(REQUESTS, seed),)
        ]
        for what, change in changes.items()
        for scheduler in SCHEDULERS_COMPARED
    }


def small_differences(pairs: SmallPairs) -> str:
    """The difference that each makes."""
    lines = head(["what", "scheduler", *SMALL.values()])
    for (what, scheduler), found in pairs.items():
        cells = [difference(_change(found, metric)[0]) for metric in SMALL]
        lines.append(line([what, scheduler, *cells]))
    return "\n".join(lines)


def small_in_words(pairs: SmallPairs) -> dict[str, str]:
    """Which of them can be told from none, and how large they are."""
    said: dict[str, list[str]] = {TIES: [], FAILED: []}
    for (what, scheduler), found in pairs.items():
        for metric, title in SMALL.items():
            pair, base = _change(found, metric)
            if pair.significant:
                share = f"{pair.mean / base:+.1%}".replace("%", " %")
                said[what].append(f"{scheduler}'s {title} {text(pair, sign=True)} ({share})")
    return {
        "ties_say": "; ".join(said[TIES]) or "none",
        "failed_say": "; ".join(said[FAILED]) or "none",
    }


def _change(found: list[tuple[Metrics, Metrics]], metric: str) -> tuple[Interval, float]:
    """Changed less unchanged, and the mean of the unchanged."""
    changed, unchanged = np.transpose([[getattr(m, metric) for m in pair] for pair in found])
    return paired_difference(changed, unchanged), float(unchanged.mean())


def _ties_shuffled(workload: Workload, seed: int) -> Trace:
    """Requests that arrive at one instant, in a random order: FIFO among ties is lost."""
    trace = workload.load(seed)
    order = np.lexsort((np.random.default_rng(seed).random(len(trace)), trace.arrival_s))
    return trace.take(order)


def alphas(requests: int, n_seeds: int) -> str:
    """Multi-bin on one GPU with Algorithm 2's α made small: the long bin's batches, throughput."""
    of_bins = ["long bin's mean batch", "its longest wait [s]", "longest wait elsewhere [s]"]
    lines = head(["scheduler", "smallest limit", "throughput [req/s]", "less static's", *of_bins])
    variant = VARIANTS[2]
    traces = [variant.workload(requests, seed).load(seed) for seed in range(n_seeds)]
    base = [_metrics(trace, STATIC, seed) for seed, trace in enumerate(traces)]
    rows = {"static_fifo": base}
    for alpha, delta in ((16, 4), (8, 1), (1, 1)):
        name = f"multi_bin_dynamic, α = {alpha}, δ = {delta}"
        SCHEDULERS.ours[name] = lambda s, a=alpha, d=delta: with_alpha(s, a, d)
        rows[name] = [_metrics(trace, name, seed) for seed, trace in enumerate(traces)]
        del SCHEDULERS.ours[name]
    for name, found in rows.items():
        rate = [m.throughput_rps for m in found]
        cells = [text(mean_interval(rate)), "", "", "", ""]
        smallest = "8, fixed"
        if found is not base:
            smallest = str((1 + 1 + int(name.split("α = ")[1].split(",")[0])) // 2)
            long_bin = [m.per_bin[-1] for m in found]
            elsewhere = [max(b.wait_max_s for b in m.per_bin[:-1]) for m in found]
            cells[1:] = [
                difference(paired_difference(rate, [m.throughput_rps for m in base])),
                text(mean_interval([b.batch_size_mean for b in long_bin])),
                text(mean_interval([b.wait_max_s for b in long_bin])),
                text(mean_interval(elsewhere)),
            ]
        lines.append(line([name, smallest, *cells]))
    return "\n".join(lines)


def with_alpha(settings: Settings, alpha: int, delta: int) -> Scheduler:
    """`multi_bin_dynamic` whose controllers have another α and δ."""

    def batcher() -> DynamicBatcher:
        low, high = settings.batch_min, settings.batch_max
        controller = PaperController(settings.sla_s, low, high, alpha=alpha, delta=delta)
        return DynamicBatcher(BufferLimit(settings.capacity_tokens), controller, high)

    return replace(make_scheduler(MULTI, settings), batcher=batcher)


def _metrics(trace: Trace, scheduler: str, seed: int, n_gpus: int = 1) -> Metrics:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return simulate(
            replace(preset("plan"), workload=trace),
            scheduler,
            n_gpus=n_gpus,
            predictor=ORIGIN_PREDICTOR,
            seed=seed,
        ).metrics


def real_rows(data: Path | None, n_seeds: int = N_SEEDS) -> str:
    """The first 400 rows of the real file at 200×, beside as many of the profile's."""
    if data is None:
        return "Not run: no `--data` was given."
    workload = Workload(
        source=str(data / "burstgpt" / "burstgpt_1_head400.csv"),
        failures="keep",
        rps_scale=PLAN_RPS_SCALE,
    )
    real = workload.load(0)
    rate_per_s = len(real) / real.span_s
    ours = [
        QUIET.workload(len(real), seed, rate_per_s=rate_per_s).load(seed) for seed in range(n_seeds)
    ]
    lines = head(["scheduler", "GPUs", *(f"{m}, {w}" for m in _REAL.values() for w in _WHOSE)])
    for scheduler, n_gpus in ((STATIC, 1), (DYNAMIC, 1), (MULTI, 1), (MULTI, 2), (MULTI, 4)):
        found = [
            [_metrics(trace, scheduler, seed, n_gpus) for seed, trace in enumerate(traces)]
            for traces in ([real] * n_seeds, ours)
        ]
        cells = [
            text(mean_interval([getattr(m, metric) for m in several]))
            for metric in _REAL
            for several in found
        ]
        lines.append(line([scheduler, n_gpus, *cells]))
    return "\n".join([f"Their arrival rate is {rate_per_s:.2f} req/s.", "", *lines])


_REAL = {"sla_violation_rate": "violations", "latency_mean_s": "mean latency [s]"}
_WHOSE = ("real rows", "profile")
