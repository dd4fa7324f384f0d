"""Hand-worked runs, every step and stamp written out; 10 ms + 1 per prefill token + 2 per decode.

`A20@0*` is a request that gets 20 tokens on top of 0 computed, and samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from serving import serve, steps_of

NAN = float("nan")


def stamps(run: Any) -> dict[str, list[Any]]:
    table = run.requests
    return {
        name: getattr(table, name).tolist()
        for name in ("queued_s", "scheduled_s", "first_token_s", "finish_s", "preemptions")
    }


def check(run: Any, steps: Any, expected: str) -> None:
    """`decided | start-end | entries | free`, a line per step."""
    lines = [
        f"{decided:g} | {start:g}-{end:g} | {entries} | {free}"
        for decided, start, end, entries, free in steps
    ]
    assert lines == [line.strip() for line in expected.strip().splitlines()]


LAG = [(0, 20, 3), (30, 10, 2), (31, 5, 1)]


def test_async_lag__an_arrival_at_a_step_end_waits_one_step_more(monkeypatch):
    run, steps = steps_of(monkeypatch, LAG, blocks=100, depth=2)
    check(
        run,
        steps,
        """
        0 | 0-30 | A20@0* | 98
        0 | 30-42 | A1@20* | 98
        30 | 42-64 | A1@21* B10@0* | 97
        42 | 64-81 | B1@10* C5@0* | 96
        """,
    )
    assert stamps(run) == {
        "queued_s": [0, 30, 42],
        "scheduled_s": [0, 30, 42],
        "first_token_s": [30, 64, 81],
        "finish_s": [64, 81, 81],
        "preemptions": [0, 0, 0],
    }


def test_sync__the_same_requests_without_the_lag(monkeypatch):
    run, steps = steps_of(monkeypatch, LAG, blocks=100, depth=1)
    check(
        run,
        steps,
        """
        0 | 0-30 | A20@0* | 98
        30 | 30-52 | A1@20* B10@0* | 97
        52 | 52-71 | A1@21* B1@10* C5@0* | 96
        """,
    )
    assert stamps(run) == {
        "queued_s": [0, 30, 52],
        "scheduled_s": [0, 30, 52],
        "first_token_s": [30, 52, 71],
        "finish_s": [71, 71, 71],
        "preemptions": [0, 0, 0],
    }


CHUNKS = [(0, 8, 6), (1, 70, 2), (2, 16, 2)]


def test_chunks_beside_decodes__a_request_preempts_itself_with_a_token_in_flight(monkeypatch):
    run, steps = steps_of(monkeypatch, CHUNKS, blocks=7, step_tokens=32, depth=2)
    check(
        run,
        steps,
        """
        0 | 0-18 | A8@0* | 6
        0 | 18-30 | A1@8* | 6
        18 | 30-73 | A1@9* B31@0 | 4
        30 | 73-116 | A1@10* B31@31 | 2
        73 | 116-152 | A1@11* B8@62* C16@0* | 0
        116 | 152-166 | A1@12* B1@70* | 1
        166 | 166-193 | C17@0* | 5
        """,
    )
    assert stamps(run) == {
        "queued_s": [0, 18, 18],
        "scheduled_s": [0, 18, 73],
        "first_token_s": [18, 152, 152],
        "finish_s": [166, 166, 193],
        "preemptions": [0, 0, 1],
    }


def test_chunks_beside_decodes__sync():
    run = serve(CHUNKS, blocks=7, step_tokens=32, depth=1)
    assert stamps(run) == {
        "queued_s": [0, 18, 18],
        "scheduled_s": [0, 18, 104],
        "first_token_s": [18, 140, 140],
        "finish_s": [183, 154, 183],
        "preemptions": [0, 0, 1],
    }


def test_prefill_first__decodes_stall_while_prompts_run(monkeypatch):
    run, steps = steps_of(monkeypatch, CHUNKS, blocks=7, step_tokens=32, depth=1, prefill="first")
    assert [end for _, _, end, _, _ in steps] == [18, 98, 124, 138, 165, 177, 189, 201, 213]
    assert stamps(run) == {
        "queued_s": [0, 18, 18],
        "scheduled_s": [0, 18, 98],
        "first_token_s": [18, 98, 124],
        "finish_s": [213, 138, 165],
        "preemptions": [0, 0, 1],
    }


FULL = [(0, 17, 3), (1, 70, 2), (2, 16, 2)]


def test_full_sequence_check__a_prompt_waits_until_all_of_it_fits(monkeypatch):
    run, steps = steps_of(monkeypatch, FULL, blocks=6, step_tokens=32, depth=2)
    check(
        run,
        steps,
        """
        0 | 0-27 | A17@0* | 4
        0 | 27-39 | A1@17* | 4
        27 | 39-51 | A1@18* | 4
        51 | 51-93 | B32@0 | 4
        51 | 93-135 | B32@32 | 2
        93 | 135-167 | B6@64* C16@0* | 0
        135 | 167-179 | B1@70* | 1
        179 | 179-206 | C17@0* | 4
        """,
    )
    assert stamps(run) == {
        "queued_s": [0, 27, 27],
        "scheduled_s": [0, 51, 93],
        "first_token_s": [27, 167, 167],
        "finish_s": [51, 179, 206],
        "preemptions": [0, 0, 1],
    }


def test_full_sequence_check_off__its_first_chunk_is_enough(monkeypatch):
    run, steps = steps_of(
        monkeypatch, FULL, blocks=6, step_tokens=32, depth=2, full_sequence_check=False
    )
    check(
        run,
        steps,
        """
        0 | 0-27 | A17@0* | 4
        0 | 27-39 | A1@17* | 4
        27 | 39-82 | A1@18* B31@0 | 2
        39 | 82-124 | B32@31 | 0
        82 | 124-157 | B7@63* C16@0* | 0
        124 | 157-169 | B1@70* | 1
        169 | 169-196 | C17@0* | 4
        """,
    )
    assert stamps(run) == {
        "queued_s": [0, 27, 27],
        "scheduled_s": [0, 27, 82],
        "first_token_s": [27, 157, 157],
        "finish_s": [82, 169, 196],
        "preemptions": [0, 0, 1],
    }


ANOTHER = [(0, 31, 4), (0, 32, 4), (50, 16, 2)]


def test_preemption_of_another__it_comes_back_behind_nobody(monkeypatch):
    run, steps = steps_of(monkeypatch, ANOTHER, blocks=5, depth=2)
    check(
        run,
        steps,
        """
        0 | 0-73 | A31@0* B32@0* | 1
        0 | 73-87 | A1@31* B1@32* | 0
        73 | 87-99 | A1@32* | 2
        87 | 99-111 | A1@33* | 2
        111 | 111-171 | B34@0* C16@0* | 1
        111 | 171-185 | B1@34* C1@16* | 0
        """,
    )
    assert stamps(run) == {
        "queued_s": [0, 0, 73],
        "scheduled_s": [0, 0, 111],
        "first_token_s": [73, 73, 171],
        "finish_s": [111, 185, 185],
        "preemptions": [0, 1, 0],
    }
    assert run.requests.recomputed_tokens.tolist() == [0, 33, 0]


def test_preemption_of_another__caching_gives_it_its_blocks_back(monkeypatch):
    run, steps = steps_of(monkeypatch, ANOTHER, blocks=5, depth=2, prefix_caching=True)
    check(
        run,
        steps[-2:],
        """
        111 | 111-139 | B2@32* C16@0* | 1
        111 | 139-153 | B1@34* C1@16* | 0
        """,
    )
    assert stamps(run) == {
        "queued_s": [0, 0, 73],
        "scheduled_s": [0, 0, 111],
        "first_token_s": [73, 73, 139],
        "finish_s": [111, 153, 153],
        "preemptions": [0, 1, 0],
    }
    assert run.requests.recomputed_tokens.tolist() == [0, 1, 0]


def test_preemption_of_another__sync(monkeypatch):
    run, steps = steps_of(monkeypatch, ANOTHER, blocks=5, depth=1)
    assert [decided for decided, *_ in steps] == [0, 73, 87, 99, 111, 171]
    assert stamps(run) == {
        "queued_s": [0, 0, 73],
        "scheduled_s": [0, 0, 111],
        "first_token_s": [73, 73, 171],
        "finish_s": [111, 185, 185],
        "preemptions": [0, 1, 0],
    }


def test_a_request_too_large_is_rejected__the_others_are_served():
    run = serve([(0, 33, 1), (0, 33, 16), (0, 32, 1)], blocks=2, block_tokens=16)
    assert run.requests.replica.tolist() == [-1, -1, 0]
    assert np.isnan(run.requests.finish_s).tolist() == [True, True, False]


@pytest.mark.parametrize("depth", [1, 2])
def test_output_is_cut_to_the_longest_that_the_model_allows(depth):
    run = serve([(0, 20, 9), (0, 24, 5), (0, 25, 5)], blocks=9, max_model_len=25, depth=depth)
    assert run.requests.output_tokens.tolist() == [5, 1, 0]
    assert run.requests.replica.tolist() == [0, 0, -1]
