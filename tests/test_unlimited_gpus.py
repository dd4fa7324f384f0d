"""Infinitely many GPUs, and service times that are drawn with the workload."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from llmsched import Binning, Settings, Trace
from llmsched.engine.batch.run import run_engine
from llmsched.latency.registry import load_latency
from llmsched.schedulers.registry import make_scheduler
from plan_world import plan_simulate as simulate

SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_only")


def drawn_trace(arrival_s, service_s) -> Trace:
    """Requests without tokens, each with a service time of its own."""
    none = np.zeros(len(arrival_s), dtype=np.int32)
    return Trace(
        arrival_s=np.array(arrival_s, dtype=float),
        prompt_tokens=none,
        output_tokens=none,
        service_s=np.array(service_s, dtype=float),
    )


@given(
    gaps=st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=40),
    scheduler=st.sampled_from(SCHEDULERS),
    admission=st.sampled_from(["together", "one-by-one"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_infinite_gpus__are_as_many_as_there_are_requests(gaps, scheduler, admission, seed):
    # given a trace with ties and coincidences of arrivals and completions
    rng = np.random.default_rng(seed)
    trace = drawn_trace(np.cumsum(gaps) - gaps[0], rng.choice([0.5, 1.0, 2.0, 7.0], len(gaps)))
    bins = rng.integers(0, 3, len(trace)).astype(np.int32)
    tables = [
        run_engine(
            trace,
            bins,
            3,
            make_scheduler(scheduler, Settings(batch_size=4)),
            n_gpus=n_gpus,
            latency=load_latency("drawn"),
            admission=admission,
        )
        for n_gpus in (math.inf, len(trace))
    ]
    # then every column agrees, GPU ids included
    for unlimited, ample in zip(*tables, strict=True):
        for column in ample.__slots__:
            np.testing.assert_array_equal(getattr(unlimited, column), getattr(ample, column))


def test_infinite_gpus__no_batch_waits():
    trace = drawn_trace([0.0, 0.0, 0.0, 1.0], [5.0, 6.0, 7.0, 8.0])
    run = simulate(
        trace,
        "multi_bin_only",
        n_gpus=math.inf,
        latency="drawn",
        predictor="oracle",
        binning=1,
        settings=Settings(batch_size=2),
    )
    assert run.requests.start_s.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert run.requests.finish_s.tolist() == [6.0, 6.0, 9.0, 9.0]
    assert run.requests.gpu.tolist() == [0, 0, 1, 1]
    assert run.to_dict()["gpus"] is None
    assert run.to_dict()["gpu_utilization"] is None
    assert run.offered_load == 0


def test_drawn_service__figure_1b_of_the_multi_bin_paper():
    # given four requests of 1, 5, 2, 6 s at once, batches of two, one GPU
    def last_finish_s(n_bins: int) -> float:
        run = simulate(
            drawn_trace([0.0] * 4, [1.0, 5.0, 2.0, 6.0]),
            "multi_bin_only",
            n_gpus=1,
            latency="drawn",
            predictor="oracle",
            binning=Binning(n_bins=n_bins, by="service"),
            settings=Settings(batch_size=2),
        )
        return float(run.requests.finish_s.max())

    # then one queue takes 5 + 6 s, two bins take 2 + 6 s
    assert last_finish_s(1) == 11.0
    assert last_finish_s(2) == 8.0


def test_drawn_service__is_what_the_longest_member_takes():
    run = simulate(
        drawn_trace([0.0, 0.0, 0.0], [0.25, 3.5, 1.0]),
        "static_fifo",
        n_gpus=1,
        latency="drawn",
        settings=Settings(batch_size=2),
    )
    assert (run.batches.finish_s - run.batches.start_s).tolist() == [3.5, 1.0]


def test_drawn_latency__needs_drawn_times():
    none = np.ones(1, dtype=np.int32)
    trace = Trace(arrival_s=np.zeros(1), prompt_tokens=none, output_tokens=none)
    with pytest.raises(ValueError, match="needs a workload with drawn service times"):
        simulate(trace, "static_fifo", latency="drawn")


def test_drawn_service__noise_and_bin_errors_apply_to_the_times():
    rng = np.random.default_rng(0)
    trace = drawn_trace(np.zeros(4_000), rng.uniform(1, 20, 4_000))

    def wrong(predictor: str) -> float:
        binning = Binning(n_bins=4, by="service")
        options = {"latency": "drawn", "binning": binning, "n_gpus": 1}
        told = simulate(trace, "multi_bin_only", predictor="oracle", **options)
        seen = simulate(trace, "multi_bin_only", predictor=predictor, **options)
        return float(np.mean(told.requests.bin != seen.requests.bin))

    # then a bin error of 0.1 per side moves 0.1 of the edge bins and 0.2 of the inner ones
    assert wrong("bin-error:0.1") == pytest.approx(0.15, abs=4 * math.sqrt(0.15 * 0.85 / 4_000))
    assert 0.1 < wrong("noisy:0.3") < 0.6
    with pytest.raises(ValueError, match="cannot; use oracle"):
        wrong("prompt-power-law")
