"""What `multi_bin_adaptive` gains over the other schedulers, where, and from which of its parts.

Runs every scheduler on the same requests at equal GPUs and writes one row per run to
out/adaptive.csv and the tables of the README to out/tables.md. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from llmsched import Trace, Workload, simulate
from llmsched.hardware import GPUS, MODELS, kv_capacity_tokens
from llmsched.latency.registry import load_latency
from llmsched.metrics.intervals import mean_interval, paired_difference
from llmsched.prediction.binning import Binning
from llmsched.schedulers.settings import Settings
from llmsched.simulation.simulate import Run

HERE = Path(__file__).parent
N_GPUS = 4
N_BINS = 4
N_PARTS = 5  # replications of a file: it is cut into so many parts
N_DRAWS = 20  # replications of the profile, with seeds 0, 1, ...
PROFILE_REQUESTS = 10_000
LOADS = (0.5, 0.7, 0.9, 1.0)
TRACES = {
    "BurstGPT-like": "burstgpt-like",
    "Azure conversation": "traces/azure_llm_2023_conv.csv.gz",
    "Mooncake": "traces/mooncake_conversation_trace.jsonl.gz",
}


@dataclass(frozen=True)
class Hardware:
    """A latency model, the memory and the model that go with it, and the SLA [s]."""

    latency: str
    gpu: str
    llm: str
    sla_s: float

    def settings(self, **options: str) -> Settings:
        capacity_tokens = kv_capacity_tokens(GPUS[self.gpu], MODELS[self.llm])
        return Settings(sla_s=self.sla_s, capacity_tokens=capacity_tokens, **options)


HARDWARE = {
    "reference": Hardware("reference", "default-12gb", "qwen3-1.7b", 1.0),
    "H100": Hardware("h100-llama-3-8b-vllm", "h100-80gb", "llama-3.1-8b", 10.0),
    "A100": Hardware("a100-llama-3-8b-vllm", "a100-80gb", "llama-3.1-8b", 10.0),
}
NONE = {"controller": "none"}
BY_SERVICE = Binning(n_bins=N_BINS, by="service", rule="equal-mass")
# name in the tables -> scheduler, settings, binning
ENTRIES: dict[str, tuple[str, dict[str, str], Binning]] = {
    "static": ("static_fifo", {}, Binning(n_bins=1)),
    "no bins": ("dynamic_no_bins", {}, Binning(n_bins=1)),
    "no bins, none": ("dynamic_no_bins", NONE, Binning(n_bins=1)),
    "output": ("multi_bin_dynamic", {}, Binning(n_bins=N_BINS)),
    "output, none": ("multi_bin_dynamic", NONE, Binning(n_bins=N_BINS)),
    "service": ("multi_bin_dynamic", {}, BY_SERVICE),
    "service, none": ("multi_bin_dynamic", NONE, BY_SERVICE),
    "service, none, longest": (
        "multi_bin_dynamic",
        {**NONE, "bin_choice": "longest-queue"},
        BY_SERVICE,
    ),
    "service, none, rolling": ("multi_bin_dynamic", NONE, replace(BY_SERVICE, rule="rolling")),
    "adaptive": ("multi_bin_adaptive", {}, Binning(n_bins=N_BINS)),
    "adaptive, equal-mass": ("multi_bin_adaptive", {}, BY_SERVICE),
    "adaptive, output": ("multi_bin_adaptive", {}, Binning(n_bins=N_BINS, by="output")),
}
RIVAL = "service, none"  # the strongest without the adaptive choice and its shrinking


def requests_of(name: str, data: Path, part: int) -> Trace:
    """One replication's requests, in real time: a part of a file, or a drawn profile."""
    if name == "BurstGPT-like":
        return Workload(source=TRACES[name], requests=PROFILE_REQUESTS, rps_scale=1.0).load(part)
    trace = Workload(source=str(data / TRACES[name]), rps_scale=1.0).load(0)
    bounds = np.linspace(0, len(trace), N_PARTS + 1).astype(int)
    kept = trace.take(slice(bounds[part], bounds[part + 1]))
    return replace(kept, arrival_s=kept.arrival_s - kept.arrival_s[0])


def serve(trace: Trace, hardware: Hardware, entry: str, seed: int) -> Run:
    scheduler, options, binning = ENTRIES[entry]
    return simulate(
        trace,
        scheduler,
        n_gpus=N_GPUS,
        latency=hardware.latency,
        binning=binning,
        settings=hardware.settings(**options),
        llm=MODELS[hardware.llm],
        seed=seed,
    )


def saturation_rps(trace: Trace, hardware: Hardware, seed: int) -> float:
    """Throughput of the rival when every request is there at time 0: where ρ is 1."""
    at_once = replace(trace, arrival_s=np.zeros(len(trace)))
    return serve(at_once, hardware, RIVAL, seed).metrics.throughput_rps


def quarters(trace: Trace, hardware: Hardware) -> np.ndarray:
    """Quarter of each request by its true service time alone: the same for every scheduler."""
    binning = Binning(by="service")
    return binning.bins_of(
        binning.values(trace, trace.output_tokens, load_latency(hardware.latency))
    )[0]


def row(run: Run, quarter: np.ndarray, sla_s: float) -> dict[str, float | str]:
    requests, found = run.requests, run.metrics
    late = ~(requests.finish_s - requests.arrival_s <= sla_s)  # rejected ones, NaN, are late
    wait_s = requests.start_s - requests.arrival_s
    per_quarter = [late[quarter == q].mean() for q in np.unique(quarter)]
    waits = [np.nanmean(wait_s[quarter == q]) for q in np.unique(quarter)]
    return {
        "violations": 100 * found.sla_violation_rate,
        "goodput_rps": found.goodput_rps,
        "throughput_rps": found.throughput_rps,
        "latency_p99_s": found.latency_p99_s,
        "batch_size_mean": found.batch_size_mean,
        "rejected": found.rejected,
        "shortest_violations": 100 * per_quarter[0],
        "longest_violations": 100 * per_quarter[-1],
        "wait_max_over_min": max(waits) / min(waits) if min(waits) > 0 else np.nan,
        "label": run.load_label,
    }


def replication(task: tuple[str, str, int, Path]) -> list[dict[str, object]]:
    """Every load and scheduler on one replication's requests."""
    warnings.simplefilter("ignore")  # lengths beyond the measured range: see the README
    trace_name, hardware_name, part, data = task
    hardware = HARDWARE[hardware_name]
    trace = requests_of(trace_name, data, part)
    quarter = quarters(trace, hardware)
    full_rps = saturation_rps(trace, hardware, part)
    rows: list[dict[str, object]] = []
    for load in LOADS:
        scale = (len(trace) - 1) / trace.span_s / (load * full_rps)
        scaled = replace(trace, arrival_s=trace.arrival_s * scale)
        for entry in ENTRIES:
            keys = {"trace": trace_name, "hardware": hardware_name, "rho": load, "entry": entry}
            measured = row(serve(scaled, hardware, entry, part), quarter, hardware.sla_s)
            rows.append({**keys, "part": part, "arrival_rps": load * full_rps, **measured})
    return rows


def tables(frame: pd.DataFrame) -> str:
    """The README's two tables: violations of all, then adaptive against its rivals."""
    everyone = ["| latency | trace | ρ | " + " | ".join(ENTRIES) + " |"]
    everyone.append("|---" * (3 + len(ENTRIES)) + "|")
    against = [
        f"| latency | trace | ρ | violations less those of `{RIVAL}` | less those of `service` "
        "| goodput | less that of the first | p99 [s] | shortest, longest quarter late [%] "
        "| wait max/min |",
        "|---" * 10 + "|",
    ]
    for hardware, trace, load in product(HARDWARE, TRACES, LOADS):
        point = (frame.hardware == hardware) & (frame.trace == trace) & (frame.rho == load)
        rows = {entry: frame[point & (frame.entry == entry)] for entry in ENTRIES}
        head = f"| {hardware} | {trace} | {load} | "
        violations = [_mean(rows[entry].violations) for entry in ENTRIES]
        everyone.append(head + " | ".join(violations) + " |")
        ours, theirs = rows["adaptive"], rows[RIVAL]
        cells = [
            _difference(ours.violations, theirs.violations),
            _difference(ours.violations, rows["service"].violations),
            f"{ours.goodput_rps.mean():.3g}",
            _difference(ours.goodput_rps, theirs.goodput_rps),
            f"{theirs.latency_p99_s.mean():.3g} → {ours.latency_p99_s.mean():.3g}",
            f"{_ends(theirs)} → {_ends(ours)}",
            f"{theirs.wait_max_over_min.mean():.2g} → {ours.wait_max_over_min.mean():.2g}",
        ]
        against.append(head + " | ".join(cells) + " |")
    return "\n".join([*everyone, "", *against]) + "\n"


def _mean(values: pd.Series) -> str:
    interval = mean_interval(values.to_numpy())
    return f"{interval.mean:.0f} ± {interval.half_width:.0f}"


def _difference(ours: pd.Series, theirs: pd.Series) -> str:
    """Paired; bold where the interval leaves out 0."""
    interval = paired_difference(ours.to_numpy(), theirs.to_numpy())
    text = f"{interval.mean:+.2g} ± {interval.half_width:.2g}"
    return f"**{text}**" if interval.significant else text


def _ends(rows: pd.DataFrame) -> str:
    return f"{rows.shortest_violations.mean():.0f}, {rows.longest_violations.mean():.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with traces/")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    tasks = [
        (trace, hardware, part, options.data)
        for trace, hardware in product(TRACES, HARDWARE)
        for part in range(N_DRAWS if trace == "BurstGPT-like" else N_PARTS)
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = [found for several in pool.map(replication, tasks) for found in several]
    frame = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "adaptive.csv", index=False)
    (options.out / "tables.md").write_text(tables(frame), encoding="utf-8")
    print((options.out / "tables.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
