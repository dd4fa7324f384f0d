"""The reference engine against hand-worked cases: every instant written out."""

from __future__ import annotations

import pytest
from reference_engine import (
    Controller,
    MemoryLimit,
    Outcome,
    Request,
    reference_service_s,
    run,
)


def longest_output_s(size: int, max_total: int, max_prompt: int, max_output: int) -> float:
    """One second per output token of the longest member."""
    return float(max_output)


def asked(*rows: tuple[float, int]) -> list[Request]:
    """(arrival, output tokens) as requests without a prompt, binned by their output."""
    return [(arrival_s, 0, output, output) for arrival_s, output in rows]


def served(outcome: Outcome) -> list[tuple[float, float, int, list[int]]]:
    """(start, finish, gpu, members) of every batch, in the order of service begin."""
    return [(start, finish, gpu, members) for start, finish, gpu, _, members in outcome.batches]


# ------------------------------------------------------------------ queues, instants and ties


def test_one_queue__figure_1b_takes_11_s() -> None:
    # given service times 1, 5, 2, 6 s at once, batches of two, one server
    requests = asked((0, 1), (0, 5), (0, 2), (0, 6))
    # when one queue serves them in order
    outcome = run(requests, "static_fifo", n_gpus=1, batch_size=2, service_s=longest_output_s)
    # then (1, 5) takes 5 s and (2, 6) takes 6 s
    assert served(outcome) == [(0, 5, 0, [0, 1]), (5, 11, 0, [2, 3])]


def test_two_bins__figure_1b_takes_8_s() -> None:
    # given the same requests and the bins [1, 3] and [4, 6]
    requests = asked((0, 1), (0, 5), (0, 2), (0, 6))
    # when each bin forms its pair
    outcome = run(
        requests,
        "multi_bin_only",
        n_gpus=1,
        batch_size=2,
        edges=(4,),
        service_s=longest_output_s,
    )
    # then (1, 2) takes 2 s and (5, 6) takes 6 s
    assert served(outcome) == [(0, 2, 0, [0, 2]), (2, 8, 0, [1, 3])]
    assert outcome.bin == [0, 1, 0, 1]


def test_ties__together_a_gpu_sees_all_of_the_instant() -> None:
    requests = asked((0, 3), (0, 1), (0, 2))
    outcome = run(requests, "static_fifo", n_gpus=2, batch_size=2, service_s=longest_output_s)
    assert served(outcome) == [(0, 3, 0, [0, 1]), (0, 2, 1, [2])]
    assert outcome.gpu == [0, 0, 1]
    assert outcome.batch == [0, 0, 1]


def test_ties__one_by_one_a_waiting_gpu_takes_the_first_alone() -> None:
    requests = asked((0, 3), (0, 1), (0, 2))
    outcome = run(
        requests,
        "static_fifo",
        n_gpus=2,
        admission="one-by-one",
        batch_size=2,
        service_s=longest_output_s,
    )
    assert served(outcome) == [(0, 3, 0, [0]), (0, 1, 1, [1]), (1, 3, 1, [2])]


def test_completion_at_an_arrival__sees_that_arrival() -> None:
    # given one GPU that ends at 2 s, when the third request arrives
    requests = asked((0, 2), (1, 1), (2, 1))
    outcome = run(requests, "static_fifo", n_gpus=1, service_s=longest_output_s)
    # then both waiting requests leave together
    assert served(outcome) == [(0, 2, 0, [0]), (2, 3, 0, [1, 2])]


@pytest.mark.parametrize(
    ("admission", "at_two"),
    [
        ("together", [(2, 3, 0, [2, 3])]),
        ("one-by-one", [(2, 3, 0, [2]), (2, 3, 1, [3])]),
    ],
)
def test_arrival_at_a_completion__goes_to_the_gpu_that_waits(
    admission: str, at_two: list[tuple[float, float, int, list[int]]]
) -> None:
    # given GPU 0 idle since 1 s, GPU 1 ending at 2 s, and two arrivals at 2 s
    requests = [(0, 0, 2, 0), (0.5, 0, 3, 0), (2, 0, 2, 0), (2, 0, 2, 0)]
    outcome = run(
        requests,
        "static_fifo",
        n_gpus=2,
        admission=admission,
        batch_size=2,
        service_s=lambda size, total, prompt, output: output / 2,
    )
    assert served(outcome) == [(0, 1, 0, [0]), (0.5, 2, 1, [1]), *at_two]


def test_completions_at_one_instant__in_the_order_their_services_began() -> None:
    # given GPU 1 serving [0.5, 3] and GPU 0 serving [1, 3], and two requests that wait
    requests = [(0, 0, 2, 0), (0.5, 0, 5, 0), (1, 0, 4, 0), (2, 0, 2, 0), (2, 0, 4, 0)]
    outcome = run(
        requests,
        "static_fifo",
        n_gpus=2,
        batch_size=1,
        service_s=lambda size, total, prompt, output: output / 2,
    )
    # then GPU 1, which began first, pulls first
    assert served(outcome) == [
        (0, 1, 0, [0]),
        (0.5, 3, 1, [1]),
        (1, 3, 0, [2]),
        (3, 4, 1, [3]),
        (3, 5, 0, [4]),
    ]


@pytest.mark.parametrize("admission", ["together", "one-by-one"])
def test_service_of_no_time__is_a_completion_after_the_arrivals(admission: str) -> None:
    requests = asked((0, 0), (0, 0), (0, 0), (0, 0))
    outcome = run(
        requests,
        "static_fifo",
        n_gpus=2,
        admission=admission,
        batch_size=1,
        service_s=longest_output_s,
    )
    assert served(outcome) == [(0, 0, 0, [0]), (0, 0, 1, [1]), (0, 0, 0, [2]), (0, 0, 1, [3])]


def test_service__is_the_reference_formula_and_finish_is_start_plus_it() -> None:
    # given prompts 60 and 30 with outputs 40 and 50: b = 2, L = 100
    requests = [(0.25, 60, 40, 0.0), (0.25, 30, 50, 0.0)]
    outcome = run(requests, "static_fifo", n_gpus=1)
    # then 15 ms + 0.3 ms x 100 x (1 + 0.4 x 1/2) = 51 ms
    assert reference_service_s(2, 100, 60, 50) == pytest.approx(0.051, rel=1e-15)
    assert outcome.finish_s == [0.25 + reference_service_s(2, 100, 60, 50)] * 2


# ----------------------------------------------------------------------------- batch-size limits


def walk(controller: Controller, *observed: tuple[float, int]) -> list[tuple[int, int, int]]:
    """(low, high, limit) after each observed (service, size)."""
    states = []
    for service_s, size in observed:
        controller.observe(service_s, size)
        states.append((controller.low, controller.high, controller.limit()))
    return states


def test_algorithm_2__by_hand_through_all_three_branches() -> None:
    controller = Controller("paper", sla_s=1.0, batch_min=1, batch_max=128)
    assert controller.limit() == 64
    assert walk(controller, (0.5, 10), (3.0, 30), (3.0, 30), (2.0, 60)) == [
        (10, 128, 69),  # 0.5 s, fast: low = min(10, 128 - 16), high = min(128 + 4, 128)
        (6, 22, 14),  # 1.0 s, within: 14 - 8 and 14 + 8
        (2, 22, 12),  # 1.4 s, slow: high = max(17, 6 + 16), low = 6 - 4
        (1, 25, 13),  # 1.52 s, slow: high = max(25, 2 + 16), low = max(2 - 4, 1)
    ]


@pytest.mark.parametrize(
    ("limits", "observed", "state"),
    [
        ((4, 12), (0.1, 8), (4, 12, 8)),  # fast: low = min(8, 12 - 16) = -4, raised to 4
        ((4, 12), (5.0, 8), (4, 12, 8)),  # slow: high = max(8, 4 + 16) = 20, lowered to 12
        ((4, 12), (1.0, 30), (12, 12, 12)),  # within: low = 22, lowered to 12
        ((20, 128), (1.0, 3), (20, 20, 20)),  # within: high = 11, raised to low
        ((1, 128), (1.1, 50), (42, 58, 50)),  # exactly D + eps is within
        ((1, 128), (0.9, 50), (42, 58, 50)),  # and so is exactly D - eps
    ],
)
def test_algorithm_2__clamps_and_boundaries(
    limits: tuple[int, int], observed: tuple[float, int], state: tuple[int, int, int]
) -> None:
    controller = Controller("paper", sla_s=1.0, batch_min=limits[0], batch_max=limits[1])
    assert walk(controller, observed) == [state]


def test_window_rule__by_hand_within_and_slow() -> None:
    controller = Controller("window", sla_s=1.0, batch_min=1, batch_max=128)
    assert walk(controller, (0.5, 40), (3.0, 40), (2.0, 40), (2.0, 30), (2.0, 1)) == [
        (40, 128, 84),  # fast: low = max(1, 40), high = min(128 + 8, 128)
        (32, 48, 40),  # 1.0 s, within: margin = floor(0.1 x 88) = 8
        (32, 40, 36),  # 1.2 s, slow: high = min(48, 40), low = max(32, 32)
        (32, 38, 35),  # 1.36 s, slow: high = min(40, 38), low = max(32, 30)
        (30, 30, 30),  # slow: high = 30 falls below low = 32, which follows
    ]


def test_window_rule__by_hand_grows_when_fast() -> None:
    controller = Controller("window", sla_s=1.0, batch_min=1, batch_max=128)
    assert walk(controller, (2.0, 20), (0.0, 20), (0.0, 20), (0.0, 20), (0.0, 20)) == [
        (16, 20, 18),  # 2.0 s, slow: high = 20, low = 16
        (16, 20, 18),  # 1.6 s
        (16, 20, 18),  # 1.28 s
        (20, 20, 20),  # 1.024 s, within: margin = floor(0.4) = 0
        (20, 24, 22),  # 0.8192 s, fast: low = 20, high = 20 + max(1, 4)
    ]


def test_window_rule__shares_are_of_the_floored_mean_size() -> None:
    controller = Controller("window", sla_s=1.0, batch_min=1, batch_max=128)
    # given a mean size of 0.2 x 8 + 0.8 x 6 = 6.4, floored to 6
    controller.observe(2.0, 6)
    controller.observe(2.0, 8)
    # then low = floor(0.8 x 6) = 4, not floor(0.8 x 6.4) = 5
    assert (controller.low, controller.high) == (4, 6)


def test_memory_limit__by_hand_both_ways() -> None:
    buffer, clt = MemoryLimit("buffer", 69231.3), MemoryLimit("clt", 69231.3)
    assert (buffer.limit(), clt.limit()) == (124, 138)  # 0.9 x 69231.3 / 500, 69231.3 / 500
    for memory in (buffer, clt):
        memory.observe([100, 300])
    # then mu = 0.2 x 200 + 0.8 x 500 = 440: 62308 / 440 = 141.6
    assert buffer.limit() == 141
    # and sigma^2 = 210,000 - 440^2 = 16,400, theta = 1.6449:
    # ((sqrt(44,371 + 121,847,088) - 210.6) / 880)^2 = 12.307^2 = 151.45
    assert clt.limit() == 151


def test_memory_limit__never_falls_below_one() -> None:
    assert MemoryLimit("buffer", 10).limit() == 1
    assert MemoryLimit("clt", 10).limit() == 1


# --------------------------------------------------------------------------- dynamic and binned


def test_dynamic__takes_the_longest_prefix_that_fits() -> None:
    # given room for 2000 tokens, so b_mem = floor(1800 / 500) = 3
    tokens = [900, 900, 900, 100, 1000, 1000]
    requests = [(0.0, 0, output, 0.0) for output in tokens]
    outcome = run(
        requests,
        "dynamic_no_bins",
        n_gpus=1,
        capacity_tokens=2000,
        service_s=lambda size, total, prompt, output: 1.0,
    )
    # then the third request ends the first batch although the fourth would fit; then
    # mu = 580, b_mem = 3, and 900 + 100 + 1000 fill the memory exactly
    assert served(outcome) == [(0, 1, 0, [0, 1]), (1, 2, 0, [2, 3, 4]), (2, 3, 0, [5])]


def test_dynamic__feedback_comes_before_the_pull() -> None:
    # given a first batch of one request with 2000 tokens: mu = 800, b_mem = 1800 // 800 = 2
    requests = [(0.0, 0, 2000, 0.0), *[(0.5, 0, 100, 0.0)] * 3]
    outcome = run(
        requests,
        "dynamic_no_bins",
        n_gpus=1,
        capacity_tokens=2000,
        service_s=lambda size, total, prompt, output: 1.0,
    )
    assert served(outcome) == [(0, 1, 0, [0]), (1, 2, 0, [1, 2]), (2, 3, 0, [3])]


def test_dynamic__feedback_stays_in_its_bin() -> None:
    # given the same requests, the long one in a bin of its own
    requests = [(0.0, 0, 2000, 2000.0), *[(0.5, 0, 100, 100.0)] * 3]
    outcome = run(
        requests,
        "multi_bin_dynamic",
        n_gpus=1,
        capacity_tokens=2000,
        edges=(1000,),
        service_s=lambda size, total, prompt, output: 1.0,
    )
    # then the short ones still start from mu = 500, b_mem = 3
    assert served(outcome) == [(0, 1, 0, [0]), (1, 2, 0, [1, 2, 3])]


def test_rejection__only_of_what_can_never_fit() -> None:
    requests = [(0.0, 1, 2000, 0.0), (0.0, 0, 2000, 0.0), (3.0, 5000, 0, 0.0)]
    for scheduler in ("dynamic_no_bins", "multi_bin_dynamic"):
        outcome = run(requests, scheduler, n_gpus=1, capacity_tokens=2000)
        assert outcome.batch == [None, 0, None]
        assert outcome.start_s == [None, 0.0, None]
    for scheduler in ("static_fifo", "multi_bin_only"):
        assert None not in run(requests, scheduler, n_gpus=1, capacity_tokens=2000).batch


def one_at_a_time(bins: list[int], *, bin_choice: str, n_gpus: int = 1) -> list[list[int]]:
    """The order of service of requests at 0 s, each alone for 1 s."""
    outcome = run(
        [(0.0, 0, 1, float(b)) for b in bins],
        "multi_bin_dynamic",
        n_gpus=n_gpus,
        batch_max=1,
        edges=(1, 2),
        bin_choice=bin_choice,
        service_s=lambda size, total, prompt, output: 1.0,
    )
    return [members for _, _, _, members in served(outcome)]


@pytest.mark.parametrize("n_gpus", [1, 2])
def test_round_robin__one_pointer_that_passes_empty_bins(n_gpus: int) -> None:
    order = one_at_a_time([0, 0, 2, 2, 1], bin_choice="round-robin", n_gpus=n_gpus)
    # bins 0, 1, 2, 0, then past the empty bin 1 to bin 2
    assert order == [[0], [4], [2], [1], [3]]


def test_round_robin__pointer_stays_when_every_bin_is_empty() -> None:
    # given a request in bin 0, then nothing, then one in each of the bins 0 and 1
    requests = [(0.0, 0, 1, 0.0), (5.0, 0, 1, 0.0), (5.0, 0, 1, 1.0)]
    outcome = run(
        requests,
        "multi_bin_dynamic",
        n_gpus=1,
        edges=(1, 2),
        service_s=lambda size, total, prompt, output: 1.0,
    )
    # then bin 1 is next
    assert [members for _, _, _, members in served(outcome)] == [[0], [2], [1]]


def test_longest_queue__lowest_bin_on_ties() -> None:
    order = one_at_a_time([1, 1, 0, 0, 2], bin_choice="longest-queue")
    # queues (2, 2, 1), (1, 2, 1), (1, 1, 1), (0, 1, 1), (0, 0, 1)
    assert order == [[2], [0], [3], [1], [4]]


def test_bins__are_the_number_of_edges_not_above_the_value() -> None:
    requests = [(0.0, 0, 1, value) for value in (9.5, 10.0, 10.5, 20.0, 30.0)]
    outcome = run(requests, "multi_bin_dynamic", n_gpus=1, edges=(10, 20))
    assert outcome.bin == [0, 1, 1, 2, 2]


# ---------------------------------------------------------------------------- whole bins only


def whole_bins(
    rows: list[tuple[float, int]], *, n_gpus: int, wait_s: float | None, service_s: float = 4.0
) -> list[tuple[float, float, int, list[int]]]:
    """(arrival, bin) requests in pairs, each pair served for `service_s`."""
    outcome = run(
        [(arrival_s, 0, 1, float(b)) for arrival_s, b in rows],
        "multi_bin_only",
        n_gpus=n_gpus,
        batch_size=2,
        edges=(1,),
        max_forming_wait_s=wait_s,
        service_s=lambda size, total, prompt, output: service_s,
    )
    return served(outcome)


def test_multi_bin_only__flushes_in_bin_order_at_the_last_arrival() -> None:
    batches = whole_bins([(0, 1), (1, 0), (2, 1), (5, 1)], n_gpus=1, wait_s=None)
    # (0, 2) forms at 2 s; at 5 s the flush forms bin 0's, then bin 1's
    assert batches == [(2, 6, 0, [0, 2]), (6, 10, 0, [1]), (10, 14, 0, [3])]


def test_multi_bin_only__first_formed_is_first_served() -> None:
    batches = whole_bins([(0, 0), (0, 1), (0, 1), (0, 0), (1, 0), (1, 0)], n_gpus=1, wait_s=None)
    assert batches == [(0, 4, 0, [1, 2]), (4, 8, 0, [0, 3]), (8, 12, 0, [4, 5])]


def test_multi_bin_only__forms_when_the_oldest_has_waited_long_enough() -> None:
    batches = whole_bins([(0, 1), (1, 0), (2, 1), (5, 1)], n_gpus=2, wait_s=2)
    # bin 1 fills at 2 s, at the very end of its wait; bin 0 goes part-full at 1 + 2 s
    assert batches == [(2, 6, 0, [0, 2]), (3, 7, 1, [1]), (6, 10, 0, [3])]


def test_multi_bin_only__timers_of_one_instant_in_bin_order() -> None:
    batches = whole_bins([(0, 1), (0, 0), (9, 0)], n_gpus=2, wait_s=2)
    assert batches == [(2, 6, 0, [1]), (2, 6, 1, [0]), (9, 13, 0, [2])]


def test_multi_bin_only__a_timer_dies_with_its_batch() -> None:
    # given bin 0 full at 1 s and a new oldest member at 1.5 s
    batches = whole_bins([(0, 0), (1, 0), (1.5, 0), (9, 1)], n_gpus=2, wait_s=2)
    # then nothing forms at 2 s, when the first timer ends, but at 3.5 s
    assert batches == [(1, 5, 0, [0, 1]), (3.5, 7.5, 1, [2]), (9, 13, 0, [3])]


def test_multi_bin_only__a_timer_comes_before_a_completion() -> None:
    # given GPU 0 busy on [0, 4], GPU 1 idle, and a wait that ends at 4 s too
    batches = whole_bins([(0, 0), (0, 0), (2, 1), (9, 1)], n_gpus=2, wait_s=2)
    # then GPU 1, which waits, takes the batch
    assert batches == [(0, 4, 0, [0, 1]), (4, 8, 1, [2]), (9, 13, 0, [3])]


def test_multi_bin_only__no_wait_still_gathers_one_instant() -> None:
    batches = whole_bins([(0, 0), (0, 1), (0, 0), (9, 0)], n_gpus=2, wait_s=0)
    assert batches == [(0, 4, 0, [0, 2]), (0, 4, 1, [1]), (9, 13, 0, [3])]
