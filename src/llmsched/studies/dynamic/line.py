"""Figure 3: decode step time and throughput against the batch size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.studies.dynamic.runs import FIXED, Case, StepLine, run_case
from llmsched.studies.multibin.results import Check, FigureResult, computed


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """Settings of figure 3; the field names are the TOML keys."""

    fixed_step_ms: float
    per_decode_ms: float
    batch_sizes: tuple[int, ...]
    output_tokens: int
    tpot_sla_ms: tuple[float, ...]
    batch_published: tuple[float, ...]  # "about", at each of these
    throughput_published: tuple[float, ...]
    tolerance: float

    @property
    def step(self) -> StepLine:
        """The printed line; a prefill token costs nothing."""
        return StepLine(c0_s=1e-3 * self.fixed_step_ms, cb_s=1e-3 * self.per_decode_ms)

    def batch_at(self, tpot_s: float) -> float:
        """b with τ_step(b) = this."""
        return (tpot_s - self.step.c0_s) / self.step.cb_s

    def simulated(self, batch_size: int) -> float:
        """Decode throughput of so many equal requests at once, their prefill left out."""
        case = Case(
            prompt_tokens=1,
            output_tokens=self.output_tokens + 1,
            n_requests=batch_size,
            law=FIXED,
            step=self.step,
            policy="static",
            batch_max=batch_size,
            kv_tokens=16 * batch_size * (self.output_tokens // 16 + 2),
        )
        return batch_size / run_case(case, (0,)).tpot_s


@dataclass(frozen=True, slots=True)
class Line:
    """Figure 3, exact."""

    settings: LineSettings

    def result(self, *, seed: int, n_jobs: int) -> FigureResult:
        """The curves, the printed points on them, and the engine on the same curve."""
        import pandas as pd

        settings, step = self.settings, self.settings.step
        sizes = np.arange(1, max(settings.batch_sizes) + 1)
        step_s = step.c0_s + step.cb_s * sizes
        panels = {"Step time [ms]": 1e3 * step_s, "Throughput [tokens/s]": sizes / step_s}
        frames = [
            pd.DataFrame({"panel": panel, "batch_size": sizes, "theory": values})
            for panel, values in panels.items()
        ]
        table = pd.concat(frames, ignore_index=True)
        simulated = {size: settings.simulated(size) for size in settings.batch_sizes}
        at = table["batch_size"].isin(simulated)
        of_step = table["panel"].eq("Step time [ms]")
        rates = table["batch_size"].map(simulated)
        table["simulated"] = np.where(of_step, 1e3 * table["batch_size"] / rates, rates)
        table.loc[~at, "simulated"] = np.nan
        return FigureResult(
            number="3",
            title="Decode step time and throughput against the batch size",
            setting=f"A decode step of b requests takes {settings.per_decode_ms:g} b + "
            f"{settings.fixed_step_ms:g} ms, as printed",
            table=table,
            checks=(*self._published(), *self._engine(simulated)),
            notes=(
                "The printed values are rounded to the figure: the printed line itself gives "
                f"b = {settings.batch_at(0.05):.1f} and {settings.batch_at(0.08):.1f}.",
            ),
            caption="Lines: the printed formula; points: the simulated engine.",
            provided="within what its text rounds to",
        )

    def _published(self) -> list[Check]:
        settings, checks = self.settings, []
        of = zip(
            settings.tpot_sla_ms,
            settings.batch_published,
            settings.throughput_published,
            strict=True,
        )
        for sla_ms, batch, throughput in of:
            ours = settings.batch_at(1e-3 * sla_ms)
            for what, value, found in (
                (f"batch size at a step of {sla_ms:g} ms", batch, ours),
                (f"throughput there, {sla_ms:g} ms [tokens/s]", throughput, 1e3 * ours / sla_ms),
            ):
                checks.append(
                    Check(
                        what=what,
                        expected=value,
                        source="read off",
                        ours=computed(found),
                        tolerance=settings.tolerance,
                    )
                )
        return checks

    def _engine(self, simulated: dict[int, float]) -> list[Check]:
        step = self.settings.step
        return [
            Check(
                what=f"engine's throughput at b = {size} [tokens/s]",
                expected=size / (step.c0_s + step.cb_s * size),
                source="theory",
                ours=_exact(value),
                tolerance=1e-9,
            )
            for size, value in simulated.items()
        ]


def _exact(value: float) -> Interval:
    return mean_interval([value])
