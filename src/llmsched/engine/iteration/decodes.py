"""The requests that decode, as one set: a step gives each of them one token, in O(1).

Time is counted in ticks, one per step with decodes. A member that joined with c tokens at tick t
has c + (T - t) of them at tick T, so that its block boundaries and its last tick are known when it
joins: boundaries are counted by residue, last ticks wait in a heap.
"""

from __future__ import annotations

from heapq import heappop, heappush

from llmsched.engine.iteration.requests import Active

_SEQS = 1 << 32  # heap entries are last tick · _SEQS + seq: within a tick in order of admission


class Decodes:
    """The decode set of one replica.

    Attributes
    ----------
    n : int
        Members.
    kv_tokens : int
        Their summed tokens with KV, before the next tick.
    tick : int
        The next tick.
    """

    __slots__ = ("_block", "_by_residue", "_last_ticks", "_running", "kv_tokens", "n", "tick")

    def __init__(self, block_tokens: int, running: dict[int, Active]) -> None:
        self.n = 0
        self.kv_tokens = 0
        self.tick = 0
        self._block = block_tokens
        self._by_residue = [0] * block_tokens  # members by offset modulo the block
        self._last_ticks: list[int] = []
        self._running = running

    def blocks_needed(self) -> int:
        """KV blocks that the next tick takes: one per member at a boundary."""
        return self._by_residue[self.tick % self._block]

    def join(self, active: Active, computed: int) -> None:
        """A request decodes from the next tick on."""
        tick = self.tick
        active.decoding = True
        active.first_tick = tick
        active.offset = offset = tick - computed
        self.n += 1
        self.kv_tokens += computed
        self._by_residue[offset % self._block] += 1
        active.finish_tick = last = tick + active.total - computed - 2
        heappush(self._last_ticks, last * _SEQS + active.seq)

    def leave(self, active: Active) -> None:
        """A member is preempted."""
        active.decoding = False
        self.n -= 1
        self.kv_tokens -= self.tick - active.offset
        self._by_residue[active.offset % self._block] -= 1

    def stall(self, active: Active) -> None:
        """A member gets no token in the tick that comes next; call it before `advance`."""
        offset = active.offset
        self._by_residue[offset % self._block] -= 1
        active.offset = offset = offset + 1
        self._by_residue[offset % self._block] += 1
        self.kv_tokens -= 1  # `advance` adds one for every member
        active.finish_tick += 1
        heappush(self._last_ticks, active.finish_tick * _SEQS + active.seq)

    def advance(self, ticks: int = 1) -> list[Active]:
        """A token per tick for every member; who got the last one leaves, first admitted first."""
        self.tick = tick = self.tick + ticks
        self.kv_tokens += self.n * ticks
        ended = []
        heap = self._last_ticks
        before = tick * _SEQS
        while heap and heap[0] < before:
            last, seq = divmod(heappop(heap), _SEQS)
            active = self._running.get(seq)
            if active is not None and active.finish_tick == last:
                self.leave(active)
                active.ended = True
                ended.append(active)
        return ended

    def ticks_to_next_end(self) -> int:
        """Ticks up to and including the first that gives a member its last token."""
        heap = self._last_ticks
        while True:
            last, seq = divmod(heap[0], _SEQS)
            active = self._running.get(seq)
            if active is not None and active.finish_tick == last:
                return last - self.tick + 1
            heappop(heap)

    def ticks_within(self, blocks: int, most: int) -> int:
        """How many ticks those free blocks last, `most` at most."""
        block = self._block
        cycles, left = divmod(blocks, self.n)
        ticks = cycles * block
        while ticks < most:
            left -= self._by_residue[(self.tick + ticks) % block]
            if left < 0:
                return ticks
            ticks += 1
        return most

    def blocks_of_ticks(self, start: int, stop: int) -> list[int]:
        """KV blocks that each of the next ticks takes, from `start` on and before `stop`."""
        block = self._block
        first = (self.tick + start) % block
        cycle = self._by_residue[first:] + self._by_residue[:first]
        ticks = stop - start
        return cycle[:ticks] if ticks <= block else (cycle * (ticks // block + 1))[:ticks]

    def blocks_in_cycles(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Which of those ticks take blocks, and how many; for many ticks and few members."""
        block, tick = self._block, self.tick
        return [
            (j, count)
            for residue, count in enumerate(self._by_residue)
            if count
            for j in range(start + (residue - tick - start) % block, stop, block)
        ]
