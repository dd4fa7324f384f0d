"""Measuring a grid: what is asked, what is written, and how an interrupted run goes on."""

from __future__ import annotations

import csv
import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="the harness times models of torch")

from measured_fakes import FakeForward, fake_model  # noqa: E402

from llmsched._util.files import OutputError  # noqa: E402
from llmsched.calibration.measure import (  # noqa: E402
    measure as calibrate,
    output as _calibrate_output,
    partial as _calibrate_partial,
    timing as calibrate_timing,
)
from llmsched.calibration.measure.measure import measure  # noqa: E402
from llmsched.calibration.measure.partial import partial_file  # noqa: E402
from llmsched.calibration.measure.plan import Cell, CellResult, MeasurePlan  # noqa: E402
from llmsched.cli.main import main  # noqa: E402
from llmsched.latency.base import CalibrationError  # noqa: E402

TARGET = Path(__file__).parents[1] / "support" / "calibrate_kill_target.py"
PLAN = MeasurePlan(batch_sizes=(1, 2), seq_lens=(4, 8), n_trials=3, n_warmup=1)
COLUMNS = (
    "batch_size,max_seq_len,mean_latency_sec,std_latency_sec,num_trials,prompt_tokens,"
    "output_tokens,prefill_mean_sec,prefill_std_sec,decode_step_mean_sec,decode_step_std_sec,"
    "peak_memory_bytes,status"
)


def provenance(out: Path) -> dict:
    return json.loads(out.with_suffix(".json").read_text())


def trial_lines(out: Path) -> list[dict]:
    """The finished trials in a partial file."""
    text = out.with_suffix(".partial.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [record["trial"] for record in records if "trial" in record]


def stop_after(n_trials: int):
    """An `on_trial` that stops the run, as Ctrl-C would, after so many kept trials."""
    kept = itertools.count(1)

    def on_trial(progress) -> None:
        if progress.round and next(kept) == n_trials:
            raise KeyboardInterrupt

    return on_trial


def test_plan__is_every_batch_size_with_every_length():
    plan = MeasurePlan(batch_sizes=(4, 1), seq_lens=(10, 5), prompt_share=0.6)
    assert [(c.batch_size, c.prompt_tokens, c.output_tokens) for c in plan.cells()] == [
        *((1, 3, 2), (1, 6, 4)),
        *((4, 3, 2), (4, 6, 4)),
    ]
    assert {cell.max_seq_len for cell in plan.cells()} == {5, 10}
    assert plan.longest_tokens == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": ()}, "batch_sizes must be different and >= 1, got none"),
        ({"batch_sizes": (1, 0)}, "got 1,0"),
        ({"seq_lens": (8, 8)}, "seq_lens must be different and >= 1, got 8,8"),
        ({"n_trials": 1}, "n_trials must be >= 2, got 1"),
        ({"n_warmup": -1}, "n_warmup must be >= 0, got -1"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"prompt_share": 1.0}, "above 0 and below 1, got 1"),
        ({"prompt_share": float("nan")}, "got nan"),
        # one output token has no decode step; no prompt has no prefill
        ({"seq_lens": (8, 3), "prompt_share": 0.7}, "got 3 with prompt_share 0.7, so 2 and 1"),
        ({"seq_lens": (4,), "prompt_share": 0.1}, "so 0 and 4"),
    ],
)
def test_plan__refuses_what_cannot_be_measured(options, message):
    with pytest.raises(CalibrationError, match=message):
        MeasurePlan(**options)


def test_measure__writes_means_and_deviations_over_all_trials(tmp_path, monkeypatch):
    # given a clock that only forward passes move: 1 s per prefill and 1/4 s per step in the first
    # kept trial of the only cell, 2 s and 1/2 s in the second; the warm-up takes hours
    clock = SimpleNamespace(now_s=0.0)
    clock.perf_counter = lambda: clock.now_s
    monkeypatch.setattr(calibrate_timing, "time", clock)
    factors = iter([3600.0] * 3 + [1.0] * 3 + [2.0] * 3 + [0.0] * 9999)

    def takes(batch_size: int, n_tokens: int) -> None:
        clock.now_s += next(factors) * (1.0 if n_tokens > 1 else 0.25)

    plan = MeasurePlan(batch_sizes=(2,), seq_lens=(8,), prompt_share=0.625, n_trials=2)
    measure(plan, fake_model(FakeForward(takes)), tmp_path / "g.csv")
    # then whole batches took 1.5 and 3 s: mean 2.25, sample deviation 1.5 / sqrt(2)
    header, row = (tmp_path / "g.csv").read_text().splitlines()
    assert header == COLUMNS
    root = float(np.sqrt(2))
    assert [float(cell) for cell in row.split(",")[:11]] == pytest.approx(
        [2, 8, 2.25, 1.5 / root, 2, 5, 3, 1.5, 1 / root, 0.375, 0.25 / root], rel=1e-14
    )
    assert row.split(",")[11:] == ["", "ok"]


def test_measure__says_what_the_harness_adds_to_one_step(tmp_path, monkeypatch):
    # given forward passes of 1 s, 3 of them per batch, and a harness of 5 and 20 ms per step
    clock = SimpleNamespace(now_s=0.0)
    clock.perf_counter = lambda: clock.now_s
    monkeypatch.setattr(calibrate_timing, "time", clock)
    overhead = calibrate_timing.StepOverhead(harness_s=0.005, token_choice_s=0.02)
    monkeypatch.setattr(_calibrate_output, "step_overhead", lambda model, size: overhead)

    def takes(batch_size: int, n_tokens: int) -> None:
        clock.now_s += 1.0

    plan = MeasurePlan(batch_sizes=(2,), seq_lens=(8,), prompt_share=0.625, n_trials=2)
    measure(plan, fake_model(FakeForward(takes)), tmp_path / "g.csv")
    # then these are its shares of a step, not of the batch of three
    found = provenance(tmp_path / "g.csv")["harness"]
    assert found["overhead_share_worst_cell"] == pytest.approx(0.005)
    assert found["overhead_share_median_cell"] == pytest.approx(0.005)
    assert found["token_choice_share_worst_cell"] == pytest.approx(0.02)


def test_cell_result__has_the_largest_peak_of_its_trials():
    trials = [
        calibrate_timing.BatchTime(prefill_s=1.0, whole_s=2.0, peak_memory_bytes=peak)
        for peak in (10, 30, 20)
    ]
    cell = Cell(batch_size=1, prompt_tokens=2, output_tokens=2)
    assert CellResult(cell=cell, trials=tuple(trials)).peak_memory_bytes == 30


def test_measure__keeps_every_trial_and_gives_the_grid_again_from_them(tmp_path):
    out = tmp_path / "g.csv"
    model = fake_model(FakeForward(lambda b, n: time.sleep(1e-4)))
    measurement = measure(PLAN, model, out)
    beside = provenance(out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        cell = {name: int(row[name]) for name in ("batch_size", "prompt_tokens", "output_tokens")}
        trials = [trial for trial in beside["trials"] if trial["cell"] == cell]
        whole_s = np.array([trial["whole_s"] for trial in trials])
        prefill_s = np.array([trial["prefill_s"] for trial in trials])
        step_s = (whole_s - prefill_s) / (cell["output_tokens"] - 1)
        assert sorted(trial["round"] for trial in trials) == [1, 2, 3]
        for times_s, mean, std in (
            (whole_s, "mean_latency", "std_latency"),
            (prefill_s, "prefill_mean", "prefill_std"),
            (step_s, "decode_step_mean", "decode_step_std"),
        ):
            assert float(row[f"{mean}_sec"]) == times_s.mean()
            assert float(row[f"{std}_sec"]) == times_s.std(ddof=1)
    assert beside["grid_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert beside["plan"]["n_trials"] == 3
    assert set(beside["versions"]) >= {"torch", "transformers", "python", "llmsched"}
    assert len(beside["sessions"]) == 1
    assert beside["sessions"][0]["finished"] >= beside["sessions"][0]["started"]
    assert beside["harness"]["overhead_share_worst_cell"] > 0
    assert len(measurement.cells) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.csv", "g.json"]
    assert str(tmp_path) not in out.with_suffix(".json").read_text()


def orders(out: Path) -> list[tuple[tuple[int, int], ...]]:
    """The cells of each round, in the order of measuring."""
    trials = provenance(out)["trials"]
    visits = [(t["round"], (t["cell"]["batch_size"], t["cell"]["prompt_tokens"])) for t in trials]
    return [
        tuple(cell for _, cell in group)
        for _, group in itertools.groupby(visits, key=lambda visit: visit[0])
    ]


def test_measure__visits_all_cells_in_each_round_in_an_order_that_the_seed_gives(tmp_path):
    plan = MeasurePlan(batch_sizes=(1, 2, 3), seq_lens=(4, 6, 8), n_trials=4, n_warmup=0)
    for name, seed in (("a", 0), ("again", 0), ("b", 1)):
        asked = MeasurePlan(**{**vars_of(plan), "seed": seed})
        measure(asked, fake_model(), tmp_path / f"{name}.csv")
    first = orders(tmp_path / "a.csv")
    assert len(first) == 4
    assert all(sorted(order) == sorted(first[0]) and len(order) == 9 for order in first)
    assert len(set(first)) == 4  # of 9! orders
    assert orders(tmp_path / "again.csv") == first
    assert orders(tmp_path / "b.csv") != first


def vars_of(plan: MeasurePlan) -> dict:
    return {name: getattr(plan, name) for name in plan.__slots__}


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_measure__records_a_cell_that_does_not_fit_and_goes_on(error, tmp_path):
    # given a model for which 2 prompts of 4 tokens are too much
    def takes(batch_size: int, n_tokens: int) -> None:
        if batch_size == 2 and n_tokens == 4:
            raise error

    out, lines = tmp_path / "g.csv", []
    measurement = measure(PLAN, fake_model(FakeForward(takes)), out, on_trial=lines.append)
    # then that cell says so, with nothing measured, and the others are whole
    rows = [row.split(",") for row in out.read_text().splitlines()[1:]]
    assert rows[3] == ["2", "8", "", "", "", "4", "4", "", "", "", "", "", "out-of-memory"]
    assert [row[-1] for row in rows[:3]] == ["ok"] * 3
    assert [row[4] for row in rows[:3]] == ["3"] * 3
    assert measurement.notes()[0] == "out of memory: 2 x 8 (batch size x tokens)"
    (failed,) = provenance(out)["out_of_memory"]
    assert failed["cell"] == {"batch_size": 2, "prompt_tokens": 4, "output_tokens": 4}
    # and it was tried in the warm-up only
    assert [p.round for p in lines if p.trial is None] == [0]
    assert [p.round for p in lines if p.round_done] == [0, 1, 2, 3]
    shares = [p.work_done for p in lines]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_measure__tries_a_cell_again_with_memory_freed_before_it_gives_up(tmp_path):
    failures = iter([True])

    def takes(batch_size: int, n_tokens: int) -> None:
        if batch_size == 2 and next(failures, False):
            raise MemoryError

    measurement = measure(PLAN, fake_model(FakeForward(takes)), tmp_path / "g.csv")
    assert [result.out_of_memory for result in measurement.cells] == [False] * 4


def test_measure__writes_nothing_when_no_cell_fits(tmp_path):
    def takes(batch_size: int, n_tokens: int) -> None:
        raise MemoryError

    with pytest.raises(CalibrationError, match="at least one cell must fit in memory"):
        measure(PLAN, fake_model(FakeForward(takes)), tmp_path / "g.csv")
    assert list(tmp_path.iterdir()) == []


def test_measure__does_not_take_other_errors_for_a_lack_of_memory(tmp_path):
    def takes(batch_size: int, n_tokens: int) -> None:
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        measure(PLAN, fake_model(FakeForward(takes)), tmp_path / "g.csv")


def test_measure__names_cells_with_a_trial_far_from_the_median_and_keeps_it(tmp_path, monkeypatch):
    clock = SimpleNamespace(now_s=0.0)
    clock.perf_counter = lambda: clock.now_s
    monkeypatch.setattr(calibrate_timing, "time", clock)
    factors = iter([1.0] * 8 + [2.0] * 2 + [1.0] * 9999)  # the fifth of five trials

    def takes(batch_size: int, n_tokens: int) -> None:
        clock.now_s += next(factors)

    plan = MeasurePlan(batch_sizes=(1,), seq_lens=(4,), n_trials=5, n_warmup=0)
    measurement = measure(plan, fake_model(FakeForward(takes)), tmp_path / "g.csv")
    assert measurement.cells[0].whole_s.tolist() == [2.0, 2.0, 2.0, 2.0, 4.0]
    assert (
        "slowest trial beyond 1.5 times the median, kept in the mean: 1 x 4"
        in (measurement.notes()[0])
    )


@pytest.mark.parametrize("n_trials", [1, 5, 11])
def test_interrupted_run__goes_on_without_measuring_finished_trials_again(n_trials, tmp_path):
    # given a run that was interrupted after some of its 12 trials
    out = tmp_path / "g.csv"
    with pytest.raises(KeyboardInterrupt):
        measure(PLAN, fake_model(), out, on_trial=stop_after(n_trials))
    before = trial_lines(out)
    assert len(before) == n_trials
    assert not out.exists()
    # when it is started again
    progress: list[calibrate.Progress] = []
    measure(PLAN, fake_model(), out, on_trial=progress.append)
    # then the finished trials are the same to the last bit, and only the others were measured
    after = provenance(out)["trials"]
    assert after[:n_trials] == before
    assert len(after) == 12
    assert sum(bool(p.round) for p in progress) == 12 - n_trials
    cells = [(*trial["cell"].values(), trial["round"]) for trial in after]
    assert len(set(cells)) == 12
    # and each start is told apart, the broken-off one without its end
    sessions = provenance(out)["sessions"]
    assert [session["finished"] is None for session in sessions] == [True, False]
    assert [trial["session"] for trial in after] == [0] * n_trials + [1] * (12 - n_trials)
    assert progress[-1].work_done == 1.0


def test_interrupted_run__is_of_the_order_of_an_undisturbed_one(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure(PLAN, fake_model(), tmp_path / "g.csv", on_trial=stop_after(6))
    measure(PLAN, fake_model(), tmp_path / "g.csv")
    measure(PLAN, fake_model(), tmp_path / "calm.csv")
    assert orders(tmp_path / "g.csv") == orders(tmp_path / "calm.csv")


def test_interrupted_run__does_a_trial_again_whose_line_was_cut_short(tmp_path):
    out = tmp_path / "g.csv"
    with pytest.raises(KeyboardInterrupt):
        measure(PLAN, fake_model(), out, on_trial=stop_after(5))
    partial = out.with_suffix(".partial.jsonl")
    partial.write_bytes(partial.read_bytes()[:-7])
    before = trial_lines(out)
    assert len(before) == 4
    # and that is interrupted once more, so that what it added is read back as well
    with pytest.raises(KeyboardInterrupt):
        measure(PLAN, fake_model(), out, on_trial=stop_after(2))
    measure(PLAN, fake_model(), out)
    after = provenance(out)["trials"]
    assert after[:4] == before
    assert len(after) == 12


def test_interrupted_run__keeps_what_does_not_fit(tmp_path):
    def takes(batch_size: int, n_tokens: int) -> None:
        if batch_size == 2:
            raise MemoryError

    out = tmp_path / "g.csv"
    with pytest.raises(KeyboardInterrupt):
        measure(PLAN, fake_model(FakeForward(takes)), out, on_trial=stop_after(2))
    forward = FakeForward(takes)
    measurement = measure(PLAN, fake_model(forward), out)
    assert [result.out_of_memory for result in measurement.cells] == [False, False, True, True]
    assert not [call for call in forward.calls if call["input_ids"].shape[0] == 2]


def test_interrupted_run__is_not_mixed_with_another_measurement(tmp_path):
    out = tmp_path / "g.csv"
    with pytest.raises(KeyboardInterrupt):
        measure(PLAN, fake_model(), out, on_trial=stop_after(5))
    kept = out.with_suffix(".partial.jsonl").read_bytes()
    other = MeasurePlan(**{**vars_of(PLAN), "n_trials": 4})
    with pytest.raises(CalibrationError, match=r"plan.n_trials \(3, now 4\); .*--restart"):
        measure(other, fake_model(), out)
    with pytest.raises(CalibrationError, match=r"model.name \(fake, now another\)"):
        measure(PLAN, fake_model(facts={"name": "another", "weights": "none"}), out)
    with pytest.raises(CalibrationError, match=r"device.dtype \(float32, now float16\)"):
        measure(PLAN, fake_model(dtype="float16"), out)
    assert out.with_suffix(".partial.jsonl").read_bytes() == kept
    # unless it is asked to forget it
    measure(other, fake_model(), out, restart=True)
    assert len(provenance(out)["trials"]) == 16
    assert len(provenance(out)["sessions"]) == 1


def test_partial_file__that_is_not_ours_is_refused(tmp_path):
    out = tmp_path / "g.csv"
    partial = out.with_suffix(".partial.jsonl")
    partial.write_text("hello\n")
    with pytest.raises(CalibrationError, match=r"g.partial.jsonl:1: must be a line of a measure"):
        measure(PLAN, fake_model(), out)
    assert partial.read_text() == "hello\n"


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")
def test_partial_file__is_written_by_one_run_at_a_time(tmp_path):
    path = tmp_path / "g.partial.jsonl"
    with (
        partial_file(path, {"a": 1}, restart=False),
        pytest.raises(CalibrationError, match="another run must not be measuring into it"),
        partial_file(path, {"a": 1}, restart=True),
    ):
        pass
    assert path.read_text() == '{"a": 1}\n'


def test_outputs__are_checked_before_the_work(tmp_path):
    forward = FakeForward()
    (tmp_path / "g.json").write_text('{"model_type": "qwen3"}')
    for out, message in (
        (tmp_path / "g.txt", "a grid must end in .csv"),
        (tmp_path / "no" / "g.csv", "folder of"),
        (tmp_path / "g.csv", "would replace .*g.json', which is something else"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(PLAN, fake_model(forward), out)
    assert forward.calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["g.json"]


def test_grid__beyond_the_models_positions_is_refused_before_the_work(tmp_path):
    forward = FakeForward()
    with pytest.raises(CalibrationError, match=r"does not fit: .* must be <= 7 tokens .* got 8"):
        measure(PLAN, fake_model(forward, max_tokens=7), tmp_path / "g.csv")
    assert forward.calls == []
    assert list(tmp_path.iterdir()) == []
    measure(PLAN, fake_model(forward, max_tokens=8), tmp_path / "g.csv")


def test_measure__a_second_time_is_refused_and_replaces_its_own_files_if_told_to(tmp_path):
    out = tmp_path / "g.csv"
    measure(PLAN, fake_model(), out)
    first = out.read_bytes()
    forward = FakeForward()
    with pytest.raises(CalibrationError, match=r"g.csv is there already; give --restart"):
        measure(PLAN, fake_model(forward), out)
    assert (forward.calls, out.read_bytes()) == ([], first)
    measure(PLAN, fake_model(), out, restart=True)
    assert out.read_bytes() != first  # it was measured again
    assert len(provenance(out)["trials"]) == 12


def test_cell__is_ordered_by_size_and_then_by_length():
    cells = [Cell(batch_size=b, prompt_tokens=p, output_tokens=4) for b, p in ((2, 1), (1, 9))]
    assert sorted(cells) == cells[::-1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_killed_run__resumes_without_measuring_finished_trials_again(tmp_path):
    # given a run of 40 trials that kill -9 ends again and again, each time a few trials further
    out, rng = tmp_path / "g.csv", np.random.default_rng(20260801)
    before: list[dict] = []
    for _ in range(1, 6):
        process = subprocess.Popen(
            [sys.executable, str(TARGET), str(out)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        n_wanted = int(rng.integers(1, 6))
        while n_wanted and process.stdout.readline():  # a line per kept trial
            n_wanted -= 1
        time.sleep(rng.uniform(0.0, 0.01))
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        # then what was finished is still there, to the last bit, and something was added
        found = trial_lines(out)
        assert found[: len(before)] == before
        assert len(found) > len(before)
        before = found
        assert not out.exists()
    # when it may end
    subprocess.run([sys.executable, str(TARGET), str(out)], check=True, stdout=subprocess.DEVNULL)
    # then every trial is there once, the finished ones as they were
    after = provenance(out)["trials"]
    assert after[: len(before)] == before
    visits = [(trial["round"], *trial["cell"].values()) for trial in after]
    assert len(visits) == len(set(visits)) == 40
    assert len(provenance(out)["sessions"]) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.csv", "g.json"]


def test_measure__a_grid_of_somebody_else_is_not_replaced(tmp_path):
    out = tmp_path / "good.csv"
    out.write_text("mine\n")
    with pytest.raises(CalibrationError, match=r"a grid must be new, and .*good.csv is there"):
        measure(PLAN, fake_model(), out)
    assert [path.name for path in tmp_path.iterdir()] == ["good.csv"]
    assert out.read_text() == "mine\n"


def test_measure__anew_goes_on_after_a_kill_without_restart(tmp_path):
    # given a finished grid that is measured again, and stopped after 5 trials
    out = tmp_path / "g.csv"
    measure(PLAN, fake_model(), out)
    with pytest.raises(KeyboardInterrupt):
        measure(PLAN, fake_model(), out, restart=True, on_trial=stop_after(5))
    kept = trial_lines(out)
    # then it goes on without --restart, which would forget them
    measure(PLAN, fake_model(), out)
    assert provenance(out)["trials"][: len(kept)] == kept


def test_full_disk__says_what_is_kept_and_the_run_goes_on(tmp_path, monkeypatch):
    # given a disk that takes half a line of the 4th record and then no more
    out, written = tmp_path / "g.csv", itertools.count(1)
    opened = _calibrate_partial._opened

    class Full:
        def __init__(self, path):
            self.file = opened(path)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, line):
            number = next(written)
            if number == 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(line[:9] if number == 4 else line)

    monkeypatch.setattr(_calibrate_partial, "_opened", Full)
    message = (
        r"g\.partial\.jsonl: cannot be written \(No space left on device\); finished trials are "
        r"kept in .*g\.partial\.jsonl, and the same command goes on from there"
    )
    with pytest.raises(OutputError, match=message):
        measure(PLAN, fake_model(), out)
    kept = trial_lines(out)
    assert len(kept) == 1  # after the header and the beginning of the session
    # then with room again it goes on
    monkeypatch.undo()
    measure(PLAN, fake_model(), out)
    assert provenance(out)["trials"][:1] == kept
    assert len(provenance(out)["trials"]) == 12


def test_full_disk__at_the_end_keeps_the_trials(tmp_path, monkeypatch):
    def full(_values):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_calibrate_output, "_provenance_json", full)
    out = tmp_path / "g.csv"
    with pytest.raises(OutputError, match=r"cannot be written .*; finished trials are kept in"):
        measure(PLAN, fake_model(), out)
    assert len(trial_lines(out)) == 12
    assert not out.exists()


def test_partial_file__that_cannot_be_opened_says_what_to_do(tmp_path):
    (tmp_path / "g.partial.jsonl").mkdir()
    with (
        pytest.raises(OutputError, match=r"g.partial.jsonl: cannot be written \(.*; name another"),
        partial_file(tmp_path / "g.partial.jsonl", {}, restart=False),
    ):
        pass


def test_partial_file__nested_too_deep_is_not_ours(tmp_path):
    (tmp_path / "g.partial.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(CalibrationError, match="must be a line of a measurement under way"):
        measure(PLAN, fake_model(), tmp_path / "g.csv")


def test_command__stopped_by_hand_says_what_is_kept(tmp_path, monkeypatch):
    def stopped(plan, model, out, **_):
        out.with_suffix(".partial.jsonl").write_text("{}\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "load_timed_model", lambda *_, **__: fake_model())
    monkeypatch.setattr(calibrate, "measure", stopped)
    out = tmp_path / "g.csv"
    line = ["calibrate", "measure", "--random-weights", "tiny-qwen3", "--out", str(out)]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 130
    assert f"Finished trials are kept in {out.with_suffix('.partial.jsonl')}" in result.stderr
    assert "the same command goes on from there\n" in result.stderr
    assert result.stderr.endswith("\nInterrupted.\n")
