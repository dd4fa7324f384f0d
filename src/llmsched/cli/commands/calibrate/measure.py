"""`llmsched calibrate measure`: time a real model over a grid of batch sizes and lengths."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.errors import OneLineErrors
from llmsched.cli.fields import given_parameter as given
from llmsched.cli.progress import long_bar

if TYPE_CHECKING:
    from llmsched.calibration.measure.measure import Progress
    from llmsched.calibration.measure.model import ModelSource
    from llmsched.calibration.measure.output import Measurement
    from llmsched.calibration.measure.plan import CellResult, MeasurePlan

PLAN = {  # option -> field of MeasurePlan
    "batch_sizes": "batch_sizes",
    "seq_lens": "seq_lens",
    "prompt_share": "prompt_share",
    "trials": "n_trials",
    "warmup": "n_warmup",
    "seed": "seed",
}


def _whole_numbers(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        message = f"must be whole numbers with commas, got {text!r}"
        raise click.BadParameter(message, ctx=context, param=option)
    return tuple(map(int, parts))


@click.command(
    cls=OneLineErrors,
    epilog="\b\nExample: llmsched calibrate measure --random-weights tiny-qwen3 --out grid.csv",
)
@click.option("--model", metavar="FOLDER|NAME", help="A model in a folder, or on the hub by name.")
@click.option(
    "--random-weights",
    metavar="CONFIG",
    help="Build this configuration with random weights, which take as long as real ones: a "
    "config.json, a folder with one, tiny-qwen3, qwen3-0.6b or qwen3-1.7b.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where to run it; cuda is the first visible GPU.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Numbers it computes with.",
)
@click.option(
    "--threads",
    type=int,
    help="Threads on a CPU; fewer than its cores where it is shared.  [default: torch's choice]",
)
@click.option(
    "--batch-sizes",
    metavar="N,N,...",
    callback=_whole_numbers,
    default="1,2,4,8,16",
    show_default=True,
    help="Requests per batch.",
)
@click.option(
    "--seq-lens",
    metavar="TOKENS,TOKENS,...",
    callback=_whole_numbers,
    default="128,256,512",
    show_default=True,
    help="Prompt + output of each request.",
)
@click.option(
    "--prompt-share",
    type=float,
    metavar="SHARE",
    default=0.5,
    show_default=True,
    help="Share of the prompt in it.",
)
@click.option("--trials", type=int, default=5, show_default=True, help="Timed trials per cell.")
@click.option(
    "--warmup",
    type=int,
    default=1,
    show_default=True,
    help="Trials per cell before all others, not kept.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the random order and the prompts."
)
@click.option(
    "--quick",
    is_flag=True,
    help="Batch sizes 1,2,4, lengths 32,64,128 and 3 trials, unless given: seconds for tiny-qwen3.",
)
@click.option("--restart", is_flag=True, help="Measure anew: forget an earlier run's trials.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="GRID.csv",
    required=True,
    help="Where the grid goes; its provenance beside it as GRID.json.",
)
def measure(**values: Any) -> None:
    """Time a model over a grid: prefill, decode steps and whole batches.

    Every cell is generated to exactly its length, in rounds of random order. A run that was
    killed goes on where it was when it is started again with the same options.
    """
    from llmsched.calibration.measure.measure import measure as measure_grid
    from llmsched.calibration.measure.model import ModelSource, load_timed_model
    from llmsched.calibration.measure.output import check_outputs

    plan, out = _plan(values), values["out"]
    source = ModelSource(
        pretrained=values["model"],
        random_weights=values["random_weights"],
        device=values["device"],
        dtype=values["dtype"],
        n_threads=values["threads"],
    )
    check_outputs(out, restart=values["restart"])
    _keep_model(source, out)
    model = load_timed_model(source, longest_tokens=plan.longest_tokens)
    with _said_when_stopped(out), _progress() as on_trial:
        measurement = measure_grid(plan, model, out, restart=values["restart"], on_trial=on_trial)
    for note in measurement.notes():
        click.echo(f"Note: {note}", err=True)
    click.echo(_table(measurement))
    click.echo(f"Grid: {out}, provenance: {out.with_suffix('.json')}", err=True)


@contextmanager
def _said_when_stopped(out: Path) -> Iterator[None]:
    """Say where the trials are if Ctrl-C ends the run."""
    from llmsched.calibration.measure.output import partial_path
    from llmsched.calibration.measure.partial import kept

    try:
        yield
    except KeyboardInterrupt:
        if partial_path(out).exists():
            line = kept(partial_path(out))
            click.echo(f"\n{line[0].upper()}{line[1:]}", err=True)
        raise


def _plan(values: dict[str, Any]) -> MeasurePlan:
    """What the options ask for; --quick stands for those that are not given."""
    from llmsched.calibration.measure.measure import QUICK
    from llmsched.calibration.measure.plan import MeasurePlan

    asked = {
        field: values[option]
        for option, field in PLAN.items()
        if not values["quick"] or given(option)
    }
    return replace(QUICK, **asked) if values["quick"] else MeasurePlan(**asked)


def _keep_model(source: ModelSource, out: Path) -> None:
    """Fail if an output would land among the model's own files."""
    read = source.random_weights if source.pretrained is None else source.pretrained
    folder = Path(read or "")
    folder = folder if folder.is_dir() else folder.parent
    if not Path(read or "").exists() or not folder.is_dir():
        return
    beside = {out.with_suffix(suffix) for suffix in (".csv", ".json", ".partial.jsonl")}
    taken = {os.path.realpath(file) for file in folder.iterdir()}
    if replaced := sorted(str(path) for path in beside if os.path.realpath(path) in taken):
        raise click.UsageError(f"the output would replace {replaced[0]} of the model")


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar with the remaining time on a terminal; else a line per round."""
    with long_bar("first trial") as bar:

        def tell(progress: Progress) -> None:
            if line := _failed_line(progress):
                bar.say(line)
            if progress.round_done and not bar.drawn:
                bar.say(f"{_where(progress)} done")
            bar.move(progress.work_done, _where(progress))

        yield tell


def _where(progress: Progress) -> str:
    return f"round {progress.round} of {progress.n_rounds}" if progress.round else "warm-up"


def _failed_line(progress: Progress) -> str | None:
    """What to say of a trial that did not fit."""
    cell = progress.cell
    if progress.trial is not None:
        return None
    return f"Out of memory: batch size {cell.batch_size}, {cell.max_seq_len} tokens; left out"


def _table(measurement: Measurement) -> str:
    """A line per cell, and what the times stand for."""
    from llmsched.cli.text import aligned

    head = ["batch", "prompt", "output", "whole [s]", "std [%]", "prefill [ms]", "step [ms]"]
    rows = [[*head, "peak [GiB]", "trials"], *map(_row, measurement.cells)]
    model, device = (measurement.provenance[key] for key in ("model", "device"))
    where = device.get("gpu", f"{device['cpu']}, threads: {device['threads']}")
    share = measurement.provenance["harness"]["overhead_share_worst_cell"]
    return "\n\n".join(
        (
            aligned(rows),
            f"{model.get('name', 'model')} ({model.get('weights', 'unknown')} weights), "
            f"{device['dtype']} on {where}. Step: one decode step of the whole batch.\n"
            f"Loop overhead, around a pass that returns at once: at most {share:.2%} of a cell.",
        )
    )


def _row(result: CellResult) -> list[str]:
    cell = result.cell
    where = [str(cell.batch_size), str(cell.prompt_tokens), str(cell.output_tokens)]
    if result.out_of_memory:
        return [*where, "out of memory", *["-"] * 5]
    whole_s, peak = result.whole_s, result.peak_memory_bytes
    return [
        *where,
        f"{whole_s.mean():.4g}",
        f"{whole_s.std(ddof=1) / whole_s.mean():.1%}".rstrip("%"),
        f"{1e3 * result.prefill_s.mean():.4g}",
        f"{1e3 * result.decode_step_s.mean():.4g}",
        "-" if peak is None else f"{peak / 2**30:.2f}",
        str(len(result.trials)),
    ]
