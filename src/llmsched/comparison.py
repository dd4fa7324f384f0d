"""Several schedulers on equal GPUs and the same requests, replicated where something is random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmsched.binning import Binning
from llmsched.engine import Admission
from llmsched.latency import LatencyModel, load_latency
from llmsched.memory import DEFAULT_MODEL, ModelSpec
from llmsched.prediction import Predictor, predictor_from_spec
from llmsched.schedulers import Settings, make_scheduler
from llmsched.simulation import Run, simulate
from llmsched.stats import Interval, mean_interval, paired_difference
from llmsched.trace import Trace
from llmsched.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic")
BASELINE = "static_fifo"
COMPARED = ("throughput_rps", "goodput_rps", "sla_violation_rate")
PER_REPLICATION = ("seed", "load_label", "bin_edges", "per_bin")  # has no mean: each one's own


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerResult:
    """One scheduler over all replications; the runs' tables are not kept."""

    scheduler: str
    summaries: tuple[dict[str, Any], ...]  # `Run.to_dict` of each replication
    random: bool  # False where every replication is the same by construction

    def samples(self, metric: str) -> list[float]:
        """The metric in each replication; NaN where it has no value."""
        values = (summary[metric] for summary in self.summaries)
        return [math.nan if value is None else float(value) for value in values]

    def interval(self, metric: str) -> Interval:
        """Mean of the metric over replications, with its confidence interval."""
        return mean_interval(self.samples(metric))

    @property
    def load_label(self) -> str:
        """The label that most replications got; the worse one on ties."""
        labels = [summary["load_label"] for summary in self.summaries]
        return max(("overloaded", "backlogged", "stable"), key=labels.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A scheduler against the baseline in one metric, replication by replication."""

    scheduler: str
    baseline: str
    metric: str
    interval: Interval  # of scheduler - baseline
    rounding: float = 0.0  # a difference up to this is that of the last digits of two sums

    @property
    def verdict(self) -> str:
        """Whether the difference is larger than the noise, in words."""
        if math.isnan(self.interval.low):
            reason = "one replication" if self.interval.n == 1 else "no value"
            return f"{reason}: no interval"
        if self.interval.low == self.interval.high and abs(self.interval.mean) <= self.rounding:
            return "equal"
        return "larger than the noise" if self.interval.significant else "within the noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All schedulers of a comparison, and what they were compared on."""

    results: tuple[SchedulerResult, ...]
    seeds: tuple[int, ...]
    n_gpus: float
    latency: LatencyModel
    baseline: str

    def differences(self) -> list[Difference]:
        """Every scheduler against the baseline: throughput, goodput and violations."""
        by_name = {result.scheduler: result for result in self.results}
        if self.baseline not in by_name:
            return []
        base = by_name[self.baseline]
        return [
            Difference(
                scheduler=result.scheduler,
                baseline=self.baseline,
                metric=metric,
                interval=paired_difference(result.samples(metric), base.samples(metric)),
                rounding=1e-9 * abs(base.interval(metric).mean),
            )
            for result in self.results
            if result.scheduler != self.baseline
            for metric in COMPARED
        ]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as one JSON object."""
        return {
            "gpus": _finite(self.n_gpus),
            "seeds": list(self.seeds),
            "confidence": 0.95,
            "latency_model": self.latency.name,
            "latency_kind": self.latency.kind,
            "latency_description": self.latency.describe(),
            "schedulers": [_result_dict(result) for result in self.results],
            "differences": [
                {
                    "scheduler": difference.scheduler,
                    "against": difference.baseline,
                    "metric": difference.metric,
                    **_interval_dict(difference.interval),
                    "verdict": difference.verdict,
                }
                for difference in self.differences()
            ],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per scheduler and metric: mean, low, high."""
        import pandas as pd

        rows = []
        for result in self.results:
            for metric in _numeric_metrics(result):
                interval = result.interval(metric)
                rows.append(
                    {
                        "scheduler": result.scheduler,
                        "metric": metric,
                        "mean": interval.mean,
                        "low": interval.low,
                        "high": interval.high,
                    }
                )
        return pd.DataFrame(rows)


def compare(
    trace: Trace | Workload | str = "burstgpt-like",
    schedulers: Sequence[str] = DEFAULT_SCHEDULERS,
    *,
    n_gpus: float = 4,
    latency: LatencyModel | str = "reference",
    predictor: Predictor | str = "noisy",
    binning: Binning | int | str = 4,
    settings: Settings | None = None,
    admission: Admission = "together",
    seed: int = 0,
    replications: int = 5,
    baseline: str = BASELINE,
    llm: ModelSpec = DEFAULT_MODEL,
    on_run: Callable[[Run], None] | None = None,
) -> Comparison:
    """Run schedulers on equal GPUs and the same requests, seeds `seed`, `seed` + 1, ...

    Each replication draws the workload (where it is synthetic) and the predictor's noise anew,
    and all schedulers share both: differences are paired. A scheduler that nothing random
    touches is run once.

    Parameters
    ----------
    schedulers : sequence of str
        Names of `llmsched.schedulers.SCHEDULERS`.
    replications : int
        Independent replications, at least 1; intervals need 2.
    baseline : str
        The scheduler that the others are compared with; without it among `schedulers` there are
        no differences.
    on_run : callable, optional
        Sees every finished run, tables included.

    The other parameters are those of `simulate`.

    Raises
    ------
    ValueError
        If an argument is out of range or names nothing known.
    """
    if replications < 1:
        raise ValueError(f"replications must be >= 1, got {replications}")
    if not schedulers or len(set(schedulers)) != len(schedulers):
        given = ", ".join(schedulers) or "none"
        raise ValueError(f"schedulers must be distinct names, got {given}")
    settings = settings or Settings()
    for name in (*schedulers, baseline):
        make_scheduler(name, settings)  # a wrong name ends here, not after the first run
    model = load_latency(latency) if isinstance(latency, str) else latency
    believer = predictor_from_spec(predictor) if isinstance(predictor, str) else predictor
    workload = Workload(source=trace) if isinstance(trace, str) else trace
    load = workload.loader() if isinstance(workload, Workload) else lambda _seed: workload
    seeds = tuple(range(seed, seed + replications))
    random_requests = isinstance(workload, Workload) and workload.random
    summaries: dict[str, list[dict[str, Any]]] = {name: [] for name in schedulers}
    requests: Trace | None = None
    for replication in seeds:
        if requests is None or random_requests:
            requests = load(replication)
        for name in schedulers:
            binned = make_scheduler(name, settings).binned
            if summaries[name] and not random_requests and not (binned and believer.random):
                summaries[name].append({**summaries[name][0], "seed": replication})
                continue
            run = simulate(
                requests,
                name,
                n_gpus=n_gpus,
                latency=model,
                predictor=believer,
                binning=binning,
                settings=settings,
                admission=admission,
                seed=replication,
                llm=llm,
            )
            summaries[name].append(run.to_dict())
            if on_run is not None:
                on_run(run)
            del run  # its tables, before the next run makes its own
    return Comparison(
        results=tuple(
            SchedulerResult(
                scheduler=name,
                summaries=tuple(summaries[name]),
                random=random_requests
                or (make_scheduler(name, settings).binned and believer.random),
            )
            for name in schedulers
        ),
        seeds=seeds,
        n_gpus=n_gpus,
        latency=model,
        baseline=baseline,
    )


def _numeric_metrics(result: SchedulerResult) -> list[str]:
    """Keys of the summary whose values are numbers that vary with the run."""
    settings = {"sla_s", "gpus", "seed", "bins"}
    first = result.summaries[0]
    return [
        key
        for key, value in first.items()
        if key not in settings and (value is None or isinstance(value, int | float))
    ]


def _result_dict(result: SchedulerResult) -> dict[str, Any]:
    numeric = _numeric_metrics(result)
    intervals = {metric: result.interval(metric) for metric in numeric}
    apart = {*numeric, *PER_REPLICATION}
    distinct = result.summaries if result.random else result.summaries[:1]
    return {
        **{key: value for key, value in result.summaries[0].items() if key not in apart},
        **{metric: _finite(interval.mean) for metric, interval in intervals.items()},
        "load_label": result.load_label,
        "random": result.random,
        "intervals": {metric: _interval_dict(interval) for metric, interval in intervals.items()},
        "replications": [{key: summary[key] for key in PER_REPLICATION} for summary in distinct],
    }


def _interval_dict(interval: Interval) -> dict[str, float | None]:
    return {
        "mean": _finite(interval.mean),
        "low": _finite(interval.low),
        "high": _finite(interval.high),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
