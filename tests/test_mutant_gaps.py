"""Behaviour that a mutant broke unnoticed: each test here catches one of experiments/mutants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmsched import Settings, Trace
from plan_world import plan_simulate as simulate


def test_metrics__do_not_depend_on_when_the_clock_starts() -> None:
    # given requests 1 s apart; by hand, GPU 0 serves them as 0..1, 2..4, 4..10, GPU 1 as 1..6, 6..7
    trace = Trace(
        arrival_s=np.arange(6.0),
        prompt_tokens=np.array([1, 2, 3, 1, 2, 3], dtype=np.int32),
        output_tokens=np.array([1, 5, 2, 6, 1, 1], dtype=np.int32),
        service_s=np.array([1.0, 5.0, 2.0, 6.0, 1.0, 1.0]),
    )
    # when the first of them arrives at 0 s and at 1000 s
    runs = [
        simulate(
            replace(trace, arrival_s=trace.arrival_s + start_s),
            "static_fifo",
            n_gpus=2,
            latency="drawn",
            settings=Settings(batch_size=2, sla_s=5.0),
        ).to_dict()
        for start_s in (0.0, 1000.0)
    ]
    # then makespan, rates and load are the same, to the last bit, as all times are whole seconds
    assert runs[0] == runs[1]
    assert runs[0]["makespan_s"] == 10.0
