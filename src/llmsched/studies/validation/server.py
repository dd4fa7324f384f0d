"""What a run says of its server, as far as the user leaves it open."""

from __future__ import annotations

from typing import Any

from llmsched.calibration.benchmarks.runs import ClosedLoopPoint, Run, Server
from llmsched.hardware import ShapeError, model_named
from llmsched.latency.steps.layer_tables import is_layer_prefix
from llmsched.simulation.hardware import measured_on
from llmsched.simulation.scenario import Scenario

ENGINES = {"trt": "trt-llm", "vllm": "vllm", "sglang": "sglang"}  # as files call them -> as physics
CLOSED_STEP_TOKENS = 8192  # of SGLang's and TensorRT-LLM's servers, which the files do not say


def server_layer(run: Run, step_time: str | None) -> dict[str, dict[str, Any]]:
    """What a run says of its server, as sections of a scenario that whatever is given goes over."""
    server = run.server
    said: dict[str, Any] = {
        "kv_tokens": server.kv_tokens,
        "max_running": server.max_running,
        "step_tokens": server.step_tokens,
        "prefix_caching": server.prefix_caching,
    }
    if isinstance(run, ClosedLoopPoint):
        said["step_tokens"] = server.step_tokens or CLOSED_STEP_TOKENS
        said["max_running"] = server.max_running or max(256, run.concurrency)
    layer = {"serving": {name: value for name, value in said.items() if value is not None}}
    if step_time is not None and is_layer_prefix(step_time) and _is_known(server.model):
        layer["hardware"] = {"llm": server.model}
    return layer


def completed_step_time(step_time: str, server: Server) -> str:
    """`physics` and `physics:GPU` with what the run says of GPU, model, GPUs and precision.

    Raises
    ------
    ShapeError
        If the run does not say it.

    Examples
    --------
    >>> completed_step_time("physics:h100-sxm", Server(model="codellama-34b", tp=2))
    'physics:h100-sxm:codellama-34b:tp2'
    """
    scheme, *parts = step_time.split(":")
    if scheme != "physics" or len(parts) > 1:
        return step_time
    gpu = parts[0] if parts else server.device
    if gpu is None or server.model is None:
        raise ShapeError(
            f"step time {step_time!r} must be completed by the run's GPU and model, got a run that "
            "does not say them; give physics:GPU:MODEL[:tpN]"
        )
    found = ["physics", gpu, server.model]
    found += [f"tp{server.tp}"] * bool(server.tp) + [f"ep{server.ep}"] * bool(server.ep)
    if not parts:
        found += ["dp-attention"] * bool(server.dp_attention)
        found += [server.precision] if server.precision else []
        found += [ENGINES.get(server.engine, server.engine)] if server.engine else []
    return ":".join(found)


def check_memory(scenario: Scenario) -> None:
    """Fail if nothing says how many tokens the server's KV memory holds.

    Raises
    ------
    ValueError
        If neither the tokens nor GPU and model are given, nor the step time is of a known GPU.
    """
    hardware = scenario.hardware
    named = isinstance(hardware.step_time, str) and measured_on(hardware.step_time)
    given = hardware.gpu is not None and hardware.llm is not None
    if scenario.serving.kv_tokens is None and not given and not named:
        raise ValueError(
            "kv_tokens must be known, got a run and a step time that do not say it; give "
            "--kv-tokens (vLLM: num_gpu_blocks - 1 blocks), or --gpu and --llm"
        )


def _is_known(model: str | None) -> bool:
    try:
        return model is not None and bool(model_named(model).name)
    except ValueError:
        return False
