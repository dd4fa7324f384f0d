"""`llmsched list`: what there is to name, a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click

from llmsched.cli.command import print_json
from llmsched.cli.errors import OneLineErrors

Rows = Iterator[tuple[str, str]]


def _latency() -> Rows:
    from llmsched.latency.registry import latency_names, load_latency, measured_names
    from llmsched.simulation.hardware import Hardware

    for name in latency_names():
        if name not in measured_names():
            yield name, load_latency(name).describe().partition(": ")[2]
    for name in measured_names():
        where = Hardware(latency=name).resolved()
        together = f"{where.gpus_per_model} x " if where.gpus_per_model > 1 else ""
        quality = load_latency(name).source.partition(";")[0]
        yield name, f"measured on {together}{where.gpu.name} with {where.llm.name}: {quality}"
    yield "physics:GPU:MODEL", "step times from a data sheet and a model shape; [:tpN][:PRECISION]"
    yield "FILE", "a grid CSV or a model file of `llmsched calibrate`"


def _step_times() -> Rows:
    from llmsched.latency.step_times import step_time_from_spec, step_time_names

    for name in step_time_names():
        yield name, step_time_from_spec(name).describe().partition(": ")[2]
    yield "physics:GPU:MODEL", "from a data sheet and a model shape; [:tpN][:PRECISION]"
    yield "FILE.json", "the two-regime form, as `llmsched calibrate` and `validate` write it"
    yield "PREFIX", "layer tables PREFIX_dense.csv, PREFIX_attention.csv, PREFIX_per_sequence.csv"


def _gpus() -> Rows:
    from llmsched.hardware import GPUS

    for name in GPUS.names():
        gpu = GPUS[name]
        rate = f", {gpu.rate('bf16') / 1e12:.0f} TFLOP/s in 16 bits" if gpu.flops_per_s else ""
        speed = f", {gpu.bandwidth_bytes_per_s / 1e12:.2f} TB/s" if gpu.flops_per_s else ""
        yield name, f"{gpu.memory_bytes / 1e9:.0f} GB{speed}{rate}"


def _models() -> Rows:
    from llmsched.hardware import MODELS

    for name in MODELS.names():
        model = MODELS[name]
        experts = f", {model.active_experts} of {model.experts} experts" if model.experts else ""
        kv = model.kv_bytes_per_token / 1024
        yield name, f"{model.parameters / 1e9:.3g}B parameters{experts}, {kv:.0f} KiB KV a token"


def _predictors() -> Rows:
    from llmsched.prediction.predictors import PREDICTORS

    ours = {
        "oracle": "the true output length",
        "noisy": "noisy[:SIGMA]: log-normal errors, by default as accurate as a BERT predictor",
        "bin-error": "bin-error:P: the true bin, or a neighbour with probability P each",
        "confusion": "confusion:bert: the published confusion matrices, 2, 4 or 8 bins",
        "prompt-power-law": "1.5 * prompt^0.7 with noise: knows nothing of the true output",
    }
    for name in PREDICTORS:
        yield name, ours.get(name, "of an installed package")


def _schedulers() -> Rows:
    from llmsched.schedulers.names import scheduler_names, summary

    for name in scheduler_names():
        yield name, summary(name)


def _routers() -> Rows:
    from llmsched.schedulers.iteration.routing import ROUTERS

    for name in ROUTERS:
        text = ROUTERS.named(name).__doc__ or "of an installed package"
        yield name, text.strip().splitlines()[0]


def _profiles() -> Rows:
    from llmsched.workload.synthetic.profiles import load_profile, profile_names

    for name in profile_names():
        yield name, f"a synthetic workload of kind {load_profile(name).kind}"


def _formats() -> Rows:
    from llmsched.workload.formats.registry import all_formats

    for name, one in all_formats().items():
        text = getattr(one, "summary", None) or type(one).__doc__ or ""
        yield name, str(text).strip().splitlines()[0] if text else ""


def _metrics() -> Rows:
    from llmsched.metrics.registry import METRICS

    for name, metric in METRICS.items():
        unit = f" [{metric.unit}]" if metric.unit else ""
        yield name, f"{metric.definition}{unit}"


LISTS: dict[str, Callable[[], Rows]] = {
    "latency": _latency,
    "step-times": _step_times,
    "gpus": _gpus,
    "models": _models,
    "predictors": _predictors,
    "schedulers": _schedulers,
    "routers": _routers,
    "profiles": _profiles,
    "formats": _formats,
    "metrics": _metrics,
}


@click.command("list", cls=OneLineErrors)
@click.argument("what", type=click.Choice(list(LISTS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(what: str, as_json: bool) -> None:
    """Print every name that an option takes, with a line on each.

    \b
    Example: llmsched list latency
    """
    rows = dict(LISTS[what]())
    if as_json:
        print_json({"names": rows})
        return
    width = max(map(len, rows))
    for name, text in rows.items():
        click.echo(f"{name.ljust(width)}  {_short(text)}")


def _short(text: str, most: int = 120) -> Any:
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."
