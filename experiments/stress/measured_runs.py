"""The runs behind MEASURED.md: the whole plan on each hardware, kept and resumed."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from measured_claims import Steps
from published_runs import H100, REFERENCE, Hardware

from llmsched.simulation.presets import preset
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.run import STEPS, SweepOptions, run_steps

PLAN_RPS_SCALE = preset("plan").recipe().rps_scale or 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The plan on some hardware, at some rate: a column of the table."""

    folder: str
    title: str
    hardware: Hardware
    slower: float = 1.0  # the plan's rate is divided by it

    def plan(self, plan: Plan) -> Plan:
        """This plan on this hardware, with the memory and the SLA that belong to it."""
        return on_hardware(plan, self.hardware, rps_scale=PLAN_RPS_SCALE / self.slower)


SETTINGS = (
    Setting(folder="reference", title="reference", hardware=REFERENCE),
    Setting(folder="h100", title="H100, same rate", hardware=H100),
    Setting(
        folder="h100-like-load",
        title="H100, a tenth of the rate",
        hardware=H100,
        slower=H100.slower,
    ),
)
Runs = Mapping[str, Steps]  # by the folder of the setting


def on_hardware(plan: Plan, hardware: Hardware, *, rps_scale: float) -> Plan:
    """The plan with this latency set, model, memory, SLA and rate."""
    workload = replace(plan.workload, rps_scale=rps_scale)
    return replace(plan, base=hardware.on(replace(plan.base, workload=workload)))


def run(
    plan: Plan, out: Path, *, jobs: int, steps: Sequence[str] = STEPS
) -> dict[str, pd.DataFrame]:
    """The runs of each step, done or read; ends with the first error if one failed."""
    with warnings.catch_warnings():
        # equal edges merged, beyond measured lengths: counted in the notes of the runs
        warnings.simplefilter("ignore", UserWarning)
        options = SweepOptions(jobs=jobs)
        result = run_steps(
            plan, steps, out, command="experiments/stress/measured.py", options=options
        )
    for step in result.steps:
        failed = step.runs[step.runs["status"] == "failed"]
        if len(failed):
            raise SystemExit(
                f"{len(failed)} runs failed, the first with: {failed['error'].iloc[0]}"
            )
    return {step.name: step.runs for step in result.steps}


def run_all(plan: Plan, out: Path, *, jobs: int) -> Runs:
    """Every setting; one on the hardware of the one before has its held loads in common."""
    runs = {}
    before: Setting | None = None
    for setting in SETTINGS:
        folder = out / setting.folder
        if before is not None and before.hardware is setting.hardware:
            take_finished(out / before.folder, folder)
        runs[setting.folder] = run(setting.plan(plan), folder, jobs=jobs)
        before = setting
    return runs


def take_finished(source: Path, folder: Path) -> None:
    """Copy the finished runs that a folder does not have; their keys say what they are."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for path in sorted((source / "runs").glob("*.parquet")):
        target = folder / "runs" / path.name
        if not target.exists():
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(path, partial)
            partial.replace(target)
