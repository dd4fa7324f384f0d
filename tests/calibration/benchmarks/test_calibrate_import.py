"""`llmsched calibrate import`: files in, a model file out, errors in a line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from result_files import (
    EXAMPLES,
    TRUTH,
    aiperf_file,
    guidellm_file,
    inferencex_site_row,
    save,
    together,
    vllm_file,
)

from llmsched.calibration.benchmarks.registry import FORMATS
from llmsched.cli.main import main
from llmsched.latency.base import Shape
from llmsched.latency.registry import load_latency

TWO_SHAPES = [
    together(n, prompt, output) for n in (1, 4, 16) for prompt, output in ((500, 101), (2000, 401))
]


def run(*arguments):
    return CliRunner().invoke(main, ["calibrate", "import", *map(str, arguments)])


@pytest.mark.parametrize(
    ("tool", "write"),
    [
        (
            "vllm-bench",
            lambda tmp: [
                save(tmp / f"{i}.json", vllm_file(point)) for i, point in enumerate(TWO_SHAPES)
            ],
        ),
        ("guidellm", lambda tmp: [save(tmp / "b.json", guidellm_file(TWO_SHAPES))]),
        (
            "aiperf",
            lambda tmp: [
                save(tmp / f"{i}.json", aiperf_file(point)) for i, point in enumerate(TWO_SHAPES)
            ],
        ),
    ],
)
def test_command__the_model_file_drives_a_simulation(tmp_path, tool, write):
    # given the result files of a tool
    files = write(tmp_path)
    out, figure = tmp_path / "model.json", tmp_path / "f.svg"
    # when they are imported
    arguments = ["calibrate", "import", tool, *map(str, files), "--out", str(out)]
    result = CliRunner().invoke(main, [*arguments, "--figure", str(figure), "--json"])
    # then the parameters come out, the file holds them, and `--latency` takes the file
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["model"]["parameters"]["cp_s"] == pytest.approx(TRUTH.cp_s, rel=1e-6)
    assert [point["concurrency"] for point in shown["points"]] == [1, 1, 4, 4, 16, 16]
    assert load_latency(str(out)).service_s(Shape(8, 1300, 1000, 300)) == pytest.approx(
        TRUTH.service_s(Shape(8, 1300, 1000, 300)), rel=1e-6
    )
    assert figure.stat().st_size > 1000


def test_command__text_has_a_line_per_point_and_notes_go_to_stderr(tmp_path):
    files = [str(save(tmp_path / f"{n}.json", vllm_file(together(n)))) for n in (1, 4, 16, 32)]
    out = tmp_path / "model.json"
    result = CliRunner().invoke(
        main, ["calibrate", "import", "vllm-bench", *files, "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split()[:3] == ["1", "500", "101"]
    assert "Relative error of the batch times: median 0.0%" in result.stdout
    assert "ckv = 0" in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "{tmp}/model.txt"], "must end in .json"),
        (["--out", "{tmp}/no/model.json"], "must exist; create it first"),
        (["--out", "{tmp}/1.json"], "would replace the result file"),
        (["--out", "{tmp}/m.json", "--figure", "{tmp}/f.txt"], "a figure must end in"),
        (["--out", "{tmp}/m.json", "--concurrency", "0"], "whole numbers from 1 to 1000000"),
        (["--out", "{tmp}/m.json", "--concurrency", "1,x"], "got '1,x'"),
        (["--out", "{tmp}/m.json", "--concurrency", "9" * 5000], "whole numbers from 1"),
        (["--out", "{tmp}/m.json", "--where", "tp"], "must be FIELD=VALUE"),
        (["--out", "{tmp}/m.json", "--where", "tp=1", "--where", "tp=2"], "each field once"),
        (["--out", "{tmp}/m.json", "--output-tokens", "0"], "0 is not in the range"),
        ([], "Missing option '--out'"),
    ],
)
def test_command__bad_options_end_with_exit_code_2_and_no_file(tmp_path, more, message):
    before = {
        path: path.read_bytes() for path in [save(tmp_path / "1.json", vllm_file(together(1)))]
    }
    arguments = [part.format(tmp=tmp_path) for part in more]
    result = CliRunner().invoke(
        main, ["calibrate", "import", "vllm-bench", str(tmp_path / "1.json"), *arguments]
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_command__a_bad_file_is_one_line_and_exit_code_2(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("nothing")
    out = tmp_path / "m.json"
    result = CliRunner().invoke(
        main, ["calibrate", "import", "guidellm", str(path), "--out", str(out)]
    )
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    assert not out.exists()


def test_command__auto_takes_several_formats_and_one_concurrency_a_file(tmp_path):
    # given a sweep from before concurrencies were saved, and a file of another tool
    files = [
        save(tmp_path / f"{n}.json", vllm_file(together(n), max_concurrency=None)) for n in (1, 4)
    ]
    files.append(save(tmp_path / "a.json", aiperf_file(together(16))))
    # when they are imported
    result = run("auto", *files, "--concurrency", "1,4,16", "--out", tmp_path / "m.json", "--json")
    # then all three are there
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["points"]
    assert [point["concurrency"] for point in points] == [1, 4, 16]


def test_command__where_picks_a_server_out_of_a_list(tmp_path):
    rows = [inferencex_site_row(together(n)) for n in (4, 8, 16)]
    rows += [inferencex_site_row(together(n), hardware="b200") for n in (4, 8, 16)]
    path = save(tmp_path / "rows.json", rows)
    out = ["--out", tmp_path / "m.json"]
    result = run("inferencex", path, *out)
    assert result.exit_code == 2
    assert "got device b200, h200; choose with --where" in result.stderr
    result = run("inferencex", path, *out, "--where", "hardware=h200", "--where", "conc=4")
    assert result.exit_code == 2
    assert "got only 4" in result.stderr
    result = run("inferencex", path, *out, "--where", "hardware=h200")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("Note:") == len(set(result.stderr.splitlines())) - 1


def test_command__idle_clients_are_seen_in_the_table(tmp_path):
    files = [save(tmp_path / f"{n}.json", vllm_file(together(n))) for n in (1, 4, 32)]
    slow = vllm_file(together(16))
    files.append(save(tmp_path / "16.json", {**slow, "duration": 2 * slow["duration"]}))
    result = run("auto", *files, "--out", tmp_path / "m.json")
    assert result.exit_code == 0, result.output
    assert "8.5 of 16" in result.stdout
    assert "8 of 16 requests were in flight" in result.stderr


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ("csv", "must have 20 requests or more"),  # a log would be simulated
        ("stages", "must be fixed and said (a closed loop)"),
        ("llmservingsim", "must have 20 requests or more"),
        ("inference-perf", "must be fixed and said (a closed loop)"),
    ],
)
def test_command__an_open_loop_is_refused_in_a_line(tmp_path, example, says):
    path = EXAMPLES[example](tmp_path)
    result = run("auto", path, "--out", tmp_path / "m.json")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr


def test_command__the_help_lists_every_format(tmp_path):
    text = run("--help").stdout
    for one in FORMATS.values():
        assert f"{one.name} " in text
        assert one.title in text
