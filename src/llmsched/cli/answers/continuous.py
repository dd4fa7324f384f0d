"""One run of the iteration level as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from llmsched.cli.text import aligned, number, percent
from llmsched.metrics.load import LABEL_RULE
from llmsched.metrics.registry import METRICS

if TYPE_CHECKING:
    from llmsched.simulation.run import ContinuousRun
    from llmsched.workload.slo import Slo

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
DURATIONS = {
    "ttft": "time to first token [s]",
    "tpot": "time per output token [s]",
    "itl": "between tokens [s]",
    "latency": "latency [s]",
    "queueing": "queueing [s]",
}
FIGURES = (
    ("requests", "completed", "rejected", "throughput_rps", "output_tps", "goodput_rps"),
    ("gpu_utilization", "batch_size_mean", "tokens_per_step", "running_mean", "waiting_mean"),
    ("kv_share_mean", "kv_share_max", "prefix_hit_share", "preemptions_per_request"),
    ("recomputed_tokens", "steps", "makespan_s", "offered_load"),
)


def continuous_table(run: ContinuousRun, slo: Slo) -> str:
    """The verdict, latencies, the other figures, and what they come from."""
    found = run.to_dict()
    latencies = [["", *STATISTICS]]
    latencies += [
        [title, *(number(found[f"{name}_{statistic}_s"]) for statistic in STATISTICS)]
        for name, title in DURATIONS.items()
    ]
    figures = [[METRICS[name].axis, number(found[name])] for group in FIGURES for name in group]
    legend = (f"Step time: {run.latency.describe()}", f"Label: {LABEL_RULE}")
    return "\n\n".join(
        (
            _verdict(run, slo),
            aligned(latencies),
            aligned(figures),
            "\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in legend),
        )
    )


def _verdict(run: ContinuousRun, slo: Slo) -> str:
    """How many requests are served as they should be, and whether the replicas keep up."""
    figures, told = run.metrics, run.config
    asked = {"latency": slo.latency_s, "first token": slo.ttft_s, "a token": slo.tpot_s}
    limits = ", ".join(f"{name} {most:g} s" for name, most in asked.items() if most is not None)
    met = percent(1 - figures.sla_violation_rate)
    replicas = f"{figures.gpus} replica{'' if figures.gpus == 1 else 's'}"
    kv_tokens = told["usable_blocks"] * told["block_tokens"]
    return (
        f"{met} of {figures.requests} requests within {limits or 'no limit'}; {run.load_label}.\n"
        f"{replicas} of {told['gpu']}, {told['llm']}, {kv_tokens} KV tokens each, router "
        f"{told['router']}; trace {run.trace_name}, seed {run.seed}."
    )
