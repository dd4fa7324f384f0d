"""Which published orderings hold, on equal GPUs and the same requests, as Markdown.

Every difference is paired, seed by seed; an ordering counts where its 95 % interval leaves out 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
from published_runs import (
    AS_IT_COMES,
    H100,
    ORIGIN_PREDICTOR,
    PUBLISHED_RATE_PER_S,
    QUIET,
    REFERENCE,
    VARIANTS,
    Hardware,
    run,
)
from published_text import difference, head, line, number, text, verdict

from llmsched import Binning
from llmsched.metrics.intervals import Interval, mean_interval, paired_difference
from llmsched.simulation.sweep.store import per_bin_frame

STATIC, DYNAMIC, MULTI = "static_fifo", "dynamic_no_bins", "multi_bin_dynamic"
SCHEDULERS_COMPARED = (STATIC, DYNAMIC, MULTI)
GPU_COUNTS = (1, 2, 4)
N_SEEDS = 10
REQUESTS = 10_000
BIN_COLUMNS = {
    "requests": "requests",
    "batch_size_mean": "mean batch",
    "latency_p99_s": "P99 latency [s]",
    "wait_max_s": "longest wait [s]",
    "backlog_peak": "largest backlog",
    "gpu_time_share": "share of GPU time",
}


Runs = dict[tuple[str, int], pd.DataFrame]  # scheduler, GPUs -> replications
Step = tuple[str, str, Interval]  # where, which step, and the difference that it makes
PublishedRow = tuple[str, int, int, int]  # scheduler, requests, GPUs, K
Published = dict[tuple[str, PublishedRow], pd.DataFrame]  # variant and row -> replications
GPU_ROWS_1M = [(MULTI, 1_000_000, n_gpus, 4) for n_gpus in (1, 2, 4, 8, 16, 32, 64, 100)]
BIN_ROWS_1M = [(MULTI, 1_000_000, 100, n_bins) for n_bins in (1, 2, 4, 8, 16, 32)]


def equal_gpus(out: Path, *, jobs: int, n_seeds: int = N_SEEDS) -> Iterator[tuple[str, Runs]]:
    """Every setting of the orderings, with its runs."""
    for hardware, title in ((REFERENCE, "reference"), (H100, "H100")):
        for variant in (AS_IT_COMES, QUIET):
            for predictor in ("noisy", ORIGIN_PREDICTOR):
                name = "as it comes" if variant is AS_IT_COMES else "quiet start"
                runs = _setting(hardware, variant is QUIET, predictor, out, jobs, n_seeds)
                yield f"{title}, {name}, {predictor}", runs


def _setting(
    hardware: Hardware, quiet: bool, predictor: str, out: Path, jobs: int, n_seeds: int
) -> Runs:
    variant = QUIET if quiet else AS_IT_COMES
    rate_per_s = PUBLISHED_RATE_PER_S[REQUESTS] / hardware.slower
    configs = {
        (scheduler, n_gpus): [
            hardware.config(
                variant.workload(REQUESTS, seed, rate_per_s=rate_per_s),
                scheduler,
                n_gpus=n_gpus,
                predictor=predictor,
                seed=seed,
            )
            for seed in range(n_seeds)
        ]
        for scheduler in SCHEDULERS_COMPARED
        for n_gpus in GPU_COUNTS
    }
    runs = run([config for several in configs.values() for config in several], out, jobs=jobs)
    return {
        group: runs.loc[[config.key() for config in several]] for group, several in configs.items()
    }


def orderings(settings: dict[str, Runs]) -> str:
    """Violations: dynamic less static, multi-bin less dynamic; then more GPUs less fewer."""
    pairs_of = ["dynamic − static", "says", "multi-bin − dynamic", "says"]
    lines = head(["setting", "GPUs", "static", "dynamic", "multi-bin", *pairs_of])
    better = {"falls": "holds", "rises": "reversed"}
    for name, runs in settings.items():
        for n_gpus in GPU_COUNTS:
            rates = [runs[s, n_gpus]["sla_violation_rate"].to_numpy() for s in SCHEDULERS_COMPARED]
            pairs = paired_difference(rates[1], rates[0]), paired_difference(rates[2], rates[1])
            cells = [f"{rate.mean():.3f}" for rate in rates]
            for pair in pairs:
                cells += [difference(pair), verdict(pair, **better)]
            lines.append(line([name, n_gpus, *cells]))
    return "\n".join(lines)


def with_gpus(settings: dict[str, Runs]) -> str:
    """Multi-bin's violations on twice the GPUs, less those on the fewer."""
    lines = head(["setting", "2 GPUs − 1", "says", "4 GPUs − 2", "says"])
    cells: dict[str, list[str]] = {}
    for name, _, pair in gpu_steps(settings):
        cells.setdefault(name, []).extend(
            [difference(pair), verdict(pair, falls="holds", rises="reversed")]
        )
    return "\n".join([*lines, *(line([name, *several]) for name, several in cells.items())])


def gpu_steps(settings: Mapping[str, Runs]) -> list[Step]:
    """Every doubling of the GPUs."""
    return [
        (name, f"{more} GPUs", paired(runs[MULTI, more], runs[MULTI, fewer], "sla_violation_rate"))
        for name, runs in settings.items()
        for fewer, more in pairwise(GPU_COUNTS)
    ]


def paired(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> Interval:
    """First less second, seed by seed."""
    return paired_difference(first[metric].to_numpy(), second[metric].to_numpy())


def with_gpus_1m(runs: Published) -> str:
    """Multi-bin's violations on more GPUs less those on the next fewer, a million requests."""
    return _stepwise(runs, GPU_ROWS_1M, column=2, head_of="GPUs")


def with_bins_1m(runs: Published) -> str:
    """The same with the number of bins, on 100 GPUs."""
    return _stepwise(runs, BIN_ROWS_1M, column=3, head_of="K")


def gpu_steps_1m(runs: Published) -> list[Step]:
    """The steps of `with_gpus_1m`."""
    return [
        (name, f"{row[2]} GPUs", pair)
        for name, row, _, pair in _steps(runs, GPU_ROWS_1M)
        if pair is not None
    ]


def bin_steps_1m(runs: Published) -> list[Step]:
    """The steps of `with_bins_1m`."""
    return [
        (name, f"K = {row[3]}", pair)
        for name, row, _, pair in _steps(runs, BIN_ROWS_1M)
        if pair is not None
    ]


def _steps(
    runs: Published, rows: Sequence[PublishedRow]
) -> Iterator[tuple[str, PublishedRow, pd.DataFrame, Interval | None]]:
    """Variant, row, its runs, and their violations less those of the row above."""
    for variant in VARIANTS:
        before: pd.DataFrame | None = None
        for row in rows:
            found = runs.get((variant.name, row))
            if found is None:
                continue
            pair = None if before is None else paired(found, before, "sla_violation_rate")
            yield variant.name, row, found, pair
            before = found


def _stepwise(runs: Published, rows: Sequence[PublishedRow], *, column: int, head_of: str) -> str:
    lines = head(["variant", head_of, "violations", "less those of the row above", "says"])
    for name, row, found, pair in _steps(runs, rows):
        rate = text(mean_interval(found["sla_violation_rate"].to_numpy()))
        cells = ["", ""]
        if pair is not None:
            cells = [difference(pair), verdict(pair, falls="holds", rises="reversed")]
        lines.append(line([name, row[column], rate, *cells]))
    return "\n".join(lines)


def with_bins(out: Path, *, jobs: int, n_seeds: int = N_SEEDS) -> str:
    """Violations against the number of bins on few GPUs, 10,000 requests, quiet start."""
    titles = ["GPUs", "K", "violations", "less those of the row above", "says"]
    lines = head([*titles, "mean batch", "violations with the longest queue first"])
    for n_gpus in GPU_COUNTS:
        before = None
        for n_bins in (1, 2, 4, 8, 16, 32):
            found, longest = _with_bins(out, jobs, n_seeds, n_gpus, n_bins)
            cells: list[object] = ["", ""]
            if before is not None:
                pair = paired(found, before, "sla_violation_rate")
                cells = [difference(pair), verdict(pair, falls="holds", rises="reversed")]
            rate, batch, other = (
                text(mean_interval(runs[metric].to_numpy()))
                for runs, metric in (
                    (found, "sla_violation_rate"),
                    (found, "batch_size_mean"),
                    (longest, "sla_violation_rate"),
                )
            )
            lines.append(line([n_gpus, n_bins, rate, *cells, batch, other]))
            before = found
    return "\n".join(lines)


def _with_bins(
    out: Path, jobs: int, n_seeds: int, n_gpus: int, n_bins: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Replications with the bins served round robin, and with the longest queue first."""
    configs = [
        REFERENCE.config(
            QUIET.workload(REQUESTS, seed),
            MULTI,
            n_gpus=n_gpus,
            predictor=ORIGIN_PREDICTOR,
            seed=seed,
            binning=Binning(n_bins=n_bins),
        )
        for seed in range(n_seeds)
    ]
    longest = [
        replace(config, settings=replace(config.settings, bin_choice="longest-queue"))
        for config in configs
    ]
    runs = run([*configs, *longest], out, jobs=jobs)
    first, second = (runs.loc[[c.key() for c in each]] for each in (configs, longest))
    return first, second


def in_words(settings: dict[str, Runs]) -> str:
    """Multi-bin's throughput against static FIFO's at equal GPUs, a sentence each."""
    words = {"falls": "less", "rises": "more"}
    lines = []
    for name in ("reference, as it comes, noisy", "H100, as it comes, noisy"):
        for n_gpus in GPU_COUNTS:
            multi, static = (settings[name][s, n_gpus] for s in (MULTI, STATIC))
            pair = paired(multi, static, "throughput_rps")
            rates = [number(float(runs["throughput_rps"].mean())) for runs in (multi, static)]
            says = verdict(pair, **words)
            shown = "cannot be told from it" if says == "not significant" else f"is {says}"
            lines.append(
                f"- {name}, {n_gpus} GPU{'s' * (n_gpus > 1)}: multi-bin's {rates[0]} req/s "
                f"against static's {rates[1]} {shown} ({text(pair, sign=True)})."
            )
    return "\n".join(lines)


def throughput(settings: dict[str, Runs]) -> str:
    """Throughput at equal GPUs against static FIFO's."""
    titles = ["setting", "GPUs", "static [req/s]", "dynamic − static", "multi-bin − static", "says"]
    lines = head(titles)
    for name, runs in settings.items():
        for n_gpus in GPU_COUNTS:
            base = runs[STATIC, n_gpus]
            dynamic, multi = (
                paired(runs[s, n_gpus], base, "throughput_rps") for s in (DYNAMIC, MULTI)
            )
            says = verdict(multi, falls="multi-bin has less", rises="multi-bin has more")
            cells = [text(mean_interval(base["throughput_rps"].to_numpy()))]
            cells += [difference(dynamic), difference(multi), says]
            lines.append(line([name, n_gpus, *cells]))
    return "\n".join(lines)


def per_bin(settings: dict[str, Runs]) -> str:
    """The bins of multi-bin on one GPU, means over replications."""
    lines = head(["setting", "bin", *BIN_COLUMNS.values()])
    for name, runs in settings.items():
        frame = per_bin_frame(runs[MULTI, 1]).groupby("bin")[list(BIN_COLUMNS)].mean()
        lines += [line([name, i, *map(number, row)]) for i, row in enumerate(frame.to_numpy())]
    return "\n".join(lines)
