"""The bins as one SimPy resource: a Store whose items are whole batches, pulled by GPUs."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import cast

from simpy import Store
from simpy.resources.store import StoreGet

from llmsched.engine.batch.queues import Batch, Queue
from llmsched.engine.clock import URGENT, Clock


class Pull(StoreGet):
    """A GPU's request for a batch; its value is the `Batch`.

    Pulled while something waits, it has already happened: the GPU goes on at once, at this
    instant, without another event. Otherwise it happens at an arrival.
    """

    def __init__(self, bins: BinStore, gpu_id: int) -> None:
        self.env = bins._env  # as Event.__init__ does, without the call
        self.callbacks = []
        self.resource = bins
        self.gpu_id = gpu_id
        batch = bins.next_batch()
        if batch is None:
            bins.wait(self)
        else:
            self._ok = True
            self._value = batch
            self.callbacks = None  # type: ignore[assignment]  # processed: SimPy's own mark

    def cancel(self) -> None:
        """Give up waiting, so that the next batch goes to another GPU."""
        if not self.triggered:
            waiting = cast("BinStore", self.resource).get_queue
            waiting.remove((self.gpu_id, self))
            heapify(waiting)


class BinStore(Store):
    """A Store of waiting requests, one FIFO per bin; a get is a pull of one batch.

    `get_queue` holds the GPUs that found every bin empty, as a heap: lowest id first. A GPU
    becomes a process when it is first needed (`hire`), so that idle ones cost nothing and there
    may be infinitely many. Requests come in lazily: a pull first admits everything that has
    arrived up to now, and only the replay process wakes a waiting GPU.

    Parameters
    ----------
    clock : Clock
    queue : Queue
        What waits, and the next batch cut from it.
    n_gpus : int, or infinity
    hire : callable
        Starts the life of a GPU, given its first pull.
    """

    get_queue: list[tuple[int, Pull]]

    def __init__(
        self, clock: Clock, queue: Queue, n_gpus: float, hire: Callable[[Pull], None]
    ) -> None:
        super().__init__(clock)
        self.queue = queue
        self.someone_waits = clock.event()
        self._n_gpus = n_gpus
        self._n_hired = 0
        self._hire = hire

    def pull(self, gpu_id: int) -> Pull:
        """Ask for a batch on behalf of a GPU."""
        return Pull(self, gpu_id)

    def next_batch(self) -> Batch | None:
        """Admit what has arrived by now and cut a batch from it, or None."""
        self.queue.admit(self._env.now)
        return self.queue.take()

    def wait(self, pull: Pull) -> None:
        """Keep a pull until something arrives."""
        heappush(self.get_queue, (pull.gpu_id, pull))
        if not self.someone_waits.triggered:
            self.someone_waits.succeed()

    def a_gpu_waits(self) -> bool:
        """Whether a GPU could take a batch at once: an idle one, or one not needed before.

        Ids are handed out in order and the lowest idle one serves, so a new GPU is the one that
        would have been next, had all of them waited from the beginning.
        """
        if self.get_queue:
            return True
        if self._n_hired == self._n_gpus:
            return False
        self._hire(_FirstPull(self, self._n_hired))
        self._n_hired += 1
        return True

    def serve(self) -> None:
        """Give batches to waiting GPUs, lowest id first, as long as there are both."""
        while self.a_gpu_waits():
            batch = self.queue.take()
            if batch is None:
                return
            _, pull = heappop(self.get_queue)
            pull._ok = True
            pull._value = batch
            self._env.schedule(pull, URGENT)

    def arrive(self, now_s: float, *, one_by_one: bool) -> None:
        """What arrives at this instant meets the waiting GPUs."""
        if not one_by_one:
            self.queue.admit(now_s)
            self.serve()
            return
        while self.a_gpu_waits() and self.queue.next_s <= now_s:
            self.queue.admit_one()
            self.serve()


class _FirstPull(Pull):
    """The first pull of a new GPU: it waits, and leaves what has arrived to `serve`."""

    def __init__(self, bins: BinStore, gpu_id: int) -> None:
        self.env = bins._env
        self.callbacks = []
        self.resource = bins
        self.gpu_id = gpu_id
        bins.wait(self)
