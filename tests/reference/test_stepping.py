"""The stepping reference itself: four cases worked out by hand, invariants, figures.

A case is a list of lines, one per decision that made a step or was worth noting: when it was
decided, when its step runs, `A20@0*` for 20 tokens of request A on top of 0 computed that sample a
token, the free blocks after it and who waits. Step time: 10 ms + 1 ms a prefill token + 2 ms a
decode, in whole milliseconds, so that every instant is exact.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from stepping import BatchLimit, Decision, Engine, Options, Request, Result, run
from stepping_figures import figures

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


# ------------------------------------------------------------------ rules that the cases leave out


def standing(engine: Engine, *states: tuple[int, int, int, int, float]) -> list[Request]:
    """Put requests (prompt, output, tokens received, computed, priority) into running, by hand."""
    for prompt, output, received, computed, priority in states:
        one = Request(len(engine.running), float(len(engine.running)), prompt, output, priority)
        one.known, one.computed, one.token_s = prompt + received, computed, [0.0] * received
        engine.pool.take(one, engine.pool.blocks(computed))
        engine.running.append(one)
    return list(engine.running)


def engine(**options: Any) -> Engine:
    return Engine(0, Options(**options), milliseconds, {})


def test_preemption__two_victims__the_last_one_preempted_waits_in_front():
    # given A mid-prompt with one block, B and C with one each, one of four free
    one = engine(usable_blocks=4, depth=1)
    standing(one, (64, 5, 0, 16, 0), (8, 9, 1, 8, 0), (8, 9, 1, 8, 0))
    # when A's next chunk needs three
    decision = one.decide(100.0)
    # then C goes first, then B, and B waits in front of C
    assert decision.preempted == [2, 1]
    assert line(decision) == "100 | 100-158 | A48@16* | 0 | B C"


def test_preemption__last_token_in_flight__the_request_ends_while_waiting():
    result = serve([(0, 31, 4), (0, 32, 2)], usable_blocks=5, depth=2)
    assert table(result)[2:] == [
        "73 | 87-99 | A1@32* | 2 | B",  # B's second and last token is in flight
        "87 | 99-111 | A1@33* | 2 | ",
    ]
    assert stamps(result) == ["0 0 | 73 87 99 111 | 0", "0 0 | 73 87 | 1"]


def test_priority__a_planned_victim_is_taken_out_and_its_tokens_return():
    # given all three blocks held, a budget of 2, and A of the least priority first in the list
    one = engine(usable_blocks=3, depth=1, order="priority", max_num_batched_tokens=2)
    a, _, _ = standing(one, (15, 9, 1, 15, 1), (15, 9, 2, 16, 0), (15, 9, 1, 15, 0))
    # when B, behind A, needs a block
    decision = one.decide(100.0)
    # then A, planned already, gives way, and C gets the token that A had
    assert line(decision) == "100 | 100-114 | B1@16* C1@15* | 0 | A"
    assert (a.in_flight, a.computed, a.lost_tokens, a.preemptions) == (0, 0, 15, 1)


def test_priority__order_of_waiting_and_of_victims():
    asked = [(0, 15, 10), (1, 16, 4)]
    result = serve(asked, usable_blocks=3, depth=1, order="priority", priority=[1, 0])
    assert table(result)[:4] == [
        "0 | 0-25 | A15@0* | 2 | ",
        "25 | 25-53 | A1@15* B16@0* | 1 | ",
        "53 | 53-65 | B1@16* | 1 | A",
        "65 | 65-77 | B1@17* | 1 | A",
    ]
    assert result.requests[1].token_s == [53, 65, 77, 89]
    assert result.requests[0].token_s[:3] == [25, 53, 116]
    # and a later arrival of higher priority is admitted before those that waited longer
    asked = [(0, 10, 9), (1, 10, 1), (2, 10, 1), (3, 10, 1)]
    late = serve(
        asked, usable_blocks=9, depth=1, max_num_seqs=2, order="priority", priority=[0, 1, 0, 0]
    )
    assert np.argsort([one.scheduled_s for one in late.requests]).tolist() == [0, 2, 3, 1]


def test_priority__a_self_preemption_with_nothing_in_flight__decides_again():
    # given A, of less priority and first in the list, needing a block that nobody has
    one = engine(usable_blocks=2, depth=1, order="priority")
    standing(one, (15, 9, 2, 16, 1), (15, 9, 1, 15, 0))
    # when A preempts itself, the loop ends and the decision is empty
    one.act(100.0)
    # then B must not stand still for ever
    assert [line(decision) for decision in one.decisions] == [
        "100 | - |  | 1 | A",
        "100 | 100-112 | B1@15* | 1 | A",
    ]


def test_threshold__cuts_chunks_of_new_and_of_running_requests():
    result = serve([(0, 25, 2)], usable_blocks=9, depth=1, long_prefill_token_threshold=10)
    assert [step.entries[0][1:] for step in result.steps] == [
        (10, 0, False),
        (10, 10, False),
        (5, 20, True),
        (1, 25, True),
    ]


@pytest.mark.parametrize("prefill", ["chunked", "first"])
def test_watermark__holds_back_an_admission_beside_running_ones_only(prefill):
    asked = [(0, 32, 2), (1, 32, 1)]
    options = {"usable_blocks": 5, "depth": 1, "prefill": prefill}
    kept = serve(asked, watermark_blocks=1, **options)
    # at 42 B needs 2 blocks and 1 to spare; chunked, A has taken its third by then
    assert serve(asked, **options).requests[1].scheduled_s == 42
    assert kept.requests[1].scheduled_s == {"chunked": 54, "first": 42}[prefill]
    tight = serve(asked, watermark_blocks=2, **options)
    assert tight.requests[1].scheduled_s == 54
    alone = serve([(0, 32, 2)], usable_blocks=3, depth=1, watermark_blocks=3, prefill=prefill)
    assert alone.requests[0].token_s == [42, 54]


def test_rejection__by_length_and_by_blocks():
    asked = [(0, 30, 3), (0, 30, 4), (0, 32, 1), (0, 33, 1)]
    result = serve(asked, usable_blocks=2, depth=1)
    assert [one.rejected for one in result.requests] == [False, True, False, True]
    short = serve([(0, 30, 5), (0, 32, 1), (0, 31, 5)], usable_blocks=9, max_model_len=32)
    assert [one.output for one in short.requests] == [2, 0, 1]
    assert [one.rejected for one in short.requests] == [False, True, False]
    assert [len(one.token_s) for one in short.requests] == [2, 0, 1]


def test_routers__round_robin_counts_rejected_ones():
    asked = [(3, 10, 1), (0, 10, 1), (1, 99, 1), (2, 10, 1)]
    result = serve(asked, usable_blocks=2, replicas=2)
    assert [one.replica for one in result.requests] == [1, 0, None, 0]


def test_routers__least_outstanding_sees_the_instant_before_anything_else():
    # A ends at 20 on engine 0, which B and C, arriving at 20, do not yet see
    asked = [(0, 10, 1), (20, 10, 1), (20, 10, 1), (21, 10, 1)]
    result = serve(asked, usable_blocks=9, replicas=2, router="least_outstanding", depth=1)
    assert [one.replica for one in result.requests] == [0, 1, 0, 0]
    assert [one.queued_s for one in result.requests] == [0, 20, 20, 40]


def test_step_time__one_token_prompts_are_prefills_one_token_chunks_are_decodes():
    calls = []

    def spy(prefills: list[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        calls.append((list(prefills), n_decodes, decode_kv))
        return 0.1

    asked = [(0, 1, 2), (0, 17, 2)]
    options = {"usable_blocks": 9, "depth": 1, "long_prefill_token_threshold": 16}
    result = serve(asked, spy, overhead_s=0.7, per_request_s=0.2, **options)
    assert calls == [([(1, 0), (16, 0)], 0, 0), ([], 2, 1 + 16), ([], 1, 17)]
    assert result.steps[0].end_s == 0 + ((0.1 + 0.7) + 0.2 * 2)  # == , in this order


@pytest.mark.parametrize(
    "wrong",
    [{"router": "random"}, {"order": "sjf"}, {"depth": 2, "prefill": "first"}, {"d_sla_s": 1.0}],
)
def test_options__a_misspelt_one_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be one of .*got|give both or neither"):
        Options(usable_blocks=9, **wrong)


# ------------------------------------------------------------------------------- prefix caching


def test_caching__a_later_admission_of_the_same_decision_hits():
    ids = [("x", "y"), ("x", "y"), ("z", "y"), ("x", "y")]
    asked = [(0, 40, 1), (0, 40, 1), (0, 40, 1), (0, 32, 1)]
    result = serve(asked, usable_blocks=20, prefix_caching=True, block_ids=ids)
    # a chain: y behind z is another block; the last token is always computed, so D hits only x
    assert table(result) == ["0 | 0-114 | A40@0* B8@32* C40@0* D16@16* | 12 | "]
    assert [one.cached_tokens for one in result.requests] == [0, 32, 0, 16]
    (step,) = result.steps
    assert step.used_blocks == 3 + 1 + 3 + 1


def test_caching__hits_in_the_free_list_count_as_needed_and_tails_go_first():
    ids = [("x", "y"), (), ("x", "y")]
    asked = [(0, 32, 1), (0, 31, 3), (10, 33, 1)]
    result = serve(asked, usable_blocks=4, depth=1, prefix_caching=True, block_ids=ids)
    assert table(result) == [
        "0 | 0-73 | A32@0* B31@0* | 0 | ",
        "73 | 73-85 | B1@31* | 2 | C",  # C wants one new block, and its two hits are the free ones
        "85 | 85-97 | B1@32* | 1 | C",  # takes y, the tail of A's chain
        "97 | 97-124 | C17@16* | 1 | ",
    ]


def test_caching__a_block_is_known_by_all_before_it():
    ids = [("x", "y"), ("z", "w"), ("x", "w")]
    result = serve([(0, 33, 1)] * 3, usable_blocks=20, prefix_caching=True, block_ids=ids)
    assert [one.cached_tokens for one in result.requests] == [0, 0, 16]


@pytest.mark.parametrize(("depth", "again"), [(1, "B1@16*"), (2, "B17@0*")])
def test_caching__a_block_whose_last_token_was_in_flight_is_not_found(depth, again):
    # B preempts itself for want of a second block, its first just filled by its own first output;
    # at depth 2 that token's successor is in flight, so the block was not yet registered
    asked = [(0, 17, 6), (0, 15, 4)]
    result = serve(asked, usable_blocks=3, depth=depth, prefix_caching=True)
    assert result.requests[0].token_s == [42, 56, 68, 80, 92, 104]
    assert [one.preemptions for one in result.requests] == [0, 1]
    back = next(step for step in result.steps if step.decided_s == 104)
    assert line(back).split(" | ")[2] == again


def test_caching__of_several_blocks_of_one_identity_the_first_registered_is_hit():
    ids = [("x", "y")] * 3
    hits = []

    def look(one: Engine, decision: Decision) -> None:
        hits.extend(list(entry.request.blocks) for entry in decision.entries)

    asked = [(0, 32, 1), (0, 32, 1), (0, 33, 1)]
    serve(asked, usable_blocks=9, prefix_caching=True, block_ids=ids, on_decision=look)
    (a, b, c) = hits[:3]
    assert a[0] == b[0] == c[0]
    assert a[1] != b[1]
    assert c[1] == a[1]


# -------------------------------------------------------------------------------- the batch limit


def test_limit__algorithm_2_by_hand():
    limit = BatchLimit(Options(usable_blocks=9, max_num_seqs=64, limits={"sla"}, d_sla_s=0.05))
    asked = [limit.ask(0)]
    for duration_s, decodes in [(0.060, 20), (0.030, 8), (0.050, 14)]:
        limit.processed(9.0, 0, 3)  # a step without decodes is no observation
        for _ in range(10):
            before = limit.ask(0)
            assert before == asked[-1]
            limit.processed(duration_s, decodes, 0)
        asked.append(limit.ask(0))
    # (1, 64); slow (1, 20); fast (min(8, 20 - 16), 24); within (14 - 8, 14 + 8)
    assert asked == [32, 10, 14, 14]
    assert (limit.low, limit.high) == (6, 22)
    assert [limit.ask(n) for n in (40, 100)] == [40, 64]


def test_limit__algorithm_1_by_hand():
    limit = BatchLimit(Options(usable_blocks=1000, max_num_seqs=256, limits={"memory"}))
    limit.finished(100)  # m1 = 420, m2 = 202,000, sigma = 160
    assert limit.ask(0) == 256  # no step with decodes and prefills yet
    limit.processed(0.01, 3, 1)
    theta = 1.6448536269514722
    root = (math.sqrt((160 * theta) ** 2 + 4 * 420 * 16_000) - 160 * theta) / 840
    assert limit.ask(0) == math.floor(root**2) == 34
    for _ in range(3):
        limit.finished(5000)
    limit.processed(0.01, 3, 0)
    assert limit.ask(0) == 34  # kept: that step had no prefill
    assert limit.ask(50) == 50


def test_limit__n_d_are_the_running_requests_past_their_prompt():
    one = engine(usable_blocks=99, depth=1, limits={"sla"}, d_sla_s=1.0)
    one.batch_limit.high = 1
    standing(one, (64, 5, 0, 16, 0), (8, 9, 1, 8, 0), (8, 9, 3, 10, 0))
    assert one.decide(100.0).limit == 2


def test_limit__stops_admission_and_evicts_nobody():
    # given 20 requests at once, and a decode latency target that no step meets
    asked = [(0, 5, 200)] * 20
    result = serve(
        asked, usable_blocks=999, limits=frozenset({"sla"}), d_sla_s=1.0, max_num_seqs=16
    )
    sizes = [len(step.entries) for step in result.steps]
    limits = [step.limit for step in result.steps]
    assert sizes[0] == limits[0] == 8  # (1 + 16) // 2
    assert all(step.limit >= 1 for step in result.steps)
    assert sum(one.preemptions for one in result.requests) == 0


# ----------------------------------------------------------------------------------- invariants


def invariants(one: Engine, decision: Decision) -> None:
    """A5.4, after every decision."""
    options, pool = one.options, one.pool
    assert decision.tokens == sum(entry.chunk for entry in decision.entries)
    if options.prefill == "chunked" or len(decision.entries) > 1:  # a long prompt may go alone
        assert decision.tokens <= options.max_num_batched_tokens
    assert len(one.running) <= options.max_num_seqs
    planned = [entry.request for entry in decision.entries]
    assert len(set(map(id, planned))) == len(planned)
    assert all(request in one.running for request in planned)
    admitted = len(one.running) - decision.ran_before + len(decision.preempted)
    assert admitted == 0 or (not decision.preempted and len(one.running) <= decision.limit)
    held = Counter(block for request in one.running for block in request.blocks)
    assert len(held) + len(pool.free) == pool.total
    assert not held.keys() & pool.free.keys()
    assert all(pool.holders[block] == held.get(block, 0) for block in range(pool.total))
    for request in one.running:
        assert len(request.blocks) == -(-request.computed // options.block_tokens)
        assert request.computed <= request.known + request.in_flight
        assert len(request.token_s) + request.in_flight <= request.output
        assert request.in_flight <= options.depth
    for request in one.waiting:
        assert request.computed == 0
        assert not request.blocks
    everyone = one.running + one.waiting
    assert len(set(map(id, everyone))) == len(everyone)
    assert all(request.known == request.prompt + len(request.token_s) for request in everyone)
    for identity, blocks in pool.found.items():
        assert blocks
        assert all(pool.identity[block] == identity for block in blocks)
    assert sum(map(len, pool.found.values())) == pool.total - pool.identity.count(None)
    if not decision.entries and not one.flight:  # no idle device while something could run
        assert decision.preempted
        assert one.running


def random_case(seed: int) -> tuple[Asked, dict[str, Any]]:
    """A dozen requests with ties, outputs of 1, prompts of k x 16, and any options."""
    rng = np.random.default_rng(seed)

    def pick(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    n = int(rng.integers(3, 16))
    arrivals = np.sort(rng.integers(0, pick(1, 50, 400), n)).tolist()
    prompts = [
        16 * int(rng.integers(1, 6)) if rng.random() < 0.3 else int(rng.integers(1, 80))
        for _ in range(n)
    ]
    outputs = [1 if rng.random() < 0.2 else int(rng.integers(1, 40)) for _ in range(n)]
    prefill = pick("chunked", "chunked", "first")
    options = {
        "usable_blocks": int(rng.integers(6, 30)),
        "max_num_batched_tokens": pick(5, 16, 64, 256),
        "max_num_seqs": pick(1, 3, 8, 64),
        "depth": 1 if prefill == "first" else pick(1, 2),
        "prefill": prefill,
        "order": pick("fcfs", "priority"),
        "full_sequence_check": pick(True, False),
        "watermark_blocks": pick(0, 0, 2),
        "long_prefill_token_threshold": pick(0, 0, 7),
        "max_model_len": pick(None, 60),
        "prefix_caching": pick(True, False),
        "limits": (limits := frozenset(pick((), (), ("memory",), ("sla",), ("memory", "sla")))),
        "d_sla_s": 20.0 if "sla" in limits else None,
        "replicas": pick(1, 1, 2),
        "router": pick("round_robin", "least_outstanding"),
        "priority": rng.integers(0, 3, n).tolist(),
        "block_ids": [[(group, i) for i in range(10)] for group in rng.integers(0, 4, n).tolist()],
    }
    return list(zip(arrivals, prompts, outputs, strict=True)), options


def assert_all_served(result: Result) -> None:
    """Every output token once, in order; FCFS by first schedule; a device serial, never idle."""
    served = [one for one in result.requests if not one.rejected]
    for one in served:
        assert len(one.token_s) == one.output
        assert one.arrival_s <= one.queued_s <= one.scheduled_s < one.token_s[0]
        assert all(np.diff(one.token_s) > 0)
    computed = sum(step.tokens for step in result.steps)
    needed = sum(one.prompt + one.output - 1 - one.cached_tokens for one in served)
    again = sum(one.recomputed_tokens for one in served)
    found_again = sum(one.cached_again_tokens for one in served)
    assert needed + again - found_again <= computed <= needed + again
    if not result.options.prefix_caching:
        assert again <= sum(one.lost_tokens for one in served)
    for one in result.engines:
        mine = [request for request in served if request.replica == one.index]
        if result.options.order == "fcfs":
            first = [request.scheduled_s for request in sorted(mine, key=lambda r: r.arrival_s)]
            assert first == sorted(first)
        steps = [decision for decision in one.decisions if decision.entries]
        for before, after in pairwise(steps):
            assert after.start_s >= before.end_s
            if after.start_s > before.end_s:
                gap = before.end_s
                assert not [r for r in mine if r.arrival_s <= gap and r.token_s[-1] > gap]
        assert not one.waiting + one.running
        assert len(one.pool.free) == one.pool.total


@pytest.mark.parametrize("block", range(4))
def test_invariants__random_traces(block):
    preempted = hit = rejected = 0
    for seed in range(100 * block, 100 * block + 100):
        asked, options = random_case(seed)
        result = serve(asked, on_decision=invariants, **options)
        assert_all_served(result)
        preempted += sum(one.preemptions for one in result.requests)
        hit += sum(one.cached_tokens > 0 for one in result.requests)
        rejected += sum(one.rejected for one in result.requests)
    assert min(preempted, hit, rejected) > 20  # or the traces are too easy


def times(result: Result) -> list[Any]:
    return [(one.queued_s, one.scheduled_s, one.token_s) for one in result.requests]


def test_scaling__all_times_by_two_scales_all_results():
    for seed in range(40):
        asked, options = random_case(seed)
        once = serve(asked, **options)
        if options["d_sla_s"]:
            options["d_sla_s"] = 40.0
        doubled = [(2 * at, prompt, output) for at, prompt, output in asked]
        twice = serve(doubled, lambda *shape: 2 * milliseconds(*shape), **options)
        for one, two in zip(once.requests, twice.requests, strict=True):
            assert [2 * at for at in one.token_s] == two.token_s


def test_replicas__k_times_the_trace_by_round_robin_is_one_replica_k_times():
    for seed in range(40):
        asked, options = random_case(seed)
        options.pop("block_ids")
        options["router"] = "round_robin"
        one = serve(asked, **{**options, "replicas": 1})
        options["priority"] = [value for value in options["priority"] for _ in range(3)]
        three = serve([each for each in asked for _ in range(3)], **{**options, "replicas": 3})
        assert times(three)[::3] == times(three)[1::3] == times(three)[2::3] == times(one)


def test_caching__private_ids_and_no_preemption_change_nothing():
    compared = 0
    for seed in range(200):
        asked, options = random_case(seed)
        options["block_ids"] = None
        off = serve(asked, **{**options, "prefix_caching": False})
        if not any(one.preemptions for one in off.requests):
            assert times(serve(asked, **{**options, "prefix_caching": True})) == times(off)
            compared += 1
    assert compared > 50


# -------------------------------------------------------------------------------------- figures


def test_figures__case_1_by_hand():
    # a fourth request that never fits, so that attainment counts it
    result = serve([*CASE_1, (31, 99 * 16, 99)], usable_blocks=100, depth=2)
    found = figures(result, ttft_slo_s=34, tpot_slo_s=17)
    assert found["ttft_s"]["mean"] == pytest.approx((30 + 34 + 50) / 3)
    assert found["ttft_s"]["p90"] == pytest.approx(34 + 0.8 * 16)
    assert found["tpot_s"] == dict.fromkeys(found["tpot_s"], 17)  # C's is undefined
    assert found["itl_s"]["p50"] == 17  # of 12, 22, 17
    assert found["e2e_s"]["mean"] == pytest.approx((64 + 51 + 50) / 3)
    assert found["queueing_s"]["mean"] == pytest.approx(11 / 3)
    assert found["makespan_s"] == 81
    assert found["goodput_per_s"] == pytest.approx(2 / 81)  # A and B
    assert found["attainment"] == 2 / 4
    assert found["rejected"] == 1
    assert found["kv_mean"] == pytest.approx((2 * 30 + 3 * 12 + 4 * 22 + 2 * 17) / 81 / 100)
    assert found["kv_max"] == 4 / 100
    assert found["steps"] == 4
    assert found["tokens_per_step"] == 38 / 4
    assert found["busy_share"] == 1


def test_figures__a_single_request_in_closed_form():
    result = serve([(5, 100, 11)], usable_blocks=20, depth=1)
    found = figures(result)
    assert found["ttft_s"]["mean"] == 110
    assert found["tpot_s"]["mean"] == 12
    assert found["itl_s"] == dict.fromkeys(found["itl_s"], 12)
    assert found["kv_max"] == 7 / 20
