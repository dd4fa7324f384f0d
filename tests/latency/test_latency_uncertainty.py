"""Draws from calibration errors: their covariance, their bounds, and what they must not change."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from llmsched.latency.base import Shape
from llmsched.latency.fit.forms import nonnegative_least_squares
from llmsched.latency.formulas import FourTermModel, SaturatingModel
from llmsched.latency.uncertainty import Uncertainty

NAMES = ("a0_s", "a1_s")
COVARIANCE = np.array([[0.04, 0.015], [0.015, 0.01]])


def draws(uncertainty, centre, n=4000, **more):
    rng = np.random.default_rng(1)
    return np.array([uncertainty.draw(np.array(centre), rng, **more) for _ in range(n)])


def test_draw__far_from_the_bounds_has_the_covariance():
    # given centres 10 standard errors above 0
    drawn = draws(Uncertainty.of(NAMES, COVARIANCE), [2.0, 1.0])
    # then mean and covariance are those given: a variance of 4000 is known to √(2/4000) = 2.2 %
    assert np.mean(drawn, axis=0) == pytest.approx([2.0, 1.0], abs=4 * 0.2 / math.sqrt(4000))
    assert np.cov(drawn.T) == pytest.approx(COVARIANCE, rel=0.13)


def test_draw__with_an_estimated_variance_is_students_t():
    # given 5 degrees of freedom: variance 5/3 of the normal's, and heavier tails
    drawn = draws(
        Uncertainty.of(["a0_s"], np.array([[0.01]]), degrees_of_freedom=5), [10.0], 20_000
    )
    z = (drawn[:, 0] - 10) / 0.1
    assert np.var(z) == pytest.approx(5 / 3, rel=0.1)
    # P(|t_5| > 2.571) = 5 %, known to 0.15 %
    assert np.mean(np.abs(z) > 2.571) == pytest.approx(0.05, abs=0.0062)


def test_draw__on_a_bound_is_what_bounded_least_squares_make_of_redrawn_data():
    # given a line whose intercept lies on its bound 0
    rng = np.random.default_rng(3)
    x = np.linspace(1, 10, 12)
    design, sigma = np.column_stack([np.ones(12), x]), 0.5
    covariance = sigma**2 * np.linalg.inv(design.T @ design)
    drawn = draws(Uncertainty.of(NAMES, covariance), [0.0, 2.0], 3000)
    # when data around that line are fitted with bounds
    data = design @ [0.0, 2.0] + sigma * rng.standard_normal((3000, 12))
    fitted = np.array([nonnegative_least_squares(design, y) for y in data])
    # then half of both stay on the bound (a share of 3000: σ 0.9 %), and their laws agree
    assert np.mean(drawn[:, 0] == 0) == pytest.approx(0.5, abs=0.037)
    assert np.mean(fitted[:, 0] == 0) == pytest.approx(0.5, abs=0.037)
    assert np.mean(drawn, axis=0) == pytest.approx(np.mean(fitted, axis=0), rel=0.1)
    assert np.std(drawn, axis=0) == pytest.approx(np.std(fitted, axis=0), rel=0.1)
    # and nothing is below it
    assert drawn.min() >= 0


def test_draw__respects_an_upper_bound():
    drawn = draws(Uncertainty.of(["w"], np.array([[0.04]])), [0.9], upper=np.array([1.0]))
    assert 0 <= drawn.min() <= drawn.max() == 1.0
    assert np.mean(drawn == 1.0) == pytest.approx(0.309, abs=0.03)  # P(z > 0.5)


def test_draw__without_errors_of_a_parameter_leaves_it():
    model = FourTermModel(a0_s=1, a1_s=0.1, a2_s=0.01, a3_s=0, name="hand", source="made up")
    errors = Uncertainty.of(["a1_s"], np.array([[1e-4]]))
    drawn = replace(model, uncertainty=errors).draw(np.random.default_rng(1))
    assert (drawn.a0_s, drawn.a2_s, drawn.a3_s) == (1, 0.01, 0)
    assert drawn.a1_s != 0.1
    assert drawn == replace(
        model, a1_s=drawn.a1_s, source=model.source + "; one draw of its calibration errors"
    )


def test_draw__same_seed_same_model_and_equality_and_hash_still_work():
    errors = Uncertainty.of(NAMES, COVARIANCE, degrees_of_freedom=4)
    again = Uncertainty.of(NAMES, COVARIANCE, degrees_of_freedom=4)
    assert errors == again
    assert hash(errors) == hash(again)
    models = [
        FourTermModel(a0_s=2, a1_s=1, a2_s=0, a3_s=0, name="m", source="s", uncertainty=one)
        for one in (errors, again)
    ]
    assert models[0] == models[1]
    assert models[0].draw(np.random.default_rng(9)) == models[1].draw(np.random.default_rng(9))


def test_draw__of_the_reference_form_is_linear_in_the_data():
    # given a covariance that leaves T(1, 1000) fixed: α up, β down
    scale = np.diag([0.1, 1e-4])
    linear = scale @ np.array([[1, -0.999], [-0.999, 1]]) @ scale
    matrix = np.zeros((3, 3))
    matrix[:2, :2] = linear
    matrix[2, 2] = 1e-4
    model = SaturatingModel(
        alpha_s=1.0,
        beta_s_per_token=1e-3,
        gamma=0.5,
        name="hand",
        source="made up",
        uncertainty=Uncertainty.of(("alpha_s", "beta_s_per_token", "gamma"), matrix),
    )
    rng = np.random.default_rng(2)
    times = [model.draw(rng).service_s(Shape(1, 1000, 0, 0)) for _ in range(500)]
    # then its draws scatter by √(2·(1 - 0.999))·0.1 s = 4.5 ms there, not by 140 ms
    assert np.std(times) == pytest.approx(0.1 * math.sqrt(0.002), rel=0.2)


@pytest.mark.parametrize(
    ("names", "matrix", "message"),
    [
        (("a",), [[1.0, 0.0], [0.0, 1.0]], "must be 1 x 1"),
        (("a", "b"), [[1.0, 2.0], [2.0, 1.0]], "positive definite"),
        (("a", "b"), [[1.0, 0.0], [0.0, 0.0]], "variances > 0"),
        (("a",), [[math.nan]], "finite"),
        ((), [], "must be 0 x 0"),
    ],
)
def test_uncertainty__refuses_what_is_no_covariance(names, matrix, message):
    with pytest.raises(ValueError, match=message):
        Uncertainty(parameter_names=names, covariance=tuple(map(tuple, matrix)))
    with pytest.raises(ValueError, match="degrees_of_freedom must be >= 1, got 0"):
        Uncertainty(parameter_names=("a",), covariance=((1.0,),), degrees_of_freedom=0)
