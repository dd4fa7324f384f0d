"""Every scripted fault ends in one line and the right exit code, and leaves nothing half done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from injection import Fault, check
from inputs import INPUTS
from outputs import OUTPUTS
from plug_ins import PLUG_INS
from runs_kept import RUNS_KEPT
from signals import SIGNALS

FAULTS = [*INPUTS, *OUTPUTS, *RUNS_KEPT, *SIGNALS, *PLUG_INS]

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="bash, /proc and signals"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_fault__ends_in_one_line_and_leaves_nothing_half_done(fault: Fault, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    check(fault, folder)


def test_faults__are_told_apart_and_enough() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60
