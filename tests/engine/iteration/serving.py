"""Small runs of the iteration level for tests: requests as tuples, step times in round numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmsched.engine.iteration import run as run_module
from llmsched.engine.iteration.core import Core
from llmsched.engine.iteration.run import IterationRun, run_iteration_engine
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.latency.steps.two_regime import DecodeTerms, MixedTerms, TwoRegime
from llmsched.workload.trace import Trace


@dataclass(frozen=True)
class LinearStep:
    """c0 + cp per prefill token + cb per decode."""

    c0_s: float
    cp_s: float
    cb_s: float

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        chunk = sum(new for new, _ in prefills)
        return self.c0_s + self.cb_s * n_decodes + self.cp_s * chunk

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> Any:
        return np.full(steps, self.c0_s + self.cb_s * n_decodes)


MS = LinearStep(10.0, 1.0, 2.0)  # in milliseconds, so that hand-worked instants are exact

# Two regimes fitted to an RTX 4090 with Llama-3.1-8B (calibration/step_times).
RTX_4090 = TwoRegime(
    decode=DecodeTerms(c0_s=16.9e-3, cb_s=38.8e-6, ckv_s=0.162e-6),
    mixed=MixedTerms(
        c0_s=19.3e-3, cp_s=85.2e-6, n0_tokens=96, cb_s=14e-6, ckv_s=0.282e-6, cpair_s=4.55e-9
    ),
    name="rtx-4090",
)

TICK_S = 2.0**-30
# The same in multiples of 2^-30 s: every sum of them is exact, in whatever order it is taken.
DYADIC = TwoRegime(
    decode=DecodeTerms(c0_s=2**24 * TICK_S, cb_s=2**15 * TICK_S, ckv_s=2**7 * TICK_S),
    mixed=MixedTerms(
        c0_s=2**24 * TICK_S,
        cp_s=2**16 * TICK_S,
        n0_tokens=96,
        cb_s=2**14 * TICK_S,
        ckv_s=2**8 * TICK_S,
        cpair_s=2**3 * TICK_S,
    ),
    name="dyadic",
)


def trace_of(rows: Sequence[tuple[float, int, int]], **columns: Any) -> Trace:
    """A trace of (arrival, prompt, output), in the order given."""
    arrival, prompt, output = zip(*rows, strict=True) if rows else ((), (), ())
    return Trace(
        arrival_s=np.array(arrival, np.float64),
        prompt_tokens=np.array(prompt, np.int32),
        output_tokens=np.array(output, np.int32),
        **columns,
    )


def serve(
    rows: Sequence[tuple[float, int, int]] | Trace,
    *,
    blocks: int,
    step: Any = MS,
    columns: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    **settings: Any,
) -> IterationRun:
    """Serve requests on replicas with so many blocks; prefix caching is off unless asked for."""
    settings = {"prefix_caching": False, **settings}
    block = settings.get("block_tokens", 16)
    return run_iteration_engine(
        rows if isinstance(rows, Trace) else trace_of(rows, **(columns or {})),
        IterationSettings(kv_tokens=blocks * block, **settings),
        step,
        **(run or {}),
    )


def poisson(
    n: int, rate_per_s: float, *, seed: int, prompt: float = 300, output: float = 200
) -> Trace:
    """Poisson arrivals with geometric-like lengths of the given means."""
    rng = np.random.default_rng(seed)
    return Trace(
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, n)),
        prompt_tokens=np.maximum(1, rng.exponential(prompt, n)).astype(np.int32),
        output_tokens=np.maximum(1, rng.exponential(output, n)).astype(np.int32),
    )


class RecordingCore(Core):
    """A core that writes down every step: (decided, start, end, entries, free blocks after)."""

    made: list[RecordingCore] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "leaps": False})
        self.steps: list[tuple[float, float, float, str, int]] = []
        self.made.append(self)

    def _start(self, now_s, n_decodes, decode_kv, chunks, late, *, is_tick):  # type: ignore[no-untyped-def]
        entries = {}
        if is_tick:
            for active in self.running.values():
                if active.decoding and (not active.late or active in late):
                    computed = self.decodes.tick - active.offset
                    entries[active.seq] = f"{'ABCDEFGH'[active.request]}1@{computed}*"
        for active, new in chunks:
            star = "*" * (active.computed + new == active.target)
            name = "ABCDEFGH"[active.request]
            entries[active.seq] = f"{name}{new}@{active.computed}{star}"
        start = max(now_s, self.end_s)
        super()._start(now_s, n_decodes, decode_kv, chunks, late, is_tick=is_tick)
        text = " ".join(entries[seq] for seq in sorted(entries))
        self.steps.append((now_s, start, self.end_s, text, self.blocks.free))


def steps_of(monkeypatch: Any, rows: Any, **settings: Any) -> tuple[IterationRun, list[Any]]:
    """A run and its steps."""
    RecordingCore.made.clear()
    monkeypatch.setattr(run_module, "Core", RecordingCore)
    run = serve(rows, **settings)
    return run, RecordingCore.made[0].steps


class CheckedCore(Core):
    """A core that checks after every decision that what it counts is what there is."""

    def _decide(self, now_s: float) -> bool:
        decided = super()._decide(now_s)
        tick, block = self.decodes.tick, self.block_tokens
        held = 0
        decoding = []
        for seq, active in self.running.items():
            assert active.seq == seq
            assert active.decoding + active.ended + (active in self.prefilling) == 1
            if active.decoding:
                decoding.append(active)
                assert active.finish_tick * 2**32 + seq in self.decodes._last_ticks
                computed = tick - active.offset
                assert active.target <= computed < active.total - 1
            else:
                computed = active.total - 1 if active.ended else active.computed
            held += math.ceil(computed / block)
        assert self.decodes.n == len(decoding)
        assert self.decodes.kv_tokens == sum(tick - active.offset for active in decoding)
        residues = Counter(active.offset % block for active in decoding)
        assert self.decodes._by_residue == [residues[r] for r in range(block)]
        assert list(self.running) == sorted(self.running)
        assert len(self.running) <= self.max_running
        assert len(self.in_flight) <= self.depth
        used = self.usable_blocks - self.blocks.free
        assert used == held if self.blocks.are_private else used <= held
        free_list = getattr(self.blocks, "_free_list", None)
        assert free_list is None or sum(free_list.values()) == self.blocks.free >= 0
        return decided

    def _start(self, now_s, n_decodes, decode_kv, chunks, late, *, is_tick):  # type: ignore[no-untyped-def]
        tokens = n_decodes + sum(new for _, new in chunks)
        assert tokens > 0
        assert tokens <= self.step_tokens or (self.prefill_first and len(chunks) == 1)
        assert is_tick or not n_decodes
        super()._start(now_s, n_decodes, decode_kv, chunks, late, is_tick=is_tick)

    def act(self, now_s: float, horizon_s: float = -math.inf) -> None:
        super().act(now_s, horizon_s)
        if not self.in_flight and self.leap is None:  # no idle device while somebody could run
            assert not self.running
            assert not self.n_waiting
