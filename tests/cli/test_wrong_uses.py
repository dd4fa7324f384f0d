"""Wrong uses, of the command line and of Python: each is one line that says what must hold.

A line names what is wrong, what must hold and what was given. A command ends with code 2 and
prints nothing on stdout; a function raises `ValueError` (or `TypeError`) before any work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import llmsched as ls
from llmsched.cli.main import main

COMMANDS = {
    # command lines that name nothing known
    "fifo": "No such command 'fifo'",
    "trace inf": "No such command 'inf'",
    "--versoin": "No such option '--versoin'",
    "compare --gpuz 3": "No such option '--gpuz'",
    "compare extra": "unexpected extra argument .extra.",
    "static-fifo --bins 4": "No such option '--bins'",
    "continuous-static --batch-size 8": "No such option '--batch-size'",
    "trace info": "Missing argument 'FILE'",
    "trace convert poisson": "Missing argument 'OUT'",
    "compare --gpus": "'--gpus' requires an argument",
    # workloads
    "compare --trace nowhere.csv": "nowhere.csv: no such file, nor one of the profiles burstgpt",
    "static-fifo --trace burst": "burst: no such file, nor one of the profiles burstgpt",
    "static-fifo --trace poisson --trace-format csv": "needs a trace file, got the profile 'poiss",
    "compare --columns arrival": "columns needs a trace file, got the profile",
    "compare --requests 0": "'--requests': must be a whole number from 1 to 1000000000, got 0",
    "compare --requests nan": "'--requests': must be a whole number from 1 .*, got nan",
    "compare --requests 1e300": r"must be a whole number from 1 .*, got 1e\+300",
    "static-fifo --trace poisson --requests 1 --rate 5": "at two instants at least .*leave rate_pe",
    "compare --requests ten": "'--requests': must be a number such as 10000, 1e4 or 10k, got 'ten'",
    "static-fifo --requests 99999999999": "whole number from 1 to 1000000000, got",
    "static-fifo --rps-scale 0": "'--rps-scale': must be a finite number from 1e-06 .*got 0",
    "static-fifo --rps-scale nan": "'--rps-scale': must be a finite number .*got nan",
    "static-fifo --rps-scale inf": "'--rps-scale': must be a finite number .*got inf",
    "static-fifo --rps-scale 1e-7": "from 1e-06 to 1e.09, got 1e-07",
    "static-fifo --rps-scale 2 --real-timestamps": "one of --rps-scale, --load, --rate and",
    "compare --window 5": "'--window': must be START:END seconds with 0 <= START < END, got '5'",
    "compare --window 9:5": "0 <= START < END, got '9:5'",
    "compare --model gpt-99 --requests 50": "model must be one in trace .*; got 'gpt-99'",
    "compare --failures maybe": "must be one of drop, keep; got 'maybe'",
    "static-fifo --jitter 1e7": "'--jitter': .* from 0 to 1e.06 seconds, got 1e.07",
    "compare --time-unit min": "must be one of s, ms, us, ns; got 'min'",
    "compare --seed 1.5": "'--seed': must be a whole number from 0 .*, got 1.5",
    "static-fifo --concurrency 0": "'--concurrency': .*got 0; leave it out",
    # hardware and latency
    "static-fifo --gpus 0": "'--gpus'.* must be a whole number >= 1, or inf, got 0",
    "compare --gpus many": "must be a whole number >= 1 or inf, got 'many'",
    f"compare --gpus {'9' * 5000}": "'--gpus'",
    "continuous-static --gpus inf": "n_gpus must be finite with continuous_static.*got inf",
    "static-fifo --tp 0": "'--tp': must be a whole number >= 1, got 0",
    "compare --gpu h1000": "gpu must be a known name or a TOML file, got 'h1000'; near it: h100",
    "static-fifo --llm gpt-5": "llm must be a known name .*'gpt-5'.*`llmsched list models`",
    "dynamic-no-bins --latency reference --llm llama-3.1-70b": "'llama-3.1-70b' must fit .*141",
    "dynamic-no-bins --gpu-memory 4": "must fit GPU '4 GB'.*take a larger GPU",
    "compare --latency nowhere": "got 'nowhere'; `llmsched list latency` has all",
    "compare --latency nowhere.json": "latency must be a known name, a model file .*nowhere",
    "static-fifo --latency h100": "'h100'; did you mean h100-",
    "compare --latency physics:h100": "must be physics:GPU:MODEL.*, got 'physics:h100'",
    "continuous-static --kv-tokens 0": "'--kv-tokens': must be a whole number >= 1, got 0",
    "continuous-static --max-running 0": "'--max-running': must be a whole number >= 1, got 0",
    # schedulers, predictors, bins
    "compare --schedulers fifo": "scheduler must be one of static_fifo, .*'fifo'",
    "compare --schedulers static-fifo,static_fifo": "once, got static_fifo twice",
    "compare --schedulers ,": "names between commas, got ','",
    "static-fifo --predictor bert": "predictor must be one of oracle, .*'bert'",
    "compare --predictor noisy:-1": "noisy:SIGMA must be finite and >= 0, got -1",
    "compare --predictor bin-error:2": r"must have P in \[0, 0.5\], got 2",
    "multi-bin-dynamic --predictor confusion:bert --bins 3": "2, 4 and 8 bins.*got 3",
    "multi-bin-dynamic --predictor bin-error:0.1 --bin-by total": "by output.*'total'",
    "multi-bin-dynamic --bins 0": "'--bins': must be a whole number from 1 to 64, got 0; use 1",
    "multi-bin-dynamic --bins 65": "'--bins': must be a whole number from 1 to 64, got 65",
    "multi-bin-dynamic --bins 3 --bin-edges 64,256,1024": "must be 4.*got 3",
    "compare --bin-edges 5,3": "must be positive, finite and strictly increasing, got 5,3",
    "static-fifo --batch-size 9223372036854775808": "'--batch-size': .*from 1 to 1000000, got",
    "dynamic-no-bins --batch-min 1000001": "'--batch-min': .*from 1 to 1000000, got",
    "dynamic-no-bins --batch-max 1000001": "'--batch-max': .*from 1 to 1000000, got",
    "dynamic-no-bins --batch-min 9 --batch-max 8": "batch_min <= batch_max, got 9 and 8",
    "dynamic-no-bins --batch-min 2 --controller none": "--batch-min.*leave it out",
    "compare --controller strict": "must be one of paper, window, none; got 'strict'",
    "multi-bin-only --max-forming-wait -1": "'--max-forming-wait': .*>= 0 seconds, got -1",
    # targets and statistics
    "static-fifo --sla -1": "'--sla': must be a finite number > 0 seconds, got -1",
    "static-fifo --sla inf": "'--sla': must be a finite number > 0 seconds, got inf",
    "compare --sla 1s": "'--sla': must be a number such as .*got '1s'",
    "compare --seeds 0": "'--seeds': 0 is not in the range 1<=x<=10000",
    "capacity --tolerance 1e-320": r"tolerance must be in \[1e-06, 1\), got",
    "capacity --target-violations 2": r"must be in \[0, 1\), got 2",
    "capacity --target-p95 1 --target-p99 1": "give one target, not --target-p95, --target-p99",
    "capacity --search cheapest": "'cheapest' is not one of 'rate', 'gpus'",
    "capacity --load 0.5": "--load says the rate that capacity looks for; leave it out",
    "capacity --rate 5": "--rate says the rate that capacity looks for; leave it out",
    "capacity --jobs 0": "'--jobs': 0 is not in the range x>=1",
    # studies and files
    "stress step9": "'step9' is not one of 'step1'",
    "stress --volumes a,b": "'--volumes': must be increasing whole numbers > 0 .*got 'a,b'",
    "stress --loads 0": "'--loads': must be increasing numbers > 0 between commas, got '0'",
    "stress --bins 1,99": "bins must be at most 64, got 99",
    "stress step1 --loads 0.5": "--loads does nothing in step1; leave it out",
    "stress --backend cloud": "'cloud' is not one of 'local', 'ray'",
    "stress --address localhost:1": "give --backend ray as well",
    "paper multibin --figure 99": "figure must be one of 1b.*; got 99",
    "compare --figure c.gif": "must end in .png, .pdf, .svg; got 'c.gif'",
    "compare --figure no/c.png": "folder of 'no/c.png' must exist; create it first",
    "static-fifo --requests-out r.xlsx": "must end in .csv or .parquet, got 'r.xlsx'",
    "compare --config nowhere.toml": "'nowhere.toml' does not exist",
    "trace convert poisson x.docx": "must end in .csv, .*got 'x.docx'",
    "trace convert poisson x.csv --to nothing": "trace format must be one of .*; got 'nothing'",
    "trace fetch nothing": "name must be one of burstgpt, .*; got 'nothing'",
    "trace fetch burstgpt --sha256 zz": "sha256 must be 64 hexadecimal digits, got 'zz'",
    "trace fetch burstgpt --url gopher://x": "url must be .*http.*, got 'gopher://x'",
    "calibrate fit nowhere.csv": "'nowhere.csv' does not exist",
    "calibrate import nothing x": "'nothing' is not one of 'auto'",
    "list nothings": "'nothings' is not one of 'latency'",
}


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda text: text[:60])
def test_wrong_command__is_one_line_and_code_2(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert re.search(COMMANDS[arguments], lines[-1]), lines[-1]
    assert os.listdir(tmp_path) == []


W = ls.Workload(source="poisson", requests=30)


def trace(**columns: object) -> ls.Trace:
    given = {"arrival_s": np.arange(3.0), **dict.fromkeys(("prompt_tokens", "output_tokens"), ONES)}
    return ls.Trace(**(given | columns))  # type: ignore[arg-type]


ONES = np.ones(3, np.int32)
CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: ls.Workload(requests="10"), "requests must be a whole number from 1 .*got '10'"),
    (lambda: ls.Workload(requests=2.5), "requests must be a whole number .*got 2.5"),
    (
        lambda: ls.Workload(window_s=(5, 1)),
        "window must be START:END with 0 <= START < END seconds, got 5:1",
    ),
    (lambda: ls.Workload(source=3), "source must be a text, got 3"),
    (lambda: W.load(-1), "seed must be a whole number >= 0, got -1"),
    (lambda: W.load("a"), "seed must be a whole number >= 0, got 'a'"),
    (lambda: ls.Workload(source="nowhere.csv").load(0), "nowhere.csv: no such file"),
    (lambda: ls.Slo(latency_s="1"), "latency_s must be a finite number > 0 seconds, got '1'"),
    (lambda: ls.Hardware(n_gpus=1.5), "n_gpus must be a whole number >= 1, or inf, got 1.5"),
    (lambda: ls.Hardware(latency=3), "latency must be a name, a file, a LatencyModel .*got 3"),
    (lambda: ls.Hardware(gpu="h1000").resolved(), "gpu must be a known name .*'h1000'"),
    (lambda: ls.Settings(batch_size=0), "batch_size must be a whole number from 1 .*got 0"),
    (lambda: ls.Settings(nonsense=1), "unexpected keyword argument 'nonsense'"),
    (lambda: ls.Binning(n_bins=2.0), "n_bins must be a whole number from 1 to 64, got 2.0"),
    (lambda: ls.Binning(by="colour"), "by must be one of output, total, service; got 'colour'"),
    (lambda: ls.IterationSettings(kv_tokens=0), "kv_tokens must be a whole number >= 1, got 0"),
    (lambda: ls.Scenario.from_dict({"schedulr": "x"}), "'schedulr' must be .*did you mean 'sched"),
    (lambda: ls.simulate(W, "fifo"), "scheduler must be one of static_fifo, .*'fifo'"),
    (lambda: ls.simulate(W, 42), "scheduler 'int' must be made as"),
    (lambda: ls.simulate(42, "static_fifo"), "workload must be a Workload or Trace, got 42"),
    (lambda: ls.simulate(W, "static_fifo", n_gpu=2), "n_gpu must be one of n_gpus, "),
    (lambda: ls.simulate(W, "static_fifo", n_gpus="2"), "n_gpus must be a whole number .*'2'"),
    (lambda: ls.simulate(W, "static_fifo", seed=0.5), "seed must be a whole number .*got 0.5"),
    (lambda: ls.simulate(W, "static_fifo", predictor=42), "predictor must be a name or an object"),
    (lambda: ls.compare(W, []), "schedulers must be distinct names, got none"),
    (lambda: ls.compare(W, "static_fifo"), "schedulers must be a list of names, got 'static_fifo'"),
    (lambda: ls.compare(W, ["static_fifo"], replications=1.5), "replications must be .*got 1.5"),
    (lambda: ls.capacity(W, "static_fifo", tolerance=0), r"tolerance must be in \[1e-06, 1\)"),
    (lambda: ls.sweep([42], Path("x")), "scenarios must be of llmsched.Scenario, got 42"),
    (lambda: ls.sweep([], Path("x"), jobs=0), "jobs must be >= 1, got 0; leave it out"),
    (lambda: trace(arrival_s=[0, 1, 2]), "arrival_s must be a numpy array of numbers.*got list"),
    (lambda: trace(arrival_s=np.array([0.0, 2, 1])), "arrival_s must not decrease.*sort it first"),
    (lambda: trace(arrival_s=np.array([0.0, np.nan, 1])), "arrival_s must be finite"),
    (lambda: trace(arrival_s=np.zeros((3, 1))), r"shape \(n,\), got float64 of shape \(3, 1\)"),
    (lambda: trace(prompt_tokens=np.full(3, 1.5)), "array of whole numbers.*got float64"),
    (lambda: trace(prompt_tokens=np.array(["a"] * 3)), "array of whole numbers.*got <U1"),
    (lambda: trace(output_tokens=ONES[:2]), "columns must have one length, got 3 arrivals"),
    (lambda: trace(output_tokens=-ONES), "token counts must be >= 0"),
    (lambda: ls.read_trace("nowhere.csv"), "nowhere.csv: no such file"),
    (lambda: ls.write_trace(trace(), "x.docx"), "must end in .csv, .*got 'x.docx'"),
    (lambda: ls.load_profile("nowhere"), "workload must be one of .*got 'nowhere'"),
    (lambda: ls.load_latency("nowhere"), "latency must be a known name, .*got 'nowhere'"),
    (lambda: ls.predictor_from_spec("noisy:-1"), "noisy:SIGMA must be finite and >= 0, got -1"),
    (lambda: ls.predictor_from_spec(None), "predictor must be a text such as noisy:0.5, got None"),
    (lambda: ls.generate(ls.load_profile("poisson"), 5, 0), "rng must be a numpy.random.Generator"),
    (lambda: ls.prepare(trace(), rps_scale=-1), "must be from 1e-06 to 1e.09, got -1"),
]


@pytest.mark.parametrize(("call", "says"), CALLS, ids=[says[:40] for _, says in CALLS])
def test_wrong_call__is_one_line(call: Callable[[], object], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
