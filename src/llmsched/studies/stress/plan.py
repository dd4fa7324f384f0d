"""What the stress plan runs, as values: volumes, GPU counts, held loads, numbers of bins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from llmsched._util.limits import MAX_BINS
from llmsched._util.options import check_options, option
from llmsched.prediction.binning import Binning
from llmsched.simulation.presets import preset
from llmsched.simulation.replications import check_replications, replicated
from llmsched.simulation.scenario import Scenario
from llmsched.workload.workload import Workload

Engine = Literal["batch", "iteration"]
SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_adaptive")
CONTINUOUS = ("continuous_static", "continuous_dynamic", "continuous_multi_bin", "continuous_sjf")
SCALED: Mapping[Engine, str] = {  # the scheduler of steps 2, 2b and 3
    "batch": "multi_bin_dynamic",
    "iteration": "continuous_multi_bin",
}
MOST = {"volumes": 1_000_000_000, "gpu_counts": 1_000_000, "bins": MAX_BINS, "loads": math.inf}
N_COMPARED = 3  # step 1 compares on so many of the plan's GPU counts, the smallest


def _numbers(
    default: tuple[float, ...], about: str, kind: Callable[[str], float] = int, also: str = ""
) -> Any:
    """A field of increasing numbers, which is an option of the command line, too."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(kind(part) for part in text.split(","))
            _check_increasing("they", values, most=math.inf)
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            message = f"must be increasing {what} > 0 between commas, got {text!r}"
            raise ValueError(message) from None
        return values

    text = ",".join(f"{value:.15g}" for value in default) + also
    return option(default, about, metavar="A,B,...", parse=parse, default_text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the steps run, as values only.

    Parameters
    ----------
    base : Scenario
        What the runs share, hardware included; its requests are set by the volumes, its GPUs and
        bins by the steps.
    engine : {"batch", "iteration"}
        Whether whole batches are served, or requests join and leave at every step.
    volumes : tuple of int
        Requests of step 1's runs; the other steps run the largest.
    gpu_counts : tuple of int
        GPUs of steps 2 and 2b.
    compared_gpu_counts : tuple of int, optional
        GPUs on which step 1 compares all schedulers; by default the three smallest of
        `gpu_counts`.
    loads : tuple of float
        Offered loads ρ that step 2b holds while the GPUs grow.
    bins : tuple of int
        Numbers of bins (K) of step 3; the other steps have those of `base`.
    best_gpu_count : int, optional
        GPUs of step 3; by default what step 2 chose.
    target_violations : float
        Step 2 looks for the fewest GPUs whose violation rate stays within this share.
    replications : int
        Seeds `seed`, `seed` + 1, ..., common to all runs; what nothing random touches runs once.

    Raises
    ------
    ValueError
        If a list is empty, unordered or out of range.
    """

    base: Scenario = field(default_factory=lambda: preset("plan"))
    engine: Engine = option(
        "batch",
        "Whole batches, or requests that join and leave at every step.",
        choices=get_args(Engine),
        default_text="batch",
    )
    volumes: tuple[int, ...] = _numbers(
        (1_000, 10_000, 100_000, 1_000_000),
        "Requests of step 1's runs; the other steps take the largest.",
    )
    gpu_counts: tuple[int, ...] = _numbers(
        (1, 2, 4, 8, 16, 32, 64, 100),
        "GPUs of steps 2 and 2b; step 1 compares on these, or within `all` on the three smallest.",
        also="; 1,2,4 for step1",
    )
    compared_gpu_counts: tuple[int, ...] | None = None
    loads: tuple[float, ...] = _numbers(
        (0.7, 0.9, 1.0), "Offered loads that step 2b holds, by the arrival rate.", float
    )
    bins: tuple[int, ...] = _numbers(
        (1, 2, 4, 8, 16, 32), "Numbers of bins of step 3; the others have 4."
    )
    best_gpu_count: int | None = option(
        None,
        "GPUs of step 3.",
        metavar="N",
        default_text="what step 2 chose",
        least=1,
        most=MOST["gpu_counts"],
    )
    target_violations: float = option(
        0.05,
        "Step 2 looks for the fewest GPUs with at most this share of violations.",
        metavar="SHARE",
        above=0,
        below=1,
    )
    replications: int = 4

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("volumes", "gpu_counts", "compared_gpu_counts", "loads", "bins"):
            if (values := getattr(self, name)) is not None:
                _check_increasing(name, values, most=MOST[name.removeprefix("compared_")])
        if self.workload.requests is not None:
            raise ValueError(
                f"requests of the workload are set by volumes, got {self.workload.requests}; "
                "leave them out"
            )
        if self.workload.concurrency is not None:
            raise ValueError(
                "a stress plan sends requests at given rates, got a closed loop of "
                f"{self.workload.concurrency} users; leave concurrency out"
            )
        check_replications(self.replications)

    @property
    def workload(self) -> Workload:
        """Where the requests come from and how fast."""
        return self.base.recipe()

    @property
    def step1_gpu_counts(self) -> tuple[int, ...]:
        """GPUs on which step 1 compares the schedulers."""
        return self.compared_gpu_counts or self.gpu_counts[:N_COMPARED]

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Those that step 1 compares."""
        return SCHEDULERS if self.engine == "batch" else CONTINUOUS

    @property
    def scaled(self) -> str:
        """The scheduler of steps 2, 2b and 3."""
        return SCALED[self.engine]

    def seeds_of(self, scheduler: str | None = None) -> tuple[int, ...]:
        """The seeds that a scheduler (by default, `scaled`) runs with: one where nothing varies."""
        one = replace(self.base, scheduler=scheduler or self.scaled)
        return tuple(each.seed for each in replicated(one, self.replications))

    def run(
        self,
        n_gpus: float,
        seed: int,
        *,
        scheduler: str | None = None,
        requests: int | None = None,
        rps_scale: float | None = None,
        n_bins: int | None = None,
    ) -> Scenario:
        """One run; what is left out is the plan's: the largest volume, its rate, K, `scaled`."""
        workload = replace(
            self.workload,
            requests=self.volumes[-1] if requests is None else requests,
            rps_scale=self.workload.rps_scale if rps_scale is None else rps_scale,
        )
        return replace(
            self.base.on(n_gpus),
            workload=workload,
            scheduler=scheduler or self.scaled,
            binning=self.base.binning if n_bins is None else Binning(n_bins=n_bins),
            seed=seed,
        )


def _check_increasing(name: str, values: tuple[float, ...], *, most: float) -> None:
    """Fail unless the values are positive, increase, and stay within what a run can take."""
    given = ", ".join(f"{value:g}" for value in values) or "none"
    ordered = all(low < high for low, high in pairwise(values))
    if not values or not ordered or not values[0] > 0 or not math.isfinite(values[-1]):
        raise ValueError(f"{name} must be increasing numbers > 0, got {given}")
    if values[-1] > most:
        raise ValueError(f"{name} must be at most {most:,}, got {values[-1]:,}")
