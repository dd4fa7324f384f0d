"""Small runs of the iteration level for tests: requests as tuples, step times in round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmsched.engine.iteration import run as run_module
from llmsched.engine.iteration.core import Core
from llmsched.engine.iteration.run import IterationRun, run_iteration_engine
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.workload.trace import Trace


@dataclass(frozen=True)
class LinearStep:
    """c0 + cp per prefill token + cb per decode + ckv per token of the decodes' KV."""

    c0_s: float
    cp_s: float
    cb_s: float
    ckv_s: float = 0.0

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        chunk = sum(new for new, _ in prefills)
        return ((self.c0_s + self.cb_s * n_decodes) + self.ckv_s * decode_kv) + self.cp_s * chunk

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> Any:
        kv = decode_kv + n_decodes * np.arange(steps)
        return ((self.c0_s + self.cb_s * n_decodes) + self.ckv_s * kv) + 0.0


MS = LinearStep(10.0, 1.0, 2.0)  # in milliseconds, so that hand-worked instants are exact


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
    rows: Sequence[tuple[float, int, int]],
    *,
    blocks: int,
    step: Any = MS,
    columns: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    **settings: Any,
) -> IterationRun:
    """Serve requests on one replica with so many blocks; prefix caching is off unless asked for."""
    settings = {"prefix_caching": False, **settings}
    block = settings.get("block_tokens", 16)
    return run_iteration_engine(
        trace_of(rows, **(columns or {})),
        IterationSettings(kv_tokens=blocks * block, **settings),
        step,
        **(run or {}),
    )


class RecordingCore(Core):
    """A core that writes down every step: (decided, start, end, entries, free blocks after)."""

    steps: list[tuple[float, float, float, str, int]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "leaps": False})
        self.steps = []
        RECORDED.append(self)

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


RECORDED: list[RecordingCore] = []


def steps_of(monkeypatch: Any, rows: Any, **settings: Any) -> tuple[IterationRun, list[Any]]:
    """A run and its steps."""
    RECORDED.clear()
    monkeypatch.setattr(run_module, "Core", RecordingCore)
    run = serve(rows, **settings)
    return run, RECORDED[0].steps
