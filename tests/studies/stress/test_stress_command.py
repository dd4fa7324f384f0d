"""`llmsched stress`: what it takes, refuses, prints, and leaves alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from stress_builders import MERGED, TINY_OPTIONS, write_trace

from llmsched.cli.main import main
from llmsched.simulation.sweep.sweep import load_results

pytestmark = pytest.mark.filterwarnings(MERGED)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["stress", *arguments])


def test_command__runs_a_step_and_keeps_the_line_that_made_it(tmp_path):
    options = ("--gpu-counts", "1,2", "--sla", "0.5", "--real-timestamps", *TINY_OPTIONS)
    result = invoke("step1", *options, "--out", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["command"] == (
        "llmsched stress step1 --volumes 60,120 --gpu-counts 1,2 --seeds 2 --real-timestamps "
        "--sla 0.5"
    )
    (step,) = shown["steps"]
    assert (step["runs"], step["failed"], len(step["verdict"])) == (2 * 2 * 4 * 2, 0, 2)
    assert {row["n_gpus"] for row in step["summary"]} == {1.0, 2.0}
    results = load_results(tmp_path)
    assert set(results["workload_rps_scale"]) == {1.0}
    assert set(results["slo_latency_s"]) == {0.5}


def test_command__prints_verdict_and_table_and_step_3_asks_for_step_2_or_a_gpu_count(tmp_path):
    options = ("--bins", "1,2", "--out", str(tmp_path), *TINY_OPTIONS)
    result = invoke("step3", *options)
    assert result.exit_code == 2
    assert "run step2 into it first, or give --best-gpu-count" in result.stderr
    assert list(tmp_path.iterdir()) == []
    result = invoke("step3", *options, "--best-gpu-count", "3")
    assert result.exit_code == 0, result.output
    title, verdict, against, shared, head, *rows = result.stdout.splitlines()
    assert title == "Step 3: number of bins"
    assert verdict.startswith("Fewest late or rejected with ")
    assert against.startswith(("Against 1 bin that is ", "All points: "))
    assert "multi_bin_dynamic, 3 GPUs, 120 requests" in against + shared
    assert "violations [%]" in shared + head
    assert rows[-1] == "Note: Run on 3 GPUs: as asked for."


def test_command__refuses_what_it_cannot_use(tmp_path):
    cases = {
        "step1 --bins 1,2": "--bins does nothing in step1; leave it out, or run step3 or all",
        "step1 --loads 0.5": "--loads does nothing in step1",
        "step1 --best-gpu-count 2": "--best-gpu-count does nothing in step1",
        "step1 --target-violations 0.1": "--target-violations does nothing in step1",
        "step2 --batch-size 4": "--batch-size does nothing in step2; leave it out, or run step1",
        "step3 --gpu-counts 1,2": "--gpu-counts does nothing in step3",
        "all --volumes 5,x": "must be increasing whole numbers > 0 between commas, got '5,x'",
        "all --loads 2,1": "'--loads': must be increasing numbers > 0 between commas, got '2,1'",
        "all --address x:1": "--address is that of a Ray cluster; give --backend ray as well",
    }
    for line, message in cases.items():
        options = [] if "--volumes" in line else TINY_OPTIONS
        result = invoke(*line.split(), "--out", str(tmp_path / "out"), *options)
        assert result.exit_code == 2, line
        assert message in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_command__keeps_its_input(tmp_path):
    trace = write_trace(tmp_path / "step1.csv")
    before = trace.read_bytes()
    result = invoke("step1", "--trace", str(trace), "--out", str(tmp_path), *TINY_OPTIONS)
    assert result.exit_code == 2
    assert "would replace the trace" in result.stderr
    assert trace.read_bytes() == before


def test_command__where_no_request_fits_says_so_and_has_every_table(tmp_path, monkeypatch):
    monkeypatch.setattr("llmsched.studies.stress.report.png", lambda figure: b"a picture")
    # given requests that are all larger than the memory
    trace = write_trace(tmp_path / "big.csv", 20, tokens=500_000)
    # when the whole plan runs, report included
    result = invoke(
        *("all", "--trace", str(trace), "--volumes", "20", "--gpu-counts", "1"),
        *("--bins", "1,2", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path / "out")),
    )
    # then it ends well, tells it, and nothing is missing
    assert result.exit_code == 0, result.output
    assert "100 % of the requests are too large for the KV memory" in result.stdout
    assert (tmp_path / "out" / "step1_per_bin.csv").is_file()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "too large for the KV memory" in page


def test_command__started_again_leaves_the_report_alone_and_says_what_it_replaces(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("llmsched.studies.stress.report.png", lambda figure: b"a picture")
    given = ("step3", "--best-gpu-count", "1", "--bins", "1,2", "--volumes", "60", "--seeds", "1")
    options = (*given, "--jobs", "1", "--out", str(tmp_path))
    assert invoke(*options).exit_code == 0
    report = tmp_path / "report.html"
    first = report.stat()
    # when nothing has changed, the file is the same one
    again = invoke(*options)
    assert "nothing has changed" in again.stderr
    assert "other settings" not in again.stderr
    assert report.stat().st_mtime_ns == first.st_mtime_ns
    # when a figure is gone, or the results are others, it is made again
    next((tmp_path / "figures").glob("*.png")).unlink()
    assert "nothing has changed" not in invoke(*options).stderr
    changed = invoke(*options, "--sla", "5")
    assert "nothing has changed" not in changed.stderr
    assert "had 2 runs of other settings" in changed.stderr
