"""The named schedulers, each one line of composition, and the registry that users extend.

A scheduler is made of shared policy objects: which bin is next (`bin_choice`), how many requests
a batch may hold (`batching`), and when a bin may release a batch. A package of your own adds one
through an entry point of the group `llmsched.schedulers`; it then appears in the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from llmsched._util.registry import Registry
from llmsched.schedulers.adaptive import AdaptiveChoice
from llmsched.schedulers.base import FullBatches, Scheduler
from llmsched.schedulers.batch_size import FixedBatcher
from llmsched.schedulers.settings import BIN_CHOICES, Settings


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
        capacity_tokens=settings.kv_tokens,
    )


def multi_bin_dynamic(settings: Settings) -> Scheduler:
    """Bins by predicted length, each with its own statistics and controller."""
    return Scheduler(
        batcher=settings.dynamic_batcher,
        choice=BIN_CHOICES[settings.bin_choice](),
        binned=True,
        batch_max=settings.batch_max,
        capacity_tokens=settings.kv_tokens,
    )


def multi_bin_adaptive(settings: Settings) -> Scheduler:
    """Bins by predicted service time that follow the traffic; ages and learned costs decide."""
    choice = AdaptiveChoice(settings.deadline_s, settings.memory_limit, settings.batch_max)
    return Scheduler(
        batcher=choice.batcher,
        choice=choice,
        binned=True,
        bin_by="service",
        bin_edges="rolling",
        batch_max=settings.batch_max,
        capacity_tokens=settings.kv_tokens,
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


def make_scheduler(
    scheduler: str | SchedulerFactory | Scheduler, settings: Settings | None = None
) -> Scheduler:
    """A fresh scheduler for one run: by name, from a function of your own, or the one given.

    Raises
    ------
    ValueError
        If no scheduler has that name, or its factory does not make one.
    """
    if isinstance(scheduler, Scheduler):
        return scheduler
    factory = SCHEDULERS.named(scheduler) if isinstance(scheduler, str) else scheduler
    made = factory((settings or Settings()).resolved())
    if not isinstance(made, Scheduler):
        name = scheduler if isinstance(scheduler, str) else getattr(scheduler, "__name__", "given")
        raise ValueError(
            f"scheduler {name!r} must be made as a llmsched.Scheduler, got "
            f"{type(made).__name__}; return one from its factory"
        )
    return made
