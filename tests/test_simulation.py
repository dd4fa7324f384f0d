"""One simulation from end to end: what is run, what it shares with other runs, what it reports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmsched
from llmsched import Binning, Run, Settings, Trace, TraceError, Workload
from llmsched.engine.records import BatchTable, RequestTable
from llmsched.hardware import MODELS
from llmsched.latency.base import CalibrationWarning
from llmsched.latency.formulas import PerTokenModel, SaturatingModel
from plan_world import plan_simulate as simulate

SCHEDULERS = ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic", "multi_bin_only")
every_scheduler = pytest.mark.parametrize("name", SCHEDULERS)
SECOND_PER_TOKEN = PerTokenModel(output_token_s=1.0, name="one second per token", source="hand")


def hand_trace(*rows: tuple[float, int, int]) -> Trace:
    """Requests from (arrival, prompt, output)."""
    arrival_s, prompt, output = zip(*rows, strict=True)
    return Trace(
        arrival_s=np.array(arrival_s, dtype=np.float64),
        prompt_tokens=np.array(prompt, dtype=np.int32),
        output_tokens=np.array(output, dtype=np.int32),
        name="by hand",
    )


def content(table: RequestTable | BatchTable) -> list[bytes]:
    return [getattr(table, name).tobytes() for name in table.__slots__]


def requests_of(run: Run) -> list[list[Any]]:
    columns = (run.requests.arrival_s, run.requests.prompt_tokens, run.requests.output_tokens)
    return [column.tolist() for column in columns]


# --------------------------------------------------------------------------------- by hand


def test_figure_1b__comes_out_of_the_whole_simulation() -> None:
    # given service times of 1, 5, 2 and 6 s at once, batches of two, exact predictions
    trace = hand_trace((0, 0, 1), (0, 0, 5), (0, 0, 2), (0, 0, 6))
    options: dict[str, Any] = {
        "n_gpus": 1,
        "latency": SECOND_PER_TOKEN,
        "predictor": "oracle",
        "settings": Settings(batch_size=2, sla_s=5.0),
    }
    # when they are served from one queue and from two bins of equal mass
    one_queue = simulate(trace, "static_fifo", **options)
    two_bins = simulate(trace, "multi_bin_only", binning=2, **options)
    # then 11 s become 8 s
    assert one_queue.metrics.makespan_s == 11.0
    assert one_queue.requests.finish_s.tolist() == [5, 5, 11, 11]
    assert two_bins.metrics.makespan_s == 8.0
    assert two_bins.requests.finish_s.tolist() == [2, 8, 2, 8]
    assert two_bins.edges.tolist() == [3.5]  # between 2 and 5
    assert two_bins.requests.bin.tolist() == [0, 1, 0, 1]
    # and within 5 s there are two of four either way
    for run, makespan_s in ((one_queue, 11.0), (two_bins, 8.0)):
        assert run.metrics.sla_violation_rate == 0.5
        assert run.metrics.goodput_rps == 2 / makespan_s
        assert run.metrics.gpu_utilization == 1.0


def test_offered_load__by_hand() -> None:
    # given four requests over 8 s, 2 s each in batches of two, on two GPUs
    trace = hand_trace((0, 0, 2), (2, 0, 2), (4, 0, 2), (8, 0, 2))
    run = simulate(
        trace,
        "static_fifo",
        n_gpus=2,
        latency=SECOND_PER_TOKEN,
        settings=Settings(batch_size=2),
    )
    # then 1 s of work a request, at 3 gaps in 8 s, over 2 GPUs
    assert run.offered_load == pytest.approx(3 / 8 / 2)
    assert run.load_label == "stable"


def test_offered_load__leaves_out_what_is_rejected_and_keeps_to_the_memory() -> None:
    # given room for 100 tokens and a request of 101 among eight of 20, all of them 10 s long
    rows = [(float(i), 10, 10) for i in range(8)]
    trace = hand_trace(*rows, (10.0, 91, 10))
    run = simulate(
        trace,
        "dynamic_no_bins",
        n_gpus=1,
        latency=SECOND_PER_TOKEN,
        settings=Settings(capacity_tokens=100.0),
    )
    # then batches of floor(0.9 * 100 / 20) = 4, two of them: 20 s over 9 requests, that come
    # with 8 gaps in 10 s
    assert run.metrics.rejected == 1
    assert run.offered_load == pytest.approx(2 * 10 / 9 * 8 / 10)


def test_binning__by_service_time_uses_the_models_unit() -> None:
    trace = hand_trace((0, 100, 100), (1, 100, 900))
    model = SaturatingModel(
        alpha_s=0.0, beta_s_per_token=0.001, gamma=0.4, name="line", source="hand"
    )
    run = simulate(
        trace,
        "multi_bin_dynamic",
        predictor="oracle",
        latency=model,
        binning=Binning(by="service", edges=(0.5,)),
    )
    assert run.requests.bin.tolist() == [0, 1]  # 0.2 s and 1.0 s alone
    assert run.edges.tolist() == [0.5]


def test_binning__fixed_edges_hold_their_lower_end() -> None:
    trace = hand_trace((0, 0, 63), (0, 0, 64), (0, 0, 255), (0, 0, 256), (0, 0, 5000))
    run = simulate(
        trace,
        "multi_bin_dynamic",
        predictor="oracle",
        binning=Binning(edges=(64.0, 256.0, 1024.0)),
    )
    assert run.requests.bin.tolist() == [0, 1, 1, 2, 3]


# ------------------------------------------------------------- seeds and common random numbers


@every_scheduler
def test_seed__the_same_gives_the_same_bytes(name: str) -> None:
    first, second = (simulate(Workload(requests=400), name, seed=3) for _ in range(2))
    assert content(first.requests) == content(second.requests)
    assert content(first.batches) == content(second.batches)
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())


def test_seed__another_gives_other_requests_and_other_noise() -> None:
    workload = Workload(requests=400)
    first, second = (simulate(workload, seed=seed) for seed in (3, 4))
    assert requests_of(first) != requests_of(second)
    assert (first.seed, second.seed) == (3, 4)
    # and on a trace that is given, the noise alone
    trace = workload.load(3)
    first, second = (simulate(trace, seed=seed) for seed in (3, 4))
    assert requests_of(first) == requests_of(second)
    assert first.requests.predicted_tokens.tolist() != second.requests.predicted_tokens.tolist()


def test_common_random_numbers__policies_leave_requests_and_predictions_untouched() -> None:
    workload = Workload(requests=400)
    base = simulate(workload, "multi_bin_dynamic", seed=5)
    others: list[Run] = [
        *(simulate(workload, name, seed=5) for name in SCHEDULERS),
        simulate(workload, n_gpus=9, seed=5),
        simulate(workload, binning=8, seed=5),
        simulate(workload, binning=Binning(by="total"), seed=5),
        simulate(workload, admission="one-by-one", seed=5),
        simulate(workload, latency="reference-revised", seed=5),
        simulate(workload, settings=Settings(sla_s=9.0, controller="window"), seed=5),
    ]
    for run in others:
        assert requests_of(run) == requests_of(base)
        assert run.requests.predicted_tokens.tolist() == base.requests.predicted_tokens.tolist()
    # and a predictor leaves the requests untouched
    assert requests_of(simulate(workload, predictor="oracle", seed=5)) == requests_of(base)


@pytest.mark.parametrize("name", ["static_fifo", "dynamic_no_bins"])
def test_one_queue__is_not_touched_by_predictor_or_bins(name: str) -> None:
    workload = Workload(requests=400)
    base = simulate(workload, name)
    for options in (
        {"predictor": "oracle"},
        {"predictor": "noisy:3"},
        {"predictor": "prompt-power-law"},
        {"predictor": "bin-error:0.4"},
        {"predictor": "confusion:bert"},
        {"binning": 1},
        {"binning": Binning(edges=(64.0, 256.0), by="total")},
    ):
        run = simulate(workload, name, **options)
        assert run.metrics == base.metrics
        assert content(run.batches) == content(base.batches)
        assert run.metrics.bins == 1
        assert run.edges.tolist() == []


def test_predictor__matters_to_a_scheduler_with_bins() -> None:
    workload = Workload(requests=400)
    runs = [
        simulate(workload, predictor=spec)
        for spec in ("oracle", "noisy", "noisy:2", "prompt-power-law", "bin-error:0.4")
    ]
    assert len({tuple(run.requests.bin.tolist()) for run in runs}) == len(runs)


def test_oracle__puts_every_request_into_its_true_bin() -> None:
    run = simulate(Workload(requests=400), predictor="oracle")
    assert run.requests.predicted_tokens.tolist() == run.requests.output_tokens.tolist()
    true_bin = [sum(edge <= value for edge in run.edges) for value in run.requests.output_tokens]
    assert run.requests.bin.tolist() == true_bin


def test_predictor_of_a_bin__mistakes_bins_and_leaves_the_edges_alone() -> None:
    # given a predictor that takes a bin for its neighbour
    trace = Workload(requests=400).load()
    exact, mistaken = (simulate(trace, predictor=spec) for spec in ("oracle", "bin-error:0.4"))
    # then the edges are those of the true lengths, and some requests are in a neighbouring bin
    assert mistaken.edges.tolist() == exact.edges.tolist()
    off = np.abs(mistaken.requests.bin - exact.requests.bin)
    assert set(off.tolist()) == {0, 1}
    # and with no mistakes all are where they belong
    right = simulate(trace, predictor="bin-error:0")
    assert right.requests.bin.tolist() == exact.requests.bin.tolist()


@pytest.mark.parametrize("name", ["static_fifo", "dynamic_no_bins"])
def test_predictor_of_a_bin__has_nothing_to_mistake_in_one_queue(name: str) -> None:
    # given a predictor and bins that do not go together where there are bins
    options: dict[str, Any] = {
        "predictor": "confusion:bert",
        "binning": Binning(n_bins=3, by="total"),
    }
    run = simulate(Workload(requests=100), name, **options)
    assert run.requests.predicted_tokens.tolist() == run.requests.output_tokens.tolist()
    with pytest.raises(ValueError, match=r"confusion:bert"):
        simulate(Workload(requests=100), "multi_bin_dynamic", **options)


# ------------------------------------------------------------------------- what it takes


def test_trace__a_text_is_a_file_or_a_profile_at_the_default_rate(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n400,6,6\n")
    run = simulate(str(path), "static_fifo")
    assert run.requests.arrival_s.tolist() == [0.0, 2.0]
    assert requests_of(run) == requests_of(simulate(Workload(source=str(path)), "static_fifo"))
    assert len(simulate("poisson", "static_fifo").requests) == 10_000


def test_trace__given_as_it_is_is_not_scaled() -> None:
    run = simulate(hand_trace((0, 1, 1), (7, 1, 1)), "static_fifo")
    assert run.requests.arrival_s.tolist() == [0.0, 7.0]
    assert run.trace_name == "by hand"


def test_trace__empty_is_refused() -> None:
    empty = np.array([], np.int32)
    trace = Trace(arrival_s=np.array([]), prompt_tokens=empty, output_tokens=empty, name="none")
    with pytest.raises(TraceError, match="'none' must hold at least one request"):
        simulate(trace)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "fifo"}, "scheduler must be one of static_fifo, .* got 'fifo'"),
        ({"n_gpus": 0}, "n_gpus must be .*>= 1.*, got 0"),
        (
            {"latency": "a100"},
            "latency must be a known name, a model file or a grid CSV file, got 'a100'",
        ),
        ({"predictor": "magic"}, "predictor must be one of .* got 'magic'"),
        ({"binning": 0}, "n_bins must be a whole number from 1 to 64, got 0; use 1"),
        ({"admission": "random"}, "admission must be .* got 'random'"),
        ({"seed": -1}, "seed must be a whole number from 0 .* got -1"),
    ],
)
def test_options__that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(hand_trace((0, 1, 1), (1, 1, 2), (2, 1, 3), (3, 1, 4)), **options)


def test_admission__that_makes_no_difference_is_said() -> None:
    trace = hand_trace((0, 1, 1), (0, 1, 2))
    one_bin: dict[str, Any] = {"binning": 1, "latency": "reference"}
    with pytest.warns(UserWarning, match="admission makes no difference to multi_bin_only") as said:
        llmsched.simulate(trace, "multi_bin_only", admission="one-by-one", **one_bin)
    assert Path(said[0].filename) == Path(__file__)


def test_settings__of_the_dynamic_schedulers_change_the_run() -> None:
    trace = Workload(requests=1500, rps_scale=800.0).load()
    base = simulate(trace, n_gpus=1)
    for changed in (
        Settings(sla_s=0.3),
        Settings(batch_min=30),
        Settings(batch_max=20),
        Settings(controller="window"),
        Settings(controller="none"),
        Settings(memory="clt", capacity_tokens=6000.0),
        Settings(capacity_tokens=6000.0),
        Settings(bin_choice="longest-queue"),
    ):
        run = simulate(trace, n_gpus=1, settings=changed)
        assert content(run.batches) != content(base.batches), changed


def test_progress__ends_below_the_number_of_requests() -> None:
    seen: list[int] = []
    trace = Workload(requests=9000).load()
    settings = Settings(batch_size=1)
    simulate(trace, "static_fifo", settings=settings, progress=seen.append)
    assert seen == [4096, 8192]


# ------------------------------------------------------------------------ what it reports


@every_scheduler
def test_to_dict__is_strict_json_and_names_what_produced_it(name: str) -> None:
    run = simulate(Workload(requests=300), name, seed=2)
    summary = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    assert summary["scheduler"] == name
    assert summary["requests"] == 300
    assert summary["completed"] + summary["rejected"] == 300
    assert (summary["trace"], summary["seed"]) == ("burstgpt-like", 2)
    assert (summary["latency_model"], summary["latency_kind"]) == ("reference", "formula")
    assert "not calibrated" in summary["latency_description"]
    assert summary["predictor"].startswith("noisy:0.6")
    assert summary["bin_edges"] == run.edges.tolist()
    assert summary["offered_load"] == run.offered_load
    assert summary["load_label"] in ("stable", "backlogged", "overloaded")
    assert summary["throughput_rps"] == run.metrics.throughput_rps
    assert len(summary["per_bin"]) == summary["bins"] == run.metrics.bins


def test_to_dict__is_strict_json_where_nothing_has_a_value() -> None:
    # given requests at one instant (an infinite offered load), all of them rejected
    trace = hand_trace((0, 60, 60), (0, 60, 60))
    run = simulate(trace, "dynamic_no_bins", settings=Settings(capacity_tokens=100.0))
    summary = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    assert (summary["completed"], summary["rejected"]) == (0, 2)
    assert summary["latency_mean_s"] is None
    assert summary["sla_violation_rate"] == 1.0
    # and where something is served at one instant
    run = simulate(hand_trace((0, 6, 6), (0, 6, 6)), "static_fifo")
    assert math.isinf(run.offered_load)
    summary = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    assert summary["offered_load"] is None
    assert summary["load_label"] == "overloaded"


def test_measured_model__says_so_and_warns_beyond_its_range() -> None:
    # given a request of 100,000 tokens, and a grid measured up to 2,048 a side
    trace = hand_trace((0, 90_000, 10_000), (1, 128, 128))
    with pytest.warns(CalibrationWarning, match="1 of 2 batches .* extrapolated") as warned:
        run = llmsched.simulate(trace, "static_fifo", latency="h100-llama-3-8b-vllm")
    assert Path(warned[0].filename) == Path(__file__)  # it points at the caller
    assert run.to_dict()["latency_kind"] == "measurement"
    assert "measured at" in run.to_dict()["latency_description"]


def test_memory_in_bytes__follows_the_model_that_is_served() -> None:
    trace = hand_trace((0, 10, 10))
    default = simulate(trace, "static_fifo").metrics
    llama = simulate(trace, "static_fifo", llm=MODELS["llama-2-7b"], gpu="a100-80gb").metrics
    assert default.kv_bytes_max == 20 * 114_688
    assert llama.kv_bytes_max == 20 * 524_288


@every_scheduler
def test_tables__account_for_every_request_in_trace_order(name: str) -> None:
    trace = Workload(requests=500).load()
    run = simulate(trace, name, settings=Settings(capacity_tokens=2500.0))
    assert run.requests.arrival_s.tolist() == trace.arrival_s.tolist()
    assert run.requests.output_tokens.tolist() == trace.output_tokens.tolist()
    completed = int(run.requests.completed.sum())
    assert completed == run.metrics.completed == int(run.batches.size.sum())
    assert run.metrics.completed + run.metrics.rejected == 500
    if name in ("dynamic_no_bins", "multi_bin_dynamic"):
        assert run.metrics.rejected == int((trace.total_tokens > 2500).sum()) > 0
