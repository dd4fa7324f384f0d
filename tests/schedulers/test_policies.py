"""The policies alone: which bin, how many, and what each named scheduler is made of."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from typing import Any

import pytest

from llmsched.schedulers.batch_size import DynamicBatcher, FixedBatcher
from llmsched.schedulers.bin_choice import LongestQueue, RoundRobin
from llmsched.schedulers.memory_limit import BufferLimit, CltLimit
from llmsched.schedulers.registry import SCHEDULERS, make_scheduler
from llmsched.schedulers.scheduler import FullBatches
from llmsched.schedulers.settings import BIN_CHOICES, CONTROLLERS, MEMORY_RULES, Settings
from llmsched.schedulers.sla_control import NoController, PaperController, WindowController


@dataclass(frozen=True)
class Finished:
    """A finished batch, as the policies see it."""

    size: int
    mean_tokens: float
    mean_squared_tokens: float = 0.0


# ------------------------------------------------------------------------------ which bin


def test_round_robin__takes_turns_and_skips_empty_bins() -> None:
    choice = RoundRobin()
    assert [choice.choose(w) for w in ([3, 3, 3], [2, 3, 3], [2, 2, 3], [2, 2, 2])] == [0, 1, 2, 0]
    # given the pointer at 1
    assert choice.choose([5, 0, 1]) == 2
    assert choice.choose([5, 0, 0]) == 0  # back past the end
    assert choice.choose([5, 0, 0]) == 0  # and all the way round


def test_round_robin__pointer_stays_where_it_was_when_every_bin_is_empty() -> None:
    choice = RoundRobin()
    assert choice.choose([1, 1, 1]) == 0
    assert choice.choose([0, 0, 0]) is None
    assert choice.choose([1, 1, 1]) == 1


def test_round_robin__serves_every_bin_once_per_round() -> None:
    for n_bins in (1, 2, 5):
        choice = RoundRobin()
        chosen = [choice.choose([1] * n_bins) for _ in range(3 * n_bins)]
        assert chosen == [*range(n_bins)] * 3


def test_longest_queue__is_the_first_of_the_fullest() -> None:
    choice = LongestQueue()
    for waiting in itertools.product(range(4), repeat=3):
        fullest = max(range(3), key=lambda k: (waiting[k], -k))
        assert choice.choose(waiting) == (fullest if any(waiting) else None)


# ------------------------------------------------------------------------------- how many


def test_fixed_batcher__learns_nothing() -> None:
    batcher = FixedBatcher(5)
    batcher.observe(Finished(5, 1e9, 1e18), 1e9)
    assert batcher.limit() == 5
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        FixedBatcher(0)


@dataclass
class Says:
    """A limit that says a number, and what it was told."""

    number: int
    told: Any = None

    def limit(self) -> int:
        return self.number

    def observe(self, *told: Any) -> None:
        self.told = told


@pytest.mark.parametrize(
    ("memory", "sla", "batch_max", "limit"),
    [(3, 7, 9, 3), (7, 3, 9, 3), (7, 9, 3, 3), (0, 7, 9, 1), (7, 0, 9, 1)],
)
def test_dynamic_batcher__is_the_smallest_limit_and_at_least_one(
    memory: int, sla: int, batch_max: int, limit: int
) -> None:
    assert DynamicBatcher(Says(memory), Says(sla), batch_max).limit() == limit


def test_dynamic_batcher__hands_each_limit_what_it_learns_from() -> None:
    memory, controller = Says(1), Says(1)
    batch = Finished(4, 100.0)
    DynamicBatcher(memory, controller).observe(batch, 0.5)
    assert memory.told == (batch,)
    assert controller.told == (0.5, 4)


# ------------------------------------------------------------------- the named schedulers


def test_static_fifo__is_one_queue_with_no_constraint() -> None:
    scheduler = make_scheduler("static_fifo", Settings(capacity_tokens=5.0, sla_s=1e-9))
    assert isinstance(scheduler.batcher(), FixedBatcher)
    assert scheduler.batcher().limit() == scheduler.batch_max == 8
    assert (scheduler.binned, scheduler.release) == (False, None)
    assert scheduler.capacity_tokens == math.inf


@pytest.mark.parametrize("name", ["dynamic_no_bins", "multi_bin_dynamic"])
def test_dynamic_schedulers__take_every_setting(name: str) -> None:
    settings = Settings(
        sla_s=2.0, batch_min=3, batch_max=9, controller="window", memory="clt", capacity_tokens=50.0
    )
    scheduler = make_scheduler(name, settings)
    batcher = scheduler.batcher()
    assert isinstance(batcher, DynamicBatcher)
    assert isinstance(batcher.controller, WindowController)
    assert (batcher.controller.sla_s, batcher.controller.batch_min) == (2.0, 3)
    assert (batcher.controller.batch_max, batcher.batch_max, scheduler.batch_max) == (9, 9, 9)
    assert isinstance(batcher.memory, CltLimit)
    assert batcher.memory.capacity_tokens == scheduler.capacity_tokens == 50.0
    assert scheduler.binned == (name == "multi_bin_dynamic")
    assert scheduler.release is None


def test_multi_bin_only__forms_exactly_b_and_knows_no_memory() -> None:
    scheduler = make_scheduler("multi_bin_only", Settings(batch_size=3, max_forming_wait_s=2.0))
    assert scheduler.release == FullBatches(batch_size=3, max_forming_wait_s=2.0)
    assert (scheduler.batch_max, scheduler.binned) == (3, True)
    assert scheduler.capacity_tokens == math.inf


def test_defaults__are_the_published_ones() -> None:
    scheduler = make_scheduler("multi_bin_dynamic")
    batcher = scheduler.batcher()
    assert isinstance(scheduler.choice, RoundRobin)
    assert isinstance(batcher, DynamicBatcher)
    assert isinstance(batcher.controller, PaperController)
    assert isinstance(batcher.memory, BufferLimit)
    assert (batcher.controller.sla_s, batcher.controller.batch_min, batcher.batch_max) == (
        1.0,
        1,
        128,
    )
    assert (batcher.controller.alpha, batcher.controller.delta) == (16, 4)
    assert scheduler.capacity_tokens == (12e9 - 4.06e9) / 114688


def test_bins__do_not_share_what_they_learn() -> None:
    # given two bins' batchers of one scheduler
    first, second = (b() for b in [make_scheduler("multi_bin_dynamic").batcher] * 2)
    for _ in range(20):
        first.observe(Finished(64, 5000.0, 5000.0**2), 60.0)
    # then what one has seen leaves the other as it was
    assert first.limit() < second.limit() == 64


def test_schedulers__share_nothing_between_runs() -> None:
    first, second = make_scheduler("multi_bin_dynamic"), make_scheduler("multi_bin_dynamic")
    first.choice.choose([1, 1, 1])
    assert second.choice.choose([1, 1, 1]) == 0


def test_choices__are_what_their_names_say() -> None:
    assert {name: type(make(1.0, 1, 128)) for name, make in CONTROLLERS.items()} == {
        "paper": PaperController,
        "window": WindowController,
        "none": NoController,
    }
    assert {name: type(make(1000.0)) for name, make in MEMORY_RULES.items()} == {
        "buffer": BufferLimit,
        "clt": CltLimit,
    }
    assert dict(BIN_CHOICES) == {"round-robin": RoundRobin, "longest-queue": LongestQueue}


def test_scheduler__unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"static_fifo, dynamic_no_bins.*got 'static-fifo'"):
        make_scheduler("static-fifo")
    assert {"static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_only"} <= {
        *SCHEDULERS
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sla_s": 0.0}, "sla_s must be a finite number > 0 seconds, got 0.0"),
        ({"sla_s": math.nan}, "sla_s must be a finite number .* got nan"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 1000000, got 0"),
        ({"batch_min": 0}, "batch_min must be a whole number from 1 to 1000000, got 0"),
        ({"batch_min": 9, "batch_max": 8}, "got 9 and 8"),
        ({"capacity_tokens": 0.5}, "capacity_tokens must be >= 1, got 0.5"),
        ({"capacity_tokens": math.nan}, "capacity_tokens must be >= 1, got nan"),
        ({"max_forming_wait_s": -1.0}, "max_forming_wait_s must be a finite number >= 0 .* got -1"),
        ({"max_forming_wait_s": math.inf}, "got inf"),
        ({"controller": "pid"}, "controller must be one of paper, window, none; got 'pid'"),
        ({"memory": "guess"}, "memory must be one of buffer, clt; got 'guess'"),
        ({"bin_choice": "random"}, "bin_choice must be one of round-robin, .* got 'random'"),
    ],
)
def test_settings__out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_settings__each_one_reaches_a_scheduler() -> None:
    """Every field, changed, changes what some scheduler is made of: none is parsed and ignored."""
    other: dict[str, Any] = {
        "sla_s": 2.0,
        "batch_size": 3,
        "batch_min": 2,
        "batch_max": 64,
        "controller": "window",
        "memory": "clt",
        "capacity_tokens": 1000.0,
        "bin_choice": "longest-queue",
        "max_forming_wait_s": 1.0,
        "batch_target_s": 2.0,
    }
    # a believed latency, and ageing (iteration level only), have tests of their own
    elsewhere = {"latency", "ageing_tokens_per_s"}
    assert set(other) | elsewhere == {field.name for field in fields(Settings)}

    def made(settings: Settings) -> list[Any]:
        # a policy of one piece never compares equal to another: it would prove nothing
        schedulers = [make_scheduler(name, settings) for name in sorted(SCHEDULERS)]
        schedulers = [scheduler for scheduler in schedulers if scheduler.policy is None]
        return [
            (s.batcher(), s.choice, s.binned, s.batch_max, s.capacity_tokens, s.release)
            for s in schedulers
        ]

    assert made(Settings()) == made(Settings())
    for name, value in other.items():
        assert made(Settings(**{name: value})) != made(Settings()), name
