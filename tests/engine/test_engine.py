"""The engine on hand-worked cases, every instant written out, and its SimPy parts one by one.

That it equals the eager reference on random traces is in `test_engine_against_reference`; here the
expected instants come from paper and pencil.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import simpy
from scipy import stats

from llmsched.engine.batch import run as run_module
from llmsched.engine.batch.bins import BinStore, Pull
from llmsched.engine.batch.queues import WaitingBins
from llmsched.engine.batch.run import run_engine
from llmsched.engine.clock import NORMAL, URGENT, Clock
from llmsched.engine.columns import Accepted
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.schedulers.registry import make_scheduler
from llmsched.schedulers.settings import Settings
from llmsched.workload.trace import Trace

SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_only")
ADMISSIONS = ("together", "one-by-one")

Served = tuple[float, float, int, list[int]]  # start [s], finish [s], GPU, requests


@dataclass(frozen=True)
class Service:
    """A latency model from a function of the batch."""

    of: Callable[[Any], float]

    def service_s(self, batch: Any) -> float:
        return self.of(batch)


LONGEST_OUTPUT = Service(lambda batch: float(batch.max_output_tokens))  # 1 s per token
CONSTANT = Service(lambda batch: 1.0)


def asked(*rows: tuple[float, int]) -> Trace:
    """Requests without a prompt, from (arrival, output tokens)."""
    arrival_s, output = zip(*rows, strict=True) if rows else ((), ())
    return Trace(
        arrival_s=np.array(arrival_s, dtype=np.float64),
        prompt_tokens=np.zeros(len(rows), dtype=np.int32),
        output_tokens=np.array(output, dtype=np.int32),
    )


def serve(
    trace: Trace,
    scheduler: str = "static_fifo",
    *,
    bins: Sequence[int] | None = None,
    n_gpus: int = 1,
    service: Any = LONGEST_OUTPUT,
    admission: Any = "together",
    **settings: Any,
) -> tuple[RequestTable, BatchTable]:
    of_request = np.zeros(len(trace), np.int32) if bins is None else np.array(bins, np.int32)
    return run_engine(
        trace,
        of_request,
        int(of_request.max(initial=0)) + 1,
        make_scheduler(scheduler, Settings(**settings)),
        n_gpus=n_gpus,
        latency=service,
        admission=admission,
    )


def served(tables: tuple[RequestTable, BatchTable]) -> list[Served]:
    """Every batch in order of service begin, checked against what its requests say."""
    requests, batches = tables
    rows = []
    for batch in range(len(batches)):
        members = np.flatnonzero(requests.batch == batch)
        start_s, finish_s = float(batches.start_s[batch]), float(batches.finish_s[batch])
        assert set(requests.start_s[members].tolist()) == {start_s}
        assert set(requests.finish_s[members].tolist()) == {finish_s}
        assert set(requests.gpu[members].tolist()) == {int(batches.gpu[batch])}
        rows.append((start_s, finish_s, int(batches.gpu[batch]), members.tolist()))
    return rows


# ------------------------------------------------------------------ figure 1(b) of multi-bin


FIGURE_1B = ((0, 1), (0, 5), (0, 2), (0, 6))  # service times 1, 5, 2, 6 s at once, B = 2


def test_figure_1b__one_queue_takes_11_s() -> None:
    tables = serve(asked(*FIGURE_1B), batch_size=2)
    assert served(tables) == [(0, 5, 0, [0, 1]), (5, 11, 0, [2, 3])]


def test_figure_1b__two_bins_take_8_s() -> None:
    # given the bins [1, 3] and [4, 6]
    tables = serve(asked(*FIGURE_1B), "multi_bin_only", bins=[0, 1, 0, 1], batch_size=2)
    assert served(tables) == [(0, 2, 0, [0, 2]), (2, 8, 0, [1, 3])]
    assert tables[1].bin.tolist() == [0, 1]


# ----------------------------------------------------------------------- instants and ties


@pytest.mark.parametrize(
    ("admission", "expected"),
    [
        ("together", [(0, 3, 0, [0, 1]), (0, 2, 1, [2])]),
        ("one-by-one", [(0, 3, 0, [0]), (0, 1, 1, [1]), (1, 3, 1, [2])]),
    ],
)
def test_ties__admission_decides_what_the_first_gpu_sees(
    admission: str, expected: list[Served]
) -> None:
    trace = asked((0, 3), (0, 1), (0, 2))
    tables = serve(trace, n_gpus=2, batch_size=2, admission=admission)
    assert served(tables) == expected


@pytest.mark.parametrize("admission", ADMISSIONS)
def test_completion_at_an_arrival__takes_that_arrival_along(admission: str) -> None:
    # given one GPU that ends at 2 s, when the third request arrives
    tables = serve(asked((0, 2), (1, 1), (2, 1)), admission=admission)
    assert served(tables) == [(0, 2, 0, [0]), (2, 3, 0, [1, 2])]


@pytest.mark.parametrize(
    ("admission", "at_two"),
    [
        ("together", [(2, 4, 0, [2, 3])]),
        ("one-by-one", [(2, 4, 0, [2]), (2, 4, 1, [3])]),
    ],
)
def test_arrival_at_a_completion__goes_to_the_gpu_that_waits(
    admission: str, at_two: list[Served]
) -> None:
    # given GPU 0 idle since 1 s, GPU 1 ending at 2 s, and two arrivals at 2 s
    trace = asked((0, 2), (0.5, 3), (2, 4), (2, 4))
    half = Service(lambda batch: batch.max_output_tokens / 2)
    tables = serve(trace, n_gpus=2, batch_size=2, service=half, admission=admission)
    # then GPU 0 takes both, or, one by one, the first alone and GPU 1, done by now, the second
    assert served(tables) == [(0, 1, 0, [0]), (0.5, 2, 1, [1]), *at_two]


def test_completions_at_one_instant__in_the_order_their_services_began() -> None:
    # given GPU 1 serving from 0.5 to 3 and GPU 0 from 1 to 3, and two requests that wait
    trace = asked((0, 2), (0.5, 5), (1, 4), (2, 2), (2, 4))
    half = Service(lambda batch: batch.max_output_tokens / 2)
    tables = serve(trace, n_gpus=2, batch_size=1, service=half)
    assert served(tables) == [
        (0, 1, 0, [0]),
        (0.5, 3, 1, [1]),
        (1, 3, 0, [2]),
        (3, 4, 1, [3]),
        (3, 5, 0, [4]),
    ]


@pytest.mark.parametrize("admission", ADMISSIONS)
def test_idle_gpus__the_lowest_id_serves_first(admission: str) -> None:
    # given three idle GPUs that became free in the order 2, 1, 0
    trace = asked((0, 3), (0.25, 2), (0.5, 1), (5, 1), (5, 1), (5, 1))
    tables = serve(trace, n_gpus=3, batch_size=1, admission=admission)
    # when three requests arrive, then they go to 0, 1, 2 in order of arrival
    assert served(tables)[3:] == [(5, 6, 0, [3]), (5, 6, 1, [4]), (5, 6, 2, [5])]


@pytest.mark.parametrize("admission", ADMISSIONS)
def test_service_of_no_time__ends_at_its_own_instant_and_pulls_again(admission: str) -> None:
    tables = serve(asked((0, 0), (0, 0), (0, 0)), batch_size=1, admission=admission)
    assert served(tables) == [(0, 0, 0, [0]), (0, 0, 0, [1]), (0, 0, 0, [2])]


def test_arrivals__need_not_begin_at_zero_nor_be_spread() -> None:
    tables = serve(asked((7, 1), (7, 2)), batch_size=2)
    assert served(tables) == [(7, 9, 0, [0, 1])]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_empty_trace__gives_empty_tables(name: str) -> None:
    requests, batches = serve(asked(), name)
    assert (len(requests), len(batches)) == (0, 0)


def test_finish__is_start_plus_service_time_to_the_last_bit() -> None:
    # given instants and durations that no binary fraction holds
    rng = np.random.default_rng(5)
    arrival_s = np.sort(rng.uniform(0, 1e6, 500))
    trace = asked(*zip(arrival_s.tolist(), [1] * 500, strict=True))
    requests, _ = serve(trace, n_gpus=8, service=Service(lambda batch: 0.1 + 0.2))
    # then a lone request starts at its very arrival; sums are single additions
    alone = requests.start_s == requests.arrival_s
    assert alone.sum() > 450
    assert (requests.finish_s == requests.start_s + (0.1 + 0.2)).all()


# --------------------------------------------------------------------- batches and bins


def test_dynamic__takes_the_longest_prefix_that_fits_the_memory() -> None:
    # given room for 2,000 tokens (b_mem = floor(0.9 * 2,000 / 500) = 3 at first)
    trace = asked((0, 900), (0, 900), (0, 900), (0, 100), (0, 1000), (0, 1000))
    tables = serve(trace, "dynamic_no_bins", capacity_tokens=2000.0, service=CONSTANT)
    assert served(tables) == [
        (0, 1, 0, [0, 1]),  # 900 + 900 fit, a third would not
        (1, 2, 0, [2, 3, 4]),  # 900 + 100 + 1,000 fit exactly
        (2, 3, 0, [5]),
    ]


def test_dynamic__a_prefix_that_fits_exactly_is_taken_whole() -> None:
    # given room for 4,000 tokens (b_mem = 7 at first) and a prefix of just that before a small one
    trace = asked((0, 2000), (0, 2000), (0, 100))
    tables = serve(trace, "dynamic_no_bins", capacity_tokens=4000.0, service=CONSTANT)
    assert served(tables) == [(0, 1, 0, [0, 1]), (1, 2, 0, [2])]
    # and with less of room, by however little, it is one shorter
    for capacity_tokens in (3999.0, 3999.9):
        tables = serve(trace, "dynamic_no_bins", capacity_tokens=capacity_tokens, service=CONSTANT)
        assert served(tables) == [(0, 1, 0, [0]), (1, 2, 0, [1, 2])]


def test_dynamic__a_small_request_does_not_overtake_a_large_one() -> None:
    # given 1,000 tokens of room, and a 600 behind a 600 with a 100 after it
    trace = asked((0, 600), (0, 600), (0, 100))
    tables = serve(trace, "dynamic_no_bins", capacity_tokens=1000.0, service=CONSTANT)
    # then the 100 does not slip into the first batch
    assert served(tables)[0] == (0, 1, 0, [0])


def test_dynamic__feedback_comes_before_the_same_gpus_next_pull() -> None:
    # given a limit of floor((1 + 5) / 2) = 3 and an SLA of 1 s
    trace = asked(*[(0, 2)] * 8)
    tables = serve(trace, "dynamic_no_bins", batch_max=5, sla_s=1.0)
    # then 2 s is too slow: high = max(3, 1 + 16) -> 5, low = 1; the limit stays 3
    assert [len(members) for *_, members in served(tables)] == [3, 3, 2]
    # and with a fast service the second batch already holds more: low = min(3, 5 - 16) -> 1
    # (window rule: low = 3, high = 5, limit 4)
    fast = serve(
        trace, "dynamic_no_bins", batch_max=5, sla_s=10.0, controller="window", service=CONSTANT
    )
    assert [len(members) for *_, members in served(fast)] == [3, 4, 1]


def test_dynamic__feedback_stays_in_its_bin() -> None:
    # given two bins that begin with a limit of 3, one of them too slow for the SLA of 3 s
    # (window rule: slow at 3 gives 2..3 and so 2; fast at 3 gives 3..5 and so 4)
    trace = asked(*[(0, 4), (0, 1)] * 7)
    tables = serve(
        trace, "multi_bin_dynamic", bins=[0, 1] * 7, batch_max=5, sla_s=3.0, controller="window"
    )
    # then the fast bin grows and the slow one does not
    sizes = {bin_index: tables[1].size[tables[1].bin == bin_index].tolist() for bin_index in (0, 1)}
    assert sizes == {0: [3, 2, 2], 1: [3, 4]}


def test_rejection__is_on_arrival_and_never_silent() -> None:
    # given room for 1,000 tokens and a request of 1,001
    trace = asked((0, 1001), (0, 1000), (1, 3))
    requests, batches = serve(trace, "dynamic_no_bins", capacity_tokens=1000.0, service=CONSTANT)
    assert requests.completed.tolist() == [False, True, True]
    assert math.isnan(requests.start_s[0])
    assert math.isnan(requests.finish_s[0])
    assert (requests.gpu[0], requests.batch[0]) == (-1, -1)
    assert served((requests, batches)) == [(0, 1, 0, [1]), (1, 2, 0, [2])]
    # and a capacity that is no whole number rejects what it cannot hold, no more
    requests, _ = serve(trace, "dynamic_no_bins", capacity_tokens=1000.5, service=CONSTANT)
    assert requests.completed.tolist() == [False, True, True]


@pytest.mark.parametrize("name", ["dynamic_no_bins", "multi_bin_dynamic"])
def test_rejection__of_everything_serves_nothing(name: str) -> None:
    requests, batches = serve(asked((0, 50), (1, 60)), name, capacity_tokens=10.0)
    assert not requests.completed.any()
    assert len(batches) == 0


def test_round_robin__one_pointer_for_all_gpus() -> None:
    # given two requests in each of three bins at once and batches of one
    trace = asked(*[(0, 1)] * 6)
    bins = [0, 0, 1, 1, 2, 2]
    tables = serve(trace, "multi_bin_dynamic", bins=bins, n_gpus=2, batch_max=1)
    assert tables[1].bin.tolist() == [0, 1, 2, 0, 1, 2]


def test_longest_queue__the_fullest_bin_and_the_lowest_on_ties() -> None:
    trace = asked(*[(0, 1)] * 6)
    bins = [0, 1, 1, 2, 2, 2]
    tables = serve(trace, "multi_bin_dynamic", bins=bins, batch_max=1, bin_choice="longest-queue")
    assert tables[1].bin.tolist() == [2, 1, 2, 0, 1, 2]


def test_multi_bin_only__serves_first_what_formed_first() -> None:
    # given bin 1 full at 2 s and bin 0 at 3 s, though bin 0's first arrival is older
    trace = asked((0, 1), (1, 1), (2, 1), (3, 1), (9, 1))
    tables = serve(trace, "multi_bin_only", bins=[0, 1, 1, 0, 0], batch_size=2)
    assert served(tables) == [(2, 3, 0, [1, 2]), (3, 4, 0, [0, 3]), (9, 10, 0, [4])]


def test_multi_bin_only__waits_for_a_full_batch_and_flushes_remainders_in_bin_order() -> None:
    # given bins 2, 1 and 0 each one short, in that order of arrival
    trace = asked((0, 1), (1, 1), (2, 1))
    tables = serve(trace, "multi_bin_only", bins=[2, 1, 0], batch_size=2)
    # then nothing is served before the last arrival, and then bin 0 first
    assert served(tables) == [(2, 3, 0, [2]), (3, 4, 0, [1]), (4, 5, 0, [0])]


def test_multi_bin_only__at_one_instant_arrivals_come_before_timers() -> None:
    # given bin 0, whose oldest has waited 4 s at 4 s, when bin 1 gets its second request
    trace = asked((0, 1), (3, 1), (4, 1), (50, 1))
    tables = serve(trace, "multi_bin_only", bins=[0, 1, 1, 1], batch_size=2, max_forming_wait_s=4.0)
    assert served(tables) == [(4, 5, 0, [1, 2]), (5, 6, 0, [0]), (50, 51, 0, [3])]
    # of waits that end together the lowest bin goes first
    trace = asked((0, 1), (0, 1), (50, 1))
    tables = serve(trace, "multi_bin_only", bins=[1, 0, 0], batch_size=2, max_forming_wait_s=4.0)
    assert served(tables) == [(4, 5, 0, [1]), (5, 6, 0, [0]), (50, 51, 0, [2])]
    # and a request that arrives with the end of its own bin's wait is taken along
    trace = asked((0, 1), (4, 1), (50, 1))
    tables = serve(trace, "multi_bin_only", batch_size=3, max_forming_wait_s=4.0)
    assert served(tables) == [(4, 5, 0, [0, 1]), (50, 51, 0, [2])]


def test_multi_bin_only__a_last_arrival_that_fills_a_batch_comes_before_the_remainders() -> None:
    trace = asked((0, 1), (1, 1), (2, 1))
    tables = serve(trace, "multi_bin_only", bins=[0, 1, 1], batch_size=2)
    assert served(tables) == [(2, 3, 0, [1, 2]), (3, 4, 0, [0])]


def test_multi_bin_only__is_the_same_under_both_admissions() -> None:
    # given bins that fill at one instant, with one GPU waiting and one about to
    rng = np.random.default_rng(8)
    instants = np.sort(rng.integers(0, 60, 300)).astype(float).tolist()
    trace = asked(*zip(instants, rng.integers(1, 5, 300).tolist(), strict=True))
    bins = rng.integers(0, 3, 300).tolist()
    for wait_s in (None, 2.0):
        options: dict[str, Any] = {"bins": bins, "n_gpus": 3, "batch_size": 3}
        options["max_forming_wait_s"] = wait_s
        together, one_by_one = (
            serve(trace, "multi_bin_only", admission=admission, **options)
            for admission in ADMISSIONS
        )
        assert served(together) == served(one_by_one)


def test_multi_bin_only__a_forming_wait_releases_the_oldest_early() -> None:
    trace = asked((0, 1), (1, 1), (9, 1))
    tables = serve(trace, "multi_bin_only", batch_size=3, max_forming_wait_s=4.0)
    assert served(tables) == [(4, 5, 0, [0, 1]), (9, 10, 0, [2])]


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("seconds", [math.nan, -0.5, math.inf])
def test_latency_model__that_gives_no_duration_is_an_error(seconds: float) -> None:
    trace = asked((0, 3), (0, 4))
    with pytest.raises(ValueError, match=r"finite service time >= 0 s, got .* for 2 requests"):
        serve(trace, service=Service(lambda batch: seconds))


def test_error_in_a_policy__ends_the_run() -> None:
    def fails(batch: Any) -> float:
        raise ZeroDivisionError("the model divides by nothing")

    said = r"Service.service_s must not fail, got ZeroDivisionError: the model divides by nothing"
    with pytest.raises(ValueError, match=said) as caught:
        serve(asked((0, 1)), service=Service(fails))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("n_gpus", [0, -1, 1.5, float("nan")])
def test_n_gpus__must_be_positive(n_gpus: float) -> None:
    with pytest.raises(ValueError, match=f"n_gpus must be a whole .*, got {n_gpus}"):
        serve(asked((0, 1)), n_gpus=n_gpus)


def test_admission__unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'at once'"):
        serve(asked((0, 1)), admission="at once")


def test_progress__counts_the_requests_served_so_far() -> None:
    # given 20,000 requests in pairs, and a report every 4,096 batches
    seen: list[int] = []
    trace = asked(*[(0.0, 0)] * 20_000)
    bins = np.zeros(20_000, np.int32)
    scheduler = make_scheduler("static_fifo", Settings(batch_size=2))
    run_engine(trace, bins, 1, scheduler, n_gpus=1, latency=CONSTANT, progress=seen.append)  # type: ignore[arg-type]
    assert seen == [8192, 16384]


# ----------------------------------------------------------------------------- SimPy traps


def test_clock__at_is_exact_where_a_timeout_misses() -> None:
    # given 5,000 random pairs of instants
    pairs = np.sort(np.random.default_rng(3).uniform(0, 1e4, (5000, 2)), axis=1).tolist()
    landed, missed = [], 0
    for now_s, instant_s in pairs:
        clock = Clock(now_s)
        event = clock.at(instant_s, value="here")
        assert event.callbacks is not None
        event.callbacks.append(lambda event, clock=clock: landed.append(clock.now))
        clock.run()
        missed += now_s + (instant_s - now_s) != instant_s
    # then every event is at its instant, which a relative delay would miss now and then
    assert landed == [instant_s for _, instant_s in pairs]
    assert missed > 0


def test_clock__an_instant_in_the_past_is_refused() -> None:
    clock = Clock(2.0)
    with pytest.raises(ValueError, match=r"instant must be >= now \(2.0\), got 1.5"):
        clock.at(1.5)
    clock.at(2.0)  # now is no past


def test_clock__urgent_events_come_first_and_others_in_scheduling_order() -> None:
    clock, order = Clock(), []
    for name, priority in (("a", NORMAL), ("b", NORMAL), ("c", URGENT), ("d", URGENT)):
        event = clock.at(1.0, priority)
        assert event.callbacks is not None
        event.callbacks.append(lambda _event, name=name: order.append(name))
    clock.run()
    assert order == ["c", "d", "a", "b"]


def test_clock__run_until_stops_before_that_instant_and_run_drains() -> None:
    clock, seen = Clock(), []
    for instant_s in (1.0, 2.0, 3.0):
        event = clock.at(instant_s)
        assert event.callbacks is not None
        event.callbacks.append(lambda _event, at=instant_s: seen.append(at))
    clock.run(until=2.0)
    assert seen == [1.0]
    clock.run()
    assert seen == [1.0, 2.0, 3.0]


def test_clock__run_is_simpys_own_loop() -> None:
    """The unrolled loop does what the loop that calls `step` does, failures included."""

    def story(env: simpy.Environment, log: list[tuple[float, str]]) -> Any:
        env.process(worker(env, log, "a", 1.0))
        env.process(worker(env, log, "b", 1.0))
        yield env.timeout(1.0)
        log.append((env.now, "main"))
        try:
            yield env.process(broken(env))
        except RuntimeError as error:
            log.append((env.now, str(error)))

    def worker(env: simpy.Environment, log: list[tuple[float, str]], name: str, s: float) -> Any:
        for _ in range(3):
            yield env.timeout(s)
            log.append((env.now, name))

    def broken(env: simpy.Environment) -> Any:
        yield env.timeout(0.5)
        raise RuntimeError("caught by who waits")

    logs: list[list[tuple[float, str]]] = []
    for env in (simpy.Environment(), Clock()):
        log: list[tuple[float, str]] = []
        env.process(story(env, log))
        env.run()
        logs.append(log)
    assert logs[0] == logs[1]
    assert (1.5, "caught by who waits") in logs[1]
    # and a failure that nobody waits for ends the run
    clock = Clock()
    clock.process(broken(clock))
    with pytest.raises(RuntimeError, match="caught by who waits"):
        clock.run()


def _nobody(pull: Pull) -> None:
    raise AssertionError("a store of no GPUs hires none")


def bin_store(trace: Trace) -> tuple[Clock, BinStore]:
    scheduler = make_scheduler("static_fifo", Settings(batch_size=1))
    accepted = Accepted(trace, np.zeros(len(trace), np.int32), math.inf)
    clock = Clock(-math.inf)
    queue = WaitingBins(trace, accepted, 1, scheduler)
    return clock, BinStore(clock, queue, 0, hire=_nobody, one_by_one=False)


def test_bin_store__is_a_simpy_store_and_a_pull_is_an_event() -> None:
    _, bins = bin_store(asked((0, 1)))
    pull = bins.pull(0)
    assert isinstance(bins, simpy.Store)
    assert isinstance(pull, simpy.Event)
    assert not pull.triggered


def test_pull__cancelled_gives_the_next_batch_to_another_gpu() -> None:
    # given three GPUs that wait, the first two of which give up
    clock, bins = bin_store(asked((0, 1), (0, 1)))
    pulls = [bins.pull(gpu_id) for gpu_id in (2, 0, 1)]
    with pulls[1]:  # as after `with bins.pull(...) as pull`, interrupted or lost
        pass
    pulls[2].cancel()
    # when both requests arrive
    clock.at(0.0)
    clock.run()
    bins.arrive(0.0)
    clock.run()
    # then the remaining GPU has the first, and the second waits, lost to nobody
    assert [pull.triggered for pull in pulls] == [True, False, False]
    assert pulls[0].value.first == 0
    assert bins.queue.take(0.0).first == 1  # type: ignore[union-attr]


def test_pull__cancelling_one_of_many_keeps_the_lowest_id_first() -> None:
    n = 7
    # (taking 0 off the heap 0 4 1 5 6 2 3 leaves 4 in front, unless the heap is put right)
    for cancelled, order in itertools.product(
        range(n), ((3, 1, 6, 0, 5, 2, 4), (0, 4, 1, 5, 6, 2, 3))
    ):
        clock, bins = bin_store(asked(*[(0, 1)] * n))
        pulls = {gpu_id: bins.pull(gpu_id) for gpu_id in order}
        pulls[cancelled].cancel()
        clock.at(0.0)
        clock.run()
        bins.arrive(0.0)
        clock.run()
        others = [gpu_id for gpu_id in range(n) if gpu_id != cancelled]
        assert [pulls[gpu_id].value.first for gpu_id in others] == list(range(n - 1))


def test_pull__cancelling_one_that_has_its_batch_changes_nothing() -> None:
    clock, bins = bin_store(asked((0, 1)))
    pull = bins.pull(0)
    clock.at(0.0)
    clock.run()
    bins.arrive(0.0)
    pull.cancel()
    assert pull.value.size == 1
    assert bins.get_queue == []


class CountingClock(Clock):
    """Counts what it processes: every event goes through the heap once."""

    processed = 0

    def run(self, until: Any = None) -> Any:
        assert until is None
        while self._queue:
            self.step()
            CountingClock.processed += 1
        return None


@pytest.fixture
def count_events(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, int]]:
    """A function that serves a trace and gives (events processed, batches)."""
    monkeypatch.setattr(run_module, "Clock", CountingClock)

    def counted(trace: Trace, **options: Any) -> tuple[int, int]:
        CountingClock.processed = 0
        requests, batches = serve(trace, **options)
        assert requests.completed.all()
        return CountingClock.processed, len(batches)

    return counted


@pytest.mark.parametrize("admission", ADMISSIONS)
def test_events__grow_with_batches_not_with_requests(
    count_events: Callable[..., tuple[int, int]], admission: str
) -> None:
    # given 10,000 requests over 100 s, and a GPU that takes all that wait every second
    trace = asked(*[(i / 100, 1) for i in range(10_000)])
    events, batches = count_events(trace, batch_size=1000, admission=admission)
    # then there are about 100 batches, and one event for the end of each, besides the start-up
    assert 100 <= batches <= 102
    assert events <= batches + 10


def test_events__do_not_grow_with_idle_gpus(
    count_events: Callable[..., tuple[int, int]],
) -> None:
    def extra(n_requests: int) -> int:
        """Events that 96 more GPUs, none of them ever used, cost."""
        trace = asked(*[(2.0 * i, 1) for i in range(n_requests)])
        events = [count_events(trace, n_gpus=n)[0] for n in (4, 100)]
        return events[1] - events[0]

    # then they cost nothing: a GPU begins when it is first needed
    assert extra(20) == extra(500) == 0


def test_events__of_lone_requests_are_a_few_each(
    count_events: Callable[..., tuple[int, int]],
) -> None:
    # given 1,000 requests that each find an idle GPU
    trace = asked(*[(2.0 * i, 1) for i in range(1000)])
    events, batches = count_events(trace, n_gpus=100)
    # then each is an arrival, a pull and a completion; the one GPU and the replay begin once
    assert batches == 1000
    assert events <= 3 * batches + 10


@pytest.mark.parametrize("name", SCHEDULERS)
def test_idle_gpus__never_change_the_order_of_events(name: str) -> None:
    # given bursts that never need more than 4 GPUs
    trace = asked(*[(5.0 * (i // 4), 1 + i % 3) for i in range(200)])
    bins = [i % 2 for i in range(200)]
    few, many = (
        serve(trace, name, bins=bins, n_gpus=n, batch_size=1, batch_max=1) for n in (4, 100)
    )
    for table, other in zip(few, many, strict=True):
        for column in table.__slots__:
            assert getattr(table, column).tobytes() == getattr(other, column).tobytes()


# ------------------------------------------------------------------------------- theory


@pytest.mark.theory
@pytest.mark.parametrize("scheduler", ["static_fifo", "dynamic_no_bins"])
def test_batches_of_one__mean_wait_is_pollaczek_khinchine(scheduler: str) -> None:
    # given an M/D/1 queue: Poisson arrivals at 0.6/s, a service of 1 s, one GPU, batches of one
    rate_per_s, n, warm_up = 0.6, 6000, 500
    means = []
    for replication in range(12):
        rng = np.random.default_rng([11, replication])
        arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, n))
        trace = asked(*zip(arrival_s.tolist(), [1] * n, strict=True))
        requests, _ = serve(trace, scheduler, batch_size=1, batch_max=1)
        means.append(float((requests.start_s - requests.arrival_s)[warm_up:].mean()))
    # then it lies within 4 standard errors (t_11: 1 false alarm in 470, and the seed is fixed)
    expected = 0.6 / (2 * (1 - 0.6))  # rho / (2 (1 - rho)) services
    assert abs(np.mean(means) - expected) < 4 * stats.sem(means)
    assert stats.sem(means) < 0.05 * expected  # or the check would say little


@pytest.mark.theory
def test_batches_of_one__mean_wait_of_exponential_services_is_that_of_m_m_1() -> None:
    # given M/M/1 at rho = 0.5: Wq = rho / (1 - rho) services of 100 s (whole tokens: off by 0.5 %)
    means = []
    for replication in range(12):
        rng = np.random.default_rng([12, replication])
        arrival_s = np.cumsum(rng.exponential(200.0, 6000))
        output = np.ceil(rng.exponential(100.0, 6000)).astype(int)
        requests, _ = serve(
            asked(*zip(arrival_s.tolist(), output.tolist(), strict=True)), batch_size=1
        )
        means.append(float((requests.start_s - requests.arrival_s)[500:].mean()))
    # then P-K with the moments of the rounded-up law: E = 1/p, E^2 = (2 - p)/p^2
    p = 1 - math.exp(-1 / 100)
    expected = (1 / 200) * ((2 - p) / p**2) / (2 * (1 - (1 / 200) / p))
    assert abs(np.mean(means) - expected) < 4 * stats.sem(means)


@pytest.mark.theory
def test_two_gpus__constant_gaps_and_services_never_wait() -> None:
    # given D/D/2 at rho = 0.999: one request a second, services of 1.998 s
    trace = asked(*[(float(i), 1) for i in range(2000)])
    requests, _ = serve(trace, n_gpus=2, batch_size=1, service=Service(lambda batch: 1.998))
    assert (requests.start_s == requests.arrival_s).all()
    assert requests.gpu.tolist() == [i % 2 for i in range(2000)]
