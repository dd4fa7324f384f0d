"""What the studies call each figure of merit, said once: its title with its unit, and a factor."""

from __future__ import annotations

from typing import NamedTuple


class Shown(NamedTuple):
    """How a figure of merit is shown."""

    title: str
    factor: float = 1.0  # what its values are multiplied by: 100 where they are shown in per cent


_SHOWN = {
    "sla_violation_rate": Shown("violations [%]", 100),
    "goodput_rps": Shown("goodput [req/s]"),
    "throughput_rps": Shown("throughput [req/s]"),
    "latency_mean_s": Shown("mean latency [s]"),
    "latency_p50_s": Shown("median latency [s]"),
    "latency_p95_s": Shown("P95 latency [s]"),
    "latency_p99_s": Shown("P99 latency [s]"),
    "gpu_utilization": Shown("GPU utilization [%]", 100),
    "batch_size_mean": Shown("batch size, mean"),
    "throughput_efficiency": Shown("throughput / linear"),
    "goodput_efficiency": Shown("goodput / linear"),
    "wait_max_s": Shown("longest wait [s]"),
    "gpu_time_share": Shown("share of GPU time [%]", 100),
    "output_variance_mean": Shown("variance of outputs in a batch [tokens²]"),
    "output_range_mean": Shown("longest less shortest output [tokens]"),
    "output_max_over_mean": Shown("longest / mean output in a batch"),
}
_UNITS = {"_rps": " [req/s]", "_tps": " [tokens/s]", "_s": " [s]"}


def shown(metric: str) -> Shown:
    """How a figure of merit is shown; one that is not listed by its name, its unit from the end."""
    if metric in _SHOWN:
        return _SHOWN[metric]
    for ending, unit in _UNITS.items():
        if metric.endswith(ending):
            return Shown(metric.removesuffix(ending).replace("_", " ") + unit)
    return Shown(metric.replace("_", " "))
