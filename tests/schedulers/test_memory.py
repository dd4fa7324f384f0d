"""Algorithm 1 both ways, and the capacity of a GPU."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import pytest

from llmsched.hardware import (
    DEFAULT_GPU,
    DEFAULT_MODEL,
    GPUS,
    MODELS,
    GpuSpec,
    kv_capacity_tokens,
)
from llmsched.schedulers.memory_limit import BufferLimit, CltLimit


@dataclass(frozen=True)
class Finished:
    """What a memory limit learns of a finished batch."""

    mean_tokens: float
    mean_squared_tokens: float
    size: int = 1


def finished(mean_tokens: float, mean_squared_tokens: float) -> Finished:
    return Finished(mean_tokens, mean_squared_tokens)


DATA = Path(__file__).parents[3] / "shared" / "data"


def test_capacity__default_is_the_papers_card_to_the_last_bit():
    model = MODELS[DEFAULT_MODEL]
    assert model.weight_bytes == 4.06e9
    assert model.kv_bytes_per_token == 114_688
    assert kv_capacity_tokens(DEFAULT_GPU, model) == (12e9 - 4.06e9) / 114688


@pytest.mark.parametrize(
    ("name", "kv_bytes"),
    [
        ("qwen3-0.6b", 114_688),  # 28·8·128·4
        ("qwen3-8b", 147_456),  # 36·8·128·4
        ("qwen3-32b", 262_144),  # 64·8·128·4
        ("llama-2-7b", 524_288),  # 32·32·128·4, no grouped attention
        ("llama-3.1-8b", 131_072),  # 32·8·128·4
        ("llama-3.1-70b", 327_680),  # 80·8·128·4
        ("llama-3.2-1b", 32_768),  # 16·8·64·4
        ("qwen2-7b", 57_344),  # 28·4·128·4
        ("phi-3.5-mini", 393_216),  # 32·32·96·4
    ],
)
def test_models__kv_bytes_per_token_by_hand(name, kv_bytes):
    assert MODELS[name].kv_bytes_per_token == kv_bytes


@pytest.mark.data
def test_capacity__agrees_with_what_vllm_measured():
    path = DATA / "vllm_sharegpt_runs" / "RTX4090_Llama-3.1-8B_meta.json"
    if not path.is_file():
        pytest.skip(f"needs the run's settings in {path}")
    # given vLLM's own count of KV tokens on an RTX 4090 at 90 % of its memory
    meta = json.loads(path.read_text(encoding="utf-8"))
    allowed = meta["hardware"]["device_total_memory_bytes"] * 0.9
    measured = meta["kv_cache"]["num_kv_tokens"]
    # when computed from the published shape
    capacity = kv_capacity_tokens(
        GpuSpec(name="rtx-4090", memory_bytes=allowed), MODELS["llama-3.1-8b"]
    )
    # then vLLM has less, by the activations and graphs we leave out: between 0.5 and 1.5 GB
    # (a KV size off by a factor of two would miss by 2.7 GB or more)
    missing = (capacity - measured) * MODELS["llama-3.1-8b"].kv_bytes_per_token
    assert 0.5e9 < missing < 1.5e9


def test_capacity__a_model_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"'llama-3.1-70b' must fit GPU 'a100-80gb'.*141.20 GB"):
        kv_capacity_tokens(GPUS["a100-80gb"], MODELS["llama-3.1-70b"])


def test_specs__refuse_nonsense():
    with pytest.raises(ValueError, match="memory_bytes of GPU 'empty' must be finite and > 0"):
        GpuSpec(name="empty", memory_bytes=0)
    with pytest.raises(ValueError, match="layers of model 'qwen3-8b' must be finite and > 0"):
        replace(MODELS["qwen3-8b"], layers=0)


def test_presets__are_registered_under_their_names():
    for presets in (GPUS, MODELS):
        assert presets.names()
        for name in presets.names():
            assert presets[name].name == name


def test_buffer__hand_worked():
    # given η = 10,000 tokens and the default start of 500 per request
    memory = BufferLimit(10_000)
    assert memory.limit() == 18  # 9,000/500
    # when batches of 1,000 and then 100 tokens per request finish
    memory.observe(finished(1_000.0, 0.0))
    assert memory.mean_tokens == 0.2 * 1_000 + 0.8 * 500
    assert memory.limit() == 15  # 9,000/600
    memory.observe(finished(100.0, 0.0))
    assert memory.limit() == 18  # µ = 20 + 480 = 500
    # then it never falls below one
    for _ in range(50):
        memory.observe(finished(1e6, 0.0))
    assert memory.limit() == 1


def test_buffer__default_card_at_start():
    eta = kv_capacity_tokens(DEFAULT_GPU, MODELS[DEFAULT_MODEL])  # 69,231.3 tokens
    assert BufferLimit(eta).limit() == 124  # 62,308/500


def test_clt__without_spread_is_capacity_over_mean():
    memory = CltLimit(10_250)
    assert memory.limit() == 20  # 20.5
    memory.observe(finished(500.0, 250_000.0))
    assert memory.limit() == 20


def test_clt__hand_worked_spread():
    # given µ = 500, m2 = 0.2·500,000 + 0.8·250,000 = 300,000, so σ = √50,000 = 223.607
    memory = CltLimit(10_000)
    memory.observe(finished(500.0, 500_000.0))
    # then with θ = 1.644854: s = 367.80, √(s² + 2e7) = 4,487.23, r = 4.11943, r² = 16.97
    assert memory.limit() == 16


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.3])
def test_clt__is_the_largest_batch_within_epsilon(epsilon):
    # given some history
    memory = CltLimit(40_000, epsilon=epsilon)
    for mean, squared in [(700.0, 9e5), (300.0, 2e5), (520.0, 6e5)]:
        memory.observe(finished(mean, squared))
    mean = memory.mean_tokens
    sigma = math.sqrt(memory.mean_squared_tokens - mean**2)

    def overflow(b):
        return 1 - NormalDist(b * mean, sigma * math.sqrt(b)).cdf(40_000)

    # then its batch overflows with probability epsilon at most, and one more request does not
    assert overflow(memory.limit()) <= epsilon < overflow(memory.limit() + 1)


def test_clt__more_spread_never_allows_more():
    limits = []
    for squared in (250_000.0, 3e5, 5e5, 1e6, 1e7):
        memory = CltLimit(20_000)
        memory.observe(finished(500.0, squared))
        limits.append(memory.limit())
    assert limits == sorted(limits, reverse=True)
    assert limits[0] > limits[-1]


def test_clt__a_mean_square_below_the_square_of_the_mean_counts_as_no_spread():
    memory = CltLimit(10_250)
    memory.observe(finished(500.0, 0.0))
    assert memory.limit() == 20


def test_clt__never_below_one():
    memory = CltLimit(10.0)
    assert memory.limit() == 1


@pytest.mark.parametrize("kind", [BufferLimit, CltLimit])
@pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan])
def test_limits__refuse_a_capacity_or_mean_that_is_not_positive(kind, bad):
    with pytest.raises(ValueError, match="capacity_tokens must be finite and > 0"):
        kind(bad)
    with pytest.raises(ValueError, match="mean_tokens must be finite and > 0"):
        kind(100, mean_tokens=bad)


@pytest.mark.parametrize("epsilon", [0, 1, -0.1, math.nan])
def test_clt__refuses_an_epsilon_that_is_no_probability(epsilon):
    with pytest.raises(ValueError, match=r"epsilon must be in \(0, 1\)"):
        CltLimit(100, epsilon=epsilon)


@pytest.mark.parametrize("memory", [BufferLimit(69_231.0), CltLimit(69_231.0)])
def test_memory__thousands_of_requests_without_tokens_do_not_break_it(memory):
    for _ in range(5_000):  # 500·0.8^5000 is 0 in double precision
        memory.observe(finished(0.0, 0.0))
    assert memory.limit() > 10**6
