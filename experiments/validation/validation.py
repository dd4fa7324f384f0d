"""The table of docs/validation.md: real runs, what we make of them, what others have published.

    python experiments/validation/validation.py --data FOLDER [--runs NAME,...] [--out FOLDER]

FOLDER holds the measured runs that `runs.toml` names; they are not in this repository. Each run is
one `llmsched validate` command, as it stands in the page. Written: `results.csv`, a line per run
and kind of time, and `errors.png`. About two minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FIGURES = ("ttft_s", "tpot_s", "e2e_s")
COLUMNS = (
    *("run", "step_time", "simulator", "figure", "error", "p90", "p99", "worst", "n"),
    "source",
)
Row = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Validate every run, and write table and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=HERE, metavar="FOLDER")
    parser.add_argument("--runs", metavar="NAME,...", help="These only.")
    options = parser.parse_args(arguments)
    plan = tomllib.loads((HERE / "runs.toml").read_text(encoding="utf-8"))
    chosen = options.runs.split(",") if options.runs else list(plan["run"])
    rows: list[Row] = []
    for name in chosen:
        run = plan["run"][name]
        sys.stderr.write(f"{name}: llmsched validate {run['command']}\n")
        rows += rows_of(run, validated(run["command"], options.data))
    rows += [
        {**one, "figure": figure, "error": one[figure]}
        for one in plan["published"]
        for figure in FIGURES
        if figure in one
    ]
    with (options.out / "results.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.out / "errors.png")


def validated(command: str, data: Path) -> dict[str, Any]:
    """What the command prints, run in the folder of the data."""
    line = [sys.executable, "-m", "llmsched", "validate", *shlex.split(command), "--json"]
    done = subprocess.run(line, cwd=data, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows_of(run: Row, found: Mapping[str, Any]) -> Iterator[Row]:
    """A line per kind of time: of a log its errors, of stages the median and the worst."""
    about = {"run": run["title"], "step_time": run["step_time"], "simulator": "llmsched"}
    for figure in FIGURES:
        if "stages" in found:
            errors = [
                typical(one[figure]["relative_error"])
                for one in found["stages"]
                if figure in one and not (one["overloaded"] or one["fitted_on"])
                and (not found["fitted"] or one["run"] in found["fitted"])
            ]  # fmt: skip
            size = np.abs(errors)
            yield {
                **about,
                "figure": figure,
                "error": f"{np.median(size):.4f}",
                "p90": f"{np.percentile(size, 90):.4f}",
                "worst": f"{size.max():.4f}",
                "n": len(size),
            }
        else:
            errors = found[figure]["relative_error"]
            yield {
                **about,
                "figure": figure,
                "error": f"{errors['mean']:.4f}",
                "p90": f"{errors['p90']:.4f}",
                "p99": f"{errors['p99']:.4f}",
                "n": found["judged"][1] - found["judged"][0],
            }


def typical(errors: Mapping[str, float | None]) -> float:
    """Of the mean, or of the median where no mean is known."""
    mean, median = errors["mean"], errors["p50"]
    if mean is not None:
        return mean
    assert median is not None
    return median


def draw(rows: Sequence[Row], path: Path) -> None:
    """Size of every error of ours and of others, by run."""
    import pandas as pd
    import plotnine as p9

    names = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}
    frame = pd.DataFrame(
        {
            "what": f"{row['simulator']}: {row['run']}, {row['step_time']}",
            "time": names[row["figure"]],
            "error": max(100 * abs(float(row["error"])), 0.1),
            "whose": "llmsched" if row["simulator"] == "llmsched" else "others, as published",
        }
        for row in rows
    )
    frame["what"] = pd.Categorical(frame["what"], list(dict.fromkeys(frame["what"]))[::-1])
    figure = (
        p9.ggplot(frame, p9.aes("error", "what", colour="whose"))
        + p9.geom_point(size=2.5)
        + p9.facet_wrap("time", nrow=1)
        + p9.scale_x_log10(breaks=[0.1, 1, 10, 100], labels=["≤ 0.1", "1", "10", "100"])
        + p9.scale_colour_manual(["#d95f02", "#7f7f7f"])
        + p9.labs(x="|error| of the mean, or its median over a run's stages [%]", y="", colour="")
        + p9.theme_bw(base_size=10)
        + p9.theme(figure_size=(13, 5.5), legend_position="top")
    )
    figure.save(path, dpi=110, verbose=False)


if __name__ == "__main__":
    main()
