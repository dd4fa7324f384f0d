"""`llmsched calibrate fit` and `show`: the table, the words, the files, the errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from llmsched.cli.main import main
from llmsched.latency.base import Shape
from llmsched.latency.fit.grid_columns import HEADER, STATUS_COLUMNS
from llmsched.latency.registry import load_latency


def run(*arguments):
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


@pytest.fixture
def grid_file(tmp_path):
    """A GPU whose time grows with the batch: 4 sizes × 4 lengths, 2 % of noise, one cell failed."""
    rng = np.random.default_rng(1)
    rows = [",".join((*HEADER, *STATUS_COLUMNS))]
    for b in (1, 4, 16, 64):
        for tokens in (128, 512, 2048, 4096):
            if (b, tokens) == (64, 4096):
                rows.append("64,4096,,,,out-of-memory")
                continue
            mean = 0.05 + 0.008 * tokens + 7e-5 * b * tokens + 9e-8 * b * tokens**2
            mean *= 1 + 0.02 * rng.standard_normal()
            std = 0.06 * mean * rng.uniform(0.8, 1.2)
            rows.append(f"{b},{tokens},{mean!r},{std!r},9,ok")
    path = tmp_path / "grid.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_fit__prints_the_forms_the_parameters_and_what_they_mean(grid_file):
    result = run("fit", grid_file, "--bootstrap", "50")
    assert result.exit_code == 0, result.output
    out = result.stdout
    # the table: a row per form, and why two of them are not there
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert lines["four-term"].split()[1] == "4"
    assert "step: grid 'grid.csv' (form step) must know prompts and outputs apart" in out
    assert "interpolation: grid 'grid.csv' (form interpolation) must have every batch size" in out
    # the choice with its parameters, errors and both intervals
    assert "Taken: four-term, chosen by cross-validation" in out
    assert "± standard error" in out
    assert "bootstrap 95 %" in out
    assert "Bootstrap: 50 fits redrawn from the errors of the trials." in out
    # and the warning in words
    assert "The α/β/γ form saturates in the batch size: at batch 64 and" in out
    assert "Don't size a cluster with it." in out
    assert "1 of 16 cells ran out of memory" in result.stderr


def test_fit__json_has_what_the_text_has(grid_file):
    result = run("fit", grid_file, "--json", "--bootstrap", "20", "--seed", "3")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert found["chosen"] == "four-term"
    assert found["out_of_memory"] == [[64, 4096]]
    forms = {row["form"]: row for row in found["forms"]}
    assert forms["four-term"]["held_out_median_relative_error"] < 0.05
    assert forms["reference"]["held_out_median_relative_error"] > 0.1
    assert forms["step"]["refusal"]
    by_name = {row["name"]: row for row in found["parameters"]}
    a1 = by_name["a1_s"]
    assert a1["interval"][0] < a1["value"] < a1["interval"][1]
    low, high = found["bootstrap"]["intervals"]["a1_s"]
    assert low < a1["value"] < high
    assert found["model"]["parameters"]["a1_s"] == a1["value"]
    assert "saturates" in found["in_words"]["reference"]


def test_fit__the_model_file_is_the_model(grid_file, tmp_path):
    out = tmp_path / "gpu.json"
    result = run("fit", grid_file, "--form", "reference", "--out", out)
    assert result.exit_code == 0, result.output
    assert "Taken: reference, asked for" in result.stdout
    model = load_latency(out)
    with pytest.warns(UserWarning, match="out of memory"):
        assert model == load_latency(f"{grid_file}#reference")
    # and drives a scheduler
    served = CliRunner().invoke(
        main, ["static-fifo", "--requests", "30", "--latency", str(out), "--json"]
    )
    assert served.exit_code == 0, served.output
    assert json.loads(served.stdout)["latency_model"] == "grid.csv"


def test_fit__a_parameter_on_its_bound_is_named(tmp_path):
    path = tmp_path / "grid.csv"
    rows = [
        f"{b},{t},{(0.01 * t + 1e-6 * b * t**2 - 0.2) * (1 + 0.01 * ((b + t) % 3))!r},,1"
        for b in (1, 4, 16)
        for t in (128, 512, 2048)
    ]
    path.write_text("\n".join([",".join(HEADER), *rows]) + "\n")
    result = run("fit", path, "--form", "four-term")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("a0_s"))
    assert line.split() == ["a0_s", "0", "-", "on", "its", "bound", "0"]
    assert "Errors from the residuals" in result.stdout


@pytest.mark.slow
def test_fit__draws_both_figures(grid_file, tmp_path):
    result = run(
        "fit", grid_file, "--figure", tmp_path / "f.svg", "--residuals", tmp_path / "r.png"
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1"], "--seed does nothing without --bootstrap"),
        (["--out", "model.csv"], "must end in .json"),
        (["--out", "grid.json"], "would take the name of the grid's provenance"),
        (["--out", "no/model.json"], "folder of 'no/model.json' must exist"),
        (["--figure", "f.txt"], "a figure must end in"),
        (["--figure", "same.png", "--residuals", "same.png"], "must not be the file of --figure"),
        (["--bootstrap", "1"], "--bootstrap"),
        (["--form", "cubic"], "--form"),
        (["--form", "step"], "must know prompts and outputs apart"),
        (["--form", "interpolation"], "must have every batch size at every length"),
    ],
)
def test_fit__refuses_in_one_line_and_writes_nothing(grid_file, arguments, message, monkeypatch):
    monkeypatch.chdir(grid_file.parent)
    before = sorted(grid_file.parent.iterdir())
    result = run("fit", "grid.csv", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert sorted(grid_file.parent.iterdir()) == before


def test_fit__does_not_replace_its_grid(tmp_path, grid_file):
    link = tmp_path / "model.json"
    link.hardlink_to(grid_file)
    result = run("fit", grid_file, "--out", link)
    assert result.exit_code == 2
    assert "the output would replace the latency grid" in result.stderr


def test_fit__a_missing_or_damaged_grid_is_one_line(tmp_path):
    assert run("fit", tmp_path / "no.csv").exit_code == 2
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    result = run("fit", tmp_path / "bad.csv")
    assert result.exit_code == 2
    assert "bad.csv:1: header must be batch_size" in result.stderr


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reference", ["formula", "Calibration errors: none known.", "T = 15 ms", "nowhere"]),
        ("h100-llama-3-8b-vllm", ["measurement", "prefill_share", "± standard error", "BSD-3"]),
        ("drawn", ["formula", "times come with the workload"]),
    ],
)
def test_show__says_what_a_model_is(name, expected):
    result = run("show", name)
    assert result.exit_code == 0, result.output
    for text in expected:
        assert text in result.stdout


def test_show__its_table_is_the_model():
    found = json.loads(run("show", "h100-llama-3-8b-vllm", "--json").stdout)
    model = load_latency("h100-llama-3-8b-vllm")
    assert found["calibration_errors"] is True
    assert found["model"]["form"] == "prompt-output"
    assert found["batch_sizes"][0] == 1
    assert found["batch_sizes"][-1] == 64
    assert (found["total_tokens"][0], found["total_tokens"][-1]) == (256, 4096)
    assert found["service_s"][-1][0] == model.service_s(Shape(64, 256, 128, 128))
    assert json.loads(run("show", "drawn", "--json").stdout)["service_s"] is None


def test_show__reads_a_grid_and_a_model_file(grid_file, tmp_path):
    run("fit", grid_file, "--out", tmp_path / "gpu.json")
    from_file = run("show", tmp_path / "gpu.json")
    from_grid = run("show", grid_file)
    assert from_file.exit_code == from_grid.exit_code == 0
    assert from_file.stdout == from_grid.stdout
    assert "Time of a batch [s]" in from_file.stdout
    assert run("show", "gpu").exit_code == 2


@pytest.fixture
def padded_grid(tmp_path):
    """A GPU that pads its batches: steps in the batch size, which no formula follows."""
    rows = [
        f"{b},{t},{t * (0.01 + 0.02 * (b > 8) + 0.03 * (b > 20)) * (1 + 1e-3 * ((b + t) % 3))!r},,1"
        for b in (1, 2, 4, 8, 16, 32)
        for t in (128, 256, 512, 1024)
    ]
    path = tmp_path / "padded.csv"
    path.write_text("\n".join([",".join(HEADER), *rows]) + "\n")
    return path


def test_fit__bootstrap_beside_an_interpolation_is_of_the_best_parametric_form(
    padded_grid, tmp_path
):
    out = tmp_path / "gpu.json"
    result = run("fit", padded_grid, "--bootstrap", "20", "--out", out)
    # then the table and the model are there, and the note says of what the bootstrap is
    assert result.exit_code == 0, result.output
    assert "Taken: interpolation" in result.stdout
    assert "For comparison, four-term" in result.stdout
    assert "bootstrap 95 %" in result.stdout
    assert (
        "Note: the interpolation taken has no residuals to redraw, so --bootstrap is of four-"
        in (result.stderr)
    )
    assert json.loads(out.read_text())["form"] == "interpolation"
    found = json.loads(run("fit", padded_grid, "--bootstrap", "20", "--json").stdout)
    assert found["bootstrap"]["form"] == "four-term"
    assert set(found["bootstrap"]["intervals"]) == {"a0_s", "a1_s", "a2_s", "a3_s"}
    # and an interpolation that was asked for is refused before anything is shown
    refused = run("fit", padded_grid, "--bootstrap", "20", "--form", "interpolation")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "an interpolation has none; leave it out" in refused.stderr


def test_show__of_json_nested_too_deep_is_one_line(tmp_path):
    (tmp_path / "m.json").write_text("[" * 100_000)
    result = run("show", tmp_path / "m.json")
    assert result.exit_code == 2
    assert "must be a JSON file, got one nested too deep" in result.stderr
    assert isinstance(result.exception, SystemExit)
