"""Prompts: who is admitted, and what chunk of it each unfinished one computes next.

Waiting requests are admitted in order, while tokens, places and blocks last. Nobody is overtaken:
the first that cannot be admitted ends admission, and stays refused until something changes that
could make it fit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmsched.engine.iteration.requests import NEVER_ADMITTED, Active, Chunk

if TYPE_CHECKING:
    from llmsched.engine.iteration.core import Core


def admit(core: Core, chunks: list[Chunk], budget: int, most: int, now_s: float) -> None:
    """Admit requests beside the running ones; the last may get a chunk of its prompt only."""
    n_admitted = 0
    while budget > 0 and _is_open(core, most):
        active = _head(core, n_admitted)
        if active is None:
            return
        hits = core.blocks.find(active)
        computed = hits.n_blocks * core.block_tokens
        new = min(active.target - computed, core.chunk_tokens, budget)
        to_fit = active.target if core.settings.full_sequence_check else computed + new
        if not _fits(core, to_fit, hits.n_blocks, hits.from_free):
            return
        core.blocks.claim(active, hits)
        _join(core, active, computed, now_s)
        plan_chunk(core, chunks, active, new)
        budget -= new
        n_admitted += 1


def admit_whole(core: Core, most: int, now_s: float) -> list[Chunk]:
    """Admit requests whose whole prompts make up a step; one beyond the budget goes alone."""
    chunks: list[Chunk] = []
    budget = core.step_tokens
    while budget > 0 and _is_open(core, most):
        active = _head(core, len(chunks))
        if active is None:
            break
        hits = core.blocks.find(active)
        computed = hits.n_blocks * core.block_tokens
        new = active.target - computed
        if chunks and new > budget:
            break
        if not _fits(core, active.target, hits.n_blocks, hits.from_free):
            break
        core.blocks.claim(active, hits)
        _join(core, active, computed, now_s)
        plan_chunk(core, chunks, active, new)
        budget -= new
    return chunks


def _is_open(core: Core, most: int) -> bool:
    return bool(core.n_waiting) and not core.refused and len(core.running) < most


def _head(core: Core, n_admitted: int) -> Active | None:
    """The next waiting request, in service from now on."""
    request = core.order.head(n_admitted)
    if request is None:
        return None
    active = core.in_service.get(request)
    if active is None:
        requests, times = core.requests, core.times
        if math.isnan(times.queued_s[request]) or not math.isnan(times.scheduled_s[request]):
            raise _not_waiting(request)
        active = Active(request, requests.prompt[request], requests.total[request])
        core.in_service[request] = active
    elif active.seq >= 0:
        raise _not_waiting(request)
    return active


def _not_waiting(request: int) -> ValueError:
    return ValueError(
        f"an order's head must be one of the waiting requests, got request {request}; "
        "is `remove` kept?"
    )


def _fits(core: Core, tokens: int, n_hits: int, hits_from_free: int) -> bool:
    """Whether so many tokens of the head fit now; if not, it is refused."""
    blocks = -(-tokens // core.block_tokens) - n_hits + hits_from_free
    if core.running:
        blocks += core.settings.watermark_blocks
    core.refused = blocks > core.blocks.free
    return not core.refused


def _join(core: Core, active: Active, computed: int, now_s: float) -> None:
    """The head becomes the last of the running requests."""
    request, times = active.request, core.times
    core.order.remove(request)
    core.n_waiting -= 1
    core.log.admitted_s += now_s
    if core.recorder is not None:
        core.recorder.admissions.append((request, now_s))
    if active.seq == NEVER_ADMITTED:
        times.scheduled_s[request] = now_s
        times.cached_tokens[request] = computed
    active.seq = seq = core.next_seq
    core.next_seq = seq + 1
    active.computed = computed
    core.running[seq] = active
    core.prefilling.append(active)


def chunk_blocks(core: Core, budget: int) -> int:
    """Blocks for the next chunk of every unfinished prompt.

    The tokens suffice for all but the last: it was admitted with what the others left, and they
    need no more now than they did then.
    """
    block, blocks = core.block_tokens, 0
    for active in core.prefilling:
        computed = active.computed
        new = min(active.target - computed, core.chunk_tokens, budget)
        budget -= new
        blocks += -(-(computed + new) // block) - -(-computed // block)
    return blocks


def continue_prefills(core: Core, chunks: list[Chunk], budget: int) -> int:
    """Plan the next chunk of every unfinished prompt; the tokens that are left."""
    for active in core.prefilling:
        new = min(active.target - active.computed, core.chunk_tokens, budget)
        if new:
            plan_chunk(core, chunks, active, new)
            budget -= new
    return budget


def plan_chunk(core: Core, chunks: list[Chunk], active: Active, new: int) -> None:
    """Give a prompt its next tokens and their blocks."""
    block, computed = core.block_tokens, active.computed
    core.blocks.take(-(-(computed + new) // block) - -(-computed // block))
    if core.blocks.register(active, computed + new):
        core.refused = False  # the head may find what was registered
    chunks.append((active, new))
