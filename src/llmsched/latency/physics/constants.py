"""Efficiencies and overheads of real servers, fitted to measurements, and how far they spread.

`calibration/physics.json` holds the logarithm of each constant, its deviations by GPU, chip, engine
and model, their covariance, and how much levels deviate that nobody measured.
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

from llmsched._util.files import data_folder

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
    grouped: Any = 1.0  # further factor of those that a group of heads shares
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
        zero = {
            "unhidden",
            "host_adds",
            "reduce_s",
            "kernel_s",
            "expert_layer_s",
            "request_s",
            "step_s",
        }
        for column in fields(self):
            value = np.asarray(getattr(self, column.name))
            if not np.isfinite(value).all() or (value < 0).any():
                raise ValueError(f"{column.name} must be finite and >= 0, got {value}")
            if column.name not in zero and (value == 0).any():
                raise ValueError(f"{column.name} must be > 0, got 0")
        if np.any(np.asarray(self.mixed_kv) < 1):
            raise ValueError(f"mixed_kv must be >= 1, got {self.mixed_kv}")


# What is fitted: one logarithm each; that of `mixed_kv` is of what exceeds 1.
FITTED = (
    *(
        "stream",
        "cache",
        "grouped",
        "gemm",
        "attention",
        "unhidden",
        "experts",
        "expert_gemm",
        "link",
    ),
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
    values: dict[str, Any] = {
        name: _plain(np.exp(logs[name] + sum(offset.get(name, 0.0) for offset in offsets)))
        for name in FITTED
    }
    fp8, fp4, gemm = (values.pop(name) for name in ("fp8", "fp4", "quantised_gemm"))
    values["unhidden"] = _plain(np.minimum(values["unhidden"], 1.0))
    values["mixed_kv"] = 1 + values["mixed_kv"]
    return Constants(
        **values,
        projection=fp8 if precision == "fp8" else 1.0,
        projection_gemm=gemm if precision == "fp8" else 1.0,
        quantised={"fp8": fp8, "fp4": fp4}.get(precision, 1.0),
        quantised_gemm=gemm if precision in ("fp8", "fp4") else 1.0,
        host_adds=host_adds,
    )


def _plain(value: Any) -> Any:
    """A number as Python's own, which the hot loop needs; an array as it is."""
    return value if np.ndim(value) else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the deviations of a deployment depend on."""

    gpu: str
    chip: str
    model: str
    engine: str
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """What the measurements say: logarithms of all constants with their covariance and spreads.

    A name is a constant ("stream"), or the deviation of a level: "gpu:h100-sxm:stream",
    "chip:hopper:kernel_s", "engine:vllm:step_s"; "chip:hopper:total" and "model:qwen3-8b:total"
    apply to the whole step.
    """

    names: tuple[str, ...]
    logs: FloatArray  # (p,)
    covariance: FloatArray  # (p, p)
    spreads: Mapping[str, float]  # of levels not measured, by "gpu:stream", "chip:total", ...
    deployment_spread: float  # of the log of a whole step, over deployments of known levels
    point_spread: float  # of the log of a whole step, over the points of one deployment
    engines: tuple[str, ...]

    @property
    def factor_95(self) -> float:
        """Factor by which a deployment of known levels lies off, either way, in 19 of 20 cases."""
        return math.exp(1.96 * math.hypot(self.deployment_spread, self.point_spread))

    def best(self, place: Place) -> tuple[Constants, float]:
        """The best estimate: constants, and a factor on the whole step.

        Raises
        ------
        ValueError
            If the engine was not measured.
        """
        return self._resolve(self.logs, dict.fromkeys(self.spreads, 0.0), place)

    def draw(self, place: Place, rng: np.random.Generator) -> tuple[Constants, float]:
        """Constants as the measurements might have given them, and a deployment's own factor.

        Deviations of levels that nobody measured (a new chip, another model) are drawn from the
        spread of those that were.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        normal = rng.standard_normal(len(self.logs))
        logs = self.logs + vectors @ (np.sqrt(np.maximum(values, 0)) * normal)
        # drawn for known levels too, so that one seed means the same draws everywhere
        unknown = {name: width * rng.standard_normal() for name, width in self.spreads.items()}
        own = math.hypot(self.deployment_spread, self.point_spread) * rng.standard_normal()
        constants, factor = self._resolve(logs, unknown, place)
        return constants, factor * math.exp(own)

    def _resolve(
        self, logs: FloatArray, unknown: Mapping[str, float], place: Place
    ) -> tuple[Constants, float]:
        if place.engine not in self.engines:
            known = ", ".join(self.engines)
            raise ValueError(f"engine must be one of {known}, got {place.engine!r}")
        table: dict[str, dict[str, float]] = {"": {}}
        for name, value in zip(self.names, logs, strict=True):
            group, _, constant = name.rpartition(":")
            table.setdefault(group, {})[constant] = float(value)
        deviations: dict[str, dict[str, float]] = {}
        for kind in ("gpu", "chip", "engine", "model"):
            drawn = {
                name.partition(":")[2]: value
                for name, value in unknown.items()
                if name.startswith(f"{kind}:")
            }
            deviations[kind] = table.get(f"{kind}:{getattr(place, kind)}", drawn)
        factor = math.exp(sum(deviations[kind].get("total", 0.0) for kind in ("chip", "model")))
        constants = resolve(
            table[""],
            [deviations[kind] for kind in ("gpu", "chip", "engine")],
            precision=place.precision,
            host_adds=0.0 if place.engine in ASYNC_ENGINES else 1.0,
        )
        return constants, factor


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
        spreads=data["spreads"],
        deployment_spread=data["deployment_spread"],
        point_spread=data["point_spread"],
        engines=tuple(data["engines"]),
    )
