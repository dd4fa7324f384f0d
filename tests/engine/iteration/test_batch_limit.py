"""The limits of Pang et al. on the iteration level: what they hold, and what it brings."""

from __future__ import annotations

import numpy as np
import pytest
from serving import RTX_4090, LinearStep, poisson, serve

from llmsched.engine.iteration.run import IterationRun
from llmsched.metrics.tokens import token_metrics
from llmsched.schedulers.iteration.base import ProcessedStep
from llmsched.schedulers.iteration.limits import DynamicLimit
from llmsched.schedulers.iteration.registry import (
    ITERATION_SCHEDULERS,
    IterationOptions,
    continuous_dynamic,
)
from llmsched.workload.trace import Trace


def backlog(n: int, *, prompt: float, output: float, seed: int) -> Trace:
    """Requests that are all there at once, lengths normal with a spread of a quarter."""
    rng = np.random.default_rng(seed)
    return Trace(
        arrival_s=np.zeros(n),
        prompt_tokens=np.maximum(1, rng.normal(prompt, prompt / 4, n)).astype(np.int32),
        output_tokens=np.maximum(1, rng.normal(output, output / 4, n)).astype(np.int32),
    )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("sla_ms", [35, 50, 80])
def test_sla__decode_steps_stay_within_its_tolerance(depth, sla_ms):
    # given a step of 30 + 0.22 b ms, endless demand and ample memory
    step = LinearStep(0.030, 0.0, 0.00022)
    options = IterationOptions(capacity_tokens=10**7, tpot_sla_s=sla_ms / 1e3)
    run = serve(
        backlog(1500, prompt=10, output=100, seed=1),
        blocks=10**6,
        step=step,
        depth=depth,
        run={"scheduler": continuous_dynamic(options), "most_steps": 10**6},
    )
    # when it has settled, and before demand ends
    assert run.steps is not None
    settled = slice(len(run.steps) // 5, 4 * len(run.steps) // 5)
    mean_ms = 1e3 * (run.steps.end_s - run.steps.start_s)[settled].mean()
    running = run.steps.running[settled].mean()
    # then steps take 0.9 to 1.1 of the SLA. The interval is drawn to the mean decodes, which lie
    # below the limit whenever a place is being refilled, so it settles at its lower end.
    assert 0.895 * sla_ms < mean_ms < 1.1 * sla_ms
    assert running == pytest.approx((0.9 * sla_ms - 30) / 0.22, abs=4)


@pytest.mark.parametrize("depth", [1, 2])
def test_sla__a_limit_that_rises_admits_at_once_also_where_steps_are_leapt(depth):
    # given a backlog behind a limit that grows while nobody ends
    trace = backlog(80, prompt=10, output=300, seed=2)
    options = IterationOptions(capacity_tokens=10**7, max_running=64, tpot_sla_s=0.05)
    runs = [
        serve(
            trace,
            blocks=10**6,
            step=LinearStep(0.030, 0.0, 0.00022),
            depth=depth,
            run={"scheduler": continuous_dynamic(options), "leaps": leaps},
        )
        for leaps in (True, False)
    ]
    scheduled_s = runs[1].requests.scheduled_s
    first_end_s = runs[1].requests.finish_s.min()
    assert ((scheduled_s > 0.1) & (scheduled_s < first_end_s)).any()
    np.testing.assert_array_equal(runs[0].requests.scheduled_s, scheduled_s)
    np.testing.assert_array_equal(runs[0].requests.finish_s, runs[1].requests.finish_s)


def served(name: str, trace: Trace, *, blocks: int) -> IterationRun:
    options = IterationOptions(capacity_tokens=16 * blocks)
    scheduler = ITERATION_SCHEDULERS[name](options)
    return serve(trace, blocks=blocks, step=RTX_4090, run={"scheduler": scheduler})


def test_memory__fewer_preemptions_more_throughput_as_in_paper_table_ii():
    # given a backlog for which 256 at once are too many
    trace = backlog(1000, prompt=400, output=400, seed=1)
    static = token_metrics(served("continuous_static", trace, blocks=5000))
    dynamic = token_metrics(served("continuous_dynamic", trace, blocks=5000))
    assert static.preemptions_per_request > 0.3
    assert dynamic.preemptions_per_request < 0.1 * static.preemptions_per_request
    assert dynamic.output_tps > 1.02 * static.output_tps
    assert dynamic.tpot_mean_s < 0.8 * static.tpot_mean_s


def test_limit__stays_between_the_decodes_and_its_maximum():
    limit = DynamicLimit.of(capacity_tokens=2000, batch_max=64, tpot_sla_s=0.05)
    rng = np.random.default_rng(5)
    for _ in range(3000):
        n_decodes = int(rng.integers(0, 65))
        assert max(n_decodes, 1) <= limit.limit(n_decodes) <= 64
        limit.finished(int(rng.integers(1, 2000)), int(rng.integers(1, 2000)))
        n_prefills = int(rng.integers(0, 2))
        limit.observe(ProcessedStep(float(rng.uniform(0.01, 0.1)), n_decodes, n_prefills))


def test_memory_limit__is_computed_anew_only_after_a_mixed_step():
    limit = DynamicLimit.of(capacity_tokens=1000, batch_max=64, tpot_sla_s=None)
    limit.finished(100, 900)
    assert limit.limit(0) == 64
    for n_decodes, n_prefills, expected in ((5, 0, 64), (0, 3, 64), (5, 3, 1), (5, 0, 1)):
        limit.observe(ProcessedStep(0.02, n_decodes, n_prefills))
        assert limit.limit(0) == expected


def test_sla_limit__moves_after_ten_steps_with_decodes():
    limit = DynamicLimit.of(capacity_tokens=10**6, batch_max=64, tpot_sla_s=0.05)
    for step in range(10):
        limit.observe(ProcessedStep(0.2, 0, 1))  # no decode: not counted
        assert limit.limit(0) == 32
        limit.observe(ProcessedStep(0.04 + 0.01 * step, 40, 0))
    # mean 85 ms at 40 decodes, too slow: high = max(40, 1 + 16), low stays 1
    assert limit.limit(0) == 20


def test_dynamic__without_a_target_holds_memory_only():
    trace = poisson(300, 12, seed=2)
    plain = continuous_dynamic(IterationOptions(capacity_tokens=9600))
    assert plain.limit is not None
    made = plain.limit()
    assert made.controller is None  # type: ignore[attr-defined]
    run = serve(trace, blocks=600, step=RTX_4090, run={"scheduler": plain})
    assert run.requests.completed.all()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_options__a_latency_target_must_be_a_time(value):
    with pytest.raises(ValueError, match="must be finite and > 0 seconds"):
        IterationOptions(capacity_tokens=100, tpot_sla_s=value)
