"""The named schedulers, each one line of composition, and the registry that users extend.

A scheduler is made of shared policy objects: which bin is next (`bin_choice`), how many requests
a batch may hold (`batching`), and when a bin may release a batch. A package of your own adds one
through an entry point of the group `llmsched.schedulers`; it then appears in the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from llmsched._registry import Registry
from llmsched.adaptive import AdaptiveChoice
from llmsched.batching import Batcher, DynamicBatcher, FixedBatcher
from llmsched.bin_choice import BinChoice, LongestQueue, RoundRobin, Waits
from llmsched.binning import BinBy, EdgeRule
from llmsched.control import NoController, PaperController, SlaController, WindowController
from llmsched.memory import (
    DEFAULT_GPU,
    DEFAULT_MODEL,
    BufferLimit,
    CltLimit,
    MemoryLimit,
    kv_capacity_tokens,
)

MOST_BATCH_SIZE = 1_000_000

CONTROLLERS: Mapping[str, Callable[[Settings], SlaController]] = {
    "paper": lambda s: PaperController(s.sla_s, s.batch_min, s.batch_max),
    "window": lambda s: WindowController(s.sla_s, s.batch_min, s.batch_max),
    "none": lambda s: NoController(s.batch_max),
}
MEMORY_RULES: Mapping[str, Callable[[Settings], MemoryLimit]] = {
    "buffer": lambda s: BufferLimit(s.capacity_tokens),
    "clt": lambda s: CltLimit(s.capacity_tokens),
}
BIN_CHOICES: Mapping[str, Callable[[], BinChoice]] = {
    "round-robin": RoundRobin,
    "longest-queue": LongestQueue,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a scheduler may be told; each takes what it needs.

    Parameters
    ----------
    sla_s : float
        Latency target of a request, and the controllers' D_SLA [s].
    batch_size : int
        Size of the fixed batchers' batches [requests].
    batch_min, batch_max : int
        Bounds of the dynamic batchers [requests].
    capacity_tokens : float
        η, tokens that the KV memory of one GPU holds.
    max_forming_wait_s : float, optional
        `multi_bin_only`: release a part-full batch once its oldest member waited this long [s].
    """

    sla_s: float = 1.0
    batch_size: int = 8
    batch_min: int = 1
    batch_max: int = 128
    controller: str = "paper"
    memory: str = "buffer"
    capacity_tokens: float = kv_capacity_tokens(DEFAULT_GPU, DEFAULT_MODEL)
    bin_choice: str = "round-robin"
    max_forming_wait_s: float | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("controller", CONTROLLERS),
            ("memory", MEMORY_RULES),
            ("bin_choice", BIN_CHOICES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        if not (math.isfinite(self.sla_s) and self.sla_s > 0):
            raise ValueError(f"sla_s must be finite and > 0 seconds, got {self.sla_s}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if not 1 <= self.batch_min <= self.batch_max:
            raise ValueError(
                "batch sizes must satisfy 1 <= batch_min <= batch_max, "
                f"got {self.batch_min} and {self.batch_max}"
            )
        for name in ("batch_size", "batch_max"):
            if getattr(self, name) > MOST_BATCH_SIZE:
                raise ValueError(
                    f"{name} must be <= {MOST_BATCH_SIZE} requests, got {getattr(self, name)}"
                )
        if not self.capacity_tokens >= 1:
            raise ValueError(f"capacity_tokens must be >= 1, got {self.capacity_tokens}")
        wait_s = self.max_forming_wait_s
        if wait_s is not None and not (math.isfinite(wait_s) and wait_s >= 0):
            raise ValueError(f"max_forming_wait_s must be finite and >= 0 seconds, got {wait_s}")

    def dynamic_batcher(self) -> DynamicBatcher:
        """A fresh dynamic batcher, with statistics and a controller of its own."""
        return DynamicBatcher(
            MEMORY_RULES[self.memory](self), CONTROLLERS[self.controller](self), self.batch_max
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FullBatches:
    """Release rule of the multi-bin paper: a bin forms a batch the moment it holds `batch_size`.

    Formed batches are served first formed, first served; after the last arrival the remainders
    are released in bin order. `max_forming_wait_s` releases a part-full batch earlier [s].
    """

    batch_size: int
    max_forming_wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """The policy objects of one run; use each scheduler for one run only.

    Parameters
    ----------
    batcher : callable
        Makes the batcher of one bin.
    choice : BinChoice
        Which bin a free GPU serves.
    binned : bool
        Whether requests are spread over bins by predicted length.
    bin_by, bin_edges : str
        What its bins are by, and how their edges are found, where the user leaves it open.
    batch_max : int
        The largest batch it ever forms [requests]; the offered load is stated at this size.
    capacity_tokens : float
        Tokens that a batch may hold; a request larger than that alone is rejected on arrival.
    release : FullBatches, optional
        Form batches as requests arrive, instead of when a GPU asks.
    waits : Waits
        What the engine tells of ages, for a choice that holds it.
    """

    batcher: Callable[[], Batcher]
    choice: BinChoice = field(default_factory=RoundRobin)
    binned: bool = False
    bin_by: BinBy = "output"
    bin_edges: EdgeRule = "equal-mass"
    batch_max: int = 128
    capacity_tokens: float = math.inf
    release: FullBatches | None = None
    waits: Waits = field(default_factory=Waits)


def static_fifo(settings: Settings) -> Scheduler:
    """One queue, fixed batches of `batch_size`."""
    return Scheduler(
        batcher=partial(FixedBatcher, settings.batch_size), batch_max=settings.batch_size
    )


def dynamic_no_bins(settings: Settings) -> Scheduler:
    """One queue; batch size = min(memory limit, SLA controller)."""
    return Scheduler(
        batcher=settings.dynamic_batcher,
        batch_max=settings.batch_max,
        capacity_tokens=settings.capacity_tokens,
    )


def multi_bin_dynamic(settings: Settings) -> Scheduler:
    """Bins by predicted length, each with its own statistics and controller."""
    return Scheduler(
        batcher=settings.dynamic_batcher,
        choice=BIN_CHOICES[settings.bin_choice](),
        binned=True,
        batch_max=settings.batch_max,
        capacity_tokens=settings.capacity_tokens,
    )


def multi_bin_adaptive(settings: Settings) -> Scheduler:
    """Bins by predicted service time that follow the traffic; ages and learned costs decide."""
    choice = AdaptiveChoice(
        settings.sla_s, partial(MEMORY_RULES[settings.memory], settings), settings.batch_max
    )
    return Scheduler(
        batcher=choice.batcher,
        choice=choice,
        binned=True,
        bin_by="service",
        bin_edges="rolling",
        batch_max=settings.batch_max,
        capacity_tokens=settings.capacity_tokens,
        waits=choice.waits,
    )


def multi_bin_only(settings: Settings) -> Scheduler:
    """The multi-bin paper: bins by predicted length, batches of exactly `batch_size`."""
    return Scheduler(
        batcher=partial(FixedBatcher, settings.batch_size),
        binned=True,
        batch_max=settings.batch_size,
        release=FullBatches(
            batch_size=settings.batch_size, max_forming_wait_s=settings.max_forming_wait_s
        ),
    )


SchedulerFactory = Callable[[Settings], Scheduler]


SCHEDULERS: Registry[SchedulerFactory] = Registry(
    "scheduler",
    "llmsched.schedulers",
    {
        factory.__name__: factory
        for factory in (
            static_fifo,
            dynamic_no_bins,
            multi_bin_dynamic,
            multi_bin_only,
            multi_bin_adaptive,
        )
    },
)


def make_scheduler(name: str, settings: Settings | None = None) -> Scheduler:
    """A fresh scheduler by name, for one run.

    Raises
    ------
    ValueError
        If no scheduler has that name, or its factory does not make one.
    """
    scheduler = SCHEDULERS.named(name)(settings or Settings())
    if not isinstance(scheduler, Scheduler):
        raise ValueError(
            f"scheduler {name!r} must be made as a llmsched.Scheduler, got "
            f"{type(scheduler).__name__}; return one from its factory"
        )
    return scheduler
