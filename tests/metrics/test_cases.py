"""Small files that went wrong once, with the value that is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmsched.cli.main import main

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not CASES.is_dir(), reason="CASES NOT CHECKED: ../shared/cases is absent"),
]


def printed(line: str) -> str:
    scheduler, case, *rest = line.split()
    plan = ["--preset", "plan", "--real-timestamps"]
    done = CliRunner().invoke(main, [scheduler, "--trace", str(CASES / case), *plan, *rest])
    assert done.exit_code == 0, done.output
    return done.stdout


def answer(line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(f"{line} --json"))
    return found


def test_case__trailing_rejections():
    found = answer("dynamic-no-bins trailing_rejections.csv --gpus 1 --sla 5")
    assert found["makespan_s"] == pytest.approx(1860, abs=0.5)
    assert found["throughput_rps"] == found["goodput_rps"] == pytest.approx(60 / 1860, rel=1e-3)
    assert found["gpu_utilization"] == pytest.approx(0.0021, abs=5e-5)


def test_case__kv_beyond_memory():
    line = "static-fifo kv_beyond_memory.csv --gpus 2 --sla 60"
    found = answer(line)
    assert found["kv_tokens_max"] == 202_415
    assert 0.5 < found["beyond_memory_share"] < 1
    assert "Batches larger than the KV memory: static_fifo 58.3 %" in printed(line)


def test_case__evenly_spaced_rho_096():
    found = answer("static-fifo evenly_spaced_rho_096.csv --gpus 1 --batch-size 1 --sla 2")
    assert found["offered_load"] == pytest.approx(0.9599, abs=5e-5)
    assert found["load_label"] == "stable"
