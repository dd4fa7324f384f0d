"""The two files of a measurement: the grid as CSV, and where each number comes from as JSON."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmsched._util.files import OutputError, check_output, whole_file
from llmsched.calibration.measure.machine import process_peak_memory_bytes
from llmsched.calibration.measure.model import TimedModel
from llmsched.calibration.measure.partial import kept
from llmsched.calibration.measure.plan import UNEVEN, CellResult, FloatArray
from llmsched.calibration.measure.timing import step_overhead
from llmsched.latency.base import CalibrationError
from llmsched.latency.fit.grid_columns import HEADER

_STEP_COLUMNS = (
    "prompt_tokens",
    "output_tokens",
    "prefill_mean_sec",
    "prefill_std_sec",
    "decode_step_mean_sec",
    "decode_step_std_sec",
)
COLUMNS = (*HEADER, *_STEP_COLUMNS, "peak_memory_bytes", "status")
MOST_OVERHEAD = 0.01  # of the measured time
_MARK = "llmsched_measurement"
_RULES = {
    "order": "interleaved: each round visits every cell once, in a new random order",
    "warm_up": "n_warmup rounds over all cells at every start, not kept",
    "outliers": "none dropped; means and sample standard deviations are over all trials",
    "output": "exactly output_tokens greedy tokens, no early stop; equal prompts of random tokens",
    "decode_step": "(whole batch - prefill) / (output_tokens - 1)",
    "clock": "CUDA events on the GPU's stream; on a CPU the host's monotonic clock, without "
    "garbage collection",
    "cache": "the default KV cache of transformers, no attention mask",
    "peak_memory": "of the device's tensors, weights included; not known per cell on a CPU",
    "overhead": "the same loop around a forward pass that returns at once, over the measured time; "
    "the choice of the next token is the generation's and stands apart",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The trials of every cell, and the provenance as it is written."""

    cells: tuple[CellResult, ...]
    provenance: dict[str, Any]

    def notes(self) -> list[str]:
        """What a reader of the grid should know, a sentence each."""
        notes = []
        if failed := [result for result in self.cells if result.out_of_memory]:
            notes.append(f"out of memory: {_listed(failed)}")
        measured = [result for result in self.cells if not result.out_of_memory]
        if uneven := [result for result in measured if result.slowest_over_median > UNEVEN]:
            notes.append(
                f"slowest trial beyond {UNEVEN:g} times the median, kept in the mean: "
                f"{_listed(uneven)}"
            )
        share = self.provenance["harness"]["overhead_share_worst_cell"]
        if share > MOST_OVERHEAD:
            notes.append(
                f"the timing loop itself adds up to {share:.1%} to a cell: its steps are too short"
            )
        return notes


def partial_path(out: Path) -> Path:
    """Where finished trials wait for the others."""
    return out.with_suffix(".partial.jsonl")


def provenance_path(out: Path) -> Path:
    """Where the provenance goes."""
    return out.with_suffix(".json")


def check_outputs(out: Path, *, restart: bool = False) -> None:
    """Fail before any work if the grid or its provenance cannot be written.

    Parameters
    ----------
    out : Path
        The CSV file.
    restart : bool
        Whether a grid that is there may be replaced; one whose measurement is under way may be.

    Raises
    ------
    CalibrationError
        If the name does not end in `.csv`, there is a JSON file beside it that is no provenance, or
        the grid is there already.
    ValueError
        If the folder is missing or cannot be written.
    """
    if out.suffix != ".csv":
        raise CalibrationError(f"a grid must end in .csv, got {str(out)!r}")
    check_output(out, "a grid")
    beside = provenance_path(out)
    check_output(beside, "the provenance of a grid")
    check_output(partial_path(out), "the partial file of a grid")
    if beside.exists() and not _is_provenance(beside):
        raise CalibrationError(
            f"the provenance would replace {str(beside)!r}, which is something else; name the grid "
            "differently"
        )
    there = [path for path in (out, beside) if path.exists()]
    if there and not restart and not partial_path(out).exists():
        raise CalibrationError(
            f"a grid must be new, and {there[0]} is there already; give --restart to measure it "
            "again, or another --out"
        )


def _is_provenance(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and _MARK in values


def provenance(
    header: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    results: Sequence[CellResult],
    model: TimedModel,
) -> dict[str, Any]:
    """All that a reader needs to judge the numbers, every trial in the order of measuring."""
    of_kind = {
        kind: [record[kind] for record in records if kind in record]
        for kind in ("session", "session_end", "trial", "out_of_memory")
    }
    return {
        **header,
        "rules": _RULES,
        "sessions": _sessions(of_kind["session"], of_kind["session_end"]),
        "harness": _harness(results, model),
        "process_peak_memory_bytes": process_peak_memory_bytes(),
        "out_of_memory": of_kind["out_of_memory"],
        "trials": of_kind["trial"],
    }


def _sessions(
    begun: Iterable[Mapping[str, Any]], ended: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each start of the measurement; one that was killed has no end."""
    ends = {end["number"]: end for end in ended}
    return [
        {
            "started": start["started"],
            "finished": ends.get(start["number"], {}).get("finished"),
            "state_before": start["state"],
            "state_after": ends.get(start["number"], {}).get("state"),
        }
        for start in begun
    ]


def _harness(results: Sequence[CellResult], model: TimedModel) -> dict[str, Any]:
    """What the harness adds to each step, and its share of each cell's time."""
    sizes = sorted({result.cell.batch_size for result in results if result.trials})
    per_step = {size: step_overhead(model, size) for size in sizes}
    of_cell = [
        (per_step[result.cell.batch_size], float(result.whole_s.mean()) / result.cell.output_tokens)
        for result in results
        if result.trials
    ]
    shares = [step.harness_s / step_s for step, step_s in of_cell]
    return {
        "per_step_by_batch_size": {str(size): asdict(step) for size, step in per_step.items()},
        "overhead_share_worst_cell": max(shares),
        "overhead_share_median_cell": float(np.median(shares)),
        "token_choice_share_worst_cell": max(
            step.token_choice_s / step_s for step, step_s in of_cell
        ),
    }


def write_measurement(measurement: Measurement, out: Path) -> None:
    """Write the grid and its provenance, each whole or not at all.

    Raises
    ------
    OutputError
        If writing fails.
    """
    grid = grid_csv(measurement.cells).encode()
    beside = {**measurement.provenance, "grid_sha256": hashlib.sha256(grid).hexdigest()}
    try:
        with whole_file(provenance_path(out)) as json_path, whole_file(out) as csv_path:
            csv_path.write_bytes(grid)
            json_path.write_text(_provenance_json(beside), encoding="utf-8")
    except OutputError as error:
        raise OutputError(f"{error}; {kept(partial_path(out))}") from error


def _provenance_json(values: Mapping[str, Any]) -> str:
    """Indented, but with one line per trial."""
    lines = [json.dumps(trial) for trial in values["trials"]]
    head = json.dumps({**values, "trials": []}, indent=2)
    trials = ",\n    ".join(lines)
    return head.replace('"trials": []', f'"trials": [\n    {trials}\n  ]') + "\n"


def grid_csv(cells: Iterable[CellResult]) -> str:
    """The grid as text, a row per cell; where memory ran out only the cell and its status."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for result in cells:
        cell = result.cell
        row: dict[str, object] = {
            "batch_size": cell.batch_size,
            "max_seq_len": cell.max_seq_len,
            "prompt_tokens": cell.prompt_tokens,
            "output_tokens": cell.output_tokens,
            "status": "out-of-memory" if result.out_of_memory else "ok",
        }
        writer.writerow(row if result.out_of_memory else {**row, **_measured(result)})
    return text.getvalue()


def _measured(result: CellResult) -> dict[str, object]:
    peak = result.peak_memory_bytes
    return {
        **_mean_and_std(result.whole_s, "mean_latency_sec", "std_latency_sec"),
        "num_trials": len(result.trials),
        **_mean_and_std(result.prefill_s, "prefill_mean_sec", "prefill_std_sec"),
        **_mean_and_std(result.decode_step_s, "decode_step_mean_sec", "decode_step_std_sec"),
        "peak_memory_bytes": "" if peak is None else peak,
    }


def _mean_and_std(times_s: FloatArray, mean: str, std: str) -> dict[str, object]:
    """Over all trials; every digit, so that the provenance gives the same grid again."""
    return {mean: repr(float(times_s.mean())), std: repr(float(times_s.std(ddof=1)))}


def _listed(results: Sequence[CellResult]) -> str:
    cells = [f"{r.cell.batch_size} x {r.cell.max_seq_len}" for r in results]
    more = f" and {len(cells) - 8} more" if len(cells) > 8 else ""
    return f"{', '.join(cells[:8])} (batch size x tokens){more}"
