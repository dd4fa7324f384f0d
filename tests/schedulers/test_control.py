"""The SLA controllers by hand: every branch and clamp, and the settings of the paper's figure 3."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from llmsched.schedulers.sla_control import (
    NoController,
    PaperController,
    SlaController,
    WindowController,
)

State = tuple[int, int, int]


def walk(
    controller: PaperController | WindowController, *observed: tuple[float, int]
) -> list[State]:
    """(low, high, limit) after each observed (service time, batch size)."""
    states = []
    for service_s, batch_size in observed:
        controller.observe(service_s, batch_size)
        states.append((controller.low, controller.high, controller.limit()))
    return states


# ------------------------------------------------------------------------- Algorithm 2


def test_paper__starts_in_the_middle_of_its_bounds() -> None:
    assert PaperController(1.0).limit() == 64  # floor((1 + 128) / 2)
    assert PaperController(1.0, 4, 12).limit() == 8
    assert PaperController(1.0, 5, 5).limit() == 5


def test_paper__by_hand_through_all_three_branches() -> None:
    # given averages 0.5 s and 10; then 0.2 x 3.0 + 0.8 x 0.5 = 1.0 s and 14; 1.4 s and 17.2;
    # 1.52 s and 25.76
    assert walk(PaperController(1.0), (0.5, 10), (3.0, 30), (3.0, 30), (2.0, 60)) == [
        (10, 128, 69),  # fast: low = min(10, 128 - 16), high = min(128 + 4, 128)
        (6, 22, 14),  # within: 14 - 8 and 14 + 8
        (2, 22, 12),  # slow: low = max(6 - 4, 1), high = max(17, 6 + 16)
        (1, 25, 13),  # slow: low = max(2 - 4, 1), high = max(25, 2 + 16)
    ]


def test_paper__right_hand_sides_use_the_previous_interval() -> None:
    # given low = 42, high = 58 (within, at 50)
    controller = PaperController(1.0)
    assert walk(controller, (1.0, 50)) == [(42, 58, 50)]
    # when too slow (0.2 x 5 + 0.8 x 1 = 1.8 s; mean batch 0.2 x 0 + 0.8 x 50 = 40)
    controller.observe(5.0, 0)
    # then high = max(40, 42 + 16) is taken with the old low, not with 38
    assert (controller.low, controller.high) == (38, 58)
    # and when too fast, low = min(mean, high - 16) with the old high, not with high + 4
    controller = PaperController(1.0)
    walk(controller, (1.0, 50))
    controller.observe(0.0, 50)  # 0.8 s, mean batch 50
    assert (controller.low, controller.high) == (42, 62)


@pytest.mark.parametrize(
    ("bounds", "observed", "state"),
    [
        ((4, 12), (0.1, 8), (4, 12, 8)),  # fast: low = min(8, 12 - 16) = -4, raised to B_min
        ((4, 12), (5.0, 8), (4, 12, 8)),  # slow: high = max(8, 4 + 16) = 20, lowered to B_max
        ((4, 12), (1.0, 30), (12, 12, 12)),  # within: low = 22, lowered to B_max
        ((20, 128), (1.0, 3), (20, 20, 20)),  # within: high = 11, raised to low
        ((1, 128), (0.1, 120), (112, 128, 120)),  # fast: low = high - 16, though the mean is 120
        ((1, 128), (5.0, 90), (1, 90, 45)),  # slow: high = the mean, above low + 16
        ((1, 10), (5.0, 90), (1, 10, 5)),  # slow: high = 90, lowered to B_max
        ((1, 128), (1.0, 4), (1, 12, 6)),  # within: low = 4 - 8, raised to B_min
        ((1, 128), (1.0, 125), (117, 128, 122)),  # within: high = 125 + 8, lowered to B_max
    ],
)
def test_paper__clamps(bounds: tuple[int, int], observed: tuple[float, int], state: State) -> None:
    assert walk(PaperController(1.0, *bounds), observed) == [state]


@pytest.mark.parametrize(
    ("service_s", "state"),
    [
        (1.1, (42, 58, 50)),  # exactly D + eps is within
        (0.9, (42, 58, 50)),  # and so is exactly D - eps
        (math.nextafter(1.1, 2), (1, 50, 25)),
        (math.nextafter(0.9, 0), (50, 128, 89)),
    ],
)
def test_paper__the_tolerance_belongs_to_the_target(service_s: float, state: State) -> None:
    assert walk(PaperController(1.0), (service_s, 50)) == [state]


def test_paper__alpha_delta_and_tolerance_are_parameters() -> None:
    controller = PaperController(1.0, alpha=6, delta=10, tolerance_share=0.5)
    assert walk(controller, (1.4, 50)) == [(47, 53, 50)]  # within: 50 -+ 6 // 2
    assert walk(controller, (9.0, 50)) == [(37, 53, 45)]  # 2.92 s: low - 10, high = max(50, 47 + 6)


# ------------------------------------------------------------- what both controllers share


@pytest.mark.parametrize("kind", [PaperController, WindowController])
def test_averages__the_first_batch_initialises_them(
    kind: type[PaperController | WindowController],
) -> None:
    # given a first service time on target: an average that began at 0 would call it fast
    controller = kind(1.0)
    controller.observe(1.0, 40)
    assert controller.low < 40 < controller.high
    # (0.2 x 1.0 + 0.8 x 0 is 0.2 s, and low would be 8 or 40)
    assert (controller.low + controller.high) // 2 == 40


@pytest.mark.parametrize("kind", [PaperController, WindowController])
def test_averages__newest_weighs_a_fifth_and_the_mean_batch_is_floored(
    kind: type[PaperController | WindowController],
) -> None:
    # given batches of 44, 40, 40: means 44, 43.2, 42.56
    controller = kind(1.0)
    middles = []
    for size in (44, 40, 40):
        controller.observe(1.0, size)
        middles.append((controller.low + controller.high) / 2)
    assert middles == [44, 43, 42]


@pytest.mark.parametrize("kind", [PaperController, WindowController])
@pytest.mark.parametrize("bounds", [(1, 128), (1, 1), (7, 9), (128, 128), (1, 10_000)])
def test_limit__never_leaves_its_bounds(
    kind: type[PaperController | WindowController], bounds: tuple[int, int]
) -> None:
    controller = kind(1.0, *bounds)
    for service_s, size in ((9.0, 500), (0.0, 1), (1.0, 1), (0.0, 500), (1.0, 500), (9.0, 1)) * 9:
        assert bounds[0] <= controller.limit() <= bounds[1]
        assert bounds[0] <= controller.low <= controller.high <= bounds[1]
        controller.observe(service_s, size)


@pytest.mark.parametrize("kind", [PaperController, WindowController])
@pytest.mark.parametrize("sla_s", [0.0, -1.0, math.nan, math.inf])
def test_sla__must_be_finite_and_positive(
    kind: type[PaperController | WindowController], sla_s: float
) -> None:
    with pytest.raises(ValueError, match="sla_s must be finite and > 0 seconds, got"):
        kind(sla_s)


@pytest.mark.parametrize("kind", [PaperController, WindowController])
@pytest.mark.parametrize("bounds", [(0, 5), (5, 4)])
def test_bounds__must_be_in_order(
    kind: type[PaperController | WindowController], bounds: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match=f"got {bounds[0]} and {bounds[1]}"):
        kind(1.0, *bounds)


# ---------------------------------------------------------------------------- the window


def test_window__by_hand_within_and_slow() -> None:
    assert walk(WindowController(1.0), (0.5, 40), (3.0, 40), (2.0, 40), (2.0, 30), (2.0, 1)) == [
        (40, 128, 84),  # fast: low = max(1, 40), high = min(128 + 8, 128)
        (32, 48, 40),  # 1.0 s, within: margin = floor(0.1 x 88) = 8
        (32, 40, 36),  # 1.2 s, slow: high = min(48, 40), low = max(32, 32)
        (32, 38, 35),  # 1.36 s, slow: high = min(40, 38), low = max(32, 30)
        (30, 30, 30),  # slow: high = 30 falls below low = 32, which follows
    ]


def test_window__by_hand_grows_when_fast() -> None:
    observed = ((2.0, 20), (0.0, 20), (0.0, 20), (0.0, 20), (0.0, 20), (0.0, 1))
    assert walk(WindowController(1.0), *observed) == [
        (16, 20, 18),  # 2.0 s, slow: high = 20, low = 16
        (16, 20, 18),  # 1.6 s
        (16, 20, 18),  # 1.28 s
        (20, 20, 20),  # 1.024 s, within: margin = floor(0.4) = 0
        (20, 24, 22),  # 0.8192 s, fast: low = 20, high = 20 + max(1, 4)
        (20, 27, 23),  # mean batch 16.2: low stays, high = 24 + floor(0.2 x 16)
    ]


def test_window__shares_are_of_the_floored_mean_batch() -> None:
    # given a mean batch of 0.2 x 8 + 0.8 x 6 = 6.4, floored to 6, and a service that is too slow
    controller = WindowController(1.0)
    walk(controller, (2.0, 6), (2.0, 8))
    # then low = floor(0.8 x 6) = 4, not floor(0.8 x 6.4) = 5
    assert (controller.low, controller.high) == (4, 6)


@pytest.mark.parametrize(
    ("bounds", "observed", "state"),
    [
        ((1, 128), (5.0, 4), (3, 4, 3)),  # slow: low = floor(0.8 x 4)
        ((6, 128), (5.0, 4), (6, 6, 6)),  # slow: both raised to B_min
        ((1, 10), (0.1, 3), (3, 10, 6)),  # fast: high = 10 + 1, lowered to B_max
        ((1, 10), (0.1, 90), (10, 10, 10)),  # fast: low = 90, lowered to B_max
        ((1, 128), (1.0, 127), (115, 128, 121)),  # within: margin 12, high = 139, lowered to B_max
        ((1, 128), (1.0, 5), (1, 17, 9)),  # within: low = 5 - 12, raised to B_min
    ],
)
def test_window__clamps(bounds: tuple[int, int], observed: tuple[float, int], state: State) -> None:
    assert walk(WindowController(1.0, *bounds), observed) == [state]


def test_window__grows_by_one_at_least() -> None:
    # given a window of 1..2 (slow at 2), then fast: floor(0.2 x 2) = 0
    controller = WindowController(1.0)
    walk(controller, (1.2, 2))
    assert (controller.low, controller.high) == (1, 2)
    controller.observe(0.0, 2)  # 0.96 s, within: margin 0, low = high = 2
    assert (controller.low, controller.high) == (2, 2)
    controller.observe(0.0, 2)  # 0.768 s, fast
    assert (controller.low, controller.high) == (2, 3)


def test_no_controller__always_allows_the_largest() -> None:
    controller = NoController(32)
    controller.observe(1e9, 32)
    assert controller.limit() == 32


# -------------------------------------------------------- the setting of the paper's figure 3


def step_s(batch_size: int) -> float:
    """Decode step of figure 3, tau(b) = 0.22 b + 30 ms [s]."""
    return (0.22 * batch_size + 30.0) / 1e3


def settle(controller: SlaController, n_steps: int = 400) -> Sequence[int]:
    """The last 100 limits when every batch is as large as allowed."""
    limits = []
    for _ in range(n_steps):
        limits.append(controller.limit())
        controller.observe(step_s(limits[-1]), limits[-1])
    return limits[-100:]


@pytest.mark.parametrize(("tpot_sla_s", "paper_batch"), [(0.050, 100), (0.080, 230)])
def test_paper__settles_near_figure_3_of_the_paper(tpot_sla_s: float, paper_batch: int) -> None:
    # given tau(b) = D_SLA at b = 90.9 and 227.3; the paper reads b = 100 and 230 off its figure
    exact = (1e3 * tpot_sla_s - 30.0) / 0.22
    limits = settle(PaperController(tpot_sla_s, 1, 512, tolerance_share=0.05))
    # then the limit stands still, within alpha / 2 of the paper's batch and of the exact one
    assert len(set(limits)) == 1
    assert abs(limits[0] - paper_batch) <= 8
    assert abs(limits[0] - exact) <= 8 + 0.05 * 1e3 * tpot_sla_s / 0.22


@pytest.mark.parametrize("tpot_sla_s", [0.050, 0.080])
@pytest.mark.parametrize("tolerance_share", [0.01, 0.02, 0.05, 0.1])
def test_paper__settles_within_its_tolerance(tpot_sla_s: float, tolerance_share: float) -> None:
    limits = settle(PaperController(tpot_sla_s, 1, 512, tolerance_share=tolerance_share))
    # one request of a limit that is floored costs 0.22 ms
    assert all(
        abs(step_s(limit) - tpot_sla_s) <= tolerance_share * tpot_sla_s + 0.22e-3
        for limit in limits
    )


def test_window__stops_shrinking_at_four_fifths_of_a_batch_that_is_too_slow() -> None:
    """A limit of the rule as designed: while slow, low never falls, so neither can the limit.

    It began at 256 of 512, where figure 3 takes 86 ms; 80 % of that, 204, takes 75 ms of the 50
    allowed, and there it stays. Algorithm 2 comes down to 99.
    """
    assert set(settle(WindowController(0.050, 1, 512))) == {204}
