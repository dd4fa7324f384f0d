"""The published results of the project's origin beside ours: every row, and why they differ.

`published.csv` holds what the origin, a heapq simulator of the same three schedulers, published
for BurstGPT_1.csv at 200 times its rate (file order, failures kept, its reference formula, its
predictor, 4 equal-mass bins, SLA 1 s). The real file is not here: ours run on the embedded
profile, as it comes and then with one difference after another taken away. Writes PUBLISHED.md;
runs are kept in the folder of a sweep, so a second start does only what is missing.
"""

from __future__ import annotations

import argparse
import math
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import published_orderings as orderings
import published_why as why
from published_runs import VARIANTS, published_configs, run
from published_text import head, line, number, text
from published_words import words

from llmsched.metrics.intervals import mean_interval

HERE = Path(__file__).parent
Row = tuple[str, int, int, int]  # scheduler, requests, GPUs, K
METRICS = {
    "sla_violation_rate": "Violations",
    "latency_mean_s": "Mean latency [s]",
    "throughput_rps": "Throughput [req/s]",
    "goodput_rps": "Goodput [req/s]",
}


def rows_of(published: pd.DataFrame) -> list[Row]:
    """Its keys, in order."""
    columns = (published[name] for name in ("scheduler", "requests", "n_gpus", "n_bins"))
    return [(str(s), int(r), int(g), int(k)) for s, r, g, k in zip(*columns, strict=True)]


def tables(published: pd.DataFrame, runs: dict[tuple[str, Row], pd.DataFrame]) -> str:
    """One table per metric: a row per published one, a column per variant."""
    names = [variant.name for variant in VARIANTS]
    parts = []
    for metric, title in METRICS.items():
        lines = [f"### {title}", ""]
        lines += head(["scheduler", "requests", "GPUs", "K", "published", *names, "last / it"])
        for row, value in zip(rows_of(published), published[metric], strict=True):
            cells, last = [number(value)], math.nan
            for name in names:
                found = runs.get((name, row))
                if found is None:
                    cells.append("")
                    continue
                interval = mean_interval(found[metric].to_numpy())
                cells.append(text(interval))
                last = interval.mean
            lines.append(line([row[0], f"{row[1]:,}", *row[2:], *cells, f"{last / value:.2f}"]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def loads(runs: dict[tuple[str, Row], pd.DataFrame]) -> str:
    """ρ and labels of our runs, in the last variant that a row has."""
    last = {row: (name, found) for (name, row), found in runs.items()}
    lines = head(["scheduler", "requests", "GPUs", "K", "variant", "ρ", "labels"])
    for row, (name, found) in sorted(last.items(), key=lambda item: (item[0][1], item[0][2:])):
        counts = found["load_label"].value_counts().sort_index()
        labels = ", ".join(f"{count} {label}" for label, count in counts.items())
        rho = text(mean_interval(found["offered_load"].to_numpy()))
        lines.append(line([row[0], f"{row[1]:,}", *row[2:], name, rho, labels]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "out" / "published")
    parser.add_argument("--report", type=Path, default=HERE / "PUBLISHED.md")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, help="instead of 20, 5 and 10: for a quick look")
    parser.add_argument(
        "--most-requests", type=int, default=1_000_000, help="leave out larger runs"
    )
    parser.add_argument("--data", type=Path, help="folder with burstgpt/burstgpt_1_head400.csv")
    options = parser.parse_args()
    published = pd.read_csv(HERE / "published.csv")
    published = published[published["requests"] <= options.most_requests]
    asked = published_configs(rows_of(published), seeds=options.seeds)
    done = run([c for several in asked.values() for c in several], options.out, jobs=options.jobs)
    runs = {group: done.loc[[c.key() for c in several]] for group, several in asked.items()}
    n_seeds = options.seeds or orderings.N_SEEDS
    settings = dict(orderings.equal_gpus(options.out, jobs=options.jobs, n_seeds=n_seeds))
    small = why.small_pairs(n_seeds)
    parts = {
        **words(settings, runs, published),
        **why.small_in_words(small),
        "version": version("llmsched"),
        "tables": tables(published, runs),
        "loads": loads(runs),
        "rates": why.rates(),
        "small": why.small_differences(small),
        "orderings": orderings.orderings(settings),
        "with_gpus": orderings.with_gpus(settings),
        "with_gpus_1m": orderings.with_gpus_1m(runs),
        "with_bins": orderings.with_bins(options.out, jobs=options.jobs, n_seeds=n_seeds),
        "with_bins_1m": orderings.with_bins_1m(runs),
        "throughput": orderings.throughput(settings),
        "in_words": orderings.in_words(settings),
        "per_bin": orderings.per_bin(settings),
        "most": f"{options.most_requests:,}",
        "alphas": why.alphas(options.most_requests, options.seeds or 5),
        "real": why.real_rows(options.data, n_seeds),
    }
    report = (HERE / "published.md.in").read_text(encoding="utf-8")
    for name, part in parts.items():
        report = report.replace(f"{{{{{name}}}}}", part)
    options.report.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
