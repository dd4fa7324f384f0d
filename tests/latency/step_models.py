"""One step-time model of every kind, and any step, for the tests that go over all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st
from layer_files import attention_us, write_layers

from llmsched.latency import PerTokenModel, load_latency
from llmsched.latency.step import StepModel
from llmsched.latency.steps.base import Scaled, StepLatency
from llmsched.latency.steps.layer_tables import read_layers
from llmsched.latency.steps.layers import AllReduce, LayerTables
from llmsched.latency.steps.two_regime import DecodeTerms, MixedTerms, TwoRegime, steps_of

TWO_REGIME = TwoRegime(
    decode=DecodeTerms(c0_s=0.0169, cb_s=38.8e-6, ckv_s=0.162e-6),
    mixed=MixedTerms(
        c0_s=0.0193, cp_s=85.2e-6, n0_tokens=96.5, cb_s=14e-6, ckv_s=0.282e-6, cpair_s=4.55e-9
    ),
    name="two",
)
STEP = StepModel(
    c0_s=0.017, cp_s=8.4e-5, n0_tokens=128, cb_s=4.2e-5, ckv_s=1.49e-7, name="step", source="ours"
)
REDUCE = AllReduce(latency_s=1e-5, bandwidth_bytes_per_s=3e10, bytes_per_token=8192)


def tables(
    attention: Callable[[int, int, int, int], float] = attention_us, **settings: object
) -> LayerTables:
    """Our small layer tables, three layers of them."""
    with tempfile.TemporaryDirectory() as folder:
        files = read_layers(write_layers(Path(folder) / "small", attention=attention))
    return LayerTables(files, 3, **settings)  # type: ignore[arg-type]


MODELS: dict[str, StepLatency] = {
    "two-regime": TWO_REGIME,
    "layers": tables(),
    "layers-tp2": tables(tp=2, all_reduce=REDUCE, max_running=10),
    # so steep that a bit lost in a difference is a bit lost in the time
    "layers-steep": tables(lambda c, k, n, kv: 1.0 + c + k + n * (kv / 16.0) ** 7.3),
    "scaled": Scaled(tables(), 1.055),
    "step-model": steps_of(STEP),
    "prompt-output": steps_of(load_latency("h100-llama-3-8b-vllm")),
    "per-token": steps_of(PerTokenModel(output_token_s=0.03, name="per-token", source="ours")),
}


@st.composite
def a_step(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int, int]:
    """(prefills, n_decodes, decode_kv) of a step with at least one entry."""
    prefill = st.tuples(st.integers(1, 300), st.integers(0, 300))
    prefills = draw(st.lists(prefill, max_size=3))
    n = draw(st.integers(0 if prefills else 1, 20))
    return prefills, n, n * draw(st.integers(1, 300)) + (draw(st.integers(0, n)) if n else 0)
