"""The two-regime form and the steps of batch models: by hand, then against the batch itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from step_models import STEP, TWO_REGIME, a_step

from llmsched.latency import (
    CalibrationError,
    LatencyModel,
    PerTokenModel,
    Shape,
    latency_names,
    load_latency,
)
from llmsched.latency.steps.base import Scaled
from llmsched.latency.steps.two_regime import (
    DecodeTerms,
    MixedTerms,
    TwoRegime,
    has_steps,
    steps_of,
)

# in ms: decode 10 + 1·n + 0.1·kv; mixed 20 + 2·max(0, c + n − 8) + 3·n + 0.5·kv + 0.25·pairs
HAND = TwoRegime(
    decode=DecodeTerms(c0_s=0.010, cb_s=0.001, ckv_s=0.0001),
    mixed=MixedTerms(
        c0_s=0.020, cp_s=0.002, n0_tokens=8, cb_s=0.003, ckv_s=0.0005, cpair_s=0.00025
    ),
    name="hand",
)


@pytest.mark.parametrize(
    ("prefills", "n", "kv", "expected_ms"),
    [
        ((), 1, 30, 10 + 1 + 3),
        ((), 4, 100, 10 + 4 + 10),
        ([(8, 0)], 0, 0, 20 + 0.25 * 32),  # as many tokens as are free; 8·4 pairs
        ([(9, 0)], 0, 0, 20 + 2 + 0.25 * 40.5),
        ([(1, 0)], 0, 0, 20 + 0.25 * 0.5),  # a prompt of one token is a prefill
        ([(10, 6)], 2, 50, 20 + 2 * 4 + 3 * 2 + 0.5 * 50 + 0.25 * (10 * 11)),
        ([(2, 0), (4, 10)], 3, 60, 20 + 2 * 1 + 3 * 3 + 0.5 * 60 + 0.25 * (2 + 48)),
    ],
)
def test_two_regime__hand_worked(prefills, n, kv, expected_ms):
    assert HAND.step_s(prefills, n, kv) * 1e3 == pytest.approx(expected_ms, rel=1e-12)


@given(step=a_step())
def test_two_regime__is_evaluated_left_to_right(step):
    # given the formula as issue and paper print it; then not even the last bit differs
    prefills, n, kv = step
    d, m = TWO_REGIME.decode, TWO_REGIME.mixed
    if prefills:
        c = sum(chunk for chunk, _ in prefills)
        pairs = math.fsum(chunk * (before + chunk / 2) for chunk, before in prefills)
        expected = m.c0_s + m.cp_s * max(0, c + n - m.n0_tokens) + m.cb_s * n + m.ckv_s * kv
        expected = expected + m.cpair_s * pairs
    else:
        expected = d.c0_s + d.cb_s * n + d.ckv_s * kv
    assert TWO_REGIME.step_s(prefills, n, kv) == expected


@given(step=a_step())
def test_scaled__doubles_exactly(step):
    # given a factor that loses no bit; then form, wrapper and times agree, n0 untouched
    twice = TWO_REGIME.scaled(2.0)
    assert twice.step_s(*step) == 2 * TWO_REGIME.step_s(*step)
    assert Scaled(TWO_REGIME, 2.0).step_s(*step) == 2 * TWO_REGIME.step_s(*step)
    assert twice.mixed.n0_tokens == TWO_REGIME.mixed.n0_tokens
    assert twice.source.endswith("all times × 2")


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf])
def test_scaled__factor_must_be_positive(factor):
    with pytest.raises(ValueError, match="factor must be finite and > 0, got"):
        Scaled(TWO_REGIME, factor)


@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf])
@pytest.mark.parametrize("regime", ["decode", "mixed"])
def test_two_regime__coefficients_are_not_negative(regime, bad):
    terms = {"decode": HAND.decode, "mixed": HAND.mixed}
    values = {name: getattr(terms[regime], name) for name in terms[regime].__slots__}
    terms[regime] = type(terms[regime])(**{**values, "ckv_s": bad})
    with pytest.raises(ValueError, match="coefficients of 'x' must be finite and >= 0"):
        TwoRegime(**terms, name="x")


def batch_as_steps_s(model: LatencyModel, b: int, p: int, o: int) -> float:
    """b equal requests prefilled together, then decoded together to the end."""
    steps = steps_of(model)
    prefill_s = steps.step_s([(p, 0)] * b, 0, 0)
    return prefill_s + math.fsum(steps.decode_run_s(b, b * p, o - 1).tolist())


WITH_STEPS = [name for name in latency_names() if has_steps(load_latency(name))]


@pytest.mark.parametrize("name", WITH_STEPS)
@pytest.mark.parametrize(("b", "p", "o"), [(1, 300, 40), (7, 100, 1), (16, 1, 2), (64, 900, 700)])
def test_steps_of__add_up_to_the_batch(name, b, p, o):
    model = load_latency(name)
    batch_s = model.service_s(Shape(b, p + o, p, o))
    assert batch_as_steps_s(model, b, p, o) == pytest.approx(batch_s, rel=1e-11)


@pytest.mark.parametrize(("b", "p", "o"), [(1, 300, 40), (7, 10, 1), (16, 1, 2), (64, 900, 700)])
def test_steps_of_a_step_model__add_up_to_the_batch(b, p, o):
    batch_s = STEP.service_s(Shape(b, p + o, p, o))
    assert batch_as_steps_s(STEP, b, p, o) == pytest.approx(batch_s, rel=1e-11)


def test_steps_of_a_step_model__later_chunks_read_what_is_there():
    # given 200 tokens after 300: 17 + 72·0.084 + 0.042 + 300·0.000149 ms
    assert steps_of(STEP).step_s([(200, 300)], 0, 0) == pytest.approx(0.0231347, rel=1e-9)


def test_steps_of__prefill_and_decodes_add_up():
    model = steps_of(STEP)
    both = model.step_s([(200, 0)], 4, 1000)
    alone = model.step_s([(200, 0)], 0, 0) + model.step_s((), 4, 1000) - STEP.c0_s
    assert both == pytest.approx(alone, rel=1e-12)


def test_steps_of__which_names():
    # the formulas without phases and the sets with a cost per batch are out, with their reason
    without = set(latency_names()) - set(WITH_STEPS)
    costly = {n for n in without if getattr(load_latency(n), "a0_s", 0) > 0}
    assert without - costly == {"drawn", "reference", "reference-revised"}
    assert len(WITH_STEPS) == 39
    assert len(costly) == 18


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reference", "must tell prefill and decode steps apart, got latency model 'reference'"),
        ("drawn", "must tell prefill and decode steps apart, got latency model 'drawn'"),
        ("a100-llama-2-7b-deepspeed-mii-tp2", "must have no cost per batch.*a0 = 260.2 ms"),
    ],
)
def test_steps_of__others_are_refused(name, message):
    with pytest.raises(CalibrationError, match=message):
        steps_of(load_latency(name))


def test_steps_of_a_per_token_model__every_step_is_one_token():
    model = PerTokenModel(output_token_s=0.03, name="mine", source="ours")
    assert steps_of(model).step_s([(5000, 0)], 9, 999) == 0.03
    assert batch_as_steps_s(model, 5, 100, 10) == pytest.approx(0.3, rel=1e-12)
