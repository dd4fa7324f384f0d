"""Efficiencies and overheads of real servers, fitted to measurements, and how far they spread.

`calibration/physics.json` holds the logarithm of each constant, its deviations by GPU and by engine,
their covariance, and how much GPUs, engines and single deployments deviate that nobody measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched._data import data_folder

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """The constants of one deployment; efficiencies are shares of data-sheet rates.

    Raises
    ------
    ValueError
        If one is not finite and > 0 (overheads and `unhidden` may be 0), or `mixed_kv` is below 1.
    """

    stream: Any = 1.0  # of the memory bandwidth, reading weights
    cache: Any = 1.0  # further factor of cached keys and values
    gemm: Any = 1.0  # of the tensor-core rate, dense matrix products
    attention: Any = 1.0  # of the 16-bit tensor-core rate, attention
    unhidden: Any = 0.0  # share of the smaller of memory and compute time that adds
    projection: Any = 1.0  # further factor of reading quantised attention projections
    projection_gemm: Any = 1.0  # further factor of multiplying them
    quantised: Any = 1.0  # further factor of reading quantised MLPs and experts
    quantised_gemm: Any = 1.0  # further factor of multiplying them
    experts: Any = 1.0  # further factor of reading expert weights
    expert_gemm: Any = 1.0  # further factor of multiplying them
    link: Any = 1.0  # of the interconnect bandwidth
    reduce_s: Any = 0.0  # per all-reduce
    kernel_s: Any = 0.0  # per kernel: its launch, ramp and tail
    expert_layer_s: Any = 0.0  # per layer with experts: routing, sorting, gathering
    request_s: Any = 0.0  # per entry of a step: the host's work and the sampler's
    step_s: Any = 0.0  # per step: the host's work
    mixed_kv: Any = 1.0  # cache reads of decodes that share a step with a chunk
    host_adds: Any = 1.0  # 1: the device waits for the host; 0: it works meanwhile (async)

    def __post_init__(self) -> None:
        zero = {"unhidden", "host_adds", "reduce_s", "kernel_s", "expert_layer_s", "request_s", "step_s"}
        for column in fields(self):
            value = np.asarray(getattr(self, column.name))
            if not np.isfinite(value).all() or (value < 0).any():
                raise ValueError(f"{column.name} must be finite and >= 0, got {value}")
            if column.name not in zero and (value == 0).any():
                raise ValueError(f"{column.name} must be > 0, got 0")
        if np.any(np.asarray(self.mixed_kv) < 1):
            raise ValueError(f"mixed_kv must be >= 1, got {self.mixed_kv}")


# What is fitted: one logarithm each. Links that are not NVLink add `pcie_reduce_s`.
FITTED = (
    *("stream", "cache", "gemm", "attention", "unhidden", "experts", "expert_gemm", "link"),
    *("reduce_s", "kernel_s", "expert_layer_s", "request_s", "step_s", "mixed_kv"),
    *("fp8", "fp4", "quantised_gemm"),
)


# Engines that plan the next step while the device works on this one.
ASYNC_ENGINES = ("vllm", "sglang", "trt-llm", "kernels")


def resolve(
    logs: Mapping[str, Any],
    offsets: Sequence[Mapping[str, Any]],
    *,
    precision: str,
    host_adds: Any = 1.0,
) -> Constants:
    """Constants from their logarithms plus the deviations of a GPU and of an engine."""
    values = {
        name: np.exp(logs[name] + sum(offset.get(name, 0.0) for offset in offsets))
        for name in FITTED
    }
    fp8, fp4, gemm = (values.pop(name) for name in ("fp8", "fp4", "quantised_gemm"))
    reading = {"fp8": fp8, "fp4": fp4}.get(precision, 1.0)
    return Constants(
        **{name: value if np.ndim(value) else float(value) for name, value in values.items()}
        | {"unhidden": _at_most_1(values["unhidden"]), "mixed_kv": 1 + values["mixed_kv"]},
        projection=fp8 if precision == "fp8" else 1.0,
        projection_gemm=gemm if precision == "fp8" else 1.0,
        quantised=reading,
        quantised_gemm=gemm if precision in ("fp8", "fp4") else 1.0,
        host_adds=host_adds,
    )


def _at_most_1(value: Any) -> Any:
    return np.minimum(value, 1.0) if np.ndim(value) else min(float(value), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """What the measurements say: logarithms of all constants with their covariance and spreads."""

    names: tuple[str, ...]  # "stream", "gpu:h100-sxm:stream", "engine:vllm:kernel_s"
    logs: FloatArray  # (p,)
    covariance: FloatArray  # (p, p)
    gpu_spread: Mapping[str, float]  # standard deviation of log constants over GPUs
    engine_spread: Mapping[str, float]
    deployment_spread: float  # of the log of a whole step, over deployments on known GPUs
    point_spread: float  # of the log of a whole step, over the points of one deployment
    engines: tuple[str, ...]

    @property
    def factor_90(self) -> float:
        """Factor by which a deployment's steps lie off the model, either way, in 9 of 10 cases."""
        return math.exp(1.645 * math.hypot(self.deployment_spread, self.point_spread))

    def constants(self, gpu: str, engine: str, precision: str) -> Constants:
        """The best estimate for a deployment.

        Raises
        ------
        ValueError
            If the engine was not measured.
        """
        return self._resolve(self.logs, {}, gpu, engine, precision)

    def draw(
        self, gpu: str, engine: str, precision: str, rng: np.random.Generator
    ) -> tuple[Constants, float]:
        """Constants as the measurements might have given them, and a deployment's own factor."""
        values, vectors = np.linalg.eigh(self.covariance)
        normal = rng.standard_normal(len(self.logs))
        logs = self.logs + vectors @ (np.sqrt(np.maximum(values, 0)) * normal)
        known = any(name.startswith(f"gpu:{gpu}:") for name in self.names)
        normals = rng.standard_normal(len(self.gpu_spread))  # drawn always: same stream for all
        unknown = dict(zip(self.gpu_spread, normals, strict=True)) if not known else {}
        deviation = {name: self.gpu_spread[name] * unknown[name] for name in unknown}
        own = math.hypot(self.deployment_spread, self.point_spread) * rng.standard_normal()
        return self._resolve(logs, deviation, gpu, engine, precision), math.exp(own)

    def _resolve(
        self,
        logs: FloatArray,
        deviation: Mapping[str, float],
        gpu: str,
        engine: str,
        precision: str,
    ) -> Constants:
        if engine not in self.engines:
            raise ValueError(f"engine must be one of {', '.join(self.engines)}, got {engine!r}")
        table: dict[str, dict[str, float]] = {"": {}}
        for name, value in zip(self.names, logs, strict=True):
            group, _, constant = name.rpartition(":")
            table.setdefault(group, {})[constant] = float(value)
        offsets = (table.get(f"gpu:{gpu}", {}), table.get(f"engine:{engine}", {}), deviation)
        host_adds = 0.0 if engine in ASYNC_ENGINES else 1.0
        return resolve(table[""], offsets, precision=precision, host_adds=host_adds)


@cache
def fitted() -> Fitted:
    """The constants in `calibration/physics.json`."""
    return read_fitted(data_folder("calibration") / "physics.json")


def read_fitted(path: Path) -> Fitted:
    """Fitted constants from a file that `calibration/derive_physics.py` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    size = len(data["names"])
    covariance = np.zeros((size, size))
    covariance[np.tril_indices(size)] = data["covariance"]
    covariance = covariance + np.tril(covariance, -1).T
    return Fitted(
        names=tuple(data["names"]),
        logs=np.array(data["logs"]),
        covariance=covariance,
        gpu_spread=data["gpu_spread"],
        engine_spread=data["engine_spread"],
        deployment_spread=data["deployment_spread"],
        point_spread=data["point_spread"],
        engines=tuple(data["engines"]),
    )
