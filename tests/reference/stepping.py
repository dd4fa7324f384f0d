"""The stepping reference: continuous batching step by step, one request object at a time.

What vLLM V1 does at every iteration (and V0's prefill-first mode), eager and naive, to compare the
fast engine with, request by request and bit for bit. Nothing here comes from `llmsched`, so an
agreement of the two is not a shared mistake. It is written for reading beside the rules: "rule 5"
and the like are the numbered rules of the iteration level, cited at the code that carries them out.

Read `Engine.act` first: process the oldest step, take in arrivals, decide until the pipeline is
full. Times are seconds, quantities are tokens or blocks.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import ceil, floor, inf, sqrt
from statistics import NormalDist
from typing import NamedTuple, Protocol

# (chunk, kv_before) of every prefill, decodes, sum of the decodes' kv_before -> seconds
StepTime = Callable[[list[tuple[int, int]], int, int], float]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the engine is told; the defaults are vLLM's where it has one."""

    usable_blocks: int  # num_gpu_blocks less the dummy
    block_tokens: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    depth: int = 2  # 2 = async scheduling, 1 = sync
    prefill: str = "chunked"  # or "first", which needs depth 1
    order: str = "fcfs"  # or "priority", smaller first
    full_sequence_check: bool = True
    watermark_blocks: int = 0
    long_prefill_token_threshold: int = 0  # 0 = off
    max_model_len: int | None = None
    prefix_caching: bool = False
    limits: frozenset[str] = frozenset()  # of "memory" (Algorithm 1) and "sla" (Algorithm 2)
    d_sla_s: float | None = None  # the decode latency that "sla" holds
    overhead_s: float = 0.0  # of every step
    per_request_s: float = 0.0  # of every entry of a step
    replicas: int = 1
    router: str = "round_robin"  # or "least_outstanding"

    def __post_init__(self) -> None:
        for name, known in {
            "depth": (1,) if self.prefill == "first" else (1, 2),  # rule 10
            "prefill": ("chunked", "first"),
            "order": ("fcfs", "priority"),
            "router": ("round_robin", "least_outstanding"),
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if ("sla" in self.limits) != (self.d_sla_s is not None):
            raise ValueError("d_sla_s goes with the limit 'sla': give both or neither")


@dataclass(eq=False)
class Request:
    """One request: what was asked, where it stands, and its stamps."""

    index: int
    arrival_s: float
    prompt: int
    output: int  # cut to max_model_len (rule 1)
    priority: float = 0
    block_ids: Sequence[object] = ()  # one per full prompt block; missing ones are private

    known: int = 0  # prompt + outputs received
    computed: int = 0  # tokens whose KV is there or being computed
    in_flight: int = 0  # sampled and not yet processed
    blocks: list[int] = field(default_factory=list)
    chain: list[int] = field(default_factory=list)  # identity of each block, with all before it
    registered: int = 0  # its first blocks that can be found
    seen: int = 0  # most tokens whose KV it ever had

    replica: int | None = None
    rejected: bool = False
    queued_s: float | None = None
    scheduled_s: float | None = None
    token_s: list[float] = field(default_factory=list)
    preemptions: int = 0
    cached_tokens: int = 0  # found when first admitted
    cached_again_tokens: int = 0  # found when admitted after a preemption
    lost_tokens: int = 0  # computed, when preempted
    recomputed_tokens: int = 0  # computed although their KV had been there before

    @property
    def key(self) -> tuple[float, float, int]:
        """The order of the priority policy (rule 8)."""
        return (self.priority, self.arrival_s, self.index)

    @property
    def first_s(self) -> float | None:
        return self.token_s[0] if self.token_s else None

    @property
    def finish_s(self) -> float | None:
        return self.token_s[-1] if len(self.token_s) == self.output and self.token_s else None


class Entry(NamedTuple):
    """One request's part of one step."""

    request: Request
    chunk: int
    kv_before: int
    samples: bool

    @property
    def decodes(self) -> bool:
        """Rule 15: a one-token chunk with KV before it is a decode, a one-token prompt is not."""
        return self.chunk == 1 and self.kv_before > 0


@dataclass(eq=False)
class Decision:
    """One decision and the step it made; an empty decision has neither start nor end."""

    replica: int
    decided_s: float
    entries: list[Entry]
    preempted: list[int]  # in the order preempted
    limit: int  # of requests in running, for admission
    tokens: int = 0  # planned
    ran_before: int = 0  # requests in running when it began
    start_s: float | None = None
    end_s: float | None = None
    duration_s: float | None = None
    free_blocks: int = 0  # after the decision, as the next two
    used_blocks: int = 0
    waiting: list[int] = field(default_factory=list)


# ------------------------------------------------------------------------------ blocks (A1, 14)


class Pool:
    """KV blocks: a free list in order of reuse, and which block holds which chain identity."""

    def __init__(self, options: Options, chains: dict[tuple[int, object], int]) -> None:
        self.total, self.size = options.usable_blocks, options.block_tokens
        self.caching = options.prefix_caching
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(self.total))
        self.holders = [0] * self.total  # requests that hold each block
        self.identity: list[int | None] = [None] * self.total
        self.found: dict[int, list[int]] = {}  # identity -> its blocks, first registered first
        self.chains = chains

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.size)

    def chain(self, request: Request, block: int) -> int:
        """Identity of a block and all before it: given ids, else private to the request (14)."""
        for i in range(len(request.chain), block + 1):
            given = i < request.prompt // self.size and i < len(request.block_ids)
            own = ("given", request.block_ids[i]) if given else ("private", request.index, i)
            parent = request.chain[-1] if request.chain else -1
            request.chain.append(self.chains.setdefault((parent, own), len(self.chains)))
        return request.chain[block]

    def hits(self, request: Request) -> list[int]:
        """Longest chain found among floor((known - 1)/16) blocks: the last token is computed."""
        found: list[int] = []
        if self.caching:
            for i in range((request.known - 1) // self.size):
                same = self.found.get(self.chain(request, i))
                if not same:
                    break
                found.append(same[0])  # of several, the one registered first (14)
        return found

    def needed(self, tokens: int, hits: list[int]) -> int:
        """Blocks taken from the free list for so many tokens; hits lying in it count (A1)."""
        return self.blocks(tokens) - len(hits) + sum(block in self.free for block in hits)

    def hold(self, request: Request, hits: list[int]) -> None:
        for block in hits:
            self.free.pop(block, None)
            self.holders[block] += 1
        request.blocks.extend(hits)
        request.registered = len(hits)

    def take(self, request: Request, n: int) -> None:
        """Pop n blocks from the front; a cached block so taken is forgotten."""
        for _ in range(n):
            block, _none = self.free.popitem(last=False)
            was = self.identity[block]
            if was is not None:
                self.found[was].remove(block)
                if not self.found[was]:
                    del self.found[was]
                self.identity[block] = None
            self.holders[block] = 1
            request.blocks.append(block)

    def register(self, request: Request, tokens: int) -> None:
        """Make the full blocks of so many tokens findable."""
        if self.caching:
            for i in range(request.registered, tokens // self.size):
                block = request.blocks[i]
                self.identity[block] = self.chain(request, i)
                self.found.setdefault(request.chain[i], []).append(block)
            request.registered = max(request.registered, tokens // self.size)

    def release(self, request: Request) -> None:
        """Give all blocks back, last block first (A1)."""
        for block in reversed(request.blocks):
            self.holders[block] -= 1
            if not self.holders[block]:
                self.free[block] = None
        request.blocks.clear()
        request.registered = 0


# ------------------------------------------------------------------------- the batch limit (12)


class BatchLimit:
    """Algorithms 1 (memory) and 2 (SLA) of arXiv 2503.05248, in the arithmetic order of rule 12."""

    def __init__(self, options: Options) -> None:
        self.memory, self.sla = "memory" in options.limits, "sla" in options.limits
        self.b_max = self.b_mem = self.high = options.max_num_seqs
        self.low = self.b_min = 1
        self.eta = options.usable_blocks * options.block_tokens
        self.d_sla_s = options.d_sla_s
        self.m1, self.m2 = 500.0, 500.0 * 500.0
        self.mixed = False  # the last processed step had decodes and prefills
        self.window: list[tuple[float, int]] = []  # (duration, decodes)

    def ask(self, n_decoding: int) -> int:
        """The limit for this decision, n_decoding being rule 12's N_d."""
        b = self.b_max
        if self.memory:
            if self.mixed:
                self.b_mem = self._equation_12()
            b = min(b, self.b_mem)
        if self.sla:
            b = min(b, (self.low + self.high) // 2)
        return min(max(b, n_decoding, self.b_min), self.b_max)

    def _equation_12(self) -> int:
        theta = NormalDist().inv_cdf(1 - 0.05)
        sigma = sqrt(max(0.0, self.m2 - self.m1 * self.m1))
        inside = sigma * sigma * theta * theta + 4 * self.m1 * self.eta
        root = (sqrt(inside) - sigma * theta) / (2 * self.m1)
        return floor(root * root)

    def finished(self, tokens: int) -> None:
        """A request ended with so many tokens, prompt and output."""
        self.m1 = 0.2 * tokens + 0.8 * self.m1
        self.m2 = 0.2 * (tokens * tokens) + 0.8 * self.m2

    def processed(self, duration_s: float, decodes: int, prefills: int) -> None:
        """A step was processed; every tenth with decodes is an observation of Algorithm 2."""
        self.mixed = decodes > 0 and prefills > 0
        if self.sla and decodes > 0:
            self.window.append((duration_s, decodes))
            if len(self.window) == 10:
                duration_s = sum(duration for duration, _ in self.window) / 10
                self._algorithm_2(duration_s, sum(n for _, n in self.window) // 10)
                self.window.clear()

    def _algorithm_2(self, duration_s: float, size: int) -> None:
        low, high = self.low, self.high  # right-hand sides use old values
        tolerance_s = 0.1 * self.d_sla_s
        if duration_s > self.d_sla_s + tolerance_s:
            self.high, self.low = max(size, low + 16), max(low - 4, self.b_min)
        elif duration_s < self.d_sla_s - tolerance_s:
            self.low, self.high = min(size, high - 16), min(high + 4, self.b_max)
        else:
            self.high, self.low = min(size + 8, self.b_max), max(size - 8, self.b_min)
        self.low = min(max(self.low, self.b_min), self.b_max)
        self.high = min(max(self.high, self.low), self.b_max)


# ------------------------------------------------------------------------------- one engine (2-11)


class Engine:
    """One replica: an inbox, a waiting queue, a running list, blocks, and steps in flight."""

    def __init__(
        self,
        index: int,
        options: Options,
        step_time: StepTime,
        chains: dict[tuple[int, object], int],
    ) -> None:
        self.index, self.options, self.step_time = index, options, step_time
        self.pool = Pool(options, chains)
        self.batch_limit = BatchLimit(options)
        self.inbox: deque[Request] = deque()
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.flight: deque[Decision] = deque()
        self.decisions: list[Decision] = []
        self.levels: list[tuple[float, int]] = []  # (instant, blocks used from then on)
        self.device_free_s = -inf
        self.outstanding = 0  # accepted and not finished
        self.on_decision: Callable[[Engine, Decision], None] | None = None
        self.on_finish: Callable[[int, float], None] | None = None

    def next_instant_s(self) -> float:
        """Rule 2: the end of the oldest step in flight, or an arrival while the engine is empty."""
        if self.flight:
            return self.flight[0].end_s
        return self.inbox[0].arrival_s if self.inbox else inf

    def act(self, now: float) -> None:
        """One instant: process the oldest step, take in what arrived, decide (rules 2 and 3)."""
        if self.flight and self.flight[0].end_s == now:
            self.process(self.flight.popleft(), now)
        while self.inbox and self.inbox[0].arrival_s <= now:
            request = self.inbox.popleft()
            request.queued_s = now
            self.queue(request)
        while len(self.flight) < self.options.depth and (self.waiting or self.running):
            decision = self.decide(now)
            if decision.entries:
                self.flight.append(decision)
            elif self.flight or not decision.preempted:
                break  # an empty decision waits for the oldest step ...
            # ... but where a request just preempted itself and no step is in flight, there is none
            # to wait for while others in running could go on (priority only): decide again
        self.levels.append((now, self.pool.total - len(self.pool.free)))

    def queue(self, request: Request) -> None:
        if self.options.order == "priority":  # rule 8
            insort(self.waiting, request, key=lambda one: one.key)
        else:
            self.waiting.append(request)

    def process(self, step: Decision, now: float) -> None:
        """Rule 7."""
        for request, _, _, samples in step.entries:
            if not samples:
                continue
            request.in_flight -= 1
            request.known += 1
            request.token_s.append(now)
            if request in self.running:  # not if preempted meanwhile: then it holds no blocks
                self.pool.register(request, request.computed - request.in_flight)
            if len(request.token_s) == request.output:
                self.pool.release(request)
                (self.running if request in self.running else self.waiting).remove(request)
                self.outstanding -= 1
                self.batch_limit.finished(request.prompt + request.output)
                if self.on_finish:
                    self.on_finish(request.index, now)
        decodes = sum(entry.decodes for entry in step.entries)
        self.batch_limit.processed(step.duration_s, decodes, len(step.entries) - decodes)

    def duration_s(self, entries: list[Entry]) -> float:
        """Rule 15, in its order of operations."""
        prefills = [(entry.chunk, entry.kv_before) for entry in entries if not entry.decodes]
        kv = [entry.kv_before for entry in entries if entry.decodes]
        step_s = self.step_time(prefills, len(kv), sum(kv))
        return (step_s + self.options.overhead_s) + self.options.per_request_s * len(entries)

    # ------------------------------------------------------------------------------ one decision

    def decide(self, now: float) -> Decision:
        """Running first, then waiting (A1); in prefill-first mode the other way round (rule 10)."""
        decoding = sum(request.computed >= request.prompt for request in self.running)
        decision = Decision(self.index, now, [], [], self.batch_limit.ask(decoding))
        decision.ran_before = len(self.running)
        if self.options.prefill == "first":
            self.admit(decision)
            if not decision.entries:
                self.go_on_running(decision)
        else:
            self.go_on_running(decision)
            if not decision.preempted:  # rule 9
                self.admit(decision)
        if decision.entries:
            self.dispatch(decision, now)
        decision.free_blocks = len(self.pool.free)
        decision.used_blocks = self.pool.total - len(self.pool.free)
        decision.waiting = [request.index for request in self.waiting]
        self.decisions.append(decision)
        if self.on_decision:
            self.on_decision(self, decision)
        return decision

    def dispatch(self, step: Decision, now: float) -> None:
        """Rule 4, in its order of operations, and the stamps of those who are in the step."""
        step.start_s = max(now, self.device_free_s)
        step.duration_s = self.duration_s(step.entries)
        step.end_s = step.start_s + step.duration_s
        self.device_free_s = step.end_s
        for request, chunk, kv_before, _ in step.entries:
            if request.scheduled_s is None:
                request.scheduled_s = now
            again = min(kv_before + chunk, request.seen) - kv_before
            request.recomputed_tokens += max(0, again)
            request.seen = max(request.seen, kv_before + chunk)

    def budget(self, decision: Decision) -> int:
        return self.options.max_num_batched_tokens - decision.tokens

    def cut(self, new: int, budget: int) -> int:
        threshold = self.options.long_prefill_token_threshold
        return min(new, threshold or new, budget)

    def go_on_running(self, decision: Decision) -> None:
        """The running list in its order (rules 5, 6; A1.1-2)."""
        for request in list(self.running):
            if request not in self.running:
                continue  # preempted in this decision
            if len(request.token_s) + request.in_flight == request.output:
                continue  # its last token is in flight
            new = request.known + request.in_flight - request.computed
            new = self.cut(new, self.budget(decision))
            if new == 0:
                continue
            wanted = self.pool.blocks(request.computed + new) - len(request.blocks)
            while wanted > len(self.pool.free):
                victim = self.victim()
                self.preempt(victim, decision)
                if victim is request:
                    return  # it preempted itself: the loop ends
            self.plan(request, new, decision)

    def victim(self) -> Request:
        if self.options.order == "priority":
            return max(self.running, key=lambda request: request.key)
        return self.running[-1]

    def preempt(self, victim: Request, decision: Decision) -> None:
        """A1.5: blocks freed, computed := 0, known and in flight kept; to the head of waiting."""
        for entry in decision.entries:
            if entry.request is victim:  # priority only: taken out, its tokens return (rule 8)
                decision.entries.remove(entry)
                decision.tokens -= entry.chunk
                victim.computed = entry.kv_before
                victim.in_flight -= entry.samples
                break
        self.running.remove(victim)
        self.pool.release(victim)
        victim.lost_tokens += victim.computed
        victim.computed = 0
        victim.preemptions += 1
        decision.preempted.append(victim.index)
        if self.options.order == "priority":
            self.queue(victim)
        else:
            self.waiting.insert(0, victim)  # the last one preempted is first (rule 9)

    def admit(self, decision: Decision) -> None:
        """The waiting queue from its head; who does not fit stops it (rules 10, 11; A1.3-4)."""
        whole = self.options.prefill == "first"
        while self.waiting and len(self.running) < decision.limit:
            request, budget = self.waiting[0], self.budget(decision)
            assert not request.in_flight, "at most depth - 1 = 1 step is in flight at a decision"
            hits = self.pool.hits(request)
            cached = len(hits) * self.pool.size
            new = request.known - cached
            if whole and decision.entries and new > budget:
                return  # nor if it is longer than any budget: that one goes alone (rule 10)
            if not whole:
                if budget == 0:
                    return
                new = self.cut(new, budget)
            free = len(self.pool.free)
            if self.running:
                free -= self.options.watermark_blocks
            if self.options.full_sequence_check and self.pool.needed(request.known, hits) > free:
                return
            if self.pool.needed(cached + new, hits) > free:
                return
            self.running.append(self.waiting.pop(0))
            self.pool.hold(request, hits)
            if request.scheduled_s is None:
                request.cached_tokens = cached
            else:
                request.cached_again_tokens += cached
            request.computed = cached
            request.seen = max(request.seen, cached)
            self.plan(request, new, decision)

    def plan(self, request: Request, new: int, decision: Decision) -> None:
        """Give a request its tokens and blocks; it samples when computed meets known (rule 5)."""
        kv_before = request.computed
        self.pool.take(request, self.pool.blocks(kv_before + new) - len(request.blocks))
        request.computed += new
        samples = request.computed >= request.known + request.in_flight
        request.in_flight += samples
        self.pool.register(request, min(request.computed, request.known))  # rule 14
        decision.entries.append(Entry(request, new, kv_before, samples))
        decision.tokens += new


# ---------------------------------------------------------------------------- replicas (1 and 13)


class Demand(Protocol):
    """When requests come: (instant, index), by themselves or because of an answer."""

    def first(self) -> Iterator[tuple[float, int]]: ...

    def answered(self, request: int, now_s: float) -> list[tuple[float, int]]: ...


@dataclass(eq=False)
class Result:
    """All requests in trace order, and all decisions of every engine in the order made."""

    options: Options
    requests: list[Request]
    engines: list[Engine]

    @property
    def steps(self) -> list[Decision]:
        """Every step of every engine, in order of (decided, replica)."""
        every = [one for engine in self.engines for one in engine.decisions if one.entries]
        return sorted(every, key=lambda one: (one.decided_s, one.replica))


def run(
    arrival_s: Sequence[float],
    prompt_tokens: Sequence[int],
    output_tokens: Sequence[int],
    step_time: StepTime,
    options: Options,
    *,
    priority: Sequence[float] | None = None,
    block_ids: Sequence[Sequence[object]] | None = None,
    on_decision: Callable[[Engine, Decision], None] | None = None,
    demand: Demand | None = None,
) -> Result:
    """Serve a trace to its end; `on_decision` is called after every decision, empty ones too.

    With a demand, answers bring requests. Those that an answer or refusal brings at its own instant
    come when everything else of that instant is done; idle engines then act once more.
    """
    requests = []
    for i, (at, prompt, output) in enumerate(
        zip(arrival_s, prompt_tokens, output_tokens, strict=True)
    ):
        if options.max_model_len is not None:
            output = min(int(output), options.max_model_len - int(prompt))  # rule 1
        request = Request(i, float(at), int(prompt), int(output), known=int(prompt))
        request.priority = priority[i] if priority is not None else 0
        request.block_ids = block_ids[i] if block_ids is not None else ()
        last_kv = request.prompt + request.output - 1  # the last token's is never computed
        too_long = ceil(last_kv / options.block_tokens) > options.usable_blocks
        request.rejected = request.output < 1 or too_long
        requests.append(request)
    chains: dict[tuple[int, object], int] = {}
    engines = [Engine(i, options, step_time, chains) for i in range(options.replicas)]
    coming = [(request.arrival_s, request.index) for request in requests]
    if demand is not None:
        coming = list(demand.first())
    heapify(coming)

    def answered(index: int, now: float) -> None:
        if demand is not None:
            for one in demand.answered(index, now):
                heappush(coming, one)

    for engine in engines:
        engine.on_decision, engine.on_finish = on_decision, answered
    n_arrived = 0
    while True:
        now = min(engine.next_instant_s() for engine in engines)
        if coming:
            now = min(now, coming[0][0])
        if now == inf:
            break
        due = []
        while coming and coming[0][0] <= now:
            due.append(heappop(coming)[1])
        for index in due:  # rule 13: all arrivals first
            requests[index].arrival_s = now
            assign(n_arrived, requests[index], engines)
            n_arrived += 1
            if requests[index].rejected:
                answered(index, now)
        for engine in engines:
            while engine.next_instant_s() == now:
                engine.act(now)
    for engine in engines:
        if engine.waiting or engine.running:
            raise AssertionError("an engine stood still with requests waiting or running")
    return Result(options, requests, engines)


def assign(k: int, request: Request, engines: list[Engine]) -> None:
    """Rule 13: the k-th request of the trace sorted by arrival, rejected ones counted."""
    if engines[0].options.router == "least_outstanding":
        engine = min(engines, key=lambda one: (one.outstanding, one.index))
    else:
        engine = engines[k % len(engines)]
    if not request.rejected:
        request.replica = engine.index
        engine.outstanding += 1
        engine.inbox.append(request)
