"""The whole command line: every option of every command changes a result, or ends in an error.

The table below names, for each option, a value that must change something on a workload where it
can (ties, failures, two models, a small memory), and values that must be refused. What merely
echoes an option, such as `sla_s` in the JSON, does not count as a change.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import itertools
import json
import re
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from plan_world import in_plan

from llmsched.cli.main import main
from llmsched.latency.files import save_model
from llmsched.latency.formulas import SaturatingModel
from llmsched.latency.uncertainty import Uncertainty


@dataclass(frozen=True)
class Case:
    """One option: arguments that must change something, and some that must be refused."""

    change: str
    bad: tuple[str, ...] = ()
    base: str = ""  # arguments of both runs
    file: str = "{trace}"  # what `trace info` and `trace convert` read
    plain: bool = False  # without --json and the tables: the option is about the output itself
    change_exit: int = 0
    bad_exit: int = 2
    same: bool = False  # only the time may change: the result must not
    note: str = ""  # what stderr says where an option that all commands share cannot matter


CONFIG = {
    "--config": Case(
        "--config {config}",
        bad=("--config {tmp}/absent.toml", "--config {broken}", "--config {bad_config}"),
    ),
    # these two are the settings of the tests: what they change is in test_config
    "--preset": Case("--preset plan", same=True, bad=("--preset fast",)),
    "--show-config": Case("--show-config", plain=True),
}
TRACE_OPTIONS = {
    "--requests": Case("--requests 100", bad=("--requests 0", "--requests 1.5")),
    "--window": Case("--window 10:60", bad=("--window 9:3", "--window 5", "--window 9000:")),
    "--model": Case("--model GPT-4", bad=("--model GPT-5",)),
    "--log-type": Case("--log-type 'API log'", bad=("--log-type chat",)),
    # columns of two formats: recognised as BurstGPT's, read as our own when asked
    "--trace-format": Case(
        "--trace-format csv",
        base="--trace {two_formats}",
        bad=("--trace-format azure", "--trace-format excel"),
    ),
    "--time-unit": Case("--time-unit ms", bad=("--time-unit min",)),
    "--columns": Case(
        "--columns arrival=arrival_s,prompt=prompt_tokens,output=output_tokens",
        base="--trace {two_formats}",
        bad=(
            "--columns arrival=t,prompt=p,output=o",
            "--columns prompt=prompt_tokens",
            "--columns prompt",
        ),
    ),
}
WORKLOAD = {
    **CONFIG,
    **TRACE_OPTIONS,
    "--trace": Case(
        "--trace {two_formats}", bad=("--trace {tmp}/absent.csv", "--trace {broken}", "--trace x")
    ),
    "--rps-scale": Case(
        "--rps-scale 50", bad=tuple(f"--rps-scale {x}" for x in ("0", "-1", "nan", "inf", "fast"))
    ),
    "--load": Case("--load 0.3", bad=("--load 0", "--load x", "--load 0.5 --rps-scale 2")),
    "--rate": Case("--rate 20", bad=("--rate 0", "--rate inf", "--rate 5 --load 0.5")),
    "--real-timestamps": Case("--real-timestamps", bad=("--real-timestamps --rps-scale 3",)),
    "--failures": Case("--failures keep", bad=("--failures maybe",)),
    "--jitter": Case("--jitter 1", bad=("--jitter -1", "--jitter nan", "--jitter inf")),
}
CLOSED_LOOP = {
    "--concurrency": Case(
        "--concurrency 4", bad=tuple(f"--concurrency {x}" for x in ("0", "1.5", "2e6", "x"))
    ),
    "--think-time": Case(
        "--think-time 2",
        base="--concurrency 4",
        bad=("--think-time -1", "--think-time nan", "--think-time inf"),
    ),
    "--think-time-law": Case(
        "--think-time-law constant",
        base="--concurrency 4 --think-time 2",
        bad=("--think-time-law uniform",),
    ),
}
SERVING = {
    "--gpus": Case("--gpus 2", bad=("--gpus 0", "--gpus -4", "--gpus 1.5")),
    "--sla": Case("--sla 0.2", bad=tuple(f"--sla {x}" for x in ("0", "-1", "nan", "inf", "x"))),
    "--tp": Case("--tp 2", base="--gpu-memory 4.4", bad=("--tp 0", "--tp two", "--tp 1.5")),
    "--predictor": Case(
        "--predictor oracle",
        bad=tuple(f"--predictor {x}" for x in ("psychic", "noisy:-1", "noisy:x", "bin-error:0.7")),
    ),
    "--gpu": Case(
        "--gpu-memory 4.2",  # batches that do not fit are counted
        bad=tuple(f"--gpu-memory {x}" for x in ("0", "-1", "nan", "inf", "3", "huge")),
    ),
    "--llm": Case("--llm qwen3-4b", bad=("--llm gpt-5",)),
    "--seed": Case("--seed 1", bad=("--seed -1", "--seed x")),
}
BATCHES = {
    "--latency": Case(
        "--latency h100-llama-3-8b-vllm",
        bad=("--latency gpu", "--latency {broken}", "--latency h100-llama-3-8b-vllm --tp 2"),
    ),
    "--admission": Case("--admission one-by-one", bad=("--admission never",)),
}
UNCERTAINTY = {
    "--latency-uncertainty": Case(
        "--latency-uncertainty 2",
        base="--latency {model}",
        bad=(
            *(f"--latency-uncertainty {x}" for x in ("1", "1001", "many")),
            "--latency-uncertainty 2 --latency reference",  # a formula has no calibration errors
        ),
    )
}
FIXED = {"--batch-size": Case("--batch-size 3", bad=("--batch-size 0", "--batch-size many"))}
DYNAMIC = {
    "--controller": Case("--controller window", base="--sla 0.3", bad=("--controller pid",)),
    "--memory": Case("--memory clt", base="--gpu-memory 4.4", bad=("--memory paged",)),
    "--batch-min": Case(
        "--batch-min 6",
        base="--sla 0.05",
        bad=("--batch-min 0", "--batch-min 9 --batch-max 8", "--batch-min 2 --controller none"),
    ),
    "--batch-max": Case("--batch-max 2", bad=("--batch-max 0",)),
    "--gpu": Case(
        "--gpu-memory 4.4",
        bad=tuple(f"--gpu-memory {x}" for x in ("0", "-1", "nan", "inf", "3", "huge")),
    ),
    "--batch-target": Case(
        "--batch-target 0.2", bad=tuple(f"--batch-target {x}" for x in ("0", "-1", "nan", "x"))
    ),
}
BINS = {
    "--bins": Case(
        "--bins 2", bad=("--bins 0", "--bins 65", "--bins 3 --bin-edges 64,256,1024", "--bins x")
    ),
    "--bin-by": Case(
        "--bin-by total", bad=("--bin-by colour", "--bin-by total --predictor bin-error:0.1")
    ),
    "--bin-edges": Case(
        "--bin-edges 64,256,1024",
        bad=tuple(
            f"--bin-edges {x}" for x in ("64,64", "256,64", "-1,64", "nan", "inf", "a,b", "''")
        ),
    ),
}
ADAPTIVE = {
    **{
        name: case for name, case in DYNAMIC.items() if name in ("--memory", "--batch-max", "--gpu")
    },
    **BINS,
    # under the reference formula service times are in the order of the totals
    "--bin-by": replace(BINS["--bin-by"], change="--bin-by output"),
    "--bin-edges": replace(BINS["--bin-edges"], change="--bin-edges equal-mass"),
}
BIN_CHOICE = {"--bin-choice": Case("--bin-choice longest-queue", bad=("--bin-choice best",))}
FORMING = {
    "--max-forming-wait": Case(
        "--max-forming-wait 0.05",
        bad=tuple(f"--max-forming-wait {x}" for x in ("-1", "nan", "inf", "x")),
    )
}
CONTINUOUS = {
    **WORKLOAD,
    **CLOSED_LOOP,
    **SERVING,
    "--gpus": Case("--replicas 2", bad=(*SERVING["--gpus"].bad, "--gpus inf")),
    "--sla": replace(SERVING["--sla"], change="--sla 0.5"),
    "--tp": replace(SERVING["--tp"], base="--gpu-memory 5 --rps-scale 2000", same=False),
    "--predictor": replace(SERVING["--predictor"], base="--router predicted-work"),
    "--step-time": Case(
        "--step-time h100-llama-3-8b-vllm",
        bad=(
            *("--step-time fast", "--step-time {broken}", "--step-time {tmp}/absent.json"),
            *("--step-time {lacking}", "--step-time {negative}", "--step-time reference"),
            "--step-time rtx-4090-llama-3.1-8b --llm qwen3-8b",
        ),
    ),
    "--latency-uncertainty": Case(
        "--latency-uncertainty 2",
        base="--step-time physics:h100:llama-3.1-8b",
        bad=(
            "--latency-uncertainty 1",
            "--latency-uncertainty 2 --step-time rtx-4090-llama-3.1-8b",
        ),
    ),
    "--ttft-slo": Case("--ttft-slo 0.05", bad=tuple(f"--ttft-slo {x}" for x in ("0", "nan", "x"))),
    "--tpot-slo": Case("--tpot-slo 0.02", bad=tuple(f"--tpot-slo {x}" for x in ("0", "nan", "x"))),
    "--router": Case("--router least-outstanding", base="--rps-scale 5", bad=("--router best",)),
    "--gpu": Case(
        "--gpu-memory 4.8",
        base="--rps-scale 2000",
        bad=tuple(f"--gpu-memory {x}" for x in ("0", "-1", "nan", "inf", "3", "huge")),
    ),
    "--kv-tokens": Case(
        "--kv-tokens 1500", bad=tuple(f"--kv-tokens {x}" for x in ("0", "5", "-1", "1.5", "x"))
    ),
    "--gpu-memory-utilization": Case(
        "--gpu-memory-utilization 0.38",
        bad=tuple(f"--gpu-memory-utilization {x}" for x in ("0", "1.1", "nan", "0.1")),
    ),
    "--block": Case(
        "--block 100", base="--kv-tokens 1500", bad=tuple(f"--block {x}" for x in (0, 1501, "x"))
    ),
    "--max-running": Case("--max-running 2", bad=tuple(f"--max-running {x}" for x in (0, "x"))),
    "--step-tokens": Case("--step-tokens 64", bad=tuple(f"--step-tokens {x}" for x in (0, "x"))),
    "--depth": Case("--depth 1", bad=("--depth 0", "--depth 3", "--depth 2 --prefill first")),
    "--prefill": Case(
        "--prefill first", base="--depth 1", bad=("--prefill no", "--prefill first --depth 2")
    ),
    **{
        f"--{name}": Case(
            f"--no-{name}", base="--kv-tokens 1250 --step-tokens 16", bad=(f"--{name} maybe",)
        )
        for name in ("prefix-caching", "full-sequence-check")
    },
    "--watermark": Case("--watermark 40", base="--kv-tokens 1500", bad=("--watermark -1",)),
    "--long-prefill": Case("--long-prefill 16", bad=("--long-prefill -1",)),
    "--max-model-len": Case("--max-model-len 500", bad=("--max-model-len 1",)),
    **{
        name: Case(f"{name} 0.01", bad=tuple(f"{name} {x}" for x in ("-1", "nan", "inf", "x")))
        for name in ("--overhead", "--overhead-per-request")
    },
}
NO_MEMORY = {"--tp": replace(SERVING["--tp"], base="", same=True)}  # fixed batches know none
AGEING = {"--ageing": Case("--ageing 2000", bad=tuple(f"--ageing {x}" for x in (0, -1, "inf")))}
TIMELINE = {
    "--timeline": Case(
        "--timeline {out}/t.json",
        plain=True,
        bad=("--timeline {out}/t.txt", "--timeline {out}/no/t.png", "--timeline {trace}"),
    ),
    "--timeline-window": Case(
        "--timeline-window 0:1",
        plain=True,
        base="--timeline {out}/t.json",
        bad=("--timeline-window 2:1", "--timeline-window x"),
    ),
    "--timeline-events": Case(
        "--timeline-events 20",
        plain=True,
        base="--timeline {out}/t.json",
        bad=("--timeline-events 0",),
    ),
}
OUTPUT = {
    **TIMELINE,
    "--json": Case("--json", plain=True),
    "--verbose": Case("--verbose", plain=True),
    "--requests-out": Case(
        "--requests-out {out}/r.csv",
        plain=True,
        bad=(
            "--requests-out {out}/r.txt",
            "--requests-out {out}/no/r.csv",
            "--requests-out {out}",
            "--requests-out {out}/r.csv --batches-out {out}/r.csv",
            "--requests-out {trace}",
        ),
    ),
    "--batches-out": Case(
        "--batches-out {out}/b.parquet",
        plain=True,
        bad=("--batches-out {out}/b", "--batches-out {out}/no/b.csv", "--batches-out {trace}"),
    ),
}
STEPS_OUT = {
    "--steps-out": Case(
        "--steps-out {out}/s.parquet",
        plain=True,
        bad=("--steps-out {out}/s", "--steps-out {trace}"),
    ),
    "--most-steps": Case(
        "--most-steps 30", plain=True, base="--steps-out {out}/s.csv", bad=("--most-steps 0",)
    ),
}
CONTINUOUS |= {**STEPS_OUT, **{name: case for name, case in OUTPUT.items() if "batch" not in name}}
CONTINUOUS["--requests-out"] = replace(
    OUTPUT["--requests-out"],
    bad=("--requests-out {out}/r.txt", "--requests-out {out}/r.csv --steps-out {out}/r.csv"),
)
OF_CONTINUOUS = {
    name: case
    for name, case in CONTINUOUS.items()
    if name not in {**WORKLOAD, **CLOSED_LOOP, **SERVING, **OUTPUT, **STEPS_OUT, "--gpu": 0}
    and name != "--latency-uncertainty"
}
OF_CONTINUOUS["--step-time"] = replace(OF_CONTINUOUS["--step-time"], bad=("--step-time fast",))
COMPARE = {
    "--schedulers": Case(
        "--schedulers static-fifo,dynamic-no-bins",
        bad=(
            "--schedulers fifo",
            "--schedulers static-fifo,",
            "--schedulers static-fifo,static_fifo",
        ),
    ),
    "--seeds": Case("--seeds 2", bad=("--seeds 0", "--seeds 10001", "--seeds two")),
    "--figure": Case(
        "--figure {out}/c.svg",
        plain=True,
        bad=("--figure {out}/c.txt", "--figure {out}/no/c.png", "--figure {folder}.png"),
    ),
    **{name: OUTPUT[name] for name in ("--json", "--verbose")},
    "--matters": Case("--matters 50%", bad=("--matters 1", "--matters -1%", "--matters x")),
    "--resample-trace": Case("--resample-trace"),
    "--out": Case("--out {out}/runs", bad=("--out {trace}",)),
    "--jobs": Case("--jobs 2", same=True, bad=("--jobs 0",)),
    # the runs of a Ray cluster are those of test_stress.py
    "--backend": Case("--backend local", same=True, bad=("--backend dask",)),
    "--address": Case("--address nowhere:1", change_exit=2, bad=("--address nowhere:1",)),
}

CAPACITY = {
    **{name: case for name, case in COMPARE.items() if name != "--figure"},
    "--schedulers": replace(COMPARE["--schedulers"], change="--schedulers dynamic-no-bins"),
    "--search": Case("--search gpus", bad=("--search speed", "--search gpus --gpus 2")),
    "--target-violations": Case(
        "--target-violations 0.5", bad=tuple(f"--target-violations {x}" for x in (1, -0.1, "nan"))
    ),
    **{
        option: Case(
            f"{option} 0.9",
            bad=(f"{option} -1", f"{option} inf", f"--target-violations 0.1 {option} 1"),
        )
        for option in ("--target-p95", "--target-p99")
    },
    "--tolerance": Case("--tolerance 0.02", bad=("--tolerance 0", "--tolerance 1")),
    "--capacity-curve": replace(
        COMPARE["--figure"],
        change="--capacity-curve {out}/c.svg",
        bad=tuple(bad.replace("--figure", "--capacity-curve") for bad in COMPARE["--figure"].bad),
    ),
}


MEASURE = {
    name: replace(case, base="--random-weights {llm_config}")
    for name, case in {
        "--random-weights": Case(
            "--random-weights {other_config}",
            bad=("--random-weights tiny", "--random-weights {broken}"),
        ),
        # no GPU in these tests, whatever the machine has
        "--device": Case("--device cuda", change_exit=2, bad=("--device tpu", "--device cuda")),
        "--dtype": Case("--dtype bfloat16", bad=("--dtype int8",)),
        "--threads": Case("--threads 2", bad=("--threads 0", "--threads few")),
        "--batch-sizes": Case(
            "--batch-sizes 1,3", bad=tuple(f"--batch-sizes {x}" for x in ("0", "2,2", "x"))
        ),
        "--seq-lens": Case(
            "--seq-lens 8,12", bad=tuple(f"--seq-lens {x}" for x in ("2", "65", "8,8"))
        ),
        "--prompt-share": Case(
            "--prompt-share 0.25",
            bad=tuple(f"--prompt-share {x}" for x in ("0", "1", "nan", "0.9", "x")),
        ),
        "--trials": Case("--trials 3", bad=("--trials 1", "--trials x")),
        "--warmup": Case("--warmup 2", bad=("--warmup -1",)),
        "--seed": Case("--seed 1", bad=("--seed -1",)),
        "--quick": Case("--quick"),  # fewer trials; the grid is given
        # there is nothing to forget here; test_calibrate.py has the rest
        "--restart": Case("--restart", same=True),
        "--out": Case(
            "--out {out}/h.csv",
            bad=("--out {out}/g.txt", "--out {out}/no/g.csv", "--out {out}"),
        ),
    }.items()
}

LISTS = {  # of increasing numbers: what is refused
    name: tuple(f"{name} {x}" for x in ("0,1", "2,2", "3,1", "x", "''"))
    for name in ("--volumes", "--gpu-counts", "--loads", "--bins")
}
STRESS = {
    "--volumes": Case("--volumes 150", bad=LISTS["--volumes"]),
    "--gpu-counts": Case("--gpu-counts 1,2", bad=LISTS["--gpu-counts"]),
    "--loads": Case("--loads 0.5,0.7", bad=(*LISTS["--loads"], "--loads nan", "--loads inf")),
    "--target-violations": Case(
        "--target-violations 0.98",
        bad=tuple(f"--target-violations {x}" for x in ("0", "1", "nan", "x")),
    ),
    "--seeds": Case("--seeds 2", bad=("--seeds 0", "--seeds two")),
    "--out": Case("--out {out}/other", bad=("--out {trace}",)),
    # a local Ray is started: the same numbers
    "--backend": Case("--backend ray", same=True, bad=("--backend dask",)),
    "--address": Case("--address nowhere:1", change_exit=2, bad=("--address nowhere:1",)),
    "--jobs": Case("--jobs 2", same=True, bad=("--jobs 0",)),
    # nothing has failed here; test_stress.py has the rest
    "--retry-failed": Case("--retry-failed", same=True),
    "--json": Case("--json", base="--tables-only", plain=True),
}
STRESS_BINS = {
    "--bins": Case("--bins 1,2", bad=(*LISTS["--bins"], "--bins 65")),
    "--best-gpu-count": Case("--best-gpu-count 2", bad=("--best-gpu-count 0",)),
    "--tables-only": Case("--tables-only", plain=True),
}


def _on(base: str, options: dict[str, Case]) -> dict[str, Case]:
    """The same options, where both runs get more arguments."""
    return {
        name: replace(case, base=f"{case.base} {base}", bad=tuple(f"{base} {b}" for b in case.bad))
        for name, case in options.items()
    }


def _after(base: str, options: dict[str, Case]) -> dict[str, Case]:
    """The same options after these arguments, which may hold a command's own argument."""
    return {name: replace(case, base=f"{base} {case.base}") for name, case in options.items()}


STEPPED = "--step-time {steps} --sla 5 --target-violations 0.5"
PLANNED = ("--requests", "--load", "--rate")  # the stress plan's own
TABLE: dict[str, dict[str, Case]] = {
    "static-fifo": {
        **WORKLOAD,
        **CLOSED_LOOP,
        **SERVING,
        **NO_MEMORY,
        **BATCHES,
        **UNCERTAINTY,
        **FIXED,
        **OUTPUT,
    },
    "dynamic-no-bins": {
        **WORKLOAD,
        **CLOSED_LOOP,
        **SERVING,
        **BATCHES,
        **UNCERTAINTY,
        **DYNAMIC,
        **OUTPUT,
    },
    "multi-bin-dynamic": {
        **WORKLOAD,
        **CLOSED_LOOP,
        **SERVING,
        **BATCHES,
        **UNCERTAINTY,
        **DYNAMIC,
        **BINS,
        **BIN_CHOICE,
        **OUTPUT,
    },
    "multi-bin-only": {
        **WORKLOAD,
        **SERVING,
        **BATCHES,
        **UNCERTAINTY,
        **NO_MEMORY,
        "--admission": replace(BATCHES["--admission"], note="makes no difference"),
        **FIXED,
        **BINS,
        **FORMING,
        **OUTPUT,
    },
    "multi-bin-adaptive": {
        **WORKLOAD,
        **CLOSED_LOOP,
        **SERVING,
        **BATCHES,
        **UNCERTAINTY,
        **ADAPTIVE,
        **OUTPUT,
    },
    "deadline-window": {
        **WORKLOAD,
        **CLOSED_LOOP,
        **SERVING,
        **BATCHES,
        **UNCERTAINTY,
        **{name: DYNAMIC[name] for name in ("--batch-max", "--gpu")},
        **OUTPUT,
    },
    "continuous-static": CONTINUOUS,
    "continuous-dynamic": {
        **CONTINUOUS,
        # D_SLA, too: so tight that it decides who is admitted
        "--tpot-slo": replace(CONTINUOUS["--tpot-slo"], base="--rps-scale 2000"),
    },
    "continuous-multi-bin": {
        **CONTINUOUS,
        "--predictor": SERVING["--predictor"],
        **_on("--max-running 2", {**BINS, **BIN_CHOICE}),
        "--bin-by": replace(BINS["--bin-by"], base="--max-running 2", bad=("--bin-by colour",)),
    },
    "continuous-sjf": {
        **CONTINUOUS,
        "--predictor": replace(SERVING["--predictor"], base="--max-running 2"),
        **_on("--max-running 2", AGEING),
    },
    "continuous-priority": CONTINUOUS,
    "compare": {
        **WORKLOAD,
        **CLOSED_LOOP,
        **SERVING,
        **BATCHES,
        **UNCERTAINTY,
        **FIXED,
        **DYNAMIC,
        **BINS,
        **BIN_CHOICE,
        **_on("--schedulers multi-bin-only", FORMING),
        **_on("--schedulers continuous-static --step-time {steps} --sla 5", OF_CONTINUOUS),
        **_on("--schedulers continuous-sjf --step-time {steps} --max-running 2", AGEING),
        **COMPARE,
    },
    "capacity": {
        # the rate is what is searched for: where it matters is the search for GPUs
        **WORKLOAD,
        "--rps-scale": replace(WORKLOAD["--rps-scale"], base="--search gpus"),
        "--real-timestamps": replace(WORKLOAD["--real-timestamps"], base="--search gpus"),
        **_on("--search gpus", {name: WORKLOAD[name] for name in ("--load", "--rate")}),
        **SERVING,
        **BATCHES,
        **UNCERTAINTY,
        "--gpus": replace(SERVING["--gpus"], bad=(*SERVING["--gpus"].bad, "--gpus inf")),
        "--admission": replace(BATCHES["--admission"], base="--target-violations 0.5"),
        **_on("--schedulers static-fifo", FIXED),
        **_on("--target-violations 0.5", {**DYNAMIC, **BINS, **BIN_CHOICE}),
        "--batch-min": replace(
            DYNAMIC["--batch-min"], base="--batch-target 0.05 --target-violations 0.5"
        ),
        **_on("--schedulers multi-bin-only", FORMING),
        **_on(f"--schedulers continuous-static {STEPPED}", OF_CONTINUOUS),
        **_on(f"--schedulers continuous-sjf {STEPPED} --max-running 2", AGEING),
        **CAPACITY,
    },
    "plan": {},  # as capacity, see below
    "list": {"--json": Case("--json", plain=True)},
    "doctor": {"--json": Case("--json", plain=True)},
    "trace info": {
        **TRACE_OPTIONS,
        **{
            name: replace(TRACE_OPTIONS[name], base="", file="{two_formats}")
            for name in ("--trace-format", "--columns")
        },
        "--failures": Case("--failures drop", bad=("--failures maybe",)),
        "--seed": Case("--seed 1", base="--requests 50", file="poisson", bad=("--seed -1",)),
        "--json": OUTPUT["--json"],
    },
    "trace convert": {
        **TRACE_OPTIONS,
        **{
            name: replace(TRACE_OPTIONS[name], base="", file="{two_formats}")
            for name in ("--trace-format", "--columns")
        },
        "--failures": Case("--failures drop", bad=("--failures maybe",)),
        "--rps-scale": WORKLOAD["--rps-scale"],
        "--jitter": WORKLOAD["--jitter"],
        "--seed": Case("--seed 1", base="--jitter 1", bad=("--seed -1",)),
        "--to": Case("--to burstgpt", bad=("--to excel",)),
    },
    "paper multibin": {
        "--figure": Case("--figure 1b", bad=("--figure 2",)),
        "--quick": Case("--quick", base="--figure 7 --checks --jobs 1"),
        "--out": Case("--out {out}/multibin", bad=("--out {trace}",)),
        "--seed": Case("--seed 1", base="--figure 7 --quick --checks --jobs 1", bad=("--seed -1",)),
        "--jobs": Case(
            "--jobs 2", base="--figure 7 --quick --checks", same=True, bad=("--jobs 0",)
        ),
        "--checks": Case("--checks"),
    },
    "paper dynamic": {
        "--figure": Case("--figure algorithm-2", bad=("--figure 2",)),
        "--quick": Case("--quick", base="--figure 3", same=True),
        "--out": Case("--out {out}/dynamic", bad=("--out {trace}",)),
        "--seed": Case("--seed 1", base="--figure 3 --jobs 1", same=True, bad=("--seed -1",)),
        "--jobs": Case("--jobs 2", base="--figure 3 --checks", same=True, bad=("--jobs 0",)),
        "--checks": Case("--checks"),
    },
    "calibrate measure": {
        # exactly one of the two, so that neither is left out or added alone
        "--model": Case(
            "--model {weights}",
            base="--random-weights {llm_config}",
            change_exit=2,
            bad=("--model {weights}", "--model {folder}"),
        ),
        **MEASURE,
    },
    "stress": {
        **_after(
            "step2 --gpu-counts 1 --loads 0.9",
            {
                **{name: case for name, case in WORKLOAD.items() if name not in PLANNED},
                **{
                    name: SERVING[name] for name in SERVING if name not in ("--gpus", "--admission")
                },
                **DYNAMIC,
                **STRESS,
                "--latency": BATCHES["--latency"],
                "--engine": Case(
                    "--engine iteration",
                    base="--step-time {steps}",
                    bad=("--engine steam", "--engine iteration --controller none"),
                ),
            },
        ),
        **_after(
            "step2 --gpu-counts 2 --loads 0.9 --engine iteration --step-time {steps} --sla 5",
            {
                name: OF_CONTINUOUS[name]
                for name in (
                    *("--step-time", "--ttft-slo", "--tpot-slo", "--router", "--kv-tokens"),
                    *("--gpu-memory-utilization", "--max-running", "--step-tokens"),
                )
            },
        ),
        **_after("step1", FIXED),
        **_after("step3 --best-gpu-count 1 --bins 2", STRESS_BINS),
    },
    "calibrate fit": {
        "--form": Case("--form reference", bad=("--form cubic", "--form step")),
        "--out": Case(
            "--out {out}/other.json",
            bad=("--out {out}/m.txt", "--out {out}/no/m.json", "--out {folder}"),
        ),
        "--figure": COMPARE["--figure"],
        "--residuals": replace(
            COMPARE["--figure"],
            change="--residuals {out}/r.svg",
            bad=tuple(bad.replace("--figure", "--residuals") for bad in COMPARE["--figure"].bad),
        ),
        "--bootstrap": Case("--bootstrap 20", bad=("--bootstrap 1", "--bootstrap x")),
        "--seed": Case("--seed 1", base="--bootstrap 20", bad=("--seed -1", "--seed x")),
        "--json": OUTPUT["--json"],
    },
    "calibrate show": {"--json": OUTPUT["--json"]},
    "calibrate import": {
        "--out": Case(
            "--out {out}/other.json",
            bad=("--out {out}/m.txt", "--out {out}/no/m.json", "--out {bench}/1.json"),
        ),
        "--figure": COMPARE["--figure"],
        # where every file says its own they are refused; test_benchmark_formats.py has their use
        "--concurrency": Case(
            "--concurrency 4", change_exit=2, bad=("--concurrency 0", "--concurrency 1,x")
        ),
        "--output-tokens": Case(
            "--output-tokens 50", change_exit=2, bad=("--output-tokens 0", "--output-tokens x")
        ),
        "--where": Case("--where max_concurrency=4", change_exit=2, bad=("--where x",)),
        # of closed loops they are refused; a log of requests is simulated with them
        **{
            f"--{name}": Case(f"--{name} 5000", change_exit=2, bad=(f"--{name} -1", f"--{name} x"))
            for name in ("kv-tokens", "max-running", "step-tokens", "seed")
        },
        "--json": OUTPUT["--json"],
    },
    "validate": {
        **{
            name: CONTINUOUS[name]
            for name in (
                *("--kv-tokens", "--max-running", "--step-tokens", "--depth", "--prefill"),
                *("--block", "--watermark", "--long-prefill", "--overhead"),
                *("--overhead-per-request", "--prefix-caching", "--full-sequence-check"),
            )
        },
        "--step-time": replace(
            CONTINUOUS["--step-time"], change="--step-time physics:h100:qwen3-1.7b"
        ),
        "--gpu-memory-utilization": replace(
            CONTINUOUS["--gpu-memory-utilization"], change="--gpu-memory-utilization 0.95"
        ),
        "--llm": replace(SERVING["--llm"], change="--llm qwen3-0.6b"),
        "--tp": replace(SERVING["--tp"], base=""),
        "--gpu": replace(CONTINUOUS["--gpu"], change="--gpu-memory 4.75", base=""),
        "--seed": Case("--seed 1", base="--fit all:30", bad=("--seed -1", "--seed x")),
        "--shared-prefixes": Case(
            "--shared-prefixes {shared}",
            bad=("--shared-prefixes {broken}", "--shared-prefixes {tmp}/absent.csv"),
        ),
        "--fit": Case(
            "--fit scale:30",
            bad=tuple(f"--fit {x}" for x in ("scale", "scale:0", "scale:55", "slope:30", "all:5")),
        ),
        "--where": Case("--where arrival_s=0.0", bad=("--where x", "--where arrival_s=-1")),
        # of a tool that counts tokens it is refused; test_benchmark_formats.py has its use
        "--output-tokens": Case(
            "--output-tokens 50", change_exit=2, bad=("--output-tokens 0", "--output-tokens x")
        ),
        "--figure": COMPARE["--figure"],
        "--report": Case(
            "--report {out}/r.md", bad=("--report {out}/r.txt", "--report {out}/no/r.md")
        ),
        "--json": OUTPUT["--json"],
    },
    # a failed download is a failed run, not a wrong argument: exit code 1
    "trace fetch": {
        "--url": Case("--url {url}/other", change_exit=1, bad=("--url nowhere",)),
        "--sha256": Case("--sha256 {other_sha}", change_exit=1, bad=("--sha256 ab",)),
        "--out": Case("--out {out}/elsewhere", bad=("--out {trace}/below",), bad_exit=1),
    },
}
TABLE["plan"] = {
    name: case
    for name, case in TABLE["capacity"].items()
    if name not in ("--search", "--tolerance", "--matters", "--capacity-curve")
    and name not in UNCERTAINTY
} | {
    "--load": WORKLOAD["--load"],
    "--gpus": Case("--gpus 2", base="--load 0.5", bad=("--gpus 0", "--gpus 1.5")),
    "--gpu-price": Case("--gpu-price 2", bad=("--gpu-price -1", "--gpu-price x")),
    "--figure": COMPARE["--figure"],
}
# a plan is the search for GPUs of `capacity`, with the same options: only its own are run again
RUN = [command for command in TABLE if command != "plan"]
OF_PLAN = ("--gpus", "--gpu-price", "--figure", "--schedulers", "--sla", "--load")
BASE = {
    **dict.fromkeys(TABLE, "--trace {trace} --gpus 3"),
    **{
        f"continuous-{name}": "--trace {trace} --gpus 3 --step-time {steps} --sla 5"
        for name in ("static", "dynamic", "multi-bin", "sjf", "priority")
    },
    "compare": "--trace {trace} --no-resample-trace --gpus 3 --seeds 1 --schedulers "
    "static-fifo,dynamic-no-bins,multi-bin-dynamic",
    "capacity": "--trace {trace} --no-resample-trace --seeds 1 --jobs 1 --tolerance 0.1 --sla 0.5 "
    "--schedulers multi-bin-dynamic",
    "plan": "--trace {trace} --no-resample-trace --seeds 1 --jobs 1 --sla 5 "
    "--schedulers multi-bin-dynamic",
    "stress": "--trace {trace} --volumes 200 --seeds 1 --jobs 1 --out {out}/stress",
    "list": "profiles",
    "doctor": "",
    "trace info": "{file}",
    "trace convert": "{file} {out}/converted",
    "trace fetch": "burstgpt --url {url}/right --sha256 {sha}",
    "paper multibin": "--figure table-1",
    "paper dynamic": "--figure 3",
    "calibrate measure": "--out {out}/g.csv --batch-sizes 1,2 --seq-lens 8,16 --threads 1",
    "calibrate fit": "{grid}",
    "calibrate show": "{model}",
    "calibrate import": "vllm-bench {bench}/1.json {bench}/4.json {bench}/16.json "
    "--out {out}/model.json",
    "validate": "{log} --step-time {steps} --gpu-memory 4.8 --llm qwen3-1.7b",
}
TABLES = "--json --requests-out {out}/requests.csv --batches-out {out}/batches.csv"
IN_FULL = {
    **dict.fromkeys(TABLE, TABLES),
    **{
        f"continuous-{name}": "--json --requests-out {out}/requests.csv"
        for name in ("static", "dynamic", "multi-bin", "sjf", "priority")
    },
    "compare": "--json",
    "capacity": "--json",
    "plan": "--json",
    "stress": "--json --tables-only",
    "list": "",
    "doctor": "",
    "trace info": "--json",
    "trace convert": "",
    "trace fetch": "",
    "paper multibin": "",
    "paper dynamic": "",
    "calibrate measure": "",
    "calibrate fit": "--json",
    "calibrate show": "--json",
    "calibrate import": "--json",
    "validate": "--json",
}
ECHOES = {
    *("scheduler", "gpus", "bins", "sla_s", "seed", "seeds", "trace", "predictor", "name"),
    *("latency_model", "latency_kind", "latency_description", "bin_edges", "left_out", "config"),
    *("search", "target_metric", "target_at_most", "tolerance", "command"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Iterator[dict[str, str]]:
    """What the braces in the table stand for: traces, a folder, a server on this machine."""
    tmp = tmp_path_factory.mktemp("options")
    (tmp / "folder.png").mkdir()
    (tmp / "broken.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,-1,1\n")
    content = b"Timestamp,Model\n"
    with _server({"/right": content, "/other": b"something else"}) as url:
        yield {
            "tmp": str(tmp),
            "trace": str(_trace(tmp / "t.csv")),
            "two_formats": str(_two_formats(tmp / "two.csv")),
            "model": str(_model(tmp / "model.json")),
            **_step_times(tmp),
            "log": str(_log(tmp / "requests.csv")),
            "shared": str(
                _config(tmp / "shared.csv", "request,earlier_request,shared_blocks\n9,2,4")
            ),
            "grid": str(_grid(tmp / "grid.csv")),
            **_llm_configs(tmp),
            "config": str(
                _config(tmp / "run.toml", "predictor = 'oracle'\n[slo]\nlatency_s = 0.2")
            ),
            "bad_config": str(_config(tmp / "bad.toml", "[hardware]\nn_gpu = 2")),
            "broken": str(tmp / "broken.csv"),
            "folder": str(tmp / "folder"),
            "bench": str(_benchmarks(tmp / "bench")),
            "url": url,
            "sha": hashlib.sha256(content).hexdigest(),
            "other_sha": hashlib.sha256(b"").hexdigest(),
        }


def _trace(path: Path) -> Path:
    """240 requests in whole seconds, about 3 in each; two models, two log types, 12 failures."""
    rng = np.random.default_rng(7)
    arrival_s = np.sort(rng.integers(0, 80, 240))
    prompt, output = rng.integers(20, 700, 240), rng.integers(1, 500, 240)
    output[::20] = 0
    rows = [
        f"{t},{p},{o},{model},{log}"
        for t, p, o, model, log in zip(
            arrival_s,
            prompt,
            output,
            rng.choice(["GPT-4", "ChatGPT"], 240),
            rng.choice(["API log", "Conversation log"], 240),
            strict=True,
        )
    ]
    head = "arrival_s,prompt_tokens,output_tokens,model,log_type"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def _log(path: Path) -> Path:
    """60 requests of a server, half a second apart at most."""
    rng = np.random.default_rng(3)
    arrival_s = np.concatenate([[0.0], np.cumsum(rng.uniform(0, 0.1, 59))])
    prompt, output = rng.integers(100, 700, 60), rng.integers(2, 300, 60)
    rows = [
        f"{t},{p},{o},{0.05 + 1e-4 * p},{0.05 + 1e-4 * p + 0.02 * o}"
        for t, p, o in zip(arrival_s, prompt, output, strict=True)
    ]
    head = "arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def _config(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    return path


def _grid(path: Path) -> Path:
    """A latency grid of four terms with 3 % of noise."""
    rng = np.random.default_rng(2)
    rows = [
        f"{b},{t},{(0.05 + 0.008 * t + 7e-5 * b * t) * (1 + 0.03 * rng.standard_normal())!r},,1"
        for b in (1, 4, 16, 64)
        for t in (128, 512, 2048, 4096)
    ]
    head = "batch_size,max_seq_len,mean_latency_sec,std_latency_sec,num_trials"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def _model(path: Path) -> Path:
    """A latency model with calibration errors of 10 %."""
    values = {"alpha_s": 0.015, "beta_s_per_token": 0.0003, "gamma": 0.4}
    errors = Uncertainty.of(tuple(values), np.diag([(0.1 * v) ** 2 for v in values.values()]))
    save_model(SaturatingModel(name="mine", source="made up", uncertainty=errors, **values), path)
    return path


def _step_times(tmp: Path) -> dict[str, str]:
    """Two-regime files: a sound one, one that lacks a coefficient, one below zero."""
    decode = {"c0_s": 0.01, "cb_s": 1e-4, "ckv_s": 1e-7}
    mixed = {**decode, "cp_s": 1e-4, "n0_tokens": 64, "cpair_s": 1e-9}
    forms = {
        "steps": {"form": "two-regime", "decode": decode, "mixed": mixed},
        "lacking": {"form": "two-regime", "decode": {"c0_s": 0.01}, "mixed": mixed},
        "negative": {"form": "two-regime", "decode": {**decode, "cb_s": -1.0}, "mixed": mixed},
    }
    for name, form in forms.items():
        (tmp / f"{name}.json").write_text(json.dumps(form))
    return {name: str(tmp / f"{name}.json") for name in forms}


def _llm_configs(tmp: Path) -> dict[str, str]:
    """Two configurations of small language models, and a folder as if with weights."""
    values = {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    values |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
    values |= {"vocab_size": 64, "max_position_embeddings": 64, "tie_word_embeddings": True}
    places = {}
    (tmp / "weights").mkdir()
    for name, changes, file in (
        ("llm_config", {}, "llm.json"),
        ("other_config", {"num_hidden_layers": 2}, "other.json"),
        ("weights", {}, "weights/config.json"),
    ):
        (tmp / file).write_text(json.dumps({**values, **changes}))
        places[name] = str(tmp / file).removesuffix("/config.json")
    return places


def _without_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement in which each look at a clock is one second on, so that two are the same."""
    ticking = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr("llmsched.calibration.measure.timing.time", ticking)
    monkeypatch.setattr("llmsched.calibration.measure.measure.time", ticking)
    monkeypatch.setattr("llmsched.calibration.measure.measure._now", lambda: "now")
    monkeypatch.setattr("llmsched.calibration.measure.measure.device_state", lambda _: {})
    monkeypatch.setattr(
        "llmsched.calibration.measure.output.process_peak_memory_bytes", lambda: None
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def _benchmarks(folder: Path) -> Path:
    """What `vllm bench serve` saves, at three concurrencies."""
    folder.mkdir()
    for n in (1, 4, 16):
        result = {
            "request_rate": "inf",
            "max_concurrency": n,
            "completed": 100,
            "failed": 0,
            "total_input_tokens": 50_000,
            "total_output_tokens": 10_000,
            "mean_ttft_ms": 50 + 20 * n,
            "mean_tpot_ms": 10 + 0.3 * n,
        }
        (folder / f"{n}.json").write_text(json.dumps(result))
    return folder


def _two_formats(path: Path) -> Path:
    rows = [f"{t},100,50,{t},300,{20 + t}" for t in range(60)]
    head = "Timestamp,Request tokens,Response tokens,arrival_s,prompt_tokens,output_tokens"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


@contextlib.contextmanager
def _server(contents: dict[str, bytes]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = contents[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def run(places, tmp_path, monkeypatch):
    """Runs one command with more arguments: its result, and the files that it wrote."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    runs = 0

    def invoke(command: str, case: Case, more: str, *, full: bool) -> tuple[Result, dict[str, str]]:
        nonlocal runs
        runs += 1
        out = tmp_path / str(runs)
        out.mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", str(out))
        if command == "calibrate measure":
            _without_clocks(monkeypatch)
            # on any machine: --threads is refused beyond its CPUs, and 2 must differ from the usual
            monkeypatch.setattr("llmsched.calibration.measure.model.usable_cpus", lambda: 2)
        line = f"{command} {BASE[command]} {case.base} {IN_FULL[command] if full else ''} {more}"
        line = line.replace("{file}", case.file).format(**places, out=out)
        result = CliRunner().invoke(main, in_plan(shlex.split(line)))
        written = {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }
        if command == "stress":  # its tables hold every setting, its runs their times: by name
            own = ("/runs/", "/cache/")
            written = {name: "" for name in written if not any(part in name for part in own)}
        return replace_path(result, out), written

    return invoke


def replace_path(result: Result, out: Path) -> Result:
    """The result as if every run had the same output folder."""
    for stream in ("stdout_bytes", "stderr_bytes"):
        setattr(result, stream, getattr(result, stream).replace(str(out).encode(), b"OUT"))
    return result


def outcome(result: Result, written: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
    """What counts: exit code, figures without echoes (or the text), and the files' contents."""
    try:
        shown = without_echoes(json.loads(result.stdout, parse_constant=pytest.fail))
    except json.JSONDecodeError:
        shown = result.stdout
    return result.exit_code, shown, written


def without_echoes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_echoes(entry) for key, entry in value.items() if key not in ECHOES}
    return [without_echoes(entry) for entry in value] if isinstance(value, list) else value


def options_of(command: str) -> dict[str, click.Option]:
    """The options that a command takes, --help and --quiet aside (test_every_command)."""
    found: click.Command = main
    for name in command.split():
        assert isinstance(found, click.Group)
        step = found.get_command(click.Context(found), name)
        assert step is not None
        found = step
    return {
        option.opts[0]: option
        for option in found.params
        if isinstance(option, click.Option) and option.name != "quiet"
    }


def commands_of(group: click.Group, prefix: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def test_table__has_every_option_of_every_command():
    assert set(commands_of(main)) == set(TABLE)
    for command, cases in TABLE.items():
        assert set(options_of(command)) == set(cases), command


def test_table__has_a_value_to_refuse_wherever_an_option_takes_one():
    for command, cases in TABLE.items():
        for name, option in options_of(command).items():
            assert cases[name].bad or option.is_flag, (command, name)


@pytest.mark.parametrize("command", TABLE)
def test_options__each_changes_something(command, run):
    wrong = [
        f"{option}: {fault}"
        for option, case in TABLE[command].items()
        if (command in RUN or option in OF_PLAN)
        and (fault := fault_of_change(command, case, run)) is not None
    ]
    assert not wrong, "\n".join(wrong)


def fault_of_change(command, case, run) -> str | None:
    """What is wrong with a change of one option; None where nothing is."""
    before, after = (run(command, case, more, full=not case.plain) for more in ("", case.change))
    if before[0].exit_code != 0:
        return f"without it: {before[0].output}"
    if after[0].exit_code != case.change_exit:
        return f"{case.change} ends with {after[0].exit_code}: {after[0].output}"
    if case.note:
        said = case.note in after[0].stderr and case.note not in before[0].stderr
        return None if said else f"{case.change} must say {case.note!r}: {after[0].stderr}"
    if case.same != (outcome(*before) == outcome(*after)):
        return f"{case.change} must change {'nothing' if case.same else 'something'}"
    return None


@pytest.mark.parametrize("command", TABLE)
def test_options__each_refuses_what_cannot_be(command, run, places):
    wrong = [
        f"{bad}: {fault}"
        for option, case in TABLE[command].items()
        for bad in case.bad
        if (command in RUN or option in OF_PLAN)
        and (fault := fault_of_refusal(command, option, bad, run, places)) is not None
    ]
    assert not wrong, "\n".join(wrong)


def fault_of_refusal(command, option, bad, run, places) -> str | None:
    """What is wrong with how a bad value is refused; None where nothing is."""
    case = TABLE[command][option]
    result, written = run(command, case, bad, full=not case.plain)
    lines = result.stderr.splitlines()
    if result.exit_code != case.bad_exit or not isinstance(result.exception, SystemExit):
        return f"exit code {result.exit_code}: {result.output}"
    if result.stdout or written:
        return f"it wrote {result.stdout or written}"
    if "Traceback" in result.stderr or [x for x in lines if x.startswith("Error: ")] != lines[-1:]:
        return f"not one line: {result.stderr}"
    # and it says which option, or what was given: the value, or its part behind a colon
    given = (shlex.split(bad)[1].format(**places, out="OUT"), *re.split("[: ]", bad)[-2:])
    if option in lines[-1] or any(part and part in lines[-1] for part in given):
        return None
    return f"neither the option nor the value is named: {lines[-1]}"


@pytest.mark.parametrize("command", TABLE)
def test_command__does_the_same_twice(command, run):
    """So that a change above is the option's doing (and scar 9: no state is left behind)."""
    case = Case("")
    assert outcome(*run(command, case, "", full=True)) == outcome(
        *run(command, case, "", full=True)
    )


@pytest.mark.parametrize("command", TABLE)
def test_option__has_a_help_text(command):
    for name, option in options_of(command).items():
        assert option.help, name


@pytest.mark.parametrize(
    ("schedulers", "options", "advice"),
    [
        ("static-fifo", "--bins 8", "multi_bin_dynamic, multi_bin_only"),
        ("static-fifo,dynamic-no-bins", "--predictor oracle", "multi_bin_dynamic, multi_bin_only"),
        ("dynamic-no-bins", "--batch-size 4", "static_fifo, multi_bin_only"),
        ("static-fifo,multi-bin-dynamic", "--max-forming-wait 1", "multi_bin_only"),
    ],
)
def test_compare__refuses_an_option_that_none_of_its_schedulers_takes(
    schedulers, options, advice, run
):
    result, _ = run("compare", Case(""), f"--schedulers {schedulers} {options}", full=False)
    assert result.exit_code == 2
    name = options.split()[0]
    assert f"Error: {name} does nothing for {schedulers.replace('-', '_').replace(',', ', ')}" in (
        result.stderr
    )
    assert advice in result.stderr
