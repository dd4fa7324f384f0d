"""Two real vLLM runs replayed: the errors, to the digits printed by an earlier implementation.

That one followed the same rules and was written by somebody else, so equal digits (and equal
counts of steps and preemptions) under a dozen settings speak for both. The rows are not in this
repository; where the folder is absent these tests are skipped, and the run's summary says so.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from replay_real import DATA, RUNS, Layers, errors, replay, words

REST = slice(100, None)  # judged when a constant was fitted on the first 100 requests
# (GPU, changes, shared prompts known) -> ttft | tpot | e2e | queueing, each as
# mean/p50/p90/p99 error % (mean |error| of a request over the mean)
ACCURACY: list[tuple[str, dict[str, Any], bool, str]] = [
    (
        "RTX4090",
        {},
        True,
        "ttft +0.4/+0.2/+0.4/-0.0 (0.6) | tpot +0.2/+0.4/+1.6/+0.4 (1.9) | "
        "e2e +0.4/+1.2/+0.1/+0.2 (0.6) | queueing +0.4/+0.2/+0.5/-0.1 (0.7)",
    ),
    (
        "RTX4090",
        {},
        False,
        "ttft +1.7/+0.2/+1.5/+1.2 (2.0) | tpot -0.2/+0.1/+4.2/+0.3 (6.1) | "
        "e2e +1.2/+4.7/+1.2/+1.3 (1.5) | queueing +1.7/+0.2/+1.6/+1.0 (2.1)",
    ),
    (
        "RTX4090",
        {"prefix_caching": False},
        True,
        "ttft +5.4/+3.9/+5.3/+5.5 (5.4) | tpot +3.2/+4.0/+7.4/+3.8 (8.0) | "
        "e2e +4.8/+8.3/+5.5/+5.2 (4.9) | queueing +5.4/+3.9/+5.3/+5.4 (5.4)",
    ),
    (
        "RTXPRO6000",
        {},
        True,
        "ttft -11.1/-15.9/-12.0/-9.2 (11.1) | tpot -4.3/-3.6/-3.0/-2.7 (4.3) | "
        "e2e -6.1/-6.1/-6.5/-5.9 (6.1) | queueing -11.1/-15.9/-12.0/-9.2 (11.1)",
    ),
    (
        "RTXPRO6000",
        {"prefix_caching": False},
        True,
        "ttft -7.2/-13.3/-7.7/-5.1 (7.3) | tpot -2.8/-1.9/-0.6/-0.3 (2.8) | "
        "e2e -3.9/-3.4/-4.1/-3.8 (3.9) | queueing -7.2/-13.4/-7.6/-5.5 (7.3)",
    ),
    (  # 1.88 ms a step as printed; the digits come back for 1.882 to 1.884 ms
        "RTXPRO6000",
        {"overhead_s": 1.883e-3},
        True,
        "ttft +1.7/+1.3/+2.0/+2.6 (2.2) | tpot +1.8/+2.1/+2.0/+1.8 (1.8) | "
        "e2e +1.8/+1.7/+1.3/+1.6 (1.8) | queueing +1.8/+2.0/+2.0/+2.8 (2.3)",
    ),
]
# mean error % of ttft, tpot, e2e under a change, and preemptions where they were counted;
# the PRO 6000 with 1.5 ms a step
ABLATIONS: list[tuple[str, dict[str, Any], list[float], int | None]] = [
    ("RTX4090", {"full_sequence_check": False}, [+0.7, +0.6, +0.7], 239),
    ("RTX4090", {"watermark_blocks": 25}, [-1.0, -1.8, -1.2], 120),
    ("RTX4090", {"prefill": "first", "depth": 1}, [+1.9, +2.3, +2.0], None),
    ("RTX4090", {"depth": 1}, [+0.1, +0.1, +0.1], None),
    ("RTX4090", {"max_num_batched_tokens": 1024}, [-0.9, -0.4, -0.7], None),
    ("RTX4090", {"max_num_batched_tokens": 4096}, [+0.3, +0.3, +0.3], None),
    ("RTX4090", {"usable_blocks": 2457}, [+4.1, -1.7, +2.7], None),
    ("RTX4090", {"usable_blocks": 2716}, [-4.5, +4.2, -2.5], 200),
    ("RTXPRO6000", {"prefix_caching": False}, [+3.0, +1.8, +2.1], None),
    ("RTXPRO6000", {"prefill": "first", "depth": 1}, [-1.3, -0.3, -0.5], None),
    ("RTXPRO6000", {"depth": 1}, [-1.4, +0.4, -0.1], None),
    ("RTXPRO6000", {"max_num_batched_tokens": 1024}, [+0.5, +0.8, +0.7], None),
    ("RTXPRO6000", {"max_num_batched_tokens": 4096}, [-1.5, +0.1, -0.3], None),
]

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (DATA / "vllm_sharegpt_runs").is_dir(),
        reason="NOT COMPARED WITH ANY REAL RUN: ../shared/data is not there",
    ),
]


@cache
def layers(gpu: str) -> Layers:
    return Layers(gpu, RUNS[gpu].max_num_seqs)


@pytest.mark.parametrize(("gpu", "changes", "shared", "expected"), ACCURACY)
def test_replay__real_run__errors_to_the_printed_digits(gpu, changes, shared, expected):
    result = replay(gpu, layers(gpu), replace(RUNS[gpu], **changes), shared=shared)
    found = words(errors(gpu, result, judged=REST if "overhead_s" in changes else slice(None)))
    print(f"{gpu} {changes} {'' if shared else 'shared unknown'}: {found}")
    assert found == expected


@pytest.mark.parametrize(
    ("gpu", "steps", "preemptions"), [("RTX4090", 6135, 196), ("RTXPRO6000", 2408, 0)]
)
def test_replay__real_run__steps_and_preemptions(gpu, steps, preemptions):
    result = replay(gpu, layers(gpu), RUNS[gpu])
    assert len(result.steps) == steps
    assert sum(one.preemptions for one in result.requests) == preemptions


@pytest.mark.slow
@pytest.mark.parametrize(("gpu", "changes", "expected", "preemptions"), ABLATIONS)
def test_replay__ablations__mean_errors_to_the_printed_digits(gpu, changes, expected, preemptions):
    base = replace(RUNS[gpu], overhead_s=1.5e-3 if gpu == "RTXPRO6000" else 0.0)
    result = replay(gpu, layers(gpu), replace(base, **changes))
    found = errors(gpu, result)
    assert [round(found[name][0], 1) for name in ("ttft", "tpot", "e2e")] == expected
    if preemptions is not None:
        assert sum(one.preemptions for one in result.requests) == preemptions
