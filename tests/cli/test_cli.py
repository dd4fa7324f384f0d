"""`llmsched`: what it prints where, what it writes, how it fails. Options: test_cli_options.py."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from plan_world import in_plan, plan_simulate as simulate

from llmsched.cli.answers.numbers import change_text, with_ends
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.main import main
from llmsched.cli.text import percent
from llmsched.metrics.intervals import Interval
from llmsched.workload.workload import Workload

SCHEDULERS = ("static-fifo", "dynamic-no-bins", "multi-bin-dynamic", "multi-bin-only")
JSON_KEYS = {
    *("scheduler", "requests", "completed", "rejected", "gpus", "bins", "sla_s", "makespan_s"),
    *("throughput_rps", "throughput_tps", "output_tps", "latency_mean_s", "latency_p50_s"),
    *("latency_p95_s", "latency_p99_s", "latency_max_s", "queueing_mean_s", "service_mean_s"),
    *("sla_violation_rate", "goodput_rps", "gpu_utilization", "batches", "batch_size_mean"),
    *("batch_size_max", "padding_waste"),
}
REQUEST_COLUMNS = [
    *("request", "arrival_s", "prompt_tokens", "output_tokens", "predicted_tokens", "bin"),
    *("start_s", "finish_s", "gpu", "batch"),
]
SMALL_MEMORY = ("--gpu-memory", "4.2")  # (4.2 - 4.06) GB / 114,688 B = 1,220 tokens: some rejected


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, in_plan([str(argument) for argument in arguments]))


def figures(*arguments: object) -> dict[str, object]:
    """The JSON object that a command prints, strictly read: no NaN, no Infinity."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert isinstance(found, dict)
    return found


@pytest.fixture
def trace(tmp_path) -> Path:
    """120 requests in pairs, half a second apart at the default scale."""
    rng = np.random.default_rng(3)
    path = tmp_path / "t.csv"
    rows = [
        f"{100 * (i // 2)},{p},{o}"
        for i, (p, o) in enumerate(rng.integers(1, 900, (120, 2)).tolist())
    ]
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return path


def assert_refused(result: Result, *texts: str) -> None:
    """Exit code 2 by itself, the reason in one line on stderr, nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    for text in texts:
        assert text in lines[-1]


# what goes wrong


@pytest.mark.parametrize("command", [*SCHEDULERS, "compare"])
def test_trace__that_cannot_be_used_is_one_line(command, tmp_path):
    broken = tmp_path / "broken.csv"
    broken.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,2,nan\n")
    prose = tmp_path / "prose.txt"
    prose.write_text("It was a dark and stormy night.\n")
    empty = tmp_path / "empty.csv"
    empty.touch()
    absent = tmp_path / "absent.csv"
    assert_refused(
        run(command, "--trace", absent), f"{absent}: no such file", "burstgpt-like", "poisson"
    )
    assert_refused(run(command, "--trace", broken), "line 3", "output_tokens", "nan")
    assert_refused(run(command, "--trace", prose), "prose.txt")
    assert_refused(run(command, "--trace", empty), "empty.csv")
    assert_refused(run(command, "--trace", tmp_path), str(tmp_path))


@pytest.mark.parametrize("option", ["--requests-out", "--batches-out"])
def test_table_path__is_refused_before_the_run(option, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "llmsched.simulation.simulate.simulate", lambda *_, **__: pytest.fail("it ran")
    )
    wrong_suffix, no_folder = tmp_path / "r.xlsx", tmp_path / "no" / "r.csv"
    assert_refused(run("static-fifo", option, wrong_suffix), ".csv or .parquet", "r.xlsx")
    assert_refused(run("static-fifo", option, no_folder), "create it first", "no/r.csv")


def test_table_path__never_replaces_the_trace_or_the_other_table(trace):
    before = trace.read_bytes()
    link = trace.with_name("link.csv")
    link.symlink_to(trace)
    assert_refused(run("static-fifo", "--trace", trace, "--requests-out", link), "replace")
    table = trace.with_name("o.csv")
    both = ("--requests-out", table, "--batches-out", table.parent / "." / "o.csv")
    assert_refused(run("static-fifo", "--trace", trace, *both), "different files")
    assert trace.read_bytes() == before
    assert not table.exists()


@pytest.mark.parametrize("option", ["--requests-out", "--batches-out"])
def test_table_path__never_replaces_the_latency_grid_either(option, trace):
    grid = trace.with_name("gr.csv")
    cells = [f"{b},{n},{0.01 * b + 1e-4 * n * b},,1" for b in (1, 4, 8) for n in (100, 200, 400)]
    header = "batch_size,max_seq_len,mean_latency_sec,std_latency_sec,num_trials"
    grid.write_text("\n".join([header, *cells]))
    before = grid.read_bytes()
    link = trace.with_name("link.csv")
    link.symlink_to(grid)
    for latency in (grid, f"{grid}#four-term", link):
        for out in (grid, link):
            refused = run("static-fifo", "--trace", trace, "--latency", latency, option, out)
            assert_refused(refused, "the output would replace the latency grid")
    assert grid.read_bytes() == before


def test_link__that_leads_to_itself_is_one_line(trace):
    loop = trace.with_name("loop.csv")
    loop.symlink_to(loop)
    assert_refused(run("static-fifo", "--trace", loop), "loop.csv: no such file")
    assert_refused(run("static-fifo", "--trace", loop, "--requests-out", trace), "no such file")
    assert_refused(run("static-fifo", "--trace", trace, "--requests-out", loop), "link to itself")


def test_trace__without_a_name_is_refused():
    assert_refused(run("static-fifo", "--trace", ""), "name of a file or a profile, got ''")


def test_memory__that_is_not_enough_is_a_failed_run(monkeypatch):
    def starve(*_):
        raise MemoryError

    monkeypatch.setattr(Workload, "load", starve)
    result = run("static-fifo")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: the run needs more memory than there is; ask for")
    assert result.stderr.count("\n") == 1


def test_table__that_cannot_be_written_after_all_is_a_failed_run(trace, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmsched.engine.export._write", fail)
    table = trace.with_name("o.csv")
    result = run("static-fifo", "--trace", trace, "--requests-out", table)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"Error: {table}: cannot be written (No space left on device)"
    )
    assert not table.exists()


def test_fault__that_numpy_warns_of_is_no_note():
    @click.command(cls=OneLineErrors)
    def faulty() -> None:
        warnings.warn("overflow encountered", RuntimeWarning, stacklevel=1)
        warnings.warn("do take note", UserWarning, stacklevel=1)

    with pytest.warns(RuntimeWarning, match="overflow"):
        result = CliRunner().invoke(faulty)
    assert result.stderr == "Note: do take note\n"


def test_checks__come_before_the_trace_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Workload, "load", lambda *_: pytest.fail("it was read"))
    for wrong in ("--latency", "--predictor", "--llm"):
        for command in ("static-fifo", "compare"):
            assert_refused(run(command, wrong, "x"), "'x'")
    assert_refused(run("compare", "--schedulers", "static-fifo,x"), "'x'")


def test_fault__of_ours_keeps_its_traceback():
    """Only input errors become one line: a bug must be seen."""

    @click.command(cls=OneLineErrors)
    def faulty() -> None:
        raise KeyError("bug")

    assert isinstance(CliRunner().invoke(faulty).exception, KeyError)


# what is printed


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_json__is_one_strict_object_with_every_key(scheduler, trace):
    found = figures(scheduler, "--trace", trace)
    assert found.keys() >= JSON_KEYS
    assert found["scheduler"] == scheduler.replace("-", "_")
    assert found["latency_kind"] == "formula"
    assert (found["requests"], found["completed"], found["rejected"]) == (120, 120, 0)


def test_json__is_strict_even_when_nothing_can_be_served(trace):
    found = figures("dynamic-no-bins", "--trace", trace, "--gpu-memory", "4.0602")  # 1 token
    assert (found["completed"], found["rejected"]) == (0, 120)
    assert found["latency_mean_s"] is None
    assert found["makespan_s"] == 29.5  # arrivals go on for so long
    assert (found["sla_violation_rate"], found["throughput_rps"]) == (1.0, 0.0)
    table = run("dynamic-no-bins", "--trace", trace, "--gpu-memory", "4.0602").stdout
    assert "nan" not in table.lower()


def test_json__is_that_of_the_library(trace):
    found = figures("multi-bin-dynamic", "--trace", trace, "--gpus", "2", "--seed", "5")
    again = simulate(Workload(source=str(trace)), "multi_bin_dynamic", n_gpus=2, seed=5)
    assert found == {"schema": 1, **again.to_dict()}


def test_table__has_the_verdict_first_and_the_rest_behind_verbose(trace):
    result = run("multi-bin-dynamic", "--trace", trace)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "of 120 requests are late; " in result.stdout.splitlines()[0]
    assert "requests/s (200 times as recorded)" in result.stdout.splitlines()[1]
    assert "padding_waste" not in result.stdout
    longer = run("multi-bin-dynamic", "--trace", trace, "--verbose").stdout
    assert longer.startswith(result.stdout.rstrip())
    assert all(name in longer for name in JSON_KEYS - {"scheduler"})
    assert "Per bin; edges: " in longer
    assert "reference (formula)" in longer
    assert "overloaded: ρ >= 1" in longer
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_cautions__are_a_line_each(trace):
    # given rejected requests, work beyond the GPU, and a latency beyond its measurements
    busy = (*SMALL_MEMORY, "--gpus", "1", "--rps-scale", "800")
    text = run("dynamic-no-bins", "--trace", trace, *busy).stdout
    assert "Overloaded: dynamic_no_bins; " in text
    assert "Rejected, too large for the memory alone" in text
    large = ("--latency", "h100-llama-3-8b-vllm", "--rps-scale", "20000", "--batch-size", "128")
    text = run("static-fifo", "--trace", trace, *large).stdout
    assert "Extrapolated batches, beyond what was measured: static_fifo " in text
    # and a batch that does not fit is told of a scheduler that knows no memory
    text = run("static-fifo", "--trace", trace, *busy).stdout
    assert "Batches larger than the KV memory: static_fifo " in text


def test_notes__are_lines_on_stderr_and_nothing_else_is(trace):
    with trace.open("a") as file:
        file.write("6000,5,0\n6100,5,5\n5900,5,5\n")
    result = run("static-fifo", "--trace", trace, "--requests", "200", "--json")
    assert result.exit_code == 0
    json.loads(result.stdout)
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert any("1 of 123 rows were out of order" in line for line in lines)
    assert any("asked for 200 requests" in line for line in lines)
    assert "Left out: 1 (failed: no output tokens)" in lines


@pytest.mark.parametrize("command", ["static-fifo", "compare"])
def test_left_out__requests_are_counted_on_stderr(command, trace):
    with trace.open("a") as file:
        file.write("6000,5,0\n")
    result = run(command, "--trace", trace)
    assert "Left out: 1 (failed: no output tokens)" in result.stderr.splitlines()


def test_note__of_a_warning_is_printed_once(trace):
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "0,9,9\n" * 40)
    options = ("--predictor", "bin-error:0.1", "--seeds", "2", "--no-resample-trace")
    result = run("compare", "--trace", trace, *options)
    notes = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
    assert len(notes) == 1
    assert "4 equal-mass bins asked for, 1 hold requests" in notes[0]


def test_reader_that_leaves__is_no_error():
    script = f"{sys.executable} -m llmsched static-fifo --requests 20 --json | true"
    done = subprocess.run(script, shell=True, capture_output=True, text=True, check=True)
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


# what is written


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables__recompute_the_figures(scheduler, suffix, trace, tmp_path):
    requests_out, batches_out = tmp_path / f"r{suffix}", tmp_path / f"b{suffix}"
    memory = SMALL_MEMORY if "dynamic" in scheduler else ()
    tables = ("--requests-out", requests_out, "--batches-out", batches_out)
    found = figures(scheduler, "--trace", trace, "--gpus", "2", "--sla", "0.4", *memory, *tables)
    requests, batches = frame(requests_out), frame(batches_out)
    assert list(requests.columns) == REQUEST_COLUMNS
    assert requests["request"].tolist() == list(range(120))
    served = requests[requests["batch"].notna()]
    latency_s = served["finish_s"] - served["arrival_s"]
    last_s = max(served["finish_s"].max(), requests["arrival_s"].max())
    makespan_s = last_s - requests["arrival_s"].min()
    good = (latency_s <= found["sla_s"]).sum()
    tokens = served["prompt_tokens"] + served["output_tokens"]
    sizes = served.groupby("batch").size()
    longest = tokens.groupby(served["batch"]).max()
    busy_s = (batches["finish_s"] - batches["start_s"]).sum()
    # a sum of 120 doubles in another order differs by 120 ulp at most
    expected = pytest.approx(
        {
            "completed": len(served),
            "rejected": 120 - len(served),
            "makespan_s": makespan_s,
            "throughput_rps": len(served) / makespan_s,
            "throughput_tps": tokens.sum() / makespan_s,
            "output_tps": served["output_tokens"].sum() / makespan_s,
            "latency_mean_s": latency_s.mean(),
            "latency_p50_s": np.percentile(latency_s, 50),
            "latency_p95_s": np.percentile(latency_s, 95),
            "latency_p99_s": np.percentile(latency_s, 99),
            "latency_max_s": latency_s.max(),
            "queueing_mean_s": (served["start_s"] - served["arrival_s"]).mean(),
            "service_mean_s": (served["finish_s"] - served["start_s"]).mean(),
            "sla_violation_rate": 1 - good / 120,
            "goodput_rps": good / makespan_s,
            "gpu_utilization": busy_s / (2 * makespan_s),
            "batches": len(sizes),
            "batch_size_mean": sizes.mean(),
            "batch_size_max": sizes.max(),
            "padding_waste": 1 - tokens.sum() / (sizes * longest).sum(),
        },
        rel=120 * np.finfo(float).eps,
        abs=120 * np.finfo(float).eps,
    )
    assert {key: found[key] for key in expected.expected} == expected
    assert batches["size"].tolist() == sizes.tolist()
    assert batches["max_total_tokens"].tolist() == longest.tolist()
    assert (found["rejected"] > 0) == bool(memory)


def frame(path: Path) -> pd.DataFrame:
    """A table as it was written: Python's `float` reads what pandas would round."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    cells = [[float(cell) if cell else math.nan for cell in row] for row in rows]
    return pd.DataFrame(cells, columns=header)


def test_tables__are_the_same_in_both_formats_to_the_last_bit(trace, tmp_path):
    written = [tmp_path / "r.csv", tmp_path / "r.parquet"]
    for path in written:
        figures("dynamic-no-bins", "--trace", trace, *SMALL_MEMORY, "--requests-out", path)
    text, binary = map(frame, written)
    for name in REQUEST_COLUMNS:
        expected = binary[name].to_numpy(dtype=float, na_value=math.nan)
        assert np.array_equal(text[name].to_numpy(), expected, equal_nan=True), name


def test_tables__leave_cells_of_rejected_requests_empty(trace, tmp_path):
    path = tmp_path / "r.csv"
    found = figures("dynamic-no-bins", "--trace", trace, *SMALL_MEMORY, "--requests-out", path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    never = [row for row in rows if int(row["prompt_tokens"]) + int(row["output_tokens"]) > 1220]
    assert len(never) == found["rejected"] > 0
    for row in rows:
        cells = [row[name] for name in ("start_s", "finish_s", "gpu", "batch")]
        assert all(cells) != (row in never)
        assert any(cells) != (row in never)
        assert row["bin"] == "0"


# compare


def test_compare__json_has_every_scheduler_its_intervals_and_the_differences(trace):
    options = ("--seeds", "3", "--seed", "4", "--no-resample-trace")
    found = figures("compare", "--trace", trace, *options)
    names = [entry["scheduler"] for entry in found["schedulers"]]
    assert names == ["static_fifo", "dynamic_no_bins", "multi_bin_dynamic"]
    assert found["seeds"] == [4, 5, 6]
    for entry in found["schedulers"]:
        assert entry.keys() >= JSON_KEYS
        interval = entry["intervals"]["latency_mean_s"]
        assert interval["low"] <= entry["latency_mean_s"] <= interval["high"]
    # a file leaves only the predictor's noise, and only bins see that
    assert [entry["random"] for entry in found["schedulers"]] == [False, False, True]
    differences = {(d["scheduler"], d["metric"]): d for d in found["differences"]}
    assert len(differences) == 2 * 6
    goodput = [entry["goodput_rps"] for entry in found["schedulers"]]
    assert differences["dynamic_no_bins", "goodput_rps"]["difference"] == pytest.approx(
        goodput[1] / goodput[0] - 1
    )


def test_compare__reads_a_file_once(trace, monkeypatch):
    from llmsched.workload.formats import registry as formats

    reads, read_trace = [], formats.read_trace
    monkeypatch.setattr(
        formats, "read_trace", lambda *a, **k: reads.append(a) or read_trace(*a, **k)
    )
    assert run("compare", "--trace", trace, "--seeds", "3").exit_code == 0
    assert len(reads) == 1


def test_compare__each_scheduler_is_the_one_that_runs_alone(trace):
    compared = figures("compare", "--trace", trace, "--seeds", "1", "--no-resample-trace")
    for entry in compared["schedulers"]:
        alone = figures(entry["scheduler"].replace("_", "-"), "--trace", trace)
        assert {key: entry[key] for key in JSON_KEYS} == {key: alone[key] for key in JSON_KEYS}


def test_compare__schedulers_are_those_asked_for_in_that_order(trace):
    asked = ("--schedulers", "multi-bin-only, static_fifo")
    found = figures("compare", "--trace", trace, "--seeds", "1", *asked)
    assert [entry["scheduler"] for entry in found["schedulers"]] == [
        "multi_bin_only",
        "static_fifo",
    ]


def test_compare__one_replication_has_no_interval_and_says_so():
    one = ("compare", "--requests", "100", "--seeds", "1")
    text = run(*one).stdout
    assert "One replication, so no interval" in text
    assert {d["verdict"] for d in figures(*one)["differences"]} == {"one replication"}
    assert all(d["low"] is None for d in figures(*one)["differences"])


def test_compare__answers_first_and_fits_a_terminal():
    text = run("compare", "--requests", "100", "--seeds", "2").stdout
    lines = text.splitlines()
    assert lines[0].startswith("Late: ")
    assert lines[1].startswith("Against static_fifo: ")
    assert "2 replications (seeds 0..1)" in text
    assert "not told apart" in text
    assert max(map(len, lines)) <= 110
    assert len(run("compare", "--requests", "100", "--seeds", "2", "--verbose").stdout) > len(text)


def test_compare__says_when_nothing_is_random(trace):
    asked = ("--schedulers", "static-fifo,dynamic-no-bins", "--no-resample-trace")
    text = run("compare", "--trace", trace, "--seeds", "3", *asked).stdout
    assert "Nothing was random" in text


def test_compare__goes_on_where_it_was(trace, tmp_path):
    options = ("compare", "--trace", trace, "--seeds", "2", "--out", tmp_path / "runs", "--json")
    first = run(*options).stdout
    kept = (tmp_path / "runs" / "runs.jsonl").read_text()
    assert run(*options).stdout == first
    assert (tmp_path / "runs" / "runs.jsonl").read_text() == kept


def test_compare__without_static_fifo_sets_the_others_against_the_first(trace):
    asked = ("--schedulers", "multi-bin-only,dynamic-no-bins", "--seeds", "1")
    text = run("compare", "--trace", trace, *asked).stdout
    assert "Against multi_bin_only: dynamic_no_bins is untested (one replication) in all 6" in text
    assert "Against multi_bin_only, replication by replication" in text


def test_compare__draws_a_figure_and_says_so_on_stderr(trace, tmp_path):
    path = tmp_path / "c.png"
    result = run("compare", "--trace", trace, "--seeds", "2", "--figure", path)
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")
    assert result.stderr.splitlines()[-1] == f"Figure: {path}"
    assert [entry.name for entry in tmp_path.iterdir() if entry != trace] == ["c.png"]


# the same seed, the same bytes (scar 9: state of a process must not leak into its second run)


@pytest.mark.parametrize("command", ["multi-bin-dynamic", "compare"])
def test_seed__gives_the_same_bytes_in_one_process_and_in_two(command):
    arguments = (command, "--requests", "150", "--seed", "3", "--json")
    first, second = run(*arguments).stdout_bytes, run(*arguments).stdout_bytes
    apart = subprocess.run(
        [sys.executable, "-m", "llmsched", *in_plan(arguments)], capture_output=True, check=True
    )
    assert first == second == apart.stdout
    assert run(*arguments[:-2], "4", "--json").stdout_bytes != first


# help


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help__lists_every_command_with_a_text(arguments):
    text = run(*arguments).output
    for command in (*SCHEDULERS, "compare", "trace"):
        line = next(line for line in text.splitlines() if line.startswith(f"  {command} "))
        assert len(line.split()) > 2
    assert text.rstrip().endswith("--latency a100-llama-3-8b-vllm --sla 20")


@pytest.mark.parametrize("command", [*SCHEDULERS, "compare"])
def test_help__of_a_command_has_an_example_and_fits_the_screen(command):
    text = run(command, "--help").stdout
    assert f"Example: llmsched {command} " in text
    assert max(map(len, text.splitlines())) <= 80
    assert "INTEGER" not in text
    assert "FLOAT" not in text


def test_help__examples_run_as_they_stand(trace, monkeypatch):
    monkeypatch.chdir(trace.parent)
    trace.rename(trace.with_name("BurstGPT_1.csv"))
    for command in (*SCHEDULERS, "compare"):
        help_text = run(command, "--help").stdout
        example = next(line for line in help_text.splitlines() if "Example: " in line)
        _, *arguments = example.split("Example: ")[1].split()
        assert run(*arguments).exit_code == 0, example


def test_version__is_that_of_the_package():
    from importlib.metadata import version

    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith(f"version {version('llmsched')}")


def test_compare__counts_the_requests_of_every_resample(trace):
    text = run("compare", "--trace", trace, "--seeds", "3").stdout
    assert re.search(r"^\d+ to \d+ requests of ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.0, 0.0, 0.0), "0 %"),
        ((-0.0001, -0.2, 0.5), "0 (-20 to +50) %"),
        ((0.1, -0.0001, 0.3), "+10 (0 to +30) %"),
        ((math.inf, -math.inf, math.inf), "+inf (- to +inf) %"),
    ],
)
def test_change__is_without_needless_signs_and_digits(ends, said):
    mean, low, high = ends
    interval = Interval(mean=mean, low=low, high=high, n=3)
    assert change_text(interval, "latency_mean_s") == said


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((94.1, 88.0, 97.2), "94.1 (88.0-97.2)"),
        ((0.1214, 0.0, 97.0), "0.12 (0-97)"),
        ((3.21, 0.0, 3.626e9), "3.2 (0-3.6e+09)"),
        ((0.0, 0.0, 5.0), "0.00 (0.0-5.0)"),
        ((2.0, 2.0, math.inf), "2.0 (2.00-inf)"),
    ],
)
def test_level__shows_two_digits_of_the_value_however_wide_its_interval(ends, said):
    assert with_ends(*ends) == said


def test_continuous__says_rate_cautions_and_calibration_error_and_more_where_asked(trace):
    asked = ["continuous-static", "--trace", str(trace)]
    short = CliRunner().invoke(main, asked).stdout
    assert re.search(r"requests of .* at .* requests/s \(as recorded\),", short)
    assert "Step time: h100-llama-3-8b-vllm (measurement)\n" in short
    assert "Label:" not in short
    more = ("--verbose", "--latency-uncertainty", "2")
    text = CliRunner().invoke(main, [*asked, *more]).stdout
    assert "Label:" in text
    assert re.search(r"Calibration error: .* over 2 draws", text)


def test_percent__rounded_up_to_a_hundred_is_a_hundred():
    assert [percent(share, 2) for share in (0.994, 0.996, 1.0, 0.1)] == [
        "99 %",
        "100 %",
        "100 %",
        "10 %",
    ]
