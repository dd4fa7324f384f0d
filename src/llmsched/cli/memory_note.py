"""A note where the latency was measured on another GPU or model than the memory settings assume."""

from __future__ import annotations

import re

import click

# the benchmark's names of models whose published shape is that of one in `memory.MODELS`
SAME_SHAPE = {"llama-3-8b": "llama-3.1-8b", "llama-3-70b": "llama-3.1-70b"}


def note_memory_mismatch(latency: str, llm: str, gpu_memory: str) -> None:
    """Say on stderr which options would match a measured set `<gpu>-<model>-<framework>`."""
    options = matching_options(latency, llm, gpu_memory)
    if options:
        click.echo(
            f"Note: {latency} was measured with other memory than --llm {llm} --gpu-memory "
            f"{gpu_memory}; {' '.join(options)} would match it",
            err=True,
        )


def matching_options(latency: str, llm: str, gpu_memory: str) -> list[str]:
    """The options that the name of a measured set implies and that are not in use.

    Nothing is guessed: a name that is no measured set, a GPU or model that has no preset, a memory
    given in gigabytes, and several GPUs per model (`-tpN`) imply nothing.

    Examples
    --------
    >>> matching_options("h100-llama-3-8b-vllm", "qwen3-1.7b", "default-12gb")
    ['--llm llama-3.1-8b', '--gpu-memory h100-80gb']
    >>> matching_options("h100-llama-3-8b-vllm", "llama-3.1-8b", "80")
    []
    """
    from llmsched.latency import latency_names
    from llmsched.memory import GPUS, MODELS

    card, _, rest = latency.partition("-")
    cards = [name for name in GPUS if name.startswith(f"{card}-")]
    if latency not in latency_names() or not cards:
        return []
    known = {**{name: name for name in MODELS}, **SAME_SHAPE}
    implied = next((known[name] for name in known if rest.startswith(f"{name}-")), llm)
    options = [] if implied == llm else [f"--llm {implied}"]
    if gpu_memory in GPUS and gpu_memory not in cards and not re.search(r"-tp\d+$", latency):
        options.append(f"--gpu-memory {cards[-1]}")
    return options
