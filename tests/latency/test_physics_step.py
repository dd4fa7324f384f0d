"""The physics step time against cases worked out by hand, and laws that it must obey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from llmsched.hardware import GpuSpec, ModelSpec, ShapeError, model_named
from llmsched.latency.physics.constants import Constants
from llmsched.latency.physics.step import PhysicsStep, roof, step_model, step_seconds
from llmsched.latency.physics.work import Deployment, distinct_experts, window_pairs

# A GPU that reads 1,000 bytes a second and multiplies 10,000 numbers a second; it sends 100 bytes.
GPU = GpuSpec(
    name="toy",
    chip="toy",
    flops_per_s={"bf16": 1e4, "fp8": 2e4},
    bandwidth_bytes_per_s=1e3,
    memory_bytes=1e6,
    link="nvlink",
    link_bytes_per_s=100,
    source="made up",
)
DENSE = {
    "parameters": 1.0,
    "layers": 2,
    "hidden": 4,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 2,
    "intermediate": 8,
    "vocab": 10,
}
# one layer: q 4·4, k and v 2·(4·2), o 4·4 = 48; MLP 3·4·8 = 96; lm_head 40
MODEL = ModelSpec(name="toy", **DENSE)


IDEAL = Constants()  # every efficiency 1, every overhead 0


def step(model=MODEL, constants=IDEAL, **deployment):
    return PhysicsStep(Deployment(gpu=GPU, model=model, **deployment), constants)


# two norms, residuals, rope: 5 passes of hidden; activation: 3 of intermediate; 2 bytes each
def activations_s(tokens, layers=2):
    return tokens * 2 * layers * (5 * 4 + 3 * 8) / 1e3


def test_decode_step__by_hand_memory_bound():
    # weights 2·(48 + 96)·2 bytes = 576, lm_head 80; arithmetic of one token is 2·(288 + 40) = 656
    # FLOP, 0.066 s, hidden behind reading. Cache: 2 layers · 2 (K, V) · 1 head · 2 · 2 bytes = 16
    # a token, 100 tokens: 1,600 bytes
    expected = 0.576 + 0.080 + 1.600 + activations_s(1)
    assert step().step_s((), 1, 100) == pytest.approx(expected, rel=1e-12)


def test_prefill_step__by_hand_compute_bound():
    # 50 tokens: projections 2·96·50 = 9,600 FLOP, 0.96 s against 0.192 s of reading; MLP 1.92 s
    # against 0.384; lm_head of the one entry is read: 0.08 s (80 FLOP: 0.008 s). Attention: 50·51/2
    # pairs · 2 layers · 2·2 heads · (2 + 2) FLOP = 40,800: 4.08 s
    expected = 0.96 + 1.92 + 0.08 + 4.08 + activations_s(50)
    assert step().step_s([(50, 0)], 0, 0) == pytest.approx(expected, rel=1e-12)


def test_chunk_after_a_cache__reads_it_and_multiplies_a_whole_tile():
    # queries of a chunk below 256 cost as many: 256·10 + 4·5/2 pairs, 16 FLOP each, 2 layers
    plain, after = step().step_s([(4, 0)], 0, 0), step().step_s([(4, 10)], 0, 0)
    attention = (4 * 5 / 2) * 2 * 16 / 1e4
    seen = (256 * 10 + 4 * 5 / 2) * 2 * 16 / 1e4  # above the 160 bytes: 0.16 s
    assert after - plain == pytest.approx(seen - attention, rel=1e-12)


def test_efficiencies_and_overheads__divide_and_add():
    slow = Constants(
        stream=0.5, cache=0.5, kernel_s=0.001, step_s=0.25, request_s=0.125, unhidden=0.0
    )
    # weights and activations take twice as long, the cache four times; 9 kernels a layer
    expected = 2 * (0.576 + 0.080 + activations_s(1)) + 4 * 1.6 + 18 * 0.001 + 0.25 + 0.125
    assert step(constants=slow).step_s((), 1, 100) == pytest.approx(expected, rel=1e-12)


def test_host__is_hidden_behind_the_device_where_the_engine_plans_ahead():
    waits = step(constants=Constants(step_s=5.0, request_s=1.0, host_adds=1.0))
    ahead = step(constants=Constants(step_s=5.0, request_s=1.0, host_adds=0.0))
    device_s = step().step_s((), 2, 10)
    assert waits.step_s((), 2, 10) == pytest.approx(device_s + 7.0, rel=1e-12)
    assert ahead.step_s((), 2, 10) == pytest.approx(7.0, rel=1e-12)  # the host decides
    assert ahead.step_s((), 2, 10_000) == pytest.approx(step().step_s((), 2, 10_000), rel=1e-12)


def test_unhidden__is_the_share_of_the_smaller_time_that_adds():
    assert roof(3.0, 2.0, 0.0) == 3.0
    assert roof(3.0, 2.0, 0.25) == 3.5
    assert roof(2.0, 3.0, 1.0) == 5.0


def test_mixed_step__its_decodes_read_the_cache_more_slowly():
    mixed = Constants(mixed_kv=1.5)
    gap = step(constants=mixed).step_s([(8, 0)], 1, 100) - step().step_s([(8, 0)], 1, 100)
    assert gap == pytest.approx(0.5 * 1.6, rel=1e-12)
    assert step(constants=mixed).step_s((), 1, 100) == step().step_s((), 1, 100)


def test_mixed_step__heads_that_share_nothing_lose_nothing():
    own = ModelSpec(name="own", **(DENSE | {"kv_heads": 2}))
    plain, mixed = step(own), step(own, constants=Constants(mixed_kv=1.5))
    assert mixed.step_s([(8, 0)], 1, 100) == plain.step_s([(8, 0)], 1, 100)


def test_grouped__is_a_factor_on_the_cache_that_a_group_of_heads_shares():
    slow = Constants(grouped=0.5)
    gap = step(constants=slow).step_s((), 1, 100) - step().step_s((), 1, 100)
    assert gap == pytest.approx(1.6, rel=1e-12)
    own = ModelSpec(name="own", **(DENSE | {"kv_heads": 2}))
    assert step(own, constants=slow).step_s((), 1, 100) == step(own).step_s((), 1, 100)


def test_tensor_parallel__shares_matrices_and_cache_and_sends():
    two = ModelSpec(name="two", **(DENSE | {"kv_heads": 2}))
    # one layer: q 16, k and v 2·16, o 16 = 64; MLP 96; halves of 2·160·2, 80 and 32·100 bytes
    alone = step(two).step_s((), 1, 100)
    assert alone == pytest.approx(0.640 + 0.080 + 3.2 + activations_s(1), rel=1e-12)
    # each of 4 all-reduces sends 2·(1/2) · 1 token · 4 · 2 bytes at 100 a second, and takes 0.01 s
    activations = 2 * 2 * (5 * 4 + 3 * 8 / 2) / 1e3
    shared = step(two, constants=Constants(reduce_s=0.01, link=0.5), tp=2).step_s((), 1, 100)
    expected = 0.320 + 0.040 + 1.6 + activations + 4 * 0.01 + 4 * 8 / 100 / 0.5
    assert shared == pytest.approx(expected, rel=1e-12)


def test_tensor_parallel__one_kv_head_is_held_by_both():
    gap = step(tp=2).step_s((), 1, 100) - step(tp=2).step_s((), 1, 0)
    assert gap == pytest.approx(1.6, rel=1e-12)


def test_precision__halves_the_weights_but_not_lm_head_nor_the_cache():
    gap = step().step_s((), 1, 100) - step(precision="fp8").step_s((), 1, 100)
    assert gap == pytest.approx(0.576 / 2, rel=1e-12)
    slow = Constants(projection=0.5, quantised=0.5)  # fp8 kernels at half their rate
    assert step(precision="fp8", constants=slow).step_s((), 1, 9) == pytest.approx(
        step().step_s((), 1, 9), rel=1e-12
    )


def test_precision__fp4_leaves_the_attention_projections_in_16_bits():
    blackwell = replace(GPU, flops_per_s={"bf16": 1e4, "fp8": 2e4, "fp4": 4e4})
    fp4 = PhysicsStep(Deployment(gpu=blackwell, model=MODEL, precision="fp4"), IDEAL)
    # of 2·(48 + 96)·2 bytes the MLP's 2·96·2 shrink to 2·96·0.5625
    gap = step().step_s((), 1, 100) - fp4.step_s((), 1, 100)
    assert gap == pytest.approx(2 * 96 * (2 - 0.5625) / 1e3, rel=1e-12)


def test_all_reduce__costs_nothing_on_one_gpu():
    slow = Constants(reduce_s=1.0, link=0.01)
    assert step(constants=slow).step_s((), 3, 100) == step().step_s((), 3, 100)


EXPERTS = ModelSpec(
    name="moe",
    **DENSE,
    experts=4,
    active_experts=1,
    shared_experts=1,
    expert_intermediate=2,
    dense_layers=1,
)


@pytest.mark.parametrize(("tokens", "distinct"), [(1, 1.0), (2, 1.75), (3, 2.3125)])
def test_experts__those_that_a_token_chose_are_read_once(tokens, distinct):
    assert distinct_experts(4, 1, tokens) == pytest.approx(distinct, rel=1e-12)
    # one expert: 3·4·2 = 24 weights; the dense layer 96, the shared expert 24
    one = ModelSpec(name="no", **(DENSE | {"intermediate": 8}))
    weights = 2 * (2 * 48 + 96 + 24 + 24 * distinct)
    inner = 1 * 8 + 1 * 2 * 2  # intermediates: the dense layer's, one routed and one shared
    moved = 2 * tokens * (5 * 2 * 4 + 6 * 1 * 1 * 4 + 3 * inner)
    seconds = step(EXPERTS).step_s((), tokens, 0)
    assert seconds == pytest.approx((weights + moved) / 1e3 + 0.080, rel=1e-12)
    assert one.moe_layers == 0


def test_experts__their_factor_is_on_their_reading_alone():
    slow = step(EXPERTS, constants=Constants(experts=0.5, expert_layer_s=0.25))
    gap = slow.step_s((), 1, 0) - step(EXPERTS).step_s((), 1, 0)
    assert gap == pytest.approx(24 * 2 / 1e3 + 0.25, rel=1e-12)  # one layer has experts


def test_experts__spread_over_gpus_the_busiest_counts():
    even = step(EXPERTS, tp=2).deployment
    spread = step(EXPERTS, tp=2, ep=2).deployment
    few, many = (lambda d, n=n: d.work((), n, 0).expert_read for n in (1, 10_000))
    assert few(spread) > few(even)  # one token's expert lies whole on one GPU
    assert few(spread) == pytest.approx(
        (0.5 + np.sqrt(2 * np.log(2)) * np.sqrt(0.5 * 0.75)) * 24 * 2 / 1e3
    )
    assert many(spread) == pytest.approx(many(even), rel=1e-6)  # every expert is read anyway


def test_sliding_window__caps_what_is_seen():
    windowed = ModelSpec(name="window", **DENSE, window=10, window_layers=1)
    short, long = (step(windowed).step_s((), 2, kv) for kv in (20, 40))
    # 8 bytes a token and layer: the global layer sees 20 more, the local one none
    assert long - short == pytest.approx(20 * 8 / 1e3, rel=1e-12)
    below = step(windowed).step_s((), 2, 10)
    assert short - below == pytest.approx(10 * 16 / 1e3, rel=1e-12)


@pytest.mark.parametrize(("chunk", "kv", "window"), [(4, 1, 3), (5, 0, 9), (3, 7, 4), (6, 2, 4)])
def test_window_pairs__equal_the_sum(chunk, kv, window):
    assert window_pairs(chunk, kv, window) == sum(min(kv + i, window) for i in range(1, chunk + 1))


def test_latent_attention__caches_the_latent_vector_and_every_gpu_holds_it():
    latent = ModelSpec(name="mla", **(DENSE | {"kv_heads": 2}), kv_rank=6, rope_dim=2)
    assert latent.kv_numbers_per_token == 2 * (6 + 2)
    # q 4·2·(2 + 2), latent 4·8, up 6·2·2·2, o 2·2·4
    assert latent.attention_parameters == 32 + 32 + 48 + 16
    gap = step(latent, tp=2).step_s((), 1, 100) - step(latent, tp=2).step_s((), 1, 0)
    assert gap == pytest.approx(100 * 2 * 8 * 2 / 1e3, rel=1e-12)  # not halved
    shared = step(latent, tp=2, dp_attention=True)
    assert shared.step_s((), 1, 100) - shared.step_s((), 1, 0) == pytest.approx(1.6, rel=1e-12)


MODELS = ["llama-3.1-8b", "gemma-3-27b", "qwen3-30b-a3b", "deepseek-r1"]
counts = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODELS), counts, st.integers(0, 100_000), st.integers(1, 40), st.booleans())
def test_decode_run__equals_single_steps_to_the_last_bit(name, n, kv, steps, ahead):
    physics = real(name, host_adds=0.0 if ahead else 1.0)
    run = physics.decode_run_s(n, kv, steps)
    assert run.tolist() == [physics.step_s((), n, kv + j * n) for j in range(steps)]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.lists(st.tuples(st.integers(1, 4_000), st.integers(0, 9_000)), max_size=3),
    counts,
    st.integers(0, 100_000),
    st.sampled_from(["chunk", "before", "decode", "kv", "prompt"]),
)
def test_step__is_never_faster_with_more_to_do(name, prefills, n, kv, more):
    physics = real(name)
    base_s = physics.step_s(prefills, n, kv)
    grown = list(prefills)
    if more in ("chunk", "before") and prefills:
        chunk, before = prefills[0]
        grown[0] = (chunk + 1, before) if more == "chunk" else (chunk, before + 1)
    if more == "prompt":
        grown.append((1, 0))
    more_s = physics.step_s(grown, n + (more == "decode"), kv + (more == "kv"))
    assert more_s >= base_s * (1 - 1e-12)


def test_decode_step__fast_path_equals_the_whole_sum():
    for name in MODELS:
        physics = real(name)
        work = physics.deployment.work((), 24, 24 * 900)
        assert physics.step_s((), 24, 24 * 900) == pytest.approx(
            float(step_seconds(work, physics.constants)), rel=1e-12
        )


def real(name, **constants):
    """A real model on a GPU with plausible constants, none of them trivial."""
    c = Constants(
        **(
            {"stream": 0.85, "cache": 0.9, "gemm": 0.7, "attention": 0.5, "unhidden": 0.3}
            | {"reduce_s": 8e-6, "kernel_s": 4e-6, "request_s": 3e-5, "step_s": 1e-3}
            | {"mixed_kv": 1.3, "link": 0.6, "grouped": 0.9}
            | constants
        )
    )
    gpu = step_model("physics:b200:llama-3.1-8b").deployment.gpu
    model = model_named(name)
    tp = 8 if model.experts else 1
    return PhysicsStep(Deployment(gpu=gpu, model=model, tp=tp, precision=model.precision), c)


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        ({"tp": 3}, "tp must divide the 2 heads of toy, got 3"),
        ({"tp": 0}, "got 0"),
        ({"tp": 2, "ep": 2}, "needs a mixture of experts"),
        ({"precision": "int3"}, "precision must be one of .*, got 'int3'"),
        ({"precision": "fp4"}, "GPU 'toy' must have a fp4 rate, got bf16, fp8"),
    ],
)
def test_deployment__bad_input(deployment, message):
    with pytest.raises(ShapeError, match=message):
        step(**deployment)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"stream": 0}, "stream must be > 0"),
        ({"kernel_s": -1e-6}, "kernel_s must be finite and >= 0"),
        ({"gemm": float("nan")}, "gemm must be finite"),
        ({"mixed_kv": 0.9}, "mixed_kv must be >= 1, got 0.9"),
    ],
)
def test_constants__bad_input(constants, message):
    with pytest.raises(ValueError, match=message):
        Constants(**constants)
