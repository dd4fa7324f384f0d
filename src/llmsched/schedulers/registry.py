"""The named schedulers, each one line of composition, and the registry that users extend.

A package of your own adds one through an entry point of the group `llmsched.schedulers`; it then
appears in the command line. In Python a factory or an object will do (`make_scheduler`).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from llmsched._util.plugins import CALL_ERRORS, PluginError, is_ours, name_of, said
from llmsched._util.registry import Registry
from llmsched.schedulers.adaptive import AdaptivePolicy
from llmsched.schedulers.base import BatchPolicy
from llmsched.schedulers.batch_size import FixedBatcher
from llmsched.schedulers.scheduler import FullBatches, Scheduler
from llmsched.schedulers.settings import BIN_CHOICES, Settings
from llmsched.schedulers.window.policy import WindowPolicy

SchedulerFactory = Callable[[Settings], Scheduler | BatchPolicy]
# What names a scheduler in Python: a registered name, what makes one, or one itself.
SchedulerSpec: TypeAlias = str | SchedulerFactory | Scheduler | BatchPolicy


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
    return Scheduler(
        policy=AdaptivePolicy(settings.deadline_s, settings.memory_limit, settings.batch_max),
        sees="ages",
        binned=True,
        bin_by="service",
        bin_edges="rolling",
        batch_max=settings.batch_max,
        capacity_tokens=settings.kv_tokens,
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


def deadline_window(settings: Settings) -> Scheduler:
    """Batches of alike requests from anywhere in the queue, by what they gain per GPU second."""
    return Scheduler(
        policy=WindowPolicy(
            settings.latency, settings.deadline_s, settings.kv_tokens, settings.batch_max
        ),
        sees="requests",
        batch_max=settings.batch_max,
        capacity_tokens=settings.kv_tokens,
        order="windows of predicted service time",
    )


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
            deadline_window,
        )
    },
)


def make_scheduler(spec: SchedulerSpec, settings: Settings | None = None) -> Scheduler:
    """A fresh scheduler, for one run.

    Parameters
    ----------
    spec : str, callable, Scheduler or BatchPolicy
        A registered name; a function (or class) of the settings that makes a scheduler or a
        policy; or one of these itself, of which each run gets a copy of its own.
    settings : Settings, optional
        What it may be told; what is not set is filled in with the defaults.

    Raises
    ------
    ValueError
        If no scheduler has that name, or what makes one fails or makes something else.

    Examples
    --------
    >>> from llmsched.schedulers.base import Head
    >>> class OneByOne:
    ...     def next_batch(self, waiting, now_s):
    ...         return Head(0, 1)
    ...     def observe(self, batch, service_s):
    ...         pass
    >>> make_scheduler(OneByOne()).sees
    'requests'
    """
    told = (settings or Settings()).resolved()
    if isinstance(spec, str):
        factory, label = SCHEDULERS.named(spec), SCHEDULERS.label(spec)
        return _scheduler(_made(factory, told, label), told, label)
    label = f"scheduler {scheduler_name(spec)!r}"
    if isinstance(spec, Scheduler) or (_is_policy(spec) and not isinstance(spec, type)):
        return _scheduler(deepcopy(spec), told, label)
    if callable(spec):
        return _scheduler(_made(spec, told, label), told, label)
    return _scheduler(spec, told, label)


def scheduler_name(spec: SchedulerSpec) -> str:
    """What results call a scheduler: its registered name, or that of its function or class."""
    if isinstance(spec, str):
        return spec
    if isinstance(spec, Scheduler):
        spec = spec.policy or spec.choice  # type: ignore[assignment]
    return name_of(spec).rpartition(".")[2]


def _made(factory: Callable[[Settings], Any], settings: Settings, label: str) -> Any:
    try:
        return factory(settings)
    except CALL_ERRORS as error:
        if is_ours(factory):
            raise
        raise PluginError(
            f"{label} must be made of its settings without a failure, got {said(error)}; mend "
            f"{name_of(factory)}"
        ) from error


def _scheduler(made: Any, settings: Settings, label: str) -> Scheduler:
    """What a factory made, as a scheduler; a policy alone is shown every request."""
    if isinstance(made, Scheduler):
        return replace(made, label=label)
    if _is_policy(made) and not isinstance(made, type):
        return Scheduler(
            policy=made,
            sees="requests",
            batch_max=settings.batch_max,
            capacity_tokens=settings.kv_tokens,
            order="its own",
            label=label,
        )
    raise PluginError(
        f"{label} must be made as a llmsched.Scheduler, or as an object with next_batch and "
        f"observe; got {type(made).__name__}; return one from its factory"
    )


def _is_policy(thing: Any) -> bool:
    return callable(getattr(thing, "next_batch", None)) and callable(
        getattr(thing, "observe", None)
    )
