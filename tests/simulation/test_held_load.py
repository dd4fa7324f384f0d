"""The held load, the rate however it is said, resampled traces, and the plan's preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from llmsched import Scenario, Trace, TraceError, Workload, simulate
from llmsched._util.streams import Streams
from llmsched.cli.main import main
from llmsched.simulation.hardware import Hardware
from llmsched.simulation.held_load import load_as_it_comes
from llmsched.simulation.presets import preset
from llmsched.workload.resample import BLOCKS, resampled


def minutes(n: int = 400) -> Trace:
    """Requests that tell where they were: the prompt counts them, gaps grow along the trace."""
    return Trace(
        arrival_s=np.cumsum(np.linspace(0.5, 1.5, n)),
        prompt_tokens=np.arange(1, n + 1, dtype=np.int32),
        output_tokens=np.full(n, 7, np.int32),
        name="minutes",
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "t.csv"
    rows = (f"{i * i},{100 + i},{50 + i}" for i in range(40))
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]) + "\n")
    return str(path)


# ------------------------------------------------------------------------------- held load


@pytest.mark.parametrize("scheduler", ["static_fifo", "multi_bin_dynamic", "continuous_static"])
def test_held_load__is_that_of_every_seed_and_scheduler(scheduler: str) -> None:
    for seed in (0, 1):
        scenario = Scenario(
            workload=Workload(requests=300, offered_load=0.6), scheduler=scheduler, seed=seed
        )
        assert load_as_it_comes(scenario.requests(), scenario.resolved_hardware()) == pytest.approx(
            0.6
        )


def test_held_load__is_rho_of_multi_bin_with_an_own_prediction_of_the_same_noise() -> None:
    # given the reference scheduler, whose own predictions are of seed 0, as the held load's are
    run = simulate(
        Workload(requests=300, offered_load=0.6), "multi_bin_dynamic", latency="reference"
    )
    assert run.offered_load == pytest.approx(0.6, rel=1e-12)
    twice = simulate(
        Workload(requests=300, offered_load=0.6), "multi_bin_dynamic", latency="reference", n_gpus=8
    )
    assert twice.arrival_rate_rps == pytest.approx(2 * run.arrival_rate_rps)


def test_rate__is_as_it_is_said(file: str) -> None:
    recorded = Workload(source=file)
    assert recorded.load().arrival_rate_per_s == pytest.approx(39 / 39**2)
    assert recorded.rate_words() == "as recorded"
    assert replace(recorded, rate_per_s=5.0).load().arrival_rate_per_s == pytest.approx(5.0)
    assert replace(recorded, rps_scale=3.0).rate_words() == "3 times as recorded"
    profile = Workload(requests=200)
    assert profile.held_load == 0.7
    assert profile.rate_words() == "offered load of multi_bin_dynamic held at 0.7"
    # users who wait for answers have no rate to be held
    assert Workload(requests=200, concurrency=3).held_load is None
    sessions = Scenario(workload=Workload(source="sessions", requests=50))
    assert "held" not in sessions.rate_words(sessions.requests())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rps_scale": 2.0, "offered_load": 0.5},
            "give one of rps_scale, offered_load",
        ),
        ({"offered_load": 0.0}, "offered_load must be"),
        ({"concurrency": 2, "rate_per_s": 3.0}, "rate_per_s cannot count where 2 users wait"),
    ],
)
def test_rate__that_cannot_be_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(**fields)  # type: ignore[arg-type]


def test_held_load__of_infinitely_many_gpus_is_refused() -> None:
    with pytest.raises(ValueError, match=r"n_gpus must be finite .* give --rps-scale or --rate"):
        simulate(Workload(requests=50), "static_fifo", n_gpus=float("inf"))


# -------------------------------------------------------------------------------- resampling


def test_resampled__keeps_time_and_what_is_inside_blocks() -> None:
    trace = minutes()
    again = resampled(trace, Streams.of_seed(3).resampling)
    block_s = trace.span_s * len(trace) / (len(trace) - 1) / BLOCKS
    assert again.arrival_s[-1] <= BLOCKS * block_s
    assert (np.diff(again.arrival_s) >= 0).all()
    # within a block, neighbours are neighbours of the trace with their own gap
    block = (again.arrival_s // block_s).astype(int)
    together = np.flatnonzero(block[1:] == block[:-1])
    step = again.prompt_tokens[together + 1] - again.prompt_tokens[together]
    assert set(step.tolist()) <= {1, 1 - len(trace)}
    own_gap = np.diff(trace.arrival_s)[again.prompt_tokens[together] - 1 - (step != 1)]
    gaps = (again.arrival_s[together + 1] - again.arrival_s[together])[step == 1]
    assert gaps == pytest.approx(own_gap[step == 1], abs=1e-9)
    # and no request is likelier than another
    counts = np.zeros(len(trace))
    for seed in range(200):
        rows = resampled(trace, Streams.of_seed(seed).resampling).prompt_tokens - 1
        counts += np.bincount(rows, minlength=len(trace))
    assert counts.mean() == pytest.approx(200, rel=0.05)
    assert counts.min() > 100


def test_resampled__of_one_instant_is_refused() -> None:
    trace = replace(minutes(), arrival_s=np.zeros(400))
    with pytest.raises(TraceError, match=r"two instants .*--no-resample-trace"):
        resampled(trace, Streams.of_seed(0).resampling)


# -------------------------------------------------------------------------- keys and presets


def test_key__of_a_trace_is_that_of_its_columns() -> None:
    trace = minutes()
    key = Scenario(workload=trace).key()
    assert key == Scenario(workload=minutes()).key()
    assert key != Scenario(workload=replace(trace, output_tokens=trace.output_tokens + 1)).key()
    drawn = Scenario(workload=trace, hardware=Hardware(draw=(0, 1)))
    assert len({key, drawn.key()}) == 2


def test_preset__is_the_plans_world_on_every_command() -> None:
    plan = preset("plan")
    hardware = plan.resolved_hardware()
    assert (hardware.latency.name, hardware.gpu.name, hardware.n_gpus) == (
        "reference",
        "default-12gb",
        4,
    )
    assert (plan.sla_s, plan.recipe().rps_scale, plan.binning.n_bins) == (1.0, 200.0, 4)
    for command in ("static-fifo", "compare", "capacity", "plan", "continuous-static"):
        shown = CliRunner().invoke(main, [command, "--preset", "plan", "--show-config"])
        assert 'latency = "reference"' in shown.stdout, command
        assert "rps_scale = 200.0" in shown.stdout
    # the stress plan starts there by itself, and the command line still wins
    shown = CliRunner().invoke(main, ["stress", "--sla", "3", "--show-config"])
    assert 'latency = "reference"' in shown.stdout
    assert "latency_s = 3.0" in shown.stdout
