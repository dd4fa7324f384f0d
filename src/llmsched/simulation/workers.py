"""The one pool: work on tasks in this process, on the cores of this machine, or on a Ray cluster.

A pool maps a function over tasks and gives the results as they finish; no result depends on where
it was computed. Ctrl-C ends a pool within a second or two, its processes included, and they print
nothing: who works knows nothing of the terminal.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from itertools import islice
from logging import ERROR
from typing import Any, Literal, Protocol, TypeVar, get_args

T = TypeVar("T")
R = TypeVar("R")
Backend = Literal["local", "ray"]


class WorkerDiedError(ChildProcessError):
    """A process of the pool ended on its own, most often for want of memory."""


class Pool(Protocol):
    """Something that works on tasks."""

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """The number of each task and its result, as they finish.

        `work` is a function of a module, so that other processes find it.
        """
        ...


@contextmanager
def pool(
    *,
    jobs: int | None = None,
    backend: Backend = "local",
    address: str | None = None,
    most: int | None = None,
) -> Iterator[Pool]:
    """A pool for the work inside; it ends with it, whatever happens.

    Parameters
    ----------
    jobs : int, optional
        Tasks at a time, by default one per core; with one the work is done in this very process.
    backend : {"local", "ray"}
        The cores of this machine, or a Ray cluster.
    address : str, optional
        Of a running Ray cluster; by default a local one is started and stopped.
    most : int, optional
        The most tasks there will be: no more processes than that are started.

    Raises
    ------
    ValueError
        If an argument is out of range, or no cluster answers.
    """
    check_pool(jobs=jobs, backend=backend, address=address)
    if backend == "ray":
        with _ray(jobs, address) as over_ray:
            yield over_ray
        return
    n_jobs = jobs or os.cpu_count() or 1
    if most is not None:
        n_jobs = min(n_jobs, most)
    if n_jobs <= 1:
        yield _Here()
        return
    with _importing_nothing_from_here():
        processes = _Processes(n_jobs)
        try:
            yield processes
        finally:
            processes.close()


def check_pool(*, jobs: int | None, backend: str, address: str | None) -> None:
    """Fail unless a pool can be asked for like this.

    Raises
    ------
    ValueError
        With what must hold.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}; got {backend!r}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}; leave it out for one per core")
    if address is not None and backend != "ray":
        raise ValueError(f"an address needs backend 'ray', got {backend!r}; leave it out")


class _Here:
    """This process."""

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        for number, task in enumerate(tasks):
            yield number, work(task)


class _Processes:
    """The cores of this machine: an executor of its own, whose memory goes when it is done."""

    def __init__(self, n_jobs: int) -> None:
        from multiprocessing import resource_tracker

        from joblib.externals.loky import ProcessPoolExecutor

        if sys.platform != "win32":
            resource_tracker.ensure_running()  # it would unblock Ctrl-C while processes start
        self._n_jobs = n_jobs
        self._executor: Executor = ProcessPoolExecutor(
            max_workers=n_jobs, timeout=300, initializer=_end_with_parent, initargs=(os.getpid(),)
        )

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        from joblib.externals.loky.process_executor import BrokenProcessPool

        waiting = iter(enumerate(tasks))
        running: dict[Future[R], int] = {}
        try:
            # a few at a time: loky's own thread fails on tasks that still queue at its end
            self._submit(work, islice(waiting, self._n_jobs + 1), running)
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                self._submit(work, islice(waiting, len(done)), running)
                for future in done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise WorkerDiedError(
                f"{self._n_jobs} worker processes must live until the work is done, but one was "
                "killed, most often for want of memory; finished runs are kept: go on with fewer "
                "jobs"
            ) from error

    def _submit(
        self,
        work: Callable[[T], R],
        tasks: Iterator[tuple[int, T]],
        running: dict[Future[R], int],
    ) -> None:
        # a process begins with the signals of its parent blocked: Ctrl-C is the parent's affair
        with _without_interrupts():
            for number, task in tasks:
                running[self._executor.submit(work, task)] = number

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        self._executor.shutdown(wait=True, kill_workers=True)  # type: ignore[call-arg]  # loky's


@contextmanager
def _importing_nothing_from_here() -> Iterator[None]:
    """Processes that start meanwhile do not import a `random.py` of the current folder."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def _without_interrupts() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(parent: int) -> None:
    """Let a worker end soon after a parent that was killed: loky's would wait on, memory and all.

    Ctrl-C reaches every process of a terminal; the parent ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if sys.platform != "win32":  # there an orphan keeps its parent's number; it ends when idle
        threading.Thread(target=watch, daemon=True).start()


class _OverRay:
    """A Ray cluster."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=0)(work)
        running = {remote.remote(task): number for number, task in enumerate(tasks)}
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(reference)
            try:
                yield number, ray.get(reference)
            except ray.exceptions.RayError as error:
                if isinstance(error, ray.exceptions.RayTaskError):
                    raise error.as_instanceof_cause() from error
                raise WorkerDiedError(
                    f"a worker of the Ray cluster died ({error}); finished runs are kept: start "
                    "again"
                ) from error


@contextmanager
def _ray(jobs: int | None, address: str | None) -> Iterator[_OverRay]:
    try:
        import ray
    except ImportError as error:
        raise ValueError("backend 'ray' must have Ray; pip install 'llmsched[ray]'") from error
    started = not ray.is_initialized()
    if started and address is None:
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=ERROR)
    elif started:
        _check_reachable(str(address))
        ray.init(address=address, log_to_driver=False, logging_level=ERROR)
    try:
        yield _OverRay(ray)
    finally:
        if started:
            ray.shutdown()


_REACH_S = 5.0  # a cluster that does not take a connection within this is not there


def _check_reachable(address: str) -> None:
    """Fail where nothing listens at HOST:PORT: Ray itself would try again for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # such as `auto`: Ray knows where to look, or says so at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"address must be that of a running Ray cluster, got {address!r}, where nothing "
            f"answers ({error}); start one with `ray start --head`, or leave the address out"
        ) from error
