"""Latency models: the arithmetic, the names, the shipped sets, the range."""

import csv
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from installed_package import put_package

from llmsched._util.files import data_folder
from llmsched.latency import registry as latency
from llmsched.latency.base import (
    CalibrationWarning,
    LatencyModel,
    MeasuredRange,
    Shape,
    service_times_s,
)
from llmsched.latency.formulas import FourTermModel, PromptOutputModel, SaturatingModel
from llmsched.latency.registry import latency_names, load_latency, warn_outside
from llmsched.latency.step import StepModel

DATA = Path(__file__).parents[3] / "shared" / "data"
MEASURED = [name for name in latency_names() if load_latency(name).kind == "measurement"]


def test_reference__is_the_formula_left_to_right():
    # given the coefficients of DESIGN §12
    alpha, beta, gamma = 0.015, 0.0003, 0.4
    model = load_latency("reference")
    shapes = [(b, tokens) for b in range(1, 129) for tokens in (1, 917, 12_345)]
    expected = [alpha + ((beta * tokens) * (1 + ((gamma * (b - 1)) / b))) for b, tokens in shapes]
    # then each is the same float, and the order of operations is what makes it so
    assert [model.service_s(Shape(b, tokens, 0, 0)) for b, tokens in shapes] == expected
    other = [alpha + beta * tokens * (1 + gamma * ((b - 1) / b)) for b, tokens in shapes]
    assert other != expected


@pytest.mark.parametrize(
    ("name", "shape", "expected_s"),
    [
        ("reference", Shape(1, 1000, 600, 400), 0.315),  # 0.015 + 0.3
        ("reference", Shape(4, 1000, 600, 400), 0.405),  # 0.015 + 0.3·(1 + 0.4·0.75)
        ("reference-revised", Shape(2, 100, 60, 40), 0.724342),  # 0.05965 + 0.574·1.158
        ("multi-bin-paper", Shape(8, 900, 800, 100), 3.66),
    ],
)
def test_formulas__hand_worked(name, shape, expected_s):
    assert load_latency(name).service_s(shape) == pytest.approx(expected_s, rel=1e-14)
    assert load_latency(name).kind == "formula"


def test_prompt_output__hand_worked_terms():
    # given one term at a time, with b = 2, p = 200, o = 100
    shape = Shape(2, 300, 200, 100)

    def seconds(**terms):
        zero = dict.fromkeys(("a0_s", "a1_s", "a2_s", "a3_s"), 0.0)
        return PromptOutputModel(
            **zero | terms, prefill_share=0.25, name="hand", source="made up"
        ).service_s(shape)

    # then a0; a1·o; a2·b·(p/4 + 3o/4); a3·b·(p·o + o²/2)/1.5
    assert seconds(a0_s=0.5) == 0.5
    assert seconds(a1_s=1.0) == 100.0
    assert seconds(a2_s=1.0) == 2 * (50 + 75)
    assert seconds(a3_s=1.5) == pytest.approx(2 * (20_000 + 5_000), rel=1e-15)


def test_prompt_output__without_output_still_reads_the_weights_once():
    model = load_latency("h100-llama-3-8b-vllm")
    nothing = model.service_s(Shape(1, 0, 0, 0))
    assert nothing == pytest.approx(model.a0_s + model.a1_s, rel=1e-15)


def test_four_term__hand_worked():
    model = FourTermModel(a0_s=1, a1_s=0.1, a2_s=0.01, a3_s=0.001, name="hand", source="made up")
    assert model.service_s(Shape(2, 10, 0, 0)) == pytest.approx(1 + 1 + 0.2 + 0.2, rel=1e-15)


@pytest.mark.parametrize("name", MEASURED)
def test_measured_sets__reproduce_their_fit_on_the_diagonal(name):
    # given the coefficients as shipped and a shape with prompt = output
    model = load_latency(name)
    for b in (1, 16, 64):
        for tokens in (128, 300, 2048):
            fitted = (
                model.a0_s
                + model.a1_s * tokens
                + model.a2_s * b * tokens
                + model.a3_s * b * tokens**2
            )
            # then a few roundings apart at most
            assert model.service_s(Shape(b, 2 * tokens, tokens, tokens)) == pytest.approx(
                fitted, rel=16 * np.finfo(float).eps
            )


@pytest.mark.parametrize("name", [name for name in latency_names() if name != "drawn"])
def test_models__positive_and_monotone(name):
    # given a lattice of batch sizes, prompts and outputs
    b, p, o = np.meshgrid(
        [1, 2, 8, 64, 128],
        [0, 1, 2, 63, 1024, 8192],
        [0, 1, 2, 3, 500, 8192],
        indexing="ij",
    )
    times_s = service_times_s(load_latency(name), Shape(b, p + o, p, o))
    # then more requests, prompt or output never take less time, and no batch is free
    for axis in range(3):
        assert np.diff(times_s, axis=axis).min() >= 0
    assert times_s[:, :, 1:].min() > 0
    if name in MEASURED:
        assert times_s.min() > 0
        assert np.diff(times_s, axis=2)[:, :, 1:].min() > 0


@given(
    st.lists(
        st.tuples(st.integers(1, 128), st.integers(0, 200_000), st.integers(0, 200_000)),
        min_size=1,
    )
)
@pytest.mark.parametrize("name", ["reference", "multi-bin-paper", "h100-llama-3-8b-vllm"])
def test_models__arrays_give_the_same_floats_as_scalars(name, batches):
    # given int32 columns, whose products would overflow
    b, p, o = np.array(batches, dtype=np.int32).T
    model = load_latency(name)
    together = service_times_s(model, Shape(b, p + o, p, o))
    alone = [model.service_s(Shape(b, p + o, p, o)) for b, p, o in batches]
    assert together.tolist() == alone


def test_latency_names__unknown_name_says_what_is_near():
    with pytest.raises(ValueError, match="got 'h100-llama'") as caught:
        load_latency("h100-llama")
    text = str(caught.value)
    assert "\n" not in text
    assert "did you mean h100-llama-2-70b-tensorrt-llm-tp4" in text
    assert text.endswith("`llmsched list latency` has all")


def test_models__describe_themselves_in_one_line():
    for name in latency_names():
        model = load_latency(name)
        text = model.describe()
        assert model.name == name
        assert text.startswith(f"{name} ({model.kind}): T = ")
        assert model.source in text
        assert "\n" not in text
    assert "measured at batch size 1-64, prompt tokens 128-2048" in text


@dataclass(frozen=True)
class _Constant(LatencyModel):
    """What a user's package would declare."""

    name: str = "mine"
    kind: str = "formula"
    source: str = "a test"

    def service_s(self, batch):
        return 2.0

    def equation(self):
        return "T = 2 s"


@pytest.fixture
def installed_model(tmp_path, monkeypatch):
    """Puts a package with one latency model where Python finds it."""

    def put(code: str, *, entry: str = "mine") -> None:
        site = put_package(tmp_path, "gpus", code, group=latency.ENTRY_POINT_GROUP, entry=entry)
        monkeypatch.syspath_prepend(site)

    return put


def test_user_model__is_found_by_its_entry_point(installed_model):
    # given an installed package with an entry point of our group
    installed_model(f"from {__name__} import _Constant as make\n")
    # when loaded by name, then it works and has the inherited verbs
    model = load_latency("mine")
    assert model.service_s(Shape(1, 1, 1, 0)) == 2.0
    assert not model.outside(Shape(np.arange(3), 0, 0, 0)).any()
    assert model.describe() == "mine (formula): T = 2 s; a test"
    assert latency_names()[-1] == "mine"


def test_user_model__of_a_built_in_name_is_left_aside_with_a_note(installed_model):
    installed_model("1 / 0\n", entry="reference")
    with pytest.warns(UserWarning, match="'reference' is llmsched's own; that of package gpus is"):
        assert load_latency("reference").kind == "formula"
    assert load_latency("multi-bin-paper").kind == "formula"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(7)\n", "must be importable from gpus:make, got SystemExit: 7"),
        ("make = 42\n", "must name a callable"),
        ("def make():\n    1 / 0\n", "must be made without a failure, got ZeroDivisionError"),
        ("def make():\n    return 7\n", "must make an object with service_s, got 7"),
    ],
)
def test_user_model__that_is_not_in_order_is_one_line(installed_model, code, said):
    installed_model(code)
    with pytest.raises(ValueError, match=said) as caught:
        load_latency("mine")
    assert "latency model 'mine' of package gpus must" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [-1e-9, float("nan"), float("inf")])
def test_coefficients__must_be_finite_and_not_negative(bad):
    with pytest.raises(ValueError, match="finite and >= 0"):
        SaturatingModel(alpha_s=bad, beta_s_per_token=1, gamma=0, name="bad", source="test")
    with pytest.raises(ValueError, match="prefill_share must be"):
        PromptOutputModel(
            a0_s=0, a1_s=1, a2_s=0, a3_s=0, prefill_share=1.1, name="bad", source="test"
        )


def test_outside__counts_each_axis():
    measured = MeasuredRange(
        size=(1, 64), max_prompt_tokens=(128, 2048), max_output_tokens=(128, 2048)
    )
    shapes = Shape(
        np.array([1, 64, 65, 8, 8]),
        np.array([256, 4096, 256, 256, 256]),
        np.array([128, 2048, 128, 127, 128]),
        np.array([128, 2048, 128, 128, 2049]),
    )
    assert measured.outside(shapes).tolist() == [False, False, True, True, True]


def test_warn_outside__warns_once_with_count_share_and_range():
    # given 3 of 4 batches beyond the range, one of them on two axes
    shapes = Shape(
        np.array([1, 65, 8, 128]),
        np.zeros(4),
        np.array([128, 128, 5, 4000]),
        np.full(4, 200),
    )
    with pytest.warns(CalibrationWarning) as caught:
        assert warn_outside(load_latency("a100-llama-3-8b-vllm"), shapes) == 3
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith("3 of 4 batches (75.0%) lie outside")
    assert "(batch size 1-64, prompt tokens 128-2048, output tokens 128-2048)" in text
    assert "batch size: 0 below, 2 above; prompt tokens: 1 below, 1 above; their" in text
    assert warning.filename == __file__


def test_warn_outside__is_silent_inside_and_for_formulas():
    inside = Shape(np.array([1, 64]), np.zeros(2), np.full(2, 128), np.full(2, 2048))
    assert warn_outside(load_latency("a100-llama-3-8b-vllm"), inside) == 0
    huge = Shape(np.array([10_000]), np.array([10**9]), np.array([10**9]), np.array([0]))
    assert warn_outside(load_latency("reference"), huge) == 0


def test_measured_sets__have_what_the_table_promises():
    with (data_folder("calibration") / latency.MEASURED_SETS).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [row["name"] for row in rows]
    assert names == sorted(set(names))
    assert {"h100-llama-3-8b-vllm", "a100-llama-3-8b-vllm", "h100-llama-3-70b-vllm-tp4"} <= {*names}
    assert not {name for name in names if "aquila" in name or "h100-qwen2-7b-tensorrt" in name}
    for row in rows:
        assert float(row["max_relative_error"]) <= 0.20
        assert float(row["max_relative_error"]) < float(row["reference_max_relative_error"])


@pytest.mark.data
def test_measured_sets__come_out_of_the_source_byte_for_byte(tmp_path, capsys):
    if not DATA.is_dir():
        pytest.skip(f"needs the source measurements in {DATA}")
    # given the script that ships with the table
    folder = data_folder("calibration")
    spec = importlib.util.spec_from_file_location("derive", folder / "derive_measured_sets.py")
    derive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(derive)
    # when run on the source
    derive.main(["--data", str(DATA), "--out", str(tmp_path / "again.csv")])
    # then the table, and the errors that README.md states
    shipped = (folder / latency.MEASURED_SETS).read_bytes()
    assert (tmp_path / "again.csv").read_bytes() == shipped
    shipped = (folder / latency.MEASURED_COVARIANCES).read_text(encoding="utf-8")
    again = (tmp_path / "again_covariance.csv").read_text(encoding="utf-8")
    assert _numbers(again) == pytest.approx(_numbers(shipped), rel=1e-6, abs=1e-30)
    printed = capsys.readouterr().out
    assert "reference | all (66) | 0.717 | 12.3% | 53.4%" in printed
    assert "four-term | all (66) | 0.997 | 2.1% | 9.1%" in printed
    assert "smaller worst error in 66 of 66" in printed


def _numbers(table):
    return [float(cell) for line in table.splitlines()[1:] for cell in line.split(",")[1:]]


def test_measured_sets__can_all_be_drawn_from():
    # given 40 draws of each set, at a batch inside its range
    shape = Shape(32, 1024, 512, 512)
    for name in MEASURED:
        model, rng = load_latency(name), np.random.default_rng(1)
        drawn = [model.draw(rng) for _ in range(40)]
        times_s = np.array([draw.service_s(shape) for draw in drawn])
        # then they differ, by no more than the set's worst cell, around the fitted time
        assert 0 < times_s.std() < 0.2 * model.service_s(shape)
        assert times_s.mean() == pytest.approx(model.service_s(shape), rel=0.05)
        assert drawn[0].uncertainty is None
        assert drawn[0].name == name
        assert drawn[0].source.endswith("one draw of its calibration errors")
        assert "calibration errors known" in model.describe()


def test_measured_sets__a_lent_prefill_share_is_less_sure_than_a_measured_one():
    # given the origin of each share, as the table states it
    with (data_folder("calibration") / latency.MEASURED_SETS).open(encoding="utf-8") as file:
        own = {
            row["name"]: row["prefill_share_from"].startswith("own") for row in csv.DictReader(file)
        }
    error = {name: load_latency(name).uncertainty.standard_errors[4] for name in MEASURED}
    lent = {error[name] for name in MEASURED if not own[name]}
    # then all lent ones have one error, that of lending to the sets whose own is known
    assert len(lent) == 1
    assert np.median([error[name] for name in MEASURED if own[name]]) < lent.pop() < 0.5


def test_formulas__have_no_calibration_errors_to_draw():
    for name in ("reference", "reference-revised", "multi-bin-paper", "drawn"):
        with pytest.raises(
            ValueError, match=f"'{name}' \\(formula\\) must have calibration errors"
        ):
            load_latency(name).draw(np.random.default_rng(1))
        assert "calibration errors" not in load_latency(name).describe()


def test_step_model__hand_worked():
    # given c0 = 10 ms, 0.1 ms per prompt token beyond 100, 1 ms per request, 1 µs per KV token
    model = StepModel(
        c0_s=0.01, cp_s=1e-4, n0_tokens=100, cb_s=1e-3, ckv_s=1e-6, name="hand", source="made up"
    )
    # then a prefill of 2 × 200 tokens is 10 + 0.1·(400 - 100) + 2 = 42 ms, of 2 × 50 none beyond
    assert model.prefill_s(2, 200) == pytest.approx(0.042, rel=1e-14)
    assert model.prefill_s(2, 50) == pytest.approx(0.012, rel=1e-14)
    # and a decode step over 201 tokens each is 10 + 2 + 0.402 ms
    assert model.decode_step_s(2, 201) == pytest.approx(0.012402, rel=1e-14)
    # and three tokens out are a prefill and the steps that read 201 and 202 tokens each
    steps_s = 0.042 + 0.012402 + 0.012404
    assert model.service_s(Shape(2, 203, 200, 3)) == pytest.approx(steps_s, rel=1e-14)


@given(st.integers(1, 128), st.integers(0, 5000), st.integers(0, 600))
def test_step_model__is_the_sum_of_its_steps(b, p, o):
    model = StepModel(
        c0_s=0.02, cp_s=3e-5, n0_tokens=700, cb_s=4e-4, ckv_s=5e-8, name="hand", source="made up"
    )
    steps_s = [model.decode_step_s(b, p + t) for t in range(1, o)]
    whole_s = model.service_s(Shape(b, p + o, p, o))
    assert whole_s == pytest.approx(model.prefill_s(b, p) + sum(steps_s), rel=1e-12)


def test_step_model__arrays_give_the_same_floats_as_scalars():
    # given int32 columns, whose products would overflow
    rng = np.random.default_rng(3)
    columns = rng.integers([1, 0, 0], [129, 200_000, 200_000], (200, 3)).astype(np.int32)
    b, p, o = columns.T
    model = StepModel(
        c0_s=0.02, cp_s=3e-5, n0_tokens=700, cb_s=4e-4, ckv_s=5e-8, name="hand", source="made up"
    )
    together = service_times_s(model, Shape(b, p + o, p, o))
    alone = [model.service_s(Shape(b, p + o, p, o)) for b, p, o in columns.tolist()]
    assert together.tolist() == alone


@pytest.mark.data
def test_h100_set__meets_its_measured_first_token():
    if not DATA.is_dir():
        pytest.skip(f"needs the source measurements in {DATA}")
    # given b = 16, prompt 1024, one output token: measured 0.42567 s
    path = DATA / "latency" / "llm_inference_bench_ttft_end.csv"
    with path.open(encoding="utf-8") as file:
        (row,) = (
            row
            for row in csv.DictReader(file)
            if (row["Hardware"], row["Framework"]) == ("Nvidia H100 GPU", "vLLM")
            and "Llama-3-8B" in row["Model"]
        )
    model = load_latency("h100-llama-3-8b-vllm")
    # then the prefill share makes the model meet it, to the 4 digits it is stored with
    assert model.service_s(Shape(16, 1025, 1024, 1)) == pytest.approx(
        float(row["TTFT Latency"]), rel=5e-4
    )
