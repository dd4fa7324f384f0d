"""A mixed model of log times: shared constants, deviations by GPU, engine, model, date, deployment.

log(measured) = log(sum of steps under the constants) + model + date + config + residual

Every deviation has a normal law around 0 whose width is estimated too (a few EM rounds around
Gauss-Newton, Huber's loss on the residuals). The constants' priors are wide and keep out absurdity.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from physics_data import Point

from llmsched.latency.physics.constants import ASYNC_ENGINES, FITTED, Constants, resolve
from llmsched.latency.physics.step import step_seconds
from llmsched.latency.physics.work import Work

FloatArray = NDArray[np.float64]

PRIORS = {  # centre, and the width of its logarithm
    "stream": (0.85, 0.08),
    "cache": (0.95, 0.1),
    "grouped": (0.95, 0.1),
    "gemm": (0.65, 0.1),
    "attention": (0.4, 0.4),
    "unhidden": (0.25, 0.5),
    "experts": (0.85, 0.15),
    "expert_gemm": (0.7, 0.3),
    "link": (0.7, 0.15),
    "reduce_s": (8e-6, 0.7),
    "kernel_s": (3e-6, 0.7),
    "expert_layer_s": (30e-6, 0.8),
    "request_s": (10e-6, 1.0),
    "step_s": (1e-3, 1.0),
    "mixed_kv": (0.5, 0.5),  # above 1
    "fp8": (0.85, 0.15),
    "fp4": (0.75, 0.2),
    "quantised_gemm": (0.7, 0.3),
}
BY_GPU = ("stream",)
BY_CHIP = ("gemm", "kernel_s")
BY_ENGINE = (
    "cache",
    "grouped",
    "gemm",
    "kernel_s",
    "request_s",
    "step_s",
    "expert_layer_s",
    "reduce_s",
)
SPREAD_START = {
    "stream": 0.1,
    "cache": 0.12,
    "grouped": 0.1,
    "gemm": 0.12,
    "kernel_s": 0.25,
    "request_s": 0.7,
    "step_s": 0.7,
    "expert_layer_s": 0.3,
    "reduce_s": 0.3,
}
WIDEST = {  # an efficiency off by more is another matter than the GPU's or the engine's
    "gpu:stream": 0.12,
    "chip:gemm": 0.12,
    "chip:kernel_s": 0.2,
    "engine:cache": 0.15,
    "engine:grouped": 0.1,
    "engine:gemm": 0.12,
}
# Engines of 2023 and 2024 are fitted each for itself; those of today share what they can.
OLD_ENGINES = ("vllm-2023", "vllm-2024", "trt-llm-2024", "deepspeed-mii")
OLD_WIDTH = {"cache": 0.2, "grouped": 0.4, "gemm": 0.4}  # and 1 for overheads
NO_HOST = "kernels"  # the layer tables: no host, so no host's time
HUBER = 2.0  # standard deviations
ROUNDS = 6
POINT_START = 0.08
# A new chip's software may be half as fast; models, dates and deployments differ less.
EFFECT_START = {"model": 0.05, "total": 0.25, "date": 0.05, "config": 0.08}


@dataclass
class Problem:
    """The steps of all points as arrays, and where every parameter applies."""

    points: Sequence[Point]
    names: list[str] = field(init=False)
    work: Work = field(init=False)
    weight: FloatArray = field(init=False)
    owner: NDArray[np.int64] = field(init=False)
    log_seconds: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        loads, weights, owners = [], [], []
        for i, point in enumerate(self.points):
            for weight, prefills, n, kv in point.steps:
                if weight > 0:
                    work = point.deployment.work(prefills, n, kv)
                    if point.alike and not prefills:
                        work = work._replace(
                            expert_read=point.deployment.work((), 1, 0).expert_read
                        )
                    loads.append(work)
                    weights.append(weight)
                    owners.append(i)
        self.work = Work(*np.array(loads, dtype=np.float64).T)
        self.weight, self.owner = np.array(weights), np.array(owners)
        self.log_seconds = np.log([point.seconds for point in self.points])
        self.gpus = self._levels(lambda point: point.deployment.gpu.name)
        self.chips = self._levels(lambda point: point.deployment.gpu.chip)
        self.engines = self._levels(lambda point: point.deployment.engine)
        self.models = self._levels(
            lambda point: point.deployment.model.twin or point.deployment.model.name
        )
        self.configs = self._levels(lambda point: point.config)
        self.dates = self._levels(lambda point: point.date)
        self.sources = self._levels(lambda point: point.source)
        self.names = [
            *FITTED,
            *(f"gpu:{gpu}:{constant}" for gpu in self.gpus[0] for constant in BY_GPU),
            *(f"chip:{chip}:{constant}" for chip in self.chips[0] for constant in BY_CHIP),
            *(
                f"engine:{engine}:{constant}"
                for engine in self.engines[0]
                for constant in BY_ENGINE
            ),
        ]
        precision = np.array([point.deployment.precision for point in self.points])
        self.fp8, self.fp4 = (precision == name for name in ("fp8", "fp4"))
        self.host_adds = np.array(
            [float(point.deployment.engine not in ASYNC_ENGINES) for point in self.points]
        )
        self.hosted = np.array([point.deployment.engine != NO_HOST for point in self.points])

    def _levels(self, key: Any) -> tuple[list[str], NDArray[np.int64]]:
        values = [key(point) for point in self.points]
        names = sorted(set(values))
        index = {name: i for i, name in enumerate(names)}
        return names, np.array([index[value] for value in values])

    def effects(self) -> tuple[list[tuple[str, str]], FloatArray]:
        """The deviations by (kind, level), and which points each applies to."""
        kinds, columns = [], []
        for kind, (levels, index) in (
            ("model", self.models),
            ("total", self.chips),
            ("date", self.dates),
            ("config", self.configs),
        ):
            for i, level in enumerate(levels):
                if level:
                    kinds.append((kind, level))
                    columns.append(index == i)
        return kinds, np.array(columns, dtype=np.float64).T

    def sigma(self, spreads: Spreads) -> FloatArray:
        """Width of the residual of every point."""
        names, index = self.sources
        return np.array([spreads.point[name] for name in names])[index]

    def constants(self, logs: FloatArray) -> Constants:
        """The constants of every step, under the given logarithms of all parameters."""
        table = dict(zip(self.names, logs, strict=True))
        at = self.owner
        full = {name: np.full(len(at), table[name]) for name in FITTED}
        for levels, kind, columns in (
            (self.gpus, "gpu", BY_GPU),
            (self.chips, "chip", BY_CHIP),
            (self.engines, "engine", BY_ENGINE),
        ):
            for column in columns:
                own = np.array([table[f"{kind}:{level}:{column}"] for level in levels[0]])
                full[column] = full[column] + own[levels[1]][at]
        c = resolve(full, (), precision="bf16")
        fp8, fp4, gemm = (np.exp(full[name]) for name in ("fp8", "fp4", "quantised_gemm"))
        hosted = self.hosted[at]
        values = {name: getattr(c, name) for name in Constants.__slots__}
        values |= {
            "projection": np.where(self.fp8[at], fp8, 1.0),
            "projection_gemm": np.where(self.fp8[at], gemm, 1.0),
            "quantised_gemm": np.where((self.fp8 | self.fp4)[at], gemm, 1.0),
            "quantised": np.where(self.fp8[at], fp8, np.where(self.fp4[at], fp4, 1.0)),
            "step_s": np.where(hosted, c.step_s, 0.0),
            "request_s": np.where(hosted, c.request_s, 0.0),
            "host_adds": self.host_adds[at],
        }
        return Constants(**values)

    def log_predicted(self, logs: FloatArray) -> FloatArray:
        """Log of the time of every point, deviations of models, dates and configs left out."""
        seconds = step_seconds(self.work, self.constants(logs)) * self.weight
        return np.log(np.bincount(self.owner, seconds, len(self.points)))

    def jacobian(self, logs: FloatArray, base: FloatArray) -> FloatArray:
        """Derivatives of `log_predicted`, by forward differences, shape (points, p)."""
        h = 1e-5
        out = np.empty((len(base), len(logs)))
        for j in range(len(logs)):
            moved = logs.copy()
            moved[j] += h
            out[:, j] = (self.log_predicted(moved) - base) / h
        return out


@dataclass(slots=True)
class Spreads:
    """Widths of the laws of all deviations, of logarithms."""

    gpu: dict[str, float]
    chip: dict[str, float]
    engine: dict[str, float]
    model: float = 0.06
    total: float = 0.1  # of a chip, on every step
    date: float = 0.05
    config: float = 0.08
    point: dict[str, float] = field(default_factory=dict)  # by source


@dataclass(slots=True)
class Fit:
    """The estimate, its covariance (parameters, then deviations), and the widths it came with."""

    problem: Problem
    logs: FloatArray
    covariance: FloatArray
    kinds: list[tuple[str, str]]  # of the deviations: (kind, level)
    effects: FloatArray
    design: FloatArray  # (points, deviations)
    spreads: Spreads

    def predict(self) -> tuple[FloatArray, FloatArray]:
        """Log time of every point and its standard deviation, deviations where known."""
        base = self.problem.log_predicted(self.logs)
        jac = np.hstack([self.problem.jacobian(self.logs, base), self.design])
        variance = np.einsum("ij,jk,ik->i", jac, self.covariance, jac)
        spread = np.sqrt(variance + self.problem.sigma(self.spreads) ** 2)
        return base + self.design @ self.effects, spread


def prior(names: Sequence[str], spreads: Spreads) -> tuple[FloatArray, FloatArray]:
    """Centre and width of every parameter."""
    centre, width = np.zeros(len(names)), np.zeros(len(names))
    for i, name in enumerate(names):
        group, _, constant = name.rpartition(":")
        if not group:
            centre[i], width[i] = np.log(PRIORS[name][0]), PRIORS[name][1]
        else:
            kind, _, level = group.partition(":")
            width[i] = getattr(spreads, kind)[constant]
            if level in OLD_ENGINES:
                width[i] = OLD_WIDTH.get(constant, 1.0)
    return centre, width


def fit(
    problem: Problem,
    *,
    leave_out: NDArray[np.bool_] | None = None,
    spreads: Spreads | None = None,
    rounds: int = ROUNDS,
) -> Fit:
    """Estimate everything from the points not left out; `spreads` are where the rounds start."""
    now = copy.deepcopy(spreads) or Spreads(
        gpu={name: SPREAD_START[name] for name in BY_GPU},
        chip={name: SPREAD_START[name] for name in BY_CHIP},
        engine={name: SPREAD_START[name] for name in BY_ENGINE},
    )
    for source in problem.sources[0]:
        now.point.setdefault(source, POINT_START)
    keep = np.array([point.fitted for point in problem.points])
    if leave_out is not None:
        keep &= ~leave_out
    kinds, design = problem.effects()
    n_p = len(problem.names)
    logs, _ = prior(problem.names, now)
    effects = np.zeros(len(kinds))
    for round_ in range(rounds):
        centre, width = prior(problem.names, now)
        widths = np.concatenate([width, [getattr(now, kind) for kind, _ in kinds]])
        sigma = problem.sigma(now)[keep]
        for _ in range(12 if round_ == 0 else 5):
            base = problem.log_predicted(logs)
            jac = np.hstack([problem.jacobian(logs, base), design])[keep]
            r = (problem.log_seconds - base - design @ effects)[keep]
            w = np.minimum(1, HUBER / np.maximum(np.abs(r / sigma), 1e-12)) / sigma**2
            hessian = jac.T @ (jac * w[:, None]) + np.diag(widths**-2.0)
            gradient = jac.T @ (w * r) - np.concatenate([(logs - centre), effects]) / widths**2
            step = np.linalg.solve(hessian, gradient)
            step *= min(1, 0.7 / np.abs(step).max())
            logs, effects = logs + step[:n_p], effects + step[n_p:]
            if np.abs(step).max() < 1e-3:
                break
        covariance = np.linalg.inv(hessian)
        r = (problem.log_seconds - problem.log_predicted(logs) - design @ effects)[keep]
        leverage = np.einsum("ij,jk,ik->i", jac, covariance, jac) * w
        _update(now, problem, kinds, logs, effects, np.diag(covariance), r, leverage, keep)
    return Fit(problem, logs, covariance, kinds, effects, design, now)


def _update(
    now: Spreads,
    problem: Problem,
    kinds: Sequence[tuple[str, str]],
    logs: FloatArray,
    effects: FloatArray,
    variance: FloatArray,
    r: FloatArray,
    leverage: FloatArray,
    keep: NDArray[np.bool_],
) -> None:
    """One EM update of every width, each pulled lightly towards its start."""
    n_p = len(problem.names)
    for kind in ("model", "total", "date", "config"):
        at = [i for i, (own, _) in enumerate(kinds) if own == kind]
        if at:
            second = effects[at] ** 2 + variance[n_p:][at]
            start = EFFECT_START[kind]
            setattr(now, kind, float(np.sqrt((second.sum() + 3 * start**2) / (len(at) + 3))))
    for group, widths in (("gpu", now.gpu), ("chip", now.chip), ("engine", now.engine)):
        for constant in widths:
            at = [
                i
                for i, name in enumerate(problem.names)
                if name.startswith(f"{group}:")
                and name.endswith(f":{constant}")
                and name.split(":")[1] not in OLD_ENGINES
            ]
            second = logs[at] ** 2 + variance[:n_p][at]
            start = SPREAD_START[constant]
            width = float(np.sqrt((second.sum() + 3 * start**2) / (len(at) + 3)))
            widths[constant] = min(width, WIDEST.get(f"{group}:{constant}", width))
    source = problem.sources[1][keep]
    for i, name in enumerate(problem.sources[0]):
        own = source == i
        if own.any():
            clipped = np.minimum(r[own] ** 2, (3 * now.point[name]) ** 2)
            free = max(1.0, own.sum() - min(leverage[own].sum(), 0.8 * own.sum()))
            now.point[name] = float(max(0.01, np.sqrt(clipped.sum() / free)))
