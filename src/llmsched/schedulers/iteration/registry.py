"""The named schedulers of the iteration level, each one line of composition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llmsched._util.limits import DEFAULT_BINS
from llmsched._util.registry import Registry
from llmsched.prediction.edges import check_n_bins
from llmsched.schedulers.iteration.base import IterationScheduler, KnownRequests
from llmsched.schedulers.iteration.limits import DynamicLimit
from llmsched.schedulers.iteration.orders import BinsInTurn, Fcfs, Ranked, by_priority
from llmsched.schedulers.settings import BIN_CHOICES


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationOptions:
    """What a scheduler of the iteration level may be told; each takes what it needs.

    Parameters
    ----------
    capacity_tokens : int
        η, tokens of KV memory of one replica.
    max_running : int
        Most requests that run at once; B_max of the dynamic one.
    tpot_sla_s : float, optional
        D_SLA, the decode latency that the dynamic one holds [s].
    n_bins : int
        Bins of the multi-bin one.
    bin_choice : {"round-robin", "longest-queue"}
        Which of its bins comes next.
    ageing_tokens_per_s : float
        How many predicted tokens a second of waiting makes up for in the shortest-first one; > 0,
        so that nobody starves.
    """

    capacity_tokens: int
    max_running: int = 256
    tpot_sla_s: float | None = None
    n_bins: int = DEFAULT_BINS
    bin_choice: str = "round-robin"
    ageing_tokens_per_s: float = 20.0

    def __post_init__(self) -> None:
        check_n_bins(self.n_bins)
        sla_s = self.tpot_sla_s
        if sla_s is not None and not (math.isfinite(sla_s) and sla_s > 0):
            raise ValueError(f"tpot_sla_s must be finite and > 0 seconds, got {sla_s}")
        if self.bin_choice not in BIN_CHOICES:
            raise ValueError(
                f"bin_choice must be one of {', '.join(BIN_CHOICES)}; got {self.bin_choice!r}"
            )
        if not (math.isfinite(self.ageing_tokens_per_s) and self.ageing_tokens_per_s > 0):
            raise ValueError(
                "ageing_tokens_per_s must be finite and > 0 tokens per second, or long requests "
                f"starve; got {self.ageing_tokens_per_s}"
            )


def continuous_static(options: IterationOptions) -> IterationScheduler:
    """First come first served, up to `max_running` at once: vLLM's default."""
    del options  # the engine itself keeps to max_running
    return IterationScheduler(Fcfs, uses_predictions=False)


def continuous_dynamic(options: IterationOptions) -> IterationScheduler:
    """First come first served; how many may run follows memory and decode latency."""
    return IterationScheduler(
        Fcfs,
        partial(
            DynamicLimit.of,
            capacity_tokens=options.capacity_tokens,
            batch_max=options.max_running,
            tpot_sla_s=options.tpot_sla_s,
        ),
        uses_predictions=False,
    )


def continuous_multi_bin(options: IterationOptions) -> IterationScheduler:
    """Bins by predicted length take turns; who starts together is of one bin."""

    def order(known: KnownRequests) -> BinsInTurn:
        return BinsInTurn(known, options.n_bins, BIN_CHOICES[options.bin_choice]())

    return IterationScheduler(order, binned=True)


def continuous_sjf(options: IterationOptions) -> IterationScheduler:
    """Shortest predicted output first, with ageing; the longest is preempted first.

    A request is ranked by predicted tokens less what its waiting makes up for. Among requests that
    wait that order never changes, so it is that of predicted + rate · arrival.
    """
    rate = options.ageing_tokens_per_s

    def rank(known: KnownRequests, request: int) -> float:
        return float(known.predicted_tokens[request] + rate * known.arrival_s[request])

    return IterationScheduler(partial(Ranked, key=rank))


def continuous_priority(options: IterationOptions) -> IterationScheduler:
    """Smallest priority number first, then first come first served, as vLLM's priority policy."""
    del options
    return IterationScheduler(by_priority, uses_predictions=False)


IterationSchedulerFactory = Callable[[IterationOptions], IterationScheduler]


ITERATION_SCHEDULERS: Registry[IterationSchedulerFactory] = Registry(
    "iteration-level scheduler",
    "llmsched.iteration_schedulers",
    {
        factory.__name__: factory
        for factory in (
            continuous_static,
            continuous_dynamic,
            continuous_multi_bin,
            continuous_sjf,
            continuous_priority,
        )
    },
)
