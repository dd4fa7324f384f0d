"""Saved results of serving benchmarks, read as points: concurrency, lengths, TTFT, TPOT.

`benchmark_formats` knows the tools' files, `benchmark_fit` turns the points into a step-time
model. Only closed loops are taken, a fixed number of requests in flight: an open loop (a request
rate) does not say how many requests shared a step.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmsched.calibration.benchmarks.formats import TOOLS, USELESS, Means
from llmsched.latency.base import CalibrationError


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkPoint:
    """Means over the completed requests of one benchmark with a fixed number in flight.

    Raises
    ------
    CalibrationError
        If a value is out of its bounds, or fewer requests completed than were to be in flight.
    """

    concurrency: int  # requests in flight, >= 1
    prompt_tokens: float  # >= 1
    output_tokens: float  # >= 2: a single token has no time per output token
    ttft_s: float
    tpot_s: float  # per output token after the first
    e2e_s: float  # from sending to the last token
    completed: int | None  # None where the tool does not say
    failed: int
    source: str  # the file, and the benchmark in it

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("prompt_tokens", 1), ("output_tokens", 2)):
            if not getattr(self, name) >= least:
                raise CalibrationError(
                    f"{self.source}: {name} must be >= {least}, got {getattr(self, name):g}"
                )
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise CalibrationError(
                    f"{self.source}: {name} must be > 0, got {getattr(self, name):g}; "
                    "measure with streaming on"
                )
        if self.completed is not None and self.completed < self.concurrency:
            raise CalibrationError(
                f"{self.source}: as many requests must complete as are in flight, got "
                f"{self.completed} of {self.concurrency}; send more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmarks:
    """The points of some result files, and what was left out of them."""

    tool: str
    points: tuple[BenchmarkPoint, ...]
    notes: tuple[str, ...]
    source: str  # the files and their digest


def read_benchmarks(
    paths: Sequence[str | Path], *, tool: str, concurrency: int | None = None
) -> Benchmarks:
    """The closed-loop benchmarks in these files, in order.

    Parameters
    ----------
    paths : sequence of paths
        Result files of one tool; one may hold several benchmarks.
    tool : {"vllm-bench", "guidellm", "aiperf", "genai-perf"}
        What saved them.
    concurrency : int, optional
        Requests in flight in the files that have no closed loop.

    Raises
    ------
    ValueError
        If the tool is none of these, or `concurrency` is below 1.
    CalibrationError
        In one line: the file, the field, what was expected and what was found.
    OSError
        If a file cannot be read.
    """
    if tool not in TOOLS:
        raise ValueError(f"tool must be one of {', '.join(TOOLS)}; got {tool!r}")
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"concurrency must be >= 1, got {concurrency}")
    _check_files_differ([Path(path) for path in paths])
    points: list[BenchmarkPoint] = []
    notes: list[str] = []
    needed = False
    for path in map(Path, paths):
        found = list(_benchmarks(path, tool))
        closed = [one for one in found if one.concurrency is not None]
        if not closed and concurrency is None:
            raise CalibrationError(
                f"{path}: the number of requests in flight must be fixed and said (a closed loop), "
                f"got {found[0].load}; give --concurrency N if you know it, or measure again"
            )
        if closed and len(closed) < len(found):
            loads = sorted({one.load for one in found if one.concurrency is None})
            notes.append(
                f"{path}: {len(found) - len(closed)} of {len(found)} benchmarks left out, open "
                f"loops ({', '.join(loads)}): they do not fix the number of requests in flight"
            )
        needed = needed or not closed
        points.extend(_point(one, concurrency) for one in closed or found)
    if concurrency is not None and not needed:
        raise CalibrationError(
            f"concurrency must be given for files that do not say it, got {concurrency} and only "
            "files that do; leave it out"
        )
    return Benchmarks(
        tool=tool,
        points=tuple(points),
        notes=(*notes, *_failures(points)),
        source=_source([Path(path) for path in paths]),
    )


def _check_files_differ(paths: list[Path]) -> None:
    """Fail if a result is named twice, which would count it twice."""
    seen: dict[bytes, Path] = {}
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest in seen:
            raise CalibrationError(
                f"{path}: every result must be named once, got the same content as in "
                f"{seen[digest]}; leave one out"
            )
        seen[digest] = path


def _point(means: Means, concurrency: int | None) -> BenchmarkPoint:
    fields = asdict(means)
    del fields["load"]
    return BenchmarkPoint(**{**fields, "concurrency": means.concurrency or concurrency})


def _failures(points: list[BenchmarkPoint]) -> list[str]:
    failed = sum(point.failed for point in points)
    if not failed:
        return []
    total = failed + sum(point.completed or 0 for point in points)
    return [
        f"{failed} of {total} requests failed and are not in the means; while they were "
        "missing, fewer requests than the concurrency shared the GPU"
    ]


def _source(paths: list[Path]) -> str:
    """The names of the files, and one digest of their bytes in that order."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]
    names = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files, {paths[0]} to {paths[-1]}"
    return f"{names} (sha256 {digest})"


def _benchmarks(path: Path, tool: str) -> Iterator[Means]:
    reader, signature = TOOLS[tool]
    documents = _documents(path, tool)
    for number, document in enumerate(documents, start=1):
        place = str(path) if len(documents) == 1 else f"{path} (result {number})"
        _check_fields(document, place, tool, signature)
        yield from reader(document, place)


def _documents(path: Path, tool: str) -> list[Any]:
    """The JSON values of a file: one, or several in a row, as vLLM's --append-result writes."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        documents: list[Any] = []
        decoder, start = json.JSONDecoder(), 0
        while start < len(text) or not documents:
            document, end = decoder.raw_decode(text, start)
            documents.append(document)
            start = len(text) - len(text[end:].lstrip())
    except json.JSONDecodeError as error:
        raise CalibrationError(
            f"{path}: must be JSON that {tool} saved, got {error.msg} in line {error.lineno}"
        ) from None
    except RecursionError:
        raise CalibrationError(
            f"{path}: must be JSON that {tool} saved, got one nested too deep"
        ) from None
    except UnicodeDecodeError:
        raise CalibrationError(f"{path}: must be JSON that {tool} saved, got no text") from None
    return documents


def _check_fields(document: Any, place: str, tool: str, signature: tuple[str, ...]) -> None:
    """Fail if this is not what the tool saves, and say what it looks like."""
    fields = set(document) if isinstance(document, dict) else set()
    if fields.issuperset(signature):
        return
    others = {wanted: f"{name}'s" for name, (_, wanted) in reversed(TOOLS.items()) if name != tool}
    looks = [text for wanted, text in (others | USELESS).items() if fields.issuperset(wanted)]
    shown = ", ".join(sorted(fields)[:5]) or f"a JSON {type(document).__name__}"
    raise CalibrationError(
        f"{place}: a result of {tool} must have the fields {' and '.join(signature)}, got {shown}"
        + (f"; this looks like {looks[0]}" if looks else "")
    )
