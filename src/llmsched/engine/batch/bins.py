"""The bins as one SimPy resource: a Store whose items are whole batches, pulled by GPUs."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import cast

from simpy import Event, Store
from simpy.events import PENDING
from simpy.resources.store import StoreGet

from llmsched.engine.batch.batch import Batch
from llmsched.engine.batch.queues import Queue
from llmsched.engine.clock import URGENT, Clock


class Pull(StoreGet):
    """A GPU's wait for a batch, while there is none to be had; its value is the `Batch`.

    It happens at an arrival, or when the policy has asked to be asked again.
    """

    def __init__(self, bins: BinStore, gpu_id: int) -> None:
        self.env = bins._env  # as Event.__init__ does, without the call
        self.callbacks = []
        self.resource = bins
        self.gpu_id = gpu_id
        bins.wait(self)

    def again(self) -> Pull:
        """The same wait once more: an idle GPU needs no new event each time."""
        self.callbacks = []
        self._value = PENDING
        bins = self.resource
        heappush(bins.get_queue, self.gpu_id)
        if bins.someone_waits is not None:
            bins.wake_replay()
        return self

    def cancel(self) -> None:
        """Give up waiting, so that the next batch goes to another GPU."""
        if not self.triggered:
            waiting = cast("BinStore", self.resource).get_queue
            waiting.remove(self.gpu_id)
            heapify(waiting)


class BinStore(Store):
    """A Store of waiting requests, one FIFO per bin; a get is a pull of one batch.

    `get_queue` holds the ids of the GPUs that found nothing to serve, as a heap: lowest first. A
    GPU becomes a process when it is first needed (`hire`), so that idle ones cost nothing and there
    may be infinitely many. Requests come in lazily: a free GPU first admits everything that has
    arrived up to now, and only an arrival wakes a waiting GPU, or the policy's own `Later`.

    Parameters
    ----------
    clock : Clock
    queue : Queue
        What waits, and the next batch cut from it.
    n_gpus : int, or infinity
    hire : callable
        Starts the life of a GPU, given its first pull.
    one_by_one : bool
        Whether a waiting GPU sees each arrival of an instant alone.
    """

    get_queue: list[int]

    def __init__(
        self,
        clock: Clock,
        queue: Queue,
        n_gpus: float,
        hire: Callable[[Pull], None],
        *,
        one_by_one: bool,
    ) -> None:
        super().__init__(clock)
        self.queue = queue
        self._clock = clock
        self._one_by_one = one_by_one
        self._wake_s = math.inf  # the next `Later` that is scheduled
        self.someone_waits: Event | None = None  # what the sleeping replay wakes at
        self._pulls: dict[int, Pull] = {}  # the last one of each GPU
        self._n_gpus = n_gpus
        self._n_hired = 0
        self._hire = hire

    def pull(self, gpu_id: int) -> Pull:
        """Wait for a batch on behalf of a GPU."""
        return Pull(self, gpu_id)

    def next_batch(self, now_s: float) -> Batch | None:
        """Admit what has arrived by now and take a batch of it, or None."""
        queue = self.queue
        if queue.next_s <= now_s:
            queue.admit(now_s)
        if not queue.n_waiting:
            return None
        batch = queue.take(now_s)
        if batch is None:
            self._wake_later()
        return batch

    def wait(self, pull: Pull) -> None:
        """Keep a pull until something arrives."""
        heappush(self.get_queue, pull.gpu_id)
        self._pulls[pull.gpu_id] = pull
        if self.someone_waits is not None:
            self.wake_replay()

    def wake_replay(self) -> None:
        """A GPU waits now: the arrivals matter again."""
        assert self.someone_waits is not None
        self.someone_waits.succeed()
        self.someone_waits = None

    def a_gpu_waits(self) -> bool:
        """Whether a GPU could take a batch at once: an idle one, or one not needed before.

        Ids are handed out in order and the lowest idle one serves, so a new GPU is the one that
        would have been next, had all of them waited from the beginning.
        """
        if self.get_queue:
            return True
        if self._n_hired == self._n_gpus:
            return False
        self._hire(Pull(self, self._n_hired))
        self._n_hired += 1
        return True

    def serve(self, now_s: float) -> None:
        """Give batches to waiting GPUs, lowest id first, as long as there are both."""
        queue = self.queue
        while queue.n_waiting and (self.get_queue or self.a_gpu_waits()):
            batch = queue.take(now_s)
            if batch is None:
                self._wake_later()
                return
            self._clock.happen(self._pulls[heappop(self.get_queue)], batch)

    def _wake_later(self) -> None:
        """See to it that a policy that plans nothing now is asked again when it says."""
        later_s, self.queue.later_s = self.queue.later_s, math.inf
        if later_s < self._wake_s:
            self._wake_s = later_s
            self._clock.at(later_s, URGENT).callbacks.append(self._wake)

    def arrive(self, now_s: float) -> None:
        """What arrives at this instant meets the waiting GPUs."""
        queue = self.queue
        if not self._one_by_one or queue.next_s > now_s:
            queue.admit(now_s)
            self.serve(now_s)
            return
        while queue.next_s <= now_s and self.a_gpu_waits():
            queue.admit_one()
            self.serve(now_s)

    def _wake(self, event: Event) -> None:
        self._wake_s = math.inf
        self.arrive(self._env.now)
