"""The tables and the figure of `deadline_window` from the rows of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from llmsched.metrics.intervals import Interval, mean_interval, paired_difference

POINT = ["traffic", "hardware", "load", "sla_s"]
LITTLE = 2.0  # points of violations
TAIL = 1.25  # times the best p99


@dataclass(frozen=True)
class Point:
    """One entry against the best of the others, at one traffic, hardware, load and SLA."""

    name: tuple[str, str, float, float]
    rows: dict[str, pd.DataFrame]  # by entry, a row per replication
    ours: str
    best: str  # fewest violations of the others, in the mean
    difference: Interval  # of violations, ours less those of the best [points]
    best_p99: str
    p99_ratio: float

    @property
    def worse(self) -> bool:
        """Significantly, by the 95 % interval of this point alone."""
        return self.difference.significant and self.difference.mean > 0


def points(frame: pd.DataFrame, ours: str, others: Sequence[str]) -> list[Point]:
    """Every point where `ours` was run."""
    found = []
    for name, group in frame.groupby(POINT, sort=False):
        rows = {entry: part.sort_values("replication") for entry, part in group.groupby("entry")}
        if ours not in rows:
            continue
        kept = rows[ours].replication
        rows = {entry: part[part.replication.isin(kept)] for entry, part in rows.items()}
        best = min(others, key=lambda entry: rows[entry].late.mean())
        best_p99 = min(others, key=lambda entry: rows[entry].p99_s.mean())
        found.append(
            Point(
                name,
                rows,
                ours,
                best,
                paired_difference(rows[ours].late.to_numpy(), rows[best].late.to_numpy()),
                best_p99,
                rows[ours].p99_s.mean() / rows[best_p99].p99_s.mean(),
            )
        )
    return found


def summary(found: list[Point]) -> list[str]:
    """Share best or tied, points worse by more than 2, share of p99 within 1.25, mean gain."""
    tied = np.mean([not point.worse for point in found])
    worse = sum(point.difference.mean > LITTLE for point in found)
    tail = np.mean([point.p99_ratio <= TAIL for point in found])
    gain = np.mean([point.difference.mean for point in found])
    ratio = np.exp(np.mean([np.log(point.p99_ratio) for point in found]))
    return [
        f"{100 * tied:.0f} %",
        f"{worse} of {len(found)}",
        f"{100 * tail:.0f} %",
        f"{gain:+.1f}",
        f"{ratio:.2f}",
    ]


SUMMARY = (
    "best or tied in violations",
    f"worse by over {LITTLE:.0f} points",
    f"p99 at most {TAIL} × the best other's",
    "violations less the best other's [points]",
    "p99 over the best other's (geometric mean)",
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def each_alone(frame: pd.DataFrame, others: Sequence[str]) -> list[list[str]]:
    """Every scheduler against the best of all the others, at every point."""
    everyone = ["window", *others]
    return [
        [name, *summary(points(frame, name, [one for one in everyone if one != name]))]
        for name in everyone
    ]


def by_part(found: list[Point], key: int) -> list[list[str]]:
    values = dict.fromkeys(point.name[key] for point in found)
    return [[str(value), *summary([p for p in found if p.name[key] == value])] for value in values]


def ablation(frame: pd.DataFrame, names: Sequence[str], others: Sequence[str]) -> list[list[str]]:
    return [[name, *summary(points(frame, name, others))] for name in ("window", *names)]


def predictors(
    frame: pd.DataFrame, believers: Sequence[str], names: Sequence[str]
) -> list[list[str]]:
    """Mean violations over the points with each predictor."""
    rows = []
    for predictor in names:
        cells = [predictor]
        for believer in believers:
            entry = believer if predictor == "noisy" else f"{believer}, {predictor}"
            cells.append(f"{frame[frame.entry == entry].late.mean():.1f}")
        rows.append(cells)
    return rows


def every_point(found: list[Point]) -> list[list[str]]:
    rows = []
    for point in found:
        traffic, hardware, load, sla_s = point.name
        ours, best, tail = (
            point.rows[point.ours],
            point.rows[point.best],
            point.rows[point.best_p99],
        )
        mark = "**" if point.difference.significant else ""
        rows.append(
            [
                *(traffic, hardware, f"{load:g}", f"{sla_s:g}"),
                f"{_mean(ours.late)}; {best.late.mean():.1f} {point.best}",
                f"{mark}{_interval(point.difference)}{mark}",
                f"{ours.goodput_rps.mean():.3g}; {best.goodput_rps.mean():.3g}",
                f"{_mean(ours.p99_s)}; {tail.p99_s.mean():.3g} {point.best_p99}",
                f"{ours.longest_wait_s.mean():.3g}; {best.longest_wait_s.mean():.3g}",
            ]
        )
    return rows


def _mean(values: pd.Series) -> str:
    interval = mean_interval(values.to_numpy())
    return f"{interval.mean:.3g} ± {interval.half_width:.2g}"


def _interval(interval: Interval) -> str:
    return f"{interval.mean:+.1f} ± {interval.half_width:.1f}"


def figure(found: list[Point], path: Path) -> None:
    """One dot a point: violations less those of the best other, with the paired interval."""
    import plotnine as p9

    from llmsched.figures.style import theme

    frame = pd.DataFrame(
        {
            "traffic": point.name[0],
            "hardware": point.name[1],
            "point": f"ρ {point.name[2]:g}, {point.name[3]:g} s",
            "mean": point.difference.mean,
            "low": point.difference.low,
            "high": point.difference.high,
            "place": number,
        }
        for number, point in enumerate(found)
    )
    for name in ("traffic", "hardware", "point"):
        frame[name] = pd.Categorical(frame[name], list(dict.fromkeys(frame[name])), ordered=True)
    plot = (
        p9.ggplot(frame, p9.aes("mean", "point"))
        + p9.geom_vline(xintercept=0, colour="#7f7f7f")
        + p9.geom_errorbarh(p9.aes(xmin="low", xmax="high"), height=0.3, colour="#e7298a")
        + p9.geom_point(colour="#e7298a", size=1.5)
        + p9.facet_grid("hardware ~ traffic", scales="free")
        + p9.labs(
            x="violations of deadline_window less those of the best other [points]",
            y="",
            caption="95 % intervals of the paired difference; left of 0 deadline_window is ahead.",
        )
        + theme()
        + p9.theme(figure_size=(11, 8))
    )
    plot.save(path, dpi=90, verbose=False)


def write_report(
    runs: Path,
    out: Path,
    *,
    others: Sequence[str],
    ablation: Sequence[str],
    load: float,
    believers: Sequence[str],
    predictors: Sequence[str],
) -> None:
    """RESULTS.md and gain.png, from the rows in `runs`."""
    frame = pd.read_csv(runs)
    found = points(frame, "window", others)
    middle = frame[frame.load == load]
    ablated = middle[middle.entry == ablation[0]].replication  # the first few
    middle = middle[middle.replication.isin(ablated)]
    parts = [
        "## Each scheduler against the best of all the others",
        table(["scheduler", *SUMMARY], each_alone(frame, others)),
        "## `deadline_window` by traffic, hardware and load",
        *(table([title, *SUMMARY], by_part(found, key)) for key, title in enumerate(POINT[:3])),
        f"## Its parts, each changed alone, at ρ {load:g}",
        table(["change", *SUMMARY], _ablation(middle, ablation, others)),
        f"## Mean violations by predictor at ρ {load:g} [%]",
        table(["predictor", *believers], _predictors(middle, believers, predictors)),
        "## Every point: ours; the best other's",
        table(
            [
                *("traffic", "hardware", "ρ", "SLA [s]", "late [%]", "difference [points]"),
                *("goodput [1/s]", "p99 [s]; least of the others", "longest wait [s]"),
            ],
            every_point(found),
        ),
    ]
    (out / "RESULTS.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    figure(found, out / "gain.png")
    print((out / "RESULTS.md").read_text(encoding="utf-8"))


_ablation, _predictors = ablation, predictors
