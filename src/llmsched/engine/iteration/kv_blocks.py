"""The KV memory of one replica, counted in blocks, with and without a prefix cache.

Without a cache blocks are alike and a count is enough. With one, a free block keeps its content
until it is taken, so the free blocks are a list: taken from the front, given back at the end, the
last block of a request first. A block is found again by its identity. Only blocks that somebody
may find are told apart: those with given ids, one by one, and the blocks of a preempted request,
which it alone can find, as one group. All others lie between them in anonymous groups, so that
a request without ids costs O(1), however long it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from llmsched.engine.iteration.requests import Active
from llmsched.workload.prefix_ids import PrefixIds


class Hits(NamedTuple):
    """What a request finds in the cache."""

    identified: list[int]  # the blocks with given ids, in chain order
    private: int  # its own blocks from before a preemption, behind those
    from_free: int  # how many of all these lie in the free list

    @property
    def n_blocks(self) -> int:
        """Blocks found."""
        return len(self.identified) + self.private


NO_HITS = Hits([], 0, 0)


class PrefixChains:
    """The identities of prompt blocks: equal ones have the same id and the same ids before it.

    Parameters
    ----------
    prefix_ids : PrefixIds
    prompt_tokens : memoryview of shape (n,)
    block_tokens : int

    Raises
    ------
    ValueError
        If an id does not stand for whole blocks.
    """

    def __init__(
        self, prefix_ids: PrefixIds, prompt_tokens: memoryview[Any], block_tokens: int
    ) -> None:
        self._blocks_per_id, rest = divmod(prefix_ids.tokens_per_id, block_tokens)
        if rest:
            raise ValueError(
                f"block_tokens must divide the {prefix_ids.tokens_per_id} tokens that a prefix id "
                f"stands for, got {block_tokens}; choose another or turn prefix caching off"
            )
        self._prefix_ids = prefix_ids
        self._prompt = prompt_tokens
        self._block = block_tokens
        self._chains: dict[tuple[int, int], int] = {}  # (chain before, id) -> chain

    def of(self, request: int) -> list[int]:
        """The identities of a request's full prompt blocks, as far as they have ids."""
        chains, k = self._chains, self._blocks_per_id
        chain = -1
        identities: list[int] = []
        for piece in self._prefix_ids.row(request).tolist():
            chain = chains.setdefault((chain, piece), len(chains))
            identities.extend(range(chain * k, chain * k + k))
        del identities[self._prompt[request] // self._block :]
        return identities


class KvBlocks(Protocol):
    """The blocks of one replica."""

    free: int  # blocks that can be taken, those with cached content included

    @property
    def are_private(self) -> bool:
        """Whether no block is ever held by two requests."""
        ...

    def take(self, n_blocks: int) -> None:
        """Take free blocks; the caller has checked that there are as many."""
        ...

    def find(self, active: Active) -> Hits:
        """What a waiting request would find now; changes nothing."""
        ...

    def claim(self, active: Active, hits: Hits) -> None:
        """Hold the blocks found."""
        ...

    def register(self, active: Active, known_tokens: int) -> bool:
        """Make findable what is full by now; whether another request may find any of it."""
        ...

    def give_back(self, active: Active, n_held: int) -> None:
        """A request ended."""
        ...

    def leave_behind(self, active: Active, n_held: int, registered_tokens: int) -> None:
        """A request is preempted: its blocks are free, and it may find the registered ones."""
        ...


class CountedBlocks:
    """Blocks without a cache: a number."""

    __slots__ = ("free",)
    are_private = True

    def __init__(self, n_blocks: int) -> None:
        self.free = n_blocks

    def take(self, n_blocks: int) -> None:
        self.free -= n_blocks

    def find(self, active: Active) -> Hits:
        return NO_HITS

    def claim(self, active: Active, hits: Hits) -> None:
        pass

    def register(self, active: Active, known_tokens: int) -> bool:
        return False

    def give_back(self, active: Active, n_held: int) -> None:
        self.free += n_held

    def leave_behind(self, active: Active, n_held: int, registered_tokens: int) -> None:
        self.free += n_held


class CachedBlocks:
    """Blocks with a prefix cache: the free list in order, and who can be found.

    Parameters
    ----------
    n_blocks : int
    block_tokens : int
    chains : PrefixChains, optional
        The identities of prompt blocks; None where none has any.
    """

    __slots__ = (
        "_block",
        "_chains",
        "_copies",
        "_first",
        "_free_list",
        "_holders",
        "_identity",
        "_last_anonymous",
        "_next",
        "free",
    )

    def __init__(self, n_blocks: int, block_tokens: int, chains: PrefixChains | None) -> None:
        self.free = n_blocks
        self._block = block_tokens
        self._chains = chains
        # Free list: group -> blocks in it. Groups >= 0 are identified blocks, one each.
        self._free_list: OrderedDict[int, int] = OrderedDict({-1: n_blocks})
        self._last_anonymous = -1  # the last group, if it is anonymous: others may join it
        self._next = 0
        self._first: dict[int, int] = {}  # identity -> its block registered first
        self._copies: dict[int, list[int]] = {}  # identity -> the later ones, in order
        self._identity: dict[int, int] = {}  # identified block -> its identity
        self._holders: dict[int, int] = {}  # identified block -> requests that hold it

    @property
    def are_private(self) -> bool:
        return self._chains is None

    def take(self, n_blocks: int) -> None:
        self.free -= n_blocks
        free_list = self._free_list
        while n_blocks:
            group = next(iter(free_list))
            size = free_list[group]
            if size > n_blocks:
                free_list[group] = size - n_blocks
                return
            del free_list[group]
            n_blocks -= size
            if group >= 0:
                self._forget(group)

    def _forget(self, block: int) -> None:
        """Its content is overwritten; of several copies the next one is found from now on."""
        identity = self._identity.pop(block)
        del self._holders[block]
        copies = self._copies.get(identity)
        if self._first[identity] != block:
            assert copies is not None
            copies.remove(block)
        elif copies:
            self._first[identity] = copies.pop(0)
        else:
            del self._first[identity]
        if copies is not None and not copies:
            del self._copies[identity]

    def find(self, active: Active) -> Hits:
        most = (active.target - 1) // self._block
        identified: list[int] = []
        from_free = 0
        n_ids = 0
        if self._chains is not None:
            ids = active.ids
            if ids is None:
                ids = active.ids = self._chains.of(active.request)
            n_ids = len(ids)
            first, holders = self._first, self._holders
            for identity in ids[:most]:
                block = first.get(identity)
                if block is None:
                    return Hits(identified, 0, from_free)
                identified.append(block)
                from_free += not holders[block]
        private = 0
        if active.private is not None and len(identified) == min(n_ids, most):
            group, registered = active.private
            private = min(self._free_list.get(group, 0), registered, most - len(identified))
        if not identified and not private:
            return NO_HITS
        return Hits(identified, private, from_free + private)

    def claim(self, active: Active, hits: Hits) -> None:
        free_list, holders = self._free_list, self._holders
        for block in hits.identified:
            if not holders[block]:
                free_list.pop(block, None)  # a chain may name one block twice
                self.free -= 1
            holders[block] += 1
        if hits.private:
            assert active.private is not None
            group, _ = active.private
            free_list[group] -= hits.private
            if not free_list[group]:
                del free_list[group]
            self.free -= hits.private
        active.private = None
        if self._chains is not None:
            active.held_ids = list(hits.identified)

    def register(self, active: Active, known_tokens: int) -> bool:
        held = active.held_ids
        if held is None:
            return False
        ids = active.ids
        assert ids is not None
        before = len(held)
        for identity in ids[before : known_tokens // self._block]:
            block = self._next
            self._next += 1
            self._identity[block] = identity
            self._holders[block] = 1
            if self._first.setdefault(identity, block) != block:
                self._copies.setdefault(identity, []).append(block)
            held.append(block)
        return len(held) > before

    def give_back(self, active: Active, n_held: int) -> None:
        held = active.held_ids
        n_anonymous = n_held - len(held) if held else n_held
        self.free += n_anonymous
        if n_anonymous:
            self._append_anonymous(n_anonymous)
        if held:
            self._let_go(held)
        active.held_ids = active.private = None

    def leave_behind(self, active: Active, n_held: int, registered_tokens: int) -> None:
        held = active.held_ids
        n_ids = len(held) if held else 0
        registered = registered_tokens // self._block - n_ids
        if registered > 0:
            self.free += n_held - n_ids
            self._next += 1
            group = -1 - self._next
            self._free_list[group] = n_held - n_ids
            active.private = (group, registered)
            self._last_anonymous = 0
        elif n_held > n_ids:
            self.free += n_held - n_ids
            self._append_anonymous(n_held - n_ids)
        if held:
            self._let_go(held)
        active.held_ids = None

    def _append_anonymous(self, n_blocks: int) -> None:
        last = self._last_anonymous
        if last and last in self._free_list:
            self._free_list[last] += n_blocks
            return
        self._next += 1
        self._last_anonymous = group = -1 - self._next
        self._free_list[group] = n_blocks

    def _let_go(self, held: Sequence[int]) -> None:
        """Release identified blocks, the last of the chain first."""
        holders = self._holders
        for block in reversed(held):
            holders[block] -= 1
            if not holders[block]:
                self._free_list[block] = 1
                self.free += 1
                self._last_anonymous = 0
