"""Measure how long batches of a real model take, over a grid of batch sizes and lengths.

Trials are interleaved: each round visits every cell once, in a new random order, after warm-up
rounds that are not kept. A drift of clocks, temperature or neighbours so spreads over all cells
and shows in their standard deviations, where cells measured one after the other would turn it into
differences between them. No trial is dropped as an outlier: means and standard deviations are over
all of them, and cells with a slowest trial beyond 1.5 times their median are named.

Every finished trial is kept on the disk at once; a run that was killed goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llmsched.calibration.measure.machine import device_facts, device_state, versions
from llmsched.calibration.measure.model import (
    ModelSource,
    TimedModel,
    check_length,
    load_timed_model,
)
from llmsched.calibration.measure.output import (
    Measurement,
    check_outputs,
    partial_path,
    provenance,
    write_measurement,
)
from llmsched.calibration.measure.partial import PartialFile, partial_file
from llmsched.calibration.measure.plan import Cell, CellResult, MeasurePlan
from llmsched.calibration.measure.timing import BatchTime, random_prompts, time_or_none
from llmsched.latency.base import CalibrationError

__all__ = [
    "QUICK",
    "Cell",
    "CellResult",
    "MeasurePlan",
    "Measurement",
    "ModelSource",
    "Progress",
    "TimedModel",
    "check_outputs",
    "load_timed_model",
    "measure",
]

QUICK = MeasurePlan(batch_sizes=(1, 2, 4), seq_lens=(32, 64, 128), n_trials=3)
_WARMUP, _ORDER, _PROMPTS = 0, 1, 2  # streams of random numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a measurement is after a trial."""

    cell: Cell
    round: int  # from 1; 0 while warming up
    n_rounds: int
    trial: BatchTime | None  # None where memory ran out
    work_done: float  # share of this run's trials, by their size, in [0, 1]
    round_done: bool  # whether this was the last cell of its round


def measure(
    plan: MeasurePlan,
    model: TimedModel,
    out: str | Path,
    *,
    restart: bool = False,
    on_trial: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Measure every cell; write the grid to `out` and its provenance beside it.

    Parameters
    ----------
    plan : MeasurePlan
        The grid and the number of trials.
    model : TimedModel
        What to time, from `load_timed_model`.
    out : path
        The CSV file. The provenance has the same name with `.json`; finished trials are kept in
        `.partial.jsonl` until both are written, and found there by the next run.
    restart : bool
        Forget the finished trials of an earlier run, and replace the grid if it is there.
    on_trial : callable, optional
        Called after every trial, warm-up included.

    Returns
    -------
    Measurement
        Each cell's trials and the provenance as written.

    Raises
    ------
    CalibrationError
        If the outputs cannot be written or are there already, the earlier run was another
        measurement, the lengths are beyond the model's, or no cell at all fits in memory.
    """
    out = Path(out)
    check_outputs(out, restart=restart)
    check_length(model.max_tokens, plan.longest_tokens)
    header = {
        "llmsched_measurement": 1,
        "plan": asdict(plan),
        "model": model.facts,
        "device": device_facts(model),
        "versions": versions(),
    }
    with partial_file(partial_path(out), header, restart=restart) as partial:
        run = _Run(plan, model, partial)
        for progress in run.rounds():
            if on_trial is not None:
                on_trial(progress)
        results = run.results()
        fits = not all(result.out_of_memory for result in results)
        if fits:
            measurement = Measurement(
                cells=results, provenance=provenance(header, partial.records, results, model)
            )
            write_measurement(measurement, out)
    partial_path(out).unlink(missing_ok=True)
    if not fits:
        raise CalibrationError(
            "at least one cell must fit in memory, and none does; use smaller batch sizes or "
            "shorter lengths"
        )
    return measurement


class _Run:
    """The trials so far, from earlier starts and from this one."""

    def __init__(self, plan: MeasurePlan, model: TimedModel, partial: PartialFile) -> None:
        self.plan = plan
        self.model = model
        self.partial = partial
        self.cells = plan.cells()
        self.trials: dict[Cell, list[BatchTime]] = {cell: [] for cell in self.cells}
        self.out_of_memory: set[Cell] = set()
        for record in partial.records:
            self._take(record)
        self.session = sum("session" in record for record in partial.records)
        self._began_s = time.perf_counter()
        self._n_visits = 0

    def rounds(self) -> Iterator[Progress]:
        """Measure what is missing; after each trial, where the run is."""
        schedule = self._schedule()
        if not schedule:
            return
        state = {"started": _now(), "state": device_state(self.model)}
        self.partial.append({"session": {"number": self.session, **state}})
        work, work_done = sum(_work(cell) for _, cells in schedule for cell in cells), 0.0
        for number, cells in schedule:
            fitting = [cell for cell in cells if cell not in self.out_of_memory]
            work -= sum(map(_work, cells)) - sum(map(_work, fitting))
            for position, cell in enumerate(fitting, start=1):
                work_done += _work(cell)
                yield Progress(
                    cell=cell,
                    round=number,
                    n_rounds=self.plan.n_trials,
                    trial=self._visit(number, cell),
                    work_done=work_done / work,
                    round_done=position == len(fitting),
                )
        state = {"finished": _now(), "state": device_state(self.model)}
        self.partial.append({"session_end": {"number": self.session, **state}})

    def results(self) -> tuple[CellResult, ...]:
        """What each cell's trials say, in the order of the plan."""
        return tuple(
            CellResult(
                cell=cell,
                trials=tuple(self.trials[cell]),
                out_of_memory=cell in self.out_of_memory,
            )
            for cell in self.cells
        )

    def _schedule(self) -> list[tuple[int, list[Cell]]]:
        """The rounds still to do: 0 for a warm-up, and the cells in their random order.

        The order of a round is the same after a restart.
        """
        plan, lacking = self.plan, self._lacking(self.plan.n_trials)
        warmups = [(0, _WARMUP, turn, lacking) for turn in range(plan.n_warmup)]
        trials = [
            (number, _ORDER, number, self._lacking(number))
            for number in range(1, plan.n_trials + 1)
        ]
        rounds = []
        for number, stream, turn, wanted in (*warmups, *trials):
            rng = np.random.default_rng([plan.seed, stream, turn])
            order = [self.cells[index] for index in rng.permutation(len(self.cells))]
            if wanted:
                rounds.append((number, [cell for cell in order if cell in wanted]))
        return rounds

    def _lacking(self, n_trials: int) -> set[Cell]:
        """Cells with fewer trials than this that fit in memory."""
        short = {cell for cell in self.cells if len(self.trials[cell]) < n_trials}
        return short - self.out_of_memory

    def _visit(self, number: int, cell: Cell) -> BatchTime | None:
        """One trial of a cell, kept unless it warms up; None where memory ran out."""
        self._n_visits += 1
        rng = np.random.default_rng([self.plan.seed, _PROMPTS, self.session, self._n_visits])
        at_s = time.perf_counter() - self._began_s
        trial = time_or_none(
            self.model,
            lambda: random_prompts(self.model, cell.batch_size, cell.prompt_tokens, rng),
            cell.output_tokens,
        )
        where = {"cell": asdict(cell), "round": number, "session": self.session, "at_s": at_s}
        if trial is None:
            self._keep({"out_of_memory": where})
        elif number:
            self._keep({"trial": {**where, **asdict(trial)}})
        return trial

    def _keep(self, record: dict[str, Any]) -> None:
        self.partial.append(record)
        self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        """A line of the partial file: a trial or a lack of memory; others say nothing here."""
        if trial := record.get("trial"):
            times = {field.name: trial[field.name] for field in fields(BatchTime)}
            self.trials[Cell(**trial["cell"])].append(BatchTime(**times))
        elif failed := record.get("out_of_memory"):
            self.out_of_memory.add(Cell(**failed["cell"]))


def _work(cell: Cell) -> float:
    """A cell's size for the progress bar: its forward passes, and the tokens that go through."""
    tokens = cell.batch_size * cell.max_seq_len
    return cell.output_tokens + tokens / 64


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
