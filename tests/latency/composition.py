"""The composition of a step from layer tables, written anew from its definition, slowly.

Exact fractions, no caches, no shared code: what `LayerTables` is compared with. Within the grids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product

Curve = Mapping[int, float]
Table = Mapping[tuple[int, ...], float]


def pad(tokens: int, max_running: int) -> int:
    """To the next CUDA graph: 1, 2, 4, 8, 16, 24, ... 256, 272, ... up to 512 or 2·max_running."""
    sizes = [1, 2, 4] + [8 * i for i in range(1, 32)] + [16 * i for i in range(16, 33)]
    fitting = [s for s in sizes if tokens <= s <= min(512, 2 * max_running)]
    return fitting[0] if fitting else tokens


def along(curve: Curve, x: int) -> Fraction:
    low = max(k for k in curve if k <= x)
    high = min(k for k in curve if k >= x)
    a, b = Fraction(curve[low]), Fraction(curve[high])
    return a if low == high else a + (b - a) * Fraction(x - low, high - low)


def multilinear(table: Table, point: Sequence[Fraction]) -> Fraction:
    corners: list[list[tuple[int, Fraction]]] = []
    for axis, x in enumerate(point):
        knots = sorted({key[axis] for key in table})
        low, high = max(k for k in knots if k <= x), min(k for k in knots if k >= x)
        share = Fraction(0) if low == high else (x - low) / (high - low)
        corners.append([(low, 1 - share), (high, share)])
    total = Fraction(0)
    for corner in product(*corners):
        weight = math.prod((w for _, w in corner), start=Fraction(1))
        if weight:
            total += weight * Fraction(table[tuple(k for k, _ in corner)])
    return total


def step_us(
    dense: Mapping[str, Curve],
    per_entry: Mapping[str, Curve],
    attention: Table,
    n_layers: int,
    step: tuple[Sequence[tuple[int, int]], int, int],
    max_running: int = 256,
) -> float:
    """Time of one step [µs]; `attention` by the four columns of its file."""
    prefills, n, kv = step
    tokens = pad(sum(chunk for chunk, _ in prefills) + n, max_running)
    block = sum(along(curve, tokens) for layer, curve in dense.items() if layer not in _ONCE)
    block += along(dense["layernorm"], tokens)  # a second one
    once = sum(along(dense[layer], tokens) for layer in _ONCE)
    entries = sum(along(curve, len(prefills) + n) for curve in per_entry.values())
    return float(n_layers * (block + _attention(attention, prefills, n, kv)) + once + entries)


_ONCE = ("embedding", "final_layernorm")


def _attention(table: Table, prefills: Sequence[tuple[int, int]], n: int, kv: int) -> Fraction:
    mean_kv = Fraction(kv, n) if n else Fraction(0)
    if not prefills:
        alone = {key[2:]: t for key, t in table.items() if key[0] == 0}
        return multilinear(alone, [Fraction(n), mean_kv])
    chunk = Fraction(sum(c for c, _ in prefills))
    pairs = sum((c * (k + Fraction(c, 2)) for c, k in prefills), start=Fraction(0))
    before = pairs / chunk - chunk / 2
    if before < 0:
        before, chunk = Fraction(0), Fraction(math.sqrt(2 * pairs))
    if not n:
        alone = {key[:2]: t for key, t in table.items() if key[2] == 0}
        return multilinear(alone, [chunk, before])
    both = {key: t for key, t in table.items() if key[0] and key[2]}
    return multilinear(both, [chunk, before, Fraction(n), mean_kv])
