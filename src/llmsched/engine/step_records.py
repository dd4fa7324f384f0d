"""What happened in a run of the iteration level: a table of requests, and of steps on demand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedTable:
    """One row per request of the trace, in trace order; instants in seconds.

    A rejected request has NaN instants and -1 for `replica`.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray  # as asked for, cut to the longest that the model allows
    predicted_tokens: IntArray
    queued_s: FloatArray  # when its replica took it in
    scheduled_s: FloatArray  # decision that first gave it tokens
    first_token_s: FloatArray
    finish_s: FloatArray
    preemptions: IntArray
    recomputed_tokens: NDArray[np.int64]  # computed again after preemptions
    cached_tokens: IntArray  # of the prompt, found in the prefix cache when first admitted
    replica: IntArray

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Which requests were served, shape (n,)."""
        return self.replica >= 0

    @property
    def arrival_rate_per_s(self) -> float:
        """Gaps over the span of the arrivals [requests/s]; infinite where all come at once."""
        span_s = float(np.ptp(self.arrival_s)) if len(self) else 0.0
        return (len(self) - 1) / span_s if span_s > 0 else math.inf

    def to_frame(self) -> pd.DataFrame:
        """The table as a DataFrame, with a missing replica where a request was rejected."""
        import pandas as pd

        columns: dict[str, object] = {"request": np.arange(len(self), dtype=np.int64)}
        for name in self.__slots__:
            columns[name] = getattr(self, name)
        frame = pd.DataFrame(columns)
        frame["replica"] = frame["replica"].astype("Int32").where(self.completed)
        return frame


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepTable:
    """One row per step, in order of replica and start; counts are those after its decision."""

    start_s: FloatArray
    end_s: FloatArray
    prefill_tokens: IntArray
    decodes: IntArray  # entries of one token on top of KV that was there
    kv_tokens: NDArray[np.int64]  # of the decodes, before the step
    running: IntArray
    waiting: IntArray
    used_blocks: IntArray
    replica: IntArray
    left_out: int = 0  # steps beyond what was asked for

    def __len__(self) -> int:
        return len(self.start_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpellTable:
    """One row per time that a request ran, from its admission to its end or a preemption."""

    request: IntArray
    start_s: FloatArray
    end_s: FloatArray

    def __len__(self) -> int:
        return len(self.request)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReplicaTable:
    """One row per replica: what its steps add up to."""

    steps: NDArray[np.int64]
    tokens: NDArray[np.int64]  # computed in all steps
    busy_s: FloatArray
    kv_block_s: FloatArray  # integral of used KV blocks over time [block · s]
    kv_blocks_max: IntArray
    running_max: IntArray
    waiting_max: IntArray
    admitted_s: FloatArray  # sum of the instants of all admissions less those of all preemptions
    waiting_ended_s: FloatArray  # instants when preempted requests got their last token, summed

    def __len__(self) -> int:
        return len(self.steps)
