"""The reference: the semantics of the engine once more, eager and naive, to compare bit by bit.

Plain lists and deques, one heap event per arrival, per forming timer and per completion; nothing
here comes from `llmsched`, so an agreement of the two is not a shared mistake. It is written for
reading, not for speed. The order of events at one instant is the order of the event kinds below:
arrivals in trace order, forming timers in bin order, completions in the order of service begin.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import floor, sqrt
from statistics import NormalDist

SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_only")
DEFAULT_CAPACITY_TOKENS = (12e9 - 4.06e9) / 114688

ARRIVAL, TIMER, COMPLETION = 0, 1, 2  # the order of kinds at one instant

Request = tuple[float, int, int, float]  # arrival_s, prompt tokens, output tokens, bin value
Formed = tuple[int, list[int]]  # a bin and the requests taken from it
ServiceModel = Callable[[int, int, int, int], float]  # size, max total, max prompt, max output


@dataclass
class Outcome:
    """Lists with one entry per request in trace order; None where the request was rejected."""

    start_s: list[float | None]
    finish_s: list[float | None]
    gpu: list[int | None]
    batch: list[int | None]
    bin: list[int]
    # (start_s, finish_s, gpu, bin, members), in the order in which the services began
    batches: list[tuple[float, float, int, int, list[int]]] = field(default_factory=list)
    # what ended each dynamic batch: "queue", "memory", "sla" (the limits) or "fit" (true lengths)
    ended_by: list[str] = field(default_factory=list)


def reference_service_s(size: int, max_total: int, max_prompt: int, max_output: int) -> float:
    """T(b, L) = alpha + beta L (1 + gamma (b - 1) / b), left to right [s]."""
    return 0.015 + 0.0003 * max_total * (1 + 0.4 * (size - 1) / size)


# --------------------------------------------------------------------------- batch-size limits


@dataclass
class Controller:
    """The SLA limit of one bin: Algorithm 2 (`paper`), the window rule, or none."""

    kind: str
    sla_s: float
    batch_min: int
    batch_max: int

    def __post_init__(self) -> None:
        if self.kind not in ("paper", "window", "none"):
            raise ValueError(f"controller must be paper, window or none, got {self.kind!r}")
        self.low = self.batch_min
        self.high = self.batch_max
        self.mean_service_s: float | None = None
        self.mean_size: float | None = None

    def limit(self) -> int:
        if self.kind == "none":
            return self.batch_max
        return min(max((self.low + self.high) // 2, self.batch_min), self.batch_max)

    def observe(self, service_s: float, size: int) -> None:
        if self.mean_service_s is None or self.mean_size is None:
            self.mean_service_s, self.mean_size = service_s, float(size)
        else:
            self.mean_service_s = 0.2 * service_s + 0.8 * self.mean_service_s
            self.mean_size = 0.2 * size + 0.8 * self.mean_size
        tolerance_s = 0.1 * self.sla_s
        too_slow = self.mean_service_s > self.sla_s + tolerance_s
        too_fast = self.mean_service_s < self.sla_s - tolerance_s
        if self.kind == "paper":
            self._algorithm_2(floor(self.mean_size), too_slow, too_fast)
        elif self.kind == "window":
            self._window(floor(self.mean_size), too_slow, too_fast)

    def _algorithm_2(self, size: int, too_slow: bool, too_fast: bool) -> None:
        low, high = self.low, self.high
        if too_slow:
            self.high = max(size, low + 16)
            self.low = max(low - 4, self.batch_min)
        elif too_fast:
            self.low = min(size, high - 16)
            self.high = min(high + 4, self.batch_max)
        else:
            self.high = min(size + 8, self.batch_max)
            self.low = max(size - 8, self.batch_min)
        self.low = min(max(self.low, self.batch_min), self.batch_max)
        self.high = min(max(self.high, self.low), self.batch_max)

    def _window(self, size: int, too_slow: bool, too_fast: bool) -> None:
        if too_slow:
            self.high = min(self.high, size)
            self.low = max(self.low, floor(0.8 * size))
        elif too_fast:
            self.low = max(self.low, size)
            self.high = min(self.high + max(1, floor(0.2 * size)), self.batch_max)
        else:
            margin = floor(0.1 * (self.high - self.low))
            self.low, self.high = size - margin, size + margin
        self.low = min(max(self.low, self.batch_min), self.batch_max)
        self.high = min(max(self.high, self.batch_min), self.batch_max)
        self.low = min(self.low, self.high)


@dataclass
class MemoryLimit:
    """The memory limit of one bin: 0.9 eta / mu (`buffer`) or equation 12 (`clt`)."""

    kind: str
    capacity_tokens: float
    mean: float = 500.0
    mean_square: float = 500.0 * 500.0

    def __post_init__(self) -> None:
        if self.kind not in ("buffer", "clt"):
            raise ValueError(f"memory must be buffer or clt, got {self.kind!r}")

    def limit(self) -> int:
        if self.kind == "buffer":
            return max(1, floor(0.9 * self.capacity_tokens / self.mean))
        theta = NormalDist().inv_cdf(1 - 0.05)
        sigma = sqrt(max(0.0, self.mean_square - self.mean * self.mean))
        inside = sigma * sigma * theta * theta + 4 * self.mean * self.capacity_tokens
        root = (sqrt(inside) - sigma * theta) / (2 * self.mean)
        return max(1, floor(root * root))

    def observe(self, tokens: Sequence[int]) -> None:
        self.mean = 0.2 * (sum(tokens) / len(tokens)) + 0.8 * self.mean
        squares = [one * one for one in tokens]
        self.mean_square = 0.2 * (sum(squares) / len(squares)) + 0.8 * self.mean_square


# ------------------------------------------------------------------------------- the schedulers


class StaticFifo:
    """One queue, at most `batch_size` of those that wait."""

    def __init__(self, batch_size: int) -> None:
        self.waiting: deque[int] = deque()
        self.batch_size = batch_size

    def arrive(self, request: int) -> bool:
        self.waiting.append(request)
        return True

    def pull(self) -> Formed | None:
        members: list[int] = []
        while self.waiting and len(members) < self.batch_size:
            members.append(self.waiting.popleft())
        return (0, members) if members else None

    def finished(self, formed: Formed, service_s: float) -> None:
        pass


class Dynamic:
    """K bins (or one), each with its own memory and SLA limit; a batch fits by true lengths."""

    def __init__(
        self,
        tokens: list[int],
        bins: list[int],
        *,
        n_bins: int,
        bin_choice: str,
        capacity_tokens: float,
        controller: Callable[[], Controller],
        memory: Callable[[], MemoryLimit],
        batch_max: int,
    ) -> None:
        if bin_choice not in ("round-robin", "longest-queue"):
            raise ValueError(f"bin_choice must be round-robin or longest-queue, got {bin_choice!r}")
        self.tokens, self.bins = tokens, bins
        self.queues: list[deque[int]] = [deque() for _ in range(n_bins)]
        self.controllers = [controller() for _ in range(n_bins)]
        self.memories = [memory() for _ in range(n_bins)]
        self.bin_choice, self.pointer = bin_choice, 0
        self.capacity_tokens, self.batch_max = capacity_tokens, batch_max
        self.ended_by: list[str] = []

    def arrive(self, request: int) -> bool:
        if self.tokens[request] > self.capacity_tokens:
            return False
        self.queues[self.bins[request]].append(request)
        return True

    def target(self, bin_index: int) -> int:
        limits = (self.memories[bin_index].limit(), self.controllers[bin_index].limit())
        return max(1, min(*limits, self.batch_max))

    def choose(self) -> int | None:
        n = len(self.queues)
        if not any(self.queues):
            return None
        if self.bin_choice == "longest-queue":
            return max(range(n), key=lambda k: (len(self.queues[k]), -k))
        while not self.queues[self.pointer]:
            self.pointer = (self.pointer + 1) % n
        chosen = self.pointer
        self.pointer = (chosen + 1) % n
        return chosen

    def pull(self) -> Formed | None:
        chosen = self.choose()
        if chosen is None:
            return None
        queue, target = self.queues[chosen], self.target(chosen)
        members: list[int] = []
        used = 0
        ended_by = "queue"
        while queue and ended_by == "queue":
            if len(members) == target:
                ended_by = "memory" if self.memories[chosen].limit() == target else "sla"
            elif used + self.tokens[queue[0]] > self.capacity_tokens:
                ended_by = "fit"
            else:
                used += self.tokens[queue[0]]
                members.append(queue.popleft())
        self.ended_by.append(ended_by)
        assert members, "the oldest request fits alone, or it would have been rejected"
        return chosen, members

    def finished(self, formed: Formed, service_s: float) -> None:
        bin_index, members = formed
        self.memories[bin_index].observe([self.tokens[m] for m in members])
        self.controllers[bin_index].observe(service_s, len(members))


class MultiBinOnly:
    """K bins; a bin's batch forms at its B-th member, at the flush, or when its timer ends."""

    def __init__(self, bins: list[int], *, n_bins: int, batch_size: int) -> None:
        self.bins = bins
        self.batch_size = batch_size
        self.forming: list[list[int]] = [[] for _ in range(n_bins)]
        self.formed: deque[Formed] = deque()

    def arrive(self, request: int) -> bool:
        bin_index = self.bins[request]
        self.forming[bin_index].append(request)
        if len(self.forming[bin_index]) == self.batch_size:
            self.form(bin_index)
        if request == len(self.bins) - 1:
            for k in range(len(self.forming)):
                self.form(k)
        return True

    def form(self, bin_index: int) -> None:
        if self.forming[bin_index]:
            self.formed.append((bin_index, self.forming[bin_index]))
            self.forming[bin_index] = []

    def timer_ends(self, bin_index: int, oldest: int) -> None:
        if self.forming[bin_index][:1] == [oldest]:
            self.form(bin_index)

    def pull(self) -> Formed | None:
        return self.formed.popleft() if self.formed else None

    def finished(self, formed: Formed, service_s: float) -> None:
        pass


# ---------------------------------------------------------------------------------- the machine


class Machine:
    """The GPUs and the event heap; keys (instant, kind, order within the kind) never tie."""

    def __init__(
        self,
        requests: Sequence[Request],
        bins: list[int],
        scheduler: StaticFifo | Dynamic | MultiBinOnly,
        *,
        n_gpus: int,
        one_by_one: bool,
        max_forming_wait_s: float | None,
        service_s: ServiceModel,
    ) -> None:
        n = len(requests)
        self.requests, self.bins, self.scheduler = requests, bins, scheduler
        self.one_by_one, self.service_s = one_by_one, service_s
        self.max_forming_wait_s = max_forming_wait_s
        self.idle = set(range(n_gpus))
        self.batch_ids = count()
        self.running: dict[int, tuple[int, Formed, float]] = {}
        self.heap: list[tuple[float, int, int, int]] = [
            (request[0], ARRIVAL, index, 0) for index, request in enumerate(requests)
        ]
        heapq.heapify(self.heap)
        self.outcome = Outcome([None] * n, [None] * n, [None] * n, [None] * n, list(bins))

    def run(self) -> Outcome:
        while self.heap:
            now_s, kind, order, detail = heapq.heappop(self.heap)
            if kind == ARRIVAL:
                self.arrival(now_s, order)
                more = bool(self.heap) and self.heap[0][:2] == (now_s, ARRIVAL)
                if self.one_by_one or not more:
                    self.idle_gpus_pull(now_s)
            elif kind == TIMER:
                assert isinstance(self.scheduler, MultiBinOnly)
                self.scheduler.timer_ends(order, detail)
                self.idle_gpus_pull(now_s)
            else:
                self.completion(now_s, order)
        if isinstance(self.scheduler, Dynamic):
            self.outcome.ended_by = self.scheduler.ended_by
        return self.outcome

    def arrival(self, now_s: float, request: int) -> None:
        accepted = self.scheduler.arrive(request)
        if isinstance(self.scheduler, MultiBinOnly) and self.max_forming_wait_s is not None:
            bin_index = self.bins[request]
            if accepted and self.scheduler.forming[bin_index] == [request]:
                due_s = now_s + self.max_forming_wait_s
                heapq.heappush(self.heap, (due_s, TIMER, bin_index, request))

    def completion(self, now_s: float, batch: int) -> None:
        gpu, formed, service_s = self.running.pop(batch)
        self.scheduler.finished(formed, service_s)
        if not self.pull(now_s, gpu):
            self.idle.add(gpu)

    def idle_gpus_pull(self, now_s: float) -> None:
        for gpu in sorted(self.idle):
            if not self.pull(now_s, gpu):
                return
            self.idle.remove(gpu)

    def pull(self, now_s: float, gpu: int) -> bool:
        formed = self.scheduler.pull()
        if formed is None:
            return False
        bin_index, members = formed
        chosen = [self.requests[m] for m in members]
        service_s = self.service_s(
            len(members),
            max(prompt + output for _, prompt, output, _ in chosen),
            max(prompt for _, prompt, _, _ in chosen),
            max(output for _, _, output, _ in chosen),
        )
        batch, finish_s = next(self.batch_ids), now_s + service_s
        self.running[batch] = (gpu, formed, service_s)
        heapq.heappush(self.heap, (finish_s, COMPLETION, batch, 0))
        self.outcome.batches.append((now_s, finish_s, gpu, bin_index, members))
        for m in members:
            self.outcome.start_s[m], self.outcome.finish_s[m] = now_s, finish_s
            self.outcome.gpu[m], self.outcome.batch[m] = gpu, batch
        return True


def run(
    requests: Sequence[Request],
    scheduler: str,
    *,
    n_gpus: int,
    admission: str = "together",
    sla_s: float = 1.0,
    batch_size: int = 8,
    batch_min: int = 1,
    batch_max: int = 128,
    controller: str = "paper",
    memory: str = "buffer",
    capacity_tokens: float = DEFAULT_CAPACITY_TOKENS,
    edges: Sequence[float] = (),
    bin_choice: str = "round-robin",
    max_forming_wait_s: float | None = None,
    service_s: ServiceModel = reference_service_s,
) -> Outcome:
    """Serve every request and say what happened; the one-queue schedulers ignore `edges`."""
    if scheduler not in SCHEDULERS:
        raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)}; got {scheduler!r}")
    if admission not in ("together", "one-by-one"):
        raise ValueError(f"admission must be together or one-by-one, got {admission!r}")
    if scheduler in ("static_fifo", "dynamic_no_bins"):
        edges = ()
    bins = [bisect_right(edges, value) for _, _, _, value in requests]
    chosen: StaticFifo | Dynamic | MultiBinOnly
    if scheduler == "static_fifo":
        chosen = StaticFifo(batch_size)
    elif scheduler == "multi_bin_only":
        chosen = MultiBinOnly(bins, n_bins=len(edges) + 1, batch_size=batch_size)
    else:
        chosen = Dynamic(
            [prompt + output for _, prompt, output, _ in requests],
            bins,
            n_bins=len(edges) + 1,
            bin_choice=bin_choice,
            capacity_tokens=capacity_tokens,
            controller=lambda: Controller(controller, sla_s, batch_min, batch_max),
            memory=lambda: MemoryLimit(memory, capacity_tokens),
            batch_max=batch_max,
        )
    machine = Machine(
        requests,
        bins,
        chosen,
        n_gpus=n_gpus,
        one_by_one=admission == "one-by-one",
        max_forming_wait_s=max_forming_wait_s,
        service_s=service_s,
    )
    return machine.run()
