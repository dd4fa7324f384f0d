"""The measurement that `test_calibrate` kills: `python calibrate_kill_target.py GRID.csv`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from measured_fakes import FakeForward, fake_model

from llmsched.calibration.measure.measure import Progress, measure
from llmsched.calibration.measure.plan import MeasurePlan

PLAN = MeasurePlan(batch_sizes=(1, 2), seq_lens=(4, 8), n_trials=10, n_warmup=1)


def say_kept(progress: Progress) -> None:
    """A line for each trial that is on the disk."""
    if progress.round:
        print("kept", flush=True)


if __name__ == "__main__":
    forward = FakeForward(lambda batch_size, n_tokens: time.sleep(0.002))
    measure(PLAN, fake_model(forward), Path(sys.argv[1]), on_trial=say_kept)
