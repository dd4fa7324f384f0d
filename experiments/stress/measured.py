"""The stress plan under a measured latency set: which conclusions of `reference` survive it.

Runs the whole plan under `reference` and on an H100 whose batches cost what was measured: at the
plan's rate, and at a tenth of it. The conclusions are in `measured_claims`, the rules in
`measured_rules`, the real rows in `measured_real`. Writes MEASURED.md, the same bytes for the same
runs; finished runs are kept (`--finished` takes those of `llmsched stress`), so that a killed start
goes on where it was. Cost: see README.md.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import measured_claims as c
import measured_rules as rules
import numpy as np
import pandas as pd
from measured_real import real_rows
from measured_runs import SETTINGS, Runs, run_all, take_finished
from published_runs import H100, REFERENCE
from published_text import head, line, number, text

from llmsched import load_latency
from llmsched.latency.base import Shape
from llmsched.metrics.intervals import Interval, mean_interval
from llmsched.studies.stress.plan import Plan

HERE = Path(__file__).parent
OUTSIDE = re.compile(r"^(\d+) of (\d+) batches .* lie outside")
CELL = re.compile(r"\{\{([\w-]+) \| ([^}]+)\}\}")  # in the template: setting and words
TOO_LARGE = re.compile(r"batch size: \d+ below, (\d+) above")


def claims_table(plan: Plan, runs: Runs) -> str:
    """A row per conclusion of direction: the difference, its verdict, and what survives."""
    titles = [setting.title for setting in SETTINGS]
    lines = head(["step", "claim", titles[0], *(f"{t} | survives?" for t in titles[1:])])
    lines[1] = "|---" * (3 + 2 * len(titles[1:])) + "|"
    for claim in c.claims(plan):
        found = [c.claim_interval(claim, runs[setting.folder]) for setting in SETTINGS]
        cells: list[object] = [claim.step, claim.words, rules.claim_cell(found[0], claim.sign)]
        for interval in found[1:]:
            survives = _survival(claim, found[0], interval)
            cells += [rules.claim_cell(interval, claim.sign), survives]
        lines.append(line(cells))
    return "\n".join(lines)


def _survival(claim: c.Claim, first: Interval, second: Interval) -> str:
    return rules.survival(rules.verdict(first, claim.sign), rules.verdict(second, claim.sign))


def findings_table(plan: Plan, runs: Runs) -> str:
    """A row per finding that is a count or a place: each replication's, and what survives."""
    titles = [setting.title for setting in SETTINGS]
    lines = head(["step", "finding", titles[0], *(f"{t} | survives?" for t in titles[1:])])
    lines[1] = "|---" * (3 + 2 * len(titles[1:])) + "|"
    for finding in c.findings(plan):
        found = [finding.values(runs[setting.folder]) for setting in SETTINGS]
        cells: list[object] = [finding.step, finding.words, rules.finding_cell(found[0])]
        for values in found[1:]:
            cells += [rules.finding_cell(values), rules.survival_of_places(found[0], values)]
        lines.append(line(cells))
    return "\n".join(lines)


def counts(plan: Plan, runs: Runs) -> str:
    """How many claims hold under each setting, and of those under reference, what became."""
    every = c.claims(plan)
    found = {
        setting.folder: [c.claim_interval(claim, runs[setting.folder]) for claim in every]
        for setting in SETTINGS
    }
    said = {
        folder: [rules.verdict(one, claim.sign) for one, claim in zip(several, every, strict=True)]
        for folder, several in found.items()
    }
    kinds = (rules.HOLDS, rules.REVERSED, rules.NONE, rules.UNTOLD)
    titles = ["setting", *kinds, "leave out 0", "of them by Holm"]
    became = [f"of the {said['reference'].count(rules.HOLDS)} that hold under reference"]
    lines = head([*titles, *became])
    for setting in SETTINGS:
        verdicts = said[setting.folder]
        p_values = [rules.p_value(one) for one in found[setting.folder]]
        kept = [v for v, r in zip(verdicts, said["reference"], strict=True) if r == rules.HOLDS]
        words = ", ".join(f"{kept.count(kind)} {kind}" for kind in kinds if kind in kept)
        lines.append(
            line(
                [
                    setting.title,
                    *(verdicts.count(kind) for kind in kinds),
                    sum(one.significant for one in found[setting.folder]),
                    rules.n_after_holm(p_values),
                    words,
                ]
            )
        )
    return "\n".join(lines)


def chance(plan: Plan) -> str:
    """How many rows would leave out 0 if nothing differed from anything."""
    n_claims, n_findings = len(c.claims(plan)), len(c.findings(plan))
    by_chance = n_findings * 2 * 0.5**plan.replications
    return (
        f"There are {n_claims} claims of direction in each column: if none were true, "
        f"{0.05 * n_claims:.1f} intervals of each would leave out 0 by chance, and half of those "
        "in the direction claimed. The claims of a column share their requests, so they err "
        "together: mostly none, now and then several. The table above counts how many remain "
        "when all of a column are tested at 5 % together (Holm, 1979). Of the "
        f"{n_findings} findings, at most {by_chance:.1f} a column would be *no* by chance: "
        f"{plan.replications} fair coins agree in one of {2 ** (plan.replications - 1)}."
    )


def points(runs: Runs) -> str:
    """Violations, ρ and labels at the largest volume, scheduler by scheduler."""
    names = [f"{s.title}: late [%] | ρ | labels" for s in SETTINGS]
    lines = head(["step", "scheduler", "GPUs", *names])
    lines[1] = "|---" * (3 + 3 * len(names)) + "|"
    where = [("step1", None), ("step2", 4)]
    keys = ["scheduler", "n_gpus"]
    for step, after in where:
        frames = [c.largest(runs[setting.folder][step]) for setting in SETTINGS]
        for scheduler, n_gpus in frames[0][keys].drop_duplicates().itertuples(index=False):
            if after is not None and n_gpus <= after:
                continue  # step 1 has them
            cells: list[object] = [step, scheduler, f"{n_gpus:.0f}"]
            for frame in frames:
                chosen = (frame["scheduler"] == scheduler) & (frame["n_gpus"] == n_gpus)
                cells += _point(frame[chosen])
            lines.append(line(cells))
    return "\n".join(lines)


def _point(members: pd.DataFrame) -> list[str]:
    rates = mean_interval(100 * members[c.LATE].to_numpy(float))
    rho = mean_interval(members["offered_load"].to_numpy(float))
    return [rules.points_text(rates, sign=False), number(rho.mean), rules.labels(members)]


def outside(runs: Runs) -> str:
    """Share of batches beyond what was measured, and of those larger than any measured."""
    titles = ["setting", "step", "scheduler", "batches"]
    lines = head([*titles, "outside [%]", "larger than measured [%]"])
    for setting in SETTINGS[1:]:
        for step, frame in runs[setting.folder].items():
            for scheduler, members in frame.groupby("scheduler", sort=False):
                n_outside, n_large = _outside(members)
                total = int(members["batches"].sum())
                shares = (f"{100 * n / total:.1f}" for n in (n_outside, n_large))
                lines.append(line([setting.title, step, scheduler, f"{total:,}", *shares]))
    return "\n".join(lines)


def _outside(frame: pd.DataFrame) -> tuple[int, int]:
    """Batches outside the measured range, and those above its batch sizes, by the runs' notes."""
    n_outside = n_large = 0
    for notes in frame["notes"]:
        for note in notes:
            if (found := OUTSIDE.match(note)) is None:
                continue
            n_outside += int(found[1])
            larger = TOO_LARGE.search(note)
            n_large += int(larger[1]) if larger else 0
    return n_outside, n_large


def alone(plan: Plan) -> str:
    """Share of requests that would be in time if each had a GPU to itself, by SLA."""
    slas_s = (1.0, H100.sla_s)
    lines = head(["latency set", *(f"alone within {sla:g} s [%]" for sla in slas_s)])
    shares: dict[str, list[list[float]]] = {h.latency: [] for h in (REFERENCE, H100)}
    for seed in plan.seeds:
        trace = replace(plan.workload, requests=plan.volumes[-1]).load(seed)
        prompt, output = trace.prompt_tokens, trace.output_tokens
        one_each = Shape(np.ones(len(trace), dtype=np.int64), prompt + output, prompt, output)
        for name, of_seeds in shares.items():
            service_s = np.asarray(load_latency(name).service_s(one_each))
            of_seeds.append([100 * float(np.mean(service_s <= sla_s)) for sla_s in slas_s])
    for name, of_seeds in shares.items():
        lines.append(line([name, *(text(mean_interval(s)) for s in zip(*of_seeds, strict=True))]))
    return "\n".join(lines)


def step3_gpus(runs: Runs) -> str:
    """The GPUs that step 3 ran on, by setting."""
    parts = []
    for setting in SETTINGS:
        counts = sorted(set(runs[setting.folder]["step3"]["n_gpus"]))
        parts.append(f"{', '.join(f'{n:.0f}' for n in counts)} under {setting.title}")
    return "; ".join(parts)


def batch_costs() -> str:
    """What a batch of equal requests costs beside one of them alone."""
    sizes = (1, 8, 32, 64, 128)
    lines = head(["latency set", "alone [s]", *(f"batch of {b}" for b in sizes[1:])])
    for hardware in (REFERENCE, H100):
        model = load_latency(hardware.latency)
        service_s = [float(model.service_s(Shape(b, 700, 500, 200))) for b in sizes]
        ratios = (f"{one / service_s[0]:.2f}×" for one in service_s[1:])
        lines.append(line([hardware.latency, f"{service_s[0]:.3f}", *ratios]))
    return "\n".join(lines)


def cell(plan: Plan, runs: Runs, folder: str, words: str) -> str:
    """One cell of the tables by its words, or ρ on one GPU by `ρ SCHEDULER`, for the prose."""
    if words.startswith("ρ "):
        name = words.removeprefix("ρ ")
        rho = c.by_seed(c.largest(runs[folder]["step1"]), "offered_load", scheduler=name, n_gpus=1)
        return number(float(np.mean(list(rho.values()))))
    for claim in c.claims(plan):
        if claim.words == words:
            return rules.claim_cell(c.claim_interval(claim, runs[folder]), claim.sign)
    for finding in c.findings(plan):
        if finding.words == words:
            return rules.finding_cell(finding.values(runs[folder]))
    return f"not in this plan ({words})"


def report(plan: Plan, runs: Runs, real: str) -> str:
    """MEASURED.md: the template with its parts and numbers."""
    parts = {
        "version": version("llmsched"),
        "replications": str(plan.replications),
        "volume": f"{plan.volumes[-1]:,}",
        "slower": f"{H100.slower:g}",
        "sla": f"{H100.sla_s:g}",
        "margin": f"{rules.MARGIN:g}",
        "alone": alone(plan),
        "costs": batch_costs(),
        "claims": claims_table(plan, runs),
        "findings": findings_table(plan, runs),
        "counts": counts(plan, runs),
        "chance": chance(plan),
        "points": points(runs),
        "outside": outside(runs),
        "step3_gpus": step3_gpus(runs),
        "real": real,
    }
    template = (HERE / "measured.md.in").read_text(encoding="utf-8")
    template = CELL.sub(lambda found: cell(plan, runs, found[1], found[2]), template)
    for name, part in parts.items():
        template = template.replace(f"{{{{{name}}}}}", part)
    return template


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "out" / "measured")
    parser.add_argument("--report", type=Path, default=HERE / "MEASURED.md")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=8, help="replications")
    parser.add_argument(
        "--most-requests", type=int, default=1_000_000, help="leave out larger volumes"
    )
    parser.add_argument("--data", type=Path, help="folder of the real rows: traces/, burstgpt/")
    parser.add_argument(
        "--finished", type=Path, help="out folder of `llmsched stress all`: its runs are taken"
    )
    options = parser.parse_args()
    plan = Plan(replications=options.seeds)
    plan = replace(plan, volumes=tuple(v for v in plan.volumes if v <= options.most_requests))
    if options.finished is not None:
        take_finished(options.finished, options.out / "reference")
    runs = run_all(plan, options.out, jobs=options.jobs)
    real = real_rows(plan, options.data, options.out / "real", jobs=options.jobs)
    options.report.write_text(report(plan, runs, real), encoding="utf-8")


if __name__ == "__main__":
    main()
