"""What a scheduler may be told, and the named parts that it may be told to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmsched.hardware import DEFAULT_GPU, DEFAULT_MODEL, kv_capacity_tokens
from llmsched.schedulers.batch_size import DynamicBatcher
from llmsched.schedulers.bin_choice import BinChoice, LongestQueue, RoundRobin
from llmsched.schedulers.memory_limit import BufferLimit, CltLimit, MemoryLimit
from llmsched.schedulers.sla_control import (
    NoController,
    PaperController,
    SlaController,
    WindowController,
)

MOST_BATCH_SIZE = 1_000_000


CONTROLLERS: Mapping[str, Callable[[Settings], SlaController]] = {
    "paper": lambda s: PaperController(s.sla_s, s.batch_min, s.batch_max),
    "window": lambda s: WindowController(s.sla_s, s.batch_min, s.batch_max),
    "none": lambda s: NoController(s.batch_max),
}
MEMORY_RULES: Mapping[str, Callable[[Settings], MemoryLimit]] = {
    "buffer": lambda s: BufferLimit(s.capacity_tokens),
    "clt": lambda s: CltLimit(s.capacity_tokens),
}
BIN_CHOICES: Mapping[str, Callable[[], BinChoice]] = {
    "round-robin": RoundRobin,
    "longest-queue": LongestQueue,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a scheduler may be told; each takes what it needs.

    Parameters
    ----------
    sla_s : float
        Latency target of a request, and the controllers' D_SLA [s].
    batch_size : int
        Size of the fixed batchers' batches [requests].
    batch_min, batch_max : int
        Bounds of the dynamic batchers [requests].
    capacity_tokens : float
        η, tokens that the KV memory of one GPU holds.
    max_forming_wait_s : float, optional
        `multi_bin_only`: release a part-full batch once its oldest member waited this long [s].
    """

    sla_s: float = 1.0
    batch_size: int = 8
    batch_min: int = 1
    batch_max: int = 128
    controller: str = "paper"
    memory: str = "buffer"
    capacity_tokens: float = kv_capacity_tokens(DEFAULT_GPU, DEFAULT_MODEL)
    bin_choice: str = "round-robin"
    max_forming_wait_s: float | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("controller", CONTROLLERS),
            ("memory", MEMORY_RULES),
            ("bin_choice", BIN_CHOICES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        if not (math.isfinite(self.sla_s) and self.sla_s > 0):
            raise ValueError(f"sla_s must be finite and > 0 seconds, got {self.sla_s}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if not 1 <= self.batch_min <= self.batch_max:
            raise ValueError(
                "batch sizes must satisfy 1 <= batch_min <= batch_max, "
                f"got {self.batch_min} and {self.batch_max}"
            )
        for name in ("batch_size", "batch_max"):
            if getattr(self, name) > MOST_BATCH_SIZE:
                raise ValueError(
                    f"{name} must be <= {MOST_BATCH_SIZE} requests, got {getattr(self, name)}"
                )
        if not self.capacity_tokens >= 1:
            raise ValueError(f"capacity_tokens must be >= 1, got {self.capacity_tokens}")
        wait_s = self.max_forming_wait_s
        if wait_s is not None and not (math.isfinite(wait_s) and wait_s >= 0):
            raise ValueError(f"max_forming_wait_s must be finite and >= 0 seconds, got {wait_s}")

    def dynamic_batcher(self) -> DynamicBatcher:
        """A fresh dynamic batcher, with statistics and a controller of its own."""
        return DynamicBatcher(
            MEMORY_RULES[self.memory](self), CONTROLLERS[self.controller](self), self.batch_max
        )
