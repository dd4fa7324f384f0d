"""What a scheduler believes of every request, and the bin that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmsched._util.arrays import FloatArray, IntArray
from llmsched._util.streams import Streams
from llmsched.latency.base import LatencyModel
from llmsched.prediction.binning import DYNAMIC_BATCH_SIZE, Binning
from llmsched.prediction.edges import assign_bins
from llmsched.prediction.predictors import Predictor, predict
from llmsched.schedulers.iteration.base import IterationScheduler
from llmsched.schedulers.scheduler import Scheduler
from llmsched.workload.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BinnedPrediction:
    """What the scheduler believes of every request, and the bin that follows from it."""

    tokens: IntArray  # (n,) predicted output length
    bins: IntArray  # (n,) in [0, len(edges)]
    edges: FloatArray  # between the bins, in the unit of what was binned
    alone_s: FloatArray | None = None  # (n,) predicted time alone, where the workload draws it


def scheduler_binning(policy: Scheduler | IterationScheduler, binning: Binning) -> Binning:
    """The binning that a scheduler makes of the one asked for: one bin if it has none."""
    if not policy.binned:
        binning = Binning(n_bins=1)
    if isinstance(policy, IterationScheduler):
        return binning.or_else("output", "equal-mass").for_batches_of(DYNAMIC_BATCH_SIZE)
    binning = binning.or_else(policy.bin_by, policy.bin_edges)
    full = policy.release  # batches of exactly this size; a dynamic batcher's are seldom full
    batch_size = full.batch_size if full else min(policy.batch_max, DYNAMIC_BATCH_SIZE)
    return binning.for_batches_of(batch_size)


def predict_bins(
    trace: Trace,
    policy: Scheduler | IterationScheduler,
    predictor: Predictor,
    binning: Binning,
    latency: LatencyModel,
    seed: int,
) -> BinnedPrediction:
    """Predicted tokens and bin of every request, and the edges between the bins."""
    binning = scheduler_binning(policy, binning)
    prediction = predict(predictor, trace, binning, Streams.of_seed(seed).prediction)
    if not policy.binned:
        one_bin = np.zeros(len(trace), dtype=np.int32)
        return BinnedPrediction(
            tokens=prediction.tokens, bins=one_bin, edges=np.empty(0), alone_s=prediction.service_s
        )
    if binning.by == "service" and trace.service_s is not None:
        if prediction.service_s is None:
            raise ValueError(
                f"predictor {predictor.name} must predict the workload's drawn service times, and "
                "cannot; use oracle, noisy:SIGMA or bin-error:P"
            )
        values: FloatArray | IntArray = prediction.service_s
    else:
        values = binning.values(trace, prediction.tokens, latency)
    if prediction.edges is None:
        bins, edges = binning.bins_of(values)
    else:
        bins, edges = assign_bins(values, prediction.edges), prediction.edges
    return BinnedPrediction(
        tokens=prediction.tokens, bins=bins, edges=edges, alone_s=prediction.service_s
    )
