"""A run over time: hand-worked slices and counters, the format of the file, and its bounds."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from serving import serve, trace_of

from llmsched import Workload, simulate
from llmsched.engine.timeline.base import QUEUE, Timeline
from llmsched.engine.timeline.steps import step_timeline
from llmsched.figures.timeline import timeline as timeline_figure
from llmsched.simulation.run import Run


def of_steps(rows: Any, *, blocks: int, **settings: Any) -> Timeline:
    """The timeline of a run in milliseconds: 10 + 1 per prompt token + 2 per decode a step."""
    run = serve(trace_of(rows), blocks=blocks, run={"most_steps": 1000}, **settings)
    return step_timeline(run.requests, run.spells, run.steps, usable_blocks=blocks)


def slices(found: Timeline) -> list[tuple[str, int, float, float]]:
    """(kind and request, lane, start, end), by start."""
    s = found.slices
    columns = (s.kind, s.row, s.lane, s.start_s, s.end_s)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return sorted(((f"{k} {'ABC'[r]}", lane, a, b) for k, r, lane, a, b in rows), key=by_start)


def by_start(row: Any) -> Any:
    return row[2], row[1]


def counter(found: Timeline, name: str, gpu: int = 0) -> list[tuple[float, float]]:
    (one,) = [c for c in found.counters if c.name == name and c.gpu == gpu]
    return list(zip(one.at_s.tolist(), one.value.tolist(), strict=True))


ASYNC_LAG = [(0, 20, 3), (30, 10, 2), (31, 5, 1)]


def test_async__requests_keep_their_lanes_from_decision_to_last_token():
    # the first hand-worked case, depth 2: C is decided at 42, while A's last token is in flight
    found = of_steps(ASYNC_LAG, blocks=100)
    assert slices(found) == [
        ("prefill A", 0, 0, 30),
        ("decode A", 0, 30, 64),
        ("prefill B", 1, 30, 64),
        ("prefill C", 2, 42, 81),
        ("decode B", 1, 64, 81),
    ]
    assert counter(found, "running [requests]") == [(0, 1), (42, 2), (64, 3), (81, 0)]
    assert counter(found, "step [tokens]") == [(0, 20), (30, 1), (42, 11), (64, 6), (81, 0)]


def test_sync__the_same_requests():
    found = of_steps(ASYNC_LAG, blocks=100, depth=1)
    assert slices(found) == [
        ("prefill A", 0, 0, 30),
        ("decode A", 0, 30, 71),
        ("prefill B", 1, 30, 52),
        ("decode B", 1, 52, 71),
        ("prefill C", 2, 52, 71),
    ]
    assert counter(found, "running [requests]") == [(0, 1), (30, 2), (52, 3), (71, 0)]
    assert counter(found, "KV used [%]") == [(0, 2), (30, 3), (52, 4), (71, 0)]


def test_preempted__gives_its_lane_back_and_resumes():
    # the second hand-worked case: C preempts itself at 116, its first token comes at 152
    found = of_steps([(0, 8, 6), (1, 70, 2), (2, 16, 2)], blocks=7, step_tokens=32)
    of_c = [row for row in slices(found) if row[0].endswith("C")]
    assert of_c == [("prefill C", 2, 73, 116), ("resumed C", 0, 166, 193)]
    assert counter(found, "waiting [requests]") == [(0, 0), (30, 1), (116, 0), (152, 1), (166, 0)]


@pytest.fixture(scope="module", params=["multi_bin_dynamic", "continuous_sjf"])
def run(request) -> Run:
    steps = {"step_time": "rtx-4090-llama-3.1-8b", "llm": "llama-3.1-8b", "gpu": "rtx-4090"}
    continuous = request.param.startswith("continuous")
    return simulate(
        Workload(requests=300, rps_scale=40.0 if continuous else 200.0),
        request.param,
        n_gpus=2,
        most_steps=10**6,
        **(steps if continuous else {"latency": "reference"}),
    )


def test_file__is_in_the_trace_event_format(run, tmp_path):
    found = run.timeline()
    found.write(tmp_path / "t.json")
    told = json.loads((tmp_path / "t.json").read_text())
    assert told["displayTimeUnit"] == "ms"
    assert told["otherData"]["scheduler"] == run.scheduler
    busy_until: dict[tuple[int, int], float] = defaultdict(lambda: -math.inf)
    sampled: dict[tuple[int, str], float] = defaultdict(lambda: -math.inf)
    events = sorted(told["traceEvents"], key=lambda event: event.get("ts", -1))
    kinds = [event["ph"] for event in events]
    assert kinds.count("X") == len(found.slices)
    assert kinds.count("C") == sum(len(c.at_s) for c in found.counters)
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "X":  # slices of one track never overlap, to the nanosecond
            track = event["pid"], event["tid"]
            assert event["dur"] >= 0
            assert round(1000 * event["ts"]) >= busy_until[track]
            busy_until[track] = round(1000 * event["ts"]) + round(1000 * event["dur"])
        elif event["ph"] == "C":
            assert event["ts"] > sampled[event["pid"], event["name"]]
            sampled[event["pid"], event["name"]] = event["ts"]
            assert event["args"]["value"] >= 0
        else:
            assert event["ph"] == "M"
    names = {event["args"].get("name") for event in events if event["ph"] == "M"}
    assert {"GPU 0", "GPU 1"} <= names


def test_slices__are_all_that_was_served(run):
    found = run.timeline().slices
    if hasattr(run, "batches"):
        assert len(found) == len(run.batches)
        assert found.details["requests"].sum() == run.metrics.completed
    else:
        preempted_s = (found.end_s - found.start_s).sum()
        assert run.requests.preemptions.sum() > 0
        running_s = run.metrics.running_mean * run.metrics.makespan_s
        assert preempted_s == pytest.approx(running_s, rel=1e-9)


def test_counters__end_at_nothing(run):
    for one in run.timeline().counters:
        assert one.value[-1] == 0
        assert (one.value[1:] != one.value[:-1]).all()


def test_window__cuts_slices_and_begins_counters_with_what_holds(run):
    whole, part = run.timeline(), run.timeline(window_s=(3.0, 4.0))
    assert part.slices.start_s.min() == 3.0
    assert part.slices.end_s.max() == 4.0
    assert part.slices.details["start_s"].min() < 3.0
    for one in part.counters:
        (other,) = [c for c in whole.counters if (c.gpu, c.name) == (one.gpu, one.name)]
        assert one.at_s[0] == max(3.0, other.at_s[0])
        assert one.at_s[-1] < 4.0
        held = other.value[np.searchsorted(other.at_s, one.at_s, side="right") - 1]
        assert one.value.tolist() == held.tolist()


def test_bound__ends_the_timeline_and_counts_the_rest(run):
    def events(found: Timeline) -> int:
        return len(found.slices) + sum(len(c.at_s) for c in found.counters)

    whole, part = run.timeline(), run.timeline(most_events=200)
    assert events(part) <= 200
    assert part.left_out + events(part) == events(whole)
    assert part.slices.end_s.max() <= part.window_s[1]


def test_steps_left_out__end_the_timeline_too():
    rows = [(0, 20, 30), (0, 20, 30), (500, 8, 2)]
    run = serve(trace_of(rows), blocks=100, run={"most_steps": 5})
    found = step_timeline(run.requests, run.spells, run.steps, usable_blocks=100)
    assert found.window_s[1] == run.steps.end_s[-1]
    assert found.left_out >= run.steps.left_out > 0
    assert found.slices.end_s.max() == run.steps.end_s[-1]


def test_batches__by_hand():
    run = simulate(Workload(requests=60), "static_fifo", n_gpus=1, latency="reference")
    found, batches = run.timeline(), run.batches
    waiting = counter(found, "waiting [requests]", QUEUE)
    at_s, start_s = run.requests.arrival_s, run.requests.start_s
    expected = [int((at_s <= t).sum() - (start_s <= t).sum()) for t, _ in waiting]
    assert [value for _, value in waiting] == expected
    sizes = dict(counter(found, "batch [requests]"))
    assert all(sizes.get(s, n) == n for s, n in zip(batches.start_s, batches.size, strict=True))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window_s": (2.0, 2.0)}, "window_s must begin before it ends, got 2 to 2"),
        ({"most_events": 0}, "most_events must be >= 1, got 0"),
    ],
)
def test_what_cannot_be__is_refused(run, options, told):
    with pytest.raises(ValueError, match=told):
        run.timeline(**options)


def test_without_steps__there_is_no_timeline():
    run = simulate(
        Workload(requests=5), "continuous_static", step_time="rtx-4090-llama-3.1-8b", gpu="rtx-4090"
    )
    with pytest.raises(ValueError, match="needs the steps of the run; give simulate most_steps"):
        run.timeline()


def test_figure__has_a_panel_for_slices_and_one_per_counter(run):
    found = run.timeline(window_s=(0.0, 5.0))
    figure = timeline_figure(
        found.slices_frame(), found.counters_frame(), title="title", caption="caption"
    )
    drawn = figure.draw()
    assert len(drawn.axes) == 1 + len({c.name for c in found.counters})
    assert len(drawn.axes[0].collections[0].get_paths()) == len(found.slices)
