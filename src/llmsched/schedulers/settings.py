"""What a scheduler may be told, and the named parts that it may be told to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llmsched._util.options import check_options, option
from llmsched.hardware import DEFAULT_GPU, DEFAULT_MODEL, MODELS, kv_capacity_tokens
from llmsched.schedulers.batch_size import DynamicBatcher
from llmsched.schedulers.bin_choice import BinChoice, LongestQueue, RoundRobin
from llmsched.schedulers.memory_limit import BufferLimit, CltLimit, MemoryLimit
from llmsched.schedulers.sla_control import (
    NoController,
    PaperController,
    SlaController,
    WindowController,
)

if TYPE_CHECKING:
    from llmsched.latency.base import LatencyModel

MOST_BATCH_SIZE = 1_000_000
DEFAULT_SLA_S = 1.0  # where no scenario says it: a scheduler made by hand

CONTROLLERS: Mapping[str, Callable[[float, int, int], SlaController]] = {
    "paper": PaperController,
    "window": WindowController,
    "none": lambda _target_s, _least, most: NoController(most),
}
MEMORY_RULES: Mapping[str, Callable[[float], MemoryLimit]] = {
    "buffer": BufferLimit,
    "clt": CltLimit,
}
BIN_CHOICES: Mapping[str, Callable[[], BinChoice]] = {
    "round-robin": RoundRobin,
    "longest-queue": LongestQueue,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a scheduler may be told; each takes what it needs.

    `sla_s`, `capacity_tokens` and `latency` follow from the scenario (its `Slo` and `Hardware`):
    `resolved` fills in what is None, and a scheduler's factory sees none of them missing.

    Parameters
    ----------
    batch_size : int
        Size of the fixed batchers' batches [requests].
    batch_min, batch_max : int
        Bounds of the dynamic batchers [requests].
    batch_target_s : float, optional
        The controllers' D_SLA: what a batch may take; by default what a request may [s].
    max_forming_wait_s : float, optional
        `multi_bin_only`: release a part-full batch once its oldest member waited this long [s].
    ageing_tokens_per_s : float
        How many predicted output tokens a second of waiting makes up for in `continuous_sjf`.
    sla_s : float, optional
        Latency target of a request [s].
    capacity_tokens : float, optional
        η, tokens that the KV memory of one GPU holds.
    latency : LatencyModel, optional
        What a scheduler may believe a batch takes.
    """

    batch_size: int = option(
        8, "Requests per fixed batch.", metavar="N", least=1, most=MOST_BATCH_SIZE
    )
    batch_min: int = option(
        1, "Least that the controller may ask for.", metavar="N", least=1, most=MOST_BATCH_SIZE
    )
    batch_max: int = option(
        128, "Most requests per dynamic batch.", metavar="N", least=1, most=MOST_BATCH_SIZE
    )
    controller: str = option(
        "paper", "How the SLA limits dynamic batches.", choices=tuple(CONTROLLERS)
    )
    memory: str = option(
        "buffer",
        "How the memory limits dynamic batches.",
        choices=tuple(MEMORY_RULES),
    )
    bin_choice: str = option(
        "round-robin", "Which bin a free GPU serves.", choices=tuple(BIN_CHOICES)
    )
    batch_target_s: float | None = option(
        None,
        "What the controllers let a batch take.",
        flag="batch-target",
        metavar="SECONDS",
        above=0,
        default_text="the SLA",
    )
    max_forming_wait_s: float | None = option(
        None,
        "Release a part-full batch after this wait.",
        flag="max-forming-wait",
        metavar="SECONDS",
        least=0,
        default_text="never",
    )
    ageing_tokens_per_s: float = option(
        20.0,
        "Predicted tokens that a second of waiting makes up for in continuous_sjf.",
        flag="ageing",
        metavar="TOKENS_PER_S",
        above=0,
        hint="without ageing long requests starve",
    )
    sla_s: float | None = None
    capacity_tokens: float | None = None
    latency: LatencyModel | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_options(self)
        if self.batch_min > self.batch_max:
            raise ValueError(
                "batch sizes must satisfy batch_min <= batch_max, "
                f"got {self.batch_min} and {self.batch_max}"
            )
        if self.sla_s is not None and not 0 < self.sla_s < float("inf"):
            raise ValueError(f"sla_s must be a finite number > 0 seconds, got {self.sla_s}")
        if self.capacity_tokens is not None and not self.capacity_tokens >= 1:
            raise ValueError(f"capacity_tokens must be >= 1, got {self.capacity_tokens}")

    def resolved(
        self,
        *,
        sla_s: float = DEFAULT_SLA_S,
        capacity_tokens: float | None = None,
        latency: LatencyModel | None = None,
    ) -> Settings:
        """These settings with what is None filled in from the scenario.

        Parameters
        ----------
        sla_s : float
            Latency target of a request [s].
        capacity_tokens : float, optional
            KV capacity of one GPU; by default of the default GPU with the default model.
        latency : LatencyModel, optional
            What a batch is believed to take.
        """
        if capacity_tokens is None:
            capacity_tokens = kv_capacity_tokens(DEFAULT_GPU, MODELS[DEFAULT_MODEL])
        deadline_s = sla_s if self.sla_s is None else self.sla_s
        return replace(
            self,
            sla_s=deadline_s,
            batch_target_s=deadline_s if self.batch_target_s is None else self.batch_target_s,
            capacity_tokens=(
                capacity_tokens if self.capacity_tokens is None else self.capacity_tokens
            ),
            latency=latency if self.latency is None else self.latency,
        )

    @property
    def deadline_s(self) -> float:
        """Latency target of a request [s]; of resolved settings."""
        assert self.sla_s is not None, "resolve the settings first"
        return self.sla_s

    @property
    def kv_tokens(self) -> float:
        """Tokens that the KV memory of one GPU holds; of resolved settings."""
        assert self.capacity_tokens is not None, "resolve the settings first"
        return self.capacity_tokens

    def memory_limit(self) -> MemoryLimit:
        """A fresh memory limit by the chosen rule."""
        return MEMORY_RULES[self.memory](self.kv_tokens)

    def dynamic_batcher(self) -> DynamicBatcher:
        """A fresh dynamic batcher, with statistics and a controller of its own."""
        assert self.batch_target_s is not None, "resolve the settings first"
        controller = CONTROLLERS[self.controller]
        return DynamicBatcher(
            self.memory_limit(),
            controller(self.batch_target_s, self.batch_min, self.batch_max),
            self.batch_max,
        )
