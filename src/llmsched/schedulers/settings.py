"""What a scheduler may be told, and the named parts that it may be told to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llmsched.hardware import DEFAULT_GPU, DEFAULT_MODEL, kv_capacity_tokens
from llmsched.latency.base import LatencyModel
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
DEFAULT_SLA_S = 1.0
DEFAULT_CAPACITY_TOKENS = kv_capacity_tokens(DEFAULT_GPU, DEFAULT_MODEL)


CONTROLLERS: Mapping[str, Callable[[Settings], SlaController]] = {
    "paper": lambda s: PaperController(known(s.batch_target_s), s.batch_min, s.batch_max),
    "window": lambda s: WindowController(known(s.batch_target_s), s.batch_min, s.batch_max),
    "none": lambda s: NoController(s.batch_max),
}
MEMORY_RULES: Mapping[str, Callable[[Settings], MemoryLimit]] = {
    "buffer": lambda s: BufferLimit(known(s.capacity_tokens)),
    "clt": lambda s: CltLimit(known(s.capacity_tokens)),
}
BIN_CHOICES: Mapping[str, Callable[[], BinChoice]] = {
    "round-robin": RoundRobin,
    "longest-queue": LongestQueue,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a scheduler may be told; each takes what it needs.

    What is None is filled in from the run (`resolved`), so that the factory of a scheduler finds
    everything set.

    Parameters
    ----------
    sla_s : float, optional
        Latency target of a request [s]; 1 s where nobody says otherwise.
    batch_target_s : float, optional
        D_SLA, the batch time that the controllers aim at [s]; by default `sla_s`.
    batch_size : int
        Size of the fixed batchers' batches [requests].
    batch_min, batch_max : int
        Bounds of the dynamic batchers [requests].
    capacity_tokens : float, optional
        η, tokens that the KV memory of one GPU holds; by default those of a 12 GB GPU beside
        qwen3-1.7b.
    max_forming_wait_s : float, optional
        `multi_bin_only`: release a part-full batch once its oldest member waited this long [s].
    latency : LatencyModel, optional
        What batches are believed to take; no part of what makes two settings equal.
    """

    sla_s: float | None = None
    batch_size: int = 8
    batch_min: int = 1
    batch_max: int = 128
    controller: str = "paper"
    memory: str = "buffer"
    capacity_tokens: float | None = None
    bin_choice: str = "round-robin"
    max_forming_wait_s: float | None = None
    batch_target_s: float | None = None
    latency: LatencyModel | None = field(default=None, compare=False, repr=False)

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
        for name in ("sla_s", "batch_target_s"):
            target_s = getattr(self, name)
            if target_s is not None and not (math.isfinite(target_s) and target_s > 0):
                raise ValueError(f"{name} must be finite and > 0 seconds, got {target_s}")
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
        if self.capacity_tokens is not None and not self.capacity_tokens >= 1:
            raise ValueError(f"capacity_tokens must be >= 1, got {self.capacity_tokens}")
        wait_s = self.max_forming_wait_s
        if wait_s is not None and not (math.isfinite(wait_s) and wait_s >= 0):
            raise ValueError(f"max_forming_wait_s must be finite and >= 0 seconds, got {wait_s}")

    def resolved(
        self,
        *,
        sla_s: float | None = None,
        capacity_tokens: float | None = None,
        latency: LatencyModel | None = None,
    ) -> Settings:
        """These settings with everything set: own values first, then the run's, then defaults."""
        sla_s = self.sla_s or sla_s or DEFAULT_SLA_S
        return replace(
            self,
            sla_s=sla_s,
            batch_target_s=self.batch_target_s or sla_s,
            capacity_tokens=self.capacity_tokens or capacity_tokens or DEFAULT_CAPACITY_TOKENS,
            latency=self.latency or latency,
        )

    def to_dict(self) -> dict[str, Any]:
        """The resolved values, without the latency model, and D_SLA only if it is one of its own.

        What it says of a run is then the same whether a value was given or filled in.
        """
        told = self.resolved()
        values = {one.name: getattr(told, one.name) for one in fields(told) if one.compare}
        if told.batch_target_s == told.sla_s:
            del values["batch_target_s"]
        return values

    def dynamic_batcher(self) -> DynamicBatcher:
        """A fresh dynamic batcher, with statistics and a controller of its own."""
        told = self.resolved()
        return DynamicBatcher(
            MEMORY_RULES[self.memory](told), CONTROLLERS[self.controller](told), self.batch_max
        )


def known(value: float | None) -> float:
    """A value of resolved settings, where every one is set."""
    assert value is not None, "settings must be resolved before a scheduler is made of them"
    return value
