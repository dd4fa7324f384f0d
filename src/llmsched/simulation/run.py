"""What one simulation was, and what came out of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmsched._util.arrays import FloatArray
from llmsched._util.limits import TIMELINE_EVENTS
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.engine.step_records import ReplicaTable, ServedTable, SpellTable, StepTable
from llmsched.engine.timeline.base import ALWAYS, Timeline
from llmsched.engine.timeline.batches import batch_timeline
from llmsched.engine.timeline.steps import step_timeline
from llmsched.latency.base import LatencyModel
from llmsched.latency.registry import Extrapolation
from llmsched.latency.steps.base import StepLatency
from llmsched.metrics.load import LoadLabel
from llmsched.metrics.run import Metrics
from llmsched.metrics.shown import ShownRun
from llmsched.metrics.tokens import TokenMetrics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Run(ShownRun):
    """What one simulation was, and what came out of it; the metrics are named as in the registry.

    A `BatchRun` or a `ContinuousRun`.
    """

    scheduler: str
    trace_name: str
    seed: int
    requests: RequestTable | ServedTable
    metrics: Metrics | TokenMetrics
    edges: FloatArray  # bin edges, in the unit of what was binned
    offered_load: float  # ρ
    load_label: LoadLabel
    arrival_rate_rps: float  # (n - 1) / (last - first arrival); infinite where all come at once
    latency: LatencyModel | StepLatency
    predictor: str
    config: Mapping[str, Any]  # settings, bins, workload: what it takes to run it again

    @abstractmethod
    def timeline(
        self, *, window_s: tuple[float, float] = ALWAYS, most_events: int = TIMELINE_EVENTS
    ) -> Timeline:
        """The run over time: slices and counters, for a figure or for Perfetto.

        Parameters
        ----------
        window_s : (float, float)
            What overlaps it is kept; seconds since the first arrival.
        most_events : int
            Slices and samples at most; later ones are left out, and counted.
        """

    def _about(self) -> dict[str, Any]:
        """What a file of the timeline says of its making."""
        about = {"scheduler": self.scheduler, "trace": self.trace_name, "seed": self.seed}
        return {**about, "latency": self.latency.name, "version": self.config["version"]}

    def to_dict(self) -> dict[str, Any]:
        """The run as one JSON object: figures of merit, load, and what produced them."""
        return {
            "scheduler": self.scheduler,
            **self.metrics.to_dict(),
            "offered_load": _finite(self.offered_load),
            "load_label": self.load_label,
            "arrival_rate_rps": _finite(self.arrival_rate_rps),
            "bin_edges": self.edges.tolist(),
            "latency_model": self.latency.name,
            "latency_kind": self.latency.kind,
            "latency_description": self.latency.describe(),
            "predictor": self.predictor,
            "trace": self.trace_name,
            "seed": self.seed,
            "config": dict(self.config),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class BatchRun(Run):
    """A run of the batch level."""

    requests: RequestTable
    batches: BatchTable
    metrics: Metrics
    extrapolation: Extrapolation  # beyond the measured range of the latency model

    def to_dict(self) -> dict[str, Any]:
        """The run as one JSON object, with what was extrapolated."""
        beyond = self.extrapolation
        return {
            **super(BatchRun, self).to_dict(),  # slots make another class of this one
            "extrapolated_share": beyond.share,
            "extrapolated_times": beyond.times,
            "extrapolated_axis": beyond.axis,
        }

    def timeline(
        self, *, window_s: tuple[float, float] = ALWAYS, most_events: int = TIMELINE_EVENTS
    ) -> Timeline:
        return batch_timeline(
            self.requests,
            self.batches,
            window_s=window_s,
            most_events=most_events,
            about=self._about(),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ContinuousRun(Run):
    """A run of the iteration level; `steps` and `spells` only where steps were asked for."""

    requests: ServedTable
    replicas: ReplicaTable
    steps: StepTable | None
    spells: SpellTable | None
    metrics: TokenMetrics

    def timeline(
        self, *, window_s: tuple[float, float] = ALWAYS, most_events: int = TIMELINE_EVENTS
    ) -> Timeline:
        if self.steps is None or self.spells is None:
            raise ValueError("a timeline needs the steps of the run; give simulate most_steps")
        return step_timeline(
            self.requests,
            self.spells,
            self.steps,
            usable_blocks=self.config["usable_blocks"],
            window_s=window_s,
            most_events=most_events,
            about=self._about(),
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
