"""A step's time composed of layer tables: what each kernel took, measured one by one.

    step = layers × (dense(tokens) + attention + 2 all-reduces) + embedding + final norm
           + lm_head(entries) + sampler(entries)

`dense` is one transformer block without its attention, both layernorms included. Attention has
three tables: decodes alone, a prefill alone, and both in one step. The last is not the sum of the
others (1.4 times it at the median of the tables we know), and none is interpolated towards
another. In between grid points everything is linear in the raw coordinates, as time is in kv.
Kernels of one layer, run one by one: launch gaps and what fusing would save are left out.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.latency.base import CalibrationError, Kind
from llmsched.latency.steps.base import StepLatency
from llmsched.latency.steps.layer_lookup import Block, Curve, Pieces, Plane
from llmsched.latency.steps.layer_tables import ONCE_PER_STEP, PER_LAYER, LayerFiles

# What tensor parallelism shares out; norms, embedding and sampler take as long on every GPU.
SHARED = ("qkv_proj", "qk_norm", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj")

_CHORD = 0.25  # of the tokens: profiles end in steps of 16, whose differences are noise


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce:
    """A ring all-reduce: a latency, and every byte over a GPU's links almost twice."""

    latency_s: float
    bandwidth_bytes_per_s: float  # of one GPU's links, in one direction
    bytes_per_token: float  # hidden size times bytes per number

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value, may_be_0 = getattr(self, name), name == "latency_s"
            if not (0 < value < math.inf or (may_be_0 and value == 0)):
                raise ValueError(f"{name} of the all-reduce must be finite and > 0, got {value}")

    def times_s(self, tokens: FloatArray, tp: int) -> FloatArray:
        """Time of one all-reduce of each number of tokens over tp GPUs [s]."""
        share = 2 * (tp - 1) / tp
        return self.latency_s + share * self.bytes_per_token / self.bandwidth_bytes_per_s * tokens


@dataclass(slots=True, eq=False)  # not frozen: it keeps what it looked up, and counts
class LayerTables(StepLatency):
    """Step times from layer tables; the module says what is composed of what.

    Parameters
    ----------
    files : LayerFiles
        The tables, of one GPU.
    n_layers : int
        Transformer blocks that they stand for.
    tp : int
        GPUs that share each layer.
    tables_tp : int
        For how many GPUs the tables were measured; must divide `tp`. What is shared (`SHARED`,
        attention, `lm_head`) is divided by tp/tables_tp, as if it shrank in proportion; with
        tables_tp = tp the tables are taken as they are.
    all_reduce : AllReduce, optional
        After attention and after the MLP of each layer; must be given where tp > 1.
    max_running : int
        vLLM's `max_num_seqs`, on which the sizes of its CUDA graphs depend.

    Raises
    ------
    ValueError
        If a number is out of range, or the all-reduce is missing.
    CalibrationError
        On use, if the tables, continued, give a time that is not above 0.

    Notes
    -----
    Steps are padded to the size of a CUDA graph (`graph_sizes`) in all but attention and
    `lm_head`. Decodes count at their mean kv. Several prefills of a step are merged into one
    (`merge`). Below the first grid point a time is that of the first; beyond the last, the last
    interval goes on, in tokens the line from three quarters of the last to the last; `outside`
    counts such steps. Of vLLM's tensor parallelism, the all-reduce after the embedding and the
    gathering of logits are left out.
    """

    files: LayerFiles
    n_layers: int
    tp: int = field(default=1, kw_only=True)
    tables_tp: int = field(default=1, kw_only=True)
    all_reduce: AllReduce | None = field(default=None, kw_only=True)
    max_running: int = field(default=256, kw_only=True)
    _tokens: Curve = field(init=False, repr=False)  # all but attention and what is per entry
    _entries: Curve = field(init=False, repr=False)
    _decode: Plane = field(init=False, repr=False)
    _prefill: Plane = field(init=False, repr=False)
    _mixed: Block = field(init=False, repr=False)
    _pieces: dict[int, Pieces] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._check()
        files, shared = self.files, self.tables_tp / self.tp
        grid, sizes = files.dense["layernorm"], graph_sizes(self.max_running)
        self._tokens = Curve(grid, self._per_tokens_s(shared), padded=sizes, chord=_CHORD)
        head, sampler = files.per_entry["lm_head"], files.per_entry["sampler"]
        self._entries = Curve(head, 1e-6 * (shared * head.times_us + sampler.times_us))
        scale = 1e-6 * self.n_layers * shared
        self._decode = Plane(files.decode, scale)
        self._prefill = Plane(files.prefill, scale)
        self._mixed = Block(files.mixed, scale)

    def _check(self) -> None:
        for name in ("n_layers", "tp", "tables_tp", "max_running"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.tp % self.tables_tp:
            raise ValueError(
                f"tp must be a multiple of the GPUs that the tables are for, got tp {self.tp} and "
                f"tables for {self.tables_tp}"
            )
        if self.tp > 1 and self.all_reduce is None:
            raise ValueError(
                f"tp {self.tp} must come with the latency and bandwidth of an all-reduce, got none"
            )

    def _per_tokens_s(self, shared: float) -> FloatArray:
        """What depends on the tokens of a step alone, at the grid's tokens [s]."""
        dense, total_us = self.files.dense, np.array(0.0)
        for layer in ONCE_PER_STEP:
            total_us = total_us + dense[layer].times_us
        for layer, times in PER_LAYER.items():
            if layer in dense:
                share = shared if layer in SHARED else 1.0
                total_us = total_us + self.n_layers * times * share * dense[layer].times_us
        if self.all_reduce is None or self.tp == 1:
            return 1e-6 * total_us
        tokens = np.array(dense["layernorm"].axes[0], dtype=np.float64)
        return 1e-6 * total_us + 2 * self.n_layers * self.all_reduce.times_s(tokens, self.tp)

    @property
    def name(self) -> str:
        return self.files.name

    @property
    def kind(self) -> Kind:
        return "measurement"

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        if not prefills:
            pieces = self._pieces.get(n_decodes) or self._new_pieces(n_decodes)
            i = bisect_right(pieces.inner, decode_kv)
            time_s = pieces.start_s[i] + pieces.slope_s[i] * (decode_kv - pieces.start[i])
            if not pieces.least <= decode_kv <= pieces.most:
                pieces.count(np.array([decode_kv]))
                self._check_time(time_s, (), n_decodes, decode_kv)
            return time_s
        tokens, chunk, before = merge(prefills)
        if n_decodes:
            attention_s = self._mixed.at(chunk, before, n_decodes, decode_kv / n_decodes)
        else:
            attention_s = self._prefill.at(chunk, before)
        dense_s = self._tokens.counted(tokens + n_decodes)
        time_s = dense_s + attention_s + self._entries.counted(len(prefills) + n_decodes)
        if time_s <= 0:
            self._check_time(time_s, prefills, n_decodes, decode_kv)
        return time_s

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> FloatArray:
        pieces = self._pieces.get(n_decodes) or self._new_pieces(n_decodes)
        times_s = pieces.run_s(decode_kv, steps)
        if times_s[-1] <= 0:  # beyond the grid, where the last piece goes on
            self._check_time(float(times_s[-1]), (), n_decodes, decode_kv)
        return times_s

    def _new_pieces(self, n_decodes: int) -> Pieces:
        if n_decodes < 1:
            raise ValueError(f"a step must have an entry, got {n_decodes} decodes, no prefill")
        pieces = Pieces(self._decode, n_decodes, added=(self._tokens, self._entries))
        self._check_time(min(pieces.start_s), (), n_decodes, n_decodes)
        return self._pieces.setdefault(n_decodes, pieces)

    def _check_time(
        self,
        time_s: float,
        prefills: Sequence[tuple[int, int]],
        n_decodes: int,
        decode_kv: int,
    ) -> None:
        if time_s <= 0:
            raise CalibrationError(
                f"{self.name}: a step must take more than 0 s, got {time_s:.3g} s for prefills "
                f"{list(prefills)[:3]} and {n_decodes} decodes with kv {decode_kv}, far beyond "
                "the grid; measure larger layer tables"
            )

    def outside(self) -> Mapping[str, int]:
        axes = [*self._decode.axes, *self._prefill.axes, *self._mixed.axes]
        total: Counter[str] = Counter()
        for axis in (*axes, self._tokens.axis, self._entries.axis):
            total += axis.outside
        return total

    def describe(self) -> str:
        parallel = ""
        if self.all_reduce is not None and self.tp > 1:
            parallel = (
                f", tp {self.tp} from tables for {self.tables_tp}, an all-reduce = "
                f"{1e6 * self.all_reduce.latency_s:.4g} µs + 2·(tp-1)/tp·bytes/"
                f"({1e-9 * self.all_reduce.bandwidth_bytes_per_s:.4g} GB/s)"
            )
        tokens, entries = self.files.dense["layernorm"], self.files.per_entry["lm_head"]
        mixed = self.files.mixed
        grid = ", ".join(
            f"{name} {axis[0]}-{axis[-1]}"
            for table in (tokens, entries, mixed)
            for name, axis in zip(table.names, table.axes, strict=True)
        )
        return (
            f"{self.name} ({self.kind}): layer tables × {self.n_layers} layers{parallel}, CUDA "
            f"graphs to {graph_sizes(self.max_running)[-1]} tokens; measured at {grid}"
            f"{_off_grid(self.files)}"
        )


def _off_grid(files: LayerFiles) -> str:
    """What the rows that are not on the grid say of the interpolation."""
    grids = (files.decode, files.prefill, files.mixed)
    errors = np.abs(np.concatenate([grid.off_grid_errors() for grid in grids]))
    if not errors.size:
        return ""
    return (
        f"; attention at {errors.size} more points is interpolated with a relative error of "
        f"{np.median(errors):.1%} (median), {np.percentile(errors, 95):.0%} (95 %), "
        f"{errors.max():.0%} (worst)"
    )


def merge(prefills: Sequence[tuple[int, int]]) -> tuple[int, float, float]:
    """The tokens of some prefills, and the chunk and kv of one with as many (query, key) pairs.

    A chunk c after k tokens has c·(k + c/2) pairs. The one has all tokens as its chunk, and what
    k makes up for the pairs; where that would be negative, k = 0 and a smaller chunk.

    Examples
    --------
    >>> merge([(100, 20)])
    (100, 100, 20)
    >>> merge([(100, 300), (100, 100)])  # 50,000 pairs: 200 after 150
    (200, 200, 150.0)
    >>> merge([(100, 0), (100, 0)])  # 10,000 pairs: √20,000 after none
    (200, 141.4213562373095, 0.0)
    """
    if len(prefills) == 1:
        ((tokens, before),) = prefills
        return tokens, tokens, before
    tokens, pairs = 0, 0.0
    for chunk, before in prefills:
        tokens += chunk
        pairs += chunk * (before + chunk / 2)
    mean_before = pairs / tokens - tokens / 2
    if mean_before >= 0:
        return tokens, tokens, mean_before
    return tokens, math.sqrt(2 * pairs), 0.0


def graph_sizes(max_running: int) -> list[int]:
    """Tokens to which vLLM pads a step: its CUDA graphs, up to 2·max_running tokens and 512.

    Examples
    --------
    >>> graph_sizes(256)[:6], graph_sizes(256)[-2:], graph_sizes(128)[-1]
    ([1, 2, 4, 8, 16, 24], [496, 512], 256)
    """
    most = min(2 * max_running, 512)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    return [size for size in sizes if size <= most]
