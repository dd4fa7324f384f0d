"""One run of the iteration level as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from llmsched.cli.answers.cautions import cautions
from llmsched.cli.answers.header import counts_text, rate_text
from llmsched.cli.answers.run import calibration_text
from llmsched.cli.text import aligned, number, percent
from llmsched.metrics.load import LABEL_RULE
from llmsched.metrics.registry import METRICS

if TYPE_CHECKING:
    from llmsched.simulation.run import ContinuousRun
    from llmsched.simulation.uncertainty import RunUncertainty
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
CALIBRATED = (
    *("sla_violation_rate", "latency_mean_s", "latency_p95_s", "ttft_mean_s", "ttft_p99_s"),
    *("tpot_mean_s", "tpot_p99_s", "goodput_rps", "gpu_utilization"),
)


def continuous_text(
    run: ContinuousRun,
    slo: Slo,
    uncertainty: RunUncertainty | None = None,
    *,
    verbose: bool = False,
) -> str:
    """The verdict, latencies, the other figures, and what to be careful about.

    Parameters
    ----------
    verbose : bool
        Also the step times in full, and what the label means.
    """
    found = run.to_dict()
    latencies = [["", *STATISTICS]]
    latencies += [
        [title, *(number(found[f"{name}_{statistic}_s"]) for statistic in STATISTICS)]
        for name, title in DURATIONS.items()
    ]
    figures = [[METRICS[name].axis, number(found[name])] for group in FIGURES for name in group]
    parts = [_verdict(run, slo), aligned(latencies), aligned(figures)]
    if uncertainty is not None:
        parts.append(calibration_text(uncertainty, CALIBRATED))
    steps = run.latency.describe()
    lines = [*cautions({run.scheduler: [found]})]
    lines.append(f"Step time: {steps if verbose else steps.partition(':')[0]}")
    lines += [f"Label: {LABEL_RULE}"] * verbose
    parts.append("\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in lines))
    return "\n\n".join(parts)


def _verdict(run: ContinuousRun, slo: Slo) -> str:
    """How many requests are served as they should be, and whether the replicas keep up."""
    figures, told = run.metrics, run.config
    asked = {"latency": slo.latency_s, "first token": slo.ttft_s, "a token": slo.tpot_s}
    limits = ", ".join(f"{name} {most:g} s" for name, most in asked.items() if most is not None)
    met = percent(1 - figures.sla_violation_rate)
    replicas = f"{figures.gpus} replica{'' if figures.gpus == 1 else 's'}"
    kv_tokens = told["usable_blocks"] * told["block_tokens"]
    requests, rate = counts_text((figures.requests,)), rate_text((run.arrival_rate_rps,))
    return (
        f"{met} of {requests} within {limits or 'no limit'}; {run.load_label}.\n"
        f"{requests} of {run.trace_name} at {rate} ({told['rate']}),\n"
        f"{replicas} of {told['gpu']}, {told['llm']}, {kv_tokens} KV tokens each, router "
        f"{told['router']}, seed {run.seed}."
    )
