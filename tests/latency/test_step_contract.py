"""What every step-time model keeps: runs of decodes equal their steps to the last bit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from step_models import MODELS, a_step

names = pytest.mark.parametrize("name", sorted(MODELS))


@names
@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 40),
    mean_kv=st.integers(1, 400),
    more=st.integers(0, 39),
    steps=st.integers(1, 300),
)
def test_decode_run__is_its_steps_bit_for_bit(name, n, mean_kv, more, steps):
    # given decodes anywhere on, below and beyond the tables' grid
    model, kv = MODELS[name], n * mean_kv + more
    # when they go on together
    run = model.decode_run_s(n, kv, steps)
    # then every step is the very float of the step alone
    assert run.dtype == np.float64
    assert run.tolist() == [model.step_s((), n, kv + j * n) for j in range(steps)]


@pytest.mark.parametrize("name", ["layers", "layers-steep", "layers-tp2", "scaled"])
def test_decode_run__through_the_very_points_of_the_grid(name):
    # given runs that meet every mean kv of the tables, where two straight pieces join
    model = MODELS[name]
    for n in range(1, 60):
        run = model.decode_run_s(n, 10 * n, 150)
        assert run.tolist() == [model.step_s((), n, (10 + j) * n) for j in range(150)]


@names
def test_decode_run__longer_than_any_table(name):
    # given more steps than the models keep ready; then the last is still the step alone
    model = MODELS[name]
    run = model.decode_run_s(3, 100, 5000)
    assert len(run) == 5000
    assert run[-1] == model.step_s((), 3, 100 + 3 * 4999)


@names
@settings(max_examples=60, deadline=None)
@given(step=a_step())
def test_step__is_a_positive_float_and_repeats(name, step):
    model = MODELS[name]
    time_s = model.step_s(*step)
    assert type(time_s) is float
    assert time_s > 0
    assert model.step_s(*step) == time_s


@names
def test_model__survives_a_process_boundary(name):
    # given a model that has been used; when it is sent to a worker; then it gives the same times
    model = MODELS[name]
    before = model.step_s([(40, 8)], 3, 200), model.step_s((), 3, 200)
    again = pickle.loads(pickle.dumps(model))
    assert (again.step_s([(40, 8)], 3, 200), again.step_s((), 3, 200)) == before
    assert again.describe() == model.describe()


@names
def test_model__says_what_it_is_in_one_line(name):
    model = MODELS[name]
    text = model.describe()
    assert text.startswith(f"{model.name} ({model.kind}): ")
    assert "\n" not in text
