"""One replica without a clock: at an instant it processes a step, takes requests in and decides.

These are the rules of vLLM's scheduler. Requests that decode are one set (`Decodes`), so that a
step costs O(1): requests are touched one by one only when they are admitted, compute a chunk, end
or are preempted. A step's end is known when it is decided, and so are the times of its tokens; what
has to wait for that end is done in `_process`. Runs of equal steps are leapt (`leap`).
"""

from __future__ import annotations

import math
from collections import deque

from llmsched.engine.iteration.decodes import Decodes
from llmsched.engine.iteration.kv_blocks import KvBlocks
from llmsched.engine.iteration.leap import Leap, not_a_time, plan_leap
from llmsched.engine.iteration.log import ReplicaLog, RequestLog
from llmsched.engine.iteration.requests import (
    NEVER_ADMITTED,
    PREEMPTED,
    Active,
    Chunk,
    ServedRequests,
    Step,
)
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.engine.iteration.shortage import RunningPlan, plan_one_by_one
from llmsched.engine.iteration.step_latency import StepLatency
from llmsched.schedulers_iteration.base import ProcessedStep, RunningLimit, WaitingOrder

INFINITY = math.inf

class Core:
    """One replica's state and its decisions.

    Parameters
    ----------
    requests : ServedRequests
    settings : IterationSettings
    step_latency : StepLatency
    order : WaitingOrder
        Who is admitted next; this replica's own.
    limit : RunningLimit, optional
        How many may run; this replica's own.
    blocks : KvBlocks
    times : RequestLog
        Columns that all replicas write to, each for its own requests.
    leaps : bool
        Whether runs of equal steps are taken at once; the results are the same.
    """

    def __init__(
        self,
        requests: ServedRequests,
        settings: IterationSettings,
        step_latency: StepLatency,
        order: WaitingOrder,
        limit: RunningLimit | None,
        blocks: KvBlocks,
        times: RequestLog,
        *,
        leaps: bool = True,
    ) -> None:
        self.requests = requests
        self.settings = settings
        self.step_latency = step_latency
        self.order = order
        self.limit = limit
        self.blocks = blocks
        self.times = times
        self.log = ReplicaLog()
        self.leaps = leaps
        self.depth = settings.depth
        self.block_tokens = settings.block_tokens
        self.step_tokens = settings.step_tokens
        self.max_running = settings.max_running
        self.usable_blocks = settings.usable_blocks
        self.overhead_s = settings.overhead_s
        self.per_request_s = settings.per_request_s
        self.chunk_tokens = settings.long_prefill_tokens or settings.step_tokens
        self.prefill_first = settings.prefill == "first"

        self.inbox: deque[int] = deque()
        self.n_waiting = 0
        self.running: dict[int, Active] = {}  # by seq, so in order of admission
        self.in_service: dict[int, Active] = {}  # by request: running, preempted, or at the head
        self.prefilling: list[Active] = []  # running, with tokens left to prefill
        self.late: list[Active] = []  # decoding, with a latest token that is not the last tick's
        self.decodes = Decodes(settings.block_tokens, self.running)
        self.in_flight: deque[Step] = deque()
        self.leap: Leap | None = None
        self.refused = False  # the head does not fit until blocks are freed or the head changes
        self.overlapped = False  # the last step was decided while another was in flight
        self.end_s = -INFINITY  # of the last step decided
        self.tick_end_s = -INFINITY  # of the last tick
        self.next_arrival_s = INFINITY  # at this replica, where it is known in advance
        self.next_s = INFINITY  # when to act next, unless something arrives
        self.n_outstanding = 0  # requests delivered and not finished
        self.predicted_tokens = 0  # their prompts and predicted outputs
        self._next_seq = 0

    # -- instants ---------------------------------------------------------------------------

    def act(self, now_s: float, horizon_s: float = -INFINITY) -> None:
        """Act at this instant, and at all further ones before the horizon.

        Nothing arrives before the horizon, so that nobody has to be woken in between.
        """
        in_flight, inbox, depth, log = self.in_flight, self.inbox, self.depth, self.log
        arrival = self.requests.arrival
        while True:
            if self.leap is not None:
                self.leap.commit(self)
                self.leap = None
            if in_flight:
                step = in_flight.popleft()
                if step[1] or self.limit is not None:
                    self.process(step)
            while inbox and arrival[inbox[0]] <= now_s:
                self.take_in(inbox.popleft(), now_s)
            while len(in_flight) < depth and (self.running or self.n_waiting):
                if not self._decide(now_s) and not self._must_decide_again():
                    break
            used = self.usable_blocks - self.blocks.free
            if used != log.kv_blocks:
                log.kv(now_s, used)
            if self.leap is not None:
                self.next_s = self.leap.wake_s
            else:
                self.next_s = in_flight[0][0] if in_flight else INFINITY
            if self.next_s >= horizon_s:
                return
            now_s = self.next_s

    def take_in(self, request: int, now_s: float) -> None:
        """A request joins those that wait."""
        self.times.queued_s[request] = now_s
        self.order.add(request)
        self.n_waiting += 1
        if not self.order.fifo:
            self.refused = False

    def seen(self, now_s: float) -> tuple[int, int, int]:
        """Outstanding requests, used blocks and predicted tokens before anything of this instant."""
        outstanding, predicted = self.n_outstanding, self.predicted_tokens
        used = self.usable_blocks - self.blocks.free
        if self.leap is not None:
            used += self.leap.blocks_taken(self, now_s)
            for active in self.leap.ended_by(self, now_s):
                outstanding -= 1
                predicted -= self.requests.predicted_work[active.request]
                used -= active.blocks_at_end(self.block_tokens)
        return outstanding, used, predicted

    def process(self, step: Step) -> None:
        """Receive a step's tokens: who got the last one leaves, and the limit learns."""
        _, ended, duration_s, n_decodes, n_prefills = step
        limit = self.limit
        for active in ended:
            request = active.request
            if active.seq >= 0:
                del self.running[active.seq]
                self.blocks.give_back(active, active.blocks_at_end(self.block_tokens))
            else:  # preempted while its last token was in flight
                self.order.remove(request)
                self.n_waiting -= 1
            del self.in_service[request]
            self.n_outstanding -= 1
            self.predicted_tokens -= self.requests.predicted_work[request]
            self.refused = False
            if limit is not None:
                prompt = self.requests.prompt[request]
                limit.finished(prompt, active.total - prompt)
        if limit is not None:
            limit.observe(ProcessedStep(duration_s, n_decodes, n_prefills))

    # -- decisions --------------------------------------------------------------------------

    def _decide(self, now_s: float) -> bool:
        """Decide the next step and start it; False for an empty decision, or a leap instead."""
        most = self.max_running if self.limit is None else self._may_run()
        self.preempted = False
        if not self.prefilling and not self.late and self._leap_from(now_s, most):
            return False
        if self.prefill_first and self.n_waiting:
            chunks = self._admit_whole(most, now_s)
            if chunks:
                self._start(now_s, 0, 0, chunks, [], is_tick=False)
                return True
        n, kv, chunks, late, budget = self._go_on()
        if self.n_waiting and not self.preempted and not self.prefill_first:
            self._admit(chunks, budget, most, now_s)
        if not n and not chunks:
            return False
        self._start(now_s, n, kv, chunks, late, is_tick=True)
        return True

    def _leap_from(self, now_s: float, most: int) -> bool:
        """Plan a leap if the next decisions are like this one: decodes only, nobody admitted."""
        n, in_flight = self.decodes.n, self.in_flight
        if not n or not self.leaps or len(in_flight) != self.depth - 1 or n > self.step_tokens:
            return False
        somebody_leaves = bool(in_flight and in_flight[0][1])
        has_room = len(self.running) < most and (n < self.step_tokens or self.prefill_first)
        full = not has_room and self.limit is None and not somebody_leaves
        if self.n_waiting:
            if not full and (somebody_leaves or not self.refused):
                return False
            can_be_cut = not full and not self.order.fifo
        else:
            if somebody_leaves and not self.blocks.are_private:
                return False
            can_be_cut = not full
        self.leap = plan_leap(self, now_s, can_be_cut=can_be_cut)
        return self.leap is not None

    def _go_on(self) -> RunningPlan:
        """What running requests compute next."""
        decodes, blocks = self.decodes, self.blocks
        while True:
            n = decodes.n
            budget = self.step_tokens - n
            needed = decodes.blocks_needed()
            chunk_blocks = self._chunk_blocks(budget) if self.prefilling else 0
            if budget < 0 or chunk_blocks is None:
                return plan_one_by_one(self)
            if needed + chunk_blocks <= blocks.free:
                break
            if not self.order.evicts_last:
                return plan_one_by_one(self)
            # Whoever is left gets what it needs, so the order in which they ask does not matter.
            self.preempt(self.running[next(reversed(self.running))], 0)
        kv, late = decodes.kv_tokens, self.late
        if late:
            self.late = []
        if needed:
            blocks.take(needed)
        chunks: list[Chunk] = []
        if self.prefilling:
            budget = self._continue_prefills(chunks, budget)
        return n, kv, chunks, late, budget

    def _must_decide_again(self) -> bool:
        """After an empty decision: whether nothing else would ever wake this replica."""
        if self.leap is not None or self.in_flight:
            return False
        if not self.preempted:
            raise ValueError(
                f"a scheduler must let somebody run, got nobody of {self.n_waiting} waiting "
                "requests while none runs; mend its order or its limit"
            )
        return True

    def _may_run(self) -> int:
        """How many requests may run now, by the limit."""
        assert self.limit is not None
        prompt = self.requests.prompt
        n_prefilling = sum(a.computed < prompt[a.request] for a in self.prefilling)
        return min(self.max_running, self.limit.limit(len(self.running) - n_prefilling))

    def _chunk_blocks(self, budget: int) -> int | None:
        """Blocks for the next chunk of every unfinished prompt.

        None if the tokens do not suffice and it matters who is first; not so for the last one.
        """
        block, blocks = self.block_tokens, 0
        for active in self.prefilling:
            computed = active.computed
            new = min(active.target - computed, self.chunk_tokens)
            if new > budget:
                if active.seq != next(reversed(self.running)):
                    return None
                new = budget
            budget -= new
            blocks += -(-(computed + new) // block) - -(-computed // block)
        return blocks

    def _continue_prefills(self, chunks: list[Chunk], budget: int) -> int:
        """Plan the next chunk of every unfinished prompt; the budget that is left."""
        for active in self.prefilling:
            new = min(active.target - active.computed, self.chunk_tokens, budget)
            if new:
                self.plan_chunk(chunks, active, new)
                budget -= new
        return budget

    def plan_chunk(self, chunks: list[Chunk], active: Active, new: int) -> None:
        """Give a prompt its next tokens and their blocks."""
        block, computed = self.block_tokens, active.computed
        self.blocks.take(-(-(computed + new) // block) - -(-computed // block))
        if self.blocks.register(active, computed + new):
            self.refused = False
        chunks.append((active, new))

    # -- admission --------------------------------------------------------------------------

    def _admit(self, chunks: list[Chunk], budget: int, most: int, now_s: float) -> None:
        """Admit waiting requests in order, while tokens, places and blocks last."""
        n_admitted = 0
        while budget > 0 and not self.refused and self.n_waiting and len(self.running) < most:
            active = self._head(n_admitted)
            if active is None:
                return
            hits = self.blocks.find(active)
            computed = hits.n_blocks * self.block_tokens
            new = min(active.target - computed, self.chunk_tokens, budget)
            upto = active.target if self.settings.full_sequence_check else computed + new
            if not self._fits(upto, hits.n_blocks, hits.from_free):
                return
            self.blocks.claim(active, hits)
            self._join(active, computed, now_s)
            self.plan_chunk(chunks, active, new)
            budget -= new
            n_admitted += 1

    def _admit_whole(self, most: int, now_s: float) -> list[Chunk]:
        """Admit waiting requests in order, whole prompts only; one beyond the budget goes alone."""
        chunks: list[Chunk] = []
        budget = self.step_tokens
        while budget > 0 and not self.refused and self.n_waiting and len(self.running) < most:
            active = self._head(len(chunks))
            if active is None:
                break
            hits = self.blocks.find(active)
            computed = hits.n_blocks * self.block_tokens
            new = active.target - computed
            if chunks and new > budget:
                break
            if not self._fits(active.target, hits.n_blocks, hits.from_free):
                break
            self.blocks.claim(active, hits)
            self._join(active, computed, now_s)
            self.plan_chunk(chunks, active, new)
            budget -= new
        return chunks

    def _head(self, n_admitted: int) -> Active | None:
        request = self.order.head(n_admitted)
        if request is None:
            return None
        active = self.in_service.get(request)
        if active is None:
            requests = self.requests
            active = Active(request, requests.prompt[request], requests.total[request])
            self.in_service[request] = active
        return active

    def _fits(self, tokens: int, n_hits: int, hits_from_free: int) -> bool:
        """Whether so many tokens of the head would fit now; if not, the head is refused."""
        blocks = -(-tokens // self.block_tokens) - n_hits + hits_from_free
        if self.running:
            blocks += self.settings.watermark_blocks
        self.refused = blocks > self.blocks.free
        return not self.refused

    def _join(self, active: Active, computed: int, now_s: float) -> None:
        """The head becomes the last of the running requests."""
        request, times = active.request, self.times
        self.order.remove(request)
        self.n_waiting -= 1
        if active.seq == NEVER_ADMITTED:
            times.scheduled_s[request] = now_s
            times.cached_tokens[request] = computed
        active.seq = seq = self._next_seq
        self._next_seq = seq + 1
        active.computed = computed
        self.running[seq] = active
        self.prefilling.append(active)

    # -- preemption -------------------------------------------------------------------------

    def preempt(self, active: Active, planned: int) -> None:
        """Stop a running request, free its blocks and let it wait.

        `planned` is what this very decision had given it [tokens].
        """
        if active.decoding:
            computed = self.decodes.tick - active.offset
            registered = self._findable(active, planned)
            if active.late:
                self.late.remove(active)
                active.late = False
            else:
                active.last_token_s = self.tick_end_s
            self.decodes.leave(active)
            active.target = computed + 1
        elif active.ended:
            computed, registered = active.total - 1, 0
        else:
            computed = active.computed
            registered = computed + planned
            self.prefilling.remove(active)
        active.furthest = max(active.furthest, computed)
        held = -(-(computed + planned) // self.block_tokens)
        self.blocks.leave_behind(active, held, registered)
        del self.running[active.seq]
        active.seq = PREEMPTED
        active.computed = 0
        self.order.put_back(active.request)
        self.n_waiting += 1
        self.times.preemptions[active.request] += 1
        self.refused = False
        self.preempted = True

    def _findable(self, active: Active, planned: int) -> int:
        """Tokens of a decoding request that a prefix cache has registered.

        They are those whose content was known when it was last looked at: at its latest decision,
        or when a step of it was processed since.
        """
        tick = self.decodes.tick
        computed = tick - active.offset
        in_flight = bool(self.in_flight) and not active.late
        if planned:
            return computed + 1 - in_flight
        if not in_flight or not self.overlapped:
            return computed
        was_in_both = active.first_tick < tick and active.resumed_tick != tick - 1
        return computed - was_in_both

    # -- steps ------------------------------------------------------------------------------

    def _start(
        self,
        now_s: float,
        n_decodes: int,
        decode_kv: int,
        chunks: list[Chunk],
        late: list[Active],
        *,
        is_tick: bool,
    ) -> None:
        """Put the step on the device, behind those in flight, and note what its end brings."""
        log = self.log
        n, kv, tokens = n_decodes, decode_kv, n_decodes
        prefills: list[tuple[int, int]] = []
        for active, new in chunks:
            tokens += new
            if new == 1 and active.computed:
                n += 1
                kv += active.computed
            else:
                prefills.append((new, active.computed))
        duration_s = (self.step_latency.step_s(prefills, n, kv) + self.overhead_s) + (
            self.per_request_s * (n_decodes + len(chunks))
        )
        if not 0.0 <= duration_s < INFINITY:
            raise not_a_time(duration_s, len(prefills), n, kv)
        end_s = (now_s if now_s > self.end_s else self.end_s) + duration_s
        self.end_s = end_s
        self.overlapped = bool(self.in_flight)
        log.n_steps += 1
        log.n_tokens += tokens
        log.busy_s += duration_s
        ended: list[Active] = []
        if is_tick:
            log.tick(end_s, n_decodes - len(late))
            for active in late:
                log.gap(end_s - active.last_token_s)
                active.late = False
                active.resumed_tick = self.decodes.tick
            ended = self.decodes.advance()
            finish_s = self.times.finish_s
            for active in ended:
                finish_s[active.request] = end_s
            self.tick_end_s = end_s
        if chunks:
            self._count_chunks(chunks, end_s, ended, is_tick)
        self.in_flight.append((end_s, ended, duration_s, n, len(prefills)))
        if len(self.running) > log.running_max:
            log.running_max = len(self.running)
        if self.n_waiting > log.waiting_max:
            log.waiting_max = self.n_waiting

    def _count_chunks(
        self, chunks: list[Chunk], end_s: float, ended: list[Active], is_tick: bool
    ) -> None:
        """Count what a step's chunks compute; whose prompt is complete has a token at its end."""
        if not self.settings.full_sequence_check:
            self.refused = False  # the head's first chunk depends on the tokens that these leave
        for active, new in chunks:
            before = active.computed
            active.computed = computed = before + new
            if before < active.furthest:
                again = min(computed, active.furthest) - before
                self.times.recomputed_tokens[active.request] += again
            if computed < active.target:
                continue
            self.prefilling.remove(active)
            if math.isnan(active.last_token_s):
                self.times.first_token_s[active.request] = end_s
            else:
                self.log.gap(end_s - active.last_token_s)
            active.last_token_s = end_s
            if computed + 1 == active.total:
                active.ended = True
                self.times.finish_s[active.request] = end_s
                ended.append(active)
            else:
                self.decodes.join(active, computed)
                if not is_tick:
                    active.late = True
                    self.late.append(active)
        if len(ended) > 1:
            ended.sort(key=lambda active: active.seq)
