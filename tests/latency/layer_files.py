"""Small layer tables of our own making, written as the profiler writes its CSV files."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

LAYERS = (
    "embedding",
    "final_layernorm",
    "layernorm",
    "qkv_proj",
    "rotary_emb",
    "o_proj",
    "gate_up_proj",
    "act_fn",
    "down_proj",
)
TOKENS = (1, 8, 16, 64, 600)
SEQUENCES = (1, 4, 16)
CHUNKS, BEFORE = (16, 32, 64), (0, 16, 32, 64)
DECODES, KV = (1, 2, 4, 8), (16, 32, 64, 128)


def dense_us(layer: str, tokens: int) -> float:
    """Another power of two for each layer, so that every miscount shows; never linear."""
    return 2.0 ** LAYERS.index(layer) * (1 + (tokens**1.5) / 64)


def per_entry_us(layer: str, sequences: int) -> float:
    return {"lm_head": 3000.0, "sampler": 100.0}[layer] + sequences**1.5


def attention_us(chunk: int, before: int, n: int, kv: int) -> float:
    """Not linear anywhere, and with both kinds of work far more than the sum."""
    prefill = 5.0 + (chunk * (before + chunk / 2)) ** 0.75 if chunk else 0.0
    decode = 7.0 + (n * kv) ** 0.75 + n if n else 0.0
    return (prefill + decode) * (1.7 if chunk and n else 1.0)


def attention_rows(
    chunks: Sequence[int] = CHUNKS,
    before: Sequence[int] = BEFORE,
    decodes: Sequence[int] = DECODES,
    kv: Sequence[int] = KV,
) -> list[tuple[int, int, int, int]]:
    """The points of the three attention tables."""
    return [
        *((0, 0, *point) for point in product(decodes, kv)),
        *((*point, 0, 0) for point in product(chunks, before)),
        *product(chunks, before, decodes, kv),
    ]


def write_layers(
    prefix: Path,
    *,
    attention: Callable[[int, int, int, int], float] = attention_us,
    rows: Sequence[tuple[int, int, int, int]] | None = None,
    change: Mapping[str, Callable[[list[str]], list[str]]] | None = None,
    packed: bool = False,
) -> str:
    """Write the three files; `change` edits the lines of a part. Returns the prefix as a text."""
    points = attention_rows() if rows is None else rows
    lines = {
        "dense": ["layer,tokens,time_us"]
        + [f"{layer},{t},{dense_us(layer, t)!r}" for layer, t in product(LAYERS, TOKENS)],
        "per_sequence": ["layer,sequences,time_us"]
        + [
            f"{layer},{s},{per_entry_us(layer, s)!r}"
            for layer, s in product(("lm_head", "sampler"), SEQUENCES)
        ],
        "attention": ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
        + [f"{','.join(map(str, point))},{attention(*point)!r}" for point in points],
    }
    for part, content in lines.items():
        text = "\n".join((change or {}).get(part, list)(content)) + "\n"
        path = Path(f"{prefix}_{part}.csv{'.gz' if packed else ''}")
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return str(prefix)
