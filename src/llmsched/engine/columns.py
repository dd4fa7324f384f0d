"""The requests that take part in a run: as they arrive, and as columns in the order of service."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llmsched._util.arrays import IntArray
from llmsched.workload.trace import Trace


class Accepted:
    """The requests that take part, in order of arrival.

    Parameters
    ----------
    trace : Trace
    bins : ndarray of shape (n,)
        Bin of every request of the trace.
    capacity_tokens : float
        Requests larger than this alone are left out: rejected on arrival.
    """

    def __init__(self, trace: Trace, bins: IntArray, capacity_tokens: float) -> None:
        fits = trace.total_tokens <= capacity_tokens
        self.rows = np.flatnonzero(fits).astype(np.int32)
        self.everyone = len(self.rows) == len(trace)
        chosen: IntArray | slice = slice(None) if self.everyone else self.rows
        self.bin_of = np.ascontiguousarray(bins[chosen], dtype=np.int32)
        self.arrival_s = np.append(trace.arrival_s[chosen], math.inf)
        # that of the trace: a rejected request may be the last
        self.last_arrival_s = float(trace.arrival_s[-1]) if len(trace) else -math.inf

    def __len__(self) -> int:
        return len(self.rows)

    def by_bin(self, n_bins: int) -> tuple[IntArray, IntArray]:
        """Indices of these requests sorted by bin, each bin in order of arrival; where bins begin.

        The second has shape (n_bins + 1,).
        """
        order = np.argsort(self.bin_of, kind="stable").astype(np.int32)
        ends = np.cumsum(np.bincount(self.bin_of, minlength=n_bins))
        return order, np.append(0, ends)


class Columns:
    """Requests as columns, by position; a batch is a range of positions.

    Parameters
    ----------
    trace : Trace
    request : ndarray of shape (n,)
        Row of the trace at each position.
    """

    def __init__(self, trace: Trace, request: IntArray) -> None:
        self.request = request
        # Prompt and output of each in turn: a batch that has finished is one slice to copy.
        lengths = np.empty((len(request), 2), dtype=np.int32)
        lengths[:, 0] = trace.prompt_tokens[request]
        lengths[:, 1] = trace.output_tokens[request]
        self.lengths = lengths
        self.prompt, self.output = lengths[:, 0], lengths[:, 1]
        self.total = self.prompt + self.output
        self.tokens_before = np.zeros(len(request) + 1, dtype=np.int64)
        np.cumsum(self.total, out=self.tokens_before[1:])
        # Scalar reads from a memoryview take 40 ns, from an ndarray 90 ns; batches do both.
        self.lengths_view = lengths.reshape(-1).data
        self.total_view = self.total.data
        self.prompt_view = self.prompt.data
        self.output_view = self.output.data
        self.tokens_before_view = self.tokens_before.data
        self._drawn_s = None if trace.service_s is None else trace.service_s[request]
        self._trace = trace

    def __len__(self) -> int:
        return len(self.request)

    def put(self, position: int, row: int) -> None:
        """Another row of the trace at this position; sums go on from the position before."""
        trace = self._trace
        self.request[position] = row
        self.lengths[position] = trace.prompt_tokens[row], trace.output_tokens[row]
        self.total[position] = self.lengths[position].sum()
        self.tokens_before[position + 1] = self.tokens_before[position] + self.total[position]
        if self._drawn_s is not None and trace.service_s is not None:
            self._drawn_s[position] = trace.service_s[row]

    @property
    def drawn_view(self) -> memoryview[Any]:
        """Drawn service time of the request at each position [s]."""
        if self._drawn_s is None:
            raise ValueError(
                "the latency model needs a workload with drawn service times; "
                "take another --latency, or a workload that has them"
            )
        return self._drawn_s.data
