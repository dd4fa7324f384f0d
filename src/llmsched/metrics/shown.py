"""How a result shows itself in a notebook: a line, a table, a tidy frame, a drawing.

A result inherits one of these; all that they need of it is `to_dict` and `to_frame`.
"""

from __future__ import annotations

import html
import importlib
import math
from typing import TYPE_CHECKING, Any

from llmsched.metrics.registry import METRICS, title_of

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

# Figures stand above the results that they draw: named here, and imported when a drawing is asked
# for, as pandas does with its plotting backend.
FIGURES = "llmsched.figures.results"
FIRST = (
    *("sla_violation_rate", "latency_mean_s", "latency_p95_s", "latency_p99_s"),
    *("ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s"),
    *("throughput_rps", "goodput_rps", "gpu_utilization", "batch_size_mean"),
    *("offered_load", "completed", "rejected"),
)


class Shown:
    """A result that shows itself."""

    __slots__ = ()

    def headline(self) -> str:
        """The result in a line."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """The result as a tidy table."""
        raise NotImplementedError

    def plot(self) -> ggplot:
        """Draw it; the drawing shows itself in a notebook, and `save(path)` writes it."""
        figure: ggplot = getattr(importlib.import_module(FIGURES), self._figure())(self)
        return figure

    def _figure(self) -> str:
        """The function that draws it."""
        raise NotImplementedError

    def _table(self) -> pd.DataFrame:
        """What a notebook shows below the headline."""
        return self.to_frame()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.headline()}>"

    def _repr_html_(self) -> str:
        table = self._table().to_html(index=False, border=0, na_rep="-")
        return f"<p><b>{html.escape(self.headline())}</b></p>{table}"


class ShownRun(Shown):
    """One run."""

    __slots__ = ()

    def headline(self) -> str:
        """What was run, and whether it went well."""
        told = self.to_dict()
        gpus = _counted(math.inf if told["gpus"] is None else told["gpus"], "GPU")
        parts = [
            f"{_counted(told['requests'], 'request')} of {told['trace']} on {gpus}",
            f"{percent(told['sla_violation_rate'])} late or rejected",
            f"latency p95 {seconds(told['latency_p95_s'])}",
            told["load_label"],
        ]
        return f"{told['scheduler']}: {', '.join(parts)}"

    def to_frame(self) -> pd.DataFrame:
        """One row per figure of merit: columns `scheduler`, `metric`, `value`, `unit`, `title`."""
        import pandas as pd

        told = self.to_dict()
        rows = [
            (told["scheduler"], name, math.nan if told[name] is None else float(told[name]), one)
            for name, one in METRICS.items()
            if name in told
        ]
        return pd.DataFrame(
            [(*row[:3], row[3].unit, row[3].title) for row in rows],
            columns=["scheduler", "metric", "value", "unit", "title"],
        )

    def _table(self) -> pd.DataFrame:
        frame = self.to_frame().set_index("metric")
        first = frame.loc[[name for name in FIRST if name in frame.index]]
        return first.assign(value=first["value"].map(number))[["title", "value", "unit"]]

    def _figure(self) -> str:
        return "run_figure"


class ShownComparison(Shown):
    """Schedulers side by side."""

    __slots__ = ()

    def headline(self) -> str:
        """How many are late under each scheduler."""
        told = self.to_dict()
        late = [
            f"{one['scheduler']} {percent(one['sla_violation_rate'])}" for one in told["schedulers"]
        ]
        gpus = _counted(math.inf if told["gpus"] is None else told["gpus"], "GPU")
        replications = _counted(len(told["seeds"]), "replication")
        return f"late or rejected on {gpus}, {replications}: {', '.join(late)}"

    def differences_frame(self) -> pd.DataFrame:
        """One row per scheduler and metric: the paired difference from the baseline."""
        import pandas as pd

        rows = self.to_dict()["differences"]
        plain = [{k: v for k, v in row.items() if not isinstance(v, dict)} for row in rows]
        return pd.DataFrame(plain)

    def _table(self) -> pd.DataFrame:
        frame = self.to_frame()
        level = "typical" if "typical" in frame else "mean"
        frame = frame[frame["metric"].isin(FIRST)].copy()
        frame["cell"] = [
            number(row[level])
            if not row["low"] < row["high"]
            else f"{number(row[level])} [{number(row['low'])}, {number(row['high'])}]"
            for row in frame.to_dict("records")
        ]
        wide = frame.pivot(index="metric", columns="scheduler", values="cell")
        order = [name for name in FIRST if name in wide.index]
        wide = wide.loc[order, list(dict.fromkeys(frame["scheduler"]))]
        wide.insert(0, "", [title_of(name) for name in order])
        return wide.rename_axis(columns=None)

    def _figure(self) -> str:
        return "comparison_figure"


class ShownCapacity(Shown):
    """How much one scheduler carries."""

    __slots__ = ()

    def headline(self) -> str:
        """What was found, and how sure it is."""
        told = self.to_dict()
        return f"{told['scheduler']}: {told['statement']}"

    def _figure(self) -> str:
        return "capacity_figure"


class ShownPlan(Shown):
    """How many GPUs each scheduler needs."""

    __slots__ = ()

    def headline(self) -> str:
        """The answer."""
        return str(self.to_dict()["sentence"])

    def to_frame(self) -> pd.DataFrame:
        """One row per scheduler: columns `scheduler`, `gpus`, `offered_load`, `assured`, `runs`."""
        import pandas as pd

        columns = {"capacity": "gpus", "offered_load": "offered_load", "assured": "assured"}
        rows = [
            {
                "scheduler": one["scheduler"],
                **{ours: one[theirs] for theirs, ours in columns.items()},
                "runs": one["runs"],
            }
            for one in self.to_dict()["schedulers"]
        ]
        return pd.DataFrame(rows)

    def _figure(self) -> str:
        return "plan_figure"


def number(value: float) -> str:
    """A value in four significant digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share in percent, in three significant digits."""
    return "-" if share is None else f"{100 * share:.3g} %"


def seconds(value: float | None) -> str:
    """A time in three significant digits."""
    return "-" if value is None else f"{value:.3g} s"


def _counted(count: float, what: str) -> str:
    number = f"{count:g}" if isinstance(count, float) else str(count)
    return f"{number} {what}{'' if count == 1 else 's'}"
