"""A batch that runs to its end as the sum of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmsched.latency.base import BatchShape, Kind, LatencyModel
from llmsched.latency.steps.base import StepLatency


@dataclass(frozen=True, slots=True, eq=False)
class BatchOfSteps(LatencyModel):
    """T(b, p, o) = one step with b prompts of p tokens + o − 1 decode steps of b requests.

    All requests of a batch are taken to be as long as its longest prompt and output.

    Examples
    --------
    >>> from llmsched.latency.base import Shape
    >>> from llmsched.latency.step_times import step_time_from_spec
    >>> step = step_time_from_spec("physics:h100:llama-3.1-8b")
    >>> one = Shape(size=2, max_total_tokens=103, max_prompt_tokens=100, max_output_tokens=3)
    >>> prefill_s = step.step_s([(100, 0)] * 2, 0, 0)
    >>> steps_s = prefill_s + step.step_s((), 2, 200) + step.step_s((), 2, 202)
    >>> abs(BatchOfSteps(step).service_s(one) - steps_s) < 1e-12
    True
    """

    step: StepLatency

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def kind(self) -> Kind:
        return self.step.kind

    @property
    def source(self) -> str:
        return "the sum of its steps"

    def service_s(self, batch: BatchShape) -> float:
        shape = np.broadcast_arrays(batch.size, batch.max_prompt_tokens, batch.max_output_tokens)
        if shape[0].ndim == 0:
            return self._seconds(*(int(side) for side in shape))
        sides = np.stack([side.ravel() for side in shape]).astype(np.int64)
        shapes, where = np.unique(sides, axis=1, return_inverse=True)
        times: Any = np.array([self._seconds(*column) for column in shapes.T.tolist()])
        columns: Any = times[where.ravel()].reshape(shape[0].shape)
        return columns  # type: ignore[no-any-return]  # an array where the shape is one

    def _seconds(self, size: int, prompt_tokens: int, output_tokens: int) -> float:
        prefill_s = self.step.step_s([(prompt_tokens, 0)] * size, 0, 0)
        if output_tokens < 2:
            return prefill_s
        run_s = self.step.decode_run_s(size, size * prompt_tokens, output_tokens - 1)
        return prefill_s + float(run_s.sum())

    def equation(self) -> str:
        return f"T = prefill step + (o-1) decode steps; {self.step.describe()}"

    def draw(self, rng: np.random.Generator) -> BatchOfSteps:
        """The same over a drawn step model; see `StepLatency.draw`."""
        return BatchOfSteps(self.step.draw(rng))
