"""Several schedulers on equal GPUs and the same requests, replicated where something is random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from llmsched.latency.base import LatencyModel
from llmsched.simulation.comparison_results import COMPARED, Comparison, Difference, SchedulerResult
from llmsched.simulation.scenario import Parts, Scenario, as_scenario
from llmsched.simulation.simulate import Run, serve
from llmsched.simulation.uncertainty import Summary, simulate_draws
from llmsched.workload.trace import Trace
from llmsched.workload.workload import Workload

__all__ = [
    "BASELINE",
    "COMPARED",
    "DEFAULT_SCHEDULERS",
    "Comparison",
    "Difference",
    "SchedulerResult",
    "compare",
]

DEFAULT_SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic")
BASELINE = "static_fifo"


def compare(
    scenario: Scenario | Workload | Trace | str = "burstgpt-like",
    schedulers: Sequence[str] = DEFAULT_SCHEDULERS,
    *,
    replications: int = 5,
    baseline: str = BASELINE,
    latency_draws: Sequence[LatencyModel] = (),
    on_run: Callable[[Run], None] | None = None,
    **parts: Unpack[Parts],
) -> Comparison:
    """Run schedulers on equal GPUs and the same requests, seeds `seed`, `seed` + 1, ...

    Each replication draws the workload (where it is synthetic) and the predictor's noise anew,
    and all schedulers share both: differences are paired. A scheduler that nothing random
    touches is run once.

    Parameters
    ----------
    scenario : Scenario, Workload, Trace or str
        What is run; its scheduler is left aside.
    schedulers : sequence of str
        Names of `llmsched.schedulers.SCHEDULERS`.
    replications : int
        Independent replications, at least 1; intervals need 2.
    baseline : str
        The scheduler that the others are compared with; without it among `schedulers` there are
        no differences.
    latency_draws : sequence of LatencyModel
        What `draw_latencies` gives for this latency: everything is run under each of them too,
        and intervals that include calibration error come out beside the others.
    on_run : callable, optional
        Sees every finished run, tables included; those under a draw too.
    **parts
        Parts in place of the scenario's, as in `simulate`.

    Raises
    ------
    ValueError
        If an argument is out of range or names nothing known.
    """
    if not isinstance(replications, int) or replications < 1:
        raise ValueError(f"replications must be a whole number >= 1, got {replications}")
    if isinstance(schedulers, str):
        raise ValueError(f"schedulers must be a list of names, got {schedulers!r}; put it in [ ]")
    if not schedulers or len(set(schedulers)) != len(schedulers):
        given = ", ".join(map(str, schedulers)) or "none"
        raise ValueError(f"schedulers must be distinct names, got {given}")
    base = as_scenario(scenario, **parts)
    each = {name: replace(base, scheduler=name) for name in schedulers}
    for one in (*each.values(), replace(base, scheduler=baseline)):
        one.check()  # a wrong name ends here, not after the first run
    seeds = tuple(range(base.seed, base.seed + replications))
    gathered = {name: _Gathered() for name in schedulers}
    random = {name: one.random for name, one in each.items()}
    requests = _Requests(base)
    for seed in seeds:
        replayed = requests.of_seed(seed)
        for name, runs in gathered.items():
            if runs.summaries and not random[name]:
                runs.repeat(seed)
            else:
                runs.add(replace(each[name], seed=seed), replayed, latency_draws, on_run)
    return Comparison(
        results=tuple(
            SchedulerResult(
                scheduler=name,
                summaries=tuple(runs.summaries),
                random=random[name],
                drawn=tuple(runs.drawn) if latency_draws else (),
            )
            for name, runs in gathered.items()
        ),
        seeds=seeds,
        n_gpus=base.hardware.n_gpus,
        latency=base.hardware.resolved().latency,
        baseline=baseline,
        n_draws=len(latency_draws),
    )


class _Requests:
    """The requests of each replication, read or drawn only when they change."""

    def __init__(self, scenario: Scenario) -> None:
        workload = scenario.workload
        self._random = isinstance(workload, Workload) and workload.random
        self._load = workload.loader() if isinstance(workload, Workload) else lambda _: workload
        self._last: Trace | None = None

    def of_seed(self, seed: int) -> Trace:
        if self._last is None or self._random:
            self._last = self._load(seed)
        return self._last


@dataclass(slots=True)
class _Gathered:
    """The figures of one scheduler so far, replication by replication."""

    summaries: list[dict[str, Any]] = field(default_factory=list)
    drawn: list[tuple[Summary, ...]] = field(default_factory=list)

    def add(
        self,
        scenario: Scenario,
        requests: Trace,
        draws: Sequence[LatencyModel],
        on_run: Callable[[Run], None] | None,
    ) -> None:
        """Run one replication at the fitted parameters, then under each draw."""
        run = serve(scenario, requests)
        self.summaries.append(run.to_dict())
        if on_run is not None:
            on_run(run)
        del run  # its tables, before the next run makes its own
        if draws:
            self.drawn.append(simulate_draws(scenario, requests, draws, on_run=on_run))

    def repeat(self, seed: int) -> None:
        """One more replication, the same by construction."""
        self.summaries.append({**self.summaries[0], "seed": seed})
        self.drawn += self.drawn[:1]
