"""What tests share: the stress plan's world, in which most of them were worked out by hand.

The reference formula, an SLA of 1 s, 200 times the recorded rate, 4 GPUs of 12 GB, 4 bins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import llmsched
from llmsched import Comparison, Run, Trace, Workload
from llmsched.simulation.presets import preset
from llmsched.simulation.scenario import Scenario, as_scenario
from llmsched.workload.workload import RATE_FIELDS


def plan_scenario(
    what: Scenario | Workload | Trace | str = "burstgpt-like", scheduler: Any = None, **parts: Any
) -> Scenario:
    """A scenario in the plan's world; a workload that says nothing of its rate has the plan's."""
    if isinstance(what, Scenario):
        return as_scenario(what, scheduler, **parts)
    if isinstance(what, str):
        what = Workload(source=what)
    if isinstance(what, Workload) and all(getattr(what, name) is None for name in RATE_FIELDS):
        what = replace(what, rps_scale=preset("plan").recipe().rps_scale)
    return as_scenario(replace(preset("plan"), workload=what), scheduler, **parts)


def plan_simulate(
    what: Scenario | Workload | Trace | str, scheduler: Any = None, **options: Any
) -> Run:
    """`llmsched.simulate` in the plan's world."""
    return llmsched.simulate(plan_scenario(what), scheduler, **options)


def plan_compare(
    what: Scenario | Workload | Trace | str = "burstgpt-like", *args: Any, **options: Any
) -> Comparison:
    """`llmsched.compare` in the plan's world, of 5 replications and of a file as it is."""
    return llmsched.compare(
        plan_scenario(what), *args, **{"replications": 5, "resample": False, **options}
    )
