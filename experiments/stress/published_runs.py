"""The runs behind PUBLISHED.md: the published settings, and the differences one can take away."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pandas as pd

from llmsched import Binning, Workload
from llmsched.simulation.presets import preset
from llmsched.simulation.scenario import Scenario, as_scenario
from llmsched.simulation.sweep.sweep import RunConfig, sweep
from llmsched.workload.slo import Slo

# Requests per second that the origin's runs were offered: where all but nothing waited,
# throughput is the arrival rate. For 100,000 there is no such row: from the file's requests per
# day, whose 100,000th request falls 48 % into day 9 (23.1 to 25.7, if not evenly within the day).
PUBLISHED_RATE_PER_S = {1_000: 4.05, 10_000: 6.2894, 100_000: 24.4, 1_000_000: 53.9}
MIDNIGHT_S = 12 * 3600.0  # the profile begins at noon, the file at midnight
ORIGIN_PREDICTOR = "prompt-power-law"
N_SEEDS = {1_000: 20, 10_000: 20, 100_000: 5, 1_000_000: 5}


PLAN_RPS_SCALE = preset("plan").recipe().rps_scale or 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run the published settings on the embedded profile."""

    name: str
    same_rate: bool = False  # each seed scaled so that its arrival rate is the published one
    predictor: str = "noisy"
    quiet: bool = False  # conversations from midnight on, as the file begins
    volumes: tuple[int, ...] = tuple(N_SEEDS)

    def workload(self, requests: int, seed: int, *, rate_per_s: float | None = None) -> Workload:
        """The requests of a replication; another rate than the published one if asked for."""
        workload = Workload(requests=requests, failures="keep", rps_scale=PLAN_RPS_SCALE)
        if self.quiet:
            window_s = (MIDNIGHT_S, math.inf)
            workload = replace(workload, window_s=window_s, log_type="Conversation log")
        if not self.same_rate:
            return workload
        rate_per_s = rate_per_s or PUBLISHED_RATE_PER_S[requests]
        scale = PLAN_RPS_SCALE * rate_per_s / arrival_rate_per_s(workload, seed)
        return replace(workload, rps_scale=float(f"{scale:.6g}"))


AS_IT_COMES = Variant(name="as it comes")
QUIET = Variant(
    name="and a quiet start",
    same_rate=True,
    predictor=ORIGIN_PREDICTOR,
    quiet=True,
    volumes=(1_000, 10_000),
)
VARIANTS = (
    AS_IT_COMES,
    Variant(name="same rate", same_rate=True, volumes=(1_000, 10_000, 100_000)),
    Variant(name="same rate and predictor", same_rate=True, predictor=ORIGIN_PREDICTOR),
    QUIET,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A latency model with the memory and the SLA that go with it."""

    latency: str
    llm: str
    gpu: str
    sla_s: float
    slower: float  # what the published rate is divided by, so that the GPUs see a like load

    def config(self, workload: Workload, scheduler: str, **options: object) -> Scenario:
        """A run on this hardware."""
        return self.on(as_scenario(workload, scheduler, **options))  # type: ignore[arg-type]

    def on(self, scenario: Scenario) -> Scenario:
        """A scenario on this hardware, with its SLA."""
        hardware = replace(scenario.hardware, latency=self.latency, gpu=self.gpu, llm=self.llm)
        return replace(scenario, hardware=hardware, slo=Slo(latency_s=self.sla_s))


REFERENCE = Hardware(
    latency="reference", llm="qwen3-1.7b", gpu="default-12gb", sla_s=1.0, slower=1.0
)
H100 = Hardware(
    latency="h100-llama-3-8b-vllm", llm="llama-3-8b", gpu="h100-80gb", sla_s=10.0, slower=10.0
)


@lru_cache(maxsize=512)
def arrival_rate_per_s(workload: Workload, seed: int) -> float:
    """Requests over the span from the first to the last arrival."""
    trace = workload.load(seed)
    return len(trace) / trace.span_s


def run(configs: Sequence[Scenario], out: Path, *, jobs: int) -> pd.DataFrame:
    """The runs, done or read, by key; ends with the first error if one failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # equal edges merged; beyond measured lengths
        runs = sweep(configs, out, jobs=jobs).set_index("key", drop=False)
    failed = runs[runs["status"] == "failed"]
    if len(failed):
        raise SystemExit(f"{len(failed)} runs failed, the first with: {failed['error'].iloc[0]}")
    return runs


def published_configs(
    rows: Iterable[tuple[str, int, int, int]], *, seeds: int | None = None
) -> dict[tuple[str, tuple[str, int, int, int]], list[Scenario]]:
    """Variant and published row (scheduler, requests, GPUs, K) -> its replications."""
    return {
        (variant.name, (scheduler, requests, n_gpus, n_bins)): [
            RunConfig(
                workload=variant.workload(requests, seed),
                scheduler=scheduler,
                n_gpus=n_gpus,
                binning=Binning(n_bins=n_bins),
                predictor=variant.predictor,
                seed=seed,
            )
            for seed in range(seeds or N_SEEDS[requests])
        ]
        for variant in VARIANTS
        for scheduler, requests, n_gpus, n_bins in rows
        if requests in variant.volumes
    }
