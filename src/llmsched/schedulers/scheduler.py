"""A scheduler: a policy, and what the engine must know of it.

Most schedulers are put together from two questions about bins, which one is next and how many of
it (`BinPolicy`), or let bins form whole batches as they fill (`FullBatches`). Any other policy is
given as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import index
from typing import Any

from llmsched._util.plugins import CALL_ERRORS, PluginError, name_of, raise_failure
from llmsched.prediction.binning import BinBy, EdgeRule
from llmsched.schedulers.base import (
    BatchPlan,
    BatchPolicy,
    FinishedBatch,
    Head,
    Sees,
    WaitingView,
)
from llmsched.schedulers.batch_size import Batcher
from llmsched.schedulers.bin_choice import BinChoice, RoundRobin


@dataclass(frozen=True, slots=True, kw_only=True)
class FullBatches:
    """Release rule of the multi-bin paper: a bin forms a batch the moment it holds `batch_size`.

    Formed batches are served first formed, first served; after the last arrival the remainders
    are released in bin order. `max_forming_wait_s` releases a part-full batch earlier [s].
    """

    batch_size: int
    max_forming_wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """A policy and its terms; use each scheduler for one run only.

    Give either `policy`, or `batcher` and what goes with it.

    Parameters
    ----------
    policy : BatchPolicy, optional
        Which requests a free GPU serves next.
    batcher : callable, optional
        Makes the batcher of one bin.
    choice : BinChoice
        Which bin a free GPU serves.
    release : FullBatches, optional
        Bins form batches as requests arrive, whatever the GPUs do. What waits is then a single
        queue of formed batches; the default policy serves its head.
    sees : {"counts", "ages", "requests"}
        What the policy is shown of those that wait; see `WaitingView`.
    binned : bool
        Whether requests are spread over bins by predicted length.
    bin_by, bin_edges : str
        What its bins are by, and how their edges are found, where the user leaves it open.
    batch_max : int
        The largest batch it ever forms [requests]; the offered load is stated at this size.
    capacity_tokens : float
        Tokens that a batch may hold; a request larger than that alone is rejected on arrival.
    order : str
        In which order requests of one bin are served, for the run's record.
    label : str
        What to call it where it fails.
    """

    policy: BatchPolicy | None = None
    batcher: Callable[[], Batcher] | None = None
    choice: BinChoice = field(default_factory=RoundRobin)
    release: FullBatches | None = None
    sees: Sees = "counts"
    binned: bool = False
    bin_by: BinBy = "output"
    bin_edges: EdgeRule = "equal-mass"
    batch_max: int = 128
    capacity_tokens: float = math.inf
    order: str = "arrival"
    label: str = "scheduler"

    def __post_init__(self) -> None:
        if (self.policy is None) == (self.batcher is None):
            raise ValueError(
                f"{self.label} must have a policy or a batcher, got "
                f"{'neither' if self.policy is None else 'both'}"
            )

    @property
    def uses_predictions(self) -> bool:
        """Whether its decisions follow from predicted lengths."""
        return self.binned or self.sees == "requests"

    def batch_policy(self) -> BatchPolicy:
        """The policy as given, or put together from its parts."""
        if self.policy is not None:
            return self.policy
        if self.release is not None:
            return FirstFormed()
        assert self.batcher is not None  # as checked at the beginning
        return BinPolicy(self.batcher, self.choice)


@dataclass(slots=True, eq=False)
class BinPolicy:
    """A batch from the head of one bin: a choice says which bin, the bin's batcher how many."""

    batcher: Callable[[], Batcher]
    choice: BinChoice
    _batchers: list[Batcher] = field(default_factory=list, repr=False)
    _heads: list[Head] = field(default_factory=list, repr=False)  # plans, each used again

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan | None:
        """As many of the chosen bin as its batcher allows.

        A lone request always goes: its batcher allows at least 1. Not asking saves 10 % of a run
        on many idle GPUs, where nearly every batch is alone.
        """
        counts = waiting.counts
        if not self._batchers:
            self._batchers = [self._made() for _ in counts]
            self._heads = [Head(bin_index, 1) for bin_index in range(len(counts))]
        try:
            chosen = self.choice.choose(counts)
        except CALL_ERRORS as error:
            raise_failure(self.choice, "choose", error)
        if chosen is None:
            return None
        try:
            size = counts[chosen] if chosen >= 0 else 0
        except (TypeError, IndexError):
            size = 0
        if size > 1:
            batcher = self._batchers[chosen]
            try:
                limit = batcher.limit()
            except CALL_ERRORS as error:
                raise_failure(batcher, "limit", error)
            if limit.__class__ is not int or limit < 1:
                limit = _checked_limit(limit, batcher)
            if limit < size:
                size = limit
        elif not size:
            raise PluginError(
                f"{name_of(self.choice)}.choose must give the index of a bin where requests wait, "
                f"or None; got {chosen!r}, with {', '.join(map(str, counts))} waiting"
            )
        head = self._heads[chosen]
        head.size = size
        return head

    def _made(self) -> Batcher:
        try:
            return self.batcher()
        except CALL_ERRORS as error:
            raise_failure(self.batcher, "", error)

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Tell the batcher of the bin."""
        batcher = self._batchers[batch.bin]
        try:
            batcher.observe(batch, service_s)
        except CALL_ERRORS as error:
            raise_failure(batcher, "observe", error)


def _checked_limit(limit: Any, batcher: Batcher) -> int:
    try:
        whole = index(limit)
    except TypeError:
        whole = 0
    if whole < 1:
        raise PluginError(
            f"{name_of(batcher)}.limit must give a whole number >= 1, got {limit!r}; 1 is no "
            "batching"
        )
    return whole


class FirstFormed:
    """Of the batches that have formed, as `FullBatches` says, the one that formed first."""

    _first = Head(0, 1)

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan | None:
        """The head of the queue of formed batches."""
        return self._first

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Nothing to learn."""
