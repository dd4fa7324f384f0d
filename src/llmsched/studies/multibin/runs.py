"""The runs behind the paper's figures, and their settings: one TOML file a figure.

A file's top-level keys are the paper's own sizes; its table `[quick]` replaces some of them by
smaller ones that take seconds.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched._util.files import data_folder
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.metrics.intervals import Interval, mean_interval, paired_difference
from llmsched.prediction.binning import Binning
from llmsched.schedulers.settings import Settings
from llmsched.simulation.workers import pool
from llmsched.theory.distributions import ServiceLaw

T = TypeVar("T")
FOLDER = "experiments/multibin/settings"


def load_settings(kind: type[T], name: str, *, quick: bool = False, folder: str = FOLDER) -> T:
    """The settings in `name`.toml of a data folder, as the frozen dataclass `kind`.

    Raises
    ------
    ValueError
        If the file has not exactly the fields of `kind`.
    """
    with open(data_folder(folder) / f"{name}.toml", "rb") as file:
        values = tomllib.load(file)
    smaller = values.pop("quick", {})
    if quick:
        values |= smaller
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    odd = sorted((fields ^ values.keys()) | (smaller.keys() - fields))
    if odd:
        raise ValueError(
            f"{name}.toml must have exactly the fields of {kind.__name__}, got {', '.join(odd)} "
            "missing, unknown or only under [quick]"
        )
    return kind(**{key: _frozen(value) for key, value in values.items()})


def by_bins(values: Mapping[str, float]) -> dict[int, float]:
    """A TOML table `k = value`, whose keys are texts, by number of bins."""
    return {int(n_bins): float(value) for n_bins, value in values.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One simulated situation of Algorithm 1 (`multi_bin_only`, service times drawn)."""

    law: ServiceLaw  # of one request's service time
    n_requests: int
    batch_size: int  # requests per batch (B)
    n_bins: int  # bins (k); of equal mass unless `edges_s` is given
    arrival_rate_per_s: float = np.inf  # of Poisson arrivals (lambda); inf: all at time 0
    n_gpus: float = 1
    predictor: str = "oracle"  # a spec such as `bin-error:0.1`
    edges_s: tuple[float, ...] = ()  # fixed edges between the bins [s]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of a point measured."""

    throughput_per_s: float  # requests / time from the first arrival to the last finish
    latency_s: float  # mean, arrival to finish
    full_latency_s: float  # the same, over the requests of full batches only
    full_batch_s: float  # mean time of a full batch, each bin weighted by its requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Points to run, each `replications` times, on the draws of stream `draws`."""

    points: tuple[Point, ...]
    replications: int
    draws: int

    def __post_init__(self) -> None:
        if self.replications < 2:
            raise ValueError(
                f"replications must be >= 2 to give an interval, got {self.replications}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the settings of every simulated figure have; the field names are the TOML keys."""

    batch_size: int
    n_requests: int
    replications: int
    draws: int

    def point(self, law: ServiceLaw, n_bins: int, **more: Any) -> Point:
        """A situation of these sizes."""
        sizes = {"n_requests": self.n_requests, "batch_size": self.batch_size}
        return Point(law=law, n_bins=n_bins, **{**sizes, **more})

    def study(self, points: Iterable[Point]) -> Study:
        """These points, each once, replicated."""
        distinct = tuple(dict.fromkeys(points))
        return Study(points=distinct, replications=self.replications, draws=self.draws)

    @property
    def caption(self) -> str:
        """What the points of a figure are."""
        return (
            f"Points: mean and 95 % interval of {self.replications} replications of "
            f"{self.n_requests:,} requests."
        )


@dataclass(frozen=True, slots=True)
class Results:
    """The outcomes of one study, replication by replication."""

    outcomes: Mapping[Point, tuple[Outcome, ...]]

    def samples(self, point: Point, quantity: str) -> FloatArray:
        """One value per replication, shape (replications,)."""
        return np.array([getattr(outcome, quantity) for outcome in self.outcomes[point]])

    def interval(self, point: Point, quantity: str) -> Interval:
        """Mean over replications and its 95 % interval."""
        return mean_interval(self.samples(point, quantity))

    def gain(self, point: Point, base: Point) -> Interval:
        """Relative gain in throughput over `base`, paired by replication."""
        ratio = self.samples(point, "throughput_per_s") / self.samples(base, "throughput_per_s")
        return paired_difference(ratio, np.ones_like(ratio))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    point: Point
    entropy: tuple[int, int, int]  # root seed, stream of draws, replication


def run_point(point: Point, entropy: Sequence[int]) -> Outcome:
    """One run; the entropy fixes its workload and the predictor's noise."""
    from llmsched.simulation.run import BatchRun
    from llmsched.simulation.simulate import simulate
    from llmsched.theory.service_laws import drawn_trace

    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    run = simulate(
        drawn_trace(
            point.law, point.n_requests, arrival_rate_per_s=point.arrival_rate_per_s, rng=rng
        ),
        "multi_bin_only",
        n_gpus=point.n_gpus,
        latency="drawn",
        predictor=point.predictor,
        binning=Binning(n_bins=point.n_bins, by="service", edges=point.edges_s or None),
        settings=Settings(batch_size=point.batch_size),
        seed=int(np.random.SeedSequence([*entropy, 1]).generate_state(1)[0]),
    )
    assert isinstance(run, BatchRun)  # as its scheduler is of the batch level
    in_full = (run.batches.size == point.batch_size)[run.requests.batch]
    latency_s = run.requests.finish_s - run.requests.arrival_s
    return Outcome(
        throughput_per_s=run.metrics.throughput_rps,
        latency_s=run.metrics.latency_mean_s,
        full_latency_s=float(latency_s[in_full].mean()) if in_full.any() else np.nan,
        full_batch_s=_full_batch_s(run.requests, run.batches, point.batch_size),
    )


def _full_batch_s(requests: RequestTable, batches: BatchTable, batch_size: int) -> float:
    """Mean time of a full batch, each bin weighted by its share of the requests [s].

    A plain mean over full batches would count rare bins too little: each bin leaves out up to one
    batch, and a rare bin has few.
    """
    full = batches.size == batch_size
    service_s = (batches.finish_s - batches.start_s)[full]
    share = np.bincount(requests.bin) / len(requests)
    held = np.flatnonzero(share)
    n_full = np.bincount(batches.bin[full], minlength=len(share))[held]
    if not n_full.all():
        return float("nan")
    total_s = np.bincount(batches.bin[full], service_s, minlength=len(share))[held]
    return float(share[held] @ (total_s / n_full))


def run_studies(
    studies: Sequence[Study],
    *,
    seed: int,
    n_jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Results]:
    """Run every study, each distinct run once, over `n_jobs` processes.

    Every run's draws follow from (seed, study.draws, replication) alone, so the numbers are the
    same on any number of cores.

    Parameters
    ----------
    studies : sequence of Study
    seed : int
        Root seed.
    n_jobs : int
        Processes; 1 runs here.
    progress : callable, optional
        Called with (runs done, runs in all) after each run.

    Raises
    ------
    ValueError
        If the seed is negative or `n_jobs` is below 1.
    """
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    jobs = list(dict.fromkeys(job for study in studies for job in _jobs_of(study, seed)))
    done: dict[_Job, Outcome] = {}
    with pool(jobs=n_jobs, most=len(jobs)) as workers:
        for number, outcome in workers.results(_run_job, jobs):
            done[jobs[number]] = outcome
            if progress is not None:
                progress(len(done), len(jobs))
    return [_results(study, seed, done) for study in studies]


def _jobs_of(study: Study, seed: int) -> Iterator[_Job]:
    for point in study.points:
        for replication in range(study.replications):
            yield _Job(point=point, entropy=(seed, study.draws, replication))


def _results(study: Study, seed: int, done: Mapping[_Job, Outcome]) -> Results:
    outcomes: dict[Point, list[Outcome]] = {point: [] for point in study.points}
    for job in _jobs_of(study, seed):
        outcomes[job.point].append(done[job])
    return Results({point: tuple(values) for point, values in outcomes.items()})


def _run_job(job: _Job) -> Outcome:
    return run_point(job.point, job.entropy)
