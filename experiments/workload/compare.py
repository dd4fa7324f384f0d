"""How near the `burstgpt-like` workload is to the real BurstGPT: one table, one figure.

    python experiments/workload/compare.py --data ../shared/data/burstgpt

The real side is the published aggregates (`aggregates.REAL`) and three files of counts, in the
`--data` folder or its subfolder `burstgpt`; with no such folder only the table is made. The
generated side is several traces of the real one's size: the table and the figure show their median
and their range over the seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from aggregates import (
    REAL,
    aggregates,
    daily_counts,
    hour_of_day,
    rank_lag1,
    rate_seen,
    session_hours,
)

from llmsched._util.resources import data_folder
from llmsched.workload.synthetic.generate import generate
from llmsched.workload.synthetic.profiles import load_profile
from llmsched.workload.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

PROFILE = "burstgpt-like"
DAYS, SESSIONS, CLOCK = (
    "burstgpt_1_daily.csv",
    "burstgpt_1_hourly_sessions_gap15m.csv.gz",
    "burstgpt_1_hour_of_day.csv",
)
LEVELS = np.linspace(0.02, 0.98, 49)
QUARTILES = (0.25, 0.5, 0.75)
PANELS = (
    "requests per day",
    "requests per non-empty hour",
    "rate a request sees [1/s]",
    "prompt tokens",
    "output tokens",
    "requests per hour, by hour of day",
)


def main() -> None:
    """Parse, generate, print the table, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the real BurstGPT aggregates")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path(__file__).parent / "out")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--replications", type=int, default=9)
    parser.add_argument("--requests", type=int, default=1_429_737, help="rows per trace")
    options = parser.parse_args()
    data = None if options.data is None else real_folder(parser, options.data)

    profile = load_profile(PROFILE)
    hour = profile.start_hour
    seeds = range(options.seed, options.seed + options.replications)
    traces = [generate(profile, options.requests, np.random.default_rng(seed)) for seed in seeds]
    if not all(len(daily_counts(trace, hour)) for trace in traces):
        parser.error(f"--requests must be enough for a whole day or more, got {options.requests}")
    options.out.mkdir(parents=True, exist_ok=True)

    table = comparison(traces, hour)
    print(table.to_string(index=False, float_format=lambda x: f"{x:,.3f}"))
    table.to_csv(options.out / "burstgpt_like.csv", index=False)
    if data is not None:
        frame, real_hours = quantile_frame(traces, hour, data)
        figure = quantile_figure(frame)
        figure.save(options.out / "burstgpt_like.png", width=11, height=6.6, dpi=130, verbose=False)
        over_time = rate_figure(traces, hour, real_hours)
        over_time.save(
            options.out / "rate_over_time.png", width=11, height=6, dpi=130, verbose=False
        )
    (options.out / "provenance.json").write_text(json.dumps(provenance(options), indent=2) + "\n")


def real_folder(parser: argparse.ArgumentParser, folder: Path) -> Path:
    """The folder of the real counts, here or one below; ends with one line if there is none."""
    names = (DAYS, SESSIONS, CLOCK)
    for candidate in (folder, folder / "burstgpt"):
        if all((candidate / name).is_file() for name in names):
            break
    else:
        parser.error(f"--data must hold {', '.join(names)}, got {str(folder)!r}")
    return candidate


def comparison(traces: list[Trace], start_hour: float) -> pd.DataFrame:
    """Real value, median and range over the traces, one row per aggregate."""
    import pandas as pd

    columns = [aggregates(trace, start_hour) for trace in traces]
    for column, trace in zip(columns, traces, strict=True):
        column["prompt tokens, lag-1 rank correlation"] = rank_lag1(trace.prompt_tokens)
        column["output tokens, lag-1 rank correlation"] = rank_lag1(trace.output_tokens)
    rows = pd.DataFrame(columns).T
    table = pd.DataFrame(
        {
            "aggregate": rows.index,
            "real": [REAL.get(key, np.nan) for key in rows.index],
            "generated": rows.median(axis=1).to_numpy(),
            "lowest": rows.min(axis=1).to_numpy(),
            "highest": rows.max(axis=1).to_numpy(),
        }
    )
    table["generated / real"] = table["generated"] / table["real"]
    return table


def quantile_frame(
    traces: list[Trace], start_hour: float, data: Path
) -> tuple[pd.DataFrame, np.ndarray]:
    """Quantiles (or the clock) of each panel, real and generated; and the real hourly counts."""
    import pandas as pd

    days = pd.read_csv(data / DAYS)["requests"].to_numpy()
    sessions = pd.read_csv(data / SESSIONS)
    hours = np.zeros(61 * 24)
    hours[(sessions["time_bin"] // 3600).to_numpy()] = (
        sessions["avg_turns"] * sessions["session_count"]
    ).to_numpy()
    clock = pd.read_csv(data / CLOCK)["mean_requests_per_hour"].to_numpy()

    real = {
        PANELS[0]: (LEVELS, np.quantile(days, LEVELS)),
        PANELS[1]: (LEVELS, np.quantile(hours[hours > 0], LEVELS)),
        PANELS[2]: (LEVELS, rate_seen(hours, LEVELS)),
        PANELS[3]: (np.array(QUARTILES), np.array([137.0, 251.0, 758.0])),
        PANELS[4]: (np.array(QUARTILES), np.array([7.0, 34.0, 134.0])),
        PANELS[5]: (np.arange(24.0), clock),
    }
    rows = [_panel(name, "real", x, y[np.newaxis]) for name, (x, y) in real.items()]
    made: dict[str, list[np.ndarray]] = {name: [] for name in PANELS}
    for trace in traces:
        hourly = session_hours(trace, start_hour)
        made[PANELS[0]].append(np.quantile(daily_counts(trace, start_hour), LEVELS))
        made[PANELS[1]].append(np.quantile(hourly[hourly > 0], LEVELS))
        made[PANELS[2]].append(rate_seen(hourly, LEVELS))
        made[PANELS[3]].append(np.quantile(trace.prompt_tokens, LEVELS))
        made[PANELS[4]].append(np.quantile(trace.output_tokens, LEVELS))
        made[PANELS[5]].append(hour_of_day(trace, start_hour))
    for name, curves in made.items():
        x = np.arange(24.0) if name == PANELS[5] else LEVELS
        rows.append(_panel(name, "generated", x, np.array(curves)))
    return pd.concat(rows, ignore_index=True), hours


def _panel(name: str, source: str, x: np.ndarray, curves: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "panel": pd.Categorical([name] * len(x), categories=PANELS),
            "source": source,
            "x": x,
            "middle": np.median(curves, axis=0),
            "low": curves.min(axis=0),
            "high": curves.max(axis=0),
        }
    )


def quantile_figure(frame: pd.DataFrame) -> ggplot:
    """Quantile functions, real against generated; the last panel is the clock."""
    import plotnine as p9

    tokens = frame["panel"].isin([PANELS[3], PANELS[4]])
    for key in ("middle", "low", "high"):
        frame[key] = frame[key].mask(tokens & (frame[key] < 0.8), 0.8)
    points = frame[(frame["source"] == "real") & tokens]
    return (
        p9.ggplot(frame, p9.aes("x", "middle", color="source"))
        + p9.geom_ribbon(
            p9.aes(ymin="low", ymax="high"),
            data=frame[frame["source"] == "generated"],
            fill=COLOURS["generated"],
            color="none",
            alpha=0.22,
        )
        + p9.geom_line(size=0.9)
        + p9.geom_point(data=points, size=2.4)
        + p9.facet_wrap("panel", scales="free", ncol=3)
        + p9.scale_y_log10(labels=lambda values: [f"{value:,g}" for value in values])
        + p9.scale_color_manual(values=COLOURS)
        + p9.labs(
            x="quantile level (last panel: hour of day)",
            y="value, log scale",
            color="",
            title="burstgpt-like against BurstGPT_1",
            subtitle="Line: median of generated traces, band: range. Failures (0 tokens) at 0.8",
        )
        + _theme(p9)
    )


def rate_figure(traces: list[Trace], start_hour: float, real_hours: np.ndarray) -> ggplot:
    """Requests per hour over four weeks, real (after its ramp-up) and three traces."""
    import pandas as pd
    import plotnine as p9

    shown = [("BurstGPT_1, days 9 to 36", real_hours[9 * 24 :])]
    shown += [
        (f"generated, trace {i}", session_hours(t, start_hour)) for i, t in enumerate(traces[:3])
    ]
    rows = [
        pd.DataFrame({"day": np.arange(len(y)) / 24, "rate": y / 3600, "trace": name})
        for name, y in ((name, y[: 28 * 24]) for name, y in shown)
    ]
    frame = pd.concat(rows, ignore_index=True)
    frame["source"] = np.where(frame["trace"].str.startswith("Burst"), "real", "generated")
    frame["rate"] = frame["rate"].clip(lower=2e-4)
    return (
        p9.ggplot(frame, p9.aes("day", "rate", color="source"))
        + p9.geom_step(size=0.45)
        + p9.facet_wrap("trace", ncol=1)
        + p9.scale_y_log10(
            breaks=[0.001, 0.01, 0.1, 1, 10], labels=["0.001", "0.01", "0.1", "1", "10"]
        )
        + p9.scale_color_manual(values=COLOURS)
        + p9.labs(
            x="day of the trace",
            y="requests per second, hourly mean",
            color="",
            subtitle="Hours without a session start are drawn at the lower edge.",
        )
        + _theme(p9)
        + p9.theme(legend_position="none")
    )


COLOURS = {"real": "#222222", "generated": "#0072B2"}


def _theme(p9: object) -> object:
    return p9.theme_bw(base_size=10) + p9.theme(  # type: ignore[attr-defined]
        legend_position="top",
        panel_grid_minor=p9.element_blank(),  # type: ignore[attr-defined]
        strip_background=p9.element_rect(fill="#eeeeee", color="none"),  # type: ignore[attr-defined]
    )


def provenance(options: argparse.Namespace) -> dict[str, object]:
    """What made these files: commit, seeds, size and the profile's hash."""
    text = (data_folder("workloads") / f"{PROFILE}.toml").read_bytes()
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return {
        "commit": git.stdout.strip() or None,
        "profile": PROFILE,
        "profile_sha256": hashlib.sha256(text).hexdigest(),
        "first_seed": options.seed,
        "replications": options.replications,
        "requests": options.requests,
    }


if __name__ == "__main__":
    main()
