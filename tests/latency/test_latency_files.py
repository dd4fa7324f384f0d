"""Model files: what is written comes back as the same floats; damage is one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmsched.latency.base import CalibrationError, MeasuredRange, Shape
from llmsched.latency.files import load_model, model_to_dict, save_model
from llmsched.latency.formulas import DrawnModel, FourTermModel, PerTokenModel, SaturatingModel
from llmsched.latency.interpolation import InterpolationModel
from llmsched.latency.registry import load_latency
from llmsched.latency.step import StepModel
from llmsched.latency.uncertainty import Uncertainty

ABOUT = {"name": "mine", "source": "made up, β and γ"}
ERRORS = Uncertainty.of(("a0_s", "a2_s"), np.diag([1e-4, 1e-12]) / 3, degrees_of_freedom=7)
RANGE = MeasuredRange(size=(1, 32), max_prompt_tokens=(16, 1024), max_output_tokens=(16, 512))
MODELS = [
    SaturatingModel(alpha_s=0.1, beta_s_per_token=1 / 3, gamma=0.2, **ABOUT),
    FourTermModel(a0_s=0.1, a1_s=1e-3, a2_s=1e-5, a3_s=0, uncertainty=ERRORS, **ABOUT),
    load_latency("h100-llama-3-8b-vllm"),
    StepModel(c0_s=0.1, cp_s=1e-5, n0_tokens=99.5, cb_s=1e-3, ckv_s=1e-8, measured=RANGE, **ABOUT),
    InterpolationModel(
        batch_sizes=(1, 4),
        lengths=(100, 200),
        times_s=((0.1, 0.2), (0.3, 1 / 3)),
        standard_errors_s=((0.01, 0.02), (0.03, 0.04)),
        measured=MeasuredRange(size=(1, 4), max_total_tokens=(100, 200)),
        **ABOUT,
    ),
    PerTokenModel(output_token_s=0.03, **ABOUT),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_model_file__comes_back_equal(model, tmp_path):
    # given a file; when read by name as --latency does
    save_model(model, tmp_path / "model.json")
    again = load_latency(tmp_path / "model.json")
    # then every float, the range and the covariance are the same
    assert again == model
    assert again.describe() == model.describe()
    shape = Shape(3, 1200, 700, 500)
    assert again.service_s(shape) == model.service_s(shape)
    assert list(tmp_path.iterdir()) == [tmp_path / "model.json"]


def test_model_file__draws_are_the_same(tmp_path):
    model = MODELS[1]
    save_model(model, tmp_path / "model.json")
    again = load_model(tmp_path / "model.json")
    assert again.draw(np.random.default_rng(3)) == model.draw(np.random.default_rng(3))


def test_model_file__of_another_class_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match=r"one of reference, four-term, .* got 'drawn'"):
        save_model(DrawnModel(), tmp_path / "model.json")
    assert not list(tmp_path.iterdir())


def test_model_file__holds_one_form(tmp_path):
    path = tmp_path / "model.json"
    save_model(MODELS[0], path)
    with pytest.raises(CalibrationError, match=r"a model file holds one form, got .*#four-term"):
        load_latency(f"{path}#four-term")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llmsched_latency_model": 2}, r"must be a latency model \(llmsched_latency_model: 1\)"),
        ({"form": "cubic"}, "form must be one of reference, .* got 'cubic'"),
        ({"parameters": {"a0_s": 1}}, "parameters of form four-term must hold .* without a1_s"),
        ({"parameters": None}, "parameters of form four-term must be an object, got None"),
        ({"kind": "guess"}, "kind must be formula or measurement, got 'guess'"),
        ({"name": 3}, "name and source must be texts"),
        ({"measured": {"size": [4, 1]}}, r"measured size must be \[smallest, largest\]"),
        ({"measured": {"max_total_tokens": [1, 4]}}, "measured must hold size"),
        ({"covariance": {"parameters": []}}, "covariance must hold"),
        ({"more": 1}, r"with \['more'\]"),
    ],
)
def test_model_file__damage_is_one_line(change, message, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**model_to_dict(MODELS[1]), **change}))
    with pytest.raises(CalibrationError, match=message) as caught:
        load_latency(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameter", "bad"),
    [("a0_s", -1), ("a0_s", "1"), ("a1_s", None), ("a1_s", True), ("a2_s", [])],
)
def test_model_file__a_parameter_is_a_number(parameter, bad, tmp_path):
    content = model_to_dict(MODELS[1])
    content["parameters"][parameter] = bad
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=r"model\.json: "):
        load_latency(path)


def test_model_file__a_covariance_is_of_its_own_parameters(tmp_path):
    content = model_to_dict(MODELS[1])
    content["covariance"]["parameters"] = ["a0_s", "gamma"]
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        CalibrationError, match=r"covariance must be of a0_s, a1_s, a2_s, a3_s, got"
    ):
        load_latency(path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", "\x00"])
def test_model_file__no_json_object_is_one_line(text, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=r"model\.json: must be a"):
        load_latency(path)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize(("factor", "time"), [(0.0, r"got 0 s"), (1e300, r"got (inf|nan|\d.*e)")])
def test_model_file__of_impossible_times_is_refused(model, factor, time, tmp_path):
    # given coefficients that are finite and >= 0, each fine by itself
    content = model_to_dict(model)
    shares = ("gamma", "prefill_share", "n0_tokens", "batch_sizes", "lengths", "standard_errors_s")
    for name, value in content["parameters"].items():
        if name not in shares:
            content["parameters"][name] = (np.array(value) * factor).tolist()
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=rf"model\.json: a batch of .* must take .* {time}"):
        load_latency(path)
