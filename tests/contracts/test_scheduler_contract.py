"""What every registered scheduler must keep, whatever it decides: one contract for all.

Users' schedulers found through entry points are checked as well. Cases are small and full of
ties; every instant is compared exactly, since all of them are sums of the same floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmsched.engine.batch.run import run_engine
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.schedulers.registry import SCHEDULERS, make_scheduler
from llmsched.schedulers.settings import Settings
from llmsched.workload.trace import Trace

QUICK = settings(
    max_examples=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
every_scheduler = pytest.mark.parametrize("name", sorted(SCHEDULERS))
ADMISSIONS = ("together", "one-by-one")


@dataclass(frozen=True)
class Workload:
    """Requests with their bins, and how they are served."""

    rows: list[tuple[float, int, int, int]]  # arrival_s, prompt, output, bin
    n_bins: int
    n_gpus: int
    admission: str
    options: Settings
    scale: float = 1.0  # of every service time


@dataclass(frozen=True)
class Service:
    """T = (b + L / 100) / 4 seconds, which tie often; nothing for empty requests."""

    scale: float

    def service_s(self, batch: Any) -> Any:
        tokens = batch.max_total_tokens
        return self.scale * (batch.size + tokens // 100) / 4 * (tokens > 0)


@st.composite
def workloads(draw: st.DrawFn, tokens: Sequence[int], capacities: Sequence[float]) -> Workload:
    """Up to 40 requests on a grid of quarter seconds, their prompts and outputs from `tokens`."""
    n = draw(st.integers(0, 40))
    n_bins = draw(st.integers(1, 4))
    n_codes = 6 * len(tokens) ** 2 * n_bins
    rows = []
    steps = 0
    for code in draw(st.lists(st.integers(0, n_codes - 1), min_size=n, max_size=n)):
        # one number per request, four digits: drawing them apart takes four times as long
        code, gap = divmod(code, 6)
        code, prompt = divmod(code, len(tokens))
        bin_index, output = divmod(code, len(tokens))
        steps += (0, 0, 0, 1, 2, 6)[gap]
        rows.append((steps / 4, tokens[prompt], tokens[output], bin_index))
    return Workload(
        rows,
        n_bins,
        draw(st.integers(1, 5)),
        draw(st.sampled_from(ADMISSIONS)),
        Settings(
            sla_s=draw(st.sampled_from((0.5, 1.0, 3.0))),
            batch_size=draw(st.integers(1, 5)),
            batch_max=draw(st.sampled_from((1, 4, 12, 128))),
            controller=draw(st.sampled_from(("paper", "window", "none"))),
            memory=draw(st.sampled_from(("buffer", "clt"))),
            capacity_tokens=draw(st.sampled_from(capacities)),
            bin_choice=draw(st.sampled_from(("round-robin", "longest-queue"))),
            max_forming_wait_s=draw(st.sampled_from((None, 0.0, 0.5, 3.0))),
        ),
    )


def any_workload() -> st.SearchStrategy[Workload]:
    """Rejections, batches cut by memory, everything."""
    return workloads(range(0, 900, 100), (1000.0, 1799.5, 4000.0, 69231.3))


def serve(workload: Workload, name: str) -> tuple[RequestTable, BatchTable]:
    """One run with a fresh scheduler; the one-queue schedulers get one bin.

    Outputs are predicted to be as long as the prompts, whatever they are.
    """
    arrival_s, prompt, output, bins = list(zip(*workload.rows, strict=True)) or [()] * 4
    latency: Any = Service(workload.scale)
    scheduler = make_scheduler(name, replace(workload.options, latency=latency))
    return run_engine(
        Trace(
            arrival_s=np.array(arrival_s, dtype=np.float64),
            prompt_tokens=np.array(prompt, dtype=np.int32),
            output_tokens=np.array(output, dtype=np.int32),
        ),
        np.array(bins, dtype=np.int32) if scheduler.binned else np.zeros(len(bins), np.int32),
        workload.n_bins if scheduler.binned else 1,
        scheduler,
        n_gpus=workload.n_gpus,
        latency=latency,
        predicted_tokens=np.array(prompt, dtype=np.int32),
        admission=workload.admission,  # type: ignore[arg-type]
    )


def content(table: RequestTable | BatchTable) -> list[bytes]:
    """Every column of a table as its bytes, so that NaN equals NaN and nothing is rounded."""
    return [getattr(table, name).tobytes() for name in table.__slots__]


def on_all(strategy: st.SearchStrategy[Workload], check: Callable[[Workload], None]) -> None:
    """Run a check on every workload that the strategy draws."""

    @QUICK
    @given(strategy)
    def checked(workload: Workload) -> None:
        check(workload)

    checked()


# ------------------------------------------------------------------------------ safety


@every_scheduler
def test_contract__every_request_is_served_once_or_rejected(name: str) -> None:
    def check(workload: Workload) -> None:
        requests, batches = serve(workload, name)
        capacity_tokens = make_scheduler(name, workload.options).capacity_tokens
        total = requests.prompt_tokens + requests.output_tokens
        # served or rejected: a request is left out if, and only if, it can never fit
        assert len(requests) == len(workload.rows)
        assert (requests.completed == (total <= capacity_tokens)).all()
        assert np.isnan(requests.start_s[~requests.completed]).all()
        assert (requests.gpu[~requests.completed] == -1).all()
        # and each batch holds exactly the requests that name it
        served = requests.batch[requests.completed]
        assert np.bincount(served, minlength=len(batches)).tolist() == batches.size.tolist()
        for of_request, of_batch in (
            (requests.start_s, batches.start_s),
            (requests.finish_s, batches.finish_s),
            (requests.gpu, batches.gpu),
            (requests.bin, batches.bin),
        ):
            assert of_request[requests.completed].tolist() == of_batch[served].tolist()

    on_all(any_workload(), check)


@every_scheduler
def test_contract__batches_stay_within_memory_and_the_largest_size(name: str) -> None:
    def check(workload: Workload) -> None:
        _, batches = serve(workload, name)
        scheduler = make_scheduler(name, workload.options)
        assert (batches.tokens <= scheduler.capacity_tokens).all()
        assert ((batches.size >= 1) & (batches.size <= scheduler.batch_max)).all()

    on_all(any_workload(), check)


@every_scheduler
def test_contract__first_in_first_out_within_a_bin(name: str) -> None:
    """Of a scheduler with an order of its own: among requests that no order can tell apart."""
    in_order = make_scheduler(name, Settings()).order == "arrival"

    def check(workload: Workload) -> None:
        requests, _ = serve(workload, name)
        alike = requests.bin if in_order else requests.prompt_tokens  # their predictions follow
        for kind in np.unique(alike):
            rows = requests.completed & (alike == kind)
            assert (np.diff(requests.batch[rows]) >= 0).all()
            assert (np.diff(requests.start_s[rows]) >= 0).all()

    on_all(any_workload(), check)


@every_scheduler
def test_contract__nothing_starts_before_it_arrives(name: str) -> None:
    def check(workload: Workload) -> None:
        requests, batches = serve(workload, name)
        done = requests.completed
        assert (requests.start_s[done] >= requests.arrival_s[done]).all()
        assert (np.diff(batches.start_s) >= 0).all()  # numbered in order of service begin
        assert (batches.finish_s >= batches.start_s).all()

    on_all(any_workload(), check)


@every_scheduler
def test_contract__a_gpu_serves_one_batch_at_a_time(name: str) -> None:
    def check(workload: Workload) -> None:
        _, batches = serve(workload, name)
        assert ((batches.gpu >= 0) & (batches.gpu < workload.n_gpus)).all()
        for gpu in range(workload.n_gpus):
            mine = batches.gpu == gpu
            assert (batches.start_s[mine][1:] >= batches.finish_s[mine][:-1]).all()

    on_all(any_workload(), check)


def ready_s(requests: RequestTable, batches: BatchTable, batch_size: int | None) -> np.ndarray:
    """Since when each served request could have been served [s].

    From its arrival; where bins release whole batches only (`batch_size` given), from the arrival
    of the last member of a full batch, and from the end of the trace for a remainder.
    """
    if batch_size is None:
        return requests.arrival_s[requests.completed]
    formed_s = np.full(len(batches), requests.arrival_s.max(initial=-math.inf))
    for batch in np.flatnonzero(batches.size == batch_size):
        formed_s[batch] = requests.arrival_s[requests.batch == batch].max()
    return formed_s[requests.batch[requests.completed]]


@every_scheduler
def test_contract__no_gpu_idles_while_something_can_be_served(name: str) -> None:
    def check(workload: Workload) -> None:
        # a forming wait would only release earlier than `ready_s` says
        workload = replace(workload, options=replace(workload.options, max_forming_wait_s=None))
        requests, batches = serve(workload, name)
        release = make_scheduler(name, workload.options).release
        since_s = ready_s(requests, batches, None if release is None else release.batch_size)
        until_s = requests.start_s[requests.completed]
        for gpu in range(workload.n_gpus):
            mine = batches.gpu == gpu
            idle_from_s = np.append(0.0, batches.finish_s[mine])[:, np.newaxis]
            idle_to_s = np.append(batches.start_s[mine], math.inf)[:, np.newaxis]
            overlap_s = np.minimum(idle_to_s, until_s) - np.maximum(idle_from_s, since_s)
            assert (overlap_s <= 0).all()

    on_all(any_workload(), check)


# ----------------------------------------------------------------------------- no oracle


NEARLY_EQUAL_TOKENS = (460, 500)  # prompt + output of every request below
TIGHT_CAPACITIES = (1800.0, 2700.0, 4000.0)


def nearly_equal_workload() -> st.SearchStrategy[Workload]:
    """The memory limit binds, from averages of 460 to 500; the check of true lengths never does.

    That check must see true lengths, so a workload in which it binds could not tell an oracle.
    """
    fewest, most = NEARLY_EQUAL_TOKENS
    for capacity_tokens in TIGHT_CAPACITIES:
        assert capacity_tokens // fewest * most <= capacity_tokens
    return workloads(range(fewest // 2, most // 2 + 1), TIGHT_CAPACITIES)


@every_scheduler
def test_contract__no_oracle(name: str) -> None:
    def check(workload: Workload) -> None:
        # given a run, and an instant at which one of its batches starts
        requests, batches = serve(workload, name)
        if not len(batches):
            return
        now_s = float(batches.start_s[len(batches) // 2])
        # when every output that waits at that instant, or comes later, is long for short
        unseen = requests.start_s >= now_s
        rows = [
            (arrival_s, prompt, sum(NEARLY_EQUAL_TOKENS) // 2 - output if hidden else output, k)
            for hidden, (arrival_s, prompt, output, k) in zip(unseen, workload.rows, strict=True)
        ]
        others, other_batches = serve(replace(workload, rows=rows), name)
        # then all that is decided up to that instant stays as it was
        decided = int((batches.start_s <= now_s).sum())
        assert int((other_batches.start_s <= now_s).sum()) == decided
        for column in ("start_s", "gpu", "bin", "size"):
            was, now = getattr(batches, column), getattr(other_batches, column)
            assert was[:decided].tolist() == now[:decided].tolist()
        members = requests.start_s <= now_s
        assert requests.batch[members].tolist() == others.batch[members].tolist()
        assert requests.finish_s[~unseen].tolist() == others.finish_s[~unseen].tolist()

    on_all(nearly_equal_workload(), check)


# -------------------------------------------------------------------------------- limits


def test_multi_bin_dynamic__in_one_bin_is_dynamic_no_bins() -> None:
    def check(workload: Workload) -> None:
        rows = [(at_s, prompt, output, 0) for at_s, prompt, output, _ in workload.rows]
        workload = replace(workload, rows=rows, n_bins=1)
        binned = serve(workload, "multi_bin_dynamic")
        unbinned = serve(workload, "dynamic_no_bins")
        assert [content(table) for table in binned] == [content(table) for table in unbinned]

    on_all(any_workload(), check)


@every_scheduler
def test_contract__twice_every_time_is_twice_every_latency(name: str) -> None:
    def check(workload: Workload) -> None:
        # given the same requests with every time doubled; doubling a float is exact
        wait_s = workload.options.max_forming_wait_s
        slow = replace(
            workload,
            rows=[(2 * at_s, prompt, output, k) for at_s, prompt, output, k in workload.rows],
            scale=2 * workload.scale,
            options=replace(
                workload.options,
                sla_s=2 * workload.options.sla_s,
                max_forming_wait_s=None if wait_s is None else 2 * wait_s,
            ),
        )
        requests, _ = serve(workload, name)
        slow_requests, _ = serve(slow, name)
        # then every instant is doubled and no decision differs
        assert (2 * requests.start_s).tobytes() == slow_requests.start_s.tobytes()
        assert (2 * requests.finish_s).tobytes() == slow_requests.finish_s.tobytes()
        assert requests.gpu.tolist() == slow_requests.gpu.tolist()
        assert requests.batch.tolist() == slow_requests.batch.tolist()

    on_all(any_workload(), check)


@every_scheduler
def test_contract__a_second_run_in_the_same_process_is_the_same(name: str) -> None:
    def check(workload: Workload) -> None:
        first, second = serve(workload, name), serve(workload, name)
        assert [content(table) for table in first] == [content(table) for table in second]

    on_all(any_workload(), check)
