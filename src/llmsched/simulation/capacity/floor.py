"""The floor: what a request takes alone on an idle GPU; no scheduler and no GPUs get below it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched.latency.base import Shape, service_times_s
from llmsched.simulation.capacity.target import Target

if TYPE_CHECKING:
    from llmsched.simulation.scenario import Scenario
    from llmsched.workload.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What is lost whatever serves the requests."""

    p95_s: float  # 95th percentile of the lone latency
    share: float  # of requests that cannot meet the SLA at all, those that never fit included
    metric: float  # the target's, were every request alone on an idle GPU

    def to_dict(self) -> dict[str, Any]:
        """The floor as one JSON object."""
        return {"p95_s": self.p95_s, "share": self.share, "metric": self.metric}


def floor_of(scenario: Scenario, trace: Trace, target: Target) -> Floor:
    """The floor of these requests on the scenario's GPUs.

    Parameters
    ----------
    scenario : Scenario
        Of the hardware and the SLA; its workload is not read.
    """
    hardware = scenario.resolved_hardware()
    model = hardware.latency if scenario.level == "batch" else hardware.uncertain
    prompt, output = (x.astype(np.int64) for x in (trace.prompt_tokens, trace.output_tokens))
    drawn_s = math.nan if trace.service_s is None else trace.service_s
    alone_s = service_times_s(model, Shape(1, prompt + output, prompt, output, drawn_s))
    p95_s = float(np.percentile(alone_s, 95, method="higher"))
    share = float((alone_s > scenario.sla_s).mean())
    metric = share
    if target.percentile is not None:
        metric = float(np.percentile(alone_s, target.percentile, method="lower"))
    return Floor(p95_s=p95_s, share=share, metric=metric)
