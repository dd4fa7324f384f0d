"""Real models, small ones with random weights, from loading to the command line's last word."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch", reason="the harness times models of torch")
transformers = pytest.importorskip("transformers", reason="the harness loads its models")

from llmsched.calibration.measure.machine import device_facts  # noqa: E402
from llmsched.calibration.measure.model import (  # noqa: E402
    ModelSource,
    load_timed_model,
    shipped_configs,
)
from llmsched.calibration.measure.timing import random_prompts, time_batch  # noqa: E402
from llmsched.cli.main import main  # noqa: E402
from llmsched.latency.base import CalibrationError  # noqa: E402
from llmsched.latency.fit.grid import read_grid  # noqa: E402
from test_light_start import HEAVY, loaded_by  # noqa: E402

QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "vocab_size": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 64,
}
SMALL = ["--batch-sizes", "1,2", "--seq-lens", "8,16", "--trials", "2", "--threads", "1"]


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(QWEN3))
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "g.csv"


def invoke(out: Path, *arguments: object) -> Result:
    line = ["calibrate", "measure", *map(str, arguments), "--out", str(out)]
    return CliRunner().invoke(main, line)


def refused(result: Result, out: Path) -> str:
    """The one line that a refusal ends in; it leaves nothing behind."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert list(out.parent.iterdir()) == []
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    return lines[-1].removeprefix("Error: ")


def test_command__measures_a_model_and_writes_a_grid_that_can_be_read(config, out):
    result = invoke(out, "--random-weights", config, *SMALL)
    assert result.exit_code == 0, result.output
    # the cells go to stdout, the notes to stderr
    table = [line.split() for line in result.stdout.splitlines()[1:5]]
    assert [row[:3] for row in table] == [
        *(["1", "4", "4"], ["1", "8", "8"]),
        *(["2", "4", "4"], ["2", "8", "8"]),
    ]
    assert "small (random weights), float32" in result.stdout
    assert [line for line in result.stderr.splitlines() if "done" in line] == [
        *("warm-up done", "round 1 of 2 done", "round 2 of 2 done")
    ]
    grid = read_grid(out)
    assert grid.batch_size.tolist() == [1, 1, 2, 2]
    assert grid.max_seq_len.tolist() == [8, 16, 8, 16]
    assert (grid.mean_latency_s > 0).all()
    # the provenance says what was measured, and nothing about where it lay
    text = out.with_suffix(".json").read_text()
    beside = json.loads(text)
    assert beside["model"]["name"] == "small"
    assert beside["model"]["weights"] == "random"
    assert beside["model"]["architecture"] == "Qwen3ForCausalLM"
    assert beside["model"]["config"]["hidden_size"] == 32
    assert beside["device"]["threads"] == 1
    assert str(out.parent.parent) not in text
    assert sorted(path.name for path in out.parent.iterdir()) == ["g.csv", "g.json"]


def test_command__takes_a_folder_with_weights(config, out, tmp_path):
    saved = load_timed_model(ModelSource(random_weights=str(config))).forward
    saved.save_pretrained(tmp_path / "trained")
    result = invoke(out, "--model", tmp_path / "trained", *SMALL)
    assert result.exit_code == 0, result.output
    text = out.with_suffix(".json").read_text()
    beside = json.loads(text)
    assert (beside["model"]["name"], beside["model"]["weights"]) == ("trained", "pretrained")
    assert str(tmp_path) not in text
    # the same architecture as the one with random weights, then, and the folder will do for that
    again = invoke(out, "--random-weights", tmp_path / "trained", *SMALL, "--restart")
    assert again.exit_code == 0, again.output
    random = json.loads(out.with_suffix(".json").read_text())
    assert random["model"]["name"] == "trained"
    assert random["model"]["parameters"] == beside["model"]["parameters"]


def test_command__draws_a_bar_on_a_terminal(config, out, monkeypatch):
    from llmsched.cli.commands.calibrate import measure

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    shown = []

    class Terminal:
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            shown.append(text)
            return len(text)

        def flush(self) -> None:
            pass

    from llmsched.calibration.measure.measure import Progress
    from llmsched.calibration.measure.plan import Cell

    monkeypatch.setattr(sys, "stderr", Terminal())
    cell = Cell(batch_size=2, prompt_tokens=4, output_tokens=4)
    with measure._progress() as on_trial:
        for number, share in ((0, 0.25), (1, 1.0)):
            on_trial(
                Progress(
                    cell=cell,
                    round=number,
                    n_rounds=1,
                    trial=None,
                    work_done=share,
                    round_done=True,
                )
            )
    text = "".join(shown)
    assert "Out of memory: batch size 2, 8 tokens; left out" in text
    assert "round 1 of 1" in text
    assert "100 %" in text


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_command__says_how_to_install_what_is_missing(missing, config, out, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)  # an import of it fails
    message = refused(invoke(out, "--random-weights", config, *SMALL), out)
    assert "measuring needs torch and transformers" in message
    assert missing in message.partition("cannot be imported")[2].partition(";")[0]
    assert "pip install 'llmsched[calibrate]'" in message


def test_command__says_that_there_is_no_gpu(config, out, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refused(invoke(out, "--random-weights", config, "--device", "cuda"), out)
    assert message.startswith("device cuda must be available to torch")
    assert "use --device cpu" in message


def test_command__says_that_the_device_does_not_compute_in_a_dtype(config, out, monkeypatch):
    def fails(*_: object) -> None:
        raise RuntimeError("\"baddbmm\" not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fails)
    message = refused(invoke(out, "--random-weights", config, "--dtype", "float16"), out)
    assert message == ("dtype must be one that cpu computes in, got float16; use --dtype float32")


def test_command__says_that_a_model_is_neither_here_nor_reachable(out, monkeypatch):
    import requests

    asked = []

    def unreachable(url: str, *, timeout: float) -> None:
        asked.append(timeout)
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "head", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    message = refused(invoke(out, "--model", "nobody/no-such-model"), out)
    assert message == (
        "model 'nobody/no-such-model' must be a folder or a model in the local cache while the hub "
        "cannot be reached (ConnectionError); download it elsewhere, or use --random-weights"
    )
    assert asked == [5.0]  # one short question, not minutes of retries


def test_command__says_that_the_hub_is_not_to_be_asked(out, monkeypatch):
    monkeypatch.setattr("requests.head", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refused(invoke(out, "--model", "nobody/no-such-model"), out)
    assert "(HF_HUB_OFFLINE is set)" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"small.json: must be JSON, got: Expecting property name"),
        (b"\xff\xfe{", "small.json: must be JSON, got: "),
        ("[]", "must be a model's configuration with a model_type"),
        ("{}", "must be a model's configuration with a model_type"),
        ({"model_type": "nope"}, "model_type must be one that transformers .* knows, got 'nope'"),
        ({"model_type": "t5"}, "must be of a causal language model, got model_type 't5'"),
        ({"hidden_size": "big"}, "cannot be loaded: .*hidden_size"),
        ({"hidden_size": -3}, "cannot be loaded: .*negative dimension -3"),
        ({"hidden_act": "wow"}, "cannot be loaded: 'wow'"),
        # this one has a language model's head, but neither looks back only nor keeps a cache
        ({"model_type": "bert"}, "with a KV cache, got a BertLMHeadModel that returns none"),
        ({"vocab_size": 10**12}, "must fit in memory, and it does not"),
    ],
)
def test_command__says_what_is_wrong_with_a_configuration(content, message, config, out):
    if isinstance(content, dict):
        content = json.dumps({**QWEN3, **content})
    config.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert re.search(message, refused(invoke(out, "--random-weights", config, *SMALL), out))


def test_command__says_what_is_wrong_with_a_folder(config, out, tmp_path):
    folder = tmp_path / "trained"
    load_timed_model(ModelSource(random_weights=str(config))).forward.save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = refused(invoke(out, "--model", folder, *SMALL), out)
    assert re.match(r"model '.*trained' cannot be loaded: .*header", message)
    (folder / "config.json").unlink()
    assert "cannot be loaded" in refused(invoke(out, "--model", folder), out)
    assert "a configuration must be a config.json" in refused(
        invoke(out, "--random-weights", folder), out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--random-weights {} --seq-lens 32,65",
            "grid does not fit: .* <= 64 tokens .* got 65",
        ),
        ("--random-weights {} --seq-lens 2", "seq_lens must leave .* an output of >= 2 tokens"),
        ("--random-weights {} --trials 1", "n_trials must be >= 2, got 1"),
        ("--random-weights {} --threads 0", "threads must be >= 1"),
        ("--random-weights {} --threads 100000", r"threads must be at most the \d+ CPUs"),
        (
            "--random-weights no-such-name",
            "one of qwen3-0.6b, qwen3-1.7b, tiny-qwen3; got 'no-",
        ),
        ("--random-weights {} --model x", "exactly one model must be given"),
        ("", "exactly one model must be given"),
        ("--random-weights {} --batch-sizes 1,x", "must be whole numbers with commas, got '1,x'"),
    ],
)
def test_command__refuses_before_any_work(arguments, message, config, out):
    result = invoke(out, *arguments.format(config).split())
    assert re.search(message, refused(result, out))


def test_command__keeps_the_files_that_it_reads(config, tmp_path):
    for out in ("small.csv", "other.csv"):
        (tmp_path / "other.partial.jsonl").write_text("{}")
        result = invoke(tmp_path / out, "--random-weights", config, *SMALL)
        assert result.exit_code == 2
        assert "would replace" in result.stderr
    assert json.loads(config.read_text()) == QWEN3


def test_quick__is_a_small_grid_that_options_still_change(config, out):
    arguments = ("--random-weights", config, "--quick", "--seq-lens", "8,16", "--threads", 1)
    assert invoke(out, *arguments).exit_code == 0
    plan = json.loads(out.with_suffix(".json").read_text())["plan"]
    assert plan["batch_sizes"] == [1, 2, 4]
    assert plan["seq_lens"] == [8, 16]
    assert plan["n_trials"] == 3


def test_help__loads_nothing_heavy():
    assert loaded_by("calibrate", "measure", "--help").isdisjoint(HEAVY)


def test_model__attends_to_its_cache_as_to_a_whole_prompt(config):
    """The steps that are timed are those of a real generation: the logits agree."""
    model = load_timed_model(ModelSource(random_weights=str(config)))
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    chosen = []

    def noting(**arguments):
        result = model.forward(**arguments)
        chosen.append(int(result.logits[0, -1].argmax()))
        return result

    from dataclasses import replace

    time_batch(replace(model, forward=noting), ids, 5)
    with torch.inference_mode():
        whole = torch.cat([ids, torch.tensor([chosen[:-1]])], dim=1)
        logits = model.forward(input_ids=whole).logits[0, 7:]
    assert logits.argmax(-1).tolist() == chosen


def test_model__that_knows_no_last_logits_option_is_timed_all_the_same(tmp_path, monkeypatch):
    config = tmp_path / "gpt2.json"
    values = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64, "n_positions": 32}
    config.write_text(json.dumps({"model_type": "gpt2", **values}))
    forward = transformers.GPT2LMHeadModel.forward

    def old_forward(self, input_ids=None, past_key_values=None, use_cache=None):
        return forward(
            self, input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache
        )

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "forward", old_forward)
    model = load_timed_model(ModelSource(random_weights=str(config)), longest_tokens=32)
    assert (model.forward_options, model.max_tokens) == ({}, 32)
    assert time_batch(model, torch.zeros(2, 4, dtype=torch.long), 3).whole_s > 0


@pytest.mark.parametrize(
    ("name", "hidden", "layers", "heads", "kv_heads", "head", "mlp", "vocabulary"),
    [
        ("qwen3-0.6b", 1024, 28, 16, 8, 128, 3072, 151_936),
        ("qwen3-1.7b", 2048, 28, 16, 8, 128, 6144, 151_936),
        ("tiny-qwen3", 256, 4, 8, 4, 32, 768, 4096),
    ],
)
def test_shipped_config__has_the_parameters_of_its_name(
    name, hidden, layers, heads, kv_heads, head, mlp, vocabulary
):
    # given queries and outputs, keys and values, their two norms, the MLP, two norms per layer,
    # one norm at the end, and one matrix for both ends of the vocabulary
    of_layer = 2 * hidden * heads * head + 2 * hidden * kv_heads * head + 2 * head
    of_layer += 3 * hidden * mlp + 2 * hidden
    expected = layers * of_layer + hidden + vocabulary * hidden
    # when the configuration is built, without memory for its weights
    values = json.loads(shipped_configs()[name].read_text())
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        model = transformers.AutoModelForCausalLM.from_config(config)
    # then it has that many, the real ones as their makers say: 0.6 and 1.7 billion
    assert sum(weight.numel() for weight in model.parameters()) == expected
    rounded = {"qwen3-0.6b": 0.6e9, "qwen3-1.7b": 1.7e9}.get(name, expected)
    assert abs(expected - rounded) < 0.05e9


@pytest.mark.parametrize("options", [{}, {"pretrained": "a", "random_weights": "b"}])
def test_source__is_exactly_one_model(options):
    with pytest.raises(CalibrationError, match="exactly one model must be given"):
        ModelSource(**options)


def test_source__has_threads_on_a_cpu_only():
    with pytest.raises(CalibrationError, match="are a CPU's, got 2 on cuda"):
        ModelSource(random_weights="tiny-qwen3", device="cuda", n_threads=2)


@pytest.mark.gpu
def test_gpu__is_measured_with_its_memory_and_its_state(out):
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    where = ("--device", "cuda", "--dtype", "bfloat16")
    result = invoke(out, "--random-weights", "tiny-qwen3", "--quick", *where)
    assert result.exit_code == 0, result.output
    grid, beside = read_grid(out), json.loads(out.with_suffix(".json").read_text())
    assert (grid.mean_latency_s > 0).all()
    assert beside["device"]["gpu"]
    assert beside["sessions"][0]["state_before"]
    weights_bytes = 2 * beside["model"]["parameters"]
    assert all(trial["peak_memory_bytes"] > weights_bytes for trial in beside["trials"])
    # events and the host's clock agree on a batch that is waited for
    import time

    model = load_timed_model(ModelSource(random_weights="tiny-qwen3", device="cuda"))
    assert device_facts(model)["compute_capability"]
    import numpy as np

    prompts = random_prompts(model, 4, 64, np.random.default_rng(0))
    time_batch(model, prompts, 64)
    began_s = time.perf_counter()
    timed = time_batch(model, prompts, 64)
    host_s = time.perf_counter() - began_s
    assert timed.prefill_s < timed.whole_s <= host_s * 1.001
    assert timed.whole_s > 0.5 * host_s
