"""The formats by name, and result files as benchmarks.

A format is one module here that makes a `Format`, and one line below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llmsched.calibration.benchmarks.files import (
    Format,
    ResultFile,
    check_size,
    read_file,
)
from llmsched.calibration.benchmarks.formats import (
    aiperf,
    guidellm,
    inference_perf,
    inferencex,
    llmservingsim,
    tables,
    vllm,
)
from llmsched.calibration.benchmarks.records import Record
from llmsched.calibration.benchmarks.runs import Benchmarks, Run
from llmsched.latency.base import CalibrationError

AUTO = "auto"
# the first that holds a file reads it
FORMATS = {
    one.name: one
    for one in (
        vllm.VLLM_BENCH,
        vllm.SGLANG,
        guidellm.GUIDELLM,
        aiperf.AIPERF,
        aiperf.GENAI_PERF,
        inference_perf.INFERENCE_PERF,
        inferencex.INFERENCEX,
        llmservingsim.LLMSERVINGSIM,
        tables.REQUESTS,
        tables.STAGES,
        tables.CLOSED_LOOP,
    )
}
_USELESS = {  # files of the same tools that hold no runs, by their fields
    ("avg_latency", "latencies"): (
        "the result of `vllm bench latency`, which does not save its batch size and lengths"
    ),
    ("elapsed_time", "tokens_per_second"): (
        "the result of `vllm bench throughput`, which does not save its batch sizes"
    ),
    ("experiments", "version"): "genai-perf's raw responses; name the summary instead",
    ("running", "waiting"): "an engine's counters; name the requests, beside which they are read",
}


def read_benchmarks(
    paths: Sequence[str | Path],
    *,
    format: str = AUTO,  # noqa: A002
    concurrency: Sequence[int] = (),
    output_tokens: float | None = None,
    where: Mapping[str, str] | None = None,
) -> Benchmarks:
    """The runs in these files, in order.

    Parameters
    ----------
    paths : sequence of paths
        Result files; one may hold several runs.
    format : str
        A name in `FORMATS`, or "auto": recognised file by file.
    concurrency : sequence of int
        Requests in flight where files do not say: one number for all of those, or one per file.
    output_tokens : float, optional
        Tokens that every request was made to generate, for tools that only count text.
    where : mapping, optional
        Only results whose field has this value, as the file has it, are read.

    Raises
    ------
    ValueError
        If the format is none of these, or a number is out of its bounds.
    CalibrationError
        In one line: the file, the field, what was expected and what was found.
    OSError
        If a file cannot be read.
    """
    _check_given(format, len(paths), concurrency, output_tokens)
    files = [Path(path) for path in paths]
    digest = _digest(files)
    given: list[int | None] = [*concurrency] or [None]
    given *= len(files) if len(given) == 1 else 1
    runs: list[tuple[Run, ...]] = []
    names: dict[str, None] = {}
    n_said = 0
    for path, clients in zip(files, given, strict=True):
        file = replace(_only(read_file(path), where or {}), output_tokens=output_tokens)
        one = _format_of(file, format)
        names[one.name] = None
        if output_tokens is not None and not one.counts_text:
            raise file.error(
                f"output_tokens must be left out, {one.name} counts tokens itself, got "
                f"{output_tokens:g}"
            )
        found = tuple(one.read(file))
        if clients is not None and not any(run.load.concurrency for run in found):
            found = tuple(one.read(replace(file, concurrency=clients)))
            n_said += 1
            _check_agrees(path, found, clients)
        elif clients is not None and len(concurrency) > 1:
            _check_agrees(path, found, clients)
        runs.append(found)
    if concurrency and not n_said:
        raise CalibrationError(
            f"concurrency must be given for files that do not say it, got {concurrency[0]} and "
            "only files that do; leave it out"
        )
    listed = str(files[0]) if len(files) == 1 else f"{len(files)} files, {files[0]} to {files[-1]}"
    return Benchmarks(
        format=" and ".join(names), files=tuple(runs), source=f"{listed} (sha256 {digest})"
    )


def _check_given(
    format_: str, n_files: int, concurrency: Sequence[int], output_tokens: float | None
) -> None:
    """Fail if what the user says cannot be."""
    if format_ not in (AUTO, *FORMATS):
        raise ValueError(f"format must be one of {', '.join((AUTO, *FORMATS))}; got {format_!r}")
    if len(concurrency) > 1 and len(concurrency) != n_files:
        raise ValueError(
            f"concurrency must be one number, or one for each of {n_files} files, got "
            f"{len(concurrency)}"
        )
    if any(one < 1 for one in concurrency):
        raise ValueError(f"concurrency must be >= 1, got {min(concurrency)}")
    if output_tokens is not None and not 1 <= output_tokens < 2**31:
        raise ValueError(f"output_tokens must be >= 1, got {output_tokens:g}")


def _digest(paths: list[Path]) -> str:
    """One digest of the bytes in that order; fails if a result is named twice."""
    seen: dict[bytes, Path] = {}
    whole = hashlib.sha256()
    for path in paths:
        check_size(path)
        with path.open("rb") as raw:
            one = hashlib.file_digest(raw, "sha256").digest()
        if one in seen:
            raise CalibrationError(
                f"{path}: every result must be named once, got the same content as in "
                f"{seen[one]}; leave one out"
            )
        seen[one] = path
        whole.update(one)
    return whole.hexdigest()[:12]


def _format_of(file: ResultFile, name: str) -> Format:
    """The format asked for, or the first that holds the file; fails if it does not hold it."""
    holding = [one for one in FORMATS.values() if one.holds(file)]
    if name == AUTO:
        if not holding:
            raise file.error(
                f"must have the fields of one of {', '.join(FORMATS)}; got {file.looks()}"
                f"{_useless(file)}"
            )
        return holding[0]
    asked = FORMATS[name]
    if asked not in holding and not (name == "inferencex" and vllm.VLLM_BENCH in holding):
        looks = f"; this looks like {holding[0].name}'s" if holding else _useless(file)
        raise file.error(
            f"a result of {name} must have the fields {asked.wanted}, got {file.looks()}{looks}"
        )
    return asked


def _useless(file: ResultFile) -> str:
    found = (text for fields, text in _USELESS.items() if file.has_fields(*fields))
    return next((f"; this looks like {text}" for text in found), "")


def _only(file: ResultFile, where: Mapping[str, str]) -> ResultFile:
    """The results of a file whose fields have these values."""
    if not where:
        return file

    def fits(record: Record) -> bool:
        return all(
            str(record.get(name)).casefold() == value.casefold() for name, value in where.items()
        )

    rows = tuple(row for row in file.rows if fits(row))
    values = tuple(one.fields for one in file.records() if fits(one)) if not file.columns else ()
    if not rows and not values:
        asked = ", ".join(f"{name}={value}" for name, value in where.items())
        raise file.error(f"must have a result where {asked}, got none")
    return replace(file, rows=rows, values=values)


def _check_agrees(path: Path, runs: tuple[Run, ...], clients: int) -> None:
    """Fail if a file says another concurrency than the user says of it, or can have none."""
    for run in runs:
        said = run.load.concurrency
        if said is None:
            raise CalibrationError(
                f"{path}: concurrency must be left out, stages at a request rate have none, got "
                f"{clients}"
            )
        if said != clients:
            raise CalibrationError(
                f"{path}: concurrency must be {said} as the file says, got {clients}"
            )
