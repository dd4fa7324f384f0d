"""The prefix cache in extents against one that keeps every block: the stepping reference's pool."""

from __future__ import annotations

import random

import pytest
from stepping import Options, Pool, Request

from llmsched.engine.iteration.kv_blocks import CachedBlocks
from llmsched.engine.iteration.requests import Active
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.prefixes.prefix_tree import PrefixTree


class Both:
    """The same requests in both, and what they must agree on."""

    def __init__(self, r: random.Random) -> None:
        self.r, self.block = r, r.choice([1, 2, 4])
        per_id = r.choice([1, 1, 2, 5])
        n_blocks = r.randint(8, 40)
        n = 12
        prompts = [r.randint(1, 12 * self.block) for _ in range(n)]
        texts = [[r.randint(0, 2) for _ in range(20)] for _ in range(2)]
        ids = []
        for prompt in prompts:
            length = -(-prompt // (self.block * per_id))
            row = r.choice(texts)[: r.randint(0, length)]
            ids.append(row + [r.randint(100, 10**6) for _ in range(length - len(row))])
        tree = PrefixTree(PrefixIds.of(ids, tokens_per_id=self.block * per_id))
        self.blocks = CachedBlocks(n_blocks, self.block, tree, per_id)
        options = Options(usable_blocks=n_blocks, block_tokens=self.block, prefix_caching=True)
        self.pool = Pool(options, {})
        self.waiting = list(range(n))
        self.running: list[int] = []
        self.actives = [Active(i, prompt, prompt + 99) for i, prompt in enumerate(prompts)]
        self.requests = [
            Request(i, 0.0, prompt, 99, known=prompt) for i, prompt in enumerate(prompts)
        ]
        for request, row in zip(self.requests, ids, strict=True):
            blocks = [(i, part) for i in row for part in range(per_id)]
            request.block_ids = blocks[: request.prompt // self.block]

    def admit(self) -> None:
        """The first that waits, with some of its tokens."""
        if not self.waiting:
            return
        i = self.waiting[0]
        request, active = self.requests[i], self.actives[i]
        theirs, ours = self.pool.hits(request), self.blocks.find(active)
        in_free = sum(block in self.pool.free for block in theirs)
        assert (ours.n_blocks, ours.from_free) == (len(theirs), in_free)
        cached = len(theirs) * self.block
        new = self.r.randint(1, request.known - cached)
        if self.pool.needed(cached + new, theirs) > len(self.pool.free):
            return
        self.waiting.pop(0)
        self.running.append(i)
        self.pool.hold(request, theirs)
        self.blocks.claim(active, ours)
        request.computed = cached
        self.compute(i, new)

    def compute(self, i: int, new: int) -> None:
        request, active = self.requests[i], self.actives[i]
        more = self.pool.blocks(request.computed + new) - len(request.blocks)
        if more > len(self.pool.free):
            return
        self.pool.take(request, more)
        self.blocks.take(more)
        request.computed += new
        self.pool.register(request, min(request.computed, request.known))
        self.blocks.register(active, min(request.computed, request.known))

    def go_on(self) -> None:
        """The next chunk of somebody, or one token more."""
        if self.running:
            i = self.r.choice(self.running)
            request = self.requests[i]
            left = request.known - request.computed
            request.known += left <= 0
            self.compute(i, self.r.randint(1, left) if left > 0 else 1)

    def end(self) -> None:
        if self.running:
            i = self.running.pop(self.r.randrange(len(self.running)))
            self.blocks.give_back(self.actives[i], len(self.requests[i].blocks))
            self.pool.release(self.requests[i])

    def preempt(self) -> None:
        if self.running:
            i = self.running.pop(self.r.randrange(len(self.running)))
            request, active = self.requests[i], self.actives[i]
            registered = request.registered * self.block
            self.blocks.leave_behind(active, len(request.blocks), registered)
            self.pool.release(request)
            request.known = active.target = max(request.known, request.computed + 1)
            self.waiting.insert(self.r.randint(0, len(self.waiting)), i)

    def check(self) -> None:
        assert self.blocks.free == len(self.pool.free)
        assert sum(self.blocks._free_list.values()) == self.blocks.free
        for i in self.waiting:
            ours = self.blocks.find(self.actives[i])
            theirs = self.pool.hits(self.requests[i])
            assert ours.n_blocks == len(theirs)
            assert ours.from_free == sum(block in self.pool.free for block in theirs)


@pytest.mark.parametrize("seed", range(120))
def test_extents__find_what_single_blocks_find(seed):
    r = random.Random(seed)
    both = Both(r)
    verbs = [both.admit, both.admit, both.go_on, both.go_on, both.go_on, both.end, both.preempt]
    for _ in range(120):
        r.choice(verbs)()
        both.check()
