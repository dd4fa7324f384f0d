"""The H100 stages as open loops: a small stand-in for the engine, for `derive_physics.py` only.

One GPU plans a step ahead of the device, admits every waiting prompt at once, and never runs out of
memory: enough for stages below saturation, whose prompts are cached but for their last block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from physics_data import UNCACHED_TOKENS, rows, stage_deployment
from scipy.optimize import brentq

from llmsched.latency.physics.constants import Fitted
from llmsched.latency.physics.step import PhysicsStep, fitted_step

WINDOW_S, WARM_UP_S = 60.0, 20.0
StepSeconds = Callable[[list[tuple[int, int]], int, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One measured stage."""

    run: str
    stage: int
    rate_per_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    e2e_s: float
    step: PhysicsStep


def read_stages(data: Path, fitted: Fitted) -> list[Stage]:
    """The stages below saturation, with the physics of their deployment."""
    found = rows(data / "vllm_h100_runs" / "stages.csv")
    return [
        Stage(
            run=row["run"],
            stage=int(row["stage"]),
            rate_per_s=float(row["requested_rate_rps"]),
            prompt_tokens=round(float(row["prompt_mean"])),
            output_tokens=int(row["output_len_asked"]),
            ttft_s=float(row["ttft_mean_s"]),
            e2e_s=float(row["e2e_mean_s"]),
            step=fitted_step(stage_deployment(row), fitted),
        )
        for row in found
        if "reasoning" not in row["run"]
    ]


def simulate(stage: Stage, step_s: StepSeconds) -> tuple[float, float]:
    """Mean time to first token and end to end [s] of requests at a constant rate."""
    before = stage.prompt_tokens - UNCACHED_TOKENS
    arrivals = np.arange(0.0, WINDOW_S, 1 / stage.rate_per_s).tolist()
    first, finish = [0.0] * len(arrivals), [0.0] * len(arrivals)
    running: dict[int, int] = {}  # request -> tokens planned so far
    flight: deque[tuple[float, list[int]]] = deque()  # end, requests that get a token
    done = [0] * len(arrivals)
    device_s, now, arrived = 0.0, 0.0, 0
    while arrived < len(arrivals) or running or flight:
        if flight:
            now, served = flight.popleft()
            for request in served:
                done[request] += 1
                if done[request] == 1:
                    first[request] = now
                if done[request] == stage.output_tokens:
                    finish[request] = now
        elif not running:
            now = max(now, arrivals[arrived])
        while len(flight) < 2:  # one step runs, one waits
            decodes = [r for r, planned in running.items() if planned < stage.output_tokens]
            kv = sum(stage.prompt_tokens + running[r] - 1 for r in decodes)
            new = []
            while arrived < len(arrivals) and arrivals[arrived] <= now:
                new.append(arrived)
                arrived += 1
            if not decodes and not new:
                running.clear()
                break
            for request in decodes:
                running[request] += 1
            running |= dict.fromkeys(new, 1)
            running = {r: n for r, n in running.items() if n < stage.output_tokens}
            start_s = max(now, device_s)
            chunks = [(UNCACHED_TOKENS, before)] * len(new)
            device_s = start_s + step_s(chunks, len(decodes), kv)
            flight.append((device_s, decodes + new))
    warm = [i for i, arrival_s in enumerate(arrivals) if arrival_s >= WARM_UP_S]
    ttft_s = float(np.mean([first[i] - arrivals[i] for i in warm]))
    return ttft_s, float(np.mean([finish[i] - arrivals[i] for i in warm]))


def scaled(step: PhysicsStep, factor: float) -> StepSeconds:
    """The step time, times a factor."""
    return lambda chunks, decodes, kv: factor * step.step_s(chunks, decodes, kv)


def fitted_to(stage: Stage) -> tuple[float, float]:
    """A factor on every step and a delay before the first token that give the stage's means."""

    def miss(factor: float) -> float:
        ttft_s, e2e_s = simulate(stage, scaled(stage.step, factor))
        return (e2e_s - ttft_s) / (stage.e2e_s - stage.ttft_s) - 1

    factor = brentq(miss, 0.5, 2.0, xtol=1e-3)
    ttft_s, _ = simulate(stage, scaled(stage.step, factor))
    return factor, max(0.0, stage.ttft_s - ttft_s)


def stage_table(alone: list[Stage]) -> list[dict[str, object]]:
    """Errors of physics alone, and of physics fitted to the slower stage of the same run."""
    slow = {stage.run: stage for stage in alone if stage.stage == 0}
    fits = {run: fitted_to(slow[run]) for run in {s.run for s in alone if s.stage == 1}}
    table = []
    for stage in alone:
        ttft_s, e2e_s = simulate(stage, stage.step.step_s)
        row: dict[str, object] = {
            "run": stage.run,
            "rate_per_s": f"{stage.rate_per_s:g}",
            "measured_ttft_ms": f"{1e3 * stage.ttft_s:.1f}",
            "measured_e2e_s": f"{stage.e2e_s:.3f}",
            "alone_ttft_error": f"{ttft_s / stage.ttft_s - 1:.3f}",
            "alone_e2e_error": f"{e2e_s / stage.e2e_s - 1:.3f}",
            "fitted_ttft_error": "",
            "fitted_e2e_error": "",
        }
        if stage.stage == 1:
            factor, delay_s = fits[stage.run]
            ttft_s, e2e_s = simulate(stage, scaled(stage.step, factor))
            row["fitted_ttft_error"] = f"{(ttft_s + delay_s) / stage.ttft_s - 1:.3f}"
            row["fitted_e2e_error"] = f"{(e2e_s + delay_s) / stage.e2e_s - 1:.3f}"
        table.append(row)
    return table
