"""`llmsched capacity` and `llmsched plan`: how much load, or how many GPUs, meets a target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsched.cli.command import print_json
from llmsched.cli.config import show_config, the_scenario
from llmsched.cli.errors import OneLineErrors
from llmsched.cli.fields import given_parameter
from llmsched.cli.options import (
    ALL_SETTINGS,
    MATTERS_OPTION,
    RESAMPLE,
    RUNS,
    SERVING,
    UNCERTAINTY,
    VERBOSE,
    WORKLOAD,
    chosen_schedulers,
    replications_option,
    scenario_options,
    take_draws,
    where_of,
    with_options,
)
from llmsched.cli.progress import progress_bar

if TYPE_CHECKING:
    from llmsched.metrics.differences import Difference
    from llmsched.simulation.capacity.results import Capacity
    from llmsched.simulation.capacity.target import Target
    from llmsched.simulation.scenario import Scenario
    from llmsched.simulation.sweep.runner import RunRecord

TARGETS = {
    "target_violations": "sla_violation_rate",
    "target_p95": "latency_p95_s",
    "target_p99": "latency_p99_s",
}
SCHEDULERS = click.option(
    "--schedulers",
    default="static-fifo,dynamic-no-bins,multi-bin-dynamic",
    show_default=True,
    metavar="A,B,...",
    help="Which schedulers, by name; the others are set against the first.",
)
TARGET = (
    click.option(
        "--target-violations",
        type=float,
        metavar="SHARE",
        help="At most this share of requests later than --sla; by default 0.01, of a plan 0.05.",
    ),
    click.option(
        "--target-p95", type=float, metavar="SECONDS", help="At most this latency, 95th percentile."
    ),
    click.option(
        "--target-p99", type=float, metavar="SECONDS", help="At most this latency, 99th percentile."
    ),
)
FIGURE = "Draw the target's metric against the load (.png, .pdf, .svg)."
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

SEARCH = (
    SCHEDULERS,
    click.option(
        "--search",
        type=click.Choice(["rate", "gpus"]),
        default="rate",
        show_default=True,
        help="The highest arrival rate on --gpus, or the fewest GPUs at the workload's rate.",
    ),
    *TARGET,
    replications_option(10),
    click.option(
        "--tolerance",
        type=float,
        default=0.02,
        show_default=True,
        metavar="SHARE",
        help="How far the failing rate may lie above the passing one.",
    ),
)


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@with_options(SEARCH)
@scenario_options(*WORKLOAD, *RESAMPLE, *SERVING, *ALL_SETTINGS)
@with_options(UNCERTAINTY, (MATTERS_OPTION,), RUNS, (VERBOSE, AS_JSON))
@click.option(
    "--capacity-curve",
    "curve",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=FIGURE,
)
def capacity(**values: Any) -> None:
    """Find the highest arrival rate, or the fewest GPUs, that keeps to a latency target.

    It is the rate at which the mean over replications meets the target, on the same requests for
    all schedulers.

    \b
    Example: llmsched capacity --trace BurstGPT_1.csv --requests 10000 --target-violations 0.01
    """
    from llmsched.cli.answers.capacity import capacity_text, save_curve
    from llmsched.cli.text import check_figure_path
    from llmsched.simulation.capacity.capacity import capacities
    from llmsched.simulation.capacity.results import differences
    from llmsched.simulation.capacity.target import Target

    curve = values["curve"]
    if curve is not None:
        check_figure_path(curve)
    target = _target(values) or Target()
    schedulers = chosen_schedulers(values["schedulers"])
    if values["search"] == "gpus" and given_parameter("hardware__n_gpus"):
        raise click.UsageError("--gpus is what --search gpus looks for; leave one of the two out")
    for flag, name in (("--load", "workload__offered_load"), ("--rate", "workload__rate_per_s")):
        if values["search"] == "rate" and given_parameter(name):
            message = (
                f"{flag} says the rate that capacity looks for; leave it out, or --search gpus"
            )
            raise click.UsageError(message)
    scenario = the_scenario(values, scheduler=schedulers[0])
    if show_config(values, scenario):
        return
    n_draws = _ready(scenario, values)
    with _searching() as on_done:
        found = capacities(
            scenario,
            schedulers,
            target=target,
            search=values["search"],
            replications=values["replications"],
            tolerance=values["tolerance"],
            latency_draws=n_draws,
            on_done=on_done,
            **where_of(values),
        )
    against = differences(found, matters=values["matters"])
    if values["as_json"]:
        print_json(_json(found, against, values["matters"]))
    else:
        click.echo(capacity_text(found, against, verbose=values["verbose"]))
    if curve is not None:
        save_curve(found, curve)


@click.command(cls=OneLineErrors, context_settings={"max_content_width": 100})
@with_options((SCHEDULERS, *TARGET, replications_option(10)))
@click.option(
    "--gpu-price", type=float, metavar="PRICE", help="Of one GPU an hour, for a line on the cost."
)
@scenario_options(*WORKLOAD, *RESAMPLE, *SERVING, *ALL_SETTINGS)
@with_options(RUNS, (VERBOSE, AS_JSON))
@click.option("--figure", type=click.Path(path_type=Path), metavar="FILE", help=FIGURE)
def plan(**values: Any) -> None:
    """Say how many GPUs this traffic takes to meet a latency target.

    By default 95 % within --sla. First comes what no number of GPUs changes: requests that take
    too long alone on an idle one.

    \b
    Example: llmsched plan --trace BurstGPT_1.csv --latency a100-llama-3-8b-vllm --sla 20
    """
    from llmsched.cli.answers.capacity import plan_text, save_curve
    from llmsched.cli.text import check_figure_path
    from llmsched.simulation.capacity.plan import plan as planned

    figure = values["figure"]
    if figure is not None:
        check_figure_path(figure)
    target = _target(values)
    schedulers = chosen_schedulers(values["schedulers"])
    scenario = the_scenario(values, scheduler=schedulers[0])
    if scenario.recipe().held_load is None and given_parameter("hardware__n_gpus"):
        raise click.UsageError("--gpus is what a plan looks for; leave it out")
    if show_config(values, scenario):
        return
    _ready(scenario, values)
    with _searching() as on_done:
        found = planned(
            scenario,
            schedulers,
            target=target,
            replications=values["replications"],
            price_per_gpu_hour=values["gpu_price"],
            options={**where_of(values), "on_done": on_done},
        )
    if values["as_json"]:
        print_json(found.to_dict())
    else:
        click.echo(plan_text(found, verbose=values["verbose"]))
    if figure is not None:
        save_curve(found.found, figure)


def _target(values: dict[str, Any]) -> Target | None:
    from llmsched.simulation.capacity.target import Target

    asked = {name: value for name in TARGETS if (value := values[name]) is not None}
    if len(asked) > 1:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise click.UsageError(f"give one target, not {names}")
    for name, at_most in asked.items():
        return Target(metric=TARGETS[name], at_most=at_most)  # type: ignore[arg-type]
    return None


def _ready(scenario: Scenario, values: dict[str, Any]) -> int:
    """Everything is checked, then the requests are read; gives the draws of the latency."""
    from llmsched.cli.text import left_out_notes

    scenario.check()
    n_draws = take_draws(values.get("n_draws"), scenario)
    left_out_notes(scenario.requests())
    return n_draws


@contextmanager
def _searching() -> Iterator[Callable[[RunRecord], None]]:
    """Show that runs are done: how many there will be is not known before."""
    with progress_bar(100, "searches") as progress:
        done = itertools.count(1)

        def count(_record: RunRecord) -> None:
            if progress is not None:
                progress(int(100 * (1 - 0.99 ** next(done))))

        yield count


def _json(
    found: tuple[Capacity, ...], differences: list[Difference], matters: float
) -> dict[str, Any]:
    first = found[0]
    return {
        "search": first.search,
        "target_metric": first.target.metric,
        "target_at_most": first.target.at_most,
        "gpus": None if math.isnan(first.n_gpus) else first.n_gpus,
        "sla_s": first.sla_s,
        "seeds": list(first.seeds),
        "resampled": first.resampled,
        "tolerance": first.tolerance,
        "confidence": 0.95,
        "matters": matters,
        "trace": first.trace_name,
        "requests": first.n_requests,
        "predictor": first.predictor,
        "latency_description": first.latency,
        "schedulers": [one.to_dict() for one in found],
        "differences": [one.to_dict() for one in differences],
    }
