"""The simple kinds of workload profiles, and what their tokens follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmsched.workload.synthetic.profile_checks import require, require_few, require_reach


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLaw:
    """Lognormal token counts, truncated to 1..`max_tokens` and rounded to whole tokens.

    `log_mean` and `log_sd` belong to the lognormal before the truncation.
    """

    log_mean: float
    log_sd: float
    max_tokens: int

    def __post_init__(self) -> None:
        require(self.log_sd > 0, "log_sd", "> 0", self.log_sd)
        require(self.max_tokens >= 1, "max_tokens", ">= 1", self.max_tokens)
        require_reach(self.log_mean, self.log_sd, 0.5, self.max_tokens + 0.5, "log_mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Arrivals at a constant rate with independent exponential gaps."""

    kind: ClassVar[str] = "poisson"
    name: str
    description: str
    rate_per_s: float
    prompt: TokenLaw
    output: TokenLaw

    def __post_init__(self) -> None:
        require(self.rate_per_s >= 1e-6, "rate_per_s", ">= 1e-06", self.rate_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaBursts:
    """Independent gamma gaps: `gap_cv` above 1 is burstier than Poisson, below 1 smoother."""

    kind: ClassVar[str] = "gamma-bursts"
    name: str
    description: str
    rate_per_s: float
    gap_cv: float
    prompt: TokenLaw
    output: TokenLaw

    def __post_init__(self) -> None:
        require(self.rate_per_s >= 1e-6, "rate_per_s", ">= 1e-06", self.rate_per_s)
        require(0.1 <= self.gap_cv <= 10, "gap_cv", "within 0.1..10", self.gap_cv)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnOff:
    """A Poisson process that switches between two rates after exponential times (MMPP(2))."""

    kind: ClassVar[str] = "on-off"
    name: str
    description: str
    on_rate_per_s: float
    off_rate_per_s: float
    on_mean_s: float
    off_mean_s: float
    prompt: TokenLaw
    output: TokenLaw

    def __post_init__(self) -> None:
        require(self.on_rate_per_s > 0, "on_rate_per_s", "> 0", self.on_rate_per_s)
        require(self.off_rate_per_s >= 0, "off_rate_per_s", ">= 0", self.off_rate_per_s)
        require(self.on_mean_s > 0, "on_mean_s", "> 0", self.on_mean_s)
        for phase in ("on", "off"):
            rate, mean_s = (getattr(self, f"{phase}_{of}") for of in ("rate_per_s", "mean_s"))
            require_few(rate * mean_s, f"{phase}_rate_per_s * {phase}_mean_s")
        require(self.off_mean_s > 0, "off_mean_s", "> 0", self.off_mean_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """People who talk: each turn waits for the answer before, and its prompt holds what was said.

    Sessions begin as a Poisson process and have a geometric number of turns. A prompt is the
    system's, all messages and answers of the session so far, and the new message; a session ends
    before a turn that would not fit into the context.
    """

    kind: ClassVar[str] = "sessions"
    name: str
    description: str
    sessions_per_s: float
    mean_turns: float
    think_log_mean: float  # of the pause between an answer and the next message [log s]
    think_log_sd: float
    think_max_s: float
    system_tokens: int  # at the head of every prompt, the same for all
    max_context_tokens: int  # of a prompt and its answer
    tokens_per_id: int  # of the prefix ids, which say what a prompt shares with others
    first: TokenLaw  # the first message of a session
    message: TokenLaw  # later ones
    output: TokenLaw

    def __post_init__(self) -> None:
        require(self.sessions_per_s >= 1e-6, "sessions_per_s", ">= 1e-06", self.sessions_per_s)
        require(1 <= self.mean_turns <= 1000, "mean_turns", "within 1..1000", self.mean_turns)
        require(self.think_log_sd > 0, "think_log_sd", "> 0", self.think_log_sd)
        require(self.think_max_s > 0, "think_max_s", "> 0", self.think_max_s)
        require(self.system_tokens >= 0, "system_tokens", ">= 0", self.system_tokens)
        require(self.tokens_per_id >= 1, "tokens_per_id", ">= 1", self.tokens_per_id)
        law = (self.think_log_mean, self.think_log_sd, 0.0, self.think_max_s)
        require_reach(*law, "think_log_mean")
        least = self.system_tokens + self.first.max_tokens + self.output.max_tokens
        rule = f">= the longest first turn, {least}"
        require(
            self.max_context_tokens >= least, "max_context_tokens", rule, self.max_context_tokens
        )
