"""One replica without a clock: at an instant it processes a step, takes requests in and decides.

These are the rules of vLLM's scheduler. Requests that decode are one set (`Decodes`), so that a
step costs O(1): requests are touched one by one only when they are admitted, compute a chunk, end
or are preempted. A step's end is known when it is decided, and so are the times of its tokens; what
has to wait for that end is done in `_process`. Runs of equal steps are leapt (`leap`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from llmsched.engine.iteration.decodes import Decodes
from llmsched.engine.iteration.kv_blocks import KvBlocks
from llmsched.engine.iteration.leap import Leap, leap_from, not_a_time
from llmsched.engine.iteration.log import ReplicaLog, RequestLog, StepRecorder
from llmsched.engine.iteration.prefills import (
    admit,
    admit_whole,
    chunk_blocks,
    continue_prefills,
)
from llmsched.engine.iteration.requests import Active, Chunk, ServedRequests, Step
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.engine.iteration.shortage import RunningPlan, plan_one_by_one, preempt
from llmsched.latency.steps.base import StepLatency
from llmsched.schedulers.iteration.base import ProcessedStep, RunningLimit, WaitingOrder

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
    recorder : StepRecorder, optional
        Writes down every step.
    leaps : bool
        Whether runs of equal steps are taken at once; the results are the same.

    Attributes
    ----------
    answered : callable, optional
        Told of requests that have their last tokens, when they have them; set where answers bring
        requests.
    """

    # fmt: off
    __slots__ = (
        "answered", "block_tokens", "blocks", "chunk_tokens", "decodes", "depth", "end_s",
        "in_flight", "in_service", "inbox", "late", "leap", "leaps", "limit", "log", "max_running",
        "n_outstanding", "n_waiting", "next_arrival_s", "next_s", "next_seq", "order", "overhead_s",
        "overlapped", "per_request_s", "predicted_tokens", "preempted", "prefill_first",
        "prefilling", "recorder", "refused", "requests", "running", "settings", "step_latency",
        "step_tokens", "tick_end_s", "times", "usable_blocks",
    )
    # fmt: on

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
        recorder: StepRecorder | None = None,
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
        self.recorder = recorder
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

        self.answered: Callable[[Iterable[int]], None] | None = None
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
        self.preempted = False  # somebody was, in this decision
        self.overlapped = False  # the last step was decided while another was in flight
        self.end_s = -INFINITY  # of the last step decided
        self.tick_end_s = -INFINITY  # of the last tick
        self.next_arrival_s = INFINITY  # at this replica, where it is known in advance
        self.next_s = INFINITY  # when to act next, unless something arrives
        self.n_outstanding = 0  # requests delivered and not finished
        self.predicted_tokens = 0  # their prompts and predicted outputs
        self.next_seq = 0

    # -- instants ---------------------------------------------------------------------------

    def act(self, now_s: float, horizon_s: float = -INFINITY) -> None:
        """Act at this instant, and at all further ones before the horizon.

        Nothing arrives before the horizon, so that nobody has to be woken in between.
        """
        in_flight, inbox, depth, log = self.in_flight, self.inbox, self.depth, self.log
        noticed = self.requests.noticed
        while True:
            if self.leap is not None:
                self.leap.commit(self)
                self.leap = None
            if in_flight:
                step = in_flight.popleft()
                if step[1] or self.limit is not None:
                    self.process(step)
            while inbox and noticed[inbox[0]] <= now_s:
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

    def process(self, step: Step) -> None:
        """Receive a step's tokens: who got the last one leaves, and the limit learns."""
        end_s, ended, duration_s, n_decodes, n_prefills = step
        limit = self.limit
        for active in ended:
            request = active.request
            if active.seq >= 0:
                del self.running[active.seq]
                self.blocks.give_back(active, active.blocks_at_end(self.block_tokens))
            else:  # preempted while its last token was in flight
                self.order.remove(request)
                self.n_waiting -= 1
                self.log.waiting_ended_s += end_s
            del self.in_service[request]
            self.n_outstanding -= 1
            self.predicted_tokens -= self.requests.predicted_work[request]
            self.refused = False
            if limit is not None:
                prompt = self.requests.prompt[request]
                limit.finished(prompt, active.total - prompt)
        if ended:
            self.times.count_finished(len(ended))
            if self.answered is not None:
                self.answered([active.request for active in ended])
        if limit is not None:
            limit.observe(ProcessedStep(duration_s, n_decodes, n_prefills))

    # -- decisions --------------------------------------------------------------------------

    def _decide(self, now_s: float) -> bool:
        """Decide the next step and start it; False for an empty decision, or a leap instead."""
        most = self.max_running if self.limit is None else self._may_run()
        self.preempted = False
        if self.leaps and not self.prefilling and not self.late:
            self.leap = leap_from(self, now_s, most)
            if self.leap is not None:
                return False
        if self.prefill_first and self.n_waiting:
            chunks = admit_whole(self, most, now_s)
            if chunks:
                self._start(now_s, 0, 0, chunks, [], is_tick=False)
                return True
        n, kv, chunks, late, budget = self._go_on(now_s)
        if self.n_waiting and not self.preempted and not self.prefill_first:
            admit(self, chunks, budget, most, now_s)
        if not n and not chunks:
            return False
        self._start(now_s, n, kv, chunks, late, is_tick=True)
        return True

    def _go_on(self, now_s: float) -> RunningPlan:
        """What running requests compute next."""
        decodes, blocks = self.decodes, self.blocks
        while True:
            n = decodes.n
            budget = self.step_tokens - n
            needed = decodes.blocks_needed()
            for_chunks = chunk_blocks(self, budget) if self.prefilling else 0
            if budget < 0:
                return plan_one_by_one(self, now_s)
            if needed + for_chunks <= blocks.free:
                break
            if not self.order.evicts_last:
                return plan_one_by_one(self, now_s)
            # Whoever is left gets what it needs, so the order in which they ask does not matter.
            preempt(self, self.running[next(reversed(self.running))], 0, now_s)
        kv, late = decodes.kv_tokens, self.late
        if late:
            self.late = []
        if needed:
            blocks.take(needed)
        chunks: list[Chunk] = []
        if self.prefilling:
            budget = continue_prefills(self, chunks, budget)
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
        start_s = now_s if now_s > self.end_s else self.end_s
        self.end_s = end_s = start_s + duration_s
        if self.recorder is not None:
            used = self.usable_blocks - self.blocks.free
            counts = (tokens - n, n, kv, len(self.running), self.n_waiting, used)
            self.recorder.add((start_s, end_s, *counts))
        self.overlapped = bool(self.in_flight)
        log.n_steps += 1
        log.n_tokens += tokens
        log.busy_s += duration_s
        ended: list[Active] = []
        if is_tick:
            log.gaps.tick(end_s, n_decodes - len(late))
            for active in late:
                log.gaps.others.append(end_s - active.last_token_s)
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
                self.log.gaps.others.append(end_s - active.last_token_s)
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
