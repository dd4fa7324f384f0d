"""`llmsched trace`: what it prints where, and how it fails."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner, Result

from llmsched._util.files import data_folder
from llmsched.cli.commands.trace import trace
from llmsched.workload.fetch import FetchError
from llmsched.workload.formats import registry as formats
from llmsched.workload.formats.registry import read_trace

HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
ROWS = [
    (5, "ChatGPT", 472, 18, "Conversation log"),
    (45, "ChatGPT", 1087, 230, "Conversation log"),
    (105, "GPT-4", 100, 0, "API log"),
    (105, "GPT-4", 200, 7, "API log"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "b.csv"
    lines = [f"{t},{m},{p},{o},{p + o},{log}\n" for t, m, p, o, log in ROWS]
    path.write_text(HEADER + "".join(lines))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(trace, [str(argument) for argument in arguments])


def described(*arguments: object) -> dict[str, object]:
    result = run("info", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def assert_refused(result: Result, *texts: str) -> None:
    """Exit code 2 by itself, the reason in one line on stderr, nothing on stdout."""
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    reason = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(reason) == 1
    assert result.stderr.splitlines()[-1] == reason[0]
    for text in texts:
        assert text in reason[0]


def test_info__prints_every_figure_with_its_unit(file):
    result = run("info", file)
    assert result.exit_code == 0
    assert result.stderr == ""
    rows = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    table = {title: text.strip() for title, text in rows.items()}
    assert table["trace"] == "b.csv"
    assert table["requests"] == "4"
    assert table["span [s]"] == "100"
    assert table["read as"] == "burstgpt (CSV, times in seconds)"
    assert table["mean rate [1/s]"] == "0.03"  # three gaps in 100 s
    # gaps 40, 60, 0: mean 100/3, variance (40² + 60² + 0) / 3 - (100/3)²
    assert table["CV of gaps"] == f"{math.sqrt(5200 / 3 - 1e4 / 9) / (100 / 3):.4g}"
    assert table["burst shape"].startswith("undefined")
    assert table["prompt [tokens]"].startswith("mean 464.8, p50 336, ")
    assert table["output [tokens]"].endswith("max 230")
    assert table["failures"].startswith("25.00%")
    assert table["tied stamps"] == "25.00%"


def test_info__json_is_one_object_with_the_same_figures(file):
    summary = described(file)
    assert summary["requests"] == 4
    assert summary["span_s"] == 100.0
    assert summary["prompt_tokens"]["max"] == 1087
    assert summary["burst_shape"] is None
    assert summary["left_out"] == []


@pytest.mark.parametrize(
    ("options", "requests", "left_out"),
    [
        (["--requests", "2"], 2, [["after the first 2", 2]]),
        (["--window", "40:100"], 1, [["outside the window 40 to 100 s", 3]]),
        (["--window", ":100"], 2, [["outside the window 0 to 100 s", 2]]),
        (["--window", "40:"], 3, [["outside the window 40 to inf s", 1]]),
        (["--model", "GPT-4"], 2, [["model other than GPT-4", 2]]),
        (["--log-type", "API log"], 2, [["log type other than API log", 2]]),
        (["--failures", "drop"], 3, [["failed: no output tokens", 1]]),
        (["--trace-format", "burstgpt"], 4, []),
    ],
)
def test_info__every_option_chooses_and_is_reported(file, options, requests, left_out):
    summary = described(file, *options)
    assert summary["requests"] == requests
    assert summary["left_out"] == left_out
    table = run("info", file, *options).stdout
    for rule, count in left_out:
        assert f"{count} ({rule})" in table


def test_info__asks_for_a_unit_that_cannot_be_known_and_takes_it(tmp_path):
    path = tmp_path / "t.jsonl"
    keys = '"input_length": 3, "output_length": 4}'
    path.write_text("".join(f'{{"timestamp": {time}, {keys}\n' for time in (0, 1500)))
    assert_refused(
        run("info", path), "in seconds they span 1500 s", "--time-unit s or --time-unit ms"
    )
    for unit, span_s in (("s", 1500), ("ms", 1.5)):
        assert described(path, "--time-unit", unit)["span_s"] == span_s
    assert "times in milliseconds" in run("info", path, "--time-unit", "ms").stdout


def test_info__proposes_columns_and_takes_them(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("created,n_in,n_out,user\n1700000000,3,4,a\n1700000002,9,4,b\n")
    proposed = "arrival=created,prompt=n_in,output=n_out"
    assert_refused(run("info", path), f"say it with --columns {proposed}")
    assert described(path, "--columns", proposed)["span_s"] == 2.0
    assert run("convert", path, tmp_path / "o.csv", "--columns", proposed).exit_code == 0
    assert read_trace(tmp_path / "o.csv").prompt_tokens.tolist() == [3, 9]
    assert_refused(run("info", path, "--columns", "prompt=n_in"), "must name a column for output")


def test_info__describes_sessions():
    table = run("info", "sessions", "--requests", "2000").stdout
    rows = dict(line.split("  ", 1) for line in table.splitlines())
    summary = described("sessions", "--requests", "2000")
    assert rows["sessions"].strip().endswith("turns on average")
    assert rows["pauses"].split(" s on average")[0].endswith(f" {summary['think_mean_s']:.4g}")
    assert 0 < summary["waiting_share"] < 1
    assert summary["think_mean_s"] > 0


def test_info__tells_what_prompts_share(tmp_path, file):
    path = tmp_path / "m.jsonl"
    row = '"timestamp": 0, "input_length": 1500, "output_length": 4'
    lists = ("[1, 2]", "[1, 2, 3]", "[1, 5]", "[7]")
    path.write_text("".join(f'{{{row}, "hash_ids": {ids}}}\n' for ids in lists))
    # 1 and 2, then 1 again, of eight
    assert described(path)["shared_prefix_share"] == 3 / 8
    assert "37.50% of the pieces came before" in run("info", path).stdout
    assert described(file)["shared_prefix_share"] is None


def test_info__tells_of_sorted_rows(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n1,1,1\n0,1,1\n")
    note = "1 of 2 rows were out of order and were sorted by time"
    assert note in run("info", path).stdout
    assert note in run("convert", path, tmp_path / "o.csv").stderr
    assert run("info", path, "--json").stderr == f"Note: {note}\n"


def test_info__fewer_requests_than_asked_for_is_a_line_on_stderr(file):
    result = run("info", file, "--requests", "9")
    assert result.exit_code == 0
    warning = "Note: asked for 9 requests, but trace 'b.csv' has only 4"
    assert result.stderr.startswith(warning)
    assert result.stderr.count("\n") == 1


def test_convert__writes_the_chosen_requests(file, tmp_path):
    out = tmp_path / "o.parquet"
    result = run("convert", file, out, "--failures", "drop", "--rps-scale", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "Left out: 1 (failed: no output tokens)",
        f"{out}: 3 requests, format parquet",
    ]
    trace_again = read_trace(out, trace_format="parquet")
    assert trace_again.arrival_s.tolist() == [0.0, 20.0, 50.0]
    assert trace_again.model.names == ("ChatGPT", "GPT-4")


def test_convert__keeps_everything_in_real_time_by_default(file, tmp_path):
    out = tmp_path / "o"
    assert run("convert", file, out, "--to", "burstgpt").exit_code == 0
    assert out.read_text() == file.read_text().replace("\n5,", "\n0,").replace(
        "\n45,", "\n40,"
    ).replace("\n105,", "\n100,")


def test_convert__jitter_follows_the_seed(file, tmp_path):
    outs = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"o{number}.csv"
        assert run("convert", file, out, "--jitter", "1", "--seed", seed).exit_code == 0
        outs.append(out.read_bytes())
    assert outs[0] == outs[1] != outs[2]
    moved = read_trace(tmp_path / "o0.csv")
    assert (np.abs(moved.arrival_s - [0.0, 40.0, 100.0, 100.0]) < 1.0).all()
    assert (np.diff(moved.arrival_s) > 0).all()


def test_convert__tells_what_the_format_cannot_hold(file, tmp_path):
    out = ("--to", "mooncake", "--rps-scale", "3")
    result = run("convert", file, tmp_path / "o.jsonl.gz", *out)
    assert result.exit_code == 0
    assert "Note: mooncake holds times in whole milliseconds: 3 of 4" in result.stderr
    assert "Note: mooncake has no column for model" in result.stderr


def test_bad_file__is_one_line_and_exit_code_2(file, tmp_path):
    assert_refused(run("info", tmp_path / "absent.csv"), "absent.csv: no such file")
    assert_refused(run("info", tmp_path), "got a folder")
    file.write_text(file.read_text().replace("1087", "-1087", 1))
    expected = ("b.csv: line 3, column 'Request tokens'", "whole number", "got '-1087'")
    assert_refused(run("info", file), *expected)
    assert_refused(run("convert", file, tmp_path / "o.csv"), *expected)
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--requests", "0"], "'--requests'"),
        (["--requests", "1.5"], "'--requests'"),
        (["--window", "5"], "must be START:END seconds with 0 <= START < END, got '5'"),
        (["--window", "9:3"], "got '9:3'"),
        (["--window", "-9:3"], "got '-9:3'"),
        (["--window", "a:b"], "got 'a:b'"),
        (["--window", "nan:3"], "got 'nan:3'"),
        (["--window", "200:"], "leaves out all 4"),
        (["--model", "GPT-5"], "model must be one in trace 'b.csv': 'ChatGPT', 'GPT-4'"),
        (["--log-type", "x"], "log type must be one"),
        (["--failures", "maybe"], "'--failures'"),
        (["--trace-format", "azure"], "looks like burstgpt"),
        (["--trace-format", "excel"], "trace format must be one of burstgpt, azure"),
    ],
)
def test_bad_option__is_exit_code_2(file, tmp_path, options, expected):
    assert_refused(run("info", file, *options), expected)
    assert_refused(run("convert", file, tmp_path / "o.csv", *options), expected)
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--rps-scale", "0"], "'--rps-scale': must be a finite number from 1e-06 to 1e+09, got 0"),
        (["--rps-scale", "1e10"], "from 1e-06 to 1e+09, got 1e+10"),
        (["--rps-scale", "fast"], "'--rps-scale'"),
        (["--jitter", "-1"], "'--jitter': must be a finite number from 0 to 1e+06 seconds, got -1"),
        (["--jitter", "nan"], "got nan"),
        (["--seed", "-1"], "'--seed'"),
        (["--to", "excel"], "got 'excel'"),
    ],
)
def test_convert__bad_option_is_exit_code_2(file, tmp_path, options, expected):
    assert_refused(run("convert", file, tmp_path / "o.csv", *options), expected)


def test_convert__to_a_folder_that_is_not_there_is_refused(file, tmp_path):
    assert_refused(run("convert", file, tmp_path / "no" / "o.csv"), "create it first")


def test_convert__never_replaces_what_it_reads(file, tmp_path, monkeypatch):
    # given the file and a profile, under their names and behind links
    monkeypatch.chdir(tmp_path)
    profile = tmp_path / "p.toml"
    profile.write_bytes((data_folder("workloads") / "poisson.toml").read_bytes())
    (tmp_path / "link.csv").symlink_to(file)
    (tmp_path / "here").symlink_to(tmp_path)
    before = file.read_bytes(), profile.read_bytes()
    # when / then
    for source, out in (
        *((file, file), ("b.csv", file), (file, "./b.csv"), (file, "link.csv")),
        *(("link.csv", file), (file, "here/b.csv"), ("here/link.csv", "link.csv")),
    ):
        assert_refused(run("convert", source, out), f"the output would replace the trace {source}")
    assert_refused(run("convert", profile, profile, "--to", "csv"), "would replace", "p.toml")
    assert (file.read_bytes(), profile.read_bytes()) == before
    assert (tmp_path / "link.csv").is_symlink()


def test_convert__that_fails_at_the_end_is_a_failed_run(file, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "write_table", fail)
    result = run("convert", file, tmp_path / "o.csv")
    assert result.exit_code == 1
    expected = f"Error: {tmp_path / 'o.csv'}: cannot be written (No space left on device)\n"
    assert result.stderr == expected


def test_convert__checks_the_output_before_it_reads(file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "llmsched.workload.workload.Workload.load", lambda *_: pytest.fail("it was read")
    )
    assert_refused(run("convert", file, tmp_path / "o.xlsx"), ".csv, .txt, .parquet, .pq, .jsonl")
    assert_refused(run("convert", file, tmp_path), "must not be a folder")
    assert_refused(run("convert", file, tmp_path / ("x" * 300)), "File name too long")
    assert_refused(run("convert", file, ""), "must not be a folder")


def test_convert__times_that_a_format_cannot_hold_are_refused(tmp_path):
    # 40 years apart, which is more than a trace may span
    path = tmp_path / "long.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n9e8,1,1\n")
    for suffix in ("csv", "jsonl"):
        out = tmp_path / f"o.{suffix}"
        assert_refused(run("convert", path, out, "--rps-scale", "1e-3"), "within 1e+09 s")
        assert not out.exists()


def test_file__that_has_no_name_is_refused():
    assert_refused(run("info", ""), "must be the name of a file or a profile, got ''")


def test_fetch__hands_its_options_on_and_prints_the_path(monkeypatch, tmp_path):
    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return tmp_path / "x.csv"

    monkeypatch.setattr("llmsched.workload.fetch.fetch", fetch)
    options = ("--url", "http://mirror/x", "--sha256", "ab" * 32, "--out", tmp_path)
    result = run("fetch", "burstgpt", *options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{tmp_path / 'x.csv'}\n", "")
    assert asked == [
        (
            "burstgpt",
            {
                "url": "http://mirror/x",
                "sha256": "ab" * 32,
                "folder": str(tmp_path),
                "progress": None,
            },
        )
    ]


def test_fetch__an_unknown_name_is_refused():
    assert_refused(run("fetch", "azure"), "must be one of burstgpt, ", "got 'azure'")


def test_fetch__a_failed_download_is_one_line_and_exit_code_1(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise FetchError("the server says 404")

    monkeypatch.setattr("llmsched.workload.fetch.fetch", fail)
    result = run("fetch", "burstgpt", "--out", tmp_path)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr == "Error: the server says 404\n"


def test_fetch__what_cannot_be_is_refused_before_connecting(monkeypatch):
    monkeypatch.setattr(
        "llmsched.workload.fetch.fetch", lambda *_, **__: pytest.fail("it connected")
    )
    assert_refused(run("fetch", "burstgpt", "--url", "nonsense"), "http(s)://", "'nonsense'")
    assert_refused(run("fetch", "burstgpt", "--sha256", "zz"), "64 hexadecimal digits", "'zz'")


@pytest.mark.parametrize("command", ["info", "convert", "fetch"])
def test_help__has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example: llmsched trace" in result.stdout
