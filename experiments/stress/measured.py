"""Which differences of the stress plan survive a GPU whose batches cost what they really cost.

    python experiments/stress/measured.py --data ../shared/data --jobs 2

The plan under the `reference` formula and under a measured H100, at a like load; every paired
difference in violations of the one beside that of the other. Writes MEASURED.md, the same bytes for
the same runs; a killed start goes on where it was. `--data` has step 1 on real rows as well.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd

from llmsched import Hardware, Slo, Workload
from llmsched._util.text import interval_text
from llmsched.latency.registry import load_latency
from llmsched.simulation.presets import preset
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.run import run_steps
from llmsched.studies.stress.tables import CLEAR, VIOLATIONS

HERE = Path(__file__).parent
REFERENCE, MEASURED = "reference", "h100-llama-3-8b-vllm"
# what the rate is multiplied by, and the SLA: of a lone request about as many are in time
SETTINGS = {REFERENCE: (1.0, Slo(latency_s=1.0)), MEASURED: (0.1, Slo(latency_s=10.0))}
AZURE = Path("traces", "azure_llm_2023_conv.csv.gz")
PAIR = ["step", "what", "less"]

PAGE = """# The stress plan under a measured latency set

{finding}

Written by `python experiments/stress/measured.py`; do not edit. {replications} replications of up
to {volume:,} requests of the `burstgpt-like` profile, under `reference` (SLA 1 s, 200 times the
recorded rate) and under `{measured}` with its own GPU and model (SLA 10 s, a tenth of that rate).

{table}

A cell is the paired difference in late or rejected requests at the largest volume, in percentage
points, with half its 95 % Student-t interval; ≈ marks what is within the noise. *both* says whether
both are clear and of one sign. Step 3 runs on the GPUs that step 2 chose: {gpus}.
`{measured}` was measured at {range}; beyond, its times are extrapolated.

## Step 1 on real rows

{real}
"""


def on(plan: Plan, latency: str) -> Plan:
    """The plan on the hardware of this latency set, with the rate and the SLA that go with it."""
    rate, slo = SETTINGS[latency]
    base = replace(plan.base, hardware=Hardware(latency=latency), slo=slo).at_rate(rate)
    return replace(plan, base=base)


def paired(plan: Plan, steps: tuple[str, ...], out: Path, jobs: int) -> pd.DataFrame:
    """A row per pair: its difference under each latency set, and whether they agree."""
    found = {}
    for latency in SETTINGS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of merged bins, extrapolated batches
            results = run_steps(on(plan, latency), steps, out / latency, jobs=jobs).steps
        if failed := [one.cautions for one in results if one.n_failed]:
            raise SystemExit(f"runs failed: {failed[0]}")
        rows = pd.concat(one.differences.assign(step=one.step.short) for one in results)
        rows = rows[(rows["metric"] == VIOLATIONS) & (rows["requests"] == rows["requests"].max())]
        found[latency] = rows.rename(columns={"against": "less"}).set_index(PAIR)
    cells = {latency: [_cell(row) for row in rows.itertuples()] for latency, rows in found.items()}
    table = pd.DataFrame(cells, index=found[REFERENCE].index)
    signs = [[(row.verdict == CLEAR) * row.mean for row in f.itertuples()] for f in found.values()]
    table["both"] = [_both(*pair) for pair in zip(*signs, strict=True)]
    return table.reset_index()


def _cell(row: object) -> str:
    text = interval_text(100 * row.mean, 100 * row.low, 100 * row.high, sign=True)
    return text if row.verdict == CLEAR else f"≈ {text}"


def _both(first: float, second: float) -> str:
    """Whether two differences agree; one that is not clear counts as 0."""
    if not first * second:
        return "cannot be told"
    return "yes" if first * second > 0 else "no"


def finding(table: pd.DataFrame) -> str:
    """How many differences survive."""
    counts = Counter(table["both"])
    return (
        f"**Of {len(table)} differences in violations, {counts['yes']} have the same sign under "
        f"both latency sets and {counts['no']} the opposite one.** The other "
        f"{counts['cannot be told']} are within the noise under one of them or both."
    )


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "out" / "measured")
    parser.add_argument("--report", type=Path, default=HERE / "MEASURED.md")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=16, help="replications")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--gpu-counts", type=int, nargs="+", default=(1, 2, 4, 8, 16, 32, 64, 100))
    parser.add_argument("--data", type=Path, help=f"folder with {AZURE.as_posix()}")
    options = parser.parse_args()
    plan = Plan(
        base=preset("plan"),
        volumes=(options.requests,),
        gpu_counts=tuple(options.gpu_counts),
        loads=(0.9,),
        replications=options.seeds,
    )
    table = paired(plan, ("step1", "step2", "step3"), options.out, options.jobs)
    real = f"Not run: no `--data` with `{AZURE.as_posix()}` was given."
    if options.data is not None:
        workload = Workload(source=str(options.data / AZURE), rps_scale=4.0)
        azure = replace(plan, base=replace(preset("plan"), workload=workload))
        rows = paired(azure, ("step1",), options.out / "azure", options.jobs)
        real = (
            "All rows of the Azure 2023 conversation trace, at 4 times their rate under "
            f"`reference` and 0.4 times on the H100. {finding(rows)}\n\n"
            + rows.to_markdown(index=False)
        )
    chosen = {
        latency: pd.read_parquet(options.out / latency / "step3.parquet")["n_gpus"].iloc[0]
        for latency in SETTINGS
    }
    page = PAGE.format(
        finding=finding(table),
        replications=options.seeds,
        volume=options.requests,
        measured=MEASURED,
        range=load_latency(MEASURED).measured,
        table=table.to_markdown(index=False),
        gpus=", ".join(f"{n:.0f} under `{latency}`" for latency, n in chosen.items()),
        real=real,
    )
    options.report.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
