"""The tables of `experiments/deadline_window`: who is best, tied or worse, by hand."""

from __future__ import annotations

import importlib
from pathlib import Path

import pandas as pd
import pytest

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "deadline_window"


def runs(load: float, **late: list[float]) -> list[tuple[object, ...]]:
    """Rows of one point; the p99 is a tenth of the violations."""
    return [
        ("t", "H100", load, 5.0, entry, number, value, 1.0, value / 10, 1.0, 9.0)
        for entry, values in late.items()
        for number, value in enumerate(values)
    ]


def test_report__sets_ours_against_the_best_other_of_each_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENT))
    module = importlib.import_module("report")
    columns = [*module.POINT, "entry", "replication", "late", "goodput_rps", "p99_s"]
    rows = [
        *runs(0.4, window=[10, 12], a=[20, 24], b=[30, 30]),  # ahead of a
        *runs(0.7, window=[30, 30], a=[40, 40], b=[20, 20]),  # worse than b, by 10, always
        *runs(0.9, window=[21, 29], a=[20, 24, 99], b=[40, 40, 40]),  # worse than a, but tied
    ]
    frame = pd.DataFrame(rows, columns=[*columns, "mean_s", "longest_wait_s"])
    found = module.points(frame, "window", ["a", "b"])
    assert [point.best for point in found] == ["a", "b", "a"]
    assert [point.difference.mean for point in found] == [-11, 10, 3]  # of the first two alone
    assert [point.worse for point in found] == [False, True, False]
    # p99 ratios of 0.5, 1.5 and 25/22
    assert module.summary(found) == ["67 %", "2 of 3", "67 %", "+0.7", "0.95"]
