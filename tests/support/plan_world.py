"""What tests share: the stress plan's world, in which most of them were worked out by hand.

The reference formula, an SLA of 1 s, 200 times the recorded rate, 4 GPUs of 12 GB, 4 bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import llmsched
from llmsched import Comparison, Run, Trace, Workload
from llmsched.simulation.hardware import Hardware
from llmsched.simulation.presets import preset
from llmsched.simulation.scenario import Scenario, as_scenario
from llmsched.workload.workload import RATE_FIELDS

PLAN = ("--preset", "plan")  # the same on the command line
WITH_PRESET = (
    *("static", "dynamic", "multi", "deadline", "continuous"),
    *("compare", "capacity"),
)


def in_plan(arguments: Sequence[str]) -> list[str]:
    """A command line in the plan's world, where its command has presets."""
    command, *rest = arguments or [""]
    if not command.startswith(WITH_PRESET) or "--preset" in rest or "--config" in rest:
        return list(arguments)
    return [command, *PLAN, *rest]


def plan_scenario(
    what: Scenario | Workload | Trace | str = "burstgpt-like",
    scheduler: Any = None,
    *,
    workload: Workload | Trace | None = None,
    hardware: Hardware | None = None,
    **parts: Any,
) -> Scenario:
    """A scenario in the plan's world; a workload that says nothing of its rate has the plan's."""
    parts = _told(parts)
    if isinstance(what, Scenario):
        return as_scenario(what, scheduler, **parts)
    world, what = preset("plan"), what if workload is None else workload
    if hardware is not None:
        said = hardware.latency is not None or hardware.step_time is not None
        world = replace(
            world, hardware=hardware if said else replace(hardware, latency="reference")
        )
    if isinstance(what, str):
        what = Workload(source=what)
    silent = isinstance(what, Workload) and what.concurrency is None
    if silent and all(getattr(what, name) is None for name in RATE_FIELDS):
        what = replace(what, rps_scale=preset("plan").recipe().rps_scale)
    world = replace(world, workload=what)
    whole = {name: parts.pop(name) for name in ("slo", "binning") if _whole(parts.get(name))}
    return as_scenario(replace(world, **whole), scheduler, **parts)


def _whole(part: Any) -> bool:
    return part is not None and not isinstance(part, int | float | str)


def plan_simulate(
    what: Scenario | Workload | Trace | str, scheduler: Any = None, **options: Any
) -> Run:
    """`llmsched.simulate` in the plan's world."""
    return llmsched.simulate(plan_scenario(what), scheduler, **_told(options))


def plan_compare(
    what: Scenario | Workload | Trace | str = "burstgpt-like", *args: Any, **options: Any
) -> Comparison:
    """`llmsched.compare` in the plan's world, of 5 replications and of a file as it is."""
    return llmsched.compare(
        plan_scenario(what), *args, **{"replications": 5, "resample": False, **_told(options)}
    )


def _told(options: dict[str, Any]) -> dict[str, Any]:
    """The SLA that settings speak of, in place of the plan's."""
    told_s = getattr(options.get("settings"), "sla_s", None)
    return options if told_s is None else {"slo": told_s, **options}


def plan_rate(workload: Workload) -> Workload:
    """The workload at the plan's rate: 200 times its own."""
    return replace(workload, rps_scale=preset("plan").recipe().rps_scale)
