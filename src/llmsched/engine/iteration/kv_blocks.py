"""The KV memory of one replica, counted in blocks, with and without a prefix cache.

Without a cache blocks are alike and a count is enough. With one, a free block keeps its content
until it is taken, so the free blocks are a list: taken from the front, given back at the end, the
last block of a request first. A block is found again by its identity.

Blocks are never touched one by one. Those that only a preempted request can find are one group;
those with prefix ids are extents, consecutive blocks of a node of the `PrefixTree` with the same
holders, which are parted where they come to differ; all others lie between these in anonymous
groups. So a request costs a few operations, however long it is.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, Protocol

from llmsched.engine.iteration.requests import Active
from llmsched.workload.prefixes.prefix_tree import PrefixTree


class Extent:
    """Blocks `first` to `stop` of a node, registered one after the other, with the same holders."""

    __slots__ = ("first", "holders", "node", "rest", "stop")

    def __init__(self, node: int, first: int, stop: int, holders: int) -> None:
        self.node = node
        self.first = first
        self.stop = stop
        self.holders = holders  # requests that hold it; 0 if it lies in the free list
        self.rest: Extent | None = None  # what was parted from its end while it was held


Piece = tuple[Extent, int, int]
"""Some blocks of an extent, from and to; of those parted from it since, too."""


class Hits(NamedTuple):
    """What a request finds in the cache."""

    pieces: list[Piece]  # with prefix ids, in chain order
    n_blocks: int  # all that is found
    private: int  # of these its own from before a preemption, behind the pieces
    from_free: int  # of all these those in the free list


NO_HITS = Hits([], 0, 0, 0)


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
    tree : PrefixTree, optional
        Which prompts begin alike; None where nothing is known of that.
    blocks_per_id : int
        Blocks that a prefix id stands for.
    """

    __slots__ = (
        "_block",
        "_blocks_per_id",
        "_extents",
        "_free_list",
        "_last_anonymous",
        "_next_group",
        "_tree",
        "free",
    )

    def __init__(
        self,
        n_blocks: int,
        block_tokens: int,
        tree: PrefixTree | None = None,
        blocks_per_id: int = 1,
    ) -> None:
        self.free = n_blocks
        self._block = block_tokens
        self._tree = tree
        self._blocks_per_id = blocks_per_id
        # Extents and numbered groups in order, with the blocks in each.
        self._free_list: OrderedDict[Extent | int, int] = OrderedDict({1: n_blocks})
        self._last_anonymous = 1  # the group at the end, if it is anonymous; else 0
        self._next_group = 2
        self._extents: dict[int, list[Extent]] = {}  # by node, in order of registration

    @property
    def are_private(self) -> bool:
        return self._tree is None

    # -- taking and finding -----------------------------------------------------------------

    def take(self, n_blocks: int) -> None:
        self.free -= n_blocks
        free_list = self._free_list
        while n_blocks:
            group = next(iter(free_list))
            size = free_list[group]
            if size > n_blocks:
                free_list[group] = size - n_blocks
                if isinstance(group, Extent):
                    group.stop -= n_blocks
                return
            del free_list[group]
            n_blocks -= size
            if isinstance(group, Extent):
                self._forget(group)

    def _forget(self, extent: Extent) -> None:
        """The content of its blocks is overwritten; of several copies others are found now."""
        copies = self._extents[extent.node]
        copies.remove(extent)
        if not copies:
            del self._extents[extent.node]

    def find(self, active: Active) -> Hits:
        most = (active.target - 1) // self._block
        pieces: list[Piece] = []
        found = from_free = private = 0
        if self._tree is not None:
            for node, blocks in self._path(active):
                here = self._find_in(node, min(blocks, most - found), pieces)
                found += here
                if here < blocks:
                    break
            for extent, first, stop in pieces:
                if not extent.holders:
                    from_free += stop - first
        if active.private is not None:  # they are forgotten before those that they follow
            group, registered = active.private
            private = min(self._free_list.get(group, 0), registered, most - found)
        if not found and not private:
            return NO_HITS
        return Hits(pieces, found + private, private, from_free + private)

    def _path(self, active: Active) -> list[tuple[int, int]]:
        """Nodes of a request's full prompt blocks, and how many blocks it has of each."""
        if active.path is None:
            assert self._tree is not None
            left = active.prompt // self._block
            active.path = path = []
            for node, ids in self._tree.path(active.request):
                blocks = min(ids * self._blocks_per_id, left)
                if not blocks:
                    break
                path.append((node, blocks))
                left -= blocks
        return active.path

    def _find_in(self, node: int, wanted: int, pieces: list[Piece]) -> int:
        """Append what is there of the first blocks of a node; how many in a row."""
        copies = self._extents.get(node)
        at = 0
        while copies and at < wanted:
            stop = wanted
            for extent in copies:  # of several copies, the one registered first
                if extent.first <= at < extent.stop:
                    stop = min(stop, extent.stop)
                    pieces.append((extent, at, stop))
                    at = stop
                    break
                if at < extent.first < stop:
                    stop = extent.first  # from there on this one comes first
            else:
                break
        return at

    # -- holding ----------------------------------------------------------------------------

    def claim(self, active: Active, hits: Hits) -> None:
        if hits.private:
            assert active.private is not None
            group, _ = active.private
            self._free_list[group] -= hits.private
            if not self._free_list[group]:
                del self._free_list[group]
            self.free -= hits.private
        active.private = None
        active.pieces = [self._hold(extent, first, stop) for extent, first, stop in hits.pieces]
        active.n_shared = hits.n_blocks - hits.private

    def _hold(self, extent: Extent, first: int, stop: int) -> Piece:
        """Hold some blocks of an extent; the rest of it is parted from them."""
        if not extent.holders:
            self.free -= stop - first
            extent = self._cut_free(extent, first, stop)
        else:
            while extent.stop <= first:  # parted by an earlier piece of the same request
                assert extent.rest is not None
                extent = extent.rest
            if extent.first < first:
                extent = self._part(extent, first)
            if extent.stop > stop:
                self._part(extent, stop)
        extent.holders += 1
        return extent, first, stop

    def _part(self, extent: Extent, at: int) -> Extent:
        """Part a held extent; what is behind has the same holders, who find it as its `rest`."""
        behind = Extent(extent.node, at, extent.stop, extent.holders)
        behind.rest, extent.rest, extent.stop = extent.rest, behind, at
        copies = self._extents[extent.node]
        copies.insert(copies.index(extent) + 1, behind)
        return behind

    def _cut_free(self, extent: Extent, first: int, stop: int) -> Extent:
        """Take some blocks of an extent out of the free list; the others keep their places."""
        free_list = self._free_list
        if first == extent.first and stop == extent.stop:
            del free_list[extent]
            extent.rest = None
            return extent
        copies = self._extents[extent.node]
        cut = Extent(extent.node, first, stop, 0)
        copies.insert(copies.index(extent), cut)
        if first > extent.first and stop < extent.stop:
            low = Extent(extent.node, extent.first, first, 0)
            copies.insert(copies.index(extent), low)
            extent.first = stop
            after = {extent: extent.stop - stop, low: first - low.first}
            self._free_list = OrderedDict(
                pair
                for group, size in free_list.items()
                for pair in (after.items() if group is extent else ((group, size),))
            )
            return cut
        if first > extent.first:
            extent.stop = first
        else:
            extent.first = stop
        free_list[extent] = extent.stop - extent.first
        return cut

    def register(self, active: Active, known_tokens: int) -> bool:
        if self._tree is None:
            return False
        before, upto = active.n_shared, known_tokens // self._block
        at = 0  # blocks of the path so far
        for node, blocks in self._path(active):
            first, stop = max(before - at, 0), min(upto - at, blocks)
            if first < stop:
                extent = Extent(node, first, stop, 1)
                self._extents.setdefault(node, []).append(extent)
                active.pieces.append((extent, first, stop))
                active.n_shared += stop - first
            at += blocks
            if at >= upto:
                break
        return active.n_shared > before

    # -- giving back ------------------------------------------------------------------------

    def give_back(self, active: Active, n_held: int) -> None:
        if n_held > active.n_shared:
            self._append_anonymous(n_held - active.n_shared)
        if active.pieces:
            self._let_go(active)
        active.private = None

    def leave_behind(self, active: Active, n_held: int, registered_tokens: int) -> None:
        own = n_held - active.n_shared
        registered = registered_tokens // self._block - active.n_shared
        if registered > 0:
            self.free += own
            self._free_list[self._next_group] = own
            active.private = (self._next_group, registered)
            self._next_group += 1
            self._last_anonymous = 0
        elif own:
            self._append_anonymous(own)
        if active.pieces:
            self._let_go(active)

    def _append_anonymous(self, n_blocks: int) -> None:
        self.free += n_blocks
        last = self._last_anonymous
        if last and last in self._free_list:
            self._free_list[last] += n_blocks
            return
        self._last_anonymous = last = self._next_group
        self._next_group += 1
        self._free_list[last] = n_blocks

    def _let_go(self, active: Active) -> None:
        """Release the blocks with prefix ids, the last of the chain first."""
        extents = []
        for extent, _, stop in active.pieces:
            extents.append(extent)
            while extent.stop < stop:
                assert extent.rest is not None
                extent = extent.rest
                extents.append(extent)
        for extent in reversed(extents):
            extent.holders -= 1
            if not extent.holders:
                size = extent.stop - extent.first
                self._free_list[extent] = size
                self.free += size
                self._last_anonymous = 0
        active.pieces = []
        active.n_shared = 0
