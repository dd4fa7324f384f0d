"""Layer tables: GPU times of a model's layers, read from three CSV files and checked.

The files are those of casys-kaist/LLMServingSim's profiler (`profiler/perf/.../tpN/`), plain or
gzipped: PREFIX_dense.csv, PREFIX_attention.csv and PREFIX_per_sequence.csv, or the same three
without prefix in a folder. What a step takes is composed of them in `layers`.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.latency.base import CalibrationError

PARTS = ("dense", "attention", "per_sequence")
ONCE_PER_STEP = ("embedding", "final_layernorm")
PER_LAYER = {  # how often in one transformer block
    "layernorm": 2,
    "qkv_proj": 1,
    "qk_norm": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
OPTIONAL = ("qk_norm", "rotary_emb")
PER_ENTRY = ("lm_head", "sampler")

_AXES = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
_MAX_BYTES = 64 * 2**20  # of one file, unpacked: 3 million rows


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Times on a rectangular grid, and the rows of the file that lie off it."""

    names: tuple[str, ...]  # of the axes
    axes: tuple[tuple[int, ...], ...]  # each increasing, two values or more
    times_us: FloatArray  # one axis per name
    off: FloatArray  # (m, axes + 1): coordinates and time of the rows off the grid [us]

    def at(self, points: FloatArray) -> FloatArray:
        """Multilinear interpolation at points of shape (m, axes) within the grid [us]."""
        low, weight = [], []
        for axis, x in zip(self.axes, points.T, strict=True):
            knots = np.array(axis, dtype=np.float64)
            i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
            low.append(i)
            weight.append((x - knots[i]) / (knots[i + 1] - knots[i]))
        total = np.zeros(len(points))
        for corner in product((0, 1), repeat=len(self.axes)):
            part = self.times_us[tuple(i + bit for i, bit in zip(low, corner, strict=True))]
            for w, bit in zip(weight, corner, strict=True):
                part = part * (w if bit else 1 - w)
            total += part
        return total

    def off_grid_errors(self) -> FloatArray:
        """Relative error of the interpolation at the rows off the grid, shape (m,)."""
        return np.asarray(self.at(self.off[:, :-1]) / self.off[:, -1] - 1)


@dataclass(frozen=True, slots=True, eq=False)
class LayerFiles:
    """What the three files hold."""

    name: str
    dense: dict[str, Grid]  # by layer, against tokens in the step
    per_entry: dict[str, Grid]  # lm_head and sampler, against requests in the step
    decode: Grid  # attention without a prefill: n_decode, kv_decode
    prefill: Grid  # attention without a decode: prefill_chunk, kv_prefill
    mixed: Grid  # attention with both, all four axes


def is_layer_prefix(prefix: str) -> bool:
    """Whether any of the three files is there."""
    return bool(layer_files(prefix))


def layer_files(prefix: str) -> list[Path]:
    """The files of a prefix, or of a folder, that are there."""
    return [path for part in PARTS for path in _candidates(prefix, part) if path.is_file()]


def read_layers(prefix: str) -> LayerFiles:
    """The three files of a prefix, or of a folder.

    Raises
    ------
    CalibrationError
        In one line: a file, column, layer or grid point that is missing, or a value that cannot be.
    """
    paths = {part: _path(prefix, part) for part in PARTS}
    decode, prefill, mixed = _attention(paths["attention"])
    return LayerFiles(
        name=Path(prefix).name,
        dense=_by_layer(paths["dense"], "tokens", (*ONCE_PER_STEP, *PER_LAYER)),
        per_entry=_by_layer(paths["per_sequence"], "sequences", PER_ENTRY),
        decode=decode,
        prefill=prefill,
        mixed=mixed,
    )


def _candidates(prefix: str, part: str) -> list[Path]:
    folder = Path(prefix)
    stem = folder / part if folder.is_dir() else Path(f"{prefix}_{part}")
    return [stem.with_name(stem.name + ending) for ending in (".csv", ".csv.gz")]


def _path(prefix: str, part: str) -> Path:
    found = [path for path in _candidates(prefix, part) if path.is_file()]
    if len(found) == 1:
        return found[0]
    plain, packed = _candidates(prefix, part)
    raise CalibrationError(
        f"layer tables must have one of {plain} and {packed.name}, got "
        f"{'both; remove one' if found else 'neither'}"
    )


def _by_layer(path: Path, count: str, layers: Sequence[str]) -> dict[str, Grid]:
    """One curve per layer, all at the same counts."""
    curves: dict[str, dict[int, float]] = {}
    for line, (layer, *cells) in enumerate(_rows(path, ("layer", count, "time_us")), start=2):
        at = _count(path, line, count, cells[0])
        time_us = _time(path, line, cells[1])
        if at in curves.setdefault(layer, {}):
            raise CalibrationError(
                f"{path}: line {line} must be a new point, got {layer} at {count} {at} again"
            )
        curves[layer][at] = time_us
    missing = sorted(set(layers) - set(OPTIONAL) - set(curves))
    more = sorted(set(curves) - set(layers))
    if missing or more:
        said = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {more}"] * bool(more)
        raise CalibrationError(
            f"{path}: layer must be one of {', '.join(layers)}, each there but for "
            f"{' and '.join(OPTIONAL)}; got it {' and '.join(said)}"[:300]
        )
    axis = tuple(sorted(set().union(*curves.values())))
    for layer, curve in curves.items():
        for at in axis:
            if at not in curve:
                raise CalibrationError(
                    f"{path}: every layer must be timed at the same {count}, got {layer} without "
                    f"{count} {at}"
                )
    _check_axis(path, count, axis)
    none = np.empty((0, 2))
    return {
        layer: Grid((count,), (axis,), np.array([curve[at] for at in axis]), none)
        for layer, curve in curves.items()
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The rows of the attention file with work of one kind."""

    names: tuple[str, ...]
    times_us: dict[tuple[int, ...], float]

    def axes(self, *, doubling: bool) -> list[tuple[int, ...]]:
        """The values on each axis: all of them, or the smallest and its doubles."""
        values = [sorted({point[i] for point in self.times_us}) for i in range(len(self.names))]
        return [tuple(x for x in axis if not doubling or _doubles(axis, x)) for axis in values]

    def is_rectangular(self) -> bool:
        return len(self.times_us) == math.prod(map(len, self.axes(doubling=False)))

    def grid(self, path: Path, *, doubling: bool) -> Grid:
        axes = self.axes(doubling=doubling)
        for name, axis in zip(self.names, axes, strict=True):
            _check_axis(path, name, axis)
        points = list(product(*axes))
        for point in points:
            if point not in self.times_us:
                where = ", ".join(f"{n} {v}" for n, v in zip(self.names, point, strict=True))
                raise CalibrationError(
                    f"{path}: rows must form a grid, of all values or of those that double, got "
                    f"none at {where}"
                )
        on = set(points)
        off = [(*point, time) for point, time in self.times_us.items() if point not in on]
        times_us = np.array([self.times_us[point] for point in points])
        return Grid(
            self.names,
            tuple(axes),
            times_us.reshape([len(axis) for axis in axes]),
            np.array(off, dtype=np.float64).reshape(-1, len(axes) + 1),
        )


def _attention(path: Path) -> list[Grid]:
    """The grids of decodes alone, of a prefill alone, and of both.

    Rows of two sweeps with different values form no grid together. Then, in all three, the values
    that double are taken, and the other rows tell how far off the interpolation is.
    """
    parts = [_Part(_AXES[2:], {}), _Part(_AXES[:2], {}), _Part(_AXES, {})]
    for line, cells in enumerate(_rows(path, (*_AXES, "time_us")), start=2):
        chunk, kv_prefill, n, kv = (
            _count(path, line, name, cell, least=0)
            for name, cell in zip(_AXES, cells, strict=False)
        )
        given = f"{chunk}, {kv_prefill}, {n}, {kv}"
        if not (chunk or n) or (kv_prefill and not chunk) or (kv and not n):
            raise CalibrationError(
                f"{path}: line {line} must have a prefill or decodes, and kv only with them, "
                f"got {given}"
            )
        part = parts[2] if chunk and n else parts[1] if chunk else parts[0]
        point = (chunk, kv_prefill, n, kv) if chunk and n else (chunk, kv_prefill)
        point = point if chunk else (n, kv)
        if point in part.times_us:
            raise CalibrationError(f"{path}: line {line} must be a new point, got {given} again")
        part.times_us[point] = _time(path, line, cells[4])
    for part, work in zip(parts, ("decodes alone", "a prefill alone", "both"), strict=True):
        if not part.times_us:
            raise CalibrationError(f"{path}: must hold rows with {work}, got none")
    doubling = not all(part.is_rectangular() for part in parts)
    return [part.grid(path, doubling=doubling) for part in parts]


def _doubles(axis: Sequence[int], value: int) -> bool:
    """Whether a value is 0, or the smallest other one times a power of two."""
    least = next(x for x in axis if x)
    ratio, rest = divmod(value, least)
    return value == 0 or (rest == 0 and ratio & (ratio - 1) == 0)


def _check_axis(path: Path, name: str, axis: Sequence[int]) -> None:
    if len(axis) < 2:
        raise CalibrationError(
            f"{path}: {name} must take two values or more to interpolate, got {list(axis)}"
        )


def _rows(path: Path, columns: tuple[str, ...]) -> list[list[str]]:
    """The rows below the header, each with as many cells as there are columns."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            raw = (gzip.GzipFile(fileobj=file) if packed else file).read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise CalibrationError(f"{path}: must be at most {_MAX_BYTES >> 20} MiB, got more")
        rows = list(csv.reader(raw.decode("utf-8-sig").splitlines()))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"{path}: must be a readable CSV file, got: {error}") from None
    if not rows or tuple(rows[0]) != columns:
        found = ",".join(rows[0])[:100] if rows else "an empty file"
        raise CalibrationError(f"{path}: must begin with {','.join(columns)}, got {found}")
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(columns):
            raise CalibrationError(
                f"{path}: line {line} must have {len(columns)} cells, got {len(row)}"
            )
    if len(rows) == 1:
        raise CalibrationError(f"{path}: must hold rows below its header, got none")
    return rows[1:]


def _count(path: Path, line: int, name: str, cell: str, *, least: int = 1) -> int:
    if not (cell.isascii() and cell.isdecimal() and len(cell) < 10) or int(cell) < least:
        raise CalibrationError(
            f"{path}: line {line}: {name} must be a whole number >= {least}, got {cell[:40]!r}"
        )
    return int(cell)


def _time(path: Path, line: int, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise CalibrationError(
            f"{path}: line {line}: time_us must be a number > 0, got {cell[:40]!r}"
        )
    return value
