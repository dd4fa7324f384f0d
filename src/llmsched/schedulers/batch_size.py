"""Batchers: how many requests of one bin the next batch may hold.

A batcher sees finished batches only, never the queue and never a true output length; that the
batch physically fits the KV memory is the engine's check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmsched.schedulers.memory_limit import MemoryLimit
from llmsched.schedulers.sla_control import SlaController

if TYPE_CHECKING:
    from llmsched.schedulers.base import FinishedBatch


class Batcher(Protocol):
    """Answers one question: how many requests may the next batch of this bin hold?"""

    def limit(self) -> int:
        """The most requests that the next batch may hold; at least 1."""

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Learn from a finished batch of this bin."""


@dataclass(slots=True)
class FixedBatcher:
    """Always up to `batch_size` requests, whatever happened."""

    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")

    def limit(self) -> int:
        """The fixed batch size."""
        return self.batch_size

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Nothing to learn."""
        del batch, service_s


@dataclass(slots=True)
class DynamicBatcher:
    """The smaller of a memory limit and an SLA limit: b* = min(b_mem, b_SLA, B_max).

    References
    ----------
    .. [1] Pang, Li, Wang, arXiv:2503.05248, Algorithms 1 and 2 combined.
    """

    memory: MemoryLimit
    controller: SlaController
    batch_max: int = 128

    def limit(self) -> int:
        """b_target of the next batch [requests]."""
        memory, sla = self.memory.limit(), self.controller.limit()
        limit = memory if memory < sla else sla
        if limit > self.batch_max:
            limit = self.batch_max
        return limit if limit > 1 else 1

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Pass the batch's token counts to the memory limit, its time to the SLA controller."""
        self.memory.observe(batch)
        self.controller.observe(service_s, batch.size)
