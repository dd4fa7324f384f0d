"""How many GPUs this traffic takes: the floor first, then the fewest GPUs of each scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from llmsched.metrics.shown import ShownPlan
from llmsched.simulation.capacity.capacity import REPLICATIONS, capacities
from llmsched.simulation.capacity.results import Capacity
from llmsched.simulation.capacity.statements import met_text
from llmsched.simulation.capacity.target import Target
from llmsched.simulation.scenario import Parts, Scenario, as_scenario
from llmsched.workload.trace import Trace
from llmsched.workload.workload import Workload

__all__ = ["Plan", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(ShownPlan):
    """The answer: the fewest GPUs that meet a target, per scheduler."""

    found: tuple[Capacity, ...]
    gpus_per_model: int
    gpu: str
    llm: str
    price_per_gpu_hour: float | None = None

    @property
    def ranked(self) -> tuple[Capacity, ...]:
        """The capacities, fewest GPUs first."""
        return tuple(sorted(self.found, key=lambda one: one.value))

    @property
    def reachable(self) -> bool:
        """Whether any scheduler can meet the target."""
        return self.ranked[0].reachable

    def sentence(self) -> str:
        """The answer in one sentence."""
        best, *others = self.ranked
        head = (
            f"Your traffic ({_rates(best)}, {best.rate_words}) on {self.gpu} serving {self.llm}, "
            f"{best.target.in_words(best.sla_s, best.more_limits)}"
        )
        if not best.reachable:
            return f"{head}: out of reach on any number of GPUs. {self.floor_sentence()}"
        text = f"{head}: {self._gpus(best)} with {best.scheduler} ({met_text(best)})"
        for other in others:
            count = self._gpus(other) if other.reachable else "no number"
            text += f", {count.removesuffix(' GPUs')} with {other.scheduler}"
        return f"{text}."

    def floor_sentence(self) -> str:
        """What no number of GPUs changes."""
        floor, sla_s = self.found[0].floor, self.found[0].sla_s
        per_cent = f"{100 * floor.share:.{2 if floor.share < 0.995 else 3}g} %"
        cannot = f"{per_cent} of the requests" if floor.share else "no request"
        verb = "cannot meet" if floor.share else "needs more than"
        return (
            f"Alone on an idle GPU the 95th percentile is {floor.p95_s:.3g} s, and "
            f"{cannot} {verb} {sla_s:g} s{' at all' if floor.share else ''}."
        )

    def cost_sentence(self) -> str | None:
        """What the GPUs cost; None without a price or an answer."""
        if self.price_per_gpu_hour is None or not self.reachable:
            return None
        costs = ", ".join(
            f"{one.scheduler} {self.cost_per_hour(one):.4g}" for one in self.ranked if one.reachable
        )
        return f"Cost an hour at {self.price_per_gpu_hour:g} a GPU: {costs}."

    def cost_per_hour(self, one: Capacity) -> float:
        """What the GPUs of a scheduler cost an hour; NaN without a price."""
        price = math.nan if self.price_per_gpu_hour is None else self.price_per_gpu_hour
        return one.value * self.gpus_per_model * price

    def _gpus(self, one: Capacity) -> str:
        groups = f" groups of {self.gpus_per_model}" if self.gpus_per_model > 1 else ""
        return f"{one.value:g}{groups} GPU{'' if one.value == 1 and not groups else 's'}"

    def to_dict(self) -> dict[str, Any]:
        """The plan as one JSON object."""
        first = self.found[0]
        costs = {
            one.scheduler: self.cost_per_hour(one)
            for one in self.found
            if one.reachable and self.price_per_gpu_hour is not None
        }
        return {
            "sentence": self.sentence(),
            "target_metric": first.target.metric,
            "target_at_most": first.target.at_most,
            "sla_s": first.sla_s,
            "gpu": self.gpu,
            "llm": self.llm,
            "gpus_per_model": self.gpus_per_model,
            "rates_per_s": list(first.rates_per_s),
            "rate": first.rate_words,
            "seeds": list(first.seeds),
            "resampled": first.resampled,
            "floor": first.floor.to_dict(),
            **({"cost_per_hour": costs} if costs else {}),
            "schedulers": [one.to_dict() for one in self.found],
        }


def plan(
    scenario: Scenario | Workload | Trace | str,
    schedulers: Sequence[str] = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic"),
    *,
    target: Target | None = None,
    replications: int = REPLICATIONS,
    price_per_gpu_hour: float | None = None,
    resample: bool | None = None,
    jobs: int | None = None,
    options: dict[str, Any] | None = None,
    **parts: Unpack[Parts],
) -> Plan:
    """The fewest GPUs on which this traffic meets a target.

    What is not listed here is a parameter of `capacities`.

    Parameters
    ----------
    scenario : Scenario, Workload, Trace or str
        The traffic at its rate, and what serves it; its number of GPUs only says at what rate a
        profile is held.
    schedulers : sequence of str
        Names of `llmsched.schedulers.SCHEDULERS`.
    target : Target, optional
        By default 95 % within the scenario's `slo.latency_s`.
    price_per_gpu_hour : float, optional
        Of one GPU, in any currency.
    options : mapping, optional
        More of what `capacities` takes, such as `out`.

    Raises
    ------
    ValueError
        If an argument is out of range or names nothing known.

    Examples
    --------
    >>> from llmsched import Workload
    >>> found = plan(Workload(source="poisson", requests=200), ["static_fifo"], replications=2)
    >>> found.reachable
    True
    """
    base = as_scenario(scenario, **parts)
    if price_per_gpu_hour is not None and not price_per_gpu_hour >= 0:
        raise ValueError(f"price_per_gpu_hour must be >= 0, got {price_per_gpu_hour:g}")
    hardware = base.resolved_hardware()
    return Plan(
        found=capacities(
            base,
            schedulers,
            target=target or Target(at_most=0.05),
            search="gpus",
            replications=replications,
            resample=resample,
            **{"jobs": jobs, **(options or {})},
        ),
        gpus_per_model=hardware.gpus_per_model,
        gpu=hardware.gpu.name,
        llm=hardware.llm.name,
        price_per_gpu_hour=price_per_gpu_hour,
    )


def _rates(one: Capacity) -> str:
    if one.resampled:  # these scatter around the rate of the file
        return f"{sum(one.rates_per_s) / len(one.rates_per_s):.3g} requests/s"
    low, high = f"{min(one.rates_per_s):.3g}", f"{max(one.rates_per_s):.3g}"
    return f"{low} requests/s" if low == high else f"{low} to {high} requests/s"
