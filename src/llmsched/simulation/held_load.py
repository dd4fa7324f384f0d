"""The offered load that replications are brought to, and the factor of the rate that does it.

The held load is ρ as `metrics.load` defines it, for the work of `multi_bin_dynamic` at its
defaults: four bins of equal mass by a noisy prediction of the output, each cut in order of arrival
into the largest batches that memory allows, up to 128.  It depends on the requests, the latency,
the memory and the number of GPUs, and on nothing that a scheduler may be told: all schedulers of a
comparison, and those of another one on the same hardware, see the same requests at the same rate.

A scheduler with less alike batches needs more GPU time for the same requests, so at a held load
of 0.7 its own ρ, which every result states, is higher.  ρ is in proportion to the rate: the factor
is exact.
"""

from __future__ import annotations

import math
import warnings

from llmsched._util.arrays import IntArray
from llmsched.latency.base import LatencyModel
from llmsched.metrics.load import memory_best_batch, offered_load
from llmsched.prediction.binning import Binning
from llmsched.prediction.predictors import predictor_from_spec
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.scheduler import Scheduler
from llmsched.schedulers.settings import Settings
from llmsched.simulation.beliefs import predict_bins
from llmsched.simulation.hardware import ResolvedHardware
from llmsched.workload.trace import Trace, TraceError

REFERENCE = "multi_bin_dynamic"
_NOISE_SEED = 0  # of its predictions, in every replication: the load follows from the requests


def load_as_it_comes(trace: Trace, hardware: ResolvedHardware) -> float:
    """ρ of the requests at the rate that they have.

    Raises
    ------
    TraceError
        If they have no rate.
    ValueError
        If the GPUs are infinitely many: no rate loads them.
    """
    if not math.isfinite(hardware.n_gpus):
        raise ValueError(
            "n_gpus must be finite for an offered load to be held, got inf; give --rps-scale or "
            "--rate instead of --load"
        )
    if not trace.span_s > 0:
        raise TraceError(
            f"trace {trace.name!r} must have requests at two instants at least for an offered "
            f"load to be held, got {len(trace)} at one; give --rps-scale instead of --load"
        )
    told = Settings().resolved(capacity_tokens=hardware.capacity_tokens, latency=hardware.latency)
    policy = make_scheduler(REFERENCE, told)
    if not (trace.total_tokens <= policy.capacity_tokens).any():
        raise TraceError(
            f"trace {trace.name!r} must have a request that fits {policy.capacity_tokens:.0f} "
            "tokens of KV memory for an offered load to be held; take another --gpu or --llm"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of bins that nobody asked for
        predicted = predict_bins(
            trace, policy, predictor_from_spec("noisy"), Binning(), hardware.latency, _NOISE_SEED
        )
    n_bins = len(predicted.edges) + 1
    return policy_load(trace, predicted.bins, n_bins, policy, hardware.latency, hardware.n_gpus)


def policy_load(
    trace: Trace,
    bins: IntArray,
    n_bins: int,
    policy: Scheduler,
    latency: LatencyModel,
    n_gpus: float,
) -> float:
    """ρ of the requests that the engine accepts, at the largest batches of a policy.

    Parameters
    ----------
    trace : Trace
        All requests.
    bins : ndarray of shape (n,)
        The bin of each, in [0, n_bins).
    """
    best: int | IntArray = policy.batch_max
    offered, fits = trace, trace.total_tokens <= policy.capacity_tokens
    if not fits.all():
        trace, bins = trace.take(fits), bins[fits]
    if math.isfinite(policy.capacity_tokens):
        best = memory_best_batch(
            trace,
            bins,
            n_bins=n_bins,
            kv_capacity_tokens=policy.capacity_tokens,
            batch_max=policy.batch_max,
        )
    return offered_load(
        trace,
        bins,
        n_bins=n_bins,
        best_batch=best,
        latency=latency,
        n_gpus=n_gpus,
        offered=offered,
    )
