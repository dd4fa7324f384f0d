"""Table II and figure 4: the highest arrival rate whose decode latency stays within 50 ms.

The step times of a row are figure 3's line with the prefill of table I; their one scale is fitted
to the row's static capacity. The dynamic capacity is then predicted, by search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.simulation.capacity.search import capacity_of, next_rate
from llmsched.simulation.workers import pool
from llmsched.studies.dynamic.runs import (
    Case,
    Outcome,
    Policy,
    StepLine,
    draws,
    interval,
    replicated,
    run_case,
    with_scale,
)
from llmsched.studies.dynamic.throughput import (
    ThroughputSettings,
    fitted_prefill,
    law_text,
    static_scales,
)
from llmsched.studies.multibin.results import Check, FigureResult, ends

POLICIES: tuple[Policy, Policy] = ("static", "dynamic")
LATENCY, RATE = "Mean time per output token [ms]", "Output [tokens/s]"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityRow:
    """A row of table II."""

    model: str
    prompt_tokens: float
    output_tokens: float
    kv_tokens: int
    static_per_s: float
    dynamic_per_s: float

    @property
    def name(self) -> str:
        """As tables label it."""
        return f"{self.model} {self.prompt_tokens:g}/{self.output_tokens:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySettings:
    """Settings of table II and figure 4; the field names are the TOML keys."""

    tpot_sla_ms: float
    requests: int
    batch_max: int
    law: str
    least_kept_up: float
    search_tolerance: float
    replications: int
    draws: int
    tolerance: float
    rows: tuple[dict[str, Any], ...]
    curve_row: int
    curve_rates_per_s: tuple[float, ...]

    @property
    def models(self) -> tuple[CapacityRow, ...]:
        """The rows of the table."""
        return tuple(CapacityRow(**row) for row in self.rows)

    @property
    def tpot_sla_s(self) -> float:
        """D_SLA [s]."""
        return 1e-3 * self.tpot_sla_ms

    def case(self, row: CapacityRow, step: StepLine, policy: Policy, rate_per_s: float) -> Case:
        """A row under one policy, at one rate."""
        return Case(
            prompt_tokens=row.prompt_tokens,
            output_tokens=row.output_tokens,
            n_requests=self.requests,
            law=self.law,
            step=step,
            policy=policy,
            batch_max=self.batch_max,
            kv_tokens=row.kv_tokens,
            rate_per_s=rate_per_s,
            tpot_sla_s=self.tpot_sla_s,
        )

    def passes(self, outcome: Outcome) -> bool:
        """Whether decodes are within the SLA, and the queue does not just grow."""
        return outcome.tpot_s <= self.tpot_sla_s and outcome.kept_up >= self.least_kept_up


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    settings: CapacitySettings
    row: CapacityRow
    step: StepLine  # at scale 1
    seed: int
    rates_per_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    scale: float
    capacities: dict[Policy, list[float]]  # per replication [requests/s]
    curve: dict[tuple[Policy, float], list[Outcome]]


def fitted_scale(
    settings: CapacitySettings, row: CapacityRow, step: StepLine, entropies: Sequence[Any]
) -> float:
    """The factor on all step times that puts static decodes at the SLA, at the static capacity.

    Raises
    ------
    ValueError
        If none between 1/20 and 5 does.
    """
    from scipy.optimize import brentq

    case = settings.case(row, step, "static", row.static_per_s)

    def excess(log_scale: float) -> float:
        outcomes = replicated(with_scale(case, float(np.exp(log_scale))), entropies)
        return interval(outcomes, "tpot_s").mean / settings.tpot_sla_s - 1

    return float(np.exp(brentq(excess, np.log(0.05), np.log(5.0), xtol=1e-3)))


def _run_job(job: _Job) -> _Found:
    settings, row = job.settings, job.row
    entropies = draws(job.seed, settings.draws, settings.replications)
    scale = fitted_scale(settings, row, job.step, entropies)
    step = job.step.scaled(scale)
    capacities: dict[Policy, list[float]] = {
        policy: [_capacity(settings, row, step, policy, entropy) for entropy in entropies]
        for policy in POLICIES
    }
    curve = {
        (policy, rate): replicated(settings.case(row, step, policy, rate), entropies)
        for policy in POLICIES
        for rate in job.rates_per_s
    }
    return _Found(scale=scale, capacities=capacities, curve=curve)


def _capacity(
    settings: CapacitySettings,
    row: CapacityRow,
    step: StepLine,
    policy: Policy,
    entropy: tuple[int, ...],
) -> float:
    passes: dict[float, bool] = {}
    rate: float | None = row.static_per_s
    while rate is not None:
        passes[rate] = settings.passes(run_case(settings.case(row, step, policy, rate), entropy))
        rate = next_rate(passes, start=row.static_per_s, tolerance=settings.search_tolerance)
    return capacity_of(passes, harder_upwards=True)


def _run(
    settings: CapacitySettings,
    throughput: ThroughputSettings,
    rows: Sequence[CapacityRow],
    rates_per_s: tuple[float, ...],
    *,
    seed: int,
    n_jobs: int,
) -> tuple[float, list[_Found]]:
    prefill = fitted_prefill(throughput, settings.law, seed)
    cb_s = 1e-3 * throughput.per_decode_ms
    step = StepLine(c0_s=1e-3 * throughput.fixed_step_ms, cb_s=cb_s, cp_s=prefill * cb_s)
    jobs = [
        _Job(settings=settings, row=row, step=step, seed=seed, rates_per_s=rates_per_s)
        for row in rows
    ]
    with pool(jobs=n_jobs, most=len(jobs)) as workers:
        done = dict(workers.results(_run_job, jobs))
    return prefill, [done[number] for number in range(len(jobs))]


@dataclass(frozen=True, slots=True)
class Capacities:
    """Table II."""

    settings: CapacitySettings
    throughput: ThroughputSettings

    def result(self, *, seed: int, n_jobs: int) -> FigureResult:
        """Static fitted, dynamic predicted."""
        import pandas as pd

        settings = self.settings
        prefill, found = _run(
            settings, self.throughput, settings.models, (), seed=seed, n_jobs=n_jobs
        )
        scales = ", ".join(
            f"{row.name} {one.scale:.3f}" for row, one in zip(settings.models, found, strict=True)
        )
        own_scales = ", ".join(
            f"{name} {scale:.3f}"
            for name, scale in static_scales(
                self.throughput, settings.law, prefill, seed, {row.model for row in settings.models}
            ).items()
        )
        rows, checks = [], []
        for row, one in zip(settings.models, found, strict=True):
            gain = _ratio(one.capacities["dynamic"], one.capacities["static"])
            printed = (row.static_per_s, row.dynamic_per_s)
            for policy, published in zip(POLICIES, printed, strict=True):
                capacity = mean_interval(one.capacities[policy])
                rows.append(
                    {
                        "row": row.name,
                        "policy": policy,
                        **ends(capacity),
                        "published": published,
                        "scale": one.scale,
                    }
                )
                fitted = " (its mean latency is fitted)" if policy == "static" else ""
                checks.append(
                    Check(
                        what=f"{row.name}: {policy} capacity{fitted} [requests/s]",
                        expected=published,
                        source="published",
                        ours=capacity,
                        tolerance=settings.tolerance,
                        failing=_failing(gain, row),
                    )
                )
        return FigureResult(
            number="table-2",
            title="Capacity with a decode latency of 50 ms: static against Algorithms 1 and 2",
            setting=f"{settings.requests} Poisson arrivals, lengths {law_text(settings.law)} about "
            f"the printed means, {settings.replications} replications",
            table=pd.DataFrame(rows),
            checks=tuple(checks),
            notes=(
                "A rate is within capacity if requests' mean time per output token is at most "
                f"{settings.tpot_sla_ms:g} ms and at least {settings.least_kept_up:.0%} of them "
                "are done when the last one arrives. Without the second condition the dynamic "
                "capacity has no bound: Algorithm 2 keeps its latency by letting requests wait.",
                f"Fitted to static values alone: a prefill token costs {prefill:.2f} times a "
                f"decode (table I), and one scale a row of figure 3's line: {scales}. Table I's "
                f"static values ask for {own_scales}.",
            ),
            provided="dynamic predicted from the static column",
        )


def _failing(gain: Interval, row: CapacityRow) -> str:
    published = row.dynamic_per_s / row.static_per_s - 1
    return f"not reproduced: gain {gain.mean - 1:+.0%}, published {published:+.0%}"


def _ratio(dynamic: Sequence[float], static: Sequence[float]) -> Interval:
    return mean_interval(np.array(dynamic) / np.array(static))


@dataclass(frozen=True, slots=True)
class Curve:
    """Figure 4: decode latency and throughput against the arrival rate, of one row of table II."""

    settings: CapacitySettings
    throughput: ThroughputSettings

    def result(self, *, seed: int, n_jobs: int) -> FigureResult:
        """Both policies at each rate."""
        import pandas as pd

        settings = self.settings
        row = settings.models[settings.curve_row]
        rates = settings.curve_rates_per_s
        _, (found,) = _run(settings, self.throughput, [row], rates, seed=seed, n_jobs=1)
        quantities = {LATENCY: ("tpot_s", 1e3), RATE: ("output_tps", 1.0)}
        table = pd.DataFrame(
            [
                {"panel": panel, "policy": policy, "arrival_rate_per_s": rate}
                | {end: factor * value for end, value in ends(interval(runs, quantity)).items()}
                for panel, (quantity, factor) in quantities.items()
                for (policy, rate), runs in found.curve.items()
            ]
        )
        gain = _ratio(found.capacities["dynamic"], found.capacities["static"])
        published = row.dynamic_per_s / row.static_per_s
        return FigureResult(
            number="4",
            title="Decode latency and throughput against the arrival rate, LLaMA3-70B",
            setting=f"Lengths {row.prompt_tokens:g} in, {row.output_tokens:g} out; as table II",
            table=table,
            checks=(
                Check(
                    what="dynamic capacity over static",
                    expected=published,
                    source="published",
                    ours=gain,
                    tolerance=settings.tolerance,
                    failing=_failing(gain, row),
                ),
            ),
            caption=f"Dashed: D_SLA = {settings.tpot_sla_ms:g} ms. Points: mean and 95 % interval "
            f"of {settings.replications} replications of {settings.requests} requests.",
            provided="the gain; the curves are not printed as numbers",
        )
