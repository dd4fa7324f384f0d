"""GPU and model presets, the spec that names them, and files of one's own."""

from __future__ import annotations

import pytest

from llmsched.hardware import (
    GPUS,
    MODELS,
    ShapeError,
    gpu_named,
    model_named,
)
from llmsched.latency.physics.step import step_model


@pytest.mark.parametrize("name", MODELS.names())
def test_model__shape_gives_the_published_parameters(name):
    model = model_named(name)
    assert model.computed_parameters == pytest.approx(model.parameters, rel=0.005)


@pytest.mark.parametrize("name", [n for n in GPUS.names() if n != "default-12gb"])
def test_gpu__figures_hang_together(name):
    gpu = gpu_named(name)
    rates = [gpu.flops_per_s.get(p) for p in ("bf16", "fp8", "fp4")]
    assert 10 < gpu.rate("bf16") / gpu.bandwidth_bytes_per_s < 500  # FLOP a byte
    if rates[1]:
        assert rates[1] / rates[0] == pytest.approx(2, rel=0.02)
    assert "sheet" in gpu.source or "paper" in gpu.source or "brief" in gpu.source
    assert gpu.link_bytes_per_s < gpu.bandwidth_bytes_per_s


def test_known_sizes__against_published_figures():
    # DeepSeek-V3 report: 671B parameters, 37B active; 70 KB of cache a token
    r1 = model_named("deepseek-ai/DeepSeek-R1-0528")
    active = r1.layers * r1.attention_parameters + 2 * r1.head_parameters
    active += r1.dense_layers * r1.mlp_parameters + r1.moe_layers * 9 * r1.expert_parameters
    assert active == pytest.approx(37e9, rel=0.03)
    assert 2 * r1.kv_numbers_per_token == 70_272


def test_spec__names_are_canonical_and_parts_in_any_order():
    step = step_model("physics:H100:meta-llama/Meta-Llama-3-8B:fp8:tp2")
    assert step.name == "physics:h100-sxm:llama-3-8b:tp2:fp8"
    assert step_model(step.name).step_s((), 4, 100) == step.step_s((), 4, 100)
    r1 = step_model("physics:h200:deepseek-r1:ep8:tp8:sglang")
    assert (r1.deployment.precision, r1.deployment.ep) == ("fp8", 8)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("physics", "must be physics:GPU:MODEL"),
        ("physics:h100", "must be physics:GPU:MODEL"),
        ("physics:h100::tp2", "must be physics:GPU:MODEL"),
        ("physics:h900:llama-3.1-8b", "gpu must be a known name or a TOML file, got 'h900'; near"),
        ("physics:h100:llama-9", "llm must be a known name or a TOML file, got 'llama-9'"),
        ("physics:h100:llama-3.1-8b:tp", "a part after the model must be tpN"),
        ("physics:h100:llama-3.1-8b:tp2:tp4", "must say tp once"),
        ("physics:h100:llama-3.1-8b:fp4", "GPU 'h100-sxm' must have a fp4 rate, got bf16, fp8"),
        ("physics:a100:llama-3.1-8b:fp8", "'a100-80gb' must have a fp8 rate, got bf16"),
        ("physics:h100:llama-3.1-8b:tp7", "tp must divide the 32 heads"),
        ("physics:h100:llama-3.1-8b:ep2:tp2", "needs a mixture of experts"),
    ],
)
def test_spec__bad_input(spec, message):
    with pytest.raises(ShapeError, match=message):
        step_model(spec)


GPU_FILE = """
[mine]
tflops = { bf16 = 100 }
bandwidth_gb_s = 1000
memory_gb = 48
link = "pcie"
link_gb_s = 32
source = "my own sheet"
"""
MODEL_FILE = """
[tiny]
parameters = 1e9
layers = 4
hidden = 512
heads = 8
kv_heads = 8
head_dim = 64
intermediate = 2048
vocab = 1000
"""


def test_own_files__are_read(tmp_path):
    gpu, model = tmp_path / "gpu.toml", tmp_path / "model.toml"
    gpu.write_text(GPU_FILE)
    model.write_text(MODEL_FILE)
    step = step_model(f"physics:{gpu}:{model}")
    assert step.deployment.gpu.bandwidth_bytes_per_s == 1e12
    assert step.deployment.model.layers == 4
    assert step.step_s((), 1, 10) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GPU_FILE.replace("memory_gb = 48", ""), "missing: memory_gb"),
        (GPU_FILE + "colour = 1\n", "unknown: colour"),
        (GPU_FILE.replace("100 }", "0 }"), "bf16 rate of GPU 'mine' must be finite and > 0"),
        (GPU_FILE.replace("pcie", "string"), "link of GPU 'mine' must be one of"),
        (GPU_FILE.replace("{ bf16 = 100 }", "100"), "tflops of GPU 'mine' must be a table"),
        (GPU_FILE + "[two]\n", "must hold one table"),
        ("not toml [", "must be a readable TOML file"),
    ],
)
def test_own_gpu_file__bad_input(tmp_path, text, message):
    path = tmp_path / "gpu.toml"
    path.write_text(text)
    with pytest.raises(ShapeError, match=message):
        gpu_named(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            MODEL_FILE.replace("layers = 4", "layers = 4.5"),
            "layers of model 'tiny' must be a whole",
        ),
        (MODEL_FILE.replace("heads = 8\n", "", 1), "missing: heads"),
        (MODEL_FILE + "tied = 1\n", "tied of model 'tiny' must be true or false"),
        (MODEL_FILE + "experts = 4\nactive_experts = 5\n", r"must be in \[1, 4\]"),
        (MODEL_FILE + "window = 100\n", "window and window_layers together"),
    ],
)
def test_own_model_file__bad_input(tmp_path, text, message):
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(ShapeError, match=message):
        model_named(str(path))


def test_own_file__absent():
    with pytest.raises(ShapeError, match=r"must be a readable TOML file, got 'no\.toml'"):
        gpu_named("no.toml")
