"""The prefix cache: who finds what, and in which order blocks are forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from serving import MS, RTX_4090, poisson, serve, steps_of, trace_of

from llmsched.engine.iteration.run import IterationRun, run_iteration_engine
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.schedulers.iteration.routing import PrefixAffine
from llmsched.workload.prefixes.prefix_ids import PrefixIds


def shared(rows: list[list[int]], tokens_per_id: int = 16) -> dict[str, Any]:
    return {"prefix_ids": PrefixIds.of(rows, tokens_per_id=tokens_per_id)}


def cached(
    rows: list[tuple[float, int, int]], ids: list[list[int]], *, blocks: int, **options: Any
) -> IterationRun:
    options = {"depth": 1, "prefix_caching": True, "columns": shared(ids), **options}
    return serve(rows, blocks=blocks, **options)


def test_hit__computes_the_rest_only(monkeypatch):
    # given B, which shares its first block with A, and C, which has A's whole prompt
    rows = [(0, 40, 2), (100, 40, 2), (200, 32, 2)]
    ids = [[7, 8], [7, 9], [7, 8]]
    options = {"blocks": 99, "depth": 1, "prefix_caching": True, "columns": shared(ids)}
    run, steps = steps_of(monkeypatch, rows, **options)
    # then the last token is always computed, so that of two full blocks C takes one
    assert [entries for *_, entries, _ in steps] == [
        "A40@0*", "A1@40*", "B24@16*", "B1@40*", "C16@16*", "C1@32*"
    ]  # fmt: skip
    assert run.requests.cached_tokens.tolist() == [0, 16, 16]


def test_hit__is_found_in_the_decision_that_scheduled_its_blocks(monkeypatch):
    # given twins that arrive together: the first registers its blocks as it is scheduled
    rows = [(0, 40, 1), (0, 40, 1)]
    options = {"blocks": 99, "depth": 2, "prefix_caching": True, "columns": shared([[7, 8]] * 2)}
    _, steps = steps_of(monkeypatch, rows, **options)
    assert steps[0][3] == "A40@0* B8@32*"
    assert steps[0][4] == 99 - 4  # two blocks are shared


def test_chain__ends_at_the_first_block_that_differs():
    rows = [(0, 64, 1), (100, 64, 1)]
    run = cached(rows, [[1, 2, 3, 4], [1, 9, 3, 4]], blocks=99)
    assert run.requests.cached_tokens.tolist() == [0, 16]


def test_ids__without_what_came_before_are_no_hit():
    rows = [(0, 32, 1), (100, 32, 1)]
    run = cached(rows, [[1, 2], [2, 1]], blocks=99)
    assert run.requests.cached_tokens.tolist() == [0, 0]


def test_ids_of_512_tokens__stand_for_32_blocks_each():
    # given a shared piece of 512 tokens, and a second one of which 100 tokens are there
    rows = [(0, 612, 1), (10_000, 612, 1), (20_000, 700, 1)]
    run = cached(
        rows, [[5, 6], [5, 6], [5, 7]], blocks=999, columns=shared([[5, 6], [5, 6], [5, 7]], 512)
    )
    assert run.requests.cached_tokens.tolist() == [0, 608, 512]


@pytest.mark.parametrize(
    ("taken", "of_a", "of_b"),
    [(16, 32, 32), (32, 16, 32), (48, 0, 32), (64, 0, 16), (80, 0, 0)],
)
def test_least_recently_freed__is_forgotten_first_and_tails_before_heads(taken, of_a, of_b):
    # given five blocks, A's two and B's two freed in that order, and then C's so many
    rows = [(0, 32, 1), (100, 32, 1), (200, taken, 1), (300, 33, 1)]
    for ids, expected in (([1, 2], of_a), ([3, 4], of_b)):
        # when A's or B's prompt comes back, then what C left of it is found
        run = cached(rows, [[1, 2], [3, 4], [], ids], blocks=5)
        assert run.requests.cached_tokens.tolist() == [0, 0, 0, expected]


def test_a_hit__makes_a_block_recent():
    # given A's blocks, then B's, then A's again by a hit, and five blocks
    rows = [(0, 32, 1), (100, 32, 1), (200, 33, 1), (300, 32, 1), (400, 33, 1), (500, 33, 1)]
    ids = [[1, 2], [3, 4], [1, 2], [], [1, 2], [3, 4]]
    run = cached(rows, ids, blocks=5)
    # then D takes the free block and B's second; A's are still there
    assert run.requests.cached_tokens.tolist() == [0, 0, 32, 0, 32, 0]


def test_of_two_copies__the_one_registered_first_is_found():
    # given B with A's prompt of exactly two blocks: it computes the second itself, a copy
    rows = [(0, 32, 40), (1, 32, 1), (2, 33, 1)]
    run = cached(rows, [[1, 2]] * 3, blocks=7, max_running=2)
    # then C, after B is gone, shares A's and not B's, which lies in the free list
    assert run.requests.cached_tokens.tolist() == [0, 16, 32]


def test_cached_blocks_in_the_free_list__count_as_needed():
    # given A's two blocks cached and free, one more free, and B running on the other two
    rows = [(0, 32, 1), (100, 20, 30), (101, 50, 1)]
    run = cached(rows, [[1, 2], [], [1, 2]], blocks=5)
    # then C, of four blocks, two of them cached and free, waits for B
    assert run.requests.scheduled_s[2] == run.requests.finish_s[1]
    # but is admitted beside it where it needs three in all
    rows[2] = (101, 47, 1)
    run = cached(rows, [[1, 2], [], [1, 2]], blocks=5)
    assert run.requests.scheduled_s[2] < run.requests.finish_s[1]
    assert run.requests.cached_tokens[2] == 32


def test_blocks_held_by_another__cost_nothing():
    # given A running on four blocks of five, and B with the same 48 tokens and one more block
    rows = [(0, 49, 20), (100, 64, 1)]
    run = cached(rows, [[1, 2, 3], [1, 2, 3]], blocks=5)
    assert run.requests.cached_tokens.tolist() == [0, 48]
    assert run.requests.finish_s[1] < run.requests.finish_s[0]
    assert run.replicas.kv_blocks_max[0] == 5


@pytest.mark.parametrize("leaps", [True, False])
def test_a_refused_request__fits_once_others_register_what_it_shares(leaps):
    # given A and B with one prompt of three blocks of 4, chunks of 2, and three blocks in all
    rows = [(0, 12, 1), (0, 12, 1)]
    options = {"block_tokens": 4, "long_prefill_tokens": 2, "run": {"leaps": leaps}}
    run = cached(rows, [[1, 2, 3]] * 2, blocks=3, columns=shared([[1, 2, 3]] * 2, 4), **options)
    # then B is refused at 0, and admitted when A's first block is full and known
    assert run.requests.scheduled_s.tolist() == [0, 12]
    assert run.requests.cached_tokens.tolist() == [0, 4]


def test_ids_that_stand_for_no_whole_blocks__are_refused():
    with pytest.raises(ValueError, match=r"block_tokens must divide the 512 tokens .* got 48"):
        serve(
            [(0, 600, 1)],
            blocks=99,
            block_tokens=48,
            prefix_caching=True,
            columns=shared([[1, 2]], 512),
        )


def test_affine_router__sends_a_prompt_where_its_beginning_is():
    rng = np.random.default_rng(3)
    trace = poisson(300, 10, seed=3, prompt=300)
    group = rng.integers(0, 6, 300)
    ids = [
        [int(g)] * 0 + [int(100 * g + i) for i in range(p // 16)]
        for g, p in zip(group, trace.prompt_tokens, strict=True)
    ]
    trace = trace_of(
        list(zip(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, strict=True)),
        **shared(ids),
    )
    options = {"blocks": 2000, "step": RTX_4090, "prefix_caching": True}
    apart = serve(trace, **options, run={"n_replicas": 3}).requests
    affine = serve(trace, **options, run={"n_replicas": 3, "router": PrefixAffine}).requests
    assert affine.cached_tokens.sum() > 1.05 * apart.cached_tokens.sum()
    homes = [np.bincount(affine.replica[group == g], minlength=3).max() for g in range(6)]
    assert sum(homes) > 0.8 * 300


def test_mooncake__finds_what_the_trace_repeats(monkeypatch):
    # given a memory for everything: a prompt's hits are the blocks of pieces seen before
    rng = np.random.default_rng(4)
    prompts = rng.integers(1, 5000, 200)
    ids = [[int(i) for i in range(rng.integers(0, 1 + -(-p // 512)))] for p in prompts]
    rows = [(1e6 * i, int(p), 1) for i, p in enumerate(prompts)]
    run = serve(rows, blocks=10**6, prefix_caching=True, columns=shared(ids, 512))
    seen = 0
    for row, (prompt, cached_tokens) in enumerate(
        zip(prompts, run.requests.cached_tokens, strict=True)
    ):
        known = min(len(ids[row]) * 512, int(prompt)) // 16
        assert cached_tokens == 16 * min(known, seen, (int(prompt) - 1) // 16)
        seen = max(seen, known)


def test_cache__off_by_choice():
    trace = trace_of([(0, 40, 2), (100, 40, 2)], **shared([[1, 2], [1, 2]]))
    settings = IterationSettings(kv_tokens=1600, prefix_caching=False)
    assert run_iteration_engine(trace, settings, MS).requests.cached_tokens.sum() == 0
