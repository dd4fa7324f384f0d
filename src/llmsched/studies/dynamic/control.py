"""Algorithm 2 by itself: how it converges, and recovers when decode steps become slower.

A replica with somebody always waiting: after each step a share of the decodes end and the limit is
filled up. Nothing is drawn. The paper shows no such figure and prints α and δ as constants only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmsched.schedulers.iteration.base import ProcessedStep
from llmsched.schedulers.iteration.limits import WINDOW_STEPS, DynamicLimit
from llmsched.schedulers.memory_limit import CltLimit
from llmsched.schedulers.sla_control import PaperController
from llmsched.studies.dynamic.runs import StepLine
from llmsched.studies.multibin.results import Check, FigureResult, computed

AMPLE_TOKENS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """Settings of the figure; the field names are the TOML keys."""

    tpot_sla_ms: float
    batch_max: int
    tolerance_share: float
    alphas: tuple[int, ...]
    deltas: tuple[int, ...]  # one for each alpha
    output_tokens: int  # mean: a decode ends with probability 1 over this
    fixed_step_ms: float
    per_decode_ms: float
    slower_ms: float  # what is added to each step
    slower_from: int  # observation, of WINDOW_STEPS steps each
    slower_until: int
    observations: int

    def batch_at_sla(self, *, slower: bool) -> float:
        """The batch whose steps take just D_SLA."""
        rest_ms = self.tpot_sla_ms - self.fixed_step_ms - (self.slower_ms if slower else 0)
        return rest_ms / self.per_decode_ms

    def is_slower(self, observation: int) -> bool:
        """Whether steps are slow in this one."""
        return self.slower_from <= observation < self.slower_until

    def run(self, alpha: int, delta: int) -> Iterator[tuple[int, float, float]]:
        """(observation, mean decodes, mean step [ms]) of each."""
        controller = PaperController(
            1e-3 * self.tpot_sla_ms,
            batch_max=self.batch_max,
            tolerance_share=self.tolerance_share,
            alpha=alpha,
            delta=delta,
        )
        limit = DynamicLimit(CltLimit(AMPLE_TOKENS), self.batch_max, controller)
        decodes, ended = 0, 0.0
        for observation in range(self.observations):
            more_ms = self.slower_ms if self.is_slower(observation) else 0
            line = StepLine(
                c0_s=1e-3 * (self.fixed_step_ms + more_ms), cb_s=1e-3 * self.per_decode_ms
            )
            total, total_s = 0, 0.0
            for _ in range(WINDOW_STEPS):
                decodes = max(decodes, limit.limit(decodes))
                step_s = line.step_s((), decodes, 0)
                limit.observe(ProcessedStep(step_s, decodes, 0))
                total, total_s = total + decodes, total_s + step_s
                ended += decodes / self.output_tokens
                decodes, ended = decodes - int(ended), ended - int(ended)
            yield observation, total / WINDOW_STEPS, 1e3 * total_s / WINDOW_STEPS


@dataclass(frozen=True, slots=True)
class Control:
    """Convergence and recovery of Algorithm 2."""

    settings: ControlSettings

    def result(self, *, seed: int, n_jobs: int) -> FigureResult:
        """Decodes and step time by observation, for each α and δ."""
        import pandas as pd

        settings = self.settings
        frames, checks, notes = [], [], []
        for alpha, delta in zip(settings.alphas, settings.deltas, strict=True):
            frame = pd.DataFrame(
                settings.run(alpha, delta), columns=["observation", "decodes", "step_ms"]
            ).assign(alpha=alpha, delta=delta, sla_ms=settings.tpot_sla_ms)
            frame["at_sla"] = [
                settings.batch_at_sla(slower=settings.is_slower(one))
                for one in frame["observation"]
            ]
            frames.append(frame)
            name = f"α = {alpha}, δ = {delta}"
            for when, first, last in self._phases():
                end = frame["step_ms"].iloc[last - settings.slower_from // 2 : last]
                checks.append(
                    Check(
                        what=f"decode step after {when}, {name} [ms]",
                        expected=settings.tpot_sla_ms,
                        source="theory",
                        ours=computed(float(end.mean())),
                        tolerance=settings.tolerance_share,
                        failing="not held within ε_D",
                    )
                )
                phase = frame["step_ms"].iloc[first:last]
                within = (phase / settings.tpot_sla_ms - 1).abs() <= settings.tolerance_share
                away = within[~within].index
                settled = "at once" if not len(away) else f"after {away[-1] - first + 1}"
                notes.append(f"{name}, {when}: within ε_D for good {settled}")
        return FigureResult(
            number="algorithm-2",
            title="Algorithm 2 finds the batch size of the SLA, and finds it again",
            setting=f"Figure 3's line, D_SLA = {settings.tpot_sla_ms:g} ms ± "
            f"{settings.tolerance_share:.0%}, somebody always waiting; from observation "
            f"{settings.slower_from} to {settings.slower_until} steps take "
            f"{settings.slower_ms:g} ms more",
            table=pd.concat(frames, ignore_index=True),
            checks=tuple(checks),
            notes=(
                f"Observations of {WINDOW_STEPS} steps. {'; '.join(notes)}.",
                "It stops at the edge of the band that it comes from, never at its middle: within "
                "D_SLA ± ε_D both bounds follow the present batch.",
            ),
            caption="Dashed: what just meets the SLA. A limit stops admission only: the batch "
            "shrinks no faster than requests end.",
            provided="the paper prints no values here",
        )

    def _phases(self) -> tuple[tuple[str, int, int], ...]:
        settings = self.settings
        return (
            ("the start", 0, settings.slower_from),
            ("steps became slower", settings.slower_from, settings.slower_until),
            ("they were fast again", settings.slower_until, settings.observations),
        )
