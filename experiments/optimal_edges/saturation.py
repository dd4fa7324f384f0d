"""Throughput that optimal bin edges add over equal-mass ones, in saturation: a table, a figure.

    python experiments/optimal_edges/saturation.py --data ../shared/data

All requests are there at time 0; `multi_bin_only` serves them on one GPU. Each replication draws
its requests anew, and both kinds of edges share them and the predictor's noise. With no `--data`
folder only the embedded workload is run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmsched import Binning, Settings, Trace, Workload, simulate
from llmsched._util.streams import Streams
from llmsched.metrics.intervals import mean_interval
from llmsched.prediction.binning import BinBy
from llmsched.prediction.optimal_edges import expected_batch_max

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

AZURE = "traces/azure_llm_2023_conv.csv.gz"
GSM8K = "lengths/gsm8k_gpt3_solution_lengths.csv.gz"
BINS = (2, 4, 8)
PREDICTORS = ("oracle", "noisy")
BATCH_SIZE = 8


@dataclass(frozen=True)
class Setup:
    """A latency model, and what is binned under it."""

    name: str
    latency: str
    by: BinBy


SETUPS = (
    Setup("multi-bin-paper, by output", "multi-bin-paper", "output"),
    Setup("reference, by output", "reference", "output"),
    Setup("reference, by prompt + output", "reference", "total"),
)


def main() -> None:
    """Parse, run, print the table, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the real traces and lengths")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path(__file__).parent / "out")
    parser.add_argument("--requests", type=int, default=16_000, metavar="N")
    parser.add_argument("--replications", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes")
    options = parser.parse_args()

    seeds = range(options.seed, options.seed + options.replications)
    cells = list(itertools.product(workloads(options.data), seeds))
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = pool.map(partial(replication, requests=options.requests, data=options.data), cells)
        runs = list(itertools.chain.from_iterable(rows))
    table = gains(runs)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "saturation.csv", index=False)
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    figure = gain_figure(table, options.replications)
    figure.save(options.out / "saturation.png", width=9, height=7, dpi=130, verbose=False)
    (options.out / "provenance.json").write_text(json.dumps(provenance(options), indent=2) + "\n")


def workloads(data: Path | None) -> dict[str, Callable[[int, int, Path], Trace]]:
    """What makes the requests of each workload: from (requests, seed, data folder)."""
    embedded = {"BurstGPT-like": _burstgpt_like, "BurstGPT-like, shuffled": _shuffled}
    return embedded if data is None else {**embedded, "Azure conversation": _azure, "GSM8K": _gsm8k}


def _burstgpt_like(requests: int, seed: int, _data: Path) -> Trace:
    trace = Workload(requests=requests).load(seed)
    return replace(trace, arrival_s=np.zeros(len(trace)))


def _shuffled(requests: int, seed: int, data: Path) -> Trace:
    """The same requests in random order: neighbours in a batch no longer resemble each other."""
    trace = _burstgpt_like(requests, seed, data)
    order = Streams.of_seed(seed).jitter.permutation(len(trace))
    return replace(
        trace, prompt_tokens=trace.prompt_tokens[order], output_tokens=trace.output_tokens[order]
    )


def _azure(requests: int, seed: int, data: Path) -> Trace:
    return _resampled(_azure_lengths(data / AZURE), requests, seed)


def _gsm8k(requests: int, seed: int, data: Path) -> Trace:
    return _resampled(_gsm8k_lengths(data / GSM8K), requests, seed)


@cache
def _azure_lengths(path: Path) -> np.ndarray:
    trace = Workload(source=str(path)).load()
    return np.column_stack([trace.prompt_tokens, trace.output_tokens])


@cache
def _gsm8k_lengths(path: Path) -> np.ndarray:
    """Questions, and the answers of the 175B model, in GPT-2 BPE tokens."""
    import pandas as pd

    return pd.read_csv(path)[["question_bpe", "out_175b_bpe"]].to_numpy()


def _resampled(lengths: np.ndarray, requests: int, seed: int) -> Trace:
    """Requests drawn with replacement, prompt and output together, all at time 0."""
    rows = lengths[Streams.of_seed(seed).requests.integers(len(lengths), size=requests)]
    prompt, output = rows.astype(np.int32).T
    return Trace(arrival_s=np.zeros(requests), prompt_tokens=prompt, output_tokens=output)


def replication(
    cell: tuple[str, int], *, requests: int, data: Path | None
) -> list[dict[str, object]]:
    """Every setup, predictor and number of bins on the requests of one workload and seed."""
    name, seed = cell
    trace = workloads(data)[name](requests, seed, data or Path())
    rows: list[dict[str, object]] = []
    for setup, predictor, n_bins in itertools.product(SETUPS, PREDICTORS, BINS):
        what = {
            "workload": name,
            "setup": setup.name,
            "predictor": predictor,
            "bins": n_bins,
            "seed": seed,
        }
        for edges in ("equal-mass", "optimal"):
            run = simulate(
                trace,
                "multi_bin_only",
                n_gpus=1,
                latency=setup.latency,
                predictor=predictor,
                binning=Binning.parse(edges, n_bins=n_bins, by=setup.by),
                settings=Settings(batch_size=BATCH_SIZE),
                seed=seed,
            )
            predicted = run.requests.predicted_tokens
            binned = predicted if setup.by == "output" else predicted + trace.prompt_tokens
            rows.append(
                {
                    **what,
                    "edges": edges,
                    "throughput_rps": run.metrics.throughput_rps,
                    "objective": expected_batch_max(binned, run.edges, batch_size=BATCH_SIZE),
                    "last bin": float(np.mean(run.requests.bin == run.requests.bin.max())),
                }
            )
    return rows


def gains(runs: list[dict[str, object]]) -> pd.DataFrame:
    """Paired gain of optimal over equal mass [%], with its 95 % interval, one row per case.

    `promised_pct` is the ratio of the objectives, for the lengths as predicted.
    """
    import pandas as pd

    keys = ["workload", "setup", "predictor", "bins"]
    frame = pd.DataFrame(runs)
    for key in keys[:3]:
        frame[key] = pd.Categorical(frame[key], frame[key].unique())
    wide = frame.pivot(index=[*keys, "seed"], columns="edges")
    rows = []
    for key, case in wide.groupby(level=keys, observed=True):
        rps, objective = case["throughput_rps"], case["objective"]
        gain = mean_interval((100 * (rps["optimal"] / rps["equal-mass"] - 1)).to_numpy())
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "equal_mass_rps": rps["equal-mass"].mean(),
                "optimal_rps": rps["optimal"].mean(),
                "gain_pct": gain.mean,
                "low_pct": gain.low,
                "high_pct": gain.high,
                "promised_pct": 100 * (objective["equal-mass"] / objective["optimal"] - 1).mean(),
                "last_bin_pct": 100 * case["last bin"]["optimal"].mean(),
            }
        )
    return pd.DataFrame(rows)


def gain_figure(table: pd.DataFrame, replications: int) -> ggplot:
    """Gain against the number of bins: columns are workloads, rows latency models."""
    import pandas as pd
    import plotnine as p9

    frame = table.assign(
        bins=pd.Categorical(table["bins"]),
        predictor=pd.Categorical(table["predictor"], PREDICTORS),
        workload=_wrapped(table["workload"]),
        setup=_wrapped(table["setup"]),
    )
    side = p9.position_dodge(width=0.5)
    return (
        p9.ggplot(frame, p9.aes("bins", "gain_pct", colour="predictor"))
        + p9.geom_hline(yintercept=0, colour="#888888")
        + p9.geom_errorbar(p9.aes(ymin="low_pct", ymax="high_pct"), width=0.3, position=side)
        + p9.geom_point(size=2.2, position=side)
        + p9.facet_grid("setup", "workload", scales="free_y")
        + p9.scale_colour_manual({"oracle": "#0072B2", "noisy": "#D55E00"})
        + p9.labs(
            x="Bins",
            y="Throughput gained over equal-mass edges [%]",
            colour="Predictor",
            title=f"Optimal bin edges in saturation, batches of {BATCH_SIZE}",
            caption=f"Mean of {replications} paired replications with its 95 % interval.",
        )
        + p9.theme_bw(base_size=11)
        + p9.theme(panel_grid_minor=p9.element_blank(), legend_position="top")
    )


def _wrapped(names: pd.Series) -> pd.Categorical:
    """Labels of a facet, in their order, broken at the comma."""
    import pandas as pd

    lines = [name.replace(", ", ",\n") for name in names]
    return pd.Categorical(lines, list(dict.fromkeys(lines)))


def provenance(options: argparse.Namespace) -> dict[str, object]:
    """What made these files: commit, seeds and size."""
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return {
        "commit": git.stdout.strip() or None,
        "first_seed": options.seed,
        "replications": options.replications,
        "requests": options.requests,
        "batch_size": BATCH_SIZE,
    }


if __name__ == "__main__":
    main()
