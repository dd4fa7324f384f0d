"""Which runs a batch-level fit can use: closed loops of one server; and notes on the rest."""

from __future__ import annotations

from dataclasses import dataclass, fields

from llmsched.calibration.benchmarks.runs import (
    Benchmarks,
    ClosedLoopPoint,
    Server,
    closed_loop,
)
from llmsched.latency.base import CalibrationError


@dataclass(frozen=True, slots=True, kw_only=True)
class UsablePoint:
    """A point with the times that the equations need."""

    point: ClosedLoopPoint
    ttft_s: float
    tpot_s: float
    e2e_s: float

    @property
    def shape(self) -> tuple[float, float, float]:
        """Requests in flight, prompt and output tokens."""
        return self.point.company, self.point.prompt_tokens, self.point.output_tokens

    @property
    def is_alone(self) -> bool:
        return self.point.concurrency == 1


def usable_points(benchmarks: Benchmarks) -> tuple[list[UsablePoint], list[str]]:
    """The closed loops whose times are known, and what must be said of all runs.

    Raises
    ------
    CalibrationError
        If a file has no closed loop, none has times, or they are of more than one server.
    """
    points: list[ClosedLoopPoint] = []
    notes: list[str] = []
    for runs in benchmarks.files:
        closed = [point for point in map(closed_loop, runs) if point is not None]
        words = list(dict.fromkeys(run.load.words for run in runs if closed_loop(run) is None))
        if not closed:
            raise CalibrationError(
                f"{runs[0].source}: the number of requests in flight must be fixed and said (a "
                f"closed loop), got {words[0]}; give --concurrency N if you know it, or measure "
                "again"
            )
        if words:
            notes.append(
                f"{closed[0].source}: {len(runs) - len(closed)} of {len(runs)} benchmarks left "
                f"out, open loops ({listed(words)}): they do not fix the number of requests in "
                "flight"
            )
        points += closed
    usable = [one for one in map(_with_times, points) if one is not None]
    if len(usable) < len(points):
        notes.append(
            f"{len(points) - len(usable)} of {len(points)} benchmarks left out: no times, or "
            "outputs of one token"
        )
    if not usable:
        raise CalibrationError(
            f"{points[0].source}: must have the times of two output tokens and more, got none"
        )
    _check_alike(usable)
    return usable, notes + _remarks([one.point for one in usable])


def _with_times(point: ClosedLoopPoint) -> UsablePoint | None:
    ttft_s, tpot_s, e2e_s = (time.typical_s for time in (point.ttft, point.tpot, point.e2e))
    if ttft_s is None or tpot_s is None or e2e_s is None or point.output_tokens < 2:
        return None
    return UsablePoint(point=point, ttft_s=ttft_s, tpot_s=tpot_s, e2e_s=e2e_s)


def _remarks(points: list[ClosedLoopPoint]) -> list[str]:
    """What the readers noted, each once, and who was idle or failed."""
    sources: dict[str, list[str]] = {}
    for point in points:
        for note in point.notes:
            sources.setdefault(note, []).append(point.source)
        if point.e2e.mean_s is None:
            sources.setdefault("medians stand for means, which are not saved", []).append(
                point.source
            )
    notes = [
        f"{found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {note}"
        for note, found in sources.items()
    ]
    days = sorted({point.date for point in points if point.date})
    if len(days) > 1:
        notes.append(
            f"the results are of {len(days)} days, {days[0]} to {days[-1]}, between which engines "
            "change; where one is meant, choose with --where date=DAY"
        )
    idle = [point for point in points if not point.is_busy]
    if idle:
        in_flight = [f"{point.in_flight:.3g} of {point.concurrency}" for point in idle]
        notes.append(
            f"clients paused, or runs were short: {listed(in_flight)} requests were in flight on "
            "average (throughput x latency), and so many are taken to share a request's steps: "
            f"{listed([f'{point.company:.3g}' for point in idle])}"
        )
    return notes + _failures(points)


def _failures(points: list[ClosedLoopPoint]) -> list[str]:
    failed = sum(point.failed for point in points)
    if not failed:
        return []
    total = failed + sum(point.completed or 0 for point in points)
    return [
        f"{failed} of {total} requests failed and are not in the means; while they were "
        "missing, fewer requests than the concurrency shared the GPU"
    ]


def _check_alike(usable: list[UsablePoint]) -> None:
    """Fail if the points are of more than one server."""
    for one in fields(Server):
        found = {getattr(each.point.server, one.name) for each in usable} - {None}
        if len(found) > 1:
            shown = sorted(map(str, found))
            raise CalibrationError(
                f"benchmarks must be of one server, got {one.name} {listed(shown)}; choose with "
                f"--where FIELD={shown[0]}, or name fewer files"
            )


def listed(values: list[int] | list[str]) -> str:
    """Up to six of them, then a count."""
    more = f" and {len(values) - 6} more" if len(values) > 6 else ""
    return ", ".join(str(value) for value in values[:6]) + more
