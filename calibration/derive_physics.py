"""Derive `physics.json`: constants of the physics step time with their spread, and its errors.

    python calibration/derive_physics.py --data FOLDER [--out FOLDER]

FOLDER holds the measured data that PHYSICS.md names. Written beside this script unless `--out`
says otherwise: `physics.json`, `physics_causes.csv` (what explains the spread),
`physics_errors.csv` (a level left out of the fit, then predicted), `physics_stages.csv` and
`physics-left-out.png`. It takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from physics_data import Point, read_points
from physics_fit import Fit, Problem, fit

from llmsched.calibration.benchmarks.registry import read_benchmarks
from llmsched.latency.physics.constants import Fitted, read_fitted as read_fitted_file
from llmsched.latency.physics.step import PhysicsStep, fitted_step, step_model
from llmsched.simulation.hardware import Hardware
from llmsched.simulation.scenario import Scenario
from llmsched.studies.validation.fit import FitPlan
from llmsched.studies.validation.server import completed_step_time, server_layer
from llmsched.studies.validation.stages import Stage, validate_stages

BoolArray = NDArray[np.bool_]
EXPORTED_ENGINES = ("vllm", "vllm-2025", "vllm-2024", "sglang", "trt-llm", "trt-llm-2024")
STAGE_MODELS = ("llama-2-7b", "codellama-34b")


def left_out_groups(points: Sequence[Point]) -> Iterator[tuple[str, str, BoolArray]]:
    """Every GPU, every model, and half of the deployments, as (kind, name, mask)."""
    gpus = np.array(["a100" if p.deployment.gpu.name.startswith("a100") else p.deployment.gpu.name
                     for p in points])  # fmt: skip
    models = np.array([p.deployment.model.twin or p.deployment.model.name for p in points])
    for kind, names in (("gpu", gpus), ("model", models)):
        for name in sorted(set(names)):
            yield kind, name, names == name
    half = np.array([zlib.crc32(p.config.encode()) % 2 == 0 for p in points])
    yield "half", "deployments", half


def family(point: Point) -> str:
    """Which target a point counts towards."""
    if point.dense:
        return "dense"
    return "deepseek-r1 curves" if point.source == "InferenceX" else "other experts"


def error_rows(
    kind: str, name: str, mask: BoolArray, problem: Problem, found: Fit
) -> list[dict[str, Any]]:
    """Errors of the points left out, by family and measure."""
    mean, spread = found.predict()
    error = np.exp(mean - problem.log_seconds) - 1
    covered = np.abs(problem.log_seconds - mean) < 1.96 * spread
    keys = {(family(p), p.measure) for p, own in zip(problem.points, mask, strict=True) if own}
    table = []
    for key in sorted(keys):
        own = [i for i, p in enumerate(problem.points)
               if mask[i] and (family(p), p.measure) == key]  # fmt: skip
        size = np.abs(error[own])
        worst = own[int(np.argmax(size))]
        point = problem.points[worst]
        table.append(
            {
                "left_out": kind,
                "name": name,
                "family": key[0],
                "measure": key[1],
                "points": len(own),
                "median_error": f"{np.median(size):.3f}",
                "p90_error": f"{np.quantile(size, 0.9):.3f}",
                "median_bias": f"{np.median(error[own]):.3f}",
                "covered_95": f"{np.mean(covered[own]):.3f}",
                "worst_error": f"{error[worst]:.3f}",
                "worst_point": f"{point.config}; {point.label}",
                "_size": size,
                "_covered": covered[own],
            }
        )
    return table


def overall(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same over all GPUs, or all models, left out one at a time."""
    keys = sorted({(row["left_out"], row["family"], row["measure"]) for row in table})
    rows = []
    for kind, kin, measure in keys:
        own = [
            r for r in table if (r["left_out"], r["family"], r["measure"]) == (kind, kin, measure)
        ]
        size = np.concatenate([row["_size"] for row in own])
        covered = np.concatenate([row["_covered"] for row in own])
        worst = max(own, key=lambda row: abs(float(row["worst_error"])))
        rows.append(
            {
                "left_out": kind,
                "name": "ALL",
                "family": kin,
                "measure": measure,
                "points": len(size),
                "median_error": f"{np.median(size):.3f}",
                "p90_error": f"{np.quantile(size, 0.9):.3f}",
                "median_bias": "",
                "covered_95": f"{np.mean(covered):.3f}",
                "worst_error": worst["worst_error"],
                "worst_point": worst["worst_point"],
            }
        )
    return rows


def exported(found: Fit) -> dict[str, Any]:
    """What the package reads: constants, and deviations of chips, GPUs, engines and models."""
    problem, spreads = found.problem, found.spreads
    names = list(problem.names)
    names += [f"{'chip' if kind == 'total' else kind}:{level}:total" for kind, level in found.kinds]
    logs = np.concatenate([found.logs, found.effects])
    keep = [i for i, name in enumerate(names) if _kept(name)]
    covariance = found.covariance[np.ix_(keep, keep)]
    widths = {f"gpu:{name}": width for name, width in spreads.gpu.items()}
    widths |= {f"chip:{name}": width for name, width in spreads.chip.items()}
    widths |= {"chip:total": spreads.total, "model:total": spreads.model}
    counts = np.bincount(problem.sources[1], minlength=len(problem.sources[0]))
    variance = [spreads.point[name] ** 2 for name in problem.sources[0]]
    return {
        "names": [names[i] for i in keep],
        "logs": [round(float(logs[i]), 5) for i in keep],
        "covariance": [float(f"{c:.3g}") for c in covariance[np.tril_indices(len(keep))]],
        "spreads": {name: round(width, 4) for name, width in widths.items()},
        "deployment_spread": round(float(np.hypot(spreads.config, spreads.date)), 4),
        "point_spread": round(float(np.sqrt(np.average(variance, weights=counts))), 4),
        "engines": list(EXPORTED_ENGINES),
    }


def _kept(name: str) -> bool:
    kind, _, rest = name.partition(":")
    if kind == "engine":
        return rest.split(":")[0] in EXPORTED_ENGINES
    return kind not in ("date", "config")


def causes(fitted: Fitted, found: Fit) -> list[dict[str, Any]]:
    """How far apart steps lie that the data sheet and the shape say are equal, by cause.

    The step is 32 decodes of 600 tokens of Llama-3.1-8B on an H100. Engines: its time under each;
    GPUs: its time with the deviations of each measured GPU and its chip.
    """
    reference = step_model("physics:h100-sxm:llama-3.1-8b").deployment

    def log_step(engine: str, gpu: str, chip: str) -> float:
        place = replace(reference.place, engine=engine, gpu=gpu, chip=chip)
        constants, factor = fitted.best(place)
        return math.log(PhysicsStep(reference, constants, factor=factor).step_s((), 32, 32 * 600))

    engines = [log_step(engine, "h100-sxm", "hopper") for engine in fitted.engines]
    gpus = {p.deployment.gpu.name: p.deployment.gpu.chip for p in found.problem.points}
    cards = [log_step("vllm", gpu, chip) for gpu, chip in gpus.items()]
    spreads = found.spreads
    return [
        {"cause": cause, "levels": levels, "log_sd": f"{width:.3f}"}
        for cause, levels, width in (
            ("engine and its year", len(engines), float(np.std(engines, ddof=1))),
            ("GPU beyond its data sheet", len(cards), float(np.std(cards, ddof=1))),
            ("model beyond its shape", len(found.problem.models[0]), spreads.model),
            ("date, same engine and GPU", len(found.problem.dates[0]) - 1, spreads.date),
            ("single deployment", len(found.problem.configs[0]), spreads.config),
        )
    ]


def write_fitted(path: Path, found: Fit) -> Fitted:
    """Write the constants and read them back as the package does."""
    data = exported(found)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in data.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return read_fitted_file(path)


def write_csv(path: Path, table: Sequence[dict[str, Any]]) -> None:
    """Rows without their private columns."""
    columns = [column for column in table[0] if not column.startswith("_")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def draw_figure(path: Path, table: Sequence[dict[str, Any]]) -> None:
    """Median and 90th percentile of the error by what was left out."""
    import pandas as pd
    import plotnine as p9

    kept = [r for r in table if r["left_out"] in ("gpu", "model") and r["measure"] != "ttft"]
    data = pd.DataFrame(
        {
            "name": [row["name"] for row in kept],
            "left out": [f"{row['left_out']} left out" for row in kept],
            "measure": [{"e2e": "end to end", "tpot": "per token"}[row["measure"]] for row in kept],
            "median": [100 * float(row["median_error"]) for row in kept],
            "p90": [100 * float(row["p90_error"]) for row in kept],
        }
    ).drop_duplicates(["name", "left out", "measure"])
    plot = (
        p9.ggplot(data, p9.aes("name", "median", colour="measure"))
        + p9.geom_linerange(p9.aes(ymin="median", ymax="p90"), position=p9.position_dodge(0.6))
        + p9.geom_point(position=p9.position_dodge(0.6))
        + p9.facet_wrap("left out", scales="free_y")
        + p9.coord_flip()
        + p9.labs(x="", y="error of what was left out, median to 90th percentile (%)", colour="")
        + p9.theme_minimal()
        + p9.theme(figure_size=(9, 4.5), legend_position="top")
    )
    plot.save(path, dpi=110, verbose=False)


def stage_table(data: Path, fitted: Fitted) -> list[dict[str, Any]]:
    """Errors of physics alone, and of physics fitted to the slower stage of the same run."""
    stages = [
        one
        for one in read_benchmarks([data / "vllm_h100_runs" / "stages.csv"]).runs
        if "reasoning" not in one.run
    ]

    def scenario_of(stage: Stage) -> Scenario:
        found = step_model(completed_step_time("physics:h100-sxm", stage.server)).deployment
        hardware = Hardware(
            n_gpus=1,
            step_time=fitted_step(found, fitted),
            gpu=found.gpu,
            llm=found.model,
            tp=found.tp,
        )
        known = Scenario.from_dict(server_layer(stage, None))
        return replace(known, scheduler="continuous_static", hardware=hardware)

    alone = validate_stages(stages, scenario_of)
    scaled = validate_stages(stages, scenario_of, fit=FitPlan(what="scale", first=1))
    table = []
    for one, other in zip(alone.stages, scaled.stages, strict=True):
        row: dict[str, Any] = {"run": one.run, "rate_per_s": f"{one.load_value:g}"}
        judged = other.run in scaled.fitted and not other.fitted_on
        for how, found in (("alone", one), ("fitted", other)):
            for figure in ("ttft", "e2e"):
                error = found.errors[f"{figure}_s"].mean_error
                known = how == "alone" or judged
                row[f"{how}_{figure}_error"] = f"{error:.3f}" if known else ""
        table.append(row)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, fit, leave out, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    options = parser.parse_args(arguments)
    problem = Problem(read_points(options.data))
    found = fit(problem)
    constants = write_fitted(options.out / "physics.json", found)
    write_csv(options.out / "physics_causes.csv", causes(constants, found))
    table: list[dict[str, Any]] = []
    for kind, name, mask in left_out_groups(problem.points):
        again = fit(problem, leave_out=mask, spreads=found.spreads, rounds=2)
        table += error_rows(kind, name, mask, problem, again)
        sys.stderr.write(f"{kind} {name} left out\n")
    write_csv(options.out / "physics_errors.csv", overall(table) + table)
    draw_figure(options.out / "physics-left-out.png", table)
    own = np.array(
        [
            (p.deployment.model.twin or p.deployment.model.name) in STAGE_MODELS
            for p in problem.points
        ]
    )
    without = fit(problem, leave_out=own, spreads=found.spreads, rounds=2)
    scratch = options.out / "physics_without_stages.json"
    write_csv(
        options.out / "physics_stages.csv",
        stage_table(options.data, write_fitted(scratch, without)),
    )
    scratch.unlink()


if __name__ == "__main__":
    main()
