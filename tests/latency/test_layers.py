"""Layer tables composed to step times: by hand, and against a slow composition of its own."""

from __future__ import annotations

import math

import pytest
from composition import pad, step_us
from hypothesis import given, settings, strategies as st
from layer_files import (
    LAYERS,
    SEQUENCES,
    TOKENS,
    attention_rows,
    attention_us,
    dense_us,
    per_entry_us,
    write_layers,
)
from step_models import REDUCE, tables

from llmsched.latency import CalibrationError
from llmsched.latency.steps.layer_tables import read_layers
from llmsched.latency.steps.layers import LayerTables, graph_sizes, merge

DENSE = {layer: {t: dense_us(layer, t) for t in TOKENS} for layer in LAYERS}
PER_ENTRY = {
    layer: {s: per_entry_us(layer, s) for s in SEQUENCES} for layer in ("lm_head", "sampler")
}
ATTENTION = {point: attention_us(*point) for point in attention_rows()}


def flat(tmp_path, attention):
    """Three layers whose dense kernels all take 10 µs, the head 3100 µs and 2·entries^1.5."""

    def tens(lines):
        return [lines[0], *(",".join([*line.split(",")[:2], "10"]) for line in lines[1:])]

    prefix = write_layers(tmp_path / "x", change={"dense": tens}, attention=attention)
    return LayerTables(read_layers(prefix), 3)


def test_step__of_decodes_by_hand(tmp_path):
    # given attention that takes 100 µs and 1 µs per decode and token
    model = flat(tmp_path, lambda c, k, n, kv: 100.0 + n * kv)
    # when two requests decode with 20 and 30 tokens there
    # then embedding and final norm, 3 × (7 kernels, one twice, and attention of 150), and the
    # head of 2 entries, a third of the way from 1 to 4
    head_us = 3100 + 2 * (1 + (8 - 1) / 3)
    expected_us = 2 * 10 + 3 * (8 * 10 + 150) + head_us
    assert model.step_s((), 2, 50) == pytest.approx(1e-6 * expected_us, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "attention_us"),
    [
        (((), 1, 16), 10),
        (([(1, 0)], 0, 0), 100),
        (([(1, 0)], 1, 16), 1000),
        (([(64, 64)], 8, 1024), 1000),
        (([(64, 64)], 0, 0), 100),
    ],
)
def test_step__alone_and_mixed_are_tables_apart(tmp_path, step, attention_us):
    # given attention of 10 µs for decodes, 100 for a prefill, 1000 for both
    model = flat(tmp_path, lambda c, k, n, kv: 1000.0 if c and n else 100.0 if c else 10.0)
    # then none of them is interpolated towards another, however small the other work
    entries = len(step[0]) + step[1]
    expected_us = 2 * 10 + 3 * (8 * 10 + attention_us) + 1e6 * model._entries.at(entries)
    assert model.step_s(*step) == pytest.approx(1e-6 * expected_us, rel=1e-12)


@st.composite
def steps_on_the_grid(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int, int]:
    """Steps within the small tables."""
    sizes = st.tuples(st.integers(1, 32), st.integers(0, 40))
    prefills = draw(st.lists(sizes, max_size=3))
    _, chunk, before = merge(prefills) if prefills else (0, 16, 0)
    if not (16 <= chunk <= 64 and before <= 64):
        prefills = [(draw(st.integers(16, 64)), draw(st.integers(0, 64)))]
    n = draw(st.integers(0 if prefills else 1, 8))
    kv = n * draw(st.integers(16, 127)) + (draw(st.integers(0, n)) if n else 0)
    return prefills, n, kv


SMALL = {256: tables(), 10: tables(max_running=10)}


@settings(max_examples=300, deadline=None)
@given(step=steps_on_the_grid(), max_running=st.sampled_from([256, 10]))
def test_step__is_the_composition(step, max_running):
    expected_us = step_us(DENSE, PER_ENTRY, ATTENTION, 3, step, max_running)
    assert SMALL[max_running].step_s(*step) == pytest.approx(1e-6 * expected_us, rel=1e-12)


def test_step__on_the_grid_nothing_is_counted():
    model = tables()
    for step in (((), 8, 8 * 128), ([(16, 0)], 1, 16), ([(64, 64)], 8, 8 * 128), ([(64, 0)], 0, 0)):
        model.step_s(*step)
    model.decode_run_s(4, 64, 100)
    assert not model.outside()


@pytest.mark.parametrize(
    ("tokens", "max_running", "padded"),
    [
        (1, 256, 1),
        (3, 256, 4),
        (9, 256, 16),
        (17, 256, 24),
        (250, 256, 256),
        (257, 256, 272),
        (512, 256, 512),
        (513, 256, 513),
        (256, 128, 256),
        (257, 128, 257),
        (17, 9, 17),
        (401, 1000, 416),
    ],
)
def test_step__is_padded_to_a_cuda_graph(tokens, max_running, padded):
    # given the same tables without graphs to speak of (1 and 2 tokens)
    model, bare = tables(max_running=max_running), tables(max_running=1)
    step = ([(tokens - 1, 0)], 1, 16) if tokens > 1 else ((), 1, 16)
    # then only the dense kernels of the padded tokens make the difference
    assert pad(tokens, max_running) == padded
    more_s = bare._tokens.at(padded) - bare._tokens.at(tokens)
    assert model.step_s(*step) - bare.step_s(*step) == pytest.approx(more_s, abs=1e-12)


def test_graph_sizes__as_vllm_captures_them():
    assert graph_sizes(256) == [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    assert graph_sizes(128)[-1] == 256
    assert graph_sizes(10) == [1, 2, 4, 8, 16]


def test_step__every_entry_has_its_lm_head_and_sampler():
    # given the same tokens in one chunk and in four; when chunks have no pairs to speak of
    model = tables()
    one, four = model.step_s([(40, 0)], 0, 0), model.step_s([(10, 15)] * 4, 0, 0)
    head = {n: 3100 + 2 * n**1.5 for n in (1, 4)}
    assert merge([(10, 15)] * 4) == (40, 40, 0.0)
    assert (four - one) * 1e6 == pytest.approx(head[4] - head[1], rel=1e-9)


def test_merge__keeps_the_pairs():
    for prefills in ([(5, 9), (7, 100)], [(64, 0), (64, 0), (1, 3)], [(3, 2)]):
        tokens, chunk, before = merge(prefills)
        pairs = sum(c * (k + c / 2) for c, k in prefills)
        assert tokens == sum(c for c, _ in prefills)
        assert chunk * (before + chunk / 2) == pytest.approx(pairs, rel=1e-12)
        assert before >= 0


def test_step__below_the_grid_is_the_first_point():
    model = tables()
    # kv 16 and chunk 16 are the first; only the padded tokens may differ
    assert model.step_s((), 2, 2 * 3) == model.step_s((), 2, 2 * 16)
    assert model._prefill.at(3, 0) == model._prefill.at(16, 0)
    model.step_s([(3, 0)], 2, 4)
    assert model.outside() == {
        "kv_decode below 16": 2,
        "prefill_chunk below 16": 2,
    }


def test_step__beyond_the_grid_the_last_interval_goes_on():
    model, n = tables(), 2
    at = {kv: model.step_s((), n, n * kv) for kv in (64, 128, 1000)}
    slope = (at[128] - at[64]) / 64
    assert at[1000] == pytest.approx(at[128] + slope * (1000 - 128), rel=1e-12)
    at = {c: model._mixed.at(c, 20, 3, 40) for c in (32, 64, 640)}
    slope = (at[64] - at[32]) / 32
    assert at[640] == pytest.approx(at[64] + slope * (640 - 64), rel=1e-12)
    at = {t: model._tokens.at(t) for t in (520, 600, 2000)}
    slope = (at[600] - at[520]) / 80
    assert at[2000] == pytest.approx(at[600] + slope * 1400, rel=1e-12)
    at = {n: model._entries.at(n) for n in (4, 16, 40)}
    assert at[40] == pytest.approx(at[16] + (at[16] - at[4]) / 12 * 24, rel=1e-12)


def test_step__beyond_the_last_tokens_noise_is_not_prolonged(tmp_path):
    # given dense rows at 1, 8, 16, 64, 600 and, for one layer's sake, 448, 592 and a wild 600
    def closer(lines):
        more = [f"{layer},{t},{t}" for layer in LAYERS for t in (448, 592)]
        kept = [line for line in lines if not line.startswith("embedding,600")]
        return [*kept, *more, "embedding,600,9000"]

    files = read_layers(write_layers(tmp_path / "x", change={"dense": closer}))
    model = LayerTables(files, 3)
    # then beyond 600 the line from 448, the last point up to three quarters of 600, goes on
    at = {t: model._tokens.at(t) for t in (448, 600, 700)}
    assert at[700] == pytest.approx(at[600] + (at[600] - at[448]) / 152 * 100, rel=1e-12)


def test_step__between_the_last_row_and_the_last_cuda_graph(tmp_path):
    # given dense rows to 64 tokens only; when 100 run, padded to 104
    small = {"dense": lambda lines: [line for line in lines if line.split(",")[1] != "600"]}
    files = read_layers(write_layers(tmp_path / "x", change=small))
    model = LayerTables(files, 3)
    at = {t: model._tokens.at(t) for t in (16, 64, 100, 104)}
    assert at[100] == at[104]
    slope = (at[64] - at[16]) / 48
    assert at[104] == pytest.approx(at[64] + slope * 40, rel=1e-12)
    model.step_s([(99, 0)], 1, 20)
    assert model.outside()["tokens above 64"] == 1


def test_outside__counts_by_axis_and_way():
    model = tables()
    model.step_s((), 20, 20 * 50)  # 20 decodes: more than 8, and more than 16 entries
    model.step_s([(700, 100)], 1, 500)
    assert model.outside() == {
        "n_decode above 8": 1,
        "sequences above 16": 1,
        "tokens above 600": 1,
        "prefill_chunk above 64": 1,
        "kv_prefill above 64": 1,
        "kv_decode above 128": 1,
    }


def test_outside__counts_every_step_of_a_run():
    # given a run from a mean kv of 10 to 159; then 6 below 16 and 31 above 128
    model = tables()
    model.decode_run_s(2, 20, 150)
    assert model.outside() == {"kv_decode below 16": 6, "kv_decode above 128": 31}
    model.decode_run_s(9, 9 * 50, 10)
    assert model.outside()["n_decode above 8"] == 10


@pytest.mark.parametrize("step", [((), 2, 2 * 10**9), ([(64, 10**9)], 2, 64)])
def test_step__that_extrapolates_to_nothing_is_refused(tmp_path, step):
    # given attention that falls with kv
    prefix = write_layers(tmp_path / "x", attention=lambda c, k, n, kv: 5000.0 - 5 * kv - 5 * k)
    model = LayerTables(read_layers(prefix), 3)
    with pytest.raises(
        CalibrationError, match=r"x: a step must take more than 0 s, got -.* beyond"
    ):
        model.step_s(*step)
    if not step[0]:
        with pytest.raises(CalibrationError, match="a step must take more than 0 s"):
            model.decode_run_s(*step[1:], 3)


def test_step__of_more_decodes_than_measured_may_extrapolate_to_nothing(tmp_path):
    # given attention that falls with the number of decodes
    prefix = write_layers(tmp_path / "x", attention=lambda c, k, n, kv: 9000.0 - 1000 * n)
    model = LayerTables(read_layers(prefix), 3000)
    with pytest.raises(CalibrationError, match=r"a step must take more than 0 s, got -.* 400 "):
        model.decode_run_s(400, 400 * 50, 3)


def test_step__without_entries_is_refused():
    with pytest.raises(ValueError, match="a step must have an entry, got 0 decodes"):
        tables().step_s((), 0, 0)


def test_tp__divides_what_is_shared_and_adds_two_all_reduces_a_layer():
    # given tables for one GPU and two GPUs; when 16 tokens run, padded to 16
    one, two = tables(), tables(tp=2, all_reduce=REDUCE)
    step = ((), 16, 16 * 20)
    shared_us = sum(
        3 * dense_us(layer, 16)
        for layer in LAYERS
        if layer not in ("embedding", "final_layernorm", "layernorm")
    )
    attention_s = one.step_s(*step) - one._tokens.at(16) - one._entries.at(16)
    reduce_s = 1e-5 + 2 * (1 / 2) * 16 * 8192 / 3e10
    saved_s = (1e-6 * (shared_us + per_entry_us("lm_head", 16)) + attention_s) / 2
    expected_s = one.step_s(*step) - saved_s + 2 * 3 * reduce_s
    assert two.step_s(*step) == pytest.approx(expected_s, rel=1e-12)


def test_tp__tables_of_shards_are_taken_as_they_are():
    one, four = tables(), tables(tp=4, tables_tp=4, all_reduce=REDUCE)
    reduce_s = 1e-5 + 2 * (3 / 4) * 40 * 8192 / 3e10
    step = ([(36, 10)], 4, 100)
    assert four.step_s(*step) - one.step_s(*step) == pytest.approx(6 * reduce_s, rel=1e-9)
    assert "tp 4 from tables for 4, an all-reduce = 10 µs" in four.describe()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tp": 2}, "tp 2 must come with the latency and bandwidth of an all-reduce, got none"),
        ({"tp": 3, "tables_tp": 2, "all_reduce": REDUCE}, "must be a multiple .* got tp 3"),
        ({"tp": 0}, "tp must be >= 1, got 0"),
        ({"max_running": 0}, "max_running must be >= 1, got 0"),
    ],
)
def test_layer_tables__settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        tables(**settings)


@pytest.mark.parametrize("name", ["latency_s", "bandwidth_bytes_per_s", "bytes_per_token"])
@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_all_reduce__settings_out_of_range(name, bad):
    good = {"latency_s": 0.0, "bandwidth_bytes_per_s": 1.0, "bytes_per_token": 1.0}
    with pytest.raises(ValueError, match=f"{name} of the all-reduce must be finite and > 0"):
        type(REDUCE)(**{**good, name: bad})


def test_describe__names_grid_and_layers():
    text = tables(max_running=128).describe()
    assert text == (
        "small (measurement): layer tables × 3 layers, CUDA graphs to 256 tokens; measured at "
        "tokens 1-600, sequences 1-16, prefill_chunk 16-64, kv_prefill 0-64, n_decode 1-8, "
        "kv_decode 16-128"
    )
