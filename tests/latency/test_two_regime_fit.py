"""The two-regime form fitted to other models: it finds itself, and says how far off it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from step_models import TWO_REGIME, tables

from llmsched.latency.steps.fit import Step, StepGrid, fit_two_regime, two_regime_errors
from llmsched.latency.steps.two_regime import DecodeTerms, MixedTerms, TwoRegime

GRID = StepGrid(kv_tokens=41_408)
ABOUT = {"name": "fit", "source": "ours"}


def test_grid__holds_what_a_server_can_run():
    grid = StepGrid(
        kv_tokens=1000,
        step_tokens=256,
        decodes=(1, 4),
        mean_kv=(128, 512),
        chunks=(64, 512),
        kv_before=(0, 200),
    )
    assert grid.decode_steps() == [Step(0, 0, 1, 128), Step(0, 0, 1, 512), Step(0, 0, 4, 512)]
    mixed = grid.mixed_steps()
    # alone 64 and 256 (512 cut), after 0 and 200; beside each set of decodes what still fits
    assert mixed[:4] == [
        Step(64, 0, 0, 0),
        Step(64, 200, 0, 0),
        Step(256, 0, 0, 0),
        Step(256, 200, 0, 0),
    ]
    assert Step(252, 0, 4, 512) in mixed
    assert Step(252, 200, 4, 512) in mixed
    assert Step(255, 200, 1, 512) in mixed
    assert len(mixed) == len(set(mixed)) == 16
    assert all(step.chunk + step.n_decodes <= 256 for step in mixed)
    assert all(step.chunk + step.kv_before + step.decode_kv <= 1000 for step in mixed)


QUICK = StepGrid(kv_tokens=41_408, decodes=(1, 8, 40, 100), mean_kv=(128, 400, 1500))
share = st.sampled_from([0.0, 0.1, 0.5, 1.0])
some = st.sampled_from([0.3, 0.7, 1.0])


@settings(max_examples=25, deadline=None)
@given(
    floors=st.tuples(some, some, some),
    shares=st.tuples(share, share, share, share, share),
    n0=st.sampled_from([0, 65, 96, 113, 192, 300]),
)
def test_fit__finds_the_form_itself(floors, shares, n0):
    # given any constants; n0 is 0 or beyond the shortest step of the grid, where it shows
    truth = TwoRegime(
        decode=DecodeTerms(c0_s=0.02 * floors[0], cb_s=1e-4 * shares[0], ckv_s=1e-6 * shares[1]),
        mixed=MixedTerms(
            c0_s=0.02 * floors[1],
            cp_s=1e-4 * floors[2],
            n0_tokens=n0,
            cb_s=1e-4 * shares[2],
            ckv_s=1e-6 * shares[3],
            cpair_s=1e-8 * shares[4],
        ),
        name="truth",
    )
    found = fit_two_regime(truth, QUICK, **ABOUT)
    # then they come back
    for regime in ("decode", "mixed"):
        ours, theirs = getattr(found, regime), getattr(truth, regime)
        scale = {"n0_tokens": 1, "cpair_s": 1e-8, "ckv_s": 1e-6, "c0_s": 0.02}
        for name in theirs.__slots__:
            near = 1e-9 * scale.get(name, 1e-4)
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=near)
    assert found.decode_errors is not None
    assert found.decode_errors.max < 1e-10


def test_fit__n0_within_the_shortest_step_is_part_of_c0():
    # given n0 = 30 where every prefill has 64 tokens or more; then c0 is less by 30·cp
    truth = replace(TWO_REGIME, mixed=replace(TWO_REGIME.mixed, n0_tokens=30))
    found = fit_two_regime(truth, QUICK, **ABOUT)
    assert found.mixed.n0_tokens == 0
    assert found.mixed.c0_s == pytest.approx(truth.mixed.c0_s - 30 * truth.mixed.cp_s, rel=1e-9)


def test_fit__of_decodes_is_not_moved_by_prefills():
    # given two models that differ with a prefill only
    slow = TwoRegime(decode=TWO_REGIME.decode, mixed=TWO_REGIME.scaled(9).mixed, name="slow")
    one, two = fit_two_regime(TWO_REGIME, GRID, **ABOUT), fit_two_regime(slow, GRID, **ABOUT)
    assert one.decode == two.decode
    assert one.mixed != two.mixed


SMALL = StepGrid(
    kv_tokens=10_000,
    decodes=(1, 2, 4, 8),
    mean_kv=(16, 40, 100),
    chunks=(16, 32, 64),
    kv_before=(0, 40),
)


def test_fit__errors_are_those_against_the_model():
    # given layer tables, which no straight form meets
    model = tables()
    form = fit_two_regime(model, SMALL, **ABOUT)
    assert (form.name, form.source, form.kind) == ("fit", "ours", "measurement")
    steps = SMALL.mixed_steps()
    relative = np.array(
        [form.step_s([s[:2]], *s[2:]) / model.step_s([s[:2]], *s[2:]) - 1 for s in steps]
    )
    errors = form.mixed_errors
    assert errors is not None
    assert errors.steps == len(steps)
    assert errors.mean == pytest.approx(np.abs(relative).mean())
    assert errors.median == pytest.approx(np.median(np.abs(relative)))
    assert errors.max == pytest.approx(np.abs(relative).max())
    assert errors.max > 0.01
    assert two_regime_errors(form, model, SMALL) == (form.decode_errors, form.mixed_errors)


def test_fit__is_the_least_relative_misfit():
    # given the best form; then no small change of one constant betters the squared errors
    model = tables()
    form = fit_two_regime(model, SMALL, **ABOUT)
    steps = SMALL.mixed_steps()
    times_s = np.array([model.step_s([s[:2]], *s[2:]) for s in steps])

    def misfit(terms: MixedTerms) -> float:
        changed = TwoRegime(decode=form.decode, mixed=terms, name="x")
        fitted_s = np.array([changed.step_s([s[:2]], *s[2:]) for s in steps])
        return float(np.sum(np.square(fitted_s / times_s - 1)))

    best = misfit(form.mixed)
    values = {name: getattr(form.mixed, name) for name in form.mixed.__slots__}
    for name, value in values.items():
        step = 1 if name == "n0_tokens" else 1e-4 * value
        for sign in (-1, 1):
            if value > 0:
                assert misfit(MixedTerms(**{**values, name: value + sign * step})) >= best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decodes": (4,)}, r"tell c0_s, cb_s, ckv_s apart, got 16 steps in which some make up"),
        ({"mean_kv": (100,)}, r"tell c0_s, cb_s, ckv_s apart, got 14 steps in which"),
        ({"decodes": (1,), "mean_kv": (100, 200)}, "tell c0_s, cb_s, ckv_s apart, got 2 steps"),
        ({"kv_tokens": 100}, "tell c0_s, cb_s, ckv_s apart, got 0 steps"),
        ({"chunks": (3000,), "step_tokens": 2048}, r"at least 3 sums of prefill and decode tokens"),
        ({"kv_before": (0,), "chunks": (64, 65)}, r"tell c0_s, cp_s, cb_s, ckv_s, cpair_s apart"),
    ],
)
def test_fit__a_grid_that_cannot_tell_is_refused(change, message):
    values = {"kv_tokens": 41_408, **change}
    with pytest.raises(ValueError, match=message):
        fit_two_regime(TWO_REGIME, StepGrid(**values), **ABOUT)
