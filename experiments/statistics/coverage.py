"""How often printed 95 % intervals hold the truth: levels, paired differences, verdicts, capacity.

    python experiments/statistics/coverage.py --seeds 600

Every case is run with many seeds. The typical value over all of them stands for the truth; then ten
seeds at a time are drawn, and it is counted how often their interval holds it. Verdicts are counted
where nothing differs: a scheduler against itself on other seeds. Tables go into docs/statistics.md.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path

import numpy as np

from llmsched import Scenario, Settings, Trace, Workload, simulate
from llmsched.metrics.differences import corrected, difference
from llmsched.metrics.scales import half_a_request, typical
from llmsched.simulation.capacity.root import Curve, root_of
from llmsched.simulation.hardware import Hardware

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
MARKS = ("<!-- coverage -->", "<!-- end of coverage -->")
METRICS = (
    *("sla_violation_rate", "latency_mean_s", "latency_p95_s", "latency_p99_s"),
    *("goodput_rps", "served_per_busy_s"),
)
REPLICATIONS = 10
CAPACITY_REPLICATIONS = (5, 10, 20, 50)
FIRST_SEED = 100_000  # intervals were chosen on seeds 0 to 1,199
PAIR = ("static_fifo", "multi_bin_dynamic")


def queue(rho: float, seed: int, n: int = 1000) -> Trace:
    """M/M/1: exponential gaps of 1/rho s, exponential services of 1 s."""
    rng = np.random.default_rng(seed)
    ones = np.ones(n, dtype=np.int32)
    arrival_s = np.cumsum(rng.exponential(1 / rho, n))
    return Trace(
        arrival_s=arrival_s,
        prompt_tokens=ones,
        output_tokens=ones,
        service_s=rng.exponential(1.0, n),
        name=f"M/M/1 {rho:g}",
    )


def rows_of(case: str, seeds: int, requests: int) -> dict[str, list[dict[str, float]]]:
    """The figures of every seed, per scheduler."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for scheduler in PAIR:
            if case.startswith("M/M/1"):
                scenario = Scenario(
                    workload=queue(float(case.split()[1]), seed),
                    scheduler="static_fifo",
                    hardware=Hardware(latency="drawn", n_gpus=1 if scheduler == PAIR[0] else 2),
                    settings=Settings(batch_size=1),
                )
            else:
                latency = None if case == "default" else case
                scenario = Scenario(
                    workload=Workload(requests=requests),
                    scheduler=scheduler,
                    hardware=Hardware(latency=latency),
                    seed=seed,
                )
            row = simulate(scenario).to_dict()
            found.setdefault(scheduler, []).append(
                {name: row[name] for name in (*METRICS, "requests", "makespan_s")}
            )
    return found


def columns(rows: list[dict[str, float]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The metric of every seed, and what a 0 counts as."""
    least = [
        half_a_request(metric, requests=int(row["requests"]), span_s=row["makespan_s"])
        for row in rows
    ]
    return np.array([row[metric] for row in rows], dtype=float), np.array(least)


def levels(
    rows: list[dict[str, float]], metric: str, rng: np.random.Generator, tries: int
) -> float:
    """How often the interval of a level holds the typical value over all seeds."""
    x, least = columns(rows, metric)
    truth = typical(x, metric, least=least).mean
    held = 0
    for _ in range(tries):
        at = rng.choice(len(x), REPLICATIONS, replace=False)
        found = typical(x[at], metric, least=least[at])
        held += found.low <= truth <= found.high
    return held / tries


def pairs(
    rows: dict[str, list[dict[str, float]]], metric: str, rng: np.random.Generator, tries: int
) -> float:
    """The same of the paired difference of two schedulers."""
    (a, _), (b, least) = (columns(rows[name], metric) for name in PAIR[::-1])
    names = {"metric": metric, "scheduler": PAIR[1], "baseline": PAIR[0]}
    shares = metric == "sla_violation_rate"
    whole = difference(a, b, least=least, **names)
    held = 0
    for _ in range(tries):
        at = rng.choice(len(a), REPLICATIONS, replace=False)
        found = difference(a[at], b[at], least=least[at], **names)
        # points are told at the level of these ten: their odds are what the interval is of
        truth = whole.interval.mean
        if shares:
            truth = _points(b, least, whole.interval.mean, at)
        held += found.interval.low - 1e-12 <= truth <= found.interval.high + 1e-12
    return held / tries


def _points(base: np.ndarray, least: np.ndarray, points: float, at: np.ndarray) -> float:
    """A difference in points at the level of all seeds, told at the level of some."""
    whole, some = (
        typical(base[rows], "sla_violation_rate", least=least[rows]).mean
        for rows in (slice(None), at)
    )
    odds = (whole + points) / (1 - whole - points) / (whole / (1 - whole))
    moved = some / (1 - some) * odds
    return moved / (1 + moved) - some


def false_tables(rows: list[dict[str, float]], rng: np.random.Generator, tries: int) -> float:
    """Share of tables with a false verdict: a scheduler against itself on other seeds, twice."""
    false = 0
    for _ in range(tries):
        lines = []
        for other in ("a", "b"):
            at = rng.choice(len(rows), 2 * REPLICATIONS, replace=False)
            for metric in METRICS:
                x, least = columns([rows[one] for one in at], metric)
                lines.append(
                    difference(
                        x[:REPLICATIONS],
                        x[REPLICATIONS:],
                        least=least[REPLICATIONS:],
                        metric=metric,
                        scheduler=other,
                        baseline="itself",
                    )
                )
        false += any(one.verdict in ("better", "worse") for one in corrected(lines))
    return false / tries


def capacity_table(seeds: int, rng: np.random.Generator, tries: int) -> list[list[str]]:
    """How often the interval of a capacity holds the root of the mean over all seeds: M/M/1."""
    n, rates = 1000, np.geomspace(0.4, 1.1, 27)
    gaps, service = rng.exponential(size=(seeds, n)), rng.exponential(size=(seeds, n))
    done = np.cumsum(service, axis=1)
    rows = []
    for limit_s, at_most in ((10.0, 0.05), (5.0, 0.1), (20.0, 0.01)):
        late = np.empty((len(rates), seeds))
        for i, rate in enumerate(rates):
            arrival = np.cumsum(gaps / rate, axis=1)
            before = np.pad(done[:, :-1], ((0, 0), (1, 0)))
            finish = done + np.maximum.accumulate(arrival - before, axis=1)
            late[i] = (finish - arrival > limit_s).mean(axis=1)
        every = dict(zip(rates.tolist(), late, strict=True))
        truth = root_of(every, Curve(at_most=at_most, least=0.5 / (n * seeds))).rate
        cells = [f"at most {100 * at_most:g} % later than {limit_s:g} s"]
        for k in CAPACITY_REPLICATIONS:
            held = []
            for _ in range(tries):
                at = rng.choice(seeds, k, replace=False)
                tests = {rate: found[at] for rate, found in every.items()}
                root = root_of(tests, Curve(at_most=at_most, least=0.5 / (n * k)))
                if 0 < root.rate < math.inf:
                    found = root.interval(confidence=0.95)
                    held.append(found.low <= math.log(truth) <= found.high)
            cells.append(f"{np.mean(held):.3f}")
        rows.append(cells)
    return rows


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Run the cases and write the tables into the page."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=600)
    asked.add_argument("--requests", type=int, default=1000)
    asked.add_argument("--tries", type=int, default=2000)
    asked.add_argument("--page", type=Path, default=PAGE)
    given = asked.parse_args()
    warnings.simplefilter("ignore")
    rng, began = np.random.default_rng(FIRST_SEED), time.process_time()
    cases = ("default", "a100-llama-3-8b-vllm", "M/M/1 0.5", "M/M/1 0.8", "M/M/1 0.95")
    level_rows, pair_rows, false_rows = [], [], []
    for case in cases:
        rows = rows_of(case, given.seeds, given.requests)
        level_rows.append(
            [case, *(f"{levels(rows[PAIR[0]], m, rng, given.tries):.3f}" for m in METRICS)]
        )
        pair_rows.append([case, *(f"{pairs(rows, m, rng, given.tries):.3f}" for m in METRICS)])
        false_rows.append([case, f"{100 * false_tables(rows[PAIR[0]], rng, given.tries):.1f} %"])
        print(case, level_rows[-1], pair_rows[-1], false_rows[-1], flush=True)
    head = ["case", "violations", "mean", "p95", "p99", "goodput", "per busy second"]
    parts = (
        f"Levels over {REPLICATIONS} of {given.seeds} seeds: how many intervals hold the truth",
        table(head, level_rows),
        "Paired differences: the same (of M/M/1: two servers against one)",
        table(head, pair_rows),
        "Tables of 12 verdicts with a false one among them, where nothing differs",
        table(["case", "false"], false_rows),
        "Capacities of M/M/1, 1,000 requests: how many intervals hold the root",
        table(
            ["target", *(f"{k} replications" for k in CAPACITY_REPLICATIONS)],
            capacity_table(given.seeds, rng, given.tries),
        ),
        f"{given.tries} draws a cell, {time.process_time() - began:.0f} CPU seconds.",
    )
    page = given.page.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    body = "\n\n".join(("", *parts, ""))
    given.page.write_text(before + MARKS[0] + body + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
