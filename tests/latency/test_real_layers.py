"""Layer tables of two real GPUs: composed, fitted, and against the constants published with them.

The tables are not in this repository; where the folder is absent these tests are skipped, and the
summary of the run says so.
"""

from __future__ import annotations

import csv
import gzip
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from composition import step_us

from llmsched.hardware import MODELS
from llmsched.latency.step_times import step_time_from_spec
from llmsched.latency.steps.layers import LayerTables
from llmsched.latency.steps.two_regime import TwoRegime

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
PREFIX = str(DATA / "latency" / "vllm_layers_{}_Llama-3.1-8B_tp1")
GPUS = {"RTX4090": 256, "RTXPRO6000": 128}  # max_num_seqs of the runs

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not Path(PREFIX.format("RTX4090") + "_dense.csv.gz").is_file(),
        reason="NOT RUN ON ANY REAL LAYER TABLE: ../shared/data is not there",
    ),
]
every_gpu = pytest.mark.parametrize("gpu", sorted(GPUS))


def tables(gpu: str) -> LayerTables:
    model = step_time_from_spec(
        PREFIX.format(gpu), llm=MODELS["llama-3.1-8b"], max_running=GPUS[gpu]
    )
    assert isinstance(model, LayerTables)
    return model


def rows(gpu: str, part: str) -> list[dict[str, str]]:
    with gzip.open(f"{PREFIX.format(gpu)}_{part}.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def curves(gpu: str, part: str, count: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in rows(gpu, part):
        found.setdefault(row["layer"], {})[int(row[count])] = float(row["time_us"])
    return found


@every_gpu
def test_step__is_the_composition_of_the_doubling_grid(gpu):
    # given the rows whose chunk and kv are 0 or 16 times a power of two
    doubles = {0, *(16 << i for i in range(11))}
    axes = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    attention = {
        point: float(row["time_us"])
        for row in rows(gpu, "attention")
        if {(point := tuple(int(row[axis]) for axis in axes))[i] for i in (0, 1, 3)} <= doubles
    }
    dense, entries = curves(gpu, "dense", "tokens"), curves(gpu, "per_sequence", "sequences")
    model, rng = tables(gpu), random.Random(1)
    for _ in range(60):
        n = rng.choice([0, 1, 3, 40, 128])
        prefills = [(rng.randint(16, 900), rng.randint(0, 4000)) for _ in range(rng.randint(0, 2))]
        if not prefills and not n:
            continue
        step = (prefills, n, n * rng.randint(16, 3000) + (n > 0))
        expected_us = step_us(dense, entries, attention, 32, step, GPUS[gpu])
        assert model.step_s(*step) == pytest.approx(1e-6 * expected_us, rel=1e-12)
    assert not model.outside()


@pytest.mark.parametrize(
    ("step", "rtx4090_s", "rtxpro6000_s"),
    [
        (([(512, 0)], 0, 0), 0.048305504840, 0.023744969390),
        (((), 32, 32_000), 0.023808697340, 0.015031526000),
        (([(100, 0)], 20, 14_000), 0.025283777800, 0.014799440316),
        (([(300, 0), (200, 640)], 30, 15_360), 0.065067599995, 0.028712129870),
        (([(512, 256), (1024, 0), (500, 16)], 12, 9000), 0.191482494463, 0.082263465819),
        (([(5, 64)], 3, 100), 0.017175829880, 0.010952218437),
        (((), 300, 38_400), 0.043778143630, 0.022062063985),
        (([(1, 0)], 0, 0), 0.016649993830, 0.011128034260),
        (([(3000, 0)], 0, 0), 0.282864401998, 0.114282405013),
    ],
)
def test_step__against_the_composition_that_replays_the_real_runs(step, rtx4090_s, rtxpro6000_s):
    # given times of another program, with which both vLLM runs come out as published
    assert tables("RTX4090").step_s(*step) == pytest.approx(rtx4090_s, abs=1e-12)
    assert tables("RTXPRO6000").step_s(*step) == pytest.approx(rtxpro6000_s, abs=1e-12)


def test_read__the_second_sweep_tells_how_good_interpolation_is():
    files = tables("RTXPRO6000").files
    off = [len(grid.off) for grid in (files.decode, files.prefill, files.mixed)]
    assert off == [72, 137, 10_512]
    errors = np.abs(files.mixed.off_grid_errors())
    assert np.median(errors) < 0.015
    assert np.percentile(errors, 95) < 0.13
    assert "10721 more points" in tables("RTXPRO6000").describe()


def test_derive__gives_the_shipped_files_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "calibration"))
    monkeypatch.delitem(sys.modules, "derive_step_times", raising=False)
    import derive_step_times

    derive_step_times.main(["--data", str(DATA), "--out", str(tmp_path)])
    shipped = ROOT / "calibration" / "step_times"
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in shipped.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (shipped / path.name).read_bytes()


@pytest.mark.parametrize(
    ("name", "decode", "mixed"),
    [
        ("rtx-4090-llama-3.1-8b", (16.9, 38.8, 0.162), (19.3, 85.2, 96, 0.282, 4.55)),
        ("rtx-pro-6000-llama-3.1-8b", (11.1, 18.7, 0.0931), (13.0, 36.1, 192, 0.14, 2.22)),
    ],
)
def test_fit__is_near_another_fit_to_the_same_tables(name, decode, mixed):
    # given constants fitted independently, on a grid that was not published [ms, µs, µs, ns]
    model = step_time_from_spec(name)
    assert isinstance(model, TwoRegime)
    d, m = model.decode, model.mixed
    ours = (1e3 * d.c0_s, 1e6 * d.cb_s, 1e6 * d.ckv_s)
    # the floor and the cost of context within 2 %, that of a decode within 11 %
    assert ours == pytest.approx(decode, rel=0.11)
    assert (ours[0], ours[2]) == pytest.approx((decode[0], decode[2]), rel=0.02)
    ours = (1e3 * m.c0_s, 1e6 * m.cp_s, m.n0_tokens, 1e6 * m.ckv_s, 1e9 * m.cpair_s)
    assert ours == pytest.approx(mixed, rel=0.12)
    assert ours[:2] == pytest.approx(mixed[:2], rel=0.035)
