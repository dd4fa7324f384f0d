"""How many requests may run: Algorithms 1 and 2 of Pang et al. at the level that they are for."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmsched.schedulers.iteration.base import ProcessedStep
from llmsched.schedulers.memory_limit import CltLimit, MemoryLimit
from llmsched.schedulers.sla_control import PaperController

WINDOW_STEPS = 10  # steps with decodes that make one observation of Algorithm 2


@dataclass(frozen=True, slots=True)
class _FinishedRequest:
    """A lone request as the memory rule sees a finished batch."""

    tokens: int
    size: int = 1

    @property
    def mean_tokens(self) -> float:
        return float(self.tokens)

    @property
    def mean_squared_tokens(self) -> float:
        return float(self.tokens * self.tokens)


@dataclass(slots=True)
class DynamicLimit:
    """The smaller of a memory limit and an SLA limit, but never below the requests in decode.

    Algorithm 1 gives the memory limit: the most requests whose tokens exceed the KV memory with
    probability 0.05 at most, by the normal law. It starts at `batch_max` and is computed anew when
    asked after a step that held both decodes and prefills. Algorithm 2, a noisy binary search,
    gives the SLA limit; it moves after every 10 processed steps with decodes, by their mean
    duration and mean decodes.

    Parameters
    ----------
    memory : MemoryLimit
        Averages of tokens per finished request, and the limit that follows.
    batch_max, batch_min : int
        B_max and B_min [requests].
    controller : PaperController, optional
        The search for the SLA limit; None where no decode latency is to be held.

    Notes
    -----
    The paper leaves open how often the controller observes, over what it averages, and where
    averages start: 10 steps, plain means, and 500 tokens here.

    References
    ----------
    .. [1] Pang, Li, Wang, "Memory-aware and SLA-constrained Dynamic Batching", arXiv:2503.05248,
       Algorithms 1 and 2, Eq. (12).
    """

    memory: MemoryLimit
    batch_max: int
    controller: PaperController | None = None
    batch_min: int = 1
    _memory_limit: int = field(init=False)
    _mixed: bool = field(init=False, default=False)
    _n_steps: int = field(init=False, default=0)
    _duration_s: float = field(init=False, default=0.0)
    _decodes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._memory_limit = self.batch_max

    @staticmethod
    def of(*, capacity_tokens: int, batch_max: int, tpot_sla_s: float | None) -> DynamicLimit:
        """The limit of one replica: η tokens of KV, B_max, and D_SLA [s] if there is one."""
        controller = None
        if tpot_sla_s is not None:
            controller = PaperController(tpot_sla_s, batch_max=batch_max)
        return DynamicLimit(CltLimit(capacity_tokens), batch_max, controller)

    def limit(self, n_decodes: int) -> int:
        if self._mixed:
            self._memory_limit = self.memory.limit()
        most = self._memory_limit
        if self.controller is not None:
            most = min(most, self.controller.limit())
        return min(max(most, n_decodes, self.batch_min), self.batch_max)

    def finished(self, prompt_tokens: int, output_tokens: int) -> None:
        self.memory.observe(_FinishedRequest(prompt_tokens + output_tokens))

    def observe(self, step: ProcessedStep) -> None:
        self._mixed = step.n_decodes > 0 and step.n_prefills > 0
        if self.controller is None or not step.n_decodes:
            return
        self._n_steps += 1
        self._duration_s += step.duration_s
        self._decodes += step.n_decodes
        if self._n_steps == WINDOW_STEPS:
            self.controller.move(self._duration_s / WINDOW_STEPS, self._decodes // WINDOW_STEPS)
            self._n_steps, self._duration_s, self._decodes = 0, 0.0, 0
