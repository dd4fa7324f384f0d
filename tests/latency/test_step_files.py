"""What `--step-time` takes: names, two-regime files, batch models, prefixes of layer tables."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from layer_files import write_layers
from step_models import REDUCE, STEP, TWO_REGIME

from llmsched.hardware import MODELS as LLMS
from llmsched.latency import CalibrationError, CalibrationWarning, load_latency, step_times
from llmsched.latency.files import save_model
from llmsched.latency.step_times import step_time_from_spec, step_time_names
from llmsched.latency.steps.files import load_step_time, save_two_regime
from llmsched.latency.steps.layers import LayerTables
from llmsched.latency.steps.two_regime import RegimeErrors, TwoRegime, steps_of

ERRORS = RegimeErrors(steps=7, mean=0.01, median=1 / 300, max=0.3)
DECODE = {"c0_s": 0.0169, "cb_s": 3.88e-05, "ckv_s": 1.62e-07}
MIXED = {
    "c0_s": 0.0193,
    "cp_s": 8.52e-05,
    "n0_tokens": 96,
    "cb_s": 0,
    "ckv_s": 2.82e-07,
    "cpair_s": 4.55e-09,
}
PLAIN = {"form": "two-regime", "decode": DECODE, "mixed": MIXED}


@pytest.mark.parametrize(
    "model",
    [
        TWO_REGIME,
        replace(TWO_REGIME, kind="measurement", source="θ and µ").with_errors(
            decode=ERRORS, mixed=replace(ERRORS, steps=9)
        ),
    ],
)
def test_file__comes_back_equal(model, tmp_path):
    save_two_regime(model, tmp_path / "a.json")
    assert load_step_time(tmp_path / "a.json") == model
    assert step_time_from_spec(str(tmp_path / "a.json")) == model
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_file__of_six_and_three_numbers_is_enough(tmp_path):
    # given the form as documented, no more
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(PLAIN))
    model = load_step_time(path)
    assert isinstance(model, TwoRegime)
    assert (model.name, model.kind, model.mixed.n0_tokens) == ("mine", "formula", 96.0)
    assert model.step_s((), 2, 1000) == 0.0169 + 3.88e-05 * 2 + 1.62e-07 * 1000


def change(**values: object) -> str:
    """The plain file with dotted keys set; None removes."""
    content = json.loads(json.dumps(PLAIN))
    for key, value in values.items():
        *way, last = key.split("__")
        place = content
        for name in way:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a JSON file, got: "),
        ("{", "must be a JSON file, got: "),
        ("[]", "must hold form 'two-regime', got 'no object'"),
        ("3", "must hold form 'two-regime', got 'no object'"),
        ("{}", "must hold form 'two-regime', got None"),
        (change(form="step"), "must hold form 'two-regime', got 'step'"),
        (change(form=["two-regime"]), r"must hold form 'two-regime', got \['two-regime'\]"),
        (
            change(decode=None),
            "a two-regime model must hold decode, form, mixed; got it without de",
        ),
        (change(more=1), r"must hold decode, form, mixed; got it with \['more'\]"),
        (change(decode=[1]), r"decode must be an object, got \[1\]"),
        (change(mixed__cpair_s=None), "mixed must hold c0_s, .*; got it without cpair_s"),
        (change(decode__cp_s=1), r"decode must hold c0_s, cb_s, ckv_s; got it with \['cp_s'\]"),
        (change(decode__cb_s=-1e-9), "cb_s of decode must be finite and >= 0, got -1e-09"),
        (change(mixed__n0_tokens=-1), "n0_tokens of mixed must be finite and >= 0, got -1"),
        (change(decode__c0_s=True), "c0_s of decode must be a number, got True"),
        (change(decode__c0_s="1"), "c0_s of decode must be a number, got '1'"),
        (change(decode__c0_s=[]), r"c0_s of decode must be a number, got \[\]"),
        (change(decode__c0_s=10**400), "c0_s of decode must be finite and >= 0, got 1000"),
        ('{"form": "two-regime", "form": "two-regime"}', "got: form twice in one object"),
        (
            change().replace('"cb_s": 0,', '"cb_s": 0, "cb_s": 1,'),
            "must be a JSON file, got: cb_s twice in one object",
        ),
        (change().replace("0.0169", "NaN"), "got: NaN, which is no number of JSON"),
        (change().replace("0.0169", "-Infinity"), "got: -Infinity, which is no number of JSON"),
        (change().replace("0.0169", "1e999"), "c0_s of decode must be finite and >= 0, got inf"),
        ("[" * 100_000, "must be a JSON file, got one nested too deep"),
        (change(name=3), "name must be a text of one line, got 3"),
        (change(source="two\nlines"), "source must be a text of one line, got"),
        (change(kind="guess"), "kind must be formula or measurement, got 'guess'"),
        (change(errors={"decode": {}}), "errors must hold decode, mixed; got it without mixed"),
        (
            change(errors={"decode": {}, "mixed": {}}),
            "errors of decode must hold max, mean, median, steps; got it without",
        ),
        (
            change(decode__c0_s=0, decode__cb_s=0, decode__ckv_s=0),
            "0 prefill tokens and 1 decodes ",
        ),
        (change(mixed__cpair_s=1e6), "must take from 1e-09 to 1e[+]06 s, got .*; check the coeff"),
    ],
)
def test_file__damage_is_one_line(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=message) as caught:
        load_step_time(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_file__of_other_bytes(tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(b"\x80\x81")
    with pytest.raises(CalibrationError, match="must be a JSON file, got: "):
        load_step_time(path)


def test_file__that_is_huge_is_not_read(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)  # sparse
    with pytest.raises(CalibrationError, match=r"must be at most 1 MiB, got 5120\.0 MiB"):
        load_step_time(path)


def test_file__that_is_not_there(tmp_path):
    with pytest.raises(CalibrationError, match=r"gone\.json: .*No such file"):
        load_step_time(tmp_path / "gone.json")
    with pytest.raises(
        ValueError, match=r"must be there to be read, got '.*gone\.json', no such f"
    ):
        step_time_from_spec(str(tmp_path / "gone.json"))


def test_spec__a_file_of_a_batch_model_with_steps(tmp_path):
    path = tmp_path / "step.json"
    save_model(STEP, path)
    assert step_time_from_spec(str(path)) == steps_of(STEP)


def test_spec__a_file_of_a_batch_model_without_steps(tmp_path):
    path = tmp_path / "reference.json"
    save_model(load_latency("reference"), path)
    with pytest.raises(CalibrationError, match="must tell prefill and decode steps apart"):
        step_time_from_spec(str(path))


@pytest.mark.parametrize("name", ["rtx-4090-llama-3.1-8b", "rtx-pro-6000-llama-3.1-8b"])
def test_shipped__are_measured_and_say_how_far_off(name):
    model = step_time_from_spec(name)
    assert isinstance(model, TwoRegime)
    assert (model.name, model.kind) == (name, "measurement")
    assert "LLMServingSim@5daddb21a545658d5150b535712d0494584b5278" in model.source
    assert model.decode_errors is not None
    assert model.mixed_errors is not None
    assert model.decode_errors.mean < 0.012
    assert model.mixed_errors.mean < 0.04
    assert "off by 1.0% on" in model.describe() or "off by 1.1% on" in model.describe()


def test_names__all_give_a_model():
    names = step_time_names()
    assert names[:2] == ["rtx-4090-llama-3.1-8b", "rtx-pro-6000-llama-3.1-8b"]
    assert "h100-llama-3-8b-vllm" in names
    assert len(names) == len(set(names)) == 41
    for name in names:
        assert 0.001 < step_time_from_spec(name).step_s([(512, 0)], 8, 4000) < 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtx-4090", r"got 'rtx-4090'; did you mean rtx-4090-llama-3\.1-8b\?"),
        ("H100-Llama-3-8B-vllm", "did you mean h100-llama-3-8b-vllm"),
        ("nothing at all", "got 'nothing at all'; `llmsched list step-times` has all"),
        ("", "step time must be a known name, a JSON file, or the prefix of layer tables"),
        ("unheard:of", "got 'unheard:of'"),
        ("drawn", "must tell prefill and decode steps apart, got latency model 'drawn'"),
    ],
)
def test_spec__that_is_nothing(text, message):
    with pytest.raises(ValueError, match=message):
        step_time_from_spec(text)


def test_spec__a_scheme(monkeypatch):
    monkeypatch.setitem(step_times.SCHEMES, "physics", lambda rest: steps_of(load_latency(rest)))
    assert step_time_from_spec("physics:h100-llama-3-8b-vllm").name == "h100-llama-3-8b-vllm"


def test_spec__layer_tables(tmp_path):
    prefix = write_layers(tmp_path / "gpu_tp1")
    model = step_time_from_spec(prefix, llm=LLMS["llama-3.1-8b"], max_running=128)
    assert isinstance(model, LayerTables)
    assert (model.n_layers, model.tp, model.tables_tp, model.max_running) == (32, 1, 1, 128)


@pytest.mark.parametrize(
    ("stem", "given", "tables_tp"),
    [
        ("gpu_tp2", None, 2),
        ("gpu_tp2", 1, 1),
        ("gpu", None, 1),
        ("http", None, 1),
        ("tp0", None, 1),
    ],
)
def test_spec__layer_tables_are_for_as_many_gpus_as_their_name_says(
    tmp_path, stem, given, tables_tp
):
    prefix = write_layers(tmp_path / stem)
    model = step_time_from_spec(
        prefix, llm=LLMS["llama-3.1-8b"], tp=4, tables_tp=given, all_reduce=REDUCE
    )
    assert isinstance(model, LayerTables)
    assert model.tables_tp == tables_tp


def test_spec__layer_tables_need_a_model(tmp_path):
    with pytest.raises(ValueError, match=r"must come with the model they stand for, got .* alone"):
        step_time_from_spec(write_layers(tmp_path / "x"))


def test_spec__tp_is_for_layer_tables():
    with pytest.raises(ValueError, match="tp must be 1 with anything but layer tables, got 2 for "):
        step_time_from_spec("rtx-4090-llama-3.1-8b", tp=2)


def test_spec__a_grid_file_as_steps(tmp_path):
    # given prefills and decode steps of the step form itself
    rows = [
        "batch_size,max_seq_len,mean_latency_sec,std_latency_sec,num_trials,prompt_tokens,"
        "output_tokens,prefill_mean_sec,prefill_std_sec,decode_step_mean_sec,decode_step_std_sec"
    ]
    for b in (1, 4, 16):
        for p, o in ((64, 64), (256, 128), (900, 300)):
            prefill_s, step_s = STEP.prefill_s(b, p), STEP.decode_step_s(b, p + o // 2)
            total_s = prefill_s + (o - 1) * step_s
            rows.append(f"{b},{p + o},{total_s!r},,1,{p},{o},{prefill_s!r},,{step_s!r},")
    path = tmp_path / "grid.csv"
    path.write_text("\n".join(rows) + "\n")
    with pytest.warns(CalibrationWarning):
        model = step_time_from_spec(f"{path}#step")
    assert model.step_s((), 8, 4000) == pytest.approx(steps_of(STEP).step_s((), 8, 4000), rel=1e-6)
