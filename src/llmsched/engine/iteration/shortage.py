"""A decision in which not everybody gets what they need: the running list, one by one.

It is needed when free blocks or the token budget do not suffice for all running requests, and
costs O(running).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmsched.engine.iteration.prefills import plan_chunk
from llmsched.engine.iteration.requests import PREEMPTED, Active, Chunk

if TYPE_CHECKING:
    from llmsched.engine.iteration.core import Core


RunningPlan = tuple[int, int, list[Chunk], list[Active], int]
"""What running requests compute in a step.

Decodes, their KV before the step, chunks, who of the decodes had no token in the last tick, and the
tokens that are left for admission.
"""


def plan_one_by_one(core: Core, now_s: float) -> RunningPlan:
    """Give running requests their tokens in order of admission; preempt where blocks run out.

    Who asks for blocks gets those of the order's victims, one after the other. If the victim is
    who asked, the scan ends.
    """
    budget = core.step_tokens
    block, tick = core.block_tokens, core.decodes.tick
    planned: dict[int, int] = {}  # seq -> tokens
    chunks: list[Chunk] = []
    for active in list(core.running.values()):
        if not budget:
            break
        if active.seq < 0 or active.ended:  # preempted in this decision; or nothing left to do
            continue
        if active.decoding:
            computed, new = tick - active.offset, 1
        else:
            computed = active.computed
            new = min(active.target - computed, core.chunk_tokens, budget)
        needed = -(-(computed + new) // block) - -(-computed // block)
        while needed > core.blocks.free and active.seq >= 0:
            budget += _preempt_victim(core, planned, chunks, now_s)
        if active.seq < 0:
            break
        if active.decoding:
            core.blocks.take(needed)
        else:
            plan_chunk(core, chunks, active, new)
        planned[active.seq] = new
        budget -= new
    n_decodes, decode_kv, late = _decoding(core, planned)
    return n_decodes, decode_kv, chunks, late, budget


def _preempt_victim(core: Core, planned: dict[int, int], chunks: list[Chunk], now_s: float) -> int:
    """Preempt who must go first; the tokens that this decision had given it."""
    request = core.order.victim([active.request for active in core.running.values()])
    victim = core.in_service.get(request)
    if victim is None or victim.seq < 0:
        raise ValueError(
            f"an order's victim must be one of the running requests, got request {request}"
        )
    tokens = planned.pop(victim.seq, 0)
    if tokens and not victim.decoding:
        chunks[:] = [chunk for chunk in chunks if chunk[0] is not victim]
    preempt(core, victim, tokens, now_s)
    return tokens


def _decoding(core: Core, planned: dict[int, int]) -> tuple[int, int, list[Active]]:
    """Decodes of the step, their KV, and who of them is late; the others fall back by a tick."""
    decodes = core.decodes
    n = kv_tokens = 0
    late: list[Active] = []
    if not planned:  # no step, no tick
        return n, kv_tokens, late
    for active in core.running.values():
        if not active.decoding:
            continue
        if active.seq in planned:
            n += 1
            kv_tokens += decodes.tick - active.offset
            if active.late:
                late.append(active)
                core.late.remove(active)
        else:
            decodes.stall(active)
            if not active.late:
                active.late = True
                active.last_token_s = core.tick_end_s
                core.late.append(active)
    return n, kv_tokens, late


def preempt(core: Core, active: Active, planned: int, now_s: float) -> None:
    """Stop a running request: its blocks are free, it waits, and it starts over when it returns.

    What it has generated stays known, so that it prefills prompt and outputs then. `planned` is
    what this very decision had given it [tokens].
    """
    decodes = core.decodes
    if active.decoding:
        computed = decodes.tick - active.offset
        registered = _findable(core, active, planned)
        if active.late:
            core.late.remove(active)
            active.late = False
        else:
            active.last_token_s = core.tick_end_s
        decodes.leave(active)
        active.target = computed + 1
    elif active.ended:
        computed, registered = active.total - 1, 0
    else:
        computed = active.computed
        registered = computed + planned
        core.prefilling.remove(active)
    active.furthest = max(active.furthest, computed)
    core.blocks.leave_behind(active, -(-(computed + planned) // core.block_tokens), registered)
    del core.running[active.seq]
    active.seq = PREEMPTED
    active.computed = 0
    core.order.put_back(active.request)
    core.n_waiting += 1
    core.times.preemptions[active.request] += 1
    core.log.admitted_s -= now_s
    if core.recorder is not None:
        core.recorder.preemptions.append((active.request, now_s))
    core.refused = False
    core.preempted = True


def _findable(core: Core, active: Active, planned: int) -> int:
    """Tokens of a decoding request whose blocks a prefix cache has registered, where they are full.

    They are those whose content was known when it was last looked at: at its latest decision, this
    one included, or when a step of it was processed since.
    """
    tick = core.decodes.tick
    computed = tick - active.offset
    if planned or active.late or not core.in_flight or not core.overlapped:
        return computed
    was_in_both = active.first_tick < tick and active.resumed_tick != tick - 1
    return computed - was_in_both
