"""Several schedulers on equal GPUs and the same requests, replicated where something is random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmsched.engine.admission import Admission
from llmsched.hardware import DEFAULT_MODEL, ModelSpec
from llmsched.latency.base import LatencyModel
from llmsched.latency.registry import load_latency
from llmsched.prediction.binning import Binning
from llmsched.prediction.predictors import Predictor, predictor_from_spec
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.settings import Settings
from llmsched.simulation.comparison_results import COMPARED, Comparison, Difference, SchedulerResult
from llmsched.simulation.simulate import Run, simulate
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
    latency_draws: Sequence[LatencyModel] = (),
    on_run: Callable[[Run], None] | None = None,
) -> Comparison:
    """Run schedulers on equal GPUs and the same requests, seeds `seed`, `seed` + 1, ...

    Each replication draws the workload (where it is synthetic) and the predictor's noise anew,
    and all schedulers share both: differences are paired. A scheduler that nothing random
    touches is run once.

    Parameters
    ----------
    schedulers : sequence of str
        Names of `llmsched.schedulers.registry.SCHEDULERS`.
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
    settings = (settings or Settings()).resolved()
    for name in (*schedulers, baseline):
        make_scheduler(name, settings)  # a wrong name ends here, not after the first run
    model = load_latency(latency) if isinstance(latency, str) else latency
    believer = predictor_from_spec(predictor) if isinstance(predictor, str) else predictor
    workload = Workload(source=trace) if isinstance(trace, str) else trace
    requests = _Requests(workload)
    common = {
        "n_gpus": n_gpus,
        "latency": model,
        "predictor": believer,
        "binning": binning,
        "settings": settings,
        "admission": admission,
        "llm": llm,
        "on_run": on_run,
    }
    seeds = tuple(range(seed, seed + replications))
    gathered = {name: _Gathered() for name in schedulers}
    random = {
        name: requests.random
        or (make_scheduler(name, settings).uses_predictions and believer.random)
        for name in schedulers
    }
    for replication in seeds:
        replayed = requests.of_seed(replication)
        for name, runs in gathered.items():
            if runs.summaries and not random[name]:
                runs.repeat(replication)
            else:
                runs.add(replayed, name, replication, latency_draws, common)
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
        n_gpus=n_gpus,
        latency=model,
        baseline=baseline,
        n_draws=len(latency_draws),
    )


class _Requests:
    """The requests of each replication, read or drawn only when they change."""

    def __init__(self, workload: Trace | Workload) -> None:
        self.random = isinstance(workload, Workload) and workload.random
        self._load = workload.loader() if isinstance(workload, Workload) else lambda _: workload
        self._last: Trace | None = None

    def of_seed(self, seed: int) -> Trace:
        if self._last is None or self.random:
            self._last = self._load(seed)
        return self._last


@dataclass(slots=True)
class _Gathered:
    """The figures of one scheduler so far, replication by replication."""

    summaries: list[dict[str, Any]] = field(default_factory=list)
    drawn: list[tuple[Summary, ...]] = field(default_factory=list)

    def add(
        self,
        requests: Trace,
        scheduler: str,
        seed: int,
        draws: Sequence[LatencyModel],
        common: dict[str, Any],
    ) -> None:
        """Run one replication at the fitted parameters, then under each draw."""
        on_run = common["on_run"]
        options = {name: value for name, value in common.items() if name != "on_run"}
        run = simulate(requests, scheduler, seed=seed, **options)
        self.summaries.append(run.to_dict())
        if on_run is not None:
            on_run(run)
        del run  # its tables, before the next run makes its own
        if draws:
            self.drawn.append(simulate_draws(requests, scheduler, draws, seed=seed, **common))

    def repeat(self, seed: int) -> None:
        """One more replication, the same by construction."""
        self.summaries.append({**self.summaries[0], "seed": seed})
        self.drawn += self.drawn[:1]
