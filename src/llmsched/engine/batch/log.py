"""What the GPUs report, written as columns and turned into the two tables at the end."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched.engine.batch.batch import Batch
from llmsched.engine.columns import Columns
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.workload.trace import Trace

_INFINITY = math.inf
_REPORT_EVERY = 4096  # batches between two calls of `progress`


class BatchLog:
    """One row per batch, in the order in which their services began."""

    def __init__(self, progress: Callable[[int], None] | None = None) -> None:
        self._start_s = array("d")
        self._finish_s = array("d")
        self._gpu = array("i")
        self._first = array("i")
        self._progress = progress
        self._served = 0

    def record(self, batch: Batch, gpu_id: int, service_s: float) -> float:
        """Note that a service begins now, and say when it ends [s].

        Raises
        ------
        ValueError
            If the latency model gave something that is not a duration.
        """
        try:
            right = 0.0 <= service_s < _INFINITY
        except (TypeError, ValueError):  # no number at all
            right = False
        if not right:
            raise ValueError(
                f"the latency model must give a finite service time >= 0 s, got {service_s!r} "
                f"for {batch.size} requests of at most {batch.max_total_tokens} tokens"
            )
        start_s = batch.start_s
        finish_s = start_s + service_s
        self._start_s.append(start_s)
        self._finish_s.append(finish_s)
        self._gpu.append(gpu_id)
        self._first.append(batch.first)
        if self._progress is not None:
            self._served += batch.size
            if len(self._gpu) % _REPORT_EVERY == 0:
                self._progress(self._served)
        return finish_s

    def tables(
        self,
        trace: Trace,
        arrived_s: FloatArray,
        bins: IntArray,
        predicted_tokens: IntArray,
        columns: Columns,
    ) -> tuple[RequestTable, BatchTable]:
        """The run as two tables; every batch is a range of positions of `columns`.

        `arrived_s` are the arrivals that the run has seen, shape (n,).
        """
        start_s = np.frombuffer(self._start_s, dtype=np.float64)
        finish_s = np.frombuffer(self._finish_s, dtype=np.float64)
        gpu = np.frombuffer(self._gpu, dtype=np.int32)
        first = np.frombuffer(self._first, dtype=np.int32)
        by_position = np.argsort(first, kind="stable").astype(np.int32)
        # Batches are ranges that tile the positions, so the next one's first ends this one.
        members = np.diff(first[by_position], append=np.int32(len(columns)))
        assert not len(first) or (first[by_position[0]] == 0 and members.min() > 0)
        size = np.empty_like(members)
        size[by_position] = members

        def per_request(values: np.ndarray, missing: float) -> np.ndarray:
            column = np.full(len(trace), missing, dtype=values.dtype)
            column[columns.request] = np.repeat(values[by_position], members)
            return column

        requests = RequestTable(
            arrival_s=arrived_s,
            prompt_tokens=trace.prompt_tokens,
            output_tokens=trace.output_tokens,
            predicted_tokens=predicted_tokens,
            bin=bins,
            start_s=per_request(start_s, np.nan),
            finish_s=per_request(finish_s, np.nan),
            gpu=per_request(gpu, -1),
            batch=per_request(np.arange(len(gpu), dtype=np.int32), -1),
        )

        def per_batch(reduce: np.ufunc, values: np.ndarray) -> np.ndarray:
            column = np.empty(len(gpu), dtype=values.dtype)
            if len(gpu):
                column[by_position] = reduce.reduceat(values, first[by_position])
            return column

        tokens = columns.tokens_before
        batches = BatchTable(
            start_s=start_s,
            finish_s=finish_s,
            gpu=gpu,
            bin=bins[columns.request[first]].astype(np.int32),
            size=size,
            tokens=tokens[first + size] - tokens[first],
            max_total_tokens=per_batch(np.maximum, columns.total),
            max_prompt_tokens=per_batch(np.maximum, columns.prompt),
            max_output_tokens=per_batch(np.maximum, columns.output),
        )
        return requests, batches
