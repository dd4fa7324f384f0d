"""Aggregated runs as requests: stages at a rate, and closed loops of clients.

A stage says a rate, mean lengths and what prompts share; the requests are made from these.

Notes
-----
A stage with shared prefixes cycles through system prompts × users texts, as inference-perf does,
so that after the first round all full KV blocks of a prompt are cached but the last one. Lengths of
texts lie evenly within 8 tokens of the mean: what is left over after the last full block is then 8
tokens on average. In a closed loop lengths are drawn from 0.8 to 1.0 of the nominal ones, whose
mean the point says.
"""

from __future__ import annotations

import numpy as np

from llmsched.calibration.benchmarks.runs import ClosedLoopPoint, OpenLoopStage
from llmsched.workload.closed_loop import ClosedLoop
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.trace import Trace

BLOCK = 16  # tokens of a prefix id
ROUNDS = 10  # requests of a closed loop per client, as InferenceX sends them


def stage_requests(stage: OpenLoopStage, *, seed: int = 0, most: int | None = None) -> Trace:
    """The requests of a stage at its rate, all or the first so many.

    Raises
    ------
    ValueError
        If the stage says no finite rate, or neither duration nor requests.
    """
    rate_per_s = stage.load.rate_per_s
    asked = (stage.completed or 0) + stage.failed
    if rate_per_s is None or not np.isfinite(rate_per_s):
        raise ValueError(f"{stage.source}: a stage must have a finite rate, got {rate_per_s}")
    if stage.duration_s is not None:
        asked = max(asked, round(rate_per_s * stage.duration_s))
    if not asked:
        raise ValueError(f"{stage.source}: a stage must say its duration or its requests, got none")
    n = asked if most is None else min(asked, most)
    rng = np.random.default_rng(seed)
    gaps_s = np.full(n, 1 / rate_per_s)
    if stage.load.arrivals == "poisson":
        gaps_s *= rng.standard_exponential(n)
    arrival_s = np.concatenate([[0.0], np.cumsum(gaps_s[1:])])
    output = np.full(n, max(1, round(stage.output_tokens)), np.int32)
    if stage.prefixes is None:
        prompt = np.full(n, max(1, round(stage.prompt_tokens)), np.int32)
        return Trace(
            arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=output, name=stage.source
        )
    n_texts = stage.prefixes.system_prompts * stage.prefixes.users_per_system_prompt
    offsets = np.linspace(-BLOCK / 2, BLOCK / 2, n_texts, endpoint=False)
    lengths = np.maximum(1, np.round(stage.prompt_tokens + rng.permutation(offsets)))
    text = np.arange(n) % n_texts
    prompt = lengths.astype(np.int32)[text]
    blocks = prompt.astype(np.int64) // BLOCK
    starts = np.concatenate([[0], np.cumsum(lengths.astype(np.int64) // BLOCK)])
    offsets_of = np.concatenate([[0], np.cumsum(blocks)])
    ids = np.repeat(starts[text] - offsets_of[:-1], blocks) + np.arange(offsets_of[-1])
    return Trace(
        arrival_s=arrival_s,
        prompt_tokens=prompt,
        output_tokens=output,
        prefix_ids=PrefixIds.from_lengths(ids, blocks, tokens_per_id=BLOCK),
        name=stage.source,
    )


def closed_requests(point: ClosedLoopPoint, *, seed: int = 0) -> Trace:
    """The requests of a closed loop, sent by clients who do not think."""
    n = ROUNDS * point.concurrency
    rng = np.random.default_rng(seed)

    def lengths(mean: float) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        drawn = rng.uniform(0.8, 1.0, n) * mean / 0.9
        return np.maximum(1, np.round(drawn)).astype(np.int32)

    trace = Trace(
        arrival_s=np.zeros(n),
        prompt_tokens=lengths(point.prompt_tokens),
        output_tokens=lengths(point.output_tokens),
        name=point.source,
    )
    return ClosedLoop(concurrency=point.concurrency).over(trace, rng)
