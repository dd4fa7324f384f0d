"""Configuration files: what wins over what, and that a run printed as TOML comes back the same."""

from __future__ import annotations

import json
import tomllib

import pytest
from click.testing import CliRunner

from llmsched import Settings, Workload
from llmsched.cli.main import main
from llmsched.prediction.binning import Binning
from llmsched.simulation.hardware import Hardware
from llmsched.simulation.scenario import Scenario, as_scenario
from llmsched.workload.slo import Slo
from plan_world import plan_scenario, plan_simulate as simulate

FULL = plan_scenario(
    workload=Workload(source="poisson", requests=50, window_s=(0.0, 90.0), rps_scale=3.0),
    scheduler="multi_bin_only",
    settings=Settings(batch_size=5, max_forming_wait_s=0.5, batch_target_s=2.0),
    hardware=Hardware(n_gpus=float("inf"), latency="h100-llama-3-8b-vllm", gpu="h100-80gb"),
    predictor="noisy:0.2",
    binning=Binning(by="total", edges=(50.0, 200.5)),
    slo=Slo(latency_s=3.0, ttft_s=0.5),
    admission="one-by-one",
    seed=7,
)


def run(*arguments: object):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_scenario__comes_back_the_same_from_plain_values():
    import tomli_w

    again = Scenario.from_dict(tomllib.loads(tomli_w.dumps(FULL.to_dict())))
    assert again == FULL
    assert again.key() == FULL.key()


def test_show_config__gives_a_file_that_gives_the_run_again(tmp_path):
    options = ("--requests", "80", "--gpus", "2", "--sla", "0.7", "--bins", "3", "--seed", "4")
    shown = run("multi-bin-dynamic", *options, "--show-config")
    assert shown.exit_code == 0
    (tmp_path / "run.toml").write_text(shown.stdout)
    direct = run("multi-bin-dynamic", *options, "--json")
    again = run("multi-bin-dynamic", "--config", tmp_path / "run.toml", "--json")
    assert json.loads(again.stdout) == json.loads(direct.stdout)


def test_command_line__wins_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[slo]\nlatency_s = 7\n[hardware]\nn_gpus = 9\n[compare]\nseeds = 2\n")
    shown = run("compare", "--preset", "plan", "--config", path, "--gpus", "2", "--show-config")
    found = tomllib.loads(shown.stdout)
    assert found["slo"]["latency_s"] == 7
    assert found["hardware"]["n_gpus"] == 2
    assert found["workload"]["rps_scale"] == 200
    assert found["compare"] == {"seeds": 2}


def test_file__tables_of_other_commands_are_left_alone(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[workload]\nrequests = 30\n[capacity]\nseeds = 2\n")
    assert run("static-fifo", "--config", path).exit_code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[hardware]\nn_gpu = 2", ["'n_gpu' in [hardware]", "did you mean 'n_gpus'"]),
        ("sheduler = 'x'", ["'sheduler'", "did you mean 'scheduler'"]),
        ("[slo]\nlatency_s = -1", ["latency_s", "> 0", "got -1"]),
        ("[slo]\nlatency_s = '1'", ["latency_s", "a finite number", "got '1'"]),
        ("seed = 1.5", ["seed must be a whole number", "got 1.5"]),
        ("[binning]\nn_bins = 3\nedges = [10, 20, 30]", ["n_bins must be 4", "got 3"]),
        ("[compare]\nseedz = 3", ["'seedz' in [compare]", "did you mean 'seeds'"]),
        ("compare = 3", ["must be"]),
        ("workload = 3", ["[workload] must be a table"]),
        ("a = [[[" + "[" * 5000, ["must be a TOML file"]),
        ("[hardware]\nn_gpus = " + "9" * 5000, ["run.toml"]),
        ("\xff\xfe", ["must be a TOML file"]),
    ],
)
def test_file__that_cannot_be_used_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode("latin-1"))
    result = run("compare", "--config", path)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    for word in (*words, "run.toml"):
        assert word in lines[0]


def test_python__parts_by_keyword_are_those_of_the_scenario():
    workload = Workload(source="poisson", requests=200, rps_scale=40.0)
    by_parts = simulate(workload, "static_fifo", n_gpus=2, slo=3.0, seed=5)
    scenario = plan_scenario(
        workload=workload,
        scheduler="static_fifo",
        hardware=Hardware(n_gpus=2),
        slo=Slo(latency_s=3.0),
        seed=5,
    )
    assert simulate(scenario).to_dict() == by_parts.to_dict()
    assert as_scenario(scenario, n_gpus=8) == scenario.on(8)
    with pytest.raises(TypeError, match="gpus must be one of n_gpus"):
        simulate(workload, gpus=2)  # type: ignore[call-arg]


def test_python__a_scheduler_may_be_a_function():
    from llmsched.schedulers.registry import static_fifo

    def mine(settings: Settings):
        return static_fifo(settings)

    run = simulate(Workload(source="poisson", requests=100), mine)
    assert run.scheduler == "mine"
    assert run.metrics.completed == 100
