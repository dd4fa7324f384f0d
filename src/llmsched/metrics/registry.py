"""Every figure of merit once: what it is called, its unit, which way is better, its definition.

Tables, figures, reports, JSON and documents take titles and definitions from here, comparisons the
scale on which a metric is averaged and compared. A metric is a field of the results under the name
that it has here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher"]
Scale = Literal["log", "logit", "linear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure of merit.

    Parameters
    ----------
    name : str
        The key of the JSON output and the column of every table.
    title : str
        What a reader sees, without the unit.
    unit : str
        Of the value; empty for counts and shares.
    better : {"lower", "higher"}, optional
        None where neither is.
    scale : {"log", "logit", "linear"}
        On which replications are averaged and compared: times and rates by their logarithm,
        shares by their logit, what may be 0 or negative as it is.
    skewed : bool
        Whether replications are skewed on that scale too, so that intervals allow for it.
    definition : str
        In one sentence.
    """

    name: str
    title: str
    unit: str = ""
    better: Direction | None = None
    scale: Scale = "linear"
    skewed: bool = False
    definition: str = ""

    @property
    def axis(self) -> str:
        """The title with its unit, for axes and column heads."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title

    @property
    def column(self) -> str:
        """The head of a table's column: seconds are said, what is counted is not."""
        return f"{self.title} [s]" if self.unit == "s" else self.title


_STATISTICS = {
    "mean": "mean",
    "p50": "50th percentile",
    "p90": "90th percentile",
    "p95": "95th percentile",
    "p99": "99th percentile",
}
_DURATIONS = {
    "latency": ("latency", "finish - arrival of a completed request"),
    "queueing": ("queueing", "first start of service - arrival of a completed request"),
    "ttft": ("time to first token", "first token - arrival of a completed request"),
    "tpot": (
        "time per output token",
        "(last - first token) / (output tokens - 1) of a completed request with two or more",
    ),
    "itl": (
        "inter-token latency",
        "gap between two tokens of a request, pooled over requests, preemptions included",
    ),
}


def _durations() -> list[Metric]:
    return [
        Metric(
            name=f"{name}_{statistic}_s",
            title=f"{'mean ' if statistic == 'mean' else ''}{title}"
            f"{'' if statistic == 'mean' else f' {statistic}'}",
            unit="s",
            better="lower",
            scale="linear" if name == "queueing" else "log",
            definition=f"{words.capitalize()} of: {definition}.",
        )
        for name, (title, definition) in _DURATIONS.items()
        for statistic, words in _STATISTICS.items()
    ]


_ALL = (
    Metric(name="requests", title="requests", definition="Requests of the trace."),
    Metric(name="completed", title="completed", better="higher", definition="Requests served."),
    Metric(
        name="rejected",
        title="rejected",
        better="lower",
        definition="Requests that are too large for the memory alone; each is a violation.",
    ),
    Metric(
        name="sla_violation_rate",
        title="violations",
        better="lower",
        scale="logit",
        definition="Share of all requests that are later than an SLO that is set, or rejected.",
    ),
    *_durations(),
    Metric(
        name="latency_max_s",
        title="longest latency",
        unit="s",
        better="lower",
        scale="log",
        definition="Longest finish - arrival.",
    ),
    Metric(
        name="throughput_rps",
        title="throughput",
        unit="requests/s",
        better="higher",
        scale="log",
        definition="Completed requests / span.",
    ),
    Metric(
        name="goodput_rps",
        title="goodput",
        unit="requests/s",
        better="higher",
        scale="log",
        skewed=True,
        definition="Requests within every SLO that is set / span.",
    ),
    Metric(
        name="throughput_tps",
        title="token throughput",
        unit="tokens/s",
        better="higher",
        scale="log",
        definition="Prompt + output tokens of completed requests / span.",
    ),
    Metric(
        name="output_tps",
        title="output token throughput",
        unit="tokens/s",
        better="higher",
        scale="log",
        definition="Output tokens of completed requests / span.",
    ),
    Metric(
        name="served_per_busy_s",
        title="served per busy second",
        unit="requests/s",
        better="higher",
        scale="log",
        definition="Completed requests / GPU time spent on them.",
    ),
    Metric(
        name="capacity_rps",
        title="capacity",
        unit="requests/s",
        better="higher",
        scale="log",
        definition="Arrival rate at which the mean of the target's metric meets the target.",
    ),
    Metric(
        name="makespan_s",
        title="span",
        unit="s",
        scale="log",
        definition="The later of last finish and last arrival, less the first arrival.",
    ),
    Metric(
        name="gpu_utilization",
        title="utilization",
        scale="logit",
        definition="Busy time / (GPUs * span).",
    ),
    Metric(
        name="offered_load",
        title="load ρ",
        scale="log",
        definition="Work offered at the scheduler's best batch / GPU time from first to last "
        "arrival.",
    ),
    Metric(
        name="arrival_rate_rps",
        title="arrival rate",
        unit="requests/s",
        scale="log",
        definition="Gaps between arrivals / time from the first to the last.",
    ),
    Metric(
        name="extrapolated_share",
        title="batches extrapolated",
        better="lower",
        scale="logit",
        definition="Share of batches beyond the measured range of the latency model.",
    ),
    Metric(
        name="service_mean_s",
        title="mean service",
        unit="s",
        better="lower",
        scale="log",
        definition="Mean over requests of the time that their batch holds its GPU.",
    ),
    Metric(name="batches", title="batches", definition="Batches served."),
    Metric(
        name="batch_size_mean",
        title="batch",
        unit="requests",
        scale="log",
        definition="Requests / batches; at the iteration level, running requests per busy GPU.",
    ),
    Metric(
        name="padding_waste",
        title="padding waste",
        better="lower",
        scale="logit",
        definition="1 - tokens / (batch size * longest member), both summed over batches.",
    ),
    Metric(
        name="beyond_memory_share",
        title="batches beyond memory",
        better="lower",
        scale="logit",
        definition="Share of batches whose tokens exceed the KV memory of a GPU.",
    ),
    Metric(
        name="kv_share_mean",
        title="KV memory used",
        scale="logit",
        definition="Used share of the KV blocks, time-weighted.",
    ),
    Metric(
        name="kv_share_max",
        title="KV memory, most",
        scale="logit",
        definition="Largest used share of the KV blocks of a replica.",
    ),
    Metric(
        name="preemptions_per_request",
        title="preemptions a request",
        better="lower",
        definition="Preemptions / completed requests.",
    ),
    Metric(
        name="recomputed_tokens",
        title="recomputed tokens",
        unit="tokens",
        better="lower",
        definition="Tokens computed again after a preemption.",
    ),
    Metric(
        name="prefix_hit_share",
        title="prefix hits",
        better="higher",
        scale="logit",
        definition="Share of prompt tokens that were found in the cache at first admission.",
    ),
    Metric(name="steps", title="steps", definition="Forward passes."),
    Metric(
        name="tokens_per_step",
        title="tokens a step",
        unit="tokens",
        scale="log",
        definition="Tokens computed / steps.",
    ),
    Metric(
        name="running_mean",
        title="running",
        unit="requests",
        definition="Requests that run, time-weighted.",
    ),
    Metric(
        name="waiting_mean",
        title="waiting",
        unit="requests",
        better="lower",
        definition="Requests that wait, time-weighted.",
    ),
    Metric(
        name="wait_max_s",
        title="longest wait",
        unit="s",
        better="lower",
        definition="Longest start - arrival.",
    ),
    Metric(
        name="backlog_mean",
        title="waiting",
        unit="requests",
        better="lower",
        definition="Requests of a bin that wait, time-weighted.",
    ),
    Metric(
        name="backlog_peak",
        title="most waiting",
        unit="requests",
        better="lower",
        definition="Most requests of a bin that wait at once.",
    ),
    Metric(
        name="gpu_time_share",
        title="GPU time",
        scale="logit",
        definition="Share of all busy time that a bin's batches take.",
    ),
    Metric(
        name="output_variance_mean",
        title="variance of outputs",
        unit="tokens²",
        better="lower",
        definition="Mean over batches of the variance of their outputs.",
    ),
    Metric(
        name="output_range_mean",
        title="longest less shortest output",
        unit="tokens",
        better="lower",
        definition="Mean over batches of the longest less the shortest output.",
    ),
    Metric(
        name="output_max_over_mean",
        title="max/mean output",
        better="lower",
        definition="Mean over batches of the longest output / the mean output.",
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}


def metric_named(name: str) -> Metric:
    """The metric of this name; hyphens and underscores are one letter.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = METRICS.get(name.replace("-", "_"))
    if found is None:
        near = difflib.get_close_matches(name, METRICS, n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; {hint}got {name!r}")
    return found


def title_of(name: str) -> str:
    """The title with its unit, for an axis; the name itself of what is no metric of ours."""
    return METRICS[name].axis if name in METRICS else name


def column_of(name: str) -> str:
    """The head of a table's column; the name itself of what is no metric of ours."""
    return METRICS[name].column if name in METRICS else name
