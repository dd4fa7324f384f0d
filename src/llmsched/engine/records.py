"""What happened in a run: one table of requests, one of batches, written once, at the end.

Both hold columns, never objects per row, and become pandas DataFrames or files on request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestTable:
    """One row per request of the trace, in trace order.

    A rejected request has NaN instants and -1 for `gpu` and `batch`; it keeps its bin.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    predicted_tokens: IntArray
    bin: IntArray
    start_s: FloatArray
    finish_s: FloatArray
    gpu: IntArray
    batch: IntArray

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Which requests were served, shape (n,)."""
        return self.batch >= 0

    def by_arrival(self) -> RequestTable:
        """The same rows in order of arrival, which closed loops make only while they run."""
        if (self.arrival_s[1:] >= self.arrival_s[:-1]).all():
            return self
        order = np.argsort(self.arrival_s, kind="stable")
        return RequestTable(**{name: getattr(self, name)[order] for name in self.__slots__})

    def to_frame(self) -> pd.DataFrame:
        """The table as a DataFrame, with missing values where a request was rejected."""
        import pandas as pd

        served = self.completed
        columns: dict[str, object] = {"request": np.arange(len(self), dtype=np.int64)}
        for name in self.__slots__:
            columns[name] = getattr(self, name)
        frame = pd.DataFrame(columns)
        for name in ("gpu", "batch"):
            frame[name] = frame[name].astype("Int32").where(served)
        return frame


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchTable:
    """One row per batch, in the order in which their services began."""

    start_s: FloatArray
    finish_s: FloatArray
    gpu: IntArray
    bin: IntArray
    size: IntArray
    tokens: NDArray[np.int64]  # prompt + output, summed over the batch
    max_total_tokens: IntArray  # largest prompt + output of one member
    max_prompt_tokens: IntArray
    max_output_tokens: IntArray

    def __len__(self) -> int:
        return len(self.start_s)

    def to_frame(self) -> pd.DataFrame:
        """The table as a DataFrame."""
        import pandas as pd

        columns: dict[str, object] = {"batch": np.arange(len(self), dtype=np.int64)}
        for name in self.__slots__:
            columns[name] = getattr(self, name)
        return pd.DataFrame(columns)
