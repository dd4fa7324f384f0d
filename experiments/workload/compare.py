"""How near a profile is to the real BurstGPT: a table, and two figures.

    python experiments/workload/compare.py --data ../shared/data/burstgpt

The real side is the published aggregates (`aggregates.REAL`) and three files of counts, in the
`--data` folder or its subfolder `burstgpt`; with no such folder only the table is made. The
generated side is several traces of the real one's size: median and range over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotnine as p9
from aggregates import (
    REAL,
    aggregates,
    daily_counts,
    hour_of_day,
    rank_lag1,
    rate_seen,
    session_hours,
)

from llmsched.figures.style import theme
from llmsched.workload.synthetic.generate import generate
from llmsched.workload.synthetic.profiles import load_profile
from llmsched.workload.trace import Trace

DAYS, SESSIONS, CLOCK = (
    "burstgpt_1_daily.csv",
    "burstgpt_1_hourly_sessions_gap15m.csv.gz",
    "burstgpt_1_hour_of_day.csv",
)
LEVELS = np.linspace(0.02, 0.98, 49)
QUARTILES = np.array([0.25, 0.5, 0.75])
REAL_DAYS = 61
COLOURS = {"real": "#222222", "generated": "#0072B2"}


def main() -> None:
    """Generate, print the table, write the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the real BurstGPT aggregates")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path(__file__).parent / "out")
    parser.add_argument("--profile", default="burstgpt-like")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--replications", type=int, default=9)
    parser.add_argument("--requests", type=int, default=1_429_737, help="rows per trace")
    options = parser.parse_args()
    data = None if options.data is None else real_folder(parser, options.data)

    profile = load_profile(options.profile)
    hour = profile.start_hour
    seeds = range(options.seed, options.seed + options.replications)
    traces = [generate(profile, options.requests, np.random.default_rng(seed)) for seed in seeds]
    if not all(len(daily_counts(trace, hour)) for trace in traces):
        parser.error(f"--requests must be enough for a whole day or more, got {options.requests}")
    options.out.mkdir(parents=True, exist_ok=True)
    table = comparison(traces, hour)
    print(table.to_string(index=False, float_format=lambda x: f"{x:,.3f}"))
    table.to_csv(options.out / f"{options.profile}.csv", index=False)
    if data is None:
        return
    hours = real_hours(data)
    size = {"width": 11, "height": 6.5, "dpi": 130, "verbose": False}
    panels = panel_figure(panel_table(traces, hour, data, hours))
    panels.save(options.out / f"{options.profile}.png", **size)
    rate_figure(traces, hour, hours).save(options.out / "rate_over_time.png", **size)


def real_folder(parser: argparse.ArgumentParser, folder: Path) -> Path:
    """The folder of the real counts, here or one below; ends with one line if there is none."""
    names = (DAYS, SESSIONS, CLOCK)
    for candidate in (folder, folder / "burstgpt"):
        if all((candidate / name).is_file() for name in names):
            break
    else:
        parser.error(f"--data must hold {', '.join(names)}, got {str(folder)!r}")
    return candidate


def comparison(traces: Sequence[Trace], start_hour: float) -> pd.DataFrame:
    """Real value, median and range over the traces, one row per aggregate."""
    ranks = {"prompt": "prompt_tokens", "output": "output_tokens"}
    rows = pd.DataFrame(
        aggregates(trace, start_hour)
        | {
            f"{name} tokens, lag-1 rank correlation": rank_lag1(getattr(trace, column))
            for name, column in ranks.items()
        }
        for trace in traces
    )
    table = pd.DataFrame({"real": pd.Series(REAL), "generated": rows.median()}, index=rows.columns)
    table["lowest"], table["highest"] = rows.min(), rows.max()
    table["generated / real"] = table["generated"] / table["real"]
    return table.rename_axis("aggregate").reset_index()


def real_hours(data: Path) -> np.ndarray:
    """Requests by the hour in which their session starts, shape (hours,)."""
    sessions = pd.read_csv(data / SESSIONS)
    hours = np.zeros(REAL_DAYS * 24)
    counts = sessions["avg_turns"] * sessions["session_count"]
    hours[(sessions["time_bin"] // 3600).to_numpy()] = counts.to_numpy()
    return hours


def panel_table(
    traces: Sequence[Trace], start_hour: float, data: Path, hours: np.ndarray
) -> pd.DataFrame:
    """Quantiles (or the clock) of each panel, real and generated: median, lowest, highest."""
    hourly = [session_hours(trace, start_hour) for trace in traces]
    clock = pd.read_csv(data / CLOCK)["mean_requests_per_hour"].to_numpy()
    days = pd.read_csv(data / DAYS)["requests"].to_numpy()
    lengths = {
        name: [np.array([REAL[f"{name}, q{level}"] for level in (25, 50, 75)])]
        for name in ("prompt tokens", "output tokens")
    }
    panels: dict[str, tuple[list[Any], list[Any]]] = {
        "requests per day": (
            [np.quantile(days, LEVELS)],
            [np.quantile(daily_counts(trace, start_hour), LEVELS) for trace in traces],
        ),
        "requests per non-empty hour": (
            [np.quantile(hours[hours > 0], LEVELS)],
            [np.quantile(one[one > 0], LEVELS) for one in hourly],
        ),
        "rate a request sees [1/s]": (
            [rate_seen(hours, LEVELS)],
            [rate_seen(one, LEVELS) for one in hourly],
        ),
        "prompt tokens": (
            lengths["prompt tokens"],
            [np.quantile(trace.prompt_tokens, LEVELS) for trace in traces],
        ),
        "output tokens": (
            lengths["output tokens"],
            [np.quantile(trace.output_tokens, LEVELS) for trace in traces],
        ),
        "requests per hour, by hour of day": (
            [clock],
            [hour_of_day(trace, start_hour) for trace in traces],
        ),
    }
    x_of = {len(LEVELS): LEVELS, len(QUARTILES): QUARTILES, 24: np.arange(24.0)}
    frames = []
    for panel, sides in panels.items():
        for source, curves in zip(COLOURS, sides, strict=True):
            y = np.array(curves)
            frame = pd.DataFrame({"x": x_of[y.shape[1]], "middle": np.median(y, axis=0)})
            frame["low"], frame["high"] = y.min(axis=0), y.max(axis=0)
            frames.append(frame.assign(panel=panel, source=source))
    found = pd.concat(frames, ignore_index=True)
    found["panel"] = pd.Categorical(found["panel"], list(panels))
    return found


def panel_figure(frame: pd.DataFrame) -> p9.ggplot:
    """Quantile functions, real against generated; the last panel is the clock."""
    ends = ["middle", "low", "high"]
    tokens = frame["panel"].str.endswith("tokens")
    frame.loc[tokens, ends] = frame.loc[tokens, ends].clip(lower=0.8)
    made = frame[frame["source"] == "generated"]
    band = p9.aes(ymin="low", ymax="high")
    return (
        p9.ggplot(frame, p9.aes("x", "middle", colour="source"))
        + p9.geom_ribbon(band, data=made, fill=COLOURS["generated"], colour="none", alpha=0.22)
        + p9.geom_line(size=0.9)
        + p9.geom_point(data=frame[tokens & (frame["source"] == "real")], size=2.4)
        + p9.facet_wrap("panel", scales="free", ncol=3)
        + p9.scale_y_log10(labels=lambda values: [f"{value:,g}" for value in values])
        + p9.scale_colour_manual(values=COLOURS)
        + p9.labs(
            x="Quantile level (last panel: hour of day)",
            y="Value, log scale",
            colour="",
            caption="Line: median of generated traces, band: range. Failures (0 tokens) at 0.8",
        )
        + theme()
        + p9.theme(legend_position="top")
    )


def rate_figure(traces: Sequence[Trace], start_hour: float, hours: np.ndarray) -> p9.ggplot:
    """Requests per hour over four weeks, real (after its ramp-up) and three traces."""
    curves = {"BurstGPT_1, days 9 to 36": hours[9 * 24 :]} | {
        f"generated, trace {i}": session_hours(trace, start_hour)
        for i, trace in enumerate(traces[:3])
    }
    frames = [
        pd.DataFrame({"trace": name, "rate": np.maximum(y[: 28 * 24] / 3600, 2e-4)})
        for name, y in curves.items()
    ]
    frame = pd.concat(frames)
    frame["day"] = frame.index / 24
    frame["source"] = np.where(frame["trace"].str.startswith("Burst"), "real", "generated")
    return (
        p9.ggplot(frame, p9.aes("day", "rate", colour="source"))
        + p9.geom_step(size=0.45)
        + p9.facet_wrap("trace", ncol=1)
        + p9.scale_y_log10(labels=lambda values: [f"{value:g}" for value in values])
        + p9.scale_colour_manual(values=COLOURS)
        + p9.labs(
            x="Day of the trace",
            y="Requests per second, hourly mean",
            caption="Hours without a session start are drawn at the lower edge.",
        )
        + theme()
        + p9.theme(legend_position="none")
    )


if __name__ == "__main__":
    main()
