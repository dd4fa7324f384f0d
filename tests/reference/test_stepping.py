"""The stepping reference itself: four cases worked out by hand, invariants, figures.

A case is a list of lines, one per decision that made a step or was worth noting: when it was
decided, when its step runs, `A20@0*` for 20 tokens of request A on top of 0 computed that sample a
token, the free blocks after it and who waits. Step time: 10 ms + 1 ms a prefill token + 2 ms a
decode, in whole milliseconds, so that every instant is exact.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepping import Decision, Options, Result, run

Asked = list[tuple[float, int, int]]  # (arrival, prompt, output)


def milliseconds(prefills: list[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
    return 10 + sum(chunk for chunk, _ in prefills) + 2 * n_decodes


def serve(asked: Asked, step_time: Any = milliseconds, **options: Any) -> Result:
    more = {
        key: options.pop(key) for key in ("priority", "block_ids", "on_decision") & options.keys()
    }
    return run(*zip(*asked, strict=True), step_time, Options(**options), **more)


def name(index: int) -> str:
    return chr(ord("A") + index)


def line(step: Decision) -> str:
    """`decided | start-end | entries | free | waiting`, as the tables of the cases have them."""
    entries = " ".join(
        f"{name(entry.request.index)}{entry.chunk}@{entry.kv_before}{'*' * entry.samples}"
        for entry in step.entries
    )
    runs = f"{step.start_s:g}-{step.end_s:g}" if step.entries else "-"
    waiting = " ".join(map(name, step.waiting))
    return f"{step.decided_s:g} | {runs} | {entries} | {step.free_blocks} | {waiting}"


def table(result: Result) -> list[str]:
    """Every decision of the only engine that made a step."""
    return [line(step) for step in result.engines[0].decisions if step.entries]


def stamps(result: Result) -> list[str]:
    """`queued scheduled | token times | preemptions` of each request."""
    return [
        f"{one.queued_s:g} {one.scheduled_s:g} | "
        + " ".join(f"{at:g}" for at in one.token_s)
        + f" | {one.preemptions}"
        for one in result.requests
    ]


# ------------------------------------------------------------------------- case 1: the async lag

CASE_1: Asked = [(0, 20, 3), (30, 10, 2), (31, 5, 1)]


def test_case_1__depth_2__an_arrival_at_a_step_end_joins_the_step_after_next():
    result = serve(CASE_1, usable_blocks=100, depth=2)
    assert table(result) == [
        "0 | 0-30 | A20@0* | 98 | ",
        "0 | 30-42 | A1@20* | 98 | ",
        "30 | 42-64 | A1@21* B10@0* | 97 | ",
        "42 | 64-81 | B1@10* C5@0* | 96 | ",
    ]
    assert stamps(result) == ["0 0 | 30 42 64 | 0", "30 30 | 64 81 | 0", "42 42 | 81 | 0"]
    empty = [one for one in result.engines[0].decisions if not one.entries]
    assert [line(one) for one in empty] == ["64 | - |  | 98 | "]  # both last tokens in flight


def test_case_1__depth_1__one_step_less_of_lag():
    result = serve(CASE_1, usable_blocks=100, depth=1)
    assert [one.rsplit(" | ", 2)[0] for one in table(result)] == [
        "0 | 0-30 | A20@0*",
        "30 | 30-52 | A1@20* B10@0*",
        "52 | 52-71 | A1@21* B1@10* C5@0*",
    ]
    assert stamps(result) == ["0 0 | 30 52 71 | 0", "30 30 | 52 71 | 0", "52 52 | 71 | 0"]


# --------------------------------------------- case 2: chunks, and a request that preempts itself

CASE_2: Asked = [(0, 8, 6), (1, 70, 2), (2, 16, 2)]


def test_case_2__depth_2__a_request_preempts_itself_with_its_token_in_flight():
    result = serve(CASE_2, usable_blocks=7, max_num_batched_tokens=32, depth=2)
    assert table(result) == [
        "0 | 0-18 | A8@0* | 6 | ",
        "0 | 18-30 | A1@8* | 6 | ",
        "18 | 30-73 | A1@9* B31@0 | 4 | C",
        "30 | 73-116 | A1@10* B31@31 | 2 | C",
        "73 | 116-152 | A1@11* B8@62* C16@0* | 0 | ",
        "116 | 152-166 | A1@12* B1@70* | 1 | C",
        "166 | 166-193 | C17@0* | 5 | ",
    ]
    assert stamps(result) == [
        "0 0 | 18 30 73 116 152 166 | 0",
        "18 18 | 152 166 | 0",
        "18 73 | 152 193 | 1",
    ]
    at_152 = [one for one in result.engines[0].decisions if one.decided_s == 152]
    assert [line(one) for one in at_152] == ["152 | - |  | 1 | C"]


def test_case_2__depth_1():
    result = serve(CASE_2, usable_blocks=7, max_num_batched_tokens=32, depth=1)
    assert [one.token_s for one in result.requests] == [
        [18, 61, 104, 140, 154, 183],
        [140, 154],
        [140, 183],
    ]
    assert [one.scheduled_s for one in result.requests] == [0, 18, 104]
    assert [one.preemptions for one in result.requests] == [0, 0, 1]


def test_case_2__prefill_first():
    options = {"usable_blocks": 7, "max_num_batched_tokens": 32, "depth": 1, "prefill": "first"}
    result = serve(CASE_2, **options)
    assert [one.token_s for one in result.requests] == [
        [18, 138, 177, 189, 201, 213],
        [98, 138],
        [124, 165],
    ]
    assert [one.scheduled_s for one in result.requests] == [0, 18, 98]
    assert [one.preemptions for one in result.requests] == [0, 0, 1]
    assert [step.end_s for step in result.steps] == [18, 98, 124, 138, 165, 177, 189, 201, 213]


# ------------------------------------------------------------- case 3: the full-sequence check

CASE_3: Asked = [(0, 17, 3), (1, 70, 2), (2, 16, 2)]


def test_case_3__with_the_check__a_prompt_whose_first_chunk_fits_is_refused():
    result = serve(CASE_3, usable_blocks=6, max_num_batched_tokens=32, depth=2)
    assert [one.rsplit(" | ", 1)[0] for one in table(result)] == [
        "0 | 0-27 | A17@0* | 4",
        "0 | 27-39 | A1@17* | 4",
        "27 | 39-51 | A1@18* | 4",
        "51 | 51-93 | B32@0 | 4",
        "51 | 93-135 | B32@32 | 2",
        "93 | 135-167 | B6@64* C16@0* | 0",
        "135 | 167-179 | B1@70* | 1",
        "179 | 179-206 | C17@0* | 4",
    ]
    assert [line(one) for one in result.engines[0].decisions if one.decided_s == 39] == [
        "39 | - |  | 4 | B C"
    ]
    assert [one.preempted for one in result.engines[0].decisions if one.decided_s == 135] == [[2]]
    assert stamps(result) == [
        "0 0 | 27 39 51 | 0",
        "27 51 | 167 179 | 0",
        "27 93 | 167 206 | 1",
    ]


def test_case_3__without_the_check():
    result = serve(
        CASE_3, usable_blocks=6, max_num_batched_tokens=32, depth=2, full_sequence_check=False
    )
    assert [one.rsplit(" | ", 1)[0] for one in table(result)] == [
        "0 | 0-27 | A17@0* | 4",
        "0 | 27-39 | A1@17* | 4",
        "27 | 39-82 | A1@18* B31@0 | 2",
        "39 | 82-124 | B32@31 | 0",
        "82 | 124-157 | B7@63* C16@0* | 0",
        "124 | 157-169 | B1@70* | 1",
        "169 | 169-196 | C17@0* | 4",
    ]
    assert [one.preempted for one in result.engines[0].decisions if one.decided_s == 124] == [[2]]
    assert stamps(result) == [
        "0 0 | 27 39 82 | 0",
        "27 27 | 157 169 | 0",
        "27 82 | 157 196 | 1",
    ]


# ------------------------------------------ case 4: preempting another, and its blocks found again

CASE_4: Asked = [(0, 31, 4), (0, 32, 4), (50, 16, 2)]
CASE_4_UNTIL_111 = [
    "0 | 0-73 | A31@0* B32@0* | 1 | ",
    "0 | 73-87 | A1@31* B1@32* | 0 | ",
    "73 | 87-99 | A1@32* | 2 | B C",
    "87 | 99-111 | A1@33* | 2 | B C",
]


def test_case_4__no_caching__the_victim_computes_all_again():
    result = serve(CASE_4, usable_blocks=5, depth=2)
    assert table(result) == [
        *CASE_4_UNTIL_111,
        "111 | 111-171 | B34@0* C16@0* | 1 | ",
        "111 | 171-185 | B1@34* C1@16* | 0 | ",
    ]
    assert [line(one) for one in result.engines[0].decisions if one.decided_s == 99] == [
        "99 | - |  | 2 | B C"
    ]
    assert stamps(result) == [
        "0 0 | 73 87 99 111 | 0",
        "0 0 | 73 87 171 185 | 1",
        "73 111 | 171 185 | 0",
    ]
    assert [one.lost_tokens for one in result.requests] == [0, 33, 0]
    assert [one.recomputed_tokens for one in result.requests] == [0, 33, 0]


def test_case_4__caching__the_victim_finds_two_of_its_blocks():
    result = serve(CASE_4, usable_blocks=5, depth=2, prefix_caching=True)
    assert [one.rsplit(" | ", 2)[0] for one in table(result)] == [
        *(one.rsplit(" | ", 2)[0] for one in CASE_4_UNTIL_111),
        "111 | 111-139 | B2@32* C16@0*",
        "111 | 139-153 | B1@34* C1@16*",
    ]
    assert [one.free_blocks for one in result.steps] == [1, 0, 2, 2, 1, 0]
    assert [one.token_s for one in result.requests][1:] == [[73, 87, 139, 153], [139, 153]]
    assert [one.cached_again_tokens for one in result.requests] == [0, 32, 0]
    assert [one.recomputed_tokens for one in result.requests] == [0, 1, 0]


@pytest.mark.parametrize("caching", [False, True])
def test_case_4__depth_1__the_same_stamps_but_decided_at_step_ends(caching):
    result = serve(CASE_4, usable_blocks=5, depth=1, prefix_caching=caching)
    assert result.requests[2].queued_s == 73
    if not caching:
        assert [step.decided_s for step in result.steps] == [0, 73, 87, 99, 111, 171]
        assert stamps(result) == stamps(serve(CASE_4, usable_blocks=5, depth=2))
